/**
 * A member of a partitioned group: has whole partitions, says how far it is in each, and lets go of them when it is asked.
 * Who has what the broker decides.
 *
 * Invariant: what is committed of a partition was delivered in the tenure that the member has of it now; a delivery of an
 * earlier one counts for nothing.
 */

import { DunlinError, invalid } from "./errors.ts";
import type { Commitment } from "./frames.ts";
import type { Owner, Told } from "./inbox.ts";
import { Member } from "./member.ts";
import type { JoinFields } from "./member.ts";
import { Received } from "./message.ts";
import type { PartitionDelivery, PartitionedMember, PartitionedOptions, TopicPartition } from "./types.ts";
import { Window } from "./window.ts";

const COMMIT_EVERY_MS = 1000;
/** What was processed is committed after so many messages, if its time has not come before. */
const COMMIT_MESSAGES = 64;

/** One partition, from when it was given until it is another's, or is given anew. */
class Tenure {
  readonly topic: string;
  readonly partition: number;
  /** Up to here, not including, was it taken, is it done, and does the broker know that it is done. */
  taken: bigint;
  done: bigint;
  committed: bigint;
  /** The broker wants it back. */
  isRevoked = false;

  constructor({ topic, partition, offset }: { topic: string; partition: number; offset: bigint }) {
    this.topic = topic;
    this.partition = partition;
    this.taken = this.done = this.committed = offset;
  }
}

function keyOf({ topic, partition }: TopicPartition): string {
  return `${partition} ${topic}`;
}

function places(tenures: readonly Tenure[]): TopicPartition[] {
  return tenures.map(({ topic, partition }) => ({ topic, partition }));
}

export class ActivePartitionedMember extends Member<OwnedMessage> implements PartitionedMember {
  readonly #options: PartitionedOptions;
  readonly #isAutomatic: boolean;
  readonly #commitEveryMs: number;
  readonly #window: Window;
  #generation = 0;
  #tenures = new Map<string, Tenure>();
  /** The delivery that the program works on, and who waits for it to ask for the next. */
  #inHand: OwnedMessage | undefined;
  #whenFree: (() => void) | undefined;
  /** What is to be let go of, once that can be; told apart from what an earlier stay was to let go of. */
  #leaving: Tenure[] | undefined;
  #uncommitted = 0;
  #disarm: (() => void) | undefined;

  constructor(owner: Owner, group: string, filters: string | readonly string[], options: PartitionedOptions) {
    super(owner, group, filters, options);
    const { commit = "auto", commitEveryMs = COMMIT_EVERY_MS } = options;
    if (commit !== "auto" && commit !== "manual") throw invalid(`commit must be "auto" or "manual", not ${JSON.stringify(commit)}`);
    if (!(Number.isSafeInteger(commitEveryMs) && commitEveryMs >= 1)) throw invalid(`commitEveryMs must be an integer from 1 on, not ${commitEveryMs}`);
    this.#options = options;
    this.#isAutomatic = commit === "auto";
    this.#commitEveryMs = commitEveryMs;
    this.#window = new Window(owner.connection, this.id, options.credit);
  }

  get generation(): number {
    return this.#generation;
  }

