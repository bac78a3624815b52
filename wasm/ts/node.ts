/** The package in Node: sockets by the package `ws`, the WebAssembly from a file. */

import { connectWith } from "./connect.ts";
import type { Socket, SocketFactory } from "./link.ts";
import type { Client, ConnectOptions, LocalClient, LocalOptions } from "./types.ts";

export async function connect(url: string | URL, options?: ConnectOptions): Promise<Client> {
  return connectWith(await socketFactory(), url, options);
}

export async function openLocal(options?: LocalOptions): Promise<LocalClient> {
  const { openLocalWith } = await import("./local.ts");
  const { readFile } = await import("node:fs/promises");
  const { wasmFile } = await import("./wasm-file.ts");
  return openLocalWith(async () => readFile(wasmFile()), options);
}

/** Node 20 has no WebSocket of its own, and that of later versions does not say why a broker refused. */
async function socketFactory(): Promise<SocketFactory> {
  const { WebSocket } = await import("ws");
  return (url, protocol) => new WebSocket(url, protocol, { perMessageDeflate: false }) as Socket;
}

export { DunlinError } from "./errors.ts";
export { PROTOCOL_VERSION } from "./codec.ts";
export type { ClientErrorCode } from "./errors.ts";
export type * from "./types.ts";
