/** What the workerd test runs: the guest, as an object at the edge instantiates it. */

import guest from "../../wasm/dist/guest.wasm";
import { GuestEngine } from "../../wasm/ts/guest.ts";
import { replayAll } from "./replay.ts";
import type { Trace } from "./replay.ts";

const worker = {
  async fetch(request: Request): Promise<Response> {
    const traces = (await request.json()) as readonly Trace[];
    return Response.json(replayAll(traces, () => new GuestEngine(guest)));
  },
};

// The runtime asks for a default export.
export { worker as default };
