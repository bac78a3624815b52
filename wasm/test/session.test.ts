// The session of a device as its client sees it, against a broker that the test plays.
import assert from "node:assert/strict";
import { test } from "node:test";

import { TransportClient } from "../ts/client.ts";
import type { Command, Reply } from "../ts/frames.ts";
import type { Client, Delivery, Gap, Subscription } from "../ts/types.ts";
import { Clock, FakeTransport, code, connected, delivery } from "./broker.ts";
import { settled } from "./fakes.ts";

interface World {
  readonly client: Client;
  readonly transport: FakeTransport;
  readonly clock: Clock;
}

function heard<T extends Command["type"][]>({ transport }: Pick<World, "transport">, ...types: T): Extract<Command, { request: number }>[] {
  const said = transport.peer.heard() as Extract<Command, { request: number }>[];
  assert.deepEqual(said.map(({ type }) => type), types);
  return said;
}

function session(request: number, resumed: boolean, token = "S"): Reply {
  return { type: "session", request, token, resumed, expiresMs: 1_000, filters: [{ filter: "t", waiting: 3 }] };
}

/** Waits until the client has connected, which it does once it has loaded what sessions need. */
async function attempt(transport: FakeTransport): Promise<void> {
  while (transport.peers.length === 0) await settled();
}

async function opened(): Promise<World> {
  const [transport, clock] = [new FakeTransport(), new Clock()];
  const opening = TransportClient.open(transport, clock, { session: true });
  await attempt(transport);
  await transport.peer.greet();
  const [open] = heard({ transport }, "open_session");
  transport.peer.reply(session(open?.request ?? 0, false));
  return { client: await opening, transport, clock };
}

/** Takes the subscription on the present link; what it was asked with. */
async function accept({ transport }: World, subscribe: Command | undefined, token: string, sequence: bigint): Promise<string | undefined> {
  assert.ok(subscribe?.type === "subscribe");
  transport.peer.reply({ type: "subscribed", request: subscribe.request, subscription: subscribe.subscription, token, sequence });
  await settled();
  return subscribe.from;
}

async function subscribed(onGap?: (gap: Gap) => void): Promise<World & { readonly inbox: Subscription }> {
  const world = await opened();
  const inbox = world.client.subscribe("t", { session: true, ...(onGap && { onGap }) });
  await settled();
  const [subscribe] = heard(world, "subscribe");
  assert.equal(await accept(world, subscribe, "T1", 0n), "session");
  return { ...world, inbox };
}

/** Takes so many deliveries; the program is done with all but the last. */
async function take(inbox: Subscription, count: number): Promise<string[]> {
  const texts: string[] = [];
  while (texts.length < count) texts.push(((await inbox.next()).value as Delivery).text());
  return texts;
}

async function reconnected({ transport, clock }: World): Promise<void> {
  await transport.peer.cut();
  await clock.advance(clock.pending[0] ?? 0);
  await transport.peer.greet();
}

/** What was acknowledged since the last time; the broker has heard it. */
function acknowledged({ transport }: World): bigint[] {
  const acks = transport.peer.heard() as Extract<Command, { type: "ack_session" }>[];
  for (const { type, request } of acks) {
    assert.equal(type, "ack_session");
    transport.peer.reply({ type: "ok", request });
  }
  return acks.map(({ sequence }) => sequence);
}

test("the session is opened before the client is, and again on every link, in front of its subscriptions", async () => {
  const world = await subscribed();
  const { client, transport, inbox } = world;
  assert.deepEqual(client.session, { resumed: false, expiresMs: 1_000, filters: [{ filter: "t", waiting: 3 }] });
  transport.peer.reply(delivery(1, 1), delivery(1, 2));
  assert.deepEqual(await take(inbox, 1), ["m1"]);
  await reconnected(world);
  const [open, subscribe] = heard(world, "open_session", "subscribe");
  assert.equal((open as { token?: string }).token, "S");
  transport.peer.reply(session(open?.request ?? 0, true));
  // Nothing comes again that the client has, taken or not.
  assert.equal(await accept(world, subscribe, "T2", 2n), "session:T1:2");
  assert.equal(client.session?.resumed, true);
  transport.peer.reply(delivery(1, 3));
  assert.deepEqual(await take(inbox, 2), ["m2", "m3"]);
});

