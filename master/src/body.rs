//! Bodies: those of requests, bounded as configured, and those of answers, compressed where the client likes that.

use std::io::Write as _;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use tepui_bodies::Bounds;

use crate::config::Config;
use crate::http::text_of;
use crate::shared::Refusal;

/// Shorter answers are not worth compressing.
const MIN_GZIP_BYTES: usize = 1024;

/// The whole body of a call, unpacked.
pub(crate) async fn read(
    body: Body,
    headers: &HeaderMap,
    config: &Config,
) -> Result<Bytes, Refusal> {
    let bounds = Bounds {
        bytes: config.max_call_bytes,
        patience: config.request_patience,
    };
    tepui_bodies::read(body, headers, bounds)
        .await
        .map_err(|refused| Refusal::new(refused.status, refused.message))
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
