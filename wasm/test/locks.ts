// Web Locks as a browser has them, for the one process of a test: exclusive, granted in the order of asking.

interface Waiting {
  readonly grant: () => void;
}

/** The locks that are held, with those that wait for them. */
export const held = new Map<string, Waiting[]>();

const locks = {
  request(name: string, ...rest: [((lock: object) => unknown)] | [{ signal?: AbortSignal }, (lock: object) => unknown]): Promise<unknown> {
    const use = rest.at(-1) as (lock: object) => unknown;
    const { signal } = (rest.length === 2 ? rest[0] : {}) as { signal?: AbortSignal };
    return new Promise((resolve, reject) => {
      const letGo = (): void => {
        const next = held.get(name)?.shift();
        if (next === undefined) held.delete(name);
        else next.grant();
      };
      const waiting: Waiting = {
        grant() {
          signal?.removeEventListener("abort", abort);
          // Not at once: a browser grants from another process.
          setImmediate(async () => {
            try {
              resolve(await use({ name }));
            } catch (error) {
              reject(error);
            } finally {
              letGo();
            }
          });
        },
      };
      const abort = (): void => {
        const queue = held.get(name);
        queue?.splice(queue.indexOf(waiting), 1);
        reject(signal?.reason);
      };
      signal?.throwIfAborted();
      const queue = held.get(name);
      if (queue === undefined) {
        held.set(name, []);
        waiting.grant();
      } else {
        signal?.addEventListener("abort", abort);
        queue.push(waiting);
      }
    });
  },
};

Object.defineProperty(globalThis, "navigator", { configurable: true, value: { locks } });
