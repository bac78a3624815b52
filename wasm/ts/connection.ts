/**
 * The conversation with a broker over links that come and go: says hello, matches replies to commands, notices
 * silence, and connects again. What belongs to a subscription it hands on.
 *
 * Invariant: a command is in `#pending` until it is answered, rejected, or given up; it is in `#queue` while it has not
 * been sent on the present link.
 */

import { PROTOCOL_VERSION, basic } from "./codec.ts";
import { DunlinError } from "./errors.ts";
import type { Command, Reply, Welcome } from "./frames.ts";
import type { Closing, Link, Surroundings, Transport } from "./link.ts";
import type { Told } from "./inbox.ts";
import type { ClientState, Echo, StateChange } from "./types.ts";
import { concat } from "./wire.ts";

const PING_EVERY_MS = 25_000;
/** Who is a member of a group says so as often as the broker asks, but not without end. */
const PING_EVERY_MS_MIN = 10;
const SILENCE_MAX_MS = 60_000;
const CONNECT_TIMEOUT_MS = 20_000;
const RETRY_MIN_MS = 1_000;
const RETRY_MAX_MS = 30_000;
const RETRY_FACTOR = 2;
/** A delay is multiplied by something between 1 - this and 1 + this. */
const RETRY_JITTER = 0.2;
/** How often in a row the other end is believed when to come back: whoever fails each time must not be asked without end. */
const HINTS_MAX = 5;
/** A connection that held so long was a good one: the next delay is the shortest again. */
const GOOD_AFTER_MS = 5_000;
/** What waits for an answer. */
const PENDING_COMMANDS_MAX = 65_536;
const PENDING_BYTES_MAX = 16 * 1024 * 1024;
/** Commands are gathered into messages of about this size. */
const MESSAGE_BYTES_MAX = 256 * 1024;
const PAYLOAD_BYTES_MAX = 1024 * 1024;
const INBOUND_BYTES_MAX = PAYLOAD_BYTES_MAX + 128 * 1024;

/** After these, connecting again would end the same way. */
const FINAL_CODES: Readonly<Record<number, string>> = { 1002: "malformed_frame", 4001: "unauthorised", 4003: "kicked" };
/** A rule was broken: with these reasons it would be again, while room and tokens for the others come with time. */
const BROKEN_RULE = 4008;
const FINAL_REASONS: readonly unknown[] = ["invalid_argument", "unknown_namespace", "unsupported_version", "out_of_state", "session_replaced"];

/** What happens to a command that was sent, but not answered, when the link ends. */
export type OnLoss = "reject" | "resend";

/** A command, before it has its number. */
export type Numbered = Extract<Command, { request: number }>;
export type Unnumbered = Numbered extends infer Each ? (Each extends Numbered ? Omit<Each, "request"> : never) : never;

interface Pending {
  readonly bytes: Uint8Array;
  readonly onLoss: OnLoss;
  sent: boolean;
  resolve(reply: Reply): void;
  reject(error: unknown): void;
}

/** What is said of the client when it greets. */
export interface Greeting {
  readonly clientName?: string | undefined;
  readonly echo?: Echo | undefined;
}

/** What the connection hands on. */
export interface ConnectionEvents {
  /** The broker greets, or has lost what it knew of this link (`again`): subscriptions are to be asked for. */
  ready(again: boolean): void;
  /** A reply that is about a subscription, or about no command at all. */
  event(reply: Told | Extract<Reply, { type: "going_away" }>): void;
  /** It is over; without an error it was closed by its owner. */
  over(error: DunlinError | undefined): void;
}

export class Connection {
  /** What it can say: the whole vocabulary once its owner has loaded that. */
  codec = basic;
  readonly #transport: Transport;
  readonly #surroundings: Surroundings;
  readonly #events: ConnectionEvents;
  readonly #greeting: Greeting;
  readonly #listeners = new Set<(change: StateChange) => void>();
  #state: ClientState = "connecting";
  #welcome: Welcome | undefined;

