/**
 * The wire protocol in its binary encoding: commands to bytes, bytes to replies. Mirrors `core/src/protocol/frame.rs`.
 *
 * The layouts below are that file's table in short: required fields in order, and behind the semicolon the optional
 * ones with their tags. A test compares both, so neither can change alone.
 */

import type { MessageHeaders } from "./types.ts";
import { Malformed, Reader, Writer } from "./wire.ts";

export const PROTOCOL_VERSION = 1;
export const SUBPROTOCOL_BINARY = "dunlin.v1.binary";

export interface MessageFields {
  topic: string;
  payload: Uint8Array;
  key?: string | undefined;
  contentType?: string | undefined;
  headers?: MessageHeaders | undefined;
  id?: string | undefined;
  ttlMs?: number | undefined;
  delayMs?: number | undefined;
  deliverAt?: number | undefined;
  producer?: string | undefined;
  producerSequence?: bigint | undefined;
  priority?: number | undefined;
}

export interface AnswerFields {
  payload: Uint8Array;
  contentType?: string | undefined;
  headers?: MessageHeaders | undefined;
}

/** What a client says. */
export type Command =
  | { type: "hello"; version: number; client?: string | undefined; ephemeral?: boolean | undefined }
  | ({
      type: "publish";
      request: number;
      durability?: string | undefined;
      waitMs?: number | undefined;
    } & MessageFields)
  | {
      type: "publish_batch";
      request: number;
      messages: readonly MessageFields[];
      durability?: string | undefined;
      waitMs?: number | undefined;
    }
  | {
      type: "subscribe";
      request: number;
      subscription: number;
      filter: string;
      from?: string | undefined;
      credit?: number | undefined;
      onLag?: string | undefined;
      lagMax?: number | undefined;
      partition?: number | undefined;
    }
  | { type: "unsubscribe"; request: number; subscription: number }
  | { type: "credit"; subscription: number; messages: number }
  | {
      type: "read";
      request: number;
      topic: string;
      partition: number;
      from?: string | undefined;
      messagesMax?: number | undefined;
      bytesMax?: number | undefined;
    }
  | {
      type: "configure_topic";
      request: number;
      topic: string;
      kind?: string | undefined;
      ordering?: string | undefined;
      partitions?: number | undefined;
      durability?: string | undefined;
      maxMessages?: number | undefined;
      maxBytes?: number | undefined;
      maxAgeMs?: number | undefined;
      dedupMs?: number | undefined;
    }
  | { type: "describe_topic"; request: number; topic: string }
  | {
      type: "list_topics";
      request: number;
      filter?: string | undefined;
      after?: string | undefined;
      topicsMax?: number | undefined;
    }
  | { type: "delete_topic"; request: number; topic: string }
  | { type: "ping"; request: number }
  | {
      type: "request";
      request: number;
      topic: string;
      payload: Uint8Array;
      key?: string | undefined;
      contentType?: string | undefined;
      headers?: MessageHeaders | undefined;
      id?: string | undefined;
      timeoutMs?: number | undefined;
    }
  | ({ type: "respond"; request: number; replyTo: number } & AnswerFields)
  | {
      type: "list_scheduled";
      request: number;
      filter?: string | undefined;
      after?: number | undefined;
      scheduledMax?: number | undefined;
    }
  | { type: "cancel_scheduled"; request: number; scheduleId: number }
  | { type: "export"; request: number; export: bigint; part: number }
  | { type: "import"; request: number; import: bigint; part: number; last: boolean; bytes: Uint8Array }
  | {
      type: "configure_limit";
      request: number;
      scope: string;
      name: string;
      rate?: number | undefined;
      perMs?: number | undefined;
      burst?: number | undefined;
      adaptive?: boolean | undefined;
    }
  | { type: "list_limits"; request: number }
  | {
      type: "configure_group";
      request: number;
      group: string;
      kind?: string | undefined;
      strategy?: string | undefined;
      filters?: readonly string[] | undefined;
      from?: string | undefined;
      ackDeadlineMs?: number | undefined;
      maxDeliveryAttempts?: number | undefined;
      retry?: string | undefined;
      retryMs?: number | undefined;
      retryMsMax?: number | undefined;
      sessionMs?: number | undefined;
      rebalanceMs?: number | undefined;
      deadLettersAlert?: number | undefined;
    }
  | {
      type: "join";
      request: number;
      subscription: number;
      group: string;
      filters: readonly string[];
      kind?: string | undefined;
      strategy?: string | undefined;
      from?: string | undefined;
      member?: string | undefined;
      credit?: number | undefined;
      maxInFlight?: number | undefined;
    }
  | { type: "rebalanced"; subscription: number; generation: number }
  | { type: "commit"; request: number; subscription: number; generation: number; offsets: readonly Position[] }
  | { type: "ack"; request: number; leases: readonly Lease[] }
  | { type: "nack"; request: number; leases: readonly Lease[]; delayMs?: number | undefined }
  | { type: "reject"; request: number; leases: readonly Lease[]; reason?: string | undefined }
  | { type: "extend"; request: number; leases: readonly Lease[]; extendMs?: number | undefined }
  | {
      type: "reset_group";
      request: number;
      group: string;
      to: string;
      topic?: string | undefined;
      partition?: number | undefined;
    }
  | { type: "pause_group"; request: number; group: string; paused: boolean }
  | { type: "describe_group"; request: number; group: string }
  | { type: "list_groups"; request: number; after?: string | undefined; groupsMax?: number | undefined }
  | { type: "delete_group"; request: number; group: string }
  | {
      type: "read_dead_letters";
      request: number;
      group: string;
      fromOffset?: bigint | undefined;
      messagesMax?: number | undefined;
      filter?: string | undefined;
      reason?: string | undefined;
    }
  | {
      type: "replay_dead_letters";
      request: number;
      group: string;
      offsets?: readonly { offset: bigint }[] | undefined;
      rate?: number | undefined;
    }
  | {
      type: "delete_dead_letters";
      request: number;
      group: string;
      offsets?: readonly { offset: bigint }[] | undefined;
    }
  | {
      type: "configure_rule";
      request: number;
      rule: string;
      filter?: string | undefined;
      when?: readonly RuleCondition[] | undefined;
      then?: readonly RuleAction[] | undefined;
      order?: number | undefined;
      enabled?: boolean | undefined;
    }
  | { type: "delete_rule"; request: number; rule: string }
  | { type: "list_rules"; request: number }
  | {
      type: "explain";
      request: number;
      topic: string;
      payload: Uint8Array;
      key?: string | undefined;
      contentType?: string | undefined;
      headers?: MessageHeaders | undefined;
      id?: string | undefined;
    };

