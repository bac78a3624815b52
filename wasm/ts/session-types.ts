/** The public types of users and their devices, and of sessions: what a device hears, also while it is away. */

import type { TransferOptions } from "./types.ts";

/** Who a client is. The broker believes whoever it lets in. */
export interface IdentityOptions {
  /** The user, 1 to 256 bytes without control characters: what the broker counts, limits and lists users by. */
  readonly user?: string;
  /** Which of the user's devices, as `user`; only beside that. */
  readonly device?: string;
  /**
   * Opens the session of the device, which outlives the connection and the program: see {@link SubscribeOptions.session}.
   * Needs `user` and `device`. A session has one client; another one of the device takes it over, and the earlier ends
   * with `session_replaced`.
   */
  readonly session?: boolean;
  /**
   * Whether the client hears what it publishes itself: all of it (if left out), nothing of this `connection`, or nothing
   * of its `device`, over all of the device's connections that say so. Groups and history know no echoes.
   */
  readonly echo?: Echo;
}

export type Echo = "all" | "connection" | "device";

/** How a session was found when it was opened last. */
export interface SessionState {
  /** Whether it was there already; after a reconnect, whether it is still the one of before. */
  readonly resumed: boolean;
  /** How long it outlives the last connection of its device, in milliseconds. */
  readonly expiresMs: number;
  /** What it hears, and about how many messages wait there: never less than there are, up to the bound of a mailbox. */
  readonly filters: readonly { readonly filter: string; readonly waiting: number }[];
}

export interface DevicesOptions extends TransferOptions {
  /** Whose; one's own if left out. */
  readonly user?: string;
}

/** A device that the broker remembers. */
export interface Device {
  readonly user: string;
  readonly device: string;
  /** Whether it has a connection. */
  readonly online: boolean;
  /** In milliseconds since the Unix epoch. */
  readonly lastSeen: number;
  readonly session: boolean;
  /** About how many messages wait for its session: never less than there are, up to the bound of a mailbox. */
  readonly waiting: number;
}

export interface KickOptions {
  /** Only this one; all of the user's devices and connections if left out. */
  readonly device?: string;
  /** What those who are sent away are told. */
  readonly reason?: string;
}

export interface UserDescription {
  readonly user: string;
  readonly online: boolean;
  /** In milliseconds since the Unix epoch; 0 if nothing is remembered. */
  readonly lastSeen: number;
  readonly connections: number;
  readonly devices: number;
}
