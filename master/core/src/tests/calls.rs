//! Subscribing, the form of calls, offers and what may be done with them.

use std::time::Duration;

use tepui_api::link::{self, to_agent};
use tepui_api::v1::framework_info::capability::Type as Capability;
use tepui_api::v1::scheduler::{Call, call, event};
use tepui_api::v1::{self, master};

use super::harness::*;
use crate::{Answer, Input, RequestKey};

#[test]
fn a_new_framework_hears_its_id_only_once_it_is_on_disk() {
    let mut cluster = Cluster::new();
    cluster.slow_disk = true;
    let (request, scheduler) = cluster.subscribe_call(info("one"));
    assert_eq!(cluster.answers.get(&request), None);
    assert!(cluster.events(&scheduler).is_empty());
    assert!(cluster.view().frameworks.is_empty());
    cluster.finish_writes();
    assert_eq!(cluster.answers.get(&request), Some(&Answer::Subscribed));
    let events = cluster.events(&scheduler);
    assert_eq!(kinds(&events), [event::Type::Subscribed]);
    let subscribed = events[0].subscribed.as_ref().unwrap();
    assert_eq!(subscribed.framework_id.value, "m0-0000");
    assert_eq!(subscribed.heartbeat_interval_seconds, Some(15.0));
    let master = subscribed.master_info.as_ref().unwrap();
    assert_eq!(
        (master.id.as_str(), master.port, master.ip),
        ("m0", 5050, 0x0100_007f)
    );
    assert!(cluster.registry.contains_key("framework/m0-0000"));
    assert!(cluster.registry.contains_key("meta"));
}

#[test]
fn a_scheduler_that_hangs_up_before_it_is_subscribed_counts_as_disconnected() {
    let mut cluster = Cluster::new();
    cluster.slow_disk = true;
    let (_, scheduler) = cluster.subscribe_call(info("one"));
    cluster.hang_up(&scheduler);
    cluster.finish_writes();
    let framework = cluster.view().framework("m0-0000").unwrap().clone();
    assert!(!framework.connected && !framework.active);
    cluster.advance(Duration::from_secs(101));
    cluster.finish_writes();
    assert!(cluster.view().frameworks.is_empty());
    assert!(!cluster.registry.contains_key("framework/m0-0000"));
}

#[test]
fn the_last_subscriber_wins_and_the_one_before_is_told_so() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent("cpus:4;mem:1024");
    let old = cluster.subscribe(info("one"));
    assert_eq!(cluster.offers(&old).len(), 1);
    let mut changed = info("renamed");
    changed.id = Some(old.id.as_str().into());
    changed.user = "somebody else".to_owned();
    changed.checkpoint = Some(false);
    let new = cluster.subscribe(changed);
    assert_eq!(new.id, old.id);
    let events = cluster.events(&old);
    assert_eq!(kinds(&events), [event::Type::Error]);
    assert_eq!(
        events[0].error.as_ref().unwrap().message,
        "Framework failed over"
    );
    assert!(cluster.closed_streams.contains(&old.stream));
    let framework = cluster.view().framework(&new.id).unwrap().clone();
    assert_eq!(
        (framework.info.name.as_str(), framework.info.user.as_str()),
        ("renamed", "user")
    );
    assert!(framework.info.checkpoint());
    assert!(framework.reregistered_ns.is_some());
    // What the old one was offered is void, and offered anew without a word of rescinding.
    let events = {
        cluster.settle();
        cluster.events(&new)
    };
    assert_eq!(kinds(&events), [event::Type::Offers]);
    let answer = cluster.call(&old, plain(call::Type::Revive));
    let (status, message) = refusal(&answer);
    assert_eq!(status, 400);
    assert!(
        message.contains("didn't match the stream ID currently associated"),
        "{message}"
    );
    // The old connection's end says nothing about the framework.
    cluster.hang_up(&old);
    assert!(cluster.view().framework(&new.id).unwrap().connected);
    drop(agent);
}

