/**
 * The ordered map in IndexedDB. Keys are compared as bytes there too, so a range of the map is a range of the database.
 *
 * A batch is one transaction. Transactions on one object store take place in the order of their creation, so a load
 * that is created after a write sees it, although the write has not ended yet.
 *
 * Invariant: a write puts nothing before those in front of it are committed. So no write is ever stored without them.
 */

import type { Range, Row, Write } from "./abi.ts";
import type { Store } from "./drive.ts";
import { DunlinError } from "./errors.ts";

/** Raised when the object stores change. Rows carry their own versions. */
const VERSION = 1;
const ROWS = "rows";
/** Prefixed, because all databases of an origin share their names. */
const PREFIX = "dunlin:";
const SCRATCH = "dunlin-scratch:";
const PAGE_MAX = 256;
/** How long the browser may take to open a database, which is no matter of its size, before it is asked anew. */
const OPEN_TIMEOUT_MS = 5_000;
/** Below the key of any row. */
const NO_KEY = Uint8Array.of(0);

/** A write that has not ended. */
interface Writing {
  readonly transaction: IDBTransaction;
  /** Everything is put; it ends by itself, whatever becomes of the page. */
  isCommitting: boolean;
}

export class IndexedDbStore implements Store {
  readonly #database: IDBDatabase;
  /** In the order of their creation. Only the first may be committing, the others wait for it. */
  #writing: Writing[] = [];
  /** The newest write; those before it have ended when it has. */
  #committing: Promise<void> | undefined;

  private constructor(database: IDBDatabase) {
    this.#database = database;
  }

  /** Opens or creates the database of that name; `lost` is called if it is taken away. */
  static async open(name: string, lost: (error: DunlinError) => void): Promise<IndexedDbStore> {
    const opening = Promise.all([IndexedDbStore.#connect(name, lost), renewLog(name)]);
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        reject(unavailable(name, `was not opened within ${OPEN_TIMEOUT_MS / 1000} s`, { retryAfterMs: 0 }));
        opening.then(([store]) => store.close(), () => {});
      }, OPEN_TIMEOUT_MS);
    });
    try {
      const [store] = await Promise.race([opening, late]);
      return store;
    } finally {
      clearTimeout(timer);
    }
  }

  static #connect(name: string, lost: (error: DunlinError) => void): Promise<IndexedDbStore> {
    return new Promise((resolve, reject) => {
      const request = indexedDB.open(PREFIX + name, VERSION);
      request.onupgradeneeded = () => request.result.createObjectStore(ROWS);
      request.onblocked = () => reject(unavailable(name, "is held open in another version: close the other tabs of this site"));
      request.onerror = () => {
        const isNewer = request.error?.name === "VersionError";
        const what = isNewer ? "was written by a newer dunlin: update this one" : `cannot be opened: ${request.error?.message}`;
        reject(unavailable(name, what, { cause: request.error }));
      };
      request.onsuccess = () => {
        const database = request.result;
        // Whoever deletes or upgrades it need not wait for us.
        database.onversionchange = () => {
          database.close();
          lost(unavailable(name, "is being deleted or upgraded"));
        };
        database.onclose = () => lost(unavailable(name, "was closed by the browser"));
        resolve(new IndexedDbStore(database));
      };
    });
  }

  apply(write: Write): Promise<void> {
    const durability = write.durability === "sync" ? "strict" : "relaxed";
    return this.#write(durability, (rows) => {
      for (const op of write.ops) {
        if (op.kind === "put") rows.put(op.value, op.key as BufferSource);
        else if (op.kind === "delete") rows.delete(op.key as BufferSource);
        else if (indexedDB.cmp(op.from, op.to) < 0) rows.delete(range(op.from, op.to));
      }
    });
  }

  /** The transactions have their durability already; there is nothing to do but wait for them. */
  sync(): void | Promise<void> {
    return this.#committing;
  }

  probe(): Promise<void> {
    return this.#write("strict", (rows) => rows.delete(NO_KEY as BufferSource));
  }

  load(wanted: Range): Promise<readonly Row[]> {
    return new Promise((resolve, reject) => {
      if (indexedDB.cmp(wanted.from, wanted.to) >= 0) {
        resolve([]);
        return;
      }
      const transaction = this.#database.transaction(ROWS, "readonly");
      const found: Row[] = [];
      transaction.oncomplete = () => resolve(found);
      transaction.onabort = transaction.onerror = () => reject(transaction.error);
      if (wanted.reverse) readBackwards(transaction.objectStore(ROWS), wanted, found);
      else readPages(transaction.objectStore(ROWS), wanted, found);
    });
  }

  /** What waits for its turn is dropped: in a page that is put aside the turn would never come, and others would wait. */
  close(): void {
    this.#dropWaiting();
    this.#database.onclose = this.#database.onversionchange = null;
    this.#database.close();
  }

  #write(durability: IDBTransactionDurability, work: (rows: IDBObjectStore) => void): Promise<void> {
    const transaction = this.#database.transaction(ROWS, "readwrite", { durability });
    const rows = transaction.objectStore(ROWS);
    const writing: Writing = { transaction, isCommitting: false };
    this.#writing.push(writing);
    let thrown: unknown;
    const begin = (): void => {
      if (this.#writing[0] !== writing) {
        // Nothing is asked for; but it is answered only after the transactions in front have ended, and in this one.
        rows.getKey(NO_KEY as BufferSource).onsuccess = begin;
        return;
      }
      try {
        work(rows);
        writing.isCommitting = true;
        transaction.commit();
      } catch (error) {
        // Left alone, the transaction would commit the half that was put.
        thrown = error;
        transaction.abort();
      }
    };
    const committed = new Promise<void>((resolve, reject) => {
      transaction.oncomplete = () => {
        this.#writing = this.#writing.filter((other) => other !== writing);
        resolve();
      };
      transaction.onabort = () => {
        // If it was dropped, what came later is of a life that knows nothing of it.
        if (this.#writing.includes(writing)) {
          this.#writing = this.#writing.filter((other) => other !== writing);
          this.#dropWaiting();
        }
        reject(thrown ?? transaction.error ?? new Error("the transaction was aborted"));
      };
    });
    this.#committing = committed;
    // The drive hears of it from the write itself.
    committed.catch(() => {});
    begin();
    return committed;
  }

  #dropWaiting(): void {
    const waiting = this.#writing.filter(({ isCommitting }) => !isCommitting);
    this.#writing = this.#writing.filter(({ isCommitting }) => isCommitting);
    for (const { transaction } of waiting) transaction.abort();
  }
}

