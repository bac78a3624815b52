import assert from "node:assert/strict";
import { test } from "node:test";

import { TransportClient } from "../ts/client.ts";
import { endpoint } from "../ts/connect.ts";
import type { DunlinError } from "../ts/errors.ts";
import type { Command } from "../ts/frames.ts";
import type { StateChange } from "../ts/types.ts";
import { Clock, FakeTransport, code, connected, delivery } from "./broker.ts";
import { settled } from "./fakes.ts";

function only<T extends Command["type"]>(said: (Command | string)[], type: T): Extract<Command, { type: T }> {
  assert.equal(said.length, 1, JSON.stringify(said));
  const [command] = said as Command[];
  assert.equal(command?.type, type);
  return command as Extract<Command, { type: T }>;
}

test("connecting says hello first, and resolves when the broker greets", async () => {
  const transport = new FakeTransport();
  const opening = TransportClient.open(transport, new Clock(), { clientName: "me" });
  transport.peer.events.opened();
  assert.deepEqual(transport.peer.heard(), [{ type: "hello", version: 1, client: "me" }]);
  transport.peer.reply({ type: "hello", version: 1, incarnation: 1, connection: 1, now: 0, features: [] });
  assert.equal((await opening).state, "open");
});

test("a first attempt that fails says why and leaves nothing behind", async () => {
  const transport = new FakeTransport();
  const clock = new Clock();
  const opening = TransportClient.open(transport, clock, {});
  transport.peer.events.closed({ code: 1006, reason: "", cause: new Error("Unexpected server response: 401") });
  await assert.rejects(opening, code("connection_failed", /cannot connect to ws:\/\/broker: .*401/));
  assert.deepEqual(clock.pending, []);
});

test("who is asked to come back at once does so, but not for ever", async () => {
  const transport = new FakeTransport();
  const clock = new Clock();
  const opening = TransportClient.open(transport, clock, {});
  const refused = assert.rejects(opening, code("connection_failed", /gone/));
  for (let attempt = 0; attempt < 5; attempt += 1) {
    transport.peer.events.closed({ code: 1006, reason: "gone", retryInMs: 0 });
    await clock.advance(0);
  }
  transport.peer.events.closed({ code: 1006, reason: "gone", retryInMs: 0 });
  await refused;
});

test("an attempt without an answer ends after 20 seconds", async () => {
  const transport = new FakeTransport();
  const clock = new Clock();
  const opening = TransportClient.open(transport, clock, {});
  const failed = assert.rejects(opening, code("connection_failed", /no answer within 20 s/));
  await clock.advance(20_000);
  await failed;
});

test("an attempt can be aborted with the caller's reason", async () => {
  const controller = new AbortController();
  const opening = TransportClient.open(new FakeTransport(), new Clock(), { signal: controller.signal });
  controller.abort(new Error("changed my mind"));
  await assert.rejects(opening, /changed my mind/);
});

test("a broker of another version ends the client with its code", async () => {
  const transport = new FakeTransport();
  const opening = TransportClient.open(transport, new Clock(), {});
  transport.peer.events.opened();
  transport.peer.reply({ type: "error", request: 0, code: "unsupported_version", message: "version 1 is not spoken" });
  await assert.rejects(opening, code("unsupported_version", /version 1 is not spoken/));
});

test("a publish resolves with its receipt", async () => {
  const { client, transport } = await connected();
  const publishing = client.publish("t", "hi", { key: "k", headers: [["a", "b"]], ttlMs: 5, durability: "sync" });
  await settled();
  const command = only(transport.peer.heard(), "publish");
  assert.deepEqual(
    { ...command, payload: new TextDecoder().decode(command.payload) },
    { type: "publish", request: 1, topic: "t", payload: "hi", key: "k", headers: [["a", "b"]], ttlMs: 5, durability: "sync" },
  );
  transport.peer.reply({ type: "receipt", request: 1, partition: 3, offset: 2n ** 60n, sequence: 9n, duplicate: false });
  assert.deepEqual(await publishing, { topic: "t", partition: 3, offset: 2n ** 60n, sequence: 9n, duplicate: false });
});

