//! How answers are rendered: where it holds up nobody, packed for who wants it, padded for a script.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Write;
use std::ops::Deref;

use axum::extract::{FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use serde::Serialize;
use tepui_api::MediaType;

use crate::site::{Refusal, text};

/// Shorter answers are not worth packing.
const MIN_GZIP_BYTES: u64 = 1024;

/// The query's parameters; one that cannot be read counts as none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parameters(pub(crate) BTreeMap<String, String>);

impl Deref for Parameters {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<S: Sync> FromRequestParts<S> for Parameters {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let query = Query::<BTreeMap<String, String>>::try_from_uri(&parts.uri);
        Ok(Self(query.map(|query| query.0).unwrap_or_default()))
    }
}

/// Work that waits for a disk or takes a while.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| broken(&error))
}

pub(crate) fn broken(error: &dyn std::fmt::Display) -> Refusal {
    Refusal(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("The answer cannot be rendered: {error}"),
    )
}

/// A legacy answer; `?jsonp=NAME` makes it a script that calls NAME.
pub(crate) fn page(parameters: &Parameters, value: &impl Serialize) -> Result<Response, Refusal> {
    let body = serde_json::to_vec(value).map_err(|error| broken(&error))?;
    let Some(name) = parameters.get("jsonp").filter(|name| !name.is_empty()) else {
        return Ok(([(header::CONTENT_TYPE, MediaType::Json.as_str())], body).into_response());
    };
    // Anything else would let a link put a script of its own into the page that asks.
    let is_safe =
        |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '$' | '.');
    if !name.chars().all(is_safe) {
        return Err(Refusal::bad("'jsonp' must be the name of a function"));
    }
    let script = [name.as_bytes(), b"(", &body, b");"].concat();
    Ok(([(header::CONTENT_TYPE, "text/javascript")], script).into_response())
}

/// Packs answers that are long and whole; streams are never packed.
pub(crate) async fn pack(request: Request, next: Next) -> Response {
    let wanted = accepts_gzip(request.headers());
    let response = next.run(request).await;
    let length = response.body().size_hint().exact();
    if !wanted
        || length.is_none_or(|length| length < MIN_GZIP_BYTES)
        || response.headers().contains_key(header::CONTENT_ENCODING)
    {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(body) = body.collect().await else {
        return broken(&"its body broke off").into_response();
    };
    let body = body.to_bytes();
    let packed = blocking(move || {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&body).and_then(|()| encoder.finish())
    })
    .await;
    match packed {
        Ok(Ok(packed)) => {
            parts.headers.remove(header::CONTENT_LENGTH);
            parts
                .headers
                .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            Response::from_parts(parts, packed.into())
        }
        Ok(Err(error)) => broken(&error).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let encodings = text(headers, header::ACCEPT_ENCODING.as_str()).unwrap_or_default();
    encodings.split(',').any(|encoding| {
        let (name, parameters) = encoding.split_once(';').unwrap_or((encoding, ""));
        let refused = matches!(parameters.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000");
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}
