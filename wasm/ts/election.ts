/**
 * Who runs what the tabs share: whoever has the lock of the room, in a worker or in a tab. A candidate asks for the lock
 * while links that it was told of wait for somebody to answer. Once it has the lock it opens the service and answers all
 * that knock, until the last of its links is gone.
 *
 * Invariant: a service exists only while the lock is held.
 */

import type { DunlinError } from "./errors.ts";
import type { Closing, Link, LinkEvents } from "./link.ts";
import { whenPutAside } from "./page.ts";
import { ROOM_VERSION, finalClosing, holdPulse, hostName, linkName, post, versionRefusal, whenGone } from "./room.ts";
import type { Knock, Notice, RoomMessage } from "./room.ts";

/** What one place runs for all tabs. */
export interface Service {
  /** Throws what the client asked wrong. */
  connect(knock: Knock, events: LinkEvents): Link;
  /** Ends when everything at hand is stored. Links are left as they are. */
  close(): Promise<void>;
  /** Ends at once. */
  stop(): void;
}

interface Waiting {
  readonly knock: Knock;
  /** Whether it is of this tab or, in a worker, of one that told the worker: as long as it waits, we stand. */
  readonly isOurs: boolean;
  /**
   * Whether it knocked in the room. It listens before it does that; but what it tells a worker goes another way and may
   * be there sooner, so that the answer would pass it by.
   */
  readonly isListening: boolean;
  readonly unwatch: () => void;
}

/** The candidates of this page or worker, by their rooms. */
const candidates = new Map<string, Candidate>();

export class Candidate {
  readonly #room: string;
  readonly #open: () => Promise<Service>;
  /** Links that nobody has answered yet, by their names. */
  readonly #waiting = new Map<string, Waiting>();
  /** Links that were answered here; the function ends one, and says why. */
  readonly #served = new Map<string, (closing: Closing) => void>();
  #standing: AbortController | undefined;
  #service: Service | undefined;
  #host = "";
  /** Lets the term look whether it is over. */
  #look: () => void = () => {};

  private constructor(room: string, open: () => Promise<Service>) {
    this.#room = room;
    this.#open = open;
  }

  /** A link wants to be answered: by us, if we get the lock. One that stands already opens what it was told first. */
  static knock(room: string, knock: Knock, open: () => Promise<Service>): void {
    const candidate = candidates.get(room) ?? new Candidate(room, open);
    candidates.set(room, candidate);
    candidate.#hear(knock, { isOurs: true });
    candidate.#stand();
  }

  /** The link waits no longer: it was answered elsewhere, or is closed. */
  static withdraw(room: string, link: string): void {
    const candidate = candidates.get(room);
    if (candidate !== undefined) candidate.#withdraw(link);
  }

  #withdraw(link: string): void {
    this.#waiting.get(link)?.unwatch();
    this.#waiting.delete(link);
    if (this.#service !== undefined) this.#look();
    if (![...this.#waiting.values()].some(({ isOurs }) => isOurs)) this.#standing?.abort();
  }

  /** Lets go of everything at once: the page is put aside, or ends. */
  #stepDown(): void {
    for (const link of [...this.#waiting.keys()]) this.#withdraw(link);
    this.#service?.stop();
    for (const end of [...this.#served.values()]) end({ code: 1006, reason: "the tab that it ran in was left", retryInMs: 0 });
    this.#look();
  }

  #stand(): void {
    if (this.#standing !== undefined) return;
    const standing = new AbortController();
    this.#standing = standing;
    const stayHere = whenPutAside(() => this.#stepDown());
    navigator.locks
      .request(this.#room, { signal: standing.signal }, () => this.#serve())
      .catch((error: unknown) => {
        if (standing.signal.aborted) return;
        for (const { knock } of [...this.#waiting.values()]) this.#answer(knock, refusing(error));
      })
      .finally(() => {
        this.#standing = undefined;
        stayHere();
        // Somebody may have knocked while the last term ended.
        if (this.#waiting.size > 0) this.#stand();
        else candidates.delete(this.#room);
      });
  }

  /** One term: from getting the lock to the end of the last link. */
  async #serve(): Promise<void> {
    this.#host = hostName(this.#room, crypto.randomUUID());
    const letGo = await holdPulse(this.#host);
    const room = new BroadcastChannel(this.#room);
    try {
      room.onmessage = ({ data }: MessageEvent<RoomMessage>) => {
        if (data !== "here") this.#hear(data, { isListening: true });
      };
      room.postMessage("here" satisfies RoomMessage);
      const leaving = new Promise<undefined>((resolve) => (this.#look = () => resolve(undefined)));
      const opening = this.#open();
      this.#service = await Promise.race([opening, leaving]);
      if (this.#service === undefined) {
        opening.then((late) => late.stop(), () => {});
        return;
      }
      this.#answerAll(this.#service);
      while (this.#served.size + this.#waiting.size > 0) await new Promise<void>((resolve) => (this.#look = resolve));
    } catch (error) {
      // What may go well another time is tried again, here or by whoever has the lock next.
      if ((error as DunlinError).retryAfterMs === undefined) this.#answerAll(refusing(error));
    } finally {
      room.close();
      const service = this.#service;
      this.#service = undefined;
      await service?.close();
      letGo();
    }
  }

  #hear(knock: Knock, { isOurs = false, isListening = false }): void {
    const { link } = knock;
    if (this.#served.has(link)) return;
    const known = this.#waiting.get(link);
    known?.unwatch();
    const unwatch = whenGone(linkName(this.#room, link), () => this.#withdraw(link));
    this.#waiting.set(link, {
      knock,
      isOurs: isOurs || known?.isOurs === true,
      isListening: isListening || known?.isListening === true,
      unwatch,
    });
    if (this.#service !== undefined) this.#answerAll(this.#service);
  }

  #answerAll(service: Pick<Service, "connect">): void {
    for (const { knock, isListening } of [...this.#waiting.values()]) if (isListening) this.#answer(knock, service);
  }

  #answer(knock: Knock, service: Pick<Service, "connect">): void {
    const name = linkName(this.#room, knock.link);
    const wire = new BroadcastChannel(name);
    let link: Link | undefined;
    const forget = (): void => {
      if (!this.#served.delete(knock.link)) return;
      unwatch();
      wire.close();
      link?.close(1000, "");
      if (this.#served.size === 0) this.#look();
    };
    const end = ({ code, reason, retryInMs }: Closing): void => {
      wire.postMessage({ kind: "closed", code, reason, retryInMs } satisfies Notice);
      forget();
    };
    const unwatch = whenGone(name, forget);
    this.#served.set(knock.link, end);
    this.#withdraw(knock.link);
    wire.onmessage = ({ data }: MessageEvent<Uint8Array | string | Notice>) => {
      if (typeof data === "string" || data instanceof Uint8Array) link?.send(data);
      else if (data.kind === "bye") forget();
    };
    try {
      if (knock.version !== ROOM_VERSION) throw versionRefusal(ROOM_VERSION, knock.version);
      link = service.connect(knock, {
        opened: () => wire.postMessage({ kind: "opened", host: this.#host } satisfies Notice),
        message: (message) => post(wire, message),
        closed: end,
        trouble: (trouble) => wire.postMessage({ kind: "trouble", trouble } satisfies Notice),
      });
    } catch (error) {
      end(finalClosing(error as DunlinError));
    }
  }
}

function refusing(error: unknown): Pick<Service, "connect"> {
  return {
    connect() {
      throw error;
    },
  };
}
