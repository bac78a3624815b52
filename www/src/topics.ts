/** The list of topics: to choose one from, and to suggest names in the forms. */

import { button, byId, make, valueOf } from "./dom.ts";
import type { Session } from "./session.ts";
import { count, problemOf } from "./words.ts";

/** How many names are asked for; more need a narrower filter. */
const NAMES_MAX = 1000;
const SUGGESTIONS_MAX = 200;

export class Topics {
  private readonly place = byId("topics", HTMLUListElement);
  private readonly empty = byId("topics-empty", HTMLElement);
  private readonly choose: (topic: string) => void;
  private session: Session | undefined;
  private names: readonly string[] = [];
  private more = false;
  private current: string | undefined;
  private attempt = 0;

  /** `choose` is called with the topic that a person picks. */
  constructor(choose: (topic: string) => void) {
    this.choose = choose;
    byId("topic-filter", HTMLInputElement).addEventListener("input", () => this.paint());
    byId("topics-refresh", HTMLButtonElement).addEventListener("click", () => void this.read());
  }

  start(session: Session): void {
    this.session = session;
    this.names = [];
    this.current = undefined;
    this.paint();
    void this.read();
  }

  /** Which topic is shown beside the list. */
  mark(topic: string | undefined): void {
    this.current = topic;
    this.paint();
  }

  /** Reads the names again. */
  async read(): Promise<void> {
    const { session } = this;
    if (session === undefined) return;
    this.attempt += 1;
    const attempt = this.attempt;
    const names: string[] = [];
    let more = false;
    try {
      for await (const name of session.client.listTopics()) {
        more = names.length === NAMES_MAX;
        if (more) break;
        names.push(name);
      }
    } catch (error) {
      const { message, code } = problemOf(error);
      if (attempt === this.attempt) this.say("The topics cannot be read", `${message} (${code})`);
      return;
    }
    // An answer that was overtaken by a newer one is not shown.
    if (attempt !== this.attempt) return;
    this.names = names;
    this.more = more;
    this.paint();
    byId("known-topics", HTMLDataListElement).replaceChildren(
      ...names.slice(0, SUGGESTIONS_MAX).map((name) => {
        const option = make("option");
        option.value = name;
        return option;
      }),
    );
  }

  private paint(): void {
    const wanted = valueOf("topic-filter").trim().toLowerCase();
    const names = this.names.filter((name) => name.toLowerCase().includes(wanted));
    this.place.replaceChildren(
      ...names.map((name) => {
        const entry = button(name, "topic-choice", () => this.choose(name));
        entry.title = name;
        if (name === this.current) entry.setAttribute("aria-current", "true");
        return make("li", "", entry);
      }),
    );
    if (this.names.length === 0) this.say("No topics yet", "A topic begins with its first message. Publish one.");
    else if (names.length === 0) this.say("No topic has that in its name", "");
    else if (this.more) this.say("", `These are the first ${count(NAMES_MAX)}.`);
    else this.say("", "");
  }

  private say(title: string, text: string): void {
    this.empty.hidden = title === "" && text === "";
    this.empty.replaceChildren(...(title === "" ? [] : [make("p", "empty-title", title)]), make("p", "", text));
  }
}
