/**
 * The whole vocabulary of the protocol. Mirrors `core/src/protocol/frame.rs`: with those of `codec.ts`, which every client
 * has, the layouts are that file's table in short. A test compares them, so neither can change alone.
 */

import { Codec, KEPT, PROPERTIES, PUBLISHED, STORED, basic } from "./codec.ts";
import type { MessageHeaders } from "./types.ts";

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
  | {
      type: "hello";
      version: number;
      client?: string | undefined;
      ephemeral?: boolean | undefined;
      echo?: string | undefined;
    }
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
      type: "transact";
      request: number;
      messages?: readonly MessageFields[] | undefined;
      leases?: readonly Lease[] | undefined;
      offsets?: readonly Commitment[] | undefined;
      durability?: string | undefined;
      waitMs?: number | undefined;
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
    }
  | { type: "open_session"; request: number; token?: string | undefined }
  | { type: "ack_session"; request: number; subscription: number; sequence: bigint }
  | { type: "read_mailbox"; request: number; after?: bigint | undefined; messagesMax?: number | undefined }
  | { type: "end_session"; request: number }
  | {
      type: "list_devices";
      request: number;
      user?: string | undefined;
      after?: string | undefined;
      devicesMax?: number | undefined;
    }
  | {
      type: "kick";
      request: number;
      user: string;
      device?: string | undefined;
      reason?: string | undefined;
    }
  | { type: "describe_user"; request: number; user: string }
  | { type: "list_users"; request: number; after?: string | undefined; usersMax?: number | undefined }
  | { type: "enter"; request: number; topic: string; data?: Uint8Array | undefined }
  | { type: "leave"; request: number; topic: string }
  | { type: "watch_presence"; request: number; subscription: number; topic: string }
  | {
      type: "read_presence";
      request: number;
      topic: string;
      after?: string | undefined;
      membersMax?: number | undefined;
    }
  | {
      type: "configure_namespace";
      request: number;
      publishRate?: number | undefined;
      bytesRate?: number | undefined;
      subscriptionsMax?: number | undefined;
      topicsMax?: number | undefined;
      connectionsMax?: number | undefined;
      payloadBytesMax?: number | undefined;
      storedBytesMax?: number | undefined;
    }
  | { type: "describe_namespace"; request: number; days?: number | undefined }
  | { type: "delete_namespace"; request: number }
  | { type: "list_namespaces"; request: number; after?: string | undefined; namespacesMax?: number | undefined };

/** A place in a partition: the next offset to read. */
export interface Position {
  topic: string;
  partition: number;
  offset: bigint;
}

/** An offset that a member commits in a transaction. */
export interface Commitment extends Position {
  subscription: number;
  generation: number;
}

/** Who is present on a topic. */
export interface PresenceMember {
  user: string;
  device: string;
  connection: number;
  since: number;
  data?: Uint8Array;
}