test("what is published in one turn of the program is one message on the socket", async () => {
  const { client, transport } = await connected();
  const before = transport.peer.messages;
  const publishing = [client.publish("t", "1"), client.publish("t", "2"), client.publish("t", "3")];
  await settled();
  assert.equal(transport.peer.heard().length, 3);
  assert.equal(transport.peer.messages, before + 1);
  await client.close();
  await Promise.allSettled(publishing);
});

test("a refusal rejects with the broker's code and when to try again", async () => {
  const { client, transport } = await connected();
  const publishing = client.publish("a/#", "x");
  await settled();
  transport.peer.reply({ type: "error", request: 1, code: "invalid_topic", message: "no wildcards", retryAfterMs: 70 });
  await assert.rejects(publishing, (error: DunlinError) => code("invalid_topic", /no wildcards/)(error) && error.retryAfterMs === 70);
});

test("a batch resolves with receipts in its order", async () => {
  const { client, transport } = await connected();
  const publishing = client.publishBatch([{ topic: "a", payload: "1" }, { topic: "b", payload: "2", key: "k" }]);
  await settled();
  const { messages } = only(transport.peer.heard(), "publish_batch");
  assert.deepEqual(messages.map(({ topic, key }) => [topic, key]), [["a", undefined], ["b", "k"]]);
  const place = { partition: 0, duplicate: false };
  transport.peer.reply({
    type: "receipts",
    request: 1,
    receipts: [{ ...place, offset: 0n, sequence: 1n }, { ...place, offset: 0n, sequence: 2n }],
  });
  assert.deepEqual((await publishing).map(({ topic, sequence }) => [topic, sequence]), [["a", 1n], ["b", 2n]]);
});

test("a publish whose connection is lost is rejected, because its outcome is not known", async () => {
  const { client, transport } = await connected();
  const publishing = client.publish("t", "x");
  await settled();
  await transport.peer.cut();
  await assert.rejects(publishing, code("connection_lost", /whether the command took effect is not known/));
});

test("with retry it is sent again, in its place before what was not sent yet", async () => {
  const { client, transport, clock } = await connected();
  const first = client.publish("t", "1", { retry: true });
  await settled();
  await transport.peer.cut();
  const second = client.publish("t", "2");
  await clock.advance(2_000);
  await transport.peer.greet();
  assert.deepEqual(transport.peer.heard().map((command) => (command as { request: number }).request), [1, 2]);
  for (const request of [1, 2]) transport.peer.reply({ type: "receipt", request, partition: 0, offset: 0n, sequence: 1n, duplicate: false });
  await Promise.all([first, second]);
});

test("reads are sent again by themselves", async () => {
  const { client, transport, clock } = await connected();
  const describing = client.describeTopic("t");
  await settled();
  await transport.peer.cut();
  await clock.advance(2_000);
  await transport.peer.greet();
  const { request } = only(transport.peer.heard(), "describe_topic");
  transport.peer.reply({
    type: "topic",
    request,
    topic: "t",
    kind: "log",
    ordering: "per_key",
    durability: "async",
    maxMessages: 0,
    maxBytes: 0,
    maxAgeMs: 0,
    partitions: [{ logStartOffset: 0n, logEndOffset: 4n, sizeBytes: 9 }],
  });
  assert.equal((await describing).partitions[0]?.logEndOffset, 4n);
});

