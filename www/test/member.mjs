// A member of a queue in a tab of its own, over the JSON encoding, so that a test decides about every message.

/** Joins; each message that comes is settled as `verdict` says: `ack`, `reject` or `keep`. */
export async function join(browser, url, group, filter, verdict) {
  // In a context of its own: behind another tab, a tab is slow.
  const page = await browser.newPage();
  await page.goto(new URL("/healthz", url).href);
  await page.evaluate(
    ([group, filter, verdict]) =>
      new Promise((resolve, reject) => {
        Object.assign(globalThis, { verdict, heard: [] });
        const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/v1/default/connect`, "dunlin.v1.json");
        let requests = 0;
        const say = (frame) => socket.send(JSON.stringify({ ...frame, request: (requests += 1) }));
        socket.onopen = () => {
          socket.send(JSON.stringify({ type: "hello", version: 1 }));
          say({ type: "join", subscription: 1, group, filters: [filter], max_in_flight: 100 });
        };
        socket.onmessage = ({ data }) => {
          for (const line of data.split("\n").filter((line) => line !== "")) {
            const frame = JSON.parse(line);
            if (frame.type === "joined") resolve();
            if (frame.type === "error") reject(new Error(line));
            if (frame.type !== "delivery") continue;
            globalThis.heard.push(frame.payload);
            const leases = [{ lease: frame.lease }];
            if (globalThis.verdict === "ack") say({ type: "ack", leases });
            if (globalThis.verdict === "reject") say({ type: "reject", leases, reason: "no such customer" });
          }
        };
      }),
    [group, filter, verdict],
  );
  return {
    decide: (verdict) => page.evaluate((verdict) => Object.assign(globalThis, { verdict }), verdict),
    /** Waits until it has heard the message so many times. */
    hears: (payload, times = 1) =>
      page.waitForFunction(([payload, times]) => globalThis.heard.filter((one) => one === payload).length >= times, [payload, times]),
    heard: () => page.evaluate(() => globalThis.heard),
    leave: () => page.close(),
  };
}
