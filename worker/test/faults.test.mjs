// The broker traps, its object is aborted, its storage fails, another script is deployed: all while clients publish.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { setTimeout as wait } from "node:timers/promises";

import { Client } from "./clients.mjs";
import { Traffic } from "./traffic.mjs";
import { AUTHORIZED, BASE, buildWithDoors, startWithDoors, TOKENS, temporaryDirectory, workerOptions } from "./workerd.mjs";

const cleanUp = [];
let dist;
before(async () => (dist = await buildWithDoors(temporaryDirectory({ after: (f) => cleanUp.push(f) }))));
after(() => cleanUp.forEach((f) => f()));

describe("what was acknowledged is there, once and in order,", { concurrency: true }, () => {
  test("when the guest traps again and again, and the sockets stay open", async (context) => {
    const { worker, knock } = startWithDoors(context, { dist });
    const idle = await Promise.all(["dunlin.v1.json", "dunlin.v1.binary"].map((protocol) => Client.ready(worker, { protocol })));
    const traffic = await Traffic.start(worker);
    for (let trap = 0; trap < 3; trap += 1) {
      await knock("/crash");
      for (const client of idle) await client.next("resync");
      await traffic.progress();
    }
    assert.equal(traffic.reconnects, 0);
    for (const client of idle) assert.equal(client.closed, undefined);

    // One that does not hold any more is not restored at once for ever: everybody is sent away for a while.
    await knock("/crash");
    for (const client of idle) assert.deepEqual([(await client.ended()).code, client.closed.reason.split(":")[0]], [4002, "storage_unavailable"]);
    await traffic.progress();
    assert.ok(traffic.reconnects > 0);
    const { acknowledged } = await traffic.check();
    assert.ok(acknowledged > 200, `only ${acknowledged}`);
  });

  test("when the object is aborted", async (context) => {
    const { worker, knock } = startWithDoors(context, { dist });
    const traffic = await Traffic.start(worker);
    for (let abort = 0; abort < 2; abort += 1) {
      await assert.rejects(knock("/abort"), /as the test asked/);
      await traffic.progress();
    }
    assert.ok(traffic.reconnects > 0);
    await traffic.check();
  });

  for (const [what, fault] of [
    ["the disk is full in the middle of a batch", "full"],
    ["a row is larger than the runtime takes", "large"],
    ["a commit fails when everything was written", "commit"],
  ]) {
    test(`when ${what}`, async (context) => {
      const { worker, knock } = startWithDoors(context, { dist });
      const traffic = await Traffic.start(worker);
      await knock(`/break?fault=${fault}`);
      await traffic.progress();
      await traffic.check();
    });
  }

  test("when another script with another configuration is deployed, and a third", async (context) => {
    const directory = temporaryDirectory(context);
    const { worker } = startWithDoors(context, { dist, directory });
    const port = Number((await worker.ready).port);
    const traffic = await Traffic.start(worker);
    for (const [credit_max, script] of [
      [5_000, undefined],
      [6_000, dist],
    ]) {
      const bindings = { DUNLIN_TOKENS: TOKENS, DUNLIN_CONFIG: JSON.stringify({ credit_max }) };
      await worker.setOptions({ ...workerOptions({ bindings, directory, dist: script }), port });
      await traffic.progress();
      assert.equal((await Client.ready(worker)).welcome.credit_max, credit_max);
    }
    assert.ok(traffic.reconnects > 0);
    await traffic.check();
  });
});

const publish = (worker, body) => worker.dispatchFetch(`${BASE}/v1/chat/topics/room`, { method: "POST", body, headers: AUTHORIZED });

test("a command that is held back when the broker traps is answered at once", async (context) => {
  const { worker, knock } = startWithDoors(context, { dist });
  const slow = await Client.ready(worker);
  slow.say({ type: "subscribe", request: 1, subscription: 1, filter: "room", credit: 0, on_lag: "block", lag_max: 1 });
  await slow.next("subscribed");
  await publish(worker, "taken");
  const held = publish(worker, "held");
  // There is an alarm behind the time at which it will be refused.
  while ((await (await knock("/alarm")).json()) === null);
  await knock("/crash");
  slow.say({ type: "ping", request: 2 });
  const response = await held;
  assert.deepEqual([response.status, (await response.json()).code], [503, "storage_unavailable"]);
});

test("an import that the broker traps in leaves nothing, and can be begun again", async (context) => {
  const { worker, knock } = startWithDoors(context, { dist });
  const ask = (namespace, path, init) =>
    worker.dispatchFetch(`${BASE}/v1/${namespace}/${path}`, { ...init, headers: { authorization: `Bearer ${TOKENS[namespace]}` } });
  for (let n = 0; n < 3; n += 1) await ask("other", "topics/large", { method: "POST", body: randomBytes(600_000) });
  const archive = new Uint8Array(await (await ask("other", "export")).arrayBuffer());
  let given = 0;
  const body = new ReadableStream({
    async pull(controller) {
      controller.enqueue(archive.subarray(given, given + 300_000));
      given += 300_000;
      if (given === 1_200_000) await knock("/crash");
      if (given >= archive.length) controller.close();
    },
  });
  const refused = await ask("chat", "import", { method: "PUT", body, duplex: "half" });
  assert.notEqual(refused.status, 200);
  assert.match((await refused.json()).code, /^(storage_unavailable|unknown_transfer)$/);
  assert.equal((await (await ask("chat", "topics/large?from=earliest")).json()).code, "unknown_topic");

  const again = await ask("chat", "import", { method: "PUT", body: archive });
  assert.equal(again.status, 200, await again.clone().text());
  const [moved, there] = await Promise.all(["chat", "other"].map(async (name) => (await ask(name, "topics/large?from=earliest")).text()));
  assert.equal(moved, there);
});

test("without a place for its own notes the object promises nothing, and says so", async (context) => {
  const { worker, knock } = startWithDoors(context, { dist });
  await publish(worker, "before");
  // Once it is quiet the object notes that; the note that it is not any more fails, and so does the batch.
  while (!(await (await knock("/settled")).json()));
  await knock("/break?fault=mute&times=2");
  const refused = await publish(worker, "lost");
  assert.deepEqual([refused.status, (await refused.json()).code], [503, "storage_unavailable"]);
});

test("a limit that adapts learns how long commits take, and slows down publishers", async (context) => {
  const config = { limits: [{ scope: "namespace", rate: 1_000, adaptive: true }] };
  const bindings = { DUNLIN_TOKENS: TOKENS, DUNLIN_CONFIG: JSON.stringify(config) };
  const factors = await Promise.all(
    ["", "/break?fault=slow"].map(async (fault) => {
      const { worker, knock } = startWithDoors(context, { dist, bindings });
      if (fault !== "") await knock(fault);
      const client = await Client.ready(worker);
      // It looks at what it learned every ten seconds, counted from its first use.
      for (const [request, pauseMs] of [[1, 10_500], [2, 0]]) {
        client.say({ type: "publish", request, topic: "room", payload: "x" });
        await client.next("receipt");
        await wait(pauseMs);
      }
      client.say({ type: "list_limits", request: 3 });
      return (await client.next("limits")).limits[0].factor;
    }),
  );
  assert.deepEqual(factors, [1_000, 700]);
});
