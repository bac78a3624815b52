// What happens in a run, as functions of its seed: the topics, every message, when the process is killed. It runs in
// Node and in pages, so that a message that is read anywhere can be compared with what its name stands for.

/** Numbers from a seed, given as any values: xmur3 feeds sfc32. */
export function dice(...seed) {
  let hash = 1779033703;
  for (const unit of seed.join("/")) {
    hash = Math.imul(hash ^ unit.codePointAt(0), 3432918353);
    hash = (hash << 13) | (hash >>> 19);
  }
  const mix = () => {
    hash = Math.imul(hash ^ (hash >>> 16), 2246822507);
    hash = Math.imul(hash ^ (hash >>> 13), 3266489909);
    return (hash ^= hash >>> 16) >>> 0;
  };
  let [a, b, c, d] = [mix(), mix(), mix(), mix()];
  const next = () => {
    const t = (((a + b) | 0) + d) | 0;
    d = (d + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + t;
    return t >>> 0;
  };
  const real = () => next() / 4294967296;
  const below = (bound) => Math.floor(real() * bound);
  return {
    next,
    real,
    below,
    from: (low, high) => low + below(high - low + 1),
    pick: (values) => values[below(values.length)],
    chance: (probability) => real() < probability,
  };
}

const LEVELS = ["none", "async", "sync"];
const strongest = (levels) => LEVELS[Math.max(...levels.map((level) => LEVELS.indexOf(level)))];

/** Every kind, every ordering and every level; `keeps` is which of the messages that were published stay. */
export const TOPICS = [
  { topic: "log/none", kind: "log", ordering: "none", partitions: 3, durability: "none", keeps: "all" },
  { topic: "log/key", kind: "log", ordering: "per_key", partitions: 4, durability: "async", keeps: "all" },
  { topic: "log/topic", kind: "log", ordering: "per_topic", partitions: 1, durability: "sync", keeps: "all" },
  { topic: "log/global/a", kind: "log", ordering: "global", partitions: 1, durability: "async", keeps: "all" },
  { topic: "log/global/b", kind: "log", ordering: "global", partitions: 1, durability: "none", keeps: "all" },
  { topic: "trim/count", kind: "log", ordering: "per_topic", partitions: 1, durability: "async", maxMessages: 160, keeps: "newest" },
  { topic: "trim/bytes", kind: "log", ordering: "none", partitions: 2, durability: "async", maxBytes: 32768, keeps: "newest" },
  { topic: "last", kind: "last_value", ordering: "per_topic", partitions: 1, durability: "async", keeps: "newest" },
  { topic: "compact", kind: "compacted", ordering: "per_key", partitions: 2, durability: "async", keeps: "keys" },
  { topic: "live", kind: "live", ordering: "per_topic", partitions: 1, durability: "none", keeps: "nothing" },
].map((topic) => Object.freeze(topic));

const BY_NAME = new Map(TOPICS.map((topic) => [topic.topic, topic]));
export const topicOf = (name) => BY_NAME.get(name);

/** What holds for a message of a topic that was published with `asked`; a live one waits for nothing. */
export function levelOf(name, asked = "none") {
  const { kind, durability } = topicOf(name);
  return kind === "live" ? "none" : strongest([durability, asked]);
}

/** The topic that is created and deleted again and again. Each of its lives is told from the others by its bound. */
export const TEMPORARY = "temporary";
export const temporaryConfig = (life) => ({ durability: "async", maxMessages: 1_000_000 + life });
export const temporaryMessages = (seed, life) => dice(seed, "life", life).from(1, 30);

const BATCHED = TOPICS.filter(({ kind }) => kind !== "live").map(({ topic }) => topic);
const LARGE = ["log/topic", "log/key", "log/global/a"];

/** How a broker is bounded in a round: as it comes, or so tightly that rows and segments are closed all the time. */
export function brokerConfig(seed, round) {
  // Nobody is ever too slow here, and compaction has something to do.
  const always = { lag_max: 1_000_000_000, compaction_bytes_min: 4096, tombstone_ms_min: 0 };
  if (dice(seed, "config", round).chance(0.5)) return always;
  return { ...always, row_bytes_max: 2048, segment_bytes_max: 8192, segment_rows_max: 16, trim_rows_max: 64 };
}

/**
 * The `n`th command of a producer in a cycle: a publish, or a batch. Messages are named `cycle.producer.n.index`.
 * @returns {{ messages: object[], isBatch: boolean, isLarge: boolean, durability?: string, level: string }}
 */
export function command(seed, cycle, producer, n) {
  const name = `${cycle}.${producer}.${n}`;
  const known = made.get(`${seed}/${name}`);
  if (known !== undefined) return known;
  const random = dice(seed, name);
  const shape = random.real();
  const isBatch = shape < 0.2;
  let durability = random.chance(0.3) ? random.pick(LEVELS) : undefined;
  let sizes;
  if (shape < 0.006) sizes = Array.from({ length: random.from(100, 500) }, () => random.below(200));
  else if (shape < 0.012) sizes = Array.from({ length: 3 }, () => random.from(50_000, 300_000));
  else if (isBatch) sizes = Array.from({ length: random.from(2, 16) }, () => random.below(300));
  else sizes = [random.chance(0.02) ? random.from(10_000, 300_000) : random.below(400)];
  const messages = sizes.map((size, index) => {
    const topic = random.pick(size >= 10_000 ? LARGE : isBatch ? BATCHED : TOPICS.map((one) => one.topic));
    return message(random, `${name}.${index}`, topic, size);
  });
  const level = strongest(messages.map(({ topic }) => levelOf(topic, durability)));
  const result = { messages, isBatch, isLarge: shape < 0.012, durability, level };
  // Every survey reads all messages of a round; those of earlier rounds are not kept for ever.
  if (made.size >= 16_384) made.clear();
  made.set(`${seed}/${name}`, result);
  return result;
}
const made = new Map();

/** The message of that name, wherever it belongs; undefined if nobody could have published it. */
export function messageOf(seed, name) {
  const temporary = /^life\.(\d+)\.(\d+)$/.exec(name);
  if (temporary !== null) return temporaryMessage(seed, Number(temporary[1]), Number(temporary[2]));
  const [cycle, producer, n, index] = numbers(name);
  return index === undefined ? undefined : command(seed, cycle, producer, n).messages[index];
}

/** The four numbers of a name; none if it is not one. */
export function numbers(name) {
  return /^(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(name)?.slice(1).map(Number) ?? [];
}

export function temporaryMessage(seed, life, index) {
  if (index >= temporaryMessages(seed, life)) return undefined;
  return message(dice(seed, "life", life, index), `life.${life}.${index}`, TEMPORARY, 40);
}

function message(random, id, topic, size) {
  const isCompacted = topic === "compact";
  const isKeyed = isCompacted || topic === "log/key" || random.chance(0.3);
  const isTombstone = isCompacted && random.chance(0.15);
  return {
    topic,
    id,
    ...(isKeyed && { key: `key ${random.below(isCompacted ? 25 : 100)}` }),
    ...(random.chance(0.2) && { contentType: "text/x-crash" }),
    ...(random.chance(0.3) && { headers: [["trace", String(random.below(1000))], ["ü", id]] }),
    payload: isTombstone ? new Uint8Array() : filled(random, id, size),
  };
}

/** The name, then bytes that no other message has. */
function filled(random, id, size) {
  const bytes = new Uint8Array(id.length + 1 + size);
  for (let at = 0; at < id.length; at += 1) bytes[at] = id.charCodeAt(at);
  bytes[id.length] = 0x20;
  let word = random.next() | 1;
  for (let at = id.length + 1; at < bytes.length; at += 1) {
    word ^= word << 13;
    word ^= word >>> 17;
    word ^= word << 5;
    bytes[at] = word;
  }
  return bytes;
}

/** What differs between a message as it was read and as it was published. */
export function difference(seed, read) {
  const { id } = read;
  if (id === undefined) return "was never published: it has no id";
  const published = messageOf(seed, id);
  if (published === undefined) return `was never published: nothing is named ${JSON.stringify(id)}`;
  if (published.topic !== read.topic) return `was published to ${published.topic}`;
  if (published.key !== read.key) return `has the key ${read.key} for ${published.key}`;
  if (published.contentType !== read.contentType) return `has the content type ${read.contentType} for ${published.contentType}`;
  if (JSON.stringify(published.headers ?? []) !== JSON.stringify(read.headers)) return `has the headers ${JSON.stringify(read.headers)}`;
  if (published.payload.length !== read.payload.length) return `has ${read.payload.length} bytes for ${published.payload.length}`;
  for (let at = 0; at < read.payload.length; at += 1) {
    if (published.payload[at] !== read.payload[at]) return `differs from byte ${at} on`;
  }
  return undefined;
}

/** Who listens. `stays` keeps its client over the crash; the others open a new one where they were. */
export const LISTENERS = [
  { filter: "log/#", credit: 256 },
  { filter: "log/global/+", credit: 5, inSequence: true },
  { filter: "log/key", partition: 2, credit: 64 },
  { filter: "#", credit: 1000 },
  { filter: "trim/+", credit: 3 },
  { filter: "+", credit: 20 },
  { filter: "log/#", credit: 100, stays: true },
];

/** Whether `filter` matches `name`: MQTT's rules as far as the filters above need them. */
export function matches(filter, name) {
  const names = name.split("/");
  const levels = filter.split("/");
  const open = levels.at(-1) === "#";
  if (open) levels.pop();
  const fits = open ? names.length >= levels.length : names.length === levels.length;
  return fits && levels.every((level, index) => level === "+" || level === names[index]);
}

/** Whom a cycle lets work, and when it ends: after so many `events` (`what`) and then `waitMs`, spent `how`. */
export function cyclePlan(seed, cycle) {
  const random = dice(seed, "cycle", cycle);
  const producers = Array.from({ length: random.from(2, 4) }, () => ({ window: random.pick([1, 4, 16, 64, 200]) }));
  const what = random.pick(["acks", "acks", "batches", "large batches", "deliveries"]);
  const most = { acks: 120, batches: 20, "large batches": 2, deliveries: 400 }[what];
  const events = random.from(1, most);
  const how = random.pick(["at once", "spinning", "waiting"]);
  const waitMs = { "at once": 0, spinning: random.real() * 2, waiting: random.real() * 25 }[how];
  return { producers, what, events, how, waitMs, earlyKills: random.pick([0, 0, 1, 2]), earlyShares: [random.real(), random.real()] };
}
