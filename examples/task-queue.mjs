// A task queue: two workers send letters. One letter needs three attempts, one has no address until somebody adds it.

const TOPIC = "examples/letters";
const RECIPIENTS = ["ann", "bob", "cleo", "dan"];

/** @param {import("dunlin").Client} client */
export async function run(client) {
  // On a topic with an order a queue deals out one message at a time; letters may overtake each other.
  await client.configureTopic(TOPIC, { ordering: "none" });
  const queue = client.group("examples-postmen");
  await queue.configure({ kind: "queue", filters: [TOPIC], maxDeliveryAttempts: 3, ackDeadlineMs: 10_000 });
  // What an earlier run left behind is no concern of this one.
  await queue.reset("latest");
  await queue.deleteDeadLetters();

  const post = new Post();
  await client.publishBatch(RECIPIENTS.map((to) => ({ topic: TOPIC, payload: JSON.stringify({ to }) })));
  console.log(`published ${RECIPIENTS.length} letters`);
  await work(queue, post, RECIPIENTS.length);

  for await (const letter of queue.deadLetters()) {
    console.log(`dead: the letter to ${letter.json().to}, ${letter.reason} after ${letter.attempts} attempts`);
  }

  post.addresses.set("dan", "4 Harbour Road");
  console.log("dan has an address now");
  const working = work(queue, post, 1);
  console.log(`replayed ${await queue.replayDeadLetters()} letter`);
  await working;

  const { deadLetters, partitions } = await queue.describe();
  console.log(`left: ${partitions.reduce((sum, { lag }) => sum + lag, 0)} letters, ${deadLetters} dead`);
}

/** Two workers, until so many letters have been sent or have died. */
async function work(queue, post, letters) {
  const workers = [queue.joinQueue(TOPIC), queue.joinQueue(TOPIC)];
  const leave = () => Promise.all(workers.map((worker) => worker.close()));
  await Promise.all(
    workers.map(async (worker) => {
      for await (const letter of worker) {
        const { to } = letter.json();
        try {
          post.send(to);
          await letter.ack();
          console.log(`sent to ${to}, attempt ${letter.attempt}`);
        } catch (error) {
          await letter.nack({ delayMs: 50 });
          console.log(`not sent to ${to}, attempt ${letter.attempt}: ${error.message}`);
          if (letter.attempt < 3) continue;
        }
        letters -= 1;
        if (letters === 0) void leave();
      }
    }),
  );
}

/** What is done with a letter: it fails now and then, as such things do. */
class Post {
  addresses = new Map([["ann", "1 Mill Lane"], ["bob", "2 Mill Lane"], ["cleo", "3 High Street"]]);
  #closedFor = 2;

  send(to) {
    if (!this.addresses.has(to)) throw new Error("no address");
    if (to === "cleo" && this.#closedFor-- > 0) throw new Error("the street is closed");
  }
}
