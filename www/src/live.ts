/** The live view: subscriptions, and what they bring. */

import type { OnLag, StartPosition } from "dunlin";

import { Detail } from "./detail.ts";
import type { DetailAction } from "./detail.ts";
import { button, byId, make, valueOf } from "./dom.ts";
import { Feed } from "./feed.ts";
import type { Entry } from "./feed.ts";
import { List } from "./list.ts";
import type { ListSource } from "./list.ts";
import { Listener } from "./listener.ts";
import type { Wish } from "./place.ts";
import { paintEntry, paintHead } from "./row.ts";
import type { Session } from "./session.ts";
import { count, counted, fromLocalField, refused, showProblem, toLocalField } from "./words.ts";
import type { Problem } from "./words.ts";

const HUES = 6;
const LISTENERS_MAX = 50;

export class Live {
  private readonly problem = byId("subscribe-error", HTMLElement);
  private readonly chips = byId("subscriptions", HTMLUListElement);
  private readonly pauseButton = byId("pause", HTMLButtonElement);
  private readonly newest = byId("newest", HTMLButtonElement);
  private readonly changedPlace: () => void;
  private readonly list: List<Entry>;
  private readonly detail: Detail;
  private feed = new Feed();
  private listeners: Listener[] = [];
  private session: Session | undefined;
  /** What is shown while the list stands still; the feed itself goes on. */
  private still: ListSource<Entry> | undefined;
  private pausedByHand = false;
  private nextHue = 0;
  private frame = 0;

  /** `changedPlace` is called when the set of subscriptions changes. */
  constructor(actions: readonly DetailAction[], changedPlace: () => void) {
    this.changedPlace = changedPlace;
    this.detail = new Detail(byId("live-split", HTMLElement), actions, () => {
      this.list.closeRow();
      byId("feed", HTMLElement).focus();
    });
    this.list = new List<Entry>(byId("feed", HTMLElement), {
      paint: paintEntry,
      open: (entry) => {
        if (entry.kind === "message") this.detail.show(entry.message);
      },
      follow: (atEnd) => this.followed(atEnd),
    });
    paintHead(byId("feed-head", HTMLElement));
    byId("subscribe-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      this.subscribe();
    });
    byId("from", HTMLSelectElement).addEventListener("change", () => this.arrange());
    this.pauseButton.addEventListener("click", () => this.togglePause());
    this.newest.addEventListener("click", () => this.resume());
    byId("clear", HTMLButtonElement).addEventListener("click", () => this.clear());
  }

  /** What is subscribed to, for the page's address: with `latest`, a reload hears what comes from then on. */
  get wishes(): readonly Wish[] {
    return this.listeners.filter((listener) => listener.state !== "ended").map((listener) => listener.wish);
  }

  start(session: Session, wishes: readonly Wish[]): void {
    this.session = session;
    this.listeners = [];
    this.feed = new Feed();
    this.nextHue = 0;
    this.still = undefined;
    this.pausedByHand = false;
    this.detail.hide();
    this.list.show(this.feed, true);
    this.list.reset();
    showProblem(this.problem, undefined);
    for (const wish of wishes) this.listen(wish);
    this.refresh();
  }

  focus(): void {
    byId("filter", HTMLInputElement).focus();
  }

  /** Closes the details, if they are open. */
  escape(): boolean {
    const { open } = this.detail;
    this.detail.hide();
    return open;
  }

  togglePause(): void {
    if (this.still !== undefined) this.resume();
    else {
      this.pausedByHand = true;
      this.freeze();
    }
  }

  private subscribe(): void {
    showProblem(this.problem, undefined);
    const filter = valueOf("filter").trim();
    const from = startOf();
    if (filter === "") return this.refuse(refused("The filter is empty. A # stands for every topic."), "filter");
    if (typeof from !== "string") return this.refuse(from, "from-number");
    if (this.listeners.length >= LISTENERS_MAX) {
      return this.refuse(refused(`There are ${LISTENERS_MAX} subscriptions already. End one first.`), "filter");
    }
    this.listen({ filter, from, onLag: valueOf("on-lag") as OnLag });
    byId("filter", HTMLInputElement).value = "";
    this.changedPlace();
  }

  private refuse(problem: Problem, field: string): void {
    showProblem(this.problem, problem);
    document.getElementById(field)?.focus();
  }

  private listen(wish: Wish): void {
    if (this.session === undefined) return;
    const hue = this.nextHue % HUES;
    this.nextHue += 1;
    try {
      const listener: Listener = new Listener(this.session, this.feed, wish, hue, () => this.refresh());
      this.listeners.push(listener);
    } catch (error) {
      showProblem(this.problem, refused(error instanceof Error ? error.message : String(error)));
    }
    this.paintChips();
  }

  private remove(listener: Listener): void {
    this.listeners = this.listeners.filter((other) => other !== listener);
    void listener.end();
    this.paintChips();
    this.refresh();
    this.changedPlace();
    this.focus();
  }

  private arrange(): void {
    const kind = valueOf("from");
    byId("from-number-field", HTMLElement).hidden = kind !== "last" && kind !== "offset";
    byId("from-time-field", HTMLElement).hidden = kind !== "timestamp";
    byId("from-number-label", HTMLElement).textContent = kind === "offset" ? "Offset" : "Messages";
    const time = byId("from-time", HTMLInputElement);
    if (kind === "timestamp" && time.value === "") time.value = toLocalField(Date.now() - 3_600_000);
  }

  private freeze(): void {
    this.still = this.feed.still();
    this.list.show(this.still, false);
    this.refresh();
  }

  private resume(): void {
    this.still = undefined;
    this.pausedByHand = false;
    this.list.show(this.feed, true);
    this.refresh();
  }

  /** Scrolling up to read is a pause, and coming back to the end ends it; a pause by hand stays. */
  private followed(atEnd: boolean): void {
    if (!atEnd && this.still === undefined) this.freeze();
    else if (atEnd && this.still !== undefined && !this.pausedByHand) this.resume();
  }

  private clear(): void {
    this.feed.clear();
    this.detail.hide();
    this.resume();
  }

  /** Deliveries come by the thousand; the page changes once a frame. */
  private refresh(): void {
    if (this.frame === 0) this.frame = requestAnimationFrame(() => this.paint());
  }

  private paint(): void {
    this.frame = 0;
    const { feed, still, listeners } = this;
    if (still === undefined) this.list.refresh();
    const shown = (still ?? feed).length;
    const fresh = still === undefined ? 0 : feed.first + feed.length - still.first - still.length;
    this.pauseButton.textContent = still === undefined ? "Pause" : "Resume";
    this.pauseButton.setAttribute("aria-pressed", String(still !== undefined));
    this.newest.hidden = still === undefined;
    this.newest.textContent = fresh === 0 ? "Go to the newest" : `${count(fresh)} new · go to the newest`;
    const hidden = feed.total - shown;
    const notShown = hidden > 0 ? ` · ${count(hidden)} not shown` : "";
    byId("feed-count", HTMLElement).textContent = shown === 0 && hidden === 0 ? "" : `${counted(shown, "message")} shown${notShown}`;
    const anything = shown > 0;
    byId("feed", HTMLElement).hidden = !anything;
    byId("feed-head", HTMLElement).hidden = !anything;
    this.paintEmpty(anything);
    listeners.forEach((listener, index) => paintChip(this.chips.children[index], listener));
  }

  private paintEmpty(anything: boolean): void {
    const place = byId("feed-empty", HTMLElement);
    place.hidden = anything;
    if (anything) return;
    const live = this.listeners.filter((listener) => listener.state === "live").map((listener) => listener.wish.filter);
    const [title, text] =
      live.length === 0
        ? ["Nothing is subscribed", "Type a filter above: orders/eu is one topic, orders/+ one level of topics, # all of them."]
        : ["Waiting for messages", `Subscribed to ${live.join(", ")}. Publish to a topic that matches, or choose an earlier start.`];
    if (place.firstChild?.textContent === title && place.lastChild?.textContent === text) return;
    place.replaceChildren(make("p", "empty-title", title), make("p", "", text));
  }

  private paintChips(): void {
    this.chips.replaceChildren(
      ...this.listeners.map((listener) => {
        const end = button("×", "quiet icon", () => this.remove(listener));
        end.setAttribute("aria-label", `End the subscription to ${listener.wish.filter}`);
        end.title = "End it";
        const chip = make("li", "chip", make("span", "marker"), make("span", "chip-filter", listener.wish.filter));
        chip.append(make("span", "chip-note"), end);
        chip.dataset["hue"] = String(listener.hue);
        return chip;
      }),
    );
  }
}

