// The console on a scripted client: what a healthy broker does not do on demand, and everything that is the page's own.
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { launch, liveMessage, openInPage, openTab, publish, serveConsoleOnFake, subscribe } from "./browser.mjs";

const [browser, url] = await Promise.all([launch(), serveConsoleOnFake()]);

async function open(options = {}, hash = "") {
  const context = await browser.newContext(options);
  return openTab(context, url + hash);
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
});
