// Members of partitioned groups, with the real broker over real sockets.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import type { Owner } from "../ts/inbox.ts";
import type { Client, PartitionDelivery, PartitionedMember, PartitionedOptions, TopicPartition } from "../ts/types.ts";
import { code } from "./broker.ts";
import { Server } from "./server.ts";

const server = new Server();
before(() => server.start());
after(() => server.end());

/** Keys that lie in partition 1 and 0 of two. */
const KEYS = ["order-2", "order-1"] as const;

async function opened(namespace: string): Promise<Client> {
  const client = await server.client(namespace);
  await client.configureTopic("t", { ordering: "per_key", partitions: 2 });
  return client;
}

/** Publishes one message after the other, to partitions as the keys lead. */
async function publish(client: Client, ...payloads: string[]): Promise<void> {
  await client.publishBatch(payloads.map((payload, index) => ({ topic: "t", payload, key: KEYS[index % 2] as string })));
}

async function take(member: PartitionedMember, count: number): Promise<PartitionDelivery[]> {
  const taken: PartitionDelivery[] = [];
  while (taken.length < count) taken.push((await member.next()).value as PartitionDelivery);
  return taken;
}

const texts = (deliveries: readonly PartitionDelivery[]): string[] => deliveries.map((delivery) => delivery.text()).sort();

async function committed(client: Client): Promise<bigint> {
  return (await client.group("g").describe()).partitions.reduce((sum, { committedOffset }) => sum + committedOffset, 0n);
}

/** Waits for what nobody tells. */
async function until(holds: () => Promise<boolean> | boolean): Promise<void> {
  while (!(await holds())) await new Promise((resolve) => setTimeout(resolve, 5));
}

const places = (partitions: readonly TopicPartition[]): string => partitions.map(({ topic, partition }) => `${topic}/${partition}`).sort().join(" ");

test("one member has all partitions, each in order, and is told so", async () => {
  const client = await opened("one");
  await publish(client, "1", "2", "3", "4");
  const assigned: string[] = [];
  const member = client.group("g").joinPartitioned("t", { onAssigned: (partitions) => assigned.push(places(partitions)) });
  const taken = await take(member, 4);
  assert.deepEqual(texts(taken), ["1", "2", "3", "4"]);
  for (const partition of [0, 1]) {
    const offsets = taken.filter((delivery) => delivery.partition === partition).map(({ offset }) => offset);
    assert.deepEqual(offsets, [0n, 1n]);
  }
  assert.deepEqual([assigned, places(member.assignment), member.generation, member.member], [["t/0 t/1"], "t/0 t/1", 1, "member-1"]);
  await client.close();
});

test("what was processed is committed by itself, and after a break the delivery in hand comes again", async () => {
  const client = await opened("break");
  await publish(client, "1", "2", "3", "4");
  const seen: string[] = [];
  for await (const message of client.group("g").joinPartitioned("t", { commitEveryMs: 3_600_000 })) {
    seen.push(message.text());
    if (seen.length === 3) break;
  }
  // Left, and committed as far as the next one was asked for.
  assert.equal(await committed(client), 2n);
  assert.deepEqual((await client.group("g").describe()).members, []);
  for await (const message of client.group("g").joinPartitioned("t")) {
    seen.push(message.text());
    if (seen.length < 5) continue;
    await message.commit();
    break;
  }
  assert.equal(seen[3], seen[2], "the one that was in hand");
  assert.equal(await committed(client), 4n);
  await client.close();
});

test("an error in the loop commits what came before", async () => {
  const client = await opened("error");
  await publish(client, "1", "2");
  await assert.rejects(async () => {
    let seen = 0;
    for await (const message of client.group("g").joinPartitioned("t")) if ((seen += 1) === 2) throw new Error(`cannot do ${message.topic}`);
  }, /cannot do t/);
  assert.equal(await committed(client), 1n);
  await client.close();
});

test("it is committed after its time, or after many messages, without a close", async () => {
  const client = await opened("time");
  await publish(client, "1", "2", "3");
  const slow = client.group("g").joinPartitioned("t", { commitEveryMs: 3_600_000 });
  await take(slow, 3);
  await publish(client, ...Array.from({ length: 64 }, (_, index) => String(index)));
  await take(slow, 62);
  // 64 were done when the one that is in hand was asked for.
  await until(async () => (await committed(client)) === 64n);
  await slow.close();
  const fast = client.group("g").joinPartitioned("t", { commitEveryMs: 100 });
  await take(fast, 3);
  await until(async () => (await committed(client)) === 66n);
  await client.close();
});

