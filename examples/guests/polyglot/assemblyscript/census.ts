// census DATA LIMIT: see the README of this directory's parent for what is counted.
//
// AssemblyScript is not JavaScript: a number has a width, and there are no closures and no catching of errors, so that
// whatever must be told is looked for before it is done.
import { filetype } from "@assemblyscript/wasi-shim/assembly/bindings/wasi_snapshot_preview1";
import { kind, list, read, write } from "./files";

const LIMIT_MAX: u64 = 5_000_000;
const TOP_MAX: u64 = 100;
const USAGE = 2;
/** What `number` gives for anything that is no number. */
const NONE = u64.MAX_VALUE;

class Entry {
  constructor(public word: string, public count: u64) {}
}

class Census {
  files: u64 = 0;
  bytes: u64 = 0;
  lines: u64 = 0;
  words: u64 = 0;
  distinct: Map<string, u64> = new Map();

  /** Counts a file, or the files directly in a directory. */
  add(data: string): void {
    if (kind(data) != filetype.DIRECTORY) return this.addFile(data);
    const names = list(data);
    for (let i = 0; i < names.length; ++i) {
      const path = data + "/" + names[i];
      if (kind(path) == filetype.REGULAR_FILE) this.addFile(path);
    }
  }

  private addFile(path: string): void {
    const content = read(path);
    this.files += 1;
    this.bytes += content.length;
    let begin = -1;
    for (let at = 0; at < content.length; ++at) {
      const byte = unchecked(content[at]);
      if (byte == 0x0a) this.lines += 1;
      if (isLetter(byte)) {
        if (begin < 0) begin = at;
      } else if (begin >= 0) {
        this.count(content.subarray(begin, at));
        begin = -1;
      }
    }
    if (begin >= 0) this.count(content.subarray(begin));
  }

  private count(letters: Uint8Array): void {
    const word = String.UTF8.decodeUnsafe(letters.dataStart, letters.length).toLowerCase();
    this.words += 1;
    this.distinct.set(word, this.distinct.has(word) ? this.distinct.get(word) + 1 : 1);
  }

  report(top: u64, limit: u64): string {
    let text = `files ${this.files}\nbytes ${this.bytes}\nlines ${this.lines}\n`;
    text += `words ${this.words}\ndistinct ${this.distinct.size}\n`;
    const words = this.distinct.keys();
    const sorted = new Array<Entry>();
    for (let i = 0; i < words.length; ++i) sorted.push(new Entry(words[i], this.distinct.get(words[i])));
    sorted.sort((one, other) => {
      if (one.count != other.count) return one.count > other.count ? -1 : 1;
      return one.word < other.word ? -1 : 1;
    });
    for (let i = 0; i < sorted.length && <u64>i < top; ++i) text += `top ${sorted[i].word} ${sorted[i].count}\n`;
    return text + primes(limit);
  }
}

function isLetter(byte: u8): bool {
  const lower = byte | 0x20;
  return lower >= 0x61 && lower <= 0x7a;
}

function primes(limit: u64): string {
  const composite = new StaticArray<bool>(<i32>limit);
  let count: u64 = 0;
  let squares: u64 = 0;
  for (let number: u64 = 2; number < limit; ++number) {
    if (composite[<i32>number]) continue;
    count += 1;
    squares += number * number;
    for (let multiple = number * number; multiple < limit; multiple += number) composite[<i32>multiple] = true;
  }
  return `primes ${count}\nsquares ${squares}\n`;
}

/** A whole number between two bounds, or NONE. */
function number(text: string, least: u64, most: u64): u64 {
  let value: u64 = 0;
  for (let i = 0; i < text.length; ++i) {
    const digit = text.charCodeAt(i) - 0x30;
    if (digit < 0 || digit > 9 || value > most) return NONE;
    value = 10 * value + digit;
  }
  return text.length > 0 && value >= least && value <= most ? value : NONE;
}

function variable(name: string, otherwise: string): string {
  return process.env.has(name) ? process.env.get(name) : otherwise;
}

function main(): i32 {
  const top = number(variable("CENSUS_TOP", "5"), 0, TOP_MAX);
  const limit = process.argv.length == 3 ? number(process.argv[2], 2, LIMIT_MAX) : NONE;
  if (top == NONE || limit == NONE) {
    process.stderr.write(`usage: census DATA LIMIT (2 to ${LIMIT_MAX}; CENSUS_TOP: 0 to ${TOP_MAX})\n`);
    return USAGE;
  }
  const census = new Census();
  census.add(process.argv[1]);
  const report = census.report(top, limit);
  write(variable("CENSUS_OUT", "census.txt"), report);
  process.stdout.write(report);
  return 0;
}

process.exit(main());
