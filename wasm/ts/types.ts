/** The public types of the package, the same for a broker far away and for one in the page. */

import type { DunlinError } from "./errors.ts";
import type { ConsumerGroup } from "./group-types.ts";
import type { Presence } from "./presence-types.ts";
import type { Explanation, RoutingRule, RuleConfig, Transaction } from "./routing-types.ts";
import type { Device, DevicesOptions, IdentityOptions, KickOptions, SessionState, UserDescription } from "./session-types.ts";

export type * from "./group-types.ts";
export type * from "./presence-types.ts";
export type * from "./routing-types.ts";
export type * from "./session-types.ts";

/** A connection to one namespace of a broker. It connects again by itself, and its subscriptions go on. */
export interface Client extends AsyncDisposable {
  /** What the connection is doing. */
  readonly state: ClientState;

  /** Calls `listener` at every change of the state; the returned function ends that. */
  on(event: "state", listener: (change: StateChange) => void): () => void;

  /**
   * Publishes one message. Resolves when it has reached the durability that the topic or `options` asks for.
   *
   * If the connection ends first it rejects with `connection_lost`: the message may or may not be stored. With
   * `retry: true` it is sent again instead, under one id, and stored once: see {@link PublishBatchOptions.retry}.
   */
  publish(topic: string, payload: Uint8Array | string, options?: PublishOptions): Promise<Receipt>;

  /** Publishes several messages, all or none; the receipts are in their order. */
  publishBatch(messages: readonly OutgoingMessage[], options?: PublishBatchOptions): Promise<Receipt[]>;

  /**
   * Publishes messages, acknowledges deliveries of queues and commits deliveries of partitioned groups, all or nothing,
   * also over a crash; the receipts are those of the messages. Whatever is wrong rejects all of it.
   *
   * A message that is made of a delivery should have an `id` that is made of it too: where the transaction was done
   * already, by whoever had the delivery before, it is then not done again, and the delivery is acknowledged. With
   * `retry: true` it is sent again when the connection ends, under the ids that its messages have or get.
   */
  transaction(parts: Transaction, options?: PublishBatchOptions): Promise<Receipt[]>;

  /**
   * Publishes a message that one of those who hear it answers, with {@link Delivery.respond}. Rejects with
   * `no_responders` if nobody would hear it, in which case it is not published, and with `timeout` if nobody answers in
   * time, in which case it may have been heard.
   */
  request(topic: string, payload: Uint8Array | string, options?: RequestOptions): Promise<Answer>;

  /**
   * The messages that wait for their time, in the order in which they will be published. Needs the right to publish or
   * to manage.
   */
  scheduled(options?: ListOptions): AsyncIterableIterator<ScheduledMessage>;

  /** Takes back a message that waits for its time; `unknown_schedule` if it does not wait any more. */
  cancelScheduled(scheduleId: number): Promise<void>;

  /**
   * Subscribes to a topic, or to all topics that match a filter with `+` (one level) and `#` (all further levels).
   * It is asked for at once; deliveries wait for the first iteration.
   */
  subscribe(filter: string, options?: SubscribeOptions): Subscription;

  /** The session of the device, as it was when it was opened last; undefined without one. */
  readonly session: SessionState | undefined;

  /**
   * What waits for the session of this client's user and device, over all of its filters, oldest first and each message
   * once; nothing is taken by this. The session need not be open.
   */
  mailbox(options?: TransferOptions): AsyncIterableIterator<Message>;

  /** About how many messages wait there: never less than there are, up to the bound of a mailbox for each filter. */
  waiting(): Promise<number>;

  /** Ends the session and its subscriptions, and forgets what waits for it: the device logs out. */
  endSession(): Promise<void>;

  /** The devices of a user that the broker remembers; those of others only with the right to manage. */
  devices(options?: DevicesOptions): AsyncIterableIterator<Device>;

  /**
   * Sends a device of a user away, or all that the user has: their connections are closed for good, and their sessions
   * are over. Resolves with how many that were. One's own user freely, others only with the right to manage.
   */
  kick(user: string, options?: KickOptions): Promise<number>;

  /** The names of the users that have connections, in byte order. Needs the right to see who is present. */
  users(options?: TransferOptions): AsyncIterableIterator<string>;

  /** Whether a user has connections, and when it was last heard of. Needs the right to see who is present. */
  describeUser(user: string): Promise<UserDescription>;

