//! What must be true between any two inputs.

use tepui_model::{FrameworkId, Resource, Resources};

use crate::executor;
use crate::framework::Framework;
use crate::input::{ExecutorRef, TaskRef};
use crate::machine::{Core, Link, Phase};
use crate::task::{Stage, Task};
use crate::timers::Timer;

impl Core {
    /// Panics with what is wrong. For tests and simulations.
    pub fn check_invariants(&self) {
        for (framework_id, framework) in &self.frameworks {
            assert!(
                !framework.is_empty(),
                "the framework {framework_id} is kept for nothing"
            );
            assert!(
                !framework.terminating || framework.tasks.is_empty(),
                "a framework on its way out has tasks"
            );
            for (id, task) in &framework.tasks {
                let reference = TaskRef {
                    framework: framework_id.clone(),
                    task: id.clone(),
                };
                self.check_task(&reference, task);
            }
            for (id, executor) in &framework.executors {
                let reference = ExecutorRef {
                    framework: framework_id.clone(),
                    executor: id.clone(),
                };
                let (mut held, mut bounds) = (Resources::new(), Resources::new());
                for task_id in &executor.live {
                    let task = framework
                        .tasks
                        .get(task_id)
                        .expect("a live task of an executor exists");
                    assert!(
                        task.holds_executor(),
                        "{task_id} is in {:?} and yet counts",
                        task.stage
                    );
                    assert_eq!(
                        task.executor.as_ref(),
                        Some(id),
                        "{task_id} counts with another's tasks"
                    );
                    held.add(&task.resources);
                    bounds.add(&task.bounds);
                }
                for task_id in &executor.queue {
                    let task = framework.tasks.get(task_id).expect("a queued task exists");
                    assert_eq!(task.stage, Stage::Queued, "{task_id} is in the queue");
                    assert!(
                        executor.live.contains(task_id),
                        "{task_id} queues and does not count"
                    );
                }
                if executor.kind.is_built_in() && !framework.terminating {
                    assert_eq!(executor.resources, held, "what {reference} holds");
                    assert_eq!(executor.bounds, bounds, "what {reference} may rise to");
                }
                if let Some(connection) = executor.connection() {
                    assert_eq!(
                        self.connections.get(&connection),
                        Some(&reference),
                        "whose connection it is"
                    );
                }
                assert!(
                    executor.stage != executor::Stage::Created,
                    "{reference} was created and not set going"
                );
                let reconnecting = executor.stage == executor::Stage::Reconnecting;
                assert!(
                    !reconnecting || self.phase == Phase::Recovering,
                    "{reference} is waited for, for ever"
                );
                let terminating = matches!(executor.stage, executor::Stage::Terminating { .. });
                assert_eq!(
                    self.timers.is_armed(&Timer::Grace(reference.clone())),
                    terminating,
                    "grace of {reference}"
                );
            }
        }
        for (framework_id, framework) in &self.frameworks {
            self.check_pods(framework_id, framework);
        }
        for (connection, reference) in &self.connections {
            let executor = self
                .executor(reference)
                .expect("a connection belongs to an executor");
            assert_eq!(
                executor.connection(),
                Some(*connection),
                "the connection of {reference}"
            );
        }
        for uuid in self.holdings.operations.keys() {
            let in_flight = self.holdings.is_in_flight(uuid);
            let retry = Timer::RetryOperation(*uuid);
            assert_eq!(self.timers.is_armed(&retry), in_flight, "{uuid:?}");
            assert!(!in_flight || self.is_registered(), "{uuid:?}");
        }
        let configured = crate::wire::resources(&self.config.info.resources).unwrap_or_default();
        let had = self.holdings.total.map(Resource::as_configured);
        assert_eq!(had, configured, "operations make nothing from nothing");
        if self.link == Link::Down {
            assert!(
                !self.timers.is_armed(&Timer::MasterSilent),
                "nobody is there to be silent"
            );
        }
    }

    fn check_pods(&self, framework_id: &FrameworkId, framework: &Framework) {
        for (id, pod) in &framework.pods {
            assert!(!pod.live.is_empty(), "the pod {id} is kept for nothing");
            assert!(
                !framework.executors.contains_key(id),
                "{id} is a pod and an executor"
            );
            let reference = ExecutorRef {
                framework: framework_id.clone(),
                executor: id.clone(),
            };
            assert!(
                pod.ending || !self.timers.is_armed(&Timer::Grace(reference)),
                "the pod {id} is hurried without having been told to end"
            );
        }
        for (id, task) in &framework.tasks {
            if let Some(pod) = task.pod.as_ref().filter(|_| task.is_live()) {
                let pod = framework.pods.get(pod).expect("a live task's pod lives");
                assert!(pod.live.contains(id), "{id} does not count in its pod");
            }
            if let Some(group) = task.group.filter(|_| task.is_live()) {
                let members = framework.groups.get(&group).expect("a live group is known");
                assert!(members.contains(id), "{id} is not in its group");
            }
        }
        for members in framework.groups.values() {
            let tasks = || members.iter().filter_map(|id| framework.tasks.get(id));
            assert!(tasks().any(Task::is_live), "a group is kept for nothing");
            // Handed over together, but for those that ended before.
            let waiting = tasks().any(|task| matches!(task.stage, Stage::Queued));
            let delivered = tasks().any(|task| matches!(task.stage, Stage::Delivered { .. }));
            assert!(!(waiting && delivered), "half a group was handed over");
        }
    }

    fn check_task(&self, reference: &TaskRef, task: &Task) {
        assert_eq!(
            task.stage == Stage::Ended,
            task.state.is_terminal(),
            "{reference} is {}",
            task.state.as_str_name()
        );
        assert!(
            task.is_live() || !task.stream.is_empty(),
            "{reference} ended and is kept for nothing"
        );
        let last = task.stream.pending().count().saturating_sub(1);
        for (index, update) in task.stream.pending().enumerate() {
            assert!(
                index == last || !update.status.state().is_terminal(),
                "{reference} lives after its end"
            );
        }
        if let Some(update) = task.stream.pending().next_back() {
            assert_eq!(
                update.status.state(),
                task.state,
                "the newest state of {reference}"
            );
        }
        assert_eq!(
            task.history.last(),
            task.latest.as_ref(),
            "the newest status of {reference}"
        );
        let in_flight = task.stream.is_in_flight();
        assert!(
            !in_flight || self.is_registered(),
            "{reference} has an update under way and no link"
        );
        assert_eq!(
            self.timers.is_armed(&Timer::Retry(reference.clone())),
            in_flight,
            "the retry of {reference}"
        );
        if let (true, Some(executor)) = (task.holds_executor(), &task.executor) {
            let framework = self
                .frameworks
                .get(&reference.framework)
                .expect("the task's framework is held");
            match framework.executors.get(executor) {
                Some(held) => assert!(
                    held.live.contains(&reference.task),
                    "{reference} does not count"
                ),
                None => assert_eq!(
                    self.phase,
                    Phase::Recovering,
                    "{reference} lives without its executor"
                ),
            }
        }
    }
}
