//! What every reader of the messages asks of them: is this task over, which roles does this framework have. The answers
//! live here so that master, agent and sdks cannot give different ones.

use std::fmt;

use bytes::Bytes;

use crate::v1;
use crate::v1::framework_info::capability;
use crate::v1::task_status::{Reason, Source};

impl v1::TaskState {
    /// Whether the task is over for good. UNREACHABLE and UNKNOWN tasks may come back.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::TaskFinished
            | Self::TaskFailed
            | Self::TaskKilled
            | Self::TaskError
            | Self::TaskLost
            | Self::TaskDropped
            | Self::TaskGone
            | Self::TaskGoneByOperator => true,
            Self::TaskStaging
            | Self::TaskStarting
            | Self::TaskRunning
            | Self::TaskKilling
            | Self::TaskUnreachable
            | Self::TaskUnknown => false,
        }
    }
}

macro_rules! display_wire_name {
    ($($type:ty),+) => {
        $(impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(self.as_str_name())
            }
        })+
    };
}

display_wire_name!(
    v1::TaskState,
    Reason,
    Source,
    capability::Type,
    v1::DrainState,
    v1::OperationState
);

macro_rules! display_value {
    ($($type:ty),+) => {
        $(impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&self.value)
            }
        })+
    };
}

display_value!(
    v1::AgentId,
    v1::FrameworkId,
    v1::TaskId,
    v1::ExecutorId,
    v1::OfferId,
    v1::OperationId
);

impl v1::TaskStatus {
    pub fn new(task_id: impl Into<v1::TaskId>, state: v1::TaskState) -> Self {
        Self {
            task_id: task_id.into(),
            state: state.into(),
            ..Self::default()
        }
    }

    #[must_use]
    pub fn with_reason(mut self, reason: Reason) -> Self {
        self.reason = Some(reason.into());
        self
    }

    #[must_use]
    pub fn with_source(mut self, source: Source) -> Self {
        self.source = Some(source.into());
        self
    }

    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    #[must_use]
    pub fn with_agent(mut self, agent_id: impl Into<v1::AgentId>) -> Self {
        self.agent_id = Some(agent_id.into());
        self
    }

    #[must_use]
    pub fn with_executor(mut self, executor_id: impl Into<v1::ExecutorId>) -> Self {
        self.executor_id = Some(executor_id.into());
        self
    }

    /// Seconds since 1970.
    #[must_use]
    pub fn with_timestamp(mut self, seconds: f64) -> Self {
        self.timestamp = Some(seconds);
        self
    }

    /// Statuses with a uuid are acknowledged; so only those that an agent or executor reports may have one.
    #[must_use]
    pub fn with_uuid(mut self, uuid: impl Into<Bytes>) -> Self {
        self.uuid = Some(uuid.into());
        self
    }

    /// The state, unless its number is not known here.
    pub fn known_state(&self) -> Option<v1::TaskState> {
        v1::TaskState::try_from(self.state).ok()
    }

    pub fn is_terminal(&self) -> bool {
        self.known_state().is_some_and(v1::TaskState::is_terminal)
    }
}

impl v1::FrameworkInfo {
    pub fn has_capability(&self, wanted: capability::Type) -> bool {
        self.capabilities
            .iter()
            .any(|capability| capability.r#type == Some(wanted.into()))
    }
}

/// The roles a framework may be offered resources for: `roles` if it can have several, else `role`, which is `*` unless
/// set.
pub fn roles_of(framework: &v1::FrameworkInfo) -> Vec<String> {
    if framework.has_capability(capability::Type::MultiRole) {
        framework.roles.clone()
    } else {
        vec![framework.role.clone().unwrap_or_else(|| "*".to_owned())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_eight_states_are_final() {
        let finals: Vec<&str> = (0..=13)
            .filter_map(|number| v1::TaskState::try_from(number).ok())
            .filter(|state| state.is_terminal())
            .map(|state| state.as_str_name())
            .collect();
        assert_eq!(
            finals,
            [
                "TASK_FINISHED",
                "TASK_FAILED",
                "TASK_KILLED",
                "TASK_LOST",
                "TASK_ERROR",
                "TASK_DROPPED",
                "TASK_GONE",
                "TASK_GONE_BY_OPERATOR"
            ]
        );
    }

    #[test]
    fn states_and_ids_are_shown_as_on_the_wire() {
        let id = v1::TaskId {
            value: "t".to_owned(),
        };
        assert_eq!(
            format!("{} {:>13}", id, v1::TaskState::TaskRunning),
            "t  TASK_RUNNING"
        );
    }

    #[test]
    fn a_status_is_built_step_by_step() {
        let status = v1::TaskStatus::new(
            v1::TaskId {
                value: "t".to_owned(),
            },
            v1::TaskState::TaskLost,
        )
        .with_reason(Reason::AgentRemoved)
        .with_source(Source::Master)
        .with_message("the agent is gone")
        .with_timestamp(1.5);
        assert_eq!(
            crate::json::to_string(&status),
            r#"{"task_id":{"value":"t"},"state":"TASK_LOST","message":"the agent is gone","timestamp":1.5,"source":"SOURCE_MASTER","reason":"REASON_AGENT_REMOVED"}"#
        );
        assert!(status.is_terminal());
    }

    #[test]
    fn roles_come_from_the_field_that_the_capabilities_say() {
        let mut framework = v1::FrameworkInfo {
            roles: vec!["a".to_owned(), "b".to_owned()],
            ..Default::default()
        };
        assert_eq!(roles_of(&framework), ["*"]);
        framework.role = Some("c".to_owned());
        assert_eq!(roles_of(&framework), ["c"]);
        framework.capabilities.push(v1::framework_info::Capability {
            r#type: Some(capability::Type::MultiRole.into()),
        });
        assert_eq!(roles_of(&framework), ["a", "b"]);
    }
}
