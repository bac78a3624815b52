/** The package in workerd, whose modules of WebAssembly are compiled when the Worker is deployed. */

import type { LocalClient, LocalOptions } from "./types.ts";

export { connect } from "./index.ts";

export async function openLocal(options?: LocalOptions): Promise<LocalClient> {
  const { openLocalWith } = await import("./local.ts");
  return openLocalWith(async () => (await import("./engine/engine_bg.wasm")).default, options);
}

export { DunlinError } from "./errors.ts";
export { PROTOCOL_VERSION } from "./codec.ts";
export type { ClientErrorCode } from "./errors.ts";
export type * from "./types.ts";
