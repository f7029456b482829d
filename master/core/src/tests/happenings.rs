//! What operators who listen are told, and that it fits what they can read.

use std::collections::BTreeMap;

use tepui_api::v1::TaskState;
use tepui_api::v1::scheduler::call;

use super::harness::{Cluster, info, kill, partition_aware, plain, reregister, task};
use crate::{Happening, Input};

fn listening() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.apply(Input::OperatorsListen(true));
    cluster
}

/// One word for each happening, and empties the list.
fn told(cluster: &mut Cluster) -> Vec<String> {
    let happenings = std::mem::take(&mut cluster.happenings);
    let words = happenings.into_iter().map(|happening| match happening {
        Happening::TaskAdded { task, .. } => format!("+{} {:?}", task.task_id.value, task.state()),
        Happening::TaskUpdated { update, .. } => {
            let id = &update.status.task_id.value;
            format!("{id} {:?} {:?}", update.status.state(), update.state())
        }
        Happening::AgentAdded { agent, .. } => format!("+agent {}", agent.id),
        Happening::AgentRemoved(id) => format!("-agent {id}"),
        Happening::FrameworkAdded(framework) => format!("+framework {}", framework.info.name),
        Happening::FrameworkUpdated { framework, offers } => {
            format!("framework {} {}", framework.info.name, offers.len())
        }
        Happening::FrameworkRemoved(info) => format!("-framework {}", info.name),
    });
    words.collect()
}

#[test]
fn nobody_is_told_unless_somebody_listens() {
    let mut cluster = Cluster::new();
    let scheduler = cluster.subscribe(info("quiet"));
    cluster.agent("cpus:4;mem:1024");
    cluster.start(&scheduler, "t");
    assert!(cluster.happenings.is_empty());
}

#[test]
fn the_life_of_a_task_is_told_in_order() {
    let mut cluster = listening();
    let scheduler = cluster.subscribe(info("f"));
    let agent = cluster.agent("cpus:4;mem:1024");
    cluster.start(&scheduler, "t");
    let began = told(&mut cluster);
    assert_eq!(began, ["+framework f", "+agent m0-S0", "+t TaskStaging"]);
    // Of states that an older update reports, the newest one is told; later updates bring no news of it.
    let uuid = cluster.update_with_latest(
        &scheduler,
        &agent,
        "t",
        TaskState::TaskStarting,
        TaskState::TaskRunning,
    );
    assert_eq!(told(&mut cluster), ["t TaskStarting TaskRunning"]);
    cluster.acknowledge(&scheduler, &agent, "t", &uuid);
    let uuid = cluster.update(&scheduler, &agent, "t", TaskState::TaskRunning);
    assert!(told(&mut cluster).is_empty());
    cluster.acknowledge(&scheduler, &agent, "t", &uuid);
    let uuid = cluster.update(&scheduler, &agent, "t", TaskState::TaskFinished);
    cluster.acknowledge(&scheduler, &agent, "t", &uuid);
    assert_eq!(told(&mut cluster), ["t TaskFinished TaskFinished"]);
    assert_eq!(
        cluster.call(&scheduler, plain(call::Type::Teardown)),
        crate::Answer::Accepted
    );
    assert_eq!(told(&mut cluster), ["-framework f"]);
}

#[test]
fn a_framework_that_fails_over_or_is_removed_is_told_of() {
    let mut cluster = listening();
    let mut brief = info("f");
    brief.failover_timeout = Some(10.0);
    let scheduler = cluster.subscribe(brief.clone());
    cluster.agent("cpus:4;mem:1024");
    cluster.start(&scheduler, "t");
    told(&mut cluster);
    let mut again = brief;
    again.name = "renamed".to_owned();
    again.id = Some(scheduler.id.as_str().into());
    let scheduler = cluster.subscribe(again);
    assert_eq!(told(&mut cluster), ["framework renamed 0"]);
    cluster.hang_up(&scheduler);
    assert!(told(&mut cluster).is_empty(), "its scheduler may come back");
    cluster.advance(std::time::Duration::from_secs(20));
    assert_eq!(
        told(&mut cluster),
        ["t TaskKilled TaskKilled", "-framework renamed"]
    );
}

#[test]
fn tasks_of_an_unreachable_agent_are_told_to_be_so_and_are_added_again_with_it() {
    let mut cluster = listening();
    let scheduler = cluster.subscribe(partition_aware("f"));
    let agent = cluster.agent("cpus:4;mem:1024");
    cluster.start(&scheduler, "t");
    let uuid = cluster.update(&scheduler, &agent, "t", TaskState::TaskRunning);
    cluster.acknowledge(&scheduler, &agent, "t", &uuid);
    let running = cluster.view().tasks.values().next().unwrap().wire.clone();
    told(&mut cluster);
    cluster.lose(&agent, &[]);
    assert_eq!(told(&mut cluster), ["t TaskUnreachable TaskUnreachable"]);
    cluster.register(reregister(&agent, "cpus:4;mem:1024", vec![running]));
    assert_eq!(told(&mut cluster), ["+agent m0-S0", "+t TaskRunning"]);
}

#[test]
fn a_state_that_an_agent_brings_with_its_registration_is_told() {
    let mut cluster = listening();
    let scheduler = cluster.subscribe(info("f"));
    let agent = cluster.agent("cpus:4;mem:1024");
    cluster.start(&scheduler, "t");
    let mut reported = cluster.view().tasks.values().next().unwrap().wire.clone();
    reported.state = TaskState::TaskRunning.into();
    told(&mut cluster);
    cluster.cut(&agent);
    cluster.register(reregister(&agent, "cpus:4;mem:1024", vec![reported]));
    assert_eq!(told(&mut cluster), ["t TaskRunning TaskRunning"]);
}

#[test]
fn each_framework_has_figures_of_its_own() {
    let mut cluster = Cluster::with(|config| {
        config.offer_timeout = Some(std::time::Duration::from_secs(30));
    });
    let scheduler = cluster.subscribe(info("f"));
    cluster.agent("cpus:4;mem:1024");
    let offers = cluster.offers(&scheduler);
    cluster.advance(std::time::Duration::from_secs(31));
    let figures = |cluster: &Cluster| {
        let view = cluster.view();
        let metrics = &view.framework(&scheduler.id).unwrap().metrics;
        [
            metrics.offers_sent,
            metrics.offers_accepted,
            metrics.offers_declined,
            metrics.offers_rescinded,
        ]
    };
    cluster.settle();
    assert_eq!(figures(&cluster), [2, 0, 0, 1], "{offers:?}");
    let offers = cluster.offers(&scheduler);
    cluster.launch(
        &scheduler,
        &offers,
        vec![task(&offers[0], "t", "cpus:1;mem:64")],
    );
    cluster.call(&scheduler, kill("t", None));
    assert_eq!(figures(&cluster)[..2], [2, 1]);
    let view = cluster.view();
    let metrics = &view.framework(&scheduler.id).unwrap().metrics;
    let counted: BTreeMap<&str, u64> = ["SUBSCRIBE", "ACCEPT", "KILL", "DECLINE"]
        .into_iter()
        .map(|call| (call, metrics.calls.get(call)))
        .collect();
    assert_eq!(
        counted,
        BTreeMap::from([("ACCEPT", 1), ("DECLINE", 0), ("KILL", 1), ("SUBSCRIBE", 1)])
    );
    assert_eq!(metrics.events.get("RESCIND"), 1);
    assert_eq!(metrics.operations.get("LAUNCH"), 1);
    assert_eq!(metrics.tasks.get("TASK_STAGING"), 1);
}
