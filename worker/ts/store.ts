// The object's SQLite as the ordered map that the broker is stored in: one table, keys and values as the broker made
// them. What the host itself must remember stands apart from it, in the runtime's own key-value table.

import type { Range, Row, Write } from "../../wasm/ts/abi.ts";
import type { Store } from "../../wasm/ts/drive.ts";

/** The layout of the table. A script refuses a store with another, rather than to misread it. */
const SCHEMA_VERSION = 1;

const PUT = "INSERT INTO rows (k, v) VALUES (?, ?) ON CONFLICT (k) DO UPDATE SET v = excluded.v";
const DELETE = "DELETE FROM rows WHERE k = ?";
const DELETE_RANGE = "DELETE FROM rows WHERE k >= ? AND k < ?";
const READ = "SELECT k, v FROM rows WHERE k >= ? AND k < ? ORDER BY k LIMIT ?";
const READ_REVERSE = "SELECT k, v FROM rows WHERE k >= ? AND k < ? ORDER BY k DESC LIMIT ?";

/** The store of one object. The runtime holds back everything that leaves the object until what was written is durable. */
export class SqliteStore implements Store {
  readonly #storage: DurableObjectStorage;
  #settled: boolean;

  /** Opens the store, and creates its table the first time. */
  constructor(storage: DurableObjectStorage) {
    this.#storage = storage;
    this.#settled = storage.kv.get<boolean>("settled") ?? false;
    const version = storage.kv.get<number>("schema_version");
    if (version === undefined) {
      storage.transactionSync(() => {
        storage.sql.exec("CREATE TABLE rows (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID");
        storage.kv.put("schema_version", SCHEMA_VERSION);
      });
    } else if (version !== SCHEMA_VERSION) {
      throw new Error(
        `the object's store has schema version ${version}, this script reads ${SCHEMA_VERSION}: deploy the version that wrote it`,
      );
    }
  }

  apply(write: Write): void {
    const { sql } = this.#storage;
    this.#storage.transactionSync(() => {
      for (const op of write.ops) {
        if (op.kind === "put") sql.exec(PUT, op.key, op.value);
        else if (op.kind === "delete") sql.exec(DELETE, op.key);
        else sql.exec(DELETE_RANGE, op.from, op.to);
      }
    });
  }

  sync(): void {}

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
    if (settled === this.#settled) return;
    this.#storage.kv.put("settled", settled);
    this.#settled = settled;
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
