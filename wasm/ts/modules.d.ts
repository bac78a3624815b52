/** A module that the runtime compiles (workerd), or its bytes that the bundler puts into the script (inline). */
declare module "*.wasm" {
  const source: WebAssembly.Module | Uint8Array<ArrayBuffer>;
  export default source;
}

/** The parts of Node that its entry uses. The sources are for every runtime, so Node's types are not known to them. */
declare module "node:fs/promises" {
  export function readFile(path: URL): Promise<Uint8Array<ArrayBuffer>>;
}

declare module "ws" {
  export const WebSocket: new (url: string, protocol: string, options: object) => unknown;
}
