//! The executor API: a framework's own executor, spoken for by the test.

use serde_json::{Value, json};
use tepui_tests::{Cluster, Executor, Scheduler};

/// A task on an executor of the framework's own whose process only waits, and the subscription the test holds for it.
fn launched(cluster: &Cluster, scheduler: &mut Scheduler, task: &str) -> (Executor, Value) {
    let offer = scheduler.offer();
    let executor = scheduler.custom_executor("own", "env > env.txt; sleep 1000");
    let task = Scheduler::executor_task(task, &offer, &executor);
    assert_eq!(scheduler.launch(&offer, &[task]).status, 202);
    let agent = &cluster.agents[0].address;
    (
        Executor::subscribe(agent, &scheduler.framework_id, "own"),
        offer,
    )
}

#[test]
fn a_frameworks_own_executor_reports_in_any_language_and_is_acknowledged() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let (mut executor, offer) = launched(&cluster, &mut scheduler, "a");
    let subscribed = executor.expect("SUBSCRIBED")["subscribed"].clone();
    assert_eq!(subscribed["executor_info"]["executor_id"]["value"], "own");
    assert_eq!(
        subscribed["framework_info"]["id"]["value"],
        scheduler.framework_id.as_str()
    );
    assert_eq!(subscribed["agent_info"]["id"], offer["agent_id"]);
    assert!(subscribed["container_id"]["value"].is_string());
    let task = executor.expect("LAUNCH")["launch"]["task"].clone();
    assert_eq!(task["task_id"]["value"], "a");
    for state in ["TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED"] {
        executor.update("a", state);
        let status = scheduler.until("a", state);
        assert_eq!(status["source"], "SOURCE_EXECUTOR");
        assert_eq!(status["executor_id"]["value"], "own");
    }
}
