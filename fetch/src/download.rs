//! Reads sources to the end: goes on where one broke off, asks again, gives up, and checks what came.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use crate::sink::Writing;
use crate::source::{Position, Source};
use crate::{Error, Patience, Sink};

/// The longest pause before a source is asked again.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Pieces after which somebody who watches is told.
const TELL_BYTES: u64 = 256 << 10;

/// The part of its time in which nothing at all must have come for a stream to be called still rather than slow.
const STILL: f64 = 0.9;

/// How far a download has come, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub bytes: u64,
    /// Of the whole, if it is known.
    pub size: Option<u64>,
    /// What has arrived since this was last told, also if it was thrown away since.
    pub arrived: u64,
    /// From which of the sources.
    pub source: usize,
}

/// What is wanted.
pub struct Wish<'a> {
    /// Asked in turn, the nearest first; the error told is the last one's.
    pub sources: &'a [Arc<dyn Source>],
    /// What it must be, in hex.
    pub sha256: Option<&'a str>,
    pub max_bytes: Option<u64>,
    pub patience: Patience,
    /// Told now and then.
    pub watch: &'a (dyn Fn(Progress) + Send + Sync),
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downloaded {
    pub sha256: String,
    pub bytes: u64,
}

/// Fills the sink. What is in it already is taken for the beginning, which needs a digest to be checked in the end.
pub async fn download(wish: &Wish<'_>, sink: Sink) -> Result<Downloaded, Error> {
    let mut writing = Writing::new(sink);
    if wish.sha256.is_none() && writing.bytes() > 0 {
        writing.clear().await?;
    }
    let mut outcome = Err(Error::Settings("nobody was named who has it".to_owned()));
    for (number, source) in wish.sources.iter().enumerate() {
        let mut reading = Reading::new(wish, number, source.as_ref());
        outcome = reading.verified(&mut writing).await;
        match &outcome {
            Ok(_) => break,
            Err(error) if error.is_ours() => break,
            Err(error) => {
                tracing::debug!(?source, %error, "a source did not give what it was asked for")
            }
        }
        // Without a digest nobody can tell whether another source has the same.
        if wish.sha256.is_none() && writing.bytes() > 0 {
            writing.clear().await?;
        }
    }
    outcome
}

struct Reading<'a> {
    wish: &'a Wish<'a>,
    number: usize,
    source: &'a dyn Source,
    /// Of the version read so far, if the source says.
    version: Option<String>,
    /// The digest the source itself announces.
    announced: Option<String>,
    size: Option<u64>,
    untold: u64,
}

impl<'a> Reading<'a> {
    fn new(wish: &'a Wish<'a>, number: usize, source: &'a dyn Source) -> Self {
        Self {
            wish,
            number,
            source,
            version: None,
            announced: None,
            size: None,
            untold: 0,
        }
    }

    /// From one source, with the digest checked. If only a part came from it, it may not be to blame for a wrong one, and
    /// is read from the beginning.
    async fn verified(&mut self, writing: &mut Writing) -> Result<Downloaded, Error> {
        loop {
            let inherited = writing.bytes() > 0;
            self.whole(writing).await?;
            let sha256 = writing.sha256();
            let expected = self
                .wish
                .sha256
                .map(str::to_owned)
                .or_else(|| self.announced.clone());
            match expected {
                Some(expected) if expected != sha256 => {
                    writing.clear().await?;
                    if !inherited {
                        return Err(Error::Digest {
                            expected,
                            got: sha256,
                        });
                    }
                }
                _ => {
                    return Ok(Downloaded {
                        sha256,
                        bytes: writing.bytes(),
                    });
                }
            }
        }
    }

    async fn whole(&mut self, writing: &mut Writing) -> Result<(), Error> {
        let retries = self.source.retries().unwrap_or(self.wish.patience.retries);
        let headway = self.wish.patience.least_bytes();
        let (mut failures, mut reached) = (0, writing.bytes());
        let mut began_again = false;
        loop {
            let attempt = self.attempt(writing).await;
            self.tell(writing.bytes());
            let error = match attempt {
                Ok(()) => return Ok(()),
                Err(error) if !error.is_transient() => return Err(error),
                Err(error) => error,
            };
            writing.settle().await?;
            // Then it is whole, whatever the source promised.
            if writing.bytes() > 0 && self.wish.sha256 == Some(writing.sha256().as_str()) {
                return Ok(());
            }
            if error == Error::Changed {
                self.forget(writing).await?;
                // That the beginning was of no use is not the fault of this source; not the first time.
                if !began_again {
                    (began_again, reached) = (true, 0);
                    continue;
                }
            }
            if writing.bytes() >= reached + headway {
                failures = 0;
                reached = writing.bytes();
            } else {
                failures += 1;
            }
            if failures > retries {
                return Err(error);
            }
            tokio::time::sleep(pause(self.wish.patience.pause, failures)).await;
        }
    }

    /// Begins again: with what was read goes what was known of it.
    async fn forget(&mut self, writing: &mut Writing) -> Result<(), Error> {
        writing.clear().await?;
        (self.version, self.announced, self.size) = (None, None, None);
        Ok(())
    }

