import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { BindgenEngine, loadEngine } from "../../wasm/ts/engine.ts";
import { replayAll } from "./replay.ts";
import { ROOT, expectEqual, traces } from "./traces.ts";

test("the npm package's engine gives the native bytes in Node", async () => {
  await loadEngine(() => readFileSync(join(ROOT, "wasm/dist/engine/engine_bg.wasm")));
  expectEqual(replayAll(traces(), () => new BindgenEngine()));
});
