// The door through which scenarios reach the bare guest in this runtime.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { buildWithDoors, startWorker, temporaryDirectory } from "./workerd.mjs";

const cleanUp = [];
let worker;

before(async () => {
  const dist = await buildWithDoors(temporaryDirectory({ after: (f) => cleanUp.push(f) }));
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

test("an empty step puts out no effects", async () => {
  const knock = await door("empty");
  assert.equal((await knock("/start?seed=1", "{}")).status, 200);
  const output = new Uint8Array(await (await knock("/step?now=1000")).arrayBuffer());
  assert.deepEqual([...output], [0]);
});

test("the same inputs put out the same bytes", async () => {
  const outputs = [];
  for (const name of ["one", "two"]) {
    const knock = await door(name);
    await knock("/start?seed=7", "{}");
    const hello = frame(1, [2, 1, 1]);
    const output = await (await knock("/step?now=1000", Buffer.concat([connect(1), hello]))).arrayBuffer();
    outputs.push(Buffer.from(output).toString("hex"));
  }
  assert.ok(outputs[0].length > 4, outputs[0]);
  assert.equal(outputs[0], outputs[1]);
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

/** An input with its length in front: `connect` to the namespace "n" with every right. */
function connect(connection) {
  const body = [1, connection, 0, 1, "n".charCodeAt(0), 0, 0, 31, 0];
  return Buffer.from([body.length, ...body]);
}

function frame(connection, bytes) {
  const body = [2, connection, ...bytes];
  return Buffer.from([body.length, ...body]);
}
