// Members of queues, with the real broker over real sockets.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import type { Client, QueueDelivery, QueueMember, QueueOptions } from "../ts/types.ts";
import { code } from "./broker.ts";
import { Server } from "./server.ts";

const server = new Server();
before(() => server.start('{"session_ms":60000}'));
after(() => server.end());

/** A client of a namespace of its own with a topic "jobs" that keeps no order. */
async function opened(namespace: string, payloads: readonly string[] = []): Promise<Client> {
  const client = await server.client(namespace);
  await client.configureTopic("jobs", { ordering: "none" });
  await publish(client, payloads);
  return client;
}

async function publish(client: Client, payloads: readonly string[]): Promise<void> {
  if (payloads.length > 0) await client.publishBatch(payloads.map((payload) => ({ topic: "jobs", payload })));
}

async function take(member: QueueMember, count: number): Promise<QueueDelivery[]> {
  const taken: QueueDelivery[] = [];
  while (taken.length < count) taken.push((await member.next()).value as QueueDelivery);
  return taken;
}

const texts = (deliveries: readonly QueueDelivery[]): string[] => deliveries.map((delivery) => delivery.text());

async function lag(client: Client, group = "g"): Promise<number> {
  return (await client.group(group).describe()).partitions.reduce((sum, partition) => sum + partition.lag, 0);
}

/** Resolves at the next change to that state. */
function state(client: Client, wanted: string): Promise<void> {
  return new Promise((resolve) => {
    const stop = client.on("state", (change) => {
      if (change.state === wanted) resolve(stop());
    });
  });
}

test("messages are delivered under leases, and settled in every way", async () => {
  const client = await opened("settled", ["a", "b", "c", "d"]);
  const group = client.group("g");
  const member = group.joinQueue("jobs");
  assert.deepEqual([member.group, member.member], ["g", undefined]);
  await member.ready;
  assert.equal(member.member, "member-1");
  const [a, b, c, d] = (await take(member, 4)) as [QueueDelivery, QueueDelivery, QueueDelivery, QueueDelivery];
  assert.deepEqual([a.topic, a.offset, a.attempt, a.expectsAnswer], ["jobs", 0n, 1, false]);
  await Promise.all([a.ack(), b.nack({ delayMs: 0 }), c.reject({ reason: "not wanted" }), d.extend({ extendMs: 60_000 })]);
  const [again] = (await take(member, 1)) as [QueueDelivery];
  assert.deepEqual([again.text(), again.attempt], ["b", 2]);
  await assert.rejects(a.ack(), code("unknown_lease", /the lease of "jobs" partition 0 offset 0 ended/));
  await assert.rejects(b.nack(), code("unknown_lease"));
  const failed = await member.ack([a, again, d]);
  assert.deepEqual(failed, [{ delivery: a, code: "unknown_lease" }]);
  assert.equal(await lag(client), 0);
  assert.equal((await group.describe()).deadLetters, 1);
  await member.close();
  await client.close();
});

test("two members share the messages, and what one has when it leaves goes to the other", async () => {
  const client = await opened("two");
  const other = await server.client("two");
  const members = [client.group("g").joinQueue("jobs", { maxInFlight: 2 }), other.group("g").joinQueue("jobs", { maxInFlight: 4 })] as const;
  await Promise.all(members.map(({ ready }) => ready));
  await publish(client, ["1", "2", "3", "4"]);
  const mine = await take(members[0], 2);
  const others = await take(members[1], 2);
  assert.deepEqual(texts([...mine, ...others]).sort(), ["1", "2", "3", "4"]);
  await members[0].close();
  assert.deepEqual(await members[0].next(), { value: undefined, done: true });
  const taken = await take(members[1], 2);
  assert.deepEqual(texts(taken).sort(), texts(mine).sort());
  assert.deepEqual(taken.map(({ attempt }) => attempt), [2, 2]);
  await assert.rejects((mine[0] as QueueDelivery).ack(), code("unknown_lease"));
  assert.deepEqual(await members[1].ack([...others, ...taken]), []);
  await Promise.all([client.close(), other.close()]);
});

