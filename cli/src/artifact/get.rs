//! `tepui artifact get`: a file that is whole and checked, or none.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tepui_fetch::{Fetch, Location, Progress, Settings, Sink, Wish, download, is_digest};

use super::{ARTIFACTS, bar};
use crate::client::{self, Client, refusal};

pub(super) async fn get(
    client: &Client,
    sha256: &str,
    output: Option<PathBuf>,
) -> anyhow::Result<PathBuf> {
    let sha256 = sha256.to_ascii_lowercase();
    if !is_digest(&sha256) {
        bail!(
            "'{sha256}' is not a sha256 digest: expecting the 64 hexadecimal digits that `tepui artifact ls` shows"
        );
    }
    let output = match output {
        Some(output) => output,
        None => PathBuf::from(name(client, &sha256).await?),
    };
    if output.exists() {
        bail!(
            "{} is there already: remove it, or name another file with --output",
            output.display()
        );
    }
    let mut part = output.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    fill(client, &sha256, &part).await?;
    std::fs::rename(&part, &output)
        .with_context(|| format!("cannot give {} its name", output.display()))?;
    Ok(output)
}

async fn name(client: &Client, sha256: &str) -> anyhow::Result<String> {
    let response = client
        .ask(client.request(Method::GET, &format!("{ARTIFACTS}/{sha256}")))
        .await?;
    match response.status() {
        StatusCode::OK => {
            let known: Value = response.json().await?;
            let name = client::text(&known, &["name"]);
            let last = Path::new(name).file_name().and_then(|name| name.to_str());
            Ok(last.unwrap_or(sha256).to_owned())
        }
        _ => bail!("{}", refusal(response).await),
    }
}

async fn fill(client: &Client, sha256: &str, part: &Path) -> anyhow::Result<()> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(part)
        .with_context(|| format!("cannot write {}", part.display()))?;
    // Somebody who looks at it sees how far it is; who runs this twice at a time must not mix the two.
    file.try_lock()
        .with_context(|| format!("{} is being written by another process", part.display()))?;
    let written = file.try_clone()?;
    let sink = Sink::resume(file, None)?;
    let fetch = Fetch::new(Settings::default())?;
    let source = fetch.source(&Location::Http(format!(
        "{}/artifacts/{sha256}",
        client.url()
    )))?;
    let receiving = bar("receiving", None);
    let wish = Wish {
        sources: &[source],
        sha256: Some(sha256),
        max_bytes: None,
        patience: fetch.settings().patience,
        watch: &|Progress { bytes, size, .. }| {
            if let Some(size) = size {
                receiving.set_length(size);
            }
            receiving.set_position(bytes);
        },
    };
    let outcome = download(&wish, sink).await;
    receiving.finish_and_clear();
    if let Err(error) = outcome {
        bail!("downloading {sha256} failed: {error}");
    }
    Ok(written.sync_all()?)
}
