// Publishing once, later, and for an answer: with a broker that the test plays, and with the real one.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import type { Command } from "../ts/frames.ts";
import type { Client, Delivery, MessageOptions, RequestOptions } from "../ts/types.ts";
import { code, connected } from "./broker.ts";
import { settled } from "./fakes.ts";
import { Server } from "./server.ts";

const PLACE = { partition: 0, offset: 0n, sequence: 1n, duplicate: false };

test("every option of a publish is on the wire, and a Date is a time", async () => {
  const { client, transport } = await connected();
  const publishing = client.publish("t", "x", { deliverAt: new Date(1234), producer: "till", producerSequence: 7n, waitMs: 50, id: "a", priority: 3 });
  const later = client.publish("t", "x", { delayMs: 10 });
  await settled();
  const [first, second] = transport.peer.heard() as Extract<Command, { type: "publish" }>[];
  assert.deepEqual([first?.deliverAt, first?.producer, first?.producerSequence, first?.waitMs, first?.id, first?.priority], [1234, "till", 7n, 50, "a", 3]);
  assert.deepEqual([second?.delayMs, second?.id], [10, undefined]);
  transport.peer.reply({ type: "receipt", request: 1, ...PLACE }, { type: "receipt", request: 2, ...PLACE, sequence: 0n, scheduleId: 9 });
  assert.equal("scheduleId" in (await publishing), false);
  assert.equal((await later).scheduleId, 9);
});

test("an option of the wrong type or range is refused by its name, and nothing is sent", async () => {
  const { client, transport } = await connected();
  const wrong: [keyof MessageOptions | "waitMs" | "durability", unknown, RegExp][] = [
    ["key", 5, /key must be a string, not 5/],
    ["contentType", {}, /contentType must be a string, not \[object Object\]/],
    ["headers", { a: "b" }, /headers must be a list of pairs of strings, not \[object Object\]/],
    ["headers", [["a", 1]], /headers must be a list of pairs of strings, not a,1/],
    ["id", null, /id must be a string, not null/],
    ["ttlMs", "5", /ttlMs must be an integer from 0 to 2\^53 - 1, not 5/],
    ["delayMs", 1.5, /delayMs must be an integer/],
    ["deliverAt", new Date("never"), /deliverAt must be an integer.*, not NaN/],
    ["producer", 1n, /producer must be a string, not 1/],
    ["producerSequence", 1, /producerSequence must be a bigint from 0 to 2\^64 - 1, not 1/],
    ["priority", -1, /priority must be an integer/],
    ["waitMs", Number.POSITIVE_INFINITY, /waitMs must be an integer/],
    ["durability", true, /durability must be a string, not true/],
  ];
  for (const [name, value, message] of wrong) {
    await assert.rejects(client.publish("t", "x", { [name]: value }), code("invalid_argument", message), name);
  }
  const requests: [keyof RequestOptions, unknown, RegExp][] = [
    ["timeoutMs", -1, /timeoutMs must be an integer/],
    ["key", 5, /key must be a string/],
    ["headers", 5, /headers must be a list/],
  ];
  for (const [name, value, message] of requests) {
    await assert.rejects(client.request("t", "x", { [name]: value }), code("invalid_argument", message), name);
  }
  await assert.rejects(client.publishBatch([{ topic: "t", payload: "x", ttlMs: -1 }]), code("invalid_argument", /ttlMs must be an integer/));
  await assert.rejects(client.cancelScheduled("9" as never), code("invalid_argument", /scheduleId must be an integer/));
  await assert.rejects(client.configureTopic("t", { dedupMs: -1 }), code("invalid_argument", /dedupMs must be an integer/));
  await assert.rejects(client.scheduled({ filter: 5 as never }).next(), code("invalid_argument", /filter must be a string/));
  assert.deepEqual(transport.peer.heard(), []);
});

test("with retry every message has a name, the program's or one of its own that stays the same", async () => {
  const { client, transport, clock } = await connected();
  const publishing = [
    client.publish("t", "1", { retry: true }),
    client.publish("t", "2", { retry: true }),
    client.publish("t", "3", { retry: true, id: "mine" }),
    client.publish("t", "4", { retry: true, producer: "p", producerSequence: 1n }),
    client.publish("t", "5"),
    client.publishBatch([{ topic: "t", payload: "6" }, { topic: "t", payload: "7" }], { retry: true }),
  ];
  await settled();
  const names = (said: (Command | string)[]) =>
    (said as Command[]).flatMap((command) => (command.type === "publish" ? [command.id] : command.type === "publish_batch" ? command.messages.map(({ id }) => id) : []));
  const [one, two, three, four, five, six, seven] = names(transport.peer.heard());
  assert.deepEqual([three, four, five], ["mine", undefined, undefined]);
  const own = [one, two, six, seven];
  for (const id of own) assert.match(id ?? "", /^[0-9a-f]{32}$/);
  assert.equal(new Set(own).size, 4);
  await transport.peer.cut();
  await clock.advance(2_000);
  await transport.peer.greet();
  assert.deepEqual(names(transport.peer.heard()), [one, two, three, four, six, seven]);
  await client.close();
  await Promise.allSettled(publishing);
});