#[test]
fn agents_that_run_tasks_of_a_framework_hear_of_its_changes() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent("cpus:4;mem:1024");
    let scheduler = cluster.subscribe(info("one"));
    cluster.start(&scheduler, "t");
    cluster.messages(&agent);
    let mut changed = info("renamed");
    changed.id = Some(scheduler.id.as_str().into());
    cluster.subscribe(changed);
    let messages = cluster.messages(&agent);
    let [to_agent::Body::UpdateFramework(update)] = messages.as_slice() else {
        panic!("{messages:?}")
    };
    assert_eq!(update.framework.name, "renamed");
}

#[test]
fn an_id_that_nobody_has_seen_is_taken_as_it_is() {
    let mut cluster = Cluster::new();
    let mut given = info("one");
    given.id = Some("from-elsewhere".into());
    assert_eq!(cluster.subscribe(given).id, "from-elsewhere");
}

#[test]
fn refusals_of_a_subscription_come_on_the_stream() {
    let mut invalid = Vec::new();
    let mut roles = info("roles");
    roles.roles = vec!["a".to_owned()];
    invalid.push((roles.clone(), "not MULTI_ROLE"));
    roles.role = Some("b".to_owned());
    invalid.push((
        with_capability(roles, Capability::MultiRole),
        "'FrameworkInfo.role' must not be set",
    ));
    let mut twice = with_capability(info("twice"), Capability::MultiRole);
    twice.roles = vec!["a".to_owned(), "a".to_owned()];
    invalid.push((twice, "duplicate role 'a'"));
    let mut many = with_capability(info("many"), Capability::MultiRole);
    many.roles = (0..10_001).map(|number| format!("r{number}")).collect();
    invalid.push((many, "has 10001 entries; at most 10000"));
    invalid.push((
        v1::FrameworkInfo {
            role: Some("/a".to_owned()),
            ..info("slash")
        },
        "slash",
    ));
    invalid.push((
        v1::FrameworkInfo {
            role: Some("secret".to_owned()),
            ..info("role")
        },
        "--roles",
    ));
    invalid.push((
        v1::FrameworkInfo {
            failover_timeout: Some(1e10),
            ..info("long")
        },
        "failover_timeout",
    ));
    invalid.push((
        v1::FrameworkInfo {
            failover_timeout: Some(f64::NAN),
            ..info("nan")
        },
        "failover_timeout",
    ));
    invalid.push((
        v1::FrameworkInfo {
            user: "root".to_owned(),
            ..info("root")
        },
        "root_submissions",
    ));
    invalid.push((
        v1::FrameworkInfo {
            id: Some("a/b".into()),
            ..info("id")
        },
        "framework id",
    ));
    let mut cluster = Cluster::with(|config| {
        config.root_submissions = false;
        config.roles = Some(["a".to_owned(), "b".to_owned()].into());
    });
    for (info, expected) in invalid {
        let (request, scheduler) = cluster.subscribe_call(info);
        assert_eq!(cluster.answers.get(&request), Some(&Answer::Subscribed));
        let events = cluster.events(&scheduler);
        assert_eq!(kinds(&events), [event::Type::Error]);
        let message = &events[0].error.as_ref().unwrap().message;
        assert!(
            message.contains(expected),
            "{message} does not say {expected}"
        );
        assert!(cluster.closed_streams.contains(&scheduler.stream));
    }
    let suppressed = call::Subscribe {
        framework_info: info("suppressed"),
        suppressed_roles: vec!["a".to_owned()],
        offer_constraints: None,
    };
    let (_, scheduler) = cluster.subscribe_with(None, suppressed, None);
    assert_eq!(kinds(&cluster.events(&scheduler)), [event::Type::Error]);
    assert!(cluster.view().frameworks.is_empty());
}

