/** The package with the WebAssembly inside the script: for bundlers and pages that know nothing of files beside it. */

import type { LocalClient, LocalOptions } from "./types.ts";

export { connect } from "./index.ts";

export async function openLocal(options?: LocalOptions): Promise<LocalClient> {
  const { openLocalWith } = await import("./local.ts");
  return openLocalWith(async () => (await import("../dist/engine/engine_bg.wasm")).default, options);
}

export { DunlinError } from "./errors.ts";
export { PROTOCOL_VERSION } from "./codec.ts";
export type { ClientErrorCode } from "./errors.ts";
export type * from "./types.ts";