test("a request that nobody answers in time ends, also while the connection is away", async () => {
  const { client, transport, clock } = await connected();
  await loaded(client);
  await transport.peer.cut();
  const asking = assert.rejects(client.request("t", "?", { timeoutMs: 500 }), code("timeout", /request to "t" within 500 ms/));
  await settled();
  await clock.advance(500);
  await asking;
  await clock.advance(1_500);
  await transport.peer.greet();
  assert.deepEqual(transport.peer.heard(), [], "it is not sent any more");
});

test("waiting for an answer can be aborted, and leaves no timer", async () => {
  const { client, transport, clock } = await connected();
  await loaded(client);
  const timers = clock.pending.length;
  const controller = new AbortController();
  const asking = client.request("t", "?", { signal: controller.signal });
  await settled();
  assert.equal((transport.peer.heard()[0] as { timeoutMs: number }).timeoutMs, 30_000);
  assert.equal(clock.pending.length, timers + 1);
  controller.abort(new Error("no need"));
  await assert.rejects(asking, /no need/);
  await assert.rejects(client.request("t", "?", { signal: controller.signal }), /no need/);
  assert.equal(clock.pending.length, timers);
  assert.deepEqual(transport.peer.heard(), []);
});

test("what waits for its time is listed further when the last of a page waits no more", async () => {
  const { client, transport } = await connected();
  const listed: number[] = [];
  const listing = (async () => {
    for await (const { scheduleId } of client.scheduled({ filter: "#" })) listed.push(scheduleId);
  })();
  const answer = async (expected: number | undefined, reply: number[] | "gone", more = true) => {
    await settled();
    const [asked] = transport.peer.heard() as Extract<Command, { type: "list_scheduled" }>[];
    assert.equal(asked?.after, expected);
    const { request } = asked ?? { request: 0 };
    if (reply === "gone") transport.peer.reply({ type: "error", request, code: "unknown_schedule", message: "" });
    else transport.peer.reply({ type: "scheduled", request, scheduled: reply.map((scheduleId) => ({ scheduleId, topic: "t", deliverAt: 1, sizeBytes: 1 })), more });
  };
  // The lazily loaded module may take more than a few turns the first time.
  await until(() => transport.peer.said.length > 0);
  await answer(undefined, [1, 2]);
  await answer(2, "gone");
  await answer(1, [3, 4]);
  await answer(4, "gone");
  await answer(3, "gone");
  await answer(undefined, [1, 5], false);
  await listing;
  assert.deepEqual(listed, [1, 2, 3, 4, 5]);
});

