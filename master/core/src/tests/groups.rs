//! LAUNCH_GROUP: all of a group or nothing of it, and one executor for many groups.

use std::time::Duration;

use tepui_api::link::to_agent;
use tepui_api::v1::offer::{Operation, operation};
use tepui_api::v1::task_status::{Reason, Source};
use tepui_api::v1::{self, TaskState, executor_info, health_check};

use super::harness::*;

pub(super) fn executor(scheduler: &Scheduler) -> v1::ExecutorInfo {
    v1::ExecutorInfo {
        executor_id: "pod".into(),
        framework_id: Some(scheduler.id.as_str().into()),
        r#type: Some(executor_info::Type::Default.into()),
        resources: wire_resources("cpus:0.1;mem:32;disk:1"),
        ..v1::ExecutorInfo::default()
    }
}

pub(super) fn group(executor: v1::ExecutorInfo, tasks: Vec<v1::TaskInfo>) -> Operation {
    Operation {
        r#type: Some(operation::Type::LaunchGroup.into()),
        launch_group: Some(operation::LaunchGroup {
            executor,
            task_group: v1::TaskGroupInfo { tasks },
        }),
        ..Operation::default()
    }
}

fn shared(share_cgroups: bool) -> v1::ContainerInfo {
    v1::ContainerInfo {
        r#type: v1::container_info::Type::Mesos.into(),
        linux_info: Some(v1::LinuxInfo {
            share_cgroups: Some(share_cgroups),
            ..v1::LinuxInfo::default()
        }),
        ..v1::ContainerInfo::default()
    }
}

#[test]
fn a_groups_tasks_and_its_executor_are_charged_and_the_agent_gets_them_together() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent("cpus:4;mem:1024;disk:100");
    let scheduler = cluster.subscribe(info("one"));
    let offers = cluster.offers(&scheduler);
    cluster.messages(&agent);
    let two = |first: &str, second: &str, offer: &v1::Offer| {
        let tasks = vec![
            task(offer, first, "cpus:1;mem:64"),
            task(offer, second, "cpus:0.5;mem:64"),
        ];
        group(executor(&scheduler), tasks)
    };
    let operations = vec![two("a", "b", &offers[0])];
    cluster.call(&scheduler, accept(&offers, operations, None));
    assert!(cluster.statuses(&scheduler).is_empty());
    let messages = cluster.messages(&agent);
    let [to_agent::Body::Launch(launch)] = messages.as_slice() else {
        panic!("{messages:?}")
    };
    let sent = launch.group_executor.as_ref().unwrap();
    assert_eq!(launch.new_executors, ["pod".into()]);
    assert!(
        launch
            .tasks
            .iter()
            .all(|task| task.executor.as_ref() == Some(sent))
    );
    let used = |cluster: &Cluster| cluster.view().agent(&agent.id).unwrap().used.clone();
    assert_eq!(used(&cluster), resources("cpus:1.6;mem:160;disk:1"));
    cluster.advance(Duration::from_secs(6));
    let offers = cluster.offers(&scheduler);
    assert_eq!(offers[0].executor_ids, ["pod".into()]);
    // A second group of the same executor costs only its tasks.
    let operations = vec![two("c", "d", &offers[0])];
    cluster.call(&scheduler, accept(&offers, operations, None));
    let messages = cluster.messages(&agent);
    let [to_agent::Body::Launch(launch)] = messages.as_slice() else {
        panic!("{messages:?}")
    };
    assert!(launch.new_executors.is_empty());
    assert_eq!(used(&cluster), resources("cpus:3.1;mem:288;disk:1"));
    assert_eq!(cluster.view().executors.values().count(), 1);
}

