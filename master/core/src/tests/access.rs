//! Who may do and see what.

use std::sync::Arc;

use tepui_access::Acls;
use tepui_api::v1::{self, TaskState, master, task_status::Reason};

use super::harness::*;
use crate::{Answer, Input, RequestKey};

fn cluster(acls: &str) -> Cluster {
    let acls = Arc::new(Acls::parse(acls).unwrap());
    Cluster::with(|config| config.acls = acls)
}

fn owned(name: &str, principal: &str) -> v1::FrameworkInfo {
    v1::FrameworkInfo {
        principal: Some(principal.to_owned()),
        ..info(name)
    }
}

#[test]
fn a_framework_subscribes_only_in_the_roles_its_principal_may_use() {
    let mut cluster = cluster(
        r#"{ "register_frameworks": [
            { "principals": { "values": ["ann"] }, "roles": { "type": "ANY" } },
            { "principals": { "type": "NONE" }, "roles": { "values": ["*"] } }
        ] }"#,
    );
    let scheduler = cluster.subscribe(owned("one", "ann"));
    assert!(!scheduler.id.is_empty());
    let (request, refused) = cluster.subscribe_call(owned("two", "bob"));
    assert_eq!(cluster.answers[&request], Answer::Subscribed);
    let events = cluster.events(&refused);
    let error = events[0].error.as_ref().expect("an ERROR is all there is");
    assert!(
        error.message.contains("Principal 'bob' is not authorized"),
        "{}",
        error.message
    );
    assert!(cluster.closed_streams.contains(&refused.stream));
}

#[test]
fn a_task_runs_only_as_a_user_its_principal_may_use() {
    let mut cluster = cluster(
        r#"{ "run_tasks": [{ "principals": { "values": ["ann"] }, "users": { "values": ["www"] } },
                           { "principals": { "values": ["ann"] }, "users": { "type": "NONE" } }] }"#,
    );
    cluster.agent("cpus:2;mem:1024");
    let scheduler = cluster.subscribe(owned("one", "ann"));
    let offers = cluster.offers(&scheduler);
    let mut allowed = task(&offers[0], "allowed", "cpus:1;mem:64");
    allowed.command.get_or_insert_default().user = Some("www".to_owned());
    let denied = task(&offers[0], "denied", "cpus:1;mem:64");
    // Its native body would run as somebody else.
    let hidden = |id: &str, user: Option<&str>| {
        let mut task = task(&offers[0], id, "cpus:0.1;mem:8");
        task.command.get_or_insert_default().user = Some("www".to_owned());
        let wasm = task
            .container
            .get_or_insert_default()
            .wasm
            .get_or_insert_default();
        wasm.fallback.get_or_insert_default().user = user.map(str::to_owned);
        task
    };
    let tasks = vec![
        denied,
        hidden("as root", Some("root")),
        hidden("as the framework's", None),
        allowed,
    ];
    cluster.launch(&scheduler, &offers, tasks);
    let statuses = cluster.statuses(&scheduler);
    let told = statuses.iter().map(|status| status.task_id.value.as_str());
    assert_eq!(
        told.collect::<Vec<_>>(),
        ["denied", "as root", "as the framework's"]
    );
    for status in &statuses {
        assert_eq!(status.state(), TaskState::TaskError);
        assert_eq!(status.reason(), Reason::TaskUnauthorized);
    }
    assert_eq!(cluster.view().tasks.len(), 1);
}

#[test]
fn one_forbidden_task_refuses_its_whole_group() {
    let mut cluster = cluster(
        r#"{ "run_tasks": [{ "principals": { "values": ["ann"] }, "users": { "values": ["www"] } },
                           { "principals": { "values": ["ann"] }, "users": { "type": "NONE" } }] }"#,
    );
    cluster.agent("cpus:2;mem:1024;disk:10");
    let scheduler = cluster.subscribe(owned("one", "ann"));
    let offers = cluster.offers(&scheduler);
    let as_user = |id: &str, user: &str| {
        let mut task = task(&offers[0], id, "cpus:0.5;mem:64");
        task.command.get_or_insert_default().user = Some(user.to_owned());
        task
    };
    let executor = super::groups::executor(&scheduler);
    let mut own = executor.clone();
    own.r#type = Some(v1::executor_info::Type::Custom.into());
    own.executor_id.value = "own".to_owned();
    own.command.get_or_insert_default().user = Some("root".to_owned());
    let operations = vec![
        super::groups::group(own, vec![as_user("z", "www")]),
        super::groups::group(
            executor.clone(),
            vec![as_user("a", "www"), as_user("b", "root")],
        ),
        super::groups::group(executor, vec![as_user("c", "www")]),
    ];
    cluster.call(&scheduler, accept(&offers, operations, None));
    let told: Vec<_> = cluster
        .statuses(&scheduler)
        .iter()
        .map(|status| {
            (
                status.task_id.value.clone(),
                status.state(),
                status.reason(),
            )
        })
        .collect();
    let denied = |id: &str| {
        (
            id.to_owned(),
            TaskState::TaskError,
            Reason::TaskGroupUnauthorized,
        )
    };
    assert_eq!(told, [denied("z"), denied("a"), denied("b")]);
    assert_eq!(cluster.view().tasks.len(), 1);
}

