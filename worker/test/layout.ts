// A store that is taken through steps which only tests have: more of them than are deployed, and some that fail.

import { DurableObject } from "cloudflare:workers";

import { migrate } from "../ts/store.ts";
import type { Migration } from "../ts/store.ts";

const STEPS: readonly Migration[] = [
  (sql) => {
    sql.exec("CREATE TABLE rows (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID");
    sql.exec("INSERT INTO rows VALUES (x'01', x'0a'), (x'02', x'0b')");
  },
  (sql) => {
    sql.exec("ALTER TABLE rows ADD COLUMN length INTEGER NOT NULL DEFAULT 0");
    sql.exec("UPDATE rows SET length = 1");
  },
  (sql) => sql.exec("CREATE INDEX lengths ON rows (length)"),
];

/** Every request is a POST, and its answer shows everything that is stored afterwards, or is a 409 with what was thrown. */
export class Layout extends DurableObject {
  /** `/{steps}` knows so many steps; with `?broken=N` that one fails when it has changed everything it can. */
  override fetch(request: Request): Response {
    const url = new URL(request.url);
    const broken = Number(url.searchParams.get("broken"));
    const steps = STEPS.slice(0, Number(url.pathname.slice(1))).map((step, at): Migration => {
      if (at + 1 !== broken) return step;
      return (sql) => {
        step(sql);
        sql.exec("DELETE FROM rows");
        sql.exec("CREATE TABLE other (id INTEGER)");
        sql.exec("INSERT INTO nowhere VALUES (1)");
      };
    });
    try {
      migrate(this.ctx.storage, steps);
      return new Response(this.#everything());
    } catch (error) {
      return new Response(`${String(error)}\n${this.#everything()}`, { status: 409 });
    }
  }

  #everything(): string {
    const { sql, kv } = this.ctx.storage;
    const tables = [...sql.exec("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE '\\_%' ESCAPE '\\' ORDER BY name")];
    const rows = tables.some(({ name }) => name === "rows") ? [...sql.exec("SELECT hex(k), hex(v), * FROM rows ORDER BY k").raw()] : [];
    const shown = rows.map(([key, value, , , ...more]) => [key, value, ...more]);
    return JSON.stringify({ version: kv.get("schema_version") ?? null, tables, rows: shown });
  }
}
