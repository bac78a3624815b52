// Real Chromium on a built console, for the tests. Everything it starts ends with the test file.
import { join } from "node:path";
import { after } from "node:test";

import { chromium } from "playwright-core";
import { build, preview } from "vite";

export const root = join(import.meta.dirname, "..");

/** Nothing that a test waits for takes this long unless it never comes, however busy the machine is. */
export const PATIENCE_MS = 60_000;
const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** The built console as static files, served from a free port; its address. */
export async function serveConsole(outDir = join(root, "dist")) {
  const server = await preview({ root, logLevel: "error", build: { outDir }, preview: { host: "127.0.0.1", port: 0 } });
  after(() => server.close());
  return server.resolvedUrls.local[0];
}

/** Builds the console with the scripted client of `test/fake` in the place of the package, and serves it. */
export async function serveConsoleOnFake() {
  const outDir = join(root, "dist-test");
  await build({
    root,
    logLevel: "warn",
    resolve: { alias: { dunlin: join(root, "test/fake/dunlin.ts") } },
    build: { outDir, emptyOutDir: true, sourcemap: false, minify: false },
  });
  return serveConsole(outDir);
}

/** A browser with a profile of its own; the caller closes it. */
export function startBrowser() {
  return chromium.launch({ executablePath: "/usr/bin/chromium", args: FLAGS });
}

/** One browser for a test file, closed after it. */
export async function launch() {
  const browser = await startBrowser();
  after(() => browser.close());
  return browser;
}

/**
 * A tab in a context of its own, or in a given one. `troubles` gathers what must never happen: exceptions of the page,
 * refusals by its content security policy, dialogs, and requests to anywhere else.
 */
export async function openTab(browserOrContext, url, { expectErrors = false } = {}) {
  const page = await browserOrContext.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const troubles = [];
  page.on("pageerror", (error) => troubles.push(`exception: ${error.message}`));
  page.on("dialog", (dialog) => {
    troubles.push(`dialog: ${dialog.message()}`);
    void dialog.dismiss();
  });
  page.on("console", (message) => {
    const text = message.text();
    if (["error", "warning"].includes(message.type()) && (!expectErrors || text.includes("Content Security Policy"))) troubles.push(`console: ${text}`);
  });
  page.on("request", (request) => {
    const to = new URL(request.url());
    if (!["data:", "blob:"].includes(to.protocol) && to.host !== new URL(url).host) troubles.push(`request to ${to}`);
  });
  await page.goto(url);
  return { page, troubles };
}

/** Chooses the broker in the page, and waits for the workspace. */
export async function openInPage(page, store = "memory") {
  await page.getByLabel("In this page").check();
  await page.getByLabel(store === "memory" ? "In memory" : "In this browser").check();
  await page.getByRole("button", { name: "Connect", exact: true }).click();
  await page.getByRole("status").filter({ hasText: "Connected" }).waitFor();
}

export async function subscribe(page, filter, from) {
  await page.getByLabel("Filter", { exact: true }).fill(filter);
  if (from !== undefined) await page.getByLabel("From", { exact: true }).selectOption(from);
  await page.getByRole("button", { name: "Subscribe", exact: true }).click();
  await page.locator(".chip[data-state=live]").filter({ hasText: filter }).waitFor();
}

export async function publish(page, topic, payload, { key } = {}) {
  const form = page.locator("#publish-form");
  await form.getByLabel("Topic", { exact: true }).fill(topic);
  await form.getByLabel("Payload", { exact: true }).fill(payload);
  if (key !== undefined) await form.getByLabel(/^Key/).fill(key);
  await form.getByRole("button", { name: /^Publish/ }).click();
}

/** The live message that holds the text. */
export function liveMessage(page, text) {
  return page.locator("#feed .row.message:visible").filter({ hasText: text });
}
