//! Artifacts: modules and data sets, stored under the digest of their content.
//!
//! The bytes lie in `artifacts/<sha256>` beside the registry, the record of each in the registry. A file is complete
//! and on disk before its record is written, and a record is gone before its file is removed; so a record without its
//! file means damage, and a file without a record only lost space, which the next start gives back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::extract::{Path as UrlPath, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use prost::Message;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tepui_api::{registry, v1};
use tepui_master_core::RegistryOperation;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

use crate::http::json;
use crate::shared::{Identity, Refusal, Shared, method_not_allowed, wall_ns};
use crate::store::{StoreError, Writer};

/// Prefix of the keys of the registry that are this module's and not the core's.
pub(crate) const KEY_PREFIX: &str = "artifact/";
const READ_BYTES: usize = 256 << 10;
/// Pieces of an upload that may wait for the disk.
const WRITE_QUEUE: usize = 16;

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
        // Uploads that a stop of the master interrupted.
        match fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(prepare(error)),
            _ => {}
        }
        fs::create_dir_all(&incoming).map_err(prepare)?;
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
        })
    }

    fn index(&self) -> MutexGuard<'_, BTreeMap<String, registry::Artifact>> {
        // Every change is one insert or one remove.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, sha256: &str) -> PathBuf {
        self.directory.join(sha256)
    }

    async fn record(
        &self,
        upload: Upload,
        name: Option<String>,
    ) -> Result<registry::Artifact, Refusal> {
        let _changing = self.changing.lock().await;
        let known = self.index().get(&upload.sha256).cloned();
        let record = registry::Artifact {
            sha256: upload.sha256.clone(),
            size: upload.size,
            name: name.or_else(|| known.as_ref().and_then(|known| known.name.clone())),
            created_time: known.as_ref().map_or_else(
                || v1::TimeInfo {
                    nanoseconds: wall_ns(),
                },
                |known| known.created_time,
            ),
        };
        if known.is_none() {
            let (directory, path) = (self.directory.clone(), self.path(&upload.sha256));
            blocking(move || {
                upload.file.persist(path)?;
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

fn is_digest(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    let result = tokio::task::spawn_blocking(work).await;
    let failed = |error: &dyn std::fmt::Display| {
        Refusal::internal(format!("The artifact cannot be stored: {error}"))
    };
    result
        .map_err(|error| failed(&error))?
        .map_err(|error| failed(&error))
}

// Upload

#[derive(Debug, Deserialize)]
pub(crate) struct UploadQuery {
    name: Option<String>,
    /// The digest that the client computed; something else arriving is refused.
    sha256: Option<String>,
}

struct Upload {
    file: NamedTempFile,
    sha256: String,
    size: u64,
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
        Method::PUT | Method::POST => match put(&shared, query, request.into_body()).await {
            Ok(record) => json(StatusCode::OK, &Listed::new(&record, &shared.identity)),
            Err(refusal) => refusal.into_response(),
        },
        ref other => method_not_allowed("GET, PUT", other),
    }
}

async fn put(
    shared: &Shared,
    query: UploadQuery,
    body: Body,
) -> Result<registry::Artifact, Refusal> {
    if let Some(name) = &query.name {
        tepui_model::check_id("artifact's name", name)
            .map_err(|error| Refusal::bad_request(error.to_string()))?;
    }
    let expected = query.sha256.map(|digest| digest.to_ascii_lowercase());
    if let Some(expected) = &expected
        && !is_digest(expected)
    {
        return Err(Refusal::bad_request(format!(
            "'{expected}' is not a sha256 digest"
        )));
    }
    let upload = receive(shared, body).await?;
    if let Some(expected) = expected
        && expected != upload.sha256
    {
        let message = format!(
            "The artifact has the digest {}, not {expected} as announced",
            upload.sha256
        );
        return Err(Refusal::bad_request(message));
    }
    shared.artifacts.record(upload, query.name).await
}

/// Streams a body into a file that has no name yet, while its digest is computed.
async fn receive(shared: &Shared, mut body: Body) -> Result<Upload, Refusal> {
    let limit = shared.config.max_artifact_bytes.unwrap_or(u64::MAX);
    let patience = shared.config.request_patience;
    let directory = incoming(&shared.artifacts.directory);
    let (pieces, mut queue) = mpsc::channel::<Option<Bytes>>(WRITE_QUEUE);
    let writing = tokio::task::spawn_blocking(move || {
        let mut file = NamedTempFile::new_in(directory)?;
        let mut hasher = Sha256::new();
        let mut size = 0;
        while let Some(piece) = queue.blocking_recv() {
            let Some(piece) = piece else {
                file.as_file().sync_all()?;
                return Ok(Upload {
                    file,
                    sha256: hex::encode(hasher.finalize()),
                    size,
                });
            };
            hasher.update(&piece);
            size += piece.len() as u64;
            file.write_all(&piece)?;
        }
        Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the upload broke off",
        ))
    });
    let mut received = 0;
    let mut refused = None;
    let mut complete = false;
    loop {
        let Ok(frame) = tokio::time::timeout(patience, body.frame()).await else {
            let message = "The upload did not go on in time";
            refused = Some(Refusal::new(StatusCode::REQUEST_TIMEOUT, message));
            break;
        };
        let data = match frame {
            None => {
                complete = true;
                break;
            }
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(error)) => {
                refused = Some(Refusal::bad_request(format!(
                    "The upload broke off: {error}"
                )));
                break;
            }
        };
        received += data.len() as u64;
        if received > limit {
            let message = format!(
                "An artifact may have at most {}",
                tepui_model::format_bytes(limit)
            );
            refused = Some(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message));
            break;
        }
        // Fails when the disk did; the writing side says how.
        if pieces.send(Some(data)).await.is_err() {
            break;
        }
    }
    if complete {
        let _ = pieces.send(None).await;
    }
    drop(pieces);
    let written = writing.await;
    if let Some(refused) = refused {
        return Err(refused);
    }
    match written {
        Ok(Ok(upload)) => Ok(upload),
        Ok(Err(error)) => Err(Refusal::internal(format!(
            "The artifact cannot be stored: {error}"
        ))),
        Err(error) => Err(Refusal::internal(format!(
            "The artifact cannot be stored: {error}"
        ))),
    }
}

