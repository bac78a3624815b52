// The main job on real data: `node tests/real-data/run.mjs` publishes the commits of this repository and the packages
// of this machine, stops and kills the server on the way, reads everything back in every way there is, and compares.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { compare } from "./compare.mjs";
import { deliveries, publish, readConsole, readEvents, readHistory, subscribeWithCli } from "./readers.mjs";
import { realRecords } from "./records.mjs";
import { serve } from "./server.mjs";

const REPOSITORY = join(import.meta.dirname, "../..");
const PARTITIONS = 4;

/** Does it all; throws at the first line that is missing, repeated, changed or out of order. */
export async function realData({ dunlin, console: files, say }) {
  const { topics, halves } = realRecords(REPOSITORY);
  const all = halves.flat();
  const keys = new Set(all.map(({ topic, key }) => `${topic} ${key}`)).size;
  say(`${all.length} lines with ${keys} keys: ${topics.join(", ")}`);

  const home = await mkdtemp(join(tmpdir(), "dunlin-real-data-"));
  const config = join(home, "config.json");
  await writeFile(config, JSON.stringify({ topic_default: { ordering: "per_key", partitions: PARTITIONS } }));
  const start = (listen) => serve(dunlin, { data: join(home, "data"), config, listen, args: ["--console", files] });
  let server = await start();
  const { address } = server;
  try {
    const listener = subscribeWithCli(dunlin, address, "earliest");
    say(`first half: ${await publish(dunlin, address, halves[0])}`);
    await listener.reached((lines) => lines.length >= halves[0].length);
    await server.stop("SIGTERM");
    await listener.ended;
    const [, place] = /--from (resume:\S+)/.exec(await listener.errors) ?? [];
    if (place === undefined) throw new Error(`dunlin sub does not say where to go on: ${await listener.errors}`);
    say("the server was stopped; dunlin sub said where to go on");

    server = await start(address);
    const resumed = subscribeWithCli(dunlin, address, place, halves[1].length);
    say(`second half: ${await publish(dunlin, address, halves[1])}`);
    await resumed.ended;
    compare(all, deliveries([...listener.lines, ...resumed.lines]), "dunlin sub over the restart");
    say("dunlin sub: every line once, in order, over the restart");

    await server.stop("SIGKILL");
    server = await start(address);
    say("the server was killed, and is back");

    const again = subscribeWithCli(dunlin, address, "earliest", all.length);
    await again.ended;
    compare(all, deliveries(again.lines), "dunlin sub from the beginning");
    say("dunlin sub from the beginning: every line once, in order");

    compare(all, await readHistory(address, topics, PARTITIONS), "history with curl");
    say("history with curl: every line once, in order");

    const events = await readEvents(address, all.length);
    compare(all, events, "events with curl");
    const middle = Math.floor(events.length / 2);
    const rest = await readEvents(address, events.length - middle, events[middle - 1].eventId);
    compare(all, [...events.slice(0, middle), ...rest], "events with curl and Last-Event-ID");
    say("events with curl: every line once, in order, and again from the middle on");

    const shown = await readConsole(address, all.length);
    compare(cut(all), cut(shown), "the console");
    say("the console in Chromium: every line once, in order");
    await server.stop("SIGTERM");
  } finally {
    await server.stop("SIGKILL");
    await rm(home, { recursive: true, force: true });
  }
  return { lines: all.length };
}

/** A line of the console ends where the screen does; what tells a message from all others stands at its beginning. */
function cut(records) {
  return records.map(({ topic, key, payload }) => {
    const [, number] = /^\{"number":(\d+),/.exec(payload) ?? [];
    return { topic, key, payload: JSON.stringify({ number: Number(number), head: payload.slice(0, 80) }) };
  });
}

if (process.argv[1] === import.meta.filename) {
  const say = (text) => console.log(`real data: ${text}`);
  const build = join(REPOSITORY, "target/release/dunlin");
  await realData({ dunlin: process.env.DUNLIN_BIN ?? build, console: join(REPOSITORY, "www/dist"), say });
  say("ok");
}
