// Messages through the Worker: sockets in both encodings, HTTP, and a stream of events, all on one object.
import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";

import { Client, EventStream, refusal } from "./clients.mjs";
import { AUTHORIZED, BASE, startWorker, TOKENS } from "./workerd.mjs";

let worker;
let topic;
let topics = 0;

before(() => (worker = startWorker()));
after(() => worker.dispose());
beforeEach(() => (topic = `room/${++topics}`));

const ask = (path, init = {}) => worker.dispatchFetch(`${BASE}/v1/chat/${path}`, { ...init, headers: { ...AUTHORIZED, ...init.headers } });
const publish = async (body, headers) => {
  const response = await ask(`topics/${topic}`, { method: "POST", body, headers });
  assert.equal(response.status, 200, await response.clone().text());
  return response.json();
};

const text = (payload) => (typeof payload === "string" ? payload : new TextDecoder().decode(payload));

test("two sockets of different encodings hear each other", async () => {
  const json = await Client.ready(worker);
  const binary = await Client.ready(worker, { protocol: "dunlin.v1.binary" });
  assert.equal(json.welcome.version, 1);
  assert.equal(json.welcome.incarnation, binary.welcome.incarnation);
  for (const [speaker, hearer, payload, offset] of [
    [json, binary, "from json", 0],
    [binary, json, new TextEncoder().encode("from binary"), 1],
  ]) {
    hearer.say({ type: "subscribe", request: 1, subscription: 7, filter: topic });
    await hearer.next("subscribed");
    speaker.say({ type: "publish", request: 2, topic, payload });
    const receipt = await speaker.next("receipt");
    assert.deepEqual([receipt.request, Number(receipt.offset), receipt.duplicate], [2, offset, false]);
    const delivery = await hearer.next("delivery");
    assert.deepEqual([delivery.subscription, delivery.topic, Number(delivery.offset)], [7, topic, offset]);
    assert.equal(text(delivery.payload), text(payload));
  }
  json.close();
  binary.close();
});

test("a message is heard once by each, in the order of the publishes", async () => {
  const protocols = ["dunlin.v1.json", "dunlin.v1.binary"];
  const hearers = await Promise.all(protocols.map((protocol) => Client.ready(worker, { protocol })));
  for (const client of hearers) {
    client.say({ type: "subscribe", request: 1, subscription: 1, filter: "room/#" });
    await client.next("subscribed");
  }
  const speaker = await Client.ready(worker);
  for (let n = 0; n < 50; n += 1) speaker.say({ type: "publish", request: n + 1, topic, payload: `${n}` });
  for (const client of hearers) {
    for (let n = 0; n < 50; n += 1) {
      const delivery = await client.next("delivery");
      assert.deepEqual([text(delivery.payload), Number(delivery.offset)], [`${n}`, n]);
    }
    client.close();
  }
  speaker.close();
});

test("commands that arrive together are answered together", async () => {
  const client = await Client.open(worker);
  client.say(
    { type: "hello", version: 1 },
    { type: "subscribe", request: 1, subscription: 1, filter: topic },
    { type: "publish", request: 2, topic, payload: "x" },
    { type: "ping", request: 3 },
  );
  for (const type of ["hello", "delivery"]) await client.next(type);
  client.close();
});

test("ping is answered by the runtime in both encodings, even before hello", async () => {
  for (const protocol of ["dunlin.v1.json", "dunlin.v1.binary"]) {
    const client = await Client.open(worker, { protocol });
    client.raw("ping");
    assert.equal(await client.text(), "pong");
    client.close();
  }
});

test("a message of the wrong kind ends the connection with a reason", async () => {
  const binary = await Client.ready(worker, { protocol: "dunlin.v1.binary" });
  binary.raw("{}");
  const closed = await binary.ended();
  assert.equal(closed.code, 1002);
  assert.match(closed.reason, /malformed_frame: this connection speaks in binary messages/);
  const json = await Client.ready(worker);
  json.raw(new Uint8Array([1, 2]));
  assert.match((await json.ended()).reason, /text messages/);
});

test("bytes that are no frame end the connection, and nobody else's", async () => {
  const bystander = await Client.ready(worker);
  const client = await Client.ready(worker, { protocol: "dunlin.v1.binary" });
  client.raw(new Uint8Array([200, 200, 200]));
  assert.equal((await client.ended()).code, 1002);
  bystander.say({ type: "ping", request: 5 });
  assert.equal((await bystander.next("pong")).request, 5);
  bystander.close();
});

