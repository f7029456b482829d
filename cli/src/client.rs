//! What every client command needs: where the master is, and how to ask it.

use std::future::Future;
use std::path::Path;

use anyhow::{Context, bail};
use clap::Args;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tepui_access::Credential;

use crate::access::credential;

/// Where the master is.
#[derive(Args, Debug, Clone)]
pub(crate) struct MasterAddress {
    /// The master, HOST:PORT or a URL
    #[arg(long, env = "TEPUI_MASTER", default_value = "127.0.0.1:5050")]
    pub(crate) master: String,
    /// Who is asking, where the master wants to know: PRINCIPAL:SECRET, or a file with a credential
    #[arg(long, env = "TEPUI_CREDENTIAL", hide_env_values = true, value_parser = credential)]
    pub(crate) credential: Option<Credential>,
}

impl MasterAddress {
    /// `http://HOST:PORT`, without a trailing slash.
    pub(crate) fn url(&self) -> anyhow::Result<String> {
        let given = self.master.trim_end_matches('/');
        let url = if given.contains("://") {
            given.to_owned()
        } else {
            format!("http://{given}")
        };
        let parsed = reqwest::Url::parse(&url)
            .with_context(|| format!("--master {given:?} is neither HOST:PORT nor a URL"))?;
        if parsed.host_str().is_none_or(str::is_empty)
            || !matches!(parsed.scheme(), "http" | "https")
        {
            bail!("--master {given:?} is neither HOST:PORT nor an http URL");
        }
        Ok(url)
    }
}

/// A client of one master.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    url: String,
    http: reqwest::Client,
}

impl Client {
    pub(crate) fn new(address: &MasterAddress) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        if let Some(credential) = &address.credential {
            let mut value = HeaderValue::try_from(credential.header())?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(Self {
            url: address.url()?,
            http: reqwest::Client::builder()
                .default_headers(headers)
                .build()?,
        })
    }

    /// One operator call without arguments, answered in JSON.
    pub(crate) async fn operator(&self, call: &str) -> anyhow::Result<Value> {
        let request = self
            .http
            .post(format!("{}/api/v1", self.url))
            .json(&json!({ "type": call }));
        let response = self.send(request).await?;
        response
            .json()
            .await
            .with_context(|| format!("the master's answer to {call} is not JSON"))
    }

    pub(crate) async fn get(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> anyhow::Result<reqwest::Response> {
        let mut url = reqwest::Url::parse(&format!("{}{path}", self.url))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.send(self.http.get(url)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.send(self.http.delete(format!("{}{path}", self.url)))
            .await
            .map(drop)
    }

    /// Uploads a file as an artifact; the answer has `sha256`, `size`, `name` and `url`.
    pub(crate) async fn put_artifact(&self, file: &Path) -> anyhow::Result<Value> {
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("artifact");
        let opened = tokio::fs::File::open(file)
            .await
            .with_context(|| format!("cannot read {}", file.display()))?;
        if !opened.metadata().await?.is_file() {
            bail!("{} is not a file", file.display());
        }
        let mut url = reqwest::Url::parse(&format!("{}/api/v1/tepui/artifacts", self.url))?;
        url.query_pairs_mut().append_pair("name", name);
        let response = self.send(self.http.put(url).body(opened)).await?;
        let mut answer: Value = response
            .json()
            .await
            .context("the master's answer to an upload is not JSON")?;
        // The master may know itself by another address than the one that reaches it from here.
        if let Some(path) = answer["url"].as_str().filter(|url| url.starts_with('/')) {
            answer["url"] = Value::from(format!("{}{path}", self.url));
        }
        Ok(answer)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<reqwest::Response> {
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => bail!(
                "no master answers at {}: start one with `tepui dev`, or name another with --master or TEPUI_MASTER",
                self.url
            ),
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("asking the master at {} failed", self.url));
            }
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let sentence = response.text().await.unwrap_or_default();
        let sentence = sentence.trim();
        if sentence.is_empty() {
            bail!("the master answered {status}")
        } else {
            bail!("{sentence} ({status})")
        }
    }
}

/// Runs a client command's future to its end.
pub(crate) fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future)
}

/// The text at a path of a JSON document, or nothing.
pub(crate) fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    path.iter()
        .fold(value, |value, key| &value[*key])
        .as_str()
        .unwrap_or_default()
}

/// The items of a JSON list; none if it is no list.
pub(crate) fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::MasterAddress;

    fn url(master: &str) -> Option<String> {
        MasterAddress {
            master: master.to_owned(),
            credential: None,
        }
        .url()
        .ok()
    }

    #[test]
    fn a_master_is_named_by_host_and_port_or_by_url() {
        assert_eq!(
            url("10.0.0.1:5050").as_deref(),
            Some("http://10.0.0.1:5050")
        );
        assert_eq!(
            url("http://master:5050/").as_deref(),
            Some("http://master:5050")
        );
        assert_eq!(url("ftp://master"), None);
        assert_eq!(url(""), None);
        assert_eq!(url("host:not-a-port"), None);
    }
}
