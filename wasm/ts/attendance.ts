/** Being present on a topic, and watching who is. */

import { DunlinError, invalid } from "./errors.ts";
import type { PresenceEvent, PresenceMember as MemberFields, Reply } from "./frames.ts";
import { Inbox } from "./inbox.ts";
import type { Listener, Owner, Told } from "./inbox.ts";
import type { Unnumbered } from "./connection.ts";
import { ReceivedBytes } from "./message.ts";
import type { PresenceChange, PresenceMember } from "./types.ts";
import { utf8 } from "./wire.ts";

/** How many changes may wait to be taken; then they give way to one snapshot. */
const CHANGES_MAX = 1024;

type Page = Extract<Reply, { type: "presence" }>;

export class Attendance {
  readonly #topic: string;
  readonly #owner: Owner;
  /** What the others are shown, once the broker has taken it. */
  #shown: Uint8Array | undefined;
  /** How many commands are on their way; the connection says those again by itself. */
  #underWay = 0;
  #unlisten: (() => void) | undefined;

  constructor(topic: string, owner: Owner) {
    if (typeof topic !== "string") throw invalid(`the topic must be a string, not ${typeof topic}`);
    this.#topic = topic;
    this.#owner = owner;
  }

  get isPresent(): boolean {
    return this.#shown !== undefined;
  }

