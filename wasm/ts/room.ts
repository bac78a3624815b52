/**
 * Where the tabs of one site meet: a channel for each shared thing, on which a tab asks who runs it (it *knocks*), and a
 * channel for each link. Neither says when its other end is gone, so each end holds a lock of its own as long as it
 * lives, its *pulse*, and the other waits for that.
 *
 * Other versions of this package may be in other tabs. What every version must understand is `version` and `link` of a
 * knock, and the notice `closed`.
 */

import { DunlinError } from "./errors.ts";
import type { Closing, Trouble } from "./link.ts";

/** Raised when tabs with the older one could not talk to tabs with the newer. */
export const ROOM_VERSION = 2;

/** What is asked of a broker: its configuration must be this, the link leads to that namespace, and it is of somebody. */
export interface Asked {
  readonly config: string;
  readonly namespace: string;
  /** Empty where there is none, like the device. */
  readonly user: string;
  readonly device: string;
}

/** Asks whoever runs the shared thing for a link. */
export interface Knock extends Asked {
  readonly version: number;
  /** Names the link, for ever. */
  readonly link: string;
}

/** What is said in a room: a knock, or that somebody answers from now on. */
export type RoomMessage = Knock | "here";

/** What is said on a link beside the messages of the protocol. */
export type Notice =
  | { readonly kind: "opened"; readonly host: string }
  | ({ readonly kind: "closed" } & Closing)
  | { readonly kind: "trouble"; readonly trouble: Trouble | undefined }
  /** The client is done with the link. */
  | { readonly kind: "bye" };

export function linkName(room: string, link: string): string {
  return `${room}:link:${link}`;
}

export function hostName(room: string, host: string): string {
  return `${room}:host:${host}`;
}

/** Why a tab of another version is refused. */
export function versionRefusal(ours: unknown, theirs: unknown): DunlinError {
  const versions = `the sharing of one is of version ${String(ours)}, of the other ${String(theirs)}`;
  return new DunlinError(
    "unsupported_version",
    `tabs of this site run versions of dunlin that cannot share: ${versions}; close or reload the older tabs`,
  );
}

/** The closing that ends a client for good, with that error. */
export function finalClosing({ code, message }: DunlinError): Closing {
  return { code: 4003, reason: `${code}: ${message}` };
}

/** Posts a message of the protocol; a view on a larger buffer would take all of it along. */
export function post(channel: BroadcastChannel, message: Uint8Array | string): void {
  const isPart = typeof message !== "string" && message.length !== message.buffer.byteLength;
  channel.postMessage(isPart ? message.slice() : message);
}

/** Holds the lock of that name, which nobody else asks for first; the returned function lets go of it. */
export function holdPulse(name: string): Promise<() => void> {
  return new Promise((resolve, reject) => {
    navigator.locks.request(name, () => new Promise<void>((release) => resolve(release))).catch(reject);
  });
}

/** Calls back when nobody holds the lock of that name any more; the returned function ends the waiting. */
export function whenGone(name: string, gone: () => void): () => void {
  const waiting = new AbortController();
  navigator.locks.request(name, { signal: waiting.signal }, gone).catch(() => {});
  return () => waiting.abort();
}
