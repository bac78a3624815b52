/** The package in a browser: the platform's WebSocket, and the WebAssembly as a file beside the scripts. */

import { connectWith } from "./connect.ts";
import { DunlinError } from "./errors.ts";
import { browserSocket } from "./link.ts";
import type { Client, ConnectOptions, LocalClient, LocalOptions } from "./types.ts";

/** Connects to a broker. Rejects if the first attempt fails; later it connects again by itself. */
export async function connect(url: string | URL, options: ConnectOptions = {}): Promise<Client> {
  if (typeof WebSocket === "undefined") {
    throw new DunlinError("unsupported", "this runtime has no WebSocket: in Node, import \"dunlin\" unbundled");
  }
  return connectWith(browserSocket, url, options);
}

/** Opens a broker in the page, or joins the one that is open there under the same name. */
export async function openLocal(options?: LocalOptions): Promise<LocalClient> {
  // Loaded when it is needed: a client of a broker far away stays small.
  const { openLocalWith } = await import("./local.ts");
  const { wasmFile } = await import("./wasm-file.ts");
  return openLocalWith(wasmFile, options);
}

export { DunlinError };
export { PROTOCOL_VERSION } from "./codec.ts";
export type { ClientErrorCode } from "./errors.ts";
export type * from "./types.ts";
