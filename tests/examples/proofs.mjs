// What each example leaves behind, read from the broker: an object of plain values. Runs wherever the npm package does.

/** @type {Record<string, (client: import("dunlin").Client) => Promise<unknown>>} */
export const proofs = {
  async "task-queue"(client) {
    const { deadLetters, partitions, members } = await client.group("examples-postmen").describe();
    const letters = await stored(client, "examples/letters");
    return { letters: letters.length, lags: partitions.map(({ lag }) => lag), deadLetters, members };
  },

  async "event-sourcing"(client) {
    const balances = {};
    const highest = {};
    for (const event of await stored(client, "examples/accounts")) {
      const amount = Number(event.text());
      balances[event.key] = (balances[event.key] ?? 0) + amount;
      highest[event.key] = Math.max(highest[event.key] ?? 0, amount);
    }
    const groups = await Promise.all(["examples-balances", "examples-highest"].map((name) => client.group(name).describe()));
    const lags = groups.flatMap(({ partitions }) => partitions.map(({ lag }) => lag));
    return { balances, highest, lags, members: groups.flatMap(({ members }) => members) };
  },

  async "rate-limited-ingest"(client) {
    const messages = await stored(client, "examples/readings");
    const readings = {};
    for (const message of messages) (readings[message.key] ??= []).push(message.text());
    const times = messages.map(({ timestamp }) => timestamp);
    // In any second of a round, wherever it begins: every round sets its limit anew, and so begins with a full one.
    const rounds = [times.slice(0, times.length / 2), times.slice(times.length / 2)];
    const busiest = Math.max(
      ...rounds.flatMap((round) => round.map((begin) => round.filter((time) => time >= begin && time < begin + 1000).length)),
    );
    return { readings, busiest, limits: await client.limits() };
  },

  async chat(client) {
    const said = (await stored(client, "examples/chat/kitchen")).map((message) => message.text());
    return { said, present: await client.presence("examples/chat/kitchen").members() };
  },
};

/** All messages of a topic. */
async function stored(client, topic) {
  const { partitions } = await client.describeTopic(topic);
  const messages = [];
  for (const partition of partitions.keys()) {
    for await (const message of client.history(topic, { partition })) messages.push(message);
  }
  return messages;
}
