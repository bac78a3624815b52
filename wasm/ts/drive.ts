/**
 * The host step, the same in a Durable Object and in the browser: take inputs, let the broker handle them, then apply
 * its writes, start its loads, and release sends when what they wait for holds.
 *
 * Broker rules live in the core; this file only obeys. Between handing inputs to the engine and the end of the drain
 * there is no `await`, so no other event sees a half-done step. Everything that ends later (a commit, a load) belongs
 * to one life of the broker and is ignored once that life is over.
 */

import { decodeOutput, encodeInput, encodeRows } from "./abi.ts";
import type { Claims, Close, Effect, Encoding, Input, Load, Notify, Range, Row, Send, Write } from "./abi.ts";
import { restoreWalk } from "./restore.ts";
import { concat, utf8 } from "./wire.ts";

/** One broker. Whatever throws except `start` and `restore` counts as a crash, after which only `start` is called. */
export interface Engine {
  /** Drops the broker, if there is one, and begins an empty one. Throws what is wrong with the configuration. */
  start(config: string, seed: bigint): void;
  /** Feeds rows of the state, in key order. Throws what is wrong with them. */
  restore(rows: Uint8Array): void;
  /** Handles a batch of inputs and returns its output. */
  step(now: number, inputs: Uint8Array): Uint8Array;
  /** Counters and gauges as JSON. */
  stats(): string;
  /** Gives back the memory. */
  stop(): void;
}

/**
 * An ordered key-value map. What returns no promise holds at once, which is how a store says that the platform itself
 * holds back everything that leaves until it is durable.
 */
export interface Store {
  /** Applies a batch atomically. Later loads see it as soon as this returns; it settles when it is committed. */
  apply(write: Write): void | Promise<void>;
  /** Settles when everything applied so far is as durable as its writes ask. */
  sync(): void | Promise<void>;
  /** Where `sync` returns no promise: settles when what was applied so far is durable, for who wants to know how long it takes. */
  durable?(): Promise<void>;
  load(range: Range): readonly Row[] | Promise<readonly Row[]>;
  /** Writes something of no meaning, to learn whether the store can write again. */
  probe(): void | Promise<void>;
  /** Gives back what it holds of the platform; nothing is asked of it any more. */
  close?(): void;
}

/** The sockets, by the numbers that their connections were given. Both calls ignore sockets that are gone. */
export interface Sockets {
  /** A binary or a text message, as the connection's encoding is. */
  send(connection: number, message: Uint8Array | string): void;
  close(connection: number, code: number, reason: string): void;
}

/** What the platform lends. */
export interface Platform {
  readonly engine: Engine;
  readonly store: Store;
  readonly sockets: Sockets;
  /** Milliseconds since the Unix epoch; if it goes back, the broker does not see it. */
  now(): number;
  /** Fresh entropy, 64 bits. */
  seed(): bigint;
  /** Calls back when the events at hand have been gathered. */
  later(turn: () => void): void;
  /**
   * Moves the one timer, at whose time {@link Drive.timeout} is to be called; undefined stops it. Where it can sleep, a
   * broker that is restored by then, or earlier, misses nothing.
   */
  arm(at: number | undefined, canSleep: boolean): void;
  /** Observes. */
  note?(note: Note): void;
}

/** Something that operators may want to know. */
export type Note =
  | Notify
  /** The broker crashed or a commit failed; it was dropped and is being restored. */
  | { readonly kind: "lost"; readonly reason: "crash" | "storage"; readonly error: unknown }
  /** The first commit since one failed. */
  | { readonly kind: "recovered" }
  /** It cannot be restored; every socket was closed, and a later connection tries again. */
  | { readonly kind: "failed"; readonly error: unknown };

/** A socket that outlived the previous life of the broker. */
export interface Survivor {
  readonly connection: number;
  readonly encoding: Encoding;
  /** Whether everything sent before is known to have left. */
  readonly clean: boolean;
}

/** The most bytes of inputs in one step: linear memory never shrinks. */
const BATCH_BYTES_MAX = 4 * 1024 * 1024;
/** The most bytes of inputs that wait while the broker is being restored. */
const WAITING_BYTES_MAX = 4 * 1024 * 1024;
/** Gathered sends are cut into messages of about this size. */
const MESSAGE_BYTES_MAX = 1024 * 1024;
/** So many losses within the window, and the sockets are closed instead of trying at once again. */
const LOSSES_MAX = 3;
const LOSSES_WINDOW_MS = 10_000;
/** How long a commit takes is measured at most so often; limits that adapt look at it every 10 s. */
const LATENCY_EVERY_MS = 5_000;
const RETRY_MIN_MS = 1_000;
const RETRY_MAX_MS = 30_000;

