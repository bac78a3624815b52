/** A member of a queue: has single messages under leases, and settles them. What a lease is worth the broker knows. */

import { DunlinError, invalid } from "./errors.ts";
import type { Owner, Told } from "./inbox.ts";
import { Member } from "./member.ts";
import type { JoinFields } from "./member.ts";
import { Received } from "./message.ts";
import type { ExtendOptions, FailedLease, NackOptions, QueueDelivery, QueueMember, QueueOptions, RejectOptions } from "./types.ts";

type Delivery = Extract<Told, { type: "delivery" }>;

/** What a member says of messages that it has. */
type Verdict =
  | { readonly type: "ack" }
  | { readonly type: "nack"; readonly delayMs: number | undefined }
  | { readonly type: "reject"; readonly reason: string | undefined }
  | { readonly type: "extend"; readonly extendMs: number | undefined };

/**
 * Between two verdicts of a loop over deliveries that are here lie fewer steps of promises than this: while verdicts come
 * that close upon one another, they leave together.
 */
const STEPS = 4;

/** Leases of one turn of the program with the same verdict; what the broker did not know of them, by lease. */
interface Settling {
  readonly leases: { lease: number }[];
  readonly failed: Promise<ReadonlyMap<number, string>>;
}

export class ActiveQueueMember extends Member<LeasedMessage> implements QueueMember {
  readonly #options: QueueOptions;
  /** What leaves at the end of this turn, by verdict. */
  readonly #gathered = new Map<string, Settling>();
  /** What the broker has not answered. */
  readonly #underWay = new Set<Promise<unknown>>();

  constructor(owner: Owner, group: string, filters: string | readonly string[], options: QueueOptions) {
    super(owner, group, filters, options);
    this.#options = options;
  }

  ack(deliveries: readonly QueueDelivery[]): Promise<FailedLease[]> {
    return this.#settle({ type: "ack" }, deliveries);
  }

  nack(deliveries: readonly QueueDelivery[], { delayMs }: NackOptions = {}): Promise<FailedLease[]> {
    return this.#settle({ type: "nack", delayMs }, deliveries);
  }

  reject(deliveries: readonly QueueDelivery[], { reason }: RejectOptions = {}): Promise<FailedLease[]> {
    return this.#settle({ type: "reject", reason }, deliveries);
  }

  extend(deliveries: readonly QueueDelivery[], { extendMs }: ExtendOptions = {}): Promise<FailedLease[]> {
    return this.#settle({ type: "extend", extendMs }, deliveries);
  }

  protected joining(): JoinFields {
    const { from, member, maxInFlight } = this.#options;
    return { kind: "queue", from, member, maxInFlight };
  }

  lost(): void {
    // Under a name the leases go on, otherwise others get the messages.
    if (this.#options.member === undefined) this.drop(() => true);
  }

  protected delivered(delivery: Delivery): void {
    this.put(new LeasedMessage(this, delivery, this.owner));
  }

  protected assigned(): void {}

  protected taken(): void {}

  protected async left(): Promise<void> {
    // What waits for a connection would wait for long, and for nothing.
    if (this.owner.connection.isOpen) await Promise.allSettled(this.#underWay);
    await this.owner.leave(this);
  }

  async #settle(verdict: Verdict, deliveries: readonly QueueDelivery[]): Promise<FailedLease[]> {
    if (!Array.isArray(deliveries)) throw invalid("give a list of deliveries");
    const messages = deliveries.map((delivery: QueueDelivery) => {
      if (delivery instanceof LeasedMessage) return delivery;
      throw invalid("only deliveries of a queue can be settled");
    });
    if (messages.length === 0) return [];
    const { leases, failed } = this.#gather(verdict);
    for (const { lease } of messages) leases.push({ lease });
    const codes = await failed;
    return messages.flatMap((delivery) => {
      const code = codes.get(delivery.lease);
      return code === undefined ? [] : [{ delivery, code }];
    });
  }

  #gather(verdict: Verdict): Settling {
    const key = Object.values(verdict)
      .map((value) => `${typeof value} ${value}`)
      .join("\0");
    const gathered = this.#gathered.get(key);
    if (gathered !== undefined) return gathered;
    const leases: { lease: number }[] = [];
    const send = async (): Promise<ReadonlyMap<number, string>> => {
      for (let seen = -1; seen < leases.length; ) {
        seen = leases.length;
        for (let step = 0; step < STEPS; step += 1) await undefined;
      }
      this.#gathered.delete(key);
      const { failed } = await this.owner.connection.ask("settled", { ...verdict, leases }, "reject");
      return new Map(failed.map(({ lease, code }) => [lease, code]));
    };
    const failed = send();
    const settling = { leases, failed };
    this.#gathered.set(key, settling);
    this.#underWay.add(failed);
    const answered = (): boolean => this.#underWay.delete(failed);
    failed.then(answered, answered);
    return settling;
  }
}

export class LeasedMessage extends Received implements QueueDelivery {
  readonly attempt: number;
  readonly #lease: number;
  readonly #member: ActiveQueueMember;

  constructor(member: ActiveQueueMember, delivery: Delivery, { respond }: Owner) {
    super(delivery.topic, delivery.partition, delivery, respond);
    this.attempt = delivery.attempt ?? 1;
    this.#lease = delivery.lease ?? 0;
    this.#member = member;
  }

  get lease(): number {
    return this.#lease;
  }

  get owner(): Owner {
    return this.#member.owner;
  }

  ack(): Promise<void> {
    return this.#settled(this.#member.ack([this]));
  }

  nack(options?: NackOptions): Promise<void> {
    return this.#settled(this.#member.nack([this], options));
  }

  reject(options?: RejectOptions): Promise<void> {
    return this.#settled(this.#member.reject([this], options));
  }

  extend(options?: ExtendOptions): Promise<void> {
    return this.#settled(this.#member.extend([this], options));
  }

  async #settled(settling: Promise<FailedLease[]>): Promise<void> {
    const [failed] = await settling;
    if (failed === undefined) return;
    throw new DunlinError(failed.code, `the lease of ${this.origin()} ended: it was settled, its time was over, or who had it left`);
  }
}
