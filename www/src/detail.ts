/** Everything about one message, beside the list it was chosen from. */

import type { DeadLetter, Message } from "dunlin";

import { button, make } from "./dom.ts";
import { render, viewsOf } from "./payload.ts";
import type { PayloadView } from "./payload.ts";
import { bytes, moment } from "./words.ts";

const VIEW_NAMES: Record<PayloadView, string> = { json: "JSON", text: "Text", hex: "Bytes" };

/** What can be done with the message. */
export interface DetailAction<M extends Message = Message> {
  readonly label: string;
  readonly act: (message: M) => void;
}

export class Detail<M extends Message = Message> {
  private readonly split: HTMLElement;
  private readonly actions: readonly DetailAction<M>[];
  private readonly closed: () => void;
  private readonly pane: HTMLElement;

  /** `closed` is called when the reader closes it. */
  constructor(split: HTMLElement, actions: readonly DetailAction<M>[], closed: () => void) {
    this.split = split;
    this.actions = actions;
    this.closed = closed;
    this.pane = make("section", "detail");
    this.pane.setAttribute("aria-label", "Message");
    this.pane.hidden = true;
    split.append(this.pane);
  }

  get open(): boolean {
    return !this.pane.hidden;
  }

  show(message: M): void {
    const close = button("×", "quiet icon", () => this.hide());
    close.setAttribute("aria-label", "Close the message");
    close.title = "Close (Esc)";
    const head = make("div", "detail-head", make("h3", "", message.topic), close);
    const doing = this.actions.map((action) => button(action.label, "small", () => action.act(message)));
    this.pane.replaceChildren(head, facts(message), ...headers(message), payload(message), make("div", "actions", ...doing));
    this.pane.hidden = false;
    this.pane.scrollTop = 0;
    this.split.classList.add("open");
  }

  hide(): void {
    if (this.pane.hidden) return;
    this.pane.hidden = true;
    this.pane.replaceChildren();
    this.split.classList.remove("open");
    this.closed();
  }
}

/** Why a message is a dead letter, in words. */
export const REASONS: Readonly<Record<string, string>> = { max_delivery_attempts: "too many attempts", rejected: "rejected" };

function facts(message: Message | DeadLetter): HTMLElement {
  const list = make("dl", "pairs");
  const add = (name: string, value: string | undefined): void => {
    if (value !== undefined) list.append(make("dt", "", name), make("dd", "", value));
  };
  if ("deadOffset" in message) {
    add("Given up", moment(message.diedAt));
    add("Because", REASONS[message.reason] ?? message.reason);
    add("Note", message.note);
    add("Attempts", String(message.attempts));
  }
  add("Partition", String(message.partition));
  add("Offset", String(message.offset));
  add("Sequence", String(message.sequence));
  add("Published", moment(message.timestamp));
  add("Key", message.key);
  add("Id", message.id);
  add("Type", message.contentType);
  add("Expires", message.expiresAt === undefined ? undefined : moment(message.expiresAt));
  return list;
}

function headers(message: Message): HTMLElement[] {
  if (message.headers.length === 0) return [];
  const list = make("dl", "pairs headers");
  for (const [name, value] of message.headers) list.append(make("dt", "", name), make("dd", "", value));
  return [make("h4", "", "Headers"), list];
}

function payload(message: Message): HTMLElement {
  const views = viewsOf(message.payload);
  const text = make("pre", "payload");
  text.tabIndex = 0;
  text.setAttribute("aria-label", "Payload");
  const rest = make("div", "rest");
  const choices = make("div", "segments small");
  choices.setAttribute("role", "group");
  choices.setAttribute("aria-label", "Show the payload as");

  const show = (view: PayloadView, whole: boolean): void => {
    const shown = render(message.payload, view, whole);
    text.textContent = shown.text;
    rest.replaceChildren(...(shown.cut ? [button("Show all of it", "small", () => show(view, true))] : []));
    for (const choice of choices.querySelectorAll("button")) {
      choice.setAttribute("aria-pressed", String(choice.textContent === VIEW_NAMES[view]));
    }
  };
  choices.append(...views.map((view) => button(VIEW_NAMES[view], "", () => show(view, false))));
  if (message.payload.length === 0) {
    return make("div", "payload-box", make("h4", "", "Payload"), make("p", "hint", "Empty."));
  }
  const [best] = views;
  if (best !== undefined) show(best, false);
  const title = make("h4", "", `Payload · ${bytes(message.payload.length)}`);
  return make("div", "payload-box", make("div", "label-row", title, choices), text, rest);
}
