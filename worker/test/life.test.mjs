// The object's lives: it sleeps and wakes, crashes and restarts, and nobody on a socket misses anything unknowingly.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setTimeout as wait } from "node:timers/promises";

import { Client, EventStream } from "./clients.mjs";
import { AUTHORIZED, BASE, buildWithDoors, startWithDoors, temporaryDirectory, TOKENS } from "./workerd.mjs";

/** The runtime lets an object sleep after ten seconds without an event. */
const SLEEPS_AFTER_MS = 10_000;

const cleanUp = [];
let dist;
before(async () => (dist = await buildWithDoors(temporaryDirectory({ after: (f) => cleanUp.push(f) }))));
after(() => cleanUp.forEach((f) => f()));

const start = (context, options) => startWithDoors(context, { dist, ...options });

async function subscribed(worker, protocol, more = {}) {
  const client = await Client.ready(worker, { protocol });
  client.say({ type: "subscribe", request: 1, subscription: 1, filter: "room", ...more });
  await client.next("subscribed");
  return client;
}

/** A member of a queue, which takes one message at a time unless it says otherwise. */
async function joined(worker, more = {}) {
  const client = await Client.ready(worker);
  client.say({ type: "join", request: 1, subscription: 1, group: "g", filters: ["jobs"], max_in_flight: 1, ...more });
  await client.next("joined");
  return client;
}

const publish = (worker, body) => worker.dispatchFetch(`${BASE}/v1/chat/topics/room`, { method: "POST", body, headers: AUTHORIZED });
const text = (payload) => (typeof payload === "string" ? payload : new TextDecoder().decode(payload));

