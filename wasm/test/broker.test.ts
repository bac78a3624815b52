// The client and the real core over real sockets.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { WebSocket } from "ws";

import { TransportClient } from "../ts/client.ts";
import { endpoint } from "../ts/connect.ts";
import type { DunlinError } from "../ts/errors.ts";
import { REAL, SocketTransport } from "../ts/link.ts";
import type { Socket } from "../ts/link.ts";
import type { Client, Delivery, Gap, Subscription } from "../ts/types.ts";
import { Server } from "./server.ts";

const server = new Server();
before(() => server.start());
after(() => server.stop());

/** A client that waits a hundredth of the time before it connects again; it gives the broker all the time it needs. */
function connect(namespace: string): Promise<Client> {
  const create = (url: string, protocol: string): Socket => new WebSocket(url, protocol, {}) as Socket;
  const hasty = { ...REAL, after: (ms: number, callback: () => void) => REAL.after(ms < 15_000 ? ms / 100 : ms, callback) };
  return TransportClient.open(new SocketTransport(endpoint(server.url, { namespace }), "dunlin.v1.binary", create), hasty, {});
}

async function take(subscription: Subscription, count: number): Promise<Delivery[]> {
  const taken: Delivery[] = [];
  for (let index = 0; index < count; index += 1) taken.push((await subscription.next()).value as Delivery);
  return taken;
}

async function rejects(promise: Promise<unknown>, code: string, message: RegExp): Promise<void> {
  await assert.rejects(promise, (error: DunlinError) => {
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  });
}

function reopened(client: Client): Promise<void> {
  return new Promise((resolve) => {
    const forget = client.on("state", ({ state }) => {
      if (state !== "open") return;
      forget();
      resolve();
    });
  });
}

test("two clients chat, with everything that travels beside a payload", async () => {
  const [alice, bob] = [await connect("chat"), await connect("chat")];
  await using inbox = bob.subscribe("room/+");
  await inbox.ready;
  const receipt = await alice.publish("room/1", Uint8Array.of(0, 255), {
    key: "k",
    contentType: "application/octet-stream",
    headers: [["a", "1"], ["a", "2"]],
    id: "m-1",
    ttlMs: 60_000,
    durability: "sync",
  });
  const [message] = await take(inbox, 1);
  assert.deepEqual([...(message?.payload ?? [])], [0, 255]);
  assert.deepEqual(message?.headers, [["a", "1"], ["a", "2"]]);
  assert.deepEqual([message?.topic, message?.key, message?.contentType, message?.id], ["room/1", "k", "application/octet-stream", "m-1"]);
  assert.deepEqual([message?.partition, message?.offset, message?.sequence], [receipt.partition, receipt.offset, receipt.sequence]);
  assert.equal((message?.expiresAt ?? 0) - (message?.timestamp ?? 0), 60_000);
  await Promise.all([alice.close(), bob.close()]);
});

test("a batch is published, read back by history, and listed", async () => {
  const client = await connect("batch");
  const messages = Array.from({ length: 600 }, (_, index) => ({ topic: "log", payload: `m${index}` }));
  const receipts = await client.publishBatch(messages);
  assert.deepEqual(receipts.map(({ offset }) => Number(offset)), messages.map((_, index) => index));
  const read: string[] = [];
  for await (const message of client.history("log")) read.push(message.text());
  assert.deepEqual(read, messages.map(({ payload }) => payload));
  const last: bigint[] = [];
  for await (const { offset } of client.history("log", { from: "last:3", limit: 2 })) last.push(offset);
  assert.deepEqual(last, [597n, 598n]);
  await client.publish("other", "x");
  const topics: string[] = [];
  for await (const name of client.listTopics()) topics.push(name);
  assert.deepEqual(topics, ["log", "other"]);
  await client.close();
});

test("topics are configured, described and deleted", async () => {
  const client = await connect("topics");
  const made = await client.configureTopic("t", { kind: "log", ordering: "per_key", partitions: 3, durability: "sync", maxMessages: 10 });
  assert.deepEqual([made.kind, made.ordering, made.durability, made.maxMessages, made.partitions.length], ["log", "per_key", "sync", 10, 3]);
  const { partition } = await client.publish("t", "x", { key: "k" });
  assert.equal((await client.describeTopic("t")).partitions[partition]?.logEndOffset, 1n);
  await client.deleteTopic("t");
  await rejects(client.describeTopic("t"), "unknown_topic", /t/);
  await client.close();
});

