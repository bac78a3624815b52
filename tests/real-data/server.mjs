// The programs that a person would type: the server, `dunlin pub`, `dunlin sub` and `curl`, as child processes.
import { spawn } from "node:child_process";
import { once } from "node:events";

/** Runs a program to its end; its standard output. Fails with what it said if it fails, or goes on beyond `timeoutMs`. */
export async function run(program, args, { input = "", mayFail = false, timeoutMs } = {}) {
  const child = spawn(program, args, { timeout: timeoutMs });
  child.stdin.on("error", () => undefined);
  child.stdin.end(input);
  const [output, errors, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "close")]);
  if (code !== 0 && !mayFail) throw new Error(`${program} ${args.join(" ")} ended with ${code}: ${errors}${output}`);
  return { output, errors, code };
}

async function text(stream) {
  let all = "";
  stream.setEncoding("utf8");
  for await (const chunk of stream) all += chunk;
  return all;
}

/** A program that goes on until it is stopped; `lines` is what it printed so far, `reached` waits for so many. */
export function follow(program, args) {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
  const lines = [];
  let rest = "";
  let wake = () => undefined;
  child.stdout.setEncoding("utf8");
  child.stdout.on("data", (chunk) => {
    const parts = (rest + chunk).split("\n");
    rest = parts.pop();
    lines.push(...parts);
    wake();
  });
  const errors = text(child.stderr);
  const ended = once(child, "close").then(([code]) => {
    wake();
    return code;
  });
  let over = false;
  void ended.then(() => {
    over = true;
    wake();
  });
  return {
    lines,
    errors,
    ended,
    /** Waits until `enough(lines)` says so. */
    async reached(enough) {
      while (!enough(lines)) {
        if (over) throw new Error(`${program} ${args.join(" ")} ended too early: ${await errors}`);
        await new Promise((resolve) => {
          wake = resolve;
        });
      }
    },
    stop(signal = "SIGTERM") {
      child.kill(signal);
      return ended;
    },
  };
}

/** `dunlin serve`, listening; `address` is `host:port`. */
export async function serve(dunlin, { data, config, listen = "127.0.0.1:0", args = [] }) {
  const server = follow(dunlin, ["serve", "--listen", listen, "--data", data, "--config", config, ...args]);
  const says = /listens on http:\/\/([^/\s]+)/;
  await server.reached((lines) => lines.some((line) => says.test(line)));
  const [, address] = says.exec(server.lines.find((line) => says.test(line)));
  return { address, stop: server.stop };
}