/// What a group that must not be launched is told, with the wrong thing as `change` makes it.
#[track_caller]
fn refused(change: impl FnOnce(&mut v1::ExecutorInfo, &mut Vec<v1::TaskInfo>), expected: &str) {
    let mut cluster = Cluster::new();
    let agent = cluster.agent("cpus:4;mem:1024;disk:100");
    let scheduler = cluster.subscribe(info("one"));
    let offers = cluster.offers(&scheduler);
    cluster.messages(&agent);
    let mut executor = executor(&scheduler);
    let mut tasks = vec![
        task(&offers[0], "a", "cpus:1;mem:64"),
        task(&offers[0], "b", "cpus:1;mem:64"),
    ];
    change(&mut executor, &mut tasks);
    cluster.call(
        &scheduler,
        accept(&offers, vec![group(executor, tasks)], None),
    );
    let statuses = cluster.statuses(&scheduler);
    assert_eq!(statuses.len(), 2, "each task is answered for");
    for status in statuses {
        assert_eq!(
            (status.state(), status.reason(), status.source()),
            (
                TaskState::TaskError,
                Reason::TaskGroupInvalid,
                Source::Master
            )
        );
        assert!(
            status.message().contains(expected),
            "'{expected}' is not in '{}'",
            status.message()
        );
    }
    let view = cluster.view();
    assert!(view.tasks.is_empty() && view.executors.is_empty());
    assert!(view.agent(&agent.id).unwrap().used.is_empty());
    assert!(cluster.messages(&agent).is_empty());
    cluster.advance(Duration::from_secs(6));
    assert_eq!(
        cluster.offers(&scheduler).len(),
        1,
        "the offer's resources come back"
    );
}

#[test]
fn one_wrong_task_refuses_the_whole_group() {
    refused(
        |_, tasks| tasks[1].resources = wire_resources("cpus:100;mem:64"),
        "more resources",
    );
    refused(|_, tasks| tasks[1].task_id = "sl/ash".into(), "sl/ash");
    refused(
        |_, tasks| tasks[1].task_id = "a".into(),
        "duplicate task ID",
    );
    refused(
        |_, tasks| tasks[0].agent_id = "another".into(),
        "invalid agent",
    );
    refused(|_, tasks| tasks[0].resources.clear(), "no resources");
    refused(
        |executor, tasks| {
            let mut other = executor.clone();
            other.name = Some("other".to_owned());
            tasks[0].executor = Some(other);
        },
        "different from that of its task group",
    );
    refused(
        |_, tasks| {
            let mut container = shared(true);
            container.r#type = v1::container_info::Type::Docker.into();
            container.docker = Some(v1::container_info::DockerInfo::default());
            tasks[0].container = Some(container);
        },
        "Docker",
    );
    refused(
        |_, tasks| {
            let mut container = shared(true);
            container.network_infos.push(v1::NetworkInfo::default());
            tasks[1].container = Some(container);
            tasks[1].health_check = Some(v1::HealthCheck {
                r#type: Some(health_check::Type::Tcp.into()),
                tcp: Some(health_check::TcpCheckInfo::default()),
                ..v1::HealthCheck::default()
            });
        },
        "network_infos",
    );
}

#[test]
fn the_executor_of_a_group_must_be_fit_for_it() {
    refused(
        |executor, _| executor.r#type = None,
        "must be DEFAULT or CUSTOM",
    );
    refused(
        |executor, _| executor.command = Some(v1::CommandInfo::default()),
        "must not be set for a 'DEFAULT' executor",
    );
    refused(
        |executor, _| executor.r#type = Some(executor_info::Type::Custom.into()),
        "'command' must be set",
    );
    refused(|executor, _| executor.framework_id = None, "framework ID");
    refused(
        |executor, _| executor.resources = wire_resources("cpus:0.001;mem:32;disk:1"),
        "less than the minimum of 0.01",
    );
    refused(
        |executor, _| executor.resources = wire_resources("cpus:0.1;mem:31;disk:1"),
        "of 'mem'",
    );
    refused(
        |executor, _| executor.resources = wire_resources("cpus:0.1;mem:32"),
        "no disk",
    );
    refused(
        |executor, _| executor.container = Some(shared(true)),
        "must not be true for an executor",
    );
    refused(
        |executor, _| {
            let mut container = shared(false);
            container.mesos = Some(v1::container_info::MesosInfo {
                image: Some(v1::Image::default()),
            });
            executor.container = Some(container);
        },
        "no image",
    );
}

