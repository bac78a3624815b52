// Presence as a client sees it, against a broker that the test plays.
import assert from "node:assert/strict";
import { test } from "node:test";

import type { Command, PresenceEvent, PresenceMember as Fields, Reply } from "../ts/frames.ts";
import type { Client, PresenceChange, PresenceWatch } from "../ts/types.ts";
import { code, connected } from "./broker.ts";
import type { Clock, FakeTransport } from "./broker.ts";
import { settled } from "./fakes.ts";

interface World {
  readonly client: Client;
  readonly transport: FakeTransport;
  readonly clock: Clock;
}

/** A client that has loaded what presence needs. */
async function opened(): Promise<World> {
  const world = await connected();
  await assert.rejects(world.client.listTopics({ signal: AbortSignal.abort() }).next());
  await settled();
  return world;
}

function member(name: string, data = "", connection = 1): Fields {
  return { user: name, device: "phone", connection, since: 1, data: new TextEncoder().encode(data) };
}

function event(kind: string, name: string, data = "", connection = 1): PresenceEvent {
  const { since: _since, ...fields } = member(name, data, connection);
  return { event: kind, ...fields, at: 9 };
}

/** The one command that the client has said. */
async function said<T extends Command["type"]>({ transport }: World, type: T): Promise<Extract<Command, { type: T }>> {
  await settled();
  const [command, ...others] = transport.peer.heard() as Command[];
  assert.deepEqual([command?.type, others], [type, []]);
  return command as Extract<Command, { type: T }>;
}

function page(request: number, members: readonly Fields[], next?: string): Reply {
  const rest = next === undefined ? {} : { next };
  return { type: "presence", request, topic: "t", members: [...members], more: next !== undefined, present: 9, users: 9, ...rest };
}

function happened(...events: PresenceEvent[]): Reply {
  return { type: "presence_event", subscription: 1, events };
}

/** A change in short. */
function short(change: PresenceChange | undefined): string {
  if (change === undefined) return "the end";
  const name = ({ user, text }: { user?: string; text: () => string }, self: unknown): string => `${user} ${text.call(self)}`.trim();
  if (change.event === "snapshot") return `snapshot ${change.members.map((each) => name(each, each)).join(", ")}`.trim();
  return `${change.event} ${name(change.member, change.member)}`;
}

async function take(watch: PresenceWatch, count: number): Promise<string[]> {
  const changes: string[] = [];
  while (changes.length < count) changes.push(short((await watch.next()).value));
  return changes;
}

/** A watch on "t" that was told who is there. */
async function watched(...members: Fields[]): Promise<World & { readonly watch: PresenceWatch }> {
  const world = await opened();
  const watch = world.client.presence("t").watch();
  const { request, topic, subscription } = await said(world, "watch_presence");
  assert.deepEqual([topic, subscription], ["t", 1]);
  world.transport.peer.reply(page(request, members));
  assert.equal((await take(watch, 1))[0]?.split(" ")[0], "snapshot");
  return { ...world, watch };
}

async function reconnected(world: World): Promise<void> {
  await world.transport.peer.cut();
  await world.clock.advance(world.clock.pending[0] ?? 0);
  await world.transport.peer.greet();
}

test("a watch begins with who is present, and goes on with what changes", async () => {
  const world = await opened();
  const watch = world.client.presence("t").watch();
  const { request } = await said(world, "watch_presence");
  // Events that come in the same message are news to the snapshot.
  world.transport.peer.reply(page(request, [member("ann", "a"), member("ben")]), happened(event("join", "cleo", "c"), event("leave", "ben")));
  assert.deepEqual(await take(watch, 3), ["snapshot ann a, ben", "join cleo c", "leave ben"]);
  world.transport.peer.reply(happened(event("update", "ann", "b"), event("timeout", "cleo")));
  const { value } = await watch.next();
  assert.ok(value?.event === "update");
  const { user, device, connection, since } = value.member;
  // Since when it is there an update does not change.
  assert.deepEqual([user, device, connection, since, value.at, value.member.text()], ["ann", "phone", 1, 1, 9, "b"]);
  assert.deepEqual(await take(watch, 1), ["timeout cleo c"]);
});

