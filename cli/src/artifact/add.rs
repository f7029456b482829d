//! `tepui artifact add`: the master fetches, and says how far it has come.

use anyhow::{Context, bail};
use reqwest::Method;
use serde_json::Value;

use super::{ARTIFACTS, bar, with_url};
use crate::client::{self, Client};

pub(super) async fn add(client: &Client, order: &Value) -> anyhow::Result<Value> {
    let request = client
        .request(Method::POST, &format!("{ARTIFACTS}/add"))
        .json(order);
    let mut response = client.send(request).await?;
    let fetching = bar("fetching", None);
    let mut text = Vec::new();
    while let Some(piece) = response.chunk().await.context("the master fell silent")? {
        text.extend_from_slice(&piece);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let line: Value =
                serde_json::from_slice(&line).context("the master's line is not JSON")?;
            if line["artifact"].is_object() {
                fetching.finish_and_clear();
                return Ok(with_url(client, line["artifact"].clone()));
            }
            if line["error"].is_string() {
                fetching.finish_and_clear();
                bail!("{}", client::text(&line, &["error"]));
            }
            if let Some(size) = line["size"].as_u64() {
                fetching.set_length(size);
            }
            fetching.set_position(line["bytes"].as_u64().unwrap_or(0));
        }
    }
    bail!("the master ended without saying what became of it")
}
