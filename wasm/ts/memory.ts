/** The ordered map in memory: for tests, and for brokers whose messages may go with the page. */

import type { Op, Range, Row, Write } from "./abi.ts";
import type { Store } from "./drive.ts";

export class MemoryStore implements Store {
  /** In key order. */
  #rows: Row[] = [];

  apply(write: Write): void {
    for (const op of write.ops) this.#applyOne(op);
  }

  sync(): void {}

  probe(): void {}

  load({ from, to, reverse, rowsMax, bytesMax }: Range): readonly Row[] {
    const start = this.#place(from);
    const end = this.#place(to);
    const rows: Row[] = [];
    let bytes = 0;
    for (let taken = 0; taken < Math.min(rowsMax, end - start); taken += 1) {
      const row = this.#rows[reverse ? end - 1 - taken : start + taken] as Row;
      rows.push(row);
      bytes += row.value.length;
      if (bytes > bytesMax) break;
    }
    return rows;
  }

  #applyOne(op: Op): void {
    switch (op.kind) {
      case "put": {
        const at = this.#place(op.key);
        const there = this.#rows[at];
        const same = there !== undefined && compare(there.key, op.key) === 0;
        this.#rows.splice(at, same ? 1 : 0, { key: op.key, value: op.value });
        return;
      }
      case "delete": {
        const at = this.#place(op.key);
        const there = this.#rows[at];
        if (there !== undefined && compare(there.key, op.key) === 0) this.#rows.splice(at, 1);
        return;
      }
      case "delete_range": {
        const start = this.#place(op.from);
        this.#rows.splice(start, Math.max(0, this.#place(op.to) - start));
        return;
      }
    }
  }

  /** Where the first row stands whose key is not below `key`. */
  #place(key: Uint8Array): number {
    let low = 0;
    let high = this.#rows.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (compare((this.#rows[middle] as Row).key, key) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** Byte order, the order of keys in every store. */
export function compare(a: Uint8Array, b: Uint8Array): number {
  const length = Math.min(a.length, b.length);
  for (let at = 0; at < length; at += 1) {
    const difference = (a[at] as number) - (b[at] as number);
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
}