describe("an object that sleeps", { concurrency: true }, () => {
  test("wakes, and every subscriber hears what another socket publishes, with no need to resync", async (context) => {
    const { worker, knock } = start(context);
    const life = await lifeOf(knock);
    const json = await subscribed(worker, "dunlin.v1.json");
    const binary = await subscribed(worker, "dunlin.v1.binary");
    const stream = new EventStream(
      await worker.dispatchFetch(`${BASE}/v1/chat/subscribe?filter=room`, { headers: AUTHORIZED }),
    );
    await stream.next();
    const speaker = await Client.ready(worker);
    speaker.say({ type: "publish", request: 1, topic: "room", payload: "before" });
    await speaker.next("receipt");
    for (const client of [json, binary]) assert.equal(text((await client.next("delivery")).payload), "before");
    assert.equal(JSON.parse((await stream.next()).data).payload, "before");

    // The heartbeat is answered without waking the object.
    await wait(SLEEPS_AFTER_MS / 2);
    json.raw("ping");
    assert.equal(await json.text(), "pong");
    await wait(SLEEPS_AFTER_MS);

    speaker.say({ type: "publish", request: 2, topic: "room", payload: "after" });
    assert.equal(Number((await speaker.next("receipt")).offset), 1);
    for (const client of [json, binary]) {
      const heard = await client.nextOf("delivery", "resync");
      assert.deepEqual([heard.type, text(heard.payload ?? "")], ["delivery", "after"]);
    }
    assert.equal(JSON.parse((await stream.next()).data).payload, "after");
    binary.say({ type: "publish", request: 2, topic: "room", payload: new TextEncoder().encode("in binary") });
    assert.equal((await json.next("delivery")).payload, "in binary");
    assert.notEqual(await lifeOf(knock), life, "the object never slept");
    await stream.cancel();
  });

  test("asks everybody to resync where it is not known that its last life ended well", async (context) => {
    const { worker, knock } = start(context);
    const life = await lifeOf(knock);
    const client = await subscribed(worker, "dunlin.v1.json");
    assert.equal((await publish(worker, "before")).status, 200);
    await client.next("delivery");
    await knock("/unsettle");
    await wait(SLEEPS_AFTER_MS + 5_000);
    assert.equal((await publish(worker, "after")).status, 200);
    assert.equal((await client.nextOf("delivery", "resync")).type, "resync");
    assert.notEqual(await lifeOf(knock), life, "the object never slept");
    await assertAnotherIncarnation(worker, client);
  });

  test("is woken by its alarm, goes on from what is stored, and nobody need resync", async (context) => {
    const { worker, knock } = start(context);
    const life = await lifeOf(knock);
    const client = await subscribed(worker, "dunlin.v1.json");
    assert.equal((await publish(worker, "before")).status, 200);
    await client.next("delivery");
    await knock(`/alarm-after?ms=${SLEEPS_AFTER_MS + 4_000}`);
    await wait(SLEEPS_AFTER_MS + 6_000);
    // Whoever asks might be the one who woke it: it is the alarm that says which life it found.
    const woken = await (await knock("/woken")).json();
    assert.notEqual(woken, null, "no alarm came");
    assert.notEqual(woken, life, "the object never slept");
    assert.equal(await lifeOf(knock), woken);
    assert.equal(await (await knock("/alarm")).json(), null);
    const { offset } = await (await publish(worker, "after")).json();
    assert.equal(offset, 1);
    assert.equal((await client.nextOf("delivery", "resync")).payload, "after");
  });

  test("deals out a message to a member of a group that is connected", async (context) => {
    const { worker, knock } = start(context);
    const life = await lifeOf(knock);
    const member = await joined(worker);
    const speaker = await Client.ready(worker);
    await wait(SLEEPS_AFTER_MS + 5_000);
    speaker.say({ type: "publish", request: 1, topic: "jobs", payload: "after" });
    const delivery = await member.nextOf("delivery", "resync", "ended");
    assert.deepEqual([delivery.type, delivery.payload, delivery.attempt], ["delivery", "after", 1]);
    member.say({ type: "ack", request: 2, leases: [{ lease: delivery.lease }] });
    assert.deepEqual((await member.next("settled")).failed, []);
    assert.notEqual(await lifeOf(knock), life, "the object never slept");
  });

  test("is woken when a member was silent for too long, and gives what it had to one that was not", async (context) => {
    const sessionMs = SLEEPS_AFTER_MS + 8_000;
    const { worker, knock } = start(context, {
      bindings: { DUNLIN_TOKENS: TOKENS, DUNLIN_CONFIG: JSON.stringify({ session_ms: sessionMs }) },
    });
    const life = await lifeOf(knock);
    const speaker = await Client.ready(worker);
    speaker.say({ type: "configure_topic", request: 1, topic: "jobs", ordering: "none" });
    // One whose socket stays open though nobody is there, and one that is gone and may come back.
    const silent = await joined(worker);
    silent.raw("ping");
    const away = await joined(worker, { member: "away" });
    for (const [request, payload] of [[2, "first"], [3, "second"]]) speaker.say({ type: "publish", request, topic: "jobs", payload });
    for (const member of [silent, away]) assert.equal((await member.next("delivery")).attempt, 1);
    away.close();
    const other = await joined(worker, { max_in_flight: 2 });
    for (let pings = 0; pings < 2; pings += 1) {
      await wait(sessionMs / 2 - 1_500);
      other.raw("ping");
    }
    // Nobody says anything more: the alarm alone can wake it.
    assert.equal((await silent.next("ended")).code, "unknown_member");
    const again = [await other.next("delivery"), await other.next("delivery")];
    assert.deepEqual(again.map(({ payload, attempt }) => [payload, attempt]).sort(), [["first", 2], ["second", 2]]);
    const woken = await (await knock("/woken")).json();
    assert.notEqual(woken, null, "no alarm came");
    assert.notEqual(woken, life, "the object never slept");
    other.say({ type: "ack", request: 2, leases: again.map(({ lease }) => ({ lease })) });
    assert.deepEqual((await other.nextOf("settled", "ended")).failed, []);
  });

  test("does not sleep while a request waits for its answer, longer than most deadlines", async (context) => {
    const { worker, knock } = start(context);
    const life = await lifeOf(knock);
    const listener = await subscribed(worker, "dunlin.v1.json");
    const asker = await Client.ready(worker);
    asker.say({ type: "request", request: 1, topic: "room", payload: "?", timeout_ms: 200_000 });
    const { reply_to: replyTo } = await listener.next("delivery");
    await wait(SLEEPS_AFTER_MS + 5_000);
    listener.say({ type: "respond", request: 2, reply_to: replyTo, payload: "!" });
    assert.equal((await asker.next("response")).payload, "!");
    assert.equal(await lifeOf(knock), life);
  });

  test("does not sleep while it holds a publish back, and has an alarm behind it", async (context) => {
    const blockMs = SLEEPS_AFTER_MS + 2_000;
    const { worker, knock } = start(context, {
      bindings: { DUNLIN_TOKENS: TOKENS, DUNLIN_CONFIG: JSON.stringify({ block_ms_max: blockMs }) },
    });
    const life = await lifeOf(knock);
    await subscribed(worker, "dunlin.v1.json", { credit: 0, on_lag: "block", lag_max: 1 });
    const speaker = await Client.ready(worker);
    speaker.say(...["1", "2", "3"].map((payload, n) => ({ type: "publish", request: n + 1, topic: "room", payload })));
    await speaker.next("receipt");
    const alarm = await (await knock("/alarm")).json();
    assert.ok(alarm > Date.now() + blockMs / 2, `the alarm is set to ${alarm}`);
    await wait(blockMs - 1_000);
    const settledBefore = await (await knock("/settled")).json();
    const refused = await speaker.next("error");
    assert.equal(refused.code, "subscriber_blocked");
    assert.equal(await lifeOf(knock), life);
    // All that time it was quiet, but something was unsaid.
    assert.equal(settledBefore, false);
  });
});

