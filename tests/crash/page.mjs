// The page: it does what it is asked over the socket, with the broker of the page, and tells everything at once.
import { openLocal } from "dunlin";

import { Crew } from "./crew.mjs";

const socket = new WebSocket(`ws://${location.host}/${location.search}`);
const crews = new Map();
const unheard = new Map();
let entries = 0;

const say = (message) => socket.send(JSON.stringify(message));

function join(namespace, { options, seed }) {
  const journal = (entry) => {
    // Only what steps wait for has to be answered.
    if (entry.type !== "life") return say({ namespace, entry });
    entries += 1;
    say({ request: entries, namespace, entry });
    return new Promise((heard) => unheard.set(entries, heard));
  };
  crews.set(namespace, new Crew({ seed, open: () => openLocal(options), journal }));
}

socket.onmessage = async ({ data }) => {
  const { heard, request, namespace, method, given } = JSON.parse(data);
  if (heard !== undefined) {
    unheard.get(heard)();
    unheard.delete(heard);
    return;
  }
  try {
    const result = await (method === "join" ? join(namespace, ...given) : crews.get(namespace)[method](...given));
    say({ request, result });
  } catch (error) {
    say({ request, error: error.stack ?? String(error) });
  }
};
