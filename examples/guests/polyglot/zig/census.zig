//! census DATA LIMIT: see the README of this directory's parent for what is counted.
//!
//! For Zig 0.17; the standard library's files and entry point were others before. u64 throughout: a usize has 32 bits.
const std = @import("std");
const Io = std.Io;

const limit_max = 5_000_000;
const top_max = 100;
const usage_code = 2;

const Entry = struct { word: []const u8, count: u64 };

const Census = struct {
    files: u64 = 0,
    bytes: u64 = 0,
    lines: u64 = 0,
    words: u64 = 0,
    distinct: std.StringHashMapUnmanaged(u64) = .empty,
    arena: std.mem.Allocator,

    /// Counts a file, or the files directly in a directory.
    fn add(self: *Census, io: Io, place: Place) !void {
        var dir = place.dir.openDir(io, place.path, .{ .iterate = true }) catch |err| switch (err) {
            error.NotDir => return self.addFile(io, place.dir, place.path),
            else => return err,
        };
        defer dir.close(io);
        var entries = dir.iterate();
        while (try entries.next(io)) |entry| {
            const found = dir.statFile(io, entry.name, .{}) catch continue;
            if (found.kind == .file) try self.addFile(io, dir, entry.name);
        }
    }

    fn addFile(self: *Census, io: Io, dir: Io.Dir, name: []const u8) !void {
        // Words stay slices of it, so it is kept.
        const content = try dir.readFileAlloc(io, name, self.arena, .unlimited);
        self.files += 1;
        self.bytes += content.len;
        self.lines += std.mem.countScalar(u8, content, '\n');
        for (content) |*byte| byte.* = std.ascii.toLower(byte.*);
        var at: usize = 0;
        while (at < content.len) {
            const begin = at;
            while (at < content.len and std.ascii.isAlphabetic(content[at])) at += 1;
            if (at > begin) try self.count(content[begin..at]);
            at += 1;
        }
    }

    fn count(self: *Census, word: []const u8) !void {
        self.words += 1;
        const slot = try self.distinct.getOrPutValue(self.arena, word, 0);
        slot.value_ptr.* += 1;
    }

    fn report(self: *const Census, to: *Io.Writer, top: u64, limit: u64) !void {
        try to.print("files {d}\nbytes {d}\nlines {d}\n", .{ self.files, self.bytes, self.lines });
        try to.print("words {d}\ndistinct {d}\n", .{ self.words, self.distinct.count() });
        const sorted = try self.arena.alloc(Entry, self.distinct.count());
        var seen = self.distinct.iterator();
        for (sorted) |*entry| {
            const next = seen.next().?;
            entry.* = .{ .word = next.key_ptr.*, .count = next.value_ptr.* };
        }
        std.mem.sort(Entry, sorted, {}, before);
        for (sorted[0..@min(top, sorted.len)]) |entry| try to.print("top {s} {d}\n", .{ entry.word, entry.count });
        try reportPrimes(to, self.arena, limit);
    }

    fn before(_: void, one: Entry, other: Entry) bool {
        if (one.count != other.count) return one.count > other.count;
        return std.mem.lessThan(u8, one.word, other.word);
    }
};

fn reportPrimes(to: *Io.Writer, arena: std.mem.Allocator, limit: u64) !void {
    const composite = try arena.alloc(bool, @intCast(limit));
    @memset(composite, false);
    var primes: u64 = 0;
    var squares: u64 = 0;
    var number: u64 = 2;
    while (number < limit) : (number += 1) {
        if (composite[@intCast(number)]) continue;
        primes += 1;
        squares += number * number;
        var multiple = number * number;
        while (multiple < limit) : (multiple += number) composite[@intCast(multiple)] = true;
    }
    try to.print("primes {d}\nsquares {d}\n", .{ primes, squares });
}

/// A directory that was handed over, and what remains of a path below it.
const Place = struct {
    dir: Io.Dir,
    path: []const u8,

    /// Zig's library does not look for it by itself: its current directory is the first that was handed over.
    fn of(preopens: std.process.Preopens, path: []const u8) Place {
        var found: Place = .{ .dir = Io.Dir.cwd(), .path = std.mem.trimStart(u8, path, "/") };
        var longest: usize = 1;
        for (preopens.map.keys()) |name| {
            const below = std.mem.startsWith(u8, path, name) and
                (path.len == name.len or path[name.len] == '/');
            if (!below or name.len <= longest) continue;
            const rest = std.mem.trimStart(u8, path[name.len..], "/");
            longest = name.len;
            found = .{ .dir = preopens.get(name).?.dir, .path = rest };
        }
        if (found.path.len == 0) found.path = ".";
        return found;
    }
};

/// A whole number between two bounds.
fn parse(text: []const u8, least: u64, most: u64) ?u64 {
    const value = std.fmt.parseInt(u64, text, 10) catch return null;
    return if (value >= least and value <= most) value else null;
}

fn run(init: std.process.Init, data: []const u8, top: u64, limit: u64) !void {
    const arena = init.arena.allocator();
    var census: Census = .{ .arena = arena };
    try census.add(init.io, .of(init.preopens, data));
    var text: Io.Writer.Allocating = .init(arena);
    try census.report(&text.writer, top, limit);
    const out = init.environ_map.get("CENSUS_OUT") orelse "census.txt";
    const place: Place = .of(init.preopens, out);
    try place.dir.writeFile(init.io, .{ .sub_path = place.path, .data = text.written() });
    try Io.File.stdout().writeStreamingAll(init.io, text.written());
}

pub fn main(init: std.process.Init) !u8 {
    const arguments = try init.minimal.args.toSlice(init.arena.allocator());
    const top = parse(init.environ_map.get("CENSUS_TOP") orelse "5", 0, top_max);
    const limit = if (arguments.len == 3) parse(arguments[2], 2, limit_max) else null;
    if (top == null or limit == null) {
        std.debug.print("usage: census DATA LIMIT (2 to {d}; CENSUS_TOP: 0 to {d})\n", .{ limit_max, top_max });
        return usage_code;
    }
    run(init, arguments[1], top.?, limit.?) catch |err| {
        std.debug.print("census: {s}: {t}\n", .{ arguments[1], err });
        return 1;
    };
    return 0;
}
