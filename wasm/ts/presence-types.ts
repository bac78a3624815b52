/** The public types of presence: who is on a topic, and what happens there. */

import type { Payload, TransferOptions } from "./types.ts";

/** Who is present on one topic, and being present oneself. Iterating it watches: see {@link Presence.watch}. */
export interface Presence extends AsyncIterable<PresenceChange> {
  readonly topic: string;

  /** Whether this client is present. It enters again by itself when it connects again; false if that was refused. */
  readonly isPresent: boolean;

  /**
   * Is present from now on, until `leave` or the end of the client, and shows the others `payload`. A client with user
   * and device is present as that device, which is one member however often it connects.
   */
  enter(payload?: Uint8Array | string): Promise<void>;

  /** Shows the others something else; who is not present enters. */
  update(payload?: Uint8Array | string): Promise<void>;

  /** Is not present any more; nothing happens to who was not. */
  leave(): Promise<void>;

  /** Who is present now. */
  members(options?: TransferOptions): Promise<PresenceMember[]>;

  /**
   * First who is present, then every change. What changed while the connection was away is told as changes too. Who
   * takes too few of them is told who is present once more, in place of what waited.
   */
  watch(options?: TransferOptions): PresenceWatch;
}

/** The changes on a topic. Leaving the loop, `return` and the signal end it. */
export interface PresenceWatch extends AsyncIterableIterator<PresenceChange> {
  return(): Promise<IteratorResult<PresenceChange, undefined>>;
}

/** A device or a connection that is present. The payload is what it shows. */
export interface PresenceMember extends Payload {
  readonly user?: string;
  readonly device?: string;
  /** The broker's number of its connection. */
  readonly connection: number;
  /** Since when, in milliseconds since the Unix epoch. */
  readonly since: number;
}

export type PresenceChange =
  | { readonly event: "snapshot"; readonly members: readonly PresenceMember[] }
  | {
      /** `timeout`: nothing was heard of it for too long, or it did not come back. */
      readonly event: "join" | "leave" | "timeout" | "update";
      readonly member: PresenceMember;
      /** In milliseconds since the Unix epoch; not known of what happened while the connection was away. */
      readonly at?: number;
    };
