//! What every client command needs: where the master is, and how to ask it.

use std::future::Future;

use anyhow::{Context, bail};
use clap::Args;
use reqwest::Method;
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
        self.send(self.request_with(Method::GET, path, query)?)
            .await
    }

    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.send(self.http.delete(format!("{}{path}", self.url)))
            .await
            .map(drop)
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A request to a path of the master's, to be given to [`Client::send`].
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// As [`Client::request`], with a query.
    pub(crate) fn request_with(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, impl AsRef<str>)],
    ) -> anyhow::Result<reqwest::RequestBuilder> {
        let mut url = reqwest::Url::parse(&format!("{}{path}", self.url))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(self.http.request(method, url))
    }

    /// The answer, if it is a good one.
    pub(crate) async fn send(
        &self,
        request: reqwest::RequestBuilder,
    ) -> anyhow::Result<reqwest::Response> {
        let response = self.ask(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        bail!("{}", refusal(response).await)
    }

    /// The answer, whatever it is.
    pub(crate) async fn ask(
        &self,
        request: reqwest::RequestBuilder,
    ) -> anyhow::Result<reqwest::Response> {
        match request.send().await {
            Ok(response) => Ok(response),
            Err(error) if error.is_connect() => bail!(
                "no master answers at {}: start one with `tepui dev`, or name another with --master or TEPUI_MASTER",
                self.url
            ),
            Err(error) => {
                Err(error).with_context(|| format!("asking the master at {} failed", self.url))
            }
        }
    }
}

/// The sentence of an answer that is none.
pub(crate) async fn refusal(response: reqwest::Response) -> String {
    let status = response.status();
    let sentence = response.text().await.unwrap_or_default();
    let sentence = sentence.trim();
    if sentence.is_empty() {
        format!("the master answered {status}")
    } else {
        format!("{sentence} ({status})")
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
