/**
 * The bytes in which inputs and effects cross the boundary of the engine. Mirrors `core/src/abi.rs`, which has the
 * table. Times are numbers of milliseconds; connections, tickets and write sequences stay below 2^53.
 */

import { Malformed, Reader, Writer } from "./wire.ts";

/** Which of the two encodings of the protocol a connection speaks. */
export type Encoding = "binary" | "json";

/** What the host verified about a client. `rights` is a set of bits, see `Rights` in `core/src/input.rs`. */
export interface Claims {
  readonly namespace: string;
  readonly user: string;
  readonly device: string;
  readonly rights: number;
}

/** Every right. */
export const RIGHTS_ALL = 31;

export interface Row {
  readonly key: Uint8Array;
  readonly value: Uint8Array;
}

/** One thing that happened outside. */
export type Input =
  | {
      readonly kind: "connect";
      readonly connection: number;
      readonly encoding: Encoding;
      readonly claims: Claims;
      /** The address in network order, 4 or 16 bytes, or empty. */
      readonly ip: Uint8Array;
    }
  | { readonly kind: "frame"; readonly connection: number; readonly bytes: Uint8Array }
  | { readonly kind: "disconnect"; readonly connection: number }
  | { readonly kind: "restored"; readonly connection: number; readonly clean: boolean }
  | { readonly kind: "seen"; readonly connection: number; readonly at: number }
  /** `rows` is undefined where the store could not answer. */
  | { readonly kind: "loaded"; readonly ticket: number; readonly rows: readonly Row[] | undefined }
  | { readonly kind: "storage"; readonly available: boolean; readonly commitLatencyMs: number }
  | { readonly kind: "drain" }
  | { readonly kind: "timeout" };

export type Durability = "none" | "async" | "sync";

export type Op =
  | { readonly kind: "put"; readonly key: Uint8Array; readonly value: Uint8Array }
  | { readonly kind: "delete"; readonly key: Uint8Array }
  /** Removes every key from `from` on and before `to`. */
  | { readonly kind: "delete_range"; readonly from: Uint8Array; readonly to: Uint8Array };

/** Operations to be applied as one atomic batch. */
export interface Write {
  readonly kind: "write";
  /** Dense, from 1 in every life of the broker. */
  readonly sequence: number;
  readonly durability: Durability;
  readonly ops: readonly Op[];
}

/** A range of keys to be read. */
export interface Range {
  /** First key. */
  readonly from: Uint8Array;
  /** First key after the range. */
  readonly to: Uint8Array;
  /** Whether the last rows are wanted, last first. */
  readonly reverse: boolean;
  readonly rowsMax: number;
  /** Stop after the row with which the values exceed this; the first row always fits. */
  readonly bytesMax: number;
}

export interface Load extends Range {
  readonly kind: "load";
  readonly ticket: number;
}

export interface Send {
  readonly kind: "send";
  /** The writes that must have been applied and be durable before it leaves; 0 asks for nothing. */
  readonly applied: number;
  readonly synced: number;
  /** Each recipient gets its prefix followed by `body`. */
  readonly to: readonly { readonly connection: number; readonly prefix: Uint8Array }[];
  readonly body: Uint8Array;
}

export interface Close {
  readonly kind: "close";
  readonly connection: number;
  readonly code: number;
  readonly reason: string;
}

/** Something that happened, for observers. */
export interface Notify {
  readonly kind: "notify";
  readonly event: "topic_created" | "topic_deleted" | "row_unreadable" | "dead_letters_alert";
  readonly namespace: string;
  readonly topic: string;
}

/** One order of the broker to its host. */
export type Effect = Write | Load | Send | Close | Notify;

/** What one step put out. */
export interface Output {
  /** When to give `timeout`, if nothing else comes before. */
  readonly timeout: number | undefined;
  /** Whether a broker that is restored then does everything in time; if not, there is something only memory knows of. */
  readonly canSleep: boolean;
  readonly effects: readonly Effect[];
}

const DURABILITIES: readonly Durability[] = ["none", "async", "sync"];
const EVENTS: readonly (Notify["event"] | undefined)[] = [undefined, "topic_created", "topic_deleted", "row_unreadable", "dead_letters_alert"];

