/**
 * Where the console is, as the URL's hash: `#to=server&address=…&namespace=…&sub=filter|from|policy&view=…`. A link that
 * is passed on or a reload opens the same thing. The token is never part of it.
 */

import type { OnLag, StartPosition } from "dunlin";

/** Which broker. */
export type Broker =
  | { readonly to: "server"; readonly address: string; readonly namespace: string }
  | { readonly to: "page"; readonly store: "indexeddb" | "memory"; readonly namespace: string };

/** One subscription as it was asked for. */
export interface Wish {
  readonly filter: string;
  readonly from: StartPosition;
  readonly onLag: OnLag;
}

/** What the board shows; `publish` is a view of its own on narrow screens only. */
export const VIEWS = ["publish", "live", "history", "groups", "limits", "scheduled"] as const;
export type View = (typeof VIEWS)[number];

/** Which part of a group's page. */
export const PARTS = ["partitions", "members", "dead-letters", "settings"] as const;
export type Part = (typeof PARTS)[number];

/** A part of the page of one group. */
export interface GroupSpot {
  readonly group: string;
  readonly part: Part;
}

/** A page of a topic's history. */
export interface Spot {
  readonly topic: string;
  readonly partition: number;
  readonly from: StartPosition | undefined;
}

export interface Place {
  readonly broker: Broker | undefined;
  readonly wishes: readonly Wish[];
  readonly view: View;
  readonly spot: Spot | undefined;
  readonly group: GroupSpot | undefined;
}

/** How many subscriptions a link may open: it was written by somebody else. */
const WISHES_MAX = 20;
const POSITION = /^(latest|earliest|offset:\d{1,20}|timestamp:\d{1,16}|last:\d{1,10})$/;
const POLICIES: readonly string[] = ["drop_oldest", "drop_newest", "block", "close"];

/** Whether the text is a position that a link may hold; resume tokens are for programs. */
export function isPosition(text: string): text is StartPosition {
  return POSITION.test(text);
}

/** Reads a hash; what is not understood is left out. */
export function readPlace(hash: string): Place {
  const fields = new URLSearchParams(hash.replace(/^#/, ""));
  const wishes = fields.getAll("sub").map(readWish).filter((wish) => wish !== undefined);
  return {
    broker: readBroker(fields),
    wishes: wishes.slice(0, WISHES_MAX),
    view: VIEWS.find((view) => view === fields.get("view")) ?? "live",
    spot: readSpot(fields),
    group: readGroup(fields),
  };
}

function readBroker(fields: URLSearchParams): Broker | undefined {
  const namespace = fields.get("namespace") ?? "default";
  switch (fields.get("to")) {
    case "server":
      return { to: "server", address: fields.get("address") ?? "", namespace };
    case "page":
      return { to: "page", store: fields.get("store") === "memory" ? "memory" : "indexeddb", namespace };
    default:
      return undefined;
  }
}

/** Filters may hold `|`, so the fields are taken from the end. */
function readWish(text: string): Wish | undefined {
  const parts = text.split("|");
  const onLag = parts.pop() ?? "";
  const from = parts.pop() ?? "";
  const filter = parts.join("|");
  if (filter === "" || !POLICIES.includes(onLag) || !isPosition(from)) return undefined;
  return { filter, from, onLag: onLag as OnLag };
}

function readSpot(fields: URLSearchParams): Spot | undefined {
  const topic = fields.get("topic");
  if (topic === null || topic === "") return undefined;
  const partition = fields.get("partition") ?? "0";
  const from = fields.get("from") ?? "";
  return {
    topic,
    partition: /^\d{1,6}$/.test(partition) ? Number(partition) : 0,
    from: isPosition(from) ? from : undefined,
  };
}

function readGroup(fields: URLSearchParams): GroupSpot | undefined {
  const group = fields.get("group");
  if (group === null || group === "") return undefined;
  return { group, part: PARTS.find((part) => part === fields.get("part")) ?? "partitions" };
}

/** The hash for a place, beginning with `#`; empty for the place where everybody begins. */
export function writePlace(place: Place): string {
  const fields = new URLSearchParams();
  const { broker, spot, group } = place;
  if (broker !== undefined) {
    fields.set("to", broker.to);
    if (broker.to === "server") fields.set("address", withoutSecrets(broker.address));
    else fields.set("store", broker.store);
    fields.set("namespace", broker.namespace);
  }
  for (const wish of place.wishes) fields.append("sub", `${wish.filter}|${wish.from}|${wish.onLag}`);
  if (place.view !== "live") fields.set("view", place.view);
  if (spot !== undefined) {
    fields.set("topic", spot.topic);
    fields.set("partition", String(spot.partition));
    if (spot.from !== undefined) fields.set("from", spot.from);
  }
  if (group !== undefined) {
    fields.set("group", group.group);
    fields.set("part", group.part);
  }
  const text = fields.toString();
  return text === "" ? "" : `#${text.replace(/%2F/g, "/").replace(/%3A/g, ":").replace(/%7C/g, "|")}`;
}

/** An address may hold a token or a password of its own, pasted by somebody. */
export function withoutSecrets(address: string): string {
  try {
    const url = new URL(address);
    url.username = "";
    url.password = "";
    url.search = "";
    url.hash = "";
    return url.pathname === "/" ? url.href.slice(0, -1) : url.href;
  } catch {
    return address.replace(/[?#].*$/, "");
  }
}
