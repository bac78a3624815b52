import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { Miniflare } from "miniflare";

import type { Interrupted } from "./interruption.ts";
import { placesOf } from "./interruption.ts";
import { sum } from "./replay.ts";
import type { Replayed, Trace } from "./replay.ts";
import { expectEqual, stream, traces } from "./traces.ts";

const dist = join(process.cwd(), "dist");

let worker: Miniflare;

/** The Worker with the doors of its tests, of which only the bare guest over an object's SQLite is used. */
before(() => {
  worker = new Miniflare({
    rootPath: dist,
    modulesRoot: dist,
    modules: [
      { type: "ESModule", path: join(dist, "worker.mjs") },
      { type: "CompiledWasm", path: join(dist, "guest.wasm") },
      { type: "CompiledWasm", path: join(dist, "gateway_bg.wasm") },
    ],
    compatibilityDate: "2026-04-26",
    cf: false,
    durableObjects: {
      SCENARIO: { className: "Scenario", useSQLite: true },
      INTERRUPTION: { className: "Interruption", useSQLite: true },
    },
  });
});
after(() => worker.dispose());

/** Replays a trace in an object of that name, whose store nothing else uses. */
async function replayIn(name: string, trace: Trace): Promise<Replayed> {
  const scenarios = await worker.getDurableObjectNamespace("SCENARIO");
  const object = scenarios.get(scenarios.idFromName(name));
  const response = await object.fetch("http://door/replay", { method: "POST", body: JSON.stringify(trace) });
  if (response.status !== 200) throw new Error(`${trace.name}: ${await response.text()}`);
  return (await response.json()) as Replayed;
}

test("the guest in a Durable Object gives the native bytes, and SQLite the native rows", async () => {
  const replayed: Replayed[] = [];
  for (const trace of traces()) replayed.push(await replayIn(trace.name, trace));
  expectEqual(sum(replayed));
});

test("ten thousand random commands give the native bytes in a Durable Object, and SQLite the native rows", async () => {
  const [trace] = stream();
  assert.ok(trace !== undefined);
  expectEqual(await replayIn("stream", trace), [trace], 1);
});

test("a row in SQLite that differs by one byte is told", async () => {
  const trace = traces().find(({ name }) => name === "a_restart_loses_nothing");
  assert.ok(trace !== undefined);
  const steps = trace.steps.map((step) => {
    if (step.kind !== "restore" && step.kind !== "stored") return step;
    const rows = Buffer.from(step.rows, "base64");
    rows.writeUInt8(rows.readUInt8(rows.length - 1) ^ 1, rows.length - 1);
    return { ...step, rows: rows.toString("base64") };
  });
  const restored = await replayIn("restored otherwise", { ...trace, steps });
  assert.match(restored.failures.join(), /^a_restart_loses_nothing\.txt:\d+: a restore: of \d+ bytes/);
  const notRestored = steps.map((step, at) => (step.kind === "stored" ? step : (trace.steps[at] ?? step)));
  const stored = await replayIn("stored otherwise", { ...trace, steps: notRestored });
  assert.match(stored.failures.join(), /^a_restart_loses_nothing\.txt:\d+: what is stored: of \d+ bytes/);
});

test("an object that is aborted between any two steps, or in the middle of one, goes on as a broker that lost nothing", async () => {
  const interruptions = await worker.getDurableObjectNamespace("INTERRUPTION");
  const asked = interruptions.get(interruptions.idFromName("the one that is asked"));
  const expected = traces();
  const interrupted: Interrupted[] = [];
  for (const trace of expected) {
    const response = await asked.fetch("http://door/", { method: "POST", body: JSON.stringify(trace) });
    if (response.status !== 200) throw new Error(`${trace.name}: ${await response.text()}`);
    interrupted.push((await response.json()) as Interrupted);
  }
  const failures = interrupted.flatMap(({ failures }) => failures);
  if (failures.length > 0) throw new Error(`\n${failures.join("\n")}`);
  const total = (count: (one: Interrupted) => number): number => interrupted.reduce((sum, one) => sum + count(one), 0);
  const places = expected.flatMap((trace) => placesOf(trace));
  assert.equal(total(({ interruptions }) => interruptions), places.length);
  // Whether the last writes of an object that is aborted were kept is the runtime's business.
  const undone = total(({ undone }) => undone);
  const within = places.filter(({ within }) => within).length;
  assert.ok(undone <= within && within > 50, `${undone} of ${within} were undone`);
  assert.ok(total(({ acknowledged }) => acknowledged) > places.length);
});
