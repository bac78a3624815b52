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
  await alice.close();
  await bob.close();
  return { heard: message.text(), offset: Number(receipt.offset), stored };
}

async function* withText(messages) {
  for await (const message of messages) yield { text: message.text() };
}

/** Keeps the broker of the database open. */
globalThis.hold = async () => void (globalThis.held = await openLocal({ store: "indexeddb" }));

globalThis.tryOpen = async () => {
  try {
    await (await openLocal({ store: "indexeddb" })).close();
    return "opened";
  } catch (error) {
    return `${error.code}: ${error.message}`;
  }
};
