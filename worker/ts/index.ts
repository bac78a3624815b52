export { Broker } from "./broker.ts";
import { Gateway } from "./gateway.ts";

// The runtime looks for its entry point under this name alone.
export { Gateway as default };
