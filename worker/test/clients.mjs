// Clients of the Worker as the tests need them: a socket whose frames can be waited for, and a stream of events.
import assert from "node:assert/strict";
import { join } from "node:path";

import { build } from "esbuild";

import { AUTHORIZED, BASE } from "./workerd.mjs";

/** Nothing that a test waits for takes this long, unless it never comes. */
const PATIENCE_MS = 10_000;

/** The codec of the npm client; its source is TypeScript, which Node does not read. */
const { encodeCommand, decodeReplies } = await importTypeScript("../../wasm/ts/frames.ts");

/** One client, in one of the two encodings. A frame is an object as in the JSON encoding, whichever it is. */
export class Client {
  #socket;
  #frames = [];
  #wake = () => {};
  /** @type {{ code: number, reason: string } | undefined} */
  closed;
  /** Every text message that was no frame. */
  texts = [];

  /** @param {import("miniflare").Miniflare} worker @param {{ protocol?: string, headers?: object, path?: string }} [options] */
  static async open(worker, { protocol = "dunlin.v1.json", headers = AUTHORIZED, path = "/v1/chat/connect" } = {}) {
    const response = await worker.dispatchFetch(BASE + path, {
      headers: { ...headers, upgrade: "websocket", "sec-websocket-protocol": protocol },
    });
    assert.equal(response.status, 101, await response.text());
    assert.equal(response.headers.get("sec-websocket-protocol"), protocol);
    return new Client(response.webSocket, protocol === "dunlin.v1.binary");
  }

  /** Opens a client and says hello. */
  static async ready(worker, options) {
    const client = await Client.open(worker, options);
    client.say({ type: "hello", version: 1 });
    client.welcome = await client.next("hello");
    return client;
  }

  constructor(socket, binary) {
    this.#socket = socket;
    this.binary = binary;
    socket.accept();
    socket.addEventListener("message", ({ data }) => {
      if (typeof data !== "string") this.#frames.push(...decodeReplies(new Uint8Array(data)));
      else if (data.startsWith("{")) this.#frames.push(...data.trim().split("\n").map((line) => JSON.parse(line)));
      else this.texts.push(data);
      this.#wake();
    });
    socket.addEventListener("close", ({ code, reason }) => {
      this.closed = { code, reason };
      this.#wake();
    });
  }

  /** Sends commands as one message. */
  say(...commands) {
    if (this.binary) this.raw(Buffer.concat(commands.map((command) => encodeCommand(command))));
    else this.raw(commands.map((command) => JSON.stringify(command)).join("\n"));
  }

  raw(message) {
    this.#socket.send(message);
  }

  close() {
    this.#socket.close(1000, "");
  }

  /** The next frame of this type; those before it are passed over. */
  next(type) {
    return this.nextOf(type);
  }

  /** The next frame of one of these types. */
  nextOf(...types) {
    return this.#until(`a frame "${types.join('" or "')}"`, () => {
      const at = this.#frames.findIndex((frame) => types.includes(frame.type));
      return at < 0 ? undefined : this.#frames.splice(0, at + 1).at(-1);
    });
  }

  /** Passes over every frame of this type that is there; returns how many. */
  drop(type) {
    const kept = this.#frames.filter((frame) => frame.type !== type);
    const dropped = this.#frames.length - kept.length;
    this.#frames = kept;
    return dropped;
  }

  /** The next text message that is no frame. */
  text() {
    return this.#until("a text", () => this.texts.shift());
  }

  ended() {
    return this.#until("the close", () => this.closed);
  }

  async #until(what, look) {
    const timeout = setTimeout(() => this.#wake(new Error(`waited in vain for ${what}; there is ${show(this.#frames)}`)), PATIENCE_MS);
    try {
      for (;;) {
        const found = look();
        if (found !== undefined) return found;
        if (this.closed !== undefined) throw new Error(`closed with ${show(this.closed)} while waiting for ${what}`);
        await new Promise((resolve, reject) => {
          this.#wake = (error) => (error === undefined ? resolve(undefined) : reject(error));
        });
      }
    } finally {
      clearTimeout(timeout);
    }
  }
}

/** Reads a response of server-sent events, one event after the other. */
export class EventStream {
  #reader;
  #text = "";

  constructor(response) {
    assert.equal(response.headers.get("content-type"), "text/event-stream");
    this.#reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  }

  /** The fields of the next event that is no comment. */
  async next() {
    for (;;) {
      const end = this.#text.indexOf("\n\n");
      if (end >= 0) {
        const block = this.#text.slice(0, end);
        this.#text = this.#text.slice(end + 2);
        if (block.startsWith(":")) continue;
        return Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s).slice(0, 2)));
      }
      const { done, value } = await this.#reader.read();
      assert.ok(!done, "the stream ended");
      this.#text += value;
    }
  }

  cancel() {
    return this.#reader.cancel();
  }
}

/** The status, the stable code and the message of a refusal. */
export async function refusal(response) {
  const { code, message } = await response.json();
  assert.equal(typeof message, "string");
  return { status: response.status, code, message };
}

/** Bundles a TypeScript file, which Node does not read, and imports it. */
export async function importTypeScript(path) {
  const bundled = await build({
    entryPoints: [join(import.meta.dirname, path)],
    bundle: true,
    format: "esm",
    platform: "neutral",
    target: "es2022",
    write: false,
  });
  return import(`data:text/javascript;base64,${Buffer.from(bundled.outputFiles[0].contents).toString("base64")}`);
}

function show(value) {
  return JSON.stringify(value, (_, member) => (typeof member === "bigint" ? String(member) : member));
}
