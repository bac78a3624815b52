// Groups, dead letters, scheduled messages and limits in the console, against `dunlin serve`: what is shown is the truth,
// whoever changed it, and what is done there is done.
import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { after, describe, test } from "node:test";

import { connect } from "dunlin";

import { launch, openTab, PATIENCE_MS } from "./browser.mjs";
import { dataDirectory, startHost } from "./host.mjs";

const browser = await launch();
// Before its data directory goes, which has a hook of its own.
after(() => host.stop());
const host = await startHost(await dataDirectory());

/** The console in one tab, and a client of the same broker elsewhere. */
async function open(view) {
  const { page, troubles } = await openTab(await browser.newContext(), `${host.url}#view=${view}`);
  await page.getByRole("status").filter({ hasText: "Connected" }).waitFor();
  const client = await connect(host.url.replace(/^http/, "ws"));
  after(() => client.close());
  return { page, troubles, client };
}

/** A member of a queue, which settles each message as its `verdict` says at that time. */
function join(client, group, filter, verdict) {
  const heard = [];
  const news = new EventEmitter();
  const member = {
    verdict,
    times: (payload) => heard.filter((one) => one === payload).length,
    async hears(payload, times) {
      while (member.times(payload) < times) await once(news, "message", { signal: AbortSignal.timeout(PATIENCE_MS) });
    },
  };
  void (async () => {
    for await (const job of client.group(group).joinQueue(filter)) {
      heard.push(job.text());
      news.emit("message");
      await member.verdict(job);
    }
  })();
  return member;
}

/** Runs what an empty page shows as an example, as a program would that it was copied to. */
function follow(example, names) {
  const AsyncFunction = (async () => undefined).constructor;
  return new AsyncFunction(...Object.keys(names), example)(...Object.values(names));
}

const row = (page, table, text) => page.getByRole("table", { name: table }).getByRole("row").filter({ hasText: text });
const cell = async (page, table, text, title) => row(page, table, text).locator(`td[data-title="${title}"]`).textContent();
const dialog = (page) => page.getByRole("dialog");
const openGroup = (page, name) => page.getByRole("button", { name, exact: true }).click();

