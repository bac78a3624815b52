/** Questions that somebody answers. */

import type { Unnumbered } from "./connection.ts";
import { DunlinError } from "./errors.ts";
import type { AnswerFields } from "./frames.ts";
import type { Owner } from "./inbox.ts";
import { ReceivedPayload } from "./message.ts";
import type { Answer, RequestOptions } from "./types.ts";

/** How long a request waits for its answer that does not say so, in milliseconds, as with the broker. */
const REQUEST_MS = 30_000;

export async function request(owner: Owner, topic: string, payload: Uint8Array, options: RequestOptions): Promise<Answer> {
  const { key, contentType, headers, id, timeoutMs = REQUEST_MS, signal } = options;
  const command: Unnumbered = { type: "request", topic, payload, key, contentType, headers, id, timeoutMs };
  signal?.throwIfAborted();
  // The broker forgets who waits when it restarts, and cannot tell while the connection is away.
  const ending = new AbortController();
  const abort = (): void => ending.abort(signal?.reason);
  signal?.addEventListener("abort", abort);
  const disarm = owner.surroundings.after(timeoutMs, () => {
    ending.abort(new DunlinError("timeout", `nobody answered the request to ${JSON.stringify(topic)} within ${timeoutMs} ms`));
  });
  try {
    return new ReceivedAnswer(topic, await owner.connection.ask("response", command, "reject", ending.signal));
  } finally {
    disarm();
    signal?.removeEventListener("abort", abort);
  }
}

class ReceivedAnswer extends ReceivedPayload implements Answer {
  readonly #topic: string;

  constructor(topic: string, answer: AnswerFields) {
    super(answer);
    this.#topic = topic;
  }

  protected origin(): string {
    return `the answer from ${JSON.stringify(this.#topic)}`;
  }
}