#[test]
fn the_authenticated_principal_is_filled_in_and_must_not_be_contradicted() {
    let mut cluster = Cluster::new();
    let subscribe = |info: &v1::FrameworkInfo| call::Subscribe {
        framework_info: info.clone(),
        ..Default::default()
    };
    let other = v1::FrameworkInfo {
        principal: Some("eve".to_owned()),
        ..info("one")
    };
    let (request, _) = cluster.subscribe_with(None, subscribe(&other), Some("alice".to_owned()));
    assert_eq!(refusal(&cluster.answers[&request]).0, 400);
    let (_, mut scheduler) =
        cluster.subscribe_with(None, subscribe(&info("one")), Some("alice".to_owned()));
    scheduler.id = "m0-0000".to_owned();
    assert_eq!(
        cluster
            .view()
            .framework("m0-0000")
            .unwrap()
            .info
            .principal(),
        "alice"
    );
    let stream_id = Some(scheduler.stream_id.clone());
    let answer = cluster.call_as(
        &scheduler,
        Some("eve".to_owned()),
        stream_id.clone(),
        plain(call::Type::Revive),
    );
    assert_eq!(refusal(&answer).0, 400);
    let answer = cluster.call_as(
        &scheduler,
        Some("alice".to_owned()),
        stream_id,
        plain(call::Type::Revive),
    );
    assert_eq!(answer, Answer::Accepted);
    let thief = v1::FrameworkInfo {
        id: Some("m0-0000".into()),
        principal: Some("eve".to_owned()),
        ..info("one")
    };
    let (_, stream) = cluster.subscribe_call(thief);
    let events = cluster.events(&stream);
    assert_eq!(
        events[0].error.as_ref().unwrap().message,
        "Changing framework's principal is not allowed."
    );
}

#[test]
fn calls_that_are_not_in_order_are_refused_with_mesos_sentences() {
    let mut cluster = Cluster::new();
    let scheduler = cluster.subscribe(info("one"));
    let stranger = Scheduler {
        id: "nobody".to_owned(),
        ..scheduler.clone()
    };
    let stream_id = Some(scheduler.stream_id.clone());
    let mut refused =
        |scheduler: &Scheduler, stream_id: &Option<String>, call: Call, expected: (u16, &str)| {
            let answer = cluster.call_as(scheduler, None, stream_id.clone(), call);
            assert_eq!(refusal(&answer), expected);
        };
    refused(
        &scheduler,
        &stream_id,
        Call::default(),
        (400, "Expecting 'type' to be present"),
    );
    let unheard_of = Call {
        r#type: Some(99),
        ..Call::default()
    };
    refused(
        &scheduler,
        &stream_id,
        unheard_of,
        (400, "Expecting 'type' to be present"),
    );
    refused(
        &scheduler,
        &stream_id,
        plain(call::Type::Unknown),
        (501, "Unsupported call type"),
    );
    refused(
        &scheduler,
        &stream_id,
        plain(call::Type::Accept),
        (400, "Expecting 'accept' to be present"),
    );
    refused(
        &stranger,
        &stream_id,
        plain(call::Type::Revive),
        (400, "Framework cannot be found"),
    );
    let missing = "All non-subscribe calls should include the 'Mesos-Stream-Id' header";
    refused(&scheduler, &None, plain(call::Type::Revive), (400, missing));
    let short = call::Acknowledge {
        uuid: b"short".as_slice().into(),
        ..call::Acknowledge::default()
    };
    let short = Call {
        acknowledge: Some(short),
        ..plain(call::Type::Acknowledge)
    };
    let sentence = "Expecting 'acknowledge.uuid' to be a UUID of 16 bytes, but it has 5";
    refused(&scheduler, &stream_id, short, (400, sentence));
    let subscribe = Call {
        subscribe: Some(call::Subscribe::default()),
        ..plain(call::Type::Subscribe)
    };
    let sentence = "Subscribe calls should not include the 'Mesos-Stream-Id' header";
    refused(&scheduler, &stream_id, subscribe.clone(), (400, sentence));
    let sentence = "'framework_id' differs from 'subscribe.framework_info.id'";
    refused(&scheduler, &None, subscribe, (400, sentence));

    let request = RequestKey(1_000_000);
    let call = Box::new(plain(call::Type::Revive));
    cluster.apply(Input::SchedulerCall {
        request,
        principal: None,
        stream_id: None,
        call,
        new_stream: None,
    });
    assert_eq!(
        refusal(&cluster.answers[&request]),
        (400, "Expecting 'framework_id' to be present")
    );
    cluster.hang_up(&scheduler);
    let answer = cluster.call(&scheduler, plain(call::Type::Revive));
    assert_eq!(refusal(&answer), (403, "Framework is not subscribed"));
}