  async enter(payload: Uint8Array | string = ""): Promise<void> {
    const data = typeof payload === "string" ? utf8(payload) : payload;
    await this.#say({ type: "enter", topic: this.#topic, data });
    this.#shown = data;
    this.#unlisten ??= this.#owner.connection.listen(({ state }) => {
      if (state === "open") this.#enterAgain();
    });
  }

  async leave(): Promise<void> {
    this.#forget();
    try {
      await this.#say({ type: "leave", topic: this.#topic });
    } catch (error) {
      // It was not there, perhaps because the connection on which it was ended.
      if ((error as DunlinError).code !== "unknown_member") throw error;
    }
  }

  async members(signal: AbortSignal | undefined): Promise<PresenceMember[]> {
    const members: PresenceMember[] = [];
    let after: string | undefined;
    do {
      const page: Page = await this.#owner.connection.ask("presence", { type: "read_presence", topic: this.#topic, after }, "resend", signal);
      members.push(...page.members.map((fields) => new Member(this.#topic, fields)));
      after = page.more ? page.next : undefined;
    } while (after !== undefined);
    return members;
  }

  watch(signal: AbortSignal | undefined): Watch {
    const watch = new Watch(this.#topic, this.#owner, signal);
    this.#owner.begin(watch);
    return watch;
  }

  async #say(command: Unnumbered): Promise<void> {
    this.#underWay += 1;
    try {
      await this.#owner.connection.ask("ok", command, "resend");
    } finally {
      this.#underWay -= 1;
    }
  }

  #enterAgain(): void {
    if (this.#underWay > 0) return;
    this.#say({ type: "enter", topic: this.#topic, data: this.#shown }).catch(() => this.#forget());
  }

  #forget(): void {
    this.#shown = undefined;
    this.#unlisten?.();
    this.#unlisten = undefined;
  }
}

/**
 * Invariant: what the program was told, from its newest snapshot on, adds up to `#members`, except while a snapshot is
 * being read.
 */
class Watch extends Inbox<PresenceChange> implements Listener {
  readonly id: number;
  readonly #topic: string;
  readonly #owner: Owner;
  /** By device where there is one, else by connection. Unknown until the first snapshot is whole. */
  #members: Map<string, Member> | undefined;
  /** The snapshot that is being read; it and the pages behind it go on with what happens meanwhile. */
  #reading: Map<string, Member> | undefined;

  constructor(topic: string, owner: Owner, signal: AbortSignal | undefined) {
    super(`the watch on ${JSON.stringify(topic)}`, signal);
    this.id = owner.number();
    this.#topic = topic;
    this.#owner = owner;
  }

  ask(): Unnumbered {
    this.#reading = new Map();
    return { type: "watch_presence", subscription: this.id, topic: this.#topic };
  }

  answered(reply: Reply): void {
    if (reply.type === "presence" && this.#reading !== undefined) this.#read(reply, this.#reading);
  }

  hear(told: Told): void {
    if (this.hasEnded) return;
    if (told.type === "ended") this.refused(new DunlinError(told.code, told.message));
    if (told.type !== "presence_event") return;
    for (const event of told.events) {
      const member = new Member(this.#topic, { ...event, since: event.at });
      const isGone = event.event === "leave" || event.event === "timeout";
      if (this.#reading === undefined) this.#happened(event, member, isGone);
      else if (isGone) this.#reading.delete(member.key);
      else this.#reading.set(member.key, member.after(this.#reading.get(member.key)));
    }
  }

  refused(error: DunlinError): void {
    this.#owner.forget(this);
    this.end(error);
  }

  protected taken(): void {}

  protected left(): Promise<void> {
    return this.#owner.leave(this);
  }

  /** Takes a page; the last one makes the snapshot whole. */
  #read(page: Page, into: Map<string, Member>): void {
    for (const fields of page.members) {
      const member = new Member(this.#topic, fields);
      into.set(member.key, member);
    }
    const { next } = page;
    if (!page.more || next === undefined) {
      this.#whole(into);
      return;
    }
    // Taken when it comes, not a turn later: what follows it may be an event.
    const goOn = (reply: Reply): void => {
      if (reply.type === "presence" && this.#reading === into && !this.hasEnded) this.#read(reply, into);
    };
    this.#owner.connection
      .request({ type: "read_presence", topic: this.#topic, after: next }, "reject", undefined, goOn)
      .catch((error: DunlinError) => {
        // When the link is lost the watch is asked for again on the next.
        if (error.code !== "connection_lost" && this.#reading === into && !this.hasEnded) this.refused(error);
      });
  }

  #whole(now: Map<string, Member>): void {
    const before = this.#members;
    this.#members = now;
    this.#reading = undefined;
    if (before === undefined) {
      this.#snapshot();
      this.begun();
      return;
    }
    for (const [key, member] of before) if (!now.has(key)) this.#change({ event: "leave", member });
    for (const [key, member] of now) {
      const known = before.get(key);
      if (known === undefined) this.#change({ event: "join", member });
      else if (!member.shows(known)) this.#change({ event: "update", member });
    }
  }

  #happened({ event, at }: PresenceEvent, told: Member, isGone: boolean): void {
    const members = this.#members as Map<string, Member>;
    const known = members.get(told.key);
    // What a page said already is not told again.
    if (isGone) {
      if (!members.delete(told.key)) return;
      this.#change({ event: event === "timeout" ? "timeout" : "leave", member: known as Member, at });
      return;
    }
    const member = told.after(known);
    members.set(member.key, member);
    if (known === undefined) this.#change({ event: "join", member, at });
    else if (!member.shows(known)) this.#change({ event: "update", member, at });
  }

  #change(change: PresenceChange): void {
    if (this.buffered < CHANGES_MAX) {
      this.put(change);
      return;
    }
    this.drop(() => true);
    this.#snapshot();
  }

  #snapshot(): void {
    this.put({ event: "snapshot", members: [...(this.#members ?? []).values()] });
  }
}

class Member extends ReceivedBytes implements PresenceMember {
  readonly user?: string;
  readonly device?: string;
  readonly connection: number;
  readonly since: number;
  readonly #topic: string;
  readonly #fields: MemberFields;

  constructor(topic: string, fields: MemberFields) {
    super(fields.data ?? new Uint8Array());
    const { user, device, connection, since } = fields;
    if (user !== "") this.user = user;
    if (device !== "") this.device = device;
    this.connection = connection;
    this.since = since;
    this.#topic = topic;
    this.#fields = fields;
  }

  /** No name has a line feed. */
  get key(): string {
    return this.device === undefined ? `${this.connection}` : `${this.user}\n${this.device}`;
  }

  /** The same, since when `former` was there. */
  after(former: Member | undefined): Member {
    return former === undefined ? this : new Member(this.#topic, { ...this.#fields, since: former.since });
  }

  /** Whether the others see the same. */
  shows({ connection, payload }: Member): boolean {
    return connection === this.connection && payload.length === this.payload.length && payload.every((byte, index) => byte === this.payload[index]);
  }

  protected origin(): string {
    return `${this.user ?? `connection ${this.connection}`} on ${JSON.stringify(this.#topic)}`;
  }
}
