// The Durable Object that is one namespace: a guest instance, its rows in the object's SQLite, its clients on sockets
// that let the object sleep. What a client may say and what it is told, the guest decides; nobody reaches the object
// but through the gateway, which has checked who it is.

import { DurableObject } from "cloudflare:workers";

import guest from "../../wasm/dist/guest.wasm";
import type { Claims, Encoding } from "../../wasm/ts/abi.ts";
import { Drive } from "../../wasm/ts/drive.ts";
import type { Note } from "../../wasm/ts/drive.ts";
import { GuestEngine } from "../../wasm/ts/guest.ts";
import { Malformed } from "../../wasm/ts/wire.ts";
import { Peers } from "./peers.ts";
import { SqliteStore } from "./store.ts";
import { Timer } from "./timer.ts";

/** What the deployment tells the objects. */
export interface BrokerEnvironment {
  /** The broker's configuration, JSON; all defaults without it. */
  readonly DUNLIN_CONFIG?: string;
}

/** After so much quiet, everything said has left: the next life may trust that nobody missed anything. */
const SETTLES_AFTER_MS = 2_000;
/** Signs of life that the runtime answered by itself are passed on at most so often. */
const SEEN_EVERY_MS = 1_000;

const PROTOCOL_ERROR = 1002;

export class Broker extends DurableObject<BrokerEnvironment> {
  protected readonly engine = new GuestEngine(guest);
  readonly #store: SqliteStore;
  readonly #peers: Peers;
  readonly #timer: Timer;
  readonly #drive: Drive;
  #activeAt = 0;
  #settling = false;
  #seenAt = 0;

  constructor(context: DurableObjectState, environment: BrokerEnvironment) {
    super(context, environment);
    context.setWebSocketAutoResponse(new WebSocketRequestResponsePair("ping", "pong"));
    this.#store = new SqliteStore(context.storage);
    this.#peers = new Peers(context);
    this.#timer = new Timer(context.storage, () => this.#timeout());
    this.#drive = new Drive(
      {
        engine: this.engine,
        store: this.#store,
        sockets: this.#peers,
        now: () => Date.now(),
        seed: () => crypto.getRandomValues(new BigUint64Array(1))[0] ?? 0n,
        later: (turn) => void setTimeout(turn, 0),
        arm: (at, canSleep) => this.#timer.arm(at, canSleep),
        note,
      },
      environment.DUNLIN_CONFIG ?? "{}",
    );
    void context.blockConcurrencyWhile(() => this.#open());
  }

  /** The two doors: `/connect` is a WebSocket, `/frames` takes commands and gives their replies, both binary. */
  override async fetch(request: Request): Promise<Response> {
    this.#stir();
    const url = new URL(request.url);
    const { claims, ip } = introduced(url.searchParams);
    if (url.pathname === "/connect") return this.#connect(request, url.searchParams, claims, ip);
    const commands = new Uint8Array(await request.arrayBuffer());
    try {
      const { connection, replies } = this.#peers.openDoor(commands, Number(url.searchParams.get("answer_ms")));
      this.#drive.connect(connection, "binary", claims, ip);
      this.#drive.frame(connection, commands);
      const answer = await replies;
      this.#drive.disconnect(connection);
      return new Response(answer);
    } catch (error) {
      if (error instanceof Malformed) return new Response(`malformed_frame: ${error.message}`, { status: 400 });
      throw error;
    }
  }

  override webSocketMessage(socket: WebSocket, message: string | ArrayBuffer): void {
    this.#stir();
    const peer = this.#peers.hear(socket);
    if (peer === undefined) return;
    if ((typeof message === "string") === (peer.encoding === "json")) {
      this.#drive.frame(peer.connection, message);
      return;
    }
    const kind = peer.encoding === "json" ? "text" : "binary";
    this.#peers.close(peer.connection, PROTOCOL_ERROR, `malformed_frame: this connection speaks in ${kind} messages`);
    this.#drive.disconnect(peer.connection);
  }