#[test]
fn an_operator_is_refused_with_403_and_nothing_changes() {
    let mut cluster = cluster(
        r#"{ "teardown_frameworks": [
            { "principals": { "values": ["ann"] }, "framework_principals": { "values": ["ann"] } },
            { "principals": { "type": "NONE" }, "framework_principals": { "type": "ANY" } }
        ] }"#,
    );
    let scheduler = cluster.subscribe(owned("one", "ann"));
    let teardown = |cluster: &mut Cluster, principal: Option<&str>| {
        let request = RequestKey(cluster.number());
        let call = master::Call {
            r#type: Some(master::call::Type::Teardown.into()),
            teardown: Some(master::call::Teardown {
                framework_id: scheduler.id.as_str().into(),
            }),
            ..master::Call::default()
        };
        cluster.apply(Input::OperatorCall {
            request,
            principal: principal.map(str::to_owned),
            call: Box::new(call),
        });
        cluster.answers[&request].clone()
    };
    assert_eq!(refusal(&teardown(&mut cluster, Some("bob"))).0, 403);
    assert_eq!(refusal(&teardown(&mut cluster, None)).0, 403);
    assert!(cluster.view().framework(&scheduler.id).is_some());
    assert_eq!(teardown(&mut cluster, Some("ann")), Answer::Done);
}

#[test]
fn a_view_hides_what_its_reader_may_not_see() {
    let acls = Acls::parse(
        r#"{ "permissive": true,
             "view_frameworks": [{ "principals": { "values": ["ann"] }, "users": { "type": "ANY" } },
                                 { "principals": { "type": "NONE" }, "users": { "values": ["secret"] } }],
             "view_tasks": [{ "principals": { "values": ["bob"] }, "users": { "type": "NONE" } }] }"#,
    )
    .unwrap();
    let mut cluster = Cluster::new();
    cluster.agent("cpus:2;mem:1024");
    let hidden = v1::FrameworkInfo {
        user: "secret".to_owned(),
        ..info("hidden")
    };
    let scheduler = cluster.subscribe(hidden);
    let offers = cluster.offers(&scheduler);
    cluster.launch(
        &scheduler,
        &offers,
        vec![task(&offers[0], "t", "cpus:1;mem:64")],
    );
    cluster.subscribe(info("shown"));
    let view = Arc::new(cluster.view());
    let seen = |principal: Option<&str>| {
        let view = view.visible_to(&acls, principal);
        (view.frameworks.len(), view.tasks.len())
    };
    assert_eq!(seen(Some("ann")), (2, 1));
    assert_eq!(seen(Some("bob")), (1, 0));
    assert_eq!(seen(None), (1, 0));
    let open = view.visible_to(&Acls::default(), None);
    assert!(
        Arc::ptr_eq(&view, &open),
        "nothing is copied where nothing is hidden"
    );
}

#[test]
fn an_operator_hears_only_of_frameworks_and_tasks_it_may_view() {
    let mut cluster = cluster(
        r#"{ "view_frameworks": [{ "principals": { "values": ["ann"] }, "users": { "type": "ANY" } },
                                 { "principals": { "type": "ANY" }, "users": { "type": "NONE" } }],
             "view_tasks": [{ "principals": { "values": ["ann"] }, "users": { "type": "NONE" } }] }"#,
    );
    cluster.apply(Input::OperatorsListen(true));
    let scheduler = cluster.subscribe(info("f"));
    cluster.agent("cpus:4;mem:1024");
    cluster.start(&scheduler, "t");
    let heard = |cluster: &Cluster, principal: Option<&str>| -> Vec<bool> {
        let happenings = cluster.happenings.iter();
        happenings
            .map(|happening| cluster.core.may_hear(principal, happening))
            .collect()
    };
    // A framework, an agent, a task.
    assert_eq!(heard(&cluster, Some("ann")), [true, true, false]);
    assert_eq!(heard(&cluster, None), [false, true, false]);
}
