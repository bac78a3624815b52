// How many acknowledged publishes a second one object takes, and what travels at a deployment. Not a test: run it with
// `node test/bench.mjs`, and look at the load beside the numbers.
import { readdirSync, readFileSync } from "node:fs";
import { loadavg } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

import { Client } from "./clients.mjs";
import { startWorker, temporaryDirectory } from "./workerd.mjs";

const MEASURED_MS = 5_000;
const PAYLOAD = new Uint8Array(128);

const cleanUp = [];
const directory = temporaryDirectory({ after: (f) => cleanUp.push(f) });

/** Publishes with so many in flight, each client's commands of one turn in one message; returns acks a second. */
async function publish(worker, clients, inFlight) {
  const connected = await Promise.all(
    Array.from({ length: clients }, () => Client.ready(worker, { protocol: "dunlin.v1.binary" })),
  );
  const each = inFlight / clients;
  let acked = 0;
  let request = 0;
  const until = performance.now() + MEASURED_MS;
  const command = () => ({ type: "publish", request: (request += 1), topic: "bench", payload: PAYLOAD });
  await Promise.all(
    connected.map(async (client) => {
      client.say(...Array.from({ length: each }, command));
      while (performance.now() < until) {
        await client.next("receipt");
        const more = 1 + client.drop("receipt");
        acked += more;
        client.say(...Array.from({ length: more }, command));
      }
      client.close();
    }),
  );
  return Math.round((acked * 1_000) / MEASURED_MS);
}

const worker = startWorker({ directory });
console.log(`load ${loadavg().map((load) => load.toFixed(1)).join(" ")}`);
for (const [clients, inFlight] of [
  [1, 1],
  [1, 256],
  [16, 256],
  [64, 256],
]) {
  const rate = await publish(worker, clients, inFlight);
  console.log(`${String(rate).padStart(7)} acked publishes/s, ${clients} sockets, ${inFlight} in flight (load ${loadavg()[0].toFixed(1)})`);
}
await worker.dispose();
cleanUp.forEach((f) => f());

const dist = join(import.meta.dirname, "../dist/script");
for (const name of readdirSync(dist)) {
  const bytes = readFileSync(join(dist, name));
  console.log(`${name}: ${bytes.length} bytes, ${gzipSync(bytes, { level: 9 }).length} gzip`);
}
