// The broker in the page, with the real WebAssembly, on an IndexedDB and Web Locks that live in this process.
import "fake-indexeddb/auto";

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { Engine as Broker } from "../dist/engine/engine.js";
import type { DunlinError } from "../ts/errors.ts";
import { openLocalWith } from "../ts/local.ts";
import type { Client, LocalClient, LocalOptions, QueueDelivery, QueueMember } from "../ts/types.ts";
import { held } from "./locks.ts";

const wasm = readFileSync(new URL("../engine/engine_bg.wasm", import.meta.url));

function openLocal(options?: LocalOptions): Promise<LocalClient> {
  return openLocalWith(() => wasm, options);
}

async function rejects(promise: Promise<unknown>, code: string, message: RegExp): Promise<void> {
  await assert.rejects(promise, (error: DunlinError) => {
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  });
}

async function history(client: Client, topic: string): Promise<string[]> {
  const texts: string[] = [];
  for await (const message of client.history(topic)) texts.push(message.text());
  return texts;
}

/** Opens a database again once its broker has let go of it. */
async function reopen(name: string): Promise<Client> {
  while (held.has(`dunlin:${name}`)) await new Promise((resolve) => setImmediate(resolve));
  return openLocal({ store: "indexeddb", name });
}

test("WebAssembly that is none is refused, and the next attempt may bring another", async () => {
  await rejects(openLocalWith(() => Uint8Array.of(1, 2, 3)), "wasm_unavailable", /import "dunlin\/inline", or give the option wasm/);
  await (await openLocal()).close();
});

test("clients of one name share a broker, and namespaces keep them apart", async () => {
  const [alice, bob, other, elsewhere] = await Promise.all([openLocal(), openLocal(), openLocal({ namespace: "other" }), openLocal({ name: "elsewhere" })]);
  await alice.publish("t", "hello");
  assert.deepEqual(await history(bob, "t"), ["hello"]);
  for (const client of [other, elsewhere]) await rejects(history(client, "t"), "unknown_topic", /t/);
  await Promise.all([alice, bob, other, elsewhere].map((client) => client.close()));
});

test("a broker in memory is gone when its last client closes", async () => {
  const first = await openLocal();
  const second = await openLocal();
  await first.publish("t", "x");
  await first.close();
  assert.deepEqual(await history(second, "t"), ["x"]);
  await second.close();
  const third = await openLocal();
  await rejects(history(third, "t"), "unknown_topic", /t/);
  await third.close();
});

test("a database keeps the messages, and its lock is held as long as the broker runs", async () => {
  const client = await openLocal({ store: "indexeddb", name: "kept" });
  assert.ok(held.has("dunlin:kept"));
  await client.publish("t", "one", { durability: "sync" });
  await client.publish("t", "two");
  await client.close();
  const again = await reopen("kept");
  assert.deepEqual(await history(again, "t"), ["one", "two"]);
  assert.equal((await again.publish("t", "three")).offset, 2n);
  await again.close();
});

test("a receipt for sync waits for the transaction, and one for none does not", async (t) => {
  const client = await openLocal({ store: "indexeddb", name: "waits" });
  await client.publish("t", "first");
  const order: string[] = [];
  const { commit } = IDBTransaction.prototype;
  t.mock.method(IDBTransaction.prototype, "commit", function (this: IDBTransaction) {
    this.addEventListener("complete", () => order.push("committed"));
    commit.call(this);
  });
  await client.publish("t", "sync", { durability: "sync" }).then(() => order.push("receipt"));
  assert.deepEqual(order, ["committed", "receipt"]);
  await client.close();
});

test("a commit that fails loses nothing that was acknowledged", async (t) => {
  t.mock.method(console, "error", () => {});
  const client = await openLocal({ store: "indexeddb", name: "failing" });
  await client.publish("t", "kept");
  const commit = t.mock.method(IDBTransaction.prototype, "commit", function (this: IDBTransaction) {
    this.abort();
  });
  await rejects(client.publish("t", "lost", { durability: "sync" }), "connection_lost", /was restored before it answered/);
  await rejects(client.publish("t", "refused"), "storage_unavailable", /./);
  commit.mock.restore();
  await client.close();
  const again = await reopen("failing");
  assert.deepEqual(await history(again, "t"), ["kept"]);
  await again.close();
});

test("a store that is full is told by its own code, until it takes something again", async (t) => {
  t.mock.method(console, "error", () => {});
  const client = await openLocal({ store: "indexeddb", name: "full" });
  await client.publish("t", "kept");
  const commit = t.mock.method(IDBTransaction.prototype, "commit", function (this: IDBTransaction) {
    Object.defineProperty(this, "error", { value: new DOMException("", "QuotaExceededError") });
    this.abort();
  });
  const what = /the browser gives this site no more storage: delete other data.*goes on by itself/;
  await rejects(client.publish("t", "lost", { durability: "sync" }), "connection_lost", what);
  const late = await openLocal({ store: "indexeddb", name: "full" });
  for (const each of [client, late]) await rejects(each.publish("t", "refused"), "storage_full", what);
  commit.mock.restore();
  while ((await late.publish("t", "room").catch((error: DunlinError) => error.code)) === "storage_full");
  assert.deepEqual(await history(client, "t"), ["kept", "room"]);
  await Promise.all([client.close(), late.close()]);
});