const scratch = new Writer();

/** The input's bytes, its length in front. */
export function encodeInput(input: Input): Uint8Array {
  scratch.clear();
  scratch.prefixed(() => putInput(input, scratch));
  return scratch.take();
}

function putInput(input: Input, out: Writer): void {
  switch (input.kind) {
    case "connect":
      out.u8(1);
      out.int(input.connection);
      out.flag(input.encoding === "json");
      out.str(input.claims.namespace);
      out.str(input.claims.user);
      out.str(input.claims.device);
      out.u8(input.claims.rights);
      out.bytes(input.ip);
      return;
    case "frame":
      out.u8(2);
      out.int(input.connection);
      out.raw(input.bytes);
      return;
    case "disconnect":
      out.u8(3);
      out.int(input.connection);
      return;
    case "restored":
      out.u8(4);
      out.int(input.connection);
      out.flag(input.clean);
      return;
    case "seen":
      out.u8(5);
      out.int(input.connection);
      out.int(input.at);
      return;
    case "loaded":
      out.u8(6);
      out.int(input.ticket);
      out.flag(input.rows !== undefined);
      if (input.rows !== undefined) putRows(input.rows, out);
      return;
    case "storage":
      out.u8(7);
      out.flag(input.available);
      out.int(input.commitLatencyMs);
      return;
    case "drain":
      out.u8(8);
      return;
    case "timeout":
      out.u8(9);
      return;
  }
}

/** Rows as a restore takes them. */
export function encodeRows(rows: readonly Row[]): Uint8Array {
  scratch.clear();
  putRows(rows, scratch);
  return scratch.take();
}

function putRows(rows: readonly Row[], out: Writer): void {
  for (const row of rows) {
    out.bytes(row.key);
    out.bytes(row.value);
  }
}

/**
 * Reads what one step put out. Keys and values are copies, because stores keep them; the bytes of sends are views of
 * `output`.
 */
export function decodeOutput(output: Uint8Array): Output {
  const reader = new Reader(output);
  const timeout = reader.saturating();
  const canSleep = reader.flag();
  const effects: Effect[] = [];
  while (!reader.isEmpty) effects.push(decodeEffect(new Reader(reader.bytes())));
  return { timeout: timeout === 0 ? undefined : timeout, canSleep, effects };
}

function decodeEffect(body: Reader): Effect {
  const kind = body.u8();
  switch (kind) {
    case 1: {
      const sequence = body.int();
      const durability = DURABILITIES[body.u8()];
      if (durability === undefined) throw new Malformed("unknown durability in a write");
      const ops: Op[] = [];
      while (!body.isEmpty) ops.push(decodeOp(body));
      return { kind: "write", sequence, durability, ops };
    }
    case 2: {
      const load: Load = {
        kind: "load",
        ticket: body.int(),
        from: body.copy(),
        to: body.copy(),
        reverse: body.flag(),
        rowsMax: body.int(),
        bytesMax: body.int(),
      };
      body.end();
      return load;
    }
    case 3: {
      const applied = body.int();
      const synced = body.int();
      const to: { connection: number; prefix: Uint8Array }[] = [];
      for (let count = body.int(); count > 0; count -= 1) {
        to.push({ connection: body.int(), prefix: body.bytes() });
      }
      return { kind: "send", applied, synced, to, body: body.rest() };
    }
    case 4: {
      const close: Close = { kind: "close", connection: body.int(), code: body.int(), reason: body.str() };
      body.end();
      return close;
    }
    case 5: {
      const event = EVENTS[body.u8()];
      if (event === undefined) throw new Malformed("unknown event");
      const notify: Notify = { kind: "notify", event, namespace: body.str(), topic: body.str() };
      body.end();
      return notify;
    }
    default:
      throw new Malformed(`unknown effect ${kind}`);
  }
}

function decodeOp(body: Reader): Op {
  const kind = body.u8();
  switch (kind) {
    case 1:
      return { kind: "put", key: body.copy(), value: body.copy() };
    case 2:
      return { kind: "delete", key: body.copy() };
    case 3:
      return { kind: "delete_range", from: body.copy(), to: body.copy() };
    default:
      throw new Malformed(`unknown operation ${kind}`);
  }
}
