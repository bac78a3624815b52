/** The page of one group: how far it is, who its members are, what it gave up, how it is set. */

import type { GroupDescription, GroupPartition, MemberDescription } from "dunlin";

import type { DetailAction } from "./detail.ts";
import { byId, make } from "./dom.ts";
import { showEmpty } from "./empty.ts";
import { Letters } from "./letters.ts";
import type { GroupSpot, Part } from "./place.ts";
import { ask } from "./question.ts";
import { askReset } from "./reset.ts";
import type { Session } from "./session.ts";
import { Table } from "./table.ts";
import { Watch } from "./watch.ts";
import { count, counted, problemOf, showProblem, span } from "./words.ts";
import type { Problem } from "./words.ts";

/** How many messages of a group's topics are not done. */
export function lagOf({ partitions }: GroupDescription): number {
  return partitions.reduce((sum, { lag }) => sum + lag, 0);
}

export class GroupPage {
  private readonly problem = byId("group-error", HTMLElement);
  private readonly changedPlace: () => void;
  private readonly left: () => void;
  private readonly partitions: Table<GroupPartition>;
  private readonly members: Table<MemberDescription>;
  private readonly letters: Letters;
  private readonly watch: Watch<GroupDescription>;
  private session: Session | undefined;
  private at: GroupSpot | undefined;
  private seen: GroupDescription | undefined;

  /** `left` is called when there is nothing to show any more, or a person wants to go back. */
  constructor(actions: readonly DetailAction[], changedPlace: () => void, left: () => void) {
    this.changedPlace = changedPlace;
    this.left = left;
    this.partitions = new Table(byId("group-partitions", HTMLElement), {
      label: "Partitions",
      key: ({ topic, partition }) => `${partition} ${topic}`,
      name: ({ topic, partition }) => `${topic}, partition ${partition}`,
      columns: [
        { title: "Topic", kind: "name", text: ({ topic }) => topic },
        { title: "Partition", kind: "number", text: ({ partition }) => String(partition) },
        { title: "Committed", kind: "number", text: ({ committedOffset }) => count(committedOffset) },
        { title: "End", kind: "number", text: ({ logEndOffset }) => count(logEndOffset) },
        { title: "Lag", kind: "number", text: ({ lag }) => count(lag) },
        { title: "Owner", kind: "name", text: ({ member }) => member ?? "–" },
      ],
    });
    this.members = new Table(byId("group-members", HTMLElement), {
      label: "Members",
      key: ({ member }) => member,
      name: ({ member }) => member,
      columns: [
        { title: "Member", kind: "name", text: ({ member }) => member },
        { title: "Connection", kind: "words", text: ({ connection }) => (connection === 0 ? "away" : `number ${connection}`), warn: ({ connection }) => connection === 0 },
        { title: "In flight", kind: "number", text: ({ inFlight }) => (this.seen?.kind === "queue" ? count(inFlight) : "–") },
        { title: "Partitions", kind: "number", text: ({ partitions }) => (this.seen?.kind === "queue" ? "–" : count(partitions)) },
      ],
    });
    this.letters = new Letters(actions, () => void this.watch.now());
    this.watch = new Watch(
      () => this.read(),
      (group) => this.paint(group),
      (problem) => this.failed(problem),
    );
    byId("group-back", HTMLButtonElement).addEventListener("click", () => this.left());
    byId("group-pause", HTMLButtonElement).addEventListener("click", () => void this.togglePause());
    byId("group-reset", HTMLButtonElement).addEventListener("click", () => this.reset());
    byId("group-delete", HTMLButtonElement).addEventListener("click", () => this.delete());
    for (const tab of this.tabs()) tab.addEventListener("click", () => this.turn(tab.dataset["part"] as Part));
  }

  get spot(): GroupSpot | undefined {
    return this.at;
  }

  start(session: Session): void {
    this.session = session;
    this.letters.start(session);
  }

  /** Shows a part of a group, or nothing. */
  show(spot: GroupSpot | undefined): void {
    const other = spot?.group !== this.at?.group;
    this.at = spot;
    if (other) {
      this.seen = undefined;
      this.letters.show(undefined);
      this.partitions.show([]);
      this.members.show([]);
      byId("group-name", HTMLElement).textContent = spot?.group ?? "";
      byId("group-facts", HTMLElement).textContent = "…";
      byId("group-settings", HTMLElement).replaceChildren();
      for (const part of ["partitions", "members"]) showEmpty(byId(`group-${part}-empty`, HTMLElement), undefined);
      showProblem(this.problem, undefined);
    }
    this.arrange();
  }

  look(shown: boolean): void {
    if (shown && this.at !== undefined) this.watch.start();
    else this.watch.stop();
  }

  escape(): boolean {
    return this.letters.escape();
  }

  private tabs(): HTMLButtonElement[] {
    return [...byId("group-parts", HTMLElement).querySelectorAll("button")];
  }

  private turn(part: Part): void {
    if (this.at === undefined) return;
    this.at = { group: this.at.group, part };
    this.arrange();
    this.changedPlace();
  }

