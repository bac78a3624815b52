// Archives through the client: of brokers in the page, and of one behind a socket.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";

import { WebSocket } from "ws";

import { connectWith } from "../ts/connect.ts";
import type { DunlinError } from "../ts/errors.ts";
import type { Socket } from "../ts/link.ts";
import { openLocalWith } from "../ts/local.ts";
import type { ArchiveSource, Client } from "../ts/types.ts";
import { concat } from "../ts/wire.ts";
import { connected } from "./broker.ts";
import { settled } from "./fakes.ts";
import { Server } from "./server.ts";
import { PATIENCE_MS, Site } from "./tabs.ts";

const wasm = readFileSync(new URL("../engine/engine_bg.wasm", import.meta.url));
const server = new Server();
const site = new Site();
before(() => Promise.all([server.start(), site.start()]));
after(() => Promise.all([server.stop(), site.stop()]));

let brokers = 0;

/** A namespace that nobody has used. */
function fresh(): Promise<Client> {
  return openLocalWith(() => wasm, { name: `archive-${(brokers += 1)}` });
}

function remote(namespace: string): Promise<Client> {
  return connectWith((url, protocol) => new WebSocket(url, protocol, {}) as Socket, server.url, { namespace });
}

/** A namespace whose archive takes several parts. */
async function furnished(): Promise<Client> {
  const client = await fresh();
  await client.configureTopic("kept", { ordering: "per_key", partitions: 3 });
  for (let index = 0; index < 12; index += 1) {
    const noise = crypto.getRandomValues(new Uint8Array(60_000));
    await client.publish("kept", noise, { key: `k${index}`, headers: [["n", String(index)]] });
  }
  return client;
}

async function exported(client: Client): Promise<Uint8Array[]> {
  const parts: Uint8Array[] = [];
  for await (const part of client.export()) parts.push(part);
  return parts;
}

async function history(client: Client): Promise<unknown[]> {
  const read: unknown[] = [];
  for (const partition of [0, 1, 2]) {
    for await (const { offset, sequence, timestamp, key, headers, payload } of client.history("kept", { partition })) {
      read.push([partition, offset, sequence, timestamp, key, headers, Buffer.from(payload).toString("base64")]);
    }
  }
  return read;
}

async function* oneByOne(pieces: Iterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  yield* pieces;
}

async function rejects(promise: Promise<unknown>, code: string, message: RegExp): Promise<void> {
  await assert.rejects(promise, (error: DunlinError) => {
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  });
}

test("a namespace moves from broker to broker, whatever its archive comes in", async () => {
  const home = await furnished();
  const parts = await exported(home);
  assert.ok(parts.length > 1, `${parts.length} parts`);
  const archive = concat(parts);
  const there = await history(home);
  assert.equal(there.length, 12);
  const slices = Array.from({ length: Math.ceil(archive.length / 9_999) }, (_, index) => archive.subarray(index * 9_999, (index + 1) * 9_999));
  const sources: ArchiveSource[] = [archive, oneByOne(slices), new Blob([archive as BlobPart]).stream(), home.export(), new Blob(parts as BlobPart[])];
  for (const [index, source] of sources.entries()) {
    const abroad = index % 2 === 0 ? await fresh() : await remote(`abroad-${index}`);
    const { rows } = await abroad.import(source);
    assert.ok(rows > 12, `${rows} rows`);
    assert.deepEqual(await history(abroad), there);
    const receipt = await abroad.publish("kept", "more", { key: "k0" });
    assert.equal(receipt.sequence, 13n);
    await abroad.close();
  }
  await home.close();
});

test("an archive that is cut off, damaged or none leaves nothing behind", async () => {
  const home = await furnished();
  const archive = concat(await exported(home));
  const flipped = archive.slice();
  flipped[400_000]! ^= 1;
  const abroad = await fresh();
  for (const [bytes, message] of [
    [archive.subarray(0, 300_000), /cut off at byte 300000/],
    [flipped, /damaged at byte \d+/],
    [new Uint8Array(), /cut off at byte 0/],
    [new TextEncoder().encode("PK, a zip file it may be"), /does not begin like one/],
  ] as const) {
    await rejects(abroad.import(bytes), "invalid_archive", message);
    for await (const topic of abroad.listTopics()) assert.fail(topic);
  }
  await abroad.import(archive);
  await rejects(abroad.import(archive), "conflicting_config", /is in use/);
  await Promise.all([home.close(), abroad.close()]);
});

