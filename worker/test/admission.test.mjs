// Who may come in at the gateway, and what is said to those who may not.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { refusal } from "./clients.mjs";
import { AUTHORIZED, BASE, startWorker, TOKENS } from "./workerd.mjs";

const bearer = (token) => ({ authorization: `Bearer ${token}` });
const upgrade = { upgrade: "websocket" };

describe("without a token", () => {
  let worker;
  before(() => (worker = startWorker({ bindings: {} })));
  after(() => worker.dispose());

  test("healthz answers", async () => {
    const response = await worker.dispatchFetch(`${BASE}/healthz`);
    assert.equal(response.status, 200);
    assert.equal(await response.text(), '{"ok":true}\n');
  });

  for (const path of ["/", "/readyz", "/index.html", "/v1/chat/topics/a", "/v1/chat/connect", "/v1/chat/subscribe?filter=a"]) {
    test(`${path} is closed to everybody`, async () => {
      const response = await worker.dispatchFetch(BASE + path, { headers: bearer("undefined") });
      assert.equal(response.headers.get("www-authenticate"), "Bearer");
      const { status, code, message } = await refusal(response);
      assert.deepEqual([status, code], [401, "unauthorised"]);
      assert.match(message, /no token is configured.*DUNLIN_TOKENS/);
    });
  }
});

describe("with settings that cannot be read", () => {
  for (const [what, bindings, expected] of [
    ["tokens that are no JSON", { DUNLIN_TOKENS: "chat=secret" }, /DUNLIN_TOKENS is not a JSON object/],
    ["a short token", { DUNLIN_TOKENS: '{"chat":"short"}' }, /"chat" has 5 bytes, at least 16/],
    ["origins that are none", { DUNLIN_TOKENS: "{}", DUNLIN_ORIGINS: "app.example" }, /"app.example" is not an origin/],
  ]) {
    test(`${what} are told by name, and nobody comes in`, async (context) => {
      const worker = startWorker({ bindings });
      context.after(() => worker.dispose());
      const { status, code, message } = await refusal(
        await worker.dispatchFetch(`${BASE}/v1/chat/topics/a`, { headers: AUTHORIZED }),
      );
      assert.deepEqual([status, code], [500, "misconfigured"]);
      assert.match(message, expected);
    });
  }
});

