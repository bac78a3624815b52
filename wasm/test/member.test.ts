// What members say, to a broker that the test plays.
import assert from "node:assert/strict";
import { test } from "node:test";

import type { Command, Reply } from "../ts/frames.ts";
import type { Client, PartitionedMember, PartitionedOptions, QueueDelivery, QueueMember, QueueOptions } from "../ts/types.ts";
import { code, connected, delivery } from "./broker.ts";
import type { Clock, FakeTransport } from "./broker.ts";
import { settled } from "./fakes.ts";

interface World<M> {
  client: Client;
  transport: FakeTransport;
  clock: Clock;
  member: M;
}

/** The join that was said, once the module that says it is there. */
async function asked(transport: FakeTransport): Promise<Extract<Command, { type: "join" }>> {
  while (transport.peer.said.length === 0) await new Promise((resolve) => setImmediate(resolve));
  const [command, ...others] = transport.peer.heard() as Command[];
  assert.deepEqual([command?.type, others], ["join", []]);
  return command as Extract<Command, { type: "join" }>;
}

function accept(transport: FakeTransport, { request, subscription }: { request: number; subscription: number }, heartbeatMs = 60_000): void {
  transport.peer.reply({ type: "joined", request, subscription, member: "member-1", generation: 0, heartbeatMs });
}

async function queue(options: QueueOptions = {}, heartbeatMs?: number): Promise<World<QueueMember>> {
  const world = await connected();
  const member = world.client.group("g").joinQueue(["a", "b/#"], options);
  accept(world.transport, await asked(world.transport), heartbeatMs);
  await member.ready;
  return { ...world, member };
}

async function partitioned(options: PartitionedOptions = {}): Promise<World<PartitionedMember>> {
  const world = await connected();
  const member = world.client.group("g").joinPartitioned("t", options);
  accept(world.transport, await asked(world.transport));
  await member.ready;
  return { ...world, member };
}

function leased(...leases: number[]): Reply[] {
  return leases.map((lease) => ({ ...delivery(1, lease), lease, attempt: 1 }) as Reply);
}

function assignment(generation: number, assigned: number[], revoked: number[] = []): Reply {
  const positions = (partitions: number[]) => partitions.map((partition) => ({ topic: "t", partition, offset: 0n }));
  return { type: "assignment", subscription: 1, generation, assigned: positions(assigned), revoked: positions(revoked) };
}

function of(partition: number, offset: number): Reply {
  return { ...delivery(1, offset + 1), partition } as Reply;
}

async function take<T>(member: AsyncIterator<T>, count: number): Promise<T[]> {
  const taken: T[] = [];
  while (taken.length < count) taken.push((await member.next()).value as T);
  return taken;
}

test("a join carries its options", async () => {
  const { client, transport } = await connected();
  client.group("g").joinQueue(["a", "b/#"], { from: "latest", member: "me", maxInFlight: 3 });
  assert.deepEqual(await asked(transport), { type: "join", request: 1, subscription: 1, group: "g", filters: ["a", "b/#"], kind: "queue", from: "latest", member: "me", maxInFlight: 3 });
  client.group("h").joinPartitioned("t", { strategy: "range", credit: 9 });
  assert.deepEqual(await asked(transport), { type: "join", request: 2, subscription: 2, group: "h", filters: ["t"], kind: "partitioned", strategy: "range", credit: 9 });
  client.group("h").joinPartitioned("t");
  assert.equal((await asked(transport)).credit, 256);
});