/** A place in a partition: the next offset to read. */
export interface Position {
  topic: string;
  partition: number;
  offset: bigint;
}

/** A lease by its number. */
export interface Lease {
  lease: number;
}

/** What of a message a routing rule looks at, and what it must be. */
export interface RuleCondition {
  part: string;
  test: string;
  value?: string | undefined;
}

/** What a routing rule does with a message. */
export interface RuleAction {
  action: string;
  topic?: string | undefined;
  header?: string | undefined;
  value?: string | undefined;
}

export interface RuleFields {
  rule: string;
  version: number;
  order: number;
  enabled: boolean;
  filter: string;
  when: RuleCondition[];
  then: RuleAction[];
}

export interface Place {
  partition: number;
  offset: bigint;
  sequence: bigint;
  duplicate: boolean;
  scheduleId?: number;
  topic?: string;
}

export interface ScheduledFields {
  scheduleId: number;
  topic: string;
  deliverAt: number;
  sizeBytes: number;
  key?: string;
  id?: string;
}

export interface RecordFields {
  offset: bigint;
  sequence: bigint;
  timestamp: number;
  payload: Uint8Array;
  key?: string;
  contentType?: string;
  headers?: MessageHeaders;
  id?: string;
  expiresAt?: number;
  replyTo?: number;
  priority?: number;
}