  #link: Link | undefined;
  /** Counts links, so that what an earlier one tells is recognised. */
  #attempt = 0;
  #failures = 0;
  #openedAt = 0;
  #heardAt = 0;
  #pingEveryMs = PING_EVERY_MS;
  #reconnectAfterMs: number | undefined;
  #lastError: DunlinError | undefined;
  #cancelTimer: () => void = () => {};

  #requests = 0;
  readonly #pending = new Map<number, Pending>();
  #pendingBytes = 0;
  /** What leaves next, in order. Without a pending command behind it, it is meant for the present link only. */
  #queue: { readonly bytes: Uint8Array; readonly pending?: Pending }[] = [];
  #flushAsked = false;

  constructor(transport: Transport, surroundings: Surroundings, events: ConnectionEvents, greeting: Greeting = {}) {
    this.#transport = transport;
    this.#surroundings = surroundings;
    this.#events = events;
    this.#greeting = greeting;
  }

  get state(): ClientState {
    return this.#state;
  }

  get isOpen(): boolean {
    return this.#state === "open";
  }

  /** What the broker said when it greeted. */
  get welcome(): Welcome | undefined {
    return this.isOpen ? this.#welcome : undefined;
  }

  get payloadBytesMax(): number {
    return this.#welcome?.payloadBytesMax ?? PAYLOAD_BYTES_MAX;
  }

