/**
 * The broker of the page, behind the same door as one far away. In memory it belongs to the page, whose clients of one
 * name share it; it stops when the last of them closes. On a database all tabs share it.
 */

import { TransportClient } from "./client.ts";
import { loadEngine, wasmUnavailable } from "./engine.ts";
import { DunlinError, checkTexts, invalid } from "./errors.ts";
import { HostedBroker, anotherConfiguration, openStored } from "./hosted.ts";
import { REAL } from "./link.ts";
import type { Transport } from "./link.ts";
import { MemoryStore } from "./memory.ts";
import { pollingFor } from "./polling.ts";
import type { Shared } from "./polling.ts";
import type { Asked } from "./room.ts";
import { SharedTransport, checkSharing } from "./sharing.ts";
import type { LocalClient, LocalOptions, WasmSource } from "./types.ts";

type Source = () => WasmSource | Promise<WasmSource>;

/** Opens a client of the broker in this browser, and the broker if it is the first. */
export async function openLocalWith(wasm: Source, options: LocalOptions = {}): Promise<LocalClient> {
  const { name = "dunlin", store = "memory", namespace = "default", user, device, session, echo, signal } = options;
  checkTexts({ name, namespace, user, device });
  if (store !== "memory" && store !== "indexeddb") {
    throw invalid(`the option store must be "memory" or "indexeddb", not ${JSON.stringify(store)}`);
  }
  const config = configText(options.config);
  const asked = { config, namespace, user: user ?? "", device: device ?? "" };
  signal?.throwIfAborted();
  const source: Source = options.wasm === undefined ? wasm : () => options.wasm as WasmSource;
  if (store === "memory") {
    await loadEngine(source);
    signal?.throwIfAborted();
    const { broker, release } = await pageBroker(name, config);
    const transport: Transport = {
      address: `${JSON.stringify(name)} in this page`,
      canDie: false,
      open: (events) => broker.connect(asked, events),
    };
    const client = await TransportClient.open(transport, REAL, { session, echo, signal }, release);
    return Object.assign(client, { persisted: Promise.resolve(false) });
  }
  if (typeof indexedDB === "undefined") {
    throw new DunlinError("unsupported", 'this runtime has no IndexedDB: use the option store: "memory"');
  }
  checkSharing('use the option store: "memory"');
  const transport = await storedTransport(name, asked, source, options);
  signal?.throwIfAborted();
  const client = await TransportClient.open(transport, REAL, { session, echo, signal });
  return Object.assign(client, { persisted: askToPersist() });
}

async function storedTransport(name: string, asked: Asked, source: Source, options: LocalOptions): Promise<Transport> {
  const { config } = asked;
  const room = `dunlin:${name}`;
  const wasm = await portable(source);
  // A compiled module cannot leave the page, so the broker runs in it.
  const shared: Shared | undefined = wasm instanceof WebAssembly.Module ? undefined : { kind: "broker", name, config, wasm };
  const polling = pollingFor(room, shared, () => openStored(name, config, wasm), options);
  return new SharedTransport(`${JSON.stringify(name)} in this browser`, room, asked, polling);
}

/** The WebAssembly, or where it is, as a worker can be told; a module as it is. */
async function portable(source: Source): Promise<string | BufferSource | WebAssembly.Module> {
  try {
    const wasm = await source();
    if (typeof wasm === "string") return new URL(wasm, typeof location === "undefined" ? undefined : location.href).href;
    if (wasm instanceof URL) return wasm.href;
    return wasm instanceof Response ? await wasm.arrayBuffer() : (wasm as BufferSource | WebAssembly.Module);
  } catch (cause) {
    throw wasmUnavailable(cause);
  }
}

function configText(config: LocalOptions["config"]): string {
  if (config === undefined) return "{}";
  if (typeof config !== "object" || config === null || Array.isArray(config)) throw invalid("the option config must be an object");
  return JSON.stringify(config, (_name, value: unknown) => (typeof value === "bigint" ? Number(value) : value));
}

let persisted: Promise<boolean> | undefined;

/** Asks the browser, once for a page, to keep the site's data when the disk fills up. People may be asked in turn. */
function askToPersist(): Promise<boolean> {
  persisted ??= (async () => {
    try {
      return (await navigator.storage.persist()) === true;
    } catch {
      return false;
    }
  })();
  return persisted;
}

/** The brokers in memory, by name. */
const brokers = new Map<string, { readonly config: string; readonly started: Promise<HostedBroker>; users: number }>();

/** The broker of that name in this page, started if there is none, and how to let go of it; the last one stops it. */
async function pageBroker(name: string, config: string): Promise<{ broker: HostedBroker; release: () => void }> {
  const entry = brokers.get(name) ?? { config, started: HostedBroker.start(name, new MemoryStore(), config), users: 0 };
  if (entry.config !== config) throw anotherConfiguration(name);
  brokers.set(name, entry);
  entry.users += 1;
  const release = (): void => {
    entry.users -= 1;
    if (entry.users > 0) return;
    brokers.delete(name);
    entry.started.then((broker) => broker.stop(), () => {});
  };
  try {
    return { broker: await entry.started, release };
  } catch (error) {
    release();
    throw error;
  }
}
