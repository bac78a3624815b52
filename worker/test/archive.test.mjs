// A namespace as an archive over HTTP, out of an object and into another.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, test } from "node:test";

import { refusal } from "./clients.mjs";
import { BASE, startWorker, TOKENS } from "./workerd.mjs";

const TOKENS_OF_THREE = { ...TOKENS, third: "third-token-0123456789" };

let worker;
before(() => (worker = startWorker({ bindings: { DUNLIN_TOKENS: TOKENS_OF_THREE, DUNLIN_CONFIG: '{"archive_part_bytes":65536}' } })));
after(() => worker.dispose());

const ask = (namespace, path, init = {}) =>
  worker.dispatchFetch(`${BASE}/v1/${namespace}/${path}`, { ...init, headers: { authorization: `Bearer ${TOKENS_OF_THREE[namespace]}` } });
const publish = async (namespace, topic, body) => {
  const response = await ask(namespace, `topics/${topic}`, { method: "POST", body });
  assert.equal(response.status, 200, await response.clone().text());
};
const exported = async (namespace) => {
  const response = await ask(namespace, "export");
  const header = (name) => response.headers.get(name);
  assert.deepEqual(
    [response.status, header("content-type"), header("content-disposition")],
    [200, "application/vnd.dunlin.archive", `attachment; filename="${namespace}.dunlin"`],
  );
  return new Uint8Array(await response.arrayBuffer());
};
const imported = (namespace, body) => ask(namespace, "import", { method: "PUT", body });
const history = async (namespace, topic) => (await ask(namespace, `topics/${topic}?from=earliest`)).text();

test("a namespace moves to another, whole, and back out of that the same", async () => {
  for (let n = 0; n < 5; n += 1) await publish("chat", "large", randomBytes(600_000));
  for (const payload of ["one", "two", "three"]) await publish("chat", "room/1", payload);
  const archive = await exported("chat");
  assert.equal(Buffer.from(archive.subarray(0, 8)).toString("latin1"), "dunlin\0\x01");
  assert.ok(archive.length > 2 * 1024 * 1024, `${archive.length} bytes are no two parts`);

  const response = await imported("other", archive);
  assert.equal(response.status, 200, await response.clone().text());
  assert.ok((await response.json()).rows > 5);
  for (const topic of ["room/1", "large"]) assert.equal(await history("other", topic), await history("chat", topic));
  const again = await exported("other");
  const behindManifest = (bytes) => Buffer.from(bytes.subarray(bytes.length - 3_000_000)).toString("base64");
  assert.equal(behindManifest(again), behindManifest(archive));

  const { offset } = await (await ask("other", "topics/room/1", { method: "POST", body: "four" })).json();
  assert.equal(offset, 3);
  // It is refused before it is read: of a longer one the client might hear only that nobody takes the rest.
  const full = await refusal(await imported("other", archive.subarray(0, 4096)));
  assert.notEqual(full.status, 200, full.message);
});

test("an archive that is damaged or cut off is refused with the place, and leaves nothing", async () => {
  await publish("chat", "room/1", "kept");
  const archive = await exported("chat");
  const flipped = archive.slice();
  flipped[archive.length - 100] ^= 1;
  for (const [what, body, where] of [
    ["flipped", flipped, /at byte \d+/],
    ["cut off", archive.subarray(0, archive.length - 1), /at byte \d+/],
    ["cut in half", archive.subarray(0, archive.length / 2), /at byte \d+/],
    ["longer", Buffer.concat([archive, Uint8Array.of(0)]), /at byte \d+/],
    ["no archive", "hello", /does not begin like one/],
    ["empty", "", /cut off at byte 0/],
  ]) {
    const { status, code, message } = await refusal(await imported("third", body));
    assert.deepEqual([status, code], [400, "invalid_archive"], what);
    assert.match(message, where, what);
  }
  assert.equal((await refusal(await ask("third", "topics/room/1?from=earliest"))).code, "unknown_topic");
  assert.equal((await imported("third", archive)).status, 200);
});

test("only who holds the token gets an archive, and only by its header", async () => {
  for (const [method, path] of [
    ["GET", "export"],
    ["PUT", "import"],
  ]) {
    for (const query of ["", `?token=${TOKENS.chat}`]) {
      const response = await worker.dispatchFetch(`${BASE}/v1/chat/${path}${query}`, { method });
      assert.deepEqual([(await refusal(response)).status], [401]);
    }
  }
  const wrong = await refusal(await ask("chat", "export", { method: "PUT", body: "x" }));
  assert.deepEqual([wrong.status, wrong.code], [405, "method_not_allowed"]);
});

test("an export that is given up in the middle disturbs nobody", async () => {
  await publish("chat", "large", randomBytes(600_000));
  for (let n = 0; n < 3; n += 1) {
    const reader = (await ask("chat", "export")).body.getReader();
    await reader.read();
    await reader.cancel();
  }
  await publish("chat", "room/1", "goes on");
  assert.ok((await exported("chat")).length > 600_000);
});
