/** The form that publishes, and the receipts. */

import type { Durability, Message, OutgoingMessage, PublishBatchOptions, Receipt } from "dunlin";

import { button, byId, choose, chosen, make, valueOf } from "./dom.ts";
import type { Session } from "./session.ts";
import { clock, count, counted, moment, problemOf, refused, showProblem, wholeNumber } from "./words.ts";
import type { Problem } from "./words.ts";

const RECEIPTS_SHOWN = 8;
const REPEAT_MAX = 100_000;
/** A batch is one atomic append, so repeats go in batches of this many. */
const BATCH = 500;
const HEADERS_MAX = 64;

export class Publish {
  private readonly form = byId("publish-form", HTMLFormElement);
  private readonly problem = byId("publish-error", HTMLElement);
  private readonly receipts = byId("receipts", HTMLOListElement);
  private readonly note = byId("payload-note", HTMLElement);
  private session: Session | undefined;

  constructor() {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.publish();
    });
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        this.form.requestSubmit();
      }
    });
    this.form.addEventListener("change", () => this.check());
    byId("publish-payload", HTMLTextAreaElement).addEventListener("input", () => this.check());
    byId("header-add", HTMLButtonElement).addEventListener("click", () => this.addHeader("", "").focus());
  }

  start(session: Session): void {
    this.session = session;
    this.receipts.replaceChildren();
    byId("receipts-empty", HTMLElement).hidden = false;
    showProblem(this.problem, undefined);
  }

  focus(): void {
    byId("publish-topic", HTMLInputElement).focus();
  }

  /** Fills the form with a message that was seen. */
  draft(message: Message): void {
    const json = message.contentType === "application/json";
    byId("publish-topic", HTMLInputElement).value = message.topic;
    byId("publish-payload", HTMLTextAreaElement).value = new TextDecoder().decode(message.payload);
    byId("publish-key", HTMLInputElement).value = message.key ?? "";
    byId("publish-type", HTMLInputElement).value = json ? "" : (message.contentType ?? "");
    choose(this.form, "kind", json ? "json" : "text");
    byId("header-rows", HTMLElement).replaceChildren();
    for (const [name, value] of message.headers) this.addHeader(name, value);
    byId("publish-more", HTMLDetailsElement).open = message.headers.length > 0;
    this.check();
    byId("publish-payload", HTMLTextAreaElement).focus();
  }

  private addHeader(name: string, value: string): HTMLInputElement {
    const rows = byId("header-rows", HTMLElement);
    const field = (label: string, text: string): HTMLInputElement => {
      const input = make("input");
      input.type = "text";
      input.value = text;
      input.placeholder = label;
      input.setAttribute("aria-label", `Header ${label}`);
      input.spellcheck = false;
      return input;
    };
    const first = field("name", name);
    const row = make("div", "header-row", first, field("value", value));
    const remove = button("×", "quiet icon", () => {
      row.remove();
      byId("header-add", HTMLButtonElement).focus();
    });
    remove.setAttribute("aria-label", "Remove this header");
    row.append(remove);
    rows.append(row);
    byId("header-add", HTMLButtonElement).disabled = rows.childElementCount >= HEADERS_MAX;
    return first;
  }

  /** Says beside the payload whether it is JSON, while it is typed. */
  private check(): Problem | undefined {
    this.note.textContent = "";
    this.note.classList.remove("bad");
    if (chosen(this.form, "kind") !== "json") return undefined;
    try {
      JSON.parse(valueOf("publish-payload"));
      return undefined;
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      this.note.textContent = valueOf("publish-payload") === "" ? "" : `Not JSON yet: ${why}`;
      this.note.classList.add("bad");
      return refused(`The payload is not JSON: ${why}. Correct it, or send it as text.`);
    }
  }

  private async publish(): Promise<void> {
    const { session } = this;
    if (session === undefined) return;
    showProblem(this.problem, undefined);
    const repeat = wholeNumber(valueOf("publish-repeat"), REPEAT_MAX);
    const [ttl, delay] = [valueOf("publish-ttl").trim(), valueOf("publish-delay").trim()];
    const problem =
      this.check() ??
      (repeat === undefined ? refused(`Repeat must be a whole number from 1 to ${count(REPEAT_MAX)}.`) : undefined) ??
      (ttl !== "" && wholeNumber(ttl, Number.MAX_SAFE_INTEGER) === undefined
        ? refused("Expires after must be a whole number of milliseconds, or empty.")
        : undefined) ??
      (delay !== "" && wholeNumber(delay, Number.MAX_SAFE_INTEGER) === undefined
        ? refused("Publish in must be a whole number of milliseconds, or empty.")
        : undefined);
    if (problem !== undefined || repeat === undefined) {
      showProblem(this.problem, problem);
      return;
    }
    const begun = performance.now();
    const submit = byId("publish", HTMLButtonElement);
    submit.setAttribute("aria-busy", "true");
    try {
      const last = await send(session, this.message(ttl, delay), repeat, durability());
      this.addReceipt(last, repeat, performance.now() - begun, Number(delay));
    } catch (error) {
      showProblem(this.problem, problemOf(error));
    } finally {
      submit.removeAttribute("aria-busy");
    }
  }

  private message(ttl: string, delay: string): OutgoingMessage {
    const key = valueOf("publish-key");
    const type = valueOf("publish-type").trim() || (chosen(this.form, "kind") === "json" ? "application/json" : "");
    const headers: [string, string][] = [];
    for (const row of byId("header-rows", HTMLElement).children) {
      const [name, value] = Array.from(row.querySelectorAll("input"), (input) => input.value);
      if (name !== undefined && name !== "") headers.push([name, value ?? ""]);
    }
    return {
      topic: valueOf("publish-topic"),
      payload: valueOf("publish-payload"),
      ...(key === "" ? {} : { key }),
      ...(type === "" ? {} : { contentType: type }),
      ...(headers.length === 0 ? {} : { headers }),
      ...(ttl === "" ? {} : { ttlMs: Number(ttl) }),
      ...(delay === "" ? {} : { delayMs: Number(delay) }),
    };
  }

  private addReceipt(receipt: Receipt, repeat: number, tookMs: number, delayMs: number): void {
    byId("receipts-empty", HTMLElement).hidden = true;
    const waits = receipt.scheduleId !== undefined;
    const place = waits ? `number ${receipt.scheduleId}` : `partition ${receipt.partition}, offset ${receipt.offset}`;
    const one = waits ? `Waits until ${moment(Date.now() + delayMs)} as ${place}` : `Stored at ${place}`;
    const what = repeat === 1 ? one : `${counted(repeat, "message")}, the last at ${place}`;
    const item = make(
      "li",
      "receipt",
      make("span", "receipt-topic", receipt.topic),
      make("span", "receipt-place", receipt.duplicate ? `Was there already: ${place}` : what),
      make("span", "receipt-took", `${waits ? "" : `sequence ${receipt.sequence} · `}${tookMs.toFixed(tookMs < 10 ? 1 : 0)} ms · ${clock(Date.now())}`),
    );
    this.receipts.prepend(item);
    while (this.receipts.childElementCount > RECEIPTS_SHOWN) this.receipts.lastElementChild?.remove();
  }
}

