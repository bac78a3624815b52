import "fake-indexeddb/auto";

import assert from "node:assert/strict";
import { test } from "node:test";

import type { Op, Range, Row, Write } from "../ts/abi.ts";
import type { DunlinError } from "../ts/errors.ts";
import { IndexedDbStore } from "../ts/indexeddb.ts";
import { MemoryStore } from "../ts/memory.ts";

let databases = 0;

function nobody(error: DunlinError): never {
  throw error;
}

function open(name = `test ${(databases += 1)}`): Promise<IndexedDbStore> {
  return IndexedDbStore.open(name, nobody);
}

function write(ops: Op[]): Write {
  return { kind: "write", sequence: 1, durability: "sync", ops };
}

function put(key: number[], value: number[] = []): Op {
  return { kind: "put", key: Uint8Array.from(key), value: Uint8Array.from(value) };
}

function range(from: number[], to: number[], more: Partial<Range> = {}): Range {
  return { from: Uint8Array.from(from), to: Uint8Array.from(to), reverse: false, rowsMax: 1000, bytesMax: 1e9, ...more };
}

function words(rows: readonly Row[]): string[] {
  return rows.map(({ key, value }) => `${[...key]}=${value.length}`);
}

test("a load sees every write before it, although none has ended", async () => {
  const store = await open();
  const first = store.apply(write([put([1], [1]), put([2], [2])]));
  const second = store.apply(write([{ kind: "delete", key: Uint8Array.of(1) }, put([3], [3])]));
  assert.deepEqual(words(await store.load(range([0], [9]))), ["2=1", "3=1"]);
  await Promise.all([first, second, store.sync()]);
  store.close();
});

test("what was stored is there when the database is opened again", async () => {
  const store = await open("again");
  await store.apply(write([put([1, 255], [7])]));
  store.close();
  const again = await open("again");
  assert.deepEqual(await again.load(range([0], [255])), [{ key: Uint8Array.of(1, 255), value: Uint8Array.of(7) }]);
  again.close();
});

test("an empty range and a range that ends before it begins hold nothing", async () => {
  const store = await open();
  await store.apply(write([put([1]), { kind: "delete_range", from: Uint8Array.of(5), to: Uint8Array.of(1) }]));
  assert.deepEqual(await store.load(range([1], [1])), []);
  assert.deepEqual(await store.load(range([9], [1])), []);
  assert.equal((await store.load(range([0], [9]))).length, 1);
  store.close();
});

test("it answers like the map in memory, whatever is written and asked", async () => {
  let state = 12345;
  const dice = (sides: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return (state >>> 8) % sides;
  };
  const key = (): Uint8Array => Uint8Array.from({ length: 1 + dice(3) }, () => [0, 1, 127, 128, 255][dice(5)] as number);
  const store = await open();
  const memory = new MemoryStore();
  for (let round = 0; round < 60; round += 1) {
    const ops: Op[] = Array.from({ length: 1 + dice(12) }, () => {
      const kind = dice(8);
      if (kind === 0) return { kind: "delete", key: key() };
      if (kind === 1) return { kind: "delete_range", from: key(), to: key() };
      return { kind: "put", key: key(), value: new Uint8Array(dice(40)).fill(round) };
    });
    memory.apply(write(ops));
    const applied = store.apply(write(ops));
    for (let asked = 0; asked < 6; asked += 1) {
      const wanted: Range = { from: key(), to: key(), reverse: dice(2) === 0, rowsMax: dice(20), bytesMax: dice(200) };
      assert.deepEqual(await store.load(wanted), memory.load(wanted), `round ${round}: ${JSON.stringify(wanted)}`);
    }
    await applied;
  }
  store.close();
});

test("long ranges are read whole", async () => {
  const store = await open();
  await store.apply(write(Array.from({ length: 1000 }, (_, index) => put([index >> 8, index & 255], new Array(index % 7).fill(1)))));
  assert.equal((await store.load(range([0], [255]))).length, 1000);
  assert.equal((await store.load(range([0], [255], { rowsMax: 700 }))).length, 700);
  assert.equal((await store.load(range([0], [255], { reverse: true, rowsMax: 3 })))[0]?.key[1], 999 & 255);
  store.close();
});

test("a commit that fails is told by the write, and the sync after it", async (t) => {
  const store = await open();
  const commit = t.mock.method(IDBTransaction.prototype, "commit", function (this: IDBTransaction) {
    this.abort();
  });
  const applied = store.apply(write([put([1])]));
  const synced = store.sync();
  commit.mock.restore();
  await assert.rejects(applied, /abort/i);
  await assert.rejects(Promise.resolve(synced), /abort/i);
  assert.deepEqual(await store.load(range([0], [9])), []);
  await store.probe();
  store.close();
});

