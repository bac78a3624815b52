/** The keyboard: one table, which is also what the help shows. */

import { byId, make } from "./dom.ts";

export interface Shortcut {
  /** What is pressed, as in `KeyboardEvent.key`, lower case. */
  readonly key: string;
  /** What the help says. */
  readonly words: string;
  /** Only listed: somebody else listens for it. */
  readonly act?: () => void;
}

/** Listens, and fills the help. Letters are shortcuts only where nobody types. */
export function mountShortcuts(shortcuts: readonly Shortcut[]): void {
  const help = byId("help", HTMLDialogElement);
  byId("help-open", HTMLButtonElement).addEventListener("click", () => help.showModal());
  byId("shortcuts", HTMLElement).replaceChildren(
    ...shortcuts.flatMap(({ key, words }) => [make("dt", "", ...caps(key)), make("dd", "", words)]),
  );
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]") !== null) return;
    const { target } = event;
    if (event.key !== "Escape" && target instanceof Element && target.closest("input, select, textarea, [contenteditable]")) return;
    // A pressed button keeps its own keys.
    if (event.key === " " && target instanceof Element && target.closest("button, summary")) return;
    const shortcut = shortcuts.find(({ key }) => key === event.key.toLowerCase());
    if (shortcut?.act === undefined) return;
    event.preventDefault();
    shortcut.act();
  });
}

function caps(key: string): HTMLElement[] {
  const names: Record<string, string> = { " ": "Space", escape: "Esc" };
  return key.split(" or ").flatMap((one) => make("kbd", "", names[one] ?? (one.length === 1 ? one.toUpperCase() : one)));
}
