// The Worker and its Durable Objects in workerd, as it is deployed, with the objects' files on a real disk.
import { mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { connect } from "dunlin";
import workerd from "workerd";

import { follow } from "../real-data/server.mjs";
import { Crew } from "./crew.mjs";

const SCRIPT = join(import.meta.dirname, "../../worker/dist/script");
const TOKEN = "a-token-for-this-machine";

export class Worker {
  static namespaces = ["north", "south"];
  static directory = "objects";
  static unheardMax = 0;
  static clientsStay = true;
  #home;
  #config;
  #process;
  #port = 0;
  crews;

  /** @param {import("./round.mjs").Given} given */
  constructor({ home, config, seed, journal }) {
    this.#home = home;
    this.#config = config;
    const open = (namespace) => () => connect(`ws://127.0.0.1:${this.#port}`, { namespace, token: TOKEN });
    const crew = (namespace) =>
      new Crew({ seed: seed(namespace), open: open(namespace), journal: (entry) => journal(namespace, entry) });
    this.crews = new Map(Worker.namespaces.map((namespace) => [namespace, crew(namespace)]));
  }

  /** Nothing leaves an object before it is stored. */
  static survives() {
    return true;
  }

  async start() {
    await mkdir(join(this.#home, Worker.directory), { recursive: true });
    const config = join(this.#home, "workerd.capnp");
    await writeFile(config, await this.#workerdConfig());
    this.#process = follow(workerd.default, ["serve", "--import-path=/", "--control-fd=1", config]);
    const ports = (lines) => lines.map((line) => JSON.parse(line)).filter(({ event }) => event === "listen");
    await this.#process.reached((lines) => ports(lines).length > 0);
    this.#port = ports(this.#process.lines)[0].port;
  }

  /** Resolves when the process has ended. */
  signal(name) {
    return this.#process?.stop(name);
  }

  async #workerdConfig() {
    const module = (name) => `(name = ${text(name)}, ${name.endsWith(".wasm") ? "wasm" : "esModule"} = embed ${text(join(SCRIPT, name))})`;
    // The first one is the entry point.
    const names = ["index.js", ...(await readdir(SCRIPT)).filter((name) => name.endsWith(".wasm"))];
    const tokens = JSON.stringify(Object.fromEntries(Worker.namespaces.map((namespace) => [namespace, TOKEN])));
    return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "dunlin", worker = (
      modules = [${names.map(module).join(", ")}],
      compatibilityDate = "2026-04-26",
      bindings = [
        (name = "BROKER", durableObjectNamespace = "Broker"),
        (name = "DUNLIN_TOKENS", text = ${text(tokens)}),
        (name = "DUNLIN_CONFIG", text = ${text(JSON.stringify(this.#config))}),
      ],
      durableObjectNamespaces = [(className = "Broker", uniqueKey = "dunlin-Broker", enableSql = true)],
      durableObjectStorage = (localDisk = "objects"),
    )),
    (name = "objects", disk = (path = ${text(join(this.#home, Worker.directory))}, writable = true)),
  ],
  sockets = [(name = "http", address = "127.0.0.1:${this.#port}", http = (), service = "dunlin")],
);
`;
  }
}

/** Text as Cap'n Proto writes it. */
function text(value) {
  return JSON.stringify(value);
}