test("delays grow from 1 to 30 seconds by a factor of two, within 20 percent", async () => {
  for (const [dice, factor] of [[0, 0.8], [0.5, 1], [1 - Number.EPSILON, 1.2]] as const) {
    const { client, transport, clock } = await connected();
    clock.dice = dice;
    const delays: number[] = [];
    client.on("state", ({ retryInMs }) => retryInMs !== undefined && delays.push(retryInMs));
    for (let attempt = 0; attempt < 7; attempt += 1) {
      await transport.peer.cut();
      await clock.advance(delays.at(-1) ?? 0);
    }
    const expected = [1, 2, 4, 8, 16, 30, 30].map((seconds) => Math.round(seconds * 1000 * factor));
    assert.deepEqual(delays, expected);
    await client.close();
  }
});

test("after a connection that held, the next delay is the shortest again", async () => {
  const { client, transport, clock } = await connected();
  const delays: (number | undefined)[] = [];
  client.on("state", ({ state, retryInMs }) => state === "reconnecting" && delays.push(retryInMs));
  await transport.peer.cut();
  await clock.advance(1_000);
  await transport.peer.cut();
  await clock.advance(2_000);
  await transport.peer.greet();
  await clock.advance(5_000);
  await transport.peer.cut();
  assert.deepEqual(delays, [1_000, 2_000, 1_000]);
});

test("a broker that goes away says when to come again", async () => {
  const { client, transport, clock } = await connected();
  const changes: StateChange[] = [];
  client.on("state", (change) => changes.push(change));
  transport.peer.reply({ type: "going_away", reconnectAfterMs: 7_000 });
  await transport.peer.cut(4002, "draining: the broker stops");
  // All that it sends away do not come back in one moment, and none before the time.
  assert.equal(changes[0]?.retryInMs, 7_700);
  assert.match(changes[0]?.error?.message ?? "", /4002: draining: the broker stops/);
  await clock.advance(7_699);
  assert.equal(transport.peers.length, 1);
  await clock.advance(1);
  assert.equal(transport.peers.length, 2);
});

test("a broker that has no room yet says when to come again", async () => {
  const { client, transport, clock } = await connected();
  const delays: (number | undefined)[] = [];
  client.on("state", ({ retryInMs }) => delays.push(retryInMs));
  await transport.peer.cut();
  await clock.advance(1_000);
  transport.peer.events.opened();
  transport.peer.reply({ type: "error", request: 0, code: "rate_limited", message: "too many connects", retryAfterMs: 20_000 });
  await transport.peer.cut(4008, "rate_limited: too many connects");
  // What was told holds once.
  await clock.advance(22_000);
  await transport.peer.cut();
  assert.deepEqual(delays, [1_000, 22_000, 4_000]);
});

test("a broker that refuses the client for good ends it", async () => {
  for (const [closeCode, reason, expected] of [
    [1002, "malformed_frame: a length is beyond the end", "malformed_frame"],
    [4001, "unauthorised: the token has expired", "unauthorised"],
    [4001, "", "unauthorised"],
    [4003, "kicked: by an operator", "kicked"],
    [4003, "device_limit: another device came", "device_limit"],
    [4003, "", "kicked"],
    [4008, "invalid_argument: a device is a user's; name the user too", "invalid_argument"],
    [4008, "unknown_namespace: unknown namespace \"x\"", "unknown_namespace"],
    [4008, "session_replaced: another connection has the session", "session_replaced"],
  ] as const) {
    const { client, transport, clock } = await connected();
    const changes: StateChange[] = [];
    client.on("state", (change) => changes.push(change));
    const publishing = client.publish("t", "x");
    const subscription = client.subscribe("t");
    await transport.peer.cut(closeCode, reason);
    await assert.rejects(publishing, code(expected, new RegExp(reason.split(": ")[1] ?? `closed the connection with ${closeCode}`)));
    await assert.rejects(subscription.next(), code(expected));
    assert.deepEqual(changes.map(({ state, previous }) => [previous, state]), [["open", "closed"]]);
    assert.deepEqual(clock.pending, []);
  }
});

