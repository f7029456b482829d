//! What operators do to agents: deactivate, drain, reactivate, mark gone; and changes of what they manage in general,
//! which are made one after the other, each judged by what the one before it left.

use std::collections::VecDeque;
use std::sync::Arc;

use tepui_api::link::{self, to_agent};
use tepui_api::registry;
use tepui_api::v1::agent_info::capability;
use tepui_api::v1::master::{Call, call};
use tepui_api::v1::{self, DrainState};
use tepui_model::AgentId;

use crate::core::{Core, Pending};
use crate::departure::Marking;
use crate::effect::{Answer, RegistryOperation};
use crate::input::RequestKey;
use crate::keys::AgentKey;
use crate::maintenance::{Maintenance, MaintenanceRefused};
use crate::view::{Deactivation, Drain};
use crate::wire;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ManagementRefused {
    #[error("Expecting '{field}' to be present")]
    Missing { field: &'static str },
    #[error("Agent {0} is not known")]
    NoAgent(String),
    #[error("Agent {0} is not known")]
    NoAgentToMarkGone(String),
    #[error("Agent {0} has been marked gone")]
    Gone(String),
    #[error("Agent {0} is currently being marked gone")]
    BeingMarkedGone(String),
    #[error("Agent {0} is currently being marked unreachable or gone; try again")]
    Busy(String),
    #[error(
        "Agent {0} is on a machine with a maintenance schedule; take that out of the schedule before it is drained"
    )]
    InMaintenance(String),
    #[error("Agent {0} does not have the AGENT_DRAINING capability")]
    CannotDrain(String),
    #[error("'drain_agent.max_grace_period' is negative or too large")]
    GracePeriod,
    #[error("Agent {0} is not deactivated")]
    NotDeactivated(String),
    #[error("Agent {0} is still draining; it can be reactivated once it is drained")]
    Draining(String),
    #[error(transparent)]
    Maintenance(#[from] MaintenanceRefused),
}

impl ManagementRefused {
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::BeingMarkedGone(_) => 409,
            Self::Busy(_) => 503,
            Self::NoAgentToMarkGone(_) => 404,
            _ => 400,
        }
    }
}

/// What is different once it is on disk.
#[derive(Debug)]
pub(crate) enum Change {
    Deactivated(AgentId, Deactivation),
    Reactivated(AgentId),
    Maintenance(Box<Maintenance>),
}

/// Changes that wait for the one before them.
#[derive(Debug, Default)]
pub(crate) struct Management {
    under_way: bool,
    waiting: VecDeque<(RequestKey, Call)>,
}

type Planned = Result<(RegistryOperation, Change), ManagementRefused>;

impl Core {
    pub(crate) fn manage(&mut self, request: RequestKey, call: Call) {
        self.management.waiting.push_back((request, call));
        self.manage_next();
    }

    fn manage_next(&mut self) {
        while !self.management.under_way
            && let Some((request, call)) = self.management.waiting.pop_front()
        {
            match self.plan_change(call) {
                Ok((operation, change)) => self.begin_change(operation, change, Some(request)),
                Err(refused) => self.refuse(request, refused.status(), refused.to_string()),
            }
        }
    }

    fn begin_change(
        &mut self,
        operation: RegistryOperation,
        change: Change,
        asked: Option<RequestKey>,
    ) {
        self.management.under_way = true;
        self.persist(vec![operation], Pending::Change { change, asked });
    }

    pub(crate) fn on_change_persisted(&mut self, change: Change, asked: Option<RequestKey>) {
        self.management.under_way = false;
        match change {
            Change::Deactivated(id, deactivation) => self.on_deactivated(id, deactivation),
            Change::Reactivated(id) => self.on_reactivated(&id),
            Change::Maintenance(maintenance) => self.on_maintenance_changed(*maintenance),
        }
        if let Some(request) = asked {
            self.answer(request, Answer::Done);
        }
        self.manage_next();
    }

