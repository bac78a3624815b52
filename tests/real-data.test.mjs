// Real lines through the real programs; and the comparison that judges them is itself put to the test.
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";

import { compare } from "./real-data/compare.mjs";
import { realData } from "./real-data/run.mjs";

const ROOT = join(import.meta.dirname, "..");

const line = (number, key = "k") => ({ topic: "t", key, payload: JSON.stringify({ number }) });

test("the comparison finds what is missing, repeated, foreign, changed and out of order", () => {
  const published = [line(0), line(1), line(2, "other")];
  compare(published, [line(2, "other"), line(0), line(1)], "reader");
  const wrong = (read, says) => assert.throws(() => compare(published, read, "reader"), says);
  wrong([line(0), line(1)], /reader: a line of t with the key "other" is missing/);
  wrong([line(0), line(1), line(1), line(2, "other")], /came twice: \{"number":1\}/);
  wrong([line(0), line(1), line(3)], /never published: \{"number":3\}/);
  wrong([line(0), line(1, "changed"), line(2, "other")], /differs from/);
  wrong([line(1), line(0), line(2, "other")], /behind a later line of its key: \{"number":0\}/);
});

test("commits and packages come back in every way, over a stop and a kill of the server", async (t) => {
  const dunlin = process.env.DUNLIN_BIN ?? join(ROOT, "target/release/dunlin");
  const { lines } = await realData({ dunlin, console: join(ROOT, "www/dist"), say: (text) => t.diagnostic(text) });
  assert.ok(lines > 1);
});