test("what is published over HTTP is heard, and read back with everything it carried", async () => {
  const client = await Client.ready(worker);
  client.say({ type: "subscribe", request: 1, subscription: 1, filter: topic });
  await client.next("subscribed");
  const receipt = await publish("grüße", {
    "content-type": "text/plain",
    "dunlin-key": "k",
    "dunlin-id": "first",
    "dunlin-header-trace": "7",
  });
  assert.deepEqual([receipt.topic, receipt.partition, receipt.offset, receipt.duplicate], [topic, 0, 0, false]);
  const delivery = await client.next("delivery");
  assert.deepEqual([delivery.payload, delivery.key, delivery.content_type], ["grüße", "k", "text/plain"]);
  client.close();

  await publish(new Uint8Array([0xff, 0]));
  const history = await ask(`topics/${topic}?from=earliest`);
  assert.equal(history.status, 200);
  assert.equal(history.headers.get("content-type"), "application/x-ndjson");
  assert.deepEqual(
    ["dunlin-log-start-offset", "dunlin-log-end-offset", "dunlin-next-offset"].map((name) => history.headers.get(name)),
    ["0", "2", "2"],
  );
  const [first, second] = (await history.text()).trim().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual([first.offset, first.payload, first.key, first.id], [0, "grüße", "k", "first"]);
  assert.deepEqual(first.headers, [["trace", "7"]]);
  assert.deepEqual([second.offset, second.payload_base64], [1, "/wA="]);
});

test("history is read page by page, from anywhere", async () => {
  for (let n = 0; n < 5; n += 1) await publish(`${n}`);
  const read = async (query) => (await (await ask(`topics/${topic}?${query}`)).text()).match(/"payload":"(\d)"/g)?.join("");
  assert.equal(await read("from=offset:1&limit=2"), '"payload":"1""payload":"2"');
  assert.equal(await read("from=last:1"), '"payload":"4"');
  assert.equal(await read("from=offset:5"), undefined);
});

test("the broker's refusals are responses with its codes", async () => {
  for (const [path, init, expected] of [
    ["topics/a/%23/b", { method: "POST", body: "x" }, [400, "invalid_topic"]],
    [`topics/${"a".repeat(1025)}`, { method: "POST", body: "x" }, [400, "invalid_topic"]],
    ["topics/never/published", {}, [404, "unknown_topic"]],
    ["topics/a", { method: "POST", body: new Uint8Array(1024 * 1024 + 1) }, [413, "too_large"]],
    ["subscribe?filter=a/%23/b", {}, [400, "invalid_filter"]],
    ["subscribe?filter=a&from=tomorrow", {}, [400, "invalid_argument"]],
    ["requests/a/%23", { method: "POST", body: "x" }, [400, "invalid_topic"]],
    ["requests/a", {}, [405, "method_not_allowed"]],
    ["groups/none", {}, [404, "unknown_group"]],
    ["groups/none/dead-letters?from=x", {}, [400, "invalid_argument"]],
    ["groups/none/dead-letters/replay", { method: "POST", body: "{}" }, [400, "invalid_argument"]],
    ["scheduled/7", { method: "DELETE" }, [404, "unknown_schedule"]],
    ["limits?scope=user", {}, [400, "invalid_argument"]],
  ]) {
    const { status, code } = await refusal(await ask(path, init));
    assert.deepEqual([status, code], expected, path);
  }
  await publish("x");
  assert.deepEqual((await refusal(await ask(`topics/${topic}?from=offset:9`))).code, "offset_out_of_range");
});

test("a request over HTTP gets the answer of who hears it, or a refusal", async () => {
  const path = `requests/${topic}`;
  const post = (init) => ask(path, { method: "POST", body: "?", ...init });
  assert.deepEqual((await refusal(await post())).code, "no_responders");
  const client = await Client.ready(worker);
  client.say({ type: "subscribe", request: 1, subscription: 1, filter: topic });
  await client.next("subscribed");
  const asked = post();
  const { reply_to } = await client.next("delivery");
  client.say({ type: "respond", request: 2, reply_to, payload: "12:00", content_type: "text/plain", headers: [["Zone", "UTC"], ["no token", "x"]] });
  const answer = await asked;
  assert.deepEqual([answer.status, await answer.text()], [200, "12:00"]);
  assert.deepEqual([answer.headers.get("content-type"), answer.headers.get("dunlin-header-zone")], ["text/plain", "UTC"]);
  const late = await refusal(await post({ headers: { "dunlin-timeout-ms": "50" } }));
  assert.deepEqual([late.status, late.code], [504, "timeout"]);
  client.close();
});