    fn plan_change(&self, call: Call) -> Planned {
        match call.r#type() {
            call::Type::DrainAgent => self.plan_drain(present("drain_agent", call.drain_agent)?),
            call::Type::DeactivateAgent => {
                let deactivate = present("deactivate_agent", call.deactivate_agent)?;
                let id = self.manageable(&deactivate.agent_id)?;
                let known = self.deactivated_agents.get(&id).cloned();
                Ok(deactivation(id, known.unwrap_or_default()))
            }
            call::Type::ReactivateAgent => {
                self.plan_reactivation(present("reactivate_agent", call.reactivate_agent)?)
            }
            call::Type::UpdateMaintenanceSchedule => {
                let field = "update_maintenance_schedule";
                let update = present(field, call.update_maintenance_schedule)?;
                Ok(maintained(self.maintenance.rescheduled(update.schedule)?))
            }
            call::Type::StartMaintenance => {
                let start = present("start_maintenance", call.start_maintenance)?;
                Ok(maintained(self.maintenance.started(&start.machines)?))
            }
            _ => {
                let stop = present("stop_maintenance", call.stop_maintenance)?;
                Ok(maintained(self.maintenance.stopped(&stop.machines)?))
            }
        }
    }

    /// The id of an agent that may come back, or is here.
    fn manageable(&self, id: &v1::AgentId) -> Result<AgentId, ManagementRefused> {
        let named = || id.value.clone();
        let id = AgentId::from(id.value.as_str());
        if self.marking.get(&id) == Some(&Marking::Gone) {
            return Err(ManagementRefused::BeingMarkedGone(named()));
        }
        if self.gone_agents.contains_key(&id) {
            return Err(ManagementRefused::Gone(named()));
        }
        if self.is_known(&id) {
            Ok(id)
        } else {
            Err(ManagementRefused::NoAgent(named()))
        }
    }

    pub(crate) fn is_known(&self, id: &AgentId) -> bool {
        self.agent_by_id.contains_key(id)
            || self.recovered_agents.contains_key(id)
            || self.unreachable_agents.contains_key(id)
    }

    fn plan_drain(&self, drain: call::DrainAgent) -> Planned {
        let id = self.manageable(&drain.agent_id)?;
        if let Some(agent) = self.agent_by_id.get(&id).copied() {
            if self.unavailability(agent).is_some() {
                return Err(ManagementRefused::InMaintenance(id.to_string()));
            }
            let can_drain = |capability: &v1::agent_info::Capability| {
                capability.r#type() == capability::Type::AgentDraining
            };
            if !self.agents[agent].capabilities.iter().any(can_drain) {
                return Err(ManagementRefused::CannotDrain(id.to_string()));
            }
        }
        let max_grace_period = drain.max_grace_period;
        let max_grace_period = max_grace_period
            .map(|period| nanoseconds(period.seconds, period.nanos))
            .transpose()?;
        let config = v1::DrainConfig {
            max_grace_period: max_grace_period.map(|nanoseconds| v1::DurationInfo { nanoseconds }),
            mark_gone: Some(drain.mark_gone()),
        };
        Ok(deactivation(
            id,
            Deactivation {
                drain: Some(Drain {
                    info: v1::DrainInfo {
                        state: DrainState::Draining.into(),
                        config,
                    },
                    started_ns: self.now.wall_ns,
                }),
            },
        ))
    }

    fn plan_reactivation(&self, reactivate: call::ReactivateAgent) -> Planned {
        let id = self.manageable(&reactivate.agent_id)?;
        let known = self.deactivated_agents.get(&id);
        let known = known.ok_or_else(|| ManagementRefused::NotDeactivated(id.to_string()))?;
        if known.draining().is_some() {
            return Err(ManagementRefused::Draining(id.to_string()));
        }
        let key = deactivated_key(&id);
        Ok((RegistryOperation::Delete { key }, Change::Reactivated(id)))
    }

    fn on_deactivated(&mut self, id: AgentId, deactivation: Deactivation) {
        if !self.is_known(&id) {
            // It was marked gone or forgotten in the meantime.
            let key = deactivated_key(&id);
            self.persist(vec![RegistryOperation::Delete { key }], Pending::Nothing);
            return;
        }
        Arc::make_mut(&mut self.deactivated_agents).insert(id.clone(), deactivation);
        if let Some(agent) = self.agent_by_id.get(&id).copied() {
            self.agents[agent].active = false;
            self.allocator.set_agent_active(agent.into(), false);
            self.rescind_offers_of_agent(agent);
            self.tell_of_drain(agent);
        }
    }

    fn on_reactivated(&mut self, id: &AgentId) {
        Arc::make_mut(&mut self.deactivated_agents).remove(id);
        if let Some(agent) = self.agent_by_id.get(id).copied() {
            let active = self.agents[agent].connected;
            self.agents[agent].active = active;
            self.allocator.set_agent_active(agent.into(), active);
        }
    }

    /// What a draining agent has to know; nothing if it is not draining.
    pub(crate) fn drain_config(&self, id: &AgentId) -> Option<v1::DrainConfig> {
        self.deactivated_agents.get(id)?.draining().copied()
    }

    fn tell_of_drain(&mut self, agent: AgentKey) {
        let config = self.drain_config(&self.agents[agent].id);
        self.send_to_agent(agent, to_agent::Body::Drain(link::Drain { config }));
    }

    /// Agents on which the last task ended while they were draining are drained, or gone if that was asked for.
    pub(crate) fn settle_drains(&mut self) {
        let drained = self
            .deactivated_agents
            .iter()
            .find_map(|(id, deactivation)| {
                let config = deactivation.draining()?;
                let agent = *self.agent_by_id.get(id)?;
                let idle = self.agents[agent].connected
                    && self.is_idle(agent)
                    && self.agent_states[&agent].operations.is_empty()
                    && !self.marking.contains_key(id)
                    && (config.mark_gone() || !self.management.under_way);
                idle.then(|| (id.clone(), deactivation.clone()))
            });
        let Some((
            id,
            Deactivation {
                drain: Some(mut drain),
            },
        )) = drained
        else {
            return;
        };
        if drain.info.config.mark_gone() {
            self.mark_gone(id, None);
        } else {
            drain.info.state = DrainState::Drained.into();
            let (operation, change) = deactivation(id, Deactivation { drain: Some(drain) });
            self.begin_change(operation, change, None);
        }
    }

    /// Nothing is left on the agent that has not ended and been acknowledged.
    fn is_idle(&self, agent: AgentKey) -> bool {
        self.agent_states[&agent].tasks.is_empty()
    }

    /// MARK_AGENT_GONE.
    pub(crate) fn mark_agent_gone(
        &mut self,
        request: RequestKey,
        id: &v1::AgentId,
    ) -> Result<(), ManagementRefused> {
        let id = AgentId::from(id.value.as_str());
        if self.gone_agents.contains_key(&id) {
            self.answer(request, Answer::Done);
            return Ok(());
        }
        if self.marking.contains_key(&id) {
            return Err(ManagementRefused::Busy(id.to_string()));
        }
        if !self.is_known(&id) {
            return Err(ManagementRefused::NoAgentToMarkGone(id.to_string()));
        }
        self.mark_gone(id, Some(request));
        Ok(())
    }
}