test("a message is acknowledged when the program asks for the next one, once a second", async () => {
  const world = await subscribed();
  world.transport.peer.reply(...[1, 2, 3, 4].map((sequence) => delivery(1, sequence)));
  await take(world.inbox, 3);
  await settled();
  assert.deepEqual(acknowledged(world), []);
  await world.clock.advance(1_000);
  assert.deepEqual(acknowledged(world), [2n]);
  await world.clock.advance(10_000);
  assert.deepEqual(acknowledged(world), [], "nothing new was taken");
  await take(world.inbox, 1);
  const waiting = world.inbox.next();
  await world.clock.advance(999);
  assert.deepEqual(acknowledged(world), []);
  await world.clock.advance(1);
  assert.deepEqual(acknowledged(world), [4n]);
  world.transport.peer.reply(delivery(1, 5));
  await waiting;
});

test("64 messages are acknowledged at once", async () => {
  const world = await subscribed();
  for (let sequence = 1; sequence <= 66; sequence += 1) world.transport.peer.reply(delivery(1, sequence));
  await take(world.inbox, 64);
  await settled();
  assert.deepEqual(acknowledged(world), []);
  await take(world.inbox, 1);
  await settled();
  assert.deepEqual(acknowledged(world), [64n]);
});

test("what the broker did not hear is acknowledged once the subscription has begun again", async () => {
  const world = await subscribed();
  world.transport.peer.reply(delivery(1, 1), delivery(1, 2));
  await take(world.inbox, 2);
  await world.clock.advance(1_000);
  heard(world, "ack_session");
  await reconnected(world);
  const [open, subscribe] = heard(world, "open_session", "subscribe");
  await world.clock.advance(1_000);
  heard(world);
  world.transport.peer.reply(session(open?.request ?? 0, true));
  await accept(world, subscribe, "T2", 2n);
  await world.clock.advance(1_000);
  assert.deepEqual(acknowledged(world), [1n]);
});

test("a client that closes acknowledges what was taken, and waits a second at most", async () => {
  for (const answers of [true, false]) {
    const world = await subscribed();
    world.transport.peer.reply(delivery(1, 1));
    await take(world.inbox, 1);
    const waiting = world.inbox.next();
    const closing = world.client.close();
    await settled();
    if (answers) assert.deepEqual(acknowledged(world), [1n]);
    else await world.clock.advance(1_000);
    await closing;
    assert.equal(world.client.state, "closed");
    assert.equal((await waiting).done, true);
    assert.deepEqual(world.clock.pending, []);
  }
});

test("messages that were passed over count as taken when the program was told", async () => {
  const gaps: string[] = [];
  const world = await subscribed(({ reason, count }) => gaps.push(`${reason} ${count}`));
  world.transport.peer.reply(delivery(1, 1), { type: "gap", subscription: 1, reason: "mailbox_full", after: 1n, to: 9n, count: 8 }, delivery(1, 10));
  await take(world.inbox, 1);
  await world.clock.advance(1_000);
  assert.deepEqual([acknowledged(world), gaps], [[], []]);
  await take(world.inbox, 1);
  await world.clock.advance(1_000);
  assert.deepEqual([acknowledged(world), gaps], [[9n], ["mailbox_full 8"]]);
});

test("what a crash took back is not acknowledged under its old numbers", async () => {
  const world = await subscribed();
  world.transport.peer.reply(...[1, 2, 3].map((sequence) => delivery(1, sequence)));
  await take(world.inbox, 3);
  const waiting = world.inbox.next();
  world.transport.peer.reply({ type: "gap", subscription: 1, reason: "truncated", after: 1n, to: 3n });
  await world.clock.advance(1_000);
  assert.deepEqual(acknowledged(world), []);
  world.transport.peer.reply(delivery(1, 2, "another"));
  assert.equal((await waiting).value?.text(), "another");
  const next = world.inbox.next();
  await world.clock.advance(1_000);
  assert.deepEqual(acknowledged(world), [2n]);
  world.transport.peer.reply(delivery(1, 3));
  await next;
});

