//! The executor API. Everything is handed to the owner; nothing is decided here but what a header means.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use tepui_agent_core::{ConnectionKey, Input};
use tepui_api::v1::executor;
use tepui_api::{MediaType, media, proto, recordio};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::owner::{Event, Queued, Reply, Subscription};
use crate::request::{MAX_CALL_BYTES, read_body};
use crate::site::{Refusal, Site, content_type, text};

/// How many calls of one stream may wait for the core.
const CALLS_IN_FLIGHT: u32 = 4096;

/// How the calls of one stream fared so far.
#[derive(Debug, Default)]
pub(crate) struct StreamOutcome {
    failure: Mutex<Option<(u16, String)>>,
}

impl StreamOutcome {
    pub(crate) fn answered(&self, status: u16, message: String) {
        if status >= 300 {
            self.failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert((status, message));
        }
    }

    fn failure(&self) -> Option<(u16, String)> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

pub(crate) async fn executor_call(
    State(site): State<Site>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    if method != Method::POST {
        return Err(Refusal::method(&method));
    }
    let media = content_type(text(&headers, header::CONTENT_TYPE.as_str()))?;
    let token = text(&headers, header::AUTHORIZATION.as_str())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim().to_owned());
    if media == MediaType::RecordIo {
        let inner = text(&headers, "message-content-type").ok_or_else(|| {
            Refusal::bad("Expecting 'Message-Content-Type' to be set for a stream of records")
        })?;
        return match content_type(Some(inner))? {
            MediaType::RecordIo => Err(Refusal(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "Records do not hold records".to_owned(),
            )),
            inner => stream_of_calls(&site, inner, token, body).await,
        };
    }
    let call = decode(media, read_body(body, &headers).await?)?;
    match kind(&call)? {
        executor::call::Type::Subscribe => {
            subscribe(&site, call, token, text(&headers, header::ACCEPT.as_str())).await
        }
        executor::call::Type::Unknown => Err(Refusal(
            StatusCode::NOT_IMPLEMENTED,
            "Unknown call".to_owned(),
        )),
        // Only says that the connection is alive.
        executor::call::Type::Heartbeat => Ok(StatusCode::ACCEPTED.into_response()),
        _ => {
            let (reply, answer) = oneshot::channel();
            site.send(Event::Call {
                call: Box::new(call),
                token,
                reply: Reply::One(reply),
            })
            .await?;
            let (status, message) = answer.await.map_err(|_| Refusal::stopping())?;
            Ok(answered(status, message))
        }
    }
}

fn decode(media: MediaType, bytes: Bytes) -> Result<executor::Call, Refusal> {
    let failed =
        |error: &dyn std::fmt::Display| Refusal::bad(format!("Failed to parse body: {error}"));
    match media {
        MediaType::Protobuf => proto::call_from_bytes(bytes).map_err(|error| failed(&error)),
        _ => media::decode(media, &bytes).map_err(|error| failed(&error)),
    }
}

fn kind(call: &executor::Call) -> Result<executor::call::Type, Refusal> {
    call.r#type
        .and_then(|kind| executor::call::Type::try_from(kind).ok())
        .ok_or_else(|| Refusal::bad("Expecting 'type' to be present"))
}

fn answered(status: u16, message: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status.is_success() {
        status.into_response()
    } else {
        (status, message).into_response()
    }
}

async fn subscribe(
    site: &Site,
    call: executor::Call,
    token: Option<String>,
    accept: Option<&str>,
) -> Result<Response, Refusal> {
    let media = media::negotiate(accept).ok_or_else(|| {
        Refusal(
            StatusCode::NOT_ACCEPTABLE,
            "Expecting 'Accept' to allow application/json or application/x-protobuf".to_owned(),
        )
    })?;
    let (reply, answer) = oneshot::channel();
    site.send(Event::Subscribe {
        call: Box::new(call),
        token,
        media,
        reply,
    })
    .await?;
    match answer.await.map_err(|_| Refusal::stopping())? {
        Subscription::Refused { status, message } => Ok(answered(status, message)),
        Subscription::Open { connection, events } => {
            let guard = Disconnect {
                connection,
                events: site.events.clone(),
            };
            let interval = site.about.executor_heartbeat;
            let stream =
                futures::stream::unfold((events, guard), move |(mut events, guard)| async move {
                    let chunk = next_chunk(&mut events, media, interval).await?;
                    Some((Ok::<_, std::convert::Infallible>(chunk), (events, guard)))
                });
            Ok((
                [(header::CONTENT_TYPE, media.as_str())],
                Body::from_stream(stream),
            )
                .into_response())
        }
    }
}

