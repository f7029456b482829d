//! The subscription: made, read, lost, renewed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper::Uri;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use tepui_api::recordio::Decoder;
use tepui_api::v1::scheduler::{self as wire, Call, call, event};
use tokio::sync::mpsc;

use crate::backoff::Backoff;
use crate::error::Error;
use crate::event::{Event, Events};
use crate::scheduler::Scheduler;
use crate::shared::{Session, Shared};
use crate::transport::{STREAM_ID, TransportError, chain};
use crate::{Acknowledge, Config, address};

/// So many heartbeats may be missing before a stream counts as dead.
const HEARTBEATS_MISSED: u32 = 5;
/// The interval of heartbeats if the master does not say.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Events kept for a caller that is busy. When they are so many the stream is read no further.
const EVENTS_WAITING: usize = 4096;
/// The longest event that is taken. A hundred thousand offers are well below this; more is a damaged stream.
const EVENT_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Acknowledgements under way at once, each on a connection of its own.
const ACKNOWLEDGEMENTS_AT_ONCE: usize = 8;

/// Subscribes and keeps subscribed until the [`Events`] are dropped, a fatal [`Event::Error`], or
/// [`Scheduler::teardown`]. Must be called within a tokio runtime; returns at once.
pub fn connect(config: Config) -> (Scheduler, Events) {
    let shared = Arc::new(Shared::new(
        config.credential.as_ref(),
        config.framework,
        config.suppressed_roles,
    ));
    shared.constrain(config.offer_constraints);
    let (sender, receiver) = mpsc::channel(EVENTS_WAITING);
    let acknowledgements = match config.acknowledge {
        Acknowledge::Manual => None,
        Acknowledge::Automatic => {
            let (sender, receiver) = mpsc::unbounded_channel();
            tokio::spawn(acknowledge(Arc::clone(&shared), receiver));
            Some(sender)
        }
    };
    let driver = Driver {
        shared: Arc::clone(&shared),
        events: sender,
        master: config.master,
        backoff: Backoff::new(config.backoff_max),
        give_up_after: config.give_up_after,
    };
    tokio::spawn(driver.run());
    let scheduler = Scheduler {
        shared: Arc::clone(&shared),
    };
    (
        scheduler,
        Events {
            receiver,
            acknowledgements,
            shared,
        },
    )
}

async fn acknowledge(shared: Arc<Shared>, mut calls: mpsc::UnboundedReceiver<Call>) {
    futures::stream::poll_fn(move |context| calls.poll_recv(context))
        .for_each_concurrent(ACKNOWLEDGEMENTS_AT_ONCE, |call| async {
            if let Err(error) = shared.call(call).await {
                // The agent will send the update again.
                tracing::debug!(%error, "an update could not be acknowledged");
            }
        })
        .await;
}

struct Driver {
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
    master: String,
    backoff: Backoff,
    give_up_after: Option<Duration>,
}

/// How one subscription, or the attempt at one, ended.
enum Ended {
    /// It may be tried again.
    Lost {
        was_subscribed: bool,
        why: String,
    },
    Fatal(Error),
    /// Nobody listens any more.
    Unheard,
}

/// A stream the master has opened.
struct Stream {
    body: Incoming,
    decoder: Decoder,
    master: Uri,
    stream_id: HeaderValue,
}

impl Driver {
    async fn run(mut self) {
        let events = self.events.clone();
        let shared = Arc::clone(&self.shared);
        let why = tokio::select! {
            ended = self.keep_subscribed() => match ended {
                Ok(()) => "the framework was torn down".to_owned(),
                Err(error) => {
                    tracing::error!(%error, "the subscription has ended for good");
                    let why = error.to_string();
                    // Said before the event is, so that whoever hears the event finds it so.
                    shared.set_session(Session::Away(why.clone()));
                    drop(events.send(Event::Error(error)).await);
                    why
                }
            },
            () = events.closed() => "the events were dropped, and the subscription with them".to_owned(),
        };
        shared.set_session(Session::Away(why));
    }

