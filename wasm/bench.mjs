// What the broker in the browser costs, after a build: `node bench.mjs [rounds]`. In Node, messages a second through a
// broker in memory; in Chromium, how long a thousand messages take to be stored and acknowledged on a database that tabs
// share, beside a thousand bare puts of the same bytes in one transaction. Prints the machine's load beside the numbers.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { loadavg } from "node:os";
import { extname, join } from "node:path";

import { openLocal } from "dunlin";
import { chromium } from "playwright-core";

const rounds = Number(process.argv[2] ?? 20);
const MESSAGES = 1_000;
const PAYLOAD_BYTES = 128;

console.log(`load ${loadavg()[0]?.toFixed(2)}`);
await inMemory(20_000);
await inChromium();
console.log(`load ${loadavg()[0]?.toFixed(2)}`);

async function inMemory(count) {
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
      await Promise.all(Array.from({ length: window }, () => publisher.publish("bench/a", new Uint8Array(PAYLOAD_BYTES))));
    }
    await heard;
    const perSecond = Math.round(count / ((performance.now() - started) / 1000));
    console.log(`Node, in memory, window ${window}: ${perSecond} messages/s published, stored and delivered`);
    await publisher.close();
    await subscriber.close();
  }
}

async function inChromium() {
  const dist = join(import.meta.dirname, "dist");
  const types = { ".js": "text/javascript", ".wasm": "application/wasm" };
  const server = createServer(({ url = "/" }, response) => {
    const body = url === "/" ? '<!doctype html><link rel="icon" href="data:,">' : readFileSync(join(dist, url));
    response.writeHead(200, { "content-type": types[extname(url)] ?? "text/html" }).end(body);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", () => listening(undefined)));
  // Its sandbox needs rights that a container does not have; only our own page is opened.
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
  try {
    const page = await browser.newPage();
    await page.goto(`http://127.0.0.1:${server.address().port}/`);
    for (const [what, durability] of [["async", "relaxed"], ["sync", "strict"]]) {
      const bare = await page.evaluate(barePuts, { rounds, messages: MESSAGES, bytes: PAYLOAD_BYTES, durability });
      const single = await page.evaluate(barePuts, { rounds, messages: 1, bytes: MESSAGES * PAYLOAD_BYTES, durability });
      console.log(`Chromium, ${MESSAGES} bare puts, ${durability}: ${print(bare)}; the same bytes in one put: ${print(single)}`);
      for (const sharing of ["worker", "tab"]) {
        const taken = await page.evaluate(publishes, { rounds, messages: MESSAGES, bytes: PAYLOAD_BYTES, durability: what, sharing });
        const ratio = (median(taken) / median(bare)).toFixed(2);
        console.log(`Chromium, ${MESSAGES} messages ${what}, broker in a ${sharing}: ${print(taken)}, ${ratio} of the bare puts`);
      }
    }
  } finally {
    await browser.close();
    server.close();
  }
}

/** In the page: milliseconds of each round, from the first call to the last receipt. */
async function publishes({ rounds, messages, bytes, durability, sharing }) {
  const { openLocal } = await import("/index.js");
  const client = await openLocal({ name: `bench ${durability} ${sharing}`, store: "indexeddb", sharing });
  const payload = crypto.getRandomValues(new Uint8Array(bytes));
  const taken = [];
  for (let round = 0; round < rounds; round += 1) {
    const started = performance.now();
    await Promise.all(Array.from({ length: messages }, () => client.publish("bench", payload, { durability })));
    taken.push(performance.now() - started);
  }
  await client.close();
  return taken;
}

/** In the page: the same for as many rows as there are messages, in one transaction. */
async function barePuts({ rounds, messages, bytes, durability }) {
  const database = await new Promise((resolve, reject) => {
    const request = indexedDB.open(`bare ${messages} ${durability}`, 1);
    request.onupgradeneeded = () => request.result.createObjectStore("rows");
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  const payload = new Uint8Array(bytes);
  for (let at = 0; at < bytes; at += 1000) crypto.getRandomValues(payload.subarray(at, at + 1000));
  const taken = [];
  for (let round = 0; round < rounds; round += 1) {
    const started = performance.now();
    await new Promise((resolve, reject) => {
      const transaction = database.transaction("rows", "readwrite", { durability });
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
      for (let index = 0; index < messages; index += 1) transaction.objectStore("rows").put(payload, round * messages + index);
      transaction.commit();
    });
    taken.push(performance.now() - started);
  }
  return taken;
}

function median(numbers) {
  return [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
}

function print(taken) {
  return `median ${median(taken).toFixed(1)} ms, worst ${Math.max(...taken).toFixed(1)} ms`;
}
