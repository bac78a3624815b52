/** Numbers, times, bytes and mistakes in words for people. */

import { make } from "./dom.ts";

const GROUPED = new Intl.NumberFormat("en");
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "2-digit", month: "short", year: "numeric" });

/** `12,345`. */
export function count(value: number | bigint): string {
  return GROUPED.format(value);
}

/** `12,345 messages`, `1 message`. */
export function counted(value: number | bigint, noun: string): string {
  return `${count(value)} ${noun}${BigInt(value) === 1n ? "" : "s"}`;
}

/** `9.4`, `12`, `1,204`, `84.2k`: three figures are enough for a rate. */
export function rate(perSecond: number): string {
  if (perSecond < 9.95) return perSecond.toFixed(perSecond === 0 ? 0 : 1);
  if (perSecond < 99_950) return count(Math.round(perSecond));
  return `${(perSecond / 1000).toFixed(1)}k`;
}

/** `812 B`, `1.2 KiB`. */
export function bytes(size: number): string {
  if (size < 1024) return `${size} B`;
  if (size < 1024 * 1024) return `${(size / 1024).toFixed(1)} KiB`;
  if (size < 1024 * 1024 * 1024) return `${(size / 1024 / 1024).toFixed(1)} MiB`;
  return `${(size / 1024 / 1024 / 1024).toFixed(1)} GiB`;
}

/** `14:02:07.319`, in local time. */
export function clock(ms: number): string {
  return isTime(ms) ? CLOCK.format(ms) : String(ms);
}

/** `22 Nov 2026, 14:02:07.319`, in local time. */
export function moment(ms: number): string {
  return isTime(ms) ? `${DAY.format(ms)}, ${CLOCK.format(ms)}` : `${ms} ms since 1970`;
}

/** `9 d`, `3 h`, `250 ms`. */
export function span(ms: number): string {
  for (const [unit, size] of [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000], ["s", 1000]] as const) {
    if (ms >= size && ms % size === 0) return `${count(ms / size)} ${unit}`;
  }
  return `${count(ms)} ms`;
}

/** `in 5 min`, `now`: how far ahead a moment is, in its greatest unit. */
export function ahead(ms: number): string {
  for (const [unit, size] of [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000], ["s", 1000]] as const) {
    if (ms >= size) return `in ${count(Math.floor(ms / size))} ${unit}`;
  }
  return "now";
}

/** The whole number from 1 to `max` that a field says, if it says one. */
export function wholeNumber(text: string, max: number): number | undefined {
  const trimmed = text.trim();
  const value = /^\d{1,16}$/.test(trimmed) ? Number(trimmed) : 0;
  return value >= 1 && value <= max ? value : undefined;
}

/** The value of a `datetime-local` field for a moment, and back. */
export function toLocalField(ms: number): string {
  const shifted = new Date(ms - new Date(ms).getTimezoneOffset() * 60_000);
  return shifted.toISOString().slice(0, 19);
}

/** The moment that a `datetime-local` field says, if it says one. */
export function fromLocalField(text: string): number | undefined {
  const ms = text === "" ? Number.NaN : new Date(text).getTime();
  return Number.isFinite(ms) ? ms : undefined;
}

function isTime(ms: number): boolean {
  return Math.abs(ms) <= 8.64e15;
}

/** A mistake as the page shows it. */
export interface Problem {
  /** Stable, for searching; of the broker or of the client. */
  readonly code: string;
  /** What happened. */
  readonly message: string;
  /** What helps, where the console knows more than the message. */
  readonly advice?: string;
}

const ADVICE: Readonly<Record<string, string>> = {
  forbidden: "Connect with a token that has this right.",
  unknown_schedule: "It was published meanwhile, or somebody else cancelled it.",
  connection_failed: "Check that the server runs and that the address is right; a server may also want a token.",
  unauthorised: "Type the token of this namespace above.",
  connection_lost: "Whether it took effect is not known. Look into the history before you repeat it.",
  database_unavailable: "Private windows often have no database. Keep the messages in memory instead.",
  unsupported_version: "This page and the broker are of different versions; load the page from the broker itself.",
  invalid_topic: "Levels are split by “/”; “+” and “#” belong into filters.",
  invalid_filter: "“+” stands for one whole level; “#” for all the rest, so it comes last.",
  slow_consumer: "Subscribe again; with “Drop oldest” it would go on and tell you what is missing.",
  storage_unavailable: "The broker goes on by itself once its disk takes data again.",
};

/** Says what was thrown. Errors of the client carry a code; anything else is a mistake of this page. */
export function problemOf(error: unknown): Problem {
  if (isCoded(error)) {
    const { code, message, retryAfterMs } = error;
    const advice = retryAfterMs === undefined ? ADVICE[code] : `Try again in ${span(retryAfterMs)}.`;
    return { code, message: sentence(message), ...(advice === undefined ? {} : { advice }) };
  }
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return { code: "console_error", message: sentence(text), advice: "This is a mistake of the console itself." };
}

function isCoded(error: unknown): error is { code: string; message: string; retryAfterMs?: number } {
  return typeof error === "object" && error !== null && "code" in error && typeof error.code === "string" && "message" in error;
}

/** A mistake that the console finds before anything is sent. */
export function refused(message: string): Problem {
  return { code: "invalid_argument", message };
}

/** Broker messages are lower-case clauses; the page shows sentences. */
function sentence(text: string): string {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(first) ? first : `${first}.`;
}

/** Shows the problem in the element, or hides it. */
export function showProblem(place: HTMLElement, problem: Problem | undefined): void {
  place.hidden = problem === undefined;
  place.replaceChildren();
  if (problem === undefined) return;
  const text = problem.advice === undefined ? problem.message : `${problem.message} ${problem.advice}`;
  place.append(make("p", "", text), make("code", "code", problem.code));
}
