/**
 * A scenario whose broker is taken away between two of its steps, and comes back from what is stored. The clients do
 * not notice but for what the broker tells them: their sockets outlive it, and they go on saying what they say in the
 * scenario. Over which store it runs, and what takes the broker away, is the caller's business; wherever the store
 * keeps what was written, everything that follows is the same to the byte.
 */

import { decodeOutput, encodeInput, encodeRows } from "../../wasm/ts/abi.ts";
import type { Input, Load } from "../../wasm/ts/abi.ts";
import type { Engine, Store } from "../../wasm/ts/drive.ts";
import { decodeReplies } from "../../wasm/ts/frames.ts";
import type { Reply } from "../../wasm/ts/frames.ts";
import { restoreWalk } from "../../wasm/ts/restore.ts";
import { concat, Reader, text, utf8, Writer } from "../../wasm/ts/wire.ts";
import { EVERYTHING, fromBase64, LOADED, Replay } from "./replay.ts";
import type { Step, Trace } from "./replay.ts";

/** Where a broker is taken away: after so many steps, or in the middle of the last of them. */
export interface Place {
  readonly steps: number;
  readonly within: boolean;
}

/** Behind every step of a trace, and in the middle of the last that writes something. */
export function placesOf(trace: Trace): readonly Place[] {
  const places: Place[] = [];
  let writes = 0;
  for (const [index, step] of trace.steps.entries()) {
    if (step.kind !== "step") continue;
    places.push({ steps: index + 1, within: false });
    if (decodeOutput(fromBase64(step.output)).effects.some(({ kind }) => kind === "write")) writes = index + 1;
  }
  return writes === 0 ? places : [...places, { steps: writes, within: true }];
}

/** Plays steps exactly as they were; throws what went differently. */
export async function playOut(steps: readonly Step[], replay: Replay): Promise<void> {
  for (const step of steps) {
    const failure = await replay.step(step);
    if (failure !== undefined) throw new Error(`line ${step.line}: ${failure}`);
  }
}

/** What a broker said after it came back, and what is stored in the end. */
export interface Aftermath {
  readonly said: Uint8Array;
  readonly rows: Uint8Array;
  /** How many messages were acknowledged, before and after. */
  readonly acknowledged: number;
}

/**
 * Begins another broker over what is stored after the first `count` steps, and plays what is left of the trace. Throws
 * if two messages are acknowledged under one sequence.
 */
export async function playOn(trace: Trace, count: number, engine: Engine, store: Store): Promise<Aftermath> {
  const witness = new Witness();
  const course = new Course(engine, store, witness);
  let config = "{}";
  let now = 0;
  for (const step of trace.steps.slice(0, count)) {
    if (step.kind === "start") config = step.config;
    if (step.kind === "change") witness.forget();
    if (step.kind !== "step") continue;
    now = step.now;
    witness.see(fromBase64(step.inputs), fromBase64(step.output));
  }
  await course.start(config, SEED);
  const survivors = [...witness.open.keys()].map((connection): Input => ({ kind: "restored", connection, clean: false }));
  await course.batch(now, concat(survivors.map(encodeInput)));
  for (const step of trace.steps.slice(count)) {
    switch (step.kind) {
      case "start":
        await course.start(step.config, BigInt(step.seed));
        break;
      case "step":
        await course.batch(step.now, withoutAnswers(fromBase64(step.inputs)));
        break;
      case "trap":
        await course.batch(step.now, fromBase64(step.inputs));
        break;
      case "change": {
        const key = fromBase64(step.key);
        const op = step.value === null ? ({ kind: "delete", key } as const) : ({ kind: "put", key, value: fromBase64(step.value) } as const);
        await store.apply({ kind: "write", sequence: 1, durability: "sync", ops: [op] });
        witness.forget();
        break;
      }
      // What the scenario says of these holds for its own course only.
      case "restore":
      case "stats":
      case "stored":
    }
  }
  engine.stop();
  return { said: concat(course.said), rows: await everything(store), acknowledged: witness.acknowledged };
}

/** What came of all interruptions of a scenario. */
export interface Interrupted {
  readonly interruptions: number;
  /** How many of those in the middle of a step had none of its writes afterwards; the others had all. */
  readonly undone: number;
  readonly acknowledged: number;
  readonly failures: readonly string[];
}

/** Everything that is stored. */
export async function everything(store: Store): Promise<Uint8Array> {
  return encodeRows(await store.load(EVERYTHING));
}

/** The seed of the broker that comes back, which no scenario uses. */
const SEED = 1_000_000n;

/** One that never comes to rest asks for more loads than this in one batch. */
const LOADS_MAX = 10_000;

/** A broker and its host, which answers every load at once. */
class Course {
  readonly said: Uint8Array[] = [];
  readonly #engine: Engine;
  readonly #store: Store;
  readonly #witness: Witness;
  /** Whether there is a broker: it may have refused its configuration or its rows, or trapped. */
  #runs = false;

