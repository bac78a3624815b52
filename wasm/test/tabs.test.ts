// Tabs of real Chromium that share one broker.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import type { BrowserContext, Page } from "playwright-core";

import type { LocalOptions } from "../ts/types.ts";
import { Server } from "./server.ts";
import { Site } from "./tabs.ts";

const site = new Site();
before(() => site.start());
after(() => site.stop());

async function open(page: Page, options: LocalOptions = {}): Promise<void> {
  await page.evaluate(async (given) => void (globalThis.client = await dunlin.openLocal({ store: "indexeddb", ...given })), options);
}

function publish(page: Page, text: string): Promise<number> {
  return page.evaluate(async (payload) => Number((await client.publish("t", payload)).offset), text);
}

function history(page: Page): Promise<string[]> {
  return page.evaluate(async () => {
    const texts: string[] = [];
    for await (const message of client.history("t")) texts.push(message.text());
    return texts;
  });
}

for (const sharing of ["worker", "tab"] as const) {
  test(`two tabs share a broker in a ${sharing}`, { timeout: 30_000 }, async () => {
    const profile = await site.profile();
    profile.on("console", (m) => console.log(m.type(), m.text()));
    profile.on("weberror", (m) => console.log(m.error()));
    const [one, other] = [await site.tab(profile), await site.tab(profile)];
    await open(one, { sharing });
    await open(other, { sharing });
    await publish(one, "a");
    await publish(other, "b");
    assert.deepEqual(await history(one), ["a", "b"]);
    await one.close();
    await publish(other, "c");
    assert.deepEqual(await history(other), ["a", "b", "c"]);
    await profile.close();
  });
}

/** Waits for what nobody tells. */
async function until(what: string, holds: () => boolean): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!holds()) {
    assert.ok(performance.now() < deadline, what);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

for (const sharing of ["worker", "tab"] as const) {
  test(`tabs share one connection in a ${sharing}`, { timeout: 30_000 }, async () => {
    const server = new Server();
    await server.start();
    const profile = await site.profile();
    profile.on("console", (m) => console.log(m.type(), m.text()));
    profile.on("weberror", (m) => console.log(m.error()));
    const [one, other] = [await site.tab(profile), await site.tab(profile)];
    for (const page of [one, other]) {
      await page.evaluate(
        async ([url, where]) => {
          globalThis.client = (await dunlin.connect(url as string, { sharing: where as "tab" })) as never;
          globalThis.heard = [];
          const subscription = client.subscribe("t");
          void (async () => {
            for await (const message of subscription) globalThis.heard.push(message.text());
          })();
          await subscription.ready;
        },
        [server.url, sharing],
      );
    }
    assert.equal(server.sockets, 1);
    await publish(one, "a");
    await publish(other, "b");
    for (const page of [one, other]) await page.waitForFunction(() => globalThis.heard.join() === "a,b");
    assert.deepEqual(await history(other), ["a", "b"]);
    await one.close();
    await other.evaluate(() => client.publish("t", "c", { retry: true }));
    await other.waitForFunction(() => globalThis.heard.join() === "a,b,c");
    await until("one socket", () => server.sockets === 1);
    await other.evaluate(() => client.close());
    await until("no socket", () => server.sockets === 0);
    await profile.close();
    await server.stop();
  });
}
