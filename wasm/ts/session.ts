/**
 * The session of the client's device: opened on every link, told how far the program is, and read.
 *
 * Invariant: the broker is told only of what the program is done with, so what it was not told of comes again.
 */

import type { Unnumbered } from "./connection.ts";
import { DunlinError } from "./errors.ts";
import type { Reply } from "./frames.ts";
import type { Owner } from "./inbox.ts";
import { PASSING_CODES } from "./member.ts";
import type { SessionState } from "./types.ts";

/** The broker is told so often at most, or when so many messages were taken. */
const ACK_EVERY_MS = 1_000;
const ACK_MESSAGES = 64;
/** How long a client that closes waits for the broker to have heard. */
const CLOSE_MS = 1_000;

/** How far a subscription was taken, and how far the broker was told so. */
interface Progress {
  taken: bigint;
  told: bigint;
}

export class DeviceSession {
  /** Resolves when the broker has opened it for the first time. */
  readonly opened: Promise<void>;
  readonly #owner: Owner;
  #settle!: { resolve(): void; reject(error: unknown): void };
  #token: string | undefined;
  #state: SessionState | undefined;
  readonly #progress = new Map<number, Progress>();
  /** Taken since the broker was told. */
  #messages = 0;
  #cancelTimer: (() => void) | undefined;

  constructor(owner: Owner) {
    this.#owner = owner;
    this.opened = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
    this.opened.catch(() => {});
  }

  get state(): SessionState | undefined {
    return this.#state;
  }

  /** Makes it the link's; to be said in front of its subscriptions. */
  open(): void {
    const heard = (reply: Reply): void => {
      if (reply.type !== "session") return;
      const { token, resumed, expiresMs, filters } = reply;
      this.#token = token;
      this.#state = { resumed, expiresMs, filters };
      this.#settle.resolve();
    };
    this.#owner.connection.request({ type: "open_session", token: this.#token }, "reject", undefined, heard).catch((error: DunlinError) => {
      // The link was lost, and the next one opens it; or it outlived the broker, and has the session already.
      if (error.code === "connection_lost" || (error.code === "out_of_state" && this.#state !== undefined)) return;
      this.#settle.reject(error);
      if (PASSING_CODES.includes(error.code)) this.#owner.connection.giveUp(error);
      else this.#owner.connection.close(error);
    });
  }

  /** The broker has taken a subscription, of which it may not have heard how far it was. */
  began(subscription: number): void {
    const progress = this.#progress.get(subscription);
    if (progress === undefined) return;
    progress.told = 0n;
    if (progress.taken > 0n) this.#soon();
  }

  /** The program is done with everything up to a sequence. */
  took(subscription: number, sequence: bigint): void {
    const progress = this.#progress.get(subscription) ?? { taken: 0n, told: 0n };
    this.#progress.set(subscription, progress);
    if (sequence <= progress.taken) return;
    progress.taken = sequence;
    this.#messages += 1;
    if (this.#messages >= ACK_MESSAGES) void this.#tell();
    else this.#soon();
  }

  /** A crash took back everything above a sequence, which may be numbered again. */
  tookBack(subscription: number, after: bigint): void {
    const progress = this.#progress.get(subscription);
    if (progress !== undefined && progress.taken > after) progress.taken = progress.told = after;
  }

  /** The subscription is over. */
  forget(subscription: number): void {
    this.#progress.delete(subscription);
    if (this.#progress.size > 0) return;
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
  }

  /** Tells the broker what it has not heard yet; resolves when it has, or does not in time. */
  async close(): Promise<void> {
    let disarm = (): void => {};
    const late = new Promise<void>((resolve) => (disarm = this.#owner.surroundings.after(CLOSE_MS, resolve)));
    await Promise.race([this.#tell(), late]);
    disarm();
  }

  #soon(): void {
    this.#cancelTimer ??= this.#owner.surroundings.after(ACK_EVERY_MS, () => void this.#tell());
  }

  async #tell(): Promise<void> {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    this.#messages = 0;
    const { connection } = this.#owner;
    if (!connection.isOpen) return;
    const telling: Promise<unknown>[] = [];
    for (const [subscription, progress] of this.#progress) {
      if (progress.taken <= progress.told) continue;
      progress.told = progress.taken;
      const command: Unnumbered = { type: "ack_session", subscription, sequence: progress.taken };
      // What the broker did not hear it delivers again, or is told when the subscription has begun again.
      telling.push(connection.ask("ok", command, "reject").catch(() => {}));
    }
    await Promise.all(telling);
  }
}
