/**
 * Whether the browser has put this page aside: into its back/forward cache, or frozen with its tab. Such a page runs
 * nothing, so it must hold nothing that others wait for. Workers are never put aside.
 */

let isAside = false;
let isWatching = false;
const leaving = new Set<() => void>();
const returning = new Set<() => void>();

/** Calls back when the page is put aside, or ends; the returned function prevents it. */
export function whenPutAside(callback: () => void): () => void {
  watch();
  leaving.add(callback);
  return () => leaving.delete(callback);
}

/** Resolves when the page is not aside, at once if it is not now. */
export function awake(): Promise<void> {
  watch();
  return isAside ? new Promise((resolve) => returning.add(resolve)) : Promise.resolve();
}

function watch(): void {
  if (isWatching || typeof document === "undefined") return;
  isWatching = true;
  const leave = (): void => {
    isAside = true;
    for (const callback of [...leaving]) callback();
  };
  const comeBack = (): void => {
    isAside = false;
    for (const callback of returning) callback();
    returning.clear();
  };
  addEventListener("pagehide", leave);
  addEventListener("pageshow", comeBack);
  document.addEventListener("freeze", leave);
  document.addEventListener("resume", comeBack);
}
