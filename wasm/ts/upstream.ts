/**
 * The one connection to a broker far away that all tabs share. To each tab's client this is the broker: it hears the
 * tab's commands, gives them to the one connection, and brings back what is answered. Subscriptions are numbered anew,
 * because every tab numbers its own.
 *
 * It keeps nothing for tabs. When the connection is lost every tab's link ends, so that each client decides about what
 * it said as it does when its own socket is lost, and the next link of a tab connects again.
 */

import { SUBPROTOCOL_BINARY } from "./codec.ts";
import { Connection } from "./connection.ts";
import type { Greeting, Unnumbered } from "./connection.ts";
import type { Service } from "./election.ts";
import { DunlinError } from "./errors.ts";
import { decodeCommands, encodeReply, whole } from "./frames.ts";
import type { Command, Reply } from "./frames.ts";
import { REAL, SocketTransport } from "./link.ts";
import type { Closing, Link, LinkEvents, SocketFactory } from "./link.ts";
import { finalClosing } from "./room.ts";
import type { StateChange } from "./types.ts";
import { concat } from "./wire.ts";

/** Gathered replies are cut into messages of about this size. */
const MESSAGE_BYTES_MAX = 1024 * 1024;

type Subscribe = Extract<Command, { type: "subscribe" | "join" | "watch_presence" }>;

/** The commands that begin a subscription. */
const BEGINNINGS: readonly Command["type"][] = ["subscribe", "join", "watch_presence"] satisfies Subscribe["type"][];

export class Upstream implements Service {
  readonly #url: URL;
  readonly #create: SocketFactory;
  readonly #greeting: Greeting;
  readonly #tabs = new Set<TabLink>();
  /** The tabs' subscriptions by their numbers on the one connection, with what the tab asked. */
  readonly #subscriptions = new Map<number, { readonly tab: TabLink; readonly asked: Subscribe }>();
  /** The tabs that are present on each topic. */
  readonly #present = new Map<string, Set<TabLink>>();
  #numbers = 0;
  #connection: Connection | undefined;

  constructor(url: URL, create: SocketFactory, greeting: Greeting = {}) {
    this.#url = url;
    this.#create = create;
    this.#greeting = greeting;
  }

