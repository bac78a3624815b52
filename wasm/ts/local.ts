/**
 * The broker in the page. Clients of one name and store share one broker, which stops when the last of them closes.
 * A broker on a database holds a lock, so that of all tabs only one has it.
 */

import { RIGHTS_ALL } from "./abi.ts";
import { TransportClient } from "./client.ts";
import { Drive } from "./drive.ts";
import type { Note, Sockets, Store } from "./drive.ts";
import { BindgenEngine, loadEngine } from "./engine.ts";
import { DunlinError } from "./errors.ts";
import { IndexedDbStore } from "./indexeddb.ts";
import { REAL } from "./link.ts";
import type { Link, LinkEvents, Transport } from "./link.ts";
import { MemoryStore } from "./memory.ts";
import type { Client, LocalOptions, WasmSource } from "./types.ts";

/** The longest time that a timer can be set to. */
const TIMER_MS_MAX = 2 ** 31 - 1;

/** Opens a client of the broker in the page, and the broker if it is the first. */
export async function openLocalWith(
  wasm: () => WasmSource | Promise<WasmSource>,
  options: LocalOptions = {},
): Promise<Client> {
  const { name = "dunlin", store = "memory", namespace = "default", signal } = options;
  if (typeof name !== "string" || name === "") throw invalid("the option name must be text that is not empty");
  if (typeof namespace !== "string" || namespace === "") throw invalid("the option namespace must be text that is not empty");
  if (store !== "memory" && store !== "indexeddb") {
    throw invalid(`the option store must be "memory" or "indexeddb", not ${JSON.stringify(store)}`);
  }
  const config = configText(options.config);
  signal?.throwIfAborted();
  await loadEngine(options.wasm === undefined ? wasm : () => options.wasm as WasmSource);
  signal?.throwIfAborted();
  const broker = await LocalBroker.share(name, store, config);
  return TransportClient.open(broker.transport(namespace), REAL, { signal }, () => broker.release());
}

function configText(config: LocalOptions["config"]): string {
  if (config === undefined) return "{}";
  if (typeof config !== "object" || config === null || Array.isArray(config)) throw invalid("the option config must be an object");
  return JSON.stringify(config, (_name, value: unknown) => (typeof value === "bigint" ? Number(value) : value));
}

function invalid(message: string): DunlinError {
  return new DunlinError("invalid_argument", message);
}

/** The brokers of this page, by store and name. */
const brokers = new Map<string, Entry>();

interface Entry {
  readonly config: string;
  readonly opened: Promise<LocalBroker>;
}

class LocalBroker {
  readonly #key: string;
  readonly #name: string;
  readonly #drive: Drive;
  readonly #links = new Map<number, LinkEvents>();
  readonly #close: () => void;
  #entry: Entry | undefined;
  #users = 0;
  /** Above those of earlier pages, which the store may still know: so many pages a millisecond there are not. */
  #connections = Date.now() * 1000;
  #timer: ReturnType<typeof setTimeout> | undefined;