/** What a client does now and then it has loaded. */
async function loaded(client: Client): Promise<void> {
  await assert.rejects(client.request("t", "?", { signal: AbortSignal.abort() }));
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

describe("with a broker", () => {
  const server = new Server();
  before(() => server.start());
  after(() => server.end());

  const open = (namespace: string): Promise<Client> => server.client(namespace);

  async function texts(client: Client, topic: string): Promise<string[]> {
    const read: string[] = [];
    for await (const message of client.history(topic)) read.push(message.text());
    return read;
  }

  async function take(deliveries: AsyncIterator<Delivery>): Promise<Delivery> {
    const { value } = await deliveries.next();
    return value as Delivery;
  }

  test("a message whose receipt was lost with the socket is sent again and stored once", async () => {
    const client = await open("once");
    await client.publish("t", "before");
    server.loseNext = true;
    const receipt = await client.publish("t", "once", { retry: true });
    assert.deepEqual([receipt.duplicate, receipt.offset], [true, 1n]);
    server.loseNext = true;
    const batch = await client.publishBatch([{ topic: "t", payload: "a" }, { topic: "t", payload: "b" }], { retry: true });
    assert.deepEqual(batch.map(({ duplicate }) => duplicate), [true, true]);
    assert.deepEqual(await texts(client, "t"), ["before", "once", "a", "b"]);
    // Where nothing is remembered it is stored again.
    await client.configureTopic("forgetful", { dedupMs: 0 });
    assert.equal((await client.describeTopic("forgetful")).dedupMs, 0);
    server.loseNext = true;
    assert.equal((await client.publish("forgetful", "twice", { retry: true })).duplicate, false);
    assert.deepEqual(await texts(client, "forgetful"), ["twice", "twice"]);
    await client.close();
  });

  test("a producer's sequence is stored once", async () => {
    const client = await open("producer");
    const publish = (producerSequence: bigint) => client.publish("t", "x", { producer: "till", producerSequence });
    assert.equal((await publish(2n ** 40n)).duplicate, false);
    assert.equal((await publish(2n ** 40n)).duplicate, true);
    await assert.rejects(publish(1n), code("invalid_argument", /producer/));
    await assert.rejects(client.publish("t", "x", { producer: "till" }), code("invalid_argument", /producer/));
    await client.close();
  });

  test("a message waits for its time, is listed, and can be taken back", async () => {
    const client = await open("later");
    const inbox = client.subscribe("t");
    await inbox.ready;
    const { scheduleId = 0 } = await client.publish("t", "never", { delayMs: 3_600_000, key: "k", id: "i" });
    const at = Date.now() + 7_200_000;
    const second = await client.publish("u/v", "later", { deliverAt: new Date(at) });
    const listed = [];
    for await (const message of client.scheduled()) listed.push(message);
    assert.deepEqual(listed.map((message) => message.topic), ["t", "u/v"]);
    assert.deepEqual([listed[0]?.scheduleId, listed[0]?.key, listed[0]?.id], [scheduleId, "k", "i"]);
    assert.equal(listed[1]?.deliverAt, at);
    for await (const message of client.scheduled({ filter: "u/#" })) assert.equal(message.scheduleId, second.scheduleId);
    await client.cancelScheduled(scheduleId);
    await assert.rejects(client.cancelScheduled(scheduleId), code("unknown_schedule", new RegExp(String(scheduleId))));
    await client.publish("t", "soon", { delayMs: 20 });
    const soon = await take(inbox);
    assert.equal(soon.text(), "soon");
    await assert.rejects(client.publish("t", "x", { delayMs: 1, deliverAt: 1 }), code("invalid_argument"));
    await client.close();
  });

  test("a request is answered once, or told at once that nobody hears it, or after its time that nobody answered", async () => {
    const [asking, answering] = [await open("ask"), await open("ask")];
    await assert.rejects(asking.request("time", "?"), code("no_responders", /"time"/));
    const inbox = answering.subscribe("time");
    await inbox.ready;
    const asked = asking.request("time", '"now"', { headers: [["h", "1"]], contentType: "application/json" });
    const request = await take(inbox);
    assert.deepEqual([request.expectsAnswer, request.json(), request.headers], [true, "now", [["h", "1"]]]);
    await request.respond('{"hour":12}', { contentType: "application/json", headers: [["zone", "UTC"]] });
    const answer = await asked;
    assert.deepEqual([answer.json(), answer.contentType, answer.headers], [{ hour: 12 }, "application/json", [["zone", "UTC"]]]);
    await assert.rejects(request.respond("again"), code("unknown_request", /answered/));
    await assert.rejects(request.respond(5 as never), code("invalid_argument", /the payload must be a string/));
    await assert.rejects(asking.request("time", "?", { timeoutMs: 2_000 }), code("timeout", /within 2000 ms/));
    assert.equal((await take(inbox)).text(), "?");
    await asking.publish("time", "no request");
    const plain = await take(inbox);
    assert.equal(plain.expectsAnswer, false);
    await assert.rejects(plain.respond("x"), code("unknown_request", /"time" partition 0 offset 2: it is no request/));
    const broken = asking.request("time", "?");
    await (await take(inbox)).respond("{");
    const unreadable = await broken;
    assert.throws(() => unreadable.json(), code("malformed_payload", /the answer from "time" is not JSON/));
    await Promise.all([asking.close(), answering.close()]);
  });

  test("a request whose connection ends is lost, and its answer goes to nobody", async () => {
    const [asking, answering] = [await open("cut"), await open("cut")];
    const inbox = answering.subscribe("q");
    await inbox.ready;
    const asked = asking.request("q", "?");
    const request = await take(inbox);
    const lost = assert.rejects(asked, code("connection_lost"));
    const away = new Promise<void>((resolve) => answering.on("state", ({ state }) => state === "reconnecting" && resolve()));
    server.cut();
    await Promise.all([lost, away]);
    await assert.rejects(request.respond("too late"), code("unknown_request"));
    await Promise.all([asking.close(), answering.close()]);
  });
});
