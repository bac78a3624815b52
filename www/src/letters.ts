/** The dead letters of a group: what it gave up, why, and what to do with it. */

import type { DeadLetter, DeadLettersOptions, DeadReason, GroupDescription } from "dunlin";

import { Detail, REASONS } from "./detail.ts";
import type { DetailAction } from "./detail.ts";
import { byId, make, valueOf } from "./dom.ts";
import { showEmpty } from "./empty.ts";
import { preview } from "./payload.ts";
import { ask, field } from "./question.ts";
import type { Session } from "./session.ts";
import { Table } from "./table.ts";
import { count, counted, moment, problemOf, refused, showProblem, wholeNumber } from "./words.ts";

const PAGE = 100;
/** The fastest replay that can be asked for, a second. */
const RATE_MAX = 1_000_000;

/** What a button is about: these, or all without any. */
interface Chosen {
  readonly words: string;
  readonly offsets: () => Promise<readonly bigint[] | undefined>;
}

export class Letters {
  private readonly problem = byId("letters-error", HTMLElement);
  private readonly count = byId("letters-count", HTMLElement);
  private readonly changed: () => void;
  private readonly table: Table<DeadLetter>;
  private readonly detail: Detail<DeadLetter>;
  private session: Session | undefined;
  private group: GroupDescription | undefined;
  /** The page: the letters, the first one's place that was asked for, and whether there are more behind it. */
  private letters: readonly DeadLetter[] = [];
  private from = 0n;
  private more = false;
  private attempt = 0;

  /** `changed` is called when dead letters were replayed or deleted. */
  constructor(actions: readonly DetailAction[], changed: () => void) {
    this.changed = changed;
    const one = (letter: DeadLetter): Chosen => ({ words: `dead letter ${letter.deadOffset}`, offsets: () => Promise.resolve([letter.deadOffset]) });
    const doing: DetailAction<DeadLetter>[] = [
      { label: "Replay …", act: (letter) => this.replay(one(letter)) },
      { label: "Delete …", act: (letter) => this.delete(one(letter)) },
    ];
    this.detail = new Detail(byId("letters-split", HTMLElement), [...doing, ...actions], () => this.table.mark(undefined));
    this.table = new Table(byId("letters-table", HTMLElement), {
      label: "Dead letters",
      key: ({ deadOffset }) => String(deadOffset),
      name: ({ deadOffset }) => `dead letter ${deadOffset}`,
      open: (letter) => {
        this.table.mark(String(letter.deadOffset));
        this.detail.show(letter);
      },
      ticked: () => this.name(),
      columns: [
        { title: "Topic", kind: "name", text: ({ topic }) => topic },
        { title: "Place", kind: "number", text: ({ partition, offset }) => `${partition}:${offset}` },
        { title: "Reason", kind: "words", text: ({ reason, note }) => `${REASONS[reason] ?? reason}${note === undefined ? "" : `: ${note}`}` },
        { title: "Attempts", kind: "number", text: ({ attempts }) => count(attempts) },
        { title: "Given up", kind: "words", text: ({ diedAt }) => moment(diedAt) },
        { title: "Payload", kind: "name", text: ({ payload }) => preview(payload) },
      ],
    });
    const form = byId("letters-form", HTMLFormElement);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", () => void this.read(0n));
    const press = (id: string, act: () => void): void => byId(id, HTMLButtonElement).addEventListener("click", act);
    press("letters-first", () => void this.read(0n));
    press("letters-newer", () => void this.read((this.letters.at(-1)?.deadOffset ?? 0n) + 1n));
    press("letters-replay", () => this.replay(this.chosen()));
    press("letters-delete", () => this.delete(this.chosen()));
  }

  start(session: Session): void {
    this.session = session;
    byId("letters-filter", HTMLInputElement).value = "";
    byId("letters-reason", HTMLSelectElement).value = "";
  }

  escape(): boolean {
    const { open } = this.detail;
    this.detail.hide();
    return open;
  }

  /** Shows those of a group. They are read again when their number changed; payloads are too big to be read for nothing. */
  show(group: GroupDescription | undefined): void {
    const before = this.group;
    this.group = group;
    if (group === undefined) {
      this.detail.hide();
      this.table.show([]);
      this.count.textContent = "";
      showProblem(this.problem, undefined);
      showEmpty(byId("letters-empty", HTMLElement), undefined);
      this.attempt += 1;
    } else if (before?.group !== group.group || before.deadLetters !== group.deadLetters) {
      void this.read(before?.group === group.group ? this.from : 0n);
    }
  }

  private wish(): DeadLettersOptions {
    const [filter, reason] = [valueOf("letters-filter").trim(), valueOf("letters-reason")];
    return { ...(filter !== "" && { filter }), ...(reason !== "" && { reason: reason as DeadReason }) };
  }

