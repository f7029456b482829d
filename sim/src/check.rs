//! What must be true of the whole cluster: between any two events, and once everything has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tepui_api::v1::scheduler::{Event as SchedulerEvent, event};
use tepui_api::v1::task_status::Reason;
use tepui_api::v1::{self, TaskState};

use crate::SECOND;
use crate::event::Event;
use crate::settings::Plant;
use crate::tenant::Tenant;
use crate::workload::Demand;
use crate::world::World;

/// What schedulers were told.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    /// The one ending of each task, by framework and task, as its scheduler was told it.
    ended: BTreeMap<(String, String), (TaskState, Option<Reason>)>,
    /// Every update that came. Each comes at least once: an agent that lost its power does not know what was
    /// acknowledged last.
    updates: BTreeMap<Bytes, TaskState>,
}

impl Audit {
    /// A master that is started again does not know which tasks its predecessor gave up because their agent was away:
    /// those may turn out to be alive.
    pub(crate) fn master_restarted(&mut self) {
        self.ended
            .retain(|_, (_, reason)| *reason != Some(Reason::AgentDisconnected));
    }
}

impl World {
    /// Panics with a sentence if something contradicts something else.
    pub fn check(&self) {
        if let Some(core) = &self.master.core {
            core.check_invariants();
        }
        for machine in 0..self.machines.len() {
            if let Some(core) = &self.machines[machine].core {
                core.check_invariants();
            }
            self.check_room(machine);
        }
        self.check_sums();
    }

    /// Executors run no more than their machine has, what is being ended left out.
    fn check_room(&self, machine: usize) {
        let held = &self.machines[machine];
        let (mut cpus, mut mem) = (0, 0);
        for (executor, process) in &held.processes {
            if held.condemned_frameworks.contains(&executor.framework) {
                continue;
            }
            for (task, demand) in &process.tasks {
                let task = tepui_agent_core::TaskRef {
                    framework: executor.framework.clone(),
                    task: task.clone(),
                };
                if !held.condemned.contains(&task) {
                    cpus += demand.cpus;
                    mem += demand.mem;
                }
            }
        }
        let whole = Demand::of(&held.resources);
        assert!(
            cpus <= whole.cpus && mem <= whole.mem,
            "machine {machine} has {whole:?} and runs tasks with {cpus} thousandths of a cpu and {mem} of a MB"
        );
    }

    /// What agents have given away is what frameworks have been given.
    fn check_sums(&self) {
        let Some(view) = self.view() else { return };
        let (mut of_agents, mut of_frameworks) = ([0; 4], [0; 4]);
        for agent in view.agents.values() {
            for (sum, resources) in [(0, &agent.used), (2, &agent.offered)] {
                of_agents[sum] += resources.cpus().0;
                of_agents[sum + 1] += resources.mem().0;
            }
        }
        for framework in view.frameworks.values() {
            for (sum, resources) in [(0, &framework.used), (2, &framework.offered)] {
                of_frameworks[sum] += resources.cpus().0;
                of_frameworks[sum + 1] += resources.mem().0;
            }
        }
        assert_eq!(
            of_agents, of_frameworks,
            "cpus and memory used and offered, by agents and by frameworks"
        );
    }

    /// A task ends once, and nothing is heard of it afterwards but what was asked.
    pub(crate) fn note_told(&mut self, tenant: usize, status: &v1::TaskStatus) {
        let framework = self.tenants[tenant].info.id.as_ref();
        let framework = framework.map_or_else(String::new, |id| id.value.clone());
        let key = (framework, status.task_id.value.clone());
        let state = status.state();
        if let Some(uuid) = &status.uuid
            && let Some(before) = self.audit.updates.insert(uuid.clone(), status.state())
        {
            assert!(
                before == status.state(),
                "an update came again and is another one: {before:?} and {status:?}"
            );
            return;
        }
        let asked = status.reason == Some(Reason::Reconciliation.into());
        let removed = status.reason == Some(Reason::AgentRemoved.into());
        if asked && self.audit.ended.contains_key(&key) {
            // It asked before it heard of the end, and the master has forgotten the task since.
            return;
        }
        // Who is told LOST, or is told what the master makes of its not knowing the task, may still be told more.
        let may_come_back = (asked || removed) && state != TaskState::TaskGone;
        if may_come_back || !state.is_terminal() {
            let over = self.audit.ended.get(&key);
            assert!(
                over.is_none(),
                "task {} was told to be {} after it was {over:?}",
                key.1,
                state.as_str_name()
            );
            return;
        }
        let task = key.1.clone();
        let reason = status.reason.map(|_| status.reason());
        let before = self.audit.ended.insert(key, (state, reason));
        assert!(
            before.is_none_or(|(before, _)| before == state),
            "task {task} ended twice: as {before:?} and as {status:?}"
        );
    }