test("what is settled in one turn leaves as one command for each verdict", async () => {
  const { transport, member } = await queue();
  transport.peer.reply(...leased(1, 2, 3, 4, 5, 6));
  const [one, two, three, four, five, six] = (await take(member, 6)) as [QueueDelivery, QueueDelivery, QueueDelivery, QueueDelivery, QueueDelivery, QueueDelivery];
  const settling = [one.ack(), two.nack({ delayMs: 5 }), three.ack(), four.nack({ delayMs: 5 }), five.nack(), six.reject({ reason: "no" })];
  await settled();
  const said = transport.peer.heard() as Extract<Command, { type: "ack" | "nack" | "reject" }>[];
  assert.deepEqual(
    said.map(({ request: _request, ...command }) => command),
    [
      { type: "ack", leases: [{ lease: 1 }, { lease: 3 }] },
      { type: "nack", leases: [{ lease: 2 }, { lease: 4 }], delayMs: 5 },
      { type: "nack", leases: [{ lease: 5 }] },
      { type: "reject", leases: [{ lease: 6 }], reason: "no" },
    ],
  );
  transport.peer.reply(...said.map(({ request }, index): Reply => ({ type: "settled", request, failed: index === 0 ? [{ lease: 3, code: "unknown_lease" }] : [] })));
  const results = await Promise.allSettled(settling);
  assert.deepEqual(results.map(({ status }) => status), ["fulfilled", "fulfilled", "rejected", "fulfilled", "fulfilled", "fulfilled"]);
});

test("acks that a loop does not wait for leave as one command", async () => {
  const { client, transport, member } = await queue();
  transport.peer.reply(...leased(1, 2, 3, 4, 5));
  const acks: Promise<void>[] = [];
  const loop = (async () => {
    for await (const job of member) acks.push(job.ack());
  })();
  await settled();
  const [ack, ...others] = transport.peer.heard() as Extract<Command, { type: "ack" }>[];
  assert.deepEqual([ack?.type, ack?.leases, others], ["ack", [1, 2, 3, 4, 5].map((lease) => ({ lease })), []]);
  transport.peer.reply({ type: "settled", request: ack?.request ?? 0, failed: [] });
  await Promise.all(acks);
  assert.equal(acks.length, 5);
  await client.close();
  await loop;
});

test("closing says that it leaves when the settlements under way are answered", async () => {
  const { transport, member } = await queue();
  transport.peer.reply(...leased(1));
  const [job] = (await take(member, 1)) as [QueueDelivery];
  const acking = job.ack();
  const closing = member.close();
  await settled();
  const [ack, ...others] = transport.peer.heard() as Extract<Command, { type: "ack" }>[];
  assert.deepEqual([ack?.type, others], ["ack", []]);
  transport.peer.reply({ type: "settled", request: ack?.request ?? 0, failed: [] });
  await acking;
  await settled();
  const [leaving] = transport.peer.heard() as Extract<Command, { type: "unsubscribe" }>[];
  assert.equal(leaving?.type, "unsubscribe");
  transport.peer.reply({ type: "ok", request: leaving.request });
  await closing;
});

test("who is leaving while the connection is lost does not join again", async () => {
  const { client, transport, clock, member } = await queue();
  transport.peer.reply(...leased(1, 2));
  const [first] = (await take(member, 1)) as [QueueDelivery];
  const lost = assert.rejects(first.ack(), code("connection_lost"));
  const closing = member.close();
  await settled();
  // A link that is back before the member has noticed.
  transport.peer.reply({ type: "resync" });
  await Promise.all([lost, settled()]);
  assert.deepEqual((transport.peer.heard() as Command[]).map(({ type }) => type), ["ack", "unsubscribe"]);
  await client.close();
  await closing;
  assert.deepEqual(clock.pending, []);
});

test("a settlement that waits for the connection is said after the member has joined again", async () => {
  const { transport, clock, member } = await queue({ member: "me" });
  transport.peer.reply(...leased(1));
  const [job] = (await take(member, 1)) as [QueueDelivery];
  await transport.peer.cut();
  const acking = job.ack();
  await clock.advance(2_000);
  await transport.peer.greet();
  const [join, ack] = transport.peer.heard() as [Extract<Command, { type: "join" }>, Extract<Command, { type: "ack" }>];
  assert.deepEqual([join.type, ack.type], ["join", "ack"]);
  transport.peer.reply({ type: "settled", request: ack.request, failed: [] });
  await acking;
});

test("a member says that it lives as often as the broker asks, and on the next link only if it is asked again", async () => {
  const { transport, clock } = await queue({}, 3_000);
  await clock.advance(9_500);
  assert.deepEqual(transport.peer.heard(), ["ping", "ping", "ping"]);
  await transport.peer.cut();
  await clock.advance(2_000);
  await transport.peer.greet();
  transport.peer.heard();
  await clock.advance(9_500);
  assert.deepEqual(transport.peer.heard(), []);
});

