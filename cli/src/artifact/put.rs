//! `tepui artifact put`: nothing is sent that the master has, and what broke off is gone on with.

use std::fs::File;
use std::io::{Read, SeekFrom};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::StreamExt;
use indicatif::ProgressBar;
use reqwest::header::CONTENT_LENGTH;
use reqwest::{Body, Method, StatusCode};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::AsyncSeekExt;
use tokio_util::io::ReaderStream;

use super::{ARTIFACTS, bar, with_url};
use crate::client::{Client, refusal};

const PIECE_BYTES: usize = 256 << 10;
/// How often an upload that breaks off without headway is begun again.
const RETRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// What the master has of a digest.
enum Known {
    Whole(Value),
    /// So many bytes of an upload that broke off.
    Part(u64),
}

/// Uploads a file as an artifact; the answer has `sha256`, `size`, `name` and `url`.
pub(crate) async fn put(client: &Client, file: &Path, name: Option<&str>) -> anyhow::Result<Value> {
    let own = file
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("artifact");
    let name = name.unwrap_or(own);
    let (sha256, size) = digest(file)?;
    let sending = bar("sending", Some(size));
    let (mut failures, mut reached) = (0, 0);
    loop {
        let known = match known(client, &sha256).await {
            // The master may be on its way back.
            Err(_) if (1..=RETRIES).contains(&failures) => {
                failures += 1;
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            known => known?,
        };
        let offset = match known {
            Known::Whole(known) if known["name"] == name => {
                sending.finish_and_clear();
                return Ok(with_url(client, known));
            }
            // It only gets its new name.
            Known::Whole(_) => size,
            // What is there may be more than this file has only if somebody changes it now.
            Known::Part(offset) => offset.min(size),
        };
        match send(client, file, name, &sha256, offset..size, &sending).await {
            Ok(answer) => {
                sending.finish_and_clear();
                return Ok(with_url(client, answer));
            }
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Broken(error)) => {
                failures = if offset > reached { 0 } else { failures + 1 };
                reached = reached.max(offset);
                if failures > RETRIES {
                    return Err(error);
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn digest(path: &Path) -> anyhow::Result<(String, u64)> {
    let reading = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(reading)?;
    let metadata = file.metadata().with_context(reading)?;
    if !metadata.is_file() {
        bail!("{} is not a file", path.display());
    }
    let hashing = bar("reading", Some(metadata.len()));
    let (mut digest, mut size) = (Sha256::new(), 0);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = file.read(&mut piece).with_context(reading)?;
        if count == 0 {
            hashing.finish_and_clear();
            return Ok((hex::encode(digest.finalize()), size));
        }
        digest.update(&piece[..count]);
        size += count as u64;
        hashing.set_position(size);
    }
}

async fn known(client: &Client, sha256: &str) -> anyhow::Result<Known> {
    let request = client.request(Method::GET, &format!("{ARTIFACTS}/{sha256}"));
    let response = client.ask(request).await?;
    match response.status() {
        StatusCode::OK => {
            let known: Value = response.json().await?;
            if known["master"] == Value::Bool(true) {
                return Ok(Known::Whole(known));
            }
            Ok(Known::Part(0))
        }
        StatusCode::NOT_FOUND => {
            let offset = response.headers().get("upload-offset");
            let offset = offset.and_then(|offset| offset.to_str().ok()?.parse().ok());
            Ok(Known::Part(offset.unwrap_or(0)))
        }
        _ => bail!("{}", refusal(response).await),
    }
}

enum Failure {
    /// Beginning again may help.
    Broken(anyhow::Error),
    Final(anyhow::Error),
}

async fn send(
    client: &Client,
    file: &Path,
    name: &str,
    sha256: &str,
    range: std::ops::Range<u64>,
    sending: &ProgressBar,
) -> Result<Value, Failure> {
    let opened = async {
        let mut opened = tokio::fs::File::open(file).await?;
        opened.seek(SeekFrom::Start(range.start)).await?;
        Ok::<_, std::io::Error>(opened)
    };
    let opened = opened.await.map_err(|error| Failure::Final(error.into()))?;
    sending.set_position(range.start);
    let counting = sending.clone();
    let pieces = ReaderStream::with_capacity(opened, PIECE_BYTES).inspect(move |piece| {
        counting.inc(piece.as_ref().map_or(0, |piece| piece.len() as u64));
    });
    let offset = range.start.to_string();
    let query = [
        ("name", name),
        ("sha256", sha256),
        ("offset", offset.as_str()),
    ];
    let request = client
        .request(Method::PUT, ARTIFACTS)
        .query(&query)
        .header(CONTENT_LENGTH, range.end - range.start)
        .body(Body::wrap_stream(pieces));
    let response = client.ask(request).await.map_err(Failure::Broken)?;
    let status = response.status();
    if status.is_success() {
        let answer = response
            .json()
            .await
            .context("the master's answer to an upload is not JSON");
        return answer.map_err(Failure::Final);
    }
    let error = anyhow::Error::msg(refusal(response).await);
    // Somebody else uploads the same just now, or it came to a stop on the way.
    match status {
        StatusCode::CONFLICT | StatusCode::REQUEST_TIMEOUT => Err(Failure::Broken(error)),
        _ => Err(Failure::Final(error)),
    }
}
