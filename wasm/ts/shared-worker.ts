/** The SharedWorker: a candidate for whatever the tabs that reach it share. Bundled into one file that needs no other. */

import { Candidate } from "./election.ts";
import type { Service } from "./election.ts";
import { openStored } from "./hosted.ts";
import { browserSocket } from "./link.ts";
import type { Order, Shared } from "./polling.ts";
import { ROOM_VERSION } from "./room.ts";
import { Upstream } from "./upstream.ts";

(globalThis as unknown as { onconnect: (event: MessageEvent) => void }).onconnect = ({ ports: [port] }) => {
  if (port === undefined) return;
  port.onmessage = ({ data: order }: MessageEvent<Order>) => {
    // A tab of another version is told ours, and does without us.
    if (order.version !== ROOM_VERSION) return;
    if ("withdraw" in order) Candidate.withdraw(order.room, order.withdraw);
    else Candidate.knock(order.room, order.knock, () => openShared(order.shared));
  };
  port.postMessage(ROOM_VERSION);
};

async function openShared(shared: Shared): Promise<Service> {
  if (shared.kind === "broker") return openStored(shared.name, shared.config, shared.wasm);
  return new Upstream(new URL(shared.url), browserSocket, shared.greeting);
}
