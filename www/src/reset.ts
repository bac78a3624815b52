/** Asks to which place a group is to be moved, and says what that does. */

import type { Client, GroupDescription, ResetOptions, StartPosition } from "dunlin";

import { make } from "./dom.ts";
import { ask, choice, field } from "./question.ts";
import { count, counted, fromLocalField, moment, refused, toLocalField } from "./words.ts";

/** `done` is called once the group was moved. */
export function askReset(client: Client, group: GroupDescription, done: () => void): void {
  const topics = [...new Set(group.partitions.map(({ topic }) => topic))];
  const topic = choice([["", topics.length === 1 ? "All of its one topic" : `All ${count(topics.length)} topics`], ...topics.map((name) => [name, name] as const)]);
  const partition = choice([["", "All"]]);
  const to = choice([["earliest", "The earliest message"], ["latest", "The end"], ["timestamp", "A time …"], ["offset", "An offset …"]]);
  const time = make("input");
  time.type = "datetime-local";
  time.step = "1";
  time.value = toLocalField(Date.now() - 3_600_000);
  const offset = make("input");
  offset.type = "text";
  offset.inputMode = "numeric";
  offset.placeholder = "0";
  const partitionField = field("Partition", partition, "reset-partition");
  const timeField = field("Local time", time, "reset-time");
  const offsetField = field("Offset", offset, "reset-offset");

  const where = (): ResetOptions => ({
    ...(topic.value !== "" && { topic: topic.value }),
    ...(topic.value !== "" && partition.value !== "" && { partition: Number(partition.value) }),
  });
  topic.addEventListener("input", () => {
    const indexes = group.partitions.filter((one) => one.topic === topic.value).map((one) => String(one.partition));
    partition.replaceChildren(...choice([["", "All"], ...indexes.map((index) => [index, index] as const)]).children);
    partition.value = "";
  });
  const words = (): string => {
    partitionField.hidden = topic.value === "";
    timeField.hidden = to.value !== "timestamp";
    offsetField.hidden = to.value !== "offset";
    return consequence(group, where(), to.value, fromLocalField(time.value), offset.value.trim());
  };
  ask({
    title: `Reset group ${group.group}`,
    words,
    verb: "Reset",
    fields: [field("Move to", to, "reset-to"), timeField, offsetField, field("In", topic, "reset-topic"), partitionField],
    act: async () => {
      await client.group(group.group).reset(placeOf(to.value, fromLocalField(time.value), offset.value.trim()), where());
      done();
    },
  });
}

function placeOf(kind: string, time: number | undefined, offset: string): StartPosition {
  if (kind === "timestamp") {
    if (time === undefined) throw refused("Which time? Day and time are needed.");
    return `timestamp:${time}`;
  }
  if (kind === "offset") {
    if (!/^\d{1,19}$/.test(offset)) throw refused("Which offset? A whole number is needed.");
    return `offset:${BigInt(offset)}`;
  }
  return kind === "latest" ? "latest" : "earliest";
}

function consequence(group: GroupDescription, { topic, partition }: ResetOptions, kind: string, time: number | undefined, offset: string): string {
  const moved = group.partitions.filter((one) => (topic === undefined || one.topic === topic) && (partition === undefined || one.partition === partition));
  const lag = moved.reduce((sum, one) => sum + one.lag, 0);
  const leases = group.kind === "queue" ? " What members have at the moment is taken from them." : "";
  const again = "what was done already is delivered again";
  switch (kind) {
    case "latest":
      return `${lag === 0 ? "Nothing waits there." : `${counted(lag, "message")} that nobody has done will be skipped.`} Members get what is published from now on.${leases}`;
    case "timestamp":
      return `What was published before ${time === undefined ? "then" : moment(time)} is skipped; from there on ${again}.${leases}`;
    case "offset":
      return `What is below offset ${/^\d+$/.test(offset) ? offset : "N"} is skipped; from there on ${again}.${leases}`;
    default:
      return `Everything that is kept is delivered, and ${again}.${leases}`;
  }
}