describe("what the console looks after", { concurrency: 2 }, () => {
  test("the list of groups and a group's page follow what happens elsewhere", async () => {
    const { page, troubles, client } = await open("groups");
    await client.publish("watched/a", "one", { key: "k" });
    await client.group("watched").configure({ filters: ["watched/#"] });
    await row(page, "Groups", "watched").waitFor();
    assert.equal(await cell(page, "Groups", "watched", "Lag"), "1");
    await client.publish("watched/a", "two", { key: "k" });
    await row(page, "Groups", "watched").locator('td[data-title="Lag"]', { hasText: "2" }).waitFor();
    await client.group("watched").pause();
    await row(page, "Groups", "watched").filter({ hasText: "paused" }).waitFor();
    await openGroup(page, "watched");
    await row(page, "Partitions", "watched/a").waitFor();
    assert.equal(await cell(page, "Partitions", "watched/a", "End"), "2");
    await page.getByRole("button", { name: "Members" }).click();
    await page.getByText("Nobody is a member").waitFor();
    const said = new EventEmitter();
    const hears = once(said, "log", { signal: AbortSignal.timeout(PATIENCE_MS) });
    const example = await page.locator("#group-members-empty pre").textContent();
    const ended = assert.rejects(follow(example, { client, console: { log: (text) => said.emit("log", text) } }), { code: "unknown_group" });
    await row(page, "Members", "member-").waitFor();
    await page.getByRole("button", { name: "Resume" }).click();
    assert.deepEqual(await hears, ["one"]);
    await page.getByRole("button", { name: "Pause", exact: true }).waitFor();
    assert.equal((await client.group("watched").describe()).paused, false);
    await row(page, "Members", "member-").locator('td[data-title="In flight"]', { hasText: "1" }).waitFor();
    // The group is part of the page's address, so a reload shows it again.
    await page.reload();
    await row(page, "Members", "member-").waitFor();
    await client.group("watched").delete();
    await ended;
    await page.locator("#group-error").filter({ hasText: "unknown_group" }).waitFor();
    await page.getByRole("button", { name: "All groups" }).click();
    await row(page, "Groups", "watched").waitFor({ state: "detached" });
    assert.deepEqual(troubles, []);
  });

  test("a group is moved and deleted, after its page said what that does", async () => {
    const { page, troubles, client } = await open("groups");
    await client.configureTopic("moved", { ordering: "per_key", partitions: 2 });
    for (const key of ["a", "b", "c", "d", "e"]) await client.publish("moved", key, { key });
    const group = client.group("mover");
    await group.configure({ filters: ["moved"] });
    await openGroup(page, "mover");
    await page.getByText("queue · running · 0 members · lag 5").waitFor();
    await page.getByRole("button", { name: "Reset …" }).click();
    await page.getByLabel("Move to").selectOption("latest");
    await dialog(page).getByText("5 messages that nobody has done will be skipped.").waitFor();
    await dialog(page).getByRole("button", { name: "Reset", exact: true }).click();
    await dialog(page).waitFor({ state: "hidden" });
    await page.getByText("queue · running · 0 members · lag 0").waitFor();
    assert.ok((await group.describe()).partitions.every(({ lag }) => lag === 0));
    await page.getByRole("button", { name: "Reset …" }).click();
    await page.getByLabel("Move to").selectOption("offset");
    const problem = page.locator("#question-error");
    const reset = dialog(page).getByRole("button", { name: "Reset", exact: true });
    for (const wrong of ["", "-1", "ten"]) {
      await page.getByRole("textbox", { name: "Offset" }).fill(wrong);
      await reset.click();
      await problem.filter({ hasText: "Which offset? A whole number is needed." }).waitFor();
    }
    await page.getByRole("textbox", { name: "Offset" }).fill("99");
    await page.getByLabel("In", { exact: true }).selectOption("moved");
    await dialog(page).getByLabel("Partition", { exact: true }).selectOption("1");
    await reset.click();
    await problem.filter({ hasText: "offset_out_of_range" }).waitFor();
    await page.getByLabel("Move to").selectOption("earliest");
    await page.getByLabel("In", { exact: true }).selectOption("");
    await dialog(page).getByText("Everything that is kept is delivered").waitFor();
    await reset.click();
    await page.getByText("queue · running · 0 members · lag 5").waitFor();
    await page.getByRole("button", { name: "Delete group …" }).click();
    await dialog(page).getByText("It has no members. The messages of its topics stay.").waitFor();
    await dialog(page).getByRole("button", { name: "Cancel" }).click();
    assert.equal((await group.describe()).group, "mover");
    await page.getByRole("button", { name: "Delete group …" }).click();
    await dialog(page).getByRole("button", { name: "Delete group" }).click();
    await page.locator("#group-list").waitFor();
    await assert.rejects(group.describe(), { code: "unknown_group" });
    assert.deepEqual(troubles, []);
  });

  test("dead letters are read, replayed to a member and deleted", async () => {
    const { page, troubles, client } = await open("groups");
    // Without an order nothing waits for what was rejected.
    for (const topic of ["mail/in", "mail/out"]) await client.configureTopic(topic, { ordering: "none" });
    const group = client.group("mailer");
    await group.configure({ filters: ["mail/#"] });
    await openGroup(page, "mailer");
    await page.getByRole("button", { name: "Dead letters" }).click();
    await page.getByText("No dead letters").waitFor();
    const example = await page.locator("#letters-empty pre").textContent();
    const rejects = (job) => follow(example, { job });
    const member = join(client, "mailer", "mail/#", rejects);
    for (const number of [1, 2, 3]) await client.publish("mail/in", `{"letter": ${number}}`);
    await client.publish("mail/out", "to nobody");
    const letters = page.getByRole("table", { name: "Dead letters" }).locator("tbody tr");
    await page.getByRole("button", { name: "Dead letters (4)" }).waitFor();
    await letters.nth(3).waitFor();

    await page.getByRole("searchbox", { name: "Topics" }).fill("mail/out");
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "Replay all that match …" }).waitFor();
    assert.equal(await letters.count(), 1);
    await page.getByRole("searchbox", { name: "Topics" }).fill("a/#/b");
    await page.keyboard.press("Enter");
    await page.locator("#letters-error").filter({ hasText: "invalid_filter" }).waitFor();
    await page.getByRole("searchbox", { name: "Topics" }).fill("");
    await page.getByLabel("Reason", { exact: true }).selectOption("max_delivery_attempts");
    await page.getByText("No dead letter is like that").waitFor();
    await page.getByLabel("Reason", { exact: true }).selectOption("rejected");
    await letters.nth(3).waitFor();
    await page.getByLabel("Reason", { exact: true }).selectOption("");

    await letters.filter({ hasText: `"letter": 2` }).getByRole("button").click();
    const shown = page.getByRole("region", { name: "Message" });
    for (const text of ["rejected", "no such customer", `"letter": 2`]) await shown.getByText(text).first().waitFor();
    member.verdict = (job) => job.ack();
    await shown.getByRole("button", { name: "Replay …" }).click();
    const replay = dialog(page).getByRole("button", { name: "Replay" });
    for (const wrong of ["fast", "0", "-1"]) {
      await page.getByLabel("At most so many a second").fill(wrong);
      await replay.click();
      await page.locator("#question-error").filter({ hasText: "How many a second? A whole number" }).waitFor();
    }
    assert.equal((await group.describe()).deadLetters, 4);
    await page.getByLabel("At most so many a second").fill("1000");
    await replay.click();
    await member.hears(`{"letter": 2}`, 2);
    await page.getByText("1 dead letter on the way to the group again.").waitFor();
    await letters.filter({ hasText: `"letter": 2` }).waitFor({ state: "detached" });
    assert.equal(await letters.count(), 3);

    await page.getByLabel("Select dead letter 0").check();
    await page.getByRole("button", { name: "Delete 1 selected …" }).click();
    await dialog(page).getByRole("button", { name: "Cancel" }).click();
    assert.equal((await group.describe()).deadLetters, 3);
    await page.getByRole("button", { name: "Delete 1 selected …" }).click();
    await dialog(page).getByRole("button", { name: "Delete" }).click();
    await page.getByText("1 dead letter deleted.").waitFor();
    await page.getByRole("button", { name: "Dead letters (2)" }).waitFor();
    await page.getByRole("button", { name: "Replay all …" }).click();
    await replay.click();
    await member.hears(`{"letter": 3}`, 2);
    await member.hears("to nobody", 2);
    await page.getByText("No dead letters").waitFor();
    assert.equal(member.times(`{"letter": 1}`), 1, "what was deleted does not come again");

    // What somebody else deals with meanwhile is told where it is tried.
    member.verdict = rejects;
    await client.publish("mail/in", "late");
    await letters.filter({ hasText: "late" }).getByRole("button").click();
    await shown.getByRole("button", { name: "Delete …" }).click();
    await group.deleteDeadLetters();
    await dialog(page).getByRole("button", { name: "Delete" }).click();
    await page.locator("#question-error").filter({ hasText: "offset_out_of_range" }).waitFor();
    await dialog(page).getByRole("button", { name: "Cancel" }).click();
    await page.getByText("No dead letters").waitFor();
    assert.deepEqual(troubles, []);
  });

  test("limits are set, changed and removed, and hold", async () => {
    const { page, troubles, client } = await open("limits");
    await page.getByText("Nothing is limited").waitFor();
    await follow(await page.locator("#limits-empty pre").textContent(), { client });
    await row(page, "Rate limits", "each user").filter({ hasText: "100 in 1 s" }).waitFor();
    await client.deleteLimit({ scope: "user" });
    const set = page.getByRole("button", { name: "Set limit" });
    const problem = page.locator("#limit-error");
    await set.click();
    await problem.filter({ hasText: "“How many” must be a whole number from 1 on." }).waitFor();
    await page.getByLabel("How many").fill("2");
    await page.getByLabel("Per, ms").fill("1.5");
    await set.click();
    await problem.filter({ hasText: "“Per” must be a whole number from 1 on, or empty." }).waitFor();
    await page.getByLabel("Per, ms").fill("86400001");
    await set.click();
    await problem.filter({ hasText: "per_ms" }).filter({ hasText: "invalid_argument" }).waitFor();
    assert.deepEqual(await client.limits(), []);
    await page.getByLabel("Per, ms").fill("3600000");
    await page.getByLabel("Limit for").selectOption("topic");
    await page.getByLabel(/^Which one/).fill("slow");
    await set.click();
    await row(page, "Rate limits", "topic slow").filter({ hasText: "2 in 1 h" }).waitFor();
    await problem.waitFor({ state: "hidden" });
    for (const payload of ["1", "2"]) await client.publish("slow", payload);
    await assert.rejects(client.publish("slow", "3"), { code: "rate_limited" });

    await client.configureLimit({ scope: "user", rate: 77, adaptive: true });
    await row(page, "Rate limits", "each user").filter({ hasText: "× 1.00 now" }).waitFor();
    await page.getByRole("button", { name: "Change topic slow" }).click();
    assert.equal(await page.getByLabel(/^Which one/).inputValue(), "slow");
    await page.getByLabel("How many").fill("5");
    await page.getByLabel("At once").fill("9");
    await set.click();
    await row(page, "Rate limits", "topic slow").filter({ hasText: "5 in 1 h" }).waitFor();
    assert.equal((await client.limits()).find(({ name }) => name === "slow").burst, 9);
    await page.getByRole("button", { name: "Remove topic slow" }).click();
    await dialog(page).getByRole("button", { name: "Remove limit" }).click();
    await row(page, "Rate limits", "topic slow").waitFor({ state: "detached" });
    await client.deleteLimit({ scope: "user" });
    await page.getByText("Nothing is limited").waitFor();
    assert.deepEqual(troubles, []);
  });

  test("scheduled messages are listed and cancelled", async () => {
    const { page, troubles, client } = await open("scheduled");
    await page.getByText("Nothing waits for its time").waitFor();
    await follow(await page.locator("#scheduled-empty pre").textContent(), { client });
    await page.getByRole("button", { name: /^Cancel message/ }).click();
    await dialog(page).getByText("It will not be published to reminders").waitFor();
    await dialog(page).getByRole("button", { name: "Cancel message" }).click();
    await page.getByText("Nothing waits for its time").waitFor();
    await page.getByText("Headers and more").click();
    const form = page.locator("#publish-form");
    await form.getByLabel("Topic", { exact: true }).fill("later/a");
    await form.getByLabel("Publish in, ms").fill("soon");
    await form.getByRole("button", { name: /^Publish Ctrl/ }).click();
    await page.locator("#publish-error").filter({ hasText: "Publish in must be a whole number of milliseconds, or empty." }).waitFor();
    await form.getByLabel("Publish in, ms").fill("3600000");
    await form.getByRole("button", { name: /^Publish Ctrl/ }).click();
    await page.locator(".receipt").filter({ hasText: /Waits until .* as number/ }).waitFor();
    await row(page, "Scheduled messages", "later/a").waitFor();
    const { scheduleId } = await client.publish("later/b", "two", { delayMs: 7_200_000, key: "k" });
    await row(page, "Scheduled messages", "later/b").filter({ hasText: "in 1 h" }).waitFor();
    await page.getByRole("searchbox", { name: "Topics" }).fill("later/a");
    await page.keyboard.press("Enter");
    await row(page, "Scheduled messages", "later/b").waitFor({ state: "detached" });
    await page.getByRole("table", { name: "Scheduled messages" }).getByRole("button", { name: "Cancel message" }).click();
    await dialog(page).getByText("It will not be published to later/a").waitFor();
    await dialog(page).getByRole("button", { name: "Cancel message" }).click();
    await page.getByText("Nothing waits in topics like that").waitFor();
    await page.getByRole("searchbox", { name: "Topics" }).fill("a/#/b");
    await page.keyboard.press("Enter");
    await page.locator("#scheduled-error").filter({ hasText: "invalid_filter" }).waitFor();
    await page.getByRole("searchbox", { name: "Topics" }).fill("");
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: `Cancel message ${scheduleId}` }).click();
    await client.cancelScheduled(scheduleId);
    await dialog(page).getByRole("button", { name: "Cancel message" }).click();
    await page.locator("#question-error").filter({ hasText: "unknown_schedule" }).waitFor();
    await dialog(page).getByRole("button", { name: "Cancel", exact: true }).click();
    await page.getByText("Nothing waits for its time").waitFor();
    assert.deepEqual(troubles, []);
  });
});
