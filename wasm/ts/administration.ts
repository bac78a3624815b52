/** What is asked of a broker now and then: what it has stored, and how it is configured. */

import type { Connection, Unnumbered } from "./connection.ts";
import { DunlinError, invalid } from "./errors.ts";
import type { RecordFields } from "./frames.ts";
import { Received } from "./message.ts";
import type {
  DeadLetter,
  DeadLettersOptions,
  DeadOffsets,
  DeadReason,
  ExplainOptions,
  Explanation,
  GroupConfig,
  GroupDescription,
  HistoryOptions,
  Limit,
  LimitConfig,
  LimitName,
  LimitScope,
  ListOptions,
  Message,
  ReplayOptions,
  ResetOptions,
  RoutingRule,
  RuleConfig,
  ScheduledMessage,
  StartPosition,
  TopicConfig,
  TopicDescription,
  TransferOptions,
} from "./types.ts";

/** How many names or messages are asked for at once. */
const PAGE_NAMES = 1000;
const PAGE_MESSAGES = 256;

/** The headers that tell of a death begin with this. */
const DEAD_PREFIX = "dunlin-dead-";

export async function* history(connection: Connection, topic: string, options: HistoryOptions): AsyncGenerator<Message, void> {
  const { partition = 0, signal, limit = Number.MAX_SAFE_INTEGER } = options;
  if (!Number.isSafeInteger(limit) || limit < 0) throw invalid(`limit must be an integer from 0 on, not ${limit}`);
  let from: string = options.from ?? "earliest";
  let end: bigint | undefined;
  for (let left = limit; left > 0; ) {
    const command: Unnumbered = { type: "read", topic, partition, from, messagesMax: Math.min(left, PAGE_MESSAGES) };
    const page = await connection.ask("page", command, "resend", signal);
    end ??= page.logEndOffset;
    for (const record of page.records) {
      if (record.offset >= end) return;
      yield new Received(topic, partition, record);
      left -= 1;
    }
    if (page.nextOffset >= end) return;
    from = `offset:${page.nextOffset}`;
  }
}

export async function configureTopic(connection: Connection, topic: string, config: TopicConfig): Promise<TopicDescription> {
  return description(connection, { ...config, type: "configure_topic", topic });
}

export async function describeTopic(connection: Connection, topic: string): Promise<TopicDescription> {
  return description(connection, { type: "describe_topic", topic });
}

async function description(connection: Connection, command: Unnumbered): Promise<TopicDescription> {
  const { type: _type, request: _request, ...topic } = await connection.ask("topic", command, "resend");
  // A broker that does not say remembers nothing.
  return { dedupMs: 0, ...topic } as TopicDescription;
}

export async function deleteTopic(connection: Connection, topic: string): Promise<void> {
  await connection.ask("ok", { type: "delete_topic", topic }, "reject");
}

export async function* listTopics(connection: Connection, { filter, signal }: ListOptions): AsyncGenerator<string, void> {
  let after: string | undefined;
  for (;;) {
    const { topics, more } = await connection.ask("topics", { type: "list_topics", filter, after, topicsMax: PAGE_NAMES }, "resend", signal);
    yield* topics;
    after = topics.at(-1);
    if (!more || after === undefined) return;
  }
}

export async function* scheduled(connection: Connection, { filter, signal }: ListOptions): AsyncGenerator<ScheduledMessage, void> {
  const listed = new Set<number>();
  // The numbers of the last page. A page begins after a message that still waits, so the program that cancels what it
  // is given, or time itself, may take away all of them.
  let places: number[] = [];
  for (;;) {
    const command: Unnumbered = { type: "list_scheduled", filter, after: places.at(-1), scheduledMax: PAGE_NAMES };
    try {
      const page = await connection.ask("scheduled", command, "resend", signal);
      for (const message of page.scheduled) {
        if (!listed.has(message.scheduleId)) yield message;
        listed.add(message.scheduleId);
      }
      if (!page.more) return;
      places = page.scheduled.map(({ scheduleId }) => scheduleId);
    } catch (error) {
      if (places.pop() === undefined || (error as DunlinError).code !== "unknown_schedule") throw error;
    }
  }
}

export async function cancelScheduled(connection: Connection, scheduleId: number): Promise<void> {
  await connection.ask("ok", { type: "cancel_scheduled", scheduleId }, "reject");
}

export async function limits(connection: Connection): Promise<Limit[]> {
  const reply = await connection.ask("limits", { type: "list_limits" }, "resend");
  return reply.limits.map(({ scope, name, factor, ...limit }) => ({
    scope: scope as LimitScope,
    ...(name !== "" && { name }),
    ...limit,
    factor: factor / 1000,
  }));
}

export async function configureLimit(connection: Connection, limit: LimitConfig): Promise<void> {
  // Without a rate it would be removed.
  if (limit.rate === undefined) throw invalid("a limit needs a rate: to remove it there is deleteLimit");
  await connection.ask("ok", { ...limit, name: limit.name ?? "", type: "configure_limit" }, "resend");
}

