// Limits, groups and their administration, with the real broker.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import type { Client, GroupConfig, LimitConfig } from "../ts/types.ts";
import { code } from "./broker.ts";
import { Server } from "./server.ts";

const server = new Server();
let client: Client;
before(async () => {
  await server.start();
  client = await server.client("administration");
});
after(() => server.end());

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const item of items) list.push(item);
  return list;
}

test("limits are set, listed, hold, and are removed", async () => {
  assert.deepEqual(await client.limits(), []);
  await client.configureLimit({ scope: "topic", name: "slow", rate: 1, perMs: 60_000, burst: 2, adaptive: true });
  await client.configureLimit({ scope: "user", rate: 10 });
  const [topic, user] = await client.limits();
  assert.deepEqual(topic, { scope: "topic", name: "slow", rate: 1, perMs: 60_000, burst: 2, adaptive: true, factor: 1, inherited: false });
  assert.deepEqual(user, { scope: "user", rate: 10, perMs: 1000, burst: 10, adaptive: false, factor: 1, inherited: false });
  await client.publish("slow", "1");
  await client.publish("slow", "2", { waitMs: 1000 });
  await assert.rejects(client.publish("slow", "3"), (error) => code("rate_limited", /"slow"/)(error) && Number((error as { retryAfterMs?: number }).retryAfterMs) > 1000);
  await client.deleteLimit({ scope: "topic", name: "slow" });
  await client.publish("slow", "3");
  await client.deleteLimit({ scope: "user" });
  assert.deepEqual(await client.limits(), []);
});

test("a wrong limit is refused by what is wrong with it", async () => {
  const wrong: [Partial<Record<keyof LimitConfig, unknown>>, RegExp][] = [
    [{ scope: "topic", name: "t" }, /a limit needs a rate: to remove it there is deleteLimit/],
    [{ scope: "galaxy", rate: 1 }, /scope/],
    [{ scope: 5, rate: 1 }, /scope must be a string, not 5/],
    [{ scope: "user", name: 5, rate: 1 }, /name must be a string, not 5/],
    [{ scope: "user", rate: 0 }, /rate/],
    [{ scope: "user", rate: "1" }, /rate must be an integer/],
    [{ scope: "user", rate: 1, perMs: 0.5 }, /perMs must be an integer/],
    [{ scope: "user", rate: 1, burst: -1 }, /burst must be an integer/],
    [{ scope: "user", rate: 1, adaptive: "yes" }, /adaptive must be true or false, not yes/],
  ];
  for (const [limit, message] of wrong) await assert.rejects(client.configureLimit(limit as never), code("invalid_argument", message), String(message));
  assert.deepEqual(await client.limits(), []);
});

test("a group is configured, described, reset, paused, listed and deleted", async () => {
  const group = client.group("jobs");
  assert.equal(group.name, "jobs");
  await assert.rejects(group.describe(), code("unknown_group", /"jobs"/));
  await client.publish("jobs/a", "1");
  const config = { kind: "queue", filters: ["jobs/#"], ackDeadlineMs: 5000, maxDeliveryAttempts: 3, retry: "fixed", retryMs: 10, retryMsMax: 20, sessionMs: 7000, rebalanceMs: 8000, deadLettersAlert: 9 } as const;
  const described = await group.configure(config);
  const { filters, ...rest } = config;
  for (const [name, value] of Object.entries(rest)) assert.equal(described[name as keyof typeof described], value, name);
  assert.deepEqual(described.filters, filters);
  assert.deepEqual(described.partitions, [{ topic: "jobs/a", partition: 0, committedOffset: 0n, logEndOffset: 1n, lag: 1 }]);
  assert.deepEqual(await group.describe(), described);
  await group.reset("latest");
  assert.equal((await group.describe()).partitions[0]?.lag, 0);
  await group.reset("offset:0", { topic: "jobs/a", partition: 0 });
  assert.equal((await group.describe()).partitions[0]?.lag, 1);
  await group.pause();
  assert.equal((await group.describe()).paused, true);
  await group.resume();
  assert.equal((await group.describe()).paused, false);
  await client.group("orders").configure({ kind: "partitioned", strategy: "range", from: "latest" });
  assert.deepEqual(await all(client.groups()), ["jobs", "orders"]);
  await client.group("orders").delete();
  assert.deepEqual(await all(client.groups()), ["jobs"]);
  assert.deepEqual(await all(group.deadLetters()), []);
  assert.deepEqual([await group.replayDeadLetters(), await group.deleteDeadLetters()], [0, 0]);
  await group.delete();
});

test("wrong options of a group are refused by name", async () => {
  const group = client.group("wrong");
  const wrong: [Partial<Record<keyof GroupConfig, unknown>>, RegExp][] = [
    [{ kind: "pile" }, /"kind" must be queue or partitioned/],
    [{ kind: 1 }, /kind must be a string/],
    [{ strategy: "luck" }, /"strategy" must be/],
    [{ filters: 5 }, /filters must be a list of strings, not 5/],
    [{ filters: ["a/#/b"] }, /filter/],
    [{ from: "yesterday" }, /"?from"?/],
    [{ ackDeadlineMs: 0 }, /"ack_deadline_ms" must be from 1/],
    [{ maxDeliveryAttempts: 1001 }, /"max_delivery_attempts" must be from 1 to 1000/],
    [{ retry: "often" }, /"retry" must be/],
    [{ retryMs: 0 }, /"retry_ms" must be from 1/],
    [{ retryMsMax: -1 }, /retryMsMax must be an integer/],
    [{ sessionMs: 0 }, /"session_ms" must be from 1/],
    [{ rebalanceMs: 0 }, /"rebalance_ms" must be from 1/],
    [{ deadLettersAlert: 0.1 }, /deadLettersAlert must be an integer/],
  ];
  for (const [config, message] of wrong) {
    await assert.rejects(group.configure(config as never), (error) => ["invalid_argument", "invalid_filter"].includes((error as { code: string }).code) && message.test(String(error)), String(message));
  }
  await assert.rejects(group.configure({ retryMs: 20, retryMsMax: 10 }), code("conflicting_config", /"retry_ms"/));
  await assert.rejects(client.group("a/b").configure(), code("invalid_argument", /invalid name of a group: .*\//));
  await assert.rejects(client.group(5 as never).describe(), code("invalid_argument", /group must be a string, not 5/));
  await group.configure();
  await assert.rejects(group.reset("never" as never), code("invalid_argument"));
  await assert.rejects(group.reset("latest", { partition: 0 }), code("invalid_argument", /"partition" needs "topic"/));
  await assert.rejects(group.replayDeadLetters({ rate: 0 }), code("invalid_argument", /"rate" must be at least 1/));
  await assert.rejects(group.replayDeadLetters({ offsets: [0 as never] }), code("invalid_argument", /offset must be a bigint/));
  await assert.rejects(group.deleteDeadLetters({ offsets: [0n] }), code("offset_out_of_range", /no dead letter 0/));
  await assert.rejects(group.deadLetters({ fromOffset: 0 as never }).next(), code("invalid_argument", /fromOffset must be a bigint/));
  await assert.rejects(group.deadLetters({ reason: 5 as never }).next(), code("invalid_argument", /reason must be a string/));
});
