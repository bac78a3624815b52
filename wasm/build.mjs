// Bundles the TypeScript of the npm package. The WebAssembly module and its glue already lie in dist/engine, put there
// by `cargo xtask build`.
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";

import { build } from "esbuild";

const dist = join(import.meta.dirname, "dist");
for (const name of readdirSync(dist)) {
  if (/\.js(\.map)?$/.test(name)) rmSync(join(dist, name));
}

// One build for all runtimes, so that they share what is the same. What only `openLocal` needs is in chunks of its own.
await build({
  absWorkingDir: import.meta.dirname,
  entryPoints: ["ts/index.ts", "ts/node.ts", "ts/workerd.ts", "ts/inline.ts"],
  outdir: "dist",
  bundle: true,
  splitting: true,
  chunkNames: "[name]-[hash]",
  format: "esm",
  platform: "neutral",
  target: "es2022",
  // Not made small: bundlers do that, and where there is none, whoever meets an error can read where it came from.
  sourcemap: true,
  // Left as it is for the runtime to find. The other path to the same file is the one to be put into the script.
  external: ["./engine/engine_bg.wasm", "node:*", "ws"],
  loader: { ".wasm": "binary" },
  logLevel: "warning",
});
