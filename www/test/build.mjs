// The console on the scripted client, beside the real build.
import { join } from "node:path";

import { build } from "vite";

const root = join(import.meta.dirname, "..");

/** Builds the console with `test/fake/dunlin.ts` in the place of the package; where it lies. */
export async function buildOnFake() {
  const outDir = join(root, "dist-test");
  await build({
    root,
    logLevel: "warn",
    resolve: { alias: { dunlin: join(root, "test/fake/dunlin.ts") } },
    build: { outDir, emptyOutDir: true, sourcemap: false, minify: false },
  });
  return outDir;
}
