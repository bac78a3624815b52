// Bundles the Worker: one ES module, and beside it the gateway's and the broker's WebAssembly as files of their own,
// because the runtime compiles only modules that it was deployed with.
import { build } from "esbuild";

await build({
  absWorkingDir: import.meta.dirname,
  entryPoints: ["ts/index.ts"],
  outfile: "dist/script/index.js",
  bundle: true,
  format: "esm",
  platform: "neutral",
  target: "es2022",
  conditions: ["workerd"],
  external: ["cloudflare:*"],
  loader: { ".wasm": "copy" },
  assetNames: "[name]",
  logLevel: "warning",
});