/** A rate limit that holds in the namespace. */
export interface LimitFields {
  scope: string;
  name: string;
  rate: number;
  perMs: number;
  burst: number;
  adaptive: boolean;
  /** What the rate is multiplied by at the moment, in thousandths. */
  factor: number;
  /** Whether it is the broker's, since the namespace has none. */
  inherited: boolean;
}

export interface Welcome {
  type: "hello";
  version: number;
  incarnation: number;
  connection: number;
  now: number;
  features: string[];
  payloadBytesMax?: number;
  inboundBytesMax?: number;
  batchMessagesMax?: number;
  readMessagesMax?: number;
  creditMax?: number;
  subscriptionsMax?: number;
}

/** What the broker says. */
export type Reply =
  | Welcome
  | ({ type: "receipt"; request: number } & Place)
  | { type: "receipts"; request: number; receipts: Place[] }
  | { type: "subscribed"; request: number; subscription: number; token: string; sequence: bigint }
  | { type: "ok"; request: number }
  | { type: "error"; request: number; code: string; message: string; retryAfterMs?: number }
  | ({
      type: "delivery";
      subscription: number;
      topic: string;
      partition: number;
      lease?: number;
      attempt?: number;
    } & RecordFields)
  | {
      type: "gap";
      subscription: number;
      reason: string;
      after: bigint;
      to: bigint;
      count?: number;
      topic?: string;
      partition?: number;
      fromOffset?: bigint;
      toOffset?: bigint;
    }
  | { type: "ended"; subscription: number; code: string; message: string }
  | {
      type: "page";
      request: number;
      logStartOffset: bigint;
      logEndOffset: bigint;
      nextOffset: bigint;
      records: RecordFields[];
    }
  | {
      type: "topic";
      request: number;
      topic: string;
      kind: string;
      ordering: string;
      durability: string;
      maxMessages: number;
      maxBytes: number;
      maxAgeMs: number;
      partitions: { logStartOffset: bigint; logEndOffset: bigint; sizeBytes: number }[];
      dedupMs?: number;
    }
  | { type: "topics"; request: number; topics: string[]; more: boolean }
  | { type: "pong"; request: number; now: number }
  | { type: "resync" }
  | { type: "going_away"; reconnectAfterMs: number }
  | { type: "archive_part"; request: number; export: bigint; part: number; last: boolean; bytes: Uint8Array }
  | ({ type: "response"; request: number } & AnswerFields)
  | { type: "scheduled"; request: number; scheduled: ScheduledFields[]; more: boolean }
  | { type: "imported"; request: number; import: bigint; part: number; rows: number }
  | { type: "limits"; request: number; limits: LimitFields[] }
  | {
      type: "group";
      request: number;
      group: string;
      kind: string;
      strategy: string;
      generation: number;
      paused: boolean;
      filters: string[];
      ackDeadlineMs: number;
      maxDeliveryAttempts: number;
      retry: string;
      retryMs: number;
      retryMsMax: number;
      sessionMs: number;
      rebalanceMs: number;
      deadLettersAlert: number;
      deadLetters: number;
      members: { member: string; connection: number; inFlight: number; partitions: number }[];
      partitions: {
        topic: string;
        partition: number;
        committedOffset: bigint;
        logEndOffset: bigint;
        lag: number;
        member?: string;
      }[];
    }
  | {
      type: "joined";
      request: number;
      subscription: number;
      member: string;
      generation: number;
      heartbeatMs: number;
    }
  | { type: "settled"; request: number; failed: { lease: number; code: string }[] }
  | { type: "groups"; request: number; groups: string[]; more: boolean }
  | { type: "dead_letters"; request: number; nextOffset: bigint; more: boolean; records: RecordFields[] }
  | { type: "affected"; request: number; messages: number }
  | { type: "assignment"; subscription: number; generation: number; assigned: Position[]; revoked: Position[] }
  | { type: "rules"; request: number; rules: RuleFields[] }
  | {
      type: "explanation";
      request: number;
      steps: { rule: string; topic: string; applied: boolean; told: string }[];
      messages: { topic: string; headers?: MessageHeaders }[];
    };

