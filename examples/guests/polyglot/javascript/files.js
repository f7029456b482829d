// Files by wasi:filesystem. The engine has none of Node's modules.
import { getDirectories } from "wasi:filesystem/preopens@0.2.10";

const PIECE = 1n << 20n;

/** The directory that was handed over and leads to a path, and what remains of the path below it. */
function place(path) {
  const absolute = path.startsWith("/") ? path : `/${path}`;
  const leads = ([, name]) => name === "/" || absolute === name || absolute.startsWith(`${name}/`);
  const found = getDirectories()
    .filter(leads)
    .sort(([, one], [, other]) => other.length - one.length)[0];
  if (!found) throw new Error(`${path}: no directory that leads there`);
  const [directory, name] = found;
  const rest = absolute.slice(name === "/" ? 1 : name.length + 1);
  return { directory, rest: rest === "" ? "." : rest };
}

/** Says of what is thrown which path it was about. */
function about(path, act) {
  try {
    return act(place(path));
  } catch (error) {
    throw new Error(`${path}: ${error.payload ?? error.message}`);
  }
}

/** What is at a path: "directory", "regular-file", ... */
export function kind(path) {
  return about(path, ({ directory, rest }) => directory.statAt({ symlinkFollow: true }, rest).type);
}

/** The names in a directory, in no order. */
export function list(path) {
  return about(path, ({ directory, rest }) => {
    const opened = directory.openAt({ symlinkFollow: true }, rest, { directory: true }, { read: true });
    const entries = opened.readDirectory();
    const names = [];
    for (let entry = entries.readDirectoryEntry(); entry; entry = entries.readDirectoryEntry()) names.push(entry.name);
    return names;
  });
}

/** A file's content, in pieces. */
export function read(path) {
  return about(path, ({ directory, rest }) => {
    const file = directory.openAt({ symlinkFollow: true }, rest, {}, { read: true });
    const pieces = [];
    let at = 0n;
    for (let end = false; !end; ) {
      let piece;
      [piece, end] = file.read(PIECE, at);
      pieces.push(piece);
      at += BigInt(piece.length);
    }
    return pieces;
  });
}

/** Makes or replaces a file. */
export function write(path, text) {
  about(path, ({ directory, rest }) => {
    const file = directory.openAt({}, rest, { create: true, truncate: true }, { write: true });
    const content = new TextEncoder().encode(text);
    let at = 0;
    while (at < content.length) at += Number(file.write(content.subarray(at), BigInt(at)));
  });
}
