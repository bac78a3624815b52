import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { before, test } from "node:test";

import type { Range, Row, Write } from "../../wasm/ts/abi.ts";
import { BindgenEngine, loadEngine } from "../../wasm/ts/engine.ts";
import { MemoryStore } from "../../wasm/ts/memory.ts";
import { replayAll } from "./replay.ts";
import { ROOT, expectEqual, stream, traces } from "./traces.ts";

before(() => loadEngine(() => readFileSync(join(ROOT, "wasm/dist/engine/engine_bg.wasm"))));

const newEngine = (): BindgenEngine => new BindgenEngine();

test("the npm package's engine gives the native bytes in Node, and its store the native rows", async () => {
  expectEqual(await replayAll(traces(), newEngine, () => new MemoryStore()));
});

test("ten thousand random commands give the native bytes and rows in Node", async () => {
  expectEqual(await replayAll(stream(), newEngine, () => new MemoryStore()), stream(), 1);
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

/** Forgets the last row of every load that gives several. */
class Forgetful extends MemoryStore {
  override load(range: Range): readonly Row[] {
    const rows = super.load(range);
    const isLoad = range.to.length > 3 && rows.length > 1;
    return isLoad ? rows.slice(0, -1) : rows;
  }
}

/** Deletes nothing. */
class Hoarding extends MemoryStore {
  override apply(write: Write): void {
    super.apply({ ...write, ops: write.ops.filter(({ kind }) => kind === "put") });
  }
}

/** Spoils every value. */
class Spoiling extends MemoryStore {
  override apply(write: Write): void {
    const ops = write.ops.map((op) => (op.kind === "put" ? { ...op, value: op.value.map((byte) => byte ^ 1) } : op));
    super.apply({ ...write, ops });
  }
}

test("a store that gives other rows is told: to loads, to restores, and at the end", async () => {
  const told = async (store: () => MemoryStore): Promise<string> => (await replayAll(traces(), newEngine, store)).failures.join("\n");
  assert.match(await told(() => new Forgetful()), /^history_is_read_in_pages\.txt:\d+: the load \d+: of \d+ bytes/m);
  assert.match(await told(() => new Hoarding()), /^retention_by_messages\.txt:\d+: what is stored: of \d+ bytes/m);
  assert.match(await told(() => new Spoiling()), /^a_restart_loses_nothing\.txt:\d+: a restore: of \d+ bytes/m);
});
