/** The first screen: which broker. */

import { byId, choose, chosen, valueOf } from "./dom.ts";
import type { Broker } from "./place.ts";
import { isOwnServer, Session } from "./session.ts";
import { problemOf, refused, showProblem } from "./words.ts";
import type { Problem } from "./words.ts";

export class Welcome {
  private readonly form = byId("connect-form", HTMLFormElement);
  private readonly submit = byId("connect", HTMLButtonElement);
  private readonly problem = byId("connect-error", HTMLElement);
  private readonly opened: (session: Session) => void;
  private attempt: AbortController | undefined;

  /** `opened` is called with every session that is connected from here. */
  constructor(opened: (session: Session) => void) {
    this.opened = opened;
    byId("address", HTMLInputElement).value = location.origin;
    this.form.addEventListener("change", () => this.arrange());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.attempt === undefined) void this.connect();
      else this.cancel();
    });
    this.arrange();
  }

  /** Shows the screen, with the broker that a link or the last session chose. */
  show(broker: Broker | undefined): void {
    byId("welcome", HTMLElement).hidden = false;
    if (broker !== undefined) this.fill(broker);
  }

  hide(): void {
    byId("welcome", HTMLElement).hidden = true;
    byId("token", HTMLInputElement).value = "";
    showProblem(this.problem, undefined);
  }

  /** Puts the keyboard where it is needed first. */
  focus(): void {
    this.submit.focus();
  }

  /** Connects with what the form says. */
  async connect(): Promise<void> {
    showProblem(this.problem, undefined);
    const broker = this.broker();
    if (broker.to === "server" && broker.address.trim() === "") {
      showProblem(this.problem, refused("The address is empty. It should look like ws://127.0.0.1:8787."));
      byId("address", HTMLInputElement).focus();
      return;
    }
    if (broker.namespace === "") {
      showProblem(this.problem, refused("The namespace is empty. The one that is always there is called default."));
      byId("namespace", HTMLInputElement).focus();
      return;
    }
    const attempt = new AbortController();
    this.attempt = attempt;
    this.submit.textContent = "Cancel";
    this.form.setAttribute("aria-busy", "true");
    try {
      this.opened(await Session.open(broker, valueOf("token"), attempt.signal));
    } catch (error) {
      if (attempt.signal.aborted) return;
      const problem = (await refusalOf(broker, valueOf("token"))) ?? problemOf(error);
      showProblem(this.problem, problem);
      if (problem.code === "unauthorised") byId("token", HTMLInputElement).focus();
    } finally {
      this.attempt = undefined;
      this.submit.textContent = "Connect";
      this.form.removeAttribute("aria-busy");
    }
  }

  private cancel(): void {
    this.attempt?.abort();
  }

  private broker(): Broker {
    const namespace = valueOf("namespace").trim();
    if (chosen(this.form, "where") === "page") {
      return { to: "page", store: chosen(this.form, "store") === "memory" ? "memory" : "indexeddb", namespace };
    }
    return { to: "server", address: valueOf("address").trim(), namespace };
  }

  private fill(broker: Broker): void {
    choose(this.form, "where", broker.to);
    byId("namespace", HTMLInputElement).value = broker.namespace;
    if (broker.to === "page") choose(this.form, "store", broker.store);
    else if (broker.address !== "") byId("address", HTMLInputElement).value = broker.address;
    this.arrange();
  }

  private arrange(): void {
    const page = chosen(this.form, "where") === "page";
    byId("where-server", HTMLElement).hidden = page;
    byId("where-page", HTMLElement).hidden = !page;
  }
}

/**
 * Why the page's own server lets nobody in, if that is so. A browser keeps the answer to a refused WebSocket to itself,
 * so the same place is asked once more, as a page; other servers may not be asked by the page's policy.
 */
async function refusalOf(broker: Broker, token: string): Promise<Problem | undefined> {
  if (broker.to !== "server" || !isOwnServer(broker.address)) return undefined;
  const headers = token === "" ? {} : { authorization: `Bearer ${token}` };
  try {
    const response = await fetch(`/v1/${encodeURIComponent(broker.namespace)}/connect`, { headers });
    const answer: unknown = await response.json();
    // Asked without a WebSocket, the place itself is well: the failure lies elsewhere.
    if (response.status === 426 || typeof answer !== "object" || answer === null) return undefined;
    const { code, message } = answer as { code?: unknown; message?: unknown };
    return typeof code === "string" && typeof message === "string" ? problemOf({ code, message }) : undefined;
  } catch {
    return undefined;
  }
}