  private constructor(key: string, name: string, store: Store, config: string, close: () => void) {
    this.#key = key;
    this.#name = name;
    this.#close = close;
    const sockets: Sockets = {
      send: (connection, message) => this.#links.get(connection)?.message(message),
      close: (connection, code, reason) => this.#end(connection, code, reason),
    };
    this.#drive = new Drive(
      {
        engine: new BindgenEngine(),
        store,
        sockets,
        now: () => performance.timeOrigin + performance.now(),
        seed: () => crypto.getRandomValues(new BigUint64Array(1))[0] ?? 0n,
        later: afterThisTask,
        arm: (at) => this.#arm(at),
        note: report,
      },
      config,
    );
  }

  /** The broker of that name, opened if it is not, with one more user. */
  static async share(name: string, store: "memory" | "indexeddb", config: string): Promise<LocalBroker> {
    const key = `${store}:${name}`;
    let entry = brokers.get(key);
    if (entry === undefined) {
      entry = { config, opened: LocalBroker.#open(key, name, store, config) };
      brokers.set(key, entry);
      entry.opened.catch(() => brokers.delete(key));
    } else if (entry.config !== config) {
      throw invalid(`the broker ${JSON.stringify(name)} is open with another configuration: close its clients first, or give the same`);
    }
    const broker = await entry.opened;
    // Its last user may have gone while we waited.
    if (brokers.get(key) !== entry) return LocalBroker.share(name, store, config);
    broker.#entry = entry;
    broker.#users += 1;
    return broker;
  }

  static async #open(key: string, name: string, kind: "memory" | "indexeddb", config: string): Promise<LocalBroker> {
    if (kind === "memory") return LocalBroker.#start(new LocalBroker(key, name, new MemoryStore(), config, () => {}));
    if (typeof indexedDB === "undefined") {
      throw new DunlinError("unsupported", 'this runtime has no IndexedDB: use the option store: "memory"');
    }
    const unlock = await lock(name);
    try {
      let broker: LocalBroker | undefined;
      const store = await IndexedDbStore.open(name, (error) => {
        if (broker !== undefined) broker.#lost(error);
      });
      try {
        broker = new LocalBroker(key, name, store, config, () => {
          store.close();
          unlock();
        });
        return await LocalBroker.#start(broker);
      } catch (error) {
        store.close();
        throw error;
      }
    } catch (error) {
      unlock();
      throw error;
    }
  }

  static async #start(broker: LocalBroker): Promise<LocalBroker> {
    try {
      await broker.#drive.open();
    } catch (cause) {
      await broker.#drive.close();
      throw new DunlinError("invalid_argument", `the broker ${JSON.stringify(broker.#name)} cannot start: ${(cause as Error).message}`, { cause });
    }
    return broker;
  }

  /** A way to a namespace of this broker. */
  transport(namespace: string): Transport {
    return {
      address: `${JSON.stringify(this.#name)} in this page`,
      canDie: false,
      open: (events) => this.#connect(namespace, events),
    };
  }

  /** One user less; the last one stops the broker. */
  release(): void {
    this.#users -= 1;
    if (this.#users > 0) return;
    this.#forget();
    void this.#drive.close().finally(this.#close);
  }

  /** Whoever comes next gets another broker. */
  #forget(): void {
    if (brokers.get(this.#key) === this.#entry) brokers.delete(this.#key);
  }

  #connect(namespace: string, events: LinkEvents): Link {
    this.#connections += 1;
    const connection = this.#connections;
    this.#links.set(connection, events);
    // Like a socket, it opens after the caller has its hands on it.
    queueMicrotask(() => {
      if (!this.#links.has(connection)) return;
      this.#drive.connect(connection, "binary", { namespace, user: "", device: "", rights: RIGHTS_ALL });
      this.#links.get(connection)?.opened();
    });
    return {
      send: (message) => {
        if (this.#links.has(connection)) this.#drive.frame(connection, message);
      },
      close: () => {
        if (this.#links.delete(connection)) this.#drive.disconnect(connection);
      },
    };
  }

  #end(connection: number, code: number, reason: string): void {
    const events = this.#links.get(connection);
    this.#links.delete(connection);
    if (events !== undefined) queueMicrotask(() => events.closed({ code, reason }));
  }

  /** The database is gone: nothing can go on with this broker. */
  #lost(error: DunlinError): void {
    this.#forget();
    void this.#drive.close();
    for (const connection of [...this.#links.keys()]) this.#end(connection, 4003, `${error.code}: ${error.message}`);
  }

  #arm(at: number | undefined): void {
    clearTimeout(this.#timer);
    if (at === undefined) return;
    const ms = at - (performance.timeOrigin + performance.now());
    this.#timer = setTimeout(() => this.#drive.timeout(), Math.min(Math.max(0, Math.ceil(ms)), TIMER_MS_MAX));
  }
}

/** Turns that were asked for, and the channel whose messages let them happen. All brokers of the page share it. */
const turns: (() => void)[] = [];
let channel: MessageChannel | undefined;

/** Gathers what the program says in one task. A promise would not do: a loop of awaits would never let the page draw. */
function afterThisTask(turn: () => void): void {
  if (typeof setImmediate === "function") {
    setImmediate(turn);
  } else if (typeof MessageChannel === "undefined") {
    setTimeout(turn, 0);
  } else {
    // Timers of the page are held back to milliseconds, in hidden tabs to seconds; messages are not.
    if (channel === undefined) {
      channel = new MessageChannel();
      channel.port1.onmessage = () => turns.shift()?.();
    }
    turns.push(turn);
    channel.port2.postMessage(undefined);
  }
}

declare const setImmediate: ((callback: () => void) => unknown) | undefined;

/** Takes the lock of a database, or says that another tab has it. The browser lets go of it when the page ends. */
async function lock(name: string): Promise<() => void> {
  const locks = typeof navigator === "undefined" ? undefined : navigator.locks;
  if (locks === undefined) {
    throw new DunlinError(
      "unsupported",
      'this runtime has no Web Locks, without which two tabs would write to one database: serve the page by https or from localhost, or use the option store: "memory"',
    );
  }
  return new Promise((resolve, reject) => {
    locks
      .request(`dunlin:${name}`, { ifAvailable: true }, (granted) => {
        if (granted === null) {
          throw new DunlinError(
            "database_in_use",
            `another tab has the broker on the database ${JSON.stringify(name)}: close it, or use another name`,
          );
        }
        return new Promise<void>((unlock) => resolve(unlock));
      })
      .catch(reject);
  });
}

/** What went wrong inside is for the developer's console; clients hear of it by their states. */
function report(note: Note): void {
  if (note.kind === "lost" || note.kind === "failed") console.error(`dunlin: the broker in this page was ${note.kind}`, note.error);
}
