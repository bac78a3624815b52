// What one listener was told, over all its connections, and what it still has a right to hear.
import { TEMPORARY, matches, topicOf } from "./plan.mjs";

/** The part of a position that counts. */
const sequenceOf = (position) => Number(position.slice(position.lastIndexOf(":") + 1));

/** The partition of a place; each life of the temporary topic has its own. */
export function partitionKey({ topic, partition, name }) {
  return topic === TEMPORARY ? `${topic} ${name.split(".")[1]}` : `${topic} ${partition}`;
}

export class Listener {
  #spec;
  #ledger;
  /** What was heard and not taken back: places by name, and the last offset of every partition. */
  #seen = new Map();
  #lastOffsets = new Map();
  /** Of that, what a crash has taken since, and it has not been told. */
  #lost = new Set();
  /** What is stored, matches, and was neither heard nor told to be missing. */
  #pending = new Map();
  /** What it was told to miss. */
  #gaps = [];
  #lastSequence = 0;
  /** Deliveries must lie above: it resumed from there. */
  #floor;
  position;

  /** @param ledger tells what is stored: `everStored()` */
  constructor(spec, ledger, position) {
    this.#spec = spec;
    this.#ledger = ledger;
    this.position = position;
    this.#floor = position === undefined ? 0 : sequenceOf(position);
    for (const [name, place] of ledger.everStored()) this.expect(name, place);
  }

  get title() {
    return `the listener to ${this.#spec.filter}${this.#spec.partition === undefined ? "" : ` partition ${this.#spec.partition}`}`;
  }

  get stays() {
    return this.#spec.stays === true;
  }

  #wants({ topic, partition }) {
    return matches(this.#spec.filter, topic) && (this.#spec.partition ?? partition) === partition;
  }

  /** The message is stored for good. */
  expect(name, place) {
    if (topicOf(place.topic) === undefined || !this.#wants(place)) return;
    const isToCome = place.sequence > this.#floor && !this.#seen.has(name);
    if (isToCome && !this.#gaps.some((gap) => covers(gap, place))) this.#pending.set(name, place);
  }

  /** Key compaction has taken the message: there is nothing to hear, and nothing to be told. */
  release(name) {
    this.#pending.delete(name);
  }

  /** A crash has taken the message. */
  lose(name) {
    if (this.#seen.has(name)) this.#lost.add(name);
  }

  subscribed(position) {
    this.position ??= position;
  }

  /** It was connected again by hand and goes on from its position. */
  resumed() {
    if (this.position !== undefined) this.#floor = sequenceOf(this.position);
  }

  /** @returns {string | undefined} what is wrong with it */
  delivered(place, position) {
    this.position = position;
    const { name, sequence, offset } = place;
    const key = partitionKey(place);
    const where = `${this.title} heard ${name} (${key} offset ${offset}, sequence ${sequence})`;
    if (!this.#wants(place)) return `${where}, which it did not ask for`;
    if (this.#seen.has(name)) return `${where} twice`;
    if (sequence <= this.#floor) return `${where} again: it had resumed after ${this.#floor}`;
    const last = this.#lastOffsets.get(key) ?? -1;
    if (offset <= last) return `${where} behind offset ${last} of that partition`;
    if (this.#spec.inSequence && sequence <= this.#lastSequence) return `${where} behind sequence ${this.#lastSequence}`;
    this.#seen.set(name, place);
    this.#lastOffsets.set(key, offset);
    this.#lastSequence = sequence;
    this.#pending.delete(name);
    return undefined;
  }

  /** @returns {string | undefined} what is wrong with it */
  gap(gap) {
    const { reason, after, to } = gap;
    if (reason === "truncated") return this.#takeBack(after);
    if (reason !== "trimmed") return `${this.title} was told a gap of sequences above ${after} to ${to}: ${reason}`;
    this.#gaps.push(gap);
    for (const [name, place] of this.#pending) if (covers(gap, place)) this.#pending.delete(name);
    return undefined;
  }

  /** What is above was lost: its places may be given again. */
  #takeBack(after) {
    this.#floor = Math.min(this.#floor, after);
    this.#lastSequence = Math.min(this.#lastSequence, after);
    this.#gaps = this.#gaps.map((gap) => ({ ...gap, to: Math.min(gap.to, after) }));
    this.#lastOffsets.clear();
    for (const [name, place] of this.#seen) {
      if (place.sequence > after) {
        this.#seen.delete(name);
        this.#lost.delete(name);
      } else this.#lastOffsets.set(partitionKey(place), place.offset);
    }
    for (const [name, place] of this.#ledger.everStored()) if (place.sequence > after) this.expect(name, place);
    return undefined;
  }

  /** What it lacks, in words; nothing once it has caught up. */
  lacks() {
    for (const { topic, partition, offset, sequence, name } of this.#pending.values()) {
      const more = this.#pending.size > 1 ? ` and ${this.#pending.size - 1} more` : "";
      return `${this.title} has neither heard nor been told to miss ${name} (${topic} ${partition} offset ${offset}, sequence ${sequence})${more}; it is at ${this.position}`;
    }
    for (const name of this.#lost) {
      const { topic, partition, offset } = this.#seen.get(name);
      return `${this.title} had heard ${name} (${topic} ${partition} offset ${offset}), which a crash took, and was not told`;
    }
    return undefined;
  }
}

/** Whether a gap tells that the message at this place is missing. */
function covers({ after, to, topic, partition }, place) {
  const isOfIt = topic === undefined || (place.topic === topic && place.partition === partition);
  return isOfIt && place.sequence > after && place.sequence <= to;
}
