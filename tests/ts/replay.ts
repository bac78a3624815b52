/**
 * Replays what crossed the boundary of the native engine, and compares every byte. The same file runs in Node, in a
 * page and in workerd.
 */

import type { Engine } from "../../wasm/ts/drive.ts";

/** One run of a scenario, as `tests/src/conformance/trace.rs` writes it. */
export interface Trace {
  readonly name: string;
  readonly steps: readonly Step[];
}

/** One call of the engine; bytes are base64, `line` is that of the scenario. */
export type Step =
  | { readonly kind: "start"; readonly line: number; readonly config: string; readonly seed: string }
  | { readonly kind: "restore"; readonly line: number; readonly rows: string; readonly refusal: string | null }
  | { readonly kind: "step"; readonly line: number; readonly now: number; readonly inputs: string; readonly output: string }
  | { readonly kind: "trap"; readonly line: number; readonly now: number; readonly inputs: string }
  | { readonly kind: "stats"; readonly line: number; readonly json: string };

/** What came of it. */
export interface Replayed {
  readonly traces: number;
  readonly steps: number;
  /** Bytes of output that were compared. */
  readonly bytes: number;
  /** A line for each trace that went differently: scenario, line, what. */
  readonly failures: readonly string[];
}

/** Replays every trace, each on an engine of its own. */
export function replayAll(traces: readonly Trace[], newEngine: () => Engine): Replayed {
  let steps = 0;
  let bytes = 0;
  const failures: string[] = [];
  for (const trace of traces) {
    const engine = newEngine();
    for (const step of trace.steps) {
      let failure: string | undefined;
      try {
        failure = replay(step, engine);
      } catch (error) {
        failure = `${step.kind} threw ${String(error)}`;
      }
      steps += 1;
      if (step.kind === "step") bytes += fromBase64(step.output).length;
      if (failure !== undefined) {
        failures.push(`${trace.name}.txt:${step.line}: ${failure}`);
        break;
      }
    }
    engine.stop();
  }
  return { traces: traces.length, steps, bytes, failures };
}

/** What went differently, if anything did. */
function replay(step: Step, engine: Engine): string | undefined {
  switch (step.kind) {
    case "start":
      engine.start(step.config, BigInt(step.seed));
      return undefined;
    case "restore": {
      const refusal = refusalOf(() => engine.restore(fromBase64(step.rows)));
      return refusal === step.refusal ? undefined : `a restore gave ${refusal} instead of ${step.refusal}`;
    }
    case "step":
      return difference(fromBase64(step.output), engine.step(step.now, fromBase64(step.inputs)));
    case "trap":
      return refusalOf(() => engine.step(step.now, fromBase64(step.inputs))) === null ? "it did not trap" : undefined;
    case "stats": {
      const json = engine.stats();
      return json === step.json ? undefined : `the counters are ${json} instead of ${step.json}`;
    }
  }
}

function refusalOf(call: () => unknown): string | null {
  try {
    call();
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

function difference(expected: Uint8Array, got: Uint8Array): string | undefined {
  let at = 0;
  while (at < expected.length && expected[at] === got[at]) at += 1;
  if (at === expected.length && at === got.length) return undefined;
  return `of ${expected.length} bytes (here ${got.length}) those from ${at} on differ: ${around(expected, at)} here ${around(got, at)}`;
}

function around(bytes: Uint8Array, at: number): string {
  return Array.from(bytes.subarray(Math.max(0, at - 8), at + 8), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
}

function fromBase64(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}
