//! What a scheduler hears.

use std::sync::Arc;

use bytes::Bytes;
use tepui_api::v1::scheduler as wire;
use tepui_api::v1::{
    AgentId, ExecutorId, FrameworkId, InverseOffer, MasterInfo, Offer, OfferId, OperationStatus,
    TaskStatus,
};
use tokio::sync::mpsc;

use crate::error::Error;
use crate::shared::Shared;

/// What a scheduler must know.
#[derive(Debug, Clone, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "events are moved twice, and updates are the most frequent of them: a box each would cost more"
)]
pub enum Event {
    /// The subscription stands; calls are possible from here on. Always the first event, unless it is [`Event::Error`].
    Subscribed {
        /// The framework's id, to be kept if another process shall be able to take the framework over.
        framework_id: FrameworkId,
        /// The master, if it says who it is.
        master: Option<MasterInfo>,
        /// The framework was subscribed before, by this process or (its id was configured) by an earlier one. Offers from
        /// before are void. An UPDATE for each of its tasks follows, for the SDK has asked the master to reconcile.
        again: bool,
    },
    /// Resources to use or decline. They stay out of other hands until then.
    Offers(Vec<Offer>),
    /// The master wants resources back, for maintenance.
    InverseOffers(Vec<InverseOffer>),
    /// An offer is void.
    Rescinded(OfferId),
    /// An inverse offer is void.
    InverseOfferRescinded(OfferId),
    /// A task's state. If it carries a `uuid`, it is acknowledged as [`Acknowledge`](crate::Acknowledge) says.
    Update(TaskStatus),
    /// The state of an operation that was given an id. These are never acknowledged automatically: send
    /// ACKNOWLEDGE_OPERATION_STATUS with [`Scheduler::call`](crate::Scheduler::call) if it has a `uuid`.
    OperationUpdate(OperationStatus),
    /// Bytes from an executor, which may get lost on the way. Those of wasm tasks are an
    /// [`Envelope`](crate::Envelope), which names the task.
    Message {
        /// Where the executor runs.
        agent_id: AgentId,
        /// Which it is.
        executor_id: ExecutorId,
        /// What it says.
        data: Bytes,
    },
    /// An agent is gone (no `executor_id`) or an executor has ended.
    Failure {
        /// The agent.
        agent_id: Option<AgentId>,
        /// The executor that ended.
        executor_id: Option<ExecutorId>,
        /// How the executor ended, as wait(2) has it; -1 if that is not known.
        status: Option<i32>,
    },
    /// The subscription is lost and is being renewed. Calls fail until the next [`Event::Subscribed`].
    Disconnected {
        /// How it was lost.
        why: String,
    },
    /// The end: no event follows.
    Error(Error),
}

impl Event {
    /// `None` for a HEARTBEAT, an event of a type not known here, or one without its content.
    pub(crate) fn from_wire(event: wire::Event) -> Option<Self> {
        use wire::event::Type;
        match event.r#type() {
            // SUBSCRIBED and ERROR are the driver's business.
            Type::Subscribed | Type::Error | Type::Heartbeat | Type::Unknown => None,
            Type::Offers => event.offers.map(|offers| Self::Offers(offers.offers)),
            Type::InverseOffers => event
                .inverse_offers
                .map(|offers| Self::InverseOffers(offers.inverse_offers)),
            Type::Rescind => event.rescind.map(|gone| Self::Rescinded(gone.offer_id)),
            Type::RescindInverseOffer => event
                .rescind_inverse_offer
                .map(|gone| Self::InverseOfferRescinded(gone.inverse_offer_id)),
            Type::Update => event.update.map(|update| Self::Update(update.status)),
            Type::UpdateOperationStatus => event
                .update_operation_status
                .map(|update| Self::OperationUpdate(update.status)),
            Type::Message => event.message.map(|message| Self::Message {
                agent_id: message.agent_id,
                executor_id: message.executor_id,
                data: message.data,
            }),
            Type::Failure => event.failure.map(|failure| Self::Failure {
                agent_id: failure.agent_id,
                executor_id: failure.executor_id,
                status: failure.status,
            }),
        }
    }
}

/// The events, in order. Dropping it ends the subscription; the master then waits the framework's `failover_timeout` for
/// somebody to take over before it ends the tasks.
pub struct Events {
    pub(crate) receiver: mpsc::Receiver<Event>,
    /// Where statuses to acknowledge go; `None` if that is the caller's business.
    pub(crate) acknowledgements: Option<mpsc::UnboundedSender<wire::Call>>,
    pub(crate) shared: Arc<Shared>,
}

impl Events {
    /// The next event. `None` after [`Event::Error`] and after [`Scheduler::teardown`](crate::Scheduler::teardown).
    ///
    /// A caller that leaves some thousand events waiting is disconnected by the master in the end. May be cancelled: no
    /// event gets lost.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.receiver.recv().await?;
        if let (Event::Update(status), Some(acknowledgements)) = (&event, &self.acknowledgements)
            && let Some(call) = self.shared.acknowledgement(status)
        {
            // Nobody takes them any more once the subscription has ended.
            drop(acknowledgements.send(call));
        }
        Some(event)
    }
}
