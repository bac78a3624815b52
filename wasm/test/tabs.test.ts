// Tabs of real Chromium that share one broker, and what is left of what they said when they go.
import assert from "node:assert/strict";
import { appendFileSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";

import { PATIENCE_MS, SUITE_PATIENCE_MS, Site } from "./tabs.ts";

const site = new Site();
before(() => site.start());
after(() => site.stop());

/** Everything acknowledged is there, once and in the order of each stream. */
function assertKept(stored: readonly string[], acknowledged: readonly string[]): void {
  assert.equal(new Set(stored).size, stored.length, "a message is there twice");
  const wanted = new Set(acknowledged);
  assert.deepEqual(
    stored.filter((text) => wanted.has(text)),
    [...acknowledged].sort((a, b) => stored.indexOf(a) - stored.indexOf(b)),
  );
  for (const name of new Set(stored.map((text) => text.split(".")[0]))) {
    const places = stored.filter((text) => text.startsWith(`${name}.`)).map((text) => text.split(".").slice(1).map(Number));
    const ordered = [...places].sort(([a = 0, b = 0], [c = 0, d = 0]) => a - c || b - d);
    assert.deepEqual(places, ordered, `the stream ${name} is out of order`);
  }
}

for (const sharing of ["worker", "tab"] as const) {
  describe(`with the broker in a ${sharing}`, { timeout: SUITE_PATIENCE_MS }, () => {
    test("tabs share it, and it goes on when the first of them is closed", async () => {
      await site.withProfile(async (profile) => {
        const [one, other] = [await site.tab(profile), await site.tab(profile)];
        await one.open({ sharing });
        await other.open({ sharing });
        assert.equal(await other.place(), sharing === "tab" ? "another tab" : "worker");
        await other.subscribe({ from: "earliest" });
        assert.deepEqual([await one.publish("a"), await other.publish("b")], [0, 1]);
        await one.page.close();
        assert.equal(await other.publish("c", true), 2);
        await other.hears(["a", "b", "c"]);
        assert.deepEqual(await other.history(), ["a", "b", "c"]);
      });
    });

    test("a reload in the middle of writing loses nothing that was acknowledged", async () => {
      await site.withProfile(async (profile) => {
        const tab = await site.tab(profile);
        for (let cycle = 0; cycle < 4; cycle += 1) {
          await tab.open({ sharing });
          await tab.stream(`cycle${cycle}`);
          await site.acknowledges(20);
          await tab.page.reload();
          await tab.loaded();
        }
        await tab.open({ sharing });
        assertKept(await tab.history(), site.acknowledged);
      });
    });

    test("a tab that is closed while others write costs them nothing that was acknowledged", async () => {
      await site.withProfile(async (profile) => {
        const tabs = [await site.tab(profile), await site.tab(profile), await site.tab(profile)] as const;
        for (const [index, tab] of tabs.entries()) {
          await tab.open({ sharing });
          await tab.subscribe({ from: "earliest", credit: 16, onLag: "block" });
          await tab.stream(`tab${index}`);
        }
        const [first, second, last] = tabs;
        for (const tab of [first, second]) {
          await site.acknowledges(30);
          await tab.page.close(); 
        }
        await site.acknowledges(30);
        await last.enough();
        await last.publish("end.0.0", true);
        await last.page.waitForFunction(() => globalThis.heard.at(-1) === "end.0.0");
        const stored = await last.history();
        assertKept(stored, site.acknowledged);
        assert.deepEqual(await last.heard(), stored, "a subscription lost or repeated something");
      });
    });
  });
}

test("when one of the commits on their way fails, none of those behind it is stored", { timeout: PATIENCE_MS }, async () => {
  await site.withProfile(async (profile) => {
    const tab = await site.tab(profile);
    await tab.open({ sharing: "tab" });
    assert.equal(await tab.publish("kept"), 0);
    const answers = await tab.page.evaluate(async () => {
      const { commit } = IDBTransaction.prototype;
      const { transaction } = IDBDatabase.prototype;
      let begun = 0;
      let another = (): void => {};
      IDBDatabase.prototype.transaction = function (...given) {
        begun += 1;
        another();
        return transaction.apply(this, given);
      };
      let isFirst = true;
      IDBTransaction.prototype.commit = function () {
        if (!isFirst) return commit.call(this);
        isFirst = false;
        // It takes its time, and fails when others are on their way.
        const wait = (): void => {
          if (begun > 3) this.abort();
          else this.objectStore("rows").count().onsuccess = wait;
        };
        wait();
      };
      const receipts: Promise<unknown>[] = [];
      // Each is a write of its own: the next is not said before it has begun.
      while (begun <= 3) {
        const begins = new Promise<void>((resolve) => (another = resolve));
        receipts.push(client.publish(`topic${begun}`, "lost", { durability: "sync" }));
        await begins;
      }
      const settled = await Promise.allSettled(receipts);
      Object.assign(IDBTransaction.prototype, { commit });
      Object.assign(IDBDatabase.prototype, { transaction });
      return settled.map(({ status }) => status);
    });
    assert.deepEqual(answers, Array(4).fill("rejected"));
    while (typeof (await tab.publish("more", true)) === "string");
    await tab.page.reload();
    await tab.loaded();
    await tab.open({ sharing: "tab" });
    assert.deepEqual(await tab.history(), ["kept", "more"]);
    assert.equal(await tab.publish("again"), 2);
  });
});

test("a log of Chromium that ends within a record, as a kill may leave it, costs nothing at any later start", { timeout: PATIENCE_MS }, async () => {
  const directory = mkdtempSync(join(tmpdir(), "dunlin-profile-"));
  const published = (payload: string): Promise<string[]> =>
    site.withKeptProfile(directory, async (profile) => {
      const tab = await site.tab(profile);
      await tab.open();
      await tab.publish(payload);
      return tab.history();
    });
  try {
    assert.deepEqual(await published("a"), ["a"]);
    const logs = readdirSync(directory, { recursive: true, encoding: "utf8" }).filter((name) => /indexeddb\.leveldb.\d+\.log$/.test(name));
    assert.equal(logs.length, 1, logs.join());
    // A record's checksum, its length and its kind; what it holds was not written any more.
    appendFileSync(join(directory, logs[0] ?? ""), Uint8Array.of(1, 2, 3, 4, 200, 0, 1));
    assert.deepEqual(await published("b"), ["a", "b"]);
    assert.deepEqual(await published("c"), ["a", "b", "c"]);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});
