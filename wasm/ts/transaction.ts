/** A transaction: what deliveries of several members and messages become together. Whether it may be the broker says. */

import type { OnLoss, Unnumbered } from "./connection.ts";
import { invalid } from "./errors.ts";
import type { MessageFields, Place } from "./frames.ts";
import type { Owner } from "./inbox.ts";
import { OwnedMessage } from "./partitioned.ts";
import { LeasedMessage } from "./queue.ts";
import type { PublishBatchOptions, Transaction } from "./types.ts";

export async function transaction(
  owner: Owner,
  messages: readonly MessageFields[],
  { acks = [], commits = [] }: Transaction,
  { durability, waitMs, signal }: PublishBatchOptions,
  onLoss: OnLoss,
): Promise<Place[]> {
  if (onLoss === "resend" && messages.length === 0) throw invalid("retry needs messages: by their ids the broker knows what was done");
  const leases = listed("acks", acks).map((delivery) => {
    if (!(delivery instanceof LeasedMessage)) throw invalid("only deliveries of a queue can be in acks");
    own(owner, delivery.owner);
    return { lease: delivery.lease };
  });
  const commitments = listed("commits", commits).map((delivery) => {
    if (!(delivery instanceof OwnedMessage)) throw invalid("only deliveries of a partitioned group can be in commits");
    own(owner, delivery.owner);
    return delivery.commitment();
  });
  const offsets = commitments.map(({ offset }) => offset);
  const command: Unnumbered = { type: "transact", messages, leases, offsets, durability, waitMs };
  const { receipts } = await owner.connection.ask("transacted", command, onLoss, signal);
  for (const { committed } of commitments) committed();
  return receipts;
}

function listed<Delivery>(name: string, deliveries: readonly Delivery[]): readonly Delivery[] {
  if (!Array.isArray(deliveries)) throw invalid(`${name} must be a list of deliveries`);
  return deliveries;
}

function own(owner: Owner, other: Owner): void {
  if (owner !== other) throw invalid("a transaction takes deliveries of its own client alone");
}
