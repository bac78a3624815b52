// How many acknowledged publishes a second one object takes, beside what an object takes that stores the same bytes in
// as few rows and knows nothing else, and what travels at a deployment. Not a test: run it with `node test/bench.mjs`,
// and look at the load beside the numbers.
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { loadavg } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

import { Miniflare } from "miniflare";

import { Client, importTypeScript } from "./clients.mjs";
import { BASE, startWorker, temporaryDirectory } from "./workerd.mjs";

const { encodeCommand } = await importTypeScript("../../wasm/ts/frames.ts");

const MEASURED_MS = 5_000;
const PAYLOAD = new Uint8Array(128);
const command = (request) => ({ type: "publish", request, topic: "bench", payload: PAYLOAD });

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
  const next = () => command((request += 1));
  await Promise.all(
    connected.map(async (client) => {
      client.say(...Array.from({ length: each }, next));
      while (performance.now() < until) {
        await client.next("receipt");
        const more = 1 + client.drop("receipt");
        acked += more;
        client.say(...Array.from({ length: more }, next));
      }
      client.close();
    }),
  );
  return Math.round((acked * 1_000) / MEASURED_MS);
}

/** Gathers the messages of a turn, stores them as one row beside two that change, and answers how many they were. */
const BARE = `
import { DurableObject } from "cloudflare:workers";
const PUT = "INSERT INTO rows (k, v) VALUES (?, ?) ON CONFLICT (k) DO UPDATE SET v = excluded.v";
export default { fetch: (request, env) => env.BARE.getByName("bench").fetch(request) };
export class Bare extends DurableObject {
  #gathered = [];
  #batch = 0;
  constructor(context, env) {
    super(context, env);
    context.storage.sql.exec("CREATE TABLE IF NOT EXISTS rows (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID");
  }
  fetch() {
    const { 0: client, 1: server } = new WebSocketPair();
    this.ctx.acceptWebSocket(server);
    server.binaryType = "arraybuffer";
    return new Response(null, { status: 101, webSocket: client });
  }
  webSocketMessage(socket, message) {
    if (this.#gathered.length === 0) setTimeout(() => this.#turn(), 0);
    this.#gathered.push({ socket, message: new Uint8Array(message) });
  }
  #turn() {
    const gathered = this.#gathered.splice(0);
    const value = new Uint8Array(gathered.reduce((sum, { message }) => sum + message.length, 0));
    let at = 0;
    for (const { message } of gathered) {
      value.set(message, at);
      at += message.length;
    }
    const key = new Uint8Array(8);
    new DataView(key.buffer).setUint32(4, (this.#batch += 1));
    this.ctx.storage.transactionSync(() => {
      this.ctx.storage.sql.exec(PUT, key, value);
      for (const n of [1, 2]) this.ctx.storage.sql.exec(PUT, Uint8Array.of(n), key);
    });
    for (const { socket, message } of gathered) socket.send(message.subarray(0, message.length / SIZE));
  }
}`;

/** The same traffic to the object that only stores. */
async function publishBare(worker, clients, inFlight) {
  let acked = 0;
  const frame = encodeCommand(command(1));
  const until = performance.now() + MEASURED_MS;
  const message = (count) => Buffer.concat(Array.from({ length: count }, () => frame));
  await Promise.all(
    Array.from({ length: clients }, async () => {
      const { webSocket: socket } = await worker.dispatchFetch(BASE, { headers: { upgrade: "websocket" } });
      socket.accept();
      await new Promise((resolve) => {
        socket.addEventListener("message", ({ data }) => {
          acked += data.byteLength;
          if (performance.now() < until) socket.send(message(data.byteLength));
          else resolve(socket.close(1000, ""));
        });
        socket.send(message(inFlight / clients));
      });
    }),
  );
  return Math.round((acked * 1_000) / MEASURED_MS);
}

const worker = startWorker({ directory: join(directory, "dunlin") });
const bareDirectory = join(directory, "bare");
mkdirSync(bareDirectory);
const bare = new Miniflare({
  modules: true,
  script: BARE.replace("SIZE", String(encodeCommand(command(1)).length)),
  compatibilityDate: "2026-04-26",
  cf: false,
  durableObjects: { BARE: { className: "Bare", useSQLite: true } },
  defaultPersistRoot: bareDirectory,
});
console.log(`load ${loadavg().map((load) => load.toFixed(1)).join(" ")}, objects in ${directory}`);
for (const [clients, inFlight] of [
  [1, 1],
  [1, 256],
  [16, 256],
  [64, 256],
]) {
  const rate = await publish(worker, clients, inFlight);
  const stored = await publishBare(bare, clients, inFlight);
  const ratio = Math.round((100 * rate) / stored);
  console.log(
    `${String(rate).padStart(7)} acked publishes/s, ${clients} sockets, ${inFlight} in flight: ${ratio} % of the ${stored} that are only stored (load ${loadavg()[0].toFixed(1)})`,
  );
}
await Promise.all([worker.dispose(), bare.dispose()]);
cleanUp.forEach((f) => f());

const dist = join(import.meta.dirname, "../dist/script");
for (const name of readdirSync(dist)) {
  const bytes = readFileSync(join(dist, name));
  console.log(`${name}: ${bytes.length} bytes, ${gzipSync(bytes, { level: 9 }).length} gzip`);
}
