// The door through which scenarios reach the bare guest in this runtime.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { importTypeScript } from "./clients.mjs";
import { buildWithDoors, startWorker, temporaryDirectory } from "./workerd.mjs";

const { decodeOutput, encodeInput } = await importTypeScript("../../wasm/ts/abi.ts");
const { decodeReplies, encodeCommand } = await importTypeScript("../../wasm/ts/frames.ts");

const cleanUp = [];
let dist;
let worker;

before(async () => {
  dist = await buildWithDoors(temporaryDirectory({ after: (f) => cleanUp.push(f) }));
  worker = startWorker({ dist, objects: { SCENARIO: "Scenario" } });
});
after(async () => {
  await worker.dispose();
  cleanUp.forEach((f) => f());
});

async function door(name) {
  const namespace = await worker.getDurableObjectNamespace("SCENARIO");
  const object = namespace.get(namespace.idFromName(name));
  return (path, body = "") => object.fetch(`http://door${path}`, { method: "POST", body });
}

test("what is deployed has none of the doors", () => {
  const inside = (directory) => readFileSync(join(directory, "index.js"), "utf8").match(/test-panic|\/crash|Scenario/g) ?? [];
  assert.deepEqual(inside(join(import.meta.dirname, "../dist/script")), []);
  assert.deepEqual(new Set(inside(dist)), new Set(["test-panic", "/crash", "Scenario"]));
});

test("an empty step puts out no effects", async () => {
  const knock = await door("empty");
  assert.equal((await knock("/start?seed=1", "{}")).status, 200);
  const output = new Uint8Array(await (await knock("/step?now=1000")).arrayBuffer());
  // No timeout, so it can sleep.
  assert.deepEqual([...output], [0, 1]);
});

test("the same inputs put out the same bytes", async () => {
  const outputs = [];
  for (const name of ["one", "two"]) {
    const knock = await door(name);
    await knock("/start?seed=7", "{}");
    const output = await (await knock("/step?now=1000", inputs(connect, frame(hello)))).arrayBuffer();
    outputs.push(Buffer.from(output).toString("hex"));
  }
  assert.ok(outputs[0].length > 40, outputs[0]);
  assert.equal(outputs[0], outputs[1]);
});

test("a new broker over the same rows reads what the last one wrote", async () => {
  const knock = await door("rows");
  const step = async (...given) => {
    const response = await knock("/step?now=1000", inputs(...given));
    assert.equal(response.status, 200, await response.clone().text());
    return decodeOutput(new Uint8Array(await response.arrayBuffer())).effects;
  };
  await knock("/start?seed=1", "{}");
  const payload = new TextEncoder().encode("kept");
  await step(connect, frame(hello, { type: "publish", request: 1, topic: "t", payload }));

  await knock("/start?seed=2", "{}");
  const effects = await step(connect, frame(hello, { type: "read", request: 2, topic: "t", partition: 0 }));
  const load = effects.find(({ kind }) => kind === "load");
  const answer = await knock("/load", encodeLoad(load));
  assert.equal(answer.status, 200, await answer.clone().text());
  const last = await knock("/step?now=1000", new Uint8Array(await answer.arrayBuffer()));
  const sends = decodeOutput(new Uint8Array(await last.arrayBuffer())).effects.filter(({ kind }) => kind === "send");
  const replies = sends.flatMap(({ to, body }) => to.flatMap(({ prefix }) => decodeReplies(Buffer.concat([prefix, body]))));
  const page = replies.find(({ type }) => type === "page");
  assert.deepEqual(page.records.map((record) => new TextDecoder().decode(record.payload)), ["kept"]);

  await knock("/clear");
  assert.equal((await (await knock("/rows")).arrayBuffer()).byteLength, 0);
});

test("SQLite answers like the map in memory, whatever is written and asked", async () => {
  const knock = await door("compare");
  for (const seed of [1, 2, 3]) {
    const response = await knock(`/compare?seed=${seed}`);
    assert.equal(response.status, 200, await response.clone().text());
    const { writes, rows } = await response.json();
    assert.ok(writes > 500 && rows > 1_000, `${writes} writes, ${rows} rows`);
  }
});

test("a trap is a 500, and the next start begins anew", async () => {
  const knock = await door("trap");
  await knock("/start?seed=1", "{}");
  const trapped = await knock("/step?now=1", Uint8Array.of(255));
  assert.equal(trapped.status, 500);
  assert.match(await trapped.text(), /RuntimeError/);
  assert.equal((await knock("/start?seed=2", "{}")).status, 200);
  assert.equal((await knock("/step?now=2")).status, 200);
});

test("a wrong knock says what is wrong", async () => {
  const knock = await door("wrong");
  assert.equal((await knock("/nowhere")).status, 404);
  const unready = await knock("/step?now=1");
  assert.deepEqual([unready.status, await unready.text()], [400, "Error: the engine is not started"]);
  const config = await knock("/start?seed=1", "[]");
  assert.equal(config.status, 400);
});

const hello = { type: "hello", version: 1 };
const claims = { namespace: "n", user: "", device: "", rights: 31 };
const connect = { kind: "connect", connection: 1, encoding: "binary", claims, ip: new Uint8Array() };

function frame(...commands) {
  return { kind: "frame", connection: 1, bytes: Buffer.concat(commands.map((command) => encodeCommand(command))) };
}

function inputs(...given) {
  return Buffer.concat(given.map((input) => encodeInput(input)));
}

/** A load as the broker spells it; everything in it is short. */
function encodeLoad({ ticket, from, to, reverse, rowsMax, bytesMax }) {
  return Uint8Array.from([2, ticket, from.length, ...from, to.length, ...to, reverse ? 1 : 0, ...varint(rowsMax), ...varint(bytesMax)]);
}

function varint(value) {
  return value < 128 ? [value] : [(value % 128) | 128, ...varint(Math.floor(value / 128))];
}
