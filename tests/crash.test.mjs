// The judgement of what a crash left is itself put to the test: an honest history passes, and every lie is named.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Ledger } from "./crash/ledger.mjs";
import { TEMPORARY, TOPICS, command, dice, difference, levelOf, matches, messageOf, numbers, temporaryMessages, topicOf } from "./crash/plan.mjs";

const SEED = "judged";
const COMMANDS = 60;
const fresh = () =>
  new Ledger({ seed: SEED, namespace: "n", survives: (level) => level !== "none", unheardMax: 0, now: () => "1 ms" });

/** What a broker that loses nothing would tell of the first commands of one producer, and what it would hold then. */
function honest({ acked = COMMANDS } = {}) {
  const survey = TOPICS.filter(({ kind }) => kind !== "live").map(({ topic, partitions }) => ({
    topic,
    partitions: Array.from({ length: partitions }, () => ({ start: 0, end: 0, records: [] })),
  }));
  const entries = [];
  let sequence = 0;
  let live = 0;
  for (let n = 0; n < COMMANDS; n += 1) {
    const { messages, isBatch } = command(SEED, 0, 0, n);
    const places = messages.map(({ id: name, topic, key }) => {
      sequence += 1;
      if (topic === "live") return [0, live++, sequence];
      const { partitions } = survey.find((one) => one.topic === topic);
      const partition = key === undefined ? 0 : dice(key).below(partitions.length);
      const offset = partitions[partition].end;
      partitions[partition].records.push({ offset, sequence, name });
      partitions[partition].end += 1;
      return [partition, offset, sequence];
    });
    entries.push({ type: "sent", cycle: 0, producer: 0, n, isBatch });
    if (n < acked) entries.push({ type: "acked", cycle: 0, producer: 0, n, places });
  }
  return { entries, survey };
}

const partOf = (survey, topic, partition = 0) => survey.find((one) => one.topic === topic).partitions[partition];

/** What a broker holds that has lost everything. */
const emptied = () =>
  honest({ acked: 0 }).survey.map(({ topic, partitions }) => ({ topic, partitions: partitions.map(() => ({ start: 0, end: 0, records: [] })) }));

/** Takes the last message of a partition away, as if it had never come. */
function cut(survey, topic, partition = 0) {
  const part = partOf(survey, topic, partition);
  part.end -= 1;
  return part.records.pop();
}

function judged({ entries, survey }, ledger = fresh()) {
  for (const entry of entries) ledger.take(entry);
  return ledger.settle(survey);
}

function finds(pattern, given, ledger) {
  assert.throws(() => judged(given, ledger), { message: pattern });
}

test("an honest history passes, acknowledged or not, and so does one that lost its unacknowledged end", () => {
  assert.ok(judged(honest()).stored > 100);
  judged(honest({ acked: 0 }));
  const given = honest({ acked: COMMANDS - 1 });
  const lost = new Set(command(SEED, 0, 0, COMMANDS - 1).messages.map(({ id }) => id));
  for (const { partitions } of given.survey) {
    for (const part of partitions) while (lost.has(part.records.at(-1)?.name)) part.end = part.records.pop().offset;
  }
  judged(given);
});

test("a lost message is found at every level that promises it", () => {
  const given = honest();
  const { name, offset } = cut(given.survey, "log/topic");
  finds(new RegExp(`n: ${name} \\(log/topic partition 0 offset ${offset}.* is lost: .*acknowledged at sync in cycle 0, 1 ms`), given);
  const other = honest();
  cut(other.survey, "log/global/a");
  finds(/log\/global\/a partition 0 offset \d+, sequence \d+\) is lost: .*acknowledged at (async|sync)/, other);
});

test("of what nothing promises, only the end may be lost", () => {
  const given = honest();
  const { records } = partOf(given.survey, "log/global/b");
  const isNone = ({ name }) => levelOf("log/global/b", command(SEED, ...numbers(name)).durability) === "none";
  assert.ok(isNone(records.at(-1)), "choose another seed: the last message of log/global/b is not of level none");
  cut(given.survey, "log/global/b");
  finds(/log\/global\/b .* is lost/, given);
});

