// Bundles the tests in TypeScript, because Node 20 does not read it, and runs them with the others. Arguments choose
// tests by file name.
import { spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";

import { build } from "esbuild";

const directory = import.meta.dirname;
const outdir = join(directory, "dist");
const wanted = process.argv.slice(2);
const found = (folder, ending) =>
  readdirSync(join(directory, folder))
    .filter((name) => name.endsWith(ending))
    .filter((name) => wanted.length === 0 || wanted.some((part) => name.includes(part)));
const bundled = found("ts", ".test.ts");
const plain = [".", "packaging"].flatMap((folder) => found(folder, ".test.mjs").map((name) => join(directory, folder, name)));
if (bundled.length + plain.length === 0) throw new Error(`no test file has ${wanted.join(" or ")} in its name`);

rmSync(outdir, { recursive: true, force: true });
const common = {
  absWorkingDir: join(directory, "ts"),
  outdir,
  outExtension: { ".js": ".mjs" },
  bundle: true,
  format: "esm",
  logLevel: "warning",
};
await build({ ...common, entryPoints: bundled, platform: "node", target: "node20", packages: "external", sourcemap: "inline" });
await build({ ...common, entryPoints: ["page.ts"], platform: "browser", target: "es2022" });
await build({
  ...common,
  entryPoints: { worker: "../../worker/test/doors.ts" },
  platform: "neutral",
  target: "es2022",
  conditions: ["workerd"],
  external: ["cloudflare:*"],
  loader: { ".wasm": "copy" },
  assetNames: "[name]",
});
const files = [...bundled.map((name) => join(outdir, name.replace(/\.ts$/, ".mjs"))), ...plain];
const options = { cwd: directory, stdio: "inherit" };
const { status } = spawnSync(process.execPath, ["--enable-source-maps", "--test", ...files], options);
process.exitCode = status ?? 1;
