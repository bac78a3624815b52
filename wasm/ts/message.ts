/** Messages and answers as the program gets them. */

import { DunlinError } from "./errors.ts";
import type { AnswerFields, RecordFields } from "./frames.ts";
import type { Delivery, MessageHeaders, Payload, Priority, RespondOptions, StartPosition } from "./types.ts";
import { text } from "./wire.ts";

export abstract class ReceivedBytes implements Payload {
  readonly payload: Uint8Array;

  constructor(payload: Uint8Array) {
    this.payload = payload;
  }

  /** What it is the payload of, for messages. */
  protected abstract origin(): string;

  text(): string {
    try {
      return text(this.payload);
    } catch (cause) {
      throw new DunlinError("malformed_payload", `the payload of ${this.origin()} is not UTF-8 text`, { cause });
    }
  }

  json(): unknown {
    const payload = this.text();
    try {
      return JSON.parse(payload) as unknown;
    } catch (cause) {
      throw new DunlinError("malformed_payload", `the payload of ${this.origin()} is not JSON: ${(cause as Error).message}`, { cause });
    }
  }
}

export abstract class ReceivedPayload extends ReceivedBytes {
  readonly contentType?: string;
  readonly headers: MessageHeaders;

  constructor({ payload, contentType, headers }: AnswerFields) {
    super(payload);
    this.headers = headers ?? [];
    if (contentType !== undefined) this.contentType = contentType;
  }
}

/** Answers the request of that number. */
export type Respond = (replyTo: number, payload: Uint8Array | string, options?: RespondOptions) => Promise<void>;

/** A stored message; a delivery also knows how to answer, and one to a subscription the token of that. */
export class Received extends ReceivedPayload implements Delivery {
  readonly topic: string;
  readonly partition: number;
  readonly offset: bigint;
  readonly sequence: bigint;
  readonly timestamp: number;
  readonly key?: string;
  readonly id?: string;
  readonly priority: Priority;
  readonly expiresAt?: number;
  readonly #replyTo: number | undefined;
  readonly #respond: Respond | undefined;
  readonly #token: string | undefined;

  constructor(topic: string, partition: number, record: RecordFields, respond?: Respond, token?: string) {
    super(record);
    this.topic = topic;
    this.partition = partition;
    this.offset = record.offset;
    this.sequence = record.sequence;
    this.timestamp = record.timestamp;
    this.priority = (record.priority ?? 0) as Priority;
    if (record.key !== undefined) this.key = record.key;
    if (record.id !== undefined) this.id = record.id;
    if (record.expiresAt !== undefined) this.expiresAt = record.expiresAt;
    this.#replyTo = record.replyTo;
    this.#respond = respond;
    this.#token = token;
  }

  get position(): StartPosition {
    return this.#token === undefined ? `offset:${this.offset + 1n}` : `resume:${this.#token}:${this.sequence}`;
  }

  get expectsAnswer(): boolean {
    return this.#replyTo !== undefined && this.#respond !== undefined;
  }

  async respond(payload: Uint8Array | string, options?: RespondOptions): Promise<void> {
    if (this.#replyTo === undefined || this.#respond === undefined) {
      throw new DunlinError("unknown_request", `nobody waits for an answer to ${this.origin()}: it is no request`);
    }
    await this.#respond(this.#replyTo, payload, options);
  }

  protected origin(): string {
    return `${JSON.stringify(this.topic)} partition ${this.partition} offset ${this.offset}`;
  }
}
