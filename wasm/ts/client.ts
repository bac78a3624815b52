/** The client over any transport: turns calls into commands and replies into results. Rules live in the broker. */

import { partsOf } from "./archive.ts";
import { Connection } from "./connection.ts";
import type { OnLoss, Unnumbered } from "./connection.ts";
import { DunlinError } from "./errors.ts";
import type { Place, Reply } from "./frames.ts";
import type { Surroundings, Transport } from "./link.ts";
import { Received } from "./message.ts";
import { ActiveSubscription } from "./subscription.ts";
import type { SubscriptionOwner } from "./subscription.ts";
import type {
  ArchiveSource,
  Client,
  ClientState,
  Durability,
  HistoryOptions,
  Imported,
  ListTopicsOptions,
  Message,
  MessageOptions,
  OutgoingMessage,
  PublishBatchOptions,
  PublishOptions,
  Receipt,
  StateChange,
  SubscribeOptions,
  Subscription,
  TopicConfig,
  TopicDescription,
  TopicKind,
  TopicOrdering,
  TransferOptions,
} from "./types.ts";
import { utf8 } from "./wire.ts";

/** How many messages or names are asked for at once. */
const PAGE_MESSAGES = 256;
const PAGE_TOPICS = 1000;

export class TransportClient implements Client, SubscriptionOwner {
  readonly #connection: Connection;
  readonly #subscriptions = new Map<number, ActiveSubscription>();
  #numbers = 0;
  #over: (() => void) | undefined;

  private constructor(transport: Transport, surroundings: Surroundings, clientName?: string) {
    this.#connection = new Connection(
      transport,
      surroundings,
      {
        ready: (again) => {
          for (const subscription of this.#subscriptions.values()) {
            // One that was on its way when the broker was restored may exist already.
            if (again) void this.#forget(subscription);
            this.#ask(subscription);
          }
        },
        event: (reply) => this.#event(reply),
        over: (error) => {
          const subscriptions = [...this.#subscriptions.values()];
          this.#subscriptions.clear();
          for (const subscription of subscriptions) subscription.endedWith(error);
          this.#over?.();
        },
      },
      clientName,
    );
  }

