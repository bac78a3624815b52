/** What is inside a payload, as text that is safe and quick to show, whatever its bytes are. */

/** How many bytes a line of a list looks at: no line is longer than this on any screen. */
const PREVIEW_BYTES = 320;
/** How many bytes the details show before they ask. */
const DETAIL_BYTES = 64 * 1024;
const HEX_BYTES = 4 * 1024;

const STRICT = new TextDecoder("utf-8", { fatal: true });
const LENIENT = new TextDecoder("utf-8");

/** How a payload can be shown. */
export type PayloadView = "json" | "text" | "hex";

/** The beginning of the payload on one line. */
export function preview(payload: Uint8Array): string {
  const head = payload.subarray(0, PREVIEW_BYTES);
  const text = LENIENT.decode(head).replace(/\p{Cc}+/gu, " ");
  const cut = payload.length > PREVIEW_BYTES ? text.replace(/\uFFFD+$/u, "") : text;
  if (looksBinary(cut)) return `${hex(head.subarray(0, 24))}${payload.length > 24 ? " …" : ""}`;
  return payload.length > PREVIEW_BYTES ? `${cut}…` : cut;
}

function looksBinary(text: string): boolean {
  return text.includes("\uFFFD");
}

/** The views that make sense for the payload, the best one first. */
export function viewsOf(payload: Uint8Array): readonly PayloadView[] {
  const text = textOf(payload);
  if (text === undefined) return ["hex"];
  return jsonOf(text) === undefined ? ["text", "hex"] : ["json", "text", "hex"];
}

/** The payload in one view, at most `DETAIL_BYTES` of it unless `whole`. */
export function render(payload: Uint8Array, view: PayloadView, whole: boolean): { text: string; cut: boolean } {
  if (view === "hex") {
    const cut = !whole && payload.length > HEX_BYTES;
    return { text: dump(cut ? payload.subarray(0, HEX_BYTES) : payload), cut };
  }
  const text = textOf(payload) ?? LENIENT.decode(payload);
  const shown = view === "json" ? (jsonOf(text) ?? text) : text;
  const cut = !whole && shown.length > DETAIL_BYTES;
  return { text: cut ? shown.slice(0, DETAIL_BYTES) : shown, cut };
}

function textOf(payload: Uint8Array): string | undefined {
  try {
    return STRICT.decode(payload);
  } catch {
    return undefined;
  }
}

/** Objects and arrays only: a lone number or word reads the same as text. Big numbers keep their digits only as text. */
function jsonOf(text: string): string | undefined {
  if (!/^\s*[[{]/.test(text)) return undefined;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return undefined;
  }
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
}

/** Sixteen bytes a line: place, bytes, and the characters that can be shown. */
function dump(bytes: Uint8Array): string {
  const lines: string[] = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const line = bytes.subarray(at, at + 16);
    const letters = Array.from(line, (byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : "·")).join("");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${hex(line).padEnd(47)}  ${letters}`);
  }
  return lines.join("\n");
}