/** What tells one instance of the object from the next; the runtime itself gives no sign of a sleep. */
async function lifeOf(knock) {
  return (await knock("/life")).text();
}

async function assertAnotherIncarnation(worker, client) {
  const { incarnation } = (await Client.ready(worker)).welcome;
  assert.notEqual(incarnation, client.welcome.incarnation);
}

test("after a crash the sockets are kept and asked to resync, and go on", async (context) => {
  const { worker, knock } = start(context);
  const json = await subscribed(worker, "dunlin.v1.json");
  const binary = await subscribed(worker, "dunlin.v1.binary");
  assert.equal((await publish(worker, "before")).status, 200);
  for (const client of [json, binary]) await client.next("delivery");

  assert.equal((await knock("/crash")).status, 200);
  // The step that crashes is that of the next event, whose command nobody answers any more.
  json.say({ type: "ping", request: 8 });
  for (const client of [json, binary]) await client.next("resync");

  for (const client of [json, binary]) {
    client.say({ type: "subscribe", request: 9, subscription: 2, filter: "room", from: "earliest" });
    assert.equal(text((await client.next("delivery")).payload), "before");
  }
  assert.equal((await publish(worker, "after")).status, 200);
  for (const client of [json, binary]) assert.equal(text((await client.next("delivery")).payload), "after");
  await assertAnotherIncarnation(worker, json);
});

test("a request that the broker crashed on is answered so", async (context) => {
  const { worker, knock } = start(context);
  await publish(worker, "before");
  await knock("/crash");
  const response = await publish(worker, "lost");
  assert.equal(response.status, 503);
  const { code, message } = await response.json();
  assert.equal(code, "storage_unavailable");
  assert.match(message, /may or may not/);
  assert.equal(response.headers.get("retry-after"), "1");
  assert.equal((await (await publish(worker, "again")).json()).offset, 1);
});

test("after a failed write nobody is told that it succeeded, and the broker comes back", async (context) => {
  const { worker, knock } = start(context);
  const client = await subscribed(worker, "dunlin.v1.json");
  assert.equal((await publish(worker, "before")).status, 200);
  await client.next("delivery");
  await knock("/break?fault=full");
  client.say({ type: "publish", request: 2, topic: "room", payload: "lost" });
  assert.equal((await client.nextOf("resync", "receipt", "delivery")).type, "resync");

  // Until a probe has shown that the store can write again, what needs it is refused.
  const refused = await publish(worker, "too early");
  assert.deepEqual([refused.status, (await refused.json()).code], [503, "storage_unavailable"]);
  let accepted = await publish(worker, "after");
  for (const until = Date.now() + 10_000; accepted.status === 503 && Date.now() < until; ) {
    await wait(100);
    accepted = await publish(worker, "after");
  }
  assert.equal((await accepted.json()).offset, 1);
  const history = await worker.dispatchFetch(`${BASE}/v1/chat/topics/room?from=earliest`, { headers: AUTHORIZED });
  assert.deepEqual((await history.text()).match(/"payload":"\w+"/g), ['"payload":"before"', '"payload":"after"']);
});