export async function deleteLimit(connection: Connection, { scope, name = "" }: LimitName): Promise<void> {
  await connection.ask("ok", { type: "configure_limit", scope, name }, "resend");
}

export async function rules(connection: Connection): Promise<RoutingRule[]> {
  const reply = await connection.ask("rules", { type: "list_rules" }, "resend");
  return reply.rules.map(({ rule, ...fields }) => ({ name: rule, ...fields }) as RoutingRule);
}

export async function configureRule(connection: Connection, rule: string, config: RuleConfig): Promise<void> {
  await connection.ask("ok", { ...config, type: "configure_rule", rule }, "resend");
}

export async function deleteRule(connection: Connection, rule: string): Promise<void> {
  await connection.ask("ok", { type: "delete_rule", rule }, "reject");
}

export async function explain(connection: Connection, topic: string, payload: Uint8Array, options: ExplainOptions): Promise<Explanation> {
  const { key, contentType, headers, id } = options;
  const command: Unnumbered = { type: "explain", topic, payload, key, contentType, headers, id };
  const { steps, messages } = await connection.ask("explanation", command, "resend");
  return { steps, messages };
}

export async function* groups(connection: Connection, { signal }: TransferOptions): AsyncGenerator<string, void> {
  let after: string | undefined;
  for (;;) {
    const page = await connection.ask("groups", { type: "list_groups", after, groupsMax: PAGE_NAMES }, "resend", signal);
    yield* page.groups;
    after = page.groups.at(-1);
    if (!page.more || after === undefined) return;
  }
}

export async function configureGroup(connection: Connection, group: string, config: GroupConfig): Promise<GroupDescription> {
  return described(connection, { ...config, type: "configure_group", group });
}

export async function describeGroup(connection: Connection, group: string): Promise<GroupDescription> {
  return described(connection, { type: "describe_group", group });
}

async function described(connection: Connection, command: Unnumbered): Promise<GroupDescription> {
  const { type: _type, request: _request, ...group } = await connection.ask("group", command, "resend");
  return group as GroupDescription;
}

export async function deleteGroup(connection: Connection, group: string): Promise<void> {
  await connection.ask("ok", { type: "delete_group", group }, "reject");
}

export async function resetGroup(connection: Connection, group: string, to: StartPosition, where: ResetOptions): Promise<void> {
  const { topic, partition } = where;
  await connection.ask("ok", { type: "reset_group", group, to, topic, partition }, "reject");
}

export async function pauseGroup(connection: Connection, group: string, paused: boolean): Promise<void> {
  await connection.ask("ok", { type: "pause_group", group, paused }, "resend");
}

export async function* deadLetters(connection: Connection, group: string, options: DeadLettersOptions): AsyncGenerator<DeadLetter, void> {
  const { filter, reason, signal } = options;
  let { fromOffset } = options;
  for (;;) {
    const command: Unnumbered = { type: "read_dead_letters", group, fromOffset, messagesMax: PAGE_MESSAGES, filter, reason };
    const page = await connection.ask("dead_letters", command, "resend", signal);
    for (const record of page.records) yield revived(record);
    if (!page.more) return;
    fromOffset = page.nextOffset;
  }
}

export async function replayDeadLetters(connection: Connection, group: string, { offsets, rate }: ReplayOptions): Promise<number> {
  const command: Unnumbered = { type: "replay_dead_letters", group, offsets: named(offsets), rate };
  return (await connection.ask("affected", command, "reject")).messages;
}

export async function deleteDeadLetters(connection: Connection, group: string, { offsets }: DeadOffsets): Promise<number> {
  const command: Unnumbered = { type: "delete_dead_letters", group, offsets: named(offsets) };
  return (await connection.ask("affected", command, "reject")).messages;
}

function named(offsets: readonly bigint[] | undefined): { offset: bigint }[] | undefined {
  return offsets?.map((offset) => ({ offset }));
}

/** A dead letter's headers say what the message was. */
function revived(record: RecordFields): DeadLetter {
  const told = new Map<string, string>();
  const headers = (record.headers ?? []).filter(([name, value]) => {
    const isTold = name.startsWith(DEAD_PREFIX);
    if (isTold) told.set(name.slice(DEAD_PREFIX.length), value);
    return !isTold;
  });
  const tell = (name: string): string => {
    const value = told.get(name);
    if (value === undefined) throw new DunlinError("malformed_frame", `dead letter ${record.offset} has no header ${DEAD_PREFIX}${name}`);
    return value;
  };
  const before: RecordFields = {
    ...record,
    headers,
    offset: BigInt(tell("offset")),
    sequence: BigInt(tell("sequence")),
    timestamp: Number(tell("timestamp")),
  };
  const note = told.get("note");
  return Object.assign(new Received(tell("topic"), Number(tell("partition")), before), {
    deadOffset: record.offset,
    diedAt: record.timestamp,
    reason: tell("reason") as DeadReason,
    attempts: Number(tell("attempts")),
    ...(note !== undefined && { note }),
  });
}
