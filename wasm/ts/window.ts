/** How many deliveries the broker may send ahead of what the program takes. */

import type { Connection } from "./connection.ts";
import { invalid } from "./errors.ts";

const CREDIT_DEFAULT = 256;

export class Window {
  readonly #connection: Connection;
  readonly #subscription: number;
  readonly #size: number;
  #taken = 0;

  constructor(connection: Connection, subscription: number, size = CREDIT_DEFAULT) {
    const max = connection.creditMax;
    if (!(Number.isSafeInteger(size) && size >= 1 && size <= max)) throw invalid(`credit must be an integer from 1 to ${max}, not ${size}`);
    this.#connection = connection;
    this.#subscription = subscription;
    this.#size = size;
  }

  /** The credit to ask with, while so many deliveries wait; the broker counts from anew. */
  begin(buffered: number): number {
    this.#taken = 0;
    return this.#size - buffered;
  }

  /** The program took one. */
  take(): void {
    this.#taken += 1;
    // Credit is given back by halves of the window: a frame for each delivery would cost as much as the delivery.
    if (this.#taken * 2 < this.#size) return;
    this.giveBack(this.#taken);
    this.#taken = 0;
  }

  /** The broker may send so many more. */
  giveBack(messages: number): void {
    if (messages > 0) this.#connection.post({ type: "credit", subscription: this.#subscription, messages });
  }
}
