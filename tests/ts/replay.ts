/**
 * Replays what crossed the boundary of the native engine over a store of this runtime, and compares every byte that
 * comes out of either: effects, counters, the rows of each load and of each restore, and what is stored at the end.
 * The same file runs in Node, in a page and in a Durable Object.
 */

import { decodeOutput, encodeRows } from "../../wasm/ts/abi.ts";
import type { Load, Op, Row } from "../../wasm/ts/abi.ts";
import type { Engine, Store } from "../../wasm/ts/drive.ts";
import { restoreWalk } from "../../wasm/ts/restore.ts";
import { Reader } from "../../wasm/ts/wire.ts";

/** One run of a scenario, as `tests/src/conformance/trace.rs` writes it. */
export interface Trace {
  readonly name: string;
  readonly steps: readonly Step[];
}

/** One call of the engine, or something about what is stored; bytes are base64, `line` is that of the scenario. */
export type Step =
  | { readonly kind: "start"; readonly line: number; readonly config: string; readonly seed: string; readonly refusal: string | null }
  | { readonly kind: "restore"; readonly line: number; readonly rows: string; readonly refusal: string | null }
  | { readonly kind: "step"; readonly line: number; readonly now: number; readonly inputs: string; readonly output: string }
  | { readonly kind: "trap"; readonly line: number; readonly now: number; readonly inputs: string }
  | { readonly kind: "stats"; readonly line: number; readonly json: string }
  /** A row changes without the broker's doing; without a value it is gone. */
  | { readonly kind: "change"; readonly line: number; readonly key: string; readonly value: string | null }
  | { readonly kind: "stored"; readonly line: number; readonly rows: string };

/** What came of it. */
export interface Replayed {
  readonly traces: number;
  readonly steps: number;
  /** Bytes of effects that were compared. */
  readonly bytes: number;
  /** Bytes of rows that were compared: loaded, restored, and stored at the end. */
  readonly loadedBytes: number;
  readonly restoredBytes: number;
  readonly storedBytes: number;
  /** A line for each trace that went differently: scenario, line, what. */
  readonly failures: readonly string[];
}

/** Replays every trace, each on an engine and over an empty store of its own. */
export async function replayAll(
  traces: readonly Trace[],
  newEngine: () => Engine,
  newStore: (name: string) => Store | Promise<Store>,
): Promise<Replayed> {
  const replayed: Replayed[] = [];
  for (const trace of traces) replayed.push(await replayOne(trace, newEngine(), await newStore(trace.name)));
  return sum(replayed);
}

/** Several replays as one. */
export function sum(replayed: readonly Replayed[]): Replayed {
  const total = (count: (one: Replayed) => number): number => replayed.reduce((sum, one) => sum + count(one), 0);
  return {
    traces: total(({ traces }) => traces),
    steps: total(({ steps }) => steps),
    bytes: total(({ bytes }) => bytes),
    loadedBytes: total(({ loadedBytes }) => loadedBytes),
    restoredBytes: total(({ restoredBytes }) => restoredBytes),
    storedBytes: total(({ storedBytes }) => storedBytes),
    failures: replayed.flatMap(({ failures }) => failures),
  };
}

/** Replays one trace; the store must be empty. */
export async function replayOne(trace: Trace, engine: Engine, store: Store): Promise<Replayed> {
  const replay = new Replay(engine, store);
  const failures: string[] = [];
  let steps = 0;
  for (const step of trace.steps) {
    let failure: string | undefined;
    try {
      failure = await replay.step(step);
    } catch (error) {
      failure = `${step.kind} threw ${String(error)}`;
    }
    steps += 1;
    if (failure !== undefined) {
      failures.push(`${trace.name}.txt:${step.line}: ${failure}`);
      break;
    }
  }
  engine.stop();
  const { bytes, loadedBytes, restoredBytes, storedBytes } = replay;
  return { traces: 1, steps, bytes, loadedBytes, restoredBytes, storedBytes, failures };
}

/** Gives an engine and a store the same calls, one after the other. */
export class Replay {
  bytes = 0;
  loadedBytes = 0;
  restoredBytes = 0;
  storedBytes = 0;
  readonly #engine: Engine;
  readonly #store: Store;
  /** What the broker of this life has asked for, by ticket. */
  readonly #loads = new Map<number, Load>();
  /** Rows that a broker was started over, and that it has not been given yet. */
  #unrestored = new Uint8Array();
  #changes = 0;

  constructor(engine: Engine, store: Store) {
    this.#engine = engine;
    this.#store = store;
  }