  constructor(engine: Engine, store: Store, witness: Witness) {
    this.#engine = engine;
    this.#store = store;
    this.#witness = witness;
  }

  async start(config: string, seed: bigint): Promise<void> {
    this.#runs = false;
    try {
      this.#engine.start(config, seed);
      const walk = restoreWalk((rows) => this.#engine.restore(encodeRows(rows)));
      for (let asked = walk.next([]); asked.done !== true; ) asked = walk.next(await this.#store.load(asked.value));
      this.#runs = true;
    } catch (error) {
      this.said.push(utf8(String(error)));
    }
  }

  async batch(now: number, inputs: Uint8Array): Promise<void> {
    if (!this.#runs) return;
    const loads: Load[] = [];
    this.#step(now, inputs, loads);
    for (let answered = 0; this.#runs && answered < loads.length; answered += 1) {
      if (answered > LOADS_MAX) throw new Error("the broker asks for loads without end");
      const { ticket, ...range } = loads[answered] as Load;
      const rows = await this.#store.load(range);
      this.#step(now, encodeInput({ kind: "loaded", ticket, rows }), loads);
    }
  }

  #step(now: number, inputs: Uint8Array, loads: Load[]): void {
    let output: Uint8Array;
    try {
      output = this.#engine.step(now, inputs);
    } catch (error) {
      this.#runs = false;
      this.said.push(utf8(String(error)));
      return;
    }
    this.said.push(output);
    this.#witness.see(inputs, output);
    for (const effect of decodeOutput(output).effects) {
      if (effect.kind === "write") this.#store.apply(effect);
      else if (effect.kind === "load") loads.push(effect);
    }
  }
}

/** Sees what crosses the boundary of brokers that follow each other: who is connected, and what is acknowledged. */
class Witness {
  /** The clients whose sockets are open. */
  readonly open = new Map<number, { readonly isJson: boolean; readonly namespace: string }>();
  acknowledged = 0;
  readonly #sequences = new Set<string>();
  /** Without a store only live topics take messages, and nothing remembers how many. */
  #isStored = true;

  see(inputs: Uint8Array, output: Uint8Array): void {
    for (const input of inputsOf(inputs)) {
      const reader = new Reader(input);
      const kind = reader.u8();
      if (kind === STORAGE) this.#isStored = reader.flag();
      if (kind !== CONNECT && kind !== DISCONNECT) continue;
      const connection = reader.int();
      if (kind === DISCONNECT) this.open.delete(connection);
      else if (!this.open.has(connection)) this.open.set(connection, { isJson: reader.flag(), namespace: reader.str() });
    }
    for (const effect of decodeOutput(output).effects) {
      if (effect.kind === "close") {
        // With a namespace that is deleted go its sequences.
        const client = this.open.get(effect.connection);
        if (client !== undefined && effect.reason.endsWith("was deleted")) {
          for (const place of this.#sequences) if (place.startsWith(`${client.namespace} #`)) this.#sequences.delete(place);
        }
        this.open.delete(effect.connection);
      }
      if (effect.kind !== "send") continue;
      for (const { connection, prefix } of effect.to) this.#hear(connection, concat([prefix, effect.body]));
    }
  }

  /** What was acknowledged is gone, as the scenario wants it, and its sequences with it. */
  forget(): void {
    this.#sequences.clear();
  }

  #hear(connection: number, message: Uint8Array): void {
    const client = this.open.get(connection);
    if (client === undefined) return;
    const replies = client.isJson ? text(message).trim().split("\n").map((line) => JSON.parse(line) as Reply) : decodeReplies(message);
    for (const reply of replies) {
      const receipts = reply.type === "receipt" ? [reply] : reply.type === "receipts" ? reply.receipts : [];
      for (const { sequence, duplicate } of receipts) {
        // A message that waits for its time has no place yet.
        if (Number(sequence) === 0) continue;
        if (duplicate || !this.#isStored) continue;
        const place = `${client.namespace} #${sequence}`;
        if (this.#sequences.has(place)) throw new Error(`two messages were acknowledged as ${place}`);
        this.#sequences.add(place);
        this.acknowledged += 1;
      }
    }
  }
}

/** The kinds of inputs, as `core/src/abi.rs` has them. */
const CONNECT = 1;
const DISCONNECT = 3;
const STORAGE = 7;

/** The inputs of a batch but the answers to loads, for which only that broker waits which asked. */
function withoutAnswers(inputs: Uint8Array): Uint8Array {
  const kept = new Writer();
  for (const input of inputsOf(inputs)) if (input[0] !== LOADED) kept.bytes(input);
  return kept.take();
}

function* inputsOf(batch: Uint8Array): Generator<Uint8Array> {
  for (const reader = new Reader(batch); !reader.isEmpty; ) yield reader.bytes();
}