/**
 * `int` is a varint read as a number, `u64` one read as a bigint (offsets and sequences); `[Name]` is a list of items
 * of that layout.
 */
const PUBLISHED = "topic:str payload:bytes";
const PROPERTIES = "1 key:str 2 contentType:str 3 headers:headers 4 id:str";
const WHEN = "5 ttlMs:int 6 delayMs:int 7 deliverAt:int";
const PRODUCED = "10 producer:str 11 producerSequence:u64 12 priority:int";
const KEPT = "5 expiresAt:int 6 replyTo:int 7 priority:int";
const ANSWER = "2 contentType:str 3 headers:headers";
const STORED = "offset:u64 sequence:u64 timestamp:int payload:bytes";

const ITEMS: Readonly<Record<string, string>> = {
  Message: `${PUBLISHED} ; ${PROPERTIES} ${WHEN} ${PRODUCED}`,
  Place: "partition:int offset:u64 sequence:u64 duplicate:flag ; 1 scheduleId:int 2 topic:str",
  ScheduledMessage: "scheduleId:int topic:str deliverAt:int sizeBytes:int ; 1 key:str 2 id:str",
  Record: `${STORED} ; ${PROPERTIES} ${KEPT}`,
  Extent: "logStartOffset:u64 logEndOffset:u64 sizeBytes:int",
  Limit: "scope:str name:str rate:int perMs:int burst:int adaptive:flag factor:int inherited:flag",
  Position: "topic:str partition:int offset:u64",
  Lease: "lease:int",
  DeadOffset: "offset:u64",
  GroupMember: "member:str connection:int inFlight:int partitions:int",
  GroupPartition: "topic:str partition:int committedOffset:u64 logEndOffset:u64 lag:int ; 1 member:str",
  FailedLease: "lease:int code:str",
  RuleCondition: "part:str test:str ; 1 value:str",
  RuleAction: "action:str ; 1 topic:str 2 header:str 3 value:str",
  Rule: "rule:str version:int order:int enabled:flag filter:str when:[RuleCondition] then:[RuleAction]",
  RuleStep: "rule:str topic:str applied:flag told:str",
  RoutedMessage: "topic:str ; 3 headers:headers",
};