function unavailable(name: string, what: string, options?: { cause?: unknown; retryAfterMs?: number }): DunlinError {
  return new DunlinError("database_unavailable", `the database ${JSON.stringify(name)} ${what}`, options);
}

/**
 * Lets Chromium begin a new log for the databases of the site. If it was killed while it wrote, the old one ends within a
 * record. It writes on behind that, takes the log for damaged when it reads it again, and begins with nothing at all
 * (https://github.com/google/leveldb/issues/1287). Before it deletes a database, whichever that is, it writes down what is
 * in the log and begins another.
 */
function renewLog(name: string): Promise<void> {
  return new Promise((resolve) => {
    const scratch = indexedDB.open(SCRATCH + name);
    // Without room there is no scratch, and what is there is opened all the same.
    scratch.onerror = () => resolve();
    scratch.onsuccess = () => {
      scratch.result.close();
      const deletion = indexedDB.deleteDatabase(SCRATCH + name);
      deletion.onsuccess = deletion.onerror = () => resolve();
    };
  });
}

function range(from: Uint8Array, to: Uint8Array): IDBKeyRange {
  return IDBKeyRange.bound(from, to, false, true);
}

/** Whether the rows read so far are all that are wanted. */
function isFull(found: readonly Row[], bytes: number, { rowsMax, bytesMax }: Range): boolean {
  return found.length >= rowsMax || bytes > bytesMax;
}

/** Keys and values of many rows come by two requests, which costs far less than a cursor's request for each row. */
function readPages(rows: IDBObjectStore, wanted: Range, found: Row[]): void {
  let bytes = 0;
  let pageRows = 1;
  const read = (from: Uint8Array, isOpen: boolean): void => {
    const within = IDBKeyRange.bound(from, wanted.to, isOpen, true);
    const count = Math.min(pageRows, wanted.rowsMax - found.length);
    const keys = rows.getAllKeys(within, count);
    const values = rows.getAll(within, count);
    values.onsuccess = () => {
      for (const [index, key] of keys.result.entries()) {
        const row = { key: new Uint8Array(key as ArrayBuffer), value: values.result[index] as Uint8Array };
        found.push(row);
        bytes += row.value.length;
        if (isFull(found, bytes, wanted)) return;
      }
      const last = found.at(-1);
      if (keys.result.length < count || last === undefined) return;
      // Rows may be small or large: the next page is as large as what is still wanted allows, judged by these.
      const mean = Math.max(1, bytes / found.length);
      pageRows = Math.max(1, Math.min(PAGE_MAX, Math.ceil((wanted.bytesMax - bytes) / mean)));
      read(last.key, true);
    };
  };
  if (wanted.rowsMax > 0) read(wanted.from, false);
}

function readBackwards(rows: IDBObjectStore, wanted: Range, found: Row[]): void {
  let bytes = 0;
  const cursors = rows.openCursor(range(wanted.from, wanted.to), "prev");
  cursors.onsuccess = () => {
    const cursor = cursors.result;
    if (cursor === null || isFull(found, bytes, wanted)) return;
    const value = cursor.value as Uint8Array;
    found.push({ key: new Uint8Array(cursor.key as ArrayBuffer), value });
    bytes += value.length;
    if (!isFull(found, bytes, wanted)) cursor.continue();
  };
}
