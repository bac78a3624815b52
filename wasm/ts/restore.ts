/**
 * Which rows a restore reads, and in which order: the store's own, then the state of each namespace. Messages are
 * passed over; only loads read them. Mirrors the key table of `core/src/rows.rs`.
 */

import type { Range, Row } from "./abi.ts";
import { concat } from "./wire.ts";

const ROWS_MAX = 1024;
const BYTES_MAX = 1024 * 1024;

/** After every key that is ever written: no length is followed by a name that begins with this byte. */
const END = Uint8Array.of(255, 255);

/** Yields ranges, is given their rows, and hands those of the state to `take`, in key order; none at the end of a range. */
export function* restoreWalk(take: (rows: readonly Row[]) => void): Generator<Range, void, readonly Row[]> {
  yield* pages(Uint8Array.of(0), Uint8Array.of(1), take);
  let cursor = Uint8Array.of(1);
  for (;;) {
    const [first] = yield { from: cursor, to: END, reverse: false, rowsMax: 1, bytesMax: 0 };
    if (first === undefined) return;
    const prefix = namespacePrefix(first.key);
    yield* pages(extended(prefix, 0x00), extended(prefix, 0x80), take);
    cursor = behind(prefix);
  }
}

function* pages(
  from: Uint8Array,
  to: Uint8Array,
  take: (rows: readonly Row[]) => void,
): Generator<Range, void, readonly Row[]> {
  let cursor = from;
  for (;;) {
    const rows: readonly Row[] = yield { from: cursor, to, reverse: false, rowsMax: ROWS_MAX, bytesMax: BYTES_MAX };
    take(rows);
    const last = rows.at(-1);
    if (last === undefined) return;
    cursor = extended(last.key, 0);
  }
}

/** The first key behind all that begin with `prefix`, also those that no version has written. */
function behind(prefix: Uint8Array): Uint8Array<ArrayBuffer> {
  let length = prefix.length;
  while (prefix[length - 1] === 0xff) length -= 1;
  if (length === 0) return Uint8Array.from(END);
  const key = prefix.slice(0, length);
  key[length - 1] = (key[length - 1] ?? 0) + 1;
  return Uint8Array.from(key);
}

function namespacePrefix(key: Uint8Array): Uint8Array {
  const length = key[0] ?? 0;
  if (length === 0 || key.length < length + 2) {
    throw new Error(`the store holds a key that dunlin did not write (${key.length} bytes, beginning with ${length})`);
  }
  return key.subarray(0, 1 + length);
}

function extended(key: Uint8Array, ...more: number[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(concat([key, Uint8Array.from(more)]));
}
