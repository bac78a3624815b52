/** Puts the console together: the broker, the three panels, the address bar, the theme and the keyboard. */

import type { Message, StateChange } from "dunlin";

import "./style/base.css";
import "./style/controls.css";
import "./style/layout.css";
import "./style/lists.css";
import "./style/tables.css";
import { byId } from "./dom.ts";
import { Groups } from "./groups.ts";
import { History } from "./history.ts";
import { Limits } from "./limits.ts";
import { Live } from "./live.ts";
import { readPlace, writePlace } from "./place.ts";
import type { Place, View } from "./place.ts";
import { Publish } from "./publish.ts";
import { mountQuestion } from "./question.ts";
import { Rates } from "./rates.ts";
import { Scheduled } from "./scheduled.ts";
import { isOwnServer } from "./session.ts";
import type { Session } from "./session.ts";
import { mountShortcuts } from "./shortcuts.ts";
import { mountTheme } from "./theme.ts";
import { Welcome } from "./welcome.ts";
import { problemOf } from "./words.ts";

const workspace = byId("workspace", HTMLElement);
const trouble = byId("trouble", HTMLElement);
const narrow = matchMedia("(max-width: 900px)");
let session: Session | undefined;
let place: Place = readPlace(location.hash);
let view: View = place.view;

const welcome = new Welcome(enter);
const rates = new Rates();
const publish = new Publish();
const asDraft = {
  label: "Use as draft",
  act: (message: Message) => {
    look("publish");
    publish.draft(message);
  },
};
const inHistory = {
  label: "Show in history",
  act: (message: Message) => {
    look("history");
    void history.find(message);
  },
};
const live = new Live([asDraft, inHistory], remember);
const history = new History([asDraft], remember);
const groups = new Groups([inHistory, asDraft], remember);
const scheduled = new Scheduled();
const limits = new Limits();

/** A broker is there: shows the workspace with what the link asked for. */
function enter(entered: Session): void {
  session = entered;
  welcome.hide();
  workspace.hidden = false;
  byId("disconnect", HTMLButtonElement).hidden = false;
  entered.onState((change) => {
    if (session === entered) showState(change);
  });
  showState({ state: entered.client.state, previous: "connecting" });
  publish.start(entered);
  live.start(entered, place.wishes);
  history.start(entered, place.spot);
  groups.start(entered, place.group);
  scheduled.start(entered);
  limits.start(entered);
  rates.start(entered);
  look(view);
  remember();
  if (place.wishes.length === 0 && view === "live") live.focus();
}

/** Back to the choice of a broker; the client's own end shows its reason there. */
function leave(): void {
  const left = session;
  session = undefined;
  rates.stop();
  watched(undefined);
  workspace.hidden = true;
  byId("disconnect", HTMLButtonElement).hidden = true;
  trouble.hidden = true;
  showAddress("none", "Not connected", "");
  welcome.show(left?.broker);
  welcome.focus();
  window.history.replaceState(null, "", location.pathname + location.search);
  void left?.client.close();
}

function showState({ state, error, retryInMs }: StateChange): void {
  const words = { connecting: "Connecting", open: "Connected", reconnecting: "Reconnecting", closed: "Closed" };
  showAddress(state, words[state], session?.title ?? "");
  // Once it is closed for good, all that is left to do is to go on from the first screen.
  byId("disconnect", HTMLButtonElement).textContent = state === "closed" ? "Choose a broker" : "Disconnect";
  trouble.hidden = state === "open" || error === undefined;
  if (error === undefined) return;
  const { message, code } = problemOf(error);
  const next = retryInMs === undefined ? "" : ` Trying again in ${(retryInMs / 1000).toFixed(1)} s.`;
  trouble.textContent = `${message} (${code})${next}`;
}

function showAddress(state: string, word: string, address: string): void {
  byId("state", HTMLElement).dataset["state"] = state;
  byId("state-word", HTMLElement).textContent = word;
  byId("state-address", HTMLElement).textContent = address;
  byId("state-address", HTMLElement).title = address;
  document.title = address === "" ? "dunlin console" : `${address} · dunlin`;
}

