// A program in Node, as a user would write it.
import assert from "node:assert/strict";

import { DunlinError, connect, openLocal } from "dunlin";
import { openLocal as openInline } from "dunlin/inline";

const broker = process.argv[2];
for (const open of [openLocal, openInline, () => connect(broker, { namespace: "node", clientName: "packaging" })]) {
  const alice = await open();
  const bob = await open();
  const inbox = bob.subscribe("chat/#");
  await inbox.ready;
  const receipt = await alice.publish("chat/room", "hello", { key: "alice", headers: [["lang", "en"]] });
  const { value: message } = await inbox.next();
  assert.equal(message.text(), "hello");
  assert.deepEqual(message.headers, [["lang", "en"]]);
  assert.deepEqual([message.offset, message.sequence], [receipt.offset, receipt.sequence]);
  const stored = [];
  for await (const { key } of bob.history("chat/room")) stored.push(key);
  assert.deepEqual(stored, ["alice"]);
  for await (const job of bob.group("readers").joinQueue("chat/#")) {
    assert.deepEqual([job.text(), job.attempt], ["hello", 1]);
    await job.ack();
    break;
  }
  assert.equal((await alice.group("readers").describe()).partitions[0].lag, 0);
  await alice.close();
  await bob.close();
}

await assert.rejects(connect("ws://127.0.0.1:1"), (error) => {
  assert.ok(error instanceof DunlinError);
  assert.equal(error.code, "connection_failed");
  assert.match(error.message, /ws:\/\/127\.0\.0\.1:1\/v1\/default\/connect: .*ECONNREFUSED/);
  return true;
});
console.log("ok");
