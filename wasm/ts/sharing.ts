/**
 * A tab's way to what it shares with the other tabs. Each link takes a pulse, tells a candidate of it (in the
 * SharedWorker, or here), knocks, and is answered by whoever has the lock of the room. When that one is gone the link
 * ends, as a lost socket does, and the next link finds or makes another.
 */

import { DunlinError } from "./errors.ts";
import type { Closing, Link, LinkEvents, Transport, Trouble } from "./link.ts";
import { awake, whenPutAside } from "./page.ts";
import type { Polling } from "./polling.ts";
import { ROOM_VERSION, holdPulse, linkName, post, whenGone } from "./room.ts";
import type { Asked, Knock, Notice, RoomMessage } from "./room.ts";

/** There may be another host at once, or we make one. */
const GONE: Closing = { code: 1006, reason: "the tab or worker that it ran in is gone", retryInMs: 0 };

/** Throws what this runtime lacks to share anything. */
export function checkSharing(what: string): void {
  const hasLocks = typeof navigator !== "undefined" && navigator.locks !== undefined;
  if (hasLocks && typeof BroadcastChannel !== "undefined") return;
  throw new DunlinError(
    "unsupported",
    `this runtime has no Web Locks or no BroadcastChannel, without which tabs cannot share: serve the page by https or from localhost, or ${what}`,
  );
}

export class SharedTransport implements Transport {
  readonly canDie = false;
  readonly address: string;
  trouble: Trouble | undefined;
  readonly #room: string;
  readonly #asked: Asked;
  readonly #polling: Polling;

  constructor(address: string, room: string, asked: Asked, polling: Polling) {
    this.address = address;
    this.#room = room;
    this.#asked = asked;
    this.#polling = polling;
  }

  open(events: LinkEvents): Link {
    const ends: (() => void)[] = [];
    let wire: BroadcastChannel | undefined;
    let isOver = false;
    const end = (): void => {
      isOver = true;
      for (const each of ends.splice(0)) each();
    };
    const closed = (closing: Closing): void => {
      if (isOver) return;
      end();
      events.closed(closing);
    };
    const enter = async (): Promise<void> => {
      // Not before: a channel that hears something ends a page that is aside.
      await awake();
      const link = crypto.randomUUID();
      const letGo = await holdPulse(linkName(this.#room, link));
      ends.push(letGo);
      if (isOver) end();
      else wire = this.#enter(link, ends, { ...events, closed });
    };
    enter().catch((cause: unknown) => closed({ code: 1006, reason: "", cause }));
    return {
      send: (message) => {
        if (wire !== undefined) post(wire, message);
      },
      close: () => {
        if (!isOver) wire?.postMessage({ kind: "bye" } satisfies Notice);
        end();
      },
    };
  }

  /** Knocks, and listens; `ends` is what to do when the link is over. */
  #enter(link: string, ends: (() => void)[], events: LinkEvents): BroadcastChannel {
    const knock: Knock = { version: ROOM_VERSION, link, ...this.#asked };
    const wire = new BroadcastChannel(linkName(this.#room, link));
    const room = new BroadcastChannel(this.#room);
    let host: string | undefined;
    // What troubled the last host is not known to trouble the next.
    this.trouble = undefined;
    ends.push(
      () => wire.close(),
      () => room.close(),
      () => this.#polling.withdraw(link),
      whenPutAside(() => events.closed({ code: 1006, reason: "the page was put aside", retryInMs: 0 })),
    );
    room.onmessage = ({ data }: MessageEvent<RoomMessage>) => {
      if (data === "here") room.postMessage(knock);
    };
    wire.onmessage = ({ data }: MessageEvent<Uint8Array | string | Notice>) => {
      if (typeof data === "string" || data instanceof Uint8Array) {
        events.message(data);
      } else if (data.kind === "closed") {
        events.closed(data);
      } else if (data.kind === "trouble") {
        this.trouble = data.trouble;
      } else if (data.kind === "opened" && host !== undefined) {
        // The first one went before it saw that we were answered.
        events.closed(GONE);
      } else if (data.kind === "opened") {
        host = data.host;
        room.close();
        this.#polling.withdraw(link);
        ends.push(whenGone(host, () => events.closed(GONE)));
        events.opened();
      }
    };
    room.postMessage(knock);
    this.#polling.knock(knock);
    return wire;
  }
}
