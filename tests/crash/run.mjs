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
const ROUND_CYCLES_MAX = 12;

const { values } = parseArgs({
  options: { cycles: { type: "string" }, only: { type: "string" }, seed: { type: "string" } },
});
const cycles = Number(values.cycles ?? 10);
const seed = values.seed ?? String(Math.floor(Math.random() * 2 ** 32));
const names = values.only === undefined ? Object.keys(TARGETS) : [values.only];

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
  const home = await mkdtemp(join(tmpdir(), `dunlin-crash-${name}-`));
  try {
    await runRound(TARGETS[name], home, { ...given, seed: `${seed}/${name}`, say: (text) => console.log(`${name} ${text}`) });
  } catch (error) {
    console.error(error instanceof Violation ? error.message : error);
    console.error(`${name} failed in round ${given.round}, cycles from ${given.first} on; its data and journal are kept in ${home}`);
    console.error(`again: cargo xtask crash --only ${name} --cycles ${given.first + given.cycles} --seed ${seed}`);
    process.exit(1);
  }
}

/** A broker that acknowledges and stores nothing must be found out; otherwise the judgement is worth nothing. */
async function control(name) {
  const home = await mkdtemp(join(tmpdir(), `dunlin-crash-${name}-`));
  try {
    await runRound(TARGETS[name], home, { seed: `${seed}/${name}`, round: 0, first: 0, cycles: 1, volatile: true, say: () => undefined });
  } catch (error) {
    if (!(error instanceof Violation) || !error.message.includes(" is lost: ")) throw error;
    console.log(`${name}: one that keeps nothing was found out: ${error.message.split("\n").find((line) => line.includes(" is lost: "))}`);
    await rm(home, { recursive: true, force: true });
    return;
  }
  console.error(`${name}: a broker that keeps nothing was not found out, so this says nothing about others`);
  process.exit(1);
}
