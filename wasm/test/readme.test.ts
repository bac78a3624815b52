// Every program in the README is run as it stands, and prints what its comments say.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { Server } from "./server.ts";
import { PATIENCE_MS } from "./tabs.ts";

const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
// Inside the package, where its own name leads to itself.
const directory = fileURLToPath(new URL("../readme", import.meta.url));

/** What a browser has and Node has not. */
const BROWSER = `import "fake-indexeddb/auto";
import "../test/locks.mjs";
`;

const server = new Server();
before(async () => {
  mkdirSync(directory, { recursive: true });
  await server.start();
});
after(() => server.stop());

for (const [, heading = "", section = ""] of readme.matchAll(/^## (.*?)$(.*?)(?=^## |$(?![^]))/gms)) {
  for (const [index, [, flavour, program = ""]] of [...section.matchAll(/^```js( browser)?\n(.*?)^```$/gms)].entries()) {
    test(`${heading}, program ${index + 1}`, async () => {
      const expected = [...program.matchAll(/console\.log\(.*\/\/ → (.*)$/gm)].map(([, printed]) => printed);
      const file = `${directory}/${heading.replace(/\W+/g, "-").toLowerCase()}-${index + 1}.mjs`;
      const imports = flavour === undefined ? "" : BROWSER;
      writeFileSync(file, imports + program.replaceAll("ws://127.0.0.1:8787", server.url));
      const { stdout, stderr } = await promisify(execFile)(process.execPath, [file], { cwd: directory, timeout: PATIENCE_MS });
      assert.equal(stderr, "");
      assert.deepEqual(stdout.split("\n").slice(0, -1), expected);
    });
  }
}

test("there are programs, and every line of output that they promise is looked for", () => {
  assert.ok((readme.match(/^```js/gm) ?? []).length >= 7);
});