  get #inboundBytesMax(): number {
    return this.#welcome?.inboundBytesMax ?? INBOUND_BYTES_MAX;
  }

  get creditMax(): number {
    return this.#welcome?.creditMax ?? Number.MAX_SAFE_INTEGER;
  }

  listen(listener: (change: StateChange) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Makes the first attempt. */
  start(): void {
    this.#connect();
  }

  /**
   * Sends a command and waits for its reply; a refusal rejects. `heard` is called with the reply at once, where it matters
   * what comes next.
   */
  request(command: Unnumbered, onLoss: OnLoss, signal?: AbortSignal, heard?: (reply: Reply) => void): Promise<Reply> {
    return new Promise((resolve, reject) => {
      if (this.#state === "closed") throw this.#closedError();
      signal?.throwIfAborted();
      const request = ++this.#requests;
      const bytes = this.#encode({ ...command, request } as Command);
      this.#checkSize(bytes);
      this.#checkRoom(bytes);
      const forget = (): void => {
        signal?.removeEventListener("abort", abort);
        if (this.#pending.delete(request)) this.#pendingBytes -= bytes.length;
      };
      const pending: Pending = {
        bytes,
        onLoss,
        sent: false,
        resolve(reply) {
          forget();
          heard?.(reply);
          resolve(reply);
        },
        reject(error) {
          forget();
          reject(error);
        },
      };
      const abort = (): void => {
        this.#queue = this.#queue.filter((entry) => entry.pending !== pending);
        pending.reject(signal?.reason);
      };
      signal?.addEventListener("abort", abort);
      this.#pending.set(request, pending);
      this.#pendingBytes += bytes.length;
      this.#enqueue({ bytes, pending });
    });
  }

  /** The same, for who knows what the reply is to be. */
  async ask<T extends Reply["type"]>(type: T, command: Unnumbered, onLoss: OnLoss, signal?: AbortSignal): Promise<Extract<Reply, { type: T }>> {
    const reply = await this.request(command, onLoss, signal);
    if (reply.type !== type) throw new DunlinError("malformed_frame", `the broker answered with ${reply.type} where ${type} belongs`);
    return reply as Extract<Reply, { type: T }>;
  }

  /** Sends what has no reply, on the present link or not at all. */
  post(command: Command): void {
    if (this.isOpen) this.#enqueue({ bytes: this.#encode(command) });
  }

  /** The link is of no use: another is tried later. */
  giveUp(error: DunlinError): void {
    if (this.isOpen) this.#lost(error);
  }

  /** Ends the conversation for good. */
  close(error?: DunlinError): void {
    if (this.#state === "closed") return;
    const link = this.#link;
    this.#dropLink();
    this.#queue = [];
    this.#changeState({ state: "closed", ...(error && { error }) });
    for (const pending of [...this.#pending.values()]) pending.reject(error ?? this.#closedError());
    link?.close(1000, "");
    this.#events.over(error);
    this.#listeners.clear();
  }

  #closedError(): DunlinError {
    return new DunlinError("closed", `the client of ${this.#transport.address} is closed: open another`);
  }

  #checkSize(bytes: Uint8Array): void {
    const refusal = this.#oversize(bytes);
    if (refusal !== undefined) throw refusal;
  }

  #oversize({ length }: Uint8Array): DunlinError | undefined {
    const max = this.#inboundBytesMax;
    if (length <= max) return undefined;
    return new DunlinError("too_large", `the command has ${length} bytes, the broker takes at most ${max}: send less at once`);
  }

  #checkRoom(bytes: Uint8Array): void {
    const fits = this.#pending.size < PENDING_COMMANDS_MAX && this.#pendingBytes + bytes.length <= PENDING_BYTES_MAX;
    if (fits) return;
    throw new DunlinError(
      "queue_full",
      `${this.#pending.size} commands of ${this.#pendingBytes} bytes wait for an answer, at most ${PENDING_COMMANDS_MAX} of ${PENDING_BYTES_MAX} may: wait for receipts before publishing more`,
    );
  }

  #enqueue(entry: { readonly bytes: Uint8Array; readonly pending?: Pending }): void {
    this.#queue.push(entry);
    if (this.isOpen) this.#askFlush();
  }

  /** What is said in one turn of the program leaves together. */
  #askFlush(): void {
    if (this.#flushAsked) return;
    this.#flushAsked = true;
    queueMicrotask(() => {
      this.#flushAsked = false;
      this.#flush();
    });
  }

  #flush(): void {
    const attempt = this.#attempt;
    // What waited for the connection may be too large for the bounds that the broker then named.
    for (const { bytes, pending } of this.#queue) {
      const refusal = this.#oversize(bytes);
      if (refusal !== undefined) pending?.reject(refusal);
    }
    this.#queue = this.#queue.filter(({ bytes }) => this.#oversize(bytes) === undefined);
    const messageBytesMax = Math.min(MESSAGE_BYTES_MAX, this.#inboundBytesMax);
    while (this.isOpen && attempt === this.#attempt && this.#queue.length > 0) {
      let count = 0;
      let bytes = 0;
      for (const entry of this.#queue) {
        if (count > 0 && bytes + entry.bytes.length > messageBytesMax) break;
        count += 1;
        bytes += entry.bytes.length;
        if (entry.pending !== undefined) entry.pending.sent = true;
      }
      this.#send(concat(this.#queue.splice(0, count).map((entry) => entry.bytes)));
    }
  }

  #send(message: Uint8Array | string): void {
    try {
      this.#link?.send(message);
    } catch (cause) {
      this.#lost(new DunlinError("connection_lost", `sending to ${this.#transport.address} failed`, { cause }));
    }
  }

  #connect(): void {
    const attempt = ++this.#attempt;
    const ours = (): boolean => attempt === this.#attempt;
    this.#lastError = undefined;
    try {
      const link = this.#transport.open({
        opened: () => {
          if (!ours()) return;
          this.#send(this.#encode({ type: "hello", version: PROTOCOL_VERSION, client: this.#greeting.clientName, echo: this.#greeting.echo }));
        },
        message: (message) => {
          if (ours()) this.#hear(message);
        },
        closed: (closing) => {
          if (ours()) this.#linkClosed(closing);
        },
      });
      if (ours()) this.#link = link;
      else link.close(1000, "");
    } catch (cause) {
      // A link that cannot even be tried: the address is wrong, and stays wrong.
      this.close(new DunlinError("connection_failed", `cannot connect to ${this.#transport.address}: ${String(cause)}`, { cause }));
      return;
    }
    if (!ours()) return;
    this.#cancelTimer = this.#surroundings.after(CONNECT_TIMEOUT_MS, () => {
      this.#lost(this.#failure(`no answer within ${CONNECT_TIMEOUT_MS / 1000} s`));
    });
  }

  #failure(what: string, cause?: unknown): DunlinError {
    const [code, verb] = this.isOpen ? ["connection_lost", "lost the connection to"] : ["connection_failed", "cannot connect to"];
    return new DunlinError(code as string, `${verb} ${this.#transport.address}: ${what}`, { cause });
  }

  #hear(message: Uint8Array | string): void {
    this.#heardAt = this.#surroundings.now();
    if (message === "pong") return;
    const attempt = this.#attempt;
    try {
      if (typeof message === "string") throw new Error("a text message on a binary connection");
      for (const reply of this.codec.decodeReplies(message)) {
        this.#take(reply);
        if (attempt !== this.#attempt) return;
      }
    } catch (cause) {
      const what = cause instanceof Error ? cause.message : String(cause);
      this.#lost(new DunlinError("malformed_frame", `${this.#transport.address} sent what is not dunlin's protocol: ${what}`, { cause }));
    }
  }

  #take(reply: Reply): void {
    switch (reply.type) {
      case "hello":
        this.#greeted(reply);
        return;
      case "error":
        this.#refused(reply);
        return;
      case "resync":
        this.#settleLost(this.#restored());
        this.#resubscribe(true);
        return;
      case "going_away":
        this.#reconnectAfterMs = reply.reconnectAfterMs;
        this.#events.event(reply);
        return;
      case "delivery":
      case "gap":
      case "ended":
      case "assignment":
      case "presence_event":
        this.#events.event(reply);
        return;
      default: {
        const pending = this.#pending.get(reply.request);
        // At once: deliveries may follow in the same message.
        if (pending !== undefined && (reply.type === "subscribed" || reply.type === "joined")) this.#events.event(reply);
        if (reply.type === "joined") this.#pingEvery(reply.heartbeatMs);
        pending?.resolve(reply);
      }
    }
  }

  #greeted(welcome: Welcome): void {
    if (this.isOpen) return;
    this.#welcome = welcome;
    this.#openedAt = this.#surroundings.now();
    this.#reconnectAfterMs = undefined;
    this.#cancelTimer();
    this.#pingEveryMs = PING_EVERY_MS;
    if (this.#transport.canDie) this.#watch();
    this.#changeState({ state: "open" });
    this.#resubscribe(false);
  }

  /** Subscriptions go before the commands that wait: a message published after a subscribe must reach it. */
  #resubscribe(again: boolean): void {
    if (!this.isOpen) return;
    const waiting = this.#queue.splice(0);
    this.#events.ready(again);
    this.#queue.push(...waiting);
    this.#askFlush();
  }

  #refused(reply: Extract<Reply, { type: "error" }>): void {
    const trouble = reply.code === "storage_unavailable" ? this.#transport.trouble : undefined;
    const { code, message } = trouble ?? reply;
    const error = new DunlinError(code, message, { retryAfterMs: reply.retryAfterMs });
    this.#lastError = error;
    if (reply.request !== 0) {
      this.#pending.get(reply.request)?.reject(error);
    } else if (!this.isOpen && reply.code === "unsupported_version") {
      this.close(error);
    } else if (!this.isOpen) {
      this.#reconnectAfterMs = reply.retryAfterMs;
    }
  }

  /** Why it was restored while commands waited. */
  #restored(): DunlinError {
    const { address, trouble } = this.#transport;
    if (trouble !== undefined) return new DunlinError(trouble.code, trouble.message);
    return new DunlinError("connection_lost", `the broker at ${address} was restored before it answered`);
  }

  /** Who is silent for longer on this link is no member any more. */
  #pingEvery(ms: number): void {
    if (!this.#transport.canDie || ms >= this.#pingEveryMs) return;
    this.#pingEveryMs = Math.max(ms, PING_EVERY_MS_MIN);
    this.#cancelTimer();
    this.#watch();
  }

  /** Says `ping` from time to time, and gives up a link that was silent for too long. */
  #watch(): void {
    const silence = this.#surroundings.now() - this.#heardAt;
    if (silence >= SILENCE_MAX_MS) {
      this.#lost(this.#failure(`it was silent for ${SILENCE_MAX_MS / 1000} s`));
      return;
    }
    this.#cancelTimer = this.#surroundings.after(Math.min(this.#pingEveryMs, SILENCE_MAX_MS - silence), () => {
      this.#send("ping");
      if (this.isOpen) this.#watch();
    });
  }

  #linkClosed({ code, reason, cause, retryInMs }: Closing): void {
    if (retryInMs !== undefined && this.#failures < HINTS_MAX) this.#reconnectAfterMs = retryInMs;
    const said = /^([a-z_]+): (.*)$/s.exec(reason);
    const final = FINAL_CODES[code] ?? (code === BROKEN_RULE && FINAL_REASONS.includes(said?.[1]) ? said?.[1] : undefined);
    if (final !== undefined) {
      this.close(new DunlinError(said?.[1] ?? final, said?.[2] ?? `${this.#transport.address} closed the connection with ${code} ${reason}`));
      return;
    }
    const detail = cause instanceof Error ? cause.message : typeof cause === "string" ? cause : "";
    const what = [`it was closed with ${code}`, reason, detail, this.#lastError?.message ?? ""].filter((part) => part !== "");
    this.#lost(this.#failure(what.join(": "), cause ?? this.#lastError));
  }

  #lost(error: DunlinError): void {
    if (this.#state === "closed") return;
    const wasOpen = this.isOpen;
    const link = this.#link;
    this.#dropLink();
    link?.close(4000, "");
    if (wasOpen && this.#surroundings.now() - this.#openedAt >= GOOD_AFTER_MS) this.#failures = 0;
    const retryInMs = this.#nextDelay();
    this.#failures += 1;
    const state = this.#welcome === undefined ? "connecting" : "reconnecting";
    this.#changeState({ state, error, retryInMs });
    // A listener may have closed the client.
    if (this.state === "closed") return;
    this.#settleLost(error);
    this.#cancelTimer = this.#surroundings.after(retryInMs, () => this.#connect());
  }

  #nextDelay(): number {
    const told = this.#reconnectAfterMs;
    this.#reconnectAfterMs = undefined;
    const jitter = RETRY_JITTER * this.#surroundings.random();
    // Not before the time that was told, when it may be refused again.
    if (told !== undefined) return Math.round(told * (1 + jitter));
    const base = Math.min(RETRY_MIN_MS * RETRY_FACTOR ** this.#failures, RETRY_MAX_MS);
    return Math.round(base * (1 - RETRY_JITTER + 2 * jitter));
  }

  /** Decides about the commands whose answers can no longer come. */
  #settleLost(error: DunlinError): void {
    const lost = new DunlinError(
      "connection_lost",
      `the connection ended before the answer came, so whether the command took effect is not known: ${error.message}`,
      { cause: error },
    );
    const again: { bytes: Uint8Array; pending: Pending }[] = [];
    for (const pending of [...this.#pending.values()]) {
      if (!pending.sent) continue;
      if (pending.onLoss === "resend") {
        pending.sent = false;
        again.push({ bytes: pending.bytes, pending });
      } else {
        pending.reject(lost);
      }
    }
    this.#queue = [...again, ...this.#queue.filter((entry) => entry.pending !== undefined)];
    if (this.isOpen) this.#askFlush();
  }

  #dropLink(): void {
    this.#attempt += 1;
    this.#link = undefined;
    this.#cancelTimer();
  }

  #changeState(change: Omit<StateChange, "previous">): void {
    const previous = this.#state;
    this.#state = change.state;
    for (const listener of [...this.#listeners]) {
      try {
        listener({ previous, ...change });
      } catch (error) {
        // A listener's mistake must not stop the connection; it is reported as the program's own.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
  /** What cannot be spelt is the caller's mistake. */
  #encode(command: Command): Uint8Array {
    try {
      return this.codec.encodeCommand(command);
    } catch (cause) {
      throw new DunlinError("invalid_argument", `cannot encode ${command.type}: ${(cause as Error).message}`, { cause });
    }
  }
}
