//! The body of a request: bounded in size and in time, and unpacked if it came packed.

use std::io::Read;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use flate2::read::GzDecoder;
use futures::StreamExt;
use tepui_model::format_bytes;

use crate::site::{Refusal, text};

/// The largest call, alone or as a record.
pub(crate) const MAX_CALL_BYTES: usize = 16 << 20;
/// A body of which nothing arrives for so long is given up.
const STALL: Duration = Duration::from_secs(30);

/// The whole body of a call.
pub(crate) async fn read_body(body: Body, headers: &HeaderMap) -> Result<Bytes, Refusal> {
    read_patiently(body, headers, STALL).await
}

async fn read_patiently(
    body: Body,
    headers: &HeaderMap,
    patience: Duration,
) -> Result<Bytes, Refusal> {
    let encoding = text(headers, header::CONTENT_ENCODING.as_str()).unwrap_or("identity");
    let packed = match encoding {
        plain if plain.eq_ignore_ascii_case("identity") => false,
        gzip if gzip.eq_ignore_ascii_case("gzip") => true,
        other => {
            return Err(Refusal(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!("Expecting 'Content-Encoding' of gzip, not '{other}'"),
            ));
        }
    };
    let mut pieces = body.into_data_stream();
    let mut bytes = Vec::new();
    loop {
        match tokio::time::timeout(patience, pieces.next()).await {
            Ok(None) => break,
            Ok(Some(Ok(piece))) if bytes.len() + piece.len() > MAX_CALL_BYTES => {
                return Err(too_large());
            }
            Ok(Some(Ok(piece))) => bytes.extend_from_slice(&piece),
            Ok(Some(Err(error))) => {
                return Err(Refusal::bad(format!("The body broke off: {error}")));
            }
            Err(_) => {
                return Err(Refusal(
                    StatusCode::REQUEST_TIMEOUT,
                    format!("Nothing of the body came for {} s", patience.as_secs()),
                ));
            }
        }
    }
    if packed {
        unpack(&bytes)
    } else {
        Ok(bytes.into())
    }
}

fn unpack(packed: &[u8]) -> Result<Bytes, Refusal> {
    let mut plain = Vec::new();
    GzDecoder::new(packed)
        .take(MAX_CALL_BYTES as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(|error| Refusal::bad(format!("The body is not gzip: {error}")))?;
    if plain.len() > MAX_CALL_BYTES {
        return Err(too_large());
    }
    Ok(plain.into())
}

fn too_large() -> Refusal {
    Refusal(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!(
            "A call may have at most {}",
            format_bytes(MAX_CALL_BYTES as u64)
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use axum::http::HeaderValue;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn packed(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    async fn read(encoding: &'static str, body: Vec<u8>) -> Result<Bytes, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        let read = read_body(Body::from(body), &headers).await;
        read.map_err(|refusal| refusal.0.as_u16())
    }

    #[tokio::test]
    async fn a_body_is_unpacked_and_bounded_packed_or_not() {
        assert_eq!(read("identity", b"plain".to_vec()).await.unwrap(), "plain");
        assert_eq!(read("GZIP", packed(b"plain")).await.unwrap(), "plain");
        assert_eq!(read("gzip", b"plain".to_vec()).await, Err(400));
        assert_eq!(read("br", b"plain".to_vec()).await, Err(415));
        let large = vec![0; MAX_CALL_BYTES + 1];
        assert_eq!(read("gzip", packed(&large)).await, Err(413));
        assert_eq!(read("identity", large).await, Err(413));
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_waited_for_for_ever() {
        let stalled =
            Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let patience = Duration::from_millis(20);
        let refused = read_patiently(stalled, &HeaderMap::new(), patience)
            .await
            .unwrap_err();
        assert_eq!(refused.0, StatusCode::REQUEST_TIMEOUT);
    }
}
