/** The public types of consumer groups. */

import type { Gap, Message, MessageHeaders, StartPosition } from "./types.ts";

/**
 * A consumer group by its name: making this handle asks nothing of the broker. Every message of a group's topics goes to
 * one of its members.
 */
export interface ConsumerGroup {
  readonly name: string;

  /**
   * Creates the group or changes its configuration. What is left out stays, or takes the default for a new group. Needs
   * the right to manage. `conflicting_config` if it contradicts itself or the kind that the group has.
   */
  configure(config?: GroupConfig): Promise<GroupDescription>;

  /** Its configuration, members and how far it is. `unknown_group` if there is none. */
  describe(): Promise<GroupDescription>;

  /** Deletes the group and its dead letters; members end with `unknown_group`. Needs the right to manage. */
  delete(): Promise<void>;

  /**
   * Moves the group to another place, in all of its topics, in one, or in one partition; also while it is in use. An
   * offset needs a partition, or a topic that has only one. Needs the right to manage.
   */
  reset(to: StartPosition, where?: ResetOptions): Promise<void>;

  /** Stops deliveries until `resume`; leases go on running. Needs the right to manage. */
  pause(): Promise<void>;

  resume(): Promise<void>;

  /** What a queue gave up and nobody has dealt with yet, the oldest first. */
  deadLetters(options?: DeadLettersOptions): AsyncIterableIterator<DeadLetter>;

  /**
   * Delivers dead letters to the group again, all of them or those that are named; how many. What a member acknowledges
   * is done, what nobody takes stays a dead letter. Needs the right to manage.
   */
  replayDeadLetters(options?: ReplayOptions): Promise<number>;

  /** Deletes dead letters, all of them or those that are named; how many. Needs the right to manage. */
  deleteDeadLetters(options?: DeadOffsets): Promise<number>;
}

/** A `queue` leases single messages to its members, a `partitioned` group gives each partition to one of them. */
export type GroupKind = "queue" | "partitioned";

/** How a partitioned group spreads partitions over its members; `sticky` is even with the fewest moves. */
export type GroupStrategy = "sticky" | "round_robin" | "range" | "consistent_hash";

/** How long a message of a queue waits to be delivered again. */
export type RetryBackoff = "none" | "fixed" | "linear" | "exponential";

export interface GroupConfig {
  /** `queue` if left out. Fixed once the group exists. */
  readonly kind?: GroupKind;
  /** Of a partitioned group; `sticky` if left out. */
  readonly strategy?: GroupStrategy;
  /** Added to the filters for topics that the group has. */
  readonly filters?: readonly string[];
  /** Where the group begins in topics that new filters match; `earliest` if left out. */
  readonly from?: StartPosition;
  /** How long a member of a queue may keep a message before it is delivered again, in milliseconds; 30 s if left out. */
  readonly ackDeadlineMs?: number;
  /** After so many deliveries a message is a dead letter, from 1 to 1000; 5 if left out. */
  readonly maxDeliveryAttempts?: number;
  /** `exponential` if left out. */
  readonly retry?: RetryBackoff;
  /** The first wait, in milliseconds; 1 s if left out. */
  readonly retryMs?: number;
  /** The longest wait, in milliseconds; 1 h if left out. */
  readonly retryMsMax?: number;
  /** How long a member may be silent or away, in milliseconds. The client says often enough that it lives. */
  readonly sessionMs?: number;
  /** How long a member may take to let go of a partition, in milliseconds; 60 s if left out. */
  readonly rebalanceMs?: number;
  /** So many dead letters raise the broker's event, once; 0, and if left out, for never. */
  readonly deadLettersAlert?: number;
}

export interface GroupDescription {
  readonly group: string;
  readonly kind: GroupKind;
  readonly strategy: GroupStrategy;
  /** Rises with every change of who has which partition. */
  readonly generation: number;
  readonly paused: boolean;
  readonly filters: readonly string[];
  readonly ackDeadlineMs: number;
  readonly maxDeliveryAttempts: number;
  readonly retry: RetryBackoff;
  readonly retryMs: number;
  readonly retryMsMax: number;
  readonly sessionMs: number;
  readonly rebalanceMs: number;
  readonly deadLettersAlert: number;
  /** How many nobody has dealt with. */
  readonly deadLetters: number;
  readonly members: readonly MemberDescription[];
  /** By topic and partition. */
  readonly partitions: readonly GroupPartition[];
}

export interface MemberDescription {
  readonly member: string;
  /** The broker's number of its connection; 0 while it is away. */
  readonly connection: number;
  /** Of a queue: how many messages it has. */
  readonly inFlight: number;
  /** Of a partitioned group: how many partitions it has. */
  readonly partitions: number;
}

export interface GroupPartition {
  readonly topic: string;
  readonly partition: number;
  /** Everything below it is done. */
  readonly committedOffset: bigint;
  /** The offset that the next message of the log will get. */
  readonly logEndOffset: bigint;
  /** How many messages are not done. */
  readonly lag: number;
  /** Who has the partition, in a partitioned group. */
  readonly member?: string;
}

export interface ResetOptions {
  readonly topic?: string;
  /** Needs `topic`. */
  readonly partition?: number;
}

export interface DeadLettersOptions {
  /** Only those of topics that match. */
  readonly filter?: string;
  /** Only those that died of this. */
  readonly reason?: DeadReason;
  /** Only those from this `deadOffset` on. */
  readonly fromOffset?: bigint;
  readonly signal?: AbortSignal;
}

/** It was delivered as often as it may be, or a member rejected it. */
export type DeadReason = "max_delivery_attempts" | "rejected";

export interface DeadOffsets {
  /** The `deadOffset` of each; all that nobody has dealt with if left out. `offset_out_of_range` if one is not there. */
  readonly offsets?: readonly bigint[];
}

export interface ReplayOptions extends DeadOffsets {
  /** At most so many a second; at once if left out. */
  readonly rate?: number;
}

/** A message that a queue gave up, as it was, in its old place. */
export interface DeadLetter extends Message {
  /** Its place among the group's dead letters. */
  readonly deadOffset: bigint;
  /** When it was given up, in milliseconds since the Unix epoch. */
  readonly diedAt: number;
  readonly reason: DeadReason;
  /** What the member said that rejected it. */
  readonly note?: string;
  /** How often it was delivered. */
  readonly attempts: number;
}
