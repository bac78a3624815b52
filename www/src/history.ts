/** The history view: pages of what one partition of a topic has stored. */

import type { Message, PartitionExtent, StartPosition, TopicDescription } from "dunlin";

import { Detail } from "./detail.ts";
import type { DetailAction } from "./detail.ts";
import { byId, make, valueOf } from "./dom.ts";
import { List } from "./list.ts";
import type { Spot } from "./place.ts";
import { paintHead, paintMessage } from "./row.ts";
import type { Session } from "./session.ts";
import { Topics } from "./topics.ts";
import { bytes, count, counted, fromLocalField, problemOf, refused, showProblem, span, toLocalField } from "./words.ts";

const PAGE = 100;

export class History {
  readonly topics: Topics;
  private readonly problem = byId("history-error", HTMLElement);
  private readonly changedPlace: () => void;
  private readonly list: List<Message>;
  private readonly detail: Detail;
  private session: Session | undefined;
  private at: Spot | undefined;
  private messages: readonly Message[] = [];
  private extent: PartitionExtent | undefined;
  private attempt = 0;

  /** `changedPlace` is called when another page is shown. */
  constructor(actions: readonly DetailAction[], changedPlace: () => void) {
    this.changedPlace = changedPlace;
    this.topics = new Topics((topic) => void this.go({ topic, partition: 0, from: undefined }));
    this.detail = new Detail(byId("history-split", HTMLElement), actions, () => {
      this.list.closeRow();
      byId("page", HTMLElement).focus();
    });
    this.list = new List<Message>(byId("page", HTMLElement), {
      paint: paintMessage,
      open: (message) => this.detail.show(message),
    });
    paintHead(byId("page-head", HTMLElement));
    const press = (id: string, act: () => void): void => byId(id, HTMLButtonElement).addEventListener("click", act);
    press("page-first", () => this.turn("earliest"));
    press("page-older", () => this.older());
    press("page-newer", () => this.newer());
    press("page-last", () => this.turn(undefined));
    byId("partition", HTMLSelectElement).addEventListener("change", () => {
      if (this.at !== undefined) void this.go({ topic: this.at.topic, partition: Number(valueOf("partition")), from: undefined });
    });
    byId("jump-kind", HTMLSelectElement).addEventListener("change", () => this.arrange());
    byId("jump-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      this.jump();
    });
  }

  /** The page that is shown, for the page's address. */
  get spot(): Spot | undefined {
    return this.at;
  }

  start(session: Session, spot: Spot | undefined): void {
    this.session = session;
    this.at = undefined;
    this.messages = [];
    this.detail.hide();
    this.topics.start(session);
    this.paint(undefined);
    if (spot !== undefined) void this.go(spot);
  }

  focus(): void {
    byId("topic-filter", HTMLInputElement).focus();
  }

  escape(): boolean {
    const { open } = this.detail;
    this.detail.hide();
    return open;
  }

  older(): void {
    const first = this.messages[0]?.offset ?? this.extent?.logEndOffset;
    if (first === undefined || this.extent === undefined || first <= this.extent.logStartOffset) return;
    const from = first > BigInt(PAGE) ? first - BigInt(PAGE) : 0n;
    const start = from > this.extent.logStartOffset ? from : this.extent.logStartOffset;
    this.turn(`offset:${start}`, Number(first - start));
  }

  newer(): void {
    const last = this.messages.at(-1)?.offset;
    if (last === undefined || this.extent === undefined || last + 1n >= this.extent.logEndOffset) return;
    this.turn(`offset:${last + 1n}`);
  }

  private turn(from: StartPosition | undefined, limit = PAGE): void {
    if (this.at !== undefined) void this.go({ ...this.at, from }, limit);
  }

  private jump(): void {
    showProblem(this.problem, undefined);
    if (valueOf("jump-kind") === "timestamp") {
      const ms = fromLocalField(valueOf("jump-time"));
      if (ms === undefined) showProblem(this.problem, refused("Which time? Day and time are needed."));
      else this.turn(`timestamp:${ms}`);
      return;
    }
    const text = valueOf("jump-offset").trim();
    if (/^\d{1,19}$/.test(text)) this.turn(`offset:${BigInt(text)}`);
    else showProblem(this.problem, refused("Which offset? A whole number is needed."));
  }

  private arrange(): void {
    const byTime = valueOf("jump-kind") === "timestamp";
    const time = byId("jump-time", HTMLInputElement);
    byId("jump-offset", HTMLInputElement).hidden = byTime;
    time.hidden = !byTime;
    if (time.value === "") time.value = toLocalField(this.messages[0]?.timestamp ?? Date.now());
  }

  /** Shows a message among those around it. */
  async find({ topic, partition, offset }: Message): Promise<void> {
    const before = BigInt(PAGE / 2);
    await this.go({ topic, partition, from: `offset:${offset > before ? offset - before : 0n}` });
    const index = this.messages.findIndex((message) => message.offset === offset);
    if (this.at?.topic === topic && index >= 0) this.list.openAt(index);
  }

  /** Shows a page; without `from`, the newest one. */
  async go(spot: Spot, limit = PAGE): Promise<void> {
    const { session } = this;
    if (session === undefined) return;
    this.attempt += 1;
    const attempt = this.attempt;
    const { topic, partition } = spot;
    if (topic !== this.at?.topic) this.messages = [];
    this.at = spot;
    this.topics.mark(topic);
    byId("history-split", HTMLElement).setAttribute("aria-busy", "true");
    try {
      const description = await session.client.describeTopic(topic);
      const messages: Message[] = [];
      const start = description.partitions[partition]?.logStartOffset ?? 0n;
      const options = { partition, from: notBefore(start, spot.from) ?? (`last:${PAGE}` as const), limit };
      for await (const message of session.client.history(topic, options)) messages.push(message);
      // The reader has gone on to another page meanwhile.
      if (attempt !== this.attempt) return;
      showProblem(this.problem, undefined);
      this.messages = messages;
      this.extent = description.partitions[partition];
      this.detail.hide();
      this.list.show({ first: 0, length: messages.length, at: (index) => messages[index] }, false);
      this.list.reset();
      this.paint(description);
    } catch (error) {
      if (attempt !== this.attempt) return;
      showProblem(this.problem, problemOf(error));
      if (this.messages.length === 0) byId("history-empty", HTMLElement).hidden = true;
    } finally {
      if (attempt === this.attempt) byId("history-split", HTMLElement).removeAttribute("aria-busy");
    }
    this.changedPlace();
  }

  private paint(description: TopicDescription | undefined): void {
    const { messages, extent, at } = this;
    const empty = byId("history-empty", HTMLElement);
    byId("history-bar", HTMLElement).hidden = description === undefined;
    byId("page", HTMLElement).hidden = messages.length === 0;
    byId("page-head", HTMLElement).hidden = messages.length === 0;
    empty.hidden = messages.length > 0;
    if (description === undefined || at === undefined) {
      empty.replaceChildren(
        make("p", "empty-title", "Choose a topic"),
        make("p", "", "Its stored messages can be read page by page, from any offset or time."),
      );
      return;
    }
    byId("history-topic", HTMLElement).textContent = description.topic;
    byId("history-facts", HTMLElement).textContent = factsOf(description);
    paintPartitions(description, at.partition);
    const first = messages[0]?.offset;
    const last = messages.at(-1)?.offset;
    const kept = extent === undefined ? 0n : extent.logEndOffset - extent.logStartOffset;
    byId("page-first", HTMLButtonElement).disabled = kept === 0n;
    byId("page-last", HTMLButtonElement).disabled = kept === 0n;
    byId("page-older", HTMLButtonElement).disabled =
      extent === undefined || (first ?? extent.logEndOffset) <= extent.logStartOffset;
    byId("page-newer", HTMLButtonElement).disabled = extent === undefined || last === undefined || last + 1n >= extent.logEndOffset;
    const range = first === undefined ? "No messages here" : last === first ? `Offset ${count(first)}` : `Offsets ${count(first)} to ${count(last ?? first)}`;
    const whole = extent === undefined || kept === 0n ? "" : ` of ${count(extent.logStartOffset)} to ${count(extent.logEndOffset - 1n)}`;
    byId("page-extent", HTMLElement).textContent = `${range}${whole}`;
    if (messages.length === 0) empty.replaceChildren(...emptiness(description, kept));
  }
}

