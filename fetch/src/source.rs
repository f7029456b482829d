//! The one way to read: from an offset on, as a stream, with the size if it is known.

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::Error;

/// Where reading begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    pub offset: u64,
    /// What the source said of the version the first bytes are of.
    pub version: Option<String>,
}

/// What a source gives.
pub struct Opened {
    /// Where the stream begins: where it was asked to, or at 0 if the source cannot do that or has another version now.
    pub offset: u64,
    /// Of the whole, in bytes.
    pub size: Option<u64>,
    /// Tells this version from another; unset if the source has nothing to tell them apart by.
    pub version: Option<String>,
    /// The sha256 the source says the whole has.
    pub sha256: Option<String>,
    pub stream: BoxStream<'static, Result<Bytes, Error>>,
}

/// Something bytes can be read from.
pub trait Source: Send + Sync + Debug {
    /// One attempt. Waiting is the caller's: it gives up by dropping the future or the stream.
    fn open<'a>(&'a self, position: &'a Position) -> BoxFuture<'a, Result<Opened, Error>>;

    /// The sha256 that its bytes have, in hex, where the source can tell without giving them.
    fn announced(&self) -> BoxFuture<'_, Result<Option<String>, Error>> {
        futures::future::ready(Ok(None)).boxed()
    }

    /// How long the first bytes may take; else as long as anything.
    fn first_patience(&self) -> Option<Duration> {
        None
    }

    /// How often it is asked again; else as often as any.
    fn retries(&self) -> Option<u32> {
        None
    }
}
