// An object that is aborted between every two steps of a scenario, and in the middle of every step: each time another
// one, which comes back over its SQLite and is compared with a broker that was dropped at the same place over the map
// in memory, as `tests/ts/interruption.ts` plays both.

import { DurableObject } from "cloudflare:workers";

import { everything, placesOf, playOn, playOut } from "../../tests/ts/interruption.ts";
import type { Aftermath, Interrupted, Place } from "../../tests/ts/interruption.ts";
import { difference, Replay } from "../../tests/ts/replay.ts";
import type { Trace } from "../../tests/ts/replay.ts";
import guest from "../../wasm/dist/guest.wasm";
import { GuestEngine } from "../../wasm/ts/guest.ts";
import { MemoryStore } from "../../wasm/ts/memory.ts";
import { SqliteStore } from "../ts/store.ts";

/** The scenario at hand: the isolate outlives its objects, so that it need not be sent to each. */
let trace: Trace;

interface Environment {
  readonly INTERRUPTION: DurableObjectNamespace<Interruption>;
}

/** Either the one object that is asked, with the trace of a scenario as JSON, or one of those that it interrupts. */
export class Interruption extends DurableObject<Environment> {
  readonly #engine = new GuestEngine(guest);
  readonly #store = new SqliteStore(this.ctx.storage);
  readonly #life = crypto.randomUUID();
  #replay = new Replay(this.#engine, this.#store);

  override async fetch(request: Request): Promise<Response> {
    trace = await request.json();
    let [interruptions, undone, acknowledged] = [0, 0, 0];
    const failures: string[] = [];
    for (const place of placesOf(trace)) {
      try {
        const { aftermath, done } = await this.#interrupt(place);
        interruptions += 1;
        acknowledged += aftermath.acknowledged;
        if (done < place.steps) undone += 1;
      } catch (error) {
        const line = trace.steps[place.steps - 1]?.line;
        failures.push(`${trace.name}.txt:${line}: interrupted ${place.within ? "in" : "after"} this step: ${String(error)}`);
      }
    }
    return Response.json({ interruptions, undone, acknowledged, failures } satisfies Interrupted);
  }

  /** Plays the first steps; they are durable when this is answered. */
  async play(count: number): Promise<string> {
    await playOut(trace.steps.slice(0, count), this.#replay);
    return this.#life;
  }

  /** Plays more steps, none or one, and is gone before they are answered. */
  async abort(from: number, to: number): Promise<void> {
    await playOut(trace.steps.slice(from, to), this.#replay);
    this.ctx.abort(ABORTED);
  }

  /** Which life this is, and everything that it found. */
  async found(): Promise<{ readonly life: string; readonly rows: Uint8Array }> {
    return { life: this.#life, rows: await everything(this.#store) };
  }

  async playOn(done: number): Promise<Aftermath> {
    return playOn(trace, done, this.#engine, this.#store);
  }

  async #interrupt({ steps, within }: Place): Promise<{ readonly aftermath: Aftermath; readonly done: number }> {
    const victim = (): DurableObjectStub<Interruption> => this.env.INTERRUPTION.getByName(`${trace.name} ${steps} ${within}`);
    const before = within ? steps - 1 : steps;
    const first = victim();
    const life = await first.play(before);
    await expectAbort(first.abort(before, steps));
    const found = await victim().found();
    if (found.life === life) throw new Error("the object was not aborted");
    const { done, engine, store } = await this.#reference([steps, before], found.rows);
    const expected = await playOn(trace, done, engine, store);
    const aftermath = await victim().playOn(done);
    const different =
      difference("what it said afterwards", expected.said, aftermath.said) ??
      difference("what was stored in the end", expected.rows, aftermath.rows);
    if (different !== undefined) throw new Error(different);
    return { aftermath, done };
  }

  /** A broker and its store after one of these numbers of steps, the first that left what was found. */
  async #reference(
    numbers: readonly number[],
    found: Uint8Array,
  ): Promise<{ readonly done: number; readonly engine: GuestEngine; readonly store: MemoryStore }> {
    let told = "";
    for (const done of numbers) {
      const [engine, store] = [new GuestEngine(guest), new MemoryStore()];
      await playOut(trace.steps.slice(0, done), new Replay(engine, store));
      const different = difference("what it found", await everything(store), found);
      if (different === undefined) return { done, engine, store };
      told = different;
    }
    throw new Error(told);
  }
}

const ABORTED = "as the test asked";

async function expectAbort(call: Promise<unknown>): Promise<void> {
  try {
    await call;
  } catch (error) {
    if (String(error).includes(ABORTED)) return;
    throw error;
  }
  throw new Error("the abort was not heard of");
}
