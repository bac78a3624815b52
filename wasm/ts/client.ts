/** The client over any transport: turns calls into commands and replies into results. Rules live in the broker. */

import { Connection } from "./connection.ts";
import type { Greeting, OnLoss, Unnumbered } from "./connection.ts";
import { DunlinError, invalid } from "./errors.ts";
import type { MessageFields, Place, Reply } from "./frames.ts";
import { Group, later } from "./group.ts";
import type { Listener, Owner } from "./inbox.ts";
import type { Surroundings, Transport } from "./link.ts";
import type { Respond } from "./message.ts";
import { TopicPresence } from "./presence.ts";
import type { DeviceSession } from "./session.ts";
import { ActiveSubscription } from "./subscription.ts";
import type {
  Answer,
  ArchiveSource,
  Client,
  ClientState,
  ConsumerGroup,
  Device,
  DevicesOptions,
  ExplainOptions,
  Explanation,
  HistoryOptions,
  Imported,
  KickOptions,
  Limit,
  LimitConfig,
  LimitName,
  ListOptions,
  Message,
  OutgoingMessage,
  Presence,
  PublishBatchOptions,
  PublishOptions,
  Receipt,
  RequestOptions,
  RoutingRule,
  RuleConfig,
  ScheduledMessage,
  SessionState,
  StateChange,
  SubscribeOptions,
  Subscription,
  TopicConfig,
  TopicDescription,
  Transaction,
  TransferOptions,
  UserDescription,
} from "./types.ts";
import { utf8 } from "./wire.ts";

/** What a client is opened with, whatever it speaks over. */
interface OpenOptions extends Greeting {
  readonly background?: boolean | undefined;
  readonly session?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

export class TransportClient implements Client, Owner {
  readonly connection: Connection;
  readonly surroundings: Surroundings;
  /** Those that the broker is to know, by their numbers. */
  readonly #listeners = new Map<number, Listener>();
  #numbers = 0;
  #session: DeviceSession | undefined;
  #over: (() => void) | undefined;

  private constructor(transport: Transport, surroundings: Surroundings, greeting: Greeting) {
    this.surroundings = surroundings;
    this.connection = new Connection(
      transport,
      surroundings,
      {
        ready: (again) => {
          this.#session?.open();
          for (const listener of this.#listeners.values()) {
            if (listener.hasEnded) continue;
            // One that was on its way when the broker was restored may exist already.
            if (again && listener.isKept !== true) void this.#unsubscribe(listener);
            this.ask(listener);
          }
        },
        event: (reply) => {
          // Deliveries for one that has ended here may still be on their way.
          if ("subscription" in reply) this.#listeners.get(reply.subscription)?.hear(reply);
        },
        over: (error) => {
          const listeners = [...this.#listeners.values()];
          this.#listeners.clear();
          for (const listener of listeners) listener.end(error);
          this.#over?.();
        },
      },
      greeting,
    );
    this.connection.listen(({ state }) => {
      if (state !== "open") for (const listener of this.#listeners.values()) listener.lost?.();
    });
  }

  /**
   * Connects. Resolves when the broker has greeted, and opened the session if there is to be one, or at once for
   * `background`; `over` is called at the very end.
   */
  static async open(transport: Transport, surroundings: Surroundings, options: OpenOptions, over?: () => void): Promise<Client> {
    const { signal, session, background } = options;
    signal?.throwIfAborted();
    const client = new TransportClient(transport, surroundings, options);
    client.#over = over;
    if (session === true) client.#session = new (await later(client.connection)).DeviceSession(client);
    if (background === true) client.connection.start();
    else await client.#connect(signal);
    return client;
  }

  #connect(signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const abort = (): void => this.connection.close(new DunlinError("closed", "the attempt to connect was aborted"));
      signal?.addEventListener("abort", abort);
      const settle = (error?: unknown): void => {
        signal?.removeEventListener("abort", abort);
        if (error === undefined) {
          resolve();
          return;
        }
        this.connection.close();
        reject(signal?.aborted === true ? signal.reason : error);
      };
      const forget = this.connection.listen(({ state, error, retryInMs }) => {
        // Whoever answered went, and there is another at once.
        if (state === "connecting" && retryInMs === 0) return;
        forget();
        if (state !== "open") settle(error);
        else if (this.#session === undefined) settle();
        else this.#session.opened.then(() => settle(), settle);
      });
      this.connection.start();
      if (signal?.aborted === true) abort();
    });
  }

  get state(): ClientState {
    return this.connection.state;
  }

  on(event: "state", listener: (change: StateChange) => void): () => void {
    if (event !== "state") throw invalid(`there is no event ${JSON.stringify(event)}, only "state"`);
    return this.connection.listen(listener);
  }

