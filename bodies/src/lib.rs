//! The bodies of requests: bounded in size and in time, unpacked if they came packed, and what becomes of a connection
//! whose body nobody took. Master and agent answer alike.

#![forbid(unsafe_code)]

use std::io::Read as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use flate2::read::GzDecoder;
use futures::StreamExt;
use hyper::body::{Frame, SizeHint};

/// A body that keeps coming, but slower than this many times the patience for a piece of it, is given up.
const PIECES_OF_PATIENCE: u32 = 10;

/// What a body may be.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Packed and unpacked.
    pub bytes: usize,
    /// How long the next piece of it may take; the whole may take ten times as long.
    pub patience: Duration,
}

/// Why a body is refused, and with which status: 400, 408, 413 or 415.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub status: StatusCode,
    pub message: String,
}

impl Refused {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    fn too_large(bounds: Bounds) -> Self {
        let most = tepui_model::format_bytes(bounds.bytes as u64);
        let message = format!("A call may have at most {most}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }
}

/// The whole body of a call, unpacked. One that is announced longer than it may be is refused before any of it came.
pub async fn read(body: Body, headers: &HeaderMap, bounds: Bounds) -> Result<Bytes, Refused> {
    let encoding = text(headers, &header::CONTENT_ENCODING).unwrap_or("identity");
    let packed = encoding.eq_ignore_ascii_case("gzip");
    if !packed && !encoding.eq_ignore_ascii_case("identity") {
        let message = format!("Expecting 'Content-Encoding' of gzip, not '{encoding}'");
        return Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let announced = text(headers, &header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
    if announced.is_some_and(|length: u64| length > bounds.bytes as u64) {
        return Err(Refused::too_large(bounds));
    }
    let late = |_| {
        let message = "The body of the request did not come in time";
        Refused::new(StatusCode::REQUEST_TIMEOUT, message)
    };
    let mut pieces = body.into_data_stream();
    let reading = async {
        let mut bytes = Vec::new();
        while let Some(piece) = tokio::time::timeout(bounds.patience, pieces.next())
            .await
            .map_err(late)?
        {
            let piece = piece.map_err(|error| {
                let message = format!("The body broke off: {error}");
                Refused::new(StatusCode::BAD_REQUEST, message)
            })?;
            if bytes.len() + piece.len() > bounds.bytes {
                return Err(Refused::too_large(bounds));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    };
    let bytes = tokio::time::timeout(bounds.patience * PIECES_OF_PATIENCE, reading)
        .await
        .map_err(late)??;
    if packed {
        unpack(&bytes, bounds)
    } else {
        Ok(bytes.into())
    }
}

fn unpack(packed: &[u8], bounds: Bounds) -> Result<Bytes, Refused> {
    let mut plain = Vec::new();
    GzDecoder::new(packed)
        .take(bounds.bytes as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(|error| {
            let message = format!("The body is not gzip: {error}");
            Refused::new(StatusCode::BAD_REQUEST, message)
        })?;
    if plain.len() > bounds.bytes {
        return Err(Refused::too_large(bounds));
    }
    Ok(plain.into())
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// A layer that says with a refusal that the connection ends if the body of the request was not taken: what is left of it
/// cannot be told from another request.
pub async fn close_unless_read(request: Request, next: Next) -> Response {
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        bytes: 1 << 20,
        patience: Duration::from_millis(50),
    };

    fn packed(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    async fn read_packed(encoding: &'static str, body: Vec<u8>) -> Result<Bytes, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        let read = read(Body::from(body), &headers, BOUNDS).await;
        read.map_err(|refused| refused.status.as_u16())
    }

    #[tokio::test]
    async fn a_body_is_unpacked_and_bounded_packed_or_not() {
        let plain = b"plain".to_vec();
        assert_eq!(
            read_packed("identity", plain.clone()).await.unwrap(),
            "plain"
        );
        assert_eq!(read_packed("GZIP", packed(&plain)).await.unwrap(), "plain");
        assert_eq!(read_packed("gzip", plain.clone()).await, Err(400));
        assert_eq!(read_packed("br", plain).await, Err(415));
        let large = vec![0; BOUNDS.bytes + 1];
        assert_eq!(read_packed("gzip", packed(&large)).await, Err(413));
        assert_eq!(read_packed("identity", large).await, Err(413));
    }

    #[tokio::test]
    async fn a_body_announced_too_long_is_not_waited_for() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(BOUNDS.bytes + 1));
        // Waiting for it would be answered by 408.
        let nothing = futures::stream::pending::<Result<Bytes, std::io::Error>>();
        let refused = read(Body::from_stream(nothing), &headers, BOUNDS).await;
        assert_eq!(refused.unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn a_body_that_stalls_or_trickles_is_given_up() {
        let stalled = futures::stream::pending::<Result<Bytes, std::io::Error>>();
        let trickling = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"x")), ()))
        });
        for body in [
            Body::from_stream(stalled),
            Body::from_stream(Box::pin(trickling)),
        ] {
            let refused = read(body, &HeaderMap::new(), BOUNDS).await.unwrap_err();
            assert_eq!(refused.status, StatusCode::REQUEST_TIMEOUT);
        }
    }
}
