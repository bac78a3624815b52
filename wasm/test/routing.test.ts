// Transactions and routing rules, with the real broker over real sockets.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import type { Client, PartitionDelivery, QueueDelivery, RuleConfig } from "../ts/types.ts";
import { code } from "./broker.ts";
import { Server } from "./server.ts";

const server = new Server();
before(() => server.start());
after(() => server.end());

async function stored(client: Client, topic: string): Promise<string[]> {
  const texts: string[] = [];
  for await (const message of client.history(topic)) texts.push(message.text());
  return texts;
}

async function lag(client: Client, group: string): Promise<number> {
  return (await client.group(group).describe()).partitions.reduce((sum, partition) => sum + partition.lag, 0);
}

test("messages, acknowledgements and commits hold together", async () => {
  const client = await server.client("together");
  await client.configureTopic("jobs", { ordering: "none" });
  await client.publishBatch(["a", "b"].map((payload) => ({ topic: "jobs", payload })));
  const queue = client.group("queue").joinQueue("jobs");
  const partitioned = client.group("partitioned").joinPartitioned("jobs", { commit: "manual" });
  const [first, second] = [(await queue.next()).value, (await queue.next()).value] as [QueueDelivery, QueueDelivery];
  const read = (await partitioned.next()).value as PartitionDelivery;
  const messages = [
    { topic: "made", payload: "of a", id: "a" },
    { topic: "told", payload: "a is done" },
  ];
  const receipts = await client.transaction({ messages, acks: [first], commits: [read] }, { durability: "sync" });
  assert.deepEqual(
    receipts.map(({ topic, offset, duplicate }) => [topic, offset, duplicate]),
    [
      ["made", 0n, false],
      ["told", 0n, false],
    ],
  );
  assert.deepEqual([await lag(client, "queue"), await lag(client, "partitioned")], [1, 1]);
  await assert.rejects(first.ack(), code("unknown_lease"));
  // One that is settled already refuses all of it.
  await assert.rejects(client.transaction({ messages: [{ topic: "made", payload: "of b" }], acks: [first, second] }), code("unknown_lease", /lease \d+ is not/));
  assert.deepEqual(await stored(client, "made"), ["of a"]);
  // Under the same name it was done before, by whoever had the message, and the message is done now.
  const again = await client.transaction({ messages: [{ topic: "made", payload: "of a", id: "a" }], acks: [second] });
  assert.deepEqual([again.length, again[0]?.duplicate], [1, true]);
  assert.equal(await lag(client, "queue"), 0);
  assert.deepEqual(await client.transaction({ commits: [(await partitioned.next()).value as PartitionDelivery] }), []);
  assert.equal(await lag(client, "partitioned"), 0);
  await client.close();
});

test("a transaction of what cannot be in it is refused", async () => {
  const [client, other] = [await server.client("refused"), await server.client("refused")];
  await client.publish("jobs", "a");
  const queue = client.group("queue").joinQueue("jobs");
  const delivery = (await queue.next()).value as QueueDelivery;
  const message = { topic: "made", payload: "x" };
  const wrong: [unknown, unknown, RegExp][] = [
    [{}, {}, /at least 1 message, lease or offset/],
    [{ messages: [{ topic: "made", payload: 5 }] }, {}, /the payload must be/],
    [{ messages: [message], acks: delivery }, {}, /acks must be a list/],
    [{ messages: [message], acks: [{ ack() {} }] }, {}, /only deliveries of a queue can be in acks/],
    [{ messages: [message], commits: [delivery] }, {}, /only deliveries of a partitioned group can be in commits/],
    [{ messages: [message] }, { durability: "much" }, /durability/],
    [{ acks: [delivery] }, { retry: true }, /retry needs messages/],
  ];
  for (const [parts, options, told] of wrong) {
    await assert.rejects(client.transaction(parts as never, options as never), code("invalid_argument", told), String(told));
  }
  await assert.rejects(other.transaction({ messages: [message], acks: [delivery] }), code("invalid_argument", /its own client alone/));
  await assert.rejects(client.describeTopic("made"), code("unknown_topic"));
  await delivery.ack();
  await Promise.all([client.close(), other.close()]);
});

test("rules are set, listed, explained and deleted, and say where a message went", async () => {
  const client = await server.client("rules");
  assert.deepEqual(await client.rules(), []);
  const config: RuleConfig = {
    filter: "orders/+",
    when: [{ part: "json:/total", test: "above", value: "1000" }],
    then: [
      { action: "set_header", header: "size", value: "big" },
      { action: "move", topic: "audit/{1}" },
    ],
  };
  await client.configureRule("big", config);
  assert.deepEqual(await client.rules(), [{ name: "big", version: 1, order: 0, enabled: true, ...config }]);
  const explanation = await client.explain("orders/new", '{"total":1000.01}', { headers: [["a", "b"]] });
  assert.deepEqual(explanation.messages, [
    {
      topic: "audit/new",
      headers: [
        ["a", "b"],
        ["size", "big"],
      ],
    },
  ]);
  assert.deepEqual(
    explanation.steps.map(({ rule, applied, told }) => [rule, applied, told]),
    [
      ["big", true, 'sets the header "size" to "big"'],
      ["big", true, 'moves it to "audit/new"'],
    ],
  );
  const [moved, stayed] = [await client.publish("orders/new", '{"total":2000}'), await client.publish("orders/new", '{"total":1}')];
  assert.deepEqual([moved.topic, stayed.topic], ["audit/new", "orders/new"]);
  await client.configureRule("big", { then: [{ action: "drop" }] });
  assert.equal((await client.rules())[0]?.version, 2);
  await assert.rejects(client.publish("orders/new", '{"total":2000}'), code("dropped_by_rule", /"big"/));
  await client.deleteRule("big");
  await assert.rejects(client.deleteRule("big"), code("unknown_rule", /"big"/));
  const wrong: [unknown, RegExp][] = [
    [{ filter: "a" }, /needs "then"/],
    [{ filter: "a", then: [{ action: "explode" }] }, /explode/],
    [{ filter: "#/a", then: [{ action: "drop" }] }, /#\/a/],
    [{ filter: 5, then: [] }, /filter must be a string, not 5/],
  ];
  for (const [config, told] of wrong) await assert.rejects(client.configureRule("wrong", config as never), code("invalid_argument", told), String(told));
  await client.close();
});
