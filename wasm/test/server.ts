// A broker on a loopback port, made of the guest, the host step and the package `ws`, so that the client's tests speak
// to the real core over real sockets. What it stored outlives a restart.
import { readFileSync } from "node:fs";
import type { AddressInfo } from "node:net";

import { WebSocket, WebSocketServer } from "ws";

import { RIGHTS_ALL } from "../ts/abi.ts";
import { TransportClient } from "../ts/client.ts";
import { SUBPROTOCOL_BINARY } from "../ts/codec.ts";
import { endpoint } from "../ts/connect.ts";
import { Drive } from "../ts/drive.ts";
import type { Engine, Store } from "../ts/drive.ts";
import { GuestEngine } from "../ts/guest.ts";
import { REAL, SocketTransport } from "../ts/link.ts";
import type { Socket, Surroundings } from "../ts/link.ts";
import { MemoryStore } from "../ts/memory.ts";
import type { Client, ConnectOptions } from "../ts/types.ts";

// Tests run from dist/test.
const guest = new WebAssembly.Module(readFileSync(new URL("../guest.wasm", import.meta.url)));

/** Short waits are a hundredth of what they are, so that tests need not wait for connections to come back. */
const HASTY: Surroundings = { ...REAL, after: (ms, callback) => REAL.after(ms > 5_000 ? ms : ms / 100, callback) };

interface Peer {
  send(data: Uint8Array | string): void;
  close(code: number, reason: string): void;
  terminate(): void;
}

export class Server {
  readonly store: Store = new MemoryStore();
  /** With this the next step traps. */
  poison = false;
  /** With this the next message of the broker is lost, and the connection that it was for. */
  loseNext = false;
  /** What was said by connections that are not heard for a while. */
  readonly #unheard = new Map<number, (() => void)[]>();
  #server: WebSocketServer | undefined;
  #drive: Drive | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #peers = new Map<number, Peer>();
  #port = 0;
  #connections = 0;
  readonly #clients: Client[] = [];

  /** How many sockets are open. */
  get sockets(): number {
    return this.#peers.size;
  }

  get url(): string {
    return `ws://127.0.0.1:${this.#port}`;
  }

  /** Starts it, after a stop on the same port. */
  async start(config = "{}"): Promise<void> {
    const drive = new Drive(
      {
        engine: this.#engine(),
        store: this.store,
        sockets: {
          send: (connection, message) => this.#send(connection, message),
          close: (connection, code, reason) => this.#peers.get(connection)?.close(code, reason),
        },
        now: () => performance.timeOrigin + performance.now(),
        seed: () => crypto.getRandomValues(new BigUint64Array(1))[0] ?? 0n,
        later: (turn) => void setImmediate(turn),
        arm: (at) => {
          clearTimeout(this.#timer);
          if (at !== undefined) this.#timer = setTimeout(() => drive.timeout(), Math.max(0, at - Date.now()));
        },
      },
      config,
    );
    await drive.open();
    this.#drive = drive;
    const server = new WebSocketServer({ host: "127.0.0.1", port: this.#port, handleProtocols: (offered) => [...offered][0] ?? false });
    server.on("connection", (socket, request) => {
      const connection = (this.#connections += 1);
      const { pathname, searchParams } = new URL(request.url ?? "", this.url);
      const [, , namespace = "default"] = pathname.split("/");
      const [user, device] = [searchParams.get("user") ?? "", searchParams.get("device") ?? ""];
      this.#peers.set(connection, socket);
      drive.connect(connection, "binary", { namespace, user, device, rights: RIGHTS_ALL });
      socket.on("message", (data, isBinary) => {
        const take = (): void => {
          if (isBinary) drive.frame(connection, new Uint8Array(data));
          else if (String(data) === "ping") {
            drive.seen(connection, Date.now());
            socket.send("pong");
          }
        };
        const unheard = this.#unheard.get(connection);
        if (unheard === undefined) take();
        else unheard.push(take);
      });
      socket.on("close", () => {
        this.#peers.delete(connection);
        drive.disconnect(connection);
      });
    });
    await new Promise<void>((listening) => server.on("listening", listening));
    this.#server = server;
    this.#port = (server.address() as AddressInfo).port;
  }

  /** Ends every connection without a word, as a crash does. */
  async stop(): Promise<void> {
    for (const peer of this.#peers.values()) peer.terminate();
    await new Promise((closed) => this.#server?.close(closed));
    await this.#drive?.close();
  }

  /** A client that connects again at once. */
  async client(namespace: string, options: ConnectOptions = {}): Promise<Client> {
    const create = (url: string, protocol: string): Socket => new WebSocket(url, protocol, {}) as Socket;
    const client = await TransportClient.open(new SocketTransport(endpoint(this.url, { ...options, namespace }), SUBPROTOCOL_BINARY, create), HASTY, options);
    this.#clients.push(client);
    return client;
  }

  /** Stops for good, with the clients that a test left behind, perhaps because it failed. */
  async end(): Promise<void> {
    await Promise.all(this.#clients.map((client) => client.close()));
    await this.stop();
  }

  /** Hears nothing from those that are connected now, until the returned function is called, and then all of it. */
  unhear(): () => void {
    for (const connection of this.#peers.keys()) this.#unheard.set(connection, []);
    return () => {
      const said = [...this.#unheard.values()].flat();
      this.#unheard.clear();
      for (const take of said) take();
    };
  }

  /** Cuts every connection; the broker goes on. */
  cut(): void {
    for (const peer of this.#peers.values()) peer.terminate();
  }

  #send(connection: number, message: Uint8Array | string): void {
    const peer = this.#peers.get(connection);
    if (this.loseNext) {
      this.loseNext = false;
      peer?.terminate();
    } else {
      peer?.send(message);
    }
  }

  #engine(): Engine {
    const engine = new GuestEngine(guest);
    const step = engine.step.bind(engine);
    engine.step = (now, inputs) => {
      if (this.poison) {
        this.poison = false;
        throw new WebAssembly.RuntimeError("unreachable");
      }
      return step(now, inputs);
    };
    return engine;
  }
}
