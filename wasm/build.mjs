// Bundles the TypeScript of the npm package. The WebAssembly module and its glue already lie in dist/browser, put there
// by `cargo xtask build`.
import { build } from "esbuild";

await build({
  absWorkingDir: import.meta.dirname,
  entryPoints: ["ts/index.ts"],
  outdir: "dist",
  bundle: true,
  format: "esm",
  platform: "neutral",
  target: "es2022",
  sourcemap: true,
  logLevel: "warning",
});
