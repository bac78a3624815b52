/** The connection to one broker, wherever it runs, with what this page sent and got over it. */

import { connect, openLocal } from "dunlin";
import type { Client, StateChange } from "dunlin";

import type { Broker } from "./place.ts";

/** The name of the database in the browser. */
const DATABASE = "dunlin";

export class Session {
  readonly broker: Broker;
  readonly client: Client;
  /** How many messages subscriptions brought, and how many were published and answered with a receipt. */
  received = 0;
  published = 0;

  private constructor(broker: Broker, client: Client) {
    this.broker = broker;
    this.client = client;
  }

  /** Connects, or opens the broker in the page. Rejects if the first attempt fails: a person is waiting. */
  static async open(broker: Broker, token: string, signal: AbortSignal): Promise<Session> {
    const { namespace } = broker;
    if (broker.to === "page") {
      return new Session(broker, await openLocal({ name: DATABASE, store: broker.store, namespace, signal }));
    }
    const options = { namespace, clientName: "dunlin console", signal, ...(token === "" ? {} : { token }) };
    return new Session(broker, await connect(socketAddress(broker.address), options));
  }

  /** The broker for people: where, and which namespace. */
  get title(): string {
    const { broker } = this;
    if (broker.to === "server") return serverTitle(broker.address, broker.namespace);
    return `${broker.store === "memory" ? "in memory" : "in this browser"} / ${broker.namespace}`;
  }

  onState(listener: (change: StateChange) => void): () => void {
    return this.client.on("state", listener);
  }
}

/** People type `127.0.0.1:8787` as they do for a page; everything else about an address is the client's to judge. */
export function socketAddress(typed: string): string {
  const text = typed.trim();
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(text)) return text;
  return `${location.protocol === "https:" ? "wss" : "ws"}://${text}`;
}

/** Host and namespace; an address with a path of its own says the namespace itself. */
function serverTitle(address: string, namespace: string): string {
  const url = new URL(socketAddress(address));
  return `${url.host}${url.pathname === "/" || url.pathname === "" ? ` / ${namespace}` : url.pathname}`;
}

/** Whether an address is the server that the page came from. */
export function isOwnServer(address: string): boolean {
  try {
    return address === "" || new URL(socketAddress(address)).host === location.host;
  } catch {
    return false;
  }
}
