// What is known to be stored, and the judgement of what a crash left. One ledger follows one namespace over all the
// crashes of a round; its `take` reads the journal of the crew, its `settle` a survey after a restart.
import { Listener, partitionKey } from "./listener.mjs";
import { TEMPORARY, TOPICS, command, levelOf, messageOf, numbers, temporaryConfig, temporaryMessages, topicOf } from "./plan.mjs";

/** Something is not as it was acknowledged. */
export class Violation extends Error {}

/** More than so many say no more than so many. */
const SHOWN_MAX = 12;

export class Ledger {
  #seed;
  #namespace;
  #survives;
  #unheardMax;
  #now;
  #cycle = 0;
  /** By name: what this cycle heard of each message, with its place, and whether that is a promise. */
  #heard = new Map();
  /** By name: what the last survey found. */
  #stored = new Map();
  /** By name: everything that was ever found or promised, except what was lost and what compaction may take. */
  #ever = new Map();
  /** To whom each offset and each sequence was given. */
  #offsets = new Map();
  #sequences = new Map();
  /** From where to where the partitions went in the last survey. */
  #extents = new Map();
  #sent = new Map();
  #refused = new Set();
  #lives = { creating: 0, created: 0, filled: 0, deleting: 0, deleted: 0 };
  #keyPartitions = new Map();
  #listeners = new Map();
  #troubles = [];

  /**
   * @param {object} given
   * @param {string} given.seed of the plan
   * @param {string} given.namespace for messages
   * @param {(level: string) => boolean} given.survives whether what was acknowledged at a level outlives the crash
   * @param {number} given.unheardMax how many commands of a producer may have been sent without the journal's knowing
   * @param {() => string} given.now when it is, for messages
   */
  constructor({ seed, namespace, survives, unheardMax, now }) {
    this.#seed = seed;
    this.#namespace = namespace;
    this.#survives = survives;
    this.#unheardMax = unheardMax;
    this.#now = now;
  }

  everStored() {
    return this.#ever;
  }

  get nextLife() {
    return this.#lives.creating + 1;
  }

  get storedCount() {
    return this.#stored.size;
  }

  begin(cycle) {
    this.#cycle = cycle;
    this.#sent.clear();
    this.#refused.clear();
  }

  /** A listener that is new, or goes on; where it begins. */
  listen(number, spec, position) {
    const known = this.#listeners.get(number);
    if (known !== undefined) {
      known.resumed();
      return known.position ?? "earliest";
    }
    this.#listeners.set(number, new Listener(spec, this, position));
    return position ?? "earliest";
  }

  hush(number) {
    this.#listeners.delete(number);
  }

