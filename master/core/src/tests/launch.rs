//! ACCEPT: the checks of offers and tasks, and what reaches the agent.

use std::time::Duration;

use tepui_api::ext;
use tepui_api::link::to_agent;
use tepui_api::v1::framework_info::capability::Type as Capability;
use tepui_api::v1::offer::{Operation, operation};
use tepui_api::v1::task_status::Reason;
use tepui_api::v1::{self, TaskState};

use super::harness::*;

fn limit(value: f64) -> v1::value::Scalar {
    v1::value::Scalar { value }
}

fn executor(resources: &str) -> v1::ExecutorInfo {
    v1::ExecutorInfo {
        executor_id: "executor".into(),
        resources: wire_resources(resources),
        command: Some(v1::CommandInfo {
            value: Some("serve".to_owned()),
            ..v1::CommandInfo::default()
        }),
        ..v1::ExecutorInfo::default()
    }
}

fn with_executor(mut task: v1::TaskInfo, executor: v1::ExecutorInfo) -> v1::TaskInfo {
    task.command = None;
    task.executor = Some(executor);
    task
}

#[test]
fn several_tasks_are_launched_on_several_offers_of_one_agent() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent("cpus:2;mem:256");
    let scheduler = cluster.subscribe(info("one"));
    let first = cluster.start(&scheduler, "first");
    cluster.advance(Duration::from_secs(6));
    let rest = cluster.offers(&scheduler).remove(0);
    // A second agent's worth of resources comes free on the same agent while the first offer is still open.
    let uuid = cluster.update(&scheduler, &agent, "first", TaskState::TaskFinished);
    cluster.acknowledge(&scheduler, &agent, "first", &uuid);
    let freed = cluster.offers(&scheduler).remove(0);
    assert_ne!(rest.id, freed.id);
    cluster.messages(&agent);
    let tasks = vec![
        task(&first, "a", "cpus:1.5;mem:100"),
        task(&first, "b", "cpus:0.5;mem:100"),
    ];
    cluster.launch(&scheduler, &[rest, freed], tasks);
    let messages = cluster.messages(&agent);
    let [to_agent::Body::Launch(launch)] = messages.as_slice() else {
        panic!("{messages:?}")
    };
    assert_eq!(launch.framework.id.as_ref().unwrap().value, scheduler.id);
    assert_eq!(launch.tasks.len(), 2);
    for resource in launch.tasks.iter().flat_map(|task| &task.resources) {
        assert_eq!(resource.allocation_info.as_ref().unwrap().role(), "*");
    }
    let view = cluster.view();
    let agent = view.agent(&agent.id).unwrap();
    assert_eq!(agent.used, resources("cpus:2;mem:200"));
    assert!(agent.offered.is_empty());
    assert!(
        view.tasks
            .values()
            .all(|task| task.state() == TaskState::TaskStaging)
    );
    let framework = view.framework(&scheduler.id).unwrap();
    assert_eq!(framework.used, agent.used);
    assert!(cluster.events(&scheduler).is_empty(), "staging is not told");
}

#[test]
fn what_an_accept_leaves_is_refused_with_its_filter() {
    let mut cluster = Cluster::new();
    cluster.agent("cpus:4;mem:1024");
    let scheduler = cluster.subscribe(info("one"));
    let offers = cluster.offers(&scheduler);
    let operations = vec![launch(vec![task(&offers[0], "t", "cpus:1;mem:64")])];
    cluster.call(&scheduler, accept(&offers, operations, Some(30.0)));
    cluster.advance(Duration::from_secs(29));
    assert!(cluster.events(&scheduler).is_empty());
    cluster.advance(Duration::from_secs(2));
    let offers = cluster.offers(&scheduler);
    assert_eq!(offers.len(), 1);
    cluster.call(&scheduler, accept(&offers, Vec::new(), Some(0.0)));
    assert_eq!(cluster.offers(&scheduler).len(), 1);
}