function durability(): PublishBatchOptions {
  const value = valueOf("publish-durability");
  return value === "" ? {} : { durability: value as Durability };
}

/** Publishes one message, or many copies in batches; the last receipt. */
async function send(session: Session, message: OutgoingMessage, repeat: number, options: PublishBatchOptions): Promise<Receipt> {
  if (repeat === 1) {
    const { topic, payload, ...rest } = message;
    const receipt = await session.client.publish(topic, payload, { ...rest, ...options });
    session.published += 1;
    return receipt;
  }
  let last: Receipt | undefined;
  for (let done = 0; done < repeat; done += BATCH) {
    const batch = Array.from({ length: Math.min(BATCH, repeat - done) }, (_, index) => numbered(message, done + index + 1));
    const receipts = await session.client.publishBatch(batch, options);
    session.published += receipts.length;
    last = receipts.at(-1);
  }
  if (last === undefined) throw new Error("a batch was answered without receipts");
  return last;
}

function numbered(message: OutgoingMessage, number: number): OutgoingMessage {
  const fill = (text: string): string => text.replaceAll("{n}", String(number));
  const { key, payload } = message;
  return {
    ...message,
    payload: typeof payload === "string" ? fill(payload) : payload,
    ...(key === undefined ? {} : { key: fill(key) }),
  };
}
