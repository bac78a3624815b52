/** The public types of consumer groups. */

import type { Answerable, Gap, Message, StartPosition } from "./types.ts";

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

  /**
   * Joins a queue, which is created if there is none, for the topics that the filters match. It is asked for at once;
   * deliveries wait for the first iteration. Needs the rights to subscribe and to read history.
   */
  joinQueue(filters: string | readonly string[], options?: QueueOptions): QueueMember;

  /** Joins a partitioned group, which is created if there is none; otherwise as `joinQueue`. */
  joinPartitioned(filters: string | readonly string[], options?: PartitionedOptions): PartitionedMember;
}

/** Where a group begins in topics that exist when they become its own. */
export type GroupStart = "earliest" | "latest" | `timestamp:${number}`;

interface JoinOptions {
  /** Where the group begins in topics that these filters bring to it; `earliest` if left out. */
  readonly from?: GroupStart;
  /**
   * A name that makes it the same member whenever it comes back: it keeps what it has for the group's `sessionMs` without
   * a connection, and whoever joins under the name takes its place. The broker names who has none.
   */
  readonly member?: string;
  /** Called in its place between deliveries when retention took messages before the group got them. */
  readonly onGap?: (gap: Gap) => void;
  /** Leaves the group; the iteration throws the signal's reason. */
  readonly signal?: AbortSignal;
}

export interface QueueOptions extends JoinOptions {
  /**
   * How many messages it may have at once, those that wait in the client included; 100 if left out. The time of each runs
   * from when it was sent, so whose work is slow takes few.
   */
  readonly maxInFlight?: number;
}

export interface PartitionedOptions extends JoinOptions {
  /** How a group that this creates spreads its partitions; `sticky` if left out. */
  readonly strategy?: GroupStrategy;
  /** How many deliveries may wait in the client to be taken; 256 if left out. */
  readonly credit?: number;
  /**
   * With `auto` (if left out) a delivery counts as processed when the next one is asked for, by one loop. The one with
   * which a loop is left does not, because an iterator is not told whether by `break` or by an error: it comes again,
   * unless it was committed. With `manual` only what is committed counts.
   */
  readonly commit?: "auto" | "manual";
  /** With `auto`, what was processed is committed after so many milliseconds at the latest; 1000 if left out. */
  readonly commitEveryMs?: number;
  /** Called before the first delivery of partitions that it was given; after a lost connection all are given anew. */
  readonly onAssigned?: (partitions: readonly TopicPartition[]) => void;
  /**
   * Called when it is to let go of partitions, after the delivery of them that the program works on, and before what was
   * processed is committed and another member gets them. What it returns is awaited, as long as the group's `rebalanceMs`
   * allows. Not called for what is lost with the connection.
   */
  readonly onRevoked?: (partitions: readonly TopicPartition[]) => void | Promise<void>;
}

export interface TopicPartition {
  readonly topic: string;
  readonly partition: number;
}

/**
 * A membership in a group, whose deliveries are taken with `for await`. It outlives connections: it joins again by itself,
 * also when the broker took it for gone. Leaving the loop, `close`, `await using` and the signal each leave the group.
 * The iteration throws only what would come of joining again too: `forbidden`, `member_replaced`, `unknown_group` when the
 * group was deleted, `conflicting_config`, `invalid_argument`.
 */
interface Membership<Delivered> extends AsyncIterableIterator<Delivered>, AsyncDisposable {
  /** The name of the group. */
  readonly group: string;
  /** Resolves when the broker has taken it as a member; rejects if it refuses. */
  readonly ready: Promise<void>;
  /** Its name in the group, once it has joined. */
  readonly member: string | undefined;
  /** Leaves the group, when what is being settled or committed is answered; the iteration ends. */
  close(): Promise<void>;
}

/** A member of a queue. What it had when it leaves is delivered to others at once. */
export interface QueueMember extends Membership<QueueDelivery> {
  /** Several at once; what is not settled, because its lease ended, is told and not thrown. */
  ack(deliveries: readonly QueueDelivery[]): Promise<FailedLease[]>;
  nack(deliveries: readonly QueueDelivery[], options?: NackOptions): Promise<FailedLease[]>;
  reject(deliveries: readonly QueueDelivery[], options?: RejectOptions): Promise<FailedLease[]>;
  extend(deliveries: readonly QueueDelivery[], options?: ExtendOptions): Promise<FailedLease[]>;
}

/**
 * A message that this member has until it settles it, or its time is over. What is settled in one turn of the program
 * leaves as one command. Each rejects with `unknown_lease` if the lease ended: it was settled, its time was over, or
 * whoever had it left the group; and with `connection_lost` if the answer never came.
 */
export interface QueueDelivery extends Message, Answerable {
  /** Which delivery of the message this is, from 1. */
  readonly attempt: number;
  /** It is done. Resolves when that is as durable as the message. */
  ack(): Promise<void>;
  /** It is delivered again. */
  nack(options?: NackOptions): Promise<void>;
  /** It is a dead letter. */
  reject(options?: RejectOptions): Promise<void>;
  /** It is kept longer. */
  extend(options?: ExtendOptions): Promise<void>;
}

export interface NackOptions {
  /** After so many milliseconds; as the group's `retry` says if left out. */
  readonly delayMs?: number;
}

export interface RejectOptions {
  /** Kept with the dead letter, as its `note`; at most 1024 bytes. */
  readonly reason?: string;
}

export interface ExtendOptions {
  /** So many milliseconds from now; the group's `ackDeadlineMs` if left out. */
  readonly extendMs?: number;
}

/** What could not be settled. */
export interface FailedLease {
  readonly delivery: QueueDelivery;
  readonly code: "unknown_lease" | (string & {});
}

/** A member of a partitioned group: whole partitions are its own, and their messages come in the order of offsets. */
export interface PartitionedMember extends Membership<PartitionDelivery> {
  /** Rises with every change of who has which partition, as far as the member was told. */
  readonly generation: number;
  /** What it has. */
  readonly assignment: readonly TopicPartition[];
  /**
   * Commits these deliveries and all before them in their partitions; all that were taken so far if left out. Rejects with
   * `stale_generation` if a partition is not the member's any more; then nothing of it is committed.
   */
  commit(deliveries?: readonly PartitionDelivery[]): Promise<void>;
}

export interface PartitionDelivery extends Message, Answerable {
  /** Commits it and all before it in its partition; rejects as that of the member does. */
  commit(): Promise<void>;
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
  readonly from?: GroupStart;
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
  /** How long a member may be silent or away, in milliseconds, 100 or more. The client says often enough that it lives. */
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
