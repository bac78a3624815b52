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
  static directory = "data";
  static unheardMax = 0;
  static clientsStay = true;
  #home;
  #config;
  #process;
  #address = "127.0.0.1:0";
  /** What runs the broker; it changes from start to start, and the data must not care. */
  #engine;
  #random;
  #startMs = { wasm: 400, native: 100 };
  crews;

  /** @param {import("./round.mjs").Given} given */
  constructor({ home, config, seed, journal }) {
    this.#home = home;
    this.#random = dice(seed("engine"));
    this.#config = config;
    const open = (namespace) => () => connect(`ws://${this.#address}`, { namespace });
    const crew = (namespace) =>
      new Crew({ seed: seed(namespace), open: open(namespace), journal: (entry) => journal(namespace, entry) });
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
    await this.signal("SIGKILL");
  }

  /** Resolves when the process has ended. */
  signal(name) {
    return this.#process?.stop(name);
  }

  async #spawn() {
    const config = join(this.#home, "config.json");
    await writeFile(config, JSON.stringify(this.#config));
    this.#engine = this.#random.pick(Object.keys(this.#startMs));
    const places = ["--listen", this.#address, "--data", join(this.#home, Host.directory), "--config", config];
    return follow(DUNLIN, ["serve", "--engine", this.#engine, ...places]);
  }
}
