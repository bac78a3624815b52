// Tabs of real Chromium on a page that has the package, as it is built, from a web server of this process.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";

import { chromium } from "playwright-core";
import type { Browser, BrowserContext, Page } from "playwright-core";

import type { Client, ConnectOptions, LocalOptions, SubscribeOptions } from "../ts/types.ts";

/** Nothing that a test waits for takes this long unless it never comes, however busy the machine is. */
export const PATIENCE_MS = 60_000;
/** The same for all tests of a suite together. */
export const SUITE_PATIENCE_MS = 5 * PATIENCE_MS;

// Tests run from dist/test.
const dist = join(import.meta.dirname, "..");
const TYPES: Readonly<Record<string, string>> = { js: "text/javascript", wasm: "application/wasm" };
const PAGE = `<!doctype html><title>tab</title><link rel="icon" href="data:,"><script type="module">
  globalThis.dunlin = await import("/index.js");
</script>`;

const BROWSER = {
  executablePath: "/usr/bin/chromium",
  // Its sandbox needs rights that a container does not have; only our own pages are opened.
  args: ["--no-sandbox"],
  ignoreDefaultArgs: ["--disable-back-forward-cache"],
};

export class Site {
  /** What the server gives under names that the package does not have. */
  readonly extra = new Map<string, string>([["/", PAGE], ["/elsewhere", "<!doctype html><title>elsewhere</title>"]]);
  readonly #server = createServer(({ url = "/" }, response) => {
    try {
      const body = this.extra.get(url) ?? readFileSync(join(dist, url));
      response.writeHead(200, { "content-type": TYPES[url.split(".").at(-1) ?? ""] ?? "text/html" }).end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  #browser!: Browser;
  /** What the streams of all tabs know to be stored. */
  acknowledged: string[] = [];
  #enough = 0;
  #reached: () => void = () => {};

  get origin(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async start(): Promise<void> {
    await new Promise<void>((listening) => this.#server.listen(0, "127.0.0.1", listening));
    this.#browser = await chromium.launch(BROWSER);
  }

  async stop(): Promise<void> {
    await this.#browser.close();
    this.#server.close();
  }

  /** Lets a test have a browser profile of its own, in which nothing is stored. */
  async withProfile(use: (profile: BrowserContext) => Promise<void>): Promise<void> {
    const profile = await this.#browser.newContext();
    this.acknowledged = [];
    try {
      await profile.exposeFunction("acknowledge", (texts: readonly string[]) => {
        this.acknowledged.push(...texts);
        if (this.acknowledged.length >= this.#enough) this.#reached();
      });
      await use(profile);
    } finally {
      await profile.close();
    }
  }

  /** The same with a profile that is kept in that directory; the browser is one of its own. */
  async withKeptProfile<Result>(directory: string, use: (profile: BrowserContext) => Promise<Result>): Promise<Result> {
    const profile = await chromium.launchPersistentContext(directory, BROWSER);
    try {
      return await use(profile);
    } finally {
      await profile.close();
    }
  }

  /** Waits until so many more messages were acknowledged. */
  acknowledges(more: number): Promise<void> {
    this.#enough = this.acknowledged.length + more;
    return new Promise((resolve) => (this.#reached = resolve));
  }

  async tab(profile: BrowserContext): Promise<Tab> {
    const page = await profile.newPage();
    page.setDefaultTimeout(PATIENCE_MS);
    await page.goto(this.origin);
    const tab = new Tab(page);
    await tab.loaded();
    return tab;
  }
}

/** One tab with one client, driven from outside. */
export class Tab {
  readonly page: Page;

  constructor(page: Page) {
    this.page = page;
  }

  /** Ends it as the death of its process does: nothing in it hears of it. */
  async crash(): Promise<void> {
    const debug = await this.page.context().newCDPSession(this.page);
    const crashed = new Promise((resolve) => this.page.once("crash", resolve));
    debug.send("Page.crash").catch(() => {});
    await crashed;
  }

  async loaded(): Promise<void> {
    await this.page.waitForFunction(() => typeof globalThis.dunlin === "object");
  }

  async open(options: LocalOptions = {}): Promise<void> {
    await this.page.evaluate(async (given) => {
      globalThis.client = await dunlin.openLocal({ store: "indexeddb", ...given });
    }, options);
  }

  async connect(url: string, options: ConnectOptions): Promise<void> {
    await this.page.evaluate(
      async ([address, given]) => {
        try {
          globalThis.client = await dunlin.connect(address, given);
        } catch (error) {
          throw new Error(`${(error as { code: string }).code}: ${(error as Error).message}`);
        }
      },
      [url, options] as const,
    );
  }

  /** Why it cannot be opened. */
  refusal(options: LocalOptions): Promise<string> {
    return this.page.evaluate(
      (given) =>
        dunlin.openLocal({ store: "indexeddb", ...given }).then(
          () => "opened",
          (error) => `${error.code}: ${error.message}`,
        ),
      options,
    );
  }

  /** The offset, or what went wrong. */
  publish(payload: string | number, retry = false): Promise<number | string> {
    return this.page.evaluate(
      async ([given, again]) => {
        // Random, so that no store makes it smaller.
        const bytes = typeof given === "number" ? crypto.getRandomValues(new Uint8Array(given)) : given;
        return client.publish("t", bytes, { durability: "sync", retry: again }).then(
          ({ offset }) => Number(offset),
          (error) => `${error.code}: ${error.message}`,
        );
      },
      [payload, retry] as const,
    );
  }

  /** Publishes one after the other until the page ends, or the test says so. What was acknowledged goes to the site. */
  async stream(name: string): Promise<void> {
    await this.page.evaluate((who) => {
      globalThis.streaming = (async () => {
        for (let at = 0; !globalThis.enough; at += 1) {
          const texts = [0, 1, 2].map((part) => `${who}.${at}.${part}`);
          // Three that leave together; what fails is known to none.
          const receipts = await Promise.allSettled(texts.map((text) => client.publish("t", text)));
          const known = texts.filter((_text, part) => receipts[part]?.status === "fulfilled");
          if (known.length > 0) await globalThis.acknowledge(known);
        }
      })();
    }, name);
  }

  async enough(): Promise<void> {
    await this.page.evaluate(async () => {
      globalThis.enough = true;
      await globalThis.streaming;
    });
  }

  async subscribe(options: SubscribeOptions = {}): Promise<void> {
    await this.page.evaluate(async (given) => {
      globalThis.heard = [];
      const subscription = client.subscribe("t", given);
      void (async () => {
        for await (const message of subscription) globalThis.heard.push(message.text());
      })();
      await subscription.ready;
    }, options);
  }

  heard(): Promise<string[]> {
    return this.page.evaluate(() => globalThis.heard);
  }

  async hears(texts: readonly string[]): Promise<void> {
    await this.page.waitForFunction((wanted) => globalThis.heard.join() === wanted, texts.join());
  }

  history(): Promise<string[]> {
    return this.page.evaluate(async () => {
      const texts: string[] = [];
      for await (const message of client.history("t")) texts.push(message.text());
      return texts;
    });
  }

  /** Where the broker runs, by who holds the lock of the database; each tab holds one for its client. */
  place(): Promise<"here" | "another tab" | "worker"> {
    return this.page.evaluate(() =>
      navigator.locks.request(crypto.randomUUID(), async (probe) => {
        const { held = [] } = await navigator.locks.query();
        const host = held.find(({ name }) => name === "dunlin:dunlin")?.clientId;
        if (held.find(({ name }) => name === probe?.name)?.clientId === host) return "here";
        return held.some(({ name, clientId }) => name?.includes(":link:") === true && clientId === host) ? "another tab" : "worker";
      }),
    );
  }
}

declare global {
  var dunlin: typeof import("../ts/index.ts");
  var client: Client;
  var heard: string[];
  var enough: boolean | undefined;
  var streaming: Promise<void>;
  var acknowledge: (texts: readonly string[]) => Promise<void>;
}
