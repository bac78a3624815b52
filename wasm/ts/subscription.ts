/**
 * One subscription as the program sees it: a bounded buffer between the broker's deliveries and the loop that takes
 * them. It outlives links; what it knows to go on from is the token and the last sequence.
 *
 * Invariant: the credit that the broker still has, the deliveries in the buffer, and those taken but not yet given back
 * add up to the window.
 */

import { DunlinError } from "./errors.ts";
import type { Reply } from "./frames.ts";
import { Received } from "./message.ts";
import type { Respond } from "./message.ts";
import type { Delivery, Gap, StartPosition, SubscribeOptions, Subscription } from "./types.ts";

const CREDIT_DEFAULT = 256;

/** What a subscription asks of its client. */
export interface SubscriptionOwner {
  /** Tells the broker that the subscription has ended here. */
  unsubscribe(subscription: ActiveSubscription): Promise<void>;
  credit(subscription: ActiveSubscription, messages: number): void;
  readonly respond: Respond;
}

/** How to ask for it, the first time or again. */
export interface SubscribeFields {
  readonly subscription: number;
  readonly filter: string;
  readonly from: string | undefined;
  readonly credit: number;
  readonly onLag: string | undefined;
  readonly lagMax: number | undefined;
  readonly partition: number | undefined;
}

type Waiting = PromiseWithResolversOf<IteratorResult<Delivery, undefined>>;
interface PromiseWithResolversOf<T> {
  resolve(value: T): void;
  reject(error: unknown): void;
}

export class ActiveSubscription implements Subscription {
  readonly id: number;
  readonly filter: string;
  readonly ready: Promise<void>;
  readonly #owner: SubscriptionOwner;
  readonly #options: SubscribeOptions;
  readonly #window: number;
  #isReady!: PromiseWithResolversOf<void>;

  #buffer: (Received | Gap)[] = [];
  #buffered = 0;
  #taken = 0;
  #waiting: Waiting[] = [];
  #end: { readonly error?: unknown } | undefined;

  /** The token of the present subscription, and the last sequence that came with or before it. */
  #token: string | undefined;
  #last = 0n;
  #heardSinceAsked = false;
  /** Up to here everything was delivered before the link was lost: what comes again is dropped. */
  #resumedAfter = 0n;
  #position: StartPosition | undefined;