  async publish(topic: string, payload: Uint8Array | string, options: PublishOptions = {}): Promise<Receipt> {
    const { durability, waitMs, retry, signal } = options;
    const message = this.#message({ ...options, topic, payload }, retry);
    const reply = await this.connection.ask("receipt", { type: "publish", ...message, durability, waitMs }, onLoss(retry), signal);
    return receipt(topic, reply);
  }

  async publishBatch(messages: readonly OutgoingMessage[], options: PublishBatchOptions = {}): Promise<Receipt[]> {
    const { durability, waitMs, retry, signal } = options;
    const batch = messages.map((message) => this.#message(message, retry));
    const command: Unnumbered = { type: "publish_batch", messages: batch, durability, waitMs };
    const { receipts } = await this.connection.ask("receipts", command, onLoss(retry), signal);
    return receipts.map((place, index) => receipt(messages[index]?.topic ?? "", place));
  }

  async transaction(parts: Transaction, options: PublishBatchOptions = {}): Promise<Receipt[]> {
    const { messages = [] } = parts;
    const fields = messages.map((message) => this.#message(message, options.retry));
    const places = await (await later(this.connection)).transaction(this, fields, parts, options, onLoss(options.retry));
    return places.map((place, index) => receipt(messages[index]?.topic ?? "", place));
  }

  async request(topic: string, payload: Uint8Array | string, options: RequestOptions = {}): Promise<Answer> {
    const bytes = this.#payload(JSON.stringify(topic), payload);
    return (await later(this.connection)).request(this, topic, bytes, options);
  }

  async *scheduled(options: ListOptions = {}): AsyncIterableIterator<ScheduledMessage> {
    yield* (await later(this.connection)).scheduled(this.connection, options);
  }

  async cancelScheduled(scheduleId: number): Promise<void> {
    await (await later(this.connection)).cancelScheduled(this.connection, scheduleId);
  }

  subscribe(filter: string, options: SubscribeOptions = {}): Subscription {
    if (typeof filter !== "string") throw invalid(`the filter must be a string, not ${typeof filter}`);
    if (options.session === true) this.#checkSession(options);
    const subscription = new ActiveSubscription(this, filter, options, options.session === true ? this.#session : undefined);
    this.begin(subscription);
    return subscription;
  }

  #checkSession({ from, partition }: SubscribeOptions): void {
    if (this.#session === undefined) throw invalid("this client has no session: connect with the option session");
    if (from !== undefined || partition !== undefined) throw invalid("a session knows where it is: leave out from and partition");
  }

  get session(): SessionState | undefined {
    return this.#session?.state;
  }

  async endSession(): Promise<void> {
    await (await later(this.connection)).endSession(this.connection);
    this.#session = undefined;
    for (const listener of [...this.#listeners.values()]) {
      if (listener.isKept !== true) continue;
      this.forget(listener);
      listener.end();
    }
  }

  async *mailbox(options: TransferOptions = {}): AsyncIterableIterator<Message> {
    yield* (await later(this.connection)).mailbox(this.connection, options);
  }

  async waiting(): Promise<number> {
    return (await later(this.connection)).waiting(this.connection);
  }

  async *devices(options: DevicesOptions = {}): AsyncIterableIterator<Device> {
    yield* (await later(this.connection)).devices(this.connection, options);
  }

  async kick(user: string, options: KickOptions = {}): Promise<number> {
    return (await later(this.connection)).kick(this.connection, user, options);
  }

  async *users(options: TransferOptions = {}): AsyncIterableIterator<string> {
    yield* (await later(this.connection)).users(this.connection, options);
  }

  async describeUser(user: string): Promise<UserDescription> {
    return (await later(this.connection)).describeUser(this.connection, user);
  }

  async *history(topic: string, options: HistoryOptions = {}): AsyncIterableIterator<Message> {
    yield* (await later(this.connection)).history(this.connection, topic, options);
  }

  async configureTopic(topic: string, config: TopicConfig = {}): Promise<TopicDescription> {
    return (await later(this.connection)).configureTopic(this.connection, topic, config);
  }

  async describeTopic(topic: string): Promise<TopicDescription> {
    return (await later(this.connection)).describeTopic(this.connection, topic);
  }

  async *listTopics(options: ListOptions = {}): AsyncIterableIterator<string> {
    yield* (await later(this.connection)).listTopics(this.connection, options);
  }

  async deleteTopic(topic: string): Promise<void> {
    await (await later(this.connection)).deleteTopic(this.connection, topic);
  }

  presence(topic: string): Presence {
    return new TopicPresence(topic, this);
  }

  group(name: string): ConsumerGroup {
    return new Group(name, this);
  }

  async *groups(options: TransferOptions = {}): AsyncIterableIterator<string> {
    yield* (await later(this.connection)).groups(this.connection, options);
  }

  async limits(): Promise<Limit[]> {
    return (await later(this.connection)).limits(this.connection);
  }

  async configureLimit(limit: LimitConfig): Promise<void> {
    await (await later(this.connection)).configureLimit(this.connection, limit);
  }

  async deleteLimit({ scope, name }: LimitName): Promise<void> {
    await (await later(this.connection)).deleteLimit(this.connection, { scope, ...(name !== undefined && { name }) });
  }

  async rules(): Promise<RoutingRule[]> {
    return (await later(this.connection)).rules(this.connection);
  }

  async configureRule(name: string, config: RuleConfig): Promise<void> {
    await (await later(this.connection)).configureRule(this.connection, name, config);
  }

  async deleteRule(name: string): Promise<void> {
    await (await later(this.connection)).deleteRule(this.connection, name);
  }

  async explain(topic: string, payload: Uint8Array | string, options: ExplainOptions = {}): Promise<Explanation> {
    const bytes = this.#payload(JSON.stringify(topic), payload);
    return (await later(this.connection)).explain(this.connection, topic, bytes, options);
  }

  async *export(options: TransferOptions = {}): AsyncIterableIterator<Uint8Array> {
    yield* (await later(this.connection)).exportArchive(this.connection, options);
  }

  async import(source: ArchiveSource, options: TransferOptions = {}): Promise<Imported> {
    return (await later(this.connection)).importArchive(this.connection, source, options);
  }

  async close(): Promise<void> {
    if (this.#session !== undefined) await this.#session.close();
    this.connection.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  number(): number {
    return ++this.#numbers;
  }

  begin(listener: Listener): void {
    if (this.state === "closed") {
      listener.end(new DunlinError("closed", "the client is closed: open another"));
    } else if (!listener.hasEnded) {
      this.#listeners.set(listener.id, listener);
      if (this.connection.isOpen) this.ask(listener);
    }
  }

  ask(listener: Listener): void {
    const heard = (reply: Reply): void => listener.answered?.(reply);
    this.connection.request(listener.ask(), "reject", undefined, heard).catch((error: DunlinError) => {
      // When the link is lost it is asked for again on the next.
      if (error.code !== "connection_lost" && this.#listeners.has(listener.id)) listener.refused(error);
    });
  }

  forget(listener: Listener): void {
    this.#listeners.delete(listener.id);
  }

  /** A broker that has forgotten it, or is gone, is as good. */
  async leave(listener: Listener): Promise<void> {
    if (this.#listeners.delete(listener.id) && this.connection.isOpen) await this.#unsubscribe(listener);
  }

  /** Resolves whatever comes of it. */
  async #unsubscribe({ id }: Listener): Promise<void> {
    await this.connection.request({ type: "unsubscribe", subscription: id }, "reject").catch(() => {});
  }

  readonly respond: Respond = async (replyTo, given, { contentType, headers } = {}) => {
    const payload = this.#payload("an answer", given);
    await this.connection.ask("ok", { type: "respond", replyTo, payload, contentType, headers }, "reject");
  };

  #message(message: OutgoingMessage, retry: boolean | undefined): MessageFields {
    const { topic, key, contentType, headers, id, ttlMs, delayMs, deliverAt, producer, producerSequence, priority } = message;
    return {
      topic,
      payload: this.#payload(JSON.stringify(topic), message.payload),
      key,
      contentType,
      headers,
      // Only under a name can the broker know it again.
      id: retry === true && id === undefined && producer === undefined ? randomId() : id,
      ttlMs,
      delayMs,
      deliverAt: deliverAt instanceof Date ? deliverAt.getTime() : deliverAt,
      producer,
      producerSequence,
      priority,
    };
  }

  #payload(what: string, given: Uint8Array | string): Uint8Array {
    const payload = typeof given === "string" ? utf8(given) : given;
    if (!(payload instanceof Uint8Array)) {
      throw invalid("the payload must be a string or a Uint8Array: use JSON.stringify for anything else");
    }
    const max = this.connection.payloadBytesMax;
    if (payload.length > max) {
      throw new DunlinError("too_large", `the payload for ${what} has ${payload.length} bytes, the broker takes at most ${max}`);
    }
    return payload;
  }
}

function onLoss(retry: boolean | undefined): OnLoss {
  return retry === true ? "resend" : "reject";
}

/** 128 random bits. `crypto.randomUUID` is not there on pages that came by http. */
function randomId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function receipt(sentTo: string, { topic = sentTo, partition, offset, sequence, duplicate, scheduleId }: Place): Receipt {
  return { topic, partition, offset, sequence, duplicate, ...(scheduleId !== undefined && { scheduleId }) };
}
