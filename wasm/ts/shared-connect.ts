/** A client whose connection all tabs share. Loaded only where a program asks for it. */

import { TransportClient } from "./client.ts";
import { endpoint } from "./connect.ts";
import { invalid } from "./errors.ts";
import { REAL } from "./link.ts";
import type { SocketFactory } from "./link.ts";
import { pollingFor } from "./polling.ts";
import { SharedTransport, checkSharing } from "./sharing.ts";
import type { Client, ConnectOptions } from "./types.ts";
import { Upstream } from "./upstream.ts";

export async function connectShared(create: SocketFactory, given: string | URL, options: ConnectOptions): Promise<Client> {
  const url = endpoint(given, options);
  if (options.session === true) throw invalid("a session has one client: leave out the option sharing");
  checkSharing("leave out the option sharing");
  const { clientName, echo } = options;
  const greeting = { clientName, echo };
  // The address may hold a token, which is nothing for names that others can list.
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(`${url.href} ${echo}`));
  const room = `dunlin-connection:${Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
  const polling = pollingFor(room, { kind: "upstream", url: url.href, greeting }, async () => new Upstream(url, create, greeting), options);
  const address = `${url.origin}${url.pathname}`;
  return TransportClient.open(new SharedTransport(address, room, { config: "", namespace: "", user: "", device: "" }, polling), REAL, options);
}
