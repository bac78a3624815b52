/** A broker with the links of its clients, in a page or in a worker. */

import { RIGHTS_ALL } from "./abi.ts";
import { Drive } from "./drive.ts";
import type { Note, Store } from "./drive.ts";
import type { Service } from "./election.ts";
import { BindgenEngine, loadEngine } from "./engine.ts";
import { DunlinError } from "./errors.ts";
import { IndexedDbStore } from "./indexeddb.ts";
import type { Link, LinkEvents, Trouble } from "./link.ts";
import type { Asked } from "./room.ts";
import type { WasmSource } from "./types.ts";

/** The longest time that a timer can be set to. */
const TIMER_MS_MAX = 2 ** 31 - 1;

export class HostedBroker {
  readonly #store: Store;
  readonly #drive: Drive;
  readonly #links = new Map<number, LinkEvents>();
  /** Above those of earlier pages, which the store may still know: so many pages a millisecond there are not. */
  #connections = Date.now() * 1000;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #trouble: Trouble | undefined;

  private constructor(store: Store, config: string) {
    this.#store = store;
    this.#drive = new Drive(
      {
        engine: new BindgenEngine(),
        store,
        sockets: {
          send: (connection, message) => this.#links.get(connection)?.message(message),
          close: (connection, code, reason) => this.#end(connection, code, reason),
        },
        now: () => performance.timeOrigin + performance.now(),
        seed: () => crypto.getRandomValues(new BigUint64Array(1))[0] ?? 0n,
        later: afterThisTask,
        arm: (at) => this.#arm(at),
        note: (note) => this.#note(note),
      },
      config,
    );
  }

  /** Restores the broker from what is stored. The engine's WebAssembly is loaded already. */
  static async start(name: string, store: Store, config: string): Promise<HostedBroker> {
    const broker = new HostedBroker(store, config);
    const failed = (code: string, what: string, cause: unknown): DunlinError => {
      broker.stop();
      return new DunlinError(code, `the broker ${JSON.stringify(name)} ${what}: ${(cause as Error).message}`, { cause });
    };
    let restored: void | Promise<void>;
    try {
      restored = broker.#drive.open();
    } catch (cause) {
      throw failed("invalid_argument", "cannot start", cause);
    }
    try {
      await restored;
    } catch (cause) {
      throw failed("database_unavailable", "cannot be restored from its database", cause);
    }
    return broker;
  }

  connect({ namespace, user, device }: Asked, events: LinkEvents): Link {
    this.#connections += 1;
    const connection = this.#connections;
    this.#links.set(connection, events);
    // Like a socket, it opens after the caller has its hands on it.
    queueMicrotask(() => {
      if (!this.#links.has(connection)) return;
      this.#drive.connect(connection, "binary", { namespace, user, device, rights: RIGHTS_ALL });
      events.opened();
      if (this.#trouble !== undefined) events.trouble?.(this.#trouble);
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

  /** Lets every client go for good: the database is gone, and nothing can go on with this broker. */
  end(error: DunlinError): void {
    this.stop();
    for (const connection of [...this.#links.keys()]) this.#end(connection, 4003, `${error.code}: ${error.message}`);
  }

  /** Stores what is at hand, and stops. */
  async close(): Promise<void> {
    await this.#drive.close();
    this.#store.close?.();
  }

  /** Stops at once. What is being committed stays so, in front of whatever the next broker reads. */
  stop(): void {
    this.#drive.stop();
    this.#store.close?.();
  }

  #end(connection: number, code: number, reason: string): void {
    const events = this.#links.get(connection);
    this.#links.delete(connection);
    if (events !== undefined) queueMicrotask(() => events.closed({ code, reason }));
  }

  #arm(at: number | undefined): void {
    clearTimeout(this.#timer);
    if (at === undefined) return;
    const ms = at - (performance.timeOrigin + performance.now());
    this.#timer = setTimeout(() => this.#due(), Math.min(Math.max(0, Math.ceil(ms)), TIMER_MS_MAX));
  }

  #due(): void {
    // A link says when it ends, so whoever has one is alive.
    const now = performance.timeOrigin + performance.now();
    for (const connection of this.#links.keys()) this.#drive.seen(connection, now);
    this.#drive.timeout();
  }

  /** What went wrong inside is for the developer's console; clients hear of it by their states. */
  #note(note: Note): void {
    if (note.kind === "lost" || note.kind === "failed") console.error(`dunlin: the broker in this browser was ${note.kind}`, note.error);
    if (note.kind === "lost" || note.kind === "recovered") this.#troubled(note.kind === "lost" && isFull(note.error) ? FULL : undefined);
  }

  #troubled(trouble: Trouble | undefined): void {
    if (trouble === this.#trouble) return;
    this.#trouble = trouble;
    for (const events of this.#links.values()) events.trouble?.(trouble);
  }
}

const FULL: Trouble = {
  code: "storage_full",
  message:
    "the browser gives this site no more storage: delete other data of the site or topics that nobody needs, or let them keep less (maxBytes, maxAgeMs); publishing goes on by itself when there is room",
};

function isFull(error: unknown): boolean {
  return (error as Error | null)?.name === "QuotaExceededError";
}

/** The broker on the database of that name, for whoever may open it. */
export async function openStored(name: string, config: string, wasm: WasmSource): Promise<Service> {
  await loadEngine(() => wasm);
  let broker: HostedBroker | undefined;
  const store = await IndexedDbStore.open(name, (error) => broker?.end(error));
  const started = await HostedBroker.start(name, store, config);
  broker = started;
  return {
    connect(knock, events) {
      if (knock.config !== config) throw anotherConfiguration(name);
      return started.connect(knock, events);
    },
    close: () => started.close(),
    stop: () => started.stop(),
  };
}

export function anotherConfiguration(name: string): DunlinError {
  const what = `the broker ${JSON.stringify(name)} is open with another configuration`;
  return new DunlinError("invalid_argument", `${what}: close its clients first, in all tabs, or give the same`);
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
