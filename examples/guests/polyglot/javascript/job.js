// census DATA LIMIT, as a job: see the README of this directory's parent for what is counted.
import { getArguments, getEnvironment } from "wasi:cli/environment@0.2.10";
import { getStderr } from "wasi:cli/stderr@0.2.10";
import { getStdout } from "wasi:cli/stdout@0.2.10";
import { Census, LIMIT_MAX, TOP_MAX, number, topWanted } from "./census.js";
import { write } from "./files.js";

function print(stream, text) {
  stream.blockingWriteAndFlush(new TextEncoder().encode(text));
}

async function take(data) {
  if (!data.startsWith("http://")) return Census.of(data);
  const response = await fetch(data);
  if (response.status !== 200) throw new Error(`${data}: the server answered ${response.status}`);
  const census = new Census();
  census.add([new Uint8Array(await response.arrayBuffer())]);
  return census;
}

export const run = {
  // What it throws, and nothing else, makes the exit code 1: it has no way to any other.
  async run() {
    const environment = new Map(getEnvironment());
    const [, data, text] = getArguments();
    const limit = getArguments().length === 3 ? number(text, 2, LIMIT_MAX) : undefined;
    const top = topWanted(environment);
    if (limit === undefined || top === undefined) {
      print(getStderr(), `usage: census DATA LIMIT (2 to ${LIMIT_MAX}; CENSUS_TOP: 0 to ${TOP_MAX})\n`);
      throw undefined;
    }
    try {
      const report = (await take(data)).report(top, limit);
      write(environment.get("CENSUS_OUT") ?? "census.txt", report);
      print(getStdout(), report);
    } catch (error) {
      print(getStderr(), `census: ${error.message}\n`);
      throw undefined;
    }
  },
};
