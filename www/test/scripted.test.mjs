// The console on a scripted client: what a healthy broker does not do on demand, and everything that is the page's own.
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { launch, liveMessage, openInPage, openTab, publish, serveConsoleOnFake, subscribe } from "./browser.mjs";

const [browser, url] = await Promise.all([launch(), serveConsoleOnFake()]);

async function open(options = {}, hash = "") {
  const context = await browser.newContext(options);
  return openTab(context, url + hash);
}

const look = (page, view) => page.locator(".views").getByRole("button", { name: view, exact: true }).click();

/** Something of everything that the console looks after, all of it called `name`. */
async function fill(page, name) {
  await page.evaluate((name) => {
    const settings = { ackDeadlineMs: 30_000, maxDeliveryAttempts: 5, retry: "exponential", retryMs: 1000, retryMsMax: 3_600_000, sessionMs: 60_000, rebalanceMs: 60_000, deadLettersAlert: 0 };
    const members = [{ member: name, connection: 3, inFlight: 1, partitions: 0 }];
    const partitions = [{ topic: name, partition: 0, committedOffset: 1n, logEndOffset: 9n, lag: 8, member: name }];
    fake.kept.groups.push({ group: name, kind: "queue", strategy: "sticky", generation: 1, paused: false, filters: [name], deadLetters: 2, members, partitions, ...settings });
    for (const deadOffset of [0n, 1n]) {
      const message = { topic: name, partition: 0, offset: deadOffset, sequence: deadOffset, timestamp: 5, key: name, headers: [[name, name]], payload: new TextEncoder().encode(name) };
      fake.kept.letters.push({ ...message, deadOffset, diedAt: 10, reason: "rejected", note: name, attempts: 3 });
    }
    fake.kept.limits.push({ scope: "topic", name, rate: 10, perMs: 1000, burst: 10, adaptive: true, factor: 0.7, inherited: false });
    fake.kept.limits.push({ scope: "user", rate: 10, perMs: 1000, burst: 10, adaptive: false, factor: 1, inherited: true });
    fake.kept.scheduled.push({ scheduleId: 7, topic: name, deliverAt: Date.now() + 3_600_000, sizeBytes: 9, key: name, id: name });
  }, name);
}