/// The next event, a chunk of its own: there are clients that take each chunk for one record. A heartbeat if it is quiet
/// for long.
async fn next_chunk(
    events: &mut mpsc::Receiver<Queued>,
    media: MediaType,
    interval: Duration,
) -> Option<Bytes> {
    match tokio::time::timeout(interval, events.recv()).await {
        Ok(queued) => queued.map(|queued| queued.record),
        Err(_) => {
            let heartbeat = executor::Event {
                r#type: Some(executor::event::Type::Heartbeat.into()),
                ..Default::default()
            };
            Some(recordio::encode(&media::encode(media, &heartbeat)))
        }
    }
}

/// Tells the owner when the stream is dropped, however that comes about.
struct Disconnect {
    connection: ConnectionKey,
    events: mpsc::Sender<Event>,
}

impl Drop for Disconnect {
    fn drop(&mut self) {
        let event = Event::Core(Box::new(Input::ExecutorDisconnected {
            connection: self.connection,
        }));
        if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let events = self.events.clone();
            runtime.spawn(async move { events.send(event).await });
        }
    }
}

/// Tepui's extension: many calls on one request, answered when the last one is.
async fn stream_of_calls(
    site: &Site,
    media: MediaType,
    token: Option<String>,
    body: Body,
) -> Result<Response, Refusal> {
    let outcome = Arc::new(StreamOutcome::default());
    let calls = Arc::new(Semaphore::new(CALLS_IN_FLIGHT as usize));
    let mut decoder = recordio::Decoder::new(MAX_CALL_BYTES);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        // A connection that broke has nobody to be answered; what came before it counts.
        let Ok(chunk) = chunk else {
            return Err(Refusal::bad("The stream of calls broke off"));
        };
        decoder.push(chunk);
        while let Some(record) = decoder.next().map_err(Refusal::bad)? {
            let call = decode(media, record)?;
            match kind(&call)? {
                executor::call::Type::Subscribe => {
                    return Err(Refusal::bad(
                        "SUBSCRIBE cannot be part of a stream of calls",
                    ));
                }
                executor::call::Type::Unknown => {
                    return Err(Refusal(
                        StatusCode::NOT_IMPLEMENTED,
                        "Unknown call".to_owned(),
                    ));
                }
                executor::call::Type::Heartbeat => continue,
                _ => {}
            }
            let permit = calls
                .clone()
                .acquire_owned()
                .await
                .map_err(|_| Refusal::stopping())?;
            let reply = Reply::Stream {
                outcome: outcome.clone(),
                permit,
            };
            site.send(Event::Call {
                call: Box::new(call),
                token: token.clone(),
                reply,
            })
            .await?;
        }
        if let Some((status, message)) = outcome.failure() {
            return Ok(answered(status, message));
        }
    }
    // All permits are back when all calls are answered.
    let _all = calls
        .acquire_many(CALLS_IN_FLIGHT)
        .await
        .map_err(|_| Refusal::stopping())?;
    match outcome.failure() {
        Some((status, message)) => Ok(answered(status, message)),
        None if decoder.is_between_records() => Ok(StatusCode::ACCEPTED.into_response()),
        None => Err(Refusal::bad("The stream of calls ends within a record")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use prost::Message;
    use reqwest::RequestBuilder;

    use tepui_api::v1;

    use super::*;
    use crate::site::router;
    use crate::testing::serve;

    const JSON: &str = "application/json";
    const PROTOBUF: &str = "application/x-protobuf";

    /// The site, with the test as its owner.
    async fn site() -> (SocketAddr, mpsc::Receiver<Event>) {
        let (events, inbox) = mpsc::channel(100);
        let site = crate::testing::site(events);
        (serve(router(site)).await, inbox)
    }

    fn request(address: SocketAddr) -> RequestBuilder {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .tls_certs_only(Vec::new())
            .build()
            .unwrap();
        client.post(format!("http://{address}/slave(1)/api/v1/executor"))
    }

    fn call(kind: executor::call::Type) -> executor::Call {
        executor::Call {
            executor_id: v1::ExecutorId {
                value: "e".to_owned(),
            },
            framework_id: v1::FrameworkId {
                value: "f".to_owned(),
            },
            r#type: Some(kind.into()),
            ..Default::default()
        }
    }

    fn message(text: &str) -> executor::Call {
        let message = executor::call::Message {
            data: Bytes::from(text.to_owned()),
        };
        executor::Call {
            message: Some(message),
            ..call(executor::call::Type::Message)
        }
    }

    fn text_of(call: &executor::Call) -> String {
        String::from_utf8(call.message.as_ref().unwrap().data.to_vec()).unwrap()
    }

    async fn status(request: RequestBuilder) -> (u16, String) {
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    #[tokio::test]
    async fn events_that_wait_together_still_leave_in_chunks_of_their_own() {
        let (sender, mut events) = mpsc::channel(2);
        let records = [Bytes::from_static(b"2\n{}"), Bytes::from_static(b"3\n{ }")];
        for record in &records {
            sender.send(queued(record.clone())).await.unwrap();
        }
        drop(sender);
        let interval = Duration::from_secs(60);
        for record in records {
            let next = next_chunk(&mut events, MediaType::Json, interval).await;
            assert_eq!(next, Some(record));
        }
        let last = next_chunk(&mut events, MediaType::Json, interval).await;
        assert_eq!(last, None);
    }

    #[tokio::test]
    async fn what_is_not_a_call_is_refused_before_the_core_hears_of_it() {
        let (address, _inbox) = site().await;
        let good = tepui_api::json::to_vec(&call(executor::call::Type::Subscribe));
        let typed = |content: &str| request(address).header("content-type", content);
        assert_eq!(status(request(address).body(good.clone())).await.0, 400);
        assert_eq!(status(typed("text/plain").body(good.clone())).await.0, 415);
        assert_eq!(status(typed(JSON).body("{")).await.0, 400);
        assert_eq!(status(typed(PROTOBUF).body(good.clone())).await.0, 400);
        let no_type = r#"{"executor_id":{"value":"e"},"framework_id":{"value":"f"}}"#;
        assert_eq!(
            status(typed(JSON).body(no_type)).await,
            (400, "Expecting 'type' to be present".to_owned())
        );
        let unknown = tepui_api::json::to_vec(&call(executor::call::Type::Unknown));
        assert_eq!(status(typed(JSON).body(unknown)).await.0, 501);
        assert_eq!(
            status(typed(JSON).header("accept", "text/html").body(good.clone()))
                .await
                .0,
            406
        );
        assert_eq!(
            status(typed("application/recordio").body(good.clone()))
                .await
                .0,
            400
        );
        let nested =
            typed("application/recordio").header("message-content-type", "application/recordio");
        assert_eq!(status(nested.body(good.clone())).await.0, 415);
        let get = Method::GET;
        let built = request(address).build().unwrap();
        let client = reqwest::Client::builder()
            .tls_certs_only(Vec::new())
            .build()
            .unwrap();
        let response = client
            .request(get, built.url().clone())
            .send()
            .await
            .unwrap();
        assert_eq!(
            (
                response.status().as_u16(),
                response.headers()["allow"].to_str().unwrap()
            ),
            (405, "POST")
        );
        let heartbeat = tepui_api::json::to_vec(&call(executor::call::Type::Heartbeat));
        assert_eq!(status(typed(JSON).body(heartbeat)).await.0, 202);
    }

    #[tokio::test]
    async fn a_call_is_answered_as_the_core_says_with_its_token_handed_on() {
        let (address, mut inbox) = site().await;
        let answering = tokio::spawn(async move {
            let mut seen = Vec::new();
            while let Some(Event::Call { call, token, reply }) = inbox.recv().await {
                let good = token.as_deref() == Some("secret");
                seen.push(text_of(&call));
                reply.give(if good { 202 } else { 403 }, "wrong token".to_owned());
            }
            seen
        });
        for (media, accepted) in [(MediaType::Json, JSON), (MediaType::Protobuf, PROTOBUF)] {
            let body = media::encode(media, &message("hello"));
            let posted = request(address).header("content-type", accepted).body(body);
            let with = posted
                .try_clone()
                .unwrap()
                .header("authorization", "Bearer secret");
            assert_eq!(status(with).await.0, 202);
            assert_eq!(status(posted).await, (403, "wrong token".to_owned()));
        }
        answering.abort();
    }

    #[tokio::test]
    async fn a_subscription_streams_its_events_in_the_form_asked_for_and_its_end_is_noticed() {
        for (accept, media) in [(PROTOBUF, MediaType::Protobuf), ("*/*", MediaType::Json)] {
            let (address, mut inbox) = site().await;
            let body = call(executor::call::Type::Subscribe).encode_to_vec();
            let posted = request(address)
                .header("content-type", PROTOBUF)
                .header("accept", accept)
                .body(body);
            let response = tokio::spawn(posted.send());
            let Some(Event::Subscribe {
                media: asked,
                reply,
                ..
            }) = inbox.recv().await
            else {
                panic!("no subscription")
            };
            assert_eq!(asked, media);
            let (sender, events) = mpsc::channel(10);
            reply
                .send(Subscription::Open {
                    connection: ConnectionKey(7),
                    events,
                })
                .unwrap();
            let mut response = response.await.unwrap().unwrap();
            assert_eq!(
                response.headers()["content-type"].to_str().unwrap(),
                media.as_str()
            );
            sender
                .send(queued(Bytes::from_static(b"2\nab")))
                .await
                .unwrap();
            assert_eq!(response.chunk().await.unwrap().unwrap(), "2\nab");
            drop(response);
            // Hyper notices the closed connection when it writes or reads next.
            let gone = loop {
                let _ = sender.send(queued(Bytes::from_static(b"1\nx"))).await;
                if let Ok(Some(event)) =
                    tokio::time::timeout(Duration::from_millis(20), inbox.recv()).await
                {
                    break event;
                }
            };
            let Event::Core(input) = gone else {
                panic!("{gone:?}")
            };
            assert!(matches!(
                *input,
                Input::ExecutorDisconnected {
                    connection: ConnectionKey(7)
                }
            ));
        }
    }

    fn queued(record: Bytes) -> Queued {
        Queued {
            record,
            _room: None,
        }
    }

    fn stream(address: SocketAddr, calls: &[executor::Call], cut: usize) -> RequestBuilder {
        let mut body: Vec<u8> = calls
            .iter()
            .flat_map(|call| recordio::encode(&call.encode_to_vec()).to_vec())
            .collect();
        body.truncate(body.len() - cut);
        // In small pieces, so that records span chunks.
        let pieces: Vec<_> = body
            .chunks(7)
            .map(|piece| Ok::<_, std::io::Error>(piece.to_vec()))
            .collect();
        request(address)
            .header("content-type", "application/recordio")
            .header("message-content-type", PROTOBUF)
            .body(reqwest::Body::wrap_stream(futures::stream::iter(pieces)))
    }

    #[tokio::test]
    async fn a_stream_of_calls_is_answered_when_the_last_of_them_is() {
        let (address, mut inbox) = site().await;
        let calls: Vec<_> = (0..50).map(|number| message(&number.to_string())).collect();
        let posted = tokio::spawn(status(stream(address, &calls, 0)));
        let mut replies = Vec::new();
        for number in 0..50 {
            let Some(Event::Call { call, reply, .. }) = inbox.recv().await else {
                panic!("no call")
            };
            assert_eq!(text_of(&call), number.to_string());
            replies.push(reply);
        }
        assert!(!posted.is_finished());
        replies
            .into_iter()
            .for_each(|reply| reply.give(202, String::new()));
        assert_eq!(posted.await.unwrap().0, 202);
        assert_eq!(
            status(stream(address, &[], 0)).await.0,
            202,
            "an empty stream asks whether streams are known"
        );
    }

    #[tokio::test]
    async fn a_stream_of_calls_fails_with_the_first_call_that_does_or_a_record_cut_off() {
        let (address, mut inbox) = site().await;
        tokio::spawn(async move {
            while let Some(Event::Call { call, reply, .. }) = inbox.recv().await {
                let good = text_of(&call) != "bad";
                reply.give(if good { 202 } else { 400 }, "no such task".to_owned());
            }
        });
        let calls = [message("good"), message("bad"), message("good")];
        assert_eq!(
            status(stream(address, &calls, 0)).await,
            (400, "no such task".to_owned())
        );
        assert_eq!(status(stream(address, &calls[..1], 3)).await.0, 400);
        assert_eq!(
            status(stream(address, &[call(executor::call::Type::Subscribe)], 0))
                .await
                .0,
            400
        );
    }
}
