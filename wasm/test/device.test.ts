// Sessions of devices with the real core: over sockets, and with a broker in this process.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";

import { openLocalWith } from "../ts/local.ts";
import type { Client, Delivery, Gap, IdentityOptions, Subscription } from "../ts/types.ts";
import { code } from "./broker.ts";
import { Server } from "./server.ts";

const wasm = readFileSync(new URL("../engine/engine_bg.wasm", import.meta.url));

const server = new Server();
before(() => server.start('{"mailbox_messages_max":5,"devices_per_user_max":3}'));
after(() => server.end());

const PHONE = { user: "ann", device: "phone", session: true };

const WAYS: Readonly<Record<string, (namespace: string, identity: IdentityOptions) => Promise<Client>>> = {
  "over a socket": (namespace, identity) => server.client(namespace, identity),
  "with a broker in memory": async (namespace, identity) => {
    const client = await openLocalWith(() => wasm, { ...identity, namespace, name: "devices" });
    local.push(client);
    return client;
  },
};

/** Clients that a test left behind, because it failed, would keep the process. */
const local: Client[] = [];
after(() => Promise.all(local.map((client) => client.close())));

async function take(inbox: Subscription, count: number): Promise<string[]> {
  const texts: string[] = [];
  while (texts.length < count) texts.push(((await inbox.next()).value as Delivery).text());
  return texts;
}

async function publish(client: Client, ...texts: string[]): Promise<void> {
  for (const text of texts) await client.publish("chat/a", text);
}

for (const [way, open] of Object.entries(WAYS)) {
  test(`a device that was away gets what it missed, once and in order, ${way}`, async () => {
    const ben = await open("away", { user: "ben", device: "desk" });
    const phone = await open("away", PHONE);
    assert.equal(phone.session?.resumed, false);
    const inbox = phone.subscribe("chat/#", { session: true });
    await inbox.ready;
    await publish(ben, "1", "2", "3");
    assert.deepEqual(await take(inbox, 3), ["1", "2", "3"]);
    // It asks for the next one, so it is done with the third.
    const waiting = inbox.next();
    await phone.close();
    assert.equal((await waiting).done, true);
    await publish(ben, "4", "5");
    const back = await open("away", PHONE);
    assert.deepEqual(back.session?.filters, [{ filter: "chat/#", waiting: 2 }]);
    assert.equal(back.session?.resumed, true);
    const again = back.subscribe("chat/#", { session: true });
    assert.deepEqual(await take(again, 2), ["4", "5"]);
    await publish(ben, "6");
    assert.deepEqual(await take(again, 1), ["6"]);
    // Not done with the last one, which comes again.
    await back.close();
    const third = await open("away", PHONE);
    assert.deepEqual(await take(third.subscribe("chat/#", { session: true }), 1), ["6"]);
    await Promise.all([third.close(), ben.close()]);
  });

  test(`what waits can be looked at before it is taken, ${way}`, async () => {
    const look = async (client: Client): Promise<string[]> => {
      const found: string[] = [];
      for await (const message of client.mailbox()) found.push(`${message.topic} ${message.offset} ${message.text()}`);
      return found;
    };
    const ben = await open("looked", { user: "ben", device: "desk" });
    const phone = await open("looked", PHONE);
    assert.deepEqual([await look(phone), await phone.waiting()], [[], 0]);
    await Promise.all(["chat/#", "chat/a"].map((filter) => phone.subscribe(filter, { session: true }).ready));
    await phone.close();
    await publish(ben, "1", "2");
    // Without the session, which stays as it is.
    const looking = await open("looked", { user: "ann", device: "phone" });
    assert.deepEqual(await look(looking), ["chat/a 0 1", "chat/a 1 2"]);
    assert.ok((await looking.waiting()) >= 2);
    assert.deepEqual(await look(looking), ["chat/a 0 1", "chat/a 1 2"]);
    await assert.rejects(look(ben), code("unknown_session"));
    await Promise.all([looking.close(), ben.close()]);
  });

  test(`who logs out finds nothing, ${way}`, async () => {
    const ben = await open("out", { user: "ben", device: "desk" });
    const phone = await open("out", PHONE);
    const inbox = phone.subscribe("chat/#", { session: true });
    await inbox.ready;
    await publish(ben, "1");
    assert.deepEqual(await take(inbox, 1), ["1"]);
    await phone.endSession();
    assert.equal((await inbox.next()).done, true);
    await publish(ben, "2");
    await phone.close();
    const back = await open("out", PHONE);
    assert.deepEqual([back.session?.resumed, back.session?.filters], [false, []]);
    const fresh = back.subscribe("chat/#", { session: true });
    await fresh.ready;
    await publish(ben, "3");
    assert.deepEqual(await take(fresh, 1), ["3"]);
    await Promise.all([back.close(), ben.close()]);
  });

  test(`a session needs a user and a device, ${way}`, async () => {
    for (const identity of [{ session: true }, { user: "ann", session: true }]) {
      await assert.rejects(open("nobody", identity), code("out_of_state", /a session is a user.s and a device.s; connect with both/));
    }
  });
}