  connect(_knock: unknown, events: LinkEvents): Link {
    const tab = new TabLink(events);
    this.#tabs.add(tab);
    this.#connection ??= this.#open();
    queueMicrotask(() => {
      if (this.#tabs.has(tab)) events.opened();
    });
    return {
      send: (message) => {
        if (typeof message === "string") return;
        for (const command of decodeCommands(message)) this.#take(tab, command);
      },
      close: () => this.#forget(tab),
    };
  }

  async close(): Promise<void> {
    this.stop();
  }

  stop(): void {
    const connection = this.#connection;
    this.#connection = undefined;
    connection?.close();
  }

  #open(): Connection {
    const transport = new SocketTransport(this.#url, SUBPROTOCOL_BINARY, this.#create);
    const connection = new Connection(
      transport,
      REAL,
      {
        ready: (again) => {
          for (const tab of this.#tabs) {
            if (again) tab.say({ type: "resync" });
            else if (tab.isWaiting) this.#greet(tab);
          }
        },
        event: (reply) => this.#event(reply),
        over: () => {},
      },
      this.#greeting,
    );
    connection.codec = whole;
    connection.listen((change) => this.#changed(change));
    connection.start();
    return connection;
  }

  /** Anything but an open connection is the end of all links on it. */
  #changed({ state, error }: StateChange): void {
    const connection = this.#connection;
    if (state === "open" || connection === undefined) return;
    this.#connection = undefined;
    connection.close();
    this.#subscriptions.clear();
    this.#present.clear();
    const isFinal = state === "closed" && error !== undefined;
    const closing: Closing = isFinal ? finalClosing(error) : { code: 1006, reason: error?.message ?? "" };
    for (const tab of this.#tabs) tab.end(closing);
    this.#tabs.clear();
  }

  #greet(tab: TabLink): void {
    const welcome = this.#connection?.welcome;
    tab.isWaiting = welcome === undefined;
    if (welcome !== undefined) tab.say(welcome);
  }

  #take(tab: TabLink, command: Command): void {
    if (!this.#tabs.has(tab)) return;
    switch (command.type) {
      case "hello":
        this.#greet(tab);
        return;
      case "credit":
      case "rebalanced": {
        const subscription = tab.subscriptions.get(command.subscription);
        if (subscription !== undefined) this.#connection?.post({ ...command, subscription });
        return;
      }
      case "subscribe":
      case "join":
      case "watch_presence": {
        const subscription = ++this.#numbers;
        tab.subscriptions.set(command.subscription, subscription);
        this.#subscriptions.set(subscription, { tab, asked: command });
        this.#ask(tab, command, { ...command, subscription });
        return;
      }
      case "unsubscribe": {
        const subscription = tab.subscriptions.get(command.subscription) ?? 0;
        this.#drop(subscription);
        this.#ask(tab, command, { ...command, subscription });
        return;
      }
      case "enter":
        this.#enter(tab, command.topic);
        this.#ask(tab, command, command);
        return;
      case "leave":
        // To the broker the tabs are one: it is gone with the last of them.
        if (this.#leave(tab, command.topic)) this.#ask(tab, command, command);
        else tab.say({ type: "ok", request: command.request });
        return;
      case "commit":
        this.#ask(tab, command, { ...command, subscription: tab.subscriptions.get(command.subscription) ?? 0 });
        return;
      case "transact": {
        const offsets = command.offsets?.map((offset) => ({ ...offset, subscription: tab.subscriptions.get(offset.subscription) ?? 0 }));
        this.#ask(tab, command, { ...command, offsets });
        return;
      }
      default:
        this.#ask(tab, command, command);
    }
  }

  #ask(tab: TabLink, { request }: { readonly request: number }, command: Unnumbered): void {
    // That a subscription was taken was told already, in front of its deliveries.
    const heard = (reply: Reply): unknown => reply.type !== "subscribed" && reply.type !== "joined" && tab.say({ ...reply, request } as Reply);
    this.#connection?.request(command, "reject", undefined, heard).catch((error: DunlinError) => {
      if (BEGINNINGS.includes(command.type) && "subscription" in command) this.#drop(command.subscription);
      // The tab's client knows itself what to do about the loss, of which it is told.
      if (error.code === "connection_lost" || error.code === "closed") return;
      const { code, message, retryAfterMs } = error;
      tab.say({ type: "error", request, code, message, ...(retryAfterMs !== undefined && { retryAfterMs }) });
    });
  }

  #event(reply: Reply): void {
    if (reply.type === "going_away") {
      for (const tab of this.#tabs) tab.say(reply);
      return;
    }
    if (!("subscription" in reply)) return;
    const known = this.#subscriptions.get(reply.subscription);
    if (known === undefined) return;
    const { tab, asked } = known;
    if (reply.type === "ended") this.#drop(reply.subscription);
    const { request, subscription } = asked;
    tab.say("request" in reply ? { ...reply, request, subscription } : { ...reply, subscription });
  }

  #enter(tab: TabLink, topic: string): void {
    const present = this.#present.get(topic) ?? new Set();
    this.#present.set(topic, present.add(tab));
  }

  /** Whether no other tab is present on the topic. */
  #leave(tab: TabLink, topic: string): boolean {
    const present = this.#present.get(topic);
    present?.delete(tab);
    if (present !== undefined && present.size > 0) return false;
    this.#present.delete(topic);
    return true;
  }

  #drop(subscription: number): void {
    const known = this.#subscriptions.get(subscription);
    this.#subscriptions.delete(subscription);
    if (known?.tab.subscriptions.get(known.asked.subscription) === subscription) {
      known.tab.subscriptions.delete(known.asked.subscription);
    }
  }

  /** The tab is gone: its subscriptions and its presence end, and the connection with the last tab. */
  #forget(tab: TabLink): void {
    if (!this.#tabs.delete(tab)) return;
    for (const subscription of tab.subscriptions.values()) {
      this.#subscriptions.delete(subscription);
      this.#connection?.request({ type: "unsubscribe", subscription }, "reject").catch(() => {});
    }
    for (const [topic, present] of this.#present) {
      if (!present.has(tab) || !this.#leave(tab, topic)) continue;
      this.#connection?.request({ type: "leave", topic }, "reject").catch(() => {});
    }
    tab.end();
    if (this.#tabs.size === 0) this.stop();
  }
}

/** One tab's client, as the connection sees it. */
class TabLink {
  /** The numbers on the one connection, by the tab's own. */
  readonly subscriptions = new Map<number, number>();
  /** It said hello before there was somebody to greet it. */
  isWaiting = false;
  readonly #events: LinkEvents;
  #replies: Uint8Array[] = [];
  #bytes = 0;
  #isOver = false;

  constructor(events: LinkEvents) {
    this.#events = events;
  }

  /** What is said in one turn leaves together. */
  say(reply: Reply): void {
    const bytes = encodeReply(reply);
    if (this.#bytes + bytes.length > MESSAGE_BYTES_MAX) this.#flush();
    if (this.#replies.length === 0) queueMicrotask(() => this.#flush());
    this.#replies.push(bytes);
    this.#bytes += bytes.length;
  }

  end(closing?: Closing): void {
    this.#flush();
    this.#isOver = true;
    if (closing !== undefined) this.#events.closed(closing);
  }

  #flush(): void {
    const replies = this.#replies;
    this.#replies = [];
    this.#bytes = 0;
    if (replies.length > 0 && !this.#isOver) this.#events.message(concat(replies));
  }
}
