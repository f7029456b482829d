//! Uploads: a body becomes a file while its digest is computed. One whose digest is announced can be gone on with when
//! it breaks off.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use http_body_util::BodyExt;
use tepui_api::registry;
use tepui_fetch::{Error, Sink};
use tokio::sync::{Semaphore, mpsc};

use super::{Incoming, Received, UploadQuery, blocking, check_digest, check_name, not_stored};
use crate::shared::{Refusal, Shared};

/// Pieces of an upload that may wait for the disk.
const WRITE_QUEUE: usize = 16;
const UPLOADS_AT_ONCE: usize = 64;
static UPLOADS: Semaphore = Semaphore::const_new(UPLOADS_AT_ONCE);

pub(super) async fn put(
    shared: &Shared,
    query: UploadQuery,
    body: Body,
) -> Result<registry::Artifact, Refusal> {
    check_name(query.name.as_deref())?;
    let expected = check_digest(query.sha256)?;
    let artifacts = &shared.artifacts;
    let known = expected.as_deref().and_then(|sha256| artifacts.get(sha256));
    if let Some(known) = known {
        // The bytes are here; nobody reads them twice.
        return artifacts
            .record(&known.sha256, known.size, None, query.name)
            .await;
    }
    let (here, sha256) = (Arc::clone(artifacts), expected.clone());
    let file = blocking(move || here.incoming(sha256.as_deref())).await?;
    let received = receive(shared, file, query.offset.unwrap_or(0), body).await?;
    if let Some(expected) = expected
        && expected != received.sha256
    {
        let message = format!(
            "The artifact has the digest {}, not {expected} as announced",
            received.sha256
        );
        return Err(Refusal::bad_request(message));
    }
    artifacts.take_in(received, query.name).await
}

/// Opens the file at `offset`; what is behind that is thrown away.
fn open(file: &Incoming, offset: u64) -> io::Result<Result<Sink, u64>> {
    let opened = file.file()?;
    let length = opened.metadata()?.len();
    if offset > length {
        return Ok(Err(length));
    }
    opened.set_len(offset)?;
    Sink::resume(opened, None).map(Ok)
}

/// Streams a body into a file, while its digest is computed.
async fn receive(
    shared: &Shared,
    file: Incoming,
    offset: u64,
    mut body: Body,
) -> Result<Received, Refusal> {
    // Each keeps a thread of those that all reads share.
    let _one = UPLOADS.try_acquire().map_err(|_| {
        Refusal::unavailable(format!(
            "There are {UPLOADS_AT_ONCE} uploads under way; try again when one has ended"
        ))
    })?;
    let limit = shared.config.max_artifact_bytes.unwrap_or(u64::MAX);
    let patience = shared.config.request_patience;
    let (file, opened) = blocking(move || open(&file, offset).map(|opened| (file, opened))).await?;
    let mut sink = match opened {
        Ok(sink) => sink,
        Err(length) => {
            file.leave();
            let message = format!("Only {length} bytes of it are here; go on there");
            return Err(Refusal::new(StatusCode::CONFLICT, message));
        }
    };
    let (pieces, mut queue) = mpsc::channel::<Bytes>(WRITE_QUEUE);
    let writing = tokio::task::spawn_blocking(move || {
        while let Some(piece) = queue.blocking_recv() {
            sink.write(&piece)?;
        }
        Ok::<_, Error>(sink)
    });
    let mut received = offset;
    let refused = loop {
        let Ok(frame) = tokio::time::timeout(patience, body.frame()).await else {
            let message = "The upload did not go on in time";
            break Some(Refusal::new(StatusCode::REQUEST_TIMEOUT, message));
        };
        let data = match frame {
            None => break None,
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(error)) => {
                break Some(Refusal::bad_request(format!(
                    "The upload broke off: {error}"
                )));
            }
        };
        received += data.len() as u64;
        if received > limit {
            let message = format!(
                "An artifact may have at most {}",
                tepui_model::format_bytes(limit)
            );
            break Some(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        // Fails when the disk did; the writing side says how.
        if pieces.send(data).await.is_err() {
            break None;
        }
    };
    drop(pieces);
    let written = writing.await;
    let sink = match written {
        Ok(Ok(sink)) => sink,
        Ok(Err(error)) => return Err(not_stored(&error)),
        Err(error) => {
            let message = format!("The artifact cannot be stored: {error}");
            return Err(Refusal::internal(message));
        }
    };
    match refused {
        None => Ok(Received {
            file,
            sha256: sink.sha256(),
            size: sink.bytes(),
        }),
        Some(refused) => {
            // What is too large is so the next time as well.
            if refused.status != StatusCode::PAYLOAD_TOO_LARGE {
                file.leave();
            }
            Err(refused)
        }
    }
}
