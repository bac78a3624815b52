// Who a client says it is, as the rate limits of users notice it at the edge, over WebSockets and HTTP.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { Client, EventStream, refusal } from "./clients.mjs";
import { AUTHORIZED, BASE, startWorker } from "./workerd.mjs";

describe("who a client says it is", () => {
  let worker;
  before(() => (worker = startWorker()));
  after(() => worker.dispose());

  const ask = (path, init = {}) => worker.dispatchFetch(BASE + path, { headers: AUTHORIZED, ...init });
  const post = (query) => ask(`/v1/chat/topics/t${query}`, { method: "POST", body: "x" });
  const open = (query) => Client.ready(worker, { path: `/v1/chat/connect${query}` });

  test("counts over all ways to publish", async () => {
    const nobody = await open("");
    nobody.say({ type: "configure_limit", request: 1, scope: "user", name: "Ann Bé+", rate: 1, per_ms: 3_600_000, burst: 3 });
    await nobody.next("ok");
    const who = "user=Ann%20B%C3%A9+";
    const [phone, laptop] = [await open(`?${who}&device=phone`), await open(`?device=laptop&${who}`)];
    const publish = { type: "publish", request: 2, topic: "t", payload: "x" };
    for (const client of [phone, laptop]) {
      client.say(publish);
      await client.next("receipt");
    }
    assert.equal((await post(`?${who}`)).status, 200);
    for (const client of [phone, laptop]) {
      client.say(publish);
      const { code, message } = await client.next("error");
      assert.equal(code, "rate_limited");
      assert.match(message, /over the limit of user "Ann Bé\+"/);
    }
    const refused = await refusal(await post(`?${who}&device=tablet`));
    assert.deepEqual([refused.status, refused.code], [429, "rate_limited"]);
    for (const other of ["?user=ben", "", "", "", ""]) assert.equal((await post(other)).status, 200);
  });

  test("is refused where it cannot be", async () => {
    for (const [query, why] of [
      ["?device=phone", "a device is a user's; name the user too"],
      [`?user=${"u".repeat(257)}`, "the user has 257 bytes; use at most 256"],
      ["?user=a&device=b%0A", "the device has the control character U+000A; leave it out"],
    ]) {
      const answer = await refusal(await ask(`/v1/chat/limits${query}`));
      assert.deepEqual(answer, { status: 400, code: "invalid_argument", message: why });
      const socket = await Client.open(worker, { path: `/v1/chat/connect${query}` });
      socket.say({ type: "hello", version: 1 });
      assert.deepEqual(await socket.ended(), { code: 4008, reason: `invalid_argument: ${why}` });
    }
    for (const [query, code] of [["?user=", "invalid_argument"], ["?user=a&user=b", "invalid_argument"], ["?user=%zz", "malformed_request"]]) {
      for (const path of ["limits", "connect"]) {
        const answer = await refusal(await ask(`/v1/chat/${path}${query}`, { headers: { ...AUTHORIZED, upgrade: "websocket" } }));
        assert.deepEqual([answer.status, answer.code], [400, code], `${path}${query}`);
      }
    }
  });

  test("may stand beside what a stream asks for", async () => {
    const stream = new EventStream(await ask("/v1/chat/subscribe?filter=s&user=ann&device=phone"));
    await stream.next();
    await ask("/v1/chat/topics/s?user=ann", { method: "POST", body: "heard" });
    assert.equal(JSON.parse((await stream.next()).data).payload, "heard");
    await stream.cancel();
  });
});
