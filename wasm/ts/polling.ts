/** Where the candidate of this tab is: in the SharedWorker, or, where there is none, in the tab itself. */

import type { Greeting } from "./connection.ts";
import { Candidate } from "./election.ts";
import type { Service } from "./election.ts";
import { DunlinError } from "./errors.ts";
import { ROOM_VERSION } from "./room.ts";
import type { Knock } from "./room.ts";
import type { SharingOptions } from "./types.ts";

/** How long a worker may take to load until this tab stands for election as well. */
const WORKER_TIMEOUT_MS = 10_000;

/** What the tabs share, as it is told to a worker. */
export type Shared =
  | { readonly kind: "broker"; readonly name: string; readonly config: string; readonly wasm: string | BufferSource }
  | { readonly kind: "upstream"; readonly url: string; readonly greeting: Greeting };

/** What a tab tells the worker, which says its version: that a link wants to be answered, or that it waits no longer. */
export type Order =
  | { readonly version: number; readonly room: string; readonly knock: Knock; readonly shared: Shared }
  | { readonly version: number; readonly room: string; readonly withdraw: string };

/** Who is told of a tab's links. */
export interface Polling {
  knock(knock: Knock): void;
  withdraw(link: string): void;
}

class TabPolling implements Polling {
  readonly #room: string;
  readonly #open: () => Promise<Service>;

  constructor(room: string, open: () => Promise<Service>) {
    this.#room = room;
    this.#open = open;
  }

  knock(knock: Knock): void {
    Candidate.knock(this.#room, knock, this.#open);
  }

  withdraw(link: string): void {
    Candidate.withdraw(this.#room, link);
  }
}

/** Set when a worker could not be used, for as long as the page lives. */
let hasNoWorker = false;

class WorkerPolling implements Polling {
  readonly #room: string;
  readonly #shared: Shared;
  readonly #url: URL;
  readonly #fallback: Polling;
  readonly #told = new Map<string, { readonly worker: SharedWorker; readonly timer: ReturnType<typeof setTimeout> }>();

  constructor(room: string, shared: Shared, file: string | URL | undefined, fallback: Polling) {
    this.#room = room;
    this.#shared = shared;
    this.#url = file === undefined ? workerFile() : new URL(file, location.href);
    this.#fallback = fallback;
  }

  knock(knock: Knock): void {
    if (hasNoWorker) {
      this.#fallback.knock(knock);
      return;
    }
    const fallBack = (why: string): void => {
      if (!hasNoWorker) console.warn(`dunlin: a tab runs what the tabs share, because the SharedWorker ${this.#url.href} ${why}`);
      hasNoWorker = true;
      if (this.#told.has(knock.link)) this.#fallback.knock(knock);
    };
    try {
      // Each link asks anew: a worker that is there is found, one that has died is started.
      const worker = new SharedWorker(trusted(this.#url), { type: "module", name: this.#room });
      const timer = setTimeout(fallBack, WORKER_TIMEOUT_MS, `did not answer for ${WORKER_TIMEOUT_MS / 1000} s`);
      this.#told.set(knock.link, { worker, timer });
      worker.onerror = () => fallBack("cannot be loaded; the README says how bundlers find it");
      worker.port.onmessage = ({ data }: MessageEvent<unknown>) => {
        clearTimeout(timer);
        if (data !== ROOM_VERSION) fallBack(`is of another version, ${String(data)} and not ${ROOM_VERSION}: reload all tabs of this site`);
      };
      worker.port.postMessage({ version: ROOM_VERSION, room: this.#room, knock, shared: this.#shared } satisfies Order);
    } catch (error) {
      fallBack(`cannot be started: ${(error as Error).message}`);
      this.#fallback.knock(knock);
    }
  }

  withdraw(link: string): void {
    const told = this.#told.get(link);
    this.#told.delete(link);
    if (told !== undefined) {
      clearTimeout(told.timer);
      told.worker.port.postMessage({ version: ROOM_VERSION, room: this.#room, withdraw: link } satisfies Order);
      told.worker.port.close();
    }
    this.#fallback.withdraw(link);
  }
}

/** Who is told, by what the program wants and the platform has; what cannot be told to a worker is undefined. */
export function pollingFor(
  room: string,
  shared: Shared | undefined,
  open: () => Promise<Service>,
  { sharing, worker }: SharingOptions,
): Polling {
  if (sharing !== undefined && sharing !== "worker" && sharing !== "tab") {
    throw new DunlinError("invalid_argument", `the option sharing must be "worker" or "tab", not ${JSON.stringify(sharing)}`);
  }
  const tab = new TabPolling(room, open);
  if (shared === undefined || sharing === "tab" || typeof SharedWorker === "undefined") return tab;
  return new WorkerPolling(room, shared, worker, tab);
}

/** Where the worker's script lies, in the words that bundlers look for. It needs no bundling, so it is an asset to them. */
function workerFile(): URL {
  return new URL("./shared-worker.js", import.meta.url);
}

interface Policy {
  createScriptURL(url: string): string;
}

let policy: Policy | undefined;

/** For pages that only run scripts whose addresses a policy has seen; ours is called `dunlin`. */
function trusted(url: URL): string {
  const { trustedTypes } = globalThis as { trustedTypes?: { createPolicy(name: string, rules: Policy): Policy } };
  policy ??= trustedTypes?.createPolicy("dunlin", { createScriptURL: (given) => given });
  return policy?.createScriptURL(url.href) ?? url.href;
}
