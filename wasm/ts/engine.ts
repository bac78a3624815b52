/**
 * The engine over the wasm-bindgen build. All brokers of a page share its one instance, and with it the fate of that
 * instance: after a trap in one of them each notices at its next call, and restores itself in a new instance.
 */

import type { Engine } from "./drive.ts";
import initialise, { __wbg_reset_state as resetInstance, Engine as Broker } from "../dist/engine/engine.js";
import { DunlinError } from "./errors.ts";
import type { WasmSource } from "./types.ts";

let loading: Promise<void> | undefined;
/** Counts instances. */
let instance = 0;
let isPoisoned = false;

/** Loads the WebAssembly, the first time; later sources are not looked at. */
export function loadEngine(source: () => WasmSource | Promise<WasmSource>): Promise<void> {
  loading ??= (async () => {
    try {
      await initialise({ module_or_path: (await source()) as URL });
    } catch (cause) {
      loading = undefined;
      throw wasmUnavailable(cause);
    }
  })();
  return loading;
}

export function wasmUnavailable(cause: unknown): DunlinError {
  return new DunlinError(
    "wasm_unavailable",
    `cannot load the broker's WebAssembly: ${(cause as Error).message}; import "dunlin/inline", or give the option wasm`,
    { cause },
  );
}

export class BindgenEngine implements Engine {
  #broker: Broker | undefined;
  #instance = 0;

  start(config: string, seed: bigint): void {
    this.stop();
    if (isPoisoned) {
      resetInstance();
      instance += 1;
      isPoisoned = false;
    }
    this.#instance = instance;
    this.#broker = this.#guard(() => new Broker(config, seed));
  }

  restore(rows: Uint8Array): void {
    this.#guard(() => this.#started().restore(rows));
  }

  step(now: number, inputs: Uint8Array): Uint8Array {
    return this.#guard(() => this.#started().step(now, inputs));
  }

  stats(): string {
    return this.#guard(() => this.#started().stats());
  }

  stop(): void {
    // In an instance that trapped or is gone there is nothing to give back.
    if (!isPoisoned && this.#instance === instance) this.#broker?.free();
    this.#broker = undefined;
  }

  #started(): Broker {
    if (this.#broker === undefined) throw new Error("the engine is not started");
    return this.#broker;
  }

  #guard<T>(call: () => T): T {
    if (isPoisoned || this.#instance !== instance) throw new Error("another broker of this page trapped");
    try {
      return call();
    } catch (error) {
      if (error instanceof WebAssembly.RuntimeError) isPoisoned = true;
      throw error;
    }
  }
}