  /** What listeners still lack. */
  lacks({ all }) {
    const asked = [...this.#listeners.values()].filter((listener) => all || !listener.stays);
    return asked.map((listener) => listener.lacks()).filter((what) => what !== undefined);
  }

  take(entry) {
    switch (entry.type) {
      case "sent":
        this.#sent.set(entry.producer, Math.max(entry.n, this.#sent.get(entry.producer) ?? -1));
        return;
      case "acked": {
        const { messages, level } = command(this.#seed, entry.cycle, entry.producer, entry.n);
        for (const [index, [partition, offset, sequence]] of entry.places.entries()) {
          const { id: name, topic } = messages[index];
          this.#hear({ name, topic, partition, offset, sequence }, `acknowledged at ${level}`, this.#survives(level));
        }
        return;
      }
      case "refused":
        this.#refused.add(`${entry.producer}.${entry.n}`);
        this.#trouble(`the command ${entry.cycle}.${entry.producer}.${entry.n} was refused: ${entry.code}: ${entry.message}`);
        return;
      case "life":
        this.#lives[entry.step] = entry.life;
        return;
      case "subscribed":
        this.#listeners.get(entry.listener)?.subscribed(entry.position);
        return;
      case "delivered":
        this.#delivered(entry);
        return;
      case "gap":
        this.#trouble(this.#listeners.get(entry.listener)?.gap(entry));
        return;
      default:
        this.#trouble(entry.message);
    }
  }

  #delivered({ listener, topic, partition, position, record: { fault, ...record } }) {
    const place = { topic, partition, ...record };
    if (fault !== undefined) {
      this.#trouble(`a delivery of ${topic} ${partition} offset ${record.offset} ${fault}`);
      return;
    }
    const [cycle, producer, n] = numbers(place.name);
    // A delivery waits for its own message, a receipt for the whole batch.
    const level = topic === TEMPORARY ? temporaryConfig().durability : levelOf(topic, command(this.#seed, cycle, producer, n).durability);
    this.#hear(place, `delivered, having been published at ${level},`, this.#survives(level));
    this.#trouble(this.#listeners.get(listener)?.delivered(place, position));
  }

  /** A place was told. */
  #hear(place, how, isPromise) {
    const known = this.#stored.get(place.name) ?? this.#heard.get(place.name);
    if (known === undefined) this.#give(place);
    else if (!isSamePlace(known, place)) this.#trouble(`${show(place)} was ${how} but has stood at ${show(known)}`);
    if (this.#stored.has(place.name) || known?.isPromise) return;
    this.#heard.set(place.name, { ...place, isPromise, how: `${how} in cycle ${this.#cycle}, ${this.#now()}` });
  }

  #give(place) {
    const offset = `${partitionKey(place)} ${place.offset}`;
    for (const [given, what] of [[this.#offsets.get(offset), "offset"], [this.#sequences.get(place.sequence), "sequence"]]) {
      if (given !== undefined && given !== place.name) this.#trouble(`${show(place)} has the ${what} that was given to ${given}`);
    }
    this.#offsets.set(offset, place.name);
    this.#sequences.set(place.sequence, place.name);
  }

  #takeBack(place) {
    const offset = `${partitionKey(place)} ${place.offset}`;
    if (this.#offsets.get(offset) === place.name) this.#offsets.delete(offset);
    if (this.#sequences.get(place.sequence) === place.name) this.#sequences.delete(place.sequence);
  }

  #trouble(what) {
    if (what !== undefined) this.#troubles.push(`${this.#namespace}: ${what}`);
  }

  /** Throws what was found wrong so far. */
  judge() {
    if (this.#troubles.length === 0) return;
    const more = this.#troubles.length - SHOWN_MAX;
    const shown = this.#troubles.slice(0, SHOWN_MAX);
    throw new Violation([...shown, ...(more > 0 ? [`and ${more} more`] : [])].join("\n"));
  }

  /** Compares a survey with all that is known, and throws what is wrong; then it is what is known. */
  settle(survey) {
    const found = new Map();
    let last = 0;
    const sequences = new Map();
    for (const [where, { start }] of this.#extents) this.#extents.set(where, { start, end: 0 });
    for (const { topic, partitions } of survey) {
      for (const [partition, part] of partitions.entries()) {
        for (const { fault, ...record } of part.records) {
          const place = { topic, partition, ...record };
          if (fault !== undefined) this.#trouble(`the history of ${topic} ${partition} offset ${record.offset} ${fault}`);
          if (found.has(place.name)) this.#trouble(`${show(place)} is also at ${show(found.get(place.name))}`);
          const other = sequences.get(place.sequence);
          if (other !== undefined) this.#trouble(`${show(place)} has the sequence of ${show(other)}`);
          found.set(place.name, place);
          sequences.set(place.sequence, place);
          last = Math.max(last, place.sequence);
        }
        this.#checkPartition(topic, partition, part);
      }
    }
    this.#checkTopics(survey);
    this.#checkNew(found);
    this.#checkKnown(found, last);
    this.#checkKeys(found);
    this.#checkOrder(sequences);
    this.#checkProducers(found);
    this.#checkLives(survey);
    this.judge();
    this.#accept(found, last);
    return { stored: found.size };
  }

  /** Offsets are dense, and retention has taken no more than it may. */
  #checkPartition(topic, partition, { start, end, records }) {
    const where = `${topic} ${partition}`;
    const keeps = topicOf(topic)?.keeps ?? "all";
    let previous;
    for (const record of records) {
      if (previous !== undefined && (record.offset <= previous.offset || record.sequence <= previous.sequence)) {
        this.#trouble(`${where}: offset ${record.offset} (sequence ${record.sequence}) follows offset ${previous.offset} (sequence ${previous.sequence})`);
      }
      previous = record;
    }
    const first = records[0]?.offset ?? end;
    // Retention may have gone on since it was asked where the partition begins.
    const isDense = records.length === end - first && (first === start || (keeps === "newest" && first > start));
    if (keeps !== "keys" && !isDense) {
      this.#trouble(`${where} goes from ${start} to ${end}, but ${records.length} messages are there, from offset ${first} on`);
    }
    if (keeps === "all" && start > 0) this.#trouble(`${where} begins at ${start}, though nothing may be trimmed`);
    const before = topic === TEMPORARY ? 0 : (this.#extents.get(where)?.start ?? 0);
    if (start < before) this.#trouble(`${where} begins at ${start}; before the crash it began at ${before}`);
    this.#extents.set(where, { start: keeps === "newest" ? first : start, end });
    if (keeps !== "newest" || first === 0) return;
    // Retention takes segments: of so many messages at most a sixteenth, of so many bytes as many as one batch had.
    const { maxMessages = 1 } = topicOf(topic);
    const least = Math.ceil(maxMessages - maxMessages / 8);
    if (records.length < least) this.#trouble(`${where} keeps ${records.length} messages; retention leaves at least ${least}`);
  }

  /** What was configured is there. */
  #checkTopics(survey) {
    const there = new Set(survey.map(({ topic }) => topic));
    for (const { topic, kind, durability } of TOPICS) {
      if (kind !== "live" && this.#survives(durability) && !there.has(topic)) this.#trouble(`${topic} was created, and is not there`);
    }
    for (const { topic, partitions } of survey) {
      const wanted = topic === TEMPORARY ? 1 : topicOf(topic)?.partitions;
      if (wanted !== partitions.length) this.#trouble(`${topic} has ${partitions.length} partitions for ${wanted}`);
    }
  }

  /** What nobody had heard of may be there only if it was under way when the crash came. */
  #checkNew(found) {
    for (const place of found.values()) {
      const known = this.#stored.get(place.name) ?? this.#heard.get(place.name);
      if (known !== undefined) {
        if (!isSamePlace(known, place)) this.#trouble(`${show(place)} stood at ${show(known)} before${told(known)}`);
        continue;
      }
      this.#give(place);
      if (place.topic === TEMPORARY) continue;
      const [cycle, producer, n] = numbers(place.name);
      if (cycle !== this.#cycle) this.#trouble(`${show(place)} was not there after an earlier crash, and is there now`);
      else if (this.#refused.has(`${producer}.${n}`)) this.#trouble(`${show(place)} is there, though its command was refused`);
      else if (n > this.#sentMost(producer)) this.#trouble(`${show(place)} is there, though its command was never sent`);
    }
  }

  /** What was there, or was promised, is there, unless retention or compaction took it. */
  #checkKnown(found, last) {
    for (const known of [...this.#stored.values(), ...this.#heard.values()]) {
      if (found.has(known.name) || known.topic === TEMPORARY || topicOf(known.topic).keeps === "nothing") continue;
      const { start, end } = this.#extentOf(known);
      const { keeps } = topicOf(known.topic);
      const range = `the partition holds offsets from ${start} to ${end}`;
      if (known.offset < end) {
        const isTaken = keeps === "keys" || (keeps === "newest" && known.offset < start);
        if (!isTaken) this.#trouble(`${show(known)} is not there, but later ones are: ${range}${told(known)}`);
      } else if (known.isPromise ?? true) {
        this.#trouble(`${show(known)} is lost: ${range}${told(known)}`);
      } else if (known.sequence < last) {
        this.#trouble(`${show(known)} is lost, but what was published later is there, up to sequence ${last}${told(known)}`);
      }
    }
  }

  /** The newest message of every key is there, unless it deletes the key. */
  #checkKeys(found) {
    const newest = new Map();
    for (const place of [...found.values(), ...this.#stored.values(), ...this.#heard.values()]) {
      if (topicOf(place.topic)?.keeps !== "keys") continue;
      if (!(place.isPromise ?? true) && !found.has(place.name)) continue;
      const { key } = messageOf(this.#seed, place.name) ?? {};
      if (place.offset >= (newest.get(key)?.offset ?? -1)) newest.set(key, place);
      const partition = this.#keyPartitions.get(key) ?? place.partition;
      this.#keyPartitions.set(key, partition);
      if (partition !== place.partition) this.#trouble(`${show(place)} has a key of partition ${partition}`);
    }
    const deleting = this.#unheardTombstones();
    for (const [key, place] of newest) {
      if (found.has(place.name) || deleting.has(key)) continue;
      const { payload } = messageOf(this.#seed, place.name);
      if (payload.length > 0) this.#trouble(`${show(place)} is the newest of ${JSON.stringify(key)}, and is not there${told(place)}`);
    }
  }

  /** Keys that a command under way may have deleted, and compaction its message as well. */
  #unheardTombstones() {
    const keys = new Set();
    for (const producer of this.#sent.keys()) {
      for (let n = 0; n <= this.#sentMost(producer); n += 1) {
        for (const { id, topic, key, payload } of command(this.#seed, this.#cycle, producer, n).messages) {
          if (topicOf(topic).keeps === "keys" && payload.length === 0 && !this.#heard.has(id)) keys.add(key);
        }
      }
    }
    return keys;
  }

  /** What one producer published stands in the order in which it was published, across all topics. */
  #checkOrder(sequences) {
    const last = new Map();
    for (const [, place] of [...sequences].sort(([a], [b]) => a - b)) {
      const [cycle, producer, n, index] = numbers(place.name);
      if (index === undefined) continue;
      const before = last.get(`${cycle}.${producer}`);
      if (before !== undefined && (n < before.n || (n === before.n && index <= before.index))) {
        this.#trouble(`${show(place)} stands behind ${show(before.place)}, which was published later`);
      }
      last.set(`${cycle}.${producer}`, { n, index, place });
    }
  }

  /** Of each producer the crash left the first commands, each whole. */
  #checkProducers(found) {
    for (const producer of this.#sent.keys()) {
      const ofCommand = (n) => command(this.#seed, this.#cycle, producer, n).messages;
      let latest = this.#sentMost(producer);
      while (latest >= 0 && !ofCommand(latest).some(({ id }) => found.has(id))) latest -= 1;
      for (let n = 0; n <= latest; n += 1) {
        if (this.#refused.has(`${producer}.${n}`)) continue;
        const kept = ofCommand(n).filter(({ topic }) => topicOf(topic).keeps === "all");
        const missing = kept.filter(({ id }) => !found.has(id));
        if (missing.length === 0) continue;
        const whole = missing.length === kept.length ? "nothing" : `only ${kept.length - missing.length} of ${kept.length} messages`;
        this.#trouble(`of the command ${this.#cycle}.${producer}.${n} ${whole} is there, and of ${this.#cycle}.${producer}.${latest} at least one`);
      }
    }
  }

  /** The temporary topic is as its last step left it, or as the step under way would have. */
  #checkLives(survey) {
    const { creating, created, filled, deleting, deleted } = this.#lives;
    const topic = survey.find((one) => one.topic === TEMPORARY);
    if (topic === undefined) {
      if (created > deleting) this.#trouble(`${TEMPORARY} was created for the ${created}th time, and is not there`);
      return;
    }
    const life = topic.maxMessages - 1_000_000;
    if (life <= deleted) this.#trouble(`${TEMPORARY} was deleted for the ${deleted}th time, and its life ${life} is there`);
    if (life < created || life > creating) this.#trouble(`${TEMPORARY} lives for the ${life}th time, after the ${created}th creation`);
    const records = topic.partitions.flatMap((part) => part.records);
    for (const { name } of records) if (!name?.startsWith(`life.${life}.`)) this.#trouble(`${TEMPORARY} holds ${name} in its life ${life}`);
    const wanted = temporaryMessages(this.#seed, life);
    if (filled === life && records.length !== wanted) {
      this.#trouble(`${TEMPORARY} holds ${records.length} messages in its life ${life}, of ${wanted} that were acknowledged`);
    }
  }

  /** The survey is what is known from now on. */
  #accept(found, last) {
    const lost = new Set();
    for (const place of this.#heard.values()) {
      if (found.has(place.name) || place.isPromise || place.topic === TEMPORARY) continue;
      const isLive = topicOf(place.topic).keeps === "nothing";
      // Of what nobody stores only the place can be lost; of other messages retention may have had them.
      if (isLive ? place.sequence <= last : place.offset < this.#extentOf(place).end) continue;
      this.#takeBack(place);
      if (isLive) continue;
      lost.add(place.name);
      for (const listener of this.#listeners.values()) listener.lose(place.name);
    }
    for (const place of [...this.#heard.values(), ...found.values()]) {
      if (place.topic === TEMPORARY || lost.has(place.name) || this.#ever.has(place.name)) continue;
      const { keeps } = topicOf(place.topic);
      if (keeps === "nothing" || (keeps === "keys" && !found.has(place.name))) continue;
      this.#ever.set(place.name, place);
      for (const listener of this.#listeners.values()) listener.expect(place.name, place);
    }
    for (const [name, { topic }] of this.#ever) {
      if (topicOf(topic).keeps !== "keys" || found.has(name)) continue;
      this.#ever.delete(name);
      for (const listener of this.#listeners.values()) listener.release(name);
    }
    this.#stored = found;
    this.#heard.clear();
    // The crash may have come between the steps; the next life is another in any case.
    this.#lives = { ...this.#lives, created: 0, filled: 0, deleting: this.#lives.creating };
  }

  /** The last command that a producer can have sent. */
  #sentMost(producer) {
    return (this.#sent.get(producer) ?? -1) + this.#unheardMax;
  }

  #extentOf({ topic, partition }) {
    return this.#extents.get(`${topic} ${partition}`) ?? { start: 0, end: 0 };
  }
}

function isSamePlace(one, other) {
  return one.topic === other.topic && one.partition === other.partition && one.offset === other.offset && one.sequence === other.sequence;
}

function show({ name, topic, partition, offset, sequence }) {
  return `${name} (${topic} partition ${partition} offset ${offset}, sequence ${sequence})`;
}

function told({ how }) {
  return how === undefined ? "; an earlier survey found it" : `; it was ${how} after the load began`;
}
