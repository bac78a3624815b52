// The ways to read: `dunlin sub`, history and events with `curl`, and the console in Chromium.
import { openTab, startBrowser, subscribe } from "../../www/test/browser.mjs";
import { follow, run } from "./server.mjs";

const NAMESPACE = "default";

const isDelivery = ({ type }) => type === "delivery";

/** The deliveries among lines of JSON; anything else that is told, a gap above all, is an error here. */
export function deliveries(lines) {
  const told = lines.filter((line) => line !== "").map((line) => JSON.parse(line));
  const other = told.find((one) => !isDelivery(one));
  if (other !== undefined) throw new Error(`instead of a message came ${JSON.stringify(other)}`);
  return told;
}

/** `dunlin pub` with JSON lines on its standard input. */
export async function publish(dunlin, address, records) {
  const input = records.map((one) => `${JSON.stringify(one)}\n`).join("");
  const target = ["--url", `http://${address}`, "--namespace", NAMESPACE];
  return (await run(dunlin, ["pub", ...target, "--json-lines", "--durability", "sync"], { input })).output.trim();
}

/** `dunlin sub` to everything; it goes on until it is stopped or has `count` messages. */
export function subscribeWithCli(dunlin, address, from, count) {
  const target = ["--url", `http://${address}`, "--namespace", NAMESPACE];
  const bound = count === undefined ? [] : ["--count", String(count)];
  return follow(dunlin, ["sub", ...target, "--from", from, "--format", "json", "--no-reconnect", ...bound, "real/#"]);
}

/** The whole history of topics with `curl`, page by page and partition by partition. */
export async function readHistory(address, topics, partitions) {
  const all = [];
  for (const topic of topics) {
    for (let partition = 0; partition < partitions; partition += 1) {
      let from = "earliest";
      for (let end; from !== end; ) {
        const url = `http://${address}/v1/${NAMESPACE}/topics/${topic}?partition=${partition}&limit=100&from=${from}`;
        const { output } = await run("curl", ["--silent", "--show-error", "--fail-with-body", "--include", url]);
        const split = output.indexOf("\r\n\r\n");
        const [head, body] = [output.slice(0, split), output.slice(split + 4)];
        const header = (name) => new RegExp(`^${name}: (\\d+)\\r?$`, "im").exec(head)?.[1];
        for (const line of body.split("\n").filter((one) => one !== "")) all.push({ topic, ...JSON.parse(line) });
        from = `offset:${header("dunlin-next-offset")}`;
        end = `offset:${header("dunlin-log-end-offset")}`;
      }
    }
  }
  return all;
}

/** `count` server-sent events with `curl`, from the beginning or behind an event; each with its `eventId`. */
export async function readEvents(address, count, lastEventId) {
  const url = `http://${address}/v1/${NAMESPACE}/subscribe?filter=real/%23&from=earliest`;
  const last = lastEventId === undefined ? [] : ["--header", `Last-Event-ID: ${lastEventId}`];
  const curl = follow("curl", ["--silent", "--no-buffer", "--header", "Accept: text/event-stream", ...last, url]);
  await curl.reached((lines) => lines.filter((line) => line.startsWith("data:")).length >= count);
  await curl.stop();
  // The opening event has an id and no data: it says where the stream begins.
  const ids = fields(curl.lines, "id:").slice(1);
  return deliveries(fields(curl.lines, "data:")).map((one, index) => ({ ...one, eventId: ids[index] }));
}

function fields(lines, name) {
  return lines.filter((line) => line.startsWith(name)).map((line) => line.slice(name.length).trim());
}

/** The messages as the console shows them, live from the beginning; `payload` is what fits into the line. */
export async function readConsole(address, count) {
  const browser = await startBrowser();
  try {
    const context = await browser.newContext({ viewport: { width: 1600, height: 2400 } });
    const { page, troubles } = await openTab(context, `http://${address}/`);
    const rows = await readList(page, count);
    if (troubles.length > 0) throw new Error(`the console had trouble: ${troubles.join("; ")}`);
    return rows;
  } finally {
    await browser.close();
  }
}

async function readList(page, count) {
  await page.getByRole("status").filter({ hasText: "Connected" }).waitFor();
  await subscribe(page, "real/#", "earliest");
  await page.locator(".chip .chip-note").getByText(new Intl.NumberFormat("en").format(count), { exact: true }).waitFor();
  await page.getByRole("button", { name: "Pause" }).click();
  const rows = new Map();
  for (let next = 1; next <= count; next = Math.max(...rows.keys()) + 1) {
    // The list holds only the rows in sight, so it is scrolled to the first that was not read yet.
    await page.locator("#feed").evaluate((list, at) => {
      list.scrollTop = (at - 1) * Number.parseFloat(getComputedStyle(list).getPropertyValue("--row"));
    }, next);
    await page.locator(`#feed .row[aria-posinset="${next}"]:not([hidden])`).waitFor();
    const seen = await page.locator("#feed .row:not([hidden])").evaluateAll((all) =>
      all.map((row) => ({
        position: Number(row.getAttribute("aria-posinset")),
        topic: row.querySelector(".topic")?.textContent,
        key: row.querySelector(".key")?.textContent,
        payload: row.querySelector(".payload")?.textContent,
      })),
    );
    for (const { position, ...row } of seen) rows.set(position, row);
  }
  return [...rows].sort(([a], [b]) => a - b).map(([, row]) => row);
}