describe("with tokens", () => {
  let worker;
  before(() => (worker = startWorker({ bindings: { DUNLIN_TOKENS: TOKENS, DUNLIN_ORIGINS: "https://app.example" } })));
  after(() => worker.dispose());

  const ask = (path, init) => worker.dispatchFetch(BASE + path, init);

  for (const [what, path, init] of [
    ["no token", "/v1/chat/topics/a", {}],
    ["another namespace's token", "/v1/chat/topics/a", { headers: bearer(TOKENS.other) }],
    ["a token with something behind it", "/v1/chat/topics/a", { headers: bearer(`${TOKENS.chat}x`) }],
    ["a token as another scheme", "/v1/chat/topics/a", { headers: { authorization: `Basic ${TOKENS.chat}` } }],
    ["a namespace that nobody has a token for", "/v1/nowhere/topics/a", { headers: AUTHORIZED }],
    ["a token in the URL of a history", `/v1/chat/topics/a?token=${TOKENS.chat}`, {}],
    ["a token in the URL of a publish", `/v1/chat/topics/a?token=${TOKENS.chat}`, { method: "POST", body: "x" }],
    ["a wrong token in the URL of a socket", "/v1/chat/connect?token=wrong", { headers: upgrade }],
    ["a wrong header, though the URL is right", `/v1/chat/connect?token=${TOKENS.chat}`, { headers: { ...upgrade, ...bearer("wrong") } }],
  ]) {
    test(`${what} opens nothing`, async () => {
      const response = await ask(path, init);
      assert.equal(response.headers.get("www-authenticate"), "Bearer");
      const { status, code, message } = await refusal(response);
      assert.deepEqual([status, code], [401, "unauthorised"]);
      for (const token of Object.values(TOKENS)) assert.ok(!message.includes(token));
    });
  }

  test("a token in the URL opens a socket", async () => {
    const response = await ask(`/v1/chat/connect?token=${TOKENS.chat}`, { headers: upgrade });
    assert.equal(response.status, 101);
    response.webSocket.accept();
    response.webSocket.close();
  });

  for (const [what, path, init, expected] of [
    ["a path under no namespace", "/v1/", {}, [404, "unknown_namespace", /1 to 64/]],
    ["an escape that is none", "/v1/chat/topics/a%4", {}, [400, "malformed_request", /%25/]],
    ["a topic that is no UTF-8", "/v1/chat/topics/%ff", {}, [400, "malformed_request", /UTF-8/]],
    ["a namespace that is too long", `/v1/${"n".repeat(65)}/topics/a`, {}, [404, "unknown_namespace", /1 to 64/]],
    ["an unknown path of a namespace", "/v1/chat/topic/a", {}, [404, "unknown_route", /\/v1\/chat\/topic\/a/]],
    ["an unknown path", "/v2/chat", {}, [404, "unknown_route", /\/v2\/chat/]],
    ["a method that is not possible", "/v1/chat/topics/a", { method: "DELETE" }, [405, "method_not_allowed", /DELETE/]],
    ["a URL that is too long", `/v1/chat/topics/${"a".repeat(17_000)}`, {}, [414, "too_large", /16384/]],
    ["a socket without an upgrade", "/v1/chat/connect", {}, [426, "upgrade_required", /WebSocket client/]],
    ["an unknown subprotocol", "/v1/chat/connect", { headers: { ...upgrade, "sec-websocket-protocol": "mqtt" } }, [400, "unsupported_version", /"mqtt"/]],
    ["a history with an unknown parameter", "/v1/chat/topics/a?form=earliest", {}, [400, "invalid_argument", /form/]],
    ["a history of nothing", "/v1/chat/topics/a?limit=0", {}, [400, "invalid_argument", /limit 0/]],
    ["a partition below zero", "/v1/chat/topics/a?partition=-1", {}, [400, "invalid_argument", /partition/]],
    ["events without a filter", "/v1/chat/subscribe", {}, [400, "invalid_argument", /filter/]],
    ["an unknown header of ours", "/v1/chat/topics/a", { method: "POST", body: "x", headers: { "dunlin-prio": "1" } }, [400, "invalid_argument", /dunlin-prio/]],
    ["a lifetime that is no number", "/v1/chat/topics/a", { method: "POST", body: "x", headers: { "dunlin-ttl-ms": "soon" } }, [400, "invalid_argument", /dunlin-ttl-ms/]],
    ["a body that is too large", "/v1/chat/topics/a", { method: "POST", body: new Uint8Array(1_200_000) }, [413, "too_large", /1179648/]],
  ]) {
    test(`${what} is refused by name`, async () => {
      const response = await ask(path, { ...init, headers: { ...AUTHORIZED, ...init.headers } });
      const { status, code, message } = await refusal(response);
      assert.deepEqual([status, code], expected.slice(0, 2), message);
      assert.match(message, expected[2]);
    });
  }

  test("a body without an end is given up at the bound", async () => {
    const much = 64 * 1024 * 1024;
    let given = 0;
    const body = new ReadableStream({
      pull(controller) {
        given += 65_536;
        controller.enqueue(new Uint8Array(65_536));
        if (given >= much) controller.close();
      },
    });
    try {
      const response = await ask("/v1/chat/topics/a", { method: "POST", body, duplex: "half", headers: AUTHORIZED });
      assert.deepEqual([response.status, (await response.json()).code], [413, "too_large"]);
    } catch (error) {
      // Who is still sending may see only that the connection is closed.
      assert.equal(error.message, "fetch failed");
    }
    assert.ok(given < much, `${given} bytes were read`);
  });

  test("pages of other hosts come in only if they are named", async () => {
    const headers = { origin: "https://evil.example", ...AUTHORIZED };
    const { status, code, message } = await refusal(await ask("/v1/chat/topics/a", { headers }));
    assert.deepEqual([status, code], [403, "forbidden_origin"]);
    assert.match(message, /https:\/\/evil\.example.*DUNLIN_ORIGINS/);
    const socket = await ask("/v1/chat/connect", { headers: { ...headers, ...upgrade } });
    assert.equal(socket.status, 403);
  });

  test("a named page learns that it may ask, and may read the answer", async () => {
    const origin = "https://app.example";
    const preflight = await ask("/v1/chat/topics/a", {
      method: "OPTIONS",
      headers: { origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization,dunlin-key" },
    });
    assert.equal(preflight.status, 204);
    assert.equal(preflight.headers.get("access-control-allow-origin"), origin);
    assert.equal(preflight.headers.get("access-control-allow-headers"), "authorization,dunlin-key");
    assert.match(preflight.headers.get("access-control-allow-methods"), /POST/);
    const refused = await ask("/v1/chat/topics/a", { headers: { origin } });
    assert.equal(refused.status, 401);
    assert.equal(refused.headers.get("access-control-allow-origin"), origin);
  });

  test("readyz answers", async () => {
    assert.equal((await ask("/readyz")).status, 200);
  });
});
