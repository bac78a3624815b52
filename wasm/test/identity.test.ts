// Who a client says it is, as the rate limits of users notice it: over real sockets, on one connection for all tabs, and
// with a broker in this process.
import "fake-indexeddb/auto";

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";

import { WebSocket } from "ws";

import { connectWith } from "../ts/connect.ts";
import type { Socket, SocketFactory } from "../ts/link.ts";
import { openLocalWith } from "../ts/local.ts";
import type { Client, ConnectOptions, LocalOptions } from "../ts/types.ts";
import { code } from "./broker.ts";
import { held } from "./locks.ts";
import { Server } from "./server.ts";

const wasm = readFileSync(new URL("../engine/engine_bg.wasm", import.meta.url));
const create: SocketFactory = (url, protocol) => new WebSocket(url, protocol, {}) as Socket;

const server = new Server();
before(() => server.start());
after(() => server.end());

const clients: Client[] = [];
after(async () => {
  await Promise.all(clients.map((client) => client.close()));
  while (held.size > 0) await new Promise((resolve) => setImmediate(resolve));
});

/** Opens a client in one of the ways that there are, in a namespace of that name. */
type Open = (namespace: string, identity?: LocalOptions) => Promise<Client>;

const WAYS: Readonly<Record<string, Open>> = {
  "over a socket": async (namespace, identity) => kept(await connectWith(create, server.url, { ...identity, namespace })),
  "on one connection for all tabs": async (namespace, identity) =>
    kept(await connectWith(create, server.url, { ...identity, namespace, sharing: "tab" } satisfies ConnectOptions)),
  "with a broker in memory": async (namespace, identity) => kept(await openLocalWith(() => wasm, { ...identity, namespace, name: "identity" })),
  "with a broker on a database": async (namespace, identity) =>
    kept(await openLocalWith(() => wasm, { ...identity, namespace, name: "identity", store: "indexeddb" })),
};

function kept(client: Client): Client {
  clients.push(client);
  return client;
}

for (const [way, open] of Object.entries(WAYS)) {
  test(`a user is limited over all its devices ${way}`, async () => {
    const namespace = `limited-${Object.keys(WAYS).indexOf(way)}`;
    const nobody = await open(namespace);
    await nobody.configureLimit({ scope: "user", name: "Ann Bé+", rate: 1, perMs: 3_600_000, burst: 2 });
    const phone = await open(namespace, { user: "Ann Bé+", device: "phone" });
    const laptop = await open(namespace, { user: "Ann Bé+", device: "laptop" });
    await Promise.all([phone.publish("t", "1"), laptop.publish("t", "2")]);
    for (const client of [phone, laptop]) {
      await assert.rejects(client.publish("t", "3"), code("rate_limited", /over the limit of user "Ann Bé\+"/));
    }
    await (await open(namespace, { user: "ann" })).publish("t", "4");
    await nobody.publishBatch([{ topic: "t", payload: "5" }, { topic: "t", payload: "6" }, { topic: "t", payload: "7" }]);
  });

  test(`who minds echoes does not hear itself ${way}`, async () => {
    const namespace = `echo-${Object.keys(WAYS).indexOf(way)}`;
    const identity = { user: "ann", device: "phone" };
    const quiet = await open(namespace, { ...identity, echo: "connection" });
    const twin = await open(namespace, { ...identity, device: "desk", echo: "device" });
    const plain = await open(namespace, identity);
    const inboxes = [quiet, twin, plain].map((client) => client.subscribe("t"));
    await Promise.all(inboxes.map(({ ready }) => ready));
    for (const [client, text] of [[quiet, "quiet"], [twin, "twin"], [plain, "plain"], [await open(namespace), "the end"]] as const) {
      await client.publish("t", text);
    }
    const heard = await Promise.all(
      inboxes.map(async (inbox) => {
        const texts: string[] = [];
        for await (const message of inbox) {
          texts.push(message.text());
          if (texts.at(-1) === "the end") break;
        }
        return texts;
      }),
    );
    assert.deepEqual(heard, [["twin", "plain", "the end"], ["quiet", "plain", "the end"], ["quiet", "twin", "plain", "the end"]]);
  });

  test(`who cannot be is refused ${way}`, async () => {
    for (const [identity, message] of [
      [{ device: "phone" }, /a device is a user's; name the user too/],
      [{ user: "é".repeat(129) }, /the user has 258 bytes; use at most 256/],
      [{ user: "a", device: "b\n" }, /the device has the control character U\+000A; leave it out/],
      [{ echo: "none" as never }, /"echo" must be all, connection or device, not "none"/],
      [{ user: "a", echo: "device" }, /"echo" device needs a connection with a user and a device/],
      [{ user: "" }, /the option user must be text that is not empty/],
      [{ user: "a", device: 1 as never }, /the option device must be text that is not empty/],
    ] as const) {
      await assert.rejects(open("refused", identity), code("invalid_argument", message));
    }
  });
}
