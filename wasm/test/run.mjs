// Bundles the tests, because Node 20 does not read TypeScript, and runs them. Arguments choose tests by file name.
import { spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";

import { build } from "esbuild";

const directory = import.meta.dirname;
const outdir = join(directory, "../dist/test");
const wanted = process.argv.slice(2);
const tests = readdirSync(directory)
  .filter((name) => name.endsWith(".test.ts"))
  .filter((name) => wanted.length === 0 || wanted.some((part) => name.includes(part)));
if (tests.length === 0) throw new Error(`no test file has ${wanted.join(" or ")} in its name`);

rmSync(outdir, { recursive: true, force: true });
await build({
  absWorkingDir: directory,
  // The locks are also for the programs of the README.
  entryPoints: [...tests, "locks.ts"],
  outdir,
  outExtension: { ".js": ".mjs" },
  bundle: true,
  format: "esm",
  platform: "node",
  target: "node20",
  packages: "external",
  sourcemap: "inline",
  logLevel: "warning",
});
const files = tests.map((name) => join(outdir, name.replace(/\.ts$/, ".mjs")));
const { status } = spawnSync(process.execPath, ["--enable-source-maps", "--test", ...files], { stdio: "inherit" });
process.exitCode = status ?? 1;
