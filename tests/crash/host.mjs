// The native server on a real disk.
import { join } from "node:path";
import { writeFile } from "node:fs/promises";

import { connect } from "dunlin";

import { follow } from "../real-data/server.mjs";
import { Crew } from "./crew.mjs";
import { dice } from "./plan.mjs";

const ROOT = join(import.meta.dirname, "../..");
const DUNLIN = process.env.DUNLIN_BIN ?? join(process.env.CARGO_TARGET_DIR ?? join(ROOT, "target"), "release/dunlin");

export class Host {
  static namespaces = ["north", "south"];
  static unheardMax = 0;
  static clientsStay = true;
  #home;
  #arguments;
  #process;
  #address = "127.0.0.1:0";
  /** What runs the broker; it changes from start to start, and the data must not care. */
  #engine;
  #random;
  #startMs = { wasm: 400, native: 100 };
  crews;

  /** @param {{ home: string, config: object, seed: (namespace: string) => string, journal: (namespace: string, entry: object) => void, volatile: boolean }} given */
  constructor({ home, config, seed, journal, volatile }) {
    this.#home = home;
    this.#random = dice(seed("engine"));
    this.#arguments = { config, store: volatile ? "memory" : "fjall" };
    const crew = (namespace) =>
      new Crew({ seed: seed(namespace), open: () => connect(`ws://${this.#address}`, { namespace }), journal: (entry) => journal(namespace, entry) });
    this.crews = new Map(Host.namespaces.map((namespace) => [namespace, crew(namespace)]));
  }

  /** Applied is written to the file, and what is written outlives the process; `none` is answered before. */
  static survives(level) {
    return level !== "none";
  }

  async start() {
    const began = performance.now();
    this.#process = await this.#spawn();
    const says = /listens on http:\/\/([^/\s]+)/;
    await this.#process.reached((lines) => lines.some((line) => says.test(line)));
    [, this.#address] = says.exec(this.#process.lines.find((line) => says.test(line)));
    this.#startMs[this.#engine] = performance.now() - began;
  }

  /** Starts it, and kills it at a share of the time that a start takes. */
  async startInVain(share) {
    this.#process = await this.#spawn();
    await new Promise((resolve) => setTimeout(resolve, share * this.#startMs[this.#engine]));
    await this.kill();
  }

  kill() {
    return this.#process?.stop("SIGKILL");
  }

  async #spawn() {
    const config = join(this.#home, "config.json");
    await writeFile(config, JSON.stringify(this.#arguments.config));
    const data = join(this.#home, "data");
    this.#engine = this.#random.pick(Object.keys(this.#startMs));
    const how = ["--store", this.#arguments.store, "--engine", this.#engine];
    return follow(DUNLIN, ["serve", "--listen", this.#address, "--data", data, "--config", config, ...how]);
  }
}
