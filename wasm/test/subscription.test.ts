import assert from "node:assert/strict";
import { test } from "node:test";

import type { DunlinError } from "../ts/errors.ts";
import type { Command } from "../ts/frames.ts";
import type { Client, Delivery, Gap, SubscribeOptions, Subscription } from "../ts/types.ts";
import { connected, delivery } from "./broker.ts";
import type { Clock, FakeTransport } from "./broker.ts";
import { settled } from "./fakes.ts";

interface Subscribed {
  client: Client;
  transport: FakeTransport;
  clock: Clock;
  subscription: Subscription;
}

/** A subscription that the broker has taken, after sequence 10. */
async function subscribed(options: SubscribeOptions = {}): Promise<Subscribed> {
  const { client, transport, clock } = await connected();
  const subscription = client.subscribe("t/#", options);
  await settled();
  accept(transport, "T1", 10n);
  await subscription.ready;
  return { client, transport, clock, subscription };
}

/** Answers the one subscribe that was said. */
function accept(transport: FakeTransport, token: string, sequence: bigint): Extract<Command, { type: "subscribe" }> {
  const asked = transport.peer.heard().filter((said) => typeof said !== "string" && said.type === "subscribe");
  assert.equal(asked.length, 1);
  const command = asked[0] as Extract<Command, { type: "subscribe" }>;
  transport.peer.reply({ type: "subscribed", request: command.request, subscription: command.subscription, token, sequence });
  return command;
}

async function take(subscription: Subscription, count: number): Promise<Delivery[]> {
  const taken: Delivery[] = [];
  for (let index = 0; index < count; index += 1) taken.push((await subscription.next()).value as Delivery);
  return taken;
}

/** Reconnects after the link was cut, the first or the second time. */
async function reconnected({ transport, clock }: Subscribed): Promise<void> {
  await transport.peer.cut();
  await clock.advance(2_000);
  await transport.peer.greet();
}

test("a subscribe carries its options, and ready waits for the broker", async () => {
  const { client, transport } = await connected();
  const subscription = client.subscribe("a/+", { from: "last:5", credit: 7, onLag: "block", lagMax: 9, partition: 2 });
  await settled();
  assert.deepEqual(transport.peer.heard(), [
    { type: "subscribe", request: 1, subscription: 1, filter: "a/+", from: "last:5", credit: 7, onLag: "block", lagMax: 9, partition: 2 },
  ]);
  transport.peer.reply({ type: "subscribed", request: 1, subscription: 1, token: "T", sequence: 4n });
  await subscription.ready;
  assert.equal(subscription.position, "resume:T:4");
});

test("deliveries are taken in order, and carry the position after them", async () => {
  const { transport, subscription } = await subscribed();
  transport.peer.reply(delivery(1, 11), delivery(1, 12));
  const [first, second] = await take(subscription, 2);
  assert.deepEqual([first?.text(), second?.text()], ["m11", "m12"]);
  assert.deepEqual([first?.position, subscription.position], ["resume:T1:11", "resume:T1:12"]);
});

test("deliveries in the same message as the answer carry its token", async () => {
  const { client, transport } = await connected();
  const subscription = client.subscribe("t");
  await settled();
  transport.peer.reply({ type: "subscribed", request: 1, subscription: 1, token: "T", sequence: 0n }, delivery(1, 1));
  assert.equal((await take(subscription, 1))[0]?.position, "resume:T:1");
});

test("credit is given back by halves of the window as the program takes", async () => {
  const { transport, subscription } = await subscribed({ credit: 4 });
  transport.peer.reply(delivery(1, 11), delivery(1, 12), delivery(1, 13), delivery(1, 14));
  await take(subscription, 1);
  await settled();
  assert.deepEqual(transport.peer.heard(), []);
  await take(subscription, 2);
  await settled();
  assert.deepEqual(transport.peer.heard(), [{ type: "credit", subscription: 1, messages: 2 }]);
});

test("after the link was lost the subscription goes on after its last delivery, with the credit that is left", async () => {
  const world = await subscribed({ from: "earliest", credit: 4 });
  world.transport.peer.reply(delivery(1, 11), delivery(1, 12), delivery(1, 13));
  await take(world.subscription, 1);
  await reconnected(world);
  const { from, credit } = accept(world.transport, "T2", 13n);
  assert.deepEqual([from, credit], ["resume:T1:13", 2]);
  // The broker says 13 again: it was shown already. 14 is new.
  world.transport.peer.reply(delivery(1, 13), delivery(1, 14));
  const taken = await take(world.subscription, 3);
  assert.deepEqual(taken.map(({ position }) => position), ["resume:T1:12", "resume:T1:13", "resume:T2:14"]);
});

