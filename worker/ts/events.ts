// A stream of server-sent events over a socket to the object, read no faster than the client takes the events. What
// the object says, the gateway's module turns into text, message by message.

import { credit, feed } from "../dist/gateway/gateway.js";

/** So many deliveries are taken before their credit is given back, so that it costs the object few messages. */
const CREDIT_PORTION = 32;
/** A comment is sent after so long, so that nobody on the way takes a silent stream for dead. */
const KEEP_ALIVE_MS = 20_000;

/** Sends the frames that subscribe, and answers with the stream or with the broker's refusal. */
export async function streamEvents(socket: WebSocket, frames: Uint8Array): Promise<Response> {
  const stream = new EventStream(socket);
  socket.send(frames);
  const refusal = await stream.begun;
  if (refusal !== undefined) return refusal;
  return new Response(stream.body, {
    headers: { "content-type": "text/event-stream", "cache-control": "no-store" },
  });
}

class EventStream {
  readonly body: ReadableStream<Uint8Array>;
  /** Settles as soon as the broker has answered: with the refusal, if it is one. */
  readonly begun: Promise<Response | undefined>;
  readonly #socket: WebSocket;
  readonly #encoder = new TextEncoder();
  readonly #keepAlive: ReturnType<typeof setInterval>;
  #settle: { readonly begin: (refusal?: Response) => void; readonly fail: (error: Error) => void } | undefined;
  #token = "";
  /** What the client has not asked for yet; the credit bounds it. */
  #text = "";
  #owed = 0;
  #ended = false;
  #wake: () => void = () => {};

  constructor(socket: WebSocket) {
    this.#socket = socket;
    this.begun = new Promise((begin, fail) => {
      this.#settle = { begin, fail };
    });
    this.body = new ReadableStream({ pull: (controller) => this.#pull(controller), cancel: () => this.#end() }, { highWaterMark: 0 });
    this.#keepAlive = setInterval(() => this.#comment(), KEEP_ALIVE_MS);
    socket.binaryType = "arraybuffer";
    socket.addEventListener("message", ({ data }) => {
      if (data instanceof ArrayBuffer) this.#take(new Uint8Array(data));
    });
    socket.addEventListener("close", () => this.#end());
    socket.accept();
  }

  #take(message: Uint8Array): void {
    const fed = feed(this.#token, message);
    try {
      if (fed.token !== undefined) this.#token = fed.token;
      this.#text += fed.text;
      this.#owed += fed.deliveries;
      if (fed.refusal !== undefined || fed.token !== undefined) this.#settle?.begin(fed.refusal);
      if (fed.ended || fed.refusal !== undefined) this.#end();
    } finally {
      fed.free();
    }
    this.#wake();
  }

  /** Hands over what there is, waiting for it if need be; only then its credit is given back. */
  async #pull(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    while (this.#text === "" && !this.#ended) {
      await new Promise<void>((wake) => {
        this.#wake = wake;
      });
    }
    if (this.#text !== "") controller.enqueue(this.#encoder.encode(this.#text));
    this.#text = "";
    if (this.#ended) controller.close();
    else if (this.#owed >= CREDIT_PORTION) this.#giveCredit();
  }

  #giveCredit(): void {
    this.#socket.send(credit(this.#owed));
    this.#owed = 0;
  }

  #comment(): void {
    if (this.#text === "") this.#text = ":\n\n";
    this.#wake();
  }

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    clearInterval(this.#keepAlive);
    this.#settle?.fail(new Error("the object ended the subscription before it began"));
    this.#socket.close(1000, "");
    this.#wake();
  }
}
