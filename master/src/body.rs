//! Bodies: those of requests, bounded in size and in time, and those of answers, compressed where the client likes that.

use std::io::{Read as _, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use futures::StreamExt;
use hyper::body::{Frame, SizeHint};

use crate::config::Config;
use crate::http::text_of;
use crate::shared::Refusal;

/// Shorter answers are not worth compressing.
const MIN_GZIP_BYTES: usize = 1024;
/// A body that keeps coming, but slower than this many times the patience for a piece of it, is given up.
const PIECES_OF_PATIENCE: u32 = 10;

/// The whole body of a call, unpacked.
pub(crate) async fn read(
    body: Body,
    headers: &HeaderMap,
    config: &Config,
) -> Result<Bytes, Refusal> {
    let limit = config.max_call_bytes;
    let encoding = text_of(headers, header::CONTENT_ENCODING).unwrap_or("identity");
    let packed = encoding.eq_ignore_ascii_case("gzip");
    if !packed && !encoding.eq_ignore_ascii_case("identity") {
        let message = format!("Expecting 'Content-Encoding' of gzip, not '{encoding}'");
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let announced = text_of(headers, header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
    if announced.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_large(limit));
    }
    let patience = config.request_patience;
    let late = |_| {
        let message = "The body of the request did not come in time";
        Refusal::new(StatusCode::REQUEST_TIMEOUT, message)
    };
    let mut pieces = body.into_data_stream();
    let reading = async {
        let mut bytes = Vec::new();
        while let Some(piece) = tokio::time::timeout(patience, pieces.next())
            .await
            .map_err(late)?
        {
            let piece = piece
                .map_err(|error| Refusal::bad_request(format!("The body broke off: {error}")))?;
            if bytes.len() + piece.len() > limit {
                return Err(too_large(limit));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    };
    let bytes = tokio::time::timeout(patience * PIECES_OF_PATIENCE, reading)
        .await
        .map_err(late)??;
    if packed {
        unpack(&bytes, limit)
    } else {
        Ok(bytes.into())
    }
}

/// Says with a refusal that the connection ends if the body of the request was not taken: what is left of it cannot be
/// told from another request.
pub(crate) async fn close_unless_read(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() || request.version() == Version::HTTP_2 {
        return next.run(request).await;
    }
    let ended = Arc::new(AtomicBool::new(false));
    let request = request.map(|inner| {
        let ended = Arc::clone(&ended);
        Body::new(Watched { inner, ended })
    });
    let mut response = next.run(request).await;
    let refused = response.status().is_client_error() || response.status().is_server_error();
    if refused && !ended.load(Ordering::Relaxed) {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// A body that tells whether it was taken to its end.
struct Watched {
    inner: Body,
    ended: Arc<AtomicBool>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if frame.is_none() || self.inner.is_end_stream() {
            self.ended.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn unpack(packed: &[u8], limit: usize) -> Result<Bytes, Refusal> {
    let mut plain = Vec::new();
    GzDecoder::new(packed)
        .take(limit as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(|error| Refusal::bad_request(format!("The body is not gzip: {error}")))?;
    if plain.len() > limit {
        return Err(too_large(limit));
    }
    Ok(plain.into())
}

fn too_large(limit: usize) -> Refusal {
    let message = format!(
        "A call may have at most {}",
        tepui_model::format_bytes(limit as u64)
    );
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    text_of(headers, header::ACCEPT_ENCODING).is_some_and(|encodings| {
        encodings.split(',').any(|encoding| {
            let (name, parameters) = encoding.split_once(';').unwrap_or((encoding, ""));
            name.trim().eq_ignore_ascii_case("gzip")
                && !matches!(parameters.trim(), "q=0" | "q=0.0" | "q=0.00")
        })
    })
}

/// An answer's body, compressed if that is worth it.
pub(crate) struct Packed {
    bytes: Vec<u8>,
    gzipped: bool,
}

impl Packed {
    pub(crate) fn new(bytes: Vec<u8>, accepts_gzip: bool) -> Self {
        if accepts_gzip && bytes.len() >= MIN_GZIP_BYTES {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            let packed = encoder.write_all(&bytes).and_then(|()| encoder.finish());
            if let Ok(bytes) = packed {
                return Self {
                    bytes,
                    gzipped: true,
                };
            }
        }
        Self {
            bytes,
            gzipped: false,
        }
    }

    pub(crate) fn into_response(self, content_type: &'static str) -> Response {
        let content_type = [(header::CONTENT_TYPE, content_type)];
        let mut response = (content_type, self.bytes).into_response();
        if self.gzipped {
            let gzip = HeaderValue::from_static("gzip");
            response
                .headers_mut()
                .insert(header::CONTENT_ENCODING, gzip);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_body_that_stalls_or_trickles_is_given_up() {
        let config = Config {
            request_patience: Duration::from_millis(50),
            ..Config::default()
        };
        let stalled = futures::stream::pending::<Result<Bytes, std::io::Error>>();
        let trickling = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"x")), ()))
        });
        for body in [
            Body::from_stream(stalled),
            Body::from_stream(Box::pin(trickling)),
        ] {
            let refused = read(body, &HeaderMap::new(), &config).await.unwrap_err();
            assert_eq!(refused.status, StatusCode::REQUEST_TIMEOUT);
        }
    }
}
