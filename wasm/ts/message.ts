/** A message as the program gets it. */

import { DunlinError } from "./errors.ts";
import type { RecordFields } from "./frames.ts";
import type { Delivery, MessageHeaders, StartPosition } from "./types.ts";
import { text } from "./wire.ts";

/** A stored message, or a delivery if it knows the token of its subscription. */
export class Received implements Delivery {
  readonly topic: string;
  readonly partition: number;
  readonly offset: bigint;
  readonly sequence: bigint;
  readonly timestamp: number;
  readonly payload: Uint8Array;
  readonly key?: string;
  readonly contentType?: string;
  readonly headers: MessageHeaders;
  readonly id?: string;
  readonly expiresAt?: number;
  readonly #token: string | undefined;

  constructor(topic: string, partition: number, record: RecordFields, token?: string) {
    this.topic = topic;
    this.partition = partition;
    this.offset = record.offset;
    this.sequence = record.sequence;
    this.timestamp = record.timestamp;
    this.payload = record.payload;
    this.headers = record.headers ?? [];
    if (record.key !== undefined) this.key = record.key;
    if (record.contentType !== undefined) this.contentType = record.contentType;
    if (record.id !== undefined) this.id = record.id;
    if (record.expiresAt !== undefined) this.expiresAt = record.expiresAt;
    this.#token = token;
  }

  get position(): StartPosition {
    return this.#token === undefined ? `offset:${this.offset + 1n}` : `resume:${this.#token}:${this.sequence}`;
  }

  text(): string {
    try {
      return text(this.payload);
    } catch (cause) {
      throw new DunlinError("malformed_payload", `${this.#name()} is not UTF-8 text`, { cause });
    }
  }

  json(): unknown {
    const payload = this.text();
    try {
      return JSON.parse(payload) as unknown;
    } catch (cause) {
      throw new DunlinError("malformed_payload", `${this.#name()} is not JSON: ${(cause as Error).message}`, { cause });
    }
  }

  #name(): string {
    return `the payload of ${JSON.stringify(this.topic)} partition ${this.partition} offset ${this.offset}`;
  }
}