  override webSocketClose(socket: WebSocket, code: number, reason: string): void {
    this.#gone(socket);
    try {
      // Completes the handshake where the runtime has not; codes that only it may use cannot be given back.
      socket.close(code < 3000 && code !== 1000 ? 1000 : code, reason);
    } catch {
      // It is closed already.
    }
  }

  override webSocketError(socket: WebSocket): void {
    this.#gone(socket);
  }

  override alarm(): void {
    this.#timer.alarm();
    // Before the runtime takes the alarm for done: what follows from it, the next alarm too, is stored together with that.
    this.#drive.turn();
  }

  async #open(): Promise<void> {
    await this.#timer.open();
    const clean = this.#store.settled;
    const survivors = [...this.#peers.survivors()];
    await this.#drive.open(survivors.map(({ connection, encoding }) => ({ connection, encoding, clean })));
    this.#passOnSigns();
  }

  #connect(request: Request, asked: URLSearchParams, claims: Claims, ip: Uint8Array): Response {
    const { 0: client, 1: server } = new WebSocketPair();
    const encoding: Encoding = asked.get("encoding") === "binary" ? "binary" : "json";
    const connection = this.#peers.accept(server, encoding);
    this.#drive.connect(connection, encoding, claims, ip);
    const protocol = request.headers.get("sec-websocket-protocol");
    return new Response(null, {
      status: 101,
      webSocket: client,
      headers: protocol === null ? {} : { "sec-websocket-protocol": protocol },
    });
  }

  #gone(socket: WebSocket): void {
    this.#stir();
    const peer = this.#peers.find(socket);
    if (peer === undefined) return;
    this.#peers.forget(peer.connection);
    this.#drive.disconnect(peer.connection);
  }

  #timeout(): void {
    this.#stir();
    this.#passOnSigns();
    this.#drive.timeout();
  }

  #passOnSigns(): void {
    const now = Date.now();
    if (now - this.#seenAt < SEEN_EVERY_MS) return;
    for (const { connection, at } of this.#peers.signs()) if (at >= this.#seenAt) this.#drive.seen(connection, at);
    this.#seenAt = now;
  }

  /** Something happens: until it is quiet again, an end of this life would leave things unsaid. */
  #stir(): void {
    this.#activeAt = Date.now();
    this.#tellSettled(false);
    if (!this.#settling) this.#settleAfter(SETTLES_AFTER_MS);
  }

  #settleAfter(quietMs: number): void {
    this.#settling = true;
    setTimeout(() => {
      // What waits for a time in memory is answered before it is quiet.
      const restMs = this.#timer.isWaiting ? SETTLES_AFTER_MS : this.#activeAt + SETTLES_AFTER_MS - Date.now();
      if (restMs > 0) {
        this.#settleAfter(restMs);
        return;
      }
      this.#settling = false;
      this.#tellSettled(this.#drive.isRunning);
    }, quietMs);
  }

  /** A store that does not take this takes no message either, and then it is the broker that tells the clients. */
  #tellSettled(settled: boolean): void {
    try {
      this.#store.settled = settled;
    } catch (error) {
      note({ kind: "unsettled", error });
    }
  }
}

/** Who a request comes from, as the gateway found. */
function introduced(asked: URLSearchParams): { readonly claims: Claims; readonly ip: Uint8Array } {
  const octets = asked.get("ip")?.match(/../g) ?? [];
  return {
    claims: {
      namespace: asked.get("namespace") ?? "",
      user: asked.get("user") ?? "",
      device: asked.get("device") ?? "",
      rights: Number(asked.get("rights")),
    },
    ip: Uint8Array.from(octets, (octet) => Number.parseInt(octet, 16)),
  };
}

/** For the operators, who read what is logged: whatever went wrong. */
function note(note: Note | { readonly kind: "unsettled"; readonly error: unknown }): void {
  if ("error" in note) console.error(JSON.stringify({ ...note, error: String(note.error) }));
}
