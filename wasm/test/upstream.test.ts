// One connection for all tabs: against the real core over real sockets, in this process and in tabs of Chromium.
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";

import { WebSocket, WebSocketServer } from "ws";

import { TransportClient } from "../ts/client.ts";
import type { DunlinError } from "../ts/errors.ts";
import { REAL } from "../ts/link.ts";
import type { Socket, SocketFactory } from "../ts/link.ts";
import type { Client, Delivery, PartitionDelivery, PartitionedMember, QueueDelivery, QueueMember, Subscription } from "../ts/types.ts";
import { Upstream } from "../ts/upstream.ts";
import { Server } from "./server.ts";
import { PATIENCE_MS, SUITE_PATIENCE_MS, Site } from "./tabs.ts";

const create: SocketFactory = (url, protocol) => new WebSocket(url, protocol, {}) as Socket;

let server: Server;
beforeEach(async () => {
  server = new Server();
  await server.start();
});
afterEach(() => server.stop());

/** Clients as so many tabs would have them. */
function openAll(count: number, url = server.url): Promise<Client[]> {
  const upstream = new Upstream(new URL(url), create);
  const transport = { address: url, canDie: false, open: upstream.connect.bind(upstream, undefined) };
  return Promise.all(Array.from({ length: count }, () => TransportClient.open(transport, REAL, {})));
}

async function take(subscription: Subscription, count: number): Promise<string[]> {
  const texts: string[] = [];
  while (texts.length < count) texts.push(((await subscription.next()).value as Delivery).text());
  return texts;
}

