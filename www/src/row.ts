/** One message, or one notice, as a line of a list. */

import type { Message } from "dunlin";

import { make } from "./dom.ts";
import type { Entry } from "./feed.ts";
import { preview } from "./payload.ts";
import { bytes, clock } from "./words.ts";

const CELLS = ["time", "topic", "offset", "key", "payload", "size"] as const;
type Cell = (typeof CELLS)[number];

/** Previews are made once per message, not once per frame. */
const previews = new WeakMap<Message, string>();

function previewOf(message: Message): string {
  const known = previews.get(message);
  if (known !== undefined) return known;
  const text = preview(message.payload);
  previews.set(message, text);
  return text;
}

/** The head of the columns. */
export function paintHead(place: HTMLElement): void {
  const titles: Record<Cell, string> = {
    time: "Time",
    topic: "Topic",
    offset: "Offset",
    key: "Key",
    payload: "Payload",
    size: "Size",
  };
  place.replaceChildren(...CELLS.map((cell) => make("span", `cell ${cell}`, titles[cell])));
}

/** Writes a live entry into the row. */
export function paintEntry(row: HTMLElement, entry: Entry): void {
  row.dataset["hue"] = String(entry.hue);
  if (entry.kind === "message") {
    paintMessage(row, entry.message);
    return;
  }
  row.className = keepActive(row, `row notice ${entry.tone}`);
  const [time, text] = cellsOf(row, "notice", ["time", "text"]);
  setText(time, clock(entry.at));
  setText(text, entry.text);
  row.setAttribute("aria-label", entry.text);
}

/** Writes a message into the row. */
export function paintMessage(row: HTMLElement, message: Message): void {
  row.className = keepActive(row, "row message");
  const cells = cellsOf(row, "message", CELLS);
  const place = `${message.partition}:${message.offset}`;
  const texts = [
    clock(message.timestamp),
    message.topic,
    place,
    message.key ?? "",
    previewOf(message),
    bytes(message.payload.length),
  ];
  texts.forEach((text, index) => setText(cells[index], text));
  row.setAttribute("aria-label", `${message.topic} ${place}, ${previewOf(message)}`);
}

function keepActive(row: HTMLElement, className: string): string {
  return row.classList.contains("active") ? `${className} active` : className;
}

/** The row's cells, made anew only if it held something of another shape. */
function cellsOf(row: HTMLElement, shape: string, names: readonly string[]): readonly Element[] {
  if (row.dataset["shape"] !== shape) {
    row.dataset["shape"] = shape;
    row.replaceChildren(...names.map((name) => make("span", `cell ${name}`)));
  }
  return Array.from(row.children);
}

function setText(cell: Element | undefined, text: string): void {
  if (cell !== undefined && cell.textContent !== text) cell.textContent = text;
}
