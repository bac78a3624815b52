/** What a page says that has nothing to show: what would be here, and how it comes to be. */

import { button, make } from "./dom.ts";

/** Writes it into the place, or hides the place; `example` is a line of a program that can be copied. */
export function showEmpty(place: HTMLElement, empty: Empty | undefined): void {
  place.hidden = empty === undefined;
  if (empty === undefined) return;
  // What is there already stays, with a selection in it.
  const told = `${empty.title}\n${empty.text}\n${empty.example ?? ""}`;
  if (place.dataset["told"] === told) return;
  place.dataset["told"] = told;
  const example = empty.example === undefined ? [] : [exampleOf(empty.example)];
  place.replaceChildren(make("p", "empty-title", empty.title), make("p", "", empty.text), ...example);
}

export interface Empty {
  readonly title: string;
  readonly text: string;
  readonly example?: string;
}

function exampleOf(text: string): HTMLElement {
  const code = make("pre", "", text);
  code.tabIndex = 0;
  const copy = button("Copy", "small", () => void copied());
  const copied = async (): Promise<void> => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    } catch {
      // Pages that came by http may not write there; then it is ready for the keyboard.
      getSelection()?.selectAllChildren(code);
      copy.textContent = "Selected";
    }
  };
  return make("div", "example", code, copy);
}