#[test]
fn offers_that_do_not_fit_together_drop_every_task() {
    let mut cluster = Cluster::new();
    cluster.agent("cpus:4;mem:1024");
    cluster.agent("cpus:4;mem:1024");
    let aware = cluster.subscribe(partition_aware("aware"));
    let offers = cluster.offers(&aware);
    assert_eq!(offers.len(), 2);
    let drop_of =
        |cluster: &mut Cluster, scheduler: &Scheduler, offers: &[v1::Offer], task: v1::TaskInfo| {
            cluster.call(scheduler, accept(offers, vec![launch(vec![task])], None));
            let status = cluster.statuses(scheduler).remove(0);
            assert_eq!(status.reason(), Reason::InvalidOffers);
            assert_eq!(
                (status.source(), &status.uuid),
                (v1::task_status::Source::Master, &None)
            );
            (status.state(), status.message.unwrap())
        };
    let small = task(&offers[0], "t", "cpus:1;mem:64");
    let (state, message) = drop_of(&mut cluster, &aware, &offers, small.clone());
    assert_eq!(state, TaskState::TaskDropped);
    assert!(
        message.contains("must belong to one single agent"),
        "{message}"
    );
    // Both were given back, without a filter.
    let again = cluster.offers(&aware);
    assert_eq!(again.len(), 2);
    let twice = [again[0].clone(), again[0].clone()];
    let (_, message) = drop_of(&mut cluster, &aware, &twice, small.clone());
    assert!(message.contains("Duplicate offer"), "{message}");
    let (_, message) = drop_of(&mut cluster, &aware, &offers[..1], small.clone());
    assert!(message.contains("is no longer valid"), "{message}");
    let (_, message) = drop_of(&mut cluster, &aware, &[], small.clone());
    assert!(message.contains("No offers specified"), "{message}");

    let owned = cluster.offers(&aware);
    let unaware = cluster.subscribe(info("unaware"));
    let (state, message) = drop_of(&mut cluster, &unaware, &owned[..1], small);
    assert_eq!(state, TaskState::TaskLost);
    assert!(message.contains("has invalid framework"), "{message}");
}

#[test]
fn offers_of_different_roles_do_not_fit_together() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent("cpus:4;mem:1024");
    let mut multi = with_capability(info("multi"), Capability::MultiRole);
    multi.roles = vec!["a".to_owned(), "b".to_owned()];
    let scheduler = cluster.subscribe(multi);
    let first = cluster.offers(&scheduler).remove(0);
    cluster.launch(
        &scheduler,
        std::slice::from_ref(&first),
        vec![task(&first, "t", "cpus:1;mem:64")],
    );
    cluster.advance(Duration::from_secs(6));
    // The other role is now further below its share.
    let second = cluster.offers(&scheduler).remove(0);
    let role = |offer: &v1::Offer| offer.allocation_info.as_ref().unwrap().role.clone();
    assert_ne!(role(&first), role(&second));
    let wrong = task(&second, "wrong", "cpus:1;mem:64");
    let mut wrong_role = wrong.clone();
    for resource in &mut wrong_role.resources {
        resource.allocation_info = first.allocation_info.clone();
    }
    cluster.call(
        &scheduler,
        accept(&[second], vec![launch(vec![wrong_role, wrong])], None),
    );
    let status = cluster.statuses(&scheduler).remove(0);
    assert_eq!(
        (status.state(), status.reason()),
        (TaskState::TaskError, Reason::TaskInvalid)
    );
    assert!(
        status.message().contains("allocated to role"),
        "{}",
        status.message()
    );
    assert_eq!(cluster.view().agent(&agent.id).unwrap().tasks, 2);
}

