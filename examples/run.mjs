// Runs an example on the broker at a URL, or with `local` on one inside this program.
import { connect, openLocal } from "dunlin";

const EXAMPLES = ["task-queue", "event-sourcing", "rate-limited-ingest", "chat"];

const [name, url = "ws://127.0.0.1:8787", token] = process.argv.slice(2);
if (EXAMPLES.includes(name)) {
  const { run } = await import(`./${name}.mjs`);
  const open = (who) => (url === "local" ? openLocal(who) : connect(url, { ...who, ...(token !== undefined && { token }) }));
  const client = await open().catch(({ message }) => {
    console.error(message);
    process.exit(1);
  });
  await run(client, open);
  await client.close();
} else {
  console.error(`usage: node examples/run.mjs ${EXAMPLES.join("|")} [URL [TOKEN] | local]`);
  process.exitCode = 1;
}