test("holes, changes, strangers, repetitions and another order are found", () => {
  const change = (topic, work) => {
    const given = honest();
    work(partOf(given.survey, topic));
    return given;
  };
  finds(/log\/key 0 goes from 0 to \d+, but \d+ messages are there/, change("log/key", ({ records }) => records.splice(1, 1)));
  finds(/history of log\/topic 0 offset 1 differs from byte 7 on/, change("log/topic", ({ records }) => (records[1].fault = "differs from byte 7 on")));
  finds(/is there, though its command was never sent/, change("log/topic", (part) => part.records.push({ offset: part.end++, sequence: 9999, name: `0.0.${COMMANDS}.0` })));
  finds(/is also at/, change("log/topic", (part) => part.records.push({ ...part.records[0], offset: part.end++, sequence: 9999 })));
  finds(/has the sequence of/, change("log/topic", ({ records }) => (records[1].sequence = records[0].sequence)));
  finds(/log\/topic 0 begins at 1, though nothing may be trimmed/, change("log/topic", (part) => { part.start = 1; part.records.shift(); }));
  finds(/stood at .* before/, change("log/topic", ({ records }) => ([records[0].name, records[1].name] = [records[1].name, records[0].name])));
});

test("what one producer published stands in its order, also where nobody was told", () => {
  const given = honest({ acked: 0 });
  const { records } = partOf(given.survey, "log/topic");
  [records[0].name, records[1].name] = [records[1].name, records[0].name];
  finds(/stands behind .*, which was published later/, given);
});

test("a topic that was created is there", () => {
  const given = honest({ acked: 0 });
  given.survey = given.survey.filter(({ topic }) => topic !== "trim/count");
  finds(/trim\/count was created, and is not there/, given);
});

test("a batch is there as a whole or not at all", () => {
  const n = Array.from({ length: COMMANDS }, (_, index) => index).findLast((index) => {
    const kept = command(SEED, 0, 0, index).messages.filter(({ topic }) => topicOf(topic).keeps === "all");
    return kept.length > 1 && kept.some(({ topic }) => topic !== kept.at(-1).topic);
  });
  const given = honest({ acked: 0 });
  const { id, topic } = command(SEED, 0, 0, n).messages.filter((one) => topicOf(one.topic).keeps === "all").at(-1);
  for (const part of given.survey.find((one) => one.topic === topic).partitions) {
    const at = part.records.findIndex(({ name }) => name === id);
    if (at >= 0) part.end = part.records.splice(at)[0].offset;
  }
  finds(new RegExp(`of the command 0.0.${n} only \\d+ of \\d+ messages is there`), given);
});

test("places are given once, and what was lost stays lost", () => {
  const twice = honest();
  const acked = twice.entries.filter(({ type }) => type === "acked");
  const [first, second] = acked.filter(({ n }) => command(SEED, 0, 0, n).messages[0].topic === "log/topic");
  second.places[0][1] = first.places[0][1];
  finds(/has the offset that was given to/, twice);

  const ledger = fresh();
  const lost = honest({ acked: 0 });
  judged({ entries: lost.entries, survey: emptied() }, ledger);
  ledger.begin(1);
  finds(/was not there after an earlier crash, and is there now/, { entries: [], survey: lost.survey }, ledger);
});

test("retention takes what it may, and compaction leaves the newest of every key", () => {
  const given = honest();
  const part = partOf(given.survey, "trim/count");
  part.start = 3;
  part.records.splice(0, 3);
  finds(/trim\/count 0 keeps \d+ messages; retention leaves at least 140/, given);

  const compacted = honest();
  const partition = compacted.survey.find(({ topic }) => topic === "compact").partitions.findIndex(({ records }) => messageOf(SEED, records.at(-1).name).payload.length > 0);
  partOf(compacted.survey, "compact", partition).records.pop();
  finds(/compact .* is the newest of "key \d+", and is not there/, compacted);
});