test("a broker that closes for what passes is connected to again", async () => {
  for (const [closeCode, reason] of [
    [1001, ""],
    [1009, "too_large: the message is over the bound"],
    [4002, "draining: the broker stops"],
    [4008, ""],
    [4008, "limit_reached: the broker has as many connections as it may"],
    [4008, "slow_consumer: the client does not read what it asked for"],
    [4008, "connection_silent: nothing was heard for 60 s"],
  ] as const) {
    const { client, transport, clock } = await connected();
    await transport.peer.cut(closeCode, reason);
    assert.equal(client.state, "reconnecting", reason);
    await clock.advance(1_000);
    await transport.peer.greet();
    assert.equal(client.state, "open", reason);
    await client.close();
  }
});

test("the client says ping every 25 seconds and gives up after 60 seconds of silence", async () => {
  const { client, transport, clock } = await connected();
  await clock.advance(25_000);
  assert.deepEqual(transport.peer.heard(), ["ping"]);
  transport.peer.events.message("pong");
  await clock.advance(59_999);
  assert.deepEqual(transport.peer.heard(), ["ping", "ping"]);
  assert.equal(client.state, "open");
  await clock.advance(1);
  assert.equal(client.state, "reconnecting");
  assert.notEqual(transport.peer.closedWith, undefined);
});

test("anything the broker says is a sign of life", async () => {
  const { client, transport, clock } = await connected();
  for (let count = 0; count < 5; count += 1) {
    await clock.advance(50_000);
    transport.peer.reply({ type: "pong", request: 0, now: 0 });
  }
  assert.equal(client.state, "open");
});

