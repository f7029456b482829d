//! The executors of task groups that frameworks leave to the agent (type DEFAULT): pods.
//!
//! A pod is what the framework knows as the executor: it has an id, a sandbox its tasks share and resources of its own,
//! and it ends with its last task. It has no process: its tasks run in the framework's built-in executors, wasm and
//! native ones side by side.

use std::collections::BTreeSet;
use std::sync::Arc;

use tepui_api::link::{self, to_master};
use tepui_api::v1;
use tepui_model::{ContainerId, FrameworkId, Resources, TaskId};

use crate::effect::{Effect, Parent};
use crate::executor::Cause;
use crate::input::{ExecutorRef, TaskRef};
use crate::machine::{Core, Link};
use crate::record::{Path, PodRecord};
use crate::signal::at_once;
use crate::timers::Timer;
use crate::view::ExecutorView;
use crate::wire;

#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) info: Arc<v1::ExecutorInfo>,
    pub(crate) container_id: ContainerId,
    pub(crate) sandbox: String,
    /// Its own, without those of its tasks.
    pub(crate) resources: Resources,
    /// Its tasks that have not ended.
    pub(crate) live: BTreeSet<TaskId>,
    /// It was told to end.
    pub(crate) ending: bool,
    /// What its framework is told at its end: how the process that took tasks of it along ended, else 0.
    pub(crate) status: i32,
    pub(crate) recorded: bool,
}

impl Pod {
    pub(crate) fn view(&self, reference: ExecutorRef) -> ExecutorView {
        ExecutorView {
            executor: reference,
            kind: None,
            info: self.info.clone(),
            sandbox: self.sandbox.clone(),
            container_id: self.container_id.clone(),
            pid: None,
            connected: true,
            resources: self.resources.clone(),
            live_tasks: self.live.len(),
        }
    }

    fn record(&self) -> PodRecord {
        PodRecord {
            info: v1::ExecutorInfo::clone(&self.info),
            sandbox: self.sandbox.clone(),
            container_id: self.container_id.as_str().to_owned(),
            ending: self.ending.then_some(true),
        }
    }

    /// What is told to whom makes a task of it ready to run.
    pub(crate) fn parent(&self) -> Parent {
        Parent {
            executor: self.info.clone(),
            sandbox: self.sandbox.clone(),
        }
    }
}

impl Core {
    pub(crate) fn pod(&self, reference: &ExecutorRef) -> Option<&Pod> {
        self.frameworks
            .get(&reference.framework)?
            .pods
            .get(&reference.executor)
    }

    fn pod_mut(&mut self, reference: &ExecutorRef) -> Option<&mut Pod> {
        self.frameworks
            .get_mut(&reference.framework)?
            .pods
            .get_mut(&reference.executor)
    }

    pub(crate) fn create_pod(
        &mut self,
        reference: &ExecutorRef,
        info: v1::ExecutorInfo,
        resources: Resources,
    ) {
        let container_id = self.chance.container_id();
        let sandbox = self.sandbox(
            &reference.framework,
            reference.executor.as_str(),
            container_id.as_str(),
        );
        let Some(framework) = self.frameworks.get_mut(&reference.framework) else {
            return;
        };
        let recorded = framework.checkpoint;
        let pod = Pod {
            info: Arc::new(info),
            container_id,
            sandbox,
            resources,
            live: BTreeSet::new(),
            ending: false,
            status: 0,
            recorded,
        };
        let record = pod.record();
        framework.pods.insert(reference.executor.clone(), pod);
        if recorded {
            self.record_framework(&reference.framework);
            // Nothing waits for this write: the records of its tasks come after it.
            self.save(&Path::Pod(reference.clone()), &record);
        }
    }

    /// A task of the pod has ended; with its last one it ends itself.
    pub(crate) fn on_pod_task_ended(&mut self, reference: &ExecutorRef, task: &TaskId) {
        let Some(pod) = self.pod_mut(reference) else {
            return;
        };
        pod.live.remove(task);
        if !pod.live.is_empty() {
            return;
        }
        let status = pod.status;
        self.remove_pod(reference);
        self.count("slave/executors_terminated");
        self.tell_executor_exited(reference, status, false);
    }