test("no write is stored without those in front of it", async (t) => {
  const store = await open();
  // What a full disk does: the commit is on its way already, and is refused.
  const commit = t.mock.method(IDBTransaction.prototype, "commit", function (this: IDBTransaction) {
    this.abort();
  }, { times: 1 });
  const writes = [1, 2, 3].map((key) => store.apply(write([put([key])])));
  const synced = store.sync();
  for (const each of [...writes, Promise.resolve(synced)]) await assert.rejects(each, /abort/i);
  assert.equal(commit.mock.callCount(), 1, "the later ones did not even try");
  await Promise.all([4, 5].map((key) => store.apply(write([put([key])]))));
  assert.deepEqual(words(await store.load(range([0], [9]))), ["4=0", "5=0"]);
  store.close();
});

test("a write that fails while it is put together leaves nothing of itself", async (t) => {
  const store = await open();
  const real = IDBObjectStore.prototype.put;
  const spoilt = t.mock.method(IDBObjectStore.prototype, "put", function (this: IDBObjectStore, value: unknown, key: IDBValidKey) {
    if ((key as Uint8Array)[0] === 2) throw new RangeError("no memory");
    return real.call(this, value, key);
  });
  // The one fails as soon as it is asked for, the other when its turn has come.
  for (const front of [[], [store.apply(write([put([5])]))]]) {
    await assert.rejects(store.apply(write([put([1]), put([2])])), /no memory/);
    await Promise.all(front);
  }
  spoilt.mock.restore();
  assert.deepEqual(words(await store.load(range([0], [9]))), ["5=0"]);
  store.close();
});

test("a store that is closed drops the writes whose turn has not come, and keeps the one that is being committed", async () => {
  const store = await open("closed");
  const [first, second] = [store.apply(write([put([1])])), store.apply(write([put([2])]))];
  store.close();
  await assert.rejects(second, /abort/i);
  await first;
  const again = await open("closed");
  assert.deepEqual(words(await again.load(range([0], [9]))), ["1=0"]);
  again.close();
});

test("a write is one transaction, which waits for the disk only if it must", async (t) => {
  const store = await open();
  const begun = t.mock.method(IDBDatabase.prototype, "transaction");
  for (const durability of ["none", "async", "sync"] as const) {
    await store.apply({ kind: "write", sequence: 1, durability, ops: [put([1]), put([2]), { kind: "delete", key: Uint8Array.of(1) }] });
  }
  assert.deepEqual(
    begun.mock.calls.map(({ arguments: [, mode, options] }) => `${mode} ${options?.durability}`),
    ["readwrite relaxed", "readwrite relaxed", "readwrite strict"],
  );
  store.close();
});

test("a database of a newer version is refused, and says what to do", async () => {
  await new Promise((resolve, reject) => {
    const request = indexedDB.open("dunlin:newer", 99);
    request.onsuccess = () => resolve(request.result.close());
    request.onerror = reject;
  });
  await assert.rejects(open("newer"), (error: DunlinError) => {
    assert.equal(error.code, "database_unavailable");
    assert.equal(error.message, 'the database "newer" was written by a newer dunlin: update this one');
    return true;
  });
});

test("whoever deletes the database is let, and the broker is told", async () => {
  const lost: DunlinError[] = [];
  const store = await IndexedDbStore.open("deleted", (error) => lost.push(error));
  await new Promise((resolve, reject) => {
    const request = indexedDB.deleteDatabase("dunlin:deleted");
    request.onsuccess = resolve;
    request.onblocked = request.onerror = reject;
  });
  assert.match(lost[0]?.message ?? "", /the database "deleted" is being deleted or upgraded/);
  assert.throws(() => store.apply(write([put([1])])));
});

test("a database that does not open in time is given up for now, and let go of when it opens after all", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const close = t.mock.method(IDBDatabase.prototype, "close");
  const opening = open("late");
  t.mock.timers.tick(5_000);
  await assert.rejects(opening, (error: DunlinError) => {
    assert.deepEqual([error.code, error.retryAfterMs], ["database_unavailable", 0]);
    assert.equal(error.message, 'the database "late" was not opened within 5 s');
    return true;
  });
  const closed = (): boolean => close.mock.calls.some(({ this: database }) => (database as unknown as IDBDatabase).name === "dunlin:late");
  while (!closed()) await new Promise((resolve) => setImmediate(resolve));
});
