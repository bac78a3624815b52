// A WebAssembly file is deployed with the script, and imported as the module that the runtime compiled.
declare module "*.wasm" {
  const module: WebAssembly.Module;
  export default module;
}
