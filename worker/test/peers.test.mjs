// Which sockets the object knows, in this life and from the one before.
import assert from "node:assert/strict";
import { before, test } from "node:test";

import { importTypeScript } from "./clients.mjs";

const { Peers } = await importTypeScript("../ts/peers.ts");

before(() => {
  globalThis.WebSocket = { OPEN: 1, CLOSING: 2 };
});

/** A socket in the runtime's hands: what it carries outlives the object. */
class Socket {
  readyState = WebSocket.OPEN;
  #attachment = null;
  serializeAttachment(attachment) {
    this.#attachment = structuredClone(attachment);
  }
  deserializeAttachment() {
    return structuredClone(this.#attachment);
  }
}

test("a socket was heard of when something last came from it, or the runtime last answered it, also in earlier lives", (context) => {
  context.mock.timers.enable({ apis: ["Date"], now: 1_700_000_000_000 });
  const begun = Date.now();
  const sockets = [];
  const answered = new Map();
  const runtime = {
    getWebSockets: () => sockets,
    acceptWebSocket: (socket) => void sockets.push(socket),
    getWebSocketAutoResponseTimestamp: (socket) => answered.get(socket) ?? null,
  };
  const earlier = new Peers(runtime);
  const [silent, speaking, pinging] = [new Socket(), new Socket(), new Socket()];
  for (const socket of [silent, speaking, pinging]) earlier.accept(socket, "json");
  context.mock.timers.tick(20_000);
  for (const socket of [speaking, pinging]) earlier.hear(socket);
  context.mock.timers.tick(20_000);
  answered.set(pinging, new Date());
  context.mock.timers.tick(20_000);
  const heard = [...new Peers(runtime).signs()].map(({ at }) => at - begun);
  assert.deepEqual(heard, [0, 20_000, 40_000]);
});

test("a socket that closes late, after the object woke, is not taken for one that came since", (context) => {
  context.mock.timers.enable({ apis: ["Date"], now: 1_700_000_000_000 });
  const sockets = [];
  const runtime = { getWebSockets: () => sockets, acceptWebSocket: (socket) => void sockets.push(socket) };
  const [kept, late, fresh] = [new Socket(), new Socket(), new Socket()];
  const earlier = new Peers(runtime);
  earlier.accept(kept, "json");
  earlier.accept(late, "json");
  late.readyState = WebSocket.CLOSING;

  context.mock.timers.tick(10_000);
  const woken = new Peers(runtime);
  const number = woken.accept(fresh, "binary");
  assert.equal(woken.find(late), undefined);
  assert.deepEqual(woken.find(fresh), { connection: number, encoding: "binary", heardAt: Date.now(), isNew: true });
  assert.deepEqual(woken.find(kept), kept.deserializeAttachment());
  assert.ok(number <= Number.MAX_SAFE_INTEGER);

  context.mock.timers.setTime(1_600_000_000_000);
  assert.ok(new Peers(runtime).accept(new Socket(), "json") > number, "the clock was set back");
});

test("a close is said once the client has said something, also over a sleep", () => {
  const sockets = [];
  const runtime = { getWebSockets: () => sockets, acceptWebSocket: (socket) => void sockets.push(socket) };
  const closed = [];
  const socket = () => Object.assign(new Socket(), { close: (...how) => closed.push(how) });
  const [refused, refusedEarlier, heard] = [socket(), socket(), socket()];
  const peers = new Peers(runtime);
  const [first, second, third] = [refused, refusedEarlier, heard].map((each) => peers.accept(each, "json"));
  assert.equal(peers.hear(heard).connection, third);
  peers.close(first, 4008, "limit_reached: no");
  peers.close(second, 4008, "limit_reached: no");
  assert.deepEqual(closed, []);
  peers.close(third, 4003, "kicked: you");
  assert.deepEqual(closed.splice(0), [[4003, "kicked: you"]]);
  assert.equal(peers.hear(refused), undefined);
  assert.deepEqual(closed.splice(0), [[4008, "limit_reached: no"]]);
  const woken = new Peers(runtime);
  assert.deepEqual([...woken.survivors()].map(({ connection }) => connection), [third]);
  assert.equal(woken.hear(refusedEarlier), undefined);
  assert.deepEqual(closed, [[4008, "limit_reached: no"]]);
});