    /// Faults of the simulation itself, planted to see that they are found. False: the event is lost.
    pub(crate) fn passes(&mut self, plant: Plant, stream: usize, event: &SchedulerEvent) -> bool {
        let Some(update) = &event.update else {
            return true;
        };
        let state = update.status.state();
        let is_plant = matches!(plant, Plant::ForgeEnd | Plant::SwallowUpdate);
        if !is_plant
            || !state.is_terminal()
            || update.status.uuid.is_none()
            || std::mem::replace(&mut self.planted, true)
        {
            return true;
        }
        let mut status = update.status.clone();
        if plant == Plant::SwallowUpdate {
            self.acknowledge(self.streams[stream].owner, status);
            return false;
        }
        status.set_state(match state {
            TaskState::TaskFailed => TaskState::TaskFinished,
            _ => TaskState::TaskFailed,
        });
        let event = Box::new(SchedulerEvent {
            update: Some(event::Update { status }),
            ..event.clone()
        });
        self.after(0, Event::ToTenant { stream, event });
        true
    }

    /// What is not yet as it should be once everything has come to rest: all tasks over, nothing held by nobody.
    pub fn unrest(&self) -> Option<String> {
        let Some(view) = self.view() else {
            return Some("the master is down".to_owned());
        };
        let unanswered = self.master.waiting.iter();
        let mut unanswered = unanswered.filter(|(_, (_, since))| self.now - since > 10 * SECOND);
        if let Some((request, (who, _))) = unanswered.next() {
            return Some(format!("{request:?} of {who:?} was never answered"));
        }
        if let Some(task) = view.tasks.values().next() {
            return Some(format!(
                "the master still has task {} in {:?}",
                task.id,
                task.state()
            ));
        }
        let mut agents = BTreeSet::new();
        let mut executors = BTreeSet::new();
        for machine in 0..self.machines.len() {
            if let Some(sentence) = self.unrest_of_machine(machine, &mut agents, &mut executors) {
                return Some(sentence);
            }
        }
        let known = view.agents.values().map(|agent| agent.id.to_string());
        let known: BTreeSet<String> = known.collect();
        if known != agents {
            return Some(format!(
                "the master knows the agents {known:?}, and there are {agents:?}"
            ));
        }
        let charged = view.executors.values().map(|executor| {
            (
                executor.agent_id.to_string(),
                executor.framework_id.to_string(),
                executor.id.to_string(),
            )
        });
        let charged: BTreeSet<_> = charged.collect();
        let differing: Vec<_> = charged.symmetric_difference(&executors).collect();
        if !differing.is_empty() {
            return Some(format!(
                "the master charges for an executor that is not there, or the other way round: {differing:?}"
            ));
        }
        self.tenants
            .iter()
            .find_map(|tenant| unrest_of_tenant(tenant, &agents))
    }

    fn unrest_of_machine(
        &self,
        number: usize,
        agents: &mut BTreeSet<String>,
        executors: &mut BTreeSet<(String, String, String)>,
    ) -> Option<String> {
        let machine = &self.machines[number];
        let Some(core) = &machine.core else {
            return Some(format!("agent {number} is down"));
        };
        let shown = core.view();
        if !shown.registered {
            return Some(format!("agent {number} is not registered"));
        }
        if let Some(task) = shown.tasks.first() {
            return Some(format!(
                "agent {number} still has task {} in {:?}",
                task.task, task.state
            ));
        }
        let id = shown.agent_id.map(|id| id.to_string()).unwrap_or_default();
        for executor in shown.executors {
            if !machine.processes.contains_key(&executor.executor) {
                return Some(format!("executor {} has no process", executor.executor));
            }
            if executor.kind == Some(tepui_agent_core::ExecutorKind::Custom) {
                executors.insert((
                    id.clone(),
                    executor.executor.framework.to_string(),
                    executor.executor.executor.to_string(),
                ));
            }
        }
        for (executor, process) in &machine.processes {
            if let Some(task) = process.tasks.keys().next() {
                return Some(format!(
                    "executor {executor} runs {task}, which its agent does not know"
                ));
            }
        }
        agents.insert(id);
        None
    }
}

fn unrest_of_tenant(tenant: &Tenant, agents: &BTreeSet<String>) -> Option<String> {
    let name = &tenant.info.name;
    if !tenant.running {
        return None;
    }
    if !tenant.subscribed {
        return Some(format!("{name} is not subscribed"));
    }
    // Of an agent that never comes back nobody knows more than that it cannot be reached.
    let lost = |state| matches!(state, TaskState::TaskUnreachable | TaskState::TaskUnknown);
    let mut alive = tenant.tasks.iter();
    let (task, known) =
        alive.find(|(_, known)| !lost(known.state) || agents.contains(&known.agent))?;
    Some(format!(
        "{name} believes that task {task} on {} is {}, and nobody runs it",
        known.agent,
        known.state.as_str_name()
    ))
}
