/** From an address and options to a client over a WebSocket. */

import { TransportClient } from "./client.ts";
import { SUBPROTOCOL_BINARY } from "./codec.ts";
import { checkTexts, invalid } from "./errors.ts";
import { REAL, SocketTransport } from "./link.ts";
import type { SocketFactory } from "./link.ts";
import type { Client, ConnectOptions } from "./types.ts";

const PROTOCOLS: Readonly<Record<string, string>> = { "http:": "ws:", "https:": "wss:", "ws:": "ws:", "wss:": "wss:" };

export async function connectWith(create: SocketFactory, url: string | URL, options: ConnectOptions = {}): Promise<Client> {
  if (options.sharing !== undefined) {
    const { connectShared } = await import("./shared-connect.ts");
    return connectShared(create, url, options);
  }
  return TransportClient.open(new SocketTransport(endpoint(url, options), SUBPROTOCOL_BINARY, create), REAL, options);
}

/** Where to connect: the URL itself if it has a path, otherwise the namespace's place below it. */
export function endpoint(given: string | URL, { namespace = "default", token, user, device }: ConnectOptions = {}): URL {
  let url: URL;
  try {
    url = new URL(given, typeof location === "undefined" ? undefined : location.href);
  } catch (cause) {
    throw invalid(`${JSON.stringify(String(given))} is not a URL: give one like "wss://broker.example"`, cause);
  }
  const protocol = PROTOCOLS[url.protocol];
  if (protocol === undefined) throw invalid(`the URL must begin with ws:, wss:, http: or https:, not with ${url.protocol}`);
  url.protocol = protocol;
  url.hash = "";
  if (url.username !== "" || url.password !== "") throw invalid("the URL must not hold a user or password: give the option token");
  const named = { token, user, device };
  checkTexts({ namespace, ...named });
  if (url.pathname === "/") url.pathname = `/v1/${encodeURIComponent(namespace)}/connect`;
  for (const [option, text] of Object.entries(named)) if (text !== undefined) url.searchParams.set(option, text);
  // To brokers a plus sign is one, as in filters.
  url.search = url.search.replaceAll("+", "%20");
  return url;
}