  /** Reads what is stored in one partition of a topic, up to the end as it is when the first page is read. */
  history(topic: string, options?: HistoryOptions): AsyncIterableIterator<Message>;

  /** Creates a topic or changes its configuration. What is left out stays, or takes the default for a new topic. */
  configureTopic(topic: string, config?: TopicConfig): Promise<TopicDescription>;

  /** A topic's configuration and extent. */
  describeTopic(topic: string): Promise<TopicDescription>;

  /** The names of topics, in byte order. */
  listTopics(options?: ListOptions): AsyncIterableIterator<string>;

  /** Deletes a topic and its messages. */
  deleteTopic(topic: string): Promise<void>;

  /** Who is present on a topic, which need not exist; nothing is asked of the broker yet. */
  presence(topic: string): Presence;

  /** A consumer group, which need not exist yet; nothing is asked of the broker. */
  group(name: string): ConsumerGroup;

  /** The names of consumer groups, in byte order. */
  groups(options?: TransferOptions): AsyncIterableIterator<string>;

  /** The rate limits that hold in the namespace. Needs the right to manage. */
  limits(): Promise<Limit[]>;

  /** Sets a rate limit; its buckets begin full. Needs the right to manage. */
  configureLimit(limit: LimitConfig): Promise<void>;

  /** Removes a rate limit; one of the broker's configuration then holds again. Needs the right to manage. */
  deleteLimit(limit: LimitName): Promise<void>;

  /** The routing rules, in the order of their turns. Needs the right to manage. */
  rules(): Promise<RoutingRule[]>;

  /**
   * Creates a routing rule, which needs `filter` and `then`, or changes one: what is left out stays. It holds from then
   * on. Needs the right to manage.
   */
  configureRule(name: string, config: RuleConfig): Promise<void>;

  /** Deletes a routing rule. Needs the right to manage. */
  deleteRule(name: string): Promise<void>;

  /** What the routing rules would make of a message, which is not published. Needs the right to manage. */
  explain(topic: string, payload: Uint8Array | string, options?: ExplainOptions): Promise<Explanation>;

  /**
   * The namespace as an archive, as it is when the iteration begins, whatever is published meanwhile. The next part is
   * asked for when the one before was taken; a pause of a minute ends the export. Needs the right to manage.
   */
  export(options?: TransferOptions): AsyncIterableIterator<Uint8Array>;

  /**
   * Makes the namespace, which must be new, of an archive. It takes effect as a whole or not at all, and survives a
   * crash of the broker's machine once this resolves. Needs the right to manage.
   */
  import(source: ArchiveSource, options?: TransferOptions): Promise<Imported>;

  /** Ends everything: subscriptions end, and what waits for an answer is rejected with `closed`. */
  close(): Promise<void>;
}

/** `reconnecting` comes after `open`; `closed` is final. */
export type ClientState = "connecting" | "open" | "reconnecting" | "closed";

export interface StateChange {
  readonly state: ClientState;
  readonly previous: ClientState;
  /** Why the connection ended, or why the last attempt failed. */
  readonly error?: DunlinError;
  /** With `reconnecting`: in how many milliseconds the next attempt is made. */
  readonly retryInMs?: number;
}

/** When a message survives a crash of the broker's machine. See the broker's durability table. */
export type Durability = "none" | "async" | "sync";

/** Ordered pairs of name and value. */
export type MessageHeaders = readonly (readonly [name: string, value: string])[];

/** What may travel with a payload. */
export interface MessageOptions {
  /** Orders messages of one key, and picks the partition. */
  readonly key?: string;
  /** The media type of the payload. */
  readonly contentType?: string;
  readonly headers?: MessageHeaders;
  /** The publisher's name for the message: published again within the topic's `dedupMs` it is not stored again. */
  readonly id?: string;
  /** Not delivered later than so many milliseconds after it was published. */
  readonly ttlMs?: number;
  /** Queues deliver higher ones first; 0 if left out. Above 0 only on topics with the ordering `none`. */
  readonly priority?: Priority;
  /** Published so many milliseconds from now; its receipt then has a `scheduleId` and no place yet. */
  readonly delayMs?: number;
  /** Published then, in milliseconds since the Unix epoch or as a `Date`; now if that is past. Not beside `delayMs`. */
  readonly deliverAt?: number | Date;
  /**
   * With `producerSequence`: stored once for ever, as long as this producer publishes something every 7 days. Sequences
   * may come in any order within 1,024 below the highest.
   */
  readonly producer?: string;
  readonly producerSequence?: bigint;
}

