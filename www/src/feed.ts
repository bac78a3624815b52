/** What arrived over all subscriptions, in the order of arrival: bounded in entries and in bytes, the oldest go first. */

import type { Delivery } from "dunlin";

import type { ListSource } from "./list.ts";

/** How many entries are kept. */
export const FEED_ENTRIES_MAX = 5000;
/** How many bytes of payload are kept: messages may have a mebibyte each. */
export const FEED_BYTES_MAX = 32 * 1024 * 1024;

/** One line of the live list. */
export type Entry =
  | { readonly kind: "message"; readonly hue: number; readonly message: Delivery }
  /** Something to know about a subscription, in its place between the messages. */
  | { readonly kind: "notice"; readonly hue: number; readonly tone: "info" | "warn"; readonly at: number; readonly text: string };

export class Feed implements ListSource<Entry> {
  private entries: Entry[] = [];
  private head = 0;
  private bytes = 0;
  private dropped = 0;
  private cleared = 0;

  get first(): number {
    return this.dropped;
  }

  get length(): number {
    return this.entries.length - this.head;
  }

  /** How many came since it was last cleared. */
  get total(): number {
    return this.dropped + this.length - this.cleared;
  }

  at(index: number): Entry | undefined {
    return this.entries[this.head + index];
  }

  push(entry: Entry): void {
    this.entries.push(entry);
    this.bytes += weight(entry);
    while (this.length > FEED_ENTRIES_MAX || (this.bytes > FEED_BYTES_MAX && this.length > 1)) {
      const oldest = this.entries[this.head];
      if (oldest !== undefined) this.bytes -= weight(oldest);
      this.head += 1;
      this.dropped += 1;
    }
    // Moving what is left down costs as much as a full feed, so it is done once per so many entries.
    if (this.head >= FEED_ENTRIES_MAX) {
      this.entries = this.entries.slice(this.head);
      this.head = 0;
    }
  }

  clear(): void {
    this.dropped += this.length;
    this.cleared = this.dropped;
    this.entries = [];
    this.head = 0;
    this.bytes = 0;
  }

  /** What it holds now, not moving with it: for a view that was paused. */
  still(): ListSource<Entry> {
    const entries = this.entries.slice(this.head);
    return { first: this.first, length: entries.length, at: (index) => entries[index] };
  }
}

function weight(entry: Entry): number {
  return entry.kind === "message" ? entry.message.payload.length : 0;
}