  /** Connects. Resolves when the broker has greeted, or at once for `background`; `over` is called at the very end. */
  static open(
    transport: Transport,
    surroundings: Surroundings,
    options: {
      readonly clientName?: string | undefined;
      readonly background?: boolean | undefined;
      readonly signal?: AbortSignal | undefined;
    },
    over?: () => void,
  ): Promise<Client> {
    return new Promise((resolve, reject) => {
      options.signal?.throwIfAborted();
      const client = new TransportClient(transport, surroundings, options.clientName);
      client.#over = over;
      if (options.background !== true) {
        const abort = (): void => client.#connection.close(new DunlinError("closed", "the attempt to connect was aborted"));
        options.signal?.addEventListener("abort", abort);
        const forget = client.#connection.listen(({ state, error, retryInMs }) => {
          // Whoever answered went, and there is another at once.
          if (state === "connecting" && retryInMs === 0) return;
          forget();
          options.signal?.removeEventListener("abort", abort);
          if (state === "open") {
            resolve(client);
            return;
          }
          client.#connection.close();
          reject(options.signal?.aborted === true ? options.signal.reason : error);
        });
      }
      client.#connection.start();
      if (options.background === true) resolve(client);
    });
  }

  get state(): ClientState {
    return this.#connection.state;
  }

  on(event: "state", listener: (change: StateChange) => void): () => void {
    if (event !== "state") throw invalid(`there is no event ${JSON.stringify(event)}, only "state"`);
    return this.#connection.listen(listener);
  }

  async publish(topic: string, payload: Uint8Array | string, options: PublishOptions = {}): Promise<Receipt> {
    const { durability, retry, signal } = options;
    const message = this.#message({ ...options, topic, payload });
    const reply = await this.#request({ type: "publish", ...message, durability }, retry === true ? "resend" : "reject", signal);
    return receipt(topic, expect(reply, "receipt"));
  }

  async publishBatch(messages: readonly OutgoingMessage[], options: PublishBatchOptions = {}): Promise<Receipt[]> {
    const { durability, retry, signal } = options;
    const reply = await this.#request(
      { type: "publish_batch", messages: messages.map((message) => this.#message(message)), durability },
      retry === true ? "resend" : "reject",
      signal,
    );
    return expect(reply, "receipts").receipts.map((place, index) => receipt(messages[index]?.topic ?? "", place));
  }

  subscribe(filter: string, options: SubscribeOptions = {}): Subscription {
    checkText("filter", filter);
    const { credit } = options;
    if (credit !== undefined && !(Number.isSafeInteger(credit) && credit >= 1 && credit <= this.#connection.creditMax)) {
      throw invalid(`credit must be an integer from 1 to ${this.#connection.creditMax}, not ${credit}`);
    }
    const subscription = new ActiveSubscription(++this.#numbers, filter, options, this);
    if (this.state === "closed") {
      subscription.endedWith(new DunlinError("closed", "the client is closed: open another"));
    } else if (!subscription.hasEnded) {
      this.#subscriptions.set(subscription.id, subscription);
      if (this.#connection.isOpen) this.#ask(subscription);
    }
    return subscription;
  }

  async *history(topic: string, options: HistoryOptions = {}): AsyncIterableIterator<Message> {
    const { partition = 0, signal, limit = Number.MAX_SAFE_INTEGER } = options;
    checkText("topic", topic);
    if (!Number.isSafeInteger(limit) || limit < 0) throw invalid(`limit must be an integer from 0 on, not ${limit}`);
    let from: string = options.from ?? "earliest";
    let end: bigint | undefined;
    for (let left = limit; left > 0; ) {
      const command: Unnumbered = { type: "read", topic, partition, from, messagesMax: Math.min(left, PAGE_MESSAGES) };
      const page = expect(await this.#request(command, "resend", signal), "page");
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

  async configureTopic(topic: string, config: TopicConfig = {}): Promise<TopicDescription> {
    checkText("topic", topic);
    const { kind, ordering, partitions, durability, maxMessages, maxBytes, maxAgeMs } = config;
    const command: Unnumbered = {
      type: "configure_topic",
      topic,
      kind,
      ordering,
      partitions,
      durability,
      maxMessages,
      maxBytes,
      maxAgeMs,
    };
    return description(await this.#request(command, "resend"));
  }

  async describeTopic(topic: string): Promise<TopicDescription> {
    checkText("topic", topic);
    return description(await this.#request({ type: "describe_topic", topic }, "resend"));
  }

  async *listTopics(options: ListTopicsOptions = {}): AsyncIterableIterator<string> {
    const { filter, signal } = options;
    let after: string | undefined;
    for (;;) {
      const command: Unnumbered = { type: "list_topics", filter, after, topicsMax: PAGE_TOPICS };
      const { topics, more } = expect(await this.#request(command, "resend", signal), "topics");
      yield* topics;
      after = topics.at(-1);
      if (!more || after === undefined) return;
    }
  }

  async deleteTopic(topic: string): Promise<void> {
    checkText("topic", topic);
    expect(await this.#request({ type: "delete_topic", topic }, "reject"), "ok");
  }

  async *export({ signal }: TransferOptions = {}): AsyncIterableIterator<Uint8Array> {
    let id = 0n;
    for (let part = 0; ; part += 1) {
      const given = expect(await this.#request({ type: "export", export: id, part }, "reject", signal), "archive_part");
      yield given.bytes;
      if (given.last) return;
      id = given.export;
    }
  }

  async import(source: ArchiveSource, { signal }: TransferOptions = {}): Promise<Imported> {
    let id = 0n;
    let part = 0;
    let rows = 0;
    // Whether the broker waits for the next part.
    let waits = false;
    // Without the signal: where the import stands has to be known to end it.
    const give = async (last: boolean, bytes: Uint8Array): Promise<void> => {
      waits = false;
      const taken = expect(await this.#request({ type: "import", import: id, part, last, bytes }, "reject"), "imported");
      waits = !last;
      id = taken.import;
      rows = taken.rows;
      part += 1;
    };
    try {
      for await (const { last, bytes } of partsOf(source, signal)) await give(last, bytes);
      return { rows };
    } catch (error) {
      // An end that comes too early is refused, and what was given is deleted at once.
      if (waits) await give(true, new Uint8Array()).catch(() => {});
      throw error;
    }
  }

  async close(): Promise<void> {
    this.#connection.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Called by a subscription that has ended here. A broker that has forgotten it, or is gone, is as good. */
  async unsubscribe(subscription: ActiveSubscription): Promise<void> {
    if (!this.#subscriptions.delete(subscription.id) || !this.#connection.isOpen) return;
    await this.#forget(subscription);
  }

  credit(subscription: ActiveSubscription, messages: number): void {
    if (this.#subscriptions.has(subscription.id)) {
      this.#connection.post({ type: "credit", subscription: subscription.id, messages });
    }
  }

  /** Resolves whatever comes of it. */
  async #forget(subscription: ActiveSubscription): Promise<void> {
    await this.#request({ type: "unsubscribe", subscription: subscription.id }, "reject").catch(() => {});
  }

  #ask(subscription: ActiveSubscription): void {
    const refused = (error: unknown): void => {
      // When the link is lost it is asked for again on the next.
      if (error instanceof DunlinError && error.code === "connection_lost") return;
      if (this.#subscriptions.delete(subscription.id)) subscription.endedWith(error as DunlinError);
    };
    this.#request({ type: "subscribe", ...subscription.ask() }, "reject").catch(refused);
  }

  #event(reply: Reply): void {
    if (reply.type !== "delivery" && reply.type !== "gap" && reply.type !== "ended" && reply.type !== "subscribed") return;
    // Deliveries of a subscription that has ended here may still be on their way.
    const subscription = this.#subscriptions.get(reply.subscription);
    if (subscription === undefined) return;
    if (reply.type === "delivery") subscription.delivered(reply);
    else if (reply.type === "gap") subscription.missed(reply);
    else if (reply.type === "subscribed") subscription.subscribed(reply);
    else {
      this.#subscriptions.delete(subscription.id);
      subscription.endedWith(new DunlinError(reply.code, reply.message));
    }
  }

  #request(command: Unnumbered, onLoss: OnLoss, signal?: AbortSignal): Promise<Reply> {
    return this.#connection.request(command, onLoss, signal);
  }

  #message(message: OutgoingMessage): MessageOptions & { topic: string; payload: Uint8Array } {
    const { topic, key, contentType, headers, id, ttlMs } = message;
    checkText("topic", topic);
    const payload = typeof message.payload === "string" ? utf8(message.payload) : message.payload;
    if (!(payload instanceof Uint8Array)) {
      throw invalid("the payload must be a string or a Uint8Array: use JSON.stringify for anything else");
    }
    const max = this.#connection.payloadBytesMax;
    if (payload.length > max) {
      throw new DunlinError("too_large", `the payload for ${JSON.stringify(topic)} has ${payload.length} bytes, the broker takes at most ${max}`);
    }
    return {
      topic,
      payload,
      ...(key !== undefined && { key }),
      ...(contentType !== undefined && { contentType }),
      ...(headers !== undefined && { headers }),
      ...(id !== undefined && { id }),
      ...(ttlMs !== undefined && { ttlMs }),
    };
  }
}

function invalid(message: string): DunlinError {
  return new DunlinError("invalid_argument", message);
}

/** Types are for those who compile; others get told as well. */
function checkText(name: string, value: unknown): void {
  if (typeof value !== "string") throw invalid(`the ${name} must be a string, not ${typeof value}`);
}

function expect<T extends Reply["type"]>(reply: Reply, type: T): Extract<Reply, { type: T }> {
  if (reply.type !== type) throw new DunlinError("malformed_frame", `the broker answered with ${reply.type} where ${type} belongs`);
  return reply as Extract<Reply, { type: T }>;
}

function receipt(topic: string, { partition, offset, sequence, duplicate }: Place): Receipt {
  return { topic, partition, offset, sequence, duplicate };
}

function description(reply: Reply): TopicDescription {
  const { topic, kind, ordering, durability, maxMessages, maxBytes, maxAgeMs, partitions } = expect(reply, "topic");
  return {
    topic,
    kind: kind as TopicKind,
    ordering: ordering as TopicOrdering,
    durability: durability as Durability,
    maxMessages,
    maxBytes,
    maxAgeMs,
    partitions,
  };
}
