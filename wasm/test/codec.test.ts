import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { decodeOutput, encodeInput } from "../ts/abi.ts";
import { COMMANDS, REPLIES, decodeCommands, decodeReplies, encodeCommand, encodeReply, itemLayouts } from "../ts/frames.ts";
import type { Command, Reply } from "../ts/frames.ts";
import { Malformed, Reader, Writer } from "../ts/wire.ts";

// Tests run from dist/test.
const core = new URL("../../../core/src/", import.meta.url);

function written(write: (out: Writer) => void): number[] {
  const out = new Writer();
  write(out);
  return [...out.take()];
}

test("varints round trip at every width, as numbers and as bigints", () => {
  for (let shift = 0n; shift < 64n; shift += 1n) {
    for (const value of [1n << shift, (1n << shift) - 1n, (1n << 64n) - 1n >> shift]) {
      const bytes = Uint8Array.from(written((out) => out.u64(value)));
      assert.equal(new Reader(bytes).u64(), value);
      if (value <= Number.MAX_SAFE_INTEGER) {
        assert.deepEqual(written((out) => out.int(Number(value))), [...bytes]);
        assert.equal(new Reader(bytes).int(), Number(value));
      } else {
        assert.throws(() => new Reader(bytes).int(), Malformed);
        assert.equal(new Reader(bytes).saturating(), Number.MAX_SAFE_INTEGER);
      }
    }
  }
});

test("a varint has one spelling", () => {
  for (const bytes of [[0x80, 0], [0x80], [], new Array(11).fill(0xff), [...new Array(9).fill(0xff), 2], [...new Array(7).fill(0x80), 0]]) {
    assert.throws(() => new Reader(Uint8Array.from(bytes)).u64(), Malformed, bytes.join());
  }
});

test("integers outside the range are refused by name", () => {
  for (const value of [-1, 0.5, Number.NaN, 2 ** 53]) assert.throws(() => new Writer().int(value), new RegExp(`${value} is not an integer`));
  for (const value of [-1n, 1n << 64n]) assert.throws(() => new Writer().u64(value), RangeError);
});

test("lengths beyond the end, bad UTF-8 and bad flags are malformed", () => {
  assert.throws(() => new Reader(Uint8Array.of(5, 97)).bytes(), /beyond the end/);
  assert.throws(() => new Reader(Uint8Array.of(1, 0xff)).str(), /not UTF-8/);
  assert.throws(() => new Reader(Uint8Array.of(2)).flag(), /not a flag/);
});

test("a byte order mark is part of a string", () => {
  assert.equal(new Reader(Uint8Array.of(3, 0xef, 0xbb, 0xbf)).str(), "\ufeff");
});

test("the layouts are those of the core", () => {
  const source = readFileSync(new URL("protocol/frame.rs", core), "utf8");
  const layouts = rustLayouts(source);
  const names = rustFrames(source);
  const ours = [...COMMANDS, ...REPLIES].sort(([one], [other]) => one - other).map(([kind, name, layout]) => `${kind} ${name} ${neutral(layout)}`);
  assert.deepEqual(ours, names.map(({ kind, name, structure }) => `${kind} ${name} ${layouts.get(structure)}`));
  for (const [name, layout] of Object.entries(itemLayouts())) assert.equal(neutral(layout), layouts.get(name), name);
});

test("every example of the specification reads and writes to its bytes", () => {
  const specification = readFileSync(new URL("../PROTOCOL.md", core), "utf8");
  const examples = [...specification.matchAll(/^```json\n(.*?)^```\n+```hex\n(.*?)^```$/gms)];
  const seen = new Set<number>();
  for (const [, json = "", hex = ""] of examples) {
    const bytes = Uint8Array.from(hex.trim().split(/\s+/), (byte) => Number.parseInt(byte, 16));
    const kind = Number(new Reader(bytes).bytes()[0]);
    seen.add(kind);
    // Kinds below 128 are commands.
    const [frame] = kind < 128 ? decodeCommands(bytes) : decodeReplies(bytes);
    assert.deepEqual(plain(frame), plain(JSON.parse(json)), json);
    const again = kind < 128 ? encodeCommand(frame as Command) : encodeReply(frame as Reply);
    assert.deepEqual(again, bytes, json);
  }
  const kinds = [...COMMANDS, ...REPLIES].map(([kind]) => kind);
  assert.deepEqual(kinds.filter((kind) => !seen.has(kind)), [], "every kind has an example");
});

test("a command is written as the protocol says", () => {
  const bytes = encodeCommand({ type: "publish", request: 300, topic: "a", payload: Uint8Array.of(1, 2), id: "x", durability: "sync" });
  assert.deepEqual([...bytes], [19, 2, 0xac, 0x02, 1, 97, 2, 1, 2, 4, 2, 1, 120, 8, 5, 4, ...new TextEncoder().encode("sync")]);
  assert.deepEqual(decodeCommands(bytes), [
    { type: "publish", request: 300, topic: "a", payload: Uint8Array.of(1, 2), id: "x", durability: "sync" },
  ]);
});

test("lists, headers and strings round trip", () => {
  const batch = {
    type: "publish_batch",
    request: 1,
    messages: [
      { topic: "a", payload: Uint8Array.of(), headers: [["n", "v"], ["n", ""]] as const },
      { topic: "b", payload: Uint8Array.of(7), ttlMs: 2 ** 40 },
    ],
  } as const;
  assert.deepEqual(decodeCommands(encodeCommand(batch)), [batch]);
  const topics = { type: "topics", request: 1, topics: ["", "a/b"], more: true } as const;
  assert.deepEqual(decodeReplies(encodeReply({ ...topics, topics: [...topics.topics] })), [topics]);
});

