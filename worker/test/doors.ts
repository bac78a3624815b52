// The Worker with doors that only tests need; it is bundled by them and never deployed.
//
// `Broker` is the deployed class, which can be told from outside to crash, to end, or to find its storage broken; the
// gateway is the deployed one too, and can be told to panic.
// `Scenario` is the bare guest over the object's SQLite: exact inputs with an explicit time in, the very bytes of the
// effects out, which is how this runtime is compared with the others. `Interruption` aborts such objects in the middle
// of scenarios, `Layout` takes a store through steps that fail.

import { DurableObject } from "cloudflare:workers";

import { replayOne } from "../../tests/ts/replay.ts";
import type { Trace } from "../../tests/ts/replay.ts";
import guest from "../../wasm/dist/guest.wasm";
import { decodeOutput, encodeInput, encodeRows } from "../../wasm/ts/abi.ts";
import type { Effect, Load, Op, Range } from "../../wasm/ts/abi.ts";
import { GuestEngine } from "../../wasm/ts/guest.ts";
import { MemoryStore } from "../../wasm/ts/memory.ts";
import { restoreWalk } from "../../wasm/ts/restore.ts";
import { Broker as Deployed } from "../ts/broker.ts";
import { Gateway } from "../ts/gateway.ts";
import { SqliteStore } from "../ts/store.ts";
import { breakStorage } from "./faults.ts";

/** Makes the gateway panic in the middle of a request that publishes. */
const PANIC = "test-panic";

declare global {
  /** Left there by the gateway's module, which counts in it how often it was instantiated. */
  var __worker_init_state: { readonly instanceId: number };
}

/** The deployed gateway, which takes for impossible that a list of headers ends in an error: here it can. */
class Front extends Gateway {
  override async fetch(request: Request): Promise<Response> {
    if (new URL(request.url).pathname === "/instance") return Response.json(globalThis.__worker_init_state.instanceId);
    if (!request.headers.has(PANIC)) return super.fetch(request);
    const headers = new Headers(request.headers);
    const entries = headers.entries();
    entries.next = () => {
      throw new Error("as the test asked");
    };
    headers.entries = () => entries;
    return super.fetch(Object.defineProperty(request, "headers", { value: headers }));
  }
}
export { Front as default };
export { Interruption } from "./interrupted.ts";
export { Layout } from "./layout.ts";

export class Broker extends Deployed {
  readonly #life = crypto.randomUUID();

