// The broker in real Chromium, with its database in a profile on a real disk, shared by two tabs. The crews work in the
// tabs; what happens comes here over sockets, and only what has come here is known.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, readdir } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { setTimeout as wait } from "node:timers/promises";

import { WebSocketServer } from "ws";

const PACKAGE = join(import.meta.dirname, "../../wasm/dist");
const CHROMIUM = "/usr/bin/chromium";
const FLAGS = [
  "--headless",
  // Its sandbox needs rights that a container does not have; only our own page is opened.
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--no-default-browser-check",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-extensions",
  "--disable-popup-blocking",
  "--disable-sync",
  "--hide-crash-restore-bubble",
  "--remote-debugging-port=0",
];
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm" };
const PATIENCE_MS = 60_000;

export class Browser {
  static namespaces = ["north", "south"];
  static directory = "profile";
  /** What left the page in its last moment may not have come here. */
  static unheardMax = 256;
  static clientsStay = false;
  #home;
  #given;
  #server;
  #sockets = new WebSocketServer({ noServer: true });
  #life = 0;
  #process;
  crews = new Map();

  /** @param {import("./round.mjs").Given} given */
  constructor({ home, ...given }) {
    this.#home = home;
    this.#given = given;
  }

  /** A transaction that is complete is with the operating system; for `none` nobody waits. */
  static survives(level) {
    return level !== "none";
  }

  async start() {
    this.#server ??= await serve(this.#sockets);
    this.#life += 1;
    const { port } = this.#server.address();
    const tabs = Browser.namespaces.map((namespace) => `tab=${namespace}`).join("&");
    const url = `http://127.0.0.1:${port}/page.html?life=${this.#life}&${tabs}`;
    const profile = `--user-data-dir=${join(this.#home, Browser.directory)}`;
    // In a group of its own, so that all of it ends at the same moment.
    this.#process = spawn(CHROMIUM, [...FLAGS, profile, url], { stdio: "ignore", detached: true });
    const troubled = once(this.#process, "error").then(([error]) => {
      throw new Error(`no browser starts: ${error.message}; \`cargo xtask test --only chromium\` installs one`);
    });
    const sockets = await Promise.race([this.#tabs(), troubled]);
    const { seed, journal, config } = this.#given;
    for (const [namespace, socket] of sockets) {
      const page = new Page(socket, (entry) => journal(namespace, entry));
      await page.ask("join", { options: { namespace, name: "crash", store: "indexeddb", config }, seed: seed(namespace) });
      this.crews.set(namespace, page.crew());
    }
  }

  /** The sockets of the tabs that belong to this start, one for each namespace. */
  async #tabs() {
    const signal = AbortSignal.timeout(PATIENCE_MS);
    const sockets = new Map();
    while (sockets.size < Browser.namespaces.length) {
      const [socket, request] = await once(this.#sockets, "connection", { signal });
      const parameters = new URL(request.url, "http://localhost").searchParams;
      if (Number(parameters.get("life")) === this.#life) sockets.set(parameters.get("tab"), socket);
      else socket.terminate();
    }
    return sockets;
  }

  /** What Chromium says of a database that it began with nothing, which it had not done if it found the one before. */
  static async remarks(home) {
    const names = await readdir(join(home, Browser.directory), { recursive: true }).catch(() => []);
    const logs = names.filter((name) => /\.indexeddb\.leveldb.LOG$/.test(name));
    const texts = await Promise.all(logs.map((name) => readFile(join(home, Browser.directory, name), "utf8")));
    return texts.flatMap((text) => text.match(/^.* Creating DB .* since it was missing\.$/gm) ?? []);
  }

  /** Signals all of its processes; resolves when they have ended. */
  async signal(name) {
    const { pid, exitCode } = this.#process ?? { exitCode: 0 };
    if (exitCode !== null) return;
    const ended = once(this.#process, "exit");
    process.kill(-pid, name);
    await ended;
    // Helpers of the browser end a little later than it does.
    for (const other of await group(pid)) while (await isAlive(other)) await wait(1);
  }

  async end() {
    this.#sockets.close();
    this.#server?.close();
    this.#server?.closeAllConnections();
  }
}

/** A tab that works for us. */
class Page {
  #socket;
  #asked = new Map();
  #requests = 0;

  constructor(socket, journal) {
    this.#socket = socket;
    socket.on("message", (data) => {
      const { request, entry, result, error } = JSON.parse(data);
      if (entry !== undefined) {
        journal(entry);
        if (request !== undefined) socket.send(JSON.stringify({ heard: request }));
      } else if (error === undefined) this.#asked.get(request).resolve(result);
      else this.#asked.get(request).reject(new Error(`in the page: ${error}`));
    });
    socket.on("close", () => {
      for (const { reject } of this.#asked.values()) reject(new Error("the page is gone"));
    });
  }

  ask(method, ...given) {
    this.#requests += 1;
    const request = this.#requests;
    return new Promise((resolve, reject) => {
      this.#asked.set(request, { resolve, reject });
      this.#socket.send(JSON.stringify({ request, method, given }));
    }).finally(() => this.#asked.delete(request));
  }

  /** The crew of the tab, as if it were here; it ends with its page. */
  crew() {
    const methods = ["configure", "survey", "produce", "recreate", "listen", "hush"];
    const crew = Object.fromEntries(methods.map((method) => [method, (...given) => this.ask(method, ...given)]));
    return { ...crew, bury: async () => undefined, end: async () => undefined };
  }
}

/** Serves the page, the crew and the package, and hands over sockets. */
async function serve(sockets) {
  const server = createServer(async (request, response) => {
    const path = normalize(new URL(request.url, "http://localhost").pathname);
    const file = path.startsWith("/dunlin/") ? join(PACKAGE, path.slice("/dunlin/".length)) : join(import.meta.dirname, path);
    try {
      const content = await readFile(file);
      response.writeHead(200, { "content-type": TYPES[extname(file)] ?? "application/octet-stream" }).end(content);
    } catch {
      response.writeHead(404).end();
    }
  });
  server.on("upgrade", (request, socket, head) =>
    sockets.handleUpgrade(request, socket, head, (upgraded) => sockets.emit("connection", upgraded, request)),
  );
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return server;
}

/** The state and the process group that the kernel tells of a process; none if it is gone. */
async function status(pid) {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
  // The program's name stands in parentheses and may hold anything.
  const [state, , groupId] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return { state, groupId: Number(groupId) };
}

async function group(id) {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name)).map(Number);
  const groups = await Promise.all(pids.map(async (pid) => (await status(pid)).groupId));
  return pids.filter((_, index) => groups[index] === id);
}

/** A zombie holds nothing any more. */
async function isAlive(pid) {
  const { state } = await status(pid);
  return state !== undefined && state !== "" && state !== "Z" && state !== "X";
}