/** Kind, name and layout of every command. */
export const COMMANDS: readonly (readonly [number, Command["type"], string])[] = [
  [1, "hello", "version:int ; 1 client:str 2 ephemeral:flag"],
  [
    2,
    "publish",
    `request:int ${PUBLISHED} ; ${PROPERTIES} ${WHEN} 8 durability:str 9 waitMs:int ${PRODUCED}`,
  ],
  [3, "publish_batch", "request:int messages:[Message] ; 8 durability:str 9 waitMs:int"],
  [
    4,
    "subscribe",
    "request:int subscription:int filter:str ; 1 from:str 2 credit:int 3 onLag:str 4 lagMax:int 5 partition:int",
  ],
  [5, "unsubscribe", "request:int subscription:int"],
  [6, "credit", "subscription:int messages:int"],
  [7, "read", "request:int topic:str partition:int ; 1 from:str 2 messagesMax:int 3 bytesMax:int"],
  [
    8,
    "configure_topic",
    "request:int topic:str ; 1 kind:str 2 ordering:str 3 partitions:int 4 durability:str 5 maxMessages:int 6 maxBytes:int 7 maxAgeMs:int 8 dedupMs:int",
  ],
  [9, "describe_topic", "request:int topic:str"],
  [10, "list_topics", "request:int ; 1 filter:str 2 after:str 3 topicsMax:int"],
  [11, "delete_topic", "request:int topic:str"],
  [12, "ping", "request:int"],
  [13, "export", "request:int export:u64 part:int"],
  [14, "import", "request:int import:u64 part:int last:flag bytes:bytes"],
  [15, "request", `request:int ${PUBLISHED} ; ${PROPERTIES} 5 timeoutMs:int`],
  [16, "respond", `request:int replyTo:int payload:bytes ; ${ANSWER}`],
  [17, "list_scheduled", "request:int ; 1 filter:str 2 after:int 3 scheduledMax:int"],
  [18, "cancel_scheduled", "request:int scheduleId:int"],
  [19, "configure_limit", "request:int scope:str name:str ; 1 rate:int 2 perMs:int 3 burst:int 4 adaptive:flag"],
  [20, "list_limits", "request:int"],
  [
    21,
    "configure_group",
    "request:int group:str ; 1 kind:str 2 strategy:str 3 filters:strings 4 from:str 5 ackDeadlineMs:int 6 maxDeliveryAttempts:int 7 retry:str 8 retryMs:int 9 retryMsMax:int 10 sessionMs:int 11 rebalanceMs:int 12 deadLettersAlert:int",
  ],
  [
    22,
    "join",
    "request:int subscription:int group:str filters:strings ; 1 kind:str 2 strategy:str 3 from:str 4 member:str 5 credit:int 6 maxInFlight:int",
  ],
  [23, "rebalanced", "subscription:int generation:int"],
  [24, "commit", "request:int subscription:int generation:int offsets:[Position]"],
  [25, "ack", "request:int leases:[Lease]"],
  [26, "nack", "request:int leases:[Lease] ; 1 delayMs:int"],
  [27, "reject", "request:int leases:[Lease] ; 1 reason:str"],
  [28, "extend", "request:int leases:[Lease] ; 1 extendMs:int"],
  [29, "reset_group", "request:int group:str to:str ; 1 topic:str 2 partition:int"],
  [30, "pause_group", "request:int group:str paused:flag"],
  [31, "describe_group", "request:int group:str"],
  [32, "list_groups", "request:int ; 1 after:str 2 groupsMax:int"],
  [33, "delete_group", "request:int group:str"],
  [
    34,
    "read_dead_letters",
    "request:int group:str ; 1 fromOffset:u64 2 messagesMax:int 3 filter:str 4 reason:str",
  ],
  [35, "replay_dead_letters", "request:int group:str ; 1 offsets:[DeadOffset] 2 rate:int"],
  [36, "delete_dead_letters", "request:int group:str ; 1 offsets:[DeadOffset]"],
  [
    38,
    "configure_rule",
    "request:int rule:str ; 1 filter:str 2 when:[RuleCondition] 3 then:[RuleAction] 4 order:int 5 enabled:flag",
  ],
  [39, "delete_rule", "request:int rule:str"],
  [40, "list_rules", "request:int"],
  [41, "explain", `request:int ${PUBLISHED} ; ${PROPERTIES}`],
];

