import assert from "node:assert/strict";
import { test } from "node:test";

import { RIGHTS_ALL } from "../ts/abi.ts";
import type { Effect } from "../ts/abi.ts";
import { utf8 } from "../ts/wire.ts";
import { Later, World, encodeOutput, settled } from "./fakes.ts";

const CLAIMS = { namespace: "n", user: "", device: "", rights: RIGHTS_ALL };

function write(sequence: number, key = "k", value = "v"): Effect {
  return {
    kind: "write",
    sequence,
    durability: "sync",
    ops: [{ kind: "put", key: Uint8Array.of(1, 110, 0, ...utf8(key)), value: utf8(value) }],
  };
}

function send(body: string, to: number[], applied = 0, synced = 0, prefix = ""): Effect {
  return {
    kind: "send",
    applied,
    synced,
    to: to.map((connection) => ({ connection, prefix: utf8(prefix) })),
    body: utf8(body),
  };
}

function close(connection: number): Effect {
  return { kind: "close", connection, code: 4008, reason: "slow" };
}

/** A running drive with connections 1 and 2. */
function running(): World {
  const world = new World();
  void world.drive.open();
  world.drive.connect(1, "binary", CLAIMS);
  world.drive.connect(2, "json", CLAIMS);
  world.turn();
  world.calls();
  return world;
}

/** Gives one frame, to which the broker answers with `effects`. */
function exchange(world: World, effects: Effect[], timeout = 0, canSleep = true): void {
  world.engine.answers.push(encodeOutput(effects, timeout, canSleep));
  world.drive.frame(1, "x");
  world.turn();
}

test("the inputs of one turn are one step", () => {
  const world = running();
  world.drive.frame(1, utf8("a"));
  world.drive.frame(2, "b");
  world.drive.seen(2, 999.5);
  world.drive.disconnect(2);
  world.turn();
  assert.deepEqual(world.calls(), ["step 1000: frame 1 a, frame 2 b, seen 2 999, disconnect 2"]);
});

test("inputs of more than 4 MiB are several steps, each drained before the next", () => {
  const world = running();
  world.engine.answers.push(encodeOutput([send("first", [2])]), encodeOutput([send("second", [2])]));
  for (let count = 0; count < 5; count += 1) world.drive.frame(1, new Uint8Array(1024 * 1024));
  world.turn();
  assert.equal(world.engine.calls.length, 2);
  assert.deepEqual(world.left(), ["2 text firstsecond"]);
});

test("the clock never goes back", () => {
  const world = running();
  world.time = 5000.9;
  world.drive.frame(1, "a");
  world.turn();
  world.time = 10;
  world.drive.frame(1, "b");
  world.turn();
  assert.deepEqual(world.calls(), ["step 5000: frame 1 a", "step 5000: frame 1 b"]);
});

test("the sends of a connection leave as one message, in its encoding, each behind its prefix", () => {
  const world = running();
  exchange(world, [send("a", [1, 2], 0, 0, ">"), send("b", [2]), send("c", [1])]);
  assert.deepEqual(world.left(), ["1 binary >ac", "2 text >ab"]);
});

test("gathered sends are cut into messages of a mebibyte", () => {
  const world = running();
  const large = "x".repeat(700_000);
  exchange(world, [send(large, [1]), send(large, [1]), send("tail", [1])]);
  assert.deepEqual(world.left().map((line) => line.length - "1 binary ".length), [700_000, 700_004]);
});

test("a send leaves when what it waits for is applied, and another when it is durable", async () => {
  const world = running();
  world.store.asynchronous = true;
  exchange(world, [write(1), send("async", [1], 1, 0), send("sync", [1], 1, 1), send("none", [1])]);
  assert.deepEqual(world.left(), ["1 binary none"]);
  world.store.commits[0]?.resolve();
  await settled();
  assert.deepEqual(world.left(), ["1 binary async"]);
  world.store.syncs[0]?.resolve();
  await settled();
  assert.deepEqual(world.left(), ["1 binary sync"]);
});