/// `DELETE` of one artifact, by digest.
pub(crate) async fn member(
    State(shared): State<Arc<Shared>>,
    UrlPath(sha256): UrlPath<String>,
    method: Method,
) -> Response {
    if method != Method::DELETE {
        return method_not_allowed("DELETE", &method);
    }
    match shared.artifacts.remove(&sha256).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

// Download

pub(crate) async fn download(
    State(shared): State<Arc<Shared>>,
    UrlPath(sha256): UrlPath<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    send(&shared, &sha256, &method, &headers)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

/// The name is for those who save the file; the digest alone says which one it is.
pub(crate) async fn download_named(
    State(shared): State<Arc<Shared>>,
    UrlPath((sha256, _name)): UrlPath<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    send(&shared, &sha256, &method, &headers)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

async fn send(
    shared: &Shared,
    sha256: &str,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    if method != Method::GET && method != Method::HEAD {
        return Ok(method_not_allowed("GET, HEAD", method));
    }
    let record = shared
        .artifacts
        .index()
        .get(sha256)
        .cloned()
        .ok_or_else(|| unknown(sha256))?;
    let size = record.size;
    let etag = format!("\"{sha256}\"");
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let common = |mut response: Response| {
        let fields = response.headers_mut();
        fields.insert(
            header::ETAG,
            HeaderValue::from_str(&etag).expect("a digest is a header value"),
        );
        fields.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        fields.insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static("public, max-age=31536000, immutable"),
        );
        response
    };
    let same = |list: &str| {
        list.split(',')
            .map(str::trim)
            .any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
    };
    if text(header::IF_NONE_MATCH).is_some_and(same) {
        return Ok(common(StatusCode::NOT_MODIFIED.into_response()));
    }
    let range =
        text(header::RANGE).filter(|_| text(header::IF_RANGE).is_none_or(|tag| tag == etag));
    let (status, begin, length) = match range
        .map_or(Range::Whole, |range| Range::parse(range, size))
    {
        Range::Whole => (StatusCode::OK, 0, size),
        Range::Part { begin, end } => (StatusCode::PARTIAL_CONTENT, begin, end - begin + 1),
        Range::Unsatisfiable => {
            let message =
                format!("The artifact has {size} bytes, none of which are in the range asked for");
            let mut response =
                Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, message).into_response();
            response.headers_mut().insert(
                header::CONTENT_RANGE,
                number_header(format!("bytes */{size}")),
            );
            return Ok(common(response));
        }
    };
    let unreadable = |error: io::Error| {
        Refusal::internal(format!("The artifact {sha256} cannot be read: {error}"))
    };
    let mut file = tokio::fs::File::open(shared.artifacts.path(sha256))
        .await
        .map_err(unreadable)?;
    let mut magic = [0; 4];
    let is_wasm = size >= 4 && file.read_exact(&mut magic).await.is_ok() && &magic == b"\0asm";
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        file.seek(SeekFrom::Start(begin))
            .await
            .map_err(unreadable)?;
        Body::from_stream(ReaderStream::with_capacity(file.take(length), READ_BYTES))
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let fields = response.headers_mut();
    let media = if is_wasm {
        "application/wasm"
    } else {
        "application/octet-stream"
    };
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    fields.insert(header::CONTENT_LENGTH, number_header(length.to_string()));
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {begin}-{}/{size}", begin + length - 1);
        fields.insert(header::CONTENT_RANGE, number_header(range));
    }
    Ok(common(response))
}

