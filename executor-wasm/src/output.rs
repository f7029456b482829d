//! Where a guest's stdout, stderr and log go, and how many descriptors that and the sandboxes may take.
//!
//! A parked guest should cost little, and thousands of them share one limit of open files. So an output file is made at
//! the start and opened again only by the first write; and once many are open, by each write for itself.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use tepui_wall::open_output;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use crate::limits::{Meter, OutputLimit};

/// Most bytes of one write. The copy into the page cache holds the guest's thread, and thus its neighbours, that long.
const WRITE_BYTES: usize = 64 << 10;

/// A number of things that may be had at once.
#[derive(Debug)]
pub(crate) struct Quota {
    left: AtomicUsize,
}

/// One of them; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    quota: Arc<Quota>,
}

impl Quota {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicUsize::new(count),
        })
    }

    pub(crate) fn take(self: &Arc<Self>) -> Option<Share> {
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            });
        taken.is_ok().then(|| Share {
            quota: Arc::clone(self),
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.quota.left.fetch_add(1, Ordering::Relaxed);
    }
}

/// A file that is appended to.
#[derive(Clone)]
pub(crate) struct Output {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    /// Of this and the task's other outputs.
    limit: u64,
    meter: Arc<Meter>,
    open: OnceLock<(File, Share)>,
    quota: Arc<Quota>,
}

impl Output {
    /// Makes the file, so that it is there for whoever wants to read along.
    pub(crate) fn create(
        path: PathBuf,
        quota: &Arc<Quota>,
        limit: u64,
        meter: &Arc<Meter>,
    ) -> Result<Self, String> {
        open_output(&path)
            .map_err(|error| format!("{} cannot be opened: {error}", path.display()))?;
        Ok(Self::later(path, quota, limit, meter))
    }

    /// As [`create`](Self::create), but the file is made by the first write.
    pub(crate) fn later(path: PathBuf, quota: &Arc<Quota>, limit: u64, meter: &Arc<Meter>) -> Self {
        Self {
            inner: Arc::new(Inner {
                path,
                limit,
                meter: Arc::clone(meter),
                open: OnceLock::new(),
                quota: Arc::clone(quota),
            }),
        }
    }

    /// Bytes that it and the task's other outputs may have together.
    pub(crate) fn limit(&self) -> u64 {
        self.inner.limit
    }

    /// Appends what the limit leaves room for. `false`: that is not all.
    pub(crate) fn append_within_limit(&self, bytes: &[u8]) -> io::Result<bool> {
        let Inner { meter, limit, .. } = &*self.inner;
        let counted = meter.count_output(bytes.len() as u64, *limit);
        let fits = usize::try_from(counted).unwrap_or(bytes.len());
        self.append(&bytes[..fits.min(bytes.len())])?;
        Ok(fits >= bytes.len())
    }

    /// As [`Output::append_within_limit`], for what is no write of the guest's own and counted nowhere else.
    pub(crate) fn append_for_guest(&self, bytes: &[u8]) -> io::Result<bool> {
        let whole = self.append_within_limit(bytes)?;
        if whole {
            self.inner.meter.count_written(bytes.len() as u64);
        }
        Ok(whole)
    }

    /// Appends at once: a line must be seen when it was written.
    pub(crate) fn append(&self, bytes: &[u8]) -> io::Result<()> {
        if let Some((file, _)) = self.inner.open.get() {
            return (&*file).write_all(bytes);
        }
        let file = open_output(&self.inner.path)?;
        (&file).write_all(bytes)?;
        if let Some(share) = self.inner.quota.take() {
            // Should another write have been faster, this file is closed again.
            drop(self.inner.open.set((file, share)));
        }
        Ok(())
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        match self.append_within_limit(&bytes) {
            Ok(true) => Ok(()),
            Ok(false) => {
                let limit = self.inner.limit;
                Err(StreamError::Trap(OutputLimit { limit }.into()))
            }
            Err(error) => Err(StreamError::LastOperationFailed(error.into())),
        }
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = &bytes[..bytes.len().min(WRITE_BYTES)];
        let limit = self.inner.limit;
        Poll::Ready(match self.append_within_limit(bytes) {
            Ok(true) => Ok(bytes.len()),
            Ok(false) => Err(io::Error::other(OutputLimit { limit })),
            Err(error) => Err(error),
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_appended_to_whether_they_stay_open_or_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let quota = Quota::new(1);
        let output = |name: &str| {
            Output::create(directory.path().join(name), &quota, 1_000, &Arc::default())
                .expect("it can be made")
        };
        let (first, second) = (output("first"), output("second"));
        for output in [&first, &second] {
            for text in ["one ", "two ", "three"] {
                output.append(text.as_bytes()).expect("written");
            }
        }
        for name in ["first", "second"] {
            let text = std::fs::read_to_string(directory.path().join(name)).expect("it is there");
            assert_eq!(text, "one two three");
        }
        assert!(first.inner.open.get().is_some());
        assert!(
            second.inner.open.get().is_none(),
            "one may be open, not two"
        );
        assert!(quota.take().is_none());
        drop(first);
        assert!(quota.take().is_some());
    }

    #[test]
    fn two_outputs_share_a_limit_up_to_its_last_byte() {
        let directory = tempfile::tempdir().expect("a directory");
        let (quota, meter) = (Quota::new(2), Arc::<Meter>::default());
        let output = |name: &str| {
            Output::create(directory.path().join(name), &quota, 10, &meter).expect("it can be made")
        };
        let (first, second) = (output("first"), output("second"));
        assert!(first.append_within_limit(b"123456").expect("written"));
        assert!(!second.append_within_limit(b"abcdef").expect("written"));
        assert!(!first.append_within_limit(b"7").expect("written"));
        let read = |name| std::fs::read_to_string(directory.path().join(name)).expect("there");
        assert_eq!(
            (read("first").as_str(), read("second").as_str()),
            ("123456", "abcd")
        );
        assert_eq!(meter.output(), 10);
    }

    #[test]
    fn a_link_in_place_of_the_file_is_not_followed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("stdout");
        let output = Output::create(path.clone(), &Quota::new(1), 1_000, &Arc::default())
            .expect("it can be made");
        std::fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink(directory.path().join("outside"), &path).expect("linked");
        output.append(b"x").expect_err("it is a link");
        assert!(!directory.path().join("outside").exists());
    }
}
