// A rate-limited ingest: two sensors have more to say than their topic may take, and nothing is lost.
import { DunlinError } from "dunlin";

const TOPIC = "examples/readings";
const LIMIT = { rate: 40, perMs: 1000, burst: 10 };
const READINGS = 30;

/** @param {import("dunlin").Client} client */
export async function run(client) {
  // Every way to publish counts, whoever publishes. The broker keeps to a limit exactly.
  await client.configureLimit({ scope: "topic", name: TOPIC, ...LIMIT });
  console.log(`${TOPIC} takes ${LIMIT.burst} messages at once, and ${LIMIT.rate} a second`);

  const first = await sendAndRetry(client);
  await sendAndWait(client);

  const stored = [];
  for await (const reading of client.history(TOPIC, { from: `offset:${first}` })) stored.push(reading);
  const by = (sensor) => stored.filter(({ key }) => key === sensor).length;
  console.log(`stored: ${by("kitchen")} readings of the kitchen, ${by("cellar")} of the cellar`);
  const allowed = LIMIT.burst + LIMIT.rate;
  console.log(`no second had more than ${allowed}: ${busiestSecond(stored) <= allowed}`);

  await client.deleteLimit({ scope: "topic", name: TOPIC });
}

/** Sends ten readings at a time. Those that are refused are sent again when the broker said; the first one's offset. */
async function sendAndRetry(client) {
  const readings = Array.from({ length: READINGS }, (_, n) => ({ topic: TOPIC, payload: `${20 + n / 10} °C`, key: "kitchen" }));
  const receipts = [];
  let refusals = 0;
  while (receipts.length < READINGS) {
    try {
      receipts.push(...(await client.publishBatch(readings.slice(receipts.length, receipts.length + 10))));
    } catch (error) {
      if (!(error instanceof DunlinError) || error.code !== "rate_limited") throw error;
      refusals += 1;
      await new Promise((resolve) => setTimeout(resolve, error.retryAfterMs));
    }
  }
  console.log(`kitchen: sent ${READINGS} readings, refused ${refusals} times`);
  return receipts[0].offset;
}

/** Sends one reading after the other without a pause. The broker holds each until the limit lets it pass, at most a second. */
async function sendAndWait(client) {
  const readings = Array.from({ length: READINGS }, (_, n) => `${12 + n / 10} °C`);
  await Promise.all(readings.map((reading) => client.publish(TOPIC, reading, { key: "cellar", waitMs: 1000 })));
  console.log(`cellar: sent ${READINGS} readings, never refused`);
}

/** The most messages that were stored in the second before any of them, that one included. */
function busiestSecond(messages) {
  const within = ({ timestamp: end }) => messages.filter(({ timestamp }) => timestamp > end - 1000 && timestamp <= end);
  return Math.max(...messages.map((message) => within(message).length));
}
