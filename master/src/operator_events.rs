//! What the event streams of operators carry: each event is put into a form once, however many read it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tepui_api::media::{self, MediaType};
use tepui_api::recordio;
use tepui_api::v1;
use tepui_api::v1::master::{Event, event, response};
use tepui_master_core::Happening;

use crate::operator;
use crate::stream::Streamed;

/// An event on its way to every operator who listens. The first reader of a form makes it, on the task of its own
/// connection.
#[derive(Debug)]
pub(crate) struct OperatorEvent {
    event: Event,
    json: OnceLock<Bytes>,
    protobuf: OnceLock<Bytes>,
}

impl OperatorEvent {
    pub(crate) fn new(happening: &Happening) -> Arc<Self> {
        Arc::new(Self {
            event: to_wire(happening),
            json: OnceLock::new(),
            protobuf: OnceLock::new(),
        })
    }
}

impl Streamed for Arc<OperatorEvent> {
    fn record(&self, media: MediaType) -> Bytes {
        let form = match media {
            MediaType::Protobuf => &self.protobuf,
            MediaType::Json | MediaType::RecordIo => &self.json,
        };
        form.get_or_init(|| record(media, &self.event)).clone()
    }

    fn heartbeat(media: MediaType) -> Bytes {
        record(media, &of_type(event::Type::Heartbeat))
    }

    fn wants_heartbeat(&self) -> bool {
        false
    }
}

/// The first record of every stream.
pub(crate) fn subscribed(media: MediaType, state: response::GetState, interval: f64) -> Bytes {
    let subscribed = Event {
        subscribed: Some(event::Subscribed {
            get_state: Some(state),
            heartbeat_interval_seconds: Some(interval),
        }),
        ..of_type(event::Type::Subscribed)
    };
    record(media, &subscribed)
}

fn record(media: MediaType, event: &Event) -> Bytes {
    recordio::encode(&media::encode(media, event))
}

fn of_type(kind: event::Type) -> Event {
    Event {
        r#type: Some(kind.into()),
        ..Event::default()
    }
}

fn to_wire(happening: &Happening) -> Event {
    use event::Type;
    match happening {
        Happening::TaskAdded { task, .. } => Event {
            task_added: Some(event::TaskAdded {
                task: v1::Task::clone(task),
            }),
            ..of_type(Type::TaskAdded)
        },
        Happening::TaskUpdated { update, .. } => Event {
            task_updated: Some(event::TaskUpdated::clone(update)),
            ..of_type(Type::TaskUpdated)
        },
        Happening::AgentAdded {
            agent,
            deactivation,
        } => Event {
            agent_added: Some(event::AgentAdded {
                agent: operator::agent(agent, deactivation.as_ref()),
            }),
            ..of_type(Type::AgentAdded)
        },
        Happening::AgentRemoved(id) => Event {
            agent_removed: Some(event::AgentRemoved {
                agent_id: v1::AgentId {
                    value: id.to_string(),
                },
            }),
            ..of_type(Type::AgentRemoved)
        },
        Happening::FrameworkAdded(framework) => Event {
            framework_added: Some(event::FrameworkAdded {
                framework: operator::framework(framework, Vec::new()),
            }),
            ..of_type(Type::FrameworkAdded)
        },
        Happening::FrameworkUpdated { framework, offers } => {
            let offers = offers.iter().map(|offer| v1::Offer::clone(&offer.wire));
            Event {
                framework_updated: Some(event::FrameworkUpdated {
                    framework: operator::framework(framework, offers.collect()),
                }),
                ..of_type(Type::FrameworkUpdated)
            }
        }
        Happening::FrameworkRemoved(info) => Event {
            framework_removed: Some(event::FrameworkRemoved {
                framework_info: v1::FrameworkInfo::clone(info),
            }),
            ..of_type(Type::FrameworkRemoved)
        },
    }
}
