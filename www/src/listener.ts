/** One subscription of the console: what it asked for, what came, and how it ended. */

import type { Gap, Subscription } from "dunlin";

import type { Feed } from "./feed.ts";
import type { Wish } from "./place.ts";
import type { Session } from "./session.ts";
import { counted, problemOf } from "./words.ts";
import type { Problem } from "./words.ts";

/** How many deliveries may be on their way to the page: enough for a fast broker, and a bound on the memory they take. */
const CREDIT = 1024;
/** How long deliveries may be taken in one go before the page gets its turn. Credit holds the broker meanwhile. */
const TURN_MS = 6;
/** Deliveries between two looks at the clock. */
const LOOK_EVERY = 64;

export class Listener {
  readonly wish: Wish;
  /** Which of the marker colours it has. */
  readonly hue: number;
  received = 0;
  missed = 0;
  state: "starting" | "live" | "ended" = "starting";
  problem: Problem | undefined;
  private readonly session: Session;
  private readonly feed: Feed;
  private readonly changed: () => void;
  private readonly subscription: Subscription;

  /** `changed` is called whenever there is something new to show; often. */
  constructor(session: Session, feed: Feed, wish: Wish, hue: number, changed: () => void) {
    this.session = session;
    this.feed = feed;
    this.wish = wish;
    this.hue = hue;
    this.changed = changed;
    const { filter, from, onLag } = wish;
    this.subscription = session.client.subscribe(filter, { from, onLag, credit: CREDIT, onGap: (gap) => this.gap(gap) });
    void this.run();
  }

  async end(): Promise<void> {
    await this.subscription.close();
  }

  private async run(): Promise<void> {
    try {
      await this.subscription.ready;
      this.state = "live";
      this.changed();
      await this.take();
    } catch (error) {
      this.problem = problemOf(error);
      if (this.state === "live") this.note("warn", `${this.wish.filter} ended: ${this.problem.message} (${this.problem.code})`);
    }
    this.state = "ended";
    this.changed();
  }

  private async take(): Promise<void> {
    let turnEnds = performance.now() + TURN_MS;
    for await (const message of this.subscription) {
      this.received += 1;
      this.session.received += 1;
      this.feed.push({ kind: "message", hue: this.hue, message });
      this.changed();
      if (this.received % LOOK_EVERY === 0 && performance.now() > turnEnds) {
        await nextTurn();
        turnEnds = performance.now() + TURN_MS;
      }
    }
  }

  private gap(gap: Gap): void {
    this.missed += gap.count ?? 0;
    const what = gap.count === undefined ? "Messages are" : `${counted(gap.count, "message")} ${gap.count === 1 ? "is" : "are"}`;
    const where = gap.topic === undefined ? this.wish.filter : `${gap.topic}, partition ${gap.partition ?? 0}`;
    const range =
      gap.fromOffset === undefined || gap.toOffset === undefined
        ? `sequences ${gap.after + 1n} to ${gap.to}`
        : `offsets ${gap.fromOffset} to ${gap.toOffset - 1n}`;
    this.note("warn", `${what} missing in ${where}, ${range}: ${REASONS[gap.reason] ?? gap.reason}`);
  }

  private note(tone: "info" | "warn", text: string): void {
    this.feed.push({ kind: "notice", hue: this.hue, tone, at: Date.now(), text });
    this.changed();
  }
}

const REASONS: Readonly<Record<string, string>> = {
  trimmed: "retention had taken them",
  dropped: "this page was too slow",
  truncated: "a crash of the broker lost them before they were durable",
  unreadable: "their bytes on disk are damaged",
};

/** Resolves in a new task, without the delay that timers have. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
