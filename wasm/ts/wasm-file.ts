/** Where the WebAssembly lies, in the words that bundlers look for. */
export function wasmFile(): URL {
  return new URL("./engine/engine_bg.wasm", import.meta.url);
}
