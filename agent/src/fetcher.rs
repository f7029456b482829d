//! Brings what a task names to this machine, once: everything passes through a content-addressed store, concurrent
//! wishes for the same bytes share one transfer, and what is there is not transferred again.
//!
//! Nothing of a transfer is visible before it is complete and its digest is right.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tepui_api::v1::command_info::Uri;
use tokio::sync::{mpsc, watch};

use crate::archive::Archive;
use crate::confine::inside;
use crate::sandbox::is_output;
use crate::store::{Pin, Store};

/// How many redirects are followed before a URI is given up.
const MAX_REDIRECTS: usize = 10;
/// Chunks under way between the socket and the disk.
const CHUNKS_IN_FLIGHT: usize = 16;
/// How many URIs' digests are remembered.
const MAX_REMEMBERED: usize = 65_536;
/// The length of a SHA-256 in hex.
const DIGEST_LENGTH: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("the URI '{uri}' {problem}")]
    Uri { uri: String, problem: String },
    #[error(
        "the output file '{output_file}' of '{uri}' must be a relative path inside the sandbox"
    )]
    OutputFile { uri: String, output_file: String },
    #[error(
        "the URI '{uri}' would be put where the task's {name} goes; name another place in its output_file"
    )]
    Reserved { uri: String, name: String },
    #[error("fetching '{uri}' failed: the server answered {status}")]
    Status { uri: String, status: String },
    #[error("fetching '{uri}' failed: {cause}")]
    Transport { uri: String, cause: String },
    #[error("fetching '{uri}' failed: nothing arrived for {} s", .after.as_secs_f64())]
    Stalled { uri: String, after: Duration },
    #[error("fetching '{uri}' failed: the body ended after {got} of {expected} bytes")]
    Truncated {
        uri: String,
        got: u64,
        expected: u64,
    },
    #[error("fetching '{uri}' failed: its sha256 is {got}, but {expected} was asked for")]
    Digest {
        uri: String,
        expected: String,
        got: String,
    },
    #[error("fetching '{uri}' failed: the disk is full")]
    DiskFull { uri: String },
    #[error("fetching '{uri}' failed: {cause}")]
    File { uri: String, cause: String },
}

/// One URI of a task, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// As the task wrote it, for messages.
    pub(crate) uri: String,
    source: Source,
    digest: Option<String>,
    /// Where it goes, relative to the sandbox.
    pub(crate) name: PathBuf,
    pub(crate) executable: bool,
    pub(crate) archive: Option<Archive>,
    pub(crate) cache: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Remote(String),
    Local(PathBuf),
}

