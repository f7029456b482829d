// The census itself: what is counted and how it is written down, whoever asks for it.
import { kind, list, read } from "./files.js";

/** The squares of all primes below this add up to less than 2^64, which other languages need. */
export const LIMIT_MAX = 5_000_000;
export const TOP_MAX = 100;
const TOP = 5;

export class Census {
  files = 0;
  bytes = 0;
  lines = 0;
  words = new Map();

  /** Of a file, or of the files directly in a directory. */
  static of(data) {
    const census = new Census();
    if (kind(data) !== "directory") {
      census.add(read(data));
      return census;
    }
    for (const name of list(data)) {
      const path = `${data}/${name}`;
      if (kind(path) === "regular-file") census.add(read(path));
    }
    return census;
  }

  /** Counts one more file, given in pieces. A word is a run of ASCII letters, whatever their case. */
  add(pieces) {
    this.files += 1;
    let word = "";
    for (const piece of pieces) {
      this.bytes += piece.length;
      for (const byte of piece) {
        const lower = byte | 0x20;
        if (lower >= 0x61 && lower <= 0x7a) {
          word += String.fromCharCode(lower);
          continue;
        }
        if (byte === 0x0a) this.lines += 1;
        if (word !== "") this.#count(word);
        word = "";
      }
    }
    if (word !== "") this.#count(word);
  }

  #count(word) {
    this.words.set(word, (this.words.get(word) ?? 0) + 1);
  }

  report(top, limit) {
    const counts = [...this.words.values()];
    // The words are ASCII, so that < is the order of their bytes.
    const sorted = [...this.words].sort(([one, count], [other, others]) => others - count || (one < other ? -1 : 1));
    const primes = primesBelow(limit);
    // Beyond 2^53 a number is not exact.
    const squares = primes.reduce((sum, prime) => sum + BigInt(prime * prime), 0n);
    const lines = [
      `files ${this.files}`,
      `bytes ${this.bytes}`,
      `lines ${this.lines}`,
      `words ${counts.reduce((sum, count) => sum + count, 0)}`,
      `distinct ${counts.length}`,
      ...sorted.slice(0, top).map(([word, count]) => `top ${word} ${count}`),
      `primes ${primes.length}`,
      `squares ${squares}`,
    ];
    return `${lines.join("\n")}\n`;
  }
}

function primesBelow(limit) {
  const composite = new Uint8Array(limit);
  const primes = [];
  for (let number = 2; number < limit; number++) {
    if (composite[number]) continue;
    primes.push(number);
    for (let multiple = number * number; multiple < limit; multiple += number) composite[multiple] = 1;
  }
  return primes;
}

/** A whole number between two bounds; undefined for anything else. */
export function number(text, least, most) {
  const value = /^[0-9]+$/.test(text) ? Number(text) : NaN;
  return value >= least && value <= most ? value : undefined;
}

/** How many words to tell, out of the environment. */
export function topWanted(environment) {
  return number(environment.get("CENSUS_TOP") ?? String(TOP), 0, TOP_MAX);
}
