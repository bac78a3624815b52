import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { before, test } from "node:test";

import type { Range, Row, Write } from "../../wasm/ts/abi.ts";
import { BindgenEngine, loadEngine } from "../../wasm/ts/engine.ts";
import { MemoryStore } from "../../wasm/ts/memory.ts";
import { replayAll } from "./replay.ts";
import { ROOT, expectEqual, traces } from "./traces.ts";

before(() => loadEngine(() => readFileSync(join(ROOT, "wasm/dist/engine/engine_bg.wasm"))));

const newEngine = (): BindgenEngine => new BindgenEngine();

test("the npm package's engine gives the native bytes in Node, and its store the native rows", async () => {
  expectEqual(await replayAll(traces(), newEngine, () => new MemoryStore()));
});

test("a difference of one byte is told with its line", async () => {
  const [trace] = traces();
  assert.ok(trace !== undefined);
  const changed = trace.steps.map((step) => {
    if (step.kind !== "step") return step;
    const output = Buffer.from(step.output, "base64");
    output.writeUInt8(output.readUInt8(output.length - 1) ^ 1, output.length - 1);
    return { ...step, output: output.toString("base64") };
  });
  const { failures } = await replayAll([{ ...trace, steps: changed }], newEngine, () => new MemoryStore());
  assert.equal(failures.length, 1);
  assert.match(failures[0] ?? "", new RegExp(`^${trace.name}\\.txt:\\d+: the output: of \\d+ bytes`));
});

/** Forgets the last row of every page of several. */
class Forgetful extends MemoryStore {
  override load(range: Range): readonly Row[] {
    const rows = super.load(range);
    return rows.length > 1 ? rows.slice(0, -1) : rows;
  }
}

/** Deletes nothing. */
class Hoarding extends MemoryStore {
  override apply(write: Write): void {
    super.apply({ ...write, ops: write.ops.filter(({ kind }) => kind === "put") });
  }
}

test("a store that gives other rows is told: to loads, to restores, and at the end", async () => {
  const forgetful = (await replayAll(traces(), newEngine, () => new Forgetful())).failures.join("\n");
  assert.match(forgetful, /^a_large_catch_up\S+: the load \d+: of \d+ bytes/m);
  assert.match(forgetful, /^history_is_read_in_pages\S+: the load \d+: of \d+ bytes/m);
  const hoarding = (await replayAll(traces(), newEngine, () => new Hoarding())).failures.join("\n");
  assert.match(hoarding, /^connections_that_did_not_survive_are_forgotten\S+: (a restore|what is stored): of \d+ bytes/m);
  assert.match(hoarding, /^retention_by_messages\S+: (the load \d+|what is stored): of \d+ bytes/m);
});