/** Kind, name and layout of every reply. */
export const REPLIES: readonly (readonly [number, Reply["type"], string])[] = [
  [
    129,
    "hello",
    "version:int incarnation:int connection:int now:int features:strings ; 1 payloadBytesMax:int 2 inboundBytesMax:int 3 batchMessagesMax:int 4 readMessagesMax:int 5 creditMax:int 6 subscriptionsMax:int",
  ],
  [130, "receipt", "request:int partition:int offset:u64 sequence:u64 duplicate:flag ; 1 scheduleId:int 2 topic:str"],
  [131, "receipts", "request:int receipts:[Place]"],
  [132, "subscribed", "request:int subscription:int token:str sequence:u64"],
  [133, "ok", "request:int"],
  [134, "error", "request:int code:str message:str ; 1 retryAfterMs:int"],
  [135, "delivery", `subscription:int topic:str partition:int ${STORED} ; ${PROPERTIES} ${KEPT} 8 lease:int 9 attempt:int`],
  [
    136,
    "gap",
    "subscription:int reason:str after:u64 to:u64 ; 1 count:int 2 topic:str 3 partition:int 4 fromOffset:u64 5 toOffset:u64",
  ],
  [137, "ended", "subscription:int code:str message:str"],
  [138, "page", "request:int logStartOffset:u64 logEndOffset:u64 nextOffset:u64 records:[Record]"],
  [
    139,
    "topic",
    "request:int topic:str kind:str ordering:str durability:str maxMessages:int maxBytes:int maxAgeMs:int partitions:[Extent] ; 1 dedupMs:int",
  ],
  [140, "topics", "request:int topics:strings more:flag"],
  [141, "pong", "request:int now:int"],
  [142, "resync", ""],
  [143, "going_away", "reconnectAfterMs:int"],
  [144, "archive_part", "request:int export:u64 part:int last:flag bytes:bytes"],
  [145, "imported", "request:int import:u64 part:int rows:int"],
  [146, "response", `request:int payload:bytes ; ${ANSWER}`],
  [147, "scheduled", "request:int scheduled:[ScheduledMessage] more:flag"],
  [148, "limits", "request:int limits:[Limit]"],
  [
    149,
    "group",
    "request:int group:str kind:str strategy:str generation:int paused:flag filters:strings ackDeadlineMs:int maxDeliveryAttempts:int retry:str retryMs:int retryMsMax:int sessionMs:int rebalanceMs:int deadLettersAlert:int deadLetters:int members:[GroupMember] partitions:[GroupPartition]",
  ],
  [150, "joined", "request:int subscription:int member:str generation:int heartbeatMs:int"],
  [151, "settled", "request:int failed:[FailedLease]"],
  [152, "groups", "request:int groups:strings more:flag"],
  [153, "dead_letters", "request:int nextOffset:u64 more:flag records:[Record]"],
  [154, "affected", "request:int messages:int"],
  [155, "assignment", "subscription:int generation:int assigned:[Position] revoked:[Position]"],
  [156, "rules", "request:int rules:[Rule]"],
  [157, "explanation", "request:int steps:[RuleStep] messages:[RoutedMessage]"],
];

interface FieldSpec {
  readonly name: string;
  readonly kind: string;
  /** 0 for a required field. */
  readonly tag: number;
}

const layouts = new Map<string, readonly FieldSpec[]>();

/** The fields of a layout; each text is read once. */
function fieldsOf(layout: string): readonly FieldSpec[] {
  let fields = layouts.get(layout);
  if (fields === undefined) {
    const [required = "", optional = ""] = layout.split(" ; ");
    fields = [
      ...Array.from(required.matchAll(/(\w+):(\S+)/g), ([, name = "", kind = ""]) => ({ name, kind, tag: 0 })),
      ...Array.from(optional.matchAll(/(\d+) (\w+):(\S+)/g), ([, tag, name = "", kind = ""]) => ({
        name,
        kind,
        tag: Number(tag),
      })),
    ];
    layouts.set(layout, fields);
  }
  return fields;
}

type Fields = Record<string, unknown>;

/** The frame's bytes, its length in front. */
export function encodeCommand(command: Command): Uint8Array {
  return encodeFrame(COMMANDS, command);
}

/** The same for a reply; only tests and fakes say what brokers say. */
export function encodeReply(reply: Reply): Uint8Array {
  return encodeFrame(REPLIES, reply);
}

const scratch = new Writer();

function encodeFrame(table: readonly (readonly [number, string, string])[], frame: Command | Reply): Uint8Array {
  const [kind, , layout] = table.find(([, name]) => name === frame.type) as readonly [number, string, string];
  // A frame that could not be spelt may have left something.
  scratch.clear();
  scratch.prefixed(() => {
    scratch.u8(kind);
    putFields(layout, frame as unknown as Fields, scratch);
  });
  return scratch.take();
}

/** What cannot be spelt: the message says which field, and what belongs there. */
class Unspellable extends Error {}