  /** What went differently, if anything did. */
  async step(step: Step): Promise<string | undefined> {
    if (step.kind !== "restore" && this.#unrestored.length > 0) {
      return `the store gives ${this.#unrestored.length} bytes of rows to a restore that was given none`;
    }
    switch (step.kind) {
      case "start": {
        const refusal = refusalOf(() => this.#engine.start(step.config, BigInt(step.seed)));
        if (refusal !== step.refusal) return `a start gave ${refusal} instead of ${step.refusal}`;
        this.#loads.clear();
        if (refusal === null) this.#unrestored = await this.#state();
        return undefined;
      }
      case "restore":
        return this.#restore(fromBase64(step.rows), step.refusal);
      case "step":
        return this.#batch(step.now, fromBase64(step.inputs), fromBase64(step.output));
      case "trap":
        return refusalOf(() => this.#engine.step(step.now, fromBase64(step.inputs))) === null ? "it did not trap" : undefined;
      case "stats": {
        const json = this.#engine.stats();
        return json === step.json ? undefined : `the counters are ${json} instead of ${step.json}`;
      }
      case "change": {
        const key = fromBase64(step.key);
        const op: Op = step.value === null ? { kind: "delete", key } : { kind: "put", key, value: fromBase64(step.value) };
        this.#changes += 1;
        await this.#store.apply({ kind: "write", sequence: this.#changes, durability: "sync", ops: [op] });
        return undefined;
      }
      case "stored": {
        const expected = fromBase64(step.rows);
        this.storedBytes += expected.length;
        return difference("what is stored", expected, encodeRows(await this.#store.load(EVERYTHING)));
      }
    }
  }

  /** What a restore finds in the store. */
  async #state(): Promise<Uint8Array<ArrayBuffer>> {
    const found: Row[] = [];
    const walk = restoreWalk((rows) => void found.push(...rows));
    for (let asked = walk.next([]); asked.done !== true; ) asked = walk.next(await this.#store.load(asked.value));
    return new Uint8Array(encodeRows(found));
  }

  #restore(expected: Uint8Array, expectedRefusal: string | null): string | undefined {
    const rows = this.#unrestored;
    this.#unrestored = new Uint8Array();
    this.restoredBytes += expected.length;
    const different = difference("a restore", expected, rows);
    if (different !== undefined) return different;
    const refusal = refusalOf(() => this.#engine.restore(rows));
    return refusal === expectedRefusal ? undefined : `a restore gave ${refusal} instead of ${expectedRefusal}`;
  }

  /** Asks the store for every load that these inputs answer. */
  async #answers(inputs: Uint8Array): Promise<string | undefined> {
    for (const reader = new Reader(inputs); !reader.isEmpty; ) {
      const input = new Reader(reader.bytes());
      if (input.u8() !== LOADED) continue;
      const ticket = input.int();
      const load = this.#loads.get(ticket);
      if (load === undefined) return `the load ${ticket} is answered, but nobody asked for it`;
      this.#loads.delete(ticket);
      // A load that failed says nothing about the store.
      if (!input.flag()) continue;
      const expected = input.rest();
      this.loadedBytes += expected.length;
      const different = difference(`the load ${ticket}`, expected, encodeRows(await this.#store.load(load)));
      if (different !== undefined) return different;
    }
    return undefined;
  }

  /** Lets the broker take inputs, and obeys it as far as the store goes. */
  async #batch(now: number, inputs: Uint8Array, expected: Uint8Array): Promise<string | undefined> {
    const otherwise = await this.#answers(inputs);
    if (otherwise !== undefined) return otherwise;
    const output = this.#engine.step(now, inputs);
    this.bytes += expected.length;
    const different = difference("the output", expected, output);
    if (different !== undefined) return different;
    for (const effect of decodeOutput(output).effects) {
      if (effect.kind === "write") await this.#store.apply(effect);
      else if (effect.kind === "load") this.#loads.set(effect.ticket, effect);
    }
    return undefined;
  }
}

/** The kind of the input that answers a load, as `core/src/abi.rs` has it. */
export const LOADED = 6;

/** The range of all keys; the runtimes' stores take bounds of 32 bits. */
export const EVERYTHING = {
  from: new Uint8Array(),
  to: Uint8Array.of(255, 255, 255),
  reverse: false,
  rowsMax: 0xffff_ffff,
  bytesMax: 0xffff_ffff,
};

function refusalOf(call: () => unknown): string | null {
  try {
    call();
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** Where two byte strings part, if they do. */
export function difference(what: string, expected: Uint8Array, got: Uint8Array): string | undefined {
  let at = 0;
  while (at < expected.length && expected[at] === got[at]) at += 1;
  if (at === expected.length && at === got.length) return undefined;
  return `${what}: of ${expected.length} bytes (here ${got.length}) those from ${at} on differ: ${around(expected, at)} here ${around(got, at)}`;
}

function around(bytes: Uint8Array, at: number): string {
  return Array.from(bytes.subarray(Math.max(0, at - 8), at + 8), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
}

/** The bytes in a trace. */
export function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  const characters = atob(text);
  // A loop, because `from` with a mapping takes seconds for the largest payloads.
  const bytes = new Uint8Array(characters.length);
  for (let at = 0; at < bytes.length; at += 1) bytes[at] = characters.charCodeAt(at);
  return bytes;
}
