/**
 * What stands between the broker's deliveries and the loop that takes them: those that wait to be taken, the loops that
 * wait for one, and the end. It owns nothing of the conversation with the broker.
 *
 * Invariant: deliveries wait in the buffer, or loops for deliveries, never both.
 */

import type { Connection, Unnumbered } from "./connection.ts";
import { DunlinError } from "./errors.ts";
import type { Reply } from "./frames.ts";
import type { Surroundings } from "./link.ts";
import type { Respond } from "./message.ts";

/** What comes under the number of a subscription or membership. */
export type Told = Extract<Reply, { type: "subscribed" | "joined" | "delivery" | "gap" | "assignment" | "presence_event" | "ended" }>;

/** Who hears what comes under its number. */
export interface Listener {
  readonly id: number;
  readonly hasEnded: boolean;
  /** Whether the broker forgets more than a subscription when it is told to end it. */
  readonly isKept?: boolean;
  /** How to ask for it, the first time or again. */
  ask(): Unnumbered;
  hear(told: Told): void;
  /** What the broker said to {@link ask}, before anything that followed. */
  answered?(reply: Reply): void;
  /** The link is gone, and with it what the broker knew of it there. */
  lost?(): void;
  /** The broker did not take it. */
  refused(error: DunlinError): void;
  /** The client is over; what is in the buffer can still be taken. */
  end(error?: unknown): void;
}

/** What a client does for those who listen on it. */
export interface Owner {
  readonly connection: Connection;
  readonly surroundings: Surroundings;
  readonly respond: Respond;
  /** A number that nobody else has. */
  number(): number;
  /** Asks the broker for it now, or when it can be asked, and whenever the broker has forgotten. */
  begin(listener: Listener): void;
  /** Asks for it again. */
  ask(listener: Listener): void;
  /** The broker has ended it. */
  forget(listener: Listener): void;
  /** It has ended here; resolves when the broker knows, or cannot be told. */
  leave(listener: Listener): Promise<void>;
}

interface Waiting<Delivered> {
  resolve(result: IteratorResult<Delivered, undefined>): void;
  reject(error: unknown): void;
}

/** Something to be told between two deliveries. */
class Aside {
  readonly tell: () => void;

  constructor(tell: () => void) {
    this.tell = tell;
  }
}

export abstract class Inbox<Delivered extends object> implements AsyncIterableIterator<Delivered>, AsyncDisposable {
  readonly ready: Promise<void>;
  readonly #name: string;
  readonly #signal: AbortSignal | undefined;
  #isReady!: { resolve(): void; reject(error: unknown): void };
  #buffer: (Delivered | Aside)[] = [];
  #buffered = 0;
  #waiting: Waiting<Delivered>[] = [];
  #end: { readonly error?: unknown } | undefined;

  /** `name` is for messages. */
  constructor(name: string, signal: AbortSignal | undefined) {
    this.#name = name;
    this.#signal = signal;
    this.ready = new Promise((resolve, reject) => (this.#isReady = { resolve, reject }));
    // Whoever does not wait for it learns of a refusal from the iteration.
    this.ready.catch(() => {});
    if (signal?.aborted === true) this.#finish(signal.reason);
    else signal?.addEventListener("abort", this.#abort);
  }

  /** The program takes this one. */
  protected abstract taken(delivered: Delivered): void;

  /** The program ended it. */
  protected abstract left(): Promise<void>;

  /** The program asks for the next one, and so is done with the one before. */
  protected asked(): void {}

  get hasEnded(): boolean {
    return this.#end !== undefined;
  }

  /** How many wait to be taken. */
  protected get buffered(): number {
    return this.#buffered;
  }

  protected begun(): void {
    this.#isReady.resolve();
  }

  protected put(delivered: Delivered): void {
    const waiting = this.#waiting.shift();
    if (waiting === undefined) {
      this.#buffer.push(delivered);
      this.#buffered += 1;
    } else {
      this.taken(delivered);
      waiting.resolve({ value: delivered, done: false });
    }
  }

  /** Calls the program in its place between deliveries; what it throws is thrown by the iteration. */
  protected tell(aside: () => void): void {
    if (this.#waiting.length > 0) {
      try {
        aside();
      } catch (error) {
        this.#waiting.shift()?.reject(error);
      }
    } else {
      this.#buffer.push(new Aside(aside));
    }
  }

  /** Drops those that wait to be taken and are not wanted; how many. */
  protected drop(isUnwanted: (delivered: Delivered) => boolean): number {
    const before = this.#buffered;
    this.#buffer = this.#buffer.filter((item) => item instanceof Aside || !isUnwanted(item));
    this.#buffered = this.#buffer.reduce((count, item) => count + (item instanceof Aside ? 0 : 1), 0);
    return before - this.#buffered;
  }

  next(): Promise<IteratorResult<Delivered, undefined>> {
    return new Promise((resolve, reject) => {
      this.asked();
      for (let item = this.#buffer.shift(); item !== undefined; item = this.#buffer.shift()) {
        if (!(item instanceof Aside)) {
          this.#buffered -= 1;
          this.taken(item);
          resolve({ value: item, done: false });
          return;
        }
        item.tell();
      }
      if (this.#end === undefined) {
        this.#waiting.push({ resolve, reject });
        return;
      }
      const { error } = this.#end;
      // An error is thrown once; after it, the iteration is over.
      this.#end = {};
      if (error === undefined) resolve({ value: undefined, done: true });
      else reject(error);
    });
  }

  async return(): Promise<IteratorResult<Delivered, undefined>> {
    await this.close();
    return { value: undefined, done: true };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async close(): Promise<void> {
    const leaving = this.#leave();
    this.#end = {};
    await leaving;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Nothing more comes; what is in the buffer can still be taken. */
  end(error?: unknown): void {
    this.#finish(error);
  }

  #finish(error: unknown): void {
    if (this.#end !== undefined) return;
    this.#end = error === undefined ? {} : { error };
    this.#signal?.removeEventListener("abort", this.#abort);
    this.#isReady.reject(error ?? new DunlinError("closed", `${this.#name} was closed`));
    const [first, ...others] = this.#waiting.splice(0);
    if (first !== undefined && error !== undefined) {
      this.#end = {};
      first.reject(error);
    } else {
      first?.resolve({ value: undefined, done: true });
    }
    for (const waiting of others) waiting.resolve({ value: undefined, done: true });
  }

  /** Ends it at once, with what the iteration is to throw; what is in the buffer is gone. */
  protected fail(error: unknown): void {
    this.#leave(error).catch(() => {});
  }

  readonly #abort = (): void => this.fail(this.#signal?.reason);

  async #leave(error?: unknown): Promise<void> {
    const hadEnded = this.hasEnded;
    this.#buffer = [];
    this.#buffered = 0;
    this.end(error);
    if (!hadEnded) await this.left();
  }
}