test("a commit that overtakes an earlier one releases nothing that waits for both", async () => {
  const world = running();
  world.store.asynchronous = true;
  exchange(world, [write(1), write(2), send("both", [1], 2, 0)]);
  world.store.commits[1]?.resolve();
  await settled();
  assert.deepEqual(world.left(), []);
  world.store.commits[0]?.resolve();
  await settled();
  assert.deepEqual(world.left(), ["1 binary both"]);
});

test("where the platform holds everything back, all sends leave in the same turn", () => {
  const world = running();
  exchange(world, [write(1), send("receipt", [1], 1, 1)]);
  assert.deepEqual(world.left(), ["1 binary receipt"]);
});

test("a close leaves after the earlier sends of its connection and does not wait for others", async () => {
  const world = running();
  world.store.asynchronous = true;
  exchange(world, [write(1), send("last", [1], 0, 1), close(1), close(2)]);
  assert.deepEqual(world.left(), ["2 closed 4008 slow"]);
  world.store.syncs[0]?.resolve();
  await settled();
  assert.deepEqual(world.left(), ["1 binary last", "1 closed 4008 slow"]);
  world.drive.frame(1, "late");
  world.turn();
  assert.equal(world.calls().some((call) => call.includes("late")), false);
});

test("all writes of a turn share one sync", () => {
  const world = running();
  world.store.asynchronous = true;
  exchange(world, [write(1), write(2)]);
  assert.equal(world.store.syncs.length, 1);
  exchange(world, []);
  assert.equal(world.store.syncs.length, 1);
});

test("a load that is answered at once is handled in the same turn", () => {
  const world = running();
  const load: Effect = { kind: "load", ticket: 7, from: Uint8Array.of(1), to: Uint8Array.of(2), reverse: false, rowsMax: 9, bytesMax: 9 };
  exchange(world, [write(1), load]);
  assert.deepEqual(world.calls(), ["step 1000: frame 1 x", "step 1000: loaded 7 7 bytes"]);
});

test("a load that fails is told to the broker", async () => {
  const world = running();
  world.store.asynchronous = true;
  const load: Effect = { kind: "load", ticket: 7, from: Uint8Array.of(1), to: Uint8Array.of(2), reverse: true, rowsMax: 9, bytesMax: 9 };
  exchange(world, [load]);
  world.store.loads[0]?.reject(new Error("disk"));
  await settled();
  world.turn();
  assert.deepEqual(world.calls(), ["step 1000: frame 1 x", "step 1000: loaded 7 failed"]);
});

test("the timer is told anew when the broker can sleep, or no longer, also at the same time", () => {
  const world = running();
  const told = [true, false, false, true].map((canSleep) => {
    exchange(world, [], 4000, canSleep);
    return world.canSleep;
  });
  assert.deepEqual(told, [true, false, false, true]);
});

test("one timer follows the broker's next timeout", () => {
  const world = running();
  exchange(world, [], 4000);
  assert.equal(world.armed, 4000);
  world.fire();
  assert.deepEqual(world.calls(), ["step 1000: frame 1 x", "step 4000: timeout"]);
  assert.equal(world.armed, undefined);
});

test("a trap drops the broker, restores it from the store and asks every socket for its positions", () => {
  const world = running();
  exchange(world, [write(1, "a", "kept"), send("held", [1], 0, 9), close(1)]);
  world.engine.calls.length = 0;
  world.engine.answers.push(new Error("unreachable"));
  world.drive.frame(2, "poison");
  world.turn();
  assert.deepEqual(world.calls(), ["step 1000: frame 2 poison", "start {} 2", "restore 1,110,0,97 = kept"]);
  assert.deepEqual(world.left(), ["1 closed 4008 slow"]);
  assert.deepEqual(world.notes.map((note) => note.kind), ["lost"]);
  world.drive.frame(2, "again");
  world.turn();
  assert.deepEqual(world.calls(), ["step 1000: restored 2 unclean, frame 2 again"]);
});

