//! Artifacts: modules and data sets, stored under the digest of their content.
//!
//! The bytes lie in `artifacts/<sha256>` beside the registry, the record of each in the registry. A file is complete
//! and on disk before its record is written, and a record is gone before its file is removed; so a record without its
//! file means damage, and a file without a record only lost space, which the next start gives back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Path as UrlPath, Query, Request, State};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};
use tempfile::{NamedTempFile, TempPath};
use tepui_api::{registry, v1};
use tepui_fetch::is_digest;
use tepui_master_core::RegistryOperation;

use crate::http::json;
use crate::shared::{Identity, Refusal, Shared, method_not_allowed, wall_ns};
use crate::store::{StoreError, Writer};

pub(crate) mod add;
pub(crate) mod download;
pub(crate) mod holders;
mod upload;

pub(crate) use add::add;
pub(crate) use download::{download, download_named};

/// Prefix of the keys of the registry that are this module's and not the core's.
pub(crate) const KEY_PREFIX: &str = "artifact/";
/// How long what came of an upload that broke off is kept for its rest.
const KEEP_BROKEN: Duration = Duration::from_secs(60 * 60);
/// Says how much of an upload that broke off is here.
const UPLOAD_OFFSET: &str = "upload-offset";

#[derive(Debug, thiserror::Error)]
pub(crate) enum ArtifactsError {
    #[error("cannot prepare the artifacts' directory {path}: {source}")]
    Directory { path: PathBuf, source: io::Error },
    #[error("the registry's record {key} cannot be read: {source}")]
    Record {
        key: String,
        source: prost::DecodeError,
    },
}

pub(crate) struct Artifacts {
    directory: PathBuf,
    writer: Writer,
    index: Mutex<BTreeMap<String, registry::Artifact>>,
    /// Held while a file and its record change together.
    changing: tokio::sync::Mutex<()>,
    /// The digests of which an upload is under way that can be gone on with.
    uploading: Mutex<BTreeSet<String>>,
}

/// A file on its way in. It vanishes if it is dropped.
struct Incoming {
    artifacts: Arc<Artifacts>,
    file: Option<NamedTempFile>,
    /// The digest it is claimed for.
    claim: Option<String>,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // The file goes before somebody else may take its name.
        drop(self.file.take());
        if let Some(sha256) = &self.claim {
            self.artifacts.uploading().remove(sha256);
        }
    }
}

impl Incoming {
    /// To write to.
    fn file(&self) -> io::Result<File> {
        match &self.file {
            Some(file) => file.as_file().try_clone(),
            None => Err(io::Error::other("the file is in its place already")),
        }
    }

    /// Leaves what came for a later upload of the rest, if anybody can name it.
    fn leave(mut self) {
        if self.claim.is_some()
            && let Some(file) = self.file.take()
            && let Err(error) = file.keep()
        {
            tracing::warn!(%error, "what came of an upload cannot be kept");
        }
    }
}

/// Bytes that came whole, with their digest.
struct Received {
    file: Incoming,
    sha256: String,
    size: u64,
}