test("frames that are not of the protocol end the link, and say so", async () => {
  for (const bytes of [Uint8Array.of(9, 1), Uint8Array.of(2, 133, 0x80), Uint8Array.of(4, 134, 0, 1, 0xff), "hello"]) {
    const { client, transport } = await connected();
    const changes: StateChange[] = [];
    client.on("state", (change) => changes.push(change));
    transport.peer.events.message(bytes);
    assert.equal(changes[0]?.error?.code, "malformed_frame");
    assert.match(changes[0]?.error?.message ?? "", /ws:\/\/broker sent what is not dunlin's protocol: /);
    assert.equal(client.state, "reconnecting");
    await client.close();
  }
});

test("replies and fields of later versions are passed over", async () => {
  const { client, transport } = await connected();
  const publishing = client.publish("t", "x");
  await settled();
  // Kind 200, then the receipt of request 1 with an optional field 99.
  transport.peer.events.message(Uint8Array.of(2, 200, 1, 9, 130, 1, 0, 0, 1, 0, 99, 1, 7));
  assert.equal((await publishing).sequence, 1n);
});

test("an answer of the wrong kind is told, not trusted", async () => {
  const { client, transport } = await connected();
  const publishing = client.publish("t", "x");
  await settled();
  transport.peer.reply({ type: "ok", request: 1 });
  await assert.rejects(publishing, code("malformed_frame", /answered with ok where receipt belongs/));
});

test("what cannot be sent is refused before it is sent", async () => {
  const { client, transport } = await connected({ payloadBytesMax: 10, inboundBytesMax: 60 });
  await assert.rejects(client.publish("t", "x".repeat(11)), code("too_large", /the payload for "t" has 11 bytes, the broker takes at most 10/));
  await assert.rejects(client.publish("t", "x", { headers: [["a", "b".repeat(60)]] }), code("too_large", /the command has \d+ bytes/));
  await assert.rejects(client.publish("t", "x", { ttlMs: -1 }), code("invalid_argument", /ttlMs must be an integer from 0 to 2\^53 - 1, not -1$/));
  await assert.rejects(client.publish("t", "x", { ttlMs: 0.5 }), code("invalid_argument", /ttlMs must be an integer.*, not 0.5$/));
  await assert.rejects(client.publish("t", { a: 1 } as never), code("invalid_argument", /use JSON.stringify/));
  await assert.rejects(client.publish(undefined as never, "x"), code("invalid_argument", /topic must be a string, not undefined/));
  assert.throws(() => client.subscribe("t", { credit: 0 }), code("invalid_argument", /credit must be an integer from 1/));
  assert.throws(() => client.on("message" as never, () => {}), code("invalid_argument", /no event "message"/));
  await assert.rejects(client.history("t", { limit: -1 }).next(), code("invalid_argument", /limit/));
  assert.deepEqual(transport.peer.heard(), []);
});

test("what waited for the connection is held to the bounds that the broker then names", async () => {
  const transport = new FakeTransport();
  const client = await TransportClient.open(transport, new Clock(), { background: true });
  const large = client.publish("t", "x".repeat(100));
  const small = [client.publish("t", "1"), client.publish("t", "2"), client.publish("t", "3")];
  const refused = assert.rejects(large, code("too_large", /the broker takes at most 20/));
  await transport.peer.greet({ inboundBytesMax: 20 });
  await refused;
  assert.equal(transport.peer.heard().length, 3);
  assert.equal(transport.peer.messages, 1 + 2, "hello, and no message above the bound");
  await client.close();
  await Promise.allSettled(small);
});

test("more commands than fit are refused while the connection is away", async () => {
  const { client, transport } = await connected();
  await transport.peer.cut();
  const payload = new Uint8Array(1024 * 1024);
  const publishing = Array.from({ length: 17 }, () => client.publish("t", payload));
  await assert.rejects(publishing.at(-1) as Promise<unknown>, code("queue_full", /wait for receipts before publishing more/));
  await client.close();
  const results = await Promise.allSettled(publishing);
  assert.equal((results[0] as PromiseRejectedResult).reason.code, "closed");
});

test("waiting for a receipt can be aborted", async () => {
  const { client, transport } = await connected();
  await transport.peer.cut();
  const controller = new AbortController();
  const publishing = client.publish("t", "x", { signal: controller.signal });
  controller.abort(new Error("too slow"));
  await assert.rejects(publishing, /too slow/);
  await assert.rejects(client.publish("t", "x", { signal: controller.signal }), /too slow/);
});

test("a closed client refuses everything with one code", async () => {
  const { client } = await connected();
  const waiting = client.publish("t", "x");
  await client.close();
  await client.close();
  await assert.rejects(waiting, code("closed"));
  await assert.rejects(client.publish("t", "x"), code("closed", /open another/));
  await assert.rejects(client.subscribe("t").next(), code("closed"));
  assert.equal(client.state, "closed");
});

test("in the background, a client is there at once and keeps trying", async () => {
  const transport = new FakeTransport();
  const clock = new Clock();
  const client = await TransportClient.open(transport, clock, { background: true });
  assert.equal(client.state, "connecting");
  const publishing = client.publish("t", "x");
  await transport.peer.cut();
  assert.equal(client.state, "connecting");
  await clock.advance(1_000);
  await transport.peer.greet();
  const { request } = only(transport.peer.heard(), "publish");
  transport.peer.reply({ type: "receipt", request, partition: 0, offset: 0n, sequence: 1n, duplicate: true });
  assert.equal((await publishing).duplicate, true);
});

test("a listener that throws does not stop the connection", async (t) => {
  const { client, transport, clock } = await connected();
  const caught: unknown[] = [];
  const handlers = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.once("uncaughtException", (error) => caught.push(error));
  t.after(() => handlers.forEach((handler) => process.on("uncaughtException", handler)));
  client.on("state", () => {
    throw new Error("listener");
  });
  await transport.peer.cut();
  await new Promise((resolve) => setImmediate(resolve));
  await clock.advance(1_000);
  assert.equal(transport.peers.length, 2);
  assert.equal((caught[0] as Error).message, "listener");
});

test("history reads page after page, up to the end as it was at first", async () => {
  const { client, transport } = await connected();
  const read: string[] = [];
  const reading = (async () => {
    for await (const message of client.history("t", { from: "offset:1" })) read.push(`${message.offset} ${message.text()}`);
  })();
  await settled();
  const first = only(transport.peer.heard(), "read");
  assert.deepEqual([first.from, first.partition], ["offset:1", 0]);
  const record = (offset: number) => ({ offset: BigInt(offset), sequence: 1n, timestamp: 1, payload: Uint8Array.of(48 + offset) });
  transport.peer.reply({ type: "page", request: first.request, logStartOffset: 0n, logEndOffset: 4n, nextOffset: 3n, records: [record(1), record(2)] });
  await settled();
  const second = only(transport.peer.heard(), "read");
  assert.equal(second.from, "offset:3");
  transport.peer.reply({ type: "page", request: second.request, logStartOffset: 0n, logEndOffset: 9n, nextOffset: 6n, records: [record(3), record(4)] });
  await reading;
  assert.deepEqual(read, ["1 1", "2 2", "3 3"]);
});

test("topics are listed page after page", async () => {
  const { client, transport } = await connected();
  const names: string[] = [];
  const listing = (async () => {
    for await (const name of client.listTopics({ filter: "#" })) names.push(name);
  })();
  await settled();
  const first = only(transport.peer.heard(), "list_topics");
  transport.peer.reply({ type: "topics", request: first.request, topics: ["a", "b"], more: true });
  await settled();
  const second = only(transport.peer.heard(), "list_topics");
  assert.equal(second.after, "b");
  transport.peer.reply({ type: "topics", request: second.request, topics: ["c"], more: false });
  await listing;
  assert.deepEqual(names, ["a", "b", "c"]);
});

test("a message's payload reads as text or JSON, or says why not", async () => {
  const { client, transport } = await connected();
  const subscription = client.subscribe("t");
  await settled();
  transport.peer.reply(delivery(1, 1, '{"a":1}'), delivery(1, 2, "{"), {
    ...(delivery(1, 3) as Extract<ReturnType<typeof delivery>, { type: "delivery" }>),
    payload: Uint8Array.of(0xff),
  });
  const take = async () => (await subscription.next()).value as import("../ts/types.ts").Delivery;
  assert.deepEqual((await take()).json(), { a: 1 });
  const broken = await take();
  assert.throws(() => broken.json(), code("malformed_payload", /"t" partition 0 offset 1 is not JSON/));
  const binary = await take();
  assert.throws(() => binary.text(), code("malformed_payload", /offset 2 is not UTF-8/));
});

test("URLs lead to a namespace, and wrong ones are refused by name", () => {
  assert.equal(endpoint("http://a:1").href, "ws://a:1/v1/default/connect");
  assert.equal(endpoint("wss://a", { namespace: "x/y", token: "s&" }).href, "wss://a/v1/x%2Fy/connect?token=s%26");
  assert.equal(endpoint(new URL("https://a/v1/n/connect")).href, "wss://a/v1/n/connect");
  assert.throws(() => endpoint("nowhere"), code("invalid_argument", /"nowhere" is not a URL/));
  assert.throws(() => endpoint("ftp://a"), code("invalid_argument", /must begin with ws:, wss:, http: or https:, not with ftp:/));
  assert.throws(() => endpoint("ws://user:secret@a"), code("invalid_argument", /give the option token/));
  assert.throws(() => endpoint("ws://a", { namespace: "" }), code("invalid_argument", /option namespace/));
  assert.equal(endpoint("ws://a", { token: "t", user: "a&b", device: "my phone+" }).search, "?token=t&user=a%26b&device=my%20phone%2B");
  for (const wrong of [{ token: "" }, { user: "" }, { user: 7 as never }, { user: "a", device: null as never }]) {
    const option = Object.keys(wrong).at(-1);
    assert.throws(() => endpoint("ws://a", wrong), code("invalid_argument", new RegExp(`the option ${option} must be text that is not empty`)));
  }
});
