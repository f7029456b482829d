//! A fingerprint of everything that happened, and the same as text for who wants to read it.

use std::fmt::{self, Debug, Write};

/// Hashes what is written into it (FNV-1a of 64 bits); keeps nothing.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    /// Whether whole messages are part of it; their kinds and times always are.
    pub(crate) full: bool,
    /// Lines are printed as well.
    pub(crate) log: Option<fn(&str)>,
}

impl Trace {
    pub(crate) fn new(full: bool, log: Option<fn(&str)>) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            full,
            log,
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash ^= u64::from(*byte);
            self.hash = self.hash.wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// All of what was done, if anybody wants that.
    pub(crate) fn note(&mut self, now: u64, who: &str, what: &impl Debug) {
        if let Some(log) = self.log {
            let mut line = format!("{:>13.6} {who} {what:?}", now as f64 / 1e6);
            const LONGEST: usize = 2000;
            if line.len() > LONGEST {
                let end = (0..=LONGEST)
                    .rev()
                    .find(|end| line.is_char_boundary(*end))
                    .unwrap_or(0);
                line.truncate(end);
                line.push_str(" ...");
            }
            log(&line);
        }
        if self.full {
            self.number(now);
            self.bytes(who.as_bytes());
            write!(self, "{what:?}").expect("hashing does not fail");
        }
    }
}

impl Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes(text.as_bytes());
        Ok(())
    }
}