  private async read(from: bigint): Promise<void> {
    const { session, group } = this;
    if (session === undefined || group === undefined) return;
    this.attempt += 1;
    const { attempt } = this;
    const letters: DeadLetter[] = [];
    let more = false;
    try {
      for await (const letter of session.client.group(group.group).deadLetters({ ...this.wish(), fromOffset: from })) {
        more = letters.length === PAGE;
        if (more) break;
        letters.push(letter);
      }
    } catch (error) {
      if (attempt === this.attempt) showProblem(this.problem, problemOf(error));
      return;
    }
    if (attempt !== this.attempt) return;
    // Those of the last page are gone: there is an earlier one.
    if (letters.length === 0 && from > 0n) return this.read(0n);
    this.letters = letters;
    this.from = from;
    this.more = more;
    showProblem(this.problem, undefined);
    this.paint();
  }

  private paint(): void {
    const { letters, from, more, group } = this;
    this.table.show(letters);
    byId("letters-first", HTMLButtonElement).disabled = from === 0n;
    byId("letters-newer", HTMLButtonElement).disabled = !more;
    const narrowed = Object.keys(this.wish()).length > 0;
    const nothing = narrowed
      ? { title: "No dead letter is like that", text: "Choose other topics, or any reason." }
      : {
          title: "No dead letters",
          text: `A message that was delivered ${counted(group?.maxDeliveryAttempts ?? 0, "time")} in vain comes here, and one that a member rejects:`,
          example: 'await job.reject({ reason: "no such customer" });',
        };
    showEmpty(byId("letters-empty", HTMLElement), letters.length === 0 ? nothing : undefined);
    this.name();
  }

  /** The buttons say what they are about. */
  private name(): void {
    const { words } = this.chosen();
    const none = this.letters.length === 0;
    for (const [id, verb] of [["letters-replay", "Replay"], ["letters-delete", "Delete"]] as const) {
      const control = byId(id, HTMLButtonElement);
      control.textContent = `${verb} ${words} …`;
      control.disabled = none;
    }
  }

  private chosen(): Chosen {
    const { selected } = this.table;
    if (selected.length > 0) return { words: `${count(selected.length)} selected`, offsets: () => Promise.resolve(selected.map(({ deadOffset }) => deadOffset)) };
    const wish = this.wish();
    if (Object.keys(wish).length === 0) return { words: "all", offsets: () => Promise.resolve(undefined) };
    return { words: "all that match", offsets: () => this.matching(wish) };
  }

  private async matching(wish: DeadLettersOptions): Promise<readonly bigint[]> {
    const offsets: bigint[] = [];
    const { session, group } = this;
    if (session === undefined || group === undefined) return offsets;
    for await (const { deadOffset } of session.client.group(group.group).deadLetters(wish)) offsets.push(deadOffset);
    return offsets;
  }

  private replay({ words, offsets }: Chosen): void {
    const { session, group } = this;
    if (session === undefined || group === undefined) return;
    const rate = make("input");
    rate.type = "text";
    rate.inputMode = "numeric";
    rate.placeholder = "no bound";
    const waiting = group.members.length === 0 ? " Nobody is a member at the moment, so they wait until somebody is." : "";
    ask({
      title: `Replay ${words}?`,
      words: `${whole(words)} will be delivered to the group again. What a member acknowledges is done; what fails again comes back here.${waiting}`,
      verb: "Replay",
      fields: [field("At most so many a second", rate, "replay-rate")],
      act: async () => {
        const perSecond = rate.value.trim() === "" ? undefined : wholeNumber(rate.value, RATE_MAX);
        if (rate.value.trim() !== "" && perSecond === undefined) throw refused(`How many a second? A whole number from 1 to ${count(RATE_MAX)} is needed, or nothing.`);
        const which = await offsets();
        const done = await session.client.group(group.group).replayDeadLetters({ ...(which !== undefined && { offsets: which }), ...(perSecond !== undefined && { rate: perSecond }) });
        this.told(`${counted(done, "dead letter")} on the way to the group again.`);
      },
    });
  }

  private delete({ words, offsets }: Chosen): void {
    const { session, group } = this;
    if (session === undefined || group === undefined) return;
    ask({
      title: `Delete ${words}?`,
      words: `${whole(words)} will be gone for good, and never delivered again.`,
      verb: "Delete",
      destroys: true,
      act: async () => {
        const which = await offsets();
        const done = await session.client.group(group.group).deleteDeadLetters(which === undefined ? {} : { offsets: which });
        this.told(`${counted(done, "dead letter")} deleted.`);
      },
    });
  }

  private told(words: string): void {
    this.count.textContent = words;
    this.detail.hide();
    this.table.tickAll(false);
    void this.read(this.from);
    this.changed();
  }
}

function whole(words: string): string {
  return words.startsWith("dead letter") ? `D${words.slice(1)}` : `${words.charAt(0).toUpperCase()}${words.slice(1)} of the dead letters`;
}
