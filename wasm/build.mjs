// Bundles the TypeScript of the npm package. The WebAssembly module and its glue already lie in dist/engine, put there
// by `cargo xtask build`.
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";

import { build } from "esbuild";

const dist = join(import.meta.dirname, "dist");
for (const name of readdirSync(dist)) {
  if (/\.js(\.map)?$/.test(name)) rmSync(join(dist, name));
}

const common = {
  absWorkingDir: import.meta.dirname,
  outdir: "dist",
  bundle: true,
  format: "esm",
  platform: "neutral",
  target: "es2022",
  sourcemap: true,
  logLevel: "warning",
};

// One build for all runtimes, so that they share what is the same. What only `openLocal` needs is in chunks of its own.
// Not made small: bundlers do that, and where there is none, whoever meets an error can read where it came from.
await build({
  ...common,
  entryPoints: ["ts/index.ts", "ts/node.ts", "ts/workerd.ts", "ts/inline.ts"],
  splitting: true,
  chunkNames: "[name]-[hash]",
  // Left as it is for the runtime to find. The other path to the same file is the one to be put into the script.
  external: ["./engine/engine_bg.wasm", "node:*", "ws"],
  loader: { ".wasm": "binary" },
});

// One file that needs no other and holds no WebAssembly, because bundlers copy it as it is; so it is made small here.
await build({ ...common, entryPoints: ["ts/shared-worker.ts"], minify: true });
