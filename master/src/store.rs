//! Where the registry is kept: a small trait that stores implement, and the one writer that feeds it group commits.

mod sled;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tepui_master_core::RegistryOperation;
use tokio::sync::{mpsc, oneshot};

pub use self::sled::SledRegistry;

/// What is put into one commit at most; a batch grows by itself while the commit before it is on its way to disk.
const MAX_WRITES_PER_COMMIT: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the registry {path} is in use by another process; two masters cannot share a data directory"
    )]
    InUse { path: PathBuf },
    #[error(
        "the registry {path} is damaged: {missing} is missing; restore it, or remove the directory to start anew"
    )]
    Incomplete {
        path: PathBuf,
        missing: &'static str,
    },
    #[error("the registry {path} holds a key that is not text: {key:?}")]
    Key { path: PathBuf, key: Vec<u8> },
    #[error("cannot {doing} the registry {path}: {source}")]
    Engine {
        doing: &'static str,
        path: PathBuf,
        source: ::sled::Error,
    },
    #[error("cannot {doing} the registry {path}: {source}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the registry is closed: the master is stopping")]
    Closed,
}

/// A store of records by key. Its methods block; only the writer's thread calls them once the master runs.
pub trait Registry: Send + 'static {
    /// Every record, by key.
    fn load(&mut self) -> Result<Vec<(String, Bytes)>, StoreError>;

    /// Applies all operations in order, or none. They survive a power cut once this returns.
    fn commit(&mut self, operations: Vec<RegistryOperation>) -> Result<(), StoreError>;
}

type Done = Box<dyn FnOnce(Result<(), Arc<StoreError>>) + Send>;

enum Job {
    Write {
        operations: Vec<RegistryOperation>,
        done: Done,
    },
    Stop,
}

/// Hands writes to the one thread that owns the registry. They are completed in order.
#[derive(Clone)]
pub struct Writer {
    jobs: mpsc::UnboundedSender<Job>,
    figures: Arc<Figures>,
}

/// How the writer is doing.
#[derive(Debug, Default)]
struct Figures {
    queued: AtomicU64,
    last_commit_us: AtomicU64,
}

impl Writer {
    pub fn start(registry: Box<dyn Registry>) -> io::Result<(Self, thread::JoinHandle<()>)> {
        let (jobs, queue) = mpsc::unbounded_channel();
        let figures = Arc::new(Figures::default());
        let kept = Arc::clone(&figures);
        let thread = thread::Builder::new()
            .name("registry".to_owned())
            .spawn(move || write_all(registry, queue, &kept))?;
        Ok((Self { jobs, figures }, thread))
    }

    /// Never waits. `done` runs on the writer's thread once the operations are on disk, or cannot get there.
    pub fn write(
        &self,
        operations: Vec<RegistryOperation>,
        done: impl FnOnce(Result<(), Arc<StoreError>>) + Send + 'static,
    ) {
        let figures = Arc::clone(&self.figures);
        figures.queued.fetch_add(1, Ordering::Relaxed);
        let done = move |result| {
            figures.queued.fetch_sub(1, Ordering::Relaxed);
            done(result);
        };
        let job = Job::Write {
            operations,
            done: Box::new(done),
        };
        if let Err(mpsc::error::SendError(Job::Write { done, .. })) = self.jobs.send(job) {
            done(Err(Arc::new(StoreError::Closed)));
        }
    }

    /// Writes that wait, those on their way to disk included.
    pub fn queued(&self) -> u64 {
        self.figures.queued.load(Ordering::Relaxed)
    }

    /// How long the last commit took.
    pub fn last_commit(&self) -> Duration {
        Duration::from_micros(self.figures.last_commit_us.load(Ordering::Relaxed))
    }

    pub async fn commit(&self, operations: Vec<RegistryOperation>) -> Result<(), Arc<StoreError>> {
        let (sender, receiver) = oneshot::channel();
        self.write(operations, move |result| {
            // Whoever asked may have gone; the write holds all the same.
            let _ = sender.send(result);
        });
        receiver
            .await
            .unwrap_or_else(|_| Err(Arc::new(StoreError::Closed)))
    }

    /// The thread ends after what was handed in before, and the store is closed.
    pub fn stop(&self) {
        // The thread may have ended already.
        let _ = self.jobs.send(Job::Stop);
    }
}