/** Waits for what nobody tells. */
async function until(what: string, holds: () => boolean): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  while (!holds()) {
    assert.ok(performance.now() < deadline, what);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

describe("clients on one connection", { timeout: SUITE_PATIENCE_MS }, () => {
  test("each gets its own answers and deliveries, although all number alike", async () => {
    const [one, other] = (await openAll(2)) as [Client, Client];
    assert.equal(server.sockets, 1);
    const inboxes = [one.subscribe("a"), other.subscribe("b"), one.subscribe("b"), other.subscribe("#")] as const;
    await Promise.all(inboxes.map(({ ready }) => ready));
    const [batch, single] = await Promise.all([
      one.publishBatch([{ topic: "a", payload: "1" }, { topic: "b", payload: "2" }]),
      other.publish("b", "3"),
    ]);
    assert.deepEqual([...batch, single].map(({ topic, offset }) => `${topic}${offset}`), ["a0", "b0", "b1"]);
    assert.deepEqual(await Promise.all([take(inboxes[0], 1), take(inboxes[1], 2), take(inboxes[2], 2), take(inboxes[3], 3)]), [
      ["1"],
      ["2", "3"],
      ["2", "3"],
      ["1", "2", "3"],
    ]);
    await Promise.all([one.close(), other.close()]);
    await until("the socket closes with the last client", () => server.sockets === 0);
  });

  test("a refusal comes to who asked, and the others hear nothing of it", async () => {
    const [one, other] = (await openAll(2)) as [Client, Client];
    const good = other.subscribe("a");
    await good.ready;
    await assert.rejects(one.subscribe("a/#/b").ready, (error: DunlinError) => error.code === "invalid_filter");
    await assert.rejects(one.publish("#", "x"), (error: DunlinError) => error.code === "invalid_topic");
    await assert.rejects(one.publish("a", new Uint8Array(2 ** 20 + 1)), (error: DunlinError) => error.code === "too_large");
    await one.publish("a", "x");
    assert.deepEqual(await take(good, 1), ["x"]);
    await Promise.all([one.close(), other.close()]);
  });

  test("subscriptions of a client that goes end, and its slow reading holds up nobody", async () => {
    const [slow, other] = (await openAll(2)) as [Client, Client];
    await slow.subscribe("t", { credit: 1, lagMax: 1, onLag: "block" }).ready;
    await other.publish("t", "1");
    await other.publish("t", "2");
    const held = other.publish("t", "3");
    await slow.close();
    assert.equal((await held).offset, 2n);
    await other.close();
  });

  test("credit is given back, so that more than a window comes through", async () => {
    const [one, other] = (await openAll(2)) as [Client, Client];
    const inbox = one.subscribe("t", { credit: 4, lagMax: 1000 });
    await inbox.ready;
    const texts = Array.from({ length: 50 }, (_, index) => String(index));
    await Promise.all(texts.map((text) => other.publish("t", text)));
    assert.deepEqual(await take(inbox, 50), texts);
    await Promise.all([one.close(), other.close()]);
  });

  test("each has its own memberships, settlements and requests, and what a client had goes to others when it goes", async () => {
    const [one, other] = (await openAll(2)) as [Client, Client];
    await one.configureTopic("jobs", { ordering: "none" });
    const members = [one, other].map((client) => client.group("g").joinQueue("jobs", { maxInFlight: 1 })) as [QueueMember, QueueMember];
    await Promise.all(members.map(({ ready }) => ready));
    const asked = other.request("jobs", "1");
    await one.publish("jobs", "2");
    const jobs = (await Promise.all(members.map((member) => member.next()))).map(({ value }) => value as QueueDelivery);
    assert.deepEqual(jobs.map((job) => job.text()).sort(), ["1", "2"]);
    await jobs.find((job) => job.text() === "1")?.respond("answered");
    assert.equal((await asked).text(), "answered");
    await (jobs[0] as QueueDelivery).ack();
    await other.close();
    const again = (await members[0].next()).value as QueueDelivery;
    assert.deepEqual([again.text(), again.attempt], [jobs[1]?.text(), 2]);
    await again.ack();
    assert.equal((await one.group("g").describe()).partitions[0]?.lag, 0);
    await one.close();
  });

  test("partitions move between clients, and a lost connection gives all anew", async () => {
    const [one, other] = (await openAll(2)) as [Client, Client];
    await one.configureTopic("t", { ordering: "per_key", partitions: 2 });
    const members = [one, other].map((client) => client.group("g").joinPartitioned("t")) as [PartitionedMember, PartitionedMember];
    await until("one partition each", () => members.every(({ assignment }) => assignment.length === 1));
    // Each has one: of these keys one lies in either.
    const published = ["order-1", "order-2"].map((key) => one.publish("t", key, { key }));
    await Promise.all(published);
    const taken = (await Promise.all(members.map((member) => member.next()))).map(({ value }) => value as PartitionDelivery);
    assert.deepEqual(taken.map((message) => message.text()).sort(), ["order-1", "order-2"]);
    const [first, second] = taken as [PartitionDelivery, PartitionDelivery];
    await Promise.all([first.commit(), other.transaction({ commits: [second] })]);
    server.cut();
    await until("none", () => members.every(({ assignment }) => assignment.length === 0));
    await until("one partition each again", () => members.every(({ assignment }) => assignment.length === 1));
    assert.equal((await one.group("g").describe()).partitions.reduce((sum, { lag }) => sum + lag, 0), 0);
    await other.close();
    await until("both", () => members[0].assignment.length === 2);
    await one.close();
  });

  test("a member among those who share says that it lives", async () => {
    const [one] = (await openAll(1)) as [Client];
    await one.group("g").configure({ sessionMs: 150 });
    const member = one.group("g").joinQueue("t");
    await member.ready;
    const name = member.member;
    const later = one.subscribe("later");
    await later.ready;
    await one.publish("later", "x", { delayMs: 600 });
    await later.next();
    assert.equal(member.member, name);
    await one.close();
  });

  test("a lost connection is to every client what it is to one alone, and all share the next", async () => {
    const clients = (await openAll(2)) as [Client, Client];
    const inboxes = clients.map((client) => client.subscribe("t"));
    await Promise.all(inboxes.map(({ ready }) => ready));
    await clients[0].publish("t", "before");
    server.cut();
    await Promise.all(clients.map((client) => new Promise<void>((lost) => client.on("state", ({ state }) => state === "reconnecting" && lost()))));
    await clients[1].publish("t", "after", { retry: true });
    for (const inbox of inboxes) assert.deepEqual(await take(inbox, 2), ["before", "after"]);
    await until("one socket", () => server.sockets === 1);
    await Promise.all(clients.map((client) => client.close()));
  });

  test("a broker that was restored asks every client to state its place", async () => {
    const [one, other] = (await openAll(2)) as [Client, Client];
    const inbox = other.subscribe("t");
    await inbox.ready;
    await one.publish("t", "before");
    server.poison = true;
    await assert.rejects(one.publish("t", "lost"), (error: DunlinError) => error.code === "connection_lost");
    await one.publish("t", "after");
    assert.deepEqual(await take(inbox, 2), ["before", "after"]);
    assert.equal(server.sockets, 1);
    await Promise.all([one.close(), other.close()]);
  });

  test("a broker that cannot be reached is told, and one that refuses ends the client", async () => {
    await assert.rejects(openAll(1, "ws://127.0.0.1:1"), (error: DunlinError) => {
      assert.equal(error.code, "connection_failed");
      assert.match(error.message, /127\.0\.0\.1:1.*ECONNREFUSED/);
      return true;
    });
    const refusing = new WebSocketServer({ host: "127.0.0.1", port: 0, handleProtocols: (offered) => [...offered][0] ?? false });
    refusing.on("connection", (socket) => socket.close(4001, "unauthorised: no token"));
    await new Promise<void>((listening) => refusing.on("listening", listening));
    const { port } = refusing.address() as { port: number };
    await assert.rejects(openAll(1, `ws://127.0.0.1:${port}`), (error: DunlinError) => {
      assert.deepEqual([error.code, error.message], ["unauthorised", "no token"]);
      return true;
    });
    await new Promise((closed) => refusing.close(closed));
  });
});

describe("tabs on one connection", { timeout: SUITE_PATIENCE_MS }, () => {
  const site = new Site();
  before(() => site.start());
  after(() => site.stop());

  for (const sharing of ["worker", "tab"] as const) {
    test(`in a ${sharing}: all hear and say, the others go on when one is closed, and the socket ends with the last`, async () => {
      await site.withProfile(async (profile) => {
        const tabs = [await site.tab(profile), await site.tab(profile), await site.tab(profile)] as const;
        for (const tab of tabs) {
          await tab.connect(server.url, { sharing });
          await tab.subscribe();
        }
        const [first, second, third] = tabs;
        assert.equal(server.sockets, 1);
        assert.deepEqual([await first.publish("a"), await third.publish("b")], [0, 1]);
        for (const tab of tabs) await tab.hears(["a", "b"]);
        // Who has the socket dies without a word.
        await first.crash();
        assert.equal(await second.publish("c", true), 2);
        for (const tab of [second, third]) await tab.hears(["a", "b", "c"]);
        await until("one socket", () => server.sockets === 1);
        await second.page.close();
        assert.equal(await third.publish("d", true), 3);
        await third.hears(["a", "b", "c", "d"]);
        await third.page.evaluate(() => client.close());
        await until("no socket", () => server.sockets === 0);
      });
    });
  }

  test("another address is another connection, and the option is checked", async () => {
    await site.withProfile(async (profile) => {
      const [one, other] = [await site.tab(profile), await site.tab(profile)];
      await one.connect(server.url, { sharing: "worker", namespace: "a" });
      await other.connect(server.url, { sharing: "worker", namespace: "b" });
      assert.equal(server.sockets, 2);
      await assert.rejects(one.connect(server.url, { sharing: "everywhere" as never }), /invalid_argument.*"everywhere"/s);
      await assert.rejects(one.connect("ws://127.0.0.1:1", { sharing: "worker" }), /connection_failed/);
    });
  });
});