  constructor(id: number, filter: string, options: SubscribeOptions, owner: SubscriptionOwner) {
    this.id = id;
    this.filter = filter;
    this.#options = options;
    this.#owner = owner;
    this.#window = options.credit ?? CREDIT_DEFAULT;
    this.ready = new Promise((resolve, reject) => (this.#isReady = { resolve, reject }));
    // Whoever does not wait for it learns of a refusal from the iteration.
    this.ready.catch(() => {});
    if (options.signal?.aborted === true) this.#finish({ error: options.signal.reason as unknown });
    else options.signal?.addEventListener("abort", this.#abort);
  }

  get position(): StartPosition | undefined {
    return this.#position;
  }

  get hasEnded(): boolean {
    return this.#end !== undefined;
  }

  /** How to ask for it now; the broker's credit counts from anew. */
  ask(): SubscribeFields {
    this.#taken = 0;
    this.#heardSinceAsked = false;
    this.#resumedAfter = this.#last;
    return {
      subscription: this.id,
      filter: this.filter,
      from: this.#token === undefined ? this.#options.from : `resume:${this.#token}:${this.#last}`,
      credit: this.#window - this.#buffered,
      onLag: this.#options.onLag,
      lagMax: this.#options.lagMax,
      partition: this.#options.partition,
    };
  }

  /** The broker has taken it. */
  subscribed({ token, sequence }: Extract<Reply, { type: "subscribed" }>): void {
    this.#token = token;
    this.#position ??= `resume:${token}:${sequence}`;
    // Below what was delivered if the broker lost it; sequences then begin there again.
    if (!this.#heardSinceAsked) this.#last = sequence;
    if (sequence < this.#resumedAfter) this.#resumedAfter = sequence;
    this.#isReady.resolve();
  }

  delivered(delivery: Extract<Reply, { type: "delivery" }>): void {
    if (this.hasEnded) return;
    if (delivery.sequence <= this.#resumedAfter) {
      this.#giveBack(1);
      return;
    }
    this.#heardSinceAsked = true;
    if (delivery.sequence > this.#last) this.#last = delivery.sequence;
    const received = new Received(delivery.topic, delivery.partition, delivery, this.#owner.respond, this.#token);
    const waiting = this.#waiting.shift();
    if (waiting === undefined) {
      this.#buffer.push(received);
      this.#buffered += 1;
    } else {
      waiting.resolve({ value: this.#give(received), done: false });
    }
  }

  missed({ type: _type, subscription: _subscription, ...gap }: Extract<Reply, { type: "gap" }>): void {
    if (this.hasEnded) return;
    this.#heardSinceAsked = true;
    if (gap.reason === "truncated") {
      // What a crash took back may be numbered again for other messages: nothing above `after` was heard.
      this.#last = gap.after;
      if (gap.after < this.#resumedAfter) this.#resumedAfter = gap.after;
    } else if (gap.topic === undefined && gap.to > this.#last) {
      // A gap of one partition says nothing about the others, which may still have messages below it.
      this.#last = gap.to;
    }
    if (this.#waiting.length === 0) this.#buffer.push(gap);
    else this.#tellGap(gap);
  }

  /** The broker, or the client, ended it; what is in the buffer can still be taken. */
  endedWith(error: DunlinError | undefined): void {
    this.#finish(error === undefined ? {} : { error });
  }

  next(): Promise<IteratorResult<Delivery, undefined>> {
    return new Promise((resolve, reject) => {
      for (let item = this.#buffer.shift(); item !== undefined; item = this.#buffer.shift()) {
        if (item instanceof Received) {
          this.#buffered -= 1;
          resolve({ value: this.#give(item), done: false });
          return;
        }
        this.#options.onGap?.(item);
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

  async return(): Promise<IteratorResult<Delivery, undefined>> {
    await this.close();
    return { value: undefined, done: true };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async close(): Promise<void> {
    const hadEnded = this.hasEnded;
    this.#buffer = [];
    this.#buffered = 0;
    this.#finish({});
    this.#end = {};
    if (!hadEnded) await this.#owner.unsubscribe(this);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  readonly #abort = (): void => {
    if (this.hasEnded) return;
    this.#buffer = [];
    this.#buffered = 0;
    this.#finish({ error: this.#options.signal?.reason as unknown });
    this.#owner.unsubscribe(this).catch(() => {});
  };

  #give(received: Received): Received {
    this.#position = received.position;
    this.#taken += 1;
    // Credit is given back by halves of the window: a frame for each delivery would cost as much as the delivery.
    if (this.#taken * 2 >= this.#window) {
      const taken = this.#taken;
      this.#taken = 0;
      this.#giveBack(taken);
    }
    return received;
  }

  #giveBack(messages: number): void {
    if (!this.hasEnded) this.#owner.credit(this, messages);
  }

  /** The program is waiting: nothing stands between it and the gap. */
  #tellGap(gap: Gap): void {
    try {
      this.#options.onGap?.(gap);
    } catch (error) {
      this.#waiting.shift()?.reject(error);
    }
  }

  #finish(end: { readonly error?: unknown }): void {
    if (this.#end !== undefined) return;
    this.#end = end;
    this.#options.signal?.removeEventListener("abort", this.#abort);
    this.#isReady.reject(end.error ?? new DunlinError("closed", `the subscription to ${JSON.stringify(this.filter)} was closed`));
    const [first, ...others] = this.#waiting.splice(0);
    if (first !== undefined && end.error !== undefined) {
      this.#end = {};
      first.reject(end.error);
    } else {
      first?.resolve({ value: undefined, done: true });
    }
    for (const waiting of others) waiting.resolve({ value: undefined, done: true });
  }
}
