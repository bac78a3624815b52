/**
 * The few words of DOM that the console needs. Text reaches the page only as text: there is no way here, and none is
 * needed, to turn a string into markup, because everything that is shown was written by somebody else.
 */

/** The element with this id; a missing one is a mistake in `index.html`. */
export function byId<T extends Element>(id: string, type: new () => T): T {
  const element = document.getElementById(id);
  if (!(element instanceof type)) throw new Error(`index.html has no ${type.name} with the id "${id}"`);
  return element;
}

/** The text of an input, select or textarea. */
export function valueOf(id: string): string {
  const element = document.getElementById(id);
  if (
    element instanceof HTMLInputElement ||
    element instanceof HTMLSelectElement ||
    element instanceof HTMLTextAreaElement
  ) {
    return element.value;
  }
  throw new Error(`index.html has no field with the id "${id}"`);
}

/** A new element with a class, holding text or other nodes. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className = "",
  ...children: readonly (string | Node)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  if (className !== "") element.className = className;
  element.append(...children);
  return element;
}

/** A new button that does not submit. */
export function button(label: string, className: string, act: () => void): HTMLButtonElement {
  const element = make("button", className, label);
  element.type = "button";
  element.addEventListener("click", act);
  return element;
}

/** The radio button of the group that is chosen. */
export function chosen(form: HTMLFormElement, name: string): string {
  const value = new FormData(form).get(name);
  return typeof value === "string" ? value : "";
}

/** Chooses a radio button of the group, if it has that value. */
export function choose(form: HTMLFormElement, name: string, value: string): void {
  for (const element of form.elements) {
    if (element instanceof HTMLInputElement && element.name === name) element.checked = element.value === value;
  }
}
