// The Worker and its Durable Objects in workerd, as it is deployed, with the objects' files on a real disk.
import { mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { connect } from "dunlin";
import workerd from "workerd";

import { follow } from "../real-data/server.mjs";
import { Crew } from "./crew.mjs";

const SCRIPT = join(import.meta.dirname, "../../worker/dist/script");
const TOKEN = "a-token-for-this-machine";

export class Worker {
  static namespaces = ["north", "south"];
  static unheardMax = 0;
  static clientsStay = true;
  #home;
  #config;
  #volatile;
  #process;
  #port = 0;
  crews;

  /** @param {{ home: string, config: object, seed: (namespace: string) => string, journal: (namespace: string, entry: object) => void, volatile: boolean }} given */
  constructor({ home, config, seed, journal, volatile }) {
    this.#home = home;
    this.#config = config;
    this.#volatile = volatile;
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
    const objects = join(this.#home, "objects");
    // The runtime refuses SQLite in memory, so what keeps nothing is a disk that is empty at every start.
    if (this.#volatile) await rm(objects, { recursive: true, force: true });
    await mkdir(objects, { recursive: true });
    const config = join(this.#home, "workerd.capnp");
    await writeFile(config, await this.#workerdConfig());
    this.#process = follow(workerd.default, ["serve", "--import-path=/", "--control-fd=1", config]);
    const ports = (lines) => lines.map((line) => JSON.parse(line)).filter(({ event }) => event === "listen");
    await this.#process.reached((lines) => ports(lines).length > 0);
    this.#port = ports(this.#process.lines)[0].port;
  }

  kill() {
    return this.#process?.stop("SIGKILL");
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
    (name = "objects", disk = (path = ${text(join(this.#home, "objects"))}, writable = true)),
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
