// Messages a second through the broker in the page, in Node: `node bench.mjs [messages]`, after a build. For Chromium and
// IndexedDB the same function runs in any page. Prints the machine's load beside the numbers.
import { loadavg } from "node:os";

import { openLocal } from "dunlin";

const count = Number(process.argv[2] ?? 20_000);
const payload = new Uint8Array(128);

for (const window of [1, 16, 256]) {
  const publisher = await openLocal();
  const subscriber = await openLocal();
  const inbox = subscriber.subscribe("bench/#", { credit: 1024, lagMax: 100_000 });
  await inbox.ready;
  const started = performance.now();
  const heard = (async () => {
    for (let index = 0; index < count; index += 1) await inbox.next();
  })();
  for (let sent = 0; sent < count; sent += window) {
    await Promise.all(Array.from({ length: window }, () => publisher.publish("bench/a", payload)));
  }
  await heard;
  const perSecond = Math.round(count / ((performance.now() - started) / 1000));
  console.log(`window ${window}: ${perSecond} messages/s published, stored and delivered (load ${loadavg()[0]?.toFixed(2)})`);
  await publisher.close();
  await subscriber.close();
}
