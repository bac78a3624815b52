// `cargo xtask crash`: kills real brokers under load, again and again, and judges what is left.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { Browser } from "./browser.mjs";
import { Host } from "./host.mjs";
import { Violation } from "./ledger.mjs";
import { dice } from "./plan.mjs";
import { runRound } from "./round.mjs";
import { Worker } from "./worker.mjs";

const TARGETS = { host: Host, worker: Worker, browser: Browser };
/** So many cycles go over the same data before it begins afresh. */
const ROUND_CYCLES_MAX = 10;

const { values } = parseArgs({
  options: { cycles: { type: "string" }, only: { type: "string" }, seed: { type: "string" } },
});
const cycles = Number(values.cycles ?? 10);
const seed = values.seed ?? String(Math.floor(Math.random() * 2 ** 32));
const names = values.only === undefined ? Object.keys(TARGETS) : [values.only];

// What was started ends with this program.
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));
for (const name of names) {
  const began = performance.now();
  let done = 0;
  for (let round = 0; done < cycles; round += 1) {
    const size = Math.min(cycles - done, dice(seed, name, "round", round).from(3, ROUND_CYCLES_MAX));
    await judged(name, { round, first: done, cycles: size });
    done += size;
  }
  await control(name);
  console.log(`${name}: ${done} kills in ${((performance.now() - began) / 1000).toFixed(1)} s, seed ${seed}`);
}

/** Runs one round, and ends the program with what is wrong. */
async function judged(name, given) {
  const error = await outcome(name, given, (text) => console.log(`${name} ${text}`));
  if (error === undefined) return;
  const remarks = (await TARGETS[name].remarks?.(error.home)) ?? [];
  for (const remark of remarks) console.error(`the platform remarks: ${remark}`);
  fail(name, given, error);
}

/** A broker that acknowledges before it stores must be found out; otherwise the judgement is worth nothing. */
async function control(name) {
  const given = { round: 0, first: 0, cycles: 1, forgets: true };
  const error = await outcome(name, given, () => undefined);
  const lost = error instanceof Violation ? error.message.split("\n").find((line) => line.includes(" is lost: ")) : undefined;
  if (lost === undefined) fail(name, given, error ?? "a broker that acknowledges before it stores was not found out");
  await rm(error.home, { recursive: true, force: true });
  console.log(`${name}: one that acknowledges before it stores was found out: ${lost}`);
}

/** What went wrong in a round, with the directory that it left as `home`. */
async function outcome(name, given, say) {
  const home = await mkdtemp(join(tmpdir(), `dunlin-crash-${name}-`));
  try {
    await runRound(TARGETS[name], home, { ...given, seed: `${seed}/${name}`, say });
    return undefined;
  } catch (error) {
    return Object.assign(error, { home });
  }
}

function fail(name, { round, first, cycles: size, forgets }, error) {
  console.error(error instanceof Violation ? error.message : error);
  const what = forgets ? "the control" : `round ${round}, cycles from ${first} on`;
  console.error(`${name} failed in ${what}; its data and journal are kept in ${error.home ?? "no place"}`);
  console.error(`again: cargo xtask crash --only ${name} --cycles ${first + size} --seed ${seed}`);
  process.exit(1);
}
