/** Asks before something is done that cannot be taken back: says what it does, and shows in its place what went wrong. */

import { byId, make } from "./dom.ts";
import { problemOf, showProblem } from "./words.ts";

export interface Question {
  readonly title: string;
  /** What it does, in sentences; asked for again whenever something is filled in, if that can change it. */
  readonly words: string | (() => string);
  /** What the button says that does it. */
  readonly verb: string;
  /** Whether something is gone afterwards. */
  readonly destroys?: boolean;
  /** What can be filled in. */
  readonly fields?: readonly HTMLElement[];
  /** Does it. What it throws is shown, and the question stays. */
  readonly act: () => Promise<void>;
}

let current: Question | undefined;

/** Shows the question over the page. */
export function ask(question: Question): void {
  const dialog = byId("question", HTMLDialogElement);
  current = question;
  byId("question-title", HTMLElement).textContent = question.title;
  byId("question-fields", HTMLElement).replaceChildren(...(question.fields ?? []));
  const submit = byId("question-yes", HTMLButtonElement);
  submit.textContent = question.verb;
  submit.classList.toggle("danger", question.destroys === true);
  showProblem(byId("question-error", HTMLElement), undefined);
  say();
  dialog.showModal();
}

/** Makes the dialog listen; once. */
export function mountQuestion(): void {
  const dialog = byId("question", HTMLDialogElement);
  const form = byId("question-form", HTMLFormElement);
  byId("question-no", HTMLButtonElement).addEventListener("click", () => dialog.close());
  form.addEventListener("input", say);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void answer(dialog);
  });
  dialog.addEventListener("close", () => {
    current = undefined;
  });
}

function say(): void {
  const { words = "" } = current ?? {};
  byId("question-words", HTMLElement).textContent = typeof words === "string" ? words : words();
}

async function answer(dialog: HTMLDialogElement): Promise<void> {
  const question = current;
  const submit = byId("question-yes", HTMLButtonElement);
  if (question === undefined || submit.disabled) return;
  const problem = byId("question-error", HTMLElement);
  showProblem(problem, undefined);
  submit.disabled = true;
  try {
    await question.act();
    if (current === question) dialog.close();
  } catch (error) {
    if (current === question) showProblem(problem, problemOf(error));
  } finally {
    submit.disabled = false;
  }
}

/** A field of a question, under its label. */
export function field<E extends HTMLInputElement | HTMLSelectElement>(label: string, control: E, id: string): HTMLElement {
  control.id = id;
  const name = make("label", "", label);
  name.htmlFor = id;
  return make("div", "field", name, control);
}

/** A select with these values and words. */
export function choice(options: readonly (readonly [value: string, words: string])[]): HTMLSelectElement {
  const select = make("select");
  for (const [value, words] of options) {
    const option = make("option", "", words);
    option.value = value;
    select.append(option);
  }
  return select;
}
