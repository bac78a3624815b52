// Tabs of real Chromium on a page that has the package, as it is built, from a web server of this process.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";

import { chromium } from "playwright-core";
import type { Browser, BrowserContext, Page } from "playwright-core";

// Tests run from dist/test.
const dist = join(import.meta.dirname, "..");
const TYPES: Readonly<Record<string, string>> = { js: "text/javascript", wasm: "application/wasm", html: "text/html" };
const PAGE = `<!doctype html><title>tab</title><link rel="icon" href="data:,"><script type="module">
  globalThis.dunlin = await import("/index.js");
  globalThis.inline = await import("/inline.js");
</script>`;

export class Site {
  readonly #server = createServer((request, response) => {
    const path = new URL(request.url ?? "/", "http://site").pathname;
    const name = path.replace(/^\/v\d+\//, "/");
    try {
      const body = path === "/" ? PAGE : readFileSync(join(dist, name));
      response.writeHead(200, { "content-type": TYPES[name.split(".").at(-1) ?? ""] ?? "text/html" }).end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  #browser!: Browser;

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/`;
  }

  async start(): Promise<void> {
    await new Promise<void>((listening) => this.#server.listen(0, "127.0.0.1", listening));
    // Its sandbox needs rights that a container does not have; only our own pages are opened.
    this.#browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
  }

  async stop(): Promise<void> {
    await this.#browser.close();
    this.#server.close();
  }

  /** A profile of its own: nothing is stored there. */
  profile(): Promise<BrowserContext> {
    return this.#browser.newContext();
  }

  async tab(profile: BrowserContext): Promise<Page> {
    const page = await profile.newPage();
    await page.goto(this.url);
    await ready(page);
    return page;
  }
}

/** Waits until the page has the package. */
export async function ready(page: Page): Promise<void> {
  await page.waitForFunction(() => typeof globalThis.inline === "object");
}

declare global {
  var dunlin: typeof import("../ts/index.ts");
  var inline: typeof import("../ts/inline.ts");
  var client: import("../ts/types.ts").LocalClient;
  var heard: string[];
}
