// How a store gets from one layout to the next, and that a store which was ever written can still be read.
import assert from "node:assert/strict";
import { cpSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { Client } from "./clients.mjs";
import { AUTHORIZED, BASE, buildWithDoors, startWorker, temporaryDirectory } from "./workerd.mjs";

const cleanUp = [];
let dist;
let worker;
before(async () => {
  dist = await buildWithDoors(temporaryDirectory({ after: (f) => cleanUp.push(f) }));
  worker = startWorker({ dist, objects: { LAYOUT: "Layout" } });
});
after(async () => {
  await worker.dispose();
  cleanUp.forEach((f) => f());
});

/** A store of its own, which is opened by scripts that know so many steps. */
async function store(name) {
  const layouts = await worker.getDurableObjectNamespace("LAYOUT");
  return async (steps, broken = 0) => {
    const response = await layouts.get(layouts.idFromName(name)).fetch(`${BASE}/${steps}?broken=${broken}`, { method: "POST" });
    const text = await response.text();
    const stored = JSON.parse(text.slice(text.indexOf("{")));
    return response.status === 200 ? { stored } : { stored, error: text.slice(0, text.indexOf("\n{")) };
  };
}

test("a new store takes every step, and an old one those that it lacks", async () => {
  const [fresh, old] = [await store("new"), await store("old")];
  const { stored: first } = await old(1);
  assert.deepEqual([first.version, first.rows], [1, [["01", "0A"], ["02", "0B"]]]);
  assert.deepEqual((await old(1)).stored, first);
  const { stored: last } = await old(3);
  assert.deepEqual([last.version, last.rows], [3, [["01", "0A", 1], ["02", "0B", 1]]]);
  assert.deepEqual((await fresh(3)).stored, last);
});

test("a step that fails in the middle leaves everything as it was, and is taken again", async () => {
  const open = await store("broken");
  const { stored: before } = await open(1);
  const failed = await open(3, 2);
  assert.match(failed.error, /stays at schema version 1, the step to 2 failed: .*nowhere/);
  assert.deepEqual(failed.stored, before);

  const later = await open(3, 3);
  assert.match(later.error, /stays at schema version 2, the step to 3 failed/);
  assert.deepEqual(later.stored, (await open(2)).stored);
  assert.equal((await open(3)).stored.version, 3);

  const first = await (await store("never"))(1, 1);
  assert.match(first.error, /stays at schema version 0, the step to 1 failed/);
  assert.deepEqual(first.stored, { version: null, tables: [], rows: [] });
});

test("a store of a newer version is refused by both numbers, and nothing of it changes", async () => {
  const open = await store("newer");
  const { stored } = await open(3);
  const refused = await open(2);
  assert.match(refused.error, /has schema version 3, this script reads 2: deploy the version that wrote it/);
  assert.deepEqual(refused.stored, stored);
});

const FROZEN = join(import.meta.dirname, "frozen");

// Each was written by the version that its name has, by a client that configured two topics and published five
// messages. None is ever written again.
for (const name of readdirSync(FROZEN)) {
  test(`${name} is read, and goes on where it ended`, async (context) => {
    const directory = temporaryDirectory(context);
    const opened = startWorker({ directory });
    context.after(() => opened.dispose());
    const brokers = await opened.getDurableObjectNamespace("BROKER");
    const objects = join(directory, "do", "-Broker");
    mkdirSync(objects, { recursive: true });
    cpSync(join(FROZEN, name), join(objects, `${brokers.idFromName("chat")}.sqlite`));

    const read = async (topic) => (await opened.dispatchFetch(`${BASE}/v1/chat/topics/${topic}?from=earliest`, { headers: AUTHORIZED })).text();
    const records = (await read("orders")).trim().split("\n").map((line) => JSON.parse(line));
    assert.deepEqual(
      records.map(({ offset, sequence, key, payload, headers }) => [offset, sequence, key, payload, headers]),
      [0, 1, 2].map((n) => [n, n + 1, `k${n}`, `order ${n}`, [["trace", "7"]]]),
    );
    assert.match(await read("state"), /"payload":"state 1"/);
    const client = await Client.ready(opened);
    client.say({ type: "describe_topic", request: 1, topic: "orders" }, { type: "publish", request: 2, topic: "orders", payload: "order 3" });
    assert.equal((await client.next("topic")).max_messages, 100);
    const { offset, sequence } = await client.next("receipt");
    assert.equal(offset, 3);
    assert.ok(sequence > 5, `sequence ${sequence} was given before`);
  });
}
