//! Makes hostile bytes of good ones, each time the same for the same seed.

use super::Random;

/// What breaks readers of JSON, record lengths and flags more often than chance bytes do.
const TOKENS: &[&[u8]] = &[
    b"null",
    b"{}",
    b"[]",
    b"[[[[[[[[",
    b"{\"a\":",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"\n",
    b"0",
    b"-1",
    b"1e999",
    b"-0.0",
    b"0.0005",
    b"3.6e+06",
    b"18446744073709551616",
    b"9223372036854775808",
    b"\"type\"",
    b"true",
    b"[1-0]",
    b"[0-18446744073709551615]",
    b";",
    b":",
    b"(",
    b")",
    b"{",
    b"}",
    b"..",
    b"/",
    b"*",
    b",",
    b"%",
];

/// One to eight changes to one of the good inputs.
pub(crate) fn mutated(random: &mut Random, good: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = random.pick(good).clone();
    for _ in 0..=random.below(8) {
        let at = random.below(bytes.len() + 1);
        let end = at + random.below(bytes.len() - at + 1).min(random.below(64) + 1);
        let end = end.min(bytes.len());
        match random.below(7) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            3 => {
                bytes.splice(at..end, random.pick(TOKENS).iter().copied());
            }
            4 => {
                let other = random.pick(good);
                let from = random.below(other.len() + 1);
                bytes.splice(at..end, other[from..].iter().copied());
            }
            5 => {
                bytes.splice(at..at, random.bytes(4));
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
        bytes.truncate(64 * 1024);
    }
    bytes
}

/// Runs a check on so many mutants, and says with which seed one of them broke it. `TEPUI_FUZZ_SEED` repeats one
/// seed, `TEPUI_FUZZ_ROUNDS` sets how many there are.
pub(crate) fn attack(rounds: u64, good: &[Vec<u8>], check: impl Fn(&[u8])) {
    struct Told(u64, Vec<u8>);
    impl Drop for Told {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!(
                    "seed {} broke it (TEPUI_FUZZ_SEED={} repeats it) with {:?}",
                    self.0,
                    self.0,
                    String::from_utf8_lossy(&self.1)
                );
            }
        }
    }
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seeds = match number("TEPUI_FUZZ_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("TEPUI_FUZZ_ROUNDS").unwrap_or(rounds),
    };
    for seed in seeds {
        let told = Told(seed, mutated(&mut Random::new(seed), good));
        check(&told.1);
    }
}
