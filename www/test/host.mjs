// The native host as a child process, for the tests.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";

import { root } from "./browser.mjs";

const DUNLIN = process.env.DUNLIN_BIN ?? join(root, "../target/release/dunlin");

/** A data directory that is gone after the tests. */
export async function dataDirectory() {
  const directory = await mkdtemp(join(tmpdir(), "dunlin-data-"));
  after(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

/** Starts `dunlin serve` with the console of this checkout, and waits until it says where it listens. */
export async function startHost(data, { listen = "127.0.0.1:0", args = [] } = {}) {
  if (!existsSync(DUNLIN)) throw new Error(`there is no ${DUNLIN}: run \`cargo xtask build\` first`);
  const child = spawn(DUNLIN, ["serve", "--listen", listen, "--data", data, "--console", join(root, "dist"), ...args]);
  let said = "";
  const ended = once(child, "exit");
  const url = await new Promise((resolve, reject) => {
    const hear = (chunk) => {
      said += chunk;
      const [, address] = /listens on (http:\S+)/.exec(said) ?? [];
      if (address !== undefined) resolve(address);
    };
    child.stdout.on("data", hear);
    child.stderr.on("data", hear);
    ended.then(([code]) => reject(new Error(`dunlin serve ended with ${code}: ${said}`)));
  });
  const stop = async () => {
    child.kill("SIGTERM");
    const [code] = await ended;
    if (code !== 0) throw new Error(`dunlin serve stopped with ${code}: ${said}`);
  };
  after(() => child.kill("SIGKILL"));
  return { url, listen: new URL(url).host, stop };
}
