/**
 * The wire protocol in its binary encoding: commands to bytes, bytes to replies, by layouts. What every client says is
 * here; the rest of the vocabulary is in `frames.ts`, which a client loads when it first needs it.
 */

import type { Command, Reply } from "./frames.ts";
import type { MessageHeaders } from "./types.ts";
import { Malformed, Reader, Writer } from "./wire.ts";

export const PROTOCOL_VERSION = 1;
export const SUBPROTOCOL_BINARY = "dunlin.v1.binary";

/** Kind, name and layout of every frame; the layouts of items of lists by their names. */
type Commands = readonly (readonly [number, Command["type"], string])[];
type Replies = readonly (readonly [number, Reply["type"], string])[];
type Items = Readonly<Record<string, string>>;

/** Spells the frames of a vocabulary. */
export class Codec {
  readonly commands: Commands;
  readonly replies: Replies;
  readonly items: Items;

  constructor(commands: Commands, replies: Replies, items: Items) {
    this.commands = commands;
    this.replies = replies;
    this.items = items;
  }

  /** The frame's bytes, its length in front. */
  encodeCommand(command: Command): Uint8Array {
    return this.#encode(this.commands, command);
  }

  /** The same for a reply; only who stands in for a broker says what brokers say. */
  encodeReply(reply: Reply): Uint8Array {
    return this.#encode(this.replies, reply);
  }

  /**
   * The replies in a message; {@link Malformed} if it is none. Kinds that are not of the vocabulary are passed over, and
   * so are their fields. Payloads are copies: they belong to whoever gets them.
   */
  decodeReplies(message: Uint8Array): Reply[] {
    return this.#decode(this.replies, message) as Reply[];
  }

  /** The same for commands; only who stands in for a broker hears what clients say. */
  decodeCommands(message: Uint8Array): Command[] {
    return this.#decode(this.commands, message) as Command[];
  }

  #encode(table: Commands | Replies, frame: Command | Reply): Uint8Array {
    const [kind, , layout] = table.find(([, name]) => name === frame.type) as readonly [number, string, string];
    // A frame that could not be spelt may have left something.
    scratch.clear();
    scratch.prefixed(() => {
      scratch.u8(kind);
      putFields(layout, frame as unknown as Fields, scratch, this.items);
    });
    return scratch.take();
  }

  #decode(table: Commands | Replies, message: Uint8Array): unknown[] {
    const reader = new Reader(message);
    const frames: unknown[] = [];
    while (!reader.isEmpty) {
      const body = new Reader(reader.bytes());
      const kind = body.u8();
      const known = table.find(([number]) => number === kind);
      if (known !== undefined) frames.push(takeFields(known[2], body, { type: known[1] }, this.items));
    }
    return frames;
  }
}

interface FieldSpec {
  readonly name: string;
  readonly kind: string;
  /** 0 for a required field. */
  readonly tag: number;
}

const layouts = new Map<string, readonly FieldSpec[]>();

/** The fields of a layout; each text is read once. */
function fieldsOf(layout: string): readonly FieldSpec[] {
  let fields = layouts.get(layout);
  if (fields === undefined) {
    const [required = "", optional = ""] = layout.split(" ; ");
    fields = [
      ...Array.from(required.matchAll(/(\w+):(\S+)/g), ([, name = "", kind = ""]) => ({ name, kind, tag: 0 })),
      ...Array.from(optional.matchAll(/(\d+) (\w+):(\S+)/g), ([, tag, name = "", kind = ""]) => ({
        name,
        kind,
        tag: Number(tag),
      })),
    ];
    layouts.set(layout, fields);
  }
  return fields;
}

type Fields = Record<string, unknown>;

const scratch = new Writer();

/** What cannot be spelt: the message says which field, and what belongs there. */
class Unspellable extends Error {}

const SPELLINGS: Readonly<Record<string, string>> = {
  int: "an integer from 0 to 2^53 - 1",
  u64: "a bigint from 0 to 2^64 - 1",
  flag: "true or false",
  str: "a string",
  bytes: "a Uint8Array",
  headers: "a list of pairs of strings",
  strings: "a list of strings",
};

function putFields(layout: string, fields: Fields, out: Writer, items: Items): void {
  for (const { name, kind, tag } of fieldsOf(layout)) {
    const value = fields[name];
    try {
      if (tag === 0) {
        putValue(kind, value, out, items);
      } else if (value !== undefined) {
        out.u8(tag);
        out.prefixed(() => putValue(kind, value, out, items));
      }
    } catch (cause) {
      if (cause instanceof Unspellable) throw cause;
      throw new Unspellable(`${name} must be ${SPELLINGS[kind] ?? "a list"}, not ${String(value)}`, { cause });
    }
  }
}

function putValue(kind: string, value: unknown, out: Writer, items: Items): void {
  switch (kind) {
    case "int":
      return out.int(value as number);
    case "u64":
      return out.u64(value as bigint);
    case "flag":
      return out.flag(value as boolean);
    case "str":
      return out.str(value as string);
    case "bytes":
      return out.bytes(value as Uint8Array);
  }
  out.prefixed(() => {
    if (kind === "headers") {
      for (const [name, text] of value as MessageHeaders) {
        out.str(name);
        out.str(text);
      }
    } else if (kind === "strings") {
      for (const text of value as readonly string[]) out.str(text);
    } else {
      for (const fields of value as readonly Fields[]) out.prefixed(() => putFields(itemLayout(kind, items), fields, out, items));
    }
  });
}

