import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { startWorker } from "./workerd.mjs";

/** @type {ReturnType<typeof startWorker>} */
let worker;

before(() => {
  worker = startWorker();
});

after(() => worker.dispose());

test("healthz answers that the gateway runs", async () => {
  const response = await worker.dispatchFetch("http://dunlin/healthz");
  assert.equal(response.status, 200);
  assert.equal(await response.text(), "ok");
});

test("an unknown path is refused by name", async () => {
  const response = await worker.dispatchFetch("http://dunlin/nowhere");
  assert.equal(response.status, 404);
  assert.equal(await response.text(), "no route /nowhere");
});
