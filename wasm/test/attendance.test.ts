// Presence with the real core: over sockets, on one connection for all tabs, and with a broker in this process.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";

import { WebSocket } from "ws";

import { TransportClient } from "../ts/client.ts";
import { connectWith, endpoint } from "../ts/connect.ts";
import { REAL } from "../ts/link.ts";
import type { Socket, SocketFactory } from "../ts/link.ts";
import { openLocalWith } from "../ts/local.ts";
import type { Client, IdentityOptions, PresenceMember, PresenceWatch } from "../ts/types.ts";
import { Upstream } from "../ts/upstream.ts";
import { code } from "./broker.ts";
import { Server } from "./server.ts";

const wasm = readFileSync(new URL("../engine/engine_bg.wasm", import.meta.url));
const create: SocketFactory = (url, protocol) => new WebSocket(url, protocol, {}) as Socket;

const server = new Server();
before(() => server.start());
after(() => server.end());

/** Clients of one user's device that share one connection, as tabs do. */
function tabs(namespace: string, identity: IdentityOptions, count: number): Promise<Client[]> {
  const url = endpoint(server.url, { ...identity, namespace });
  const upstream = new Upstream(url, create);
  const transport = { address: url.href, canDie: false, open: upstream.connect.bind(upstream, undefined) };
  return Promise.all(Array.from({ length: count }, () => TransportClient.open(transport, REAL, {})));
}

const WAYS: Readonly<Record<string, (namespace: string, identity: IdentityOptions) => Promise<Client>>> = {
  "over a socket": (namespace, identity) => connectWith(create, server.url, { ...identity, namespace }),
  "on one connection for all tabs": async (namespace, identity) => (await tabs(namespace, identity, 1))[0] as Client,
  "with a broker in memory": (namespace, identity) => openLocalWith(() => wasm, { ...identity, namespace, name: "attendance" }),
};

function named(member: PresenceMember): string {
  return `${member.user}/${member.device} ${member.text()}`.trim();
}

/** The next change in short. */
async function next(watch: PresenceWatch): Promise<string> {
  const { value } = await watch.next();
  assert.ok(value !== undefined, "the watch ended");
  return value.event === "snapshot" ? `snapshot ${value.members.map(named).join(", ")}`.trim() : `${value.event} ${named(value.member)}`;
}

/** Takes changes until they add up to these members. */
async function converges(watch: PresenceWatch, here: Map<string, string>, expected: readonly string[]): Promise<void> {
  while ([...here.values()].sort().join() !== [...expected].sort().join()) {
    const { value } = await watch.next();
    assert.ok(value !== undefined, "the watch ended");
    if (value.event === "snapshot") {
      here.clear();
      for (const member of value.members) here.set(`${member.user}/${member.device}`, named(member));
      continue;
    }
    const key = `${value.member.user}/${value.member.device}`;
    assert.equal(here.has(key), value.event !== "join", `${value.event} of ${key}, where there is ${[...here.keys()].join()}`);
    if (value.event === "leave" || value.event === "timeout") here.delete(key);
    else here.set(key, named(value.member));
  }
}

for (const [way, open] of Object.entries(WAYS)) {
  test(`who is there, and who comes and goes, is told ${way}`, async () => {
    const ann = await open("rooms", { user: "ann", device: "phone" });
    const ben = await open("rooms", { user: "ben", device: "desk" });
    const room = ann.presence(`room/${Object.keys(WAYS).indexOf(way)}`);
    await room.enter("here");
    const watch = ben.presence(room.topic).watch();
    assert.equal(await next(watch), "snapshot ann/phone here");
    await ben.presence(room.topic).enter();
    assert.equal(await next(watch), "join ben/desk");
    await room.update("busy");
    assert.equal(await next(watch), "update ann/phone busy");
    const [first, second, ...others] = await ben.presence(room.topic).members();
    assert.deepEqual([first && named(first), second && named(second), others], ["ann/phone busy", "ben/desk", []]);
    assert.ok(first !== undefined && first.since > 0 && first.connection > 0);
    // Another device of hers is a member of its own, which ends with its connection.
    const tablet = await open("rooms", { user: "ann", device: "tablet" });
    await tablet.presence(room.topic).enter("too");
    assert.equal(await next(watch), "join ann/tablet too");
    await tablet.close();
    assert.equal(await next(watch), "leave ann/tablet too");
    await room.leave();
    assert.equal(await next(watch), "leave ann/phone busy");
    await watch.return();
    await room.leave();
    await Promise.all([ann.close(), ben.close()]);
  });

  test(`what cannot be is refused ${way}`, async () => {
    const client = await open("refused", { user: "ann", device: "phone" });
    for (const topic of ["", "a/#", "$own"]) {
      await assert.rejects(client.presence(topic).enter(), code("invalid_topic"));
      await assert.rejects(client.presence(topic).watch().next(), code("invalid_topic"));
      await assert.rejects(client.presence(topic).members(), code("invalid_topic"));
    }
    await client.presence("a").enter("x".repeat(1024));
    await assert.rejects(client.presence("a").enter("x".repeat(1025)), code("too_large", /1025|1024/));
    const [member] = await client.presence("a").members();
    assert.equal(member?.payload.length, 1024);
    await client.close();
  });
}

test("over cut connections, a restarted and a restored broker a watch comes to who is there", async () => {
  const [ann, ben, watcher] = await Promise.all([
    server.client("stormy", { user: "ann", device: "phone" }),
    server.client("stormy", { user: "ben", device: "phone" }),
    server.client("stormy"),
  ]);
  await Promise.all([ann.presence("t").enter("a"), ben.presence("t").enter("b")]);
  const here = new Map<string, string>();
  const watch = watcher.presence("t").watch();
  await converges(watch, here, ["ann/phone a", "ben/phone b"]);
  server.cut();
  await ann.presence("u").enter();
  const cleo = await server.client("stormy", { user: "cleo", device: "phone" });
  await cleo.presence("t").enter("c");
  await converges(watch, here, ["ann/phone a", "ben/phone b", "cleo/phone c"]);
  await ben.close();
  await server.stop();
  await server.start();
  await converges(watch, here, ["ann/phone a", "cleo/phone c"]);
  // The broker is lost and restored; sockets stay, and so does who is there.
  server.poison = true;
  await cleo.presence("t").update("c2");
  await converges(watch, here, ["ann/phone a", "cleo/phone c2"]);
  await Promise.all([ann, cleo, watcher].map((client) => client.close()));
});

test("a device is present as long as one of its tabs is", async () => {
  const [one, other, third] = (await tabs("tabs", { user: "ann", device: "phone" }, 3)) as [Client, Client, Client];
  const watcher = await server.client("tabs");
  const watch = watcher.presence("t").watch();
  assert.equal(await next(watch), "snapshot");
  await one.presence("t").enter("1");
  await other.presence("t").enter("2");
  await third.presence("u").enter();
  assert.deepEqual([await next(watch), await next(watch)], ["join ann/phone 1", "update ann/phone 2"]);
  await one.presence("t").leave();
  await one.close();
  await watcher.presence("t").enter("marks the place");
  assert.equal(await next(watch), "join undefined/undefined marks the place");
  await other.close();
  assert.equal(await next(watch), "leave ann/phone 2");
  assert.equal((await watcher.presence("u").members()).length, 1);
  await Promise.all([third.close(), watcher.close()]);
});
