// The console against `dunlin serve`, over real sockets.
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { launch, liveMessage, openTab, publish, subscribe } from "./browser.mjs";
import { dataDirectory, startHost } from "./host.mjs";

const browser = await launch();

async function tab(url, hash = "", options = {}) {
  const context = await browser.newContext();
  const opened = await openTab(context, url + hash, options);
  return opened;
}

const connected = (page) => page.getByRole("status").filter({ hasText: "Connected" }).waitFor();

describe("console on the native host", { concurrency: 2 }, () => {
  test("two tabs chat: the page connects by itself, and each hears the other", async () => {
    const host = await startHost(await dataDirectory());
    const [ada, ben] = await Promise.all([tab(host.url), tab(host.url)]);
    await Promise.all([connected(ada.page), connected(ben.page)]);
    await Promise.all([subscribe(ada.page, "chat/#"), subscribe(ben.page, "chat/+")]);
    await publish(ada.page, "chat/garden", "hello from Ada", { key: "ada" });
    await liveMessage(ben.page, "hello from Ada").waitFor();
    await publish(ben.page, "chat/garden", "hello from Ben", { key: "ben" });
    await Promise.all([ada, ben].map(({ page }) => liveMessage(page, "hello from Ben").waitFor()));
    const order = (page) => page.locator("#feed .row:visible .payload").allTextContents();
    assert.deepEqual(await order(ada.page), ["hello from Ada", "hello from Ben"]);
    assert.deepEqual(await order(ben.page), ["hello from Ada", "hello from Ben"]);
    assert.deepEqual([...ada.troubles, ...ben.troubles], []);
    await host.stop();
  });

  test("a restart of the server is shown, and nothing is missing after it", async () => {
    const data = await dataDirectory();
    const first = await startHost(data);
    const { page } = await tab(first.url, "", { expectErrors: true });
    await connected(page);
    await subscribe(page, "#");
    await page.getByLabel("Durability").selectOption("sync");
    await publish(page, "log/a", "before the restart");
    await liveMessage(page, "before the restart").waitFor();
    await first.stop();
    await page.getByRole("status").filter({ hasText: "Reconnecting" }).waitFor();
    await page.locator("#trouble").filter({ hasText: "Trying again in" }).waitFor();
    const second = await startHost(data, { listen: first.listen });
    await page.getByRole("status").filter({ hasText: "Connected" }).waitFor();
    await publish(page, "log/a", "after the restart");
    await liveMessage(page, "after the restart").waitFor();
    await page.getByRole("button", { name: "History", exact: true }).click();
    await page.getByRole("button", { name: "log/a" }).click();
    await page.locator("#page-extent").filter({ hasText: "Offsets 0 to 1 of 0 to 1" }).waitFor();
    const stored = await page.locator("#page .row .payload").allTextContents();
    assert.deepEqual(stored, ["before the restart", "after the restart"]);
    await second.stop();
  });

  test("everything that a message can carry arrives", async () => {
    const host = await startHost(await dataDirectory());
    const { page } = await tab(host.url);
    await connected(page);
    await subscribe(page, "orders/#");
    await page.getByLabel("JSON", { exact: true }).check();
    await page.getByText("Headers and more").click();
    await page.getByRole("button", { name: "Add header" }).click();
    await page.getByLabel("Header name").fill("source");
    await page.getByLabel("Header value").fill("a test");
    await publish(page, "orders/eu", `{"id": 17}`, { key: "customer-3" });
    await page.getByText("Stored at partition").waitFor();
    await liveMessage(page, `{"id": 17}`).click();
    const shown = page.getByRole("region", { name: "Message" });
    for (const text of ["customer-3", "application/json", "source", "a test"]) await shown.getByText(text, { exact: true }).waitFor();
    await shown.getByText(`"id": 17`).waitFor();
    await host.stop();
  });

  test("a batch of thousands is published, counted and paged", async () => {
    const host = await startHost(await dataDirectory());
    const { page, troubles } = await tab(host.url);
    await connected(page);
    await subscribe(page, "load");
    await page.getByText("Headers and more").click();
    await page.getByLabel("Repeat").fill("3000");
    await publish(page, "load", "message {n}", { key: "one" });
    await page.getByText(/3,000 messages, the last at partition \d+, offset 2999/).waitFor();
    await liveMessage(page, "message 3000").waitFor();
    await page.getByText("3,000 messages shown", { exact: true }).waitFor();
    await page.getByRole("button", { name: "History", exact: true }).click();
    await page.getByRole("button", { name: "load", exact: true }).click();
    await page.locator("#page-extent").filter({ hasText: "Offsets 2,900 to 2,999 of 0 to 2,999" }).waitFor();
    await page.getByRole("button", { name: "Oldest" }).click();
    await page.locator("#page .row").getByText("message 1", { exact: true }).waitFor();
    const extent = page.locator("#page-extent");
    await page.getByRole("button", { name: "Newer" }).click();
    await extent.filter({ hasText: "Offsets 100 to 199" }).waitFor();
    await page.locator("#jump-kind").selectOption("timestamp");
    await page.locator("#jump-time").fill("2001-01-01T00:00:00");
    await page.getByRole("button", { name: "Go", exact: true }).click();
    await extent.filter({ hasText: "Offsets 0 to 99" }).waitFor();
    await page.locator("#jump-time").fill("2999-01-01T00:00:00");
    await page.getByRole("button", { name: "Go", exact: true }).click();
    await page.getByText("Nothing from there on").waitFor();
    await page.getByRole("button", { name: "Live", exact: true }).click();
    await page.getByRole("button", { name: "End the subscription to load" }).click();
    await page.getByRole("button", { name: "Clear" }).click();
    await page.getByLabel("From", { exact: true }).selectOption("last");
    await page.getByLabel("Messages", { exact: true }).fill("7");
    await subscribe(page, "+");
    await page.getByText("7 messages shown", { exact: true }).waitFor();
    assert.deepEqual(troubles, []);
    await host.stop();
  });

  test("refusals of the broker are shown with their codes", async () => {
    const host = await startHost(await dataDirectory());
    const { page } = await tab(host.url);
    await connected(page);
    await page.getByLabel("Filter", { exact: true }).fill("a/#/b");
    await page.getByRole("button", { name: "Subscribe", exact: true }).click();
    await page.locator(".chip[data-state=failed]").filter({ hasText: "invalid_filter" }).waitFor();
    await publish(page, "a/+/b", "x");
    await page.locator("#publish-error").filter({ hasText: "invalid_topic" }).waitFor();
    await publish(page, "a".repeat(1025), "x");
    await page.locator("#publish-error").filter({ hasText: "invalid_topic" }).waitFor();
    await publish(page, "a/b", "x");
    await page.getByText("Stored at partition").waitFor();
    await page.getByRole("button", { name: "History", exact: true }).click();
    await page.getByRole("button", { name: "a/b" }).click();
    await page.locator("#page .row").first().waitFor();
    await page.locator("#jump-offset").fill("99");
    await page.getByRole("button", { name: "Go", exact: true }).click();
    await page.locator("#history-error").filter({ hasText: "offset_out_of_range" }).waitFor();
    await host.stop();
  });

  test("a server that does not answer is a clear error, and the form stays", async () => {
    const host = await startHost(await dataDirectory());
    const { page } = await tab(host.url, "#to=server&address=ws://127.0.0.1:1&namespace=default", { expectErrors: true });
    await page.getByRole("button", { name: "Connect", exact: true }).click();
    const problem = page.locator("#connect-error");
    await problem.filter({ hasText: "connection_failed" }).filter({ hasText: "Check that the server runs" }).waitFor();
    for (const [wrong, says] of [
      ["ftp://127.0.0.1", /must begin with ws:/],
      ["http://", /is not a URL/],
      ["", /The address is empty/],
    ]) {
      await page.getByLabel("Address").fill(wrong);
      await page.getByRole("button", { name: "Connect", exact: true }).click();
      await problem.filter({ hasText: says }).filter({ hasText: "invalid_argument" }).waitFor();
    }
    await page.getByLabel("Address").fill(host.listen);
    await page.getByRole("button", { name: "Connect", exact: true }).click();
    await connected(page);
    await host.stop();
  });

  test("a server with a token asks for it, and it stays out of the page's address", async () => {
    const host = await startHost(await dataDirectory(), { args: ["--token", "default=open-sesame"] });
    const { page } = await tab(host.url, "", { expectErrors: true });
    const problem = page.locator("#connect-error").filter({ hasText: "unauthorised" });
    await problem.filter({ hasText: "A token is needed" }).waitFor();
    // The token's field has the focus already.
    await page.keyboard.type("open-barley");
    await page.keyboard.press("Enter");
    await problem.filter({ hasText: "The token is not one of this namespace. Type the token of this namespace above." }).waitFor();
    await page.getByLabel(/^Token/).fill("open-sesame");
    await page.getByRole("button", { name: "Connect", exact: true }).click();
    await connected(page);
    assert.doesNotMatch(page.url(), /sesame/);
    await host.stop();
  });
});
