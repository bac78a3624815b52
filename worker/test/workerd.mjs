// The Worker in the real runtime, without network: the built one as it is deployed, or one with the tests' own doors.
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { build } from "esbuild";
import { Miniflare } from "miniflare";

const worker = join(import.meta.dirname, "..");

/** The token of each namespace that the tests use. */
export const TOKENS = { chat: "chat-token-0123456789", other: "other-token-0123456789" };

/** The header that opens the namespace of most tests. */
export const AUTHORIZED = { authorization: `Bearer ${TOKENS.chat}` };

/** The origin in the URLs of the tests' own requests. */
export const BASE = "http://dunlin.test";

/**
 * What the runtime is told to run the Worker as it would be deployed.
 * @param {object} [options]
 * @param {Record<string, unknown>} [options.bindings] variables and secrets in place of the tests' tokens
 * @param {string} [options.directory] keeps the objects there; without it they are gone at the end
 * @param {string} [options.dist] another build than the deployed one
 * @param {Record<string, string>} [options.objects] further object classes, by the name of their binding
 */
export function workerOptions({ bindings, directory, dist = join(worker, "dist/script"), objects = {} } = {}) {
  const modules = readdirSync(dist).filter((name) => name.endsWith(".wasm"));
  const classes = Object.entries({ BROKER: "Broker", ...objects });
  return {
    rootPath: dist,
    modulesRoot: dist,
    modules: [
      { type: "ESModule", path: join(dist, "index.js") },
      ...modules.map((name) => ({ type: "CompiledWasm", path: join(dist, name) })),
    ],
    compatibilityDate: "2026-04-26",
    cf: false,
    bindings: bindings ?? { DUNLIN_TOKENS: JSON.stringify(TOKENS) },
    durableObjects: Object.fromEntries(classes.map(([binding, className]) => [binding, { className, useSQLite: true }])),
    ...(directory === undefined ? {} : { defaultPersistRoot: directory }),
  };
}

/** Starts the Worker. Dispose of it at the end: the runtime is a process of its own. */
export function startWorker(options) {
  return new Miniflare(workerOptions(options));
}

/** Starts a Worker that was built with doors, gone at the end of the test; `knock` opens one of its object "chat". */
export function startWithDoors(context, options) {
  const worker = startWorker(options);
  let disposed;
  const dispose = () => (disposed ??= worker.dispose());
  context.after(dispose);
  const knock = async (path) => {
    const namespace = await worker.getDurableObjectNamespace("BROKER");
    return namespace.get(namespace.idFromName("chat")).fetch(`${BASE}${path}`);
  };
  return { worker, knock, dispose };
}

/**
 * Builds the Worker with the doors of `doors.ts` into a directory of its own; what is deployed never contains them.
 * @param {string} directory
 */
export async function buildWithDoors(directory) {
  await build({
    absWorkingDir: worker,
    entryPoints: { index: "test/doors.ts" },
    outdir: directory,
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
  return directory;
}

/** A directory that is gone at the end of the test. @param {import("node:test").TestContext | { after: Function }} context */
export function temporaryDirectory(context) {
  const directory = mkdtempSync(join(tmpdir(), "dunlin-worker-"));
  context.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}
