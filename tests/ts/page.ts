/** What the page of the Chromium test runs. */

import { BindgenEngine, loadEngine } from "../../wasm/ts/engine.ts";
import { replayAll } from "./replay.ts";
import type { Replayed, Trace } from "./replay.ts";

declare global {
  /** Fetches module and traces from where the page came from, and replays all. */
  var replayed: () => Promise<Replayed>;
}

globalThis.replayed = async () => {
  await loadEngine(() => new URL("/engine_bg.wasm", location.href));
  const traces = (await (await fetch("/traces.json")).json()) as readonly Trace[];
  return replayAll(traces, () => new BindgenEngine());
};