const SPELLINGS: Readonly<Record<string, string>> = {
  int: "an integer from 0 to 2^53 - 1",
  u64: "a bigint from 0 to 2^64 - 1",
  flag: "true or false",
  str: "a string",
  bytes: "a Uint8Array",
  headers: "a list of pairs of strings",
  strings: "a list of strings",
};

function putFields(layout: string, fields: Fields, out: Writer): void {
  for (const { name, kind, tag } of fieldsOf(layout)) {
    const value = fields[name];
    try {
      if (tag === 0) {
        putValue(kind, value, out);
      } else if (value !== undefined) {
        out.u8(tag);
        out.prefixed(() => putValue(kind, value, out));
      }
    } catch (cause) {
      if (cause instanceof Unspellable) throw cause;
      throw new Unspellable(`${name} must be ${SPELLINGS[kind] ?? "a list"}, not ${String(value)}`, { cause });
    }
  }
}

function putValue(kind: string, value: unknown, out: Writer): void {
  switch (kind) {
    case "int":
      return out.int(value as number);
    case "u64":
      return out.u64(value as bigint);
    case "flag":
      return out.flag(value as boolean);
    case "str":
      return out.str(value as string);
    case "bytes":
      return out.bytes(value as Uint8Array);
  }
  out.prefixed(() => {
    if (kind === "headers") {
      for (const [name, text] of value as MessageHeaders) {
        out.str(name);
        out.str(text);
      }
    } else if (kind === "strings") {
      for (const text of value as readonly string[]) out.str(text);
    } else {
      for (const fields of value as readonly Fields[]) out.prefixed(() => putFields(itemLayout(kind), fields, out));
    }
  });
}

/**
 * The replies in a message; {@link Malformed} if it is none. Kinds that this version does not know are passed over, and
 * so are their fields. Payloads are copies: they belong to whoever gets them.
 */
export function decodeReplies(message: Uint8Array): Reply[] {
  return decodeFrames(REPLIES, message) as Reply[];
}

/** The same for commands; only tests and fakes hear what clients say. */
export function decodeCommands(message: Uint8Array): Command[] {
  return decodeFrames(COMMANDS, message) as Command[];
}

function decodeFrames(table: readonly (readonly [number, string, string])[], message: Uint8Array): unknown[] {
  const reader = new Reader(message);
  const frames: unknown[] = [];
  while (!reader.isEmpty) {
    const body = new Reader(reader.bytes());
    const kind = body.u8();
    const known = table.find(([number]) => number === kind);
    if (known !== undefined) frames.push(takeFields(known[2], body, { type: known[1] }));
  }
  return frames;
}

function takeFields(layout: string, reader: Reader, into: Fields): Fields {
  const fields = fieldsOf(layout);
  for (const { name, kind, tag } of fields) if (tag === 0) into[name] = takeValue(kind, reader);
  for (let last = 0; !reader.isEmpty; ) {
    const tag = reader.u8();
    if (tag <= last) throw new Malformed("optional fields are out of order");
    last = tag;
    const value = new Reader(reader.bytes());
    const field = fields.find((candidate) => candidate.tag === tag);
    if (field === undefined) continue;
    into[field.name] = takeValue(field.kind, value);
    value.end();
  }
  return into;
}

function takeValue(kind: string, reader: Reader): unknown {
  switch (kind) {
    case "int":
      return reader.saturating();
    case "u64":
      return reader.u64();
    case "flag":
      return reader.flag();
    case "str":
      return reader.str();
    case "bytes":
      return reader.copy();
  }
  const list = new Reader(reader.bytes());
  const values: unknown[] = [];
  while (!list.isEmpty) {
    if (kind === "headers") values.push([list.str(), list.str()]);
    else if (kind === "strings") values.push(list.str());
    else values.push(takeFields(itemLayout(kind), new Reader(list.bytes()), {}));
  }
  return values;
}

function itemLayout(kind: string): string {
  return ITEMS[kind.slice(1, -1)] as string;
}

/** The layout of every item, for the test that compares with the core. */
export function itemLayouts(): Readonly<Record<string, string>> {
  return ITEMS;
}