test("after a restart of the runtime everything that was acknowledged is there", async (context) => {
  const directory = temporaryDirectory(context);
  const first = start(context, { directory });
  const client = await Client.ready(first.worker);
  client.say({ type: "configure_topic", request: 1, topic: "room", partitions: 1, max_messages: 100 });
  await client.next("topic");
  for (let n = 0; n < 20; n += 1) assert.equal((await (await publish(first.worker, `${n}`)).json()).offset, n);
  await first.dispose();

  const second = start(context, { directory });
  const history = await second.worker.dispatchFetch(`${BASE}/v1/chat/topics/room?from=earliest`, { headers: AUTHORIZED });
  assert.equal(history.headers.get("dunlin-log-end-offset"), "20");
  const payloads = (await history.text()).trim().split("\n").map((line) => JSON.parse(line).payload);
  assert.deepEqual(payloads, Array.from({ length: 20 }, (_, n) => `${n}`));
  const again = await Client.ready(second.worker);
  assert.notEqual(again.welcome.incarnation, client.welcome.incarnation);
  again.say({ type: "describe_topic", request: 2, topic: "room" });
  assert.equal((await again.next("topic")).max_messages, 100);
});

test("a store of a newer version is refused, and left alone", async (context) => {
  const directory = temporaryDirectory(context);
  const newer = start(context, { directory });
  await publish(newer.worker, "kept");
  await newer.knock("/schema?version=2");
  await newer.dispose();

  const older = start(context, { directory });
  assert.equal((await publish(older.worker, "lost")).status, 503);
  await assert.rejects(older.knock("/schema?version=1"), /schema version 2, this script reads 1/);
});

test("a configuration that cannot be used is refused by name", async (context) => {
  const { worker, knock } = start(context, { bindings: { DUNLIN_TOKENS: '{"chat":"chat-token-0123456789"}', DUNLIN_CONFIG: '{"no_such_bound":1}' } });
  assert.equal((await publish(worker, "x")).status, 503);
  await assert.rejects(knock("/alarm"), /no_such_bound/);
});

test("a panic of the gateway touches no object and no socket, and the next request is answered by another instance", async (context) => {
  const { worker, knock } = start(context);
  const life = await lifeOf(knock);
  const json = await subscribed(worker, "dunlin.v1.json");
  const binary = await subscribed(worker, "dunlin.v1.binary");
  const stream = new EventStream(await worker.dispatchFetch(`${BASE}/v1/chat/subscribe?filter=room`, { headers: AUTHORIZED }));
  await stream.next();
  const hear = async (payload) => {
    for (const client of [json, binary]) {
      const heard = await client.nextOf("delivery", "resync", "going_away");
      assert.deepEqual([heard.type, text(heard.payload ?? "")], ["delivery", payload]);
    }
    assert.equal(JSON.parse((await stream.next()).data).payload, payload);
  };

  const instance = async () => (await worker.dispatchFetch(`${BASE}/instance`)).json();

  for (const round of [1, 2]) {
    assert.equal(await instance(), round);
    const headers = { ...AUTHORIZED, "test-panic": "1" };
    const panicked = await worker.dispatchFetch(`${BASE}/v1/chat/topics/room`, { method: "POST", body: "lost", headers });
    assert.equal(panicked.status, 500);
    assert.match(await panicked.text(), /would never generate a response/);

    // Nothing here asks the gateway for anything, but the stream still runs through it.
    json.say({ type: "publish", request: 2, topic: "room", payload: `round ${round}` });
    await hear(`round ${round}`);

    const published = await publish(worker, "and on");
    assert.deepEqual([published.status, (await published.json()).offset], [200, 2 * round - 1]);
    assert.equal(await instance(), round + 1);
    await hear("and on");
    const { incarnation } = (await Client.ready(worker)).welcome;
    assert.equal(incarnation, json.welcome.incarnation);
    assert.equal(await lifeOf(knock), life);
  }
  for (const client of [json, binary]) assert.equal(client.closed, undefined);
  await stream.cancel();
});