impl Wanted {
    /// `home` is where relative paths begin.
    pub(crate) fn parse(uri: &Uri, home: Option<&Path>) -> Result<Self, FetchError> {
        let text = uri.value.trim_start();
        let wrong = |problem: &str| FetchError::Uri {
            uri: uri.value.clone(),
            problem: problem.to_owned(),
        };
        let (location, from_fragment) = split_fragment(text);
        let from_field = uri
            .sha256
            .as_deref()
            .filter(|digest| !digest.is_empty())
            .map(str::to_ascii_lowercase);
        if from_field
            .as_ref()
            .zip(from_fragment.as_ref())
            .is_some_and(|(field, fragment)| field != fragment)
        {
            return Err(wrong(
                "names one sha256 in its fragment and another in its field",
            ));
        }
        let digest = from_field
            .or(from_fragment)
            .or_else(|| digest_in_path(location));
        if digest.as_ref().is_some_and(|digest| !is_digest(digest)) {
            return Err(wrong(
                "comes with a sha256 that is not 64 hexadecimal digits",
            ));
        }
        let source = match location.split_once("://") {
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                "http" | "https" => Source::Remote(location.to_owned()),
                "file" => {
                    let path = rest.strip_prefix("localhost").unwrap_or(rest);
                    if !path.starts_with('/') {
                        return Err(wrong("names a file on another host"));
                    }
                    Source::Local(PathBuf::from(path))
                }
                _ => {
                    return Err(wrong(
                        "has a scheme that is not supported; known are http, https and file",
                    ));
                }
            },
            None if location.starts_with('/') => Source::Local(PathBuf::from(location)),
            None if location.is_empty() => return Err(wrong("is empty")),
            None => match home {
                Some(home) => Source::Local(home.join(location)),
                None => {
                    return Err(wrong(
                        "is a relative path, and the agent was started without --frameworks_home",
                    ));
                }
            },
        };
        let name = match uri.output_file.as_deref() {
            Some(output_file) => inside(Path::new(output_file))
                .ok()
                .filter(|path| path.file_name().is_some() && !output_file.ends_with('/'))
                .ok_or_else(|| FetchError::OutputFile {
                    uri: uri.value.clone(),
                    output_file: output_file.to_owned(),
                })?,
            None => base_name(location)
                .map(PathBuf::from)
                .ok_or_else(|| wrong("does not name a file, and 'output_file' is not set"))?,
        };
        if is_output(&name) {
            return Err(FetchError::Reserved {
                uri: uri.value.clone(),
                name: name.display().to_string(),
            });
        }
        let executable = uri.executable.unwrap_or(false);
        let extract = uri.extract.unwrap_or(true) && !executable;
        let archive = if extract {
            Archive::of_name(&name.to_string_lossy())
        } else {
            None
        };
        Ok(Self {
            uri: uri.value.clone(),
            source,
            digest,
            name,
            executable,
            archive,
            cache: uri.cache.unwrap_or(false),
        })
    }

    /// Wishes with the same key are the same transfer.
    fn key(&self) -> String {
        match (&self.digest, &self.source) {
            (Some(digest), _) => format!("sha256:{digest}"),
            (None, Source::Remote(url)) => url.clone(),
            (None, Source::Local(path)) => path.display().to_string(),
        }
    }
}

/// Takes a digest off the end of a URI: `#sha256=<hex>` or `#sha256:<hex>`. Another fragment is not for us, and not for
/// servers either.
fn split_fragment(text: &str) -> (&str, Option<String>) {
    let Some((location, fragment)) = text.rsplit_once('#') else {
        return (text, None);
    };
    match fragment
        .strip_prefix("sha256=")
        .or_else(|| fragment.strip_prefix("sha256:"))
    {
        Some(digest) => (location, Some(digest.to_ascii_lowercase())),
        None if text.contains("://") => (location, None),
        // In a plain path, `#` is a character like any other.
        None => (text, None),
    }
}

/// The master's artifacts are named after their content: `/artifacts/<sha256>/<name>`.
fn digest_in_path(location: &str) -> Option<String> {
    let (_, rest) = location.split_once("://")?;
    let mut parts = rest.split(['/', '?']);
    parts.find(|part| *part == "artifacts")?;
    parts
        .next()
        .filter(|digest| is_digest(digest))
        .map(str::to_owned)
}

