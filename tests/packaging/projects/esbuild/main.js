// A page, as a user would write it. The test calls these.
import { connect, openLocal } from "dunlin/inline";

globalThis.chat = (store) => chatOver(store, () => openLocal({ store }));

globalThis.chatWith = (broker, namespace) => chatOver("broker", () => connect(broker, { namespace }));

async function chatOver(words, open) {
  const [alice, bob] = await Promise.all([open(), open()]);
  const inbox = bob.subscribe("chat/#");
  await inbox.ready;
  const receipt = await alice.publish("chat/room", `hello ${words}`, { durability: "sync" });
  const { value: message } = await inbox.next();
  const stored = [];
  for await (const { text } of withText(bob.history("chat/room"))) stored.push(text);
  const readers = bob.group("readers").joinQueue("chat/#");
  const { value: job } = await readers.next();
  await job.ack();
  if (job.text() !== message.text()) throw new Error(`a member got ${job.text()}`);
  await alice.close();
  await bob.close();
  return { heard: message.text(), offset: Number(receipt.offset), stored };
}

async function* withText(messages) {
  for await (const message of messages) yield { text: message.text() };
}

/** A client that stays, and says what was stored before it came. */
globalThis.join = async (words) => {
  globalThis.client = await openLocal({ store: "indexeddb" });
  const stored = [];
  await client.configureTopic("tabs");
  for await (const { text } of withText(client.history("tabs"))) stored.push(text);
  await client.publish("tabs", words);
  return stored;
};
