/** The scheduled view: the messages that wait for their time. */

import type { ScheduledMessage } from "dunlin";

import { byId, valueOf } from "./dom.ts";
import { showEmpty } from "./empty.ts";
import { ask } from "./question.ts";
import type { Session } from "./session.ts";
import { Table } from "./table.ts";
import { Watch } from "./watch.ts";
import { ahead, bytes, count, counted, moment, showProblem } from "./words.ts";

/** How many are listed, the next ones due; more need a narrower filter. */
const LISTED_MAX = 200;

export class Scheduled {
  private readonly problem = byId("scheduled-error", HTMLElement);
  private readonly table: Table<ScheduledMessage>;
  private readonly watch: Watch<readonly ScheduledMessage[]>;
  private session: Session | undefined;

  constructor() {
    this.table = new Table(byId("scheduled-table", HTMLElement), {
      label: "Scheduled messages",
      key: ({ scheduleId }) => String(scheduleId),
      name: ({ scheduleId }) => `message ${scheduleId}`,
      columns: [
        { title: "Topic", kind: "name", text: ({ topic }) => topic },
        { title: "Due", kind: "words", text: ({ deliverAt }) => ahead(deliverAt - Date.now()) },
        { title: "At", kind: "words", text: ({ deliverAt }) => moment(deliverAt) },
        { title: "Key", kind: "name", text: ({ key }) => key ?? "–" },
        { title: "Id", kind: "name", text: ({ id }) => id ?? "–" },
        { title: "Size", kind: "number", text: ({ sizeBytes }) => bytes(sizeBytes) },
        { title: "Number", kind: "number", text: ({ scheduleId }) => String(scheduleId) },
      ],
      actions: [{ label: () => "Cancel", act: (message) => this.cancel(message) }],
    });
    this.watch = new Watch(
      () => this.read(),
      (messages) => this.paint(messages),
      (problem) => {
        showProblem(this.problem, problem);
        this.table.show([]);
        showEmpty(byId("scheduled-empty", HTMLElement), undefined);
        byId("scheduled-count", HTMLElement).textContent = "";
      },
    );
    const form = byId("scheduled-form", HTMLFormElement);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", () => void this.watch.now());
  }

  start(session: Session): void {
    this.session = session;
    this.table.show([]);
    byId("scheduled-count", HTMLElement).textContent = "";
    showProblem(this.problem, undefined);
    showEmpty(byId("scheduled-empty", HTMLElement), undefined);
  }

  focus(): void {
    byId("scheduled-filter", HTMLInputElement).focus();
  }

  look(shown: boolean): void {
    if (shown) this.watch.start();
    else this.watch.stop();
  }

  private async read(): Promise<readonly ScheduledMessage[]> {
    const { session } = this;
    const messages: ScheduledMessage[] = [];
    if (session === undefined) return messages;
    const filter = valueOf("scheduled-filter").trim();
    for await (const message of session.client.scheduled(filter === "" ? {} : { filter })) {
      messages.push(message);
      // One more than is listed says that there are more.
      if (messages.length > LISTED_MAX) break;
    }
    return messages;
  }

  private paint(messages: readonly ScheduledMessage[]): void {
    showProblem(this.problem, undefined);
    this.table.show(messages.slice(0, LISTED_MAX));
    const words = messages.length > LISTED_MAX ? `The next ${count(LISTED_MAX)}; a filter shows others` : `${counted(messages.length, "message")} ${messages.length === 1 ? "waits" : "wait"}`;
    byId("scheduled-count", HTMLElement).textContent = messages.length === 0 ? "" : words;
    const nothing =
      valueOf("scheduled-filter").trim() === ""
        ? {
            title: "Nothing waits for its time",
            text: "The form lets a message wait with “Publish in”, and a program so:",
            example: 'await client.publish("reminders", "tea is ready", { delayMs: 180_000 });',
          }
        : { title: "Nothing waits in topics like that", text: "Choose another filter, or none." };
    showEmpty(byId("scheduled-empty", HTMLElement), messages.length === 0 ? nothing : undefined);
  }

  private cancel({ scheduleId, topic, deliverAt }: ScheduledMessage): void {
    const { session } = this;
    if (session === undefined) return;
    ask({
      title: `Cancel message ${scheduleId}?`,
      words: `It will not be published to ${topic} at ${moment(deliverAt)}, and is gone for good.`,
      verb: "Cancel message",
      destroys: true,
      act: async () => {
        try {
          await session.client.cancelScheduled(scheduleId);
        } finally {
          await this.watch.now();
        }
      },
    });
  }
}