test("by hand, only what is committed counts", async () => {
  const client = await opened("manual");
  await publish(client, "1", "2", "3", "4");
  const member = client.group("g").joinPartitioned("t", { commit: "manual" });
  const taken = await take(member, 4);
  const last = taken.filter(({ partition }) => partition === 0).at(-1) as PartitionDelivery;
  await member.commit([last]);
  assert.equal(await committed(client), 2n, "all before it in its partition too");
  await member.close();
  assert.equal(await committed(client), 2n);
  const again = client.group("g").joinPartitioned("t", { commit: "manual" });
  await take(again, 2);
  await again.commit();
  assert.equal(await committed(client), 4n);
  await assert.rejects(last.commit(), code("stale_generation", /partition 0 of topic "t" is not the member's any more/));
  await client.close();
});

test("a partition moves when its member is done with the delivery in hand, and nothing is lost or done twice", async () => {
  const client = await opened("moves");
  const other = await server.client("moves");
  await publish(client, "1", "2", "3", "4", "5", "6");
  const told: string[] = [];
  let release = (): void => {};
  const member = client.group("g").joinPartitioned("t", {
    commitEveryMs: 3_600_000,
    onRevoked: async (partitions) => {
      told.push(`asked for ${places(partitions)}`);
      await new Promise<void>((resolve) => (release = resolve));
      told.push("let go");
    },
  });
  const first = await take(member, 2);
  const inHand = first[1] as PartitionDelivery;
  const joined = other.group("g").joinPartitioned("t");
  await joined.ready;
  await until(() => member.assignment.length === 1);
  const moving = [0, 1].find((partition) => partition !== member.assignment[0]?.partition) ?? -1;
  if (inHand.partition === moving) {
    assert.deepEqual(told, [], "the program works on one of its messages");
  }
  const pending = member.next();
  await until(() => told.length === 1);
  assert.deepEqual(told, [`asked for t/${moving}`]);
  assert.deepEqual(joined.assignment, []);
  release();
  await until(() => joined.assignment.length === 1);
  assert.deepEqual([places(joined.assignment), told[1]], [`t/${moving}`, "let go"]);
  const { value } = await pending;
  const mine = [...first, value as PartitionDelivery].filter(({ partition }) => partition === moving).length;
  const rest = await take(joined, 3 - mine);
  assert.deepEqual(rest.map(({ partition, offset }) => `${partition} ${offset}`), [0, 1, 2].slice(mine).map((offset) => `${moving} ${offset}`));
  await Promise.all([client.close(), other.close()]);
});

test("the delivery that is worked on is waited for before its partition moves", async () => {
  const client = await opened("worked");
  const other = await server.client("worked");
  // Both partitions have a message, so that one of the two in hand belongs to the one that moves.
  await publish(client, "1", "2");
  const revoked: string[] = [];
  const members = [client.group("g"), client.group("h")].map((group) => group.joinPartitioned("t", { onRevoked: (partitions) => void revoked.push(`${group.name} ${places(partitions)}`) }));
  const hands = await Promise.all(members.map(async (member, index) => (await take(member, 1 + index)).at(-1) as PartitionDelivery));
  assert.notEqual(hands[0]?.partition, hands[1]?.partition, "the first of one and the second of the other");
  const joined = ["g", "h"].map((name) => other.group(name).joinPartitioned("t"));
  await Promise.all(joined.map(({ ready }) => ready));
  await until(() => members.every(({ assignment }) => assignment.length === 1));
  const moving = hands.findIndex((hand, index) => hand.partition !== members[index]?.assignment[0]?.partition);
  const staying = 1 - moving;
  await until(() => revoked.length === 1);
  assert.match(revoked[0] as string, new RegExp(`^${["g", "h"][staying]} `));
  assert.deepEqual(joined[moving]?.assignment, []);
  void members[moving]?.next();
  await until(() => joined[moving]?.assignment.length === 1);
  assert.equal(revoked.length, 2);
  await Promise.all([client.close(), other.close()]);
});

test("what the broker asks back meanwhile is not let go of by an answer to what it asked back before", async () => {
  const client = await opened("meanwhile");
  const others = await Promise.all([server.client("meanwhile"), server.client("meanwhile")]);
  await client.configureTopic("u", { ordering: "per_key", partitions: 6 });
  const member = client.group("g").joinPartitioned("u", { onRevoked: () => new Promise<void>(() => {}) });
  await member.ready;
  const joined = others[0].group("g").joinPartitioned("u");
  await until(() => member.assignment.length === 3);
  const first = member.generation;
  await others[1].group("g").joinPartitioned("u").ready;
  await until(() => member.assignment.length === 2);
  assert.ok(member.generation > first);
  // As if it had said so before it heard of the second.
  (client as unknown as Owner).connection.post({ type: "rebalanced", subscription: 1, generation: first });
  await until(() => joined.assignment.length > 0);
  const { members } = await client.group("g").describe();
  assert.equal(members[0]?.partitions, 3, "the fourth to let go of is still its own");
  await Promise.all([client, ...others].map((each) => each.close()));
});

test("after the connection was lost it has its partitions anew, from what was committed", async () => {
  const client = await opened("lost");
  await publish(client, "1", "2", "3", "4");
  const assigned: string[] = [];
  const member = client.group("g").joinPartitioned("t", { onAssigned: (partitions) => assigned.push(places(partitions)) });
  const before = await take(member, 3);
  await member.commit();
  const away = new Promise<void>((resolve) => client.on("state", ({ state }) => state === "reconnecting" && resolve()));
  server.cut();
  await away;
  assert.deepEqual(member.assignment, []);
  await assert.rejects((before[0] as PartitionDelivery).commit(), code("stale_generation"));
  const [again] = await take(member, 1);
  assert.deepEqual(texts([...before, again as PartitionDelivery]), ["1", "2", "3", "4"]);
  assert.deepEqual(assigned, ["t/0 t/1", "t/0 t/1"]);
  await client.close();
});

test("a reset is followed, and what was delivered of the old place counts for nothing", async () => {
  const client = await opened("reset");
  await publish(client, "1", "2", "3", "4");
  const member = client.group("g").joinPartitioned("t", { commitEveryMs: 3_600_000 });
  const before = await take(member, 4);
  await client.group("g").reset("earliest");
  const again = await take(member, 4);
  assert.deepEqual(texts(again), texts(before));
  await assert.rejects((before[3] as PartitionDelivery).commit(), code("stale_generation", /or was given to it anew/));
  await member.commit();
  assert.equal(await committed(client), 4n);
  await client.close();
});

test("a topic that was deleted does not hold up what is committed of others", async () => {
  const client = await opened("deleted");
  await client.publish("u", "x");
  await publish(client, "1");
  const member = client.group("g").joinPartitioned(["t", "u"], { commitEveryMs: 3_600_000 });
  await take(member, 2);
  const third = member.next();
  await client.deleteTopic("u");
  await member.close();
  assert.deepEqual(await third, { value: undefined, done: true });
  assert.equal(await committed(client), 1n);
  await client.close();
});

test("credit is given back, so that more than a window comes through", async () => {
  const client = await opened("credit");
  const member = client.group("g").joinPartitioned("t", { credit: 4 });
  await publish(client, ...Array.from({ length: 50 }, (_, index) => String(index)));
  assert.equal((await take(member, 50)).length, 50);
  await client.close();
});

test("retention that took messages is told in its place", async () => {
  const client = await server.client("gap");
  await client.configureTopic("t", { maxMessages: 2, partitions: 1, ordering: "per_key" });
  const gaps: string[] = [];
  const member = client.group("g").joinPartitioned("t", { credit: 1, onGap: ({ reason, fromOffset, toOffset }) => gaps.push(`${reason} ${fromOffset} ${toOffset}`) });
  await member.ready;
  for (let index = 0; index < 6; index += 1) await client.publish("t", String(index));
  const taken = await take(member, 3);
  assert.deepEqual([taken.map((delivery) => delivery.text()), gaps], [["0", "4", "5"], ["trimmed 1 4"]]);
  await client.close();
});

test("an error of the program's own callbacks ends the member", async () => {
  const client = await opened("callbacks");
  const wrong = client.group("g").joinPartitioned("t", {
    onAssigned: () => {
      throw new Error("cannot begin");
    },
  });
  await assert.rejects(wrong.next(), /cannot begin/);
  await until(async () => (await client.group("g").describe()).members.length === 0);
  await client.close();
});

test("wrong options are refused by name", async () => {
  const client = await opened("wrong");
  await publish(client, "1");
  const wrong: [Partial<Record<keyof PartitionedOptions, unknown>>, RegExp][] = [
    [{ credit: 0 }, /credit must be an integer from 1/],
    [{ credit: 0.5 }, /credit must be an integer from 1/],
    [{ commit: "never" }, /commit must be "auto" or "manual", not "never"/],
    [{ commitEveryMs: 0 }, /commitEveryMs must be an integer from 1 on, not 0/],
    [{ strategy: "luck" }, /"strategy" must be/],
    [{ strategy: 5 }, /strategy must be a string/],
    [{ from: "yesterday" }, /from|yesterday/],
    [{ member: "" }, /name of a member/],
  ];
  for (const [options, message] of wrong) {
    const member = client.group("g").joinPartitioned("t", options as never);
    await assert.rejects(member.ready, code("invalid_argument", message), String(message));
    await assert.rejects(member.next(), code("invalid_argument", message));
    await member.close();
  }
  const member = client.group("g").joinPartitioned("t");
  const [delivery] = await take(member, 1);
  await assert.rejects(member.commit(delivery as never), code("invalid_argument", /give a list of deliveries/));
  await assert.rejects(member.commit([{} as never]), code("invalid_argument", /only deliveries of a partitioned group/));
  await member.commit([]);
  await client.close();
});
