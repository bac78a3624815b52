// A namespace with something of everything, and all that a client can read of it. Runs wherever the npm package does.

/** Bounds so small that a few messages make segments, compaction and retention happen. */
export const CONFIG = { segment_bytes_max: 600, compaction_bytes_min: 300, tombstone_ms_min: 0 };

const TOPICS = {
  "orders/eu": { kind: "log", ordering: "per_key", partitions: 3, durability: "sync" },
  "orders/none": { kind: "log", ordering: "none", partitions: 2 },
  "news": { kind: "log", ordering: "global" },
  "trimmed": { kind: "log", maxMessages: 5 },
  "prices": { kind: "compacted", ordering: "per_key", partitions: 2 },
  "status": { kind: "last_value" },
  "cursor/position": { kind: "live", durability: "none" },
  "empty": { kind: "log" },
  "blobs": { kind: "log" },
};

const YEAR_MS = 365 * 24 * 3_600_000;

/** @param {import("dunlin").Client} client */
export async function furnish(client) {
  // What is kept for a time only would not be there for ever.
  for (const [topic, config] of Object.entries(TOPICS)) await client.configureTopic(topic, { maxAgeMs: 0, ...config });
  for (let n = 0; n < 60; n += 1) {
    const key = `k${n % 7}`;
    await client.publish("orders/eu", `order ${n} ${"x".repeat(n)}`, {
      key,
      contentType: "text/plain; charset=utf-8",
      headers: [["trace", String(n)], ["trace", "second"], ["empty", ""]],
      id: `id-${n}`,
    });
    await client.publish("orders/none", Uint8Array.from({ length: n }, (_, index) => (index * 37 + n) % 256));
    await client.publish("trimmed", `${n} ${"t".repeat(100)}`);
    await client.publish("prices", `${key} costs ${n}`, { key });
    await client.publish("status", `state ${n}`);
    await client.publish("cursor/position", `at ${n}`);
  }
  for (let seed = 1; seed <= 3; seed += 1) await client.publish("blobs", noise(seed, 24_000));
  await client.publishBatch(["äöü", "𝄞 and \u0000", ""].map((payload) => ({ topic: "news", payload, ttlMs: 100 * YEAR_MS })));
  // Nothing stays of a key that was deleted, but its place.
  await client.publish("prices", "", { key: "k3" });
  await client.configureTopic("deleted", {});
  await client.publish("deleted", "gone");
  await client.deleteTopic("deleted");
}

/** Bytes that no compression makes fewer (Marsaglia, "Xorshift RNGs"). */
function noise(seed, length) {
  let state = seed * 0x9e3779b9;
  return Uint8Array.from({ length }, () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state & 0xff;
  });
}

/**
 * All topics with their configurations, and all messages: an object a line of NDJSON.
 * @param {import("dunlin").Client} client
 */
export async function survey(client) {
  const lines = [];
  for await (const topic of client.listTopics()) {
    const { partitions, ...config } = await client.describeTopic(topic);
    // Of a live topic nothing is kept, and each start of a broker begins at a higher offset.
    const isKept = config.kind !== "live";
    const extents = partitions.map(({ logStartOffset, logEndOffset }) => [Number(logStartOffset), Number(logEndOffset)]);
    lines.push({ ...config, partitions: isKept ? extents : partitions.length });
    for (const partition of isKept ? partitions.keys() : []) {
      for await (const message of client.history(topic, { partition })) lines.push({ topic, partition, ...record(message) });
    }
  }
  // As it is read back from a file: what is undefined is not there.
  return JSON.parse(JSON.stringify(lines));
}

function record({ offset, sequence, timestamp, payload, key, contentType, headers, id, expiresAt }) {
  const hex = Array.from(payload, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { offset: Number(offset), sequence: Number(sequence), timestamp, payload: hex, key, contentType, headers, id, expiresAt };
}
