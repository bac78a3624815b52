// A namespace moves from a browser to a native host, on to a Durable Object and into another browser, as an archive.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { extname, join, normalize } from "node:path";
import { after, before, test } from "node:test";

import { connect } from "dunlin";
import { chromium } from "playwright-core";

import { startWorker } from "../worker/test/workerd.mjs";
import { survey } from "./archives/contents.mjs";
import { serve } from "./real-data/server.mjs";

const ROOT = join(import.meta.dirname, "..");
const NAMESPACE = "travelling";
const TOKEN = "a-token-for-the-traveller";
const home = mkdtempSync(join(tmpdir(), "dunlin-move-"));
const bearer = { authorization: `Bearer ${TOKEN}` };
const TYPES = { ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm" };

let browser;
let files;
let host;
let worker;

before(async () => {
  files = createServer((request, response) => {
    const path = normalize(new URL(request.url, "http://localhost").pathname);
    const file = path.startsWith("/dunlin/") ? join(ROOT, "wasm/dist", path.slice("/dunlin/".length)) : join(ROOT, "tests", path);
    const isPage = path === "/";
    try {
      const content = isPage ? "<!doctype html><title>move</title>" : readFileSync(file);
      response.writeHead(200, { "content-type": isPage ? "text/html" : (TYPES[extname(file)] ?? "application/octet-stream") }).end(content);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((listening) => files.listen(0, "127.0.0.1", listening));
  const config = join(home, "config.json");
  writeFileSync(config, '{"archive_part_bytes":4096}');
  const args = ["--token", `${NAMESPACE}=${TOKEN}`];
  host = await serve(join(ROOT, "target/release/dunlin"), { data: join(home, "data"), config, args });
  const bindings = { DUNLIN_TOKENS: JSON.stringify({ [NAMESPACE]: TOKEN }) };
  worker = startWorker({ bindings, directory: join(home, "objects") });
  // Its sandbox needs rights that a container does not have; only our own page is opened.
  browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
});
after(async () => {
  await Promise.all([browser?.close(), host?.stop(), worker?.dispose()]);
  files?.close();
  files?.closeAllConnections();
  rmSync(home, { recursive: true, force: true });
});

/** A browser that knows of nothing yet, at a page from which the package and the contents can be loaded. */
async function freshPage() {
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(`http://127.0.0.1:${files.address().port}/`);
  return page;
}

/** Exports through HTTP. */
async function exported(origin) {
  const response = await fetch(`${origin}/v1/${NAMESPACE}/export`, { headers: bearer });
  assert.equal(response.status, 200, await (response.ok ? "" : response.text()));
  assert.equal(response.headers.get("content-type"), "application/vnd.dunlin.archive");
  return Buffer.from(await response.arrayBuffer());
}

/** Imports through HTTP; how many rows. */
async function imported(origin, archive) {
  const response = await fetch(`${origin}/v1/${NAMESPACE}/import`, { method: "PUT", headers: bearer, body: archive });
  assert.equal(response.status, 200, await response.clone().text());
  return (await response.json()).rows;
}

/** What a client reads there. */
async function surveyed(origin) {
  const client = await connect(origin, { namespace: NAMESPACE, token: TOKEN });
  const lines = await survey(client);
  await client.close();
  return lines;
}

test("a namespace moves browser → host → Durable Object → browser and ends equal byte for byte", async () => {
  const first = await freshPage();
  const origin = await first.evaluate(async (namespace) => {
    const { openLocal } = await import("/dunlin/index.js");
    const { CONFIG, furnish, survey } = await import("/archives/contents.mjs");
    const client = await openLocal({ store: "indexeddb", name: "first", namespace, config: { ...CONFIG, archive_part_bytes: 4096 } });
    await furnish(client);
    const lines = await survey(client);
    let archive = "";
    let parts = 0;
    for await (const bytes of client.export()) {
      archive += Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
      parts += 1;
    }
    await client.close();
    return { lines, parts, archive: btoa(archive) };
  }, NAMESPACE);
  await first.context().close();
  const archive = Buffer.from(origin.archive, "base64");
  assert.ok(origin.parts > 1, `${origin.parts} parts`);
  const kept = (topic) => origin.lines.filter((line) => line.topic === topic && "offset" in line);
  assert.equal(kept("orders/eu").length, 60);
  assert.ok(kept("trimmed").length < 60 && kept("prices").length < 60 && kept("status").length === 1);

  const native = `http://${host.address}`;
  const rows = await imported(native, archive);
  // Who connects begins a life of the namespace, of which an archive tells.
  const fromHost = await exported(native);
  assert.ok(fromHost.equals(archive), "the host gives what it got");
  assert.deepEqual(await surveyed(native), origin.lines);

  const edge = (await worker.ready).origin;
  assert.equal(await imported(edge, fromHost), rows);
  const fromEdge = await exported(edge);
  assert.ok(fromEdge.equals(archive), "the edge gives what it got");
  assert.deepEqual(await surveyed(edge), origin.lines);

  const last = await freshPage();
  const end = await last.evaluate(async ({ namespace, archive }) => {
    const { openLocal } = await import("/dunlin/index.js");
    const { survey } = await import("/archives/contents.mjs");
    const client = await openLocal({ store: "indexeddb", name: "last", namespace });
    const { rows } = await client.import((await fetch(`data:;base64,${archive}`)).body);
    const lines = await survey(client);
    let again = "";
    for await (const bytes of client.export()) again += Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
    // It goes on where it was.
    const places = [];
    for (const payload of ["one", "two"]) {
      const { offset, sequence } = await client.publish("news", payload);
      places.push([Number(offset), Number(sequence)]);
    }
    await client.close();
    return { rows, lines, archive: btoa(again), places };
  }, { namespace: NAMESPACE, archive: fromEdge.toString("base64") });
  assert.equal(end.rows, rows);
  assert.deepEqual(end.lines, origin.lines);
  assert.ok(Buffer.from(end.archive, "base64").equals(archive), "the last browser gives what the first one gave");
  const sequences = origin.lines.flatMap(({ sequence }) => sequence ?? []);
  const [one, two] = end.places;
  assert.deepEqual([one[0], two[0]], [3, 4]);
  assert.ok(one[1] > Math.max(...sequences) && two[1] === one[1] + 1, `${one[1]}, ${two[1]}`);
  await last.context().close();
});
