// A broker that the test plays itself, at the other end of links that it opens and cuts, on a clock that it moves.
import assert from "node:assert/strict";

import { TransportClient } from "../ts/client.ts";
import type { DunlinError } from "../ts/errors.ts";
import { decodeCommands, encodeReply } from "../ts/frames.ts";
import type { Command, Reply } from "../ts/frames.ts";
import type { Link, LinkEvents, Surroundings, Transport } from "../ts/link.ts";
import type { Client } from "../ts/types.ts";
import { concat } from "../ts/wire.ts";
import { settled } from "./fakes.ts";

export class Clock implements Surroundings {
  time = 0;
  dice = 0.5;
  readonly #timers = new Set<{ at: number; callback: () => void }>();

  now(): number {
    return this.time;
  }

  random(): number {
    return this.dice;
  }

  after(ms: number, callback: () => void): () => void {
    const timer = { at: this.time + ms, callback };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  /** How long until each timer. */
  get pending(): number[] {
    return [...this.#timers].map((timer) => timer.at - this.time).sort((a, b) => a - b);
  }

  async advance(ms: number): Promise<void> {
    const end = this.time + ms;
    for (;;) {
      const next = [...this.#timers].sort((a, b) => a.at - b.at)[0];
      if (next === undefined || next.at > end) break;
      this.time = next.at;
      this.#timers.delete(next);
      next.callback();
      await settled();
    }
    this.time = end;
    await settled();
  }
}

/** The broker's end of one link. */
export class Peer {
  readonly events: LinkEvents;
  readonly said: (Command | string)[] = [];
  /** How many messages carried what was said. */
  messages = 0;
  closedWith: number | undefined;

  constructor(events: LinkEvents) {
    this.events = events;
  }

  /** What the client said since the last time. */
  heard(): (Command | string)[] {
    return this.said.splice(0);
  }

  reply(...replies: Reply[]): void {
    this.events.message(concat(replies.map(encodeReply)));
  }

  /** Answers hello, and forgets that it was said. */
  async greet(limits: Partial<Extract<Reply, { type: "hello" }>> = {}): Promise<void> {
    this.events.opened();
    this.heard();
    this.reply({ type: "hello", version: 1, incarnation: 1, connection: 1, now: 0, features: [], ...limits });
    await settled();
  }

  async cut(code = 1006, reason = ""): Promise<void> {
    this.events.closed({ code, reason });
    await settled();
  }
}

export class FakeTransport implements Transport {
  readonly address = "ws://broker";
  readonly canDie = true;
  readonly peers: Peer[] = [];

  open(events: LinkEvents): Link {
    const peer = new Peer(events);
    this.peers.push(peer);
    return {
      send(message) {
        peer.messages += 1;
        peer.said.push(...(typeof message === "string" ? [message] : decodeCommands(message)));
      },
      close(code) {
        peer.closedWith = code;
      },
    };
  }

  get peer(): Peer {
    const peer = this.peers.at(-1);
    if (peer === undefined) throw new Error("nobody has connected");
    return peer;
  }
}

/** A client that is connected to the test. */
export async function connected(
  limits: Partial<Extract<Reply, { type: "hello" }>> = {},
): Promise<{ client: Client; transport: FakeTransport; clock: Clock }> {
  const clock = new Clock();
  const transport = new FakeTransport();
  const opening = TransportClient.open(transport, clock, {});
  await transport.peer.greet(limits);
  return { client: await opening, transport, clock };
}

/** A delivery of `text` at `sequence`. */
export function delivery(subscription: number, sequence: number, text = `m${sequence}`): Reply {
  return {
    type: "delivery",
    subscription,
    topic: "t",
    partition: 0,
    offset: BigInt(sequence - 1),
    sequence: BigInt(sequence),
    timestamp: 5,
    payload: new TextEncoder().encode(text),
  };
}

/** Whether an error has that code, and a message like that. */
export function code(expected: string, message?: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.equal((error as DunlinError).name, "DunlinError", String(error));
    assert.equal((error as DunlinError).code, expected);
    if (message !== undefined) assert.match((error as DunlinError).message, message);
    return true;
  };
}
