/** Archives on their way from and to a broker, part by part. What is in them is its business. */

import type { Connection } from "./connection.ts";
import { DunlinError } from "./errors.ts";
import type { ArchiveSource, Imported, TransferOptions } from "./types.ts";
import { concat } from "./wire.ts";

/** The same as a host gives at once. */
const PART_BYTES = 256 * 1024;

interface Part {
  readonly bytes: Uint8Array;
  readonly last: boolean;
}

export async function* exportArchive(connection: Connection, { signal }: TransferOptions): AsyncGenerator<Uint8Array, void> {
  let id = 0n;
  for (let part = 0; ; part += 1) {
    const given = await connection.ask("archive_part", { type: "export", export: id, part }, "reject", signal);
    yield given.bytes;
    if (given.last) return;
    id = given.export;
  }
}

export async function importArchive(connection: Connection, source: ArchiveSource, { signal }: TransferOptions): Promise<Imported> {
  let id = 0n;
  let part = 0;
  let rows = 0;
  // Whether the broker waits for the next part.
  let waits = false;
  // Without the signal: where the import stands has to be known to end it.
  const give = async (last: boolean, bytes: Uint8Array): Promise<void> => {
    waits = false;
    const taken = await connection.ask("imported", { type: "import", import: id, part, last, bytes }, "reject");
    waits = !last;
    id = taken.import;
    rows = taken.rows;
    part += 1;
  };
  try {
    for await (const { last, bytes } of partsOf(source, signal)) await give(last, bytes);
    return { rows };
  } catch (error) {
    // An end that comes too early is refused, and what was given is deleted at once.
    if (waits) await give(true, new Uint8Array()).catch(() => {});
    throw error;
  }
}

/** The parts of a source, which is read no faster than they are taken, and told when no more of it is wanted. */
export async function* partsOf(source: ArchiveSource, signal: AbortSignal | undefined): AsyncGenerator<Part, void> {
  signal?.throwIfAborted();
  const pieces = piecesOf(source);
  let abort = (): void => {};
  const aborted = new Promise<never>((_, reject) => (abort = () => reject(signal?.reason)));
  aborted.catch(() => {});
  signal?.addEventListener("abort", abort);
  let held: Uint8Array[] = [];
  let length = 0;
  try {
    for (;;) {
      const { done, value } = await Promise.race([pieces.next(), aborted]);
      signal?.throwIfAborted();
      if (done === true) break;
      if (!(value instanceof Uint8Array)) throw invalid("give pieces that are Uint8Arrays");
      held.push(value);
      length += value.length;
      // Not at its length: which part is the last shows only at the end.
      if (length <= PART_BYTES) continue;
      let bytes = concat(held);
      for (; bytes.length > PART_BYTES; bytes = bytes.subarray(PART_BYTES)) {
        yield { bytes: bytes.subarray(0, PART_BYTES), last: false };
        signal?.throwIfAborted();
      }
      held = [bytes];
      length = bytes.length;
    }
    yield { bytes: concat(held), last: true };
  } finally {
    signal?.removeEventListener("abort", abort);
    // Not waited for: a source that is stuck may never answer.
    void (async () => pieces.return?.())().catch(() => {});
  }
}

interface Pieces {
  next(): IteratorResult<unknown> | PromiseLike<IteratorResult<unknown> | { done: boolean; value?: unknown }>;
  return?(): unknown;
}

function piecesOf(source: ArchiveSource): Pieces {
  if (source instanceof Uint8Array) return [source].values();
  // Not every browser iterates over streams.
  if (typeof source === "object" && source !== null) {
    if ("getReader" in source) {
      const reader = source.getReader();
      return { next: () => reader.read(), return: () => reader.cancel() };
    }
    if ("stream" in source) return piecesOf(source.stream());
    if (Symbol.asyncIterator in source) return source[Symbol.asyncIterator]();
  }
  throw invalid("give a Uint8Array, a ReadableStream or async iterable of them, or a Blob");
}

function invalid(what: string): DunlinError {
  return new DunlinError("invalid_argument", `this is no source of an archive: ${what}`);
}