/** 4 is the highest. */
export type Priority = 0 | 1 | 2 | 3 | 4;

export interface PublishBatchOptions {
  /** The stronger of this and the topic's holds. */
  readonly durability?: Durability;
  /**
   * Send again if the connection ends before the receipt came. A message without an `id` or `producer` gets an id, so
   * that it is stored once, if it comes again within the topic's `dedupMs` (5 minutes; with 0 it may be stored twice).
   */
  readonly retry?: boolean;
  /** How long the broker may hold it back for a rate limit, in milliseconds, at most 1000; refused at once if left out. */
  readonly waitMs?: number;
  /** Stops waiting; the message may be published nevertheless. */
  readonly signal?: AbortSignal;
}

export interface PublishOptions extends MessageOptions, PublishBatchOptions {}

/** One message of a batch. */
export interface OutgoingMessage extends MessageOptions {
  readonly topic: string;
  readonly payload: Uint8Array | string;
}

/** Where a published message stands. */
export interface Receipt {
  /** Where it went: another than it was published to if routing rules say so. */
  readonly topic: string;
  readonly partition: number;
  /** Its place in the partition, from 0. */
  readonly offset: bigint;
  /** Its place in the namespace, over all topics. */
  readonly sequence: bigint;
  /** Whether it was published before and not stored again. */
  readonly duplicate: boolean;
  /** The number of a message that waits for its time; offset and sequence are 0 then. */
  readonly scheduleId?: number;
}

export interface RequestOptions extends Pick<MessageOptions, "key" | "contentType" | "headers" | "id"> {
  /** How long to wait for the answer, in milliseconds, at most 300,000; 30,000 if left out. */
  readonly timeoutMs?: number;
  /** Stops waiting; the request may be published nevertheless. */
  readonly signal?: AbortSignal;
}

/** What of a message routing rules look at. */
export type ExplainOptions = Pick<MessageOptions, "key" | "contentType" | "headers" | "id">;

/** What somebody answered to a request. */
export interface Answer extends Payload {
  readonly contentType?: string;
  readonly headers: MessageHeaders;
}

/** What may travel with an answer. */
export interface RespondOptions {
  readonly contentType?: string;
  readonly headers?: MessageHeaders;
}

/** A message that waits for its time. */
export interface ScheduledMessage {
  readonly scheduleId: number;
  readonly topic: string;
  /** When it will be published, in milliseconds since the Unix epoch. */
  readonly deliverAt: number;
  /** Of payload and headers. */
  readonly sizeBytes: number;
  readonly key?: string;
  readonly id?: string;
}

/** Bytes, and what they spell. */
export interface Payload {
  readonly payload: Uint8Array;
  /** The payload as text; throws if it is not UTF-8. */
  text(): string;
  /** The payload as JSON; throws if it is not. */
  json(): unknown;
}

/** A message as it is stored. */
export interface Message extends Payload {
  readonly topic: string;
  readonly partition: number;
  /** Its place in the partition, from 0. */
  readonly offset: bigint;
  /** Its place in the namespace, over all topics. */
  readonly sequence: bigint;
  /** When it was published, in milliseconds since the Unix epoch. */
  readonly timestamp: number;
  readonly key?: string;
  readonly contentType?: string;
  readonly headers: MessageHeaders;
  readonly id?: string;
  readonly priority: Priority;
  /** When it stops to be delivered, in milliseconds since the Unix epoch. */
  readonly expiresAt?: number;
}

/** A message that can be answered, if it is a request. */
export interface Answerable {
  /** Whether it is a request, whose publisher waits for an answer. */
  readonly expectsAnswer: boolean;
  /**
   * Answers a request; the first answer wins. Rejects with `unknown_request` if nobody waits for it: it was answered, its
   * time is over, who asked is gone, or it never was a request. Needs the right to publish.
   */
  respond(payload: Uint8Array | string, options?: RespondOptions): Promise<void>;
}

/** A message on its way to a subscription. */
export interface Delivery extends Message, Answerable {
  /** Given as `from` to a later subscription with the same filter, it goes on after this delivery. */
  readonly position: StartPosition;
}

/** Where to begin. */
export type StartPosition =
  | "latest"
  | "earliest"
  | `offset:${bigint}`
  | `timestamp:${number}`
  | `last:${number}`
  | `resume:${string}`;

