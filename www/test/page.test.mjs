// The console with the broker in the page itself.
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { launch, liveMessage, openInPage, openTab, publish, serveConsole, subscribe } from "./browser.mjs";

const [browser, url] = await Promise.all([launch(), serveConsole()]);

describe("console on the broker in the page", { concurrency: 2 }, () => {
  test("what is published comes to every subscription that matches, live and from the beginning", async () => {
    const { page, troubles } = await openTab(await browser.newContext(), url);
    await openInPage(page);
    await publish(page, "orders/eu", "one");
    await page.getByText(/Stored at partition \d+, offset 0/).waitFor();
    await subscribe(page, "orders/+", "earliest");
    await liveMessage(page, "one").waitFor();
    await subscribe(page, "#", "latest");
    await publish(page, "orders/us", "two");
    await page.locator(".chip").filter({ hasText: "orders/+" }).getByText("2", { exact: true }).waitFor();
    await liveMessage(page, "two").nth(1).waitFor();
    assert.equal(await liveMessage(page, "two").count(), 2, "each subscription gets its delivery");
    await page.getByRole("button", { name: "End the subscription to #" }).click();
    await publish(page, "orders/us", "three");
    await liveMessage(page, "three").waitFor();
    assert.equal(await liveMessage(page, "three").count(), 1);
    assert.deepEqual(troubles, []);
  });

  test("what is kept in the browser is there after a reload", async () => {
    const context = await browser.newContext();
    const { page, troubles } = await openTab(context, url);
    await openInPage(page, "indexeddb");
    await publish(page, "notes/today", "kept over the reload");
    await page.getByText(/Stored at partition \d+, offset 0/).waitFor();
    await subscribe(page, "notes/#", "earliest");
    await page.reload();
    // The address says the broker and the subscription, so the reload opens both.
    await liveMessage(page, "kept over the reload").waitFor();
    await page.getByRole("button", { name: "History", exact: true }).click();
    await page.getByRole("button", { name: "notes/today" }).click();
    await page.locator("#page .row").filter({ hasText: "kept over the reload" }).waitFor();
    assert.deepEqual(troubles, []);
  });

  test("a second tab shares the broker of the first, and hears what is published there", async () => {
    const context = await browser.newContext();
    const { page, troubles } = await openTab(context, url);
    await openInPage(page, "indexeddb");
    const { page: second, troubles: others } = await openTab(context, `${url}#to=page&store=indexeddb&namespace=default`);
    await subscribe(second, "notes/#", "earliest");
    await publish(page, "notes/today", "from tab to tab");
    await liveMessage(second, "from tab to tab").waitFor();
    assert.deepEqual([...troubles, ...others], []);
  });

  test("limits hold and scheduled messages come without a server", async () => {
    const { page, troubles } = await openTab(await browser.newContext(), url);
    await openInPage(page);
    const look = (view) => page.locator(".views").getByRole("button", { name: view, exact: true }).click();
    await look("Limits");
    await page.getByLabel("Limit for").selectOption("topic");
    await page.getByLabel(/^Which one/).fill("slow");
    await page.getByLabel("How many").fill("1");
    await page.getByLabel("Per, ms").fill("3600000");
    await page.getByRole("button", { name: "Set limit" }).click();
    await page.getByRole("table", { name: "Rate limits" }).getByText("topic slow").waitFor();
    await publish(page, "slow", "one");
    await page.getByText("Stored at partition 0, offset 0").waitFor();
    await publish(page, "slow", "two");
    await page.locator("#publish-error").filter({ hasText: "rate_limited" }).waitFor();
    await look("Live");
    await subscribe(page, "later");
    await page.getByText("Headers and more").click();
    await page.getByLabel("Publish in, ms").fill("20");
    await publish(page, "later", "in its time");
    await liveMessage(page, "in its time").waitFor();
    await look("Scheduled");
    await page.getByText("Nothing waits for its time").waitFor();
    await look("Groups");
    await page.getByText("No groups yet").waitFor();
    assert.match(await page.locator("#groups-empty pre").textContent(), /joinQueue/);
    assert.deepEqual(troubles, []);
  });
});