const GOING_AWAY = 4002;
const UNAVAILABLE = "storage_unavailable: the broker cannot be restored now; connect again later";

const UNARMED = { at: undefined, canSleep: true };

const decoder = new TextDecoder();

interface WriteInFlight {
  readonly sequence: number;
  committed: boolean;
}

export class Drive {
  readonly #platform: Platform;
  readonly #config: string;
  readonly #encodings = new Map<number, Encoding>();
  #state: "new" | "restoring" | "running" | "failed" | "closed" = "new";
  /** Counts the lives of the broker, so that what belongs to an earlier one is recognised. */
  #life = 0;
  #now = 0;
  #turnAsked = false;

  #inputs: Uint8Array[] = [];
  #inputBytes = 0;

  #writes: WriteInFlight[] = [];
  #written = 0;
  #syncAsked = 0;
  #applied = 0;
  #synced = 0;
  #syncing: Promise<void> | undefined;
  /** Sends that wait for the store, and closes that wait for such sends, in order. */
  #held: (Send | Close)[] = [];

  #timeout: number | undefined;
  #canSleep = true;
  #armed: { readonly at: number | undefined; readonly canSleep: boolean } = UNARMED;
  #measuredAt = 0;
  #latencyMs = 0;
  #losses: number[] = [];
  #probeAt: number | undefined;
  /** Nothing was committed since a commit failed. */
  #hasFailed = false;
  #retryAt = 0;
  #retryMs = RETRY_MIN_MS;

  constructor(platform: Platform, config: string) {
    this.#platform = platform;
    this.#config = config;
  }

  /**
   * Begins the first life from what is stored; without a promise if the store answers without one. Throws or rejects
   * with what is wrong with the configuration or the rows, or why they cannot be read.
   */
  open(survivors: readonly Survivor[] = []): void | Promise<void> {
    for (const { connection, encoding } of survivors) this.#encodings.set(connection, encoding);
    const failed = (error: unknown): never => {
      this.#giveUp();
      throw error;
    };
    try {
      return this.#begin(survivors.map(({ connection, clean }) => ({ kind: "restored", connection, clean })))?.catch(failed);
    } catch (error) {
      failed(error);
    }
  }

  /** Whether inputs are being handled; otherwise they wait or are refused. */
  get isRunning(): boolean {
    return this.#state === "running";
  }