test("a broker that asks for a ping without end gets a hundred a second", async () => {
  const { transport, clock } = await queue({}, 0);
  await clock.advance(100);
  assert.equal(transport.peer.heard().length, 10);
});

test("who was a member tries again when joining is refused for what passes, and ends for what does not", async () => {
  const { transport, clock, member } = await queue();
  const refuse = (refused: string, retryAfterMs?: number): void => {
    const [asking] = transport.peer.heard() as { request: number }[];
    const request = asking?.request ?? 0;
    transport.peer.reply({ type: "error", request, code: refused, message: "not now", ...(retryAfterMs !== undefined && { retryAfterMs }) });
  };
  await transport.peer.cut();
  await clock.advance(2_000);
  await transport.peer.greet();
  refuse("storage_unavailable", 50);
  await settled();
  await clock.advance(50);
  refuse("busy");
  await settled();
  await clock.advance(999);
  assert.deepEqual(transport.peer.said, []);
  await clock.advance(1);
  refuse("forbidden");
  await assert.rejects(member.next(), code("forbidden"));
});

test("who never was a member is told what the broker refuses", async () => {
  const { client, transport } = await connected();
  const member = client.group("g").joinQueue("t");
  const { request } = await asked(transport);
  transport.peer.reply({ type: "error", request, code: "storage_unavailable", message: "not now" });
  await assert.rejects(member.ready, code("storage_unavailable"));
  await assert.rejects(member.next(), code("storage_unavailable"));
});

test("what waits of a partition that is given anew is not delivered any more", async () => {
  const { transport, member } = await partitioned();
  transport.peer.reply(assignment(1, [0, 1]), of(0, 5), of(1, 6), assignment(2, [0]), of(0, 0));
  const taken = (await take(member, 2)) as { partition: number; offset: bigint }[];
  assert.deepEqual(taken.map(({ partition, offset }) => `${partition} ${offset}`), ["1 6", "0 0"]);
});

test("what was processed is committed once in a while, under the newest generation", async () => {
  const { transport, clock, member } = await partitioned({ commitEveryMs: 500 });
  transport.peer.reply(assignment(3, [0, 1]), of(0, 0), of(1, 0), of(0, 1));
  await take(member, 3);
  await clock.advance(499);
  assert.deepEqual(transport.peer.heard(), []);
  transport.peer.reply(assignment(4, [2]));
  await clock.advance(1);
  const commit = (transport.peer.heard() as Extract<Command, { type: "commit" }>[])[0];
  assert.deepEqual(commit, { type: "commit", request: 2, subscription: 1, generation: 4, offsets: [{ topic: "t", partition: 0, offset: 1n }, { topic: "t", partition: 1, offset: 1n }] });
  transport.peer.reply({ type: "ok", request: 2 });
  await clock.advance(5_000);
  assert.deepEqual(transport.peer.heard(), [], "nothing is committed twice");
});

test("a partition that is another's does not hold up what is committed of the rest, and is no error of the loop", async () => {
  const { transport, clock, member } = await partitioned();
  transport.peer.reply(assignment(1, [0, 1]), of(0, 0), of(1, 0), of(1, 1));
  await take(member, 3);
  await clock.advance(1_000);
  const refuse = (request: number): void => transport.peer.reply({ type: "error", request, code: "stale_generation", message: "another's" });
  const said = (): [number, number[]][] => (transport.peer.heard() as Extract<Command, { type: "commit" }>[]).map(({ request, offsets }) => [request, offsets.map(({ partition }) => partition)]);
  assert.deepEqual(said(), [[2, [0, 1]]]);
  refuse(2);
  await settled();
  assert.deepEqual(said(), [[3, [0]]]);
  refuse(3);
  await settled();
  assert.deepEqual(said(), [[4, [1]]]);
  transport.peer.reply({ type: "ok", request: 4 }, of(1, 2));
  await take(member, 1);
  await clock.advance(1_000);
  assert.deepEqual(said(), [[5, [1]]]);
});

