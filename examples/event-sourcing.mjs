// Event sourcing: a log holds what happened to accounts; their balances are a projection of it, built by two consumers.

const TOPIC = "examples/accounts";
const ACCOUNTS = ["rent", "food", "books", "music", "travel", "gifts", "tools", "garden"];

/** @param {import("dunlin").Client} client */
export async function run(client) {
  // What happened to one account lies in one partition, in its order, and for ever.
  const keepAll = { maxMessages: 0, maxBytes: 0, maxAgeMs: 0 };
  await client.configureTopic(TOPIC, { ordering: "per_key", partitions: 4, ...keepAll });

  // Each partition belongs to one consumer; together they keep one projection.
  const group = await groupAtTheBeginning(client, "examples-balances");
  const balances = new Projection((balance, amount) => balance + amount);
  const ann = await join(group, "ann");
  const bob = await join(group, "bob");
  const events = await record(client);

  // When one leaves, the other gets its partitions, and goes on where it was.
  let bobs = 0;
  await Promise.all([
    project(ann, balances, () => balances.events === events),
    project(bob, balances, () => (bobs += 1) === 10),
  ]);
  console.log(`balances: ${balances}`);

  // Another group has a place of its own in the log: a projection that was thought of today begins with the first event.
  const cleo = await join(await groupAtTheBeginning(client, "examples-highest"), "cleo");
  const highest = new Projection((most, amount) => Math.max(most, amount));
  await project(cleo, highest, () => highest.events === events);
  console.log(`highest: ${highest}`);
}

/** Publishes ten events for each account; how many there are in all. */
async function record(client) {
  for (let n = 1; n <= 10; n += 1) {
    const amount = (index) => (n % 3 === 0 ? -n : n) * (index + 1);
    await client.publishBatch(ACCOUNTS.map((key, index) => ({ topic: TOPIC, key, payload: `${amount(index)}` })));
  }
  const { partitions } = await client.describeTopic(TOPIC);
  return partitions.reduce((sum, { logEndOffset }) => sum + Number(logEndOffset), 0);
}

/** A group that reads all there is: these projections live in memory only, so there is no earlier place to go on from. */
async function groupAtTheBeginning(client, name) {
  const group = client.group(name);
  await group.configure({ kind: "partitioned", filters: [TOPIC] });
  await group.reset("earliest");
  return group;
}

/** A member of the group, as soon as it has partitions. */
function join(group, name) {
  return new Promise((resolve, reject) => {
    const member = group.joinPartitioned(TOPIC, {
      member: name,
      onAssigned(partitions) {
        console.log(`${name} gets ${partitions.length} partitions`);
        resolve(member);
      },
    });
    member.ready.catch(reject);
  });
}

/** Takes events until it is enough, and leaves. */
async function project(member, projection, isEnough) {
  for await (const event of member) {
    projection.apply(event);
    if (!isEnough()) continue;
    // The event with which a loop is left may have failed, so that it is done has to be said.
    await event.commit();
    console.log(`${member.member} leaves`);
    break;
  }
}

/** A value for each account, made of its events. An event that comes again, after a crash perhaps, counts once. */
class Projection {
  events = 0;
  #reduce;
  #values = new Map(ACCOUNTS.map((account) => [account, 0]));
  #next = new Map();

  constructor(reduce) {
    this.#reduce = reduce;
  }

  apply(event) {
    const { key, partition, offset } = event;
    if (offset < (this.#next.get(partition) ?? 0n)) return;
    this.#next.set(partition, offset + 1n);
    this.#values.set(key, this.#reduce(this.#values.get(key), Number(event.text())));
    this.events += 1;
  }

  toString() {
    return [...this.#values].map(([account, value]) => `${account} ${value}`).join(", ");
  }
}