fn present<T>(field: &'static str, value: Option<T>) -> Result<T, ManagementRefused> {
    value.ok_or(ManagementRefused::Missing { field })
}

fn nanoseconds(seconds: i64, nanos: i32) -> Result<i64, ManagementRefused> {
    let whole = seconds.checked_mul(1_000_000_000);
    whole
        .and_then(|whole| whole.checked_add(i64::from(nanos)))
        .filter(|nanoseconds| *nanoseconds >= 0)
        .ok_or(ManagementRefused::GracePeriod)
}

pub(crate) fn deactivated_key(id: &AgentId) -> String {
    format!("deactivated/{id}")
}

fn deactivation(id: AgentId, deactivation: Deactivation) -> (RegistryOperation, Change) {
    let drain = deactivation.drain.as_ref();
    let record = registry::Deactivated {
        drain_info: drain.map(|drain| drain.info),
        drain_start_time: drain.map(|drain| wire::time(drain.started_ns)),
    };
    (
        wire::put(deactivated_key(&id), &record),
        Change::Deactivated(id, deactivation),
    )
}

fn maintained(maintenance: Maintenance) -> (RegistryOperation, Change) {
    (
        wire::put("maintenance".to_owned(), &maintenance.record()),
        Change::Maintenance(Box::new(maintenance)),
    )
}
