//! Brings what a task names to this machine, once: everything passes through a content-addressed store, concurrent
//! wishes for the same bytes share one transfer, and what is there is not transferred again.
//!
//! Nothing of a transfer is visible before it is complete and its digest is right.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tepui_api::v1::command_info::Uri;
use tepui_fetch::{Error, Fetch, Location, Progress, Sink, Source, Wish, download};
use tokio::sync::watch;

use crate::fetcher_metrics::Figures;
use crate::holders::{Holders, Origin};
use crate::store::{Partial, Pin, Store};
pub(crate) use crate::wanted::{FetchError, Wanted};

/// How many URIs' digests are remembered.
const MAX_REMEMBERED: usize = 65_536;

/// The transfer several wishes wait for; it ends when the last of them is gone.
#[derive(Debug)]
struct Flight {
    outcome: watch::Receiver<Option<Result<Pin, Error>>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Fetcher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    fetch: Fetch,
    holders: Holders,
    /// Where URIs that are relative paths begin.
    home: Option<PathBuf>,
    flights: Mutex<BTreeMap<String, Weak<Flight>>>,
    /// The digest of what a URI or a local file in one state was, so that it need not be read again.
    remembered: Mutex<BTreeMap<String, String>>,
    figures: Figures,
}

impl Fetcher {
    pub(crate) fn new(store: Store, fetch: Fetch, holders: Holders, home: Option<PathBuf>) -> Self {
        let shared = Shared {
            store,
            fetch,
            holders,
            home,
            flights: Mutex::new(BTreeMap::new()),
            remembered: Mutex::new(BTreeMap::new()),
            figures: Figures::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Under their names.
    pub(crate) fn figures(&self) -> Vec<(&'static str, f64)> {
        self.shared.figures.told(&self.shared.store)
    }

    pub(crate) fn store(&self) -> &Store {
        &self.shared.store
    }

    /// One URI of a task, understood.
    pub(crate) fn wanted(&self, uri: &Uri) -> Result<Wanted, FetchError> {
        Wanted::parse(
            uri,
            self.shared.home.as_deref(),
            self.shared.fetch.settings(),
        )
    }

    /// The bytes of one URI as a file of the store. Dropping the future gives the wish up.
    pub(crate) async fn fetch(&self, wanted: &Wanted) -> Result<Pin, FetchError> {
        if let Some(pin) = self.shared.at_hand(wanted) {
            self.shared.figures.ended(true);
            return Ok(pin);
        }
        let flight = self.join(wanted);
        let mut outcome = flight.outcome.clone();
        let outcome = match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().expect("waited for"),
            Err(_) => Err(Error::Transport {
                cause: "the transfer was given up".to_owned(),
            }),
        };
        self.shared.figures.ended(outcome.is_ok());
        outcome.map_err(|cause| wanted.failed(cause))
    }

    fn join(&self, wanted: &Wanted) -> Arc<Flight> {
        let key = wanted.key();
        let mut flights = self.shared.lock_flights();
        if let Some(flight) = flights.get(&key).and_then(Weak::upgrade) {
            return flight;
        }
        let (sender, outcome) = watch::channel(None);
        let flight = Arc::new(Flight { outcome });
        let mine = Arc::downgrade(&flight);
        flights.insert(key.clone(), mine.clone());
        let (shared, wanted) = (self.shared.clone(), wanted.clone());
        tokio::spawn(async move {
            let outcome = tokio::select! {
                () = sender.closed() => None,
                outcome = shared.obtain(&wanted) => Some(outcome),
            };
            let mut flights = shared.lock_flights();
            if flights
                .get(&key)
                .is_some_and(|current| current.ptr_eq(&mine))
            {
                flights.remove(&key);
            }
            drop(flights);
            if let Some(outcome) = outcome {
                let _ = sender.send(Some(outcome));
            }
        });
        flight
    }

    /// Takes a file that came to be on this machine, in an archive say, into the store.
    pub(crate) fn ingest(&self, uri: &str, file: &mut File) -> Result<Pin, FetchError> {
        self.shared
            .ingest(file)
            .map_err(|cause| FetchError::Failed {
                uri: uri.to_owned(),
                cause,
            })
    }
}

impl Shared {
    fn lock_flights(&self) -> MutexGuard<'_, BTreeMap<String, Weak<Flight>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at_hand(&self, wanted: &Wanted) -> Option<Pin> {
        if let Some(digest) = &wanted.digest {
            return self.store.get(digest);
        }
        let key = match &wanted.location {
            Location::File(path) => identity(path, &path.metadata().ok()?),
            _ if !wanted.cache => return None,
            _ => wanted.key(),
        };
        let digest = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)?
            .clone();
        self.store.get(&digest)
    }

    fn remember(&self, key: String, digest: &str) {
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(key, digest.to_owned());
    }

    async fn obtain(self: &Arc<Self>, wanted: &Wanted) -> Result<Pin, Error> {
        // Whoever fetched it while this wish was on its way here saved us the transfer.
        if let Some(pin) = self.at_hand(wanted) {
            return Ok(pin);
        }
        let key = match &wanted.location {
            Location::File(path) => {
                let metadata = tokio::fs::metadata(path).await;
                identity(path, &metadata.map_err(|error| Error::of_io(&error))?)
            }
            _ => wanted.key(),
        };
        let origin = self.fetch.source(&wanted.location)?;
        let settings = self.fetch.settings();
        let digest = match &wanted.digest {
            Some(digest) => Some(digest.clone()),
            None => {
                let announced = tokio::time::timeout(settings.patience.stall, origin.announced());
                // What a source that is unwell says is told once it was asked as often as it is to be.
                announced.await.ok().and_then(Result::ok).flatten()
            }
        };
        if let Some(pin) = digest.as_deref().and_then(|digest| self.store.get(digest)) {
            self.remember(key, pin.name());
            return Ok(pin);
        }
        let (origins, sources) = self.sources(wanted, digest.as_deref(), origin).await;
        let (shared, expected) = (self.clone(), digest.clone());
        let (partial, sink) = blocking(move || shared.begin(expected.as_deref())).await?;
        let wish = Wish {
            sources: &sources,
            sha256: digest.as_deref(),
            max_bytes: settings.max_bytes,
            patience: settings.patience,
            watch: &|progress: Progress| {
                self.figures
                    .arrived(origins[progress.source], progress.arrived);
                // What nobody uses goes before the disk is full.
                if let Some(size) = progress.size {
                    self.store.make_room(size);
                }
            },
        };
        let downloaded = download(&wish, sink).await?;
        let shared = self.clone();
        blocking(move || {
            let pin = shared
                .store
                .keep_partial(partial, &downloaded.sha256, 0o444)
                .map_err(|error| Error::of_io(&error))?;
            shared.remember(key, &downloaded.sha256);
            Ok(pin)
        })
        .await
    }

    /// The nearest first: other holders in the cluster, if the digest says what is meant, then where the URI points.
    async fn sources(
        &self,
        wanted: &Wanted,
        digest: Option<&str>,
        origin: Arc<dyn Source>,
    ) -> (Vec<Origin>, Vec<Arc<dyn Source>>) {
        let mut sources = match digest {
            Some(digest) if !matches!(wanted.location, Location::File(_)) => {
                self.holders.sources(&self.fetch, digest).await
            }
            _ => Vec::new(),
        };
        sources.push((Origin::Uri, origin));
        sources.into_iter().unzip()
    }

    /// A file to be filled; with what an agent that was killed had of it.
    fn begin(&self, digest: Option<&str>) -> Result<(Partial, Sink), Error> {
        let failed = |error: io::Error| Error::of_io(&error);
        let partial = self.store.partial(digest).map_err(failed)?;
        let store = self.store.clone();
        let room = Arc::new(move || store.give_way());
        let sink = Sink::resume(partial.file().map_err(failed)?, Some(room)).map_err(failed)?;
        Ok((partial, sink))
    }

    fn ingest(&self, from: &mut File) -> Result<Pin, Error> {
        let failed = |error: io::Error| Error::of_io(&error);
        let (partial, mut sink) = self.begin(None)?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => sink.write(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let digest = sink.sha256();
        self.store
            .keep_partial(partial, &digest, 0o444)
            .map_err(failed)
    }
}

/// A local file in its present state: it changes with whatever changes the content.
fn identity(path: &Path, metadata: &std::fs::Metadata) -> String {
    format!(
        "{}:{}:{}:{}:{}.{}:{}.{}",
        path.display(),
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    )
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::File {
            cause: error.to_string(),
        }),
    }
}

#[cfg(test)]
#[path = "fetcher_tests.rs"]
mod tests;