#[test]
fn a_task_that_is_not_in_order_is_an_error_and_the_others_go_on() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent("cpus:4;mem:1024;ports:[31000-31009]");
    let scheduler = cluster.subscribe(info("one"));
    let offers = cluster.offers(&scheduler);
    let good = |id: &str| task(&offers[0], id, "cpus:0.1;mem:10");
    let duration = |nanoseconds| Some(v1::DurationInfo { nanoseconds });
    let container = |container_type: v1::container_info::Type| v1::ContainerInfo {
        r#type: container_type.into(),
        ..v1::ContainerInfo::default()
    };
    let variable = |name: &str| v1::environment::Variable {
        name: name.to_owned(),
        ..Default::default()
    };
    let mut invalid: Vec<(v1::TaskInfo, &str)> = Vec::new();
    invalid.push((good(""), "must not be empty"));
    invalid.push((good("a/b"), "task id"));
    invalid.push((
        v1::TaskInfo {
            agent_id: "elsewhere".into(),
            ..good("x")
        },
        "invalid agent elsewhere",
    ));
    let policy = v1::KillPolicy {
        grace_period: duration(-1),
    };
    invalid.push((
        v1::TaskInfo {
            kill_policy: Some(policy),
            ..good("x")
        },
        "kill_policy.grace_period",
    ));
    invalid.push((
        v1::TaskInfo {
            max_completion_time: duration(-1),
            ..good("x")
        },
        "max_completion_time",
    ));
    let check = v1::CheckInfo {
        r#type: Some(v1::check_info::Type::Http.into()),
        ..v1::CheckInfo::default()
    };
    invalid.push((
        v1::TaskInfo {
            check: Some(check),
            ..good("x")
        },
        "expecting 'http' to be set",
    ));
    let health = v1::HealthCheck::default();
    invalid.push((
        v1::TaskInfo {
            health_check: Some(health),
            ..good("x")
        },
        "must specify its type",
    ));
    let path = v1::health_check::HttpCheckInfo {
        port: 1,
        path: Some("x".to_owned()),
        ..Default::default()
    };
    let health = v1::HealthCheck {
        http: Some(path),
        ..v1::HealthCheck::default()
    };
    invalid.push((
        v1::TaskInfo {
            health_check: Some(health),
            ..good("x")
        },
        "must start with '/'",
    ));
    invalid.push((
        v1::TaskInfo {
            resources: Vec::new(),
            ..good("x")
        },
        "no resources",
    ));
    invalid.push((task(&offers[0], "x", "cpus:5;mem:10"), "more resources"));
    let mut negative = good("x");
    negative.resources[0].scalar = Some(limit(-1.0));
    invalid.push((negative, "invalid resources"));
    let mut environment = good("x");
    let command = environment.command.as_mut().unwrap();
    command.environment = Some(v1::Environment {
        variables: vec![variable("EMPTY")],
    });
    invalid.push((environment, "'EMPTY' must have a value set"));
    let docker = container(v1::container_info::Type::Docker);
    invalid.push((
        v1::TaskInfo {
            container: Some(docker),
            ..good("x")
        },
        "'docker' must be set",
    ));
    let wasm = container(v1::container_info::Type::Wasm);
    invalid.push((
        v1::TaskInfo {
            container: Some(wasm.clone()),
            ..good("x")
        },
        "'wasm' must be set",
    ));
    let empty = v1::ContainerInfo {
        wasm: Some(ext::WasmInfo::default()),
        ..wasm
    };
    let nothing = v1::TaskInfo {
        command: None,
        container: Some(empty),
        ..good("x")
    };
    invalid.push((nothing, "no command that names a module"));
    let mut volume = container(v1::container_info::Type::Mesos);
    volume.volumes.push(v1::Volume {
        container_path: "data".to_owned(),
        mode: 1,
        ..v1::Volume::default()
    });
    invalid.push((
        v1::TaskInfo {
            container: Some(volume),
            ..good("x")
        },
        "exactly one of",
    ));
    let limits = |name: &str, value| v1::TaskInfo {
        limits: [(name.to_owned(), limit(value))].into(),
        ..good("x")
    };
    invalid.push((limits("disk", 1.0), "only 'cpus', 'mem' and 'fuel'"));
    invalid.push((limits("cpus", 0.01), "less than its request"));
    invalid.push((limits("mem", f64::NAN), "must be a positive number"));
    invalid.push((limits("fuel", 0.0), "must be a positive number"));
    invalid.push((limits("fuel", f64::INFINITY), "must be a positive number"));
    invalid.push((
        v1::TaskInfo {
            command: None,
            ..good("x")
        },
        "(but not both)",
    ));
    let both = v1::TaskInfo {
        executor: Some(executor("cpus:0.1;mem:32")),
        ..good("x")
    };
    invalid.push((both, "(but not both)"));
    let bare = v1::ExecutorInfo {
        command: None,
        ..executor("cpus:0.1;mem:32")
    };
    invalid.push((
        with_executor(good("x"), bare),
        "Executor's 'command' must be set",
    ));
    let foreign = v1::ExecutorInfo {
        framework_id: Some("other".into()),
        ..executor("cpus:0.1")
    };
    invalid.push((with_executor(good("x"), foreign), "framework ID"));
    let kind = Some(v1::executor_info::Type::Default.into());
    let default = v1::ExecutorInfo {
        r#type: kind,
        ..executor("cpus:0.1")
    };
    invalid.push((with_executor(good("x"), default), "CUSTOM or unset"));
    let ports = task(&offers[0], "x", "cpus:0.1;ports:[31000-31000]");
    let overlapping = executor("cpus:0.1;ports:[31000-31001]");
    invalid.push((with_executor(ports, overlapping), "more resources"));
    let mut unshared = container(v1::container_info::Type::Mesos);
    unshared.linux_info = Some(v1::LinuxInfo {
        share_cgroups: Some(false),
        ..v1::LinuxInfo::default()
    });
    invalid.push((
        v1::TaskInfo {
            container: Some(unshared),
            ..good("x")
        },
        "share_cgroups",
    ));
    invalid.push((good("first"), "duplicate ID"));

    let mut tasks = vec![good("first")];
    tasks.extend(invalid.iter().map(|(task, _)| task.clone()));
    tasks.push(good("last"));
    cluster.launch(&scheduler, &offers, tasks);
    let statuses = cluster.statuses(&scheduler);
    assert_eq!(statuses.len(), invalid.len());
    for (status, (task, expected)) in statuses.iter().zip(&invalid) {
        assert_eq!(status.task_id, task.task_id);
        assert_eq!(
            (status.state(), status.reason()),
            (TaskState::TaskError, Reason::TaskInvalid)
        );
        assert!(
            status.message().contains(expected),
            "{} does not say {expected}",
            status.message()
        );
    }
    let messages = cluster.messages(&agent);
    let [to_agent::Body::Launch(launch)] = messages.as_slice() else {
        panic!("{messages:?}")
    };
    let launched: Vec<&str> = launch
        .tasks
        .iter()
        .map(|task| task.task_id.value.as_str())
        .collect();
    assert_eq!(launched, ["first", "last"]);
}