test("a broker that was restored under an open socket is not told to end what the session hears", async () => {
  const world = await subscribed();
  world.transport.peer.reply(delivery(1, 1), { type: "resync" });
  await settled();
  const [open, subscribe] = heard(world, "open_session", "subscribe");
  world.transport.peer.reply({ type: "error", request: open?.request ?? 0, code: "out_of_state", message: "it is open" });
  assert.equal(await accept(world, subscribe, "T2", 1n), "session:T1:1");
  assert.equal(world.client.state, "open");
});

test("a session that is refused for good ends the client, and one that may be had later is tried for later", async () => {
  const [transport, clock] = [new FakeTransport(), new Clock()];
  const opening = TransportClient.open(transport, clock, { session: true });
  await attempt(transport);
  await transport.peer.greet();
  const [open] = heard({ transport }, "open_session");
  transport.peer.reply({ type: "error", request: open?.request ?? 0, code: "invalid_argument", message: "a session is a user's and a device's" });
  await assert.rejects(opening, code("invalid_argument", /a user's and a device's/));
  assert.deepEqual(clock.pending, []);

  const world = await subscribed();
  await reconnected(world);
  const [again] = heard(world, "open_session", "subscribe");
  world.transport.peer.reply({ type: "error", request: again?.request ?? 0, code: "storage_unavailable", message: "not now" });
  await settled();
  assert.equal(world.client.state, "reconnecting");
  await world.clock.advance(world.clock.pending[0] ?? 0);
  await world.transport.peer.greet();
  const [third] = heard(world, "open_session", "subscribe");
  world.transport.peer.reply({ type: "error", request: third?.request ?? 0, code: "forbidden", message: "not you" });
  await assert.rejects(world.inbox.next(), code("forbidden", /not you/));
  assert.equal(world.client.state, "closed");
});

test("who is taken over by another connection of the device ends", async () => {
  const world = await subscribed();
  await world.transport.peer.cut(4008, "session_replaced: another connection of the device has opened its session");
  await assert.rejects(world.inbox.next(), code("session_replaced"));
  assert.equal(world.client.state, "closed");
});

test("who logs out has no session any more", async () => {
  const world = await subscribed();
  const other = world.client.subscribe("u");
  await settled();
  heard(world, "subscribe");
  world.transport.peer.reply(delivery(1, 1), delivery(1, 2), delivery(1, 3));
  await take(world.inbox, 2);
  const ending = world.client.endSession();
  while (world.transport.peer.said.length === 0) await settled();
  const [end] = heard(world, "end_session");
  world.transport.peer.reply({ type: "ok", request: end?.request ?? 0 });
  await ending;
  // What is here can still be taken, and nobody is told.
  assert.deepEqual(await take(world.inbox, 1), ["m3"]);
  assert.equal((await world.inbox.next()).done, true);
  await world.clock.advance(1_000);
  heard(world);
  assert.equal(world.client.session, undefined);
  await reconnected(world);
  assert.deepEqual((heard(world, "subscribe") as { filter?: string }[]).map(({ filter }) => filter), ["u"]);
  assert.throws(() => world.client.subscribe("t", { session: true }), code("invalid_argument", /has no session/));
  await world.client.close();
  assert.equal((await other.next()).done, true);
});

test("what does not go with a session is refused", async () => {
  const { client } = await connected();
  assert.throws(() => client.subscribe("t", { session: true }), code("invalid_argument", /connect with the option session/));
  const world = await opened();
  for (const wrong of [{ from: "earliest" }, { partition: 0 }] as const) {
    assert.throws(() => world.client.subscribe("t", { ...wrong, session: true }), code("invalid_argument", /leave out from and partition/));
  }
});