test("leaving the loop leaves the group, with what waited in the client", async () => {
  const client = await opened("loop", ["1", "2", "3"]);
  for await (const job of client.group("g").joinQueue(["jobs"])) {
    await job.ack();
    break;
  }
  const described = await client.group("g").describe();
  assert.deepEqual([described.members, described.partitions[0]?.lag], [[], 2]);
  {
    await using member = client.group("g").joinQueue("jobs");
    assert.deepEqual(texts(await take(member, 2)).sort(), ["2", "3"]);
  }
  assert.deepEqual((await client.group("g").describe()).members, []);
  await client.close();
});

test("a signal leaves the group, and its reason is thrown once", async () => {
  const client = await opened("signal", ["1"]);
  const controller = new AbortController();
  const member = client.group("g").joinQueue("jobs", { signal: controller.signal });
  await assert.rejects(async () => {
    for await (const job of member) {
      await job.ack();
      controller.abort(new Error("enough"));
    }
  }, /enough/);
  assert.deepEqual(await member.next(), { value: undefined, done: true });
  assert.deepEqual((await client.group("g").describe()).members, []);
  await assert.rejects(client.group("g").joinQueue("jobs", { signal: controller.signal }).ready, /enough/);
  await client.close();
});

test("closing waits for settlements under way", async () => {
  const client = await opened("closing", ["1", "2"]);
  const member = client.group("g").joinQueue("jobs");
  const [first, second] = (await take(member, 2)) as [QueueDelivery, QueueDelivery];
  const settled: string[] = [];
  void first.ack().then(() => settled.push("ack"));
  void second.reject().then(() => settled.push("reject"));
  await member.close();
  assert.deepEqual(settled.sort(), ["ack", "reject"]);
  assert.deepEqual([await lag(client), (await client.group("g").describe()).deadLetters], [0, 1]);
  await client.close();
});

test("a lease ends with its time, and the message comes again", async () => {
  const client = await opened("expired", ["1"]);
  await client.group("g").configure({ ackDeadlineMs: 10, retry: "none" });
  const member = client.group("g").joinQueue("jobs");
  const [first, second] = (await take(member, 2)) as [QueueDelivery, QueueDelivery];
  assert.deepEqual([first.attempt, second.attempt], [1, 2]);
  await assert.rejects(first.ack(), code("unknown_lease"));
  await client.close();
});

test("what fails too often is a dead letter, told as it was, and replayed it is delivered again", async () => {
  const client = await opened("dead");
  const group = client.group("g");
  await group.configure({ maxDeliveryAttempts: 2, retry: "none" });
  const member = group.joinQueue("jobs");
  const { sequence } = await client.publish("jobs", "poison", { key: "k", headers: [["h", "1"]], contentType: "text/plain", id: "i" });
  await client.publish("jobs", "unwanted");
  for await (const job of member) {
    if (job.text() === "unwanted") await job.reject({ reason: "no use" });
    else await job.nack();
    if (job.attempt === 2) break;
  }
  const dead = [];
  for await (const letter of group.deadLetters()) dead.push(letter);
  const [unwanted, poison] = dead.sort((a, b) => a.reason.localeCompare(b.reason) * -1);
  assert.deepEqual(
    [poison?.topic, poison?.partition, poison?.offset, poison?.sequence, poison?.key, poison?.headers, poison?.contentType, poison?.id, poison?.text()],
    ["jobs", 0, 0n, sequence, "k", [["h", "1"]], "text/plain", "i", "poison"],
  );
  assert.deepEqual([poison?.reason, poison?.attempts, poison?.note, typeof poison?.deadOffset], ["max_delivery_attempts", 2, undefined, "bigint"]);
  assert.ok((poison?.diedAt ?? 0) >= (poison?.timestamp ?? Number.NaN));
  assert.deepEqual([unwanted?.reason, unwanted?.attempts, unwanted?.note], ["rejected", 1, "no use"]);
  for await (const letter of group.deadLetters({ reason: "rejected", filter: "jobs" })) assert.equal(letter.text(), "unwanted");
  for await (const letter of group.deadLetters({ filter: "other" })) assert.fail(letter.text());
  for await (const letter of group.deadLetters({ fromOffset: 2n })) assert.fail(letter.text());

  assert.equal(await group.replayDeadLetters({ offsets: [poison?.deadOffset ?? 0n], rate: 100 }), 1);
  const again = group.joinQueue("jobs");
  const [replayed] = (await take(again, 1)) as [QueueDelivery];
  assert.deepEqual([replayed.text(), replayed.offset], ["poison", 0n]);
  await replayed.ack();
  assert.equal(await group.deleteDeadLetters(), 1);
  assert.equal((await group.describe()).deadLetters, 0);
  await client.close();
});