/** What happens when a subscription falls further behind than it may. */
export type OnLag = "drop_oldest" | "drop_newest" | "block" | "close";

export interface SubscribeOptions {
  /** `latest` if left out. */
  readonly from?: StartPosition;
  /** How many deliveries may wait in the client to be taken; 256 if left out. */
  readonly credit?: number;
  /** `drop_oldest` if left out. */
  readonly onLag?: OnLag;
  /** How many messages it may be behind before `onLag` acts. */
  readonly lagMax?: number;
  /** Only this partition of the one topic. */
  readonly partition?: number;
  /**
   * Belongs to the session of the device: what is published while the device is away waits for it, and a later client
   * goes on behind the last message that the program was done with, which it is when it asks for the next one. Ending
   * the subscription takes the filter out of the session; closing the client does not. Not beside `from` or `partition`.
   */
  readonly session?: boolean;
  /** Called in its place between deliveries when messages are missing there. */
  readonly onGap?: (gap: Gap) => void;
  /** Ends the subscription; the iteration throws the signal's reason. */
  readonly signal?: AbortSignal;
}

/**
 * The deliveries of one subscription, taken with `for await`. Leaving the loop, `close`, `await using` and the signal
 * each unsubscribe. An error of the broker is thrown by the iteration, after the deliveries that came before it.
 */
export interface Subscription extends AsyncIterableIterator<Delivery>, AsyncDisposable {
  readonly filter: string;
  /** Resolves when the broker has taken the subscription; rejects if it refuses. */
  readonly ready: Promise<void>;
  /** After what was taken last, or where it began: given as `from` to a later subscription, it goes on from there. */
  readonly position: StartPosition | undefined;
  /** Unsubscribes; the iteration ends. */
  close(): Promise<void>;
}

/** Messages that a subscription does not get. */
export interface Gap {
  /** Retention took them, the policy for lag did, a crash of the broker did, or their bytes are damaged. */
  readonly reason: "trimmed" | "dropped" | "truncated" | "unreadable" | (string & {});
  /** The sequences above `after`, up to and with `to`, are missing where the filter matches. */
  readonly after: bigint;
  readonly to: bigint;
  /** How many messages, where that is known. */
  readonly count?: number;
  /** Where the gap lies in one partition: which, and the offsets from the first missing to the first after. */
  readonly topic?: string;
  readonly partition?: number;
  readonly fromOffset?: bigint;
  readonly toOffset?: bigint;
}

export interface HistoryOptions {
  /** `earliest` if left out. */
  readonly from?: StartPosition;
  /** 0 if left out. */
  readonly partition?: number;
  /** At most so many messages. */
  readonly limit?: number;
  readonly signal?: AbortSignal;
}

/** `live` keeps nothing, `last_value` one message, `compacted` the last one of each key. */
export type TopicKind = "live" | "log" | "last_value" | "compacted";

export type TopicOrdering = "none" | "per_key" | "per_topic" | "global";

export interface TopicConfig {
  /** Fixed once the topic exists. */
  readonly kind?: TopicKind;
  /** Fixed once the topic exists. */
  readonly ordering?: TopicOrdering;
  /** Fixed once the topic exists. */
  readonly partitions?: number;
  readonly durability?: Durability;
  /** What a partition keeps; 0 for no bound. */
  readonly maxMessages?: number;
  readonly maxBytes?: number;
  readonly maxAgeMs?: number;
  /** How long ids are remembered, in milliseconds, at most 24 h; 300,000 for a new topic, 0 for not at all. */
  readonly dedupMs?: number;
}

export interface TopicDescription {
  readonly topic: string;
  readonly kind: TopicKind;
  readonly ordering: TopicOrdering;
  readonly durability: Durability;
  /** What a partition keeps; 0 for no bound. */
  readonly maxMessages: number;
  readonly maxBytes: number;
  readonly maxAgeMs: number;
  /** How long ids are remembered, in milliseconds. */
  readonly dedupMs: number;
  /** By index. */
  readonly partitions: readonly PartitionExtent[];
}

export interface PartitionExtent {
  /** The first offset that is kept. */
  readonly logStartOffset: bigint;
  /** The offset that the next message will get. */
  readonly logEndOffset: bigint;
  readonly sizeBytes: number;
}

/** The bytes of an archive: all of them, or one piece after the other, as from `export`, `fetch` or a file. */
export type ArchiveSource = Uint8Array | ByteFile | ByteStream | AsyncIterable<Uint8Array>;

