/**
 * Bytes in and out: LEB128 varints and length-prefixed strings, the alphabet of frames and of the engine's ABI.
 * Mirrors `core/src/wire.rs`. Integers are numbers where the domain keeps them below 2^53, otherwise bigints.
 */

/** The bytes do not spell what was expected there. */
export class Malformed extends Error {
  override readonly name = "Malformed";
}

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The UTF-8 bytes of a string. */
export function utf8(text: string): Uint8Array {
  return encoder.encode(text);
}

/** The string that UTF-8 bytes spell; {@link Malformed} if they are not UTF-8. */
export function text(bytes: Uint8Array): string {
  return ascii(bytes) ?? decoded(bytes);
}

function decoded(bytes: Uint8Array): string {
  try {
    return decoder.decode(bytes);
  } catch {
    throw new Malformed("not UTF-8");
  }
}

/** Below this length a loop is faster than the platform's coder. */
const SHORT = 32;

/** A short string of ASCII only, otherwise undefined. */
function ascii(bytes: Uint8Array): string | undefined {
  if (bytes.length > SHORT) return undefined;
  let string = "";
  for (const byte of bytes) {
    if (byte >= 0x80) return undefined;
    string += String.fromCharCode(byte);
  }
  return string;
}

/** Reads from the front of a byte array. What it hands out are views; whoever keeps them longer copies them. */
export class Reader {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get isEmpty(): boolean {
    return this.#at === this.#bytes.length;
  }

  /** The next byte without reading it; undefined at the end. */
  get peek(): number | undefined {
    return this.#bytes[this.#at];
  }

  u8(): number {
    const byte = this.#bytes[this.#at];
    if (byte === undefined) throw new Malformed("the bytes end too early");
    this.#at += 1;
    return byte;
  }

  /** A varint as a number; malformed above 2^53 - 1. */
  int(): number {
    const value = this.#varint();
    if (typeof value === "number") return value;
    throw new Malformed(`the integer ${value} is above 2^53 - 1`);
  }

  /** A varint as a number; what is above 2^53 - 1 becomes that, for values where this means "never" or "no bound". */
  saturating(): number {
    const value = this.#varint();
    return typeof value === "number" ? value : Number.MAX_SAFE_INTEGER;
  }

  /** A varint of any u64. */
  u64(): bigint {
    return BigInt(this.#varint());
  }

  flag(): boolean {
    const byte = this.u8();
    if (byte > 1) throw new Malformed(`${byte} is not a flag`);
    return byte === 1;
  }

  bytes(): Uint8Array {
    const length = this.int();
    if (length > this.#bytes.length - this.#at) throw new Malformed("a length is beyond the end");
    const start = this.#at;
    this.#at += length;
    return this.#bytes.subarray(start, this.#at);
  }

  /** The same bytes, as the caller's own. */
  copy(): Uint8Array {
    return this.bytes().slice();
  }

  str(): string {
    return text(this.bytes());
  }

  rest(): Uint8Array {
    const start = this.#at;
    this.#at = this.#bytes.length;
    return this.#bytes.subarray(start);
  }

  /** Succeeds only when everything has been read. */
  end(): void {
    if (!this.isEmpty) throw new Malformed("bytes are left over");
  }

  /** A number where it is exact, otherwise a bigint. */
  #varint(): number | bigint {
    let byte = this.u8();
    let low = byte & 0x7f;
    let scale = 128;
    // Seven groups of seven bits are exact in a number.
    for (let index = 1; byte >= 0x80 && index < 7; index += 1) {
      byte = this.#continued();
      low += (byte & 0x7f) * scale;
      scale *= 128;
    }
    if (byte < 0x80) return low;
    let value = BigInt(low);
    for (let index = 7; byte >= 0x80; index += 1) {
      byte = this.#continued();
      if (index === 9 && byte > 1) throw new Malformed("an integer is above 2^64 - 1");
      value |= BigInt(byte & 0x7f) << BigInt(7 * index);
    }
    return value <= Number.MAX_SAFE_INTEGER ? Number(value) : value;
  }

  /** A byte after the first of a varint; 0 there would be a longer spelling of a shorter varint. */
  #continued(): number {
    const byte = this.u8();
    if (byte === 0) throw new Malformed("an integer is longer than needed");
    return byte;
  }
}

