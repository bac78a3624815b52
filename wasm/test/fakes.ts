// Stand-ins for what a platform lends, all under the control of the test.
import type { Effect, Range, Row, Write } from "../ts/abi.ts";
import { Drive } from "../ts/drive.ts";
import type { Engine, Note, Platform, Sockets, Store } from "../ts/drive.ts";
import { MemoryStore } from "../ts/memory.ts";
import { Reader, Writer, text } from "../ts/wire.ts";

/** The bytes of an effect, as the core writes them. */
export function encodeEffect(effect: Effect): Uint8Array {
  const out = new Writer();
  switch (effect.kind) {
    case "write":
      out.u8(1);
      out.int(effect.sequence);
      out.u8(["none", "async", "sync"].indexOf(effect.durability));
      for (const op of effect.ops) {
        out.u8(op.kind === "put" ? 1 : op.kind === "delete" ? 2 : 3);
        if (op.kind === "delete_range") {
          out.bytes(op.from);
          out.bytes(op.to);
        } else {
          out.bytes(op.key);
          if (op.kind === "put") out.bytes(op.value);
        }
      }
      break;
    case "load":
      out.u8(2);
      out.int(effect.ticket);
      out.bytes(effect.from);
      out.bytes(effect.to);
      out.flag(effect.reverse);
      out.int(effect.rowsMax);
      out.int(effect.bytesMax);
      break;
    case "send":
      out.u8(3);
      out.int(effect.applied);
      out.int(effect.synced);
      out.int(effect.to.length);
      for (const { connection, prefix } of effect.to) {
        out.int(connection);
        out.bytes(prefix);
      }
      out.raw(effect.body);
      break;
    case "close":
      out.u8(4);
      out.int(effect.connection);
      out.int(effect.code);
      out.str(effect.reason);
      break;
    case "notify":
      out.u8(5);
      out.u8(["topic_created", "topic_deleted", "row_unreadable", "dead_letters_alert"].indexOf(effect.event) + 1);
      out.str(effect.namespace);
      out.str(effect.topic);
      break;
  }
  return out.take();
}

/** The bytes of what one step puts out. */
export function encodeOutput(effects: readonly Effect[], timeout = 0, canSleep = true): Uint8Array {
  const out = new Writer();
  out.int(timeout);
  out.flag(canSleep);
  for (const effect of effects) out.bytes(encodeEffect(effect));
  return out.take();
}

/** An engine that says what the test wrote down; a step without an answer puts out nothing. */
export class ScriptedEngine implements Engine {
  /** What was called, in words. */
  readonly calls: string[] = [];
  /** What the next steps put out, or throw. */
  readonly answers: (Uint8Array | Error)[] = [];
  refusal: Error | undefined;

  start(config: string, seed: bigint): void {
    this.calls.push(`start ${config} ${seed}`);
    if (this.refusal !== undefined) throw this.refusal;
  }

  restore(rows: Uint8Array): void {
    const reader = new Reader(rows);
    while (!reader.isEmpty) this.calls.push(`restore ${reader.bytes()} = ${reader.str()}`);
  }

  step(now: number, inputs: Uint8Array): Uint8Array {
    const reader = new Reader(inputs);
    const words: string[] = [];
    while (!reader.isEmpty) words.push(describe(reader.bytes()));
    this.calls.push(`step ${now}: ${words.join(", ")}`);
    const answer = this.answers.shift() ?? encodeOutput([]);
    if (answer instanceof Error) throw answer;
    return answer;
  }

  stats(): string {
    return "{}";
  }

  stop(): void {
    this.calls.push("stop");
  }
}

function describe(input: Uint8Array): string {
  const body = new Reader(input);
  switch (body.u8()) {
    case 1:
      return `connect ${body.int()}`;
    case 2:
      return `frame ${body.int()} ${text(body.rest())}`;
    case 3:
      return `disconnect ${body.int()}`;
    case 4:
      return `restored ${body.int()} ${body.flag() ? "clean" : "unclean"}`;
    case 5:
      return `seen ${body.int()} ${body.int()}`;
    case 6:
      return `loaded ${body.int()} ${body.flag() ? `${body.rest().length} bytes` : "failed"}`;
    case 7:
      return `storage ${body.flag() ? "available" : "unavailable"} ${body.int()}`;
    case 8:
      return "drain";
    default:
      return "timeout";
  }
}

/** A promise that the test settles. */
export class Later<T> {
  resolve!: (value: T) => void;
  reject!: (error: unknown) => void;
  readonly promise = new Promise<T>((resolve, reject) => {
    this.resolve = resolve;
    this.reject = reject;
  });
}

/** A store whose commits the test completes, if it asks to. */
export class ScriptedStore implements Store {
  readonly memory = new MemoryStore();
  /** With this, writes, syncs and loads wait for the test; each entry is one. */
  readonly commits: Later<void>[] = [];
  readonly syncs: Later<void>[] = [];
  readonly loads: Later<readonly Row[]>[] = [];
  asynchronous = false;
  failure: Error | undefined;
  durable?: () => Promise<void>;

  apply(write: Write): void | Promise<void> {
    if (this.failure !== undefined) throw this.failure;
    this.memory.apply(write);
    return this.#later(this.commits);
  }

  sync(): void | Promise<void> {
    return this.#later(this.syncs);
  }

  load(range: Range): readonly Row[] | Promise<readonly Row[]> {
    if (!this.asynchronous) return this.memory.load(range);
    const load = new Later<readonly Row[]>();
    this.loads.push(load);
    return load.promise;
  }

  probe(): void {
    if (this.failure !== undefined) throw this.failure;
  }

  #later(list: Later<void>[]): void | Promise<void> {
    if (!this.asynchronous) return undefined;
    const later = new Later<void>();
    list.push(later);
    return later.promise;
  }
}

/** A drive with everything around it in the hands of the test. */
export class World {
  readonly engine = new ScriptedEngine();
  readonly store = new ScriptedStore();
  /** What left, in words. */
  readonly sent: string[] = [];
  readonly notes: Note[] = [];
  armed: number | undefined;
  canSleep = true;
  time = 1000;
  readonly drive: Drive;
  #turns: (() => void)[] = [];
  #seed = 0n;

  constructor() {
    const sockets: Sockets = {
      send: (connection, message) => {
        this.sent.push(`${connection} ${typeof message === "string" ? "text" : "binary"} ${typeof message === "string" ? message : text(message)}`);
      },
      close: (connection, code, reason) => this.sent.push(`${connection} closed ${code} ${reason}`),
    };
    const platform: Platform = {
      engine: this.engine,
      store: this.store,
      sockets,
      now: () => this.time,
      seed: () => (this.#seed += 1n),
      later: (turn) => this.#turns.push(turn),
      arm: (at, canSleep) => {
        this.armed = at;
        this.canSleep = canSleep;
      },
      note: (note) => this.notes.push(note),
    };
    this.drive = new Drive(platform, "{}");
  }

  /** Lets the gathered turn happen. */
  turn(): void {
    const turns = this.#turns;
    this.#turns = [];
    for (const turn of turns) turn();
  }

  /** Lets the armed timer fire at its time. */
  fire(): void {
    this.time = Math.max(this.time, this.armed ?? 0);
    this.armed = undefined;
    this.drive.timeout();
    this.turn();
  }

  /** What the engine was asked since the last time. */
  calls(): string[] {
    return this.engine.calls.splice(0);
  }

  left(): string[] {
    return this.sent.splice(0);
  }
}

/** Lets everything that already settled be noticed. */
export async function settled(): Promise<void> {
  for (let round = 0; round < 20; round += 1) await Promise.resolve();
}