/** What is used of a `Blob` or `File`. */
export interface ByteFile {
  stream(): ByteStream;
}

/** What is used of a `ReadableStream`. */
export interface ByteStream {
  getReader(): {
    read(): Promise<{ done: boolean; value?: Uint8Array | undefined }>;
    cancel(): Promise<void>;
  };
}

export interface TransferOptions {
  /** Ends it with the signal's reason; of an import nothing stays. */
  readonly signal?: AbortSignal;
}

export interface Imported {
  /** How many rows the archive had. */
  readonly rows: number;
}

export interface ListOptions {
  /** Only those of topics that match; all if left out. */
  readonly filter?: string;
  readonly signal?: AbortSignal;
}

/** Whom a bucket of a rate limit limits: deliveries of a `subscriber`, and publishing of all others. */
export type LimitScope = "namespace" | "topic" | "connection" | "subscriber" | "user" | "ip";

/** Which limit. */
export interface LimitName {
  readonly scope: LimitScope;
  /** The topic, user or address; if left out it is for everybody of that scope, each with a bucket of its own. */
  readonly name?: string;
}

export interface LimitConfig extends LimitName {
  /** So many messages in `perMs`, 1 to 10^9. */
  readonly rate: number;
  /** In milliseconds, 1 to a day; 1000 if left out. */
  readonly perMs?: number;
  /** So many at once, 1 to 10^8; as `rate` if left out. */
  readonly burst?: number;
  /** Whether the rate follows the load of the broker. */
  readonly adaptive?: boolean;
}

/** A rate limit that holds. */
export interface Limit extends Required<Omit<LimitConfig, "name">>, LimitName {
  /** What the rate is multiplied by at the moment, 0.1 to 1. */
  readonly factor: number;
  /** Whether it is the broker's configuration, because the namespace has none of its own. */
  readonly inherited: boolean;
}

/** Where runs what the tabs of a site share: in a SharedWorker where there is one, or always in one of the tabs. */
export type Sharing = "worker" | "tab";

export interface SharingOptions {
  /** For `openLocal` `worker` if left out. A client of `connect` has its own connection if this is left out. */
  readonly sharing?: Sharing;
  /** Only needed where the package's own `shared-worker.js` cannot be found, see the README. */
  readonly worker?: string | URL;
}

export interface ConnectOptions extends SharingOptions, IdentityOptions {
  /** The namespace, where the URL has no path of its own; `default` if left out. */
  readonly namespace?: string;
  /** The token that opens the namespace. It travels in the URL, because browsers can send no header here. */
  readonly token?: string;
  /** What this program is, for the broker's logs. */
  readonly clientName?: string;
  /** Resolve at once, in the state `connecting`, and keep trying; commands wait. */
  readonly background?: boolean;
  /** Ends the attempt to connect; has no meaning once connected. */
  readonly signal?: AbortSignal;
}

/** Where the broker's WebAssembly is, or its bytes, or the module itself. */
export type WasmSource = string | URL | ArrayBuffer | ArrayBufferView | Global<"Response"> | Global<"Module", "WebAssembly">;

/** A type of the platform, where the program's compiler knows the platform. */
type Global<Name extends string, Space extends string = ""> = Space extends ""
  ? typeof globalThis extends Readonly<Record<Name, { prototype: infer Type }>>
    ? Type
    : never
  : typeof globalThis extends Readonly<Record<Space, Readonly<Record<Name, { prototype: infer Type }>>>>
    ? Type
    : never;

/** A client of a broker in this browser. */
export interface LocalClient extends Client {
  /** Whether the browser promised to keep the database when the disk fills up. It may ask a person first; never rejects. */
  readonly persisted: Promise<boolean>;
}

export interface LocalOptions extends SharingOptions, IdentityOptions {
  /**
   * The broker's name. Clients of one name share one broker: in memory those of the page, on a database those of all
   * tabs. `dunlin` if left out.
   */
  readonly name?: string;
  /** `memory` (if left out) is gone with the page; `indexeddb` keeps the messages in the database of that name. */
  readonly store?: "memory" | "indexeddb";
  /** `default` if left out. */
  readonly namespace?: string;
  /** The broker's bounds; what is left out takes the default. */
  readonly config?: Readonly<Record<string, unknown>>;
  /** Only needed where the package's own file cannot be found, see the README. */
  readonly wasm?: WasmSource;
  readonly signal?: AbortSignal;
}
