// What tabs of real Chromium do when something stands in the way of sharing a broker.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { SUITE_PATIENCE_MS, Site } from "./tabs.ts";

const site = new Site();
before(() => site.start());
after(() => site.stop());

describe("tabs in one browser", { timeout: SUITE_PATIENCE_MS }, () => {
  for (const [first, second, place] of [["tab", "worker", "another tab"], ["worker", "tab", "worker"]] as const) {
    test(`a tab that would use a ${second} joins a broker that runs in a ${first}`, async () => {
      await site.withProfile(async (profile) => {
        const [one, other] = [await site.tab(profile), await site.tab(profile)];
        await one.open({ sharing: first });
        await one.publish("a");
        await other.open({ sharing: second });
        assert.deepEqual([await other.place(), await other.history()], [place, ["a"]]);
      });
    });
  }

  test("a tab whose own client closes goes on to serve the others, and lets go after the last", async () => {
    await site.withProfile(async (profile) => {
      const [one, other] = [await site.tab(profile), await site.tab(profile)];
      await one.open({ sharing: "tab" });
      await other.open({ sharing: "tab" });
      await other.subscribe();
      await one.page.evaluate(() => client.close());
      assert.equal(await other.publish("a"), 0);
      await other.hears(["a"]);
      assert.equal(await one.place(), "here");
      await other.page.evaluate(() => client.close());
      await one.page.evaluate(() => navigator.locks.request("dunlin:dunlin", () => {}));
      await other.open({ sharing: "tab" });
      assert.deepEqual(await other.history(), ["a"]);
    });
  });

  test("a frozen tab hands the broker over, and comes back as a guest", async () => {
    await site.withProfile(async (profile) => {
      const [one, other] = [await site.tab(profile), await site.tab(profile)];
      await one.open({ sharing: "tab" });
      await other.open({ sharing: "tab" });
      await one.subscribe();
      await other.subscribe();
      await one.publish("a");
      assert.equal(await other.place(), "another tab");
      // Chromium freezes no tab that is on a screen, so this is only what a frozen one would hear.
      await one.page.evaluate(() => document.dispatchEvent(new Event("freeze")));
      assert.equal(await other.publish("b", true), 1);
      await other.hears(["a", "b"]);
      assert.equal(await other.place(), "here");
      await one.page.evaluate(() => document.dispatchEvent(new Event("resume")));
      await one.hears(["a", "b"]);
      assert.equal(await one.publish("c", true), 2);
      await other.hears(["a", "b", "c"]);
    });
  });

  test("when the tab with the broker crashes another one restores it", async () => {
    await site.withProfile(async (profile) => {
      const [one, other] = [await site.tab(profile), await site.tab(profile)];
      await one.open({ sharing: "tab" });
      await other.open({ sharing: "tab" });
      await other.subscribe();
      await one.publish("a");
      await one.crash();
      assert.equal(await other.publish("b", true), 1);
      await other.hears(["a", "b"]);
      assert.equal(await other.place(), "here");
    });
  });

  test("a page that is left for another hands the broker over, and is a guest when it is shown again", async () => {
    await site.withProfile(async (profile) => {
      const [one, other] = [await site.tab(profile), await site.tab(profile)];
      await one.open({ sharing: "tab" });
      await other.open({ sharing: "tab" });
      await one.publish("a");
      await one.page.goto(`${site.origin}/elsewhere`);
      assert.equal(await other.publish("b", true), 1);
      await one.page.goBack({ waitUntil: "commit" });
      assert.equal(await one.page.evaluate(() => typeof globalThis.client), "object", "the page was not kept");
      assert.deepEqual(await one.history(), ["a", "b"]);
    });
  });

  for (const sharing of ["worker", "tab"] as const) {
    test(`a tab that crashed holds nobody up: its subscriptions end, with the broker in a ${sharing}`, async () => {
      await site.withProfile(async (profile) => {
        const [host, one, other] = [await site.tab(profile), await site.tab(profile), await site.tab(profile)];
        for (const tab of [host, one, other]) await tab.open({ sharing, config: { block_ms_max: 60_000 } });
        // Nobody takes what it is sent, and the publisher waits for it.
        await one.page.evaluate(() => client.subscribe("t", { credit: 1, lagMax: 1, onLag: "block" }).ready);
        assert.equal(await other.publish("a"), 0);
        assert.equal(await other.publish("b"), 1);
        const held = other.publish("c");
        const first = await Promise.race([held, host.history().then(() => "held")]);
        assert.equal(first, "held");
        await one.crash();
        assert.equal(await held, 2);
      });
    });
  }

  test("another configuration is refused in any tab", async () => {
    await site.withProfile(async (profile) => {
      const [one, other] = [await site.tab(profile), await site.tab(profile)];
      await one.open({ config: { payload_bytes_max: 10 } });
      assert.match(await other.refusal({}), /^invalid_argument: the broker "dunlin" is open with another configuration: close its clients first, in all tabs/);
      assert.match(await other.refusal({ config: { payload_bytes_max: "x" } }), /^invalid_argument: /);
      await other.open({ config: { payload_bytes_max: 10 } });
      assert.match(String(await other.publish("x".repeat(11))), /^too_large: /);
    });
  });

  test("a broker that cannot start says why, from the worker as from a tab", async () => {
    await site.withProfile(async (profile) => {
      const tab = await site.tab(profile);
      for (const sharing of ["worker", "tab"] as const) {
        assert.match(await tab.refusal({ sharing, wasm: "/nothing.wasm" }), /^wasm_unavailable: cannot load the broker's WebAssembly: .*; import "dunlin\/inline"/);
        assert.match(await tab.refusal({ sharing, config: { colour: "red" } }), /^invalid_argument: the broker "dunlin" cannot start: .*colour/);
      }
      await tab.open();
      assert.equal(await tab.publish("a"), 0);
    });
  });

  test("a tab of another version is refused, and is told to close the older tabs", async () => {
    await site.withProfile(async (profile) => {
      const [one, other] = [await site.tab(profile), await site.tab(profile)];
      await one.open();
      const refused = other.page.evaluate(
        () =>
          new Promise((resolve) => {
            new BroadcastChannel("dunlin:dunlin:link:newer").onmessage = ({ data }) => resolve(data);
            new BroadcastChannel("dunlin:dunlin").postMessage({ version: 99, link: "newer" });
          }),
      );
      assert.deepEqual(await refused, {
        kind: "closed",
        code: 4003,
        reason:
          "unsupported_version: tabs of this site run versions of dunlin that cannot share: the sharing of one is of version 2, of the other 99; close or reload the older tabs",
        retryInMs: undefined,
      });
    });
  });

  test("a worker of another version, or one that cannot be loaded, is told once and done without", async () => {
    site.extra.set("/older.js", "onconnect = ({ ports: [port] }) => port.postMessage(0);");
    for (const [worker, why] of [["/older.js", /older\.js is of another version, 0 and not 2: reload all tabs/], ["/missing.js", /missing\.js cannot be loaded/]] as const) {
      await site.withProfile(async (profile) => {
        const warned: string[] = [];
        profile.on("console", (message) => message.type() === "warning" && warned.push(message.text()));
        const tab = await site.tab(profile);
        await tab.open({ worker });
        await tab.page.evaluate(() => client.close());
        await tab.open({ worker });
        assert.deepEqual([await tab.publish("a"), await tab.place()], [0, "here"]);
        assert.equal(warned.length, 1, warned.join("\n"));
        assert.match(warned[0] ?? "", why);
      });
    }
  });

  test("a worker that is told of a link before the link listens answers when it does", async () => {
    await site.withProfile(async (profile) => {
      const [one, other] = [await site.tab(profile), await site.tab(profile)];
      await one.open();
      const said = other.page.evaluate(async () => {
        const [room, link] = ["dunlin:dunlin", "early"];
        const name = `${room}:link:${link}`;
        await new Promise<void>((held) => {
          void navigator.locks.request(name, () => new Promise(() => held()));
        });
        const knock = { version: 2, link, config: "{}", namespace: "default", user: "", device: "" };
        new SharedWorker("/shared-worker.js", { type: "module", name: room }).port.postMessage({ version: 2, room, knock });
        // When it has heard of the link it waits for the link's end.
        while ((await navigator.locks.query()).pending?.every((lock) => lock.name !== name));
        const wire = new BroadcastChannel(name);
        const answered = new Promise<string>((resolve) => (wire.onmessage = ({ data }) => resolve(data.kind)));
        new BroadcastChannel(room).postMessage(knock);
        return answered;
      });
      assert.equal(await said, "opened");
    });
  });

  test("a worker that never speaks is done without after a while", async () => {
    site.extra.set("/silent.js", "");
    await site.withProfile(async (profile) => {
      const tab = await site.tab(profile);
      await tab.page.clock.install();
      const warned = profile.waitForEvent("console", (message) => message.type() === "warning");
      const opening = tab.open({ worker: "/silent.js" });
      // A link has its lock when it tells the worker.
      await tab.page.evaluate(async () => {
        while ((await navigator.locks.query()).held?.every(({ name }) => name?.includes(":link:") === false));
      });
      await tab.page.clock.fastForward(10_000);
      await opening;
      assert.match((await warned).text(), /silent\.js did not answer for 10 s/);
      assert.deepEqual([await tab.publish("a"), await tab.place()], [0, "here"]);
    });
  });

  test("a database that the browser does not open is asked for again", async () => {
    await site.withProfile(async (profile) => {
      const tab = await site.tab(profile);
      await tab.page.clock.install();
      const asked = tab.page.evaluate(
        () =>
          new Promise<void>((resolve) => {
            const { open } = IDBFactory.prototype;
            IDBFactory.prototype.open = function (name, version) {
              if (!name.startsWith("dunlin:")) return open.call(this, name, version);
              IDBFactory.prototype.open = open;
              resolve();
              return {} as IDBOpenDBRequest;
            };
          }),
      );
      const opening = tab.open({ sharing: "tab" });
      await asked;
      await tab.page.clock.fastForward(5_000);
      await opening;
      assert.deepEqual([await tab.publish("a"), await tab.history()], [0, ["a"]]);
    });
  });

  test("storage that is full is told, and writing goes on when there is room", async () => {
    await site.withProfile(async (profile) => {
      const tab = await site.tab(profile);
      const debug = await profile.newCDPSession(tab.page);
      await debug.send("Storage.overrideQuotaForOrigin", { origin: site.origin, quotaSize: 400_000 });
      await tab.open();
      let stored = 0;
      let answer = await tab.publish(60_000);
      for (; typeof answer === "number"; answer = await tab.publish(60_000)) stored = answer + 1;
      assert.match(answer, /^connection_lost: .*not known: the browser gives this site no more storage: delete other data/);
      // It may have asked the browser already whether there is room again, which it learns only by writing.
      while (/^connection_lost: /.test(String((answer = await tab.publish(60_000)))));
      assert.match(String(answer), /^storage_full: the browser gives this site no more storage: .*goes on by itself when there is room$/);
      await debug.send("Storage.overrideQuotaForOrigin", { origin: site.origin });
      while (typeof (answer = await tab.publish(60_000)) === "string") assert.match(answer, /^storage_full|^connection_lost/);
      assert.equal(answer, stored, "what was refused is not there");
    });
  });

  test("the browser is asked once to keep the data, and the program hears the answer", async () => {
    await site.withProfile(async (profile) => {
      const tab = await site.tab(profile);
      const heard = await tab.page.evaluate(async () => {
        let asked = 0;
        StorageManager.prototype.persist = async () => (asked += 1) === 1;
        const clients = [await dunlin.openLocal({ store: "indexeddb" }), await dunlin.openLocal({ store: "indexeddb" })];
        return [asked, ...(await Promise.all(clients.map((client) => client.persisted))), await (await dunlin.openLocal()).persisted];
      });
      assert.deepEqual(heard, [1, true, true, false]);
    });
  });
});