test("output that cannot be read counts as a crash", () => {
  const world = running();
  world.engine.answers.push(Uint8Array.of(0, 1, 99));
  world.drive.frame(1, "x");
  world.turn();
  assert.deepEqual(world.notes.map((note) => note.kind), ["lost"]);
  assert.ok(world.drive.isRunning);
});

test("what an earlier life began does not reach the next", async () => {
  const world = running();
  world.store.asynchronous = true;
  const load: Effect = { kind: "load", ticket: 7, from: Uint8Array.of(1), to: Uint8Array.of(2), reverse: false, rowsMax: 9, bytesMax: 9 };
  exchange(world, [write(1), load, send("receipt", [1], 1, 1)]);
  world.store.asynchronous = false;
  world.engine.answers.push(new Error("unreachable"));
  world.drive.frame(2, "poison");
  world.turn();
  world.calls();
  world.store.commits[0]?.resolve();
  world.store.syncs[0]?.resolve();
  world.store.loads[0]?.resolve([]);
  await settled();
  world.turn();
  assert.deepEqual(world.calls(), ["step 1000: restored 1 unclean, restored 2 unclean"]);
  assert.deepEqual(world.left(), []);
});

test("a failed commit drops the broker, and the store is probed until it can write again", async () => {
  const world = running();
  world.store.asynchronous = true;
  exchange(world, [write(1), send("receipt", [1], 1, 0)]);
  world.store.asynchronous = false;
  world.store.failure = new Error("quota");
  world.store.commits[0]?.reject(world.store.failure);
  await settled();
  world.turn();
  assert.deepEqual(world.calls().slice(1, 2), ["start {} 2"]);
  assert.equal(world.engine.calls.length, 0);
  assert.deepEqual(world.left(), []);
  assert.equal(world.armed, 2000);
  assert.equal(world.canSleep, false, "a later life would not know that the store is to be probed");
  world.fire();
  assert.equal(world.armed, 4000, "the next probe comes after twice the time");
  world.store.failure = undefined;
  world.fire();
  assert.deepEqual(world.calls(), ["step 2000: timeout", "step 4000: storage available 0, timeout"]);
  assert.equal(world.armed, undefined);
});

test("a drive that is closed while its store fails does not probe any more", async () => {
  const world = running();
  world.store.failure = new Error("quota");
  exchange(world, [write(1)]);
  await world.drive.close();
  assert.equal(world.armed, undefined);
});

test("the broker is told that the store is unavailable, before it hears of the survivors", () => {
  const world = running();
  world.store.failure = new Error("quota");
  exchange(world, [write(1)]);
  world.turn();
  assert.deepEqual(world.calls().at(-1), "step 1000: storage unavailable 0, restored 1 unclean, restored 2 unclean");
});

test("a broker that crashes again and again is given up, until a client comes later", () => {
  const world = running();
  for (let count = 0; count < 4; count += 1) {
    world.engine.answers.push(new Error("unreachable"));
    world.drive.frame(1, "poison");
    world.turn();
  }
  const told = "4002 storage_unavailable: the broker cannot be restored now; connect again later";
  assert.deepEqual(world.left(), [`1 closed ${told}`, `2 closed ${told}`]);
  assert.equal(world.notes.at(-1)?.kind, "failed");
  world.drive.connect(3, "binary", CLAIMS);
  assert.deepEqual(world.left(), [`3 closed ${told}`]);
  world.time += 60_000;
  world.calls();
  world.drive.connect(4, "binary", CLAIMS);
  world.turn();
  assert.equal(world.calls().at(-1), `step ${world.time}: connect 4`);
});

test("while the store is slow to restore, inputs wait in their order", async () => {
  const world = new World();
  world.store.asynchronous = true;
  const opened = world.drive.open([{ connection: 1, encoding: "binary", clean: true }]);
  world.drive.connect(2, "binary", CLAIMS);
  world.drive.frame(1, "early");
  world.turn();
  assert.deepEqual(world.calls(), ["start {} 1"]);
  for (let count = 0; count < 2; count += 1) {
    world.store.loads[count]?.resolve([]);
    await settled();
  }
  await opened;
  world.turn();
  assert.deepEqual(world.calls(), ["step 1000: restored 1 clean, connect 2, frame 1 early"]);
});

