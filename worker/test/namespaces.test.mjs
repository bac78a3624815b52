// Namespaces at the edge, as an operator bounds, watches and deletes them.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { refusal } from "./clients.mjs";
import { BASE, startWorker } from "./workerd.mjs";

const OPERATOR = "operator-operator";
const TENANT = "tenant-of-the-chat";
const bearer = (token) => ({ authorization: `Bearer ${token}` });

describe("an operator", () => {
  let worker;
  before(() => {
    const tokens = JSON.stringify({ chat: TENANT, other: "another-tenants-token" });
    worker = startWorker({ bindings: { DUNLIN_TOKENS: tokens, DUNLIN_OPERATOR_TOKEN: OPERATOR } });
  });
  after(() => worker.dispose());

  const ask = (method, path, token, body) =>
    worker.dispatchFetch(BASE + path, { method, headers: bearer(token), ...(body && { body }) });

  test("bounds a namespace, watches it and deletes it with everything in it", async () => {
    const place = "/v1/namespaces/chat";
    const topic = "/v1/chat/topics/a";
    const set = await ask("PUT", place, OPERATOR, '{"topics_max":1}');
    assert.equal(set.status, 200);
    const quotas = await set.json();
    assert.deepEqual([quotas.namespace, quotas.topics_max, quotas.publish_rate], ["chat", 1, 1000]);
    assert.equal((await ask("POST", topic, TENANT, "hello")).status, 200);
    const second = await refusal(await ask("POST", "/v1/chat/topics/b", TENANT, "hello"));
    assert.deepEqual([second.status, second.code], [429, "limit_reached"]);
    const used = await (await ask("GET", `${place}?days=1`, OPERATOR)).json();
    assert.deepEqual([used.topics, used.usage[0].messages, used.usage[0].bytes], [1, 1, 5]);
    const deleted = await ask("DELETE", place, OPERATOR);
    assert.deepEqual(await deleted.json(), { ok: true });
    const gone = await refusal(await ask("GET", topic, TENANT));
    assert.deepEqual([gone.status, gone.code], [404, "unknown_topic"]);
  });

  test("lists the namespaces that have tokens", async () => {
    const list = await ask("GET", "/v1/namespaces", OPERATOR);
    assert.deepEqual(await list.json(), { namespaces: ["chat", "other"], more: false });
  });

  test("is nobody else", async () => {
    for (const [method, path, expected] of [
      ["GET", "/v1/namespaces", [401, "unauthorised"]],
      ["PUT", "/v1/namespaces/other", [401, "unauthorised"]],
      ["PUT", "/v1/namespaces/chat", [403, "forbidden"]],
      ["DELETE", "/v1/namespaces/chat", [403, "forbidden"]],
    ]) {
      const { status, code } = await refusal(await ask(method, path, TENANT));
      assert.deepEqual([status, code], expected, `${method} ${path}`);
    }
  });
});
