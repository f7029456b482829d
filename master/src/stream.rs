//! The body of an event stream: one record per chunk, heartbeats in between.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use prost::Message as _;
use tepui_api::media::{self, MediaType};
use tepui_api::recordio;
use tepui_api::v1::scheduler::{Event, event};
use tepui_master_core::StreamKey;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};

use crate::feed;

/// What an event stream is made of.
pub(crate) trait Streamed: Send + Unpin + 'static {
    /// As one record.
    fn record(&self, media: MediaType) -> Bytes;

    fn heartbeat(media: MediaType) -> Bytes;

    /// Whether a heartbeat comes straight after it.
    fn wants_heartbeat(&self) -> bool;
}

/// An event as it waits for its reader: in protobuf, which takes a small part of the room that the message takes.
#[derive(Debug)]
pub(crate) struct SchedulerEvent {
    encoded: Bytes,
    is_subscribed: bool,
}

impl SchedulerEvent {
    pub(crate) fn new(event: &Event) -> Self {
        Self {
            encoded: event.encode_to_vec().into(),
            is_subscribed: event.r#type() == event::Type::Subscribed,
        }
    }
}

impl Streamed for SchedulerEvent {
    fn record(&self, media: MediaType) -> Bytes {
        match media {
            MediaType::Protobuf => recordio::encode(&self.encoded),
            MediaType::Json | MediaType::RecordIo => {
                let event = Event::decode(self.encoded.clone())
                    .expect("an event that was encoded here can be decoded");
                recordio::encode(&media::encode(media, &event))
            }
        }
    }

    fn heartbeat(media: MediaType) -> Bytes {
        let heartbeat = Event {
            r#type: Some(event::Type::Heartbeat.into()),
            ..Event::default()
        };
        Self::new(&heartbeat).record(media)
    }

    /// Clients take the first heartbeat as the sign that they are subscribed.
    fn wants_heartbeat(&self) -> bool {
        self.is_subscribed
    }
}

pub(crate) struct EventBody<E> {
    /// A record that comes before all events.
    first: Option<Bytes>,
    events: feed::Receiver<E>,
    media: MediaType,
    heartbeats: Interval,
    heartbeat_due: bool,
    stream: StreamKey,
    closed: mpsc::UnboundedSender<StreamKey>,
}

impl<E: Streamed> EventBody<E> {
    pub(crate) fn new(
        events: feed::Receiver<E>,
        media: MediaType,
        interval: Duration,
        stream: StreamKey,
        closed: mpsc::UnboundedSender<StreamKey>,
    ) -> Self {
        let interval = interval.max(Duration::from_millis(1));
        let mut heartbeats =
            tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            first: None,
            events,
            media,
            heartbeats,
            heartbeat_due: false,
            stream,
            closed,
        }
    }

    pub(crate) fn beginning_with(mut self, record: Bytes) -> Self {
        self.first = Some(record);
        self
    }
}

impl<E: Streamed> Stream for EventBody<E> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        if std::mem::take(&mut self.heartbeat_due) {
            self.heartbeats.reset();
            return Poll::Ready(Some(Ok(E::heartbeat(self.media))));
        }
        // Before the events, or a busy stream would have none.
        if self.heartbeats.poll_tick(context).is_ready() {
            return Poll::Ready(Some(Ok(E::heartbeat(self.media))));
        }
        let Some(event) = ready!(self.events.poll_recv(context)) else {
            return Poll::Ready(None);
        };
        self.heartbeat_due = event.wants_heartbeat();
        Poll::Ready(Some(Ok(event.record(self.media))))
    }
}

impl<E> Drop for EventBody<E> {
    fn drop(&mut self) {
        // However the body ended, the core must know; after the end of the master nobody listens.
        let _ = self.closed.send(self.stream);
    }
}
