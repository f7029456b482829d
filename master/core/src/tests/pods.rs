//! The executors of groups on a machine, as its agent keeps them: each ends with its last task.

use std::collections::{BTreeMap, BTreeSet};

use tepui_api::link::ExecutorExited;
use tepui_api::v1;

#[derive(Debug, Default)]
pub(super) struct Pods(BTreeMap<(String, String), Pod>);

#[derive(Debug)]
struct Pod {
    info: v1::ExecutorInfo,
    live: BTreeSet<String>,
}

impl Pods {
    pub(super) fn launch(
        &mut self,
        framework: &str,
        executor: v1::ExecutorInfo,
        tasks: &[v1::TaskInfo],
    ) {
        let key = (framework.to_owned(), executor.executor_id.value.clone());
        let pod = self.0.entry(key).or_insert_with(|| Pod {
            info: executor,
            live: BTreeSet::new(),
        });
        let ids = tasks.iter().map(|task| task.task_id.value.clone());
        pod.live.extend(ids);
    }

    /// What the master hears if that was the last task of its executor.
    pub(super) fn task_ended(&mut self, framework: &str, task: &str) -> Option<ExecutorExited> {
        let of_framework = |key: &(String, String)| key.0 == framework;
        let mut pods = self.0.iter_mut().filter(|(key, _)| of_framework(key));
        let (key, pod) = pods.find(|(_, pod)| pod.live.contains(task))?;
        pod.live.remove(task);
        let key = pod.live.is_empty().then(|| key.clone())?;
        self.0.remove(&key);
        Some(ExecutorExited {
            framework_id: key.0.as_str().into(),
            executor_id: key.1.as_str().into(),
            status: 0,
            built_in: Some(false),
        })
    }

    pub(super) fn reported(&self) -> Vec<v1::ExecutorInfo> {
        self.0.values().map(|pod| pod.info.clone()).collect()
    }

    pub(super) fn shut_down(&mut self, framework: &str) {
        self.0.retain(|key, _| key.0 != framework);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
