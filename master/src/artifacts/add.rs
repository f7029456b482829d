//! Artifacts the master fetches itself. The answer is a stream of lines of JSON: how far it has come, then what it became
//! or why not.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tepui_api::registry;
use tepui_fetch::{Error, Location, Progress, Sink, Wish, download, split_digest};
use tokio::sync::mpsc;

use super::{Listed, Received, blocking, check_digest, check_name, not_stored};
use crate::body;
use crate::shared::{Refusal, Shared, method_not_allowed};

/// Lines that may wait for the client; of what does not fit, the next one tells as well.
const LINES: usize = 16;
pub(crate) const MOST_AT_A_TIME: usize = 8;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    uri: String,
    sha256: Option<String>,
    name: Option<String>,
}

/// An order that makes sense.
struct Job {
    uri: String,
    location: Location,
    sha256: Option<String>,
    name: Option<String>,
}

/// `POST` of a URI.
pub(crate) async fn add(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if request.method() != Method::POST {
        return method_not_allowed("POST", request.method());
    }
    match begin(shared, request).await {
        Ok(lines) => {
            let stream = futures::stream::unfold(lines, |mut lines| async move {
                let line = lines.recv().await?;
                let mut text = line.to_string();
                text.push('\n');
                Some((Ok::<_, Infallible>(Bytes::from(text)), lines))
            });
            let media = [(header::CONTENT_TYPE, "application/x-ndjson")];
            (media, Body::from_stream(stream)).into_response()
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn begin(shared: Arc<Shared>, request: Request) -> Result<mpsc::Receiver<Value>, Refusal> {
    let (parts, body) = request.into_parts();
    let body = body::read(body, &parts.headers, &shared.config).await?;
    let order = serde_json::from_slice(&body)
        .map_err(|error| Refusal::bad_request(format!("Failed to parse the body: {error}")))?;
    let job = understand(&shared, order)?;
    let (sender, lines) = mpsc::channel(LINES);
    let known = job
        .sha256
        .as_deref()
        .and_then(|sha256| shared.artifacts.get(sha256));
    tokio::spawn(async move {
        let outcome = match known {
            Some(known) => {
                let (sha256, name) = (known.sha256, job.name);
                shared
                    .artifacts
                    .record(&sha256, known.size, None, name)
                    .await
            }
            None => tokio::select! {
                // Who asked for it has gone.
                () = sender.closed() => return,
                () = shared.shutdown.cancelled() => Err(Refusal::stopping()),
                outcome = fetch(&shared, job, &sender) => outcome,
            },
        };
        let last = match outcome {
            Ok(record) => json!({ "artifact": Listed::new(&record, &shared.identity) }),
            Err(refusal) => json!({ "status": refusal.status.as_u16(), "error": refusal.message }),
        };
        let _ = sender.send(last).await;
    });
    Ok(lines)
}

fn understand(shared: &Shared, order: Order) -> Result<Job, Refusal> {
    let (text, from_fragment) = split_digest(order.uri.trim());
    let wrong = |problem: &str| Refusal::bad_request(format!("The URI '{}' {problem}", order.uri));
    let sha256 = check_digest(order.sha256.clone())?;
    let from_fragment = check_digest(from_fragment)?;
    if sha256
        .as_ref()
        .zip(from_fragment.as_ref())
        .is_some_and(|(one, other)| one != other)
    {
        return Err(wrong(
            "names one sha256 in its fragment, and another was given with it",
        ));
    }
    let location = shared
        .fetch
        .locate(text)
        .map_err(|problem| wrong(&problem))?;
    let location = match location {
        Location::File(path) => Location::File(permitted(shared, &path)?),
        other => other,
    };
    let name = match order.name.clone() {
        Some(name) => {
            check_name(Some(&name))?;
            Some(name)
        }
        None => name_of(&location).filter(|name| check_name(Some(name)).is_ok()),
    };
    Ok(Job {
        uri: order.uri.clone(),
        location,
        sha256: sha256.or(from_fragment),
        name,
    })
}

fn name_of(location: &Location) -> Option<String> {
    let last = match location {
        Location::Http(url) => {
            let (_, rest) = url.split_once("://")?;
            let path = rest.split_once('/')?.1;
            path.split('?').next()?.rsplit('/').next()?
        }
        Location::File(path) => path.file_name()?.to_str()?,
        other => other.file_name()?,
    };
    Some(last.to_owned()).filter(|name| !name.is_empty())
}

/// The master may read more of its machine than those who may add artifacts.
fn permitted(shared: &Shared, path: &Path) -> Result<PathBuf, Refusal> {
    let real = path.canonicalize();
    let mut directories = shared
        .config
        .artifact_files
        .iter()
        .filter_map(|one| one.canonicalize().ok());
    match real {
        Ok(real) if directories.any(|directory| real.starts_with(directory)) => Ok(real),
        // Nor are they told what is there.
        _ => {
            let message = format!(
                "The master adds no files of its own machine from '{}': upload it with `tepui artifact put`, or start \
                 the master with --artifact_files and a directory it is in",
                path.display()
            );
            Err(Refusal::new(StatusCode::FORBIDDEN, message))
        }
    }
}

async fn fetch(
    shared: &Shared,
    job: Job,
    lines: &mpsc::Sender<Value>,
) -> Result<registry::Artifact, Refusal> {
    let _turn = shared
        .adding
        .acquire()
        .await
        .map_err(|_| Refusal::stopping())?;
    let failed = |error: Error| match error {
        Error::DiskFull => not_stored(&error),
        error => {
            let message = format!("fetching '{}' failed: {error}", job.uri);
            Refusal::new(StatusCode::BAD_GATEWAY, message)
        }
    };
    let source = shared.fetch.source(&job.location).map_err(failed)?;
    let settings = shared.fetch.settings();
    // What a source that is unwell says is told once it was asked as often as it is to be.
    let announced = tokio::time::timeout(settings.patience.stall, source.announced()).await;
    let announced = announced.ok().and_then(Result::ok).flatten();
    let sha256 = job.sha256.or(announced);
    if let Some(known) = sha256
        .as_deref()
        .and_then(|sha256| shared.artifacts.get(sha256))
    {
        let artifacts = &shared.artifacts;
        return artifacts
            .record(&known.sha256, known.size, None, job.name)
            .await;
    }
    let artifacts = Arc::clone(&shared.artifacts);
    let (file, sink) = blocking(move || {
        let file = artifacts.incoming(None)?;
        let sink = Sink::new(file.file()?, None);
        Ok((file, sink))
    })
    .await?;
    let limits = [settings.max_bytes, shared.config.max_artifact_bytes];
    let wish = Wish {
        sources: &[source],
        sha256: sha256.as_deref(),
        max_bytes: limits.into_iter().flatten().min(),
        patience: settings.patience,
        watch: &|Progress { bytes, size, .. }| {
            let _ = lines.try_send(json!({ "bytes": bytes, "size": size }));
        },
    };
    let downloaded = download(&wish, sink).await.map_err(failed)?;
    let received = Received {
        file,
        sha256: downloaded.sha256,
        size: downloaded.bytes,
    };
    shared.artifacts.take_in(received, job.name).await
}
