// One round: the same data through cycle after cycle of load, kill, restart and judgement.
import { cp, mkdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";

import { Ledger, Violation } from "./ledger.mjs";
import { LISTENERS, brokerConfig, cyclePlan, dice } from "./plan.mjs";

/** Nothing that is waited for takes this long, unless it never comes. */
const PATIENCE_MS = 30_000;
/** Positions that are resumed from after a crash, for each namespace. */
const BOOKMARKS_MAX = 3;
/** A client that connects again by itself is replaced after so many crashes: it waits longer after each. */
const STAY_CYCLES = 2;

/** What is counted while a cycle works. */
const NOTHING = { acks: 0, batches: 0, "large batches": 0, deliveries: 0 };
/** A broker that answers too early has so many acknowledgements that it did not store. */
const FORGOTTEN_ACKS = 20;

/**
 * What a target is made of; see `host.mjs` for what it can do.
 * @typedef {{
 *   home: string,
 *   config: object,
 *   seed: (namespace: string) => string,
 *   journal: (namespace: string, entry: object) => void,
 * }} Given
 */

/**
 * Runs `cycles` cycles from the number `first` on, with the directory `home` that is there only if it fails. One that
 * `forgets` loses what was acknowledged last, which must be found.
 * @param {{ seed: string, round: number, first: number, cycles: number, forgets?: boolean, say: (text: string) => void }} given
 */
export async function runRound(Target, home, given) {
  const round = new Round(Target, home, given);
  try {
    await round.run();
  } catch (error) {
    await mkdir(home, { recursive: true });
    await writeFile(join(home, "journal.ndjson"), round.journal.map((entry) => `${JSON.stringify(entry)}\n`).join(""));
    throw error;
  } finally {
    await round.end();
  }
  await rm(home, { recursive: true, force: true });
}

class Round {
  #target;
  #given;
  #directory;
  #ledgers;
  #clientsStay;
  /** How many kills there were; the name of the cycle in all that is said. */
  #cycle;
  #began = 0;
  #counts = { ...NOTHING };
  #bookmarks = new Map();
  #waiting = new Set();
  /** Nothing that was started outlives this program. */
  #abandon = () => void this.#target.signal("SIGKILL");
  /** Everything that was told, for who has to find out. */
  journal = [];

  constructor(Target, home, given) {
    const { seed, round, first } = given;
    this.#given = given;
    this.#directory = join(home, Target.directory);
    this.#cycle = first;
    this.#clientsStay = Target.clientsStay;
    const ledger = (namespace) =>
      new Ledger({
        seed: `${seed}/${namespace}`,
        namespace,
        survives: Target.survives,
        unheardMax: Target.unheardMax,
        now: () => `${(performance.now() - this.#began).toFixed(1)} ms`,
      });
    this.#ledgers = new Map(Target.namespaces.map((namespace) => [namespace, ledger(namespace)]));
    const journal = (namespace, entry) => this.#note(namespace, entry);
    const config = brokerConfig(seed, round);
    this.#target = new Target({ home, config, seed: (namespace) => `${seed}/${namespace}`, journal });
  }

  async run() {
    const { seed, first, cycles } = this.#given;
    process.once("exit", this.#abandon);
    await this.#restart(cyclePlan(seed, first));
    for (const crew of this.#target.crews.values()) await crew.configure();
    for (; this.#cycle < first + cycles; this.#cycle += 1) {
      const plan = cyclePlan(seed, this.#cycle);
      await this.#each((ledger, crew) => this.#resume(ledger, crew));
      await this.#caughtUp({ all: false });
      const killed = await this.#load(plan);
      const started = await this.#restart(plan);
      const stored = await this.#settle();
      this.#given.say(`cycle ${this.#cycle}: ${killed}; ${started}; all of ${stored} messages right`);
    }
    await this.#each((ledger, crew) => this.#resume(ledger, crew));
    await this.#caughtUp({ all: true });
  }

  async end() {
    process.off("exit", this.#abandon);
    await this.#target.signal("SIGKILL");
    for (const crew of this.#target.crews.values()) await crew.end().catch(() => undefined);
    await this.#target.end?.();
  }

  #each(work) {
    return Promise.all([...this.#ledgers].map(([namespace, ledger]) => work(ledger, this.#target.crews.get(namespace), namespace)));
  }

  /** Starts it; now and then it is killed while it starts. */
  async #restart({ earlyKills, earlyShares }) {
    const vain = this.#target.startInVain === undefined ? [] : earlyShares.slice(0, earlyKills);
    for (const share of vain) await this.#target.startInVain(share);
    const began = performance.now();
    await this.#target.start();
    const up = `up after ${(performance.now() - began).toFixed(0)} ms`;
    return vain.length === 0 ? up : `${up} and ${vain.length} kills on the way`;
  }

  /** What is stored is what it should be. */
  async #settle() {
    const counts = await this.#each(async (ledger, crew) => ledger.settle(await crew.survey()).stored);
    return counts.reduce((sum, count) => sum + count, 0);
  }

  /** Everybody goes on where they were; then from positions that were given out before the crash. */
  async #resume(ledger, crew) {
    await crew.configure();
    ledger.begin(this.#cycle);
    for (const [number, spec] of LISTENERS.entries()) {
      if (spec.stays && this.#clientsStay && (this.#cycle - this.#given.first) % STAY_CYCLES !== 0) continue;
      await crew.listen(number, spec, ledger.listen(number, spec));
    }
    const bookmarks = this.#bookmarks.get(ledger) ?? [];
    for (const [index, { spec, position }] of bookmarks.entries()) {
      const number = LISTENERS.length + index;
      await crew.listen(number, spec, ledger.listen(number, spec, position));
    }
    if (bookmarks.length > 0) await this.#until(() => ledger.lacks({ all: false }).length === 0, () => ledger.lacks({ all: false }));
    for (const index of bookmarks.keys()) {
      await crew.hush(LISTENERS.length + index);
      ledger.hush(LISTENERS.length + index);
    }
    // Now and then one is kept for later crashes.
    this.#bookmarks.set(ledger, this.#cycle % 3 === 0 ? [] : bookmarks.slice(0, 1));
  }

  #caughtUp({ all }) {
    const lacks = () => [...this.#ledgers.values()].flatMap((ledger) => ledger.lacks({ all }));
    return this.#until(() => lacks().length === 0, lacks);
  }

  /** Waits until the journal has made something true. */
  async #until(holds, says) {
    const deadline = performance.now() + PATIENCE_MS;
    for (;;) {
      for (const ledger of this.#ledgers.values()) ledger.judge();
      if (holds()) return;
      const left = deadline - performance.now();
      if (left <= 0) throw new Violation(says().join("\n"));
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#waiting.add(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }

  /** Lets everybody work, and kills the process in the middle of it. */
  async #load({ producers, what, events, how, waitMs }) {
    this.#counts = { ...NOTHING };
    this.#began = performance.now();
    // Whoever begins late may find that the moment has come.
    const begun = this.#each((ledger, crew) => {
      const producing = producers.map(({ window }, producer) => crew.produce(this.#cycle, producer, window));
      return Promise.all([crew.recreate(ledger.nextLife), ...producing]);
    });
    begun.catch(() => undefined);
    await this.#until(() => this.#counts[what] >= events, () => [`of ${events} ${what} only ${this.#counts[what]} came`]);
    if (how === "waiting") await wait(waitMs);
    for (const until = performance.now() + waitMs; how === "spinning" && performance.now() < until; );
    if (this.#given.forgets) await this.#copy();
    const { acks, deliveries } = this.#counts;
    const gone = this.#target.signal("SIGKILL");
    const at = performance.now() - this.#began;
    await gone;
    for (const crew of this.#target.crews.values()) await crew.bury();
    if (this.#given.forgets) await this.#putBack();
    return `killed after ${at.toFixed(1)} ms, ${acks} acks and ${deliveries} deliveries`;
  }

  /** Copies what is stored at one moment, and lets more be acknowledged. */
  async #copy() {
    void this.#target.signal("SIGSTOP");
    // Chromium's are about itself, and no files.
    const filter = (path) => !path.includes("Singleton");
    await cp(this.#directory, `${this.#directory}.then`, { recursive: true, filter });
    void this.#target.signal("SIGCONT");
    // What is acknowledged from here on was on no way at that moment.
    await this.#each((ledger, crew) => crew.configure());
    const enough = this.#counts.acks + FORGOTTEN_ACKS;
    await this.#until(() => this.#counts.acks >= enough, () => ["it does not go on"]);
  }

  async #putBack() {
    await rm(this.#directory, { recursive: true });
    await rename(`${this.#directory}.then`, this.#directory);
  }

  #note(namespace, entry) {
    this.journal.push({ at: Math.round(performance.now()), namespace, ...entry });
    const ledger = this.#ledgers.get(namespace);
    ledger.take(entry);
    if (entry.type === "acked") this.#counts.acks += 1;
    if (entry.type === "sent" && entry.isBatch) this.#counts.batches += 1;
    if (entry.type === "sent" && entry.isLarge) this.#counts["large batches"] += 1;
    if (entry.type === "delivered") {
      this.#counts.deliveries += 1;
      this.#mark(ledger, entry);
    }
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
  }

  /** Remembers some of the positions that are given out. */
  #mark(ledger, { listener, position }) {
    const spec = LISTENERS[listener];
    if (spec === undefined || spec.stays) return;
    const marks = this.#bookmarks.get(ledger) ?? [];
    const random = dice(this.#given.seed, "mark", this.#counts.deliveries);
    if (marks.length < BOOKMARKS_MAX) marks.push({ spec, position });
    else if (random.chance(0.01)) marks[random.from(1, BOOKMARKS_MAX - 1)] = { spec, position };
    this.#bookmarks.set(ledger, marks);
  }
}
