// A chat: everybody sees who is in the room, and a phone that was away finds what it missed.

const ROOM = "examples/chat/kitchen";

/**
 * @param {import("dunlin").Client} client
 * @param {(who: import("dunlin").IdentityOptions) => Promise<import("dunlin").Client>} open gives further clients of the broker
 */
export async function run(client, open) {
  // The screen at the door.
  const door = client.presence(ROOM).watch();
  await shows(door);

  const ben = await open({ user: "ben", device: "desk" });
  await ben.presence(ROOM).enter("at the desk");
  await shows(door);

  const PHONE = { user: "ann", device: "phone", session: true };
  let ann = await open(PHONE);
  let inbox = ann.subscribe(ROOM, { session: true });
  await inbox.ready;
  await ann.presence(ROOM).enter("on the phone");
  await shows(door);

  await ben.publish(ROOM, "tea?");
  await reads("ann", inbox);
  // She asks for the next one, so she is done with this one; then she is in a tunnel.
  const next = inbox.next();
  await ann.close();
  await next;
  await shows(door);
  await ben.publish(ROOM, "it is ready");
  await ben.publish(ROOM, "it gets cold");

  ann = await open(PHONE);
  let waiting = 0;
  for await (const _ of ann.mailbox()) waiting++;
  console.log(`${waiting} messages wait for ann`);
  inbox = ann.subscribe(ROOM, { session: true });
  await ann.presence(ROOM).enter("on the phone again");
  await shows(door);
  await reads("ann", inbox);
  await reads("ann", inbox);

  // She logs out: nothing waits for her any more.
  await ann.presence(ROOM).leave();
  await shows(door);
  await ann.endSession();
  await Promise.all([ann.close(), ben.close()]);
  await shows(door);
  await door.return();
}

async function shows(door) {
  const { value } = await door.next();
  if (value.event === "snapshot") console.log(`in the room: ${value.members.map(({ user }) => user).join(", ") || "nobody"}`);
  else if (value.event === "join") console.log(`${value.member.user} comes in, ${value.member.text()}`);
  else console.log(`${value.member.user} is gone`);
}

async function reads(who, inbox) {
  const { value } = await inbox.next();
  console.log(`${who} reads: ${value.text()}`);
}
