/** Devices and users: who there is, what waits for them, and who is to go. */

import type { Connection } from "./connection.ts";
import { Received } from "./message.ts";
import type { Device, DevicesOptions, KickOptions, Message, TransferOptions, UserDescription } from "./types.ts";

/** How many names or messages are asked for at once. */
const PAGE_NAMES = 1000;
const PAGE_MESSAGES = 256;

export async function endSession(connection: Connection): Promise<void> {
  await connection.ask("ok", { type: "end_session" }, "reject");
}

export async function* mailbox(connection: Connection, { signal }: TransferOptions): AsyncGenerator<Message, void> {
  let after: bigint | undefined;
  for (;;) {
    const page = await connection.ask("mailbox", { type: "read_mailbox", after, messagesMax: PAGE_MESSAGES }, "resend", signal);
    for (const record of page.records) yield new Received(record.topic, record.partition, record);
    after = page.records.at(-1)?.sequence;
    if (!page.more || after === undefined) return;
  }
}

export async function waiting(connection: Connection): Promise<number> {
  return (await connection.ask("mailbox", { type: "read_mailbox", messagesMax: 1 }, "resend")).waiting;
}

export async function* devices(connection: Connection, { user, signal }: DevicesOptions): AsyncGenerator<Device, void> {
  let after: string | undefined;
  for (;;) {
    const page = await connection.ask("devices", { type: "list_devices", user, after, devicesMax: PAGE_NAMES }, "resend", signal);
    yield* page.devices;
    after = page.devices.at(-1)?.device;
    if (!page.more || after === undefined) return;
  }
}

export async function kick(connection: Connection, user: string, { device, reason }: KickOptions): Promise<number> {
  return (await connection.ask("affected", { type: "kick", user, device, reason }, "reject")).messages;
}

export async function describeUser(connection: Connection, user: string): Promise<UserDescription> {
  const { type: _type, request: _request, ...description } = await connection.ask("user", { type: "describe_user", user }, "resend");
  return description;
}

export async function* users(connection: Connection, { signal }: TransferOptions): AsyncGenerator<string, void> {
  let after: string | undefined;
  for (;;) {
    const page = await connection.ask("users", { type: "list_users", after, usersMax: PAGE_NAMES }, "resend", signal);
    yield* page.users;
    after = page.users.at(-1);
    if (!page.more || after === undefined) return;
  }
}