#[test]
fn an_offer_says_where_and_how_much() {
    let mut cluster = Cluster::new();
    let mut machine = register("cpus:4;mem:1024;ports:[31000-31009]");
    machine.agent.attributes.push(v1::Attribute {
        name: "rack".to_owned(),
        r#type: v1::value::Type::Text.into(),
        text: Some(v1::value::Text {
            value: "r1".to_owned(),
        }),
        ..v1::Attribute::default()
    });
    let agent = cluster.register(machine);
    let scheduler = cluster.subscribe(info("one"));
    let offer = cluster.offers(&scheduler).remove(0);
    assert_eq!(
        (offer.id.value.as_str(), offer.agent_id.value.as_str()),
        ("m0-O0", agent.id.as_str())
    );
    assert_eq!(
        (offer.framework_id.value.as_str(), offer.hostname.as_str()),
        (scheduler.id.as_str(), "host")
    );
    let url = offer.url.as_ref().unwrap();
    assert_eq!(
        (url.scheme.as_str(), url.path.as_deref()),
        ("http", Some("/slave(1)"))
    );
    assert_eq!(
        (url.address.ip.as_deref(), url.address.port),
        (Some("10.1.2.3"), 5051)
    );
    assert_eq!(offer.attributes[0].name, "rack");
    assert_eq!(offer.allocation_info, None);
    assert_eq!(offer.resources.len(), 3);
    for resource in &offer.resources {
        assert_eq!(
            (resource.allocation_info.as_ref(), resource.role.as_deref()),
            (None, Some("*"))
        );
    }
}

#[test]
fn a_framework_of_several_roles_is_told_for_which_an_offer_is() {
    let mut cluster = Cluster::new();
    cluster.agent("cpus:4;mem:1024");
    let mut multi = with_capability(info("multi"), Capability::MultiRole);
    multi = with_capability(multi, Capability::ReservationRefinement);
    multi.roles = vec!["a".to_owned(), "b".to_owned()];
    let scheduler = cluster.subscribe(multi);
    let offer = cluster.offers(&scheduler).remove(0);
    let role = offer.allocation_info.as_ref().unwrap().role.clone();
    assert!(matches!(role.as_deref(), Some("a" | "b")));
    for resource in &offer.resources {
        assert_eq!(resource.allocation_info.as_ref().unwrap().role, role);
        assert_eq!(resource.role, None);
    }
}

#[test]
fn all_offers_of_one_round_come_in_one_event() {
    let mut cluster = Cluster::new();
    for _ in 0..3 {
        cluster.agent("cpus:4;mem:1024");
    }
    let scheduler = cluster.subscribe(info("one"));
    cluster.settle();
    let events = cluster.events(&scheduler);
    assert_eq!(kinds(&events), [event::Type::Offers]);
    assert_eq!(events[0].offers.as_ref().unwrap().offers.len(), 3);
}

