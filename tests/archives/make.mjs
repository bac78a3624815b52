// Makes an archive to be kept: `node tests/archives/make.mjs NAME` writes NAME.dunlin and NAME.ndjson, what a client reads
// of it, beside this file. What is there stays as it is: every later dunlin has to read it.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { connect } from "dunlin";

import { run, serve } from "../real-data/server.mjs";
import { CONFIG, furnish, survey } from "./contents.mjs";

const [, , name] = process.argv;
if (name === undefined) throw new Error("give a name that no archive here has, such as version-1");
const dunlin = join(import.meta.dirname, "../../target/release/dunlin");
const home = await mkdtemp(join(tmpdir(), "dunlin-archive-"));
const config = join(home, "config.json");
await writeFile(config, JSON.stringify(CONFIG));
const server = await serve(dunlin, { data: join(home, "data"), config });
try {
  const url = `http://${server.address}`;
  const client = await connect(url, { namespace: "kept" });
  await furnish(client);
  const beside = (ending) => join(import.meta.dirname, `${name}.${ending}`);
  const lines = (await survey(client)).map((line) => `${JSON.stringify(line)}\n`);
  await writeFile(beside("ndjson"), lines.join(""), { flag: "wx" });
  await client.close();
  console.log((await run(dunlin, ["export", "--url", url, "--namespace", "kept", beside("dunlin")])).output.trim());
} finally {
  await server.stop();
  await rm(home, { recursive: true });
}
