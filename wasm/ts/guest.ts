/**
 * The engine over the import-free guest module: bytes in and out of its linear memory, as `wasm/guest` documents.
 * One engine is one broker. A broker that trapped is dropped with its whole instance by the next `start`.
 */

import type { Engine } from "./drive.ts";
import { text, utf8 } from "./wire.ts";

/** The interface of this version; a module with another is refused. */
const ABI_VERSION = 1;

interface GuestExports {
  readonly memory: WebAssembly.Memory;
  dunlin_abi_version(): number;
  dunlin_input(length: number): number;
  dunlin_output_len(): number;
  dunlin_start(): number;
  dunlin_restore(): number;
  dunlin_step(now: number): number;
  dunlin_stats(): number;
}

export class GuestEngine implements Engine {
  readonly #module: WebAssembly.Module;
  #guest: GuestExports | undefined;

  constructor(module: WebAssembly.Module) {
    this.#module = module;
  }

  start(config: string, seed: bigint): void {
    const guest = new WebAssembly.Instance(this.#module, {}).exports as unknown as GuestExports;
    const version = guest.dunlin_abi_version();
    if (version !== ABI_VERSION) {
      throw new Error(`the guest module has ABI version ${version}, this host needs ${ABI_VERSION}: build both from one source`);
    }
    this.#guest = guest;
    const configuration = utf8(config);
    const input = new Uint8Array(8 + configuration.length);
    new DataView(input.buffer).setBigUint64(0, seed, true);
    input.set(configuration, 8);
    this.#put(guest, input);
    refuse(this.#output(guest, guest.dunlin_start()));
  }

  restore(rows: Uint8Array): void {
    const guest = this.#started();
    this.#put(guest, rows);
    refuse(this.#output(guest, guest.dunlin_restore()));
  }

  step(now: number, inputs: Uint8Array): Uint8Array {
    const guest = this.#started();
    this.#put(guest, inputs);
    return this.#output(guest, guest.dunlin_step(now));
  }

  stats(): string {
    const guest = this.#started();
    return text(this.#output(guest, guest.dunlin_stats()));
  }

  stop(): void {
    this.#guest = undefined;
  }

  #started(): GuestExports {
    if (this.#guest === undefined) throw new Error("the engine is not started");
    return this.#guest;
  }

  #put(guest: GuestExports, bytes: Uint8Array): void {
    // The memory may have grown and moved: its buffer is asked for only after the call.
    const address = guest.dunlin_input(bytes.length) >>> 0;
    new Uint8Array(guest.memory.buffer, address, bytes.length).set(bytes);
  }

  #output(guest: GuestExports, address: number): Uint8Array {
    const length = guest.dunlin_output_len() >>> 0;
    return new Uint8Array(guest.memory.buffer, address >>> 0, length).slice();
  }
}

/** Non-empty output of a start or restore is a refusal. */
function refuse(output: Uint8Array): void {
  if (output.length > 0) throw new Error(text(output));
}