function takeFields(layout: string, reader: Reader, into: Fields, items: Items): Fields {
  const fields = fieldsOf(layout);
  for (const { name, kind, tag } of fields) if (tag === 0) into[name] = takeValue(kind, reader, items);
  for (let last = 0; !reader.isEmpty; ) {
    const tag = reader.u8();
    if (tag <= last) throw new Malformed("optional fields are out of order");
    last = tag;
    const value = new Reader(reader.bytes());
    const field = fields.find((candidate) => candidate.tag === tag);
    if (field === undefined) continue;
    into[field.name] = takeValue(field.kind, value, items);
    value.end();
  }
  return into;
}

function takeValue(kind: string, reader: Reader, items: Items): unknown {
  switch (kind) {
    case "int":
      return reader.saturating();
    case "u64":
      return reader.u64();
    case "flag":
      return reader.flag();
    case "str":
      return reader.str();
    case "bytes":
      return reader.copy();
  }
  const list = new Reader(reader.bytes());
  const values: unknown[] = [];
  while (!list.isEmpty) {
    if (kind === "headers") values.push([list.str(), list.str()]);
    else if (kind === "strings") values.push(list.str());
    else values.push(takeFields(itemLayout(kind, items), new Reader(list.bytes()), {}, items));
  }
  return values;
}

function itemLayout(kind: string, items: Items): string {
  return items[kind.slice(1, -1)] as string;
}

/**
 * The layouts: required fields in order, and behind the semicolon the optional ones with their tags. `int` is a varint
 * read as a number, `u64` one read as a bigint (offsets and sequences); `[Name]` is a list of items of that layout.
 */
export const PUBLISHED = "topic:str payload:bytes";
export const PROPERTIES = "1 key:str 2 contentType:str 3 headers:headers 4 id:str";
export const KEPT = "5 expiresAt:int 6 replyTo:int 7 priority:int";
export const STORED = "offset:u64 sequence:u64 timestamp:int payload:bytes";
const WHEN = "5 ttlMs:int 6 delayMs:int 7 deliverAt:int";
const PRODUCED = "10 producer:str 11 producerSequence:u64 12 priority:int";
const ANSWER = "2 contentType:str 3 headers:headers";

/** What every client says and hears. */
export const basic = new Codec(
  [
    [1, "hello", "version:int ; 1 client:str 2 ephemeral:flag 3 echo:str"],
    [
      2,
      "publish",
      `request:int ${PUBLISHED} ; ${PROPERTIES} ${WHEN} 8 durability:str 9 waitMs:int ${PRODUCED}`,
    ],
    [3, "publish_batch", "request:int messages:[Message] ; 8 durability:str 9 waitMs:int"],
    [
      4,
      "subscribe",
      "request:int subscription:int filter:str ; 1 from:str 2 credit:int 3 onLag:str 4 lagMax:int 5 partition:int",
    ],
    [5, "unsubscribe", "request:int subscription:int"],
    [6, "credit", "subscription:int messages:int"],
    [15, "request", `request:int ${PUBLISHED} ; ${PROPERTIES} 5 timeoutMs:int`],
    [16, "respond", `request:int replyTo:int payload:bytes ; ${ANSWER}`],
  ],
  [
    [
      129,
      "hello",
      "version:int incarnation:int connection:int now:int features:strings ; 1 payloadBytesMax:int 2 inboundBytesMax:int 3 batchMessagesMax:int 4 readMessagesMax:int 5 creditMax:int 6 subscriptionsMax:int",
    ],
    [130, "receipt", "request:int partition:int offset:u64 sequence:u64 duplicate:flag ; 1 scheduleId:int 2 topic:str"],
    [131, "receipts", "request:int receipts:[Place]"],
    [132, "subscribed", "request:int subscription:int token:str sequence:u64"],
    [133, "ok", "request:int"],
    [134, "error", "request:int code:str message:str ; 1 retryAfterMs:int"],
    [135, "delivery", `subscription:int topic:str partition:int ${STORED} ; ${PROPERTIES} ${KEPT} 8 lease:int 9 attempt:int`],
    [
      136,
      "gap",
      "subscription:int reason:str after:u64 to:u64 ; 1 count:int 2 topic:str 3 partition:int 4 fromOffset:u64 5 toOffset:u64",
    ],
    [137, "ended", "subscription:int code:str message:str"],
    [142, "resync", ""],
    [143, "going_away", "reconnectAfterMs:int"],
    [146, "response", `request:int payload:bytes ; ${ANSWER}`],
  ],
  {
    Message: `${PUBLISHED} ; ${PROPERTIES} ${WHEN} ${PRODUCED}`,
    Place: "partition:int offset:u64 sequence:u64 duplicate:flag ; 1 scheduleId:int 2 topic:str",
  },
);
