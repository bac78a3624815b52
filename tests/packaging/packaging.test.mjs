// The package as its users get it: packed, installed into a fresh project outside of this repository, and used there.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { basename, extname, join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { gzipSync } from "node:zlib";

import { build as esbuild } from "esbuild";
import { Miniflare } from "miniflare";
import { chromium } from "playwright-core";
import { build as vite, createServer as viteServer } from "vite";

const workspace = join(import.meta.dirname, "../..");
const fresh = mkdtempSync(join(tmpdir(), "dunlin-packaging-"));
const installed = join(fresh, "node_modules/dunlin");
/** @type {import("playwright-core").Browser} */
let browser;
/** A broker of the native host, for clients that are only clients. */
const broker = spawn(join(workspace, "target/release/dunlin"), ["serve", "--listen", "127.0.0.1:0", "--store", "memory"]);
let brokerUrl = "";

before(async () => {
  for await (const line of createInterface(broker.stdout)) {
    const listening = /listens on (http:\S+)/.exec(line);
    if (listening === null) continue;
    brokerUrl = listening[1] ?? "";
    break;
  }
  assert.notEqual(brokerUrl, "", "the native host did not start");
  const [packed] = JSON.parse(run("npm", ["pack", "--json", "--pack-destination", fresh], join(workspace, "wasm")));
  cpSync(join(import.meta.dirname, "projects"), fresh, { recursive: true });
  writeFileSync(join(fresh, "package.json"), '{ "private": true, "type": "module" }');
  run("npm", ["install", "--prefer-offline", "--no-audit", "--no-fund", join(fresh, packed.filename)], fresh);
  // Its sandbox needs rights that a container does not have; only our own pages are opened.
  browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
});

after(async () => {
  broker.kill();
  await browser?.close();
  rmSync(fresh, { recursive: true, force: true });
});

test("the package holds what its exports name, and nothing of the tests", () => {
  const { exports } = JSON.parse(readFileSync(join(installed, "package.json"), "utf8"));
  const named = Object.values(exports).flatMap((target) => (typeof target === "string" ? [target] : Object.values(target)));
  for (const path of named) assert.ok(readFileSync(join(installed, path)).length > 0, path);
  assert.deepEqual(Object.keys(exports["."]), ["types", "workerd", "browser", "node", "default"]);
  assert.deepEqual(readdirSync(join(installed, "dist")).filter((name) => /test|guest/.test(name)), []);
  assert.ok(readFileSync(join(installed, "README.md")).length > 0);
});

test("Node runs it", () => {
  assert.equal(run("node", ["main.mjs", brokerUrl], join(fresh, "node")).trim(), "ok");
});

test("the types compile, for Node and for browsers, however modules are found", () => {
  const tsc = join(workspace, "node_modules/typescript/bin/tsc");
  const common = ["--noEmit", "--strict", "--target", "es2022", "--ignoreConfig", "main.ts"];
  const types = ["--typeRoots", join(workspace, "node_modules/@types"), "--types", "node"];
  run("node", [tsc, ...common, "--module", "nodenext", "--lib", "es2022,esnext.disposable", ...types], join(fresh, "types"));
  run("node", [tsc, ...common, "--module", "esnext", "--moduleResolution", "bundler", "--lib", "es2022,esnext.disposable,dom"], join(fresh, "types"));
});

test("a client alone is at most 12 KB on the wire, and no WebAssembly comes with it", async () => {
  const { outputFiles, metafile } = await esbuild({
    stdin: { contents: 'export { connect } from "dunlin";', resolveDir: fresh },
    bundle: true,
    splitting: true,
    minify: true,
    format: "esm",
    platform: "browser",
    outdir: join(fresh, "thin"),
    write: false,
    metafile: true,
  });
  const entry = Object.entries(metafile.outputs).find(([, output]) => output.entryPoint !== undefined)?.[0] ?? "";
  const loaded = new Set([entry]);
  for (const name of loaded) {
    for (const { path, kind } of metafile.outputs[name]?.imports ?? []) if (kind === "import-statement") loaded.add(path);
  }
  const names = new Set([...loaded].map((name) => basename(name)));
  const files = outputFiles.filter(({ path }) => names.has(basename(path)));
  const bytes = files.reduce((sum, { contents }) => sum + gzipSync(contents, { level: 9 }).length, 0);
  assert.ok(bytes <= 12_000, `${bytes} bytes`);
  assert.ok(bytes > 1_000, `${bytes} bytes are too few to be a client`);
});

// Every rule of the broker travels: with all of them it is built for size, which is a tenth less than level "s".
test("the WebAssembly is at most 270 KB on the wire", () => {
  const wasm = gzipSync(readFileSync(join(installed, "dist/engine/engine_bg.wasm")), { level: 9 }).length;
  assert.ok(wasm <= 270_000, `${wasm} bytes`);
});

test("a page that Vite built runs it in Chromium, in memory and over a reload in IndexedDB", async () => {
  const root = join(fresh, "vite");
  await vite({ root, logLevel: "warn", build: { target: "es2022" } });
  await withPages(join(root, "dist"), async (address) => {
    await chats(address);
    await talksToBroker(address, "vite");
    await tabsShare(address, "worker");
  });
});

test("a page that Vite serves for development runs it in Chromium", async () => {
  const server = await viteServer({ root: join(fresh, "vite"), logLevel: "warn", server: { host: "127.0.0.1", port: 0, strictPort: false } });
  await server.listen();
  try {
    await chats(server.resolvedUrls?.local[0] ?? "");
    await tabsShare(server.resolvedUrls?.local[0] ?? "", "worker");
  } finally {
    await server.close();
  }
});

