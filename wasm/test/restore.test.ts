import assert from "node:assert/strict";
import { test } from "node:test";

import { MemoryStore } from "../ts/memory.ts";
import { restoreWalk } from "../ts/restore.ts";

const row = (...key: number[]) => ({ key: Uint8Array.from(key), value: Uint8Array.of(1) });

/** The keys that a restore is given, from a store that holds `rows`. */
function restored(rows: readonly { key: Uint8Array; value: Uint8Array }[]): number[][] {
  const store = new MemoryStore();
  const ops = rows.map(({ key, value }) => ({ kind: "put" as const, key, value }));
  store.apply({ kind: "write", sequence: 1, durability: "none", ops });
  const keys: number[][] = [];
  const walk = restoreWalk((page) => keys.push(...page.map(({ key }) => [...key])));
  let step = walk.next();
  for (let steps = 0; !step.done; steps += 1) {
    assert.ok(steps < 100, "the walk ends");
    step = walk.next(store.load(step.value));
  }
  return keys;
}

test("a restore is given the store's rows and the state of every namespace, but no messages", () => {
  const state = [row(0, 9), row(1, 97, 1), row(1, 98, 5, 7), row(2, 97, 97, 0x7f)];
  assert.deepEqual(restored([...state, row(1, 97, 0x80, 1), row(2, 97, 97, 0xff)]), state.map(({ key }) => [...key]));
});

test("a key that no version has written does not hold a restore up", () => {
  assert.deepEqual(restored([row(1, 97, 1), row(1, 97, 0xff, 0xff, 3), row(1, 0xff, 0xff, 0xff), row(1, 98, 1)]), [
    [1, 97, 1],
    [1, 98, 1],
  ]);
});
