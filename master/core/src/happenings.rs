//! What the event streams of operators are told, in the order in which it happens.

use std::sync::Arc;

use tepui_api::v1::master::event;
use tepui_api::v1::{self, task_status::Reason};
use tepui_model::AgentId;

use crate::core::Core;
use crate::effect::Effect;
use crate::keys::{AgentKey, FrameworkKey, TaskKey};
use crate::view::{AgentRecord, Deactivation, FrameworkRecord, OfferRecord};

/// One change of the cluster. Records are as they were at that moment.
#[derive(Debug, Clone)]
pub enum Happening {
    TaskAdded {
        task: Box<v1::Task>,
        framework: Arc<v1::FrameworkInfo>,
    },
    TaskUpdated {
        update: Box<event::TaskUpdated>,
        /// As whom the task runs, if that is not as its framework.
        user: Option<String>,
        framework: Arc<v1::FrameworkInfo>,
    },
    AgentAdded {
        agent: Arc<AgentRecord>,
        /// If an operator does not want it to be offered.
        deactivation: Option<Deactivation>,
    },
    AgentRemoved(AgentId),
    FrameworkAdded(Arc<FrameworkRecord>),
    FrameworkUpdated {
        framework: Arc<FrameworkRecord>,
        offers: Vec<Arc<OfferRecord>>,
    },
    FrameworkRemoved(Arc<v1::FrameworkInfo>),
}

impl Core {
    /// Tells operators, if there is one who listens.
    pub(crate) fn tell_operators(&mut self, happening: impl FnOnce(&Self) -> Happening) {
        if self.operators_listen {
            let happening = happening(self);
            self.effects.push(Effect::TellOperators(happening));
        }
    }

    pub(crate) fn tell_task_added(&mut self, task: TaskKey) {
        self.tell_operators(|core| {
            let task = &core.tasks[task];
            Happening::TaskAdded {
                task: Box::new(task.wire.clone()),
                framework: core.frameworks[task.framework].info.clone(),
            }
        });
    }

    pub(crate) fn tell_task_updated(&mut self, task: TaskKey, status: &v1::TaskStatus) {
        self.tell_operators(|core| {
            let task = &core.tasks[task];
            core.updated(task.framework, &task.wire, status.clone())
        });
    }

    /// Of a task that has no record in the table any more.
    pub(crate) fn tell_away_task_updated(
        &mut self,
        framework: FrameworkKey,
        task: &v1::Task,
        status: &v1::TaskStatus,
    ) {
        self.tell_operators(|core| core.updated(framework, task, status.clone()));
    }

    /// The state came without a status: an agent that registered again reported it.
    pub(crate) fn tell_task_reported(&mut self, task: TaskKey) {
        self.tell_operators(|core| {
            let record = &core.tasks[task];
            let task = &record.wire;
            let status = core.master_status(
                task.task_id.clone(),
                Some(task.agent_id.clone()),
                task.state(),
                Reason::Reconciliation,
                "Reported by the agent when it registered again",
            );
            core.updated(record.framework, task, status)
        });
    }

    fn updated(
        &self,
        framework: FrameworkKey,
        task: &v1::Task,
        status: v1::TaskStatus,
    ) -> Happening {
        Happening::TaskUpdated {
            update: Box::new(event::TaskUpdated {
                framework_id: task.framework_id.clone(),
                status,
                state: task.state,
            }),
            user: task.user.clone(),
            framework: self.frameworks[framework].info.clone(),
        }
    }

    pub(crate) fn tell_agent_added(&mut self, agent: AgentKey) {
        self.tell_operators(|core| {
            let agent = core.agents.get(agent).cloned();
            let agent = agent.expect("who tells of an agent has it in the table");
            let deactivation = core.deactivated_agents.get(&agent.id).cloned();
            Happening::AgentAdded {
                agent,
                deactivation,
            }
        });
    }

    pub(crate) fn tell_framework_added(&mut self, framework: FrameworkKey) {
        self.tell_operators(|core| Happening::FrameworkAdded(core.framework_record(framework)));
    }

    fn framework_record(&self, framework: FrameworkKey) -> Arc<FrameworkRecord> {
        let record = self.frameworks.get(framework).cloned();
        record.expect("who tells of a framework has it in the table")
    }

    pub(crate) fn tell_framework_updated(&mut self, framework: FrameworkKey) {
        self.tell_operators(|core| {
            let offers = core.framework_states[&framework].offers.iter();
            Happening::FrameworkUpdated {
                framework: core.framework_record(framework),
                offers: offers
                    .map(|offer| {
                        core.offers
                            .get(*offer)
                            .cloned()
                            .expect("listed offers are in the table")
                    })
                    .collect(),
            }
        });
    }
}