#[test]
fn a_declined_offer_stays_away_for_as_long_as_was_asked() {
    let mut cluster = Cluster::new();
    cluster.agent("cpus:4;mem:1024");
    let scheduler = cluster.subscribe(info("one"));
    let offers = cluster.offers(&scheduler);
    assert_eq!(
        cluster.call(&scheduler, decline(&offers, Some(10.0))),
        Answer::Accepted
    );
    cluster.advance(Duration::from_secs(9));
    assert!(cluster.events(&scheduler).is_empty());
    cluster.advance(Duration::from_secs(2));
    let offers = cluster.offers(&scheduler);
    assert_eq!(offers.len(), 1);
    cluster.call(&scheduler, decline(&offers, None));
    cluster.advance(Duration::from_secs(4));
    assert!(cluster.offers(&scheduler).is_empty());
    cluster.advance(Duration::from_secs(2));
    let offers = cluster.offers(&scheduler);
    assert_eq!(offers.len(), 1);
    cluster.call(&scheduler, decline(&offers, Some(0.0)));
    assert_eq!(cluster.offers(&scheduler).len(), 1);
}

#[test]
fn an_offer_of_another_framework_cannot_be_declined_away() {
    let mut cluster = Cluster::new();
    cluster.agent("cpus:4;mem:1024");
    let owner = cluster.subscribe(info("owner"));
    let offers = cluster.offers(&owner);
    let other = cluster.subscribe(info("other"));
    cluster.call(&other, decline(&offers, None));
    cluster.call(&other, accept(&offers, Vec::new(), None));
    assert!(cluster.offers(&other).is_empty());
    assert_eq!(cluster.view().offers.len(), 1);
}

#[test]
fn revive_forgets_refusals_and_suppress_stops_offers() {
    let mut cluster = Cluster::new();
    cluster.agent("cpus:4;mem:1024");
    let scheduler = cluster.subscribe(info("one"));
    let offers = cluster.offers(&scheduler);
    cluster.call(&scheduler, decline(&offers, Some(1e9)));
    assert!(cluster.offers(&scheduler).is_empty());
    let wrong = Call {
        revive: Some(call::Revive {
            roles: vec!["not-mine".to_owned()],
        }),
        ..plain(call::Type::Revive)
    };
    assert_eq!(cluster.call(&scheduler, wrong), Answer::Accepted);
    assert!(cluster.offers(&scheduler).is_empty());
    assert_eq!(
        cluster.call(&scheduler, plain(call::Type::Revive)),
        Answer::Accepted
    );
    let offers = cluster.offers(&scheduler);
    assert_eq!(offers.len(), 1);
    assert_eq!(
        cluster.call(&scheduler, plain(call::Type::Suppress)),
        Answer::Accepted
    );
    cluster.call(&scheduler, decline(&offers, Some(0.0)));
    cluster.advance(Duration::from_secs(60));
    assert!(cluster.events(&scheduler).is_empty());
    assert_eq!(
        cluster
            .view()
            .framework(&scheduler.id)
            .unwrap()
            .suppressed
            .len(),
        1
    );
    cluster.call(&scheduler, plain(call::Type::Revive));
    assert_eq!(cluster.offers(&scheduler).len(), 1);
    assert!(
        cluster
            .view()
            .framework(&scheduler.id)
            .unwrap()
            .suppressed
            .is_empty()
    );
}

#[test]
fn an_offer_left_lying_is_rescinded() {
    let mut cluster = Cluster::with(|config| config.offer_timeout = Some(Duration::from_secs(30)));
    cluster.agent("cpus:4;mem:1024");
    let scheduler = cluster.subscribe(info("one"));
    let offers = cluster.offers(&scheduler);
    cluster.advance(Duration::from_secs(31));
    let events = cluster.events(&scheduler);
    assert_eq!(events[0].rescind.as_ref().unwrap().offer_id, offers[0].id);
    assert_eq!(kinds(&events), [event::Type::Rescind, event::Type::Offers]);
}

