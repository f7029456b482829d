//! Reads a file to its end, and goes on as it grows for as long as somebody may write it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::files::Phase;
use crate::watch::Watcher;

/// How much one piece holds at most.
pub(crate) const PIECE_BYTES: u64 = 64 << 10;

/// Hands out what is in the file from `offset` on, until its writer has ended (without a writer: until its present end)
/// or nobody takes it any more.
pub(crate) async fn follow(
    file: &File,
    mut offset: u64,
    watcher: &Watcher,
    mut writer: Option<watch::Receiver<Phase>>,
    pieces: mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let watch = watcher.watch(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())));
    loop {
        // Looked at before reading: what was written before the end is then read after it.
        let ended = writer.as_mut().is_none_or(is_over);
        if file.metadata()?.len() < offset {
            // Truncated and written anew: so is what the reader sees.
            offset = 0;
        }
        while let Some(piece) = read_at(file, offset, PIECE_BYTES)? {
            offset += piece.len() as u64;
            if pieces.send(piece).await.is_err() {
                return Ok(());
            }
        }
        let Some(phase) = writer.as_mut().filter(|_| !ended) else {
            return Ok(());
        };
        tokio::select! {
            () = watch.changed() => {}
            _ = phase.changed() => {}
            () = pieces.closed() => return Ok(()),
        }
    }
}

/// Whether the task has ended, or is one nobody knows of any more.
pub(crate) fn is_over(phase: &mut watch::Receiver<Phase>) -> bool {
    *phase.borrow_and_update() == Phase::Ended || phase.has_changed().is_err()
}

/// Up to a piece of the file; none at its end.
pub(crate) fn read_at(file: &File, offset: u64, length: u64) -> io::Result<Option<Bytes>> {
    let mut buffer = vec![0; usize::try_from(length.min(PIECE_BYTES)).unwrap_or_default()];
    loop {
        match file.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(None),
            Ok(count) => {
                buffer.truncate(count);
                return Ok(Some(buffer.into()));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
