// Everybody who is connected to the object: sockets, which outlive it in the runtime's hands, and doors, each of which
// is one HTTP request that speaks like a connection for a moment.

import type { Encoding } from "../../wasm/ts/abi.ts";
import type { Sockets } from "../../wasm/ts/drive.ts";
import { concat, Reader, utf8 } from "../../wasm/ts/wire.ts";

/** What a socket carries through hibernation. */
interface Attachment {
  readonly connection: number;
  readonly encoding: Encoding;
  /** When something last came from it that the runtime did not answer by itself, to {@link HEARD_EVERY_MS}. */
  readonly heardAt: number;
  /** Whether it has not said anything yet. */
  readonly isNew?: boolean;
  /** What it is to be closed with as soon as it says something. */
  readonly closing?: { readonly code: number; readonly reason: string };
}

/** A socket with its number. */
export interface Peer extends Attachment {
  readonly socket: WebSocket;
}

/** That a socket was heard of is noted at most so often; only who was silent for long is asked about. */
const HEARD_EVERY_MS = 1_000;

/** A command that has no answer after this long is given up, and the client told that nobody knows. */
const DOOR_WAITS_MS = 30_000;
/** A timer that is set for longer is due at once. */
const TIMER_MS_MAX = 2 ** 31 - 1;

export class Peers implements Sockets {
  readonly #context: DurableObjectState;
  readonly #sockets = new Map<number, WebSocket>();
  readonly #doors = new Map<number, Door>();
  /**
   * Above the numbers of earlier lives, of which a socket may be heard after it was taken for gone: so many a
   * millisecond there are not.
   */
  #next = Date.now() * 1000;

  /** Finds the sockets that outlived the object's last life. */
  constructor(context: DurableObjectState) {
    this.#context = context;
    for (const { connection, socket } of this.survivors()) {
      this.#sockets.set(connection, socket);
      // Also where the clock was set back.
      this.#next = Math.max(this.#next, connection + 1);
    }
  }

  /** The open sockets. */
  *survivors(): Generator<Peer> {
    for (const socket of this.#context.getWebSockets()) {
      const attachment = attachmentOf(socket);
      if (attachment === undefined || attachment.closing !== undefined) continue;
      if (socket.readyState === WebSocket.OPEN) yield { ...attachment, socket };
    }
  }

  /** Takes a socket in, so that the object may sleep while it is open. */
  accept(socket: WebSocket, encoding: Encoding): number {
    const attachment: Attachment = { connection: this.#next++, encoding, heardAt: Date.now(), isNew: true };
    this.#context.acceptWebSocket(socket);
    socket.serializeAttachment(attachment);
    socket.binaryType = "arraybuffer";
    this.#sockets.set(attachment.connection, socket);
    return attachment.connection;
  }

  /** The number and encoding of a socket that is still held; undefined once it was closed from here. */
  find(socket: WebSocket): Attachment | undefined {
    const attachment = attachmentOf(socket);
    return attachment !== undefined && this.#sockets.has(attachment.connection) ? attachment : undefined;
  }

  /** The same for a socket that something came from. */
  hear(socket: WebSocket): Attachment | undefined {
    const closing = attachmentOf(socket)?.closing;
    if (closing !== undefined) socket.close(closing.code, closing.reason);
    const found = this.find(socket);
    if (found === undefined) return undefined;
    const { isNew, ...known } = found;
    const now = Date.now();
    if (isNew === true || now - found.heardAt >= HEARD_EVERY_MS) socket.serializeAttachment({ ...known, heardAt: now });
    return found;
  }

  /** When each open socket was last heard of, over all lives of the object. */
  *signs(): Generator<{ readonly connection: number; readonly at: number }> {
    for (const { connection, heardAt, socket } of this.survivors()) {
      const answered = this.#context.getWebSocketAutoResponseTimestamp(socket)?.getTime() ?? 0;
      yield { connection, at: Math.max(heardAt, answered) };
    }
  }

  /** The socket is gone. */
  forget(connection: number): void {
    this.#sockets.delete(connection);
  }

  /** Opens a door for a batch of commands; its answer is every reply, once each command has one, for which the broker may wait so much longer than usual. */
  openDoor(commands: Uint8Array, answerMs: number): { readonly connection: number; readonly replies: Promise<Uint8Array> } {
    const connection = this.#next++;
    const door = new Door(countFrames(commands), answerMs);
    this.#doors.set(connection, door);
    const replies = door.replies.finally(() => this.#doors.delete(connection));
    return { connection, replies };
  }

  send(connection: number, message: Uint8Array | string): void {
    const door = this.#doors.get(connection);
    if (door !== undefined) {
      door.take(message);
      return;
    }
    try {
      this.#sockets.get(connection)?.send(message);
    } catch {
      // It closed in the meantime, of which the runtime tells by an event of its own.
    }
  }

  close(connection: number, code: number, reason: string): void {
    this.#doors.get(connection)?.end();
    const socket = this.#sockets.get(connection);
    this.#sockets.delete(connection);
    const attachment = socket && attachmentOf(socket);
    try {
      // The runtime keeps a close to itself, for seconds, that is said before the client has said anything; which every
      // client does at once.
      if (attachment?.isNew === true) socket?.serializeAttachment({ ...attachment, closing: { code, reason } });
      else socket?.close(code, reason);
    } catch {
      // It closed in the meantime.
    }
  }
}

/** Waits for the replies to a number of commands. */
class Door {
  readonly replies: Promise<Uint8Array>;
  readonly #parts: Uint8Array[] = [];
  #missing: number;
  #settle: (replies: Uint8Array) => void = () => {};

  constructor(commands: number, answerMs: number) {
    this.#missing = commands;
    this.replies = new Promise((settle) => {
      this.#settle = settle;
    });
    const patience = setTimeout(() => this.end(), Math.min(DOOR_WAITS_MS + answerMs, TIMER_MS_MAX));
    void this.replies.then(() => clearTimeout(patience));
    if (commands === 0) this.end();
  }

  take(message: Uint8Array | string): void {
    const frames = typeof message === "string" ? utf8(message) : message;
    this.#parts.push(frames);
    this.#missing -= countFrames(frames);
    if (this.#missing <= 0) this.end();
  }

  /** No more replies come. */
  end(): void {
    this.#settle(concat(this.#parts));
  }
}

/** How many frames stand in a message; throws if the last is cut off. */
function countFrames(message: Uint8Array): number {
  const reader = new Reader(message);
  let frames = 0;
  for (; !reader.isEmpty; frames += 1) reader.bytes();
  return frames;
}

function attachmentOf(socket: WebSocket): Attachment | undefined {
  return (socket.deserializeAttachment() as Attachment | null) ?? undefined;
}