test("over cut connections, a restarted and a restored broker nothing is missing and nothing comes twice", async () => {
  const ben = await server.client("stormy", { user: "ben", device: "desk" });
  const phone = await server.client("stormy", PHONE);
  const inbox = phone.subscribe("chat/#", { session: true });
  await inbox.ready;
  const expected: string[] = [];
  const heard: string[] = [];
  for (let round = 0; round < 5; round += 1) {
    const texts = [`${round}a`, `${round}b`, `${round}c`];
    expected.push(...texts);
    for (const text of texts) await ben.publish("chat/a", text, { durability: "sync", retry: true });
    heard.push(...(await take(inbox, round % 2 === 0 ? 2 : 4)));
    if (round === 0) server.cut();
    if (round === 1) {
      await server.stop();
      await server.start('{"mailbox_messages_max":5,"devices_per_user_max":3}');
    }
    if (round === 2) server.poison = true;
  }
  heard.push(...(await take(inbox, expected.length - heard.length)));
  assert.deepEqual(heard, expected);
  await Promise.all([phone.close(), ben.close()]);
});

test("a connection that nobody hears of any more is taken over, with what it was sent in vain", async () => {
  const ben = await server.client("taken", { user: "ben", device: "desk" });
  const phone = await server.client("taken", PHONE);
  const former = phone.subscribe("chat/#", { session: true });
  await former.ready;
  await publish(ben, "1", "2");
  assert.deepEqual(await take(former, 1), ["1"]);
  const again = await server.client("taken", PHONE);
  assert.deepEqual(await take(again.subscribe("chat/#", { session: true }), 2), ["1", "2"]);
  // What it had received it still gives, and then the reason.
  assert.deepEqual(await take(former, 1), ["2"]);
  await assert.rejects(former.next(), code("session_replaced"));
  assert.equal(phone.state, "closed");
  await Promise.all([again.close(), ben.close()]);
});

test("who was away for more than is kept is told how much", async () => {
  const ben = await server.client("full", { user: "ben", device: "desk" });
  const phone = await server.client("full", PHONE);
  await phone.subscribe("chat/#", { session: true }).ready;
  await phone.close();
  await publish(ben, "1", "2", "3", "4", "5", "6", "7");
  const back = await server.client("full", PHONE);
  const gaps: Gap[] = [];
  const inbox = back.subscribe("chat/#", { session: true, onGap: (gap) => gaps.push(gap) });
  assert.deepEqual(await take(inbox, 5), ["3", "4", "5", "6", "7"]);
  assert.deepEqual(gaps.map(({ reason, count }) => [reason, count]), [["mailbox_full", 2]]);
  await Promise.all([back.close(), ben.close()]);
});

for (const [way, open] of Object.entries(WAYS)) {
  test(`devices are listed, and sent away for good, ${way}`, async () => {
    const phone = await open("kicked", PHONE);
    const inbox = phone.subscribe("chat/#", { session: true });
    await inbox.ready;
    const desk = await open("kicked", { user: "ann", device: "desk" });
    const ben = await open("kicked", { user: "ben", device: "desk" });
    const names = async (client: Client, user?: string): Promise<string[]> => {
      const found: string[] = [];
      for await (const { device, online, session } of client.devices(user === undefined ? {} : { user })) {
        found.push(`${device} ${online ? "online" : "away"}${session ? " with a session" : ""}`);
      }
      return found.sort();
    };
    assert.deepEqual(await names(desk), ["desk online", "phone online with a session"]);
    const users: string[] = [];
    for await (const user of ben.users()) users.push(user);
    assert.deepEqual(users, ["ann", "ben"]);
    const { lastSeen, ...ann } = await ben.describeUser("ann");
    assert.deepEqual(ann, { user: "ann", online: true, connections: 2, devices: 2 });
    assert.ok(lastSeen > 0);
    assert.equal(await desk.kick("ann", { device: "phone", reason: "it was stolen" }), 1);
    await assert.rejects(inbox.next(), code("kicked", /it was stolen/));
    assert.deepEqual([phone.state, desk.state, ben.state], ["closed", "open", "open"]);
    assert.deepEqual(await names(ben, "ann"), ["desk online"]);
    const back = await open("kicked", PHONE);
    assert.deepEqual([back.session?.resumed, back.session?.filters], [false, []]);
    // All of them, the one that asks as well.
    const away = new Promise((resolve) => desk.on("state", ({ state, error }) => state === "closed" && resolve(error?.code)));
    await ben.kick("ann");
    assert.equal(await away, "kicked");
    assert.equal(await ben.kick("nobody"), 0);
    await ben.close();
  });
}

test("a device too many sends away the one that was silent for longest", async () => {
  const devices: Client[] = [];
  for (const device of ["a", "b", "c"]) devices.push(await server.client("many", { user: "ann", device }));
  const [first, second] = devices as [Client, Client];
  const away = new Promise((resolve) => first.on("state", ({ state, error }) => state === "closed" && resolve(error?.code)));
  devices.push(await server.client("many", { user: "ann", device: "d" }));
  assert.equal(await away, "device_limit");
  assert.equal(second.state, "open");
  await Promise.all(devices.map((client) => client.close()));
});
