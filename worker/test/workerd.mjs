// The built Worker in the real runtime, without network.
import { readdirSync } from "node:fs";
import { join } from "node:path";

import { Miniflare } from "miniflare";

const dist = join(import.meta.dirname, "../dist");

/**
 * Starts the Worker as it would be deployed. Dispose of it at the end: the runtime is a process of its own.
 * @param {Partial<import("miniflare").MiniflareOptions>} [options] bindings and persistence of the test
 */
export function startWorker(options = {}) {
  const modules = readdirSync(dist).filter((name) => name.endsWith(".wasm"));
  return new Miniflare({
    rootPath: dist,
    modulesRoot: dist,
    modules: [
      { type: "ESModule", path: join(dist, "index.js") },
      ...modules.map((name) => ({ type: "CompiledWasm", path: join(dist, name) })),
    ],
    compatibilityDate: "2026-04-01",
    cf: false,
    ...options,
  });
}
