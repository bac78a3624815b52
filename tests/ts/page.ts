/** What the page of the Chromium test runs. */

import { BindgenEngine, loadEngine } from "../../wasm/ts/engine.ts";
import { IndexedDbStore } from "../../wasm/ts/indexeddb.ts";
import { replayAll } from "./replay.ts";
import type { Replayed, Trace } from "./replay.ts";

declare global {
  /** Fetches module and traces from where the page came from, and replays all. */
  var replayed: () => Promise<Replayed>;
}

globalThis.replayed = async () => {
  await loadEngine(() => new URL("/engine_bg.wasm", location.href));
  const traces = (await (await fetch("/traces.json")).json()) as readonly Trace[];
  const newStore = (name: string): Promise<IndexedDbStore> =>
    IndexedDbStore.open(name, (error) => {
      throw error;
    });
  return replayAll(traces, () => new BindgenEngine(), newStore);
};