/** What happened there: `join`, `leave`, `timeout` or `update`. */
export interface PresenceEvent {
  event: string;
  user: string;
  device: string;
  connection: number;
  at: number;
  data?: Uint8Array;
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

export interface MailboxRecord extends RecordFields {
  topic: string;
  partition: number;
}

export interface DeviceFields {
  user: string;
  device: string;
  online: boolean;
  lastSeen: number;
  session: boolean;
  waiting: number;
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
    }
  | { type: "transacted"; request: number; receipts: Place[] }
  | {
      type: "session";
      request: number;
      token: string;
      resumed: boolean;
      expiresMs: number;
      filters: { filter: string; waiting: number }[];
    }
  | { type: "mailbox"; request: number; waiting: number; more: boolean; records: MailboxRecord[] }
  | { type: "devices"; request: number; devices: DeviceFields[]; more: boolean }
  | {
      type: "user";
      request: number;
      user: string;
      online: boolean;
      lastSeen: number;
      connections: number;
      devices: number;
    }
  | { type: "users"; request: number; users: string[]; more: boolean; online: number }
  | {
      type: "presence";
      request: number;
      topic: string;
      members: PresenceMember[];
      more: boolean;
      present: number;
      users: number;
      next?: string;
    }
  | { type: "presence_event"; subscription: number; events: PresenceEvent[] }
  | ({ type: "namespace"; request: number } & NamespaceFields)
  | { type: "namespaces"; request: number; namespaces: string[]; more: boolean };

/** A namespace: its quotas, 0 where there is none, what it has, and what it used. */
export interface NamespaceFields {
  namespace: string;
  publishRate: number;
  bytesRate: number;
  subscriptionsMax: number;
  topicsMax: number;
  connectionsMax: number;
  payloadBytesMax: number;
  storedBytesMax: number;
  storedBytes: number;
  connections: number;
  subscriptions: number;
  topics: number;
  usage: DayUsage[];
}

/** What a namespace used on a day, which is counted from the Unix epoch. */
export interface DayUsage {
  day: number;
  messages: number;
  bytes: number;
  deliveries: number;
  connections: number;
  storedBytes: number;
}

const ITEMS: Readonly<Record<string, string>> = {
  ...basic.items,
  ScheduledMessage: "scheduleId:int topic:str deliverAt:int sizeBytes:int ; 1 key:str 2 id:str",
  Record: `${STORED} ; ${PROPERTIES} ${KEPT}`,
  Extent: "logStartOffset:u64 logEndOffset:u64 sizeBytes:int",
  Limit: "scope:str name:str rate:int perMs:int burst:int adaptive:flag factor:int inherited:flag",
  Position: "topic:str partition:int offset:u64",
  Commitment: "subscription:int generation:int topic:str partition:int offset:u64",
  Lease: "lease:int",
  DeadOffset: "offset:u64",
  GroupMember: "member:str connection:int inFlight:int partitions:int",
  GroupPartition: "topic:str partition:int committedOffset:u64 logEndOffset:u64 lag:int ; 1 member:str",
  FailedLease: "lease:int code:str",
  RuleCondition: "part:str test:str ; 1 value:str",
  RuleAction: "action:str ; 1 topic:str 2 header:str 3 value:str",
  Rule: "rule:str version:int order:int enabled:flag filter:str when:[RuleCondition] then:[RuleAction]",
  SessionFilter: "filter:str waiting:int",
  MailboxRecord: `topic:str partition:int ${STORED} ; ${PROPERTIES} ${KEPT}`,
  DeviceDescription: "user:str device:str online:flag lastSeen:int session:flag waiting:int",
  RuleStep: "rule:str topic:str applied:flag told:str",
  RoutedMessage: "topic:str ; 3 headers:headers",
  PresenceMember: "user:str device:str connection:int since:int ; 1 data:bytes",
  PresenceEvent: "event:str user:str device:str connection:int at:int ; 1 data:bytes",
  DayUsage: "day:int messages:int bytes:int deliveries:int connections:int storedBytes:int",
};

/** Kind, name and layout of every command. */
export const COMMANDS: readonly (readonly [number, Command["type"], string])[] = [
  ...basic.commands,
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
    37,
    "transact",
    "request:int ; 1 messages:[Message] 2 leases:[Lease] 3 offsets:[Commitment] 4 durability:str 5 waitMs:int",
  ],
  [
    38,
    "configure_rule",
    "request:int rule:str ; 1 filter:str 2 when:[RuleCondition] 3 then:[RuleAction] 4 order:int 5 enabled:flag",
  ],
  [39, "delete_rule", "request:int rule:str"],
  [40, "list_rules", "request:int"],
  [41, "explain", `request:int ${PUBLISHED} ; ${PROPERTIES}`],
  [42, "open_session", "request:int ; 1 token:str"],
  [43, "ack_session", "request:int subscription:int sequence:u64"],
  [44, "read_mailbox", "request:int ; 1 after:u64 2 messagesMax:int"],
  [45, "end_session", "request:int"],
  [46, "list_devices", "request:int ; 1 user:str 2 after:str 3 devicesMax:int"],
  [47, "kick", "request:int user:str ; 1 device:str 2 reason:str"],
  [48, "enter", "request:int topic:str ; 1 data:bytes"],
  [49, "leave", "request:int topic:str"],
  [50, "watch_presence", "request:int subscription:int topic:str"],
  [51, "read_presence", "request:int topic:str ; 1 after:str 2 membersMax:int"],
  [52, "describe_user", "request:int user:str"],
  [53, "list_users", "request:int ; 1 after:str 2 usersMax:int"],
  [
    54,
    "configure_namespace",
    "request:int ; 1 publishRate:int 2 bytesRate:int 3 subscriptionsMax:int 4 topicsMax:int 5 connectionsMax:int 6 payloadBytesMax:int 7 storedBytesMax:int",
  ],
  [55, "describe_namespace", "request:int ; 1 days:int"],
  [56, "delete_namespace", "request:int"],
  [57, "list_namespaces", "request:int ; 1 after:str 2 namespacesMax:int"],
];

/** Kind, name and layout of every reply. */
export const REPLIES: readonly (readonly [number, Reply["type"], string])[] = [
  ...basic.replies,
  [138, "page", "request:int logStartOffset:u64 logEndOffset:u64 nextOffset:u64 records:[Record]"],
  [
    139,
    "topic",
    "request:int topic:str kind:str ordering:str durability:str maxMessages:int maxBytes:int maxAgeMs:int partitions:[Extent] ; 1 dedupMs:int",
  ],
  [140, "topics", "request:int topics:strings more:flag"],
  [141, "pong", "request:int now:int"],
  [144, "archive_part", "request:int export:u64 part:int last:flag bytes:bytes"],
  [145, "imported", "request:int import:u64 part:int rows:int"],
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
  [158, "transacted", "request:int receipts:[Place]"],
  [159, "session", "request:int token:str resumed:flag expiresMs:int filters:[SessionFilter]"],
  [160, "mailbox", "request:int waiting:int more:flag records:[MailboxRecord]"],
  [161, "devices", "request:int devices:[DeviceDescription] more:flag"],
  [162, "user", "request:int user:str online:flag lastSeen:int connections:int devices:int"],
  [163, "users", "request:int users:strings more:flag online:int"],
  [
    164,
    "presence",
    "request:int topic:str members:[PresenceMember] more:flag present:int users:int ; 1 next:str",
  ],
  [165, "presence_event", "subscription:int events:[PresenceEvent]"],
  [
    166,
    "namespace",
    "request:int namespace:str publishRate:int bytesRate:int subscriptionsMax:int topicsMax:int connectionsMax:int payloadBytesMax:int storedBytesMax:int storedBytes:int connections:int subscriptions:int topics:int usage:[DayUsage]",
  ],
  [167, "namespaces", "request:int namespaces:strings more:flag"],
];

export const whole = new Codec(COMMANDS, REPLIES, ITEMS);
export const encodeCommand = whole.encodeCommand.bind(whole);
export const encodeReply = whole.encodeReply.bind(whole);
export const decodeCommands = whole.decodeCommands.bind(whole);
export const decodeReplies = whole.decodeReplies.bind(whole);

/** The layout of every item, for the test that compares with the core. */
export function itemLayouts(): Readonly<Record<string, string>> {
  return ITEMS;
}
