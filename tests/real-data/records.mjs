// Real lines: the commits of this repository and the packages of this machine, as messages with keys.
import { execFileSync } from "node:child_process";

/** Enough for every key to have many lines, few enough for the console to show all of them at once. */
const COMMITS_MAX = 2000;
const PACKAGES_MAX = 2500;
const OUTPUT_BYTES_MAX = 64 * 1024 * 1024;
const FIELD = "\u001f";

function lines(program, args, cwd) {
  try {
    const text = execFileSync(program, args, { cwd, encoding: "utf8", maxBuffer: OUTPUT_BYTES_MAX });
    return text.split("\n").filter((line) => line !== "");
  } catch (error) {
    throw new Error(`real data is missing: "${program} ${args[0]}" does not work here (${error.message})`);
  }
}

/** One message: `payload` holds its number, so that order and completeness can be read off what comes back. */
function record(topic, key, number, fields) {
  return { topic, key, content_type: "application/json", id: `${topic}#${number}`, payload: JSON.stringify({ number, ...fields }) };
}

/** The commits, the oldest first; the key is who wrote them. A shallow clone has few, but at least one. */
function commits(repository) {
  const format = ["%H", "%an", "%aI", "%s"].join("%x1f");
  const args = ["log", `--max-count=${COMMITS_MAX}`, "--reverse", `--format=${format}`];
  return lines("git", args, repository).map((line, number) => {
    const [hash, author, date, subject] = line.split(FIELD);
    return record("real/commits", author, number, { hash, date, subject });
  });
}

/** The packages in the order that the machine lists them; the key is their section. */
function packages() {
  const format = `\${Package}${FIELD}\${Version}${FIELD}\${Architecture}${FIELD}\${Section}\\n`;
  const all = lines("dpkg-query", ["-W", `-f=${format}`]).slice(0, PACKAGES_MAX);
  return all.map((line, number) => {
    const [name, version, architecture, section] = line.split(FIELD);
    return record("real/packages", section || "none", number, { name, version, architecture });
  });
}

/** Everything, in two halves that each hold the topics by turns, every topic in its own order. */
export function realRecords(repository) {
  const sources = [commits(repository), packages()];
  const halves = [0, 1].map((half) => {
    const parts = sources.map((source) => source.filter((_, index) => Number(index >= source.length / 2) === half));
    return byTurns(parts);
  });
  return { topics: ["real/commits", "real/packages"], halves };
}

function byTurns(queues) {
  const longest = Math.max(...queues.map((queue) => queue.length));
  const turns = Array.from({ length: longest }, (_, turn) => queues.map((queue) => queue[turn]));
  return turns.flat().filter((one) => one !== undefined);
}