impl Artifacts {
    /// `records` are those of the registry under [`KEY_PREFIX`].
    pub(crate) fn open(
        directory: PathBuf,
        writer: Writer,
        records: &[(String, Bytes)],
    ) -> Result<Self, ArtifactsError> {
        let prepare = |source| ArtifactsError::Directory {
            path: directory.clone(),
            source,
        };
        let incoming = incoming(&directory);
        fs::create_dir_all(&incoming).map_err(prepare)?;
        sweep(&incoming, &BTreeSet::new(), true).map_err(prepare)?;
        let mut index = BTreeMap::new();
        for (key, value) in records {
            let record = registry::Artifact::decode(&value[..]).map_err(|source| {
                ArtifactsError::Record {
                    key: key.clone(),
                    source,
                }
            })?;
            if directory.join(&record.sha256).is_file() {
                index.insert(record.sha256.clone(), record);
            } else {
                tracing::error!(sha256 = record.sha256, "the file of an artifact is missing");
            }
        }
        for entry in fs::read_dir(&directory).map_err(prepare)? {
            let entry = entry.map_err(prepare)?;
            let name = entry.file_name();
            let is_orphan = name
                .to_str()
                .is_some_and(|name| is_digest(name) && !index.contains_key(name));
            if is_orphan && let Err(error) = fs::remove_file(entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "cannot remove a file that no artifact has");
            }
        }
        Ok(Self {
            directory,
            writer,
            index: Mutex::new(index),
            changing: tokio::sync::Mutex::new(()),
            uploading: Mutex::default(),
        })
    }

    fn index(&self) -> MutexGuard<'_, BTreeMap<String, registry::Artifact>> {
        // Every change is one insert or one remove.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, sha256: &str) -> PathBuf {
        self.directory.join(sha256)
    }

    fn uploading(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.uploading
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, sha256: &str) -> Option<registry::Artifact> {
        self.index().get(sha256).cloned()
    }

    /// A file to be filled with the bytes of that digest, or of an unknown one, with what came of it before.
    fn incoming(self: &Arc<Self>, sha256: Option<&str>) -> io::Result<Incoming> {
        let directory = incoming(&self.directory);
        sweep(&directory, &self.uploading(), false)?;
        let claim = sha256
            .filter(|sha256| self.uploading().insert((*sha256).to_owned()))
            .map(str::to_owned);
        let mut file = Incoming {
            artifacts: Arc::clone(self),
            file: None,
            claim,
        };
        file.file = Some(match &file.claim {
            None => NamedTempFile::new_in(directory)?,
            Some(sha256) => {
                let path = directory.join(sha256);
                let opened = File::options()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(&path)?;
                NamedTempFile::from_parts(opened, TempPath::try_from_path(path)?)
            }
        });
        Ok(file)
    }

    /// How many bytes are here of an upload of that digest which broke off.
    async fn broken_off(&self, sha256: &str) -> Option<u64> {
        if !is_digest(sha256) || self.uploading().contains(sha256) {
            return None;
        }
        let path = incoming(&self.directory).join(sha256);
        tokio::fs::metadata(path)
            .await
            .ok()
            .map(|metadata| metadata.len())
    }

    /// Takes in what came whole; what is here already only gets its name.
    async fn take_in(
        &self,
        mut received: Received,
        name: Option<String>,
    ) -> Result<registry::Artifact, Refusal> {
        let file = received.file.file.take();
        self.record(&received.sha256, received.size, file, name)
            .await
    }

    async fn record(
        &self,
        sha256: &str,
        size: u64,
        file: Option<NamedTempFile>,
        name: Option<String>,
    ) -> Result<registry::Artifact, Refusal> {
        let _changing = self.changing.lock().await;
        let known = self.get(sha256);
        let record = registry::Artifact {
            sha256: sha256.to_owned(),
            size,
            name: name.or_else(|| known.as_ref().and_then(|known| known.name.clone())),
            created_time: known.as_ref().map_or_else(
                || v1::TimeInfo {
                    nanoseconds: wall_ns(),
                },
                |known| known.created_time,
            ),
        };
        if known.is_none() {
            let file = file.ok_or_else(|| unknown(sha256))?;
            let (directory, path) = (self.directory.clone(), self.path(sha256));
            blocking(move || {
                file.as_file().sync_all()?;
                file.persist(path)?;
                File::open(directory)?.sync_all()
            })
            .await?;
        }
        let key = format!("{KEY_PREFIX}{}", record.sha256);
        let put = RegistryOperation::Put {
            key,
            value: record.encode_to_vec().into(),
        };
        self.writer.commit(vec![put]).await.map_err(not_recorded)?;
        self.index().insert(record.sha256.clone(), record.clone());
        Ok(record)
    }

    async fn remove(&self, sha256: &str) -> Result<(), Refusal> {
        let _changing = self.changing.lock().await;
        if !self.index().contains_key(sha256) {
            return Err(unknown(sha256));
        }
        let delete = RegistryOperation::Delete {
            key: format!("{KEY_PREFIX}{sha256}"),
        };
        self.writer
            .commit(vec![delete])
            .await
            .map_err(not_recorded)?;
        self.index().remove(sha256);
        let path = self.path(sha256);
        // Downloads that have it open read on to its end.
        blocking(move || fs::remove_file(path)).await
    }
}

fn incoming(directory: &Path) -> PathBuf {
    directory.join("incoming")
}

#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn not_recorded(error: Arc<StoreError>) -> Refusal {
    Refusal::internal(format!("The artifact cannot be recorded: {error}"))
}

