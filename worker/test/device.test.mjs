// Sessions and kicks at the edge: what a device missed while the object slept, and that only the right socket closes.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { Client } from "./clients.mjs";
import { startWorker } from "./workerd.mjs";

describe("devices at the edge", () => {
  let worker;
  before(() => (worker = startWorker()));
  after(() => worker.dispose());

  const open = (user, device) =>
    Client.ready(worker, { path: `/v1/chat/connect?user=${user}&device=${device}`, protocol: "dunlin.v1.binary" });

  test("a device that was away gets what it missed, and one that is taken over closes", async () => {
    const desk = await open("ben", "desk");
    const hear = async () => {
      const phone = await open("ann", "phone");
      phone.say({ type: "open_session", request: 1 }, { type: "subscribe", request: 2, subscription: 1, filter: "chat/#", from: "session" });
      phone.session = await phone.next("session");
      await phone.next("subscribed");
      return phone;
    };
    const phone = await hear();
    assert.equal(phone.session.resumed, false);
    const publish = async (text) => {
      desk.say({ type: "publish", request: 1, topic: "chat/a", payload: new TextEncoder().encode(text) });
      await desk.next("receipt");
    };
    const taken = async (client) => new TextDecoder().decode((await client.next("delivery")).payload);
    await publish("1");
    assert.equal(await taken(phone), "1");
    const again = await hear();
    assert.equal(again.session.resumed, true);
    assert.equal(await taken(again), "1");
    assert.deepEqual(await phone.ended(), { code: 4008, reason: "session_replaced: another connection of the device has opened its session" });
    again.say({ type: "ack_session", request: 3, subscription: 1, sequence: 1n });
    await again.next("ok");
    again.close();
    await publish("2");
    const back = await hear();
    assert.equal(await taken(back), "2");
    back.close();
    desk.close();
  });

  test("who is kicked is told so without having said anything, and nobody else", async () => {
    const [phone, tablet, ben] = [await open("cleo", "phone"), await open("cleo", "tablet"), await open("ben", "desk")];
    ben.say({ type: "kick", request: 1, user: "cleo", device: "phone", reason: "it was lost" });
    assert.equal((await ben.next("affected")).messages, 1);
    assert.deepEqual(await phone.ended(), { code: 4003, reason: "kicked: it was lost" });
    for (const client of [tablet, ben]) {
      client.say({ type: "ping", request: 2 });
      await client.next("pong");
    }
  });
});