function paintChip(chip: Element | undefined, listener: Listener): void {
  const note = chip?.querySelector(".chip-note");
  if (!(chip instanceof HTMLElement) || note === null || note === undefined) return;
  const missed = listener.missed > 0 ? `, ${count(listener.missed)} missing` : "";
  const { problem } = listener;
  const words = {
    starting: "asking …",
    live: `${count(listener.received)}${missed}`,
    ended: problem === undefined ? "ended" : `${problem.message} (${problem.code})`,
  };
  const text = words[listener.state];
  chip.dataset["state"] = problem === undefined ? listener.state : "failed";
  if (note.textContent === text) return;
  note.textContent = text;
  // Counts are not read out, ends are.
  if (listener.state === "ended") note.setAttribute("role", "alert");
}

/** Where the form says to begin. */
function startOf(): StartPosition | Problem {
  const kind = valueOf("from");
  const number = valueOf("from-number").trim();
  switch (kind) {
    case "last":
      return /^\d{1,10}$/.test(number) ? `last:${Number(number)}` : refused("How many messages? A whole number is needed.");
    case "offset":
      return /^\d{1,19}$/.test(number) ? `offset:${BigInt(number)}` : refused("Which offset? A whole number is needed.");
    case "timestamp": {
      const ms = fromLocalField(valueOf("from-time"));
      return ms === undefined ? refused("Which time? Day and time are needed.") : `timestamp:${ms}`;
    }
    default:
      return kind === "earliest" ? "earliest" : "latest";
  }
}

