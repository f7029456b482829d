//! The census itself: what is counted and how it is written down, whoever asks for it.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;

/// The largest limit: the squares of all primes below it add up to less than 2^64.
pub const LIMIT_MAX: u64 = 5_000_000;
/// How many of the most frequent words are told unless `CENSUS_TOP` says otherwise.
pub const TOP: usize = 5;

/// What is counted of some data.
#[derive(Default)]
pub struct Census {
    files: u64,
    bytes: u64,
    lines: u64,
    words: HashMap<Vec<u8>, u64>,
}

impl Census {
    /// Of a file, or of the files directly in a directory.
    pub fn of(data: &Path) -> io::Result<Self> {
        let mut census = Self::default();
        if !data.is_dir() {
            census.add(&std::fs::read(data)?);
            return Ok(census);
        }
        for entry in std::fs::read_dir(data)? {
            let path = entry?.path();
            if path.is_file() {
                census.add(&std::fs::read(path)?);
            }
        }
        Ok(census)
    }

    /// Counts one more file. A word is a run of ASCII letters, whatever their case.
    pub fn add(&mut self, content: &[u8]) {
        self.files += 1;
        self.bytes += content.len() as u64;
        self.lines += content.iter().filter(|&&byte| byte == b'\n').count() as u64;
        let words = content.split(|byte| !byte.is_ascii_alphabetic());
        for word in words.filter(|word| !word.is_empty()) {
            *self.words.entry(word.to_ascii_lowercase()).or_default() += 1;
        }
    }

    /// The report, with so many of the most frequent words and the primes below a limit.
    pub fn report(&self, top: usize, limit: u64) -> Report<'_> {
        Report {
            census: self,
            top,
            limit,
        }
    }
}

/// A census as text.
pub struct Report<'a> {
    census: &'a Census,
    top: usize,
    limit: u64,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Census {
            files,
            bytes,
            lines,
            words,
        } = self.census;
        writeln!(f, "files {files}\nbytes {bytes}\nlines {lines}")?;
        writeln!(f, "words {}", words.values().sum::<u64>())?;
        writeln!(f, "distinct {}", words.len())?;
        let mut words: Vec<_> = words.iter().collect();
        words.sort_by(|(word, count), (other, others)| others.cmp(count).then(word.cmp(other)));
        for (word, count) in words.iter().take(self.top) {
            writeln!(f, "top {} {count}", String::from_utf8_lossy(word))?;
        }
        let primes = primes_below(self.limit);
        let squares: u64 = primes.iter().map(|prime| prime * prime).sum();
        writeln!(f, "primes {}\nsquares {squares}", primes.len())
    }
}

fn primes_below(limit: u64) -> Vec<u64> {
    let mut composite = vec![false; limit as usize];
    let mut primes = Vec::new();
    for number in 2..limit {
        if composite[number as usize] {
            continue;
        }
        primes.push(number);
        for multiple in (number * number..limit).step_by(number as usize) {
            composite[multiple as usize] = true;
        }
    }
    primes
}

/// A limit for primes, out of an argument or a query.
pub fn parse_limit(text: &str) -> Option<u64> {
    let limit = text.parse().ok()?;
    (2..=LIMIT_MAX).contains(&limit).then_some(limit)
}

/// How many words to tell, out of the environment.
pub fn top_wanted() -> Option<usize> {
    match std::env::var("CENSUS_TOP") {
        Ok(text) => text.parse().ok().filter(|top| *top <= 100),
        Err(_) => Some(TOP),
    }
}
