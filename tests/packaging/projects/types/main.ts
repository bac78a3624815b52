// What the types promise, checked by the compiler alone.
import { DunlinError, connect, openLocal } from "dunlin";
import type { Answer, Client, ClientState, ConsumerGroup, DeadLetter, Delivery, FailedLease, PartitionedMember, QueueMember, Receipt, Subscription } from "dunlin";
import { openLocal as openInline } from "dunlin/inline";

export async function use(): Promise<void> {
  const client: Client = await connect("wss://broker.example", { namespace: "n", token: "t" });
  const state: ClientState = client.state;
  const receipt: Receipt = await client.publish("t", new Uint8Array(), { key: "k", durability: "sync" });
  const offset: bigint = receipt.offset;
  const subscription: Subscription = client.subscribe("t/#", { from: `offset:${offset}`, onGap: (gap) => gap.reason });
  for await (const delivery of subscription) {
    const kept: Delivery = delivery;
    const parsed: unknown = kept.json();
    console.log(state, parsed, kept.position);
    break;
  }
  for await (const message of client.history("t", { from: "last:5" })) message.text().toUpperCase();
  await using local = await openLocal({ store: "memory" });
  const persisted: Promise<boolean> = local.persisted;
  await (await connect("wss://broker.example", { sharing: "worker", worker: new URL("https://site.example/w.js") })).close();
  // @ts-expect-error: there are two places
  await openLocal({ store: "indexeddb", sharing: "everywhere" });
  await (await openInline()).close();
  const group: ConsumerGroup = client.group("g");
  const queue: QueueMember = group.joinQueue(["jobs/#"], { maxInFlight: 4 });
  for await (const job of queue) {
    const failed: FailedLease[] = await queue.ack([job]);
    if (failed.length > 0 && job.attempt > 1) await job.reject({ reason: failed[0]?.code ?? "" });
  }
  await using partitioned: PartitionedMember = group.joinPartitioned("t", { commit: "manual", onRevoked: (partitions) => console.log(partitions[0]?.topic) });
  for await (const message of partitioned) await message.commit();
  for await (const letter of group.deadLetters({ reason: "rejected" })) ((kept: DeadLetter) => console.log(kept.deadOffset))(letter);
  const answer: Answer = await client.request("q", "?", { timeoutMs: 5 });
  answer.text().toUpperCase();
  await client.publish("t", "later", { deliverAt: new Date(), producer: "p", producerSequence: 1n, waitMs: 5, retry: true });
  // @ts-expect-error: a subscription's deliveries have no lease
  for await (const delivery of subscription) await delivery.ack();
  // @ts-expect-error: a partitioned group has no leases
  await partitioned.ack([]);
  const stop: () => void = local.on("state", ({ error }) => error instanceof DunlinError && error.code);
  stop();
  if (await persisted) stop();
  // @ts-expect-error: a payload is bytes or text
  await client.publish("t", { a: 1 });
  // @ts-expect-error: positions have a grammar
  client.subscribe("t", { from: "yesterday" });
  // @ts-expect-error: JSON is unknown until it is checked
  for await (const message of client.history("t")) message.json().toUpperCase();
}
