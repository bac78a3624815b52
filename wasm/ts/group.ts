/** The handle of a consumer group. What it can do is loaded when it is asked to: a client without groups stays small. */

import type { Connection } from "./connection.ts";
import type {
  ConsumerGroup,
  DeadLetter,
  DeadLettersOptions,
  DeadOffsets,
  GroupConfig,
  GroupDescription,
  ReplayOptions,
  ResetOptions,
  StartPosition,
} from "./types.ts";

export const administration = () => import("./administration.ts");

export class Group implements ConsumerGroup {
  readonly name: string;
  readonly #connection: Connection;

  constructor(name: string, connection: Connection) {
    this.name = name;
    this.#connection = connection;
  }

  async configure(config: GroupConfig = {}): Promise<GroupDescription> {
    return (await administration()).configureGroup(this.#connection, this.name, config);
  }

  async describe(): Promise<GroupDescription> {
    return (await administration()).describeGroup(this.#connection, this.name);
  }

  async delete(): Promise<void> {
    await (await administration()).deleteGroup(this.#connection, this.name);
  }

  async reset(to: StartPosition, where: ResetOptions = {}): Promise<void> {
    await (await administration()).resetGroup(this.#connection, this.name, to, where);
  }

  async pause(): Promise<void> {
    await (await administration()).pauseGroup(this.#connection, this.name, true);
  }

  async resume(): Promise<void> {
    await (await administration()).pauseGroup(this.#connection, this.name, false);
  }

  async *deadLetters(options: DeadLettersOptions = {}): AsyncIterableIterator<DeadLetter> {
    yield* (await administration()).deadLetters(this.#connection, this.name, options);
  }

  async replayDeadLetters(options: ReplayOptions = {}): Promise<number> {
    return (await administration()).replayDeadLetters(this.#connection, this.name, options);
  }

  async deleteDeadLetters(options: DeadOffsets = {}): Promise<number> {
    return (await administration()).deleteDeadLetters(this.#connection, this.name, options);
  }
}
