/**
 * One subscription as the program sees it. It outlives links; what it knows to go on from is the token and the last
 * sequence.
 *
 * Invariant: the credit that the broker still has, the deliveries in the buffer, and those taken but not yet given back
 * add up to the window.
 */

import type { Unnumbered } from "./connection.ts";
import { DunlinError } from "./errors.ts";
import { Inbox } from "./inbox.ts";
import type { Listener, Owner, Told } from "./inbox.ts";
import { Received } from "./message.ts";
import type { DeviceSession } from "./session.ts";
import { Window } from "./window.ts";
import type { StartPosition, SubscribeOptions, Subscription } from "./types.ts";

export class ActiveSubscription extends Inbox<Received> implements Subscription, Listener {
  readonly id: number;
  readonly filter: string;
  readonly #owner: Owner;
  readonly #options: SubscribeOptions;
  readonly #window: Window;
  readonly #session: DeviceSession | undefined;

  /** The token of the present subscription, and the last sequence that came with or before it. */
  #token: string | undefined;
  #last = 0n;
  #heardSinceAsked = false;
  /** Up to here everything was delivered before the link was lost: what comes again is dropped. */
  #resumedAfter = 0n;
  #position: StartPosition | undefined;
  /** What was given to the program, which has not asked for the next one. */
  #inHand = 0n;

  constructor(owner: Owner, filter: string, options: SubscribeOptions, session?: DeviceSession) {
    super(`the subscription to ${JSON.stringify(filter)}`, options.signal);
    this.id = owner.number();
    this.filter = filter;
    this.#owner = owner;
    this.#options = options;
    this.#session = session;
    this.#window = new Window(owner.connection, this.id, options.credit);
  }

  get position(): StartPosition | undefined {
    return this.#position;
  }

  get isKept(): boolean {
    return this.#session !== undefined;
  }

  ask(): Unnumbered {
    this.#heardSinceAsked = false;
    this.#resumedAfter = this.#last;
    const { onLag, lagMax, partition } = this.#options;
    const [from, again] = this.#session === undefined ? [this.#options.from, "resume"] : ["session", "session"];
    return {
      type: "subscribe",
      subscription: this.id,
      filter: this.filter,
      from: this.#token === undefined ? from : `${again}:${this.#token}:${this.#last}`,
      credit: this.#window.begin(this.buffered),
      onLag,
      lagMax,
      partition,
    };
  }

  hear(told: Told): void {
    if (this.hasEnded) return;
    if (told.type === "delivery") this.#delivered(told);
    else if (told.type === "gap") this.#missed(told);
    else if (told.type === "subscribed") this.#subscribed(told);
    else if (told.type === "ended") this.refused(new DunlinError(told.code, told.message));
  }

  refused(error: DunlinError): void {
    this.#owner.forget(this);
    this.end(error);
  }

  #subscribed({ token, sequence }: Extract<Told, { type: "subscribed" }>): void {
    this.#token = token;
    this.#position ??= `resume:${token}:${sequence}`;
    // Below what was delivered if the broker lost it; sequences then begin there again.
    if (!this.#heardSinceAsked) this.#last = sequence;
    if (sequence < this.#resumedAfter) this.#resumedAfter = sequence;
    this.#session?.began(this.id);
    this.begun();
  }

  #delivered(delivery: Extract<Told, { type: "delivery" }>): void {
    if (delivery.sequence <= this.#resumedAfter) {
      this.#window.giveBack(1);
      return;
    }
    this.#heardSinceAsked = true;
    if (delivery.sequence > this.#last) this.#last = delivery.sequence;
    this.put(new Received(delivery.topic, delivery.partition, delivery, this.#owner.respond, this.#token));
  }

  #missed({ type: _type, subscription: _subscription, ...gap }: Extract<Told, { type: "gap" }>): void {
    this.#heardSinceAsked = true;
    if (gap.reason === "truncated") {
      // What a crash took back may be numbered again for other messages: nothing above `after` was heard.
      this.#last = gap.after;
      if (gap.after < this.#resumedAfter) this.#resumedAfter = gap.after;
      this.#session?.tookBack(this.id, gap.after);
    } else if (gap.topic === undefined && gap.to > this.#last) {
      // A gap of one partition says nothing about the others, which may still have messages below it.
      this.#last = gap.to;
    }
    this.tell(() => {
      this.#options.onGap?.(gap);
      if (gap.reason !== "truncated" && gap.topic === undefined) this.#session?.took(this.id, gap.to);
    });
  }

  protected override asked(): void {
    if (this.#inHand > 0n && !this.hasEnded) this.#session?.took(this.id, this.#inHand);
  }

  protected taken(received: Received): void {
    this.#position = received.position;
    this.#inHand = received.sequence;
    this.#window.take();
  }

  override end(error?: unknown): void {
    super.end(error);
    this.#session?.forget(this.id);
  }

  protected left(): Promise<void> {
    return this.#owner.leave(this);
  }
}