test("a trap in one broker is survived by all brokers of the page", async (t) => {
  t.mock.method(console, "error", () => {});
  const stored = await openLocal({ store: "indexeddb", name: "trapping" });
  const bystander = await openLocal({ store: "indexeddb", name: "bystander" });
  await stored.publish("t", "before");
  await bystander.publish("t", "before");
  await using inbox = stored.subscribe("t");
  await inbox.ready;
  // The instance is left as a trap would leave it: nobody knows what it holds.
  t.mock.method(Broker.prototype, "step", () => {
    throw new WebAssembly.RuntimeError("unreachable");
  }, { times: 1 });
  await rejects(stored.publish("t", "lost"), "connection_lost", /was restored before it answered/);
  await stored.publish("t", "after");
  assert.equal((await inbox.next()).value?.text(), "after");
  await rejects(bystander.publish("t", "lost"), "connection_lost", /was restored before it answered/);
  await bystander.publish("t", "after");
  assert.deepEqual(await history(stored, "t"), ["before", "after"]);
  assert.deepEqual(await history(bystander, "t"), ["before", "after"]);
  await Promise.all([stored.close(), bystander.close()]);
});

test("a database whose rows are spoilt is refused, and left as it is", async () => {
  await (await openLocal({ store: "indexeddb", name: "spoilt" })).close();
  while (held.has("dunlin:spoilt")) await new Promise((resolve) => setImmediate(resolve));
  await new Promise<void>((resolve, reject) => {
    const request = indexedDB.open("dunlin:spoilt");
    request.onsuccess = () => {
      const transaction = request.result.transaction("rows", "readwrite");
      transaction.objectStore("rows").put(Uint8Array.of(255), Uint8Array.of(0, 0));
      transaction.oncomplete = () => resolve(request.result.close());
      transaction.onerror = reject;
    };
  });
  await rejects(openLocal({ store: "indexeddb", name: "spoilt" }), "database_unavailable", /the broker "spoilt" cannot be restored from its database: ./);
});

test("a database that is taken away ends its clients", async () => {
  const client = await openLocal({ store: "indexeddb", name: "taken" });
  const closed = new Promise<DunlinError | undefined>((resolve) => client.on("state", ({ error }) => resolve(error)));
  indexedDB.deleteDatabase("dunlin:taken");
  const error = await closed;
  assert.deepEqual([client.state, error?.code], ["closed", "database_unavailable"]);
});

test("a runtime without what a database needs is told so", async () => {
  const { indexedDB } = globalThis;
  const { navigator } = globalThis;
  try {
    Object.defineProperty(globalThis, "navigator", { configurable: true, value: {} });
    await rejects(openLocal({ store: "indexeddb" }), "unsupported", /no Web Locks.*https or from localhost/);
    Object.defineProperty(globalThis, "indexedDB", { configurable: true, writable: true, value: undefined });
    await rejects(openLocal({ store: "indexeddb" }), "unsupported", /no IndexedDB: use the option store: "memory"/);
  } finally {
    Object.defineProperty(globalThis, "navigator", { configurable: true, value: navigator });
    Object.defineProperty(globalThis, "indexedDB", { configurable: true, writable: true, value: indexedDB });
  }
});

test("options that make no sense are refused by name", async () => {
  await rejects(openLocal({ name: "" }), "invalid_argument", /option name/);
  await rejects(openLocal({ namespace: 1 as never }), "invalid_argument", /option namespace/);
  await rejects(openLocal({ store: "indexeddb", sharing: "everywhere" as never }), "invalid_argument", /"worker" or "tab", not "everywhere"/);
  await rejects(openLocal({ store: "disk" as never }), "invalid_argument", /"memory" or "indexeddb", not "disk"/);
  await rejects(openLocal({ config: [] as never }), "invalid_argument", /option config must be an object/);
  await rejects(openLocal({ config: { colour: "red" } }), "invalid_argument", /the broker "dunlin" cannot start: .*colour/);
  await assert.rejects(openLocal({ signal: AbortSignal.abort(new Error("never")) }), /never/);
});

test("a broker that is open takes no second configuration", async () => {
  const client = await openLocal();
  await rejects(openLocal({ config: { payload_bytes_max: 10 } }), "invalid_argument", /open with another configuration/);
  await client.close();
});

test("a configured bound holds", async () => {
  const client = await openLocal({ name: "small", config: { payload_bytes_max: 10 } });
  await rejects(client.publish("t", "x".repeat(11)), "too_large", /11 bytes, the broker takes at most 10/);
  await client.close();
});

test("a loop of publishes leaves the program time for other things", async () => {
  const client = await openLocal();
  let others = 0;
  const timer = setInterval(() => (others += 1), 0);
  const until = performance.now() + 60_000;
  while (others === 0 && performance.now() < until) await client.publish("t", "x");
  clearInterval(timer);
  assert.ok(others > 0);
  await client.close();
});

test("members of groups live in a page without a word, share the work, and leave with their client", async () => {
  const [alice, bob] = await Promise.all([openLocal({ store: "indexeddb", name: "groups" }), openLocal({ store: "indexeddb", name: "groups" })]);
  await alice.configureTopic("jobs", { ordering: "none" });
  await alice.group("g").configure({ sessionMs: 100 });
  const members = [alice, bob].map((client) => client.group("g").joinQueue("jobs", { maxInFlight: 1 })) as [QueueMember, QueueMember];
  await Promise.all(members.map(({ ready }) => ready));
  const names = members.map(({ member }) => member);
  const later = alice.subscribe("later");
  await later.ready;
  await alice.publish("later", "x", { delayMs: 200 });
  await later.next();
  await alice.publishBatch(["1", "2"].map((payload) => ({ topic: "jobs", payload })));
  const jobs = (await Promise.all(members.map((member) => member.next()))).map(({ value }) => value as QueueDelivery);
  assert.deepEqual(jobs.map((job) => job.text()).sort(), ["1", "2"]);
  assert.deepEqual(members.map(({ member }) => member), names);
  await jobs[0]?.ack();
  await bob.close();
  const { value: again } = await members[0].next();
  assert.deepEqual([again?.text(), again?.attempt], [jobs[1]?.text(), 2]);
  await alice.close();
});