    /// Once, from where the last attempt ended if that can be trusted.
    async fn attempt(&mut self, writing: &mut Writing) -> Result<(), Error> {
        if self.version.is_none() && self.wish.sha256.is_none() && writing.bytes() > 0 {
            self.forget(writing).await?;
        }
        let position = Position {
            offset: writing.bytes(),
            version: self.version.clone(),
        };
        let mut stall = Stall::new(&self.wish.patience);
        let first = self
            .source
            .first_patience()
            .unwrap_or(self.wish.patience.stall);
        let opening = tokio::time::timeout(first, self.source.open(&position));
        let opened = opening.await.map_err(|_| Error::Stalled {
            after: first,
            got: 0,
            least: stall.least,
        })??;
        if opened.offset != writing.bytes() {
            self.forget(writing).await?;
        } else if opened.offset == 0 {
            (self.version, self.announced, self.size) = (None, None, None);
        }
        // What goes on with the bytes here must be of the same thing, and need not say again what that is.
        if differ(self.size.as_ref(), opened.size.as_ref())
            || differ(self.version.as_ref(), opened.version.as_ref())
        {
            return Err(Error::Changed);
        }
        self.version = opened.version.or(self.version.take());
        self.announced = opened.sha256.or(self.announced.take());
        self.size = opened.size.or(self.size);
        let size = self.size;
        self.check_size(size.unwrap_or(0))?;
        let mut stream = opened.stream;
        loop {
            let piece = match stall.next(&mut stream).await {
                Ok(Some(Ok(piece))) => piece,
                Ok(None) => break,
                // That the connection ended early is what the client says in many words.
                Ok(Some(Err(Error::Transport { .. })))
                    if size.is_some_and(|size| writing.bytes() < size) =>
                {
                    return Err(Error::Truncated {
                        got: writing.bytes(),
                        expected: size.unwrap_or_default(),
                    });
                }
                Ok(Some(Err(error))) | Err(error) => return Err(error),
            };
            self.untold += piece.len() as u64;
            writing.push(piece).await?;
            self.check_size(writing.bytes())?;
            if self.untold >= TELL_BYTES {
                self.tell(writing.bytes());
            }
        }
        writing.settle().await?;
        match size {
            Some(expected) if writing.bytes() < expected => Err(Error::Truncated {
                got: writing.bytes(),
                expected,
            }),
            // More than there is: what was there before was no beginning of it.
            Some(expected) if writing.bytes() > expected => Err(Error::Changed),
            _ => Ok(()),
        }
    }

    fn check_size(&self, bytes: u64) -> Result<(), Error> {
        match self.wish.max_bytes {
            Some(limit) if bytes > limit => Err(Error::TooLarge { limit }),
            _ => Ok(()),
        }
    }

    fn tell(&mut self, bytes: u64) {
        (self.wish.watch)(Progress {
            bytes,
            size: self.size,
            arrived: std::mem::take(&mut self.untold),
            source: self.number,
        });
    }
}

/// Whether both are known and not the same.
fn differ<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one != other)
}

/// How long a stream was waited for since it last gave enough. Time spent on writing does not count: that is not the
/// source's fault.
struct Stall {
    after: Duration,
    least: u64,
    waited: Duration,
    got: u64,
}

impl Stall {
    fn new(patience: &Patience) -> Self {
        Self {
            after: patience.stall,
            least: patience.least_bytes(),
            waited: Duration::ZERO,
            got: 0,
        }
    }

    async fn next<S>(
        &mut self,
        stream: &mut S,
    ) -> Result<Option<Result<bytes::Bytes, Error>>, Error>
    where
        S: futures::Stream<Item = Result<bytes::Bytes, Error>> + Unpin,
    {
        let began = tokio::time::Instant::now();
        let left = self.after.saturating_sub(self.waited);
        let Ok(piece) = tokio::time::timeout(left, stream.next()).await else {
            // A trickle before it stood still is no news.
            let stands_still = left.as_secs_f64() >= STILL * self.after.as_secs_f64();
            return Err(Error::Stalled {
                after: self.after,
                got: if stands_still { 0 } else { self.got },
                least: self.least,
            });
        };
        self.waited += began.elapsed();
        if let Some(Ok(piece)) = &piece {
            self.got += piece.len() as u64;
            if self.got >= self.least {
                (self.got, self.waited) = (0, Duration::ZERO);
            }
        }
        Ok(piece)
    }
}

/// Doubles with each failure in a row, up to a bound, and varies by half, so that a thousand machines do not ask at once.
fn pause(first: Duration, failures: u32) -> Duration {
    let doubled = first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    doubled.min(MAX_PAUSE).mul_f64(0.5 + chance() / 2.0)
}

/// Between 0 and 1. A hasher's keys are as random as this needs.
fn chance() -> f64 {
    use std::hash::{BuildHasher, Hasher};
    let random = std::hash::RandomState::new().build_hasher().finish();
    f64::from(random as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
#[path = "download_tests.rs"]
mod tests;