fn number_header(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("digits and ASCII words are a header value")
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    Whole,
    /// Both ends belong to it.
    Part {
        begin: u64,
        end: u64,
    },
    Unsatisfiable,
}

impl Range {
    /// Several ranges, other units and nonsense give the whole, as the standard allows.
    fn parse(header: &str, size: u64) -> Self {
        let Some((begin, end)) = header
            .trim()
            .strip_prefix("bytes=")
            .filter(|ranges| !ranges.contains(','))
            .and_then(|range| range.trim().split_once('-'))
        else {
            return Self::Whole;
        };
        match (begin.parse::<u64>(), end.parse::<u64>()) {
            (Err(_), Ok(last)) if begin.is_empty() => match last.min(size) {
                0 => Self::Unsatisfiable,
                last => Self::Part {
                    begin: size - last,
                    end: size - 1,
                },
            },
            (Ok(begin), Ok(end)) if begin > end => Self::Whole,
            (Ok(begin), _) if begin >= size && (end.is_empty() || end.parse::<u64>().is_ok()) => {
                Self::Unsatisfiable
            }
            (Ok(begin), Ok(end)) => Self::Part {
                begin,
                end: end.min(size - 1),
            },
            (Ok(begin), Err(_)) if end.is_empty() => Self::Part {
                begin,
                end: size - 1,
            },
            _ => Self::Whole,
        }
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
    fn ranges_are_read_as_the_standard_says() {
        let parse = |header| Range::parse(header, 100);
        assert_eq!(parse("bytes=0-9"), Range::Part { begin: 0, end: 9 });
        assert_eq!(parse("bytes=90-"), Range::Part { begin: 90, end: 99 });
        assert_eq!(parse("bytes=-10"), Range::Part { begin: 90, end: 99 });
        assert_eq!(parse("bytes=-1000"), Range::Part { begin: 0, end: 99 });
        assert_eq!(parse("bytes=50-1000"), Range::Part { begin: 50, end: 99 });
        for unsatisfiable in ["bytes=100-", "bytes=100-200", "bytes=-0"] {
            assert_eq!(
                parse(unsatisfiable),
                Range::Unsatisfiable,
                "{unsatisfiable}"
            );
        }
        for whole in [
            "bytes=0-1,5-6",
            "lines=1-2",
            "bytes=9-1",
            "bytes=a-b",
            "bytes",
            "bytes=-",
        ] {
            assert_eq!(parse(whole), Range::Whole, "{whole}");
        }
        assert_eq!(Range::parse("bytes=0-", 0), Range::Unsatisfiable);
    }

    #[test]
    fn names_are_safe_in_urls() {
        assert_eq!(percent_encode("hello.wasm"), "hello.wasm");
        assert_eq!(percent_encode("a b/ü?"), "a%20b%2F%C3%BC%3F");
    }
}
