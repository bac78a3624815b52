// The object's SQLite as the ordered map that the broker is stored in: one table, keys and values as the broker made
// them. What the host itself must remember stands apart from it, in the runtime's own key-value table.

import type { Range, Row, Write } from "../../wasm/ts/abi.ts";
import type { Store } from "../../wasm/ts/drive.ts";

/** One step from a layout of the store to the next. */
export type Migration = (sql: SqlStorage) => void;

/**
 * The steps from an empty store to the layout that this script reads; the layout's version is their number. One that
 * was ever deployed is never changed: there are stores that took it.
 */
const MIGRATIONS: readonly Migration[] = [
  (sql) => sql.exec("CREATE TABLE rows (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID"),
];

const PUT = "INSERT INTO rows (k, v) VALUES (?, ?) ON CONFLICT (k) DO UPDATE SET v = excluded.v";
const DELETE = "DELETE FROM rows WHERE k = ?";
const DELETE_RANGE = "DELETE FROM rows WHERE k >= ? AND k < ?";
const READ = "SELECT k, v FROM rows WHERE k >= ? AND k < ? ORDER BY k LIMIT ?";
const READ_REVERSE = "SELECT k, v FROM rows WHERE k >= ? AND k < ? ORDER BY k DESC LIMIT ?";

/** The store of one object. The runtime holds back everything that leaves the object until what was written is durable. */
export class SqliteStore implements Store {
  readonly #storage: DurableObjectStorage;
  #settled: boolean;

  /** Opens the store, and brings it to the layout that this script reads. */
  constructor(storage: DurableObjectStorage) {
    this.#storage = storage;
    migrate(storage, MIGRATIONS);
    this.#settled = storage.kv.get<boolean>("settled") ?? false;
  }

  apply(write: Write): void {
    const { sql } = this.#storage;
    this.#storage.transactionSync(() => {
      // Usually it was told already; where that failed, what follows from this write must not pass for quiet.
      this.#put(false);
      for (const op of write.ops) {
        if (op.kind === "put") sql.exec(PUT, op.key, op.value);
        else if (op.kind === "delete") sql.exec(DELETE, op.key);
        else sql.exec(DELETE_RANGE, op.from, op.to);
      }
    });
    this.#settled = false;
  }

  sync(): void {}

  durable(): Promise<void> {
    return this.#storage.sync();
  }

  /** The rows are read at once, but handed over later: a long history is sent page by page, not gathered in one turn. */
  async load(range: Range): Promise<readonly Row[]> {
    return this.#read(range);
  }

  probe(): void {
    this.#storage.transactionSync(() => this.#storage.kv.put("probed_at", Date.now()));
  }

  /**
   * Whether everything that the broker ever said has left. Told so before the object idles, and no longer once it
   * does something again, so that a broker that is rebuilt knows how its predecessor ended.
   */
  get settled(): boolean {
    return this.#settled;
  }

  set settled(settled: boolean) {
    this.#put(settled);
    this.#settled = settled;
  }

  #put(settled: boolean): void {
    if (settled !== this.#settled) this.#storage.kv.put("settled", settled);
  }

  #read({ from, to, reverse, rowsMax, bytesMax }: Range): Row[] {
    const query = reverse ? READ_REVERSE : READ;
    const rows: Row[] = [];
    let bytes = 0;
    for (const [key, value] of this.#storage.sql.exec(query, from, to, rowsMax).raw<[ArrayBuffer, ArrayBuffer]>()) {
      rows.push({ key: new Uint8Array(key), value: new Uint8Array(value) });
      bytes += value.byteLength;
      if (bytes > bytesMax) break;
    }
    return rows;
  }
}

/**
 * Takes the steps that a store still lacks, each in one transaction with the version that it leads to: one that fails
 * leaves the store as it was. Throws that, or that the store has more steps behind it than there are here.
 */
export function migrate(storage: DurableObjectStorage, migrations: readonly Migration[]): void {
  const stored = storage.kv.get<number>("schema_version") ?? 0;
  if (stored > migrations.length) {
    throw new Error(
      `the object's store has schema version ${stored}, this script reads ${migrations.length}: deploy the version that wrote it, or a later one`,
    );
  }
  for (const [step, migration] of migrations.entries()) {
    if (step < stored) continue;
    try {
      storage.transactionSync(() => {
        migration(storage.sql);
        storage.kv.put("schema_version", step + 1);
      });
    } catch (cause) {
      throw new Error(`the object's store stays at schema version ${step}, the step to ${step + 1} failed: ${String(cause)}`, { cause });
    }
  }
}