#[test]
fn a_wasm_task_needs_no_command_and_may_have_a_fuel_limit() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent("cpus:4;mem:1024");
    let scheduler = cluster.subscribe(info("one"));
    let offers = cluster.offers(&scheduler);
    let artifact = v1::command_info::Uri {
        value: "http://host/a.wasm".to_owned(),
        ..Default::default()
    };
    let wasm = v1::TaskInfo {
        command: None,
        container: Some(v1::ContainerInfo {
            r#type: v1::container_info::Type::Wasm.into(),
            wasm: Some(ext::WasmInfo {
                artifact: Some(artifact),
                ..ext::WasmInfo::default()
            }),
            ..v1::ContainerInfo::default()
        }),
        limits: [
            ("fuel".to_owned(), limit(1e6)),
            ("mem".to_owned(), limit(f64::INFINITY)),
        ]
        .into(),
        plan: Some(ext::LaunchPlan::default()),
        ..task(&offers[0], "t", "cpus:1;mem:64")
    };
    cluster.launch(&scheduler, &offers, vec![wasm]);
    let messages = cluster.messages(&agent);
    let [to_agent::Body::Launch(launch)] = messages.as_slice() else {
        panic!("{messages:?}")
    };
    assert_eq!(
        launch.tasks[0].plan, None,
        "only an agent says how a task is run"
    );
    assert_eq!(launch.tasks[0].limits["fuel"].value, 1e6);
}

