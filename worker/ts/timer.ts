// The one timer of the broker, out of the two that an object has: `setTimeout`, which costs nothing but keeps the
// object in memory and is lost with it, and the alarm, which survives everything but costs a row written each time.

/** A deadline that is not farther is waited for in memory: the object would hardly sleep before it. */
const NEAR_MS = 10_000;

/** The longest time that `setTimeout` takes; a longer one would ring at once. */
const WAIT_MS_MAX = 2 ** 31 - 1;

/** So much behind a deadline that memory waits for the alarm is set, in case that the object is gone by then. */
const SAFETY_MS = 10_000;

/** An alarm that could not be set is tried again after so long, for which the object stays in memory. */
const RETRY_MS = 10_000;

export class Timer {
  readonly #storage: DurableObjectStorage;
  readonly #ring: () => void;
  #waiting: ReturnType<typeof setTimeout> | undefined;
  #alarmAt: number | undefined;

  /** `ring` is called when the time has come, perhaps early, perhaps twice. */
  constructor(storage: DurableObjectStorage, ring: () => void) {
    this.#storage = storage;
    this.#ring = ring;
  }

  /** Whether something waits in memory. */
  get isWaiting(): boolean {
    return this.#waiting !== undefined;
  }

  /** Learns which alarm an earlier life has set. */
  async open(): Promise<void> {
    this.#alarmAt = (await this.#storage.getAlarm()) ?? undefined;
  }

  /**
   * Moves the timer. Unless the broker can sleep, memory alone knows of something, and waits however long it takes.
   * The alarm is only ever moved earlier: one that comes too early is harmless and sets the next. Behind what memory
   * waits for it is the safety net, so far behind that a series of near deadlines shares one.
   */
  arm(at: number | undefined, canSleep: boolean): void {
    clearTimeout(this.#waiting ?? null);
    this.#waiting = undefined;
    if (at === undefined) return;
    const waitMs = Math.max(0, at - Date.now());
    const waits = !canSleep || waitMs <= NEAR_MS;
    if (waits) this.#wait(Math.min(waitMs, WAIT_MS_MAX));
    this.#alarmNotAfter(waits ? at + SAFETY_MS : at);
  }

  /** The alarm has come. */
  alarm(): void {
    this.#alarmAt = undefined;
    this.#ring();
  }

  #wait(waitMs: number): void {
    this.#waiting = setTimeout(() => {
      this.#waiting = undefined;
      this.#ring();
    }, waitMs);
  }

  #alarmNotAfter(at: number): void {
    if (this.#alarmAt !== undefined && this.#alarmAt <= at) return;
    this.#alarmAt = at;
    this.#storage.setAlarm(at).catch(() => {
      if (this.#alarmAt === at) this.#alarmAt = undefined;
      // Whoever is rung arms again, early or not.
      if (!this.isWaiting) this.#wait(RETRY_MS);
    });
  }
}
