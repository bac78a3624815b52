/**
 * A membership in a consumer group: joins, joins again when the connection or the broker forgot it, and leaves. What a
 * queue and a partitioned group differ in is in files of their own.
 */

import type { Unnumbered } from "./connection.ts";
import { DunlinError } from "./errors.ts";
import { Inbox } from "./inbox.ts";
import type { Listener, Owner, Told } from "./inbox.ts";
import type { PartitionedOptions, QueueOptions } from "./types.ts";

/** How long to wait before joining again where the broker does not say it, in milliseconds. */
const REJOIN_MS = 1000;

/** After these another attempt may go well. */
export const PASSING_CODES: readonly string[] = ["storage_unavailable", "busy", "draining"];

export type JoinFields = Omit<Extract<Unnumbered, { type: "join" }>, "type" | "subscription" | "group" | "filters">;

export abstract class Member<Delivered extends object> extends Inbox<Delivered> implements Listener {
  readonly id: number;
  readonly group: string;
  readonly owner: Owner;
  readonly #filters: readonly string[];
  readonly #onGap: QueueOptions["onGap"];
  #member: string | undefined;
  #cancelRetry: (() => void) | undefined;

  constructor(owner: Owner, group: string, filters: string | readonly string[], options: QueueOptions | PartitionedOptions) {
    super(`the membership in group ${JSON.stringify(group)}`, options.signal);
    this.id = owner.number();
    this.group = group;
    this.owner = owner;
    this.#filters = typeof filters === "string" ? [filters] : filters;
    this.#onGap = options.onGap;
  }

  /** What is asked of the broker beside the topics. */
  protected abstract joining(): JoinFields;

  /** What was known of the stay in the group is void. */
  abstract lost(): void;

  protected abstract delivered(delivery: Extract<Told, { type: "delivery" }>): void;

  protected abstract assigned(assignment: Extract<Told, { type: "assignment" }>): void;

  get member(): string | undefined {
    return this.#member;
  }

  ask(): Unnumbered {
    this.#cancelRetry?.();
    this.lost();
    return { ...this.joining(), type: "join", subscription: this.id, group: this.group, filters: this.#filters };
  }

  hear(told: Told): void {
    if (this.hasEnded) return;
    switch (told.type) {
      case "joined":
        this.#member = told.member;
        this.begun();
        return;
      case "delivery":
        this.delivered(told);
        return;
      case "assignment":
        this.assigned(told);
        return;
      case "gap": {
        const { type: _type, subscription: _subscription, ...gap } = told;
        this.tell(() => this.#onGap?.(gap));
        return;
      }
      case "ended":
        // The broker heard nothing for too long, as when the page was asleep.
        if (told.code === "unknown_member") this.owner.ask(this);
        else this.#over(new DunlinError(told.code, told.message));
    }
  }

  refused(error: DunlinError): void {
    // Who was a member before is not to end for what will pass.
    if (this.#member === undefined || !PASSING_CODES.includes(error.code)) return this.#over(error);
    this.#cancelRetry = this.owner.surroundings.after(error.retryAfterMs ?? REJOIN_MS, () => {
      if (!this.hasEnded && this.owner.connection.isOpen) this.owner.ask(this);
    });
  }

  override end(error?: unknown): void {
    super.end(error);
    this.#cancelRetry?.();
  }

  #over(error: DunlinError): void {
    this.owner.forget(this);
    this.end(error);
  }
}