test("a page that esbuild bundled into one file runs it in Chromium", async () => {
  const root = join(fresh, "esbuild");
  const outdir = join(root, "dist");
  const entryPoints = { main: "main.js", index: "index.html", "shared-worker": "dunlin/shared-worker" };
  await esbuild({ absWorkingDir: root, entryPoints, loader: { ".html": "copy" }, outdir, bundle: true, format: "esm", logLevel: "warning" });
  await withPages(outdir, async (address) => {
    await chats(address);
    await tabsShare(address, "worker");
    await talksToBroker(address, "esbuild");
  });
  // A bundler that was not told of the worker leaves it out.
  rmSync(join(outdir, "shared-worker.js"));
  await withPages(outdir, (address) => tabsShare(address, "tab", 2));
});

test("workerd runs it", async () => {
  const root = join(fresh, "worker");
  const outdir = join(root, "dist");
  await esbuild({
    absWorkingDir: root,
    entryPoints: ["main.js"],
    outdir,
    bundle: true,
    format: "esm",
    platform: "neutral",
    conditions: ["workerd"],
    loader: { ".wasm": "copy" },
    assetNames: "[name]",
    logLevel: "warning",
  });
  const worker = new Miniflare({
    rootPath: outdir,
    modulesRoot: outdir,
    modules: [
      { type: "ESModule", path: join(outdir, "main.js") },
      { type: "CompiledWasm", path: join(outdir, "engine_bg.wasm") },
    ],
    compatibilityDate: "2026-04-01",
    cf: false,
  });
  try {
    for (let request = 0; request < 3; request += 1) {
      const response = await worker.dispatchFetch("http://worker/");
      assert.equal(await response.text(), "hello from workerd");
    }
    const response = await worker.dispatchFetch(`http://worker/?broker=${encodeURIComponent(brokerUrl)}`);
    assert.equal(await response.text(), "hello from workerd");
  } finally {
    await worker.dispose();
  }
});

/** @param {string} command @param {readonly string[]} args @param {string} cwd */
function run(command, args, cwd) {
  try {
    return execFileSync(command, args, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  } catch (error) {
    const { stdout, stderr } = /** @type {{ stdout: string, stderr: string }} */ (error);
    throw new Error(`${command} ${args.join(" ")} failed:\n${stdout}\n${stderr}`, { cause: error });
  }
}

/** Serves a directory as a user's web server would, without any header beyond the type. */
async function withPages(directory, use) {
  const types = { ".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm" };
  const server = createServer((request, response) => {
    const path = new URL(request.url ?? "/", "http://page").pathname;
    try {
      const body = readFileSync(join(directory, path === "/" ? "index.html" : path));
      response.writeHead(200, { "content-type": types[extname(path)] ?? "text/html" }).end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", () => listening(undefined)));
  const address = server.address();
  try {
    await use(`http://127.0.0.1:${typeof address === "object" ? address?.port : ""}/`);
  } finally {
    server.close();
  }
}

/** Opens a page in a browser profile of its own; what goes wrong in it fails the test. */
async function withContext(use) {
  const context = await browser.newContext();
  const wrong = [];
  context.on("weberror", (error) => wrong.push(String(error.error())));
  context.on("console", (message) => message.type() === "error" && wrong.push(message.text()));
  try {
    await use(context);
  } finally {
    await context.close();
  }
  assert.deepEqual(wrong, []);
}

async function open(context, address) {
  const page = await context.newPage();
  await page.goto(address);
  await page.waitForFunction(() => typeof globalThis.chat === "function");
  return page;
}

async function chats(address) {
  await withContext(async (context) => {
    const page = await open(context, address);
    assert.deepEqual(await page.evaluate(() => globalThis.chat("memory")), { heard: "hello memory", offset: 0, stored: ["hello memory"] });
    const first = { heard: "hello indexeddb", offset: 0, stored: ["hello indexeddb"] };
    assert.deepEqual(await page.evaluate(() => globalThis.chat("indexeddb")), first);
    await page.reload();
    await page.waitForFunction(() => typeof globalThis.chat === "function");
    const second = { heard: "hello indexeddb", offset: 1, stored: ["hello indexeddb", "hello indexeddb"] };
    assert.deepEqual(await page.evaluate(() => globalThis.chat("indexeddb")), second);
  });
}

async function talksToBroker(address, namespace) {
  await withContext(async (context) => {
    const page = await open(context, address);
    const chatted = await page.evaluate(([url, name]) => globalThis.chatWith(url, name), [brokerUrl, namespace]);
    assert.deepEqual(chatted, { heard: "hello broker", offset: 0, stored: ["hello broker"] });
  });
}

/** Two tabs share the broker of a database, in a worker or in one of them. */
async function tabsShare(address, place, warnings = 0) {
  await withContext(async (context) => {
    const warned = [];
    context.on("console", (message) => message.type() === "warning" && warned.push(message.text()));
    const [one, other] = [await open(context, address), await open(context, address)];
    assert.deepEqual(await one.evaluate(() => globalThis.join("one")), []);
    assert.deepEqual(await other.evaluate(() => globalThis.join("other")), ["one"]);
    // The broker is where the database's lock is; each client holds one of its own.
    const found = await one.evaluate(async () => {
      const { held } = await navigator.locks.query();
      const broker = held.find(({ name }) => name === "dunlin:dunlin")?.clientId;
      return held.some(({ name, clientId }) => name.includes(":link:") && clientId === broker) ? "tab" : "worker";
    });
    assert.equal(found, place);
    assert.equal(warned.length, warnings, warned.join("\n"));
    for (const text of warned) assert.match(text, /SharedWorker http:.*shared-worker.* cannot be loaded/);
    await one.close();
    assert.equal(await other.evaluate(async () => Number((await globalThis.client.publish("tabs", "more")).offset)), 2);
  });
}