test("a source that fails, or an import that is aborted, leaves the namespace free at once", async () => {
  const home = await furnished();
  const archive = concat(await exported(home));
  const abroad = await fresh();
  let ended = 0;
  async function* failing(then: () => unknown): AsyncGenerator<Uint8Array> {
    try {
      yield archive.subarray(0, 600_000);
      await then();
    } finally {
      ended += 1;
    }
  }
  await assert.rejects(abroad.import(failing(() => Promise.reject(new Error("the disk went away")))), /the disk went away/);
  const controller = new AbortController();
  const stuck = abroad.import(failing(() => new Promise(() => controller.abort(new Error("enough")))), { signal: controller.signal });
  await assert.rejects(stuck, /enough/);
  assert.equal(ended, 1, "the first source was closed; the second one never answers");
  let cancelled = false;
  const stream = new ReadableStream<Uint8Array>({
    start: (to) => to.enqueue(archive.subarray(0, 10)),
    pull: () => queueMicrotask(() => second.abort(new Error("enough again"))),
    cancel: () => void (cancelled = true),
  }, { highWaterMark: 0 });
  const second = new AbortController();
  await assert.rejects(abroad.import(stream, { signal: second.signal }), /enough again/);
  await settled();
  assert.ok(cancelled, "the stream was told");
  await assert.rejects(abroad.import(archive, { signal: AbortSignal.abort(new Error("never")) }), /never/);
  await abroad.import(archive);
  await Promise.all([home.close(), abroad.close()]);
});

test("parts are asked for one by one, as they are taken", async () => {
  const { client, transport } = await connected();
  const parts = client.export();
  const first = parts.next();
  await settled();
  assert.deepEqual(transport.peer.heard(), [{ type: "export", request: 1, export: 0n, part: 0 }]);
  transport.peer.reply({ type: "archive_part", request: 1, export: 2n ** 60n, part: 0, last: false, bytes: Uint8Array.of(1) });
  assert.deepEqual(await first, { done: false, value: Uint8Array.of(1) });
  await settled();
  assert.deepEqual(transport.peer.heard(), [], "the second part is not wanted yet");
  const second = parts.next();
  await settled();
  assert.deepEqual(transport.peer.heard(), [{ type: "export", request: 2, export: 2n ** 60n, part: 1 }]);
  transport.peer.reply({ type: "archive_part", request: 2, export: 2n ** 60n, part: 1, last: true, bytes: Uint8Array.of(2) });
  assert.deepEqual(await second, { done: false, value: Uint8Array.of(2) });
  assert.deepEqual(await parts.next(), { done: true, value: undefined });
});

test("a source is read no faster than the broker takes it", async () => {
  const { client, transport } = await connected();
  let read = 0;
  async function* source(): AsyncGenerator<Uint8Array> {
    for (; read < 100; read += 1) yield new Uint8Array(300_000);
  }
  const importing = client.import(source());
  const failed = rejects(importing, "forbidden", /not yours/);
  await settled();
  const said = transport.peer.heard();
  assert.deepEqual(said.map((command) => typeof command === "string" ? command : [command.type, command.type === "import" && command.bytes.length]), [["import", 262_144]]);
  assert.equal(read, 0, "the first piece was taken, and none after it");
  transport.peer.reply({ type: "error", request: 1, code: "forbidden", message: "this namespace is not yours" });
  await failed;
  await settled();
  assert.deepEqual(transport.peer.heard(), [], "nothing is said after a refusal");
});

test("an export ends with what the broker or the signal says", async () => {
  const home = await furnished();
  const controller = new AbortController();
  const parts = home.export({ signal: controller.signal });
  await parts.next();
  controller.abort(new Error("that is enough"));
  await assert.rejects(async () => parts.next(), /that is enough/);
  await home.close();
  await rejects(home.export().next(), "closed", /is closed/);
});

test("what is no source is refused by name", async () => {
  const client = await fresh();
  for (const source of ["archive.dunlin", null, undefined, 7, {}, new ArrayBuffer(8)]) {
    await rejects(client.import(source as never), "invalid_argument", /no source of an archive: give a Uint8Array/);
  }
  await rejects(client.import(oneByOne(["text" as never])), "invalid_argument", /pieces that are Uint8Arrays/);
  await client.import(concat(await exported(await furnished())));
  await client.close();
});

test("people save an archive from a page, and give it to another", { timeout: PATIENCE_MS }, async () => {
  await site.withProfile(async (profile) => {
    const [from, to] = [await site.tab(profile), await site.tab(profile)];
    await from.open({ name: "from" });
    await from.publish("worth keeping");
    const saved = from.page.waitForEvent("download");
    await from.page.evaluate(async () => {
      const parts: Uint8Array[] = [];
      for await (const part of client.export()) parts.push(part);
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob(parts as BlobPart[]));
      link.download = "notes.dunlin";
      link.click();
    });
    const file = await saved;
    assert.equal(file.suggestedFilename(), "notes.dunlin");
    await to.open({ name: "to" });
    await to.page.setContent('<input type="file">');
    await to.page.locator("input").setInputFiles(await file.path());
    const rows = await to.page.evaluate(async () => {
      const [chosen] = document.querySelector("input")?.files ?? [];
      return (await client.import(chosen as File)).rows;
    });
    assert.ok(rows > 0, `${rows} rows`);
    assert.deepEqual(await to.history(), ["worth keeping"]);
  });
});
