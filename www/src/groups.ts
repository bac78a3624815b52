/** The groups view: all groups with how far they are, or the page of one. */

import type { GroupDescription } from "dunlin";

import type { DetailAction } from "./detail.ts";
import { byId, valueOf } from "./dom.ts";
import { showEmpty } from "./empty.ts";
import { GroupPage, lagOf } from "./group.ts";
import type { GroupSpot } from "./place.ts";
import type { Session } from "./session.ts";
import { Table } from "./table.ts";
import { Watch } from "./watch.ts";
import { count, counted, showProblem } from "./words.ts";

/** How many groups are asked how far they are; more need a narrower search. */
const GROUPS_MAX = 100;

interface Seen {
  readonly groups: readonly GroupDescription[];
  /** How many have a name that was searched for, and how many there are. */
  readonly matching: number;
  readonly all: number;
}

export class Groups {
  private readonly problem = byId("groups-error", HTMLElement);
  private readonly changedPlace: () => void;
  private readonly page: GroupPage;
  private readonly table: Table<GroupDescription>;
  private readonly watch: Watch<Seen>;
  private session: Session | undefined;
  private shown = false;

  /** `actions` are offered for dead letters; `changedPlace` is called when another group or part of it is shown. */
  constructor(actions: readonly DetailAction[], changedPlace: () => void) {
    this.changedPlace = changedPlace;
    this.page = new GroupPage(actions, changedPlace, () => this.open(undefined));
    this.table = new Table(byId("groups-table", HTMLElement), {
      label: "Groups",
      key: ({ group }) => group,
      name: ({ group }) => group,
      open: ({ group }) => this.open({ group, part: "partitions" }),
      columns: [
        { title: "Group", kind: "name", text: ({ group }) => group },
        { title: "Kind", kind: "words", text: ({ kind }) => kind },
        { title: "State", kind: "words", text: ({ paused }) => (paused ? "paused" : "running"), warn: ({ paused }) => paused },
        { title: "Members", kind: "number", text: ({ members }) => count(members.length) },
        { title: "Lag", kind: "number", text: (group) => count(lagOf(group)) },
        {
          title: "Dead letters",
          kind: "number",
          text: ({ kind, deadLetters }) => (kind === "queue" ? count(deadLetters) : "–"),
          warn: ({ deadLetters }) => deadLetters > 0,
        },
      ],
    });
    this.watch = new Watch(
      () => this.read(),
      (seen) => this.paint(seen),
      (problem) => {
        showProblem(this.problem, problem);
        if (problem.code === "forbidden") this.table.show([]);
      },
    );
    byId("group-filter", HTMLInputElement).addEventListener("input", () => void this.watch.now());
  }

  /** The group that is shown, for the page's address. */
  get spot(): GroupSpot | undefined {
    return this.page.spot;
  }

  start(session: Session, spot: GroupSpot | undefined): void {
    this.session = session;
    this.table.show([]);
    showEmpty(byId("groups-empty", HTMLElement), undefined);
    showProblem(this.problem, undefined);
    byId("groups-count", HTMLElement).textContent = "";
    this.page.start(session);
    this.open(spot);
  }

  focus(): void {
    if (this.page.spot === undefined) byId("group-filter", HTMLInputElement).focus();
    else byId("group-back", HTMLButtonElement).focus();
  }

  escape(): boolean {
    return this.page.escape();
  }

  /** Somebody looks at it, or not any more. */
  look(shown: boolean): void {
    this.shown = shown;
    const list = shown && this.page.spot === undefined;
    this.page.look(shown);
    if (list) this.watch.start();
    else this.watch.stop();
  }

  private open(spot: GroupSpot | undefined): void {
    const before = this.page.spot;
    this.page.show(spot);
    byId("group-list", HTMLElement).hidden = spot !== undefined;
    byId("group-page", HTMLElement).hidden = spot === undefined;
    this.look(this.shown);
    // The keyboard stays where the eye is.
    if (this.shown && (before === undefined) !== (spot === undefined)) this.focus();
    this.changedPlace();
  }

  private async read(): Promise<Seen> {
    const { session } = this;
    if (session === undefined) return { groups: [], matching: 0, all: 0 };
    const wanted = valueOf("group-filter").trim().toLowerCase();
    let all = 0;
    const names: string[] = [];
    for await (const name of session.client.groups()) {
      all += 1;
      if (name.toLowerCase().includes(wanted)) names.push(name);
    }
    const described = await Promise.all(
      names.slice(0, GROUPS_MAX).map((name) =>
        session.client
          .group(name)
          .describe()
          // Deleted since it was listed.
          .catch((error: unknown) => ((error as { code?: string }).code === "unknown_group" ? undefined : Promise.reject(error as Error))),
      ),
    );
    return { groups: described.filter((group) => group !== undefined), matching: names.length, all };
  }

  private paint({ groups, matching, all }: Seen): void {
    showProblem(this.problem, undefined);
    this.table.show(groups);
    const cut = matching > GROUPS_MAX ? `The first ${count(GROUPS_MAX)} of ${counted(matching, "group")}` : counted(matching, "group");
    byId("groups-count", HTMLElement).textContent = all === 0 ? "" : cut;
    const nothing =
      all > 0
        ? { title: "No group has that in its name", text: "" }
        : {
            title: "No groups yet",
            text: "A group shares the messages of its topics among its members. It begins with the first who joins:",
            example: 'const member = client.group("jobs").joinQueue("jobs/#");\nfor await (const job of member) await job.ack();',
          };
    showEmpty(byId("groups-empty", HTMLElement), groups.length === 0 ? nothing : undefined);
  }
}