test("a deleted topic stays deleted, and a filled one is full", () => {
  const life = (number, count) => ({
    topic: TEMPORARY,
    maxMessages: 1_000_000 + number,
    partitions: [{ start: 0, end: count, records: Array.from({ length: count }, (_, index) => ({ offset: index, sequence: 5000 + index, name: `life.${number}.${index}` })) }],
  });
  const steps = (number, ...names) => names.map((step) => ({ type: "life", life: number, step }));
  const given = (entries, ...topics) => ({ entries, survey: [...emptied(), ...topics] });
  const count = temporaryMessages(SEED, 1);
  judged(given(steps(1, "creating", "created", "filled"), life(1, count)));
  judged(given(steps(1, "creating", "created", "filled", "deleting")));
  finds(/was created for the 1th time, and is not there/, given(steps(1, "creating", "created")));
  finds(/of \d+ that were acknowledged/, given(steps(1, "creating", "created", "filled"), life(1, count - 1)));
  finds(/was deleted for the 1th time, and its life 1 is there/, given(steps(1, "creating", "created", "filled", "deleting", "deleted"), life(1, count)));
});

test("a listener hears everything once and in order, or is told what it misses", () => {
  const given = honest();
  const { records } = partOf(given.survey, "log/topic");
  const heard = (record, listener = 0) => ({
    type: "delivered",
    listener,
    topic: "log/topic",
    partition: 0,
    position: `resume:1:${record.sequence}`,
    record,
  });
  const listening = () => {
    const ledger = fresh();
    ledger.listen(0, { filter: "log/topic" });
    return ledger;
  };
  const after = (...deliveries) => ({ entries: [...given.entries, ...deliveries], survey: given.survey });
  const whole = listening();
  judged(after(...records.map((record) => heard(record))), whole);
  assert.deepEqual(whole.lacks({ all: true }), []);

  finds(/heard .* twice/, after(heard(records[0]), heard(records[0])), listening());
  finds(/heard .* behind offset 1 of that partition/, after(heard(records[1]), heard(records[0])), listening());
  finds(/told a gap .* dropped/, after({ type: "gap", listener: 0, reason: "dropped", after: 0, to: 9 }), listening());

  const late = listening();
  judged(after(heard(records[0])), late);
  assert.match(late.lacks({ all: true })[0], /neither heard nor been told to miss/);
  late.take({ type: "gap", listener: 0, reason: "trimmed", after: records[0].sequence, to: records.at(-1).sequence });
  assert.deepEqual(late.lacks({ all: true }), []);
});

test("a listener is told what a crash took from it", () => {
  const n = Array.from({ length: 999 }, (_, index) => index).find((index) => {
    const { messages, isBatch, level } = command(SEED, 0, 0, index);
    return !isBatch && level === "none" && messages[0].topic === "log/global/b";
  });
  const ledger = fresh();
  ledger.listen(0, { filter: "#" });
  const delivery = { type: "delivered", listener: 0, topic: "log/global/b", partition: 0, position: "resume:1:1", record: { offset: 0, sequence: 1, name: `0.0.${n}.0` } };
  judged({ entries: [delivery], survey: emptied() }, ledger);
  assert.match(ledger.lacks({ all: true })[0], /had heard .* which a crash took, and was not told/);
  ledger.take({ type: "gap", listener: 0, reason: "truncated", after: 0, to: 1 });
  assert.deepEqual(ledger.lacks({ all: true }), []);
});

test("a message that was read is compared with the one that its name stands for", () => {
  const { id, topic, key, contentType, headers = [], payload } = messageOf(SEED, "0.0.1.0");
  const read = { id, topic, key, contentType, headers, payload };
  assert.equal(difference(SEED, read), undefined);
  const flipped = payload.map((byte, index) => (index === 5 ? byte ^ 1 : byte));
  assert.match(difference(SEED, { ...read, payload: flipped }), /differs from byte 5 on/);
  assert.match(difference(SEED, { ...read, payload: payload.slice(1) }), /bytes for/);
  assert.match(difference(SEED, { ...read, key: "another" }), /has the key another/);
  assert.match(difference(SEED, { ...read, headers: [["a", "b"]] }), /has the headers/);
  assert.match(difference(SEED, { ...read, id: "0.0.1.99999" }), /never published/);
});

test("filters match as the listeners need them", () => {
  for (const [filter, name, expected] of [
    ["#", "last", true],
    ["log/#", "log/global/a", true],
    ["log/#", "last", false],
    ["+", "log/key", false],
    ["trim/+", "trim/count", true],
    ["log/global/+", "log/global", false],
  ]) {
    assert.equal(matches(filter, name), expected, `${filter} ${name}`);
  }
});
