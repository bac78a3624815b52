// What members of groups cost in Node, against a broker that runs: `node bench-members.mjs ws://127.0.0.1:8787 [rounds]`.
// Every round reads the same messages by a subscription, which is what the others are compared with, by a member of a
// queue that settles in three ways, and by a member of a partitioned group. Prints the machine's load beside the numbers.
import { loadavg } from "node:os";

import { connect } from "dunlin";

const MESSAGES = 10_000;
const PAYLOAD_BYTES = 128;
const AT_ONCE = 100;

const [, , url = "ws://127.0.0.1:8787", rounds = "5"] = process.argv;
const namespace = `bench-${Date.now()}`;
const client = await connect(url, { namespace });
await client.configureTopic("jobs", { ordering: "none", partitions: 1 });
await client.configureTopic("log", { ordering: "per_key", partitions: 1 });

/** Takes as many as there are. */
async function each(deliveries, take) {
  let taken = 0;
  for await (const delivery of deliveries) {
    await take(delivery);
    if ((taken += 1) === MESSAGES) return;
  }
}

const ways = {
  subscription: () => each(client.subscribe("jobs", { from: `last:${MESSAGES}` }), () => {}),
  "queue, each acknowledged before the next": (round) => each(client.group(`single ${round}`).joinQueue("jobs"), (job) => job.ack()),
  [`queue, ${AT_ONCE} acknowledged at once`]: async (round) => {
    const member = client.group(`many ${round}`).joinQueue("jobs", { maxInFlight: 2 * AT_ONCE });
    let jobs = [];
    await each(member, async (job) => {
      if (jobs.push(job) < AT_ONCE) return;
      await member.ack(jobs);
      jobs = [];
    });
  },
  "queue, acknowledged without waiting": async (round) => {
    const settling = [];
    await each(client.group(`free ${round}`).joinQueue("jobs", { maxInFlight: 1000 }), (job) => void settling.push(job.ack()));
    await Promise.all(settling);
  },
  "partitioned, committed by itself": (round) => each(client.group(`log ${round}`).joinPartitioned("log"), () => {}),
};

console.log(`load ${loadavg()[0]?.toFixed(2)}, ${rounds} rounds of ${MESSAGES} messages of ${PAYLOAD_BYTES} bytes`);
const payload = new Uint8Array(PAYLOAD_BYTES);
for (let sent = 0; sent < MESSAGES; sent += 1000) {
  await client.publishBatch(Array.from({ length: 1000 }, () => ({ topic: "jobs", payload })));
  await client.publishBatch(Array.from({ length: 1000 }, () => ({ topic: "log", payload })));
}
const seconds = Object.fromEntries(Object.keys(ways).map((way) => [way, []]));
for (let round = 0; round < Number(rounds); round += 1) {
  for (const [way, run] of Object.entries(ways)) {
    const started = performance.now();
    await run(round);
    seconds[way].push((performance.now() - started) / 1000);
  }
}
const perSecond = (way) => MESSAGES / [...seconds[way]].sort((a, b) => a - b)[Math.floor(seconds[way].length / 2)];
for (const way of Object.keys(ways)) {
  const ratio = (perSecond(way) / perSecond("subscription")).toFixed(2);
  console.log(`${way}: ${Math.round(perSecond(way))} messages/s, ${ratio} of the subscription`);
}
console.log(`load ${loadavg()[0]?.toFixed(2)}`);
await client.close();
