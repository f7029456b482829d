//! Files of this machine.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use bytes::BytesMut;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::Error;
use crate::source::{Opened, Position, Source};

const PIECE_BYTES: usize = 256 << 10;

/// One path.
#[derive(Debug)]
pub(crate) struct Local(pub(crate) PathBuf);

impl Source for Local {
    fn open<'a>(&'a self, position: &'a Position) -> BoxFuture<'a, Result<Opened, Error>> {
        self.read(position).boxed()
    }

    /// A disk that refuses once will do so again.
    fn retries(&self) -> Option<u32> {
        Some(0)
    }
}

impl Local {
    async fn read(&self, position: &Position) -> Result<Opened, Error> {
        let failed = |error| Error::of_io(&error);
        // Neither opening a pipe nor reading what the kernel writes at its leisure may wait: a thread would wait with it.
        let mut file = tokio::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&self.0)
            .await
            .map_err(failed)?;
        let metadata = file.metadata().await.map_err(failed)?;
        if !metadata.is_file() {
            return Err(Error::File {
                cause: "it is not a regular file".to_owned(),
            });
        }
        let version = format!(
            "{}:{}.{}",
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        let same = position.version.as_ref().is_none_or(|had| *had == version);
        let offset = if same && position.offset <= metadata.len() {
            position.offset
        } else {
            0
        };
        if offset > 0 {
            file.seek(std::io::SeekFrom::Start(offset))
                .await
                .map_err(failed)?;
        }
        let stream = futures::stream::try_unfold(file, |mut file| async move {
            let mut piece = BytesMut::with_capacity(PIECE_BYTES);
            match file.read_buf(&mut piece).await {
                Ok(0) => Ok(None),
                Ok(_) => Ok(Some((piece.freeze(), file))),
                Err(error) => Err(Error::of_io(&error)),
            }
        });
        Ok(Opened {
            offset,
            // What is written while it is read is read too.
            size: None,
            version: Some(version),
            sha256: None,
            stream: stream.boxed(),
        })
    }
}