test("after the connection was lost it joins again, and leases of before are void", async () => {
  const client = await opened("lost", ["1", "2"]);
  const member = client.group("g").joinQueue("jobs", { maxInFlight: 2 });
  const [first] = (await take(member, 1)) as [QueueDelivery];
  const away = state(client, "reconnecting");
  server.cut();
  await away;
  // The second waited in the client: it is given to whoever is there, with the first.
  const again = await take(member, 2);
  assert.deepEqual(again.map((job) => `${job.text()} ${job.attempt}`).sort(), ["1 2", "2 2"]);
  await assert.rejects(first.ack(), code("unknown_lease"));
  assert.deepEqual(await member.ack(again), []);
  await publish(client, ["3"]);
  assert.deepEqual(texts(await take(member, 1)), ["3"]);
  await client.close();
});

test("a member with a name keeps its leases over a lost connection, and can be replaced", async () => {
  const client = await opened("named", ["1", "2"]);
  const member = client.group("g").joinQueue("jobs", { member: "one" });
  const [first] = (await take(member, 1)) as [QueueDelivery];
  const away = state(client, "reconnecting");
  server.cut();
  await away;
  await first.ack();
  const [second] = (await take(member, 1)) as [QueueDelivery];
  assert.equal(second.attempt, 1);
  await second.ack();
  assert.equal(member.member, "one");
  const other = await server.client("named");
  await other.group("g").joinQueue("jobs", { member: "one" }).ready;
  await assert.rejects(member.next(), code("member_replaced"));
  await Promise.all([client.close(), other.close()]);
});

test("a settlement whose answer was lost with the connection is told so", async () => {
  const client = await opened("answer", ["1"]);
  const member = client.group("g").joinQueue("jobs", { member: "one" });
  const [job] = (await take(member, 1)) as [QueueDelivery];
  server.loseNext = true;
  await assert.rejects(job.ack(), code("connection_lost"));
  await assert.rejects(job.ack(), code("unknown_lease"));
  assert.equal(await lag(client), 0);
  await client.close();
});

test("a broker that was restored has the member join again", async () => {
  const client = await opened("restored", ["1"]);
  const member = client.group("g").joinQueue("jobs");
  const [first] = (await take(member, 1)) as [QueueDelivery];
  server.poison = true;
  await assert.rejects(client.publish("jobs", "lost"), code("connection_lost"));
  const [again] = (await take(member, 1)) as [QueueDelivery];
  assert.equal(again.text(), "1");
  await assert.rejects(first.ack(), code("unknown_lease"));
  await again.ack();
  await client.close();
});

test("a member that says nothing else says that it lives, and one that the broker took for gone joins again", async () => {
  const client = await opened("session", ["1"]);
  await client.group("g").configure({ sessionMs: 200 });
  const member = client.group("g").joinQueue("jobs");
  await member.ready;
  const before = member.member;
  // Longer than the session: what is heard of it meanwhile are its pings alone.
  await client.publish("later", "x", { delayMs: 700 });
  await client.subscribe("later", { from: "earliest" }).next();
  assert.equal(member.member, before);
  const hear = server.unhear();
  const taken = take(member, 1);
  const other = await server.client("session");
  while ((await other.group("g").describe()).members.some((each) => each.member === before)) await other.publish("tick", "x", { delayMs: 5 });
  hear();
  await taken;
  await publish(client, ["2"]);
  await take(member, 1);
  assert.notEqual(member.member, before);
  await Promise.all([client.close(), other.close()]);
});