test("a connection that sends more than fits while the store restores is closed", () => {
  const world = new World();
  world.store.asynchronous = true;
  void world.drive.open([{ connection: 1, encoding: "binary", clean: true }]);
  for (let count = 0; count < 5; count += 1) world.drive.frame(1, new Uint8Array(1024 * 1024));
  assert.equal(world.left().length, 1);
});

test("a configuration that is refused says what is wrong", () => {
  const world = new World();
  world.engine.refusal = new Error("unknown member `colour`");
  assert.throws(() => world.drive.open(), /unknown member `colour`/);
});

test("a key that dunlin did not write stops the restore with a clear error", () => {
  const world = new World();
  world.store.memory.apply({
    kind: "write",
    sequence: 1,
    durability: "none",
    ops: [{ kind: "put", key: Uint8Array.of(9, 1), value: utf8("?") }],
  });
  assert.throws(() => world.drive.open(), /a key that dunlin did not write \(2 bytes, beginning with 9\)/);
});

test("a restore reads the store's rows and the state of every namespace, and no messages", () => {
  const world = new World();
  const put = (...key: number[]): void =>
    world.store.memory.apply({
      kind: "write",
      sequence: 1,
      durability: "none",
      ops: [{ kind: "put", key: Uint8Array.from(key), value: utf8("v") }],
    });
  put(0, 1);
  put(1, 97, 0x00);
  put(1, 97, 0x7f, 255, 255);
  put(1, 97, 0x80, 1);
  put(1, 98, 0x90);
  put(2, 97, 97, 0x01);
  put(255, ...new Array<number>(255).fill(0xf4), 0x02);
  void world.drive.open();
  assert.deepEqual(
    world.calls().map((call) => call.split(",").slice(0, 4).join(",")),
    ["start {} 1", "restore 0,1 = v", "restore 1,97,0 = v", "restore 1,97,127,255", "restore 2,97,97,1 = v", "restore 255,244,244,244"],
  );
});

test("closing handles what is at hand, waits for the store, and frees the engine", async () => {
  const world = running();
  world.store.asynchronous = true;
  world.engine.answers.push(encodeOutput([write(1)]));
  world.drive.frame(1, "last");
  const closed = world.drive.close();
  await settled();
  assert.deepEqual(world.calls(), ["step 1000: frame 1 last"]);
  world.store.commits[0]?.resolve();
  world.store.syncs[0]?.resolve();
  await closed;
  assert.deepEqual(world.calls(), ["stop"]);
  world.drive.frame(1, "after");
  world.turn();
  assert.deepEqual(world.calls(), []);
});

test("how long a commit takes is told where it changed, and measured every 5 s at most", async () => {
  const world = running();
  world.store.asynchronous = true;
  let writes = 0;
  /** What the broker is told after a commit that takes so long. */
  const commit = async (tookMs: number): Promise<readonly string[]> => {
    exchange(world, [write((writes += 1))]);
    world.calls();
    world.time += tookMs;
    world.store.commits.shift()?.resolve();
    world.store.syncs.shift()?.resolve();
    await settled();
    world.turn();
    return world.calls();
  };
  world.time = 10_000;
  assert.deepEqual(await commit(300), ["step 10300: storage available 300"]);
  assert.deepEqual(await commit(400), []);
  world.time = 20_000;
  assert.deepEqual(await commit(300), []);
  world.time = 30_000;
  assert.deepEqual(await commit(50), ["step 30050: storage available 50"]);
});

test("where the platform holds back what leaves, the store says when a commit is durable, and nothing waits for that", async () => {
  const world = running();
  const durable = new Later<void>();
  world.store.durable = () => durable.promise;
  world.time = 10_000;
  exchange(world, [write(1), send("receipt", [1], 1, 1)]);
  assert.deepEqual(world.left(), ["1 binary receipt"]);
  world.calls();
  world.time += 20;
  durable.resolve();
  await settled();
  world.turn();
  assert.deepEqual(world.calls(), ["step 10020: storage available 20"]);
});
