//! HTTP: ranges where the server has them.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use reqwest::StatusCode;
use reqwest::header::{
    ACCEPT_RANGES, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, IF_RANGE, LAST_MODIFIED, RANGE,
};

use crate::Error;
use crate::source::{Opened, Position, Source};

/// One URL.
#[derive(Debug)]
pub(crate) struct Http {
    pub(crate) client: reqwest::Client,
    pub(crate) url: String,
    /// Sent as `Authorization: Bearer`, if any.
    pub(crate) bearer: Option<String>,
    pub(crate) first_patience: Option<Duration>,
    pub(crate) retries: Option<u32>,
}

impl Source for Http {
    fn open<'a>(&'a self, position: &'a Position) -> BoxFuture<'a, Result<Opened, Error>> {
        self.get(position).boxed()
    }

    fn first_patience(&self) -> Option<Duration> {
        self.first_patience
    }

    fn retries(&self) -> Option<u32> {
        self.retries
    }
}

impl Http {
    async fn get(&self, position: &Position) -> Result<Opened, Error> {
        let mut request = self.client.get(&self.url);
        if let Some(token) = &self.bearer {
            request = request.bearer_auth(token);
        }
        if position.offset > 0 {
            request = request.header(RANGE, format!("bytes={}-", position.offset));
            if let Some(version) = &position.version {
                request = request.header(IF_RANGE, version);
            }
        }
        let response = request
            .send()
            .await
            .map_err(|error| Error::of_http(&error))?;
        let range = ContentRange::of(response.headers());
        if position.offset > 0
            && response.status() != StatusCode::OK
            && is_another(position.version.as_deref(), response.headers())
        {
            return Err(Error::Changed);
        }
        let version = version(response.headers());
        let (offset, size) = match response.status() {
            StatusCode::OK => (0, response.content_length()),
            StatusCode::PARTIAL_CONTENT => {
                let range = range.filter(|range| range.begin == Some(position.offset));
                let Some(range) = range else {
                    return Err(Error::transport(
                        "the server answered another range than was asked for",
                    ));
                };
                (position.offset, range.total)
            }
            // All of it is here already, if that is how much there was.
            StatusCode::RANGE_NOT_SATISFIABLE
                if position.offset > 0
                    && range.is_some_and(|range| range.total == Some(position.offset)) =>
            {
                return Ok(Opened {
                    offset: position.offset,
                    size: Some(position.offset),
                    version: position.version.clone(),
                    sha256: None,
                    stream: futures::stream::empty().boxed(),
                });
            }
            StatusCode::RANGE_NOT_SATISFIABLE if position.offset > 0 => return Err(Error::Changed),
            status => {
                return Err(Error::Status {
                    code: status.as_u16(),
                    status: status.to_string(),
                });
            }
        };
        let stream = response.bytes_stream();
        Ok(Opened {
            offset,
            size,
            // What goes on need not be told from what it goes on with.
            version: if offset > 0 {
                position.version.clone().or(version)
            } else {
                version
            },
            sha256: None,
            stream: stream
                .map(|piece| piece.map_err(|error| Error::of_http(&error)))
                .boxed(),
        })
    }
}

/// What `If-Range` takes: a strong tag, else a date. A server that gives no ranges is not asked for any.
fn version(headers: &HeaderMap) -> Option<String> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if text(ACCEPT_RANGES).is_some_and(|unit| unit.eq_ignore_ascii_case("none")) {
        return None;
    }
    text(ETAG)
        .filter(|tag| tag.starts_with('"'))
        .or_else(|| text(LAST_MODIFIED))
        .map(str::to_owned)
}

/// Whether the part that is answered is of another version than the one begun, whatever the server was asked for.
fn is_another(begun: Option<&str>, headers: &HeaderMap) -> bool {
    let Some(begun) = begun else {
        return false;
    };
    // A server need not name both again.
    let name = if begun.starts_with('"') {
        ETAG
    } else {
        LAST_MODIFIED
    };
    headers
        .get(name)
        .is_some_and(|now| now.as_bytes() != begun.as_bytes())
}

/// `bytes 5-9/10`, `bytes 5-9/*` or `bytes */10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ContentRange {
    begin: Option<u64>,
    total: Option<u64>,
}

impl ContentRange {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        Some(Self {
            begin: range
                .split_once('-')
                .and_then(|(begin, _)| begin.parse().ok()),
            total: total.parse().ok(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_versions_are_read() {
        let mut headers = HeaderMap::new();
        assert_eq!(
            (ContentRange::of(&headers), version(&headers)),
            (None, None)
        );
        for (text, begin, total) in [
            ("bytes 5-9/10", Some(5), Some(10)),
            ("bytes 5-9/*", Some(5), None),
            ("bytes */10", None, Some(10)),
        ] {
            headers.insert(CONTENT_RANGE, text.parse().unwrap());
            assert_eq!(
                ContentRange::of(&headers),
                Some(ContentRange { begin, total })
            );
        }
        headers.insert(
            LAST_MODIFIED,
            "Mon, 01 Jan 2024 00:00:00 GMT".parse().unwrap(),
        );
        let date = version(&headers).unwrap();
        headers.insert(ETAG, "W/\"weak\"".parse().unwrap());
        assert!(version(&headers).unwrap().starts_with("Mon"));
        headers.insert(ETAG, "\"strong\"".parse().unwrap());
        assert_eq!(version(&headers).unwrap(), "\"strong\"");
        for (begun, another) in [
            (None, false),
            (Some("\"strong\""), false),
            (Some("\"other\""), true),
            (Some(date.as_str()), false),
            (Some("Tue, 02 Jan 2024 00:00:00 GMT"), true),
        ] {
            assert_eq!(is_another(begun, &headers), another, "{begun:?}");
        }
        headers.insert(ACCEPT_RANGES, "none".parse().unwrap());
        assert_eq!(version(&headers), None);
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod server_tests;
