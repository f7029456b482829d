//! Where bytes become a file and a digest at once.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::Error;

const BUFFER_BYTES: usize = 256 << 10;

/// Asked when the disk is full: whether it made any room, so that writing on may succeed.
pub type Room = Arc<dyn Fn() -> bool + Send + Sync>;

/// A file that is being written, and the sha256 of what is in it so far. Writing blocks.
pub struct Sink {
    file: File,
    digest: Sha256,
    bytes: u64,
    room: Option<Room>,
}

impl Sink {
    /// Over an empty file.
    pub fn new(file: File, room: Option<Room>) -> Self {
        Self {
            file,
            digest: Sha256::new(),
            bytes: 0,
            room,
        }
    }

    /// Goes on behind what is in the file already, which is read for its digest.
    pub fn resume(mut file: File, room: Option<Room>) -> io::Result<Self> {
        file.rewind()?;
        let mut digest = Sha256::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut bytes = 0;
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    digest.update(&buffer[..count]);
                    bytes += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            file,
            digest,
            bytes,
            room,
        })
    }

    /// How many bytes are in it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The sha256 of what is in it, in hex.
    pub fn sha256(&self) -> String {
        hex::encode(self.digest.clone().finalize())
    }

    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(Error::DiskFull),
                Ok(count) => {
                    self.digest.update(&bytes[..count]);
                    self.bytes += count as u64;
                    bytes = &bytes[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let error = Error::of_io(&error);
                    let made_room =
                        error == Error::DiskFull && self.room.as_ref().is_some_and(|room| room());
                    if !made_room {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// Throws away what was written.
    pub fn clear(&mut self) -> Result<(), Error> {
        let cleared = self.file.set_len(0).and_then(|()| self.file.rewind());
        cleared.map_err(|error| Error::of_io(&error))?;
        self.digest = Sha256::new();
        self.bytes = 0;
        Ok(())
    }
}

/// A sink whose writing happens where it holds up nobody, while the next pieces arrive.
pub(crate) struct Writing {
    state: State,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    bytes: u64,
}

enum State {
    Idle(Sink),
    Busy(tokio::task::JoinHandle<(Sink, Result<(), Error>)>),
    Gone,
}

/// What is gathered before it is written.
const BATCH_BYTES: usize = 1 << 20;

impl Writing {
    pub(crate) fn new(sink: Sink) -> Self {
        Self {
            bytes: sink.bytes(),
            state: State::Idle(sink),
            waiting: Vec::new(),
            waiting_bytes: 0,
        }
    }

    /// With what waits to be written.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) async fn push(&mut self, piece: Bytes) -> Result<(), Error> {
        self.bytes += piece.len() as u64;
        self.waiting_bytes += piece.len();
        self.waiting.push(piece);
        if self.waiting_bytes >= BATCH_BYTES {
            self.start().await?;
        }
        Ok(())
    }

    async fn start(&mut self) -> Result<(), Error> {
        let mut sink = self.idle().await?;
        let pieces = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        self.state = State::Busy(tokio::task::spawn_blocking(move || {
            let outcome = pieces.iter().try_for_each(|piece| sink.write(piece));
            (sink, outcome)
        }));
        Ok(())
    }

    async fn idle(&mut self) -> Result<Sink, Error> {
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Idle(sink) => Ok(sink),
            State::Busy(writing) => match writing.await {
                Ok((sink, Ok(()))) => Ok(sink),
                Ok((_, Err(error))) => Err(error),
                Err(error) => Err(Error::File {
                    cause: error.to_string(),
                }),
            },
            State::Gone => Err(Error::File {
                cause: "the file was given up".to_owned(),
            }),
        }
    }

    /// Everything written.
    pub(crate) async fn settle(&mut self) -> Result<(), Error> {
        self.start().await?;
        let sink = self.idle().await?;
        self.state = State::Idle(sink);
        Ok(())
    }

    pub(crate) async fn clear(&mut self) -> Result<(), Error> {
        self.waiting.clear();
        self.waiting_bytes = 0;
        let mut sink = self.idle().await?;
        self.bytes = 0;
        let cleared = tokio::task::spawn_blocking(move || sink.clear().map(|()| sink)).await;
        self.state = State::Idle(cleared.map_err(|error| Error::File {
            cause: error.to_string(),
        })??);
        Ok(())
    }

    /// Of what was written, once that has settled.
    pub(crate) fn sha256(&self) -> String {
        match &self.state {
            State::Idle(sink) => sink.sha256(),
            State::Busy(_) | State::Gone => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(bytes: &[u8]) -> String {
        hex::encode(Sha256::digest(bytes))
    }

    #[test]
    fn what_is_there_already_counts() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"one ").unwrap();
        let mut sink = Sink::resume(file, None).unwrap();
        sink.write(b"two").unwrap();
        assert_eq!((sink.bytes(), sink.sha256()), (7, digest(b"one two")));
        sink.clear().unwrap();
        sink.write(b"three").unwrap();
        assert_eq!((sink.bytes(), sink.sha256()), (5, digest(b"three")));
    }

    #[test]
    fn a_full_disk_is_written_on_only_while_room_is_made() {
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let mut sink = Sink::new(full(), None);
        assert_eq!(sink.write(b"x"), Err(Error::DiskFull));
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counting = asked.clone();
        let room: Room =
            Arc::new(move || counting.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 2);
        assert_eq!(
            Sink::new(full(), Some(room)).write(b"x"),
            Err(Error::DiskFull)
        );
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 3);
    }
}
