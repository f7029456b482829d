// Files by WASI preview 1 itself: neither AssemblyScript's library nor wasi-shim has any.
import {
  errno,
  errnoToString,
  fd_close,
  fd_prestat_dir_name,
  fd_prestat_get,
  fd_read,
  fd_readdir,
  fd_write,
  filestat,
  filetype,
  lookupflags,
  oflags,
  path_filestat_get,
  path_open,
  prestat,
  rights,
} from "@assemblyscript/wasi-shim/assembly/bindings/wasi_snapshot_preview1";

/** The first directory a guest is handed is number 3; 0 to 2 are stdin, stdout and stderr. */
const FIRST_DIRECTORY: u32 = 3;
const PIECE: i32 = 1 << 16;

/** Where calls leave small results. */
const result = memory.data(64);

/** A directory that was handed over, and what remains of a path below it. */
class Place {
  constructor(public directory: u32, public path: ArrayBuffer) {}
}

/** Ends the program with a sentence when a call failed: nothing can catch what is thrown here. */
function check(code: errno, path: string): void {
  if (code == errno.SUCCESS) return;
  process.stderr.write(`census: ${path}: ${errnoToString(code)}\n`);
  process.exit(1);
}

/** The handed directory whose name is the longest that the path begins with. Relative paths are below the root. */
function place(path: string): Place {
  const absolute = path.startsWith("/") ? path : "/" + path;
  let found: u32 = 0;
  let longest = -1;
  for (let directory = FIRST_DIRECTORY; fd_prestat_get(directory, changetype<prestat>(result)) == errno.SUCCESS; ++directory) {
    const size = load<u32>(result, 4);
    const name = new ArrayBuffer(size);
    check(fd_prestat_dir_name(directory, changetype<usize>(name), size), path);
    let text = String.UTF8.decode(name);
    while (text.endsWith("/")) text = text.slice(0, -1);
    if (text.length > longest && (absolute == text || absolute.startsWith(text + "/"))) {
      found = directory;
      longest = text.length;
    }
  }
  if (longest < 0) check(errno.NOENT, path);
  const rest = absolute.slice(longest + 1);
  return new Place(found, String.UTF8.encode(rest == "" ? "." : rest));
}

function open(path: string, flags: oflags, wanted: rights): u32 {
  const at = place(path);
  const code = path_open(at.directory, lookupflags.SYMLINK_FOLLOW, changetype<usize>(at.path), at.path.byteLength,
    flags, wanted, wanted, 0, result);
  check(code, path);
  return load<u32>(result);
}

/** What is at a path. */
export function kind(path: string): filetype {
  const at = place(path);
  const stat = memory.data(64, 8);
  check(path_filestat_get(at.directory, lookupflags.SYMLINK_FOLLOW, changetype<usize>(at.path), at.path.byteLength,
    changetype<filestat>(stat)), path);
  return load<u8>(stat, 16);
}

/** The names in a directory, in no order, but for its own and its parent's. */
export function list(path: string): string[] {
  const directory = open(path, oflags.DIRECTORY, rights.FD_READDIR);
  const names = new Array<string>();
  const buffer = changetype<usize>(new ArrayBuffer(PIECE));
  const header: usize = 24;
  let cookie: u64 = 0;
  for (;;) {
    check(fd_readdir(directory, buffer, PIECE, cookie, result), path);
    const used = load<usize>(result);
    let at: usize = 0;
    while (at + header <= used) {
      const size = <usize>load<u32>(buffer + at, 16);
      // The last one may be cut; it is asked for again.
      if (at + header + size > used) break;
      cookie = load<u64>(buffer + at);
      const name = String.UTF8.decodeUnsafe(buffer + at + header, size);
      if (name != "." && name != "..") names.push(name);
      at += header + size;
    }
    if (<i32>used < PIECE || at == 0) break;
  }
  fd_close(directory);
  return names;
}

/** A file's content. */
export function read(path: string): Uint8Array {
  const file = open(path, 0, rights.FD_READ);
  let content = new Uint8Array(PIECE);
  let length = 0;
  for (;;) {
    if (length == content.length) {
      const longer = new Uint8Array(2 * length);
      longer.set(content);
      content = longer;
    }
    store<usize>(result, content.dataStart + length);
    store<usize>(result, content.length - length, sizeof<usize>());
    check(fd_read(file, result, 1, result + 8), path);
    const got = load<usize>(result, 8);
    if (got == 0) break;
    length += <i32>got;
  }
  fd_close(file);
  return content.subarray(0, length);
}

/** Makes or replaces a file. */
export function write(path: string, text: string): void {
  const content = String.UTF8.encode(text);
  const file = open(path, oflags.CREAT | oflags.TRUNC, rights.FD_WRITE);
  let at = 0;
  while (at < content.byteLength) {
    store<usize>(result, changetype<usize>(content) + at);
    store<usize>(result, content.byteLength - at, sizeof<usize>());
    check(fd_write(file, result, 1, result + 8), path);
    at += <i32>load<usize>(result, 8);
  }
  fd_close(file);
}
