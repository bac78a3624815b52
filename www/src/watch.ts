/** Reads something of the broker again and again while somebody looks at it. */

import { problemOf } from "./words.ts";
import type { Problem } from "./words.ts";

/** The pace: soon enough for people, and little work for the broker. */
const PACE_MS = 2000;

export class Watch<T> {
  private readonly read: () => Promise<T>;
  private readonly show: (seen: T) => void;
  private readonly failed: (problem: Problem) => void;
  private looking = false;
  private turn = 0;
  private timer: number | undefined;

  /** `show` is called with what the newest reading brought, `failed` with why it brought nothing. */
  constructor(read: () => Promise<T>, show: (seen: T) => void, failed: (problem: Problem) => void) {
    this.read = read;
    this.show = show;
    this.failed = failed;
    // A tab that nobody sees asks nothing.
    document.addEventListener("visibilitychange", () => {
      if (this.looking && !document.hidden) void this.now();
    });
  }

  start(): void {
    this.looking = true;
    void this.now();
  }

  stop(): void {
    this.looking = false;
    this.turn += 1;
    window.clearTimeout(this.timer);
  }

  /** Reads at once, as after a change. A reading that is under way is overtaken: what it brings is not shown. */
  async now(): Promise<void> {
    window.clearTimeout(this.timer);
    this.turn += 1;
    const { turn } = this;
    const done = await this.read().then(
      (seen) => () => this.show(seen),
      (error: unknown) => () => this.failed(problemOf(error)),
    );
    if (turn !== this.turn || !this.looking) return;
    done();
    // Asked for again only once the last answer is there, so that a slow broker is not asked more than it can answer.
    this.timer = window.setTimeout(() => {
      if (!document.hidden) void this.now();
    }, PACE_MS);
  }
}
