//! The body of a call, bounded in size and in time.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use tepui_bodies::Bounds;

use crate::site::Refusal;

/// The largest call, alone or as a record.
pub(crate) const MAX_CALL_BYTES: usize = 16 << 20;
const BOUNDS: Bounds = Bounds {
    bytes: MAX_CALL_BYTES,
    patience: Duration::from_secs(30),
};

/// The whole body of a call, unpacked.
pub(crate) async fn read_body(body: Body, headers: &HeaderMap) -> Result<Bytes, Refusal> {
    tepui_bodies::read(body, headers, BOUNDS)
        .await
        .map_err(|refused| Refusal(refused.status, refused.message))
}
