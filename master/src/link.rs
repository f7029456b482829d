//! The agents' links: one HTTP/2 request per agent whose two bodies are streams of records that never end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures::Stream;
use http_body_util::BodyExt;
use prost::Message as _;
use tepui_access::Action;
use tepui_api::link::{self, to_agent, to_master};
use tepui_api::{proto, recordio};
use tepui_master_core::LinkKey;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::access::permit;
use crate::artifacts::holders;
use crate::connections::PeerAddress;
use crate::owner::Message;
use crate::shared::{Refusal, Shared, method_not_allowed};

/// An agent that comes back reports all its tasks in one record.
const MAX_RECORD_BYTES: usize = 256 << 20;
/// Records that wait are put into one frame up to this size.
const FRAME_BYTES: usize = 64 << 10;

pub(crate) async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if request.method() != Method::POST {
        return method_not_allowed("POST", request.method());
    }
    if let Err(refusal) = permit(&shared, Action::RegisterAgent) {
        return refusal.into_response();
    }
    if request.version() != Version::HTTP_2 {
        let message = "An agent's link needs HTTP/2: both sides send at the same time";
        return Refusal::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, message).into_response();
    }
    let (sender, outgoing) = mpsc::channel(shared.config.link_queue.max(1));
    let link = shared.links.open(sender.downgrade());
    if let Some(PeerAddress(address)) = request.extensions().get() {
        shared.links.came_from(link, *address);
    }
    if shared
        .inbox
        .send(Message::LinkOpened { link, sender })
        .await
        .is_err()
    {
        return Refusal::stopping().into_response();
    }
    let gone = CancellationToken::new();
    tokio::spawn(read(
        Arc::clone(&shared),
        link,
        request.into_body(),
        gone.clone(),
    ));
    let body = LinkBody {
        outgoing,
        _gone: gone.drop_guard(),
    };
    let content_type = [(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/recordio"),
    )];
    (content_type, Body::from_stream(body)).into_response()
}

/// Ends when the agent hangs up, when what it sends makes no sense, or when our half of the link has gone.
async fn read(shared: Arc<Shared>, link: LinkKey, body: Body, gone: CancellationToken) {
    let end = tokio::select! {
        end = read_records(&shared, link, body) => end,
        () = gone.cancelled() => Ok(()),
        () = shared.shutdown.cancelled() => Ok(()),
    };
    if let Err(error) = end {
        tracing::warn!(link = link.0, %error, "an agent's link broke");
    }
    shared.links.close(link);
    // Fails only once the owner has ended.
    let _ = shared.inbox.send(Message::LinkClosed { link }).await;
}

async fn read_records(
    shared: &Arc<Shared>,
    link: LinkKey,
    mut body: Body,
) -> Result<(), LinkError> {
    let mut decoder = recordio::Decoder::new(MAX_RECORD_BYTES);
    let mut registered = false;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(LinkError::Body)?.into_data() else {
            continue;
        };
        decoder.push(data);
        let mut messages = Vec::new();
        while let Some(record) = decoder.next()? {
            let mut message: link::ToMaster = proto::from_bytes(record)?;
            if let Some(to_master::Body::Register(register)) = &mut message.body {
                registered = true;
                let seen_at = shared.links.address(link);
                register.seen_at = seen_at.map(|address| address.to_string());
                let key = shared.artifact_key.as_bytes();
                let key = link::ArtifactKey {
                    key: Bytes::copy_from_slice(key),
                };
                shared.links.tell(link, to_agent::Body::ArtifactKey(key));
            }
            if !registered {
                return Err(LinkError::NotRegistered);
            }
            match message.body {
                Some(to_master::Body::FileChunk(chunk)) => shared.links.route(link, chunk),
                Some(to_master::Body::LocateArtifact(asked)) => {
                    tokio::spawn(holders::answer(Arc::clone(shared), link, asked));
                }
                Some(_) => messages.push(message),
                // A message of a newer agent.
                None => {}
            }
        }
        if !messages.is_empty()
            && shared
                .inbox
                .send(Message::FromAgent { link, messages })
                .await
                .is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("{0}")]
    Body(axum::Error),
    #[error(transparent)]
    Record(#[from] recordio::RecordError),
    #[error(transparent)]
    Message(#[from] tepui_api::required::RequiredError),
    #[error("the agent did not begin with Register")]
    NotRegistered,
}

struct LinkBody {
    outgoing: mpsc::Receiver<Box<link::ToAgent>>,
    /// Dropping the body tells the reader.
    _gone: DropGuard,
}

impl Stream for LinkBody {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(first) = ready!(self.outgoing.poll_recv(context)) else {
            return Poll::Ready(None);
        };
        let mut frame = BytesMut::new();
        recordio::encode_into(&first.encode_to_vec(), &mut frame);
        while frame.len() < FRAME_BYTES
            && let Ok(message) = self.outgoing.try_recv()
        {
            recordio::encode_into(&message.encode_to_vec(), &mut frame);
        }
        Poll::Ready(Some(Ok(frame.freeze())))
    }
}
