// The console against the Worker in the real edge runtime, from a page that another place serves.
import assert from "node:assert/strict";
import { after, test } from "node:test";

import { connect } from "dunlin";

import { startWorker, TOKENS } from "../../worker/test/workerd.mjs";
import { launch, liveMessage, openTab, publish, serveConsole, subscribe } from "./browser.mjs";

test("two tabs chat through the Worker, each with the token of its namespace", async () => {
  const [browser, url] = await Promise.all([launch(), serveConsole()]);
  const worker = startWorker({ bindings: { DUNLIN_TOKENS: JSON.stringify(TOKENS), DUNLIN_ORIGINS: new URL(url).origin } });
  after(() => worker.dispose());
  const address = (await worker.ready).origin;

  async function enter() {
    const opened = await openTab(await browser.newContext(), `${url}#to=server&address=${address}&namespace=chat`, { expectErrors: true });
    const { page } = opened;
    await page.getByRole("button", { name: "Connect", exact: true }).click();
    await page.locator("#connect-error").filter({ hasText: "connection_failed" }).waitFor();
    await page.getByLabel(/^Token/).fill(TOKENS.chat);
    await page.getByRole("button", { name: "Connect", exact: true }).click();
    await page.getByRole("status").filter({ hasText: "Connected" }).waitFor();
    return opened;
  }

  const [ada, ben] = await Promise.all([enter(), enter()]);
  await Promise.all([subscribe(ada.page, "room/#"), subscribe(ben.page, "room/+")]);
  await publish(ada.page, "room/one", "hello from Ada");
  await liveMessage(ben.page, "hello from Ada").waitFor();
  await publish(ben.page, "room/one", "hello from Ben");
  await liveMessage(ada.page, "hello from Ben").waitFor();
  await ada.page.getByRole("button", { name: "History", exact: true }).click();
  await ada.page.getByRole("button", { name: "room/one" }).click();
  await ada.page.locator("#page-extent").filter({ hasText: "Offsets 0 to 1 of 0 to 1" }).waitFor();
  const client = await connect(address.replace(/^http/, "ws"), { namespace: "chat", token: TOKENS.chat });
  after(() => client.close());
  await client.group("readers").configure({ filters: ["room/#"] });
  await ada.page.getByRole("button", { name: "Groups", exact: true }).click();
  await ada.page.getByRole("row").filter({ hasText: "readers" }).locator('td[data-title="Lag"]', { hasText: "2" }).waitFor();
  assert.doesNotMatch(ada.page.url(), new RegExp(TOKENS.chat));
  assert.deepEqual([...ada.troubles, ...ben.troubles], []);
});