#[test]
fn a_framework_that_is_torn_down_takes_its_tasks_along_and_cannot_come_back() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent("cpus:4;mem:1024");
    let scheduler = cluster.subscribe(info("one"));
    cluster.start(&scheduler, "t");
    cluster.messages(&agent);
    assert_eq!(
        cluster.call(&scheduler, plain(call::Type::Teardown)),
        Answer::Accepted
    );
    assert!(cluster.closed_streams.contains(&scheduler.stream));
    let messages = cluster.messages(&agent);
    let shutdown = link::ShutdownFramework {
        framework_id: scheduler.id.as_str().into(),
    };
    assert_eq!(messages, [to_agent::Body::ShutdownFramework(shutdown)]);
    let view = cluster.view();
    assert!(view.frameworks.is_empty() && view.tasks.is_empty() && view.offers.is_empty());
    assert!(view.agents.values().all(|agent| agent.used.is_empty()));
    let completed = view.completed_frameworks.iter().next().unwrap();
    assert!(completed.unregistered_ns.is_some());
    let task = completed.completed_tasks.iter().next().unwrap();
    assert_eq!(task.state(), v1::TaskState::TaskKilled);
    assert_eq!(
        task.statuses.last().unwrap().reason(),
        v1::task_status::Reason::FrameworkRemoved
    );
    assert!(
        !cluster
            .registry
            .contains_key(&format!("framework/{}", scheduler.id))
    );
    let again = v1::FrameworkInfo {
        id: Some(scheduler.id.as_str().into()),
        ..info("one")
    };
    let (_, stream) = cluster.subscribe_call(again);
    let events = cluster.events(&stream);
    assert_eq!(
        events[0].error.as_ref().unwrap().message,
        "Framework has been removed"
    );
    // What it ran there goes on trying to be heard.
    cluster.update(&scheduler, &agent, "t", v1::TaskState::TaskFinished);
    assert!(matches!(
        cluster.messages(&agent).as_slice(),
        [to_agent::Body::ShutdownFramework(_)]
    ));
}

#[test]
fn agents_without_a_task_of_a_removed_framework_hear_of_it_too() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent("cpus:4;mem:1024");
    let scheduler = cluster.subscribe(info("one"));
    cluster.messages(&agent);
    cluster.call(&scheduler, plain(call::Type::Teardown));
    // Executors of the framework may wait there for a next task.
    assert!(matches!(
        cluster.messages(&agent).as_slice(),
        [to_agent::Body::ShutdownFramework(_)]
    ));
}

#[test]
fn a_framework_has_its_failover_timeout_to_come_back() {
    let mut cluster = Cluster::new();
    cluster.agent("cpus:4;mem:1024");
    let scheduler = cluster.subscribe(info("one"));
    cluster.settle();
    cluster.hang_up(&scheduler);
    let framework = cluster.view().framework(&scheduler.id).unwrap().clone();
    assert!(!framework.connected && !framework.active && framework.offered.is_empty());
    cluster.advance(Duration::from_secs(99));
    let again = v1::FrameworkInfo {
        id: Some(scheduler.id.as_str().into()),
        ..info("one")
    };
    let scheduler = cluster.subscribe(again);
    cluster.advance(Duration::from_secs(200));
    assert!(cluster.view().framework(&scheduler.id).is_some());
    cluster.hang_up(&scheduler);
    cluster.advance(Duration::from_secs(101));
    assert!(cluster.view().frameworks.is_empty());
    let impatient = cluster.subscribe(v1::FrameworkInfo {
        failover_timeout: None,
        ..info("two")
    });
    cluster.hang_up(&impatient);
    assert!(cluster.view().frameworks.is_empty());
}