    async fn keep_subscribed(&mut self) -> Result<(), Error> {
        let configured = address::parse(&self.master).map_err(|why| Error::Address {
            master: self.master.clone(),
            why,
        })?;
        let mut alone_since = Instant::now();
        loop {
            // Always the configured master first: the one it last led to may be what has died.
            let (was_subscribed, why) = match self.session(&configured).await {
                Ended::Fatal(_) | Ended::Lost { .. } if self.shared.tearing_down() => return Ok(()),
                Ended::Unheard => return Ok(()),
                Ended::Fatal(error) => return Err(error),
                Ended::Lost {
                    was_subscribed,
                    why,
                } => (was_subscribed, why),
            };
            if was_subscribed {
                tracing::warn!(why, "the subscription is lost");
                self.backoff.reset();
                alone_since = Instant::now();
                self.shared
                    .set_session(Session::Away(format!("not subscribed: {why}")));
                if self
                    .events
                    .send(Event::Disconnected { why: why.clone() })
                    .await
                    .is_err()
                {
                    return Ok(());
                }
            } else {
                tracing::debug!(why, "no subscription yet");
            }
            let mut pause = self.backoff.pause();
            if let Some(patience) = self.give_up_after {
                let left = patience.saturating_sub(alone_since.elapsed());
                if left.is_zero() {
                    return Err(Error::GaveUp {
                        after: patience,
                        why,
                    });
                }
                pause = pause.min(left);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// One subscription from its beginning to its end.
    async fn session(&mut self, master: &Uri) -> Ended {
        let not_yet = |why: String| Ended::Lost {
            was_subscribed: false,
            why,
        };
        let again = self.shared.framework_id().is_some();
        let answer = match self
            .shared
            .transport
            .post(master, None, self.shared.subscribe())
            .await
        {
            Ok(answer) => answer,
            Err(TransportError::Refused { status, message }) if (400..500).contains(&status) => {
                return Ended::Fatal(Error::Refused { status, message });
            }
            Err(TransportError::Refused { status, message }) => {
                return not_yet(format!("the master answered {status}: {message}"));
            }
            Err(error) => return not_yet(error.to_string()),
        };
        let Some(stream_id) = answer.response.headers().get(STREAM_ID).cloned() else {
            return not_yet("the master's answer lacks the header Mesos-Stream-Id".to_owned());
        };
        let stream = Stream {
            body: answer.response.into_body(),
            decoder: Decoder::new(EVENT_BYTES_MAX),
            master: answer.from,
            stream_id,
        };
        self.read(stream, again).await
    }

    async fn read(&mut self, mut stream: Stream, again: bool) -> Ended {
        let mut was_subscribed = false;
        let mut patience = HEARTBEAT * HEARTBEATS_MISSED;
        loop {
            let lost = |why: String| Ended::Lost {
                was_subscribed,
                why,
            };
            let data = match tokio::time::timeout(patience, stream.body.frame()).await {
                Err(_) => {
                    return lost(format!(
                        "the master was silent for {} s",
                        patience.as_secs_f64()
                    ));
                }
                Ok(None) => return lost("the master closed the stream".to_owned()),
                Ok(Some(Err(error))) => {
                    return lost(format!("the stream broke: {}", chain(&error)));
                }
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => data,
                    Err(_) => continue,
                },
            };
            let events = match decode(&mut stream.decoder, data) {
                Ok(events) => events,
                Err(why) => return lost(why),
            };
            for event in events {
                let said = match (event.r#type(), event.subscribed.is_some()) {
                    (event::Type::Subscribed, true) => {
                        let subscribed = event.subscribed.expect("it was just looked at");
                        was_subscribed = true;
                        patience = silence(subscribed.heartbeat_interval_seconds);
                        self.shared.subscribed(
                            subscribed.framework_id.clone(),
                            stream.master.clone(),
                            stream.stream_id.clone(),
                        );
                        if again {
                            tokio::spawn(reconcile(Arc::clone(&self.shared)));
                        }
                        Some(Event::Subscribed {
                            framework_id: subscribed.framework_id,
                            master: subscribed.master_info,
                            again,
                        })
                    }
                    (event::Type::Error, _) => {
                        let message = event.error.map(|error| error.message).unwrap_or_default();
                        return Ended::Fatal(Error::Ended { message });
                    }
                    _ => Event::from_wire(event),
                };
                let Some(said) = said else { continue };
                if self.events.send(said).await.is_err() {
                    return Ended::Unheard;
                }
            }
        }
    }
}

/// Asks for the state of every task: what happened while nobody listened was perhaps said only once.
async fn reconcile(shared: Arc<Shared>) {
    let call = Call {
        r#type: Some(call::Type::Reconcile as i32),
        reconcile: Some(call::Reconcile::default()),
        ..Call::default()
    };
    if let Err(error) = shared.call(call).await {
        tracing::warn!(%error, "the tasks could not be reconciled");
    }
}

fn decode(decoder: &mut Decoder, data: Bytes) -> Result<Vec<wire::Event>, String> {
    decoder.push(data);
    let mut events = Vec::new();
    while let Some(record) = decoder
        .next()
        .map_err(|error| format!("the master's stream is damaged: {error}"))?
    {
        let event = tepui_api::proto::from_bytes(record)
            .map_err(|error| format!("an event of the master does not parse: {error}"))?;
        events.push(event);
    }
    Ok(events)
}

/// How long a stream may be silent, given the interval of its heartbeats in seconds.
fn silence(interval: Option<f64>) -> Duration {
    let interval = interval
        .filter(|seconds| *seconds > 0.0)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .unwrap_or(HEARTBEAT);
    interval.saturating_mul(HEARTBEATS_MISSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_may_be_silent_for_five_heartbeats() {
        assert_eq!(silence(Some(2.0)), Duration::from_secs(10));
        for odd in [
            None,
            Some(0.0),
            Some(-1.0),
            Some(f64::NAN),
            Some(f64::INFINITY),
        ] {
            assert_eq!(silence(odd), Duration::from_secs(75));
        }
    }
}
