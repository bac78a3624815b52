/** What the Rust tests left for the other runtimes. */

import { readFileSync } from "node:fs";
import { join } from "node:path";

import type { Replayed, Trace } from "./replay.ts";

/** The top of the repository; the tests run from their package. */
export const ROOT = join(process.cwd(), "..");

/** The traces of all scenarios as they lie there, or the stream of random commands. */
export function tracesText(file: "traces" | "stream" = "traces"): string {
  const target = process.env["CARGO_TARGET_DIR"] ?? join(ROOT, "target");
  const path = join(target, `tmp/conformance/${file}.json`);
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new Error(`${path} cannot be read (${String(error)}); \`cargo xtask test --only rust\` writes it`);
  }
}

/** The traces themselves. */
export function traces(): readonly Trace[] {
  return JSON.parse(tracesText()) as readonly Trace[];
}

/** Ten thousand random commands; the seed is in its name. */
export function stream(): readonly Trace[] {
  return JSON.parse(tracesText("stream")) as readonly Trace[];
}

/** Throws what went differently, or that nothing was compared. */
export function expectEqual(replayed: Replayed, expected = traces(), tracesMin = 40): void {
  if (replayed.failures.length > 0) throw new Error(`\n${replayed.failures.join("\n")}`);
  const steps = expected.reduce((sum, trace) => sum + trace.steps.length, 0);
  const { bytes, loadedBytes, restoredBytes, storedBytes } = replayed;
  const isNothing = [bytes, loadedBytes, restoredBytes, storedBytes].includes(0);
  if (replayed.traces < tracesMin || replayed.traces !== expected.length || replayed.steps !== steps || isNothing) {
    throw new Error(`of ${expected.length} traces with ${steps} steps only ${JSON.stringify(replayed)} was compared`);
  }
}