test("leaving the loop ends the watch", async () => {
  const world = await watched(member("ann"));
  const waiting = world.watch.next();
  const ending = world.watch.return();
  const { request, subscription } = await said(world, "unsubscribe");
  assert.equal(subscription, 1);
  world.transport.peer.reply({ type: "ok", request });
  assert.deepEqual([(await waiting).done, (await ending).done], [true, true]);
  world.transport.peer.reply(happened(event("join", "ben")));
  assert.equal((await world.watch.next()).done, true);
});

test("a signal ends a watch with its reason", async () => {
  const world = await opened();
  const ending = new AbortController();
  const watch = world.client.presence("t").watch({ signal: ending.signal });
  await said(world, "watch_presence");
  const waiting = watch.next();
  ending.abort(new Error("enough"));
  await assert.rejects(waiting, /enough/);
  await said(world, "unsubscribe");
  await assert.rejects(world.client.presence("t").watch({ signal: AbortSignal.abort(new Error("before")) }).next(), /before/);
  await settled();
  assert.deepEqual(world.transport.peer.heard(), []);
});

test("a snapshot that does not fit comes page by page, with what happens meanwhile", async () => {
  const world = await opened();
  const watch = world.client.presence("t").watch();
  const first = await said(world, "watch_presence");
  world.transport.peer.reply(page(first.request, [member("ann"), member("ben")], "ben"), happened(event("leave", "ann"), event("join", "dan")));
  const second = await said(world, "read_presence");
  assert.deepEqual([second.topic, second.after], ["t", "ben"]);
  world.transport.peer.reply(happened(event("update", "ben", "b")), page(second.request, [member("cleo"), member("dan"), member("eve")], "eve"));
  const third = await said(world, "read_presence");
  world.transport.peer.reply(page(third.request, []), happened(event("leave", "eve")));
  assert.deepEqual(await take(watch, 2), ["snapshot ben b, dan, cleo, eve", "leave eve"]);
});

test("what changed while the connection was away is told as changes", async () => {
  const world = await watched(member("ann", "a"), member("ben", "b"), member("cleo", "c"));
  await reconnected(world);
  const { request } = await said(world, "watch_presence");
  world.transport.peer.reply(page(request, [member("ann", "a"), member("ben", "new"), member("dan", "d")]), happened(event("leave", "dan")));
  assert.deepEqual(await take(world.watch, 4), ["leave cleo c", "update ben new", "join dan d", "leave dan d"]);
  // The broker was restored, and has forgotten the watch.
  world.transport.peer.reply({ type: "resync" });
  await settled();
  const [, again] = world.transport.peer.heard() as [Command, Extract<Command, { type: "watch_presence" }>];
  assert.equal(again.type, "watch_presence");
  world.transport.peer.reply(page(again.request, [member("ann", "a")]), happened(event("join", "eve")));
  assert.deepEqual(await take(world.watch, 2), ["leave ben new", "join eve"]);
});

test("a link that is lost in the middle of a snapshot begins another", async () => {
  const world = await opened();
  const watch = world.client.presence("t").watch();
  const first = await said(world, "watch_presence");
  world.transport.peer.reply(page(first.request, [member("ann")], "ann"));
  await said(world, "read_presence");
  await reconnected(world);
  const again = await said(world, "watch_presence");
  world.transport.peer.reply(page(again.request, [member("ben")]));
  assert.deepEqual(await take(watch, 1), ["snapshot ben"]);
});

test("who takes nothing is told who is present, in place of what waited", async () => {
  const world = await watched();
  for (let count = 0; count < 1024; count += 1) world.transport.peer.reply(happened(event(count % 2 === 0 ? "join" : "leave", "ann")));
  world.transport.peer.reply(happened(event("join", "ben"), event("join", "cleo")));
  assert.deepEqual(await take(world.watch, 2), ["snapshot ben", "join cleo"]);
});

test("what a page said already is not told again", async () => {
  const world = await watched(member("ann", "a"));
  world.transport.peer.reply(happened(event("join", "ann", "a"), event("leave", "ben"), event("update", "cleo"), event("join", "ann", "b")));
  assert.deepEqual(await take(world.watch, 2), ["join cleo", "update ann b"]);
});