#[test]
fn a_framework_can_change_what_it_is_while_connected() {
    let mut cluster = Cluster::new();
    cluster.agent("cpus:4;mem:1024");
    let multi = |roles: &[&str]| v1::FrameworkInfo {
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        ..with_capability(info("one"), Capability::MultiRole)
    };
    let scheduler = cluster.subscribe(multi(&["a"]));
    assert_eq!(cluster.offers(&scheduler).len(), 1);
    let update = |framework_info: v1::FrameworkInfo| Call {
        update_framework: Some(call::UpdateFramework {
            framework_info,
            ..Default::default()
        }),
        ..plain(call::Type::UpdateFramework)
    };
    let answer = cluster.call(&scheduler, update(multi(&["b"])));
    assert_eq!(refusal(&answer).0, 400);
    let id = Some(scheduler.id.as_str().into());
    let other_user = v1::FrameworkInfo {
        id: id.clone(),
        user: "other".to_owned(),
        ..multi(&["b"])
    };
    let answer = cluster.call(&scheduler, update(other_user));
    assert_eq!(
        refusal(&answer),
        (400, "Updating the framework's user is not allowed")
    );
    let answer = cluster.call(
        &scheduler,
        update(v1::FrameworkInfo {
            id,
            ..multi(&["b"])
        }),
    );
    assert_eq!(answer, Answer::Done);
    cluster.settle();
    let events = cluster.events(&scheduler);
    assert_eq!(kinds(&events), [event::Type::Rescind, event::Type::Offers]);
    let offers = &events[1].offers.as_ref().unwrap().offers;
    assert_eq!(offers[0].allocation_info.as_ref().unwrap().role(), "b");
}

#[test]
fn operators_set_weights_and_tear_frameworks_down() {
    let mut cluster = Cluster::new();
    let scheduler = cluster.subscribe(info("one"));
    let weights = |weight: f64| master::Call {
        r#type: Some(master::call::Type::UpdateWeights.into()),
        update_weights: Some(master::call::UpdateWeights {
            weight_infos: vec![v1::WeightInfo {
                weight,
                role: Some("a".to_owned()),
            }],
        }),
        ..master::Call::default()
    };
    assert_eq!(refusal(&cluster.operator(weights(0.0))).0, 400);
    assert_eq!(cluster.operator(weights(2.5)), Answer::Done);
    assert!(cluster.registry.contains_key("weight/a"));
    let weight_of_a = |cluster: &Cluster| {
        let view = cluster.view();
        view.roles
            .iter()
            .find(|(role, _)| role.as_str() == "a")
            .map(|(_, record)| record.weight)
    };
    assert_eq!(weight_of_a(&cluster), Some(2.5));
    let plain = |call_type: master::call::Type| master::Call {
        r#type: Some(call_type.into()),
        ..master::Call::default()
    };
    assert_eq!(
        refusal(&cluster.operator(plain(master::call::Type::DrainAgent))),
        (400, "Expecting 'drain_agent' to be present")
    );
    assert_eq!(
        refusal(&cluster.operator(plain(master::call::Type::Teardown))).0,
        400
    );
    let teardown = |id: &str| master::Call {
        teardown: Some(master::call::Teardown {
            framework_id: id.into(),
        }),
        ..plain(master::call::Type::Teardown)
    };
    assert_eq!(
        refusal(&cluster.operator(teardown("nobody"))),
        (400, "No framework found with specified ID")
    );
    assert_eq!(cluster.operator(teardown(&scheduler.id)), Answer::Done);
    assert!(cluster.view().frameworks.is_empty());
    cluster.restart();
    assert_eq!(weight_of_a(&cluster), Some(2.5));
}

#[test]
fn an_accept_has_so_many_operations_and_no_more() {
    let mut cluster = Cluster::new();
    cluster.agent("cpus:4;mem:1024");
    let scheduler = cluster.subscribe(info("one"));
    let offers = cluster.offers(&scheduler);
    let empty = |count| vec![v1::offer::Operation::default(); count];
    let refused = cluster.call(&scheduler, accept(&offers, empty(10_001), None));
    let (status, message) = refusal(&refused);
    assert_eq!(status, 400);
    assert!(
        message.contains("10001") && message.contains("10000"),
        "{message}"
    );
    // Nothing has happened to the offers.
    assert_eq!(cluster.view().offers.len(), 1);
    let taken = cluster.call(&scheduler, accept(&offers, empty(10_000), None));
    assert_eq!(taken, Answer::Accepted);
    assert_eq!(cluster.view().offers.len(), 0);
}
