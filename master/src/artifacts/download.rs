//! Downloads of artifacts, in ranges.

use std::io::{self, SeekFrom};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tepui_fetch::Range;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::unknown;
use crate::shared::{Refusal, Shared, method_not_allowed};

const READ_BYTES: usize = 256 << 10;

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