  override async fetch(request: Request): Promise<Response> {
    const url = new URL(request.url);
    switch (url.pathname) {
      case "/crash": {
        // Bytes that are no inputs are a trap in the guest, here at its next step.
        const step = this.engine.step.bind(this.engine);
        this.engine.step = (now) => {
          this.engine.step = step;
          return step(now, Uint8Array.of(0xff));
        };
        return new Response();
      }
      case "/break":
        breakStorage(this.ctx.storage, url.searchParams.get("fault") ?? "", Number(url.searchParams.get("times") ?? 1));
        return new Response();
      case "/schema": {
        this.ctx.storage.kv.put("schema_version", Number(url.searchParams.get("version")));
        return new Response();
      }
      case "/life":
        // Another one after every sleep, where the broker goes on as the same incarnation if it slept well.
        return new Response(this.#life);
      case "/alarm-after":
        // As for a deadline that is far, of which the broker has none yet.
        await this.ctx.storage.setAlarm(Date.now() + Number(url.searchParams.get("ms")));
        return new Response();
      case "/woken":
        return Response.json(this.ctx.storage.kv.get("woken") ?? null);
      case "/alarm":
        return Response.json(await this.ctx.storage.getAlarm());
      case "/settled":
        return Response.json(this.ctx.storage.kv.get("settled") ?? false);
      case "/unsettle":
        // Behind the back of the class, once it has settled: as if this life had ended too early to do so.
        setTimeout(() => this.ctx.storage.kv.put("settled", false), 3_000);
        return new Response();
      case "/abort":
        this.ctx.abort("as the test asked");
    }
    return super.fetch(request);
  }

  override alarm(): void {
    super.alarm();
    this.ctx.storage.kv.put("woken", this.#life);
  }
}

/**
 * One broker and its store, driven line by line. Every request is a POST; what is wrong with one is a 400 or, if the
 * guest trapped, a 500 with the reason as text.
 *
 * | path | body | answer |
 * |---|---|---|
 * | `/start?seed=N` | configuration, JSON | nothing; the broker is a new one, restored from what is stored |
 * | `/step?now=N` | inputs | next timeout and effects; the writes among them are applied |
 * | `/load` | one load effect, without its length | the `loaded` input that answers it, its length in front |
 * | `/rows` | | everything that is stored, as rows |
 * | `/clear` | | nothing; the store is empty |
 * | `/replay` | the trace of a scenario, JSON | what came of it over this guest and this store, which must be empty |
 * | `/compare?seed=N` | | how much was written and read, SQLite and the map in memory agreeing on all of it |
 */
export class Scenario extends DurableObject {
  readonly #engine = new GuestEngine(guest);
  readonly #store = new SqliteStore(this.ctx.storage);

  override async fetch(request: Request): Promise<Response> {
    const url = new URL(request.url);
    const number = (name: string): string => url.searchParams.get(name) ?? "0";
    try {
      const body = new Uint8Array(await request.arrayBuffer());
      switch (url.pathname) {
        case "/start":
          return await this.#start(new TextDecoder().decode(body), BigInt(number("seed")));
        case "/step":
          return this.#step(Number(number("now")), body);
        case "/load":
          return new Response(await this.#answer(body));
        case "/rows":
          return new Response(encodeRows(await this.#store.load({ ...EVERYTHING, reverse: false, ...UNBOUNDED })));
        case "/clear":
          this.#clear();
          return new Response();
        case "/replay":
          return Response.json(await replayOne(JSON.parse(new TextDecoder().decode(body)) as Trace, this.#engine, this.#store));
        case "/compare":
          return Response.json(await this.#compare(Number(number("seed"))));
        default:
          return new Response(`no door ${url.pathname}`, { status: 404 });
      }
    } catch (error) {
      return new Response(String(error), { status: error instanceof WebAssembly.RuntimeError ? 500 : 400 });
    }
  }

  async #start(config: string, seed: bigint): Promise<Response> {
    this.#engine.start(config, seed);
    const walk = restoreWalk((rows) => this.#engine.restore(encodeRows(rows)));
    for (let asked = walk.next([]); asked.done !== true; ) asked = walk.next(await this.#store.load(asked.value));
    return new Response();
  }

  #step(now: number, inputs: Uint8Array): Response {
    const output = this.#engine.step(now, inputs);
    for (const effect of decodeOutput(output).effects) {
      if (effect.kind === "write") this.#store.apply(effect);
    }
    return new Response(output);
  }

  #clear(): void {
    this.ctx.storage.sql.exec("DELETE FROM rows");
  }

  async #compare(seed: number): Promise<{ readonly writes: number; readonly rows: number }> {
    this.#clear();
    const memory = new MemoryStore();
    const dice = new Dice(seed);
    let writes = 0;
    let rows = 0;
    for (let sequence = 1; sequence <= 200; sequence += 1) {
      const ops = Array.from({ length: 1 + dice.roll(8) }, () => dice.op());
      this.#store.apply({ kind: "write", sequence, durability: "sync", ops });
      memory.apply({ kind: "write", sequence, durability: "sync", ops });
      writes += ops.length;
      for (let asked = 0; asked < 5; asked += 1) {
        const range = dice.range();
        const [expected, got] = [memory.load(range), await this.#store.load(range)];
        const same = encodeRows(expected).join() === encodeRows(got).join();
        if (!same) throw new Error(`after ${writes} writes ${JSON.stringify(range)} gives ${got.length} rows, not ${expected.length}`);
        rows += got.length;
      }
    }
    return { writes, rows };
  }

  async #answer(effect: Uint8Array): Promise<Uint8Array> {
    const load = loadOf(effect);
    return encodeInput({ kind: "loaded", ticket: load.ticket, rows: await this.#store.load(load) });
  }
}

/** The same keys, values and ranges for the same seed. */
class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed;
  }

  roll(sides: number): number {
    this.#state = (Math.imul(this.#state, 1_103_515_245) + 12_345) >>> 0;
    return (this.#state >>> 8) % sides;
  }

  key(): Uint8Array {
    return Uint8Array.from({ length: 1 + this.roll(3) }, () => [0, 1, 127, 128, 255][this.roll(5)] ?? 0);
  }

  op(): Op {
    switch (this.roll(10)) {
      case 0:
        return { kind: "delete", key: this.key() };
      case 1:
        return { kind: "delete_range", from: this.key(), to: this.key() };
      default:
        return { kind: "put", key: this.key(), value: new Uint8Array(this.roll(40)).fill(this.roll(256)) };
    }
  }

  range(): Range {
    const whole = this.roll(2) === 0;
    const [from, to] = whole ? [new Uint8Array(), Uint8Array.of(255, 255, 255, 255)] : [this.key(), this.key()];
    return { from, to, reverse: this.roll(2) === 0, rowsMax: 1 + this.roll(40), bytesMax: this.roll(400) };
  }
}

const EVERYTHING = { from: new Uint8Array(), to: Uint8Array.of(255, 255, 255) };
const UNBOUNDED = { rowsMax: Number.MAX_SAFE_INTEGER, bytesMax: Number.MAX_SAFE_INTEGER };

function loadOf(effect: Uint8Array): Load {
  // An output is a timeout, whether the broker can sleep, and length-prefixed effects; the length of a load fits two bytes of a varint.
  const length = effect.length < 128 ? [effect.length] : [(effect.length & 127) | 128, effect.length >>> 7];
  const [only]: readonly Effect[] = decodeOutput(Uint8Array.from([0, 1, ...length, ...effect])).effects;
  if (only?.kind !== "load") throw new Error(`a load is needed, this is ${only?.kind ?? "nothing"}`);
  return only;
}
