//! Other agents' reads of what was fetched here: by digest, with a token of the master's, in ranges.

use std::io::SeekFrom;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use tepui_fetch::{Range, is_digest};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::fetcher::Fetcher;
use crate::holders::Holders;
use crate::site::{Refusal, Site, text};
use crate::store::Pin;

/// Followed by the digest.
pub(crate) const PATH: &str = "/tepui/v1/artifacts";
const PIECE_BYTES: usize = 256 << 10;

/// What other agents may be given.
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    pub(crate) fetcher: Fetcher,
    pub(crate) holders: Holders,
}

impl Peers {
    fn admit(&self, headers: &HeaderMap, sha256: &str) -> Result<(), Refusal> {
        let token = text(headers, header::AUTHORIZATION.as_str())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim());
        let unauthorized = |message: &str| Refusal(StatusCode::UNAUTHORIZED, message.to_owned());
        let token =
            token.ok_or_else(|| unauthorized("Agents show a token of the master's here"))?;
        let key = self.holders.key();
        let key = key.ok_or_else(|| unauthorized("This agent has no master yet"))?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        key.check(token, sha256, now.as_secs())
            .map_err(|refused| unauthorized(&refused.to_string()))
    }
}

pub(crate) async fn artifact(
    State(site): State<Site>,
    Path(sha256): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    if method != Method::GET && method != Method::HEAD {
        return Err(Refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("Expecting one of {{ 'GET', 'HEAD' }}, but received '{method}'"),
        ));
    }
    site.peers.admit(&headers, &sha256)?;
    let pin = is_digest(&sha256)
        .then(|| site.peers.fetcher.store().get(&sha256))
        .flatten();
    let pin = pin.ok_or_else(|| {
        Refusal(
            StatusCode::NOT_FOUND,
            format!("This agent has no artifact {sha256} any more"),
        )
    })?;
    send(pin, &method, &headers).await
}

async fn send(pin: Pin, method: &Method, headers: &HeaderMap) -> Result<Response, Refusal> {
    let size = pin.bytes();
    let range = text(headers, header::RANGE.as_str());
    let (status, begin, length) =
        match range.map_or(Range::Whole, |range| Range::parse(range, size)) {
            Range::Whole => (StatusCode::OK, 0, size),
            Range::Part { begin, end } => (StatusCode::PARTIAL_CONTENT, begin, end - begin + 1),
            Range::Unsatisfiable => {
                let range = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
                return Ok((StatusCode::RANGE_NOT_SATISFIABLE, range).into_response());
            }
        };
    let unreadable = |error: std::io::Error| {
        Refusal(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("The artifact cannot be read: {error}"),
        )
    };
    let mut file = tokio::fs::File::open(pin.path())
        .await
        .map_err(unreadable)?;
    file.seek(SeekFrom::Start(begin))
        .await
        .map_err(unreadable)?;
    let body = if *method == Method::HEAD {
        Body::empty()
    } else {
        // The file stays where it is until the last of it is sent.
        let reading = (file.take(length), pin);
        Body::from_stream(futures::stream::try_unfold(
            reading,
            |(mut file, pin)| async move {
                let mut piece = BytesMut::with_capacity(PIECE_BYTES);
                match file.read_buf(&mut piece).await? {
                    0 => Ok::<_, std::io::Error>(None),
                    _ => Ok(Some((piece.freeze(), (file, pin)))),
                }
            },
        ))
    };
    let mut response = (status, body).into_response();
    let fields = response.headers_mut();
    let set = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
    ];
    let range = format!(
        "bytes {begin}-{}/{size}",
        (begin + length).saturating_sub(1)
    );
    let range = (status == StatusCode::PARTIAL_CONTENT).then_some((header::CONTENT_RANGE, range));
    for (name, value) in set.into_iter().chain(range) {
        let value = value
            .try_into()
            .expect("digits and ASCII words are a header value");
        fields.insert(name, value);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use sha2::{Digest, Sha256};
    use tepui_access::ArtifactKey;
    use tepui_api::link::{self, to_agent};
    use tokio::sync::mpsc;

    use super::*;
    use crate::testing::serve;

    #[tokio::test]
    async fn only_who_shows_a_token_for_it_gets_an_artifact() {
        let site = crate::testing::site(mpsc::channel(1).0);
        let peers = site.peers.clone();
        let mut file = peers.fetcher.store().unfinished().unwrap();
        file.write_all(b"hello").unwrap();
        let digest = hex::encode(Sha256::digest(b"hello"));
        drop(peers.fetcher.store().keep(file, &digest, 0o444).unwrap());
        let address = serve(crate::site::router(site)).await;
        let client = reqwest::Client::builder()
            .tls_certs_only(Vec::new())
            .build()
            .unwrap();
        let ask = async |token: &str, range: &str| {
            let asked = client
                .get(format!("http://{address}{PATH}/{digest}"))
                .bearer_auth(token)
                .header("range", range);
            let answer = asked.send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        };
        let key = ArtifactKey::new([7; 32]);
        let token = key.token(&digest, u64::MAX);
        assert_eq!(ask(&token, "").await.0, 401, "there is no key yet");
        let told = link::ArtifactKey {
            key: bytes::Bytes::copy_from_slice(key.as_bytes()),
        };
        assert_eq!(peers.holders.take(to_agent::Body::ArtifactKey(told)), None);
        assert_eq!(ask(&token, "").await, (200, "hello".to_owned()));
        assert_eq!(ask(&token, "bytes=1-2").await, (206, "el".to_owned()));
        assert_eq!(ask(&token, "bytes=5-").await.0, 416);
        assert_eq!(ask(&key.token(&digest, 1), "").await.0, 401);
        assert_eq!(ask("", "").await.0, 401);
        let bare = client
            .get(format!("http://{address}{PATH}/{digest}"))
            .send()
            .await;
        assert_eq!(bare.unwrap().status().as_u16(), 401);
    }
}
