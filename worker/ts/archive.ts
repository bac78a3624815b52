// A namespace as a stream of bytes: each part of its archive is asked for when the client has taken the one before.

import { archive_part, archive_type, part_frames } from "../dist/gateway/gateway.js";
import type { ArchivePart } from "../dist/gateway/gateway.js";

/** Answers with the archive of the namespace that `object` is, or with the broker's refusal. `door` takes commands. */
export async function streamArchive(object: Fetcher, namespace: string, door: string): Promise<Response> {
  const ask = async (exported: bigint, part: number): Promise<ArchivePart> => {
    const response = await object.fetch(door, { method: "POST", body: part_frames(exported, part) });
    if (response.status !== 200) throw new Error(await response.text());
    return archive_part(new Uint8Array(await response.arrayBuffer()));
  };
  const first = await ask(0n, 0);
  if (first.refusal !== undefined) return first.refusal;
  const exported = first.export;
  let given = 0;
  const pull = async (controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> => {
    const part = given === 0 ? first : await ask(exported, given);
    given += 1;
    try {
      // Too late for another status: the client gets no whole archive, and can see that.
      if (part.refusal !== undefined) throw new Error(await part.refusal.text());
      controller.enqueue(part.bytes);
      if (part.last) controller.close();
    } finally {
      part.free();
    }
  };
  return new Response(new ReadableStream({ pull }, { highWaterMark: 0 }), {
    headers: {
      "content-type": archive_type(),
      // The broker has taken it for a namespace, so the name is plain.
      "content-disposition": `attachment; filename="${namespace}.dunlin"`,
      "cache-control": "no-store",
    },
  });
}
