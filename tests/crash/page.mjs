// A tab: it does what it is asked over the socket, with the broker of the browser, and tells everything at once. The
// first one opens the others.
import { openLocal } from "dunlin";

import { Crew } from "./crew.mjs";

const parameters = new URLSearchParams(location.search);
const [tab, ...others] = parameters.getAll("tab");
for (const other of others) open(`${location.pathname}?life=${parameters.get("life")}&tab=${other}`);

const socket = new WebSocket(`ws://${location.host}/?life=${parameters.get("life")}&tab=${tab}`);
const unheard = new Map();
let crew;
let entries = 0;

const say = (message) => socket.send(JSON.stringify(message));

function journal(entry) {
  // Only what steps wait for has to be answered.
  if (entry.type !== "life") return say({ entry });
  entries += 1;
  say({ request: entries, entry });
  return new Promise((heard) => unheard.set(entries, heard));
}

function join({ options, seed }) {
  crew = new Crew({ seed, open: () => openLocal(options), journal });
}

socket.onmessage = async ({ data }) => {
  const { heard, request, method, given } = JSON.parse(data);
  if (heard !== undefined) {
    unheard.get(heard)();
    unheard.delete(heard);
    return;
  }
  try {
    say({ request, result: await (method === "join" ? join(...given) : crew[method](...given)) });
  } catch (error) {
    say({ request, error: error.stack ?? String(error) });
  }
};