#[test]
fn an_executor_is_paid_for_once_and_until_it_exits() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent("cpus:4;mem:1024");
    let scheduler = cluster.subscribe(info("one"));
    let offers = cluster.offers(&scheduler);
    let a = with_executor(
        task(&offers[0], "a", "cpus:1;mem:64"),
        executor("cpus:0.5;mem:32"),
    );
    let b = with_executor(
        task(&offers[0], "b", "cpus:1;mem:64"),
        executor("cpus:0.5;mem:32"),
    );
    let other = with_executor(
        task(&offers[0], "c", "cpus:1;mem:64"),
        executor("cpus:0.6;mem:32"),
    );
    cluster.launch(&scheduler, &offers, vec![a, b, other]);
    let statuses = cluster.statuses(&scheduler);
    assert_eq!(statuses.len(), 1);
    assert!(
        statuses[0].message().contains("must be identical"),
        "{}",
        statuses[0].message()
    );
    assert_eq!(
        cluster.view().agent(&agent.id).unwrap().used,
        resources("cpus:2.5;mem:160")
    );
    for id in ["a", "b"] {
        let uuid = cluster.update(&scheduler, &agent, id, TaskState::TaskFinished);
        cluster.acknowledge(&scheduler, &agent, id, &uuid);
    }
    cluster.advance(Duration::from_secs(6));
    let offer = cluster.offers(&scheduler).remove(0);
    assert_eq!(offer.executor_ids, ["executor".into()]);
    assert_eq!(
        cluster.view().agent(&agent.id).unwrap().used,
        resources("cpus:0.5;mem:32")
    );
    cluster.from(
        agent.link,
        tepui_api::link::to_master::Body::ExecutorExited(tepui_api::link::ExecutorExited {
            framework_id: scheduler.id.as_str().into(),
            executor_id: "executor".into(),
            status: 256,
            built_in: None,
        }),
    );
    assert!(cluster.view().agent(&agent.id).unwrap().used.is_empty());
    let failures: Vec<_> = cluster
        .events(&scheduler)
        .into_iter()
        .filter_map(|event| event.failure)
        .collect();
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].status, Some(256));
    assert_eq!(failures[0].executor_id, Some("executor".into()));
}

#[test]
fn operations_that_are_not_supported_say_so() {
    let mut cluster = Cluster::new();
    cluster.agent("cpus:4;mem:1024");
    let scheduler = cluster.subscribe(info("one"));
    let offers = cluster.offers(&scheduler);
    let reserve = |id: Option<&str>| Operation {
        r#type: Some(operation::Type::Reserve.into()),
        id: id.map(Into::into),
        reserve: Some(operation::Reserve::default()),
        ..Operation::default()
    };
    let named = Operation {
        id: Some("named".into()),
        ..launch(vec![task(&offers[0], "n", "cpus:1;mem:64")])
    };
    let operations = vec![reserve(Some("op")), reserve(None), named];
    cluster.call(&scheduler, accept(&offers, operations, None));
    let events = cluster.events(&scheduler);
    assert_eq!(events.len(), 2);
    let operation = &events[0].update_operation_status.as_ref().unwrap().status;
    assert_eq!(operation.state(), v1::OperationState::OperationError);
    assert_eq!(operation.operation_id, Some("op".into()));
    assert!(
        operation.message().contains("names no resources"),
        "{}",
        operation.message()
    );
    let status = &events[1].update.as_ref().unwrap().status;
    assert_eq!(
        (status.state(), status.reason()),
        (TaskState::TaskError, Reason::TaskInvalid)
    );
    assert!(cluster.view().tasks.is_empty());
}
