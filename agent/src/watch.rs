//! Tells readers that a file has grown: one inotify instance for all of them, since a user may have but few.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// How often a file is looked at where the system has no watch left to give.
const POLL: Duration = Duration::from_millis(200);

#[derive(Debug, Clone)]
pub(crate) struct Watcher {
    shared: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    inotify: AsyncFd<Source>,
    watches: Mutex<BTreeMap<i32, Entry>>,
}

#[derive(Debug)]
struct Source(Inotify);

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[derive(Debug)]
struct Entry {
    descriptor: WatchDescriptor,
    waiting: Vec<Arc<Notify>>,
}

/// One reader's interest in one file; ends when dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    held: Option<(Arc<Shared>, i32)>,
    notify: Arc<Notify>,
}

impl Watcher {
    /// Must be called inside a runtime.
    pub(crate) fn new() -> Self {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(std::io::Error::from)
            .and_then(|inotify| {
                // SAFETY: the source owns its descriptor and gives the same one until it is dropped, and the
                // registration owns the source.
                unsafe { AsyncFd::register(Source(inotify)) }.map_err(std::io::Error::from)
            });
        match inotify {
            Ok(inotify) => {
                let shared = Arc::new(Shared {
                    inotify,
                    watches: Mutex::default(),
                });
                let weak = Arc::downgrade(&shared);
                tokio::spawn(async move {
                    while let Some(shared) = weak.upgrade() {
                        // A pause now and then lets go of the handle, so that the task ends with the last watcher.
                        if let Ok(Err(error)) =
                            tokio::time::timeout(Duration::from_secs(5), shared.dispatch()).await
                        {
                            tracing::warn!(%error, "file watches are not served any more");
                            return;
                        }
                    }
                });
                Self {
                    shared: Some(shared),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "no inotify: followed files are polled");
                Self { shared: None }
            }
        }
    }

    pub(crate) fn watch(&self, path: &Path) -> Watch {
        let notify = Arc::new(Notify::new());
        let held = self.shared.as_ref().and_then(|shared| {
            let mut watches = shared
                .watches
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let flags = AddWatchFlags::IN_MODIFY
                | AddWatchFlags::IN_DELETE_SELF
                | AddWatchFlags::IN_MOVE_SELF;
            let descriptor = shared.inotify.get_ref().0.add_watch(path, flags).ok()?;
            let key = descriptor.as_raw();
            let entry = watches.entry(key).or_insert_with(|| Entry {
                descriptor,
                waiting: Vec::new(),
            });
            entry.waiting.push(notify.clone());
            Some((shared.clone(), key))
        });
        Watch { held, notify }
    }
}

impl Shared {
    async fn dispatch(&self) -> std::io::Result<()> {
        let mut ready = self.inotify.readable().await?;
        match self.inotify.get_ref().0.read_events() {
            Ok(events) => {
                let watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
                for event in events {
                    match watches.get(&event.wd.as_raw()) {
                        Some(entry) => entry.waiting.iter().for_each(|notify| notify.notify_one()),
                        // The queue overflowed: anybody may have missed something.
                        None if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) => {
                            watches
                                .values()
                                .flat_map(|entry| &entry.waiting)
                                .for_each(|notify| notify.notify_one());
                        }
                        None => {}
                    }
                }
                Ok(())
            }
            Err(nix::errno::Errno::EAGAIN) => {
                ready.clear_ready();
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Watch {
    /// Until the file may have changed since the last time this returned.
    pub(crate) async fn changed(&self) {
        if self.held.is_some() {
            self.notify.notified().await;
        } else {
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some((shared, key)) = &self.held else {
            return;
        };
        let mut watches = shared
            .watches
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = watches.get_mut(key) else {
            return;
        };
        entry
            .waiting
            .retain(|notify| !Arc::ptr_eq(notify, &self.notify));
        if entry.waiting.is_empty() {
            // The file may be gone, and its watch with it.
            let _ = shared.inotify.get_ref().0.rm_watch(entry.descriptor);
            watches.remove(key);
        }
    }
}