fn unknown(sha256: &str) -> Refusal {
    if is_digest(sha256) {
        Refusal::not_found(format!("No artifact has the digest {sha256}"))
    } else {
        Refusal::not_found(format!(
            "'{sha256}' is not a sha256 digest: expecting 64 hexadecimal digits"
        ))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    let result = tokio::task::spawn_blocking(work).await;
    result
        .map_err(|error| Refusal::internal(format!("The artifact cannot be stored: {error}")))?
        .map_err(|error| not_stored(&tepui_fetch::Error::of_io(&error)))
}

fn not_stored(error: &tepui_fetch::Error) -> Refusal {
    let status = match error {
        tepui_fetch::Error::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refusal::new(status, format!("The artifact cannot be stored: {error}"))
}

/// Removes what broke off long ago; at the start also what nobody could name to go on with.
fn sweep(directory: &Path, under_way: &BTreeSet<String>, at_start: bool) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        let is_over = if is_digest(name) {
            let age = || {
                entry
                    .metadata()?
                    .modified()?
                    .elapsed()
                    .map_err(io::Error::other)
            };
            !under_way.contains(name) && age().is_ok_and(|age| age > KEEP_BROKEN)
        } else {
            at_start
        };
        if is_over
            && let Err(error) = fs::remove_file(entry.path())
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct Listed<'a> {
    sha256: &'a str,
    size: u64,
    name: &'a str,
    url: String,
    created_time: f64,
}

impl<'a> Listed<'a> {
    fn new(record: &'a registry::Artifact, identity: &Identity) -> Self {
        let mut url = format!(
            "http://{}/artifacts/{}",
            identity.authority(),
            record.sha256
        );
        if let Some(name) = &record.name {
            url.push('/');
            url.push_str(&percent_encode(name));
        }
        Self {
            sha256: &record.sha256,
            size: record.size,
            name: record.name(),
            url,
            created_time: record.created_time.nanoseconds as f64 / 1e9,
        }
    }
}

/// What an upload says of itself.
#[derive(Debug, Deserialize)]
pub(crate) struct UploadQuery {
    name: Option<String>,
    /// The digest that the client computed; something else arriving is refused.
    sha256: Option<String>,
    /// Where the body begins, if it is the rest of an upload that broke off.
    offset: Option<u64>,
}

/// `GET`: the list. `PUT`: an upload.
pub(crate) async fn collection(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<UploadQuery>,
    request: Request,
) -> Response {
    match *request.method() {
        Method::GET | Method::HEAD => {
            let index = shared.artifacts.index();
            let listed: Vec<_> = index
                .values()
                .map(|record| Listed::new(record, &shared.identity))
                .collect();
            json(StatusCode::OK, &serde_json::json!({ "artifacts": listed }))
        }
        Method::PUT | Method::POST => {
            match upload::put(&shared, query, request.into_body()).await {
                Ok(record) => json(StatusCode::OK, &Listed::new(&record, &shared.identity)),
                Err(refusal) => refusal.into_response(),
            }
        }
        ref other => method_not_allowed("GET, PUT", other),
    }
}

/// `GET`: what it is and who has it. `DELETE`: removes it here.
pub(crate) async fn member(
    State(shared): State<Arc<Shared>>,
    UrlPath(sha256): UrlPath<String>,
    method: Method,
) -> Response {
    match method {
        Method::GET | Method::HEAD => match holders::describe(&shared, &sha256).await {
            Ok(description) => json(StatusCode::OK, &description),
            Err(refusal) => {
                let mut response = refusal.into_response();
                if let Some(offset) = shared.artifacts.broken_off(&sha256).await {
                    response
                        .headers_mut()
                        .insert(UPLOAD_OFFSET, HeaderValue::from(offset));
                }
                response
            }
        },
        Method::DELETE => match shared.artifacts.remove(&sha256).await {
            Ok(()) => StatusCode::NO_CONTENT.into_response(),
            Err(refusal) => refusal.into_response(),
        },
        other => method_not_allowed("GET, DELETE", &other),
    }
}

fn check_name(name: Option<&str>) -> Result<(), Refusal> {
    name.map_or(Ok(()), |name| {
        tepui_model::check_id("artifact's name", name)
            .map_err(|error| Refusal::bad_request(error.to_string()))
    })
}

fn check_digest(sha256: Option<String>) -> Result<Option<String>, Refusal> {
    let sha256 = sha256.map(|digest| digest.to_ascii_lowercase());
    match &sha256 {
        Some(wrong) if !is_digest(wrong) => Err(Refusal::bad_request(format!(
            "'{wrong}' is not a sha256 digest: expecting 64 hexadecimal digits"
        ))),
        _ => Ok(sha256),
    }
}

fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_urls() {
        assert_eq!(percent_encode("hello.wasm"), "hello.wasm");
        assert_eq!(percent_encode("a b/ü?"), "a%20b%2F%C3%BC%3F");
    }
}