/** A writer that grew beyond this gives the memory back. */
const KEPT_BYTES_MAX = 64 * 1024;

/** Appends what a {@link Reader} reads. One is used again and again: making its memory costs more than filling it. */
export class Writer {
  #bytes = new Uint8Array(1024);
  #length = 0;

  /** A copy of everything written, which is then forgotten. */
  take(): Uint8Array {
    const taken = this.#bytes.slice(0, this.#length);
    this.clear();
    return taken;
  }

  /** Forgets everything written. */
  clear(): void {
    this.#length = 0;
    if (this.#bytes.length > KEPT_BYTES_MAX) this.#bytes = new Uint8Array(1024);
  }

  u8(byte: number): void {
    this.#reserve(1);
    this.#bytes[this.#length++] = byte;
  }

  int(value: number): void {
    if (!Number.isSafeInteger(value) || value < 0) {
      throw new RangeError(`${value} is not an integer from 0 to 2^53 - 1`);
    }
    this.#reserve(8);
    let rest = value;
    while (rest >= 0x80) {
      this.#bytes[this.#length++] = (rest % 128) | 0x80;
      rest = Math.floor(rest / 128);
    }
    this.#bytes[this.#length++] = rest;
  }

  u64(value: bigint): void {
    if (typeof value !== "bigint" || value < 0n || value > 0xffff_ffff_ffff_ffffn) {
      throw new RangeError(`${value} is not a bigint from 0 to 2^64 - 1`);
    }
    this.#reserve(10);
    let rest = value;
    while (rest >= 0x80n) {
      this.#bytes[this.#length++] = Number(rest & 0x7fn) | 0x80;
      rest >>= 7n;
    }
    this.#bytes[this.#length++] = Number(rest);
  }

  flag(value: boolean): void {
    if (typeof value !== "boolean") throw new TypeError(`${value} is not true or false`);
    this.u8(value ? 1 : 0);
  }

  raw(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  bytes(bytes: Uint8Array): void {
    this.int(bytes.length);
    this.raw(bytes);
  }

  str(value: string): void {
    if (typeof value !== "string") throw new TypeError(`${value} is not a string`);
    if (!this.#ascii(value)) this.bytes(utf8(value));
  }

  /** Puts the length of what `write` writes in front of it. */
  prefixed(write: () => void): void {
    const start = this.#length;
    write();
    const length = this.#length - start;
    let size = 1;
    for (let rest = length; rest >= 0x80; rest = Math.floor(rest / 128)) size += 1;
    this.#reserve(size);
    this.#bytes.copyWithin(start + size, start, this.#length);
    this.#length = start;
    this.int(length);
    this.#length += length;
  }

  /** Writes a short string of ASCII only; otherwise writes nothing and says no. */
  #ascii(value: string): boolean {
    if (value.length > SHORT) return false;
    this.#reserve(1 + SHORT);
    let at = this.#length;
    this.#bytes[at++] = value.length;
    for (let index = 0; index < value.length; index += 1) {
      const code = value.charCodeAt(index);
      if (code >= 0x80) return false;
      this.#bytes[at++] = code;
    }
    this.#length = at;
    return true;
  }

  #reserve(count: number): void {
    const wanted = this.#length + count;
    if (wanted <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(wanted, this.#bytes.length * 2));
    grown.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = grown;
  }
}

/** Byte arrays one after the other. */
export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const [only] = parts;
  if (parts.length === 1 && only !== undefined) return only;
  let length = 0;
  for (const part of parts) length += part.length;
  const whole = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
