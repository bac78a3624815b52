/**
 * The handle of a consumer group, and of a member of one. What they can do is loaded when it is asked for: a client
 * without groups stays small.
 */

import type { Connection } from "./connection.ts";
import type { Listener, Owner } from "./inbox.ts";
import type {
  ConsumerGroup,
  DeadLetter,
  DeadLettersOptions,
  DeadOffsets,
  GroupConfig,
  FailedLease,
  GroupDescription,
  PartitionedMember,
  PartitionedOptions,
  QueueMember,
  QueueOptions,
  ReplayOptions,
  ResetOptions,
  StartPosition,
  TopicPartition,
} from "./types.ts";

/** What a client does now and then, with the words for it. */
export async function later(connection: Connection): Promise<typeof import("./later.ts")> {
  const loaded = await import("./later.ts");
  connection.codec = loaded.whole;
  return loaded;
}

export class Group implements ConsumerGroup {
  readonly name: string;
  readonly #owner: Owner;

  constructor(name: string, owner: Owner) {
    this.name = name;
    this.#owner = owner;
  }

  get #connection(): Connection {
    return this.#owner.connection;
  }

  async configure(config: GroupConfig = {}): Promise<GroupDescription> {
    return (await later(this.#connection)).configureGroup(this.#connection, this.name, config);
  }

  async describe(): Promise<GroupDescription> {
    return (await later(this.#connection)).describeGroup(this.#connection, this.name);
  }

  async delete(): Promise<void> {
    await (await later(this.#connection)).deleteGroup(this.#connection, this.name);
  }

  async reset(to: StartPosition, where: ResetOptions = {}): Promise<void> {
    await (await later(this.#connection)).resetGroup(this.#connection, this.name, to, where);
  }

  async pause(): Promise<void> {
    await (await later(this.#connection)).pauseGroup(this.#connection, this.name, true);
  }

  async resume(): Promise<void> {
    await (await later(this.#connection)).pauseGroup(this.#connection, this.name, false);
  }

  async *deadLetters(options: DeadLettersOptions = {}): AsyncIterableIterator<DeadLetter> {
    yield* (await later(this.#connection)).deadLetters(this.#connection, this.name, options);
  }

  async replayDeadLetters(options: ReplayOptions = {}): Promise<number> {
    return (await later(this.#connection)).replayDeadLetters(this.#connection, this.name, options);
  }

  async deleteDeadLetters(options: DeadOffsets = {}): Promise<number> {
    return (await later(this.#connection)).deleteDeadLetters(this.#connection, this.name, options);
  }

  joinQueue(filters: string | readonly string[], options: QueueOptions = {}): QueueMember {
    return this.#join(async () => new (await later(this.#connection)).ActiveQueueMember(this.#owner, this.name, filters, options));
  }

  joinPartitioned(filters: string | readonly string[], options: PartitionedOptions = {}): PartitionedMember {
    return this.#join(async () => new (await later(this.#connection)).ActivePartitionedMember(this.#owner, this.name, filters, options));
  }

  #join(load: () => Promise<Listener>): JoiningMember {
    const joining = async (): Promise<AnyMember> => {
      const member = await load();
      this.#owner.begin(member);
      return member as unknown as AnyMember;
    };
    return new JoiningMember(this.name, joining());
  }
}

/** What members of either kind have and do; whoever gets one knows of which kind it is. */
interface AnyMember {
  readonly ready: Promise<void>;
  readonly member: string | undefined;
  readonly generation?: number;
  readonly assignment?: readonly TopicPartition[];
  next(): Promise<IteratorResult<never, undefined>>;
  close(): Promise<void>;
  ack(...given: Parameters<QueueMember["ack"]>): Promise<FailedLease[]>;
  nack(...given: Parameters<QueueMember["nack"]>): Promise<FailedLease[]>;
  reject(...given: Parameters<QueueMember["reject"]>): Promise<FailedLease[]>;
  extend(...given: Parameters<QueueMember["extend"]>): Promise<FailedLease[]>;
  commit(...given: Parameters<PartitionedMember["commit"]>): Promise<void>;
}

/** A member from the moment it is asked for: what it is made of comes later. */
class JoiningMember implements QueueMember, PartitionedMember {
  readonly group: string;
  readonly ready: Promise<void>;
  readonly #loading: Promise<AnyMember>;
  #loaded: AnyMember | undefined;

  constructor(group: string, loading: Promise<AnyMember>) {
    this.group = group;
    this.#loading = loading;
    this.ready = loading.then((loaded) => (this.#loaded = loaded).ready);
    // Whoever does not wait for it learns of a refusal from the iteration.
    this.ready.catch(() => {});
  }

  get member(): string | undefined {
    return this.#loaded?.member;
  }

  get generation(): number {
    return this.#loaded?.generation ?? 0;
  }

  get assignment(): readonly TopicPartition[] {
    return this.#loaded?.assignment ?? [];
  }

  next(): Promise<IteratorResult<never, undefined>> {
    return this.#loaded?.next() ?? this.#loading.then((loaded) => loaded.next());
  }

  async return(): Promise<IteratorResult<never, undefined>> {
    await this.close();
    return { value: undefined, done: true };
  }

  async close(): Promise<void> {
    const loaded = await this.#loading.catch(() => undefined);
    await loaded?.close();
  }

  async ack(...given: Parameters<QueueMember["ack"]>): Promise<FailedLease[]> {
    return (await this.#loading).ack(...given);
  }

  async nack(...given: Parameters<QueueMember["nack"]>): Promise<FailedLease[]> {
    return (await this.#loading).nack(...given);
  }

  async reject(...given: Parameters<QueueMember["reject"]>): Promise<FailedLease[]> {
    return (await this.#loading).reject(...given);
  }

  async extend(...given: Parameters<QueueMember["extend"]>): Promise<FailedLease[]> {
    return (await this.#loading).extend(...given);
  }

  async commit(...given: Parameters<PartitionedMember["commit"]>): Promise<void> {
    await (await this.#loading).commit(...given);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
