/** Light or dark: what the system says, until somebody chooses; the choice is remembered. */

import { byId } from "./dom.ts";

type Theme = "light" | "dark";

const STORED_AS = "dunlin.theme";

/** Applies what was chosen before and makes the button choose. `changed` is called after every change. */
export function mountTheme(changed: () => void): () => void {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const control = byId("theme", HTMLButtonElement);
  let choice = read();

  function current(): Theme {
    return choice ?? (system.matches ? "dark" : "light");
  }
  function apply(): void {
    document.documentElement.dataset["theme"] = current();
    control.setAttribute("aria-label", current() === "dark" ? "Use the light theme" : "Use the dark theme");
    changed();
  }
  function toggle(): void {
    choice = current() === "dark" ? "light" : "dark";
    write(choice);
    apply();
  }

  control.addEventListener("click", toggle);
  system.addEventListener("change", apply);
  apply();
  return toggle;
}

// Storage throws where the browser forbids it; the theme then lasts as long as the page.
function read(): Theme | undefined {
  try {
    const stored = localStorage.getItem(STORED_AS);
    return stored === "light" || stored === "dark" ? stored : undefined;
  } catch {
    return undefined;
  }
}

function write(theme: Theme): void {
  try {
    localStorage.setItem(STORED_AS, theme);
  } catch {
    return;
  }
}