test("what the broker refuses is told with its code and in words", async () => {
  const client = await connect("refused");
  await rejects(client.publish("a/#", "x"), "invalid_topic", /#/);
  await rejects(client.publish("", "x"), "invalid_topic", /./);
  await rejects(client.publish("a".repeat(2000), "x"), "invalid_topic", /1024/);
  await rejects(client.publish("t", new Uint8Array(1024 * 1024 + 1)), "too_large", /1048577 bytes/);
  await rejects(client.publish("t", "x", { durability: "eventually" as never }), "invalid_argument", /eventually/);
  await rejects(client.subscribe("a/#/b").ready, "invalid_filter", /#/);
  await rejects(client.subscribe("t", { from: "yesterday" as never }).ready, "invalid_argument", /"from" must be latest/);
  await rejects(client.history("nowhere").next(), "unknown_topic", /nowhere/);
  assert.equal(client.state, "open");
  await client.close();
});

test("a large payload goes there and back", async () => {
  const client = await connect("large");
  const payload = new Uint8Array(1024 * 1024).fill(7);
  await client.publish("t", payload);
  await using inbox = client.subscribe("t", { from: "earliest" });
  assert.deepEqual((await take(inbox, 1))[0]?.payload, payload);
  await client.close();
});

test("a slow loop takes everything, however small its window", async () => {
  const client = await connect("slow");
  await client.publishBatch(Array.from({ length: 100 }, (_, index) => ({ topic: "t", payload: String(index) })));
  await using inbox = client.subscribe("t", { from: "earliest", credit: 3 });
  assert.deepEqual((await take(inbox, 100)).map((message) => message.text()), Array.from({ length: 100 }, (_, index) => String(index)));
  await client.close();
});

test("over a cut connection and a restarted broker nothing is missing and nothing comes twice", async () => {
  const [alice, bob] = [await connect("resume"), await connect("resume")];
  const gaps: Gap[] = [];
  await using inbox = bob.subscribe("#", { onGap: (gap) => gaps.push(gap), credit: 4 });
  await inbox.ready;
  const heard: string[] = [];
  const publish = (text: string): Promise<unknown> => alice.publish(`t/${text}`, text, { retry: true });
  await publish("a");
  heard.push(...(await take(inbox, 1)).map((message) => message.text()));
  const both = Promise.all([reopened(alice), reopened(bob)]);
  server.cut();
  await publish("b");
  await both;
  heard.push(...(await take(inbox, 1)).map((message) => message.text()));
  const again = Promise.all([reopened(alice), reopened(bob)]);
  await server.stop();
  const waiting = publish("c");
  await server.start();
  await Promise.all([again, waiting]);
  await publish("d");
  heard.push(...(await take(inbox, 2)).map((message) => message.text()));
  assert.deepEqual(heard, ["a", "b", "c", "d"]);
  assert.deepEqual(gaps, []);
  await Promise.all([alice.close(), bob.close()]);
});

test("when the broker traps the sockets stay, and subscribers hear what is published after", async () => {
  const [alice, bob] = [await connect("trap"), await connect("trap")];
  await using inbox = bob.subscribe("t");
  await inbox.ready;
  await alice.publish("t", "before");
  server.poison = true;
  await rejects(alice.publish("t", "lost"), "connection_lost", /was restored before it answered/);
  await alice.publish("t", "after");
  assert.deepEqual((await take(inbox, 2)).map((message) => message.text()), ["before", "after"]);
  assert.deepEqual([alice.state, bob.state], ["open", "open"]);
  await Promise.all([alice.close(), bob.close()]);
});

test("the position of a delivery resumes in another client", async () => {
  const client = await connect("position");
  await client.publishBatch(["a", "b", "c"].map((payload) => ({ topic: "t", payload })));
  const first = client.subscribe("t", { from: "earliest" });
  const [, second] = await take(first, 2);
  await client.close();
  const later = await connect("position");
  await using rest = later.subscribe("t", { from: second?.position ?? "latest" });
  assert.equal((await take(rest, 1))[0]?.text(), "c");
  await later.close();
});
