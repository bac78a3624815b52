/** The handle of who is present on a topic. What it can do is loaded when it is asked for. */

import type { Attendance } from "./attendance.ts";
import { later } from "./group.ts";
import type { Owner } from "./inbox.ts";
import type { Presence, PresenceChange, PresenceMember, PresenceWatch, TransferOptions } from "./types.ts";

export class TopicPresence implements Presence {
  readonly topic: string;
  readonly #owner: Owner;
  #loading: Promise<Attendance> | undefined;
  #attendance: Attendance | undefined;

  constructor(topic: string, owner: Owner) {
    this.topic = topic;
    this.#owner = owner;
  }

  get isPresent(): boolean {
    return this.#attendance?.isPresent === true;
  }

  async enter(payload?: Uint8Array | string): Promise<void> {
    await (await this.#load()).enter(payload);
  }

  update(payload?: Uint8Array | string): Promise<void> {
    return this.enter(payload);
  }

  async leave(): Promise<void> {
    await (await this.#load()).leave();
  }

  async members({ signal }: TransferOptions = {}): Promise<PresenceMember[]> {
    return (await this.#load()).members(signal);
  }

  watch({ signal }: TransferOptions = {}): PresenceWatch {
    const watch = this.#load().then((attendance) => attendance.watch(signal));
    // Whoever takes from it learns of it.
    watch.catch(() => {});
    return {
      next: async () => (await watch).next(),
      return: async () => (await watch).return(),
      [Symbol.asyncIterator]() {
        return this;
      },
    };
  }

  [Symbol.asyncIterator](): AsyncIterator<PresenceChange> {
    return this.watch();
  }

  #load(): Promise<Attendance> {
    return (this.#loading ??= later(this.#owner.connection).then(
      ({ Attendance }) => (this.#attendance = new Attendance(this.topic, this.#owner)),
    ));
  }
}