    pub(crate) fn remove_pod(&mut self, reference: &ExecutorRef) {
        let Some(framework) = self.frameworks.get_mut(&reference.framework) else {
            return;
        };
        let Some(pod) = framework.pods.remove(&reference.executor) else {
            return;
        };
        self.timers.disarm(&Timer::Grace(reference.clone()));
        self.past.executor_ended(pod.view(reference.clone()));
        self.effects.push(Effect::DiscardSandbox {
            sandbox: pod.sandbox,
        });
        if pod.recorded {
            self.remove_record(&Path::Pod(reference.clone()));
        }
    }

    /// Executors end as their tasks do: those that do not end in time get no more of it.
    pub(crate) fn shut_pod_down(&mut self, reference: &ExecutorRef) {
        let default_grace = self.config.executor_shutdown_grace_period;
        let Some(pod) = self.pod_mut(reference).filter(|pod| !pod.ending) else {
            return;
        };
        pod.ending = true;
        let record = pod.recorded.then(|| pod.record());
        let grace = wire::shutdown_grace(&pod.info).unwrap_or(default_grace);
        let deadline = self.now.tick.after(grace);
        self.timers.arm(Timer::Grace(reference.clone()), deadline);
        if let Some(record) = record {
            self.save(&Path::Pod(reference.clone()), &record);
        }
        self.kill_pod(reference, None);
    }

    /// Ends its tasks at once, and this is why they end. `status` is how its framework is told that it ended.
    pub(crate) fn end_pod(&mut self, reference: &ExecutorRef, status: i32, cause: &Cause) {
        let Some(pod) = self.pod_mut(reference) else {
            return;
        };
        pod.status = status;
        for task in pod.live.clone() {
            let task = TaskRef {
                framework: reference.framework.clone(),
                task,
            };
            self.blame(&task, cause);
        }
        self.kill_pod(reference, Some(at_once()));
    }

    /// Those that an earlier agent process told to end have not done so yet.
    pub(crate) fn resume_pods_ends(&mut self) {
        let mut ending = Vec::new();
        for (framework, held) in &mut self.frameworks {
            for (id, pod) in held.pods.iter_mut().filter(|(_, pod)| pod.ending) {
                pod.ending = false;
                ending.push(ExecutorRef {
                    framework: framework.clone(),
                    executor: id.clone(),
                });
            }
        }
        for pod in ending {
            self.shut_pod_down(&pod);
        }
    }

    pub(crate) fn kill_pod(&mut self, reference: &ExecutorRef, policy: Option<v1::KillPolicy>) {
        let tasks = self.pod(reference).map(|pod| pod.live.clone());
        for task in tasks.unwrap_or_default() {
            let task = TaskRef {
                framework: reference.framework.clone(),
                task,
            };
            self.kill_task(&task, policy);
        }
    }

    /// The process of a built-in executor is gone, and with it these tasks; their pods end by it.
    pub(crate) fn mark_pods(
        &mut self,
        framework: &FrameworkId,
        tasks: &BTreeSet<TaskId>,
        status: i32,
    ) {
        let Some(framework) = self.frameworks.get_mut(framework) else {
            return;
        };
        for pod in framework.pods.values_mut() {
            if !pod.live.is_disjoint(tasks) {
                pod.status = status;
            }
        }
    }

    pub(crate) fn tell_executor_exited(
        &mut self,
        reference: &ExecutorRef,
        status: i32,
        built_in: bool,
    ) {
        let terminating = self
            .frameworks
            .get(&reference.framework)
            .is_some_and(|framework| framework.terminating);
        // Also while the answer to a registration that still listed the executor is awaited.
        let reported = self.is_registered() || self.link == Link::Registering;
        if reported && !terminating && !self.is_ending() {
            self.tell_master(to_master::Body::ExecutorExited(link::ExecutorExited {
                framework_id: wire::framework_id(&reference.framework),
                executor_id: wire::executor_id(&reference.executor),
                status,
                built_in: Some(built_in),
            }));
        }
    }
}
