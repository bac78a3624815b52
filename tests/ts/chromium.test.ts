import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { after, test } from "node:test";

import { chromium } from "playwright-core";

import { ROOT, expectEqual, tracesText } from "./traces.ts";

const files: Readonly<Record<string, readonly [type: string, content: () => string | Buffer]>> = {
  "/": ["text/html", () => '<!doctype html><title>replay</title><link rel="icon" href="data:,"><script type="module" src="/page.js"></script>'],
  "/page.js": ["text/javascript", () => readFileSync("dist/page.mjs")],
  "/engine_bg.wasm": ["application/wasm", () => readFileSync(join(ROOT, "wasm/dist/engine/engine_bg.wasm"))],
  "/traces.json": ["application/json", tracesText],
};

const server = createServer((request, response) => {
  const [type, content] = files[request.url ?? ""] ?? [];
  if (type === undefined || content === undefined) {
    response.writeHead(404).end();
    return;
  }
  response.writeHead(200, { "content-type": type }).end(content());
});
after(() => server.close());

test("the npm package's engine gives the native bytes in Chromium, and IndexedDB the native rows", async () => {
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const { port } = server.address() as AddressInfo;
  // Its sandbox needs rights that a container does not have; only our own page is opened.
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
  try {
    const page = await browser.newPage();
    const broken: string[] = [];
    page.on("pageerror", (error) => broken.push(String(error)));
    await page.goto(`http://127.0.0.1:${port}/`);
    await page.waitForFunction(() => typeof globalThis.replayed === "function");
    expectEqual(await page.evaluate(() => globalThis.replayed()));
    if (broken.length > 0) throw new Error(broken.join("\n"));
  } finally {
    await browser.close();
  }
});