test("a subscription that was never delivered to goes on from where it began", async () => {
  const world = await subscribed({ from: "latest" });
  await reconnected(world);
  assert.equal(accept(world.transport, "T2", 10n).from, "resume:T1:10");
});

test("a subscription that was not taken yet is asked for as at first", async () => {
  const { client, transport, clock } = await connected();
  const subscription = client.subscribe("t", { from: "earliest" });
  await settled();
  await transport.peer.cut();
  await clock.advance(1_000);
  await transport.peer.greet();
  assert.equal(accept(transport, "T", 0n).from, "earliest");
  await subscription.ready;
});

test("subscriptions go before the commands that waited", async () => {
  const { client, transport, clock } = await connected();
  await transport.peer.cut();
  client.subscribe("t");
  const publishing = client.publish("t", "x");
  await clock.advance(1_000);
  await transport.peer.greet();
  assert.deepEqual(transport.peer.heard().map((said) => (said as Command).type), ["subscribe", "publish"]);
  await client.close();
  await Promise.allSettled([publishing]);
});

test("a broker that lost messages goes on below what was delivered, and nothing of it is dropped", async () => {
  const world = await subscribed();
  const gaps: Gap[] = [];
  world.transport.peer.reply(delivery(1, 11), delivery(1, 12));
  await take(world.subscription, 2);
  await reconnected(world);
  accept(world.transport, "T2", 3n);
  world.transport.peer.reply(delivery(1, 4));
  assert.deepEqual((await take(world.subscription, 1)).map(({ sequence }) => sequence), [4n]);
  assert.equal(world.subscription.position, "resume:T2:4");
  assert.deepEqual(gaps, []);
});

test("after a truncation the numbers that a crash took back are heard again for other messages", async () => {
  const gaps: Gap[] = [];
  const world = await subscribed({ onGap: (gap) => gaps.push(gap) });
  world.transport.peer.reply(delivery(1, 11), delivery(1, 12));
  await take(world.subscription, 2);
  await reconnected(world);
  assert.equal(accept(world.transport, "T2", 12n).from, "resume:T1:12");
  world.transport.peer.reply({ type: "gap", subscription: 1, reason: "truncated", after: 11n, to: 12n }, delivery(1, 12, "another"));
  assert.deepEqual((await take(world.subscription, 1)).map((message) => message.text()), ["another"]);
  assert.deepEqual(gaps.map(({ reason }) => reason), ["truncated"]);
  await reconnected(world);
  assert.equal(accept(world.transport, "T3", 12n).from, "resume:T2:12");
});

test("on resync every subscription is asked for again on the same link, and commands without an answer are lost", async () => {
  const { client, transport, subscription } = await subscribed();
  transport.peer.reply(delivery(1, 11));
  const publishing = client.publish("t", "x");
  await settled();
  transport.peer.heard();
  transport.peer.reply({ type: "resync" });
  await assert.rejects(publishing, (error: DunlinError) => error.code === "connection_lost");
  await settled();
  const said = transport.peer.heard() as Command[];
  assert.deepEqual(said.map(({ type }) => type), ["unsubscribe", "subscribe"]);
  assert.equal((said[1] as { from?: string }).from, "resume:T1:11");
  // The broker does not know the old one; that is no news.
  const [forgotten, asked] = said as { request: number }[];
  transport.peer.reply(
    { type: "error", request: forgotten?.request ?? 0, code: "unknown_subscription", message: "" },
    { type: "subscribed", request: asked?.request ?? 0, subscription: 1, token: "T2", sequence: 11n },
    delivery(1, 12),
  );
  assert.deepEqual((await take(subscription, 2)).map(({ sequence }) => sequence), [11n, 12n]);
  assert.equal(client.state, "open");
});

test("gaps are told in their place between deliveries", async () => {
  const told: string[] = [];
  const { transport, subscription } = await subscribed({ onGap: (gap) => told.push(`${gap.reason} ${gap.after}-${gap.to} ${gap.count}`) });
  transport.peer.reply(delivery(1, 11), { type: "gap", subscription: 1, reason: "dropped", after: 11n, to: 20n, count: 9 }, delivery(1, 21));
  await take(subscription, 1);
  assert.deepEqual(told, []);
  await take(subscription, 1);
  assert.deepEqual(told, ["dropped 11-20 9"]);
  const waiting = subscription.next();
  transport.peer.reply({ type: "gap", subscription: 1, reason: "trimmed", after: 21n, to: 30n });
  assert.equal(told.at(-1), "trimmed 21-30 undefined");
  transport.peer.reply(delivery(1, 31));
  assert.equal((await waiting).value?.sequence, 31n);
});

