//! The body of a scheduler's event stream: one record per chunk, heartbeats in between.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tepui_api::media::{self, MediaType};
use tepui_api::recordio;
use tepui_api::v1::scheduler::{Event, event};
use tepui_master_core::StreamKey;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};

pub(crate) struct EventBody {
    events: mpsc::Receiver<Event>,
    media: MediaType,
    heartbeats: Interval,
    /// Clients take the first heartbeat as the sign that they are subscribed; it follows SUBSCRIBED at once.
    heartbeat_due: bool,
    stream: StreamKey,
    closed: mpsc::UnboundedSender<StreamKey>,
}

impl EventBody {
    pub(crate) fn new(
        events: mpsc::Receiver<Event>,
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
            events,
            media,
            heartbeats,
            heartbeat_due: false,
            stream,
            closed,
        }
    }

    fn record(&self, event: &Event) -> Bytes {
        recordio::encode(&media::encode(self.media, event))
    }

    fn heartbeat(&self) -> Bytes {
        self.record(&Event {
            r#type: Some(event::Type::Heartbeat.into()),
            ..Event::default()
        })
    }
}

impl Stream for EventBody {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.heartbeat_due) {
            self.heartbeats.reset();
            return Poll::Ready(Some(Ok(self.heartbeat())));
        }
        // Before the events, or a busy stream would have none.
        if self.heartbeats.poll_tick(context).is_ready() {
            return Poll::Ready(Some(Ok(self.heartbeat())));
        }
        let Some(event) = ready!(self.events.poll_recv(context)) else {
            return Poll::Ready(None);
        };
        self.heartbeat_due = event.r#type() == event::Type::Subscribed;
        Poll::Ready(Some(Ok(self.record(&event))))
    }
}

impl Drop for EventBody {
    fn drop(&mut self) {
        // However the body ended, the core must know; after the end of the master nobody listens.
        let _ = self.closed.send(self.stream);
    }
}