/** What was there before the first kept offset is gone, so reading begins with what is kept. */
function notBefore(start: bigint, from: StartPosition | undefined): StartPosition | undefined {
  const [kind, number] = from?.split(":") ?? [];
  return kind === "offset" && number !== undefined && BigInt(number) < start ? `offset:${start}` : from;
}

function factsOf({ kind, ordering, durability, maxMessages, maxBytes, maxAgeMs, partitions }: TopicDescription): string {
  const size = partitions.reduce((sum, partition) => sum + partition.sizeBytes, 0);
  const limits = [
    maxMessages === 0 ? "" : counted(maxMessages, "message"),
    maxBytes === 0 ? "" : bytes(maxBytes),
    maxAgeMs === 0 ? "" : span(maxAgeMs),
  ].filter((limit) => limit !== "");
  return [
    kind.replace("_", " "),
    `ordering ${ordering.replace("_", " ")}`,
    `durability ${durability}`,
    counted(partitions.length, "partition"),
    bytes(size),
    limits.length === 0 ? "keeps everything" : `keeps ${limits.join(", ")} a partition`,
  ].join(" · ");
}

function paintPartitions({ partitions }: TopicDescription, current: number): void {
  const select = byId("partition", HTMLSelectElement);
  byId("partition-field", HTMLElement).hidden = partitions.length < 2;
  select.replaceChildren(
    ...partitions.map((extent, index) => {
      const option = make("option", "", `${index} (${count(extent.logEndOffset - extent.logStartOffset)})`);
      option.value = String(index);
      return option;
    }),
  );
  select.value = String(current);
}

function emptiness({ kind }: TopicDescription, kept: bigint): HTMLElement[] {
  if (kind === "live") {
    return [make("p", "empty-title", "This topic keeps nothing"), make("p", "", "It is live only: subscribe to it to see its messages.")];
  }
  if (kept > 0n) return [make("p", "empty-title", "Nothing from there on"), make("p", "", "Go to an earlier offset or time.")];
  return [make("p", "empty-title", "Nothing is stored"), make("p", "", "Publish to this topic, or look into another partition.")];
}
