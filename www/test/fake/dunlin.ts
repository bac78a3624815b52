/**
 * A client that does what a test says, for what a healthy broker does not do on demand: gaps, ends, lost connections,
 * bursts. It stands in for the package `dunlin` in a build of the console of its own; `window.fake` is its remote control.
 * It knows no rule of the broker: every message goes to every subscription, and topics are logs of one partition.
 */

import type {
  Client,
  ConsumerGroup,
  DeadLetter,
  Delivery,
  Gap,
  GroupDescription,
  Limit,
  Message,
  PublishOptions,
  Receipt,
  ScheduledMessage,
  StateChange,
  Subscription,
} from "dunlin";

export class DunlinError extends Error {
  override readonly name = "DunlinError";
  readonly code: string;
  readonly retryAfterMs: number | undefined;

  constructor(code: string, message: string, retryAfterMs?: number) {
    super(message);
    this.code = code;
    this.retryAfterMs = retryAfterMs;
  }
}

interface Tap {
  readonly queue: Delivery[];
  readonly onGap: ((gap: Gap) => void) | undefined;
  wake: () => void;
  ended: DunlinError | "closed" | undefined;
}

const taps = new Set<Tap>();
const logs = new Map<string, Message[]>();
const listeners = new Set<(change: StateChange) => void>();
let sequence = 0n;
let refusal: DunlinError | undefined;

/** What there is to look after, as a test says it; `asked` is what the page wanted to be done with it. */
const kept = {
  groups: [] as GroupDescription[],
  letters: [] as DeadLetter[],
  limits: [] as Limit[],
  scheduled: [] as ScheduledMessage[],
  asked: [] as unknown[][],
};

function allowed(): void {
  if (refusal !== undefined) throw refusal;
}

async function done(...asked: unknown[]): Promise<void> {
  allowed();
  kept.asked.push(asked);
}

async function* listed<T>(items: readonly T[]): AsyncGenerator<T, void> {
  allowed();
  yield* items;
}

function describe(name: string): GroupDescription {
  allowed();
  const group = kept.groups.find((one) => one.group === name);
  if (group === undefined) throw new DunlinError("unknown_group", `unknown group "${name}"`);
  return { ...group };
}

function group(name: string): ConsumerGroup {
  const handle: Partial<ConsumerGroup> = {
    name,
    describe: async () => describe(name),
    delete: () => done("delete", name),
    reset: (to, where) => done("reset", name, to, where),
    pause: () => done("pause", name),
    resume: () => done("resume", name),
    deadLetters: ({ fromOffset = 0n } = {}) => listed(kept.letters.filter(({ deadOffset }) => deadOffset >= fromOffset)),
    replayDeadLetters: async (options) => done("replay", name, options).then(() => options?.offsets?.length ?? kept.letters.length),
    deleteDeadLetters: async (options) => done("deleteDead", name, options).then(() => options?.offsets?.length ?? kept.letters.length),
  };
  // Whatever else a group can do, the console has no use for.
  return handle as ConsumerGroup;
}

function message(topic: string, payload: Uint8Array | string, options: PublishOptions): Delivery {
  const bytes = typeof payload === "string" ? new TextEncoder().encode(payload) : payload;
  const log = logs.get(topic) ?? [];
  logs.set(topic, log);
  sequence += 1n;
  const { key, contentType, headers, id } = options;
  const made: Delivery = {
    topic,
    partition: 0,
    offset: BigInt(log.length),
    sequence,
    timestamp: Date.now(),
    payload: bytes,
    headers: headers ?? [],
    priority: options.priority ?? 0,
    position: `resume:${sequence}`,
    expectsAnswer: false,
    respond: async () => undefined,
    ...(key === undefined ? {} : { key }),
    ...(contentType === undefined ? {} : { contentType }),
    ...(id === undefined ? {} : { id }),
    text: () => new TextDecoder().decode(bytes),
    json: () => JSON.parse(new TextDecoder().decode(bytes)) as unknown,
  };
  log.push(made);
  return made;
}

function publish(topic: string, payload: Uint8Array | string, options: PublishOptions = {}): Receipt {
  if (refusal !== undefined) throw refusal;
  const made = message(topic, payload, options);
  for (const tap of taps) {
    tap.queue.push(made);
    tap.wake();
  }
  return { topic, partition: 0, offset: made.offset, sequence: made.sequence, duplicate: false };
}