test("a payload is a copy, not a view of the message", () => {
  const message = encodeReply({
    type: "delivery",
    subscription: 1,
    topic: "t",
    partition: 0,
    offset: 0n,
    sequence: 1n,
    timestamp: 1,
    payload: Uint8Array.of(1, 2, 3),
  });
  const [reply] = decodeReplies(message);
  assert.equal(reply?.type === "delivery" && reply.payload.buffer.byteLength, 3);
});

test("optional fields out of order are malformed, unknown ones are passed over", () => {
  assert.throws(() => decodeReplies(Uint8Array.of(6, 143, 1, 9, 0, 9, 0)), /out of order/);
  assert.deepEqual(decodeReplies(Uint8Array.of(5, 143, 1, 9, 1, 7)), [{ type: "going_away", reconnectAfterMs: 1 }]);
});

test("every cut of every kind of message is malformed or shorter, never more", () => {
  const whole = encodeReply({ type: "gap", subscription: 1, reason: "trimmed", after: 1n, to: 9n, count: 4, topic: "t", toOffset: 1n << 60n });
  for (let end = 1; end < whole.length; end += 1) assert.throws(() => decodeReplies(whole.subarray(0, end)), Malformed);
});

test("inputs and output of the engine are written as the core reads them", () => {
  const claims = { namespace: "n", user: "u", device: "", rights: 31 };
  const hex = (bytes: Uint8Array): string => [...bytes].join(" ");
  assert.equal(hex(encodeInput({ kind: "connect", connection: 200, encoding: "json", claims, ip: Uint8Array.of(127, 0, 0, 1) })), "15 1 200 1 1 1 110 1 117 0 31 4 127 0 0 1");
  assert.equal(hex(encodeInput({ kind: "frame", connection: 1, bytes: Uint8Array.of(9, 9) })), "4 2 1 9 9");
  assert.equal(hex(encodeInput({ kind: "loaded", ticket: 3, rows: undefined })), "3 6 3 0");
  assert.equal(hex(encodeInput({ kind: "loaded", ticket: 3, rows: [{ key: Uint8Array.of(1), value: Uint8Array.of() }] })), "6 6 3 1 1 1 0");
  assert.equal(hex(encodeInput({ kind: "storage", available: true, commitLatencyMs: 128 })), "4 7 1 128 1");
  const output = Uint8Array.of(128, 1, 0, 8, 3, 1, 2, 1, 5, 1, 62, 120, 6, 4, 5, 168, 31, 1, 98, 9, 1, 7, 2, 1, 1, 5, 2, 1, 9);
  assert.deepEqual(decodeOutput(output), {
    timeout: 128,
    canSleep: false,
    effects: [
      { kind: "send", applied: 1, synced: 2, to: [{ connection: 5, prefix: Uint8Array.of(62) }], body: Uint8Array.of(120) },
      { kind: "close", connection: 5, code: 4008, reason: "b" },
      {
        kind: "write",
        sequence: 7,
        durability: "sync",
        ops: [{ kind: "put", key: Uint8Array.of(5), value: Uint8Array.of(1, 9) }],
      },
    ],
  });
  assert.throws(() => decodeOutput(Uint8Array.of(0, 1, 1, 6)), /unknown effect 6/);
});

/** A frame of ours, or of the JSON encoding, in words that both can be told in. */
function plain(value: unknown): unknown {
  if (typeof value === "bigint") return Number(value);
  if (value instanceof Uint8Array) return Buffer.from(value).toString("base64");
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, member]) => {
      if (/^(payload|data)$/.test(name) && typeof member === "string") return [name, Buffer.from(member).toString("base64")];
      return /^(payload|bytes|data)_base64$/.test(name) ? [name.replace("_base64", ""), member] : [camel(name), plain(member)];
    }),
  );
}

/** A layout with the kinds of integers made one. */
function neutral(layout: string): string {
  return layout.replace(/:u64/g, ":int").replace(/ ?; ?/, " ; ").trim();
}

function camel(name: string): string {
  return name.replace(/_(\w)/g, (_match, letter: string) => letter.toUpperCase());
}

function kindOf(rust: string): string {
  const list = /^List<'a, (\w+)/.exec(rust);
  if (list !== null) return `[${list[1]}]`;
  const kinds: Record<string, string> = { u64: "int", u32: "int", bool: "flag", "&'a str": "str", "&'a [u8]": "bytes", "Headers<'a>": "headers", "Strings<'a>": "strings" };
  return kinds[rust] ?? `unknown ${rust}`;
}

/** The structures of `layouts!`, in the words of our layouts. */
function rustLayouts(source: string): Map<string, string> {
  const layouts = new Map<string, string>();
  const table = source.slice(source.lastIndexOf("layouts! {"));
  for (const [, name = "", body = ""] of table.matchAll(/^ {4}(\w+)(?:<'a>)? \{\n(.*?)^ {4}\}$/gms)) {
    const fields = [...body.matchAll(/^ {8}(?:(\d+) )?(\w+): (.*),$/gm)].map(([, tag, field = "", rust = ""]) => {
      return { tag, text: `${tag === undefined ? "" : `${tag} `}${camel(field)}:${kindOf(rust)}` };
    });
    const of = (optional: boolean): string => fields.filter(({ tag }) => (tag !== undefined) === optional).map(({ text }) => text).join(" ");
    layouts.set(name, neutral(of(true) === "" ? of(false) : `${of(false)} ; ${of(true)}`));
  }
  layouts.set("Resync", "");
  return layouts;
}

/** The frames of `frames!`, in order. */
function rustFrames(source: string): { kind: string; name: string; structure: string }[] {
  return [...source.matchAll(/^ {8}(\d+) "(\w+)" (\w+)(?:<'a>)?,$/gm)].map(([, kind = "", name = "", structure = ""]) => ({ kind, name, structure }));
}
