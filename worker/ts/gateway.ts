import { WorkerEntrypoint } from "cloudflare:workers";

import { __wbg_reset_state, __worker_init_state, fetch } from "../dist/gateway/gateway.js";
import { streamArchive } from "./archive.ts";
import { streamEvents } from "./events.ts";

/** What the Rust side tells about itself; its panic hook sets `criticalError`. */
interface GatewayState {
  criticalError: boolean;
}

const state = __worker_init_state() as GatewayState;

// A trap outside of a call from here (in a promise that Rust continues) is seen only as an event.
(globalThis as unknown as EventTarget).addEventListener("error", (event) => noteTrap((event as ErrorEvent).error));

/** The stateless front: everything it does is decided in Rust, which gets what it cannot keep itself beside its bindings. */
export class Gateway extends WorkerEntrypoint<{ readonly BROKER: DurableObjectNamespace }> {
  override async fetch(request: Request): Promise<Response> {
    // A WebAssembly instance that has trapped may be half changed: it answers nothing more.
    if (state.criticalError) {
      __wbg_reset_state();
      state.criticalError = false;
    }
    try {
      return (await fetch(request, { ...this.env, streamEvents, streamArchive: this.#streamArchive }, this.ctx)) as Response;
    } catch (error) {
      noteTrap(error);
      throw error;
    }
  }

  readonly #streamArchive = (namespace: string, door: string): Promise<Response> =>
    streamArchive(this.env.BROKER.getByName(namespace), namespace, door);
}

function noteTrap(error: unknown): void {
  if (error instanceof WebAssembly.RuntimeError) state.criticalError = true;
}