  private arrange(): void {
    const { at, seen } = this;
    // A partitioned group gives nothing up.
    const letterless = seen?.kind === "partitioned";
    const part = letterless && at?.part === "dead-letters" ? "partitions" : at?.part;
    for (const tab of this.tabs()) {
      const its = tab.dataset["part"];
      tab.setAttribute("aria-pressed", String(its === part));
      if (its === "dead-letters") {
        tab.hidden = letterless;
        tab.textContent = seen === undefined || seen.deadLetters === 0 ? "Dead letters" : `Dead letters (${count(seen.deadLetters)})`;
      }
    }
    for (const element of byId("group-page", HTMLElement).querySelectorAll<HTMLElement>(".part")) element.hidden = element.dataset["part"] !== part;
    this.letters.show(seen !== undefined && part === "dead-letters" ? seen : undefined);
  }

  private read(): Promise<GroupDescription> {
    if (this.session === undefined || this.at === undefined) return Promise.reject(new Error("no group is shown"));
    return this.session.client.group(this.at.group).describe();
  }

  private failed(problem: Problem): void {
    const gone = problem.code === "unknown_group";
    showProblem(this.problem, gone ? { ...problem, advice: "It was deleted, or the link to it is old. All groups are behind the arrow." } : problem);
    if (!gone) return;
    this.seen = undefined;
    this.allow(false);
    byId("group-facts", HTMLElement).textContent = "";
    this.partitions.show([]);
    this.members.show([]);
    this.arrange();
  }

  private paint(group: GroupDescription): void {
    this.seen = group;
    showProblem(this.problem, undefined);
    this.allow(true);
    const { kind, paused, members, generation, partitions } = group;
    const state = paused ? "paused" : "running";
    const moved = kind === "partitioned" ? [`generation ${generation}`] : [];
    byId("group-facts", HTMLElement).textContent = [kind, state, counted(members.length, "member"), `lag ${count(lagOf(group))}`, ...moved].join(" · ");
    const pause = byId("group-pause", HTMLButtonElement);
    pause.textContent = paused ? "Resume" : "Pause";
    pause.setAttribute("aria-pressed", String(paused));
    this.partitions.show(partitions);
    this.members.show(members);
    const filters = group.filters.join(", ");
    showEmpty(byId("group-partitions-empty", HTMLElement), partitions.length > 0 ? undefined : { title: "It reads no topic yet", text: filters === "" ? "It has no filters. Members bring theirs." : `No topic matches ${filters}.` });
    const join = kind === "queue" ? "joinQueue" : "joinPartitioned";
    const example = `for await (const message of client.group(${JSON.stringify(group.group)}).${join}(${JSON.stringify(group.filters[0] ?? "#")})) {\n  console.log(message.text());\n}`;
    showEmpty(byId("group-members-empty", HTMLElement), members.length > 0 ? undefined : { title: "Nobody is a member", text: "Its messages wait. A program becomes a member so:", example });
    byId("group-settings", HTMLElement).replaceChildren(...settings(group));
    this.arrange();
  }

  /** Nothing can be done with a group that is not there. */
  private allow(doing: boolean): void {
    for (const control of byId("group-actions", HTMLElement).querySelectorAll("button")) control.disabled = !doing;
  }

  private async togglePause(): Promise<void> {
    const { session, at, seen } = this;
    if (session === undefined || at === undefined || seen === undefined) return;
    const group = session.client.group(at.group);
    try {
      await (seen.paused ? group.resume() : group.pause());
      await this.watch.now();
    } catch (error) {
      showProblem(this.problem, problemOf(error));
    }
  }

  private reset(): void {
    const { session, seen } = this;
    if (session !== undefined && seen !== undefined) askReset(session.client, seen, () => void this.watch.now());
  }

  private delete(): void {
    const { session, seen } = this;
    if (session === undefined || seen === undefined) return;
    const { group, members, deadLetters } = seen;
    const who = members.length === 0 ? "It has no members." : `Its ${counted(members.length, "member")} ${members.length === 1 ? "ends" : "end"} with unknown_group.`;
    const dead = deadLetters === 0 ? "" : ` Its ${counted(deadLetters, "dead letter")} ${deadLetters === 1 ? "is" : "are"} gone for good.`;
    ask({
      title: `Delete group ${group}?`,
      words: `How far it is will be forgotten.${dead} ${who} The messages of its topics stay.`,
      verb: "Delete group",
      destroys: true,
      act: async () => {
        await session.client.group(group).delete();
        this.left();
      },
    });
  }
}

function settings(group: GroupDescription): HTMLElement[] {
  const queue: [string, string][] = [
    ["Acknowledged within", span(group.ackDeadlineMs)],
    ["Delivered at most", counted(group.maxDeliveryAttempts, "time")],
    ["Again after", group.retry === "none" ? "no wait" : `${span(group.retryMs)}, ${group.retry}${group.retry === "fixed" ? "" : `, up to ${span(group.retryMsMax)}`}`],
    ["Alert at", group.deadLettersAlert === 0 ? "never" : counted(group.deadLettersAlert, "dead letter")],
  ];
  const partitioned: [string, string][] = [
    ["Strategy", group.strategy.replace("_", " ")],
    ["Lets go within", span(group.rebalanceMs)],
  ];
  const rows: [string, string][] = [
    ["Topics", group.filters.join(", ") || "those of its members"],
    ["Silent at most", span(group.sessionMs)],
    ...(group.kind === "queue" ? queue : partitioned),
  ];
  return rows.flatMap(([name, value]) => [make("dt", "", name), make("dd", "", value)]);
}