#[test]
fn limits_need_cgroups_of_ones_own_and_all_tasks_of_an_executor_agree_on_them() {
    refused(
        |_, tasks| {
            let limit = v1::value::Scalar { value: 2.0 };
            tasks[0].limits.insert("cpus".to_owned(), limit);
        },
        "must be false",
    );
    refused(
        |_, tasks| tasks[1].container = Some(shared(false)),
        "must be the same for all tasks",
    );
    let mut cluster = Cluster::new();
    cluster.agent("cpus:4;mem:1024;disk:100");
    let scheduler = cluster.subscribe(info("one"));
    let offers = cluster.offers(&scheduler);
    let mut alone = task(&offers[0], "alone", "cpus:1;mem:64");
    alone.container = Some(shared(false));
    alone
        .limits
        .insert("cpus".to_owned(), v1::value::Scalar { value: 2.0 });
    let sharing = task(&offers[0], "sharing", "cpus:1;mem:64");
    let operations = vec![
        group(executor(&scheduler), vec![alone]),
        group(executor(&scheduler), vec![sharing]),
    ];
    cluster.call(&scheduler, accept(&offers, operations, None));
    let statuses = cluster.statuses(&scheduler);
    assert_eq!(statuses.len(), 1);
    assert_eq!(statuses[0].task_id, "sharing".into());
    assert!(statuses[0].message().contains("must be the same"));
}

#[test]
fn a_group_has_no_operation_id_and_needs_the_identical_executor() {
    let mut cluster = Cluster::new();
    cluster.agent("cpus:4;mem:1024;disk:100");
    let scheduler = cluster.subscribe(info("one"));
    let offers = cluster.offers(&scheduler);
    let tasks = |id: &str| vec![task(&offers[0], id, "cpus:1;mem:64")];
    let named = Operation {
        id: Some("named".into()),
        ..group(executor(&scheduler), tasks("named"))
    };
    let other = v1::ExecutorInfo {
        name: Some("other".to_owned()),
        ..executor(&scheduler)
    };
    let operations = vec![
        named,
        group(executor(&scheduler), tasks("good")),
        group(other, tasks("other")),
        group(executor(&scheduler), tasks("good")),
    ];
    cluster.call(&scheduler, accept(&offers, operations, None));
    let told: Vec<_> = cluster
        .statuses(&scheduler)
        .into_iter()
        .map(|status| {
            assert_eq!(
                (status.state(), status.reason()),
                (TaskState::TaskError, Reason::TaskGroupInvalid)
            );
            (status.task_id.value.clone(), status.message().to_owned())
        })
        .collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].0 == "named" && told[0].1.contains("`id` field"));
    assert!(told[1].0 == "other" && told[1].1.contains("identical"));
    assert!(told[2].0 == "good" && told[2].1.contains("duplicate ID"));
    assert_eq!(cluster.view().tasks.values().count(), 1);
}

#[test]
fn the_executor_of_a_group_is_known_again_after_the_masters_restart() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent("cpus:4;mem:1024;disk:100");
    let scheduler = cluster.subscribe(info("one"));
    let offers = cluster.offers(&scheduler);
    let tasks = vec![task(&offers[0], "a", "cpus:1;mem:64")];
    let operations = vec![group(executor(&scheduler), tasks)];
    cluster.call(&scheduler, accept(&offers, operations, None));
    let reported = cluster.reported();
    cluster.restart();
    let mut register = reregister(&agent, "cpus:4;mem:1024;disk:100", reported);
    register.executors = vec![executor(&scheduler)];
    let agent = cluster.register(register);
    let view = cluster.view();
    let known = view.executors.values().next().unwrap();
    assert_eq!(known.id.as_str(), "pod");
    let used = &view.agent(&agent.id).unwrap().used;
    assert_eq!(*used, resources("cpus:1.1;mem:96;disk:1"));
}
