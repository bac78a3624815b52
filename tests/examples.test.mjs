// Every example of examples/, on every runtime, twice; what it prints is what its README shows.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { extname, join, normalize } from "node:path";
import { after, before, describe, test } from "node:test";

import { connect } from "dunlin";
import { chromium } from "playwright-core";

import { startWorker } from "../worker/test/workerd.mjs";
import { proofs } from "./examples/proofs.mjs";
import { run, serve } from "./real-data/server.mjs";

const ROOT = join(import.meta.dirname, "..");
const TOKEN = "a-token-for-this-machine";
/** No example takes this long, unless it never ends. */
const PATIENCE_MS = 60_000;
const TYPES = { ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm" };
const PAGE = `<!doctype html><title>examples</title><link rel="icon" href="data:,">
<script type="importmap">{ "imports": { "dunlin": "/wasm/dist/index.js" } }</script>`;
const home = mkdtempSync(join(tmpdir(), "dunlin-examples-"));

const readme = readFileSync(join(ROOT, "examples/README.md"), "utf8");
/** What each example prints. */
const examples = new Map(
  [...readme.matchAll(/^## \[(.*?)\.mjs\].*?^```text\n(.*?)^```$/gms)].map(([, name, text]) => [name, text.trimEnd().split("\n")]),
);
/** The commands that the README gives, without `node`. */
const commands = [...readme.matchAll(/^node (examples\/run\.mjs .*)$/gm)].map(([, line]) => line.split(" "));

let browser;
let files;
let host;
let worker;

before(async () => {
  files = createServer((request, response) => {
    const path = normalize(new URL(request.url, "http://localhost").pathname);
    try {
      const content = path === "/" ? PAGE : readFileSync(join(ROOT, path));
      response.writeHead(200, { "content-type": TYPES[extname(path)] ?? "text/html" }).end(content);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((listening) => files.listen(0, "127.0.0.1", listening));
  const config = join(home, "config.json");
  writeFileSync(config, "{}");
  host = await serve(join(ROOT, "target/release/dunlin"), { data: join(home, "data"), config });
  worker = startWorker({ bindings: { DUNLIN_TOKENS: JSON.stringify({ default: TOKEN }) }, directory: join(home, "objects") });
  // Its sandbox needs rights that a container does not have; only our own page is opened.
  browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
});
after(async () => {
  await Promise.all([browser?.close(), host?.stop(), worker?.dispose()]);
  files?.close();
  files?.closeAllConnections();
  rmSync(home, { recursive: true, force: true });
});

/** Runs a command of the README; the lines that it prints. */
async function printedBy(command) {
  const [program, ...words] = command;
  const { output, errors } = await run(process.execPath, [join(ROOT, program), ...words], { timeoutMs: PATIENCE_MS });
  assert.equal(errors, "");
  return output.trimEnd().split("\n");
}

/** Runs an example twice as a person would: what it printed each time, and what it left behind. */
async function inTerminal(example, url, ...token) {
  const command = ["examples/run.mjs", example, url, ...token];
  const printed = [await printedBy(command), await printedBy(command)];
  const client = await connect(url, { ...(token.length > 0 && { token: token[0] }) });
  try {
    return { printed, left: await proofs[example](client) };
  } finally {
    await client.close();
  }
}

/** The same in a page of its own. */
async function inPage(example) {
  const page = await browser.newPage();
  const broken = [];
  page.on("pageerror", (error) => broken.push(String(error)));
  await page.goto(`http://127.0.0.1:${files.address().port}/`);
  const outcome = await page.evaluate(async (name) => {
    const { openLocal } = await import("/wasm/dist/index.js");
    const { run } = await import(`/examples/${name}.mjs`);
    const { proofs } = await import("/tests/examples/proofs.mjs");
    const printed = [[], []];
    const client = await openLocal();
    for (const lines of printed) {
      console.log = (line) => lines.push(line);
      await run(client, openLocal);
    }
    const left = await proofs[name](client);
    await client.close();
    return { printed, left };
  }, example);
  await page.close();
  assert.deepEqual(broken, []);
  return outcome;
}

const runtimes = {
  "the native host": (example) => inTerminal(example, `ws://${host.address}`),
  workerd: async (example) => inTerminal(example, (await worker.ready).origin, TOKEN),
  "the page": inPage,
};

/** What each must have left behind after two rounds. */
const judges = {
  "task-queue"({ left }) {
    assert.deepEqual(left, { letters: 8, lags: [0], deadLetters: 0, members: [] });
  },
  "event-sourcing"({ printed, left }) {
    const told = (what) => {
      const [, values] = printed[1].find((line) => line.startsWith(what)).split(": ");
      return Object.fromEntries(values.split(", ").map((pair) => pair.split(" ")).map(([account, value]) => [account, Number(value)]));
    };
    const { balances, highest, lags, members } = left;
    assert.equal(Object.keys(balances).length, 8);
    assert.deepEqual([told("balances"), told("highest")], [balances, highest]);
    assert.deepEqual([lags, members], [Array(8).fill(0), []]);
  },
  "rate-limited-ingest"({ left: { readings, busiest, limits } }) {
    const twice = (first) => Array.from({ length: 60 }, (_, n) => `${first + (n % 30) / 10} °C`);
    assert.deepEqual(readings, { kitchen: twice(20), cellar: twice(12) });
    assert.ok(busiest <= 50, `${busiest} readings in one second`);
    assert.deepEqual(limits, []);
  },
  chat({ left }) {
    const said = ["tea?", "it is ready", "it gets cold"];
    assert.deepEqual(left, { said: [...said, ...said], present: [] });
  },
};

/** How often somebody is refused depends on the clock, and which worker is first on the machine. */
const comparable = (lines) => lines.map((line) => line.replace(/refused [1-9]\d* times/, "refused 2 times")).sort();

/** What does not grow from round to round. */
const lasting = (lines) => comparable(lines.filter((line) => !line.startsWith("balances")));

describe("examples", { concurrency: true, timeout: 2 * PATIENCE_MS }, () => {
  for (const [example, shown] of examples) {
    for (const [runtime, tell] of Object.entries(runtimes)) {
      test(`${example} on ${runtime}`, async () => {
        const told = await tell(example);
        const [first, second] = told.printed;
        assert.deepEqual(comparable(first), comparable(shown));
        assert.deepEqual(lasting(second), lasting(shown));
        judges[example](told);
      });
    }
  }

  test("the README shows every example, and its commands work", async () => {
    const names = readdirSync(join(ROOT, "examples")).filter((name) => name.endsWith(".mjs") && name !== "run.mjs");
    assert.deepEqual([...examples.keys()].map((name) => `${name}.mjs`).sort(), names.sort());
    const [local] = commands.filter(([, , url]) => url === "local");
    assert.deepEqual(comparable(await printedBy(local)), comparable(examples.get(local[1])));
    // The others are run above, with another port.
    const edge = ["http://localhost:8788", TOKEN];
    const others = [...[...examples.keys()].map((name) => [name]), ["task-queue", ...edge]];
    assert.deepEqual(commands.filter((command) => command !== local).map(([, ...words]) => words), others);
  });

  test("what cannot be run is refused in one line", async () => {
    const refused = async (...words) => {
      const { output, errors, code } = await run(process.execPath, [join(ROOT, "examples/run.mjs"), ...words], { mayFail: true });
      assert.deepEqual([output, code], ["", 1]);
      return errors;
    };
    const usage = "usage: node examples/run.mjs task-queue|event-sourcing|rate-limited-ingest|chat [URL [TOKEN] | local]\n";
    assert.deepEqual([await refused(), await refused("taskqueue")], [usage, usage]);
    assert.match(await refused("task-queue", "ws://127.0.0.1:1"), /^cannot connect to ws:\/\/127\.0\.0\.1:1\/.*ECONNREFUSED.*\n$/);
  });
});