/** Changes the view of the board. Wide screens have the form beside it, so there it is not a view of its own. */
function look(next: View): void {
  if (next !== "publish" || narrow.matches) view = next;
  else if (view === "publish") view = "live";
  workspace.dataset["view"] = view;
  const board = view === "publish" ? "live" : view;
  for (const panel of document.querySelectorAll<HTMLElement>(".view")) panel.hidden = panel.dataset["view"] !== board;
  for (const tab of document.querySelectorAll<HTMLElement>(".views button")) {
    if (tab.dataset["view"] === view) {
      tab.setAttribute("aria-current", "page");
      // On a narrow screen the tabs scroll.
      tab.scrollIntoView({ block: "nearest", inline: "nearest" });
    } else tab.removeAttribute("aria-current");
  }
  if (view === "history") void history.topics.read();
  watched(view);
  remember();
}

/** Only what is looked at asks the broker again and again. */
function watched(seen: View | undefined): void {
  groups.look(seen === "groups");
  scheduled.look(seen === "scheduled");
  limits.look(seen === "limits");
}

/** Writes down in the address bar where the console is. */
function remember(): void {
  if (session === undefined) return;
  place = { broker: session.broker, wishes: live.wishes, view, spot: view === "history" ? history.spot : undefined, group: view === "groups" ? groups.spot : undefined };
  window.history.replaceState(null, "", location.pathname + location.search + writePlace(place));
}

function go(next: View, focus: () => void): void {
  if (session === undefined) return;
  look(next);
  focus();
}

for (const tab of document.querySelectorAll<HTMLElement>(".views button")) {
  tab.addEventListener("click", () => look(tab.dataset["view"] as View));
}
narrow.addEventListener("change", () => look(view));
byId("disconnect", HTMLButtonElement).addEventListener("click", leave);
mountQuestion();
const toggleTheme = mountTheme(() => rates.restyle());
mountShortcuts([
  { key: "p", words: "Publish: go to the topic", act: () => go("publish", () => publish.focus()) },
  { key: "s", words: "Subscribe: go to the filter", act: () => go("live", () => live.focus()) },
  { key: "h", words: "History: go to the topics", act: () => go("history", () => history.focus()) },
  { key: "g", words: "Groups: go to the search", act: () => go("groups", () => groups.focus()) },
  { key: "d", words: "Scheduled: what is due", act: () => go("scheduled", () => scheduled.focus()) },
  { key: "r", words: "Rate limits: go to the form", act: () => go("limits", () => limits.focus()) },
  { key: "l", words: "Live: go to the messages", act: () => go("live", () => byId("feed", HTMLElement).focus()) },
  { key: " ", words: "Pause or resume the live list", act: () => live.togglePause() },
  { key: "[", words: "Older page of the history", act: () => history.older() },
  { key: "]", words: "Newer page of the history", act: () => history.newer() },
  { key: "↑ or ↓ or ⏎", words: "Choose a message in a list, and open it" },
  { key: "Ctrl or ⏎", words: "Publish from anywhere in the form" },
  { key: "escape", words: "Close the message", act: () => void (live.escape() || history.escape() || groups.escape()) },
  { key: "t", words: "Light or dark", act: toggleTheme },
  { key: "?", words: "This help", act: () => byId("help", HTMLDialogElement).showModal() },
]);

/** A link to the console opens what it says, in the same tab too. */
window.addEventListener("hashchange", () => {
  place = readPlace(location.hash);
  view = place.view;
  if (session !== undefined) leaveFor(place);
  void begin();
});

function leaveFor(next: Place): void {
  const hash = writePlace(next);
  leave();
  window.history.replaceState(null, "", location.pathname + location.search + hash);
}

/**
 * Connects by itself where that can surprise nobody: a broker in this page, or the server that the page came from. To
 * any other server that a link names, a person must say yes.
 */
async function begin(): Promise<void> {
  const { broker } = place;
  welcome.show(broker);
  if (broker?.to === "page" || (broker?.to === "server" && isOwnServer(broker.address))) return welcome.connect();
  if (broker === undefined && (await servedByBroker())) return welcome.connect();
  welcome.focus();
}

/** Whether the page comes from a broker, and not from a place that only keeps its files. */
async function servedByBroker(): Promise<boolean> {
  try {
    const response = await fetch("/healthz");
    return response.ok && !(response.headers.get("content-type") ?? "").includes("html");
  } catch {
    return false;
  }
}

void begin();
