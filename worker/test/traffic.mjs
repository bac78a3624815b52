// Clients of the npm package, and one over HTTP, that publish all the time while something happens to the broker; one
// listens. A ledger keeps what they were told, and is compared with what is stored in the end.
import assert from "node:assert/strict";
import { setTimeout as wait } from "node:timers/promises";

import { connect } from "dunlin";

import { AUTHORIZED, TOKENS } from "./workerd.mjs";

const TOPIC = "traffic";
/** A publisher has so many messages on their way, and rests for so long when all were answered. */
const IN_FLIGHT = 8;
const REST_MS = 20;
/** Nothing that is waited for takes this long, connecting again included. */
const PATIENCE_MS = 30_000;
/** After these nobody knows, or nothing was stored: the message is in no ledger. */
const EXCUSES = ["connection_lost", "storage_unavailable"];

export class Traffic {
  /** How often one of the sockets was lost. */
  reconnects = 0;
  #url;
  #clients = [];
  #running = [];
  #stopped = false;
  #receipts = new Map();
  #acknowledged = new Map();
  #failures = [];
  #heard = [];
  #wake = () => {};

  /** @param {import("miniflare").Miniflare} worker */
  static async start(worker) {
    const traffic = new Traffic();
    traffic.#url = await worker.ready;
    const listener = await traffic.#connect();
    const subscription = listener.subscribe(TOPIC, { from: "earliest", onGap: (gap) => traffic.#failures.push(gap) });
    await subscription.ready;
    traffic.#running.push(traffic.#listen(subscription));
    for (const name of ["one", "two"]) {
      const client = await traffic.#connect();
      traffic.#running.push(traffic.#publish(name, (payload) => client.publish(TOPIC, payload)));
    }
    traffic.#running.push(traffic.#publish("http", (payload) => traffic.#post(payload)));
    await traffic.progress();
    return traffic;
  }

  /** Every publisher gets more receipts, those of all that it has on its way. */
  async progress() {
    const before = new Map(this.#receipts);
    const goal = (name) => (before.get(name) ?? 0) + 2 * IN_FLIGHT;
    await this.#until(() => ["one", "two", "http"].every((name) => (this.#receipts.get(name) ?? 0) >= goal(name)));
  }

  /** Ends the traffic. Everything that was acknowledged must be stored, once, in its place, and heard in order. */
  async check() {
    const client = await this.#connect();
    this.#stopped = true;
    const stored = [];
    await Promise.all(this.#running.slice(1));
    for await (const record of client.history(TOPIC, { from: "earliest" })) stored.push(record);
    await this.#until(() => this.#heard.length >= stored.length);
    await Promise.all(this.#clients.map((client) => client.close()));
    await this.#running[0];

    assert.deepEqual(this.#failures, []);
    const payloads = stored.map((record) => record.text());
    assert.deepEqual(stored.map(({ offset }) => Number(offset)), Object.keys(stored).map(Number), "offsets have no holes");
    assert.ok(stored.every(({ sequence }, at) => at === 0 || sequence > stored[at - 1].sequence), "sequences rise");
    assert.equal(new Set(payloads).size, payloads.length, "nothing is stored twice");
    const last = new Map();
    for (const [payload, offset] of this.#acknowledged) {
      assert.equal(payloads[offset], payload, `${payload} was acknowledged at ${offset}`);
      const [publisher] = payload.split("/");
      assert.ok(publisher === "http" || offset > (last.get(publisher) ?? -1), `${payload} is in order`);
      last.set(publisher, offset);
    }
    assert.deepEqual(this.#heard, payloads, "everything is heard, once and in order");
    return { acknowledged: this.#acknowledged.size, stored: stored.length };
  }

  async #connect() {
    const client = await connect(new URL(`ws://${this.#url.host}`), { namespace: "chat", token: TOKENS.chat });
    client.on("state", ({ state }) => (this.reconnects += state === "reconnecting" ? 1 : 0));
    this.#clients.push(client);
    return client;
  }

  async #listen(subscription) {
    try {
      for await (const message of subscription) {
        this.#heard.push(message.text());
        this.#wake();
      }
    } catch (error) {
      if (error.code !== "closed") this.#failures.push(error);
    }
  }

  async #publish(name, publish) {
    for (let round = 0; !this.#stopped; round += 1) {
      const payloads = Array.from({ length: IN_FLIGHT }, (_, n) => `${name}/${round * IN_FLIGHT + n}`);
      const outcomes = await Promise.allSettled(payloads.map(publish));
      for (const [n, { value, reason }] of outcomes.entries()) {
        if (value !== undefined) this.#acknowledged.set(payloads[n], Number(value.offset));
        else if (!EXCUSES.includes(reason.code)) this.#failures.push(reason);
      }
      const receipts = outcomes.filter(({ status }) => status === "fulfilled").length;
      this.#receipts.set(name, (this.#receipts.get(name) ?? 0) + receipts);
      this.#wake();
      await wait(REST_MS);
    }
  }

  async #post(payload) {
    const lost = (cause) => Object.assign(new Error("lost", { cause }), { code: "connection_lost" });
    const url = new URL(`/v1/chat/topics/${TOPIC}`, this.#url);
    const response = await fetch(url, { method: "POST", body: payload, headers: AUTHORIZED }).catch((cause) => Promise.reject(lost(cause)));
    const answer = await response.json().catch((cause) => Promise.reject(lost(cause)));
    if (response.status !== 200) throw Object.assign(new Error(answer.message), answer);
    return answer;
  }

  async #until(holds) {
    const timeout = setTimeout(() => this.#wake(new Error(`waited in vain: ${JSON.stringify([...this.#receipts])}, ${this.#failures.map(String)}`)), PATIENCE_MS);
    try {
      while (!holds()) {
        await new Promise((resolve, reject) => {
          this.#wake = (error) => (error === undefined ? resolve(undefined) : reject(error));
        });
      }
    } finally {
      clearTimeout(timeout);
    }
  }
}