  connect(connection: number, encoding: Encoding, claims: Claims, ip: Uint8Array = new Uint8Array()): void {
    if (this.#state === "failed" && this.#time() >= this.#retryAt) this.#beginOrFail([]);
    if (this.#state === "failed" || this.#state === "closed") {
      this.#platform.sockets.close(connection, GOING_AWAY, UNAVAILABLE);
      return;
    }
    this.#encodings.set(connection, encoding);
    this.#take({ kind: "connect", connection, encoding, claims, ip });
  }

  /** A message from a socket, as it came. */
  frame(connection: number, message: Uint8Array | ArrayBuffer | string): void {
    if (!this.#encodings.has(connection)) return;
    const bytes =
      typeof message === "string" ? utf8(message) : message instanceof ArrayBuffer ? new Uint8Array(message) : message;
    if (this.#state !== "running" && this.#inputBytes + bytes.length > WAITING_BYTES_MAX) {
      this.#platform.sockets.close(connection, GOING_AWAY, UNAVAILABLE);
      this.disconnect(connection);
      return;
    }
    this.#take({ kind: "frame", connection, bytes });
  }

  /** The socket is gone. */
  disconnect(connection: number): void {
    if (this.#encodings.delete(connection)) this.#take({ kind: "disconnect", connection });
  }

  /** A sign of life that the platform answered by itself. */
  seen(connection: number, at: number): void {
    if (this.#encodings.has(connection)) this.#take({ kind: "seen", connection, at: Math.floor(at) });
  }

  /** The armed time has come. Early, late and repeated calls are harmless. */
  timeout(): void {
    this.#armed = UNARMED;
    if (this.#probeAt !== undefined && this.#time() >= this.#probeAt) this.#probe();
    this.#take({ kind: "timeout" });
  }

  /** Take nothing new, tell every client, and close. */
  drain(): void {
    this.#take({ kind: "drain" });
  }

  /** Counters and gauges as JSON; undefined while there is no broker. */
  stats(): string | undefined {
    if (this.#state !== "running") return undefined;
    try {
      return this.#platform.engine.stats();
    } catch (error) {
      this.#lose("crash", error);
      return undefined;
    }
  }

  /** Handles what is at hand, waits until it is stored, and stops. Sockets are left as they are. */
  async close(): Promise<void> {
    if (this.#state === "closed") return;
    this.turn();
    const running = this.#state === "running";
    try {
      if (running) await this.#syncing;
    } finally {
      this.stop();
    }
  }

  /** Stops where it stands: what is at hand is dropped, and nothing is written any more. */
  stop(): void {
    if (this.#state === "closed") return;
    this.#life += 1;
    this.#state = "closed";
    this.#encodings.clear();
    this.#forgetWork();
    this.#probeAt = undefined;
    this.#arm();
    this.#platform.engine.stop();
  }

  /** One turn: all inputs at hand, in batches, and everything that follows from them. */
  turn(): void {
    this.#turnAsked = false;
    if (this.#state !== "running") return;
    const life = this.#life;
    try {
      while (this.#inputs.length > 0 && life === this.#life) this.#step();
    } catch (error) {
      this.#lose("crash", error);
    }
    if (life !== this.#life) return;
    this.#sync();
    this.#release();
    this.#arm();
  }

  #take(input: Input): void {
    if (this.#state === "failed" || this.#state === "closed") return;
    const bytes = encodeInput(input);
    this.#inputs.push(bytes);
    this.#inputBytes += bytes.length;
    this.#askTurn();
  }

  #askTurn(): void {
    if (this.#turnAsked) return;
    this.#turnAsked = true;
    this.#platform.later(() => this.turn());
  }

  #step(): void {
    const { effects, timeout, canSleep } = decodeOutput(this.#platform.engine.step(this.#time(), this.#nextBatch()));
    this.#timeout = timeout;
    this.#canSleep = canSleep;
    const life = this.#life;
    for (const effect of effects) {
      this.#obey(effect);
      if (life !== this.#life) return;
    }
  }

  #nextBatch(): Uint8Array {
    let count = 0;
    let bytes = 0;
    for (const input of this.#inputs) {
      if (count > 0 && bytes + input.length > BATCH_BYTES_MAX) break;
      count += 1;
      bytes += input.length;
    }
    this.#inputBytes -= bytes;
    return concat(this.#inputs.splice(0, count));
  }

  #obey(effect: Effect): void {
    switch (effect.kind) {
      case "write":
        this.#apply(effect);
        return;
      case "load":
        this.#load(effect);
        return;
      case "send":
      case "close":
        this.#held.push(effect);
        return;
      case "notify":
        this.#platform.note?.(effect);
        return;
    }
  }

  #apply(write: Write): void {
    const life = this.#life;
    const entry: WriteInFlight = { sequence: write.sequence, committed: false };
    this.#writes.push(entry);
    this.#written = write.sequence;
    let committed: void | Promise<void>;
    try {
      committed = this.#platform.store.apply(write);
    } catch (error) {
      this.#lose("storage", error);
      return;
    }
    if (committed === undefined) {
      this.#committed(entry);
      return;
    }
    committed.then(
      () => {
        if (life !== this.#life) return;
        this.#committed(entry);
        this.#release();
      },
      (error: unknown) => {
        if (life === this.#life) this.#lose("storage", error);
      },
    );
  }

  #committed(entry: WriteInFlight): void {
    entry.committed = true;
    this.#retryMs = RETRY_MIN_MS;
    if (this.#hasFailed) this.#platform.note?.({ kind: "recovered" });
    this.#hasFailed = false;
    while (this.#writes[0]?.committed === true) {
      this.#applied = this.#writes[0].sequence;
      this.#writes.shift();
    }
  }

  #load(load: Load): void {
    const life = this.#life;
    const loaded = (rows: readonly Row[] | undefined): void => {
      if (life === this.#life) this.#take({ kind: "loaded", ticket: load.ticket, rows });
    };
    try {
      const rows = this.#platform.store.load(load);
      if (rows instanceof Promise) rows.then(loaded, () => loaded(undefined));
      else loaded(rows);
    } catch {
      loaded(undefined);
    }
  }

  /** All writes of a turn share one sync. */
  #sync(): void {
    const upTo = this.#written;
    if (upTo === this.#syncAsked) return;
    this.#syncAsked = upTo;
    const life = this.#life;
    let synced: void | Promise<void>;
    try {
      synced = this.#platform.store.sync();
    } catch (error) {
      this.#lose("storage", error);
      return;
    }
    const isDue = this.#time() - this.#measuredAt >= LATENCY_EVERY_MS;
    if (isDue) this.#measure(synced ?? this.#platform.store.durable?.());
    if (synced === undefined) {
      this.#synced = upTo;
      return;
    }
    this.#syncing = synced.then(
      () => {
        if (life !== this.#life) return;
        this.#synced = Math.max(this.#synced, upTo);
        this.#release();
      },
      (error: unknown) => {
        if (life === this.#life) this.#lose("storage", error);
      },
    );
  }

  /** Tells the broker how long the commit takes that settles then, unless that is what it knows. */
  #measure(durable: Promise<void> | undefined): void {
    if (durable === undefined) return;
    const life = this.#life;
    const begun = (this.#measuredAt = this.#time());
    const measured = (): void => {
      const latencyMs = this.#time() - begun;
      if (life !== this.#life || latencyMs === this.#latencyMs) return;
      this.#latencyMs = latencyMs;
      this.#take({ kind: "storage", available: true, commitLatencyMs: latencyMs });
    };
    // That it failed is told to whoever waits for it.
    durable.then(measured, () => {});
  }

  /** Lets go of everything whose condition holds. The sends of one connection leave together. */
  #release(): void {
    if (this.#held.length === 0) return;
    const outbox = new Outbox(this.#platform.sockets, this.#encodings);
    const stillHeld: (Send | Close)[] = [];
    const waiting = new Set<number>();
    for (const effect of this.#held) {
      if (effect.kind === "close") {
        if (waiting.has(effect.connection)) {
          stillHeld.push(effect);
        } else {
          outbox.flush(effect.connection);
          this.#closeSocket(effect);
        }
      } else if (effect.applied <= this.#applied && effect.synced <= this.#synced) {
        for (const { connection, prefix } of effect.to) outbox.add(connection, prefix, effect.body);
      } else {
        stillHeld.push(effect);
        for (const { connection } of effect.to) waiting.add(connection);
      }
    }
    this.#held = stillHeld;
    outbox.flushAll();
  }

  #closeSocket(close: Close): void {
    if (!this.#encodings.delete(close.connection)) return;
    this.#platform.sockets.close(close.connection, close.code, close.reason);
  }

  #arm(): void {
    let at = this.#state === "running" ? this.#timeout : undefined;
    if (this.#probeAt !== undefined) at = Math.min(at ?? this.#probeAt, this.#probeAt);
    const canSleep = this.#canSleep && this.#probeAt === undefined;
    if (at === this.#armed.at && canSleep === this.#armed.canSleep) return;
    this.#armed = { at, canSleep };
    this.#platform.arm(at, canSleep);
  }

  #time(): number {
    this.#now = Math.max(this.#now, Math.floor(this.#platform.now()));
    return this.#now;
  }

  /** Starts a life whose first batch begins with `first`. */
  #begin(first: readonly Input[]): void | Promise<void> {
    const life = ++this.#life;
    const { engine, store } = this.#platform;
    this.#state = "restoring";
    engine.start(this.#config, this.#platform.seed());
    const walk = restoreWalk((rows) => engine.restore(encodeRows(rows)));
    const finish = (): void => {
      const inputs = first.map(encodeInput);
      this.#inputs.unshift(...inputs);
      for (const input of inputs) this.#inputBytes += input.length;
      this.#state = "running";
      if (this.#inputs.length > 0) this.#askTurn();
    };
    const goOn = (given: readonly Row[]): void | Promise<void> => {
      let rows: readonly Row[] | Promise<readonly Row[]> = given;
      for (;;) {
        const { done, value: range } = walk.next(rows);
        if (done === true) return finish();
        rows = store.load(range);
        if (!Array.isArray(rows)) return (rows as Promise<readonly Row[]>).then((later) => (life === this.#life ? goOn(later) : undefined));
      }
    };
    return goOn([]);
  }

  #beginOrFail(first: readonly Input[]): void {
    try {
      const begun = this.#begin(first);
      const life = this.#life;
      begun?.catch((error: unknown) => {
        if (life === this.#life) this.#fail(error);
      });
    } catch (error) {
      this.#fail(error);
    }
  }

  /** Drops the broker, which can no longer be trusted, and begins another from what is stored. */
  #lose(reason: "crash" | "storage", error: unknown): void {
    this.#life += 1;
    // The broker has already forgotten these: they must not come back as survivors.
    for (const effect of this.#held) if (effect.kind === "close") this.#closeSocket(effect);
    this.#forgetWork();
    this.#platform.note?.({ kind: "lost", reason, error });
    const now = this.#time();
    this.#losses = this.#losses.filter((at) => now - at < LOSSES_WINDOW_MS);
    this.#losses.push(now);
    if (this.#losses.length > LOSSES_MAX) {
      this.#fail(error);
      return;
    }
    const first: Input[] = [...this.#encodings.keys()].map((connection) => ({ kind: "restored", connection, clean: false }));
    if (reason === "storage") {
      this.#hasFailed = true;
      // In front, so that it holds for this batch already: what the survivors cause is not written yet.
      first.unshift({ kind: "storage", available: false, commitLatencyMs: 0 });
      this.#probeLater(now);
    }
    this.#beginOrFail(first);
    this.#arm();
  }

  #fail(error: unknown): void {
    this.#giveUp();
    this.#platform.note?.({ kind: "failed", error });
  }

  /** Lets every client go; a later connection tries again. */
  #giveUp(): void {
    this.#life += 1;
    this.#state = "failed";
    this.#retryAt = this.#time() + this.#retryMs;
    this.#retryMs = Math.min(this.#retryMs * 2, RETRY_MAX_MS);
    this.#probeAt = undefined;
    this.#forgetWork();
    const connections = [...this.#encodings.keys()];
    this.#encodings.clear();
    for (const connection of connections) this.#platform.sockets.close(connection, GOING_AWAY, UNAVAILABLE);
    this.#arm();
  }

  #forgetWork(): void {
    this.#inputs = [];
    this.#inputBytes = 0;
    this.#writes = [];
    this.#written = this.#syncAsked = this.#applied = this.#synced = 0;
    this.#syncing = undefined;
    this.#held = [];
    this.#timeout = undefined;
    this.#canSleep = true;
    this.#latencyMs = 0;
  }

  #probeLater(now: number): void {
    this.#probeAt = now + this.#retryMs;
    this.#retryMs = Math.min(this.#retryMs * 2, RETRY_MAX_MS);
  }

  #probe(): void {
    const life = this.#life;
    this.#probeAt = undefined;
    const started = this.#time();
    const ended = (available: boolean): void => {
      if (life !== this.#life) return;
      const now = this.#time();
      if (available) {
        this.#retryMs = RETRY_MIN_MS;
        this.#latencyMs = now - started;
        this.#take({ kind: "storage", available, commitLatencyMs: this.#latencyMs });
      } else {
        this.#probeLater(now);
        this.#arm();
      }
    };
    try {
      const probed = this.#platform.store.probe();
      if (probed === undefined) ended(true);
      else probed.then(() => ended(true), () => ended(false));
    } catch {
      ended(false);
    }
  }
}

/** Gathers what leaves together: frames are joined by concatenation, whatever they say. */
class Outbox {
  readonly #sockets: Sockets;
  readonly #encodings: ReadonlyMap<number, Encoding>;
  readonly #parts = new Map<number, { bytes: number; parts: Uint8Array[] }>();

  constructor(sockets: Sockets, encodings: ReadonlyMap<number, Encoding>) {
    this.#sockets = sockets;
    this.#encodings = encodings;
  }

  add(connection: number, prefix: Uint8Array, body: Uint8Array): void {
    const bytes = prefix.length + body.length;
    let message = this.#parts.get(connection);
    if (message !== undefined && message.bytes + bytes > MESSAGE_BYTES_MAX) {
      this.flush(connection);
      message = undefined;
    }
    if (message === undefined) {
      message = { bytes: 0, parts: [] };
      this.#parts.set(connection, message);
    }
    message.bytes += bytes;
    message.parts.push(prefix, body);
  }

  flush(connection: number): void {
    const message = this.#parts.get(connection);
    this.#parts.delete(connection);
    const encoding = this.#encodings.get(connection);
    if (message === undefined || encoding === undefined) return;
    const whole = concat(message.parts);
    this.#sockets.send(connection, encoding === "json" ? decoder.decode(whole) : whole);
  }

  flushAll(): void {
    for (const connection of [...this.#parts.keys()]) this.flush(connection);
  }
}