test("a gap at the end is part of what was heard", async () => {
  const world = await subscribed();
  world.transport.peer.reply({ type: "gap", subscription: 1, reason: "dropped", after: 10n, to: 20n });
  await reconnected(world);
  assert.equal(accept(world.transport, "T2", 20n).from, "resume:T1:20");
});

test("a mistake in onGap is thrown by the iteration", async () => {
  const { transport, subscription } = await subscribed({
    onGap() {
      throw new Error("in onGap");
    },
  });
  const waiting = subscription.next();
  transport.peer.reply({ type: "gap", subscription: 1, reason: "trimmed", after: 10n, to: 30n });
  await assert.rejects(waiting, /in onGap/);
});

test("leaving the loop unsubscribes, and later deliveries are ignored", async () => {
  const { transport, subscription } = await subscribed();
  transport.peer.reply(delivery(1, 11), delivery(1, 12));
  const loop = (async () => {
    for await (const message of subscription) {
      assert.equal(message.text(), "m11");
      break;
    }
  })();
  await settled();
  assert.deepEqual(transport.peer.heard(), [{ type: "unsubscribe", request: 2, subscription: 1 }]);
  transport.peer.reply(delivery(1, 13), { type: "ok", request: 2 });
  await loop;
  assert.deepEqual(await subscription.next(), { value: undefined, done: true });
});

test("await using unsubscribes", async () => {
  const { transport, subscription } = await subscribed();
  const leaving = subscription[Symbol.asyncDispose]();
  await settled();
  assert.deepEqual(transport.peer.heard(), [{ type: "unsubscribe", request: 2, subscription: 1 }]);
  transport.peer.reply({ type: "error", request: 2, code: "unknown_subscription", message: "" });
  await leaving;
});

test("closing ends a loop that waits, and does not wait for a link that is away", async () => {
  const { transport, subscription } = await subscribed();
  const waiting = subscription.next();
  await transport.peer.cut();
  await subscription.close();
  assert.equal((await waiting).done, true);
});

test("the signal unsubscribes, and its reason is thrown once", async () => {
  const controller = new AbortController();
  const { transport, subscription } = await subscribed({ signal: controller.signal });
  transport.peer.reply(delivery(1, 11));
  controller.abort(new Error("enough"));
  await settled();
  assert.deepEqual(transport.peer.heard(), [{ type: "unsubscribe", request: 2, subscription: 1 }]);
  await assert.rejects(subscription.next(), /enough/);
  assert.equal((await subscription.next()).done, true);
});

test("a signal that was aborted before asks for nothing", async () => {
  const { client, transport } = await connected();
  const subscription = client.subscribe("t", { signal: AbortSignal.abort(new Error("never")) });
  await settled();
  assert.deepEqual(transport.peer.heard(), []);
  await assert.rejects(subscription.ready, /never/);
  await assert.rejects(subscription.next(), /never/);
});

test("a refusal is told by ready and by the iteration", async () => {
  const { client, transport } = await connected();
  const subscription = client.subscribe("a/#/b");
  await settled();
  transport.peer.reply({ type: "error", request: 1, code: "invalid_filter", message: "# must be last" });
  for (const promise of [subscription.ready, subscription.next()]) {
    await assert.rejects(promise, (error: DunlinError) => error.code === "invalid_filter" && error.message === "# must be last");
  }
});

test("when the broker ends a subscription, what came before is taken first", async () => {
  const { transport, subscription } = await subscribed();
  transport.peer.reply(delivery(1, 11), { type: "ended", subscription: 1, code: "slow_consumer", message: "100 behind" });
  assert.equal((await take(subscription, 1))[0]?.text(), "m11");
  await assert.rejects(subscription.next(), (error: DunlinError) => error.code === "slow_consumer");
  assert.equal((await subscription.next()).done, true);
});

test("closing the client ends its subscriptions without an error", async () => {
  const { client, transport, subscription } = await subscribed();
  transport.peer.reply(delivery(1, 11));
  await client.close();
  assert.equal((await take(subscription, 1))[0]?.text(), "m11");
  assert.equal((await subscription.next()).done, true);
});

test("several may wait for deliveries at once", async () => {
  const { transport, subscription } = await subscribed();
  const waiting = [subscription.next(), subscription.next(), subscription.next()];
  transport.peer.reply(delivery(1, 11), delivery(1, 12), { type: "ended", subscription: 1, code: "x", message: "over" });
  const results = await Promise.allSettled(waiting);
  assert.deepEqual(results.map((result) => (result.status === "fulfilled" ? result.value.value?.sequence : result.reason.message)), [11n, 12n, "over"]);
});
