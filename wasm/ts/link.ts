/** One attempt at talking to a broker: what the client needs of a WebSocket, and of a broker in the page. */

/** An open or opening way to a broker. */
export interface Link {
  send(message: Uint8Array | string): void;
  /** Ends it at once; `closed` is not called any more. */
  close(code: number, reason: string): void;
}

/** What a link tells. After `closed` it tells nothing more. */
export interface LinkEvents {
  opened(): void;
  message(message: Uint8Array | string): void;
  closed(closing: Closing): void;
  trouble?(trouble: Trouble | undefined): void;
}

export interface Closing {
  /** The WebSocket close code; 1006 where there was none. */
  readonly code: number;
  readonly reason: string;
  /** What the runtime says beside it, if anything. */
  readonly cause?: unknown;
  /** When to connect again, where the other end knows. */
  readonly retryInMs?: number | undefined;
}

/** A code and a message in the place of `storage_unavailable`. */
export interface Trouble {
  readonly code: string;
  readonly message: string;
}

export interface Transport {
  /** Where it leads, for messages. */
  readonly address: string;
  /** Whether silence may mean that the other end is gone. */
  readonly canDie: boolean;
  /** Why the broker's store takes nothing at present, where the other end knows more than the broker can say. */
  readonly trouble?: Trouble | undefined;
  open(events: LinkEvents): Link;
}

/** The clock and the dice, which tests replace. */
export interface Surroundings {
  now(): number;
  /** From 0 up to, not including, 1. */
  random(): number;
  /** Calls back later; the returned function prevents it. */
  after(ms: number, callback: () => void): () => void;
}

/** The longest time that a timer can be set to. */
const TIMER_MS_MAX = 2 ** 31 - 1;

export const REAL: Surroundings = {
  now: () => performance.now(),
  random: () => Math.random(),
  after(ms, callback) {
    const timer = setTimeout(callback, Math.min(ms, TIMER_MS_MAX));
    return () => clearTimeout(timer);
  },
};

/** The part of WebSocket that is used, the same in browsers, Node, workerd and the package `ws`. */
export interface Socket {
  binaryType: string;
  onopen: (() => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: ((event: { code: number; reason: string }) => void) | null;
  onerror: ((event: { error?: unknown; message?: string }) => void) | null;
  send(data: string | Uint8Array): void;
  close(code?: number, reason?: string): void;
}

export type SocketFactory = (url: string, protocol: string) => Socket;

export const browserSocket: SocketFactory = (url, protocol) => new WebSocket(url, protocol) as unknown as Socket;

/** Talks over a WebSocket. */
export class SocketTransport implements Transport {
  readonly canDie = true;
  readonly address: string;
  readonly #url: string;
  readonly #protocol: string;
  readonly #create: SocketFactory;

  constructor(url: URL, protocol: string, create: SocketFactory) {
    this.#url = url.href;
    this.#protocol = protocol;
    this.#create = create;
    // The query may hold a token: it stays out of messages.
    this.address = `${url.origin}${url.pathname}`;
  }

  open(events: LinkEvents): Link {
    const socket = this.#create(this.#url, this.#protocol);
    socket.binaryType = "arraybuffer";
    let cause: unknown;
    const forget = (): void => {
      // Not null for errors: the package `ws` throws those that nobody listens to.
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.onerror = () => {};
    };
    socket.onopen = () => events.opened();
    socket.onmessage = ({ data }) => events.message(data instanceof ArrayBuffer ? new Uint8Array(data) : String(data));
    socket.onerror = (event) => {
      cause = event.error ?? event.message;
    };
    socket.onclose = ({ code, reason }) => {
      forget();
      events.closed({ code, reason, cause });
    };
    return {
      send: (message) => socket.send(message),
      close: (code, reason) => {
        forget();
        // Clients may use 1000 and 3000 to 4999 only.
        socket.close(code === 1000 ? 1000 : 4000, reason);
      },
    };
  }
}
