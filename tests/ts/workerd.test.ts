import { join } from "node:path";
import { after, test } from "node:test";

import { Miniflare } from "miniflare";

import type { Replayed } from "./replay.ts";
import { expectEqual, tracesText } from "./traces.ts";

const dist = join(process.cwd(), "dist");

let worker: Miniflare | undefined;
after(() => worker?.dispose());

test("the guest gives the native bytes in workerd", async () => {
  worker = new Miniflare({
    rootPath: dist,
    modulesRoot: dist,
    modules: [
      { type: "ESModule", path: join(dist, "worker.mjs") },
      { type: "CompiledWasm", path: join(dist, "guest.wasm") },
    ],
    compatibilityDate: "2026-04-26",
    cf: false,
  });
  const response = await worker.dispatchFetch("http://replay.test/", { method: "POST", body: tracesText() });
  if (response.status !== 200) throw new Error(await response.text());
  expectEqual((await response.json()) as Replayed);
});
