//! Frameworks that end: torn down, or not back within their failover timeout.

use std::sync::Arc;

use tepui_api::link::{self, to_agent};
use tepui_api::v1::{TaskState, task_status::Reason};

use crate::core::{Core, Pending};
use crate::effect::{Answer, Effect, RegistryOperation};
use crate::happenings::Happening;
use crate::input::RequestKey;
use crate::keys::FrameworkKey;
use crate::subscribe::framework_key;

impl Core {
    /// Whoever asked for it is answered once it cannot be undone.
    pub(crate) fn remove_framework(
        &mut self,
        framework: FrameworkKey,
        asked: Option<(RequestKey, Answer)>,
    ) {
        let then = match asked {
            Some((request, answer)) => Pending::Answer(request, answer),
            None => Pending::Nothing,
        };
        let id = self.framework_id(framework).clone();
        self.persist(
            vec![RegistryOperation::Delete {
                key: framework_key(&id),
            }],
            then,
        );

        self.stop_failover_timer(framework);
        self.discard_offers_of_framework(framework);
        self.forget_inverse_offers_of_framework(framework);
        // Also where it has no task any more: its executors wait there for the next one.
        for agent in self
            .agents
            .iter()
            .map(|(agent, _)| agent)
            .collect::<Vec<_>>()
        {
            let framework_id = crate::wire::framework_id(&id);
            let shutdown = link::ShutdownFramework { framework_id };
            self.send_to_agent(agent, to_agent::Body::ShutdownFramework(shutdown));
        }
        // The scheduler asked for this or is away: it is not told of each task.
        if let Some(stream) = self.framework_state(framework).stream.take() {
            self.streams.remove(&stream.key);
            self.effects
                .push(Effect::CloseStream { stream: stream.key });
        }
        let message = format!("Framework {id} removed");
        for key in self
            .framework_state(framework)
            .tasks
            .values()
            .copied()
            .collect::<Vec<_>>()
        {
            self.end_task(
                key,
                TaskState::TaskKilled,
                Reason::FrameworkRemoved,
                &message,
            );
        }
        for key in self.framework_state(framework).executors.clone() {
            self.remove_executor(key);
        }
        let away: Vec<_> = self.frameworks[framework]
            .unreachable_tasks
            .keys()
            .cloned()
            .collect();
        let mut kept = std::collections::BTreeMap::new();
        for task in away {
            if let Some(record) = self.take_unreachable(framework, &task) {
                kept.insert(task, record);
            }
        }
        self.orphan_operations(framework);
        self.allocator.remove_framework(framework.into());
        self.forget_interest(framework);
        self.framework_states.remove(&framework);
        self.framework_by_id.remove(&id);
        let Some(record) = self.frameworks.remove(framework) else {
            return;
        };
        let mut record = Arc::unwrap_or_clone(record);
        record.active = false;
        record.connected = false;
        record.unregistered_ns = Some(self.now.wall_ns);
        record.unreachable_tasks = Arc::new(kept);
        let info = record.info.clone();
        self.forget_call_counts(info.principal());
        self.tell_operators(|_| Happening::FrameworkRemoved(info));
        self.completed_ids.insert(id);
        if let Some(forgotten) = self.completed_frameworks.push(Arc::new(record)) {
            self.completed_ids.remove(&forgotten.id);
        }
    }
}
