/** The limits view: which rate limits hold, and a form that sets them. */

import type { Limit, LimitConfig, LimitName, LimitScope } from "dunlin";

import { byId, valueOf } from "./dom.ts";
import { showEmpty } from "./empty.ts";
import { ask } from "./question.ts";
import type { Session } from "./session.ts";
import { Table } from "./table.ts";
import { Watch } from "./watch.ts";
import { count, counted, problemOf, refused, showProblem, span, wholeNumber } from "./words.ts";

/** How scopes are called, and what names one of them; without that the scope has no names. */
const SCOPES: Readonly<Record<LimitScope, readonly [all: string, one?: string]>> = {
  namespace: ["the namespace"],
  topic: ["each topic", "topic"],
  connection: ["each connection"],
  user: ["each user", "user"],
  ip: ["each address", "address"],
  subscriber: ["each subscriber"],
};

export class Limits {
  private readonly problem = byId("limits-error", HTMLElement);
  private readonly refusal = byId("limit-error", HTMLElement);
  private readonly table: Table<Limit>;
  private readonly watch: Watch<Limit[]>;
  private session: Session | undefined;

  constructor() {
    this.table = new Table<Limit>(byId("limits-table", HTMLElement), {
      label: "Rate limits",
      key: ({ scope, name }) => `${scope} ${name ?? ""}`,
      name: whose,
      columns: [
        { title: "Limit for", kind: "name", text: whose },
        { title: "Rate", kind: "number", text: ({ rate, perMs }) => `${count(rate)} in ${span(perMs)}` },
        { title: "At once", kind: "number", text: ({ burst }) => count(burst) },
        { title: "Adaptive", kind: "words", text: ({ adaptive, factor }) => (adaptive ? `× ${factor.toFixed(2)} now` : "no"), warn: ({ adaptive, factor }) => adaptive && factor < 1 },
        { title: "From", kind: "words", text: ({ inherited }) => (inherited ? "the broker" : "this namespace") },
      ],
      actions: [
        { label: ({ inherited }) => (inherited ? "Override" : "Change"), act: (limit) => this.fill(limit) },
        { label: () => "Remove", act: (limit) => this.remove(limit), offered: ({ inherited }) => !inherited },
      ],
    });
    this.watch = new Watch(
      async () => (await this.session?.client.limits()) ?? [],
      (limits) => this.paint(limits),
      (problem) => {
        showProblem(this.problem, problem);
        if (problem.code === "forbidden") this.table.show([]);
      },
    );
    byId("limit-scope", HTMLSelectElement).addEventListener("change", () => this.arrange());
    byId("limit-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      void this.set();
    });
    this.arrange();
  }

  start(session: Session): void {
    this.session = session;
    this.table.show([]);
    byId("limits-count", HTMLElement).textContent = "";
    for (const place of [this.problem, this.refusal]) showProblem(place, undefined);
    showEmpty(byId("limits-empty", HTMLElement), undefined);
  }

  focus(): void {
    byId("limit-scope", HTMLSelectElement).focus();
  }

  look(shown: boolean): void {
    if (shown) this.watch.start();
    else this.watch.stop();
  }

  private paint(limits: readonly Limit[]): void {
    showProblem(this.problem, undefined);
    this.table.show(limits);
    byId("limits-count", HTMLElement).textContent = limits.length === 0 ? "" : counted(limits.length, "limit");
    const nothing = {
      title: "Nothing is limited",
      text: "Everybody may publish as fast as the broker goes. Set a limit above, or from a program:",
      example: 'await client.configureLimit({ scope: "user", rate: 100 });',
    };
    showEmpty(byId("limits-empty", HTMLElement), limits.length === 0 ? nothing : undefined);
  }

  private arrange(): void {
    const [, one] = SCOPES[valueOf("limit-scope") as LimitScope];
    const name = byId("limit-name", HTMLInputElement);
    name.disabled = one === undefined;
    name.placeholder = one === undefined ? "there is one for each" : `every ${one}`;
    if (one === undefined) name.value = "";
  }

  private async set(): Promise<void> {
    const { session } = this;
    if (session === undefined) return;
    showProblem(this.refusal, undefined);
    const limit = wished();
    if ("code" in limit) {
      showProblem(this.refusal, limit);
      return;
    }
    try {
      await session.client.configureLimit(limit);
      byId("limit-form", HTMLFormElement).reset();
      this.arrange();
    } catch (error) {
      showProblem(this.refusal, problemOf(error));
    }
    await this.watch.now();
  }

  private fill({ scope, name, rate, perMs, burst, adaptive }: Limit): void {
    byId("limit-scope", HTMLSelectElement).value = scope;
    this.arrange();
    const put = (id: string, value: string): void => {
      byId(id, HTMLInputElement).value = value;
    };
    put("limit-name", name ?? "");
    put("limit-rate", String(rate));
    put("limit-per", String(perMs));
    put("limit-burst", String(burst));
    byId("limit-adaptive", HTMLInputElement).checked = adaptive;
    showProblem(this.refusal, undefined);
    byId("limit-rate", HTMLInputElement).select();
  }

  private remove(limit: Limit): void {
    const { session } = this;
    if (session === undefined) return;
    ask({
      title: `Remove the limit for ${whose(limit)}?`,
      words: "It holds no more from now on. If the broker's configuration has one for this scope, that one holds again.",
      verb: "Remove limit",
      destroys: true,
      act: async () => {
        const { scope, name } = limit;
        await session.client.deleteLimit({ scope, ...(name !== undefined && { name }) });
        await this.watch.now();
      },
    });
  }
}

function whose({ scope, name }: LimitName): string {
  const [all, one] = SCOPES[scope] ?? [scope];
  return name === undefined ? all : `${one ?? scope} ${name}`;
}

/** The limit that the form says. */
function wished(): LimitConfig | ReturnType<typeof refused> {
  const name = valueOf("limit-name").trim();
  const [rate, perMs, burst] = ["limit-rate", "limit-per", "limit-burst"].map((id) => valueOf(id).trim());
  const fields: { rate: number; perMs?: number; burst?: number } = { rate: 0 };
  for (const [field, text, label, needed] of [
    ["rate", rate ?? "", "How many", true],
    ["perMs", perMs ?? "", "Per", false],
    ["burst", burst ?? "", "At once", false],
  ] as const) {
    if (text === "" && !needed) continue;
    const number = wholeNumber(text, Number.MAX_SAFE_INTEGER);
    if (number === undefined) return refused(`“${label}” must be a whole number from 1 on${needed ? "" : ", or empty"}.`);
    fields[field] = number;
  }
  const scope = valueOf("limit-scope") as LimitScope;
  return { scope, ...(name !== "" && { name }), ...fields, adaptive: byId("limit-adaptive", HTMLInputElement).checked };
}
