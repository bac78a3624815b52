import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { before, test } from "node:test";

import { BindgenEngine, loadEngine } from "../../wasm/ts/engine.ts";
import { replayAll } from "./replay.ts";
import { ROOT, expectEqual, traces } from "./traces.ts";

before(() => loadEngine(() => readFileSync(join(ROOT, "wasm/dist/engine/engine_bg.wasm"))));

test("the npm package's engine gives the native bytes in Node", () => {
  expectEqual(replayAll(traces(), () => new BindgenEngine()));
});

test("a difference of one byte is told with its line", () => {
  const [trace] = traces();
  assert.ok(trace !== undefined);
  const changed = trace.steps.map((step) => {
    if (step.kind !== "step") return step;
    const output = Buffer.from(step.output, "base64");
    output.writeUInt8(output.readUInt8(output.length - 1) ^ 1, output.length - 1);
    return { ...step, output: output.toString("base64") };
  });
  const { failures } = replayAll([{ ...trace, steps: changed }], () => new BindgenEngine());
  assert.equal(failures.length, 1);
  assert.match(failures[0] ?? "", new RegExp(`^${trace.name}\\.txt:\\d+: of \\d+ bytes`));
});