pub(crate) fn is_digest(text: &str) -> bool {
    text.len() == DIGEST_LENGTH
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn base_name(location: &str) -> Option<&str> {
    let path = match location.split_once("://") {
        Some((_, rest)) => rest.split_once('/')?.1,
        None => location,
    };
    // A query may have slashes of its own.
    let query = path.find('?').unwrap_or(path.len());
    let start = path[..query].rfind('/').map_or(0, |slash| slash + 1);
    let name = &path[start..];
    let bare = &path[start..query];
    (!bare.is_empty() && bare != "." && bare != ".." && !name.contains('/'))
        .then_some(name)
        .or_else(|| (!bare.is_empty() && bare != "." && bare != "..").then_some(bare))
}

/// The transfer several wishes wait for; it ends when the last of them is gone.
#[derive(Debug)]
struct Flight {
    outcome: watch::Receiver<Option<Result<Pin, FetchError>>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Fetcher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    client: reqwest::Client,
    stall: Duration,
    /// Where URIs that are relative paths begin.
    home: Option<PathBuf>,
    flights: Mutex<BTreeMap<String, Weak<Flight>>>,
    /// The digest of what a URI or a local file in one state was, so that it need not be read again.
    remembered: Mutex<BTreeMap<String, String>>,
}

impl Fetcher {
    pub(crate) fn new(
        store: Store,
        stall: Duration,
        home: Option<PathBuf>,
    ) -> Result<Self, reqwest::Error> {
        // Somebody else in this process may have installed a provider already; either will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS))
                .connect_timeout(stall)
                .read_timeout(stall)
                .user_agent(concat!("tepui-agent/", env!("CARGO_PKG_VERSION")))
        };
        let client = builder().build().or_else(|error| {
            // A machine without root certificates can still fetch over plain HTTP.
            tracing::warn!(%error, "no root certificates: https fetches will be refused");
            builder().tls_certs_only(Vec::new()).build()
        })?;
        let shared = Shared {
            store,
            client,
            stall,
            home,
            flights: Mutex::new(BTreeMap::new()),
            remembered: Mutex::new(BTreeMap::new()),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    #[cfg(test)]
    pub(crate) fn store(&self) -> &Store {
        &self.shared.store
    }

    /// One URI of a task, understood.
    pub(crate) fn wanted(&self, uri: &Uri) -> Result<Wanted, FetchError> {
        Wanted::parse(uri, self.shared.home.as_deref())
    }

    /// The bytes of one URI as a file of the store. Dropping the future gives the wish up.
    pub(crate) async fn fetch(&self, wanted: &Wanted) -> Result<Pin, FetchError> {
        if let Some(pin) = self.shared.at_hand(wanted) {
            return Ok(pin);
        }
        let flight = self.join(wanted);
        let mut outcome = flight.outcome.clone();
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().expect("waited for"),
            Err(_) => Err(FetchError::Transport {
                uri: wanted.uri.clone(),
                cause: "the transfer was given up".to_owned(),
            }),
        }
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
        let (file, digest, _) = self.shared.copy(uri, file)?;
        self.shared
            .store
            .keep(file, &digest, 0o444)
            .map_err(|error| of_file(uri, &error))
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
        let key = match &wanted.source {
            Source::Remote(_) if !wanted.cache => return None,
            Source::Remote(url) => url.clone(),
            Source::Local(path) => identity(path, &path.metadata().ok()?),
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

    async fn obtain(self: &Arc<Self>, wanted: &Wanted) -> Result<Pin, FetchError> {
        // Whoever fetched it while this wish was on its way here saved us the transfer.
        if let Some(pin) = self.at_hand(wanted) {
            return Ok(pin);
        }
        let (file, digest, key) = match &wanted.source {
            Source::Remote(url) => {
                let (file, digest) = self.download(&wanted.uri, url).await?;
                (file, digest, url.clone())
            }
            Source::Local(path) => {
                let (shared, uri, path) = (self.clone(), wanted.uri.clone(), path.clone());
                blocking(&wanted.uri, move || shared.copy_local(&uri, &path)).await?
            }
        };
        if let Some(expected) = wanted
            .digest
            .as_ref()
            .filter(|expected| **expected != digest)
        {
            return Err(FetchError::Digest {
                uri: wanted.uri.clone(),
                expected: expected.clone(),
                got: digest,
            });
        }
        let (shared, uri) = (self.clone(), wanted.uri.clone());
        blocking(&wanted.uri, move || {
            let pin = shared
                .store
                .keep(file, &digest, 0o444)
                .map_err(|error| of_file(&uri, &error))?;
            shared.remember(key, &digest);
            Ok(pin)
        })
        .await
    }

    async fn download(
        self: &Arc<Self>,
        uri: &str,
        url: &str,
    ) -> Result<(NamedTempFile, String), FetchError> {
        let response = self
            .client
            .get(url)
            .send()
            .await
            .map_err(|error| self.of_transport(uri, &error))?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(FetchError::Status {
                uri: uri.to_owned(),
                status: response.status().to_string(),
            });
        }
        let expected = response.content_length();
        let (chunks, mut arriving) = mpsc::channel::<Bytes>(CHUNKS_IN_FLIGHT);
        let (shared, name) = (self.clone(), uri.to_owned());
        let writer = tokio::task::spawn_blocking(move || {
            let mut sink = Sink::new(&shared.store).map_err(|error| of_file(&name, &error))?;
            while let Some(chunk) = arriving.blocking_recv() {
                sink.write(&chunk).map_err(|error| of_file(&name, &error))?;
            }
            Ok(sink.finish())
        });
        let mut body = response.bytes_stream();
        let mut got = 0;
        let mut failure = None;
        while let Some(chunk) = body.next().await {
            match chunk {
                Ok(chunk) => {
                    got += chunk.len() as u64;
                    // A writer that is gone has the better error to tell.
                    if chunks.send(chunk).await.is_err() {
                        break;
                    }
                }
                Err(error) => {
                    failure = Some(match expected {
                        Some(expected) if got < expected && !error.is_timeout() => {
                            FetchError::Truncated {
                                uri: uri.to_owned(),
                                got,
                                expected,
                            }
                        }
                        _ => self.of_transport(uri, &error),
                    });
                    break;
                }
            }
        }
        drop(chunks);
        let written: Result<_, FetchError> = match writer.await {
            Ok(written) => written,
            Err(error) => Err(FetchError::File {
                uri: uri.to_owned(),
                cause: error.to_string(),
            }),
        };
        let (file, digest) = written?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        match expected {
            Some(expected) if expected != got => Err(FetchError::Truncated {
                uri: uri.to_owned(),
                got,
                expected,
            }),
            _ => Ok((file, digest)),
        }
    }

    fn copy_local(
        &self,
        uri: &str,
        path: &Path,
    ) -> Result<(NamedTempFile, String, String), FetchError> {
        let metadata = path.metadata().map_err(|error| of_file(uri, &error))?;
        if !metadata.is_file() {
            return Err(FetchError::File {
                uri: uri.to_owned(),
                cause: "it is not a regular file".to_owned(),
            });
        }
        let mut from = File::open(path).map_err(|error| of_file(uri, &error))?;
        let (file, digest, _) = self.copy(uri, &mut from)?;
        Ok((file, digest, identity(path, &metadata)))
    }

    fn copy(&self, uri: &str, from: &mut File) -> Result<(NamedTempFile, String, u64), FetchError> {
        let failed = |error: io::Error| of_file(uri, &error);
        let mut sink = Sink::new(&self.store).map_err(failed)?;
        let mut buffer = vec![0; 256 << 10];
        let mut total = 0;
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    total += count as u64;
                    sink.write(&buffer[..count]).map_err(failed)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let (file, digest) = sink.finish();
        Ok((file, digest, total))
    }

    fn of_transport(&self, uri: &str, error: &reqwest::Error) -> FetchError {
        if error.is_timeout() {
            return FetchError::Stalled {
                uri: uri.to_owned(),
                after: self.stall,
            };
        }
        // The outermost error only repeats the URL; the innermost one says what went wrong.
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        FetchError::Transport {
            uri: uri.to_owned(),
            cause: cause.to_string(),
        }
    }
}

/// Where bytes become a file and a digest at once.
struct Sink {
    file: NamedTempFile,
    digest: Sha256,
}

impl Sink {
    fn new(store: &Store) -> io::Result<Self> {
        Ok(Self {
            file: store.unfinished()?,
            digest: Sha256::new(),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.file.write_all(bytes)
    }

    fn finish(self) -> (NamedTempFile, String) {
        (self.file, hex::encode(self.digest.finalize()))
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

fn of_file(uri: &str, error: &io::Error) -> FetchError {
    match error.kind() {
        io::ErrorKind::StorageFull => FetchError::DiskFull {
            uri: uri.to_owned(),
        },
        io::ErrorKind::NotFound => FetchError::File {
            uri: uri.to_owned(),
            cause: "there is no such file on this machine".to_owned(),
        },
        _ => FetchError::File {
            uri: uri.to_owned(),
            cause: error.to_string(),
        },
    }
}

async fn blocking<T: Send + 'static>(
    uri: &str,
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(FetchError::File {
            uri: uri.to_owned(),
            cause: error.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Reply, TestServer};

    struct Bench {
        server: TestServer,
        fetcher: Fetcher,
        directory: tempfile::TempDir,
    }

    async fn bench(bound: u64) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("fetch"), bound).unwrap();
        let home = directory.path().join("home");
        std::fs::create_dir(&home).unwrap();
        let fetcher = Fetcher::new(store, Duration::from_millis(400), Some(home)).unwrap();
        Bench {
            server: TestServer::start().await,
            fetcher,
            directory,
        }
    }

    impl Bench {
        fn uri(&self, path: &str) -> Uri {
            Uri {
                value: self.server.url(path),
                ..Default::default()
            }
        }

        async fn fetch(&self, uri: &Uri) -> Result<Pin, FetchError> {
            self.fetcher.fetch(&self.fetcher.wanted(uri)?).await
        }

        fn is_clean(&self, files: usize) -> bool {
            std::fs::read_dir(self.directory.path().join("fetch"))
                .unwrap()
                .count()
                == files
        }
    }

    fn digest_of(bytes: &[u8]) -> String {
        hex::encode(Sha256::digest(bytes))
    }

    fn uri(value: &str) -> Uri {
        Uri {
            value: value.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn a_file_is_named_after_the_last_part_of_its_uri() {
        for (value, name) in [
            ("http://host/a/b.txt", "b.txt"),
            ("http://host/a/b.txt?x=1", "b.txt?x=1"),
            ("http://host/a/b.txt?x=1/2", "b.txt"),
            ("  http://host/b#section", "b"),
            ("/opt/data file", "data file"),
            ("/opt/odd#name", "odd#name"),
            ("file:///opt/b", "b"),
            ("file://localhost/opt/b", "b"),
        ] {
            assert_eq!(
                Wanted::parse(&uri(value), None).unwrap().name,
                Path::new(name),
                "{value}"
            );
        }
        let bad = [
            "http://host",
            "http://host/",
            "/opt/",
            "relative/x",
            "hdfs://x/y",
            "file://other/x",
            "http://h/..",
            "",
        ];
        for value in bad {
            assert!(
                matches!(
                    Wanted::parse(&uri(value), None),
                    Err(FetchError::Uri { .. })
                ),
                "{value}"
            );
        }
    }

    #[test]
    fn a_uri_that_ends_in_a_slash_needs_a_name_from_its_task() {
        let mut page = uri("http://host/");
        assert!(matches!(
            Wanted::parse(&page, None),
            Err(FetchError::Uri { .. })
        ));
        page.output_file = Some("page.html".to_owned());
        assert_eq!(
            Wanted::parse(&page, None).unwrap().name,
            Path::new("page.html")
        );
    }

    #[test]
    fn a_digest_is_taken_from_the_field_the_fragment_or_an_artifact_path() {
        let digest = digest_of(b"x");
        let upper = digest.to_ascii_uppercase();
        for value in [
            format!("http://h/a#sha256={upper}"),
            format!("/opt/a#sha256:{digest}"),
            format!("http://h/artifacts/{digest}/a.wasm"),
        ] {
            let wanted = Wanted::parse(&uri(&value), None).unwrap();
            assert_eq!(wanted.digest.as_ref(), Some(&digest), "{value}");
            assert!(!wanted.name.to_string_lossy().contains('#'));
        }
        let both = Uri {
            sha256: Some(digest_of(b"y")),
            ..uri(&format!("http://h/a#sha256={digest}"))
        };
        assert!(matches!(
            Wanted::parse(&both, None),
            Err(FetchError::Uri { .. })
        ));
        let short = Uri {
            sha256: Some("abc".to_owned()),
            ..uri("http://h/a")
        };
        assert!(matches!(
            Wanted::parse(&short, None),
            Err(FetchError::Uri { .. })
        ));
    }

    #[test]
    fn an_output_file_stays_inside_the_sandbox() {
        let with = |output: &str| {
            Wanted::parse(
                &Uri {
                    output_file: Some(output.to_owned()),
                    ..uri("http://h/a.tar")
                },
                None,
            )
        };
        let wanted = with("dir/b.zip").unwrap();
        assert_eq!(
            (wanted.name.as_path(), wanted.archive),
            (Path::new("dir/b.zip"), Some(Archive::Zip))
        );
        for output in ["/etc/x", "../x", "a/../../x", "", ".", "dir/"] {
            assert!(
                matches!(with(output), Err(FetchError::OutputFile { .. })),
                "{output}"
            );
        }
        let executable = Uri {
            executable: Some(true),
            ..uri("http://h/a.tar")
        };
        assert_eq!(Wanted::parse(&executable, None).unwrap().archive, None);
        let untouched = Uri {
            extract: Some(false),
            ..uri("http://h/a.tar")
        };
        assert_eq!(Wanted::parse(&untouched, None).unwrap().archive, None);
    }

    #[tokio::test]
    async fn a_download_is_kept_under_its_digest() {
        let bench = bench(1 << 20).await;
        bench.server.reply("/a", Reply::body("hello"));
        let pin = bench.fetch(&bench.uri("/a")).await.unwrap();
        assert_eq!(pin.name(), digest_of(b"hello"));
        assert_eq!(std::fs::read(pin.path()).unwrap(), b"hello");
    }

    #[tokio::test]
    async fn only_200_will_do_and_the_sentence_names_url_and_status() {
        let bench = bench(1 << 20).await;
        bench.server.reply("/partial", Reply::status(204));
        for (path, status) in [
            ("/missing", "404 Not Found"),
            ("/partial", "204 No Content"),
        ] {
            let error = bench.fetch(&bench.uri(path)).await.unwrap_err();
            let url = bench.server.url(path);
            assert_eq!(
                error.to_string(),
                format!("fetching '{url}' failed: the server answered {status}")
            );
        }
        assert!(bench.is_clean(0));
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named_with_the_cause() {
        let bench = bench(1 << 20).await;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = bench
            .fetch(&uri(&format!("http://{address}/x")))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("http://{address}/x")) && error.contains("refused"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_truncated_body_is_an_error_and_leaves_nothing_behind() {
        let bench = bench(1 << 20).await;
        bench
            .server
            .reply("/cut", Reply::body("0123456789").truncated_to(4));
        let error = bench.fetch(&bench.uri("/cut")).await.unwrap_err();
        assert!(
            matches!(error, FetchError::Truncated { expected: 10, .. }),
            "{error}"
        );
        assert!(bench.is_clean(0));
    }

    #[tokio::test]
    async fn a_body_that_stalls_is_given_up() {
        let bench = bench(1 << 20).await;
        bench
            .server
            .reply("/slow", Reply::body("0123456789").stalling_after(4));
        let error = bench.fetch(&bench.uri("/slow")).await.unwrap_err();
        assert!(matches!(error, FetchError::Stalled { .. }), "{error}");
        assert!(bench.is_clean(0));
    }

    #[tokio::test]
    async fn a_wrong_digest_names_both_and_keeps_nothing() {
        let bench = bench(1 << 20).await;
        bench.server.reply("/a", Reply::body("hello"));
        let expected = digest_of(b"other");
        let error = bench
            .fetch(&Uri {
                sha256: Some(expected.clone()),
                ..bench.uri("/a")
            })
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&expected) && text.contains(&digest_of(b"hello")),
            "{text}"
        );
        assert!(bench.is_clean(0));
    }

    #[tokio::test]
    async fn a_known_digest_is_served_without_asking_anybody() {
        let bench = bench(1 << 20).await;
        bench.server.reply("/a", Reply::body("hello"));
        drop(bench.fetch(&bench.uri("/a")).await.unwrap());
        let elsewhere = Uri {
            sha256: Some(digest_of(b"hello")),
            ..uri("http://127.0.0.1:1/nobody")
        };
        assert_eq!(bench.fetch(&elsewhere).await.unwrap().bytes(), 5);
        assert_eq!(bench.server.count("/a"), 1);
    }

    #[tokio::test]
    async fn only_a_uri_marked_for_the_cache_is_not_fetched_again() {
        let bench = bench(1 << 20).await;
        bench.server.reply("/a", Reply::body("hello"));
        let plain = bench.uri("/a");
        let cached = Uri {
            cache: Some(true),
            ..plain.clone()
        };
        drop(bench.fetch(&plain).await.unwrap());
        drop(bench.fetch(&plain).await.unwrap());
        assert_eq!(bench.server.count("/a"), 2);
        drop(bench.fetch(&cached).await.unwrap());
        drop(bench.fetch(&cached).await.unwrap());
        assert_eq!(bench.server.count("/a"), 2);
        assert!(bench.is_clean(1));
    }

    #[tokio::test]
    async fn concurrent_wishes_share_one_transfer() {
        let bench = bench(1 << 20).await;
        bench.server.reply("/a", Reply::body("hello").held());
        let uri = bench.uri("/a");
        let wishes = (0..20).map(|_| bench.fetch(&uri));
        let all = futures::future::join_all(wishes);
        let release = async {
            bench.server.asked("/a").await;
            bench.server.release("/a");
        };
        let (pins, ()) = tokio::join!(all, release);
        assert!(
            pins.iter()
                .all(|pin| pin.as_ref().is_ok_and(|pin| pin.bytes() == 5))
        );
        assert_eq!(bench.server.count("/a"), 1);
    }

    #[tokio::test]
    async fn a_wish_given_up_ends_the_transfer_and_the_next_one_starts_anew() {
        let bench = bench(1 << 20).await;
        bench.server.reply("/a", Reply::body("hello").held());
        let uri = bench.uri("/a");
        tokio::select! {
            _ = bench.fetch(&uri) => panic!("the body is being held back"),
            () = bench.server.asked("/a") => {}
        }
        bench.server.reply("/a", Reply::body("second"));
        assert_eq!(bench.fetch(&uri).await.unwrap().bytes(), 6);
    }

    #[tokio::test]
    async fn files_of_this_machine_are_read_again_only_when_they_changed() {
        let bench = bench(1 << 20).await;
        let path = bench.directory.path().join("local");
        std::fs::write(&path, "one").unwrap();
        let absolute = uri(path.to_str().unwrap());
        let url = uri(&format!("file://{}", path.display()));
        assert_eq!(
            bench.fetch(&absolute).await.unwrap().name(),
            digest_of(b"one")
        );
        assert_eq!(bench.fetch(&url).await.unwrap().name(), digest_of(b"one"));
        std::fs::write(&path, "three").unwrap();
        assert_eq!(bench.fetch(&url).await.unwrap().name(), digest_of(b"three"));
        let missing = bench
            .fetch(&uri("/nowhere/at/all"))
            .await
            .unwrap_err()
            .to_string();
        assert_eq!(
            missing,
            "fetching '/nowhere/at/all' failed: there is no such file on this machine"
        );
        assert!(
            bench
                .fetch(&uri("/proc"))
                .await
                .unwrap_err()
                .to_string()
                .contains("not a regular file")
        );
    }

    #[tokio::test]
    async fn the_cache_keeps_to_its_bound() {
        let bench = bench(12).await;
        for path in ["/a", "/b", "/c"] {
            bench.server.reply(path, Reply::body(&format!("{path}---")));
            drop(
                bench
                    .fetch(&Uri {
                        cache: Some(true),
                        ..bench.uri(path)
                    })
                    .await
                    .unwrap(),
            );
        }
        assert!(bench.is_clean(2));
        assert_eq!(bench.fetcher.store().total_bytes(), 10);
        drop(
            bench
                .fetch(&Uri {
                    cache: Some(true),
                    ..bench.uri("/a")
                })
                .await
                .unwrap(),
        );
        assert_eq!(bench.server.count("/a"), 2);
    }

    #[tokio::test]
    async fn a_relative_path_begins_at_the_frameworks_home() {
        let bench = bench(1 << 20).await;
        std::fs::create_dir(bench.directory.path().join("home/lib")).unwrap();
        std::fs::write(bench.directory.path().join("home/lib/tool"), "tool").unwrap();
        assert_eq!(bench.fetch(&uri("lib/tool")).await.unwrap().bytes(), 4);
        let error = Wanted::parse(&uri("lib/tool"), None).unwrap_err();
        assert!(error.to_string().contains("--frameworks_home"), "{error}");
    }

    #[test]
    fn nothing_is_fetched_to_where_the_output_goes() {
        let mut wanted = uri("http://host/stdout");
        let error = Wanted::parse(&wanted, None).unwrap_err().to_string();
        assert!(error.contains("name another place"), "{error}");
        wanted.output_file = Some("log/stdout".to_owned());
        assert!(Wanted::parse(&wanted, None).is_ok());
        wanted.output_file = Some("./stderr".to_owned());
        assert!(Wanted::parse(&wanted, None).is_err());
    }

    #[test]
    fn a_full_disk_is_called_by_its_name() {
        let error = of_file("http://h/x", &io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(
            error.to_string(),
            "fetching 'http://h/x' failed: the disk is full"
        );
    }
}