  get assignment(): readonly TopicPartition[] {
    return places([...this.#tenures.values()].filter(({ isRevoked }) => !isRevoked));
  }

  async commit(deliveries?: readonly PartitionDelivery[]): Promise<void> {
    if (deliveries === undefined) {
      const tenures = [...this.#tenures.values()];
      for (const tenure of tenures) advance(tenure, tenure.taken);
      return this.#commit(tenures);
    }
    if (!Array.isArray(deliveries)) throw invalid("give a list of deliveries");
    const messages = deliveries.map((delivery: PartitionDelivery) => {
      if (!(delivery instanceof OwnedMessage)) throw invalid("only deliveries of a partitioned group can be committed");
      this.#check(delivery);
      return delivery;
    });
    for (const { tenure, offset } of messages) advance(tenure, offset + 1n);
    await this.#commit([...new Set(messages.map(({ tenure }) => tenure))]);
  }

  commitment(delivery: OwnedMessage): { offset: Commitment; committed(): void } {
    this.#check(delivery);
    const { tenure, topic, partition } = delivery;
    const next = delivery.offset + 1n;
    return {
      offset: { subscription: this.id, generation: this.#generation, topic, partition, offset: next },
      committed() {
        advance(tenure, next);
        if (next > tenure.committed) tenure.committed = next;
      },
    };
  }

  lost(): void {
    this.#tenures = new Map();
    this.#leaving = undefined;
    this.drop(() => true);
  }

  protected joining(): JoinFields {
    const { from, member, strategy } = this.#options;
    return { kind: "partitioned", from, member, strategy, credit: this.#window.begin(0) };
  }

  protected delivered(delivery: Extract<Told, { type: "delivery" }>): void {
    const tenure = this.#tenures.get(keyOf(delivery));
    if (tenure === undefined || tenure.isRevoked) this.#window.giveBack(1);
    else this.put(new OwnedMessage(this, tenure, delivery, this.owner));
  }

  protected assigned({ generation, assigned, revoked }: Extract<Told, { type: "assignment" }>): void {
    this.#generation = generation;
    const given = assigned.map((position) => {
      const before = this.#tenures.get(keyOf(position));
      if (before !== undefined) this.#dropAll([before]);
      const tenure = new Tenure(position);
      this.#tenures.set(keyOf(position), tenure);
      return tenure;
    });
    const told = revoked.map((position) => this.#tenures.get(keyOf(position))).filter((tenure) => tenure !== undefined);
    for (const tenure of told) tenure.isRevoked = true;
    this.#dropAll(told);
    try {
      if (given.length > 0) this.#options.onAssigned?.(places(given));
    } catch (error) {
      this.fail(error);
    }
    if (revoked.length === 0) return;
    if (this.#leaving === undefined) this.#letGo((this.#leaving = told)).catch((error: unknown) => this.fail(error));
    else this.#leaving.push(...told);
  }

  protected override asked(): void {
    const delivery = this.#inHand;
    this.#inHand = undefined;
    if (delivery !== undefined && this.#isAutomatic) this.#processed(delivery);
    this.#whenFree?.();
  }

  protected taken(delivery: OwnedMessage): void {
    this.#inHand = delivery;
    delivery.tenure.taken = delivery.offset + 1n;
    this.#window.take();
  }

  override end(error?: unknown): void {
    super.end(error);
    this.#disarm?.();
    this.#whenFree?.();
  }

  protected async left(): Promise<void> {
    // Without a connection the broker has given the partitions to others.
    if (this.#isAutomatic && this.owner.connection.isOpen) await this.#commitDone([...this.#tenures.values()]);
    this.lost();
    await this.owner.leave(this);
  }

  #check({ tenure, topic, partition }: OwnedMessage): void {
    if (this.#has(tenure)) return;
    const place = `partition ${partition} of topic ${JSON.stringify(topic)}`;
    throw new DunlinError("stale_generation", `${place} is not the member's any more, or was given to it anew`);
  }

  #has(tenure: Tenure): boolean {
    return this.#tenures.get(keyOf(tenure)) === tenure;
  }

  #dropAll(tenures: readonly Tenure[]): void {
    this.#window.giveBack(this.drop(({ tenure }) => tenures.includes(tenure)));
  }

  /** Lets go of what is in `leaving`, and of what comes to it meanwhile, when the program is ready for that. */
  async #letGo(leaving: Tenure[]): Promise<void> {
    // Another stay, or the end, makes it void.
    const isVoid = (): boolean => this.hasEnded || this.#leaving !== leaving;
    for (let gone = 0; gone < leaving.length; ) {
      const now = leaving.slice(gone);
      gone = leaving.length;
      while (!isVoid() && this.#inHand !== undefined && now.includes(this.#inHand.tenure)) {
        await new Promise<void>((free) => (this.#whenFree = free));
      }
      if (isVoid()) return;
      await this.#options.onRevoked?.(places(now));
      if (!isVoid() && this.#isAutomatic) await this.#commitDone(now);
      if (isVoid()) return;
      for (const tenure of now) if (this.#has(tenure)) this.#tenures.delete(keyOf(tenure));
    }
    this.#leaving = undefined;
    this.owner.connection.post({ type: "rebalanced", subscription: this.id, generation: this.#generation });
  }

  #processed({ tenure, offset }: OwnedMessage): void {
    if (this.hasEnded || !this.#has(tenure)) return;
    advance(tenure, offset + 1n);
    this.#uncommitted += 1;
    if (this.#uncommitted >= COMMIT_MESSAGES) void this.#commitAll();
    else this.#arm();
  }

  #arm(): void {
    this.#disarm ??= this.owner.surroundings.after(this.#commitEveryMs, () => void this.#commitAll());
  }

  async #commitAll(): Promise<void> {
    this.#disarm?.();
    this.#disarm = undefined;
    this.#uncommitted = 0;
    if (this.hasEnded || !this.owner.connection.isOpen) return;
    const tenures = [...this.#tenures.values()].filter(({ isRevoked }) => !isRevoked);
    await this.#commitDone(tenures);
    if (!this.hasEnded && tenures.some((tenure) => this.#has(tenure) && tenure.done > tenure.committed)) this.#arm();
  }

  /** Commits what is done, as far as the broker takes it: what it does not take is another's, or comes with the next. */
  async #commitDone(tenures: readonly Tenure[]): Promise<void> {
    const due = tenures.filter(({ done, committed }) => done > committed);
    try {
      await this.#commit(due);
    } catch (error) {
      const { code } = error as DunlinError;
      if (!REFUSALS.includes(code)) return;
      // One that is refused lets none of them hold.
      const [only, ...others] = due;
      if (others.length > 0) for (const tenure of due) await this.#commitDone([tenure]);
      else if (only !== undefined) only.committed = only.done;
    }
  }

  async #commit(tenures: readonly Tenure[]): Promise<void> {
    const due = tenures.filter(({ done, committed }) => done > committed);
    if (due.length === 0) return;
    const offsets = due.map(({ topic, partition, done }) => ({ topic, partition, offset: done }));
    await this.owner.connection.ask("ok", { type: "commit", subscription: this.id, generation: this.#generation, offsets }, "reject");
    for (const [index, tenure] of due.entries()) {
      const { offset } = offsets[index] as { offset: bigint };
      if (offset > tenure.committed) tenure.committed = offset;
    }
  }
}

/** The partition, or its topic, is not the member's any more. */
const REFUSALS: readonly string[] = ["stale_generation", "unknown_partition", "unknown_topic", "offset_out_of_range"];

function advance(tenure: Tenure, done: bigint): void {
  if (done > tenure.done) tenure.done = done;
}

export class OwnedMessage extends Received implements PartitionDelivery {
  readonly #member: ActivePartitionedMember;
  readonly #tenure: Tenure;

  constructor(member: ActivePartitionedMember, tenure: Tenure, delivery: Extract<Told, { type: "delivery" }>, { respond }: Owner) {
    super(delivery.topic, delivery.partition, delivery, respond);
    this.#member = member;
    this.#tenure = tenure;
  }

  get tenure(): Tenure {
    return this.#tenure;
  }

  get owner(): Owner {
    return this.#member.owner;
  }

  /** What commits it in a transaction, and what is to be done when that holds. */
  commitment(): { offset: Commitment; committed(): void } {
    return this.#member.commitment(this);
  }

  commit(): Promise<void> {
    return this.#member.commit([this]);
  }
}