test("a refusal ends a watch", async () => {
  const world = await opened();
  const watch = world.client.presence("t").watch();
  const { request } = await said(world, "watch_presence");
  world.transport.peer.reply({ type: "error", request, code: "forbidden", message: "no" });
  await assert.rejects(watch.next(), code("forbidden", /no/));
  assert.equal((await watch.next()).done, true);
  const other = world.client.presence("t").watch();
  const { request: asked } = await said(world, "watch_presence");
  world.transport.peer.reply(page(asked, [], "x"));
  const reading = await said(world, "read_presence");
  world.transport.peer.reply({ type: "error", request: reading.request, code: "storage_unavailable", message: "not now" });
  await assert.rejects(other.next(), code("storage_unavailable"));
});

test("who is present enters again when it connects again, with what it showed last", async () => {
  const world = await opened();
  const here = world.client.presence("t");
  const entering = here.enter("one");
  assert.equal(here.isPresent, false);
  const first = await said(world, "enter");
  assert.deepEqual([first.topic, new TextDecoder().decode(first.data)], ["t", "one"]);
  world.transport.peer.reply({ type: "ok", request: first.request });
  await entering;
  assert.equal(here.isPresent, true);
  const updating = here.update("two");
  const second = await said(world, "enter");
  // The link is lost before the answer: it is said again, and nothing older after it.
  await reconnected(world);
  const again = await said(world, "enter");
  assert.equal(new TextDecoder().decode(again.data), "two");
  world.transport.peer.reply({ type: "ok", request: again.request });
  await updating;
  assert.notEqual(second, undefined);
  await reconnected(world);
  const third = await said(world, "enter");
  assert.equal(new TextDecoder().decode(third.data), "two");
  world.transport.peer.reply({ type: "error", request: third.request, code: "limit_reached", message: "full" });
  await settled();
  assert.equal(here.isPresent, false);
  await reconnected(world);
  await settled();
  assert.deepEqual(world.transport.peer.heard(), []);
});

test("who leaves does not enter again, and who was not there has left", async () => {
  const world = await opened();
  const here = world.client.presence("t");
  const entering = here.enter();
  world.transport.peer.reply({ type: "ok", request: (await said(world, "enter")).request });
  await entering;
  const leaving = here.leave();
  const { request } = await said(world, "leave");
  world.transport.peer.reply({ type: "error", request, code: "unknown_member", message: "not there" });
  await leaving;
  assert.equal(here.isPresent, false);
  await reconnected(world);
  await settled();
  assert.deepEqual(world.transport.peer.heard(), []);
});

test("a refused update leaves what is shown as it was", async () => {
  const world = await opened();
  const here = world.client.presence("t");
  const entering = here.enter("good");
  world.transport.peer.reply({ type: "ok", request: (await said(world, "enter")).request });
  await entering;
  const updating = here.update("x".repeat(2_000));
  world.transport.peer.reply({ type: "error", request: (await said(world, "enter")).request, code: "too_large", message: "2000 bytes" });
  await assert.rejects(updating, code("too_large"));
  assert.equal(here.isPresent, true);
  await reconnected(world);
  assert.equal(new TextDecoder().decode((await said(world, "enter")).data), "good");
});

test("members are read page by page", async () => {
  const world = await opened();
  const reading = world.client.presence("t").members();
  const first = await said(world, "read_presence");
  assert.equal(first.after, undefined);
  world.transport.peer.reply(page(first.request, [member("ann", "{}")], "ann"));
  const second = await said(world, "read_presence");
  assert.equal(second.after, "ann");
  const { data: _data, ...nobody } = { ...member("x", "", 7), user: "", device: "" };
  world.transport.peer.reply(page(second.request, [nobody]));
  const [ann, other] = await reading;
  assert.deepEqual([ann?.json(), other?.user, other?.device, other?.connection, other?.text()], [{}, undefined, undefined, 7, ""]);
  assert.throws(() => other?.json(), code("malformed_payload", /connection 7 on "t"/));
});

test("what is no topic or no payload is refused", async () => {
  const { client } = await opened();
  await assert.rejects(client.presence(7 as never).enter(), code("invalid_argument", /the topic must be a string, not number/));
  await assert.rejects(client.presence("t").enter(7 as never), code("invalid_argument", /data must be a Uint8Array, not 7/));
  await client.close();
  await assert.rejects(client.presence("t").enter(), code("closed"));
  await assert.rejects(client.presence("t").watch().next(), code("closed"));
});