fn write_all(
    mut registry: Box<dyn Registry>,
    mut queue: mpsc::UnboundedReceiver<Job>,
    figures: &Figures,
) {
    // What was written after a failed write would stand on ground that is not there.
    let mut failed: Option<Arc<StoreError>> = None;
    let mut jobs = Vec::with_capacity(MAX_WRITES_PER_COMMIT);
    let mut stopping = false;
    while !stopping && queue.blocking_recv_many(&mut jobs, MAX_WRITES_PER_COMMIT) > 0 {
        let mut operations = Vec::new();
        let mut waiting = Vec::with_capacity(jobs.len());
        for job in jobs.drain(..) {
            match job {
                Job::Write {
                    operations: more,
                    done,
                } if !stopping => {
                    operations.extend(more);
                    waiting.push(done);
                }
                Job::Write { done, .. } => done(Err(Arc::new(StoreError::Closed))),
                Job::Stop => stopping = true,
            }
        }
        if failed.is_none() && !operations.is_empty() {
            let began = Instant::now();
            if let Err(error) = registry.commit(operations) {
                tracing::error!(%error, "a write to the registry failed");
                failed = Some(Arc::new(error));
            }
            let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            figures.last_commit_us.store(took, Ordering::Relaxed);
        }
        for done in waiting {
            done(failed.clone().map_or(Ok(()), Err));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    fn put(key: &str) -> Vec<RegistryOperation> {
        vec![RegistryOperation::Put {
            key: key.to_owned(),
            value: Bytes::from_static(b"value"),
        }]
    }

    /// Says what it was asked to commit, then waits to be told how that ends.
    struct Gated {
        asked: Sender<usize>,
        verdict: Receiver<bool>,
    }

    impl Registry for Gated {
        fn load(&mut self) -> Result<Vec<(String, Bytes)>, StoreError> {
            Ok(Vec::new())
        }

        fn commit(&mut self, operations: Vec<RegistryOperation>) -> Result<(), StoreError> {
            self.asked.send(operations.len()).expect("the test listens");
            if self.verdict.recv().expect("the test answers") {
                Ok(())
            } else {
                Err(StoreError::Closed)
            }
        }
    }

    #[test]
    fn writes_that_come_during_a_commit_share_the_next_one_and_complete_in_order() {
        let (asked, commits) = channel();
        let (verdicts, verdict) = channel();
        let (writer, thread) = Writer::start(Box::new(Gated { asked, verdict })).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let write = |number: usize| {
            let order = Arc::clone(&order);
            writer.write(put(&number.to_string()), move |result| {
                order.lock().unwrap().push((number, result.is_ok()))
            });
        };
        write(0);
        assert_eq!(commits.recv().unwrap(), 1);
        (1..=100).for_each(write);
        verdicts.send(true).unwrap();
        assert_eq!(commits.recv().unwrap(), 100);
        verdicts.send(true).unwrap();
        writer.stop();
        thread.join().unwrap();
        assert_eq!(
            *order.lock().unwrap(),
            (0..=100).map(|number| (number, true)).collect::<Vec<_>>()
        );
    }

    #[test]
    fn nothing_is_written_after_a_write_that_failed() {
        let (asked, commits) = channel();
        let (verdicts, verdict) = channel();
        let (writer, thread) = Writer::start(Box::new(Gated { asked, verdict })).unwrap();
        let (results, outcome) = channel();
        let first = results.clone();
        writer.write(put("key"), move |result| {
            first.send(result.is_ok()).unwrap()
        });
        commits.recv().unwrap();
        verdicts.send(false).unwrap();
        assert!(!outcome.recv().unwrap());
        writer.write(put("later"), move |result| {
            results.send(result.is_ok()).unwrap()
        });
        assert!(!outcome.recv().unwrap());
        writer.stop();
        thread.join().unwrap();
        assert!(commits.try_recv().is_err(), "the store was not asked again");
    }

    #[test]
    fn a_stopped_writer_refuses_instead_of_forgetting() {
        let directory = tempfile::tempdir().unwrap();
        let registry = SledRegistry::open(&directory.path().join("registry")).unwrap();
        let (writer, thread) = Writer::start(Box::new(registry)).unwrap();
        writer.stop();
        thread.join().unwrap();
        let (sender, receiver) = channel();
        writer.write(put("key"), move |result| {
            sender.send(result.is_err()).unwrap()
        });
        assert!(receiver.recv().unwrap());
    }
}