describe("console on a scripted client", { concurrency: 2 }, () => {
  test("markup in every field of a message stays text", async () => {
    const { page, troubles } = await open();
    await openInPage(page);
    await subscribe(page, "#");
    const hostile = `<img src=x onerror=alert(1)><script>alert(2)</script>`;
    await page.evaluate((text) => {
      fake.publish(`t/${text}`, `{"a": "${text}"}`, { key: text, contentType: text, id: text, headers: [[text, text]] });
      fake.gap({ reason: text, after: 0n, to: 4n, count: 4 });
    }, hostile);
    await liveMessage(page, hostile).click();
    await page.getByRole("region", { name: "Message" }).getByRole("heading", { name: `t/${hostile}` }).waitFor();
    await page.getByRole("button", { name: "Show in history" }).click();
    await page.locator("#page .row").filter({ hasText: hostile }).click();
    assert.equal(await page.locator("body img, body script:not([src])").count(), 0);
    assert.deepEqual(troubles, []);
  });

  test("a gap is told in its place between the messages", async () => {
    const { page } = await open();
    await openInPage(page);
    await subscribe(page, "orders/#");
    await page.evaluate(() => {
      fake.publish("orders/eu", "before");
    });
    await liveMessage(page, "before").waitFor();
    await page.evaluate(() => {
      fake.gap({ reason: "dropped", after: 4n, to: 16n, count: 12, topic: "orders/eu", partition: 2, fromOffset: 5n, toOffset: 17n });
      fake.publish("orders/eu", "behind");
    });
    await liveMessage(page, "behind").waitFor();
    const lines = await page.locator("#feed .row:visible").allTextContents();
    assert.match(lines[1], /12 messages are missing in orders\/eu, partition 2, offsets 5 to 16: this page was too slow/);
    await page.locator(".chip").filter({ hasText: "2, 12 missing" }).waitFor();
  });

  test("a subscription that the broker ends says why", async () => {
    const { page } = await open();
    await openInPage(page);
    await subscribe(page, "orders/#");
    await page.evaluate(() => fake.end("slow_consumer", "fell more than 10000 messages behind"));
    const chip = page.locator(".chip[data-state=failed]");
    await chip.filter({ hasText: "Fell more than 10000 messages behind. (slow_consumer)" }).waitFor();
    await page.locator("#feed .row.notice").filter({ hasText: "orders/# ended" }).waitFor();
    await chip.getByRole("button", { name: "End the subscription to orders/#" }).click();
    await chip.waitFor({ state: "detached" });
  });

  test("a refused publish is shown in words with its code, and when to try again", async () => {
    const { page } = await open();
    await openInPage(page);
    await page.evaluate(() => fake.refuse("storage_unavailable", "the store does not take data", 3000));
    await publish(page, "orders/eu", "one");
    const alert = page.getByRole("alert").filter({ hasText: "storage_unavailable" });
    await alert.filter({ hasText: "The store does not take data. Try again in 3 s." }).waitFor();
    await page.evaluate(() => fake.refuse(undefined));
    await publish(page, "orders/eu", "two");
    await page.getByText("Stored at partition 0, offset 0").waitFor();
    assert.equal(await alert.count(), 0);
  });

  test("a lost connection is shown until it is back", async () => {
    const { page } = await open();
    await openInPage(page);
    await page.evaluate(() =>
      fake.state({ state: "reconnecting", previous: "open", retryInMs: 2030 }, "connection_lost", "the socket was closed (1006)"),
    );
    await page.getByRole("status").filter({ hasText: "Reconnecting" }).waitFor();
    await page.getByRole("alert").filter({ hasText: "The socket was closed (1006). (connection_lost) Trying again in 2.0 s." }).waitFor();
    await page.evaluate(() => fake.state({ state: "open", previous: "reconnecting" }));
    await page.getByRole("status").filter({ hasText: "Connected" }).waitFor();
    await page.locator("#trouble").waitFor({ state: "hidden" });
  });

  test("a connection that is closed for good leads back to the first screen", async () => {
    const { page } = await open();
    await openInPage(page);
    await page.evaluate(() => fake.state({ state: "closed", previous: "open" }, "kicked", "this device was signed out"));
    await page.getByRole("alert").filter({ hasText: "This device was signed out. (kicked)" }).waitFor();
    await page.getByRole("button", { name: "Choose a broker" }).click();
    await page.getByRole("heading", { name: "Choose a broker" }).waitFor();
    assert.equal(new URL(page.url()).hash, "");
  });

  test("bad input is refused before anything is sent", async () => {
    const { page } = await open();
    await openInPage(page);
    await page.getByRole("button", { name: "Subscribe", exact: true }).click();
    await page.getByRole("alert").filter({ hasText: "The filter is empty. A # stands for every topic." }).waitFor();
    await page.getByLabel("JSON", { exact: true }).check();
    await publish(page, "orders/eu", "{not json");
    await page.getByRole("alert").filter({ hasText: /The payload is not JSON: .* Correct it, or send it as text. *invalid_argument/ }).waitFor();
    await page.getByLabel("Text", { exact: true }).check();
    await page.getByText("Headers and more").click();
    for (const wrong of ["-1", "0", "1e9", "abc", "100001"]) {
      await page.getByLabel("Repeat").fill(wrong);
      await page.getByRole("button", { name: /^Publish Ctrl/ }).click();
      await page.getByRole("alert").filter({ hasText: "Repeat must be a whole number from 1 to 100,000." }).waitFor();
    }
    assert.equal(await page.locator("#receipts li").count(), 0);
  });

  test("the list stays bounded under a burst, and says what it does not show", async () => {
    const { page, troubles } = await open();
    await openInPage(page);
    await subscribe(page, "#");
    await page.evaluate(() => fake.burst("load", 30_000));
    await page.getByText("5,000 messages shown · 25,000 not shown").waitFor();
    await liveMessage(page, "message 29999").waitFor();
    assert.ok((await page.locator("#feed .row").count()) < 60, "only the rows in sight exist");
    await page.locator(".chip").filter({ hasText: "30,000" }).waitFor();
    await page.getByText("30,000 in all").waitFor();
    assert.deepEqual(troubles, []);
  });

  test("the list is bounded in bytes too", async () => {
    const { page } = await open();
    await openInPage(page);
    await subscribe(page, "#");
    await page.evaluate(() => {
      for (let number = 0; number < 40; number += 1) fake.publish("big", new Uint8Array(1024 * 1024).fill(65));
    });
    await page.getByText("32 messages shown · 8 not shown").waitFor();
    await liveMessage(page, "AAAA").first().click();
    await page.getByRole("button", { name: "Show all of it" }).waitFor();
  });

  test("paused, the list stands still and counts what comes", async () => {
    const { page } = await open();
    await openInPage(page);
    await subscribe(page, "#");
    await page.evaluate(() => fake.publish("t", "first"));
    await liveMessage(page, "first").waitFor();
    await page.getByRole("button", { name: "Pause" }).click();
    await page.evaluate(() => fake.burst("t", 7));
    await page.getByRole("button", { name: "7 new · go to the newest" }).waitFor();
    assert.equal(await liveMessage(page, "message").count(), 0);
    await page.getByText("1 message shown · 7 not shown").waitFor();
    await page.getByRole("button", { name: "Resume" }).click();
    await liveMessage(page, "message 6").waitFor();
    await page.getByText("8 messages shown", { exact: true }).waitFor();
  });

  test("scrolling up to read pauses, the newest resumes", async () => {
    const { page } = await open();
    await openInPage(page);
    await subscribe(page, "#");
    await page.evaluate(() => fake.burst("t", 500));
    await liveMessage(page, "message 499").waitFor();
    await page.locator("#feed").hover();
    await page.mouse.wheel(0, -2000);
    await page.getByRole("button", { name: "Resume" }).waitFor();
    await page.evaluate(() => fake.publish("t", "while reading"));
    await page.getByRole("button", { name: "1 new · go to the newest" }).click();
    await liveMessage(page, "while reading").waitFor();
  });

  test("history turns pages by offset in both directions", async () => {
    const { page } = await open();
    await openInPage(page);
    await page.evaluate(() => fake.burst("log/a", 250));
    await page.getByRole("button", { name: "History", exact: true }).click();
    await page.getByRole("button", { name: "log/a" }).click();
    const extent = page.locator("#page-extent");
    await extent.filter({ hasText: "Offsets 150 to 249 of 0 to 249" }).waitFor();
    await page.getByRole("button", { name: "Older" }).click();
    await extent.filter({ hasText: "Offsets 50 to 149" }).waitFor();
    await page.getByRole("button", { name: "Older" }).click();
    await extent.filter({ hasText: "Offsets 0 to 49" }).waitFor();
    assert.ok(await page.getByRole("button", { name: "Older" }).isDisabled());
    await page.getByRole("button", { name: "Newer" }).click();
    await extent.filter({ hasText: "Offsets 50 to 149" }).waitFor();
    await page.locator("#jump-offset").fill("240");
    await page.getByRole("button", { name: "Go", exact: true }).click();
    await extent.filter({ hasText: "Offsets 240 to 249" }).waitFor();
    assert.match(page.url(), /topic=log\/a&partition=0&from=offset:240/);
    await page.locator("#jump-offset").fill("-3");
    await page.getByRole("button", { name: "Go", exact: true }).click();
    await page.getByRole("alert").filter({ hasText: "Which offset? A whole number is needed." }).waitFor();
  });

  test("a live message is found in the history, among those around it", async () => {
    const { page } = await open();
    await openInPage(page);
    await subscribe(page, "#");
    await page.evaluate(() => fake.burst("log/a", 300));
    await liveMessage(page, "message 299").click();
    await page.getByRole("button", { name: "Show in history" }).click();
    await page.locator("#page-extent").filter({ hasText: "Offsets 249 to 299 of 0 to 299" }).waitFor();
    await page.locator("#page .row[aria-selected=true]").filter({ hasText: "message 299" }).waitFor();
    await page.getByRole("region", { name: "Message" }).getByText("message 299", { exact: true }).waitFor();
  });

  test("everything is reached with the keyboard alone", async () => {
    const { page } = await open();
    await page.getByRole("button", { name: "Connect", exact: true }).waitFor();
    await page.keyboard.press("Shift+Tab");
    await page.keyboard.press("Shift+Tab");
    await page.keyboard.press("Shift+Tab");
    await page.keyboard.press("Shift+Tab");
    await page.keyboard.press("ArrowRight");
    assert.equal(await page.getByLabel("In this page").isChecked(), true);
    await page.keyboard.press("Enter");
    await page.getByRole("status").filter({ hasText: "Connected" }).waitFor();
    // The filter has the focus, so that the first thing to do can be typed at once.
    await page.keyboard.type("chat/#");
    await page.keyboard.press("Enter");
    await page.locator(".chip[data-state=live]").waitFor();
    await page.keyboard.press("Escape");
    await page.locator("#feed-empty").waitFor();
    await page.getByRole("button", { name: "Subscribe", exact: true }).focus();
    await page.keyboard.press("p");
    await page.keyboard.type("chat/room");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Tab");
    await page.keyboard.type("hello by keyboard");
    await page.keyboard.press("Control+Enter");
    await page.getByText("Stored at partition 0, offset 0").waitFor();
    await page.getByRole("button", { name: /^Publish Ctrl/ }).focus();
    await page.keyboard.press("l");
    await page.keyboard.press("ArrowUp");
    await page.keyboard.press("Enter");
    await page.getByRole("region", { name: "Message" }).getByText("hello by keyboard").waitFor();
    const outline = await page.locator("#feed").evaluate((list) => getComputedStyle(list).outlineStyle);
    assert.equal(outline, "solid", "the focus is visible");
    await page.keyboard.press("Escape");
    await page.getByRole("region", { name: "Message" }).waitFor({ state: "hidden" });
    await page.keyboard.press("?");
    await page.getByRole("dialog", { name: "Keyboard shortcuts" }).waitFor();
    await page.keyboard.press("Enter");
    await page.getByRole("dialog").waitFor({ state: "hidden" });
  });

  test("every control has a name", async () => {
    const { page } = await open();
    await openInPage(page);
    await page.getByText("Headers and more").click();
    await page.getByRole("button", { name: "Add header" }).click();
    const unnamed = await page.evaluate(() =>
      [...document.querySelectorAll("button, input, select, textarea")]
        .filter((control) => !control.labels?.length && !control.getAttribute("aria-label") && !control.textContent.trim())
        .map((control) => control.outerHTML),
    );
    assert.deepEqual(unnamed, []);
  });

  test("dark follows the system, and the choice of a person is remembered", async () => {
    const context = await browser.newContext({ colorScheme: "dark" });
    const { page } = await openTab(context, url);
    const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    assert.equal(await background(), "rgb(16, 20, 22)");
    await page.getByRole("button", { name: "Use the light theme" }).click();
    assert.equal(await background(), "rgb(244, 243, 239)");
    await page.reload();
    await page.getByRole("button", { name: "Use the dark theme" }).waitFor();
    assert.equal(await background(), "rgb(244, 243, 239)");
  });

  test("nothing is wider than a small telephone", async () => {
    const { page } = await open({ viewport: { width: 360, height: 640 } });
    const overflow = () => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.equal(await overflow(), 0);
    await openInPage(page);
    await subscribe(page, "a/rather/long/filter/that/goes/on/and/on/#");
    await page.evaluate(() => fake.publish("a/topic/with/a/long/name/that/goes/on", "x".repeat(500), { key: "k".repeat(80) }));
    await liveMessage(page, "xxx").click();
    assert.equal(await overflow(), 0);
    await page.getByRole("button", { name: "Close the message" }).click();
    await page.getByRole("button", { name: "History", exact: true }).click();
    await page.getByRole("button", { name: "a/topic/with" }).click();
    await page.locator("#page .row").first().waitFor();
    assert.equal(await overflow(), 0);
    await page.getByRole("button", { name: "Publish", exact: true }).click();
    await page.locator("#publish-topic").fill("t");
    assert.equal(await overflow(), 0);
  });

  test("a link opens its subscriptions and its page of history", async () => {
    const { page } = await open();
    await openInPage(page);
    await subscribe(page, "a/+", "earliest");
    await subscribe(page, "b/#");
    const link = page.url().slice(url.length);
    assert.equal(link, "#to=page&store=memory&namespace=default&sub=a/%2B|earliest|drop_oldest&sub=b/%23|earliest|drop_oldest");
    const { page: other } = await open({}, link);
    await other.locator(".chip[data-state=live]").filter({ hasText: "a/+" }).waitFor();
    await other.locator(".chip[data-state=live]").filter({ hasText: "b/#" }).waitFor();
  });

  test("a link to another server waits for a person", async () => {
    const { page } = await open({}, "#to=server&address=wss://elsewhere.example&namespace=lab&sub=%23|latest|drop_oldest");
    await page.getByRole("button", { name: "Connect", exact: true }).waitFor();
    assert.equal(await page.getByLabel("Address").inputValue(), "wss://elsewhere.example");
    assert.equal(await page.getByLabel("Namespace").inputValue(), "lab");
    assert.equal(await page.locator("#workspace").isVisible(), false);
  });

  test("a token never gets into the page's address", async () => {
    const { page } = await open();
    await page.getByLabel("Address").fill("ws://broker.example/?token=in-the-address");
    await page.getByLabel(/^Token/).fill("in-its-field");
    await page.getByRole("button", { name: "Connect", exact: true }).click();
    await page.locator("#workspace").waitFor();
    assert.match(page.url(), /address=ws:\/\/broker\.example&/);
    assert.doesNotMatch(page.url(), /token|in-the-address|in-its-field/);
    assert.equal(await page.getByLabel(/^Token/).inputValue(), "");
  });

  test("markup in what is looked after stays text, and every control there has a name", async () => {
    const { page, troubles } = await open();
    await openInPage(page);
    const hostile = `<img src=x onerror=alert(1)>`;
    await fill(page, hostile);
    await look(page, "Groups");
    await page.getByRole("button", { name: hostile }).click();
    for (const part of ["Partitions", "Members", "Settings", "Dead letters (2)"]) await page.getByRole("button", { name: part, exact: true }).click();
    await page.getByRole("table", { name: "Dead letters" }).getByRole("button", { name: hostile }).first().click();
    await page.getByRole("region", { name: "Message" }).getByRole("heading", { name: hostile }).waitFor();
    for (const view of ["Limits", "Scheduled"]) {
      await look(page, view);
      await page.getByRole("table").getByText(hostile).first().waitFor();
    }
    assert.equal(await page.locator("body img, body script:not([src])").count(), 0);
    const unnamed = await page.evaluate(() =>
      [...document.querySelectorAll("button, input, select, textarea")]
        .filter((control) => !control.labels?.length && !control.getAttribute("aria-label") && !control.textContent.trim())
        .map((control) => control.outerHTML),
    );
    assert.deepEqual(unnamed, []);
    assert.deepEqual(troubles, []);
  });

  test("a broker that does not let this client manage says so in every place", async () => {
    const { page, troubles } = await open();
    await openInPage(page);
    await fill(page, "jobs");
    await look(page, "Groups");
    await page.getByRole("button", { name: "jobs" }).click();
    await page.getByRole("table", { name: "Partitions" }).waitFor();
    const no = () => page.evaluate(() => fake.refuse("forbidden", "this connection may not manage"));
    const yes = () => page.evaluate(() => fake.refuse(undefined));
    const told = (id) => page.locator(id).filter({ hasText: "This connection may not manage. Connect with a token that has this right." }).filter({ hasText: "forbidden" }).waitFor();
    await no();
    await page.getByRole("button", { name: "Pause", exact: true }).click();
    await told("#group-error");
    for (const [press, verb] of [["Reset …", "Reset"], ["Delete group …", "Delete group"]]) {
      await page.getByRole("button", { name: press }).click();
      await page.getByRole("dialog").getByRole("button", { name: verb, exact: true }).click();
      await told("#question-error");
      await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
    }
    await yes();
    await page.getByRole("button", { name: "Dead letters (2)" }).click();
    await page.getByRole("table", { name: "Dead letters" }).waitFor();
    await no();
    for (const [press, verb] of [["Replay all …", "Replay"], ["Delete all …", "Delete"]]) {
      await page.getByRole("button", { name: press }).click();
      await page.getByRole("dialog").getByRole("button", { name: verb, exact: true }).click();
      await told("#question-error");
      await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
    }
    await page.getByRole("button", { name: "All groups" }).click();
    await told("#groups-error");
    await look(page, "Scheduled");
    await told("#scheduled-error");
    await look(page, "Limits");
    await told("#limits-error");
    await page.getByLabel("How many").fill("5");
    await page.getByRole("button", { name: "Set limit" }).click();
    await told("#limit-error");
    assert.deepEqual(await page.evaluate(() => fake.kept.asked), []);
    await yes();
    await page.getByRole("table", { name: "Rate limits" }).waitFor();
    await page.locator("#limits-error").waitFor({ state: "hidden" });
    assert.deepEqual(troubles, []);
  });

  test("only what is looked at is asked for again, and only while the tab is seen", async () => {
    const { page } = await open();
    await page.clock.install();
    await openInPage(page);
    await fill(page, "jobs");
    await look(page, "Groups");
    await page.getByRole("button", { name: "jobs" }).click();
    const lag = page.locator("#group-facts");
    await lag.filter({ hasText: "lag 8" }).waitFor();
    const change = (lag) => page.evaluate((lag) => Object.assign(fake.kept.groups[0].partitions[0], { lag }), lag);
    await change(5);
    await page.clock.runFor(2000);
    await lag.filter({ hasText: "lag 5" }).waitFor();
    await look(page, "Live");
    await change(3);
    await page.clock.runFor(60_000);
    assert.match(await lag.textContent(), /lag 5/);
    await look(page, "Groups");
    await lag.filter({ hasText: "lag 3" }).waitFor();
    const see = (hidden) =>
      page.evaluate((hidden) => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
      }, hidden);
    await see(true);
    await change(1);
    await page.clock.runFor(60_000);
    assert.match(await lag.textContent(), /lag 3/);
    await see(false);
    await lag.filter({ hasText: "lag 1" }).waitFor();
  });

  test("a table that is read again keeps the focus and what is selected", async () => {
    const { page } = await open();
    await page.clock.install();
    await openInPage(page);
    await fill(page, "jobs");
    await look(page, "Groups");
    await page.getByRole("button", { name: "jobs" }).click();
    await page.getByRole("button", { name: "Dead letters (2)" }).click();
    await page.getByLabel("Select dead letter 1").check();
    await page.evaluate(() => {
      fake.kept.letters.shift();
      fake.kept.groups[0].deadLetters = 1;
    });
    await page.clock.runFor(2000);
    await page.getByLabel("Select dead letter 0").waitFor({ state: "detached" });
    assert.equal(await page.getByLabel("Select dead letter 1").evaluate((box) => box.checked && box === document.activeElement), true);
    await page.getByRole("button", { name: "Replay 1 selected …" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Replay" }).click();
    await page.getByText("1 dead letter on the way to the group again.").waitFor();
    assert.deepEqual(await page.evaluate(() => fake.kept.asked.map(([what, group, { offsets }]) => `${what} ${group} ${offsets}`)), ["replay jobs 1"]);
  });

  test("many dead letters are read page by page, and those at the end of the last page may go", async () => {
    const { page } = await open();
    await openInPage(page);
    await fill(page, "jobs");
    await page.evaluate(() => {
      const [letter] = fake.kept.letters;
      fake.kept.letters.splice(0, 2, ...Array.from({ length: 101 }, (_, index) => ({ ...letter, deadOffset: BigInt(index) })));
      fake.kept.groups[0].deadLetters = 101;
    });
    await look(page, "Groups");
    await page.getByRole("button", { name: "jobs" }).click();
    await page.getByRole("button", { name: "Dead letters (101)" }).click();
    const rows = page.getByRole("table", { name: "Dead letters" }).locator("tbody tr");
    await rows.nth(99).waitFor();
    assert.equal(await rows.count(), 100);
    assert.ok(await page.locator("#letters-first").isDisabled());
    await page.getByRole("button", { name: "Newer" }).click();
    await page.getByLabel("Select dead letter 100").waitFor();
    assert.equal(await rows.count(), 1);
    assert.ok(await page.locator("#letters-newer").isDisabled());
    await page.evaluate(() => {
      fake.kept.letters.pop();
      fake.kept.groups[0].deadLetters = 100;
    });
    await page.getByLabel("Select dead letter 99").waitFor();
    assert.equal(await rows.count(), 100);
  });

  test("an inherited limit can be overridden, but not removed", async () => {
    const { page } = await open();
    await openInPage(page);
    await fill(page, "jobs");
    await look(page, "Limits");
    await page.getByRole("button", { name: "Override each user" }).click();
    assert.equal(await page.getByLabel("Limit for").inputValue(), "user");
    await page.getByRole("button", { name: "Remove topic jobs" }).waitFor();
    assert.equal(await page.getByRole("button", { name: "Remove each user" }).count(), 0);
    await page.getByLabel("How many").fill("11");
    await page.getByRole("button", { name: "Set limit" }).click();
    await page.waitForFunction(() => fake.kept.asked.length === 1);
    const [[, limit]] = await page.evaluate(() => fake.kept.asked);
    assert.deepEqual(limit, { scope: "user", rate: 11, perMs: 1000, burst: 10, adaptive: false });
  });

  test("what is looked after fits a small telephone, and the keyboard reaches it", async () => {
    const { page } = await open({ viewport: { width: 360, height: 640 } });
    await openInPage(page);
    await fill(page, "a-name-that-is-rather-long-and-goes-on-and-on-without-any-place-to-break-it");
    const overflow = () => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    await page.getByRole("button", { name: "Live", exact: true }).focus();
    for (const [key, view] of [["d", "Scheduled"], ["r", "Limits"], ["g", "Groups"]]) {
      await page.keyboard.press(key);
      await page.locator(".views [aria-current]").filter({ hasText: view }).waitFor();
      await page.locator(".view:not([hidden]) tbody tr").first().waitFor();
      assert.equal(await overflow(), 0, view);
      await look(page, view);
    }
    await page.getByRole("button", { name: "a-name" }).focus();
    await page.keyboard.press("Enter");
    for (const part of ["Partitions", "Members", "Settings", "Dead letters (2)"]) {
      await page.getByRole("button", { name: part, exact: true }).click();
      assert.equal(await overflow(), 0, part);
    }
    await page.getByRole("table", { name: "Dead letters" }).getByRole("button").first().click();
    assert.equal(await overflow(), 0, "an open letter");
    await page.keyboard.press("Escape");
    await page.getByRole("region", { name: "Message" }).waitFor({ state: "hidden" });
    await page.getByRole("button", { name: "Reset …" }).click();
    assert.equal(await overflow(), 0, "a question");
    // Letters typed or pressed in a question are no shortcuts.
    await page.keyboard.press("l");
    await page.getByRole("dialog", { name: /^Reset group/ }).waitFor();
    await page.keyboard.press("Escape");
    await page.getByRole("dialog").waitFor({ state: "hidden" });
    assert.match(page.url(), /view=groups&group=a-name[a-z-]+&part=dead-letters/);
  });
});
