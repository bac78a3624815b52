// What was published against what was read.

/**
 * Throws unless `read` holds every published record once, unchanged, and those of one key in the order in which they
 * were published. Both are lists of `{ topic, key, payload }`.
 */
export function compare(published, read, reader) {
  const wanted = new Map(published.map((record, index) => [name(record), { record, index }]));
  const seen = new Set();
  const lastOfKey = new Map();
  for (const one of read) {
    const { record, index } = wanted.get(name(one)) ?? fail(reader, "came, but was never published", one);
    if (seen.has(name(one))) fail(reader, "came twice", one);
    seen.add(name(one));
    if (one.payload !== record.payload || one.key !== record.key) fail(reader, `differs from ${JSON.stringify(record)}`, one);
    const key = `${one.topic}\n${one.key}`;
    if (index < (lastOfKey.get(key) ?? -1)) fail(reader, "came behind a later line of its key", one);
    lastOfKey.set(key, index);
  }
  for (const [missing, { record }] of wanted) if (!seen.has(missing)) fail(reader, "is missing", record);
}

function name({ topic, payload }) {
  const { number } = JSON.parse(payload);
  return `${topic}#${number}`;
}

function fail(reader, what, { topic, key, payload }) {
  throw new Error(`${reader}: a line of ${topic} with the key ${JSON.stringify(key)} ${what}: ${payload}`);
}