test("what the broker would refuse again ends the member", async () => {
  const client = await opened("refused");
  await client.group("p").configure({ kind: "partitioned" });
  const member = client.group("p").joinQueue("jobs");
  await assert.rejects(member.ready, code("conflicting_config", /kind/));
  await assert.rejects(member.next(), code("conflicting_config"));
  assert.deepEqual(await member.next(), { value: undefined, done: true });
  const joined = client.group("g").joinQueue("jobs");
  await joined.ready;
  await client.group("g").delete();
  await assert.rejects(joined.next(), code("unknown_group", /deleted/));
  await client.close();
  await assert.rejects(client.group("g").joinQueue("jobs").next(), code("closed"));
});

test("wrong options and arguments are refused by name", async () => {
  const client = await opened("wrong", ["1"]);
  const wrong: [unknown, Partial<Record<keyof QueueOptions, unknown>>, RegExp][] = [
    ["a/#/b", {}, /a\/#\/b|filter/],
    [[], {}, /filters/],
    [5, {}, /filters must be a list of strings, not 5/],
    [["jobs", 5], {}, /filters must be a list of strings/],
    ["jobs", { from: "yesterday" }, /from|yesterday/],
    ["jobs", { member: "a/b" }, /name of a member/],
    ["jobs", { member: 5 }, /member must be a string/],
    ["jobs", { maxInFlight: 0 }, /"max_in_flight" must be from 1/],
    ["jobs", { maxInFlight: 1.5 }, /maxInFlight must be an integer/],
  ];
  for (const [filters, options, message] of wrong) {
    const refused = (error: unknown): boolean => /^invalid_(argument|filter)$/.test((error as { code: string }).code) && message.test(String(error));
    await assert.rejects(client.group("g").joinQueue(filters as never, options as never).ready, refused, String(message));
  }
  const member = client.group("g").joinQueue("jobs");
  const [job] = (await take(member, 1)) as [QueueDelivery];
  await assert.rejects(job.nack({ delayMs: -1 }), code("invalid_argument", /delayMs must be an integer/));
  await assert.rejects(job.nack({ delayMs: 2 ** 50 }), code("invalid_argument", /"delay_ms" must be at most/));
  await assert.rejects(job.nack({ delayMs: 5n as never }), code("invalid_argument", /delayMs must be an integer.*, not 5/));
  await assert.rejects(job.reject({ reason: 5 as never }), code("invalid_argument", /reason must be a string/));
  await assert.rejects(job.reject({ reason: "x".repeat(2000) }), code("too_large", /"reason"/));
  await assert.rejects(job.extend({ extendMs: 0 }), code("invalid_argument", /"extend_ms" must be from 1/));
  await assert.rejects(member.ack(job as never), code("invalid_argument", /give a list of deliveries/));
  await assert.rejects(member.ack([{} as never]), code("invalid_argument", /only deliveries of a queue/));
  assert.deepEqual(await member.ack([]), []);
  await job.ack();
  await client.close();
});

test("higher priorities are delivered first, and only where no order is kept", async () => {
  const client = await opened("priorities");
  for (const priority of [0, 4, 1, 4, undefined] as const) await client.publish("jobs", String(priority), priority === undefined ? {} : { priority });
  const member = client.group("g").joinQueue("jobs", { maxInFlight: 1 });
  const seen: string[] = [];
  for await (const job of member) {
    seen.push(`${job.text()} ${job.priority}`);
    await job.ack();
    if (seen.length === 5) break;
  }
  assert.deepEqual(seen, ["4 4", "4 4", "1 1", "0 0", "undefined 0"]);
  await assert.rejects(client.publish("ordered", "x", { priority: 1 }), code("invalid_argument", /priority/));
  await assert.rejects(client.publish("jobs", "x", { priority: 5 as never }), code("invalid_argument", /priority/));
  await client.close();
});

test("a member answers requests", async () => {
  const client = await opened("requests");
  const member = client.group("g").joinQueue("jobs");
  await member.ready;
  const asked = client.request("jobs", "2 + 2");
  const [job] = (await take(member, 1)) as [QueueDelivery];
  assert.equal(job.expectsAnswer, true);
  await job.respond("4");
  await job.ack();
  assert.equal((await asked).text(), "4");
  await client.close();
});