function subscribe(filter: string, onGap?: (gap: Gap) => void): Subscription {
  const tap: Tap = { queue: [], onGap, wake: () => undefined, ended: undefined };
  taps.add(tap);
  const close = async (): Promise<void> => {
    tap.ended ??= "closed";
    taps.delete(tap);
    tap.wake();
  };
  async function* deliveries(): AsyncGenerator<Delivery, undefined> {
    for (;;) {
      const next = tap.queue.shift();
      if (next !== undefined) yield next;
      else if (tap.ended === "closed") return undefined;
      else if (tap.ended !== undefined) throw tap.ended;
      else await new Promise<void>((resolve) => { tap.wake = resolve; });
    }
  }
  return Object.assign(deliveries(), { filter, ready: Promise.resolve(), position: undefined, close }) as unknown as Subscription;
}

const unsupported = (): never => {
  throw new DunlinError("unsupported", "the fake does not do that");
};

const client: Client = {
  state: "open",
  on(_, listener) {
    listeners.add(listener);
    return () => listeners.delete(listener);
  },
  publish: async (topic, payload, options) => publish(topic, payload, options),
  publishBatch: async (messages) => messages.map(({ topic, payload, ...options }) => publish(topic, payload, options)),
  subscribe: (filter, options) => subscribe(filter, options?.onGap),
  async *history(topic, { from = "earliest", limit = 1000 } = {}) {
    const log = logs.get(topic) ?? [];
    const [kind, number] = from.split(":");
    const last = kind === "last" ? Math.max(0, log.length - Number(number)) : 0;
    const start = kind === "offset" ? Number(number) : last;
    yield* log.slice(start, start + limit);
  },
  request: async () => unsupported(),
  scheduled: () => listed(kept.scheduled),
  cancelScheduled: (scheduleId) => done("cancel", scheduleId),
  group,
  groups: () => listed(kept.groups.map((one) => one.group)),
  limits: async () => (allowed(), kept.limits),
  configureLimit: (limit) => done("limit", limit),
  deleteLimit: (name) => done("unlimit", name),
  configureTopic: async () => unsupported(),
  async describeTopic(topic) {
    const log = logs.get(topic);
    if (log === undefined) throw new DunlinError("unknown_topic", `unknown topic "${topic}"`);
    const sizeBytes = log.reduce((sum, { payload }) => sum + payload.length, 0);
    const limits = { maxMessages: 1_000_000, maxBytes: 0, maxAgeMs: 7 * 86_400_000, dedupMs: 0 };
    const partitions = [{ logStartOffset: 0n, logEndOffset: BigInt(log.length), sizeBytes }];
    return { topic, kind: "log", ordering: "per_key", durability: "async", ...limits, partitions };
  },
  async *listTopics() {
    yield* [...logs.keys()].sort();
  },
  deleteTopic: async (topic) => void logs.delete(topic),
  session: undefined,
  transaction: unsupported,
  mailbox: unsupported,
  waiting: unsupported,
  devices: unsupported,
  kick: unsupported,
  users: unsupported,
  describeUser: unsupported,
  endSession: unsupported,
  presence: unsupported,
  rules: unsupported,
  configureRule: unsupported,
  deleteRule: unsupported,
  explain: unsupported,
  export: unsupported,
  import: async () => unsupported(),
  close: async () => undefined,
  [Symbol.asyncDispose]: async () => undefined,
};

/** What a test can make happen. */
const remote = {
  kept,
  publish,
  burst(topic: string, messages: number): void {
    for (let number = 0; number < messages; number += 1) publish(topic, `message ${number}`);
  },
  gap(gap: Gap): void {
    for (const tap of taps) tap.onGap?.(gap);
  },
  end(code: string, text: string): void {
    for (const tap of taps) {
      tap.ended = new DunlinError(code, text);
      tap.wake();
    }
    taps.clear();
  },
  refuse(code: string | undefined, text = "", retryAfterMs?: number): void {
    refusal = code === undefined ? undefined : new DunlinError(code, text, retryAfterMs);
  },
  state(change: Omit<StateChange, "error">, code?: string, text = ""): void {
    for (const listener of listeners) listener({ ...change, ...(code === undefined ? {} : { error: new DunlinError(code, text) as never }) });
  },
};

export type Remote = typeof remote;
Object.assign(globalThis, { fake: remote });

export async function connect(): Promise<Client> {
  return client;
}

export const openLocal = connect;
