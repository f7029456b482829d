//! Everything that looks random, from one seed.
//!
//! Update uuids are seen by every tenant, so they come from a generator of their own: who knows all of them knows
//! nothing about the executors' tokens.

use sha2::{Digest, Sha256};
use tepui_model::{ContainerId, Generator};

pub(crate) type Uuid = [u8; 16];

#[derive(Debug)]
pub(crate) struct Chance {
    seed: [u8; 32],
    tokens: u64,
    uuids: Generator,
}

impl Chance {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        let digest = derive(&seed, b"uuid", 0);
        let mut state = [0; 4];
        for (word, bytes) in state.iter_mut().zip(digest.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().expect("chunks of eight bytes"));
        }
        Self {
            seed,
            tokens: 0,
            uuids: Generator::from_state(state),
        }
    }

    pub(crate) fn uuid(&mut self) -> Uuid {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.uuids.number().to_le_bytes());
        bytes[8..].copy_from_slice(&self.uuids.number().to_le_bytes());
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        bytes
    }

    pub(crate) fn container_id(&mut self) -> ContainerId {
        let hex = hex(&self.uuid());
        ContainerId::from(format!(
            "{}-{}-{}-{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..]
        ))
    }

    /// A secret for one executor.
    pub(crate) fn token(&mut self) -> String {
        self.tokens += 1;
        hex(&derive(&self.seed, b"token", self.tokens))
    }
}

fn derive(seed: &[u8; 32], purpose: &[u8], number: u64) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed);
    hash.update(purpose);
    hash.update(number.to_le_bytes());
    hash.finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string does not fail");
            text
        })
}
