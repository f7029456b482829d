//! The events schedulers hear, and the statuses the master itself makes up.

use tepui_api::v1::scheduler::{Event, event};
use tepui_api::v1::{self, TaskState, task_status};
use tepui_model::{AgentId, ExecutorId, OfferId};

use crate::core::Core;
use crate::framework_info::Capabilities;
use crate::keys::FrameworkKey;
use crate::wire;

pub(crate) fn subscribed(subscribed: event::Subscribed) -> Event {
    Event {
        r#type: Some(event::Type::Subscribed.into()),
        subscribed: Some(subscribed),
        ..Event::default()
    }
}

pub(crate) fn offers(offers: Vec<v1::Offer>) -> Event {
    let offers = Some(event::Offers { offers });
    Event {
        r#type: Some(event::Type::Offers.into()),
        offers,
        ..Event::default()
    }
}

pub(crate) fn rescind(offer: &OfferId) -> Event {
    let rescind = Some(event::Rescind {
        offer_id: v1::OfferId {
            value: offer.as_str().to_owned(),
        },
    });
    Event {
        r#type: Some(event::Type::Rescind.into()),
        rescind,
        ..Event::default()
    }
}

pub(crate) fn inverse_offers(inverse_offers: Vec<v1::InverseOffer>) -> Event {
    let inverse_offers = Some(event::InverseOffers { inverse_offers });
    Event {
        r#type: Some(event::Type::InverseOffers.into()),
        inverse_offers,
        ..Event::default()
    }
}

pub(crate) fn rescind_inverse_offer(inverse_offer_id: v1::OfferId) -> Event {
    let rescind_inverse_offer = Some(event::RescindInverseOffer { inverse_offer_id });
    Event {
        r#type: Some(event::Type::RescindInverseOffer.into()),
        rescind_inverse_offer,
        ..Event::default()
    }
}

pub(crate) fn update(status: v1::TaskStatus) -> Event {
    let update = Some(event::Update { status });
    Event {
        r#type: Some(event::Type::Update.into()),
        update,
        ..Event::default()
    }
}

pub(crate) fn update_operation_status(status: v1::OperationStatus) -> Event {
    let update_operation_status = Some(event::UpdateOperationStatus { status });
    Event {
        r#type: Some(event::Type::UpdateOperationStatus.into()),
        update_operation_status,
        ..Event::default()
    }
}

pub(crate) fn message(agent: &AgentId, executor: v1::ExecutorId, data: bytes::Bytes) -> Event {
    let message = Some(event::Message {
        agent_id: wire::agent_id(agent),
        executor_id: executor,
        data,
    });
    Event {
        r#type: Some(event::Type::Message.into()),
        message,
        ..Event::default()
    }
}

pub(crate) fn agent_failure(agent: &AgentId) -> Event {
    let failure = Some(event::Failure {
        agent_id: Some(wire::agent_id(agent)),
        ..event::Failure::default()
    });
    Event {
        r#type: Some(event::Type::Failure.into()),
        failure,
        ..Event::default()
    }
}

pub(crate) fn executor_failure(agent: &AgentId, executor: &ExecutorId, status: i32) -> Event {
    let failure = Some(event::Failure {
        agent_id: Some(wire::agent_id(agent)),
        executor_id: Some(wire::executor_id(executor)),
        status: Some(status),
    });
    Event {
        r#type: Some(event::Type::Failure.into()),
        failure,
        ..Event::default()
    }
}

pub(crate) fn error(message: impl Into<String>) -> Event {
    let error = Some(event::Error {
        message: message.into(),
    });
    Event {
        r#type: Some(event::Type::Error.into()),
        error,
        ..Event::default()
    }
}

/// The state as a framework may be told it: those that came with PARTITION_AWARE are TASK_LOST to all others.
pub(crate) fn told_state(state: TaskState, capabilities: Capabilities) -> TaskState {
    match state {
        TaskState::TaskDropped
        | TaskState::TaskUnreachable
        | TaskState::TaskGone
        | TaskState::TaskGoneByOperator
        | TaskState::TaskUnknown
            if !capabilities.partition_aware =>
        {
            TaskState::TaskLost
        }
        state => state,
    }
}

impl Core {
    /// A status the master makes up. It has no uuid: nobody acknowledges it, and nobody sends it again.
    pub(crate) fn master_status(
        &self,
        task: v1::TaskId,
        agent: Option<v1::AgentId>,
        state: TaskState,
        reason: task_status::Reason,
        message: impl Into<String>,
    ) -> v1::TaskStatus {
        v1::TaskStatus {
            task_id: task,
            state: state.into(),
            agent_id: agent,
            source: Some(task_status::Source::Master.into()),
            reason: Some(reason.into()),
            message: Some(message.into()),
            timestamp: Some(self.now.wall_secs()),
            ..v1::TaskStatus::default()
        }
    }

    pub(crate) fn send_update(&mut self, framework: FrameworkKey, status: v1::TaskStatus) {
        self.send(framework, update(status));
    }
}
