// The clients of a run: producers, listeners, one who creates and deletes a topic, and the survey that reads
// everything back. It works on any client of the package, in Node and in pages; what happens goes into the journal.
import {
  TEMPORARY,
  TOPICS,
  command,
  difference,
  temporaryConfig,
  temporaryMessage,
  temporaryMessages,
} from "./plan.mjs";

/** These leave open what became of a command; any other refusal means that it did nothing. */
const LEAVES_OPEN = ["connection_lost", "connection_failed", "closed", "storage_unavailable"];

/** Takes part in a run through one namespace of a broker. */
export class Crew {
  #seed;
  #open;
  #journal;
  /** Clients that end with the broker. */
  #clients = new Set();
  #subscriptions = new Map();

  /** A journal may return a promise, which is waited for where the order of things matters.
   * @param {{ seed: string, open: () => Promise<import("dunlin").Client>, journal: (entry: object) => unknown }} given
   */
  constructor({ seed, open, journal }) {
    this.#seed = seed;
    this.#open = open;
    this.#journal = journal;
  }

  /** Creates the topics, or makes sure of them. */
  async configure() {
    const client = await this.#client();
    for (const { topic, keeps: _keeps, ...config } of TOPICS) await client.configureTopic(topic, config);
    await this.#dismiss(client);
  }

  /** Everything that is stored: every partition of every topic, with where it begins and ends. */
  async survey() {
    const client = await this.#client();
    const topics = [];
    for await (const topic of client.listTopics()) {
      if (TOPICS.some((known) => known.topic === topic && known.kind === "live")) continue;
      const { maxMessages, partitions } = await client.describeTopic(topic);
      const parts = [];
      for (const [partition, { logStartOffset, logEndOffset }] of partitions.entries()) {
        const records = [];
        for await (const message of client.history(topic, { partition })) records.push(this.#record(message));
        parts.push({ start: Number(logStartOffset), end: Number(logEndOffset), records });
      }
      topics.push({ topic, maxMessages, partitions: parts });
    }
    await this.#dismiss(client);
    return topics;
  }

  /** Publishes command after command, `window` of them at a time, until the broker is gone. */
  async produce(cycle, producer, window) {
    const client = await this.#client();
    let next = 0;
    const lane = async () => {
      for (;;) {
        const n = next;
        next += 1;
        const { messages, isBatch, isLarge, durability } = command(this.#seed, cycle, producer, n);
        this.#journal({ type: "sent", cycle, producer, n, isBatch, isLarge });
        try {
          const { topic, payload, ...options } = messages[0];
          const receipts = isBatch
            ? await client.publishBatch(messages, { durability })
            : [await client.publish(topic, payload, { ...options, durability })];
          const places = receipts.map(({ partition, offset, sequence }) => [partition, Number(offset), Number(sequence)]);
          this.#journal({ type: "acked", cycle, producer, n, places });
        } catch (error) {
          if (client.state !== "open" || LEAVES_OPEN.includes(error.code)) return;
          this.#journal({ type: "refused", cycle, producer, n, code: error.code, message: error.message });
        }
      }
    };
    for (let lanes = 0; lanes < window; lanes += 1) void lane();
  }

  /** Creates the temporary topic, fills it and deletes it, over and over; each step waits for the one before. */
  async recreate(firstLife) {
    const client = await this.#client();
    const work = async () => {
      const remove = async (life) => {
        await this.#journal({ type: "life", life, step: "deleting" });
        await client.deleteTopic(TEMPORARY);
        await this.#journal({ type: "life", life, step: "deleted" });
      };
      for await (const _left of client.listTopics({ filter: TEMPORARY })) await remove(firstLife - 1);
      for (let life = firstLife; ; life += 1) {
        const step = (name) => this.#journal({ type: "life", life, step: name });
        await step("creating");
        await client.configureTopic(TEMPORARY, temporaryConfig(life));
        await step("created");
        const count = temporaryMessages(this.#seed, life);
        await Promise.all(
          Array.from({ length: count }, (_, index) => {
            const { topic, payload, ...options } = temporaryMessage(this.#seed, life, index);
            return client.publish(topic, payload, options);
          }),
        );
        await step("filled");
        await remove(life);
      }
    };
    work().catch((error) => {
      if (client.state === "open" && !LEAVES_OPEN.includes(error.code)) this.#journal({ type: "trouble", message: String(error) });
    });
  }

  /** Listens, from a position on. */
  async listen(listener, { filter, credit, partition, stays = false }, from) {
    if (this.#subscriptions.has(listener)) await this.hush(listener);
    const client = stays ? await this.#open() : await this.#client();
    const subscription = client.subscribe(filter, {
      from,
      credit,
      partition,
      onGap: ({ reason, after, to, topic, partition: of }) =>
        this.#journal({ type: "gap", listener, reason, after: Number(after), to: Number(to), topic, partition: of }),
    });
    this.#subscriptions.set(listener, { client, subscription, stays });
    const take = async () => {
      try {
        for await (const delivery of subscription) {
          const { topic, partition: of, position } = delivery;
          this.#journal({ type: "delivered", listener, topic, partition: of, position, record: this.#record(delivery) });
        }
      } catch (error) {
        if (client.state === "open") this.#journal({ type: "trouble", message: `the subscription to ${filter} ended: ${error}` });
      }
    };
    void take();
    await subscription.ready;
    this.#journal({ type: "subscribed", listener, position: subscription.position });
  }

  /** Ends a listener. */
  async hush(listener) {
    const { client } = this.#subscriptions.get(listener);
    this.#subscriptions.delete(listener);
    await this.#dismiss(client);
  }

  /** The broker was killed: waits until every client has read what had been sent to it, and lets go of it. */
  async bury() {
    const clients = [...this.#clients];
    const staying = [...this.#subscriptions.values()].filter(({ stays }) => stays).map(({ client }) => client);
    await Promise.all([...clients, ...staying].map(lost));
    await Promise.all(clients.map((client) => this.#dismiss(client)));
    for (const [listener, { stays }] of this.#subscriptions) if (!stays) this.#subscriptions.delete(listener);
  }

  /** Lets go of everything. */
  async end() {
    for (const listener of [...this.#subscriptions.keys()]) await this.hush(listener);
    await Promise.all([...this.#clients].map((client) => this.#dismiss(client)));
  }

  async #client() {
    const client = await this.#open();
    this.#clients.add(client);
    return client;
  }

  async #dismiss(client) {
    this.#clients.delete(client);
    await client.close();
  }

  #record(message) {
    const fault = difference(this.#seed, message);
    const record = { offset: Number(message.offset), sequence: Number(message.sequence), name: message.id };
    return fault === undefined ? record : { ...record, fault };
  }
}

/** Resolves when the client knows that its connection has ended. */
function lost(client) {
  if (client.state !== "open") return Promise.resolve();
  return new Promise((resolve) => {
    const forget = client.on("state", () => {
      forget();
      resolve();
    });
  });
}