test("what is committed by hand of a partition that is another's rejects", async () => {
  const { transport, member } = await partitioned({ commit: "manual" });
  transport.peer.reply(assignment(1, [0]), of(0, 0));
  const [message] = await take(member, 1);
  const committing = (message as unknown as { commit(): Promise<void> }).commit();
  await settled();
  transport.peer.reply({ type: "error", request: 2, code: "stale_generation", message: "another's" });
  await assert.rejects(committing, code("stale_generation"));
});

test("what is asked back while it lets go of other partitions is let go of too, before it says so", async () => {
  const told: number[][] = [];
  const releases: (() => void)[] = [];
  const { transport, member } = await partitioned({
    onRevoked: (partitions) => {
      told.push(partitions.map(({ partition }) => partition));
      return new Promise((resolve) => releases.push(resolve));
    },
  });
  transport.peer.reply(assignment(1, [0, 1, 2]), of(0, 0), of(1, 0), of(2, 0));
  assert.equal((await take(member, 1))[0]?.partition, 0);
  transport.peer.reply(assignment(2, [], [1]), assignment(3, [], [0]));
  await settled();
  assert.deepEqual([told, member.assignment.map(({ partition }) => partition)], [[[1]], [2]]);
  assert.deepEqual((transport.peer.heard() as Command[]).map(({ type }) => type), ["credit"], "for what is dropped of partition 1");
  releases.shift()?.();
  await settled();
  assert.deepEqual([told, transport.peer.heard()], [[[1]], []], "the delivery in hand is of partition 0");
  // The buffered delivery of partition 1 is gone.
  assert.equal((await take(member, 1))[0]?.partition, 2);
  await settled();
  assert.deepEqual(told, [[1], [0]]);
  releases.shift()?.();
  await settled();
  const commit = (transport.peer.heard() as Extract<Command, { type: "commit" }>[])[0];
  assert.deepEqual(commit?.offsets, [{ topic: "t", partition: 0, offset: 1n }]);
  transport.peer.reply({ type: "ok", request: commit?.request ?? 0 });
  await settled();
  assert.deepEqual(transport.peer.heard(), [{ type: "rebalanced", subscription: 1, generation: 3 }]);
});

test("what an earlier stay was to let go of is not let go of in the next", async () => {
  let release = (): void => {};
  const { transport, clock } = await partitioned({ onRevoked: () => new Promise((resolve) => (release = resolve)) });
  transport.peer.reply(assignment(1, [0]), assignment(2, [], [0]));
  await settled();
  await transport.peer.cut();
  await clock.advance(2_000);
  await transport.peer.greet();
  accept(transport, await asked(transport));
  transport.peer.reply(assignment(5, [0]));
  release();
  await settled();
  assert.deepEqual(transport.peer.heard(), []);
});

test("an error of onRevoked ends the member, which leaves", async () => {
  const { transport, member } = await partitioned({ onRevoked: () => Promise.reject(new Error("cannot save")) });
  transport.peer.reply(assignment(1, [0]), assignment(2, [], [0]));
  await assert.rejects(member.next(), /cannot save/);
  await settled();
  assert.deepEqual((transport.peer.heard() as Command[]).map(({ type }) => type), ["unsubscribe"]);
});

test("credit is given back for what is taken and for what is dropped", async () => {
  const { transport, member } = await partitioned({ credit: 4 });
  transport.peer.reply(assignment(1, [0, 1]), of(0, 0), of(0, 1), of(0, 2), of(1, 0));
  await take(member, 2);
  await settled();
  assert.deepEqual(transport.peer.heard(), [{ type: "credit", subscription: 1, messages: 2 }]);
  // One of partition 0 waits in the client, and one is on its way.
  transport.peer.reply(assignment(2, [], [0]), of(0, 3));
  await settled();
  assert.deepEqual(transport.peer.heard(), [
    { type: "credit", subscription: 1, messages: 1 },
    { type: "credit", subscription: 1, messages: 1 },
  ]);
});

test("a member that is closed before it could join asks for nothing", async () => {
  const { client, transport } = await connected();
  const member = client.group("g").joinQueue("t", { signal: AbortSignal.abort(new Error("never")) });
  await assert.rejects(member.next(), /never/);
  assert.deepEqual(transport.peer.heard(), []);
});