test("a group, its dead letters, scheduled messages and limits are looked after over HTTP", async () => {
  const client = await Client.ready(worker);
  client.say({ type: "join", request: 1, subscription: 1, group: "workers", filters: [topic] });
  await client.next("joined");
  await publish("job");
  const { lease } = await client.next("delivery");
  client.say({ type: "reject", request: 2, leases: [{ lease }] });
  await client.next("settled");
  assert.deepEqual(await (await ask("groups")).json(), { groups: ["workers"], more: false });
  const group = await (await ask("groups/workers")).json();
  assert.deepEqual([group.dead_letters, group.members[0].member], [1, "member-1"]);
  const letters = await ask("groups/workers/dead-letters?reason=rejected");
  assert.deepEqual([letters.headers.get("dunlin-more"), JSON.parse(await letters.text()).payload], ["false", "job"]);
  const replayed = await ask("groups/workers/dead-letters/replay?offsets=0", { method: "POST" });
  assert.deepEqual(await replayed.json(), { messages: 1 });
  assert.equal((await client.next("delivery")).payload, "job");
  client.close();

  const { schedule_id } = await publish("later", { "dunlin-delay-ms": "3600000" });
  const { scheduled } = await (await ask(`scheduled?filter=${topic}`)).json();
  assert.deepEqual(scheduled.map((message) => message.schedule_id), [schedule_id]);
  const cancel = () => ask(`scheduled/${schedule_id}`, { method: "DELETE" });
  assert.deepEqual(await (await cancel()).json(), { ok: true });
  assert.deepEqual((await refusal(await cancel())).code, "unknown_schedule");
  assert.deepEqual(await (await ask("limits")).json(), { limits: [] });
});

test("events stream as they come, and a reconnect goes on where the client was", async () => {
  await publish("0");
  const query = `subscribe?filter=${topic}&from=earliest&token=${TOKENS.chat}`;
  const stream = new EventStream(await worker.dispatchFetch(`${BASE}/v1/chat/${query}`));
  const opening = await stream.next();
  assert.equal(opening.retry, "1000");
  assert.ok(opening.id);
  const first = await stream.next();
  assert.equal(JSON.parse(first.data).payload, "0");
  await publish("1");
  assert.equal(JSON.parse((await stream.next()).data).payload, "1");
  await stream.cancel();

  await publish("2");
  const resumed = new EventStream(await worker.dispatchFetch(`${BASE}/v1/chat/${query}`, { headers: { "last-event-id": first.id } }));
  await resumed.next();
  for (const payload of ["1", "2"]) assert.equal(JSON.parse((await resumed.next()).data).payload, payload);
  await resumed.cancel();
});

test("a long stream of events arrives whole, on credit", async () => {
  const client = await Client.ready(worker);
  const messages = Array.from({ length: 100 }, (_, n) => ({ topic, payload: `${n}` }));
  for (let batch = 0; batch < 5; batch += 1) {
    client.say({ type: "publish_batch", request: batch + 1, messages });
    await client.next("receipts");
  }
  client.close();
  const stream = new EventStream(await ask(`subscribe?filter=${topic}&from=earliest`));
  await stream.next();
  for (let offset = 0; offset < 500; offset += 1) {
    assert.equal(JSON.parse((await stream.next()).data).offset, offset);
  }
  await stream.cancel();
});

test("a namespace's messages are not another's", async () => {
  await publish("mine");
  const other = { authorization: `Bearer ${TOKENS.other}` };
  const response = await worker.dispatchFetch(`${BASE}/v1/other/topics/${topic}`, { headers: other });
  assert.equal((await refusal(response)).code, "unknown_topic");
});

test("requests that are given up in the middle disturb nobody", async () => {
  const hearer = await Client.ready(worker);
  hearer.say({ type: "subscribe", request: 1, subscription: 1, filter: topic });
  await hearer.next("subscribed");
  for (let n = 0; n < 20; n += 1) {
    const killed = new AbortController();
    const asked = [
      ask(`topics/${topic}-killed`, { method: "POST", body: "x", signal: killed.signal }),
      ask(`subscribe?filter=${topic}-killed`, { signal: killed.signal }),
    ];
    killed.abort();
    for (const outcome of await Promise.allSettled(asked)) assert.equal(outcome.status, "rejected");
  }
  const { incarnation } = (await Client.ready(worker)).welcome;
  assert.equal(incarnation, hearer.welcome.incarnation);
  await publish("still here");
  assert.equal((await hearer.next("delivery")).payload, "still here");
  hearer.close();
});
