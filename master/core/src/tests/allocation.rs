//! Who is offered what: quotas, minimums, constraints, regions, wishes, fragments.

use std::time::Duration;

use tepui_api::v1::framework_info::capability::Type as Capability;
use tepui_api::v1::master::call as operator_call;
use tepui_api::v1::quota::{QuotaConfig, QuotaRequest};
use tepui_api::v1::scheduler::{Call, attribute_constraint, call, event, offer_constraints};
use tepui_api::v1::{self, master, scheduler, value};
use tepui_model::Role;

use super::harness::*;
use crate::{Answer, Input};

fn in_role(name: &str, role: &str) -> v1::FrameworkInfo {
    v1::FrameworkInfo {
        role: Some(role.to_owned()),
        ..info(name)
    }
}

fn in_roles(name: &str, roles: &[&str]) -> v1::FrameworkInfo {
    v1::FrameworkInfo {
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        ..with_capability(info(name), Capability::MultiRole)
    }
}

pub(super) fn config(
    role: &str,
    guarantees: &[(&str, f64)],
    limits: &[(&str, f64)],
) -> QuotaConfig {
    let amounts = |amounts: &[(&str, f64)]| {
        let amounts = amounts.iter();
        amounts
            .map(|(name, value)| ((*name).to_owned(), value::Scalar { value: *value }))
            .collect()
    };
    QuotaConfig {
        role: role.to_owned(),
        guarantees: amounts(guarantees),
        limits: amounts(limits),
    }
}

pub(super) fn update(configs: Vec<QuotaConfig>, force: bool) -> master::Call {
    let update = operator_call::UpdateQuota {
        force: Some(force),
        quota_configs: configs,
    };
    master::Call {
        r#type: Some(operator_call::Type::UpdateQuota.into()),
        update_quota: Some(update),
        ..master::Call::default()
    }
}

fn set(role: &str, guarantee: &str, force: bool) -> master::Call {
    let quota_request = QuotaRequest {
        force: Some(force),
        role: Some(role.to_owned()),
        guarantee: wire_resources(guarantee),
    };
    master::Call {
        r#type: Some(operator_call::Type::SetQuota.into()),
        set_quota: Some(operator_call::SetQuota { quota_request }),
        ..master::Call::default()
    }
}

fn remove(role: &str) -> master::Call {
    let role = role.to_owned();
    master::Call {
        r#type: Some(operator_call::Type::RemoveQuota.into()),
        remove_quota: Some(operator_call::RemoveQuota { role }),
        ..master::Call::default()
    }
}

fn cpus(offers: &[v1::Offer]) -> f64 {
    let resources = offers.iter().flat_map(|offer| &offer.resources);
    resources
        .filter(|resource| resource.name == "cpus")
        .filter_map(|resource| Some(resource.scalar.as_ref()?.value))
        .sum()
}

fn rescinded(events: &[scheduler::Event]) -> usize {
    let kinds = kinds(events).into_iter();
    kinds.filter(|kind| *kind == event::Type::Rescind).count()
}

#[test]
fn offers_above_a_new_limit_are_rescinded_and_offered_again_up_to_it() {
    let mut cluster = Cluster::new();
    cluster.agent("cpus:4;mem:1024");
    cluster.agent("cpus:4;mem:1024");
    let scheduler = cluster.subscribe(in_role("one", "a"));
    assert_eq!(cluster.offers(&scheduler).len(), 2);
    let answer = cluster.operator(update(vec![config("a", &[], &[("cpus", 5.0)])], false));
    assert_eq!(answer, Answer::Done);
    let events = cluster.events(&scheduler);
    assert_eq!(rescinded(&events), 1, "only as many as needed");
    assert_eq!(cpus(&cluster.offers(&scheduler)), 1.0);
    let record = cluster.view().framework(&scheduler.id).unwrap().clone();
    assert_eq!(
        (record.metrics.offers_sent, record.metrics.offers_rescinded),
        (3, 1)
    );
}

#[test]
fn offers_are_rescinded_to_make_head_room_for_a_guarantee() {
    let mut cluster = Cluster::new();
    cluster.agent("cpus:4;mem:1024");
    cluster.agent("cpus:4;mem:1024");
    let greedy = cluster.subscribe(in_role("greedy", "greedy"));
    assert_eq!(cpus(&cluster.offers(&greedy)), 8.0);
    let guarantee = config("sure", &[("cpus", 3.0)], &[]);
    assert_eq!(
        cluster.operator(update(vec![guarantee], false)),
        Answer::Done
    );
    assert_eq!(rescinded(&cluster.events(&greedy)), 1);
    assert_eq!(cpus(&cluster.offers(&greedy)), 1.0);
    let sure = cluster.subscribe(in_role("sure", "sure"));
    assert_eq!(cpus(&cluster.offers(&sure)), 3.0);
}

#[test]
fn an_offer_left_lying_goes_to_whoever_would_take_it() {
    let mut cluster = Cluster::new();
    cluster.agent("cpus:4;mem:1024");
    let hoarder = cluster.subscribe(in_role("hoarder", "a"));
    assert_eq!(cpus(&cluster.offers(&hoarder)), 4.0);
    cluster.advance(Duration::from_secs(25));
    assert_eq!(rescinded(&cluster.events(&hoarder)), 0, "nobody else asks");
    let worker = cluster.subscribe(in_role("worker", "b"));
    cluster.advance(Duration::from_secs(4));
    assert_eq!(cluster.offers(&worker).len(), 0);
    cluster.advance(Duration::from_secs(2));
    assert_eq!(rescinded(&cluster.events(&hoarder)), 1);
    let offers = cluster.offers(&worker);
    assert_eq!(cpus(&offers), 4.0);
    // The worker has answered nothing either, and now it is the other's turn.
    cluster.advance(Duration::from_secs(11));
    assert_eq!(cpus(&cluster.offers(&hoarder)), 4.0);
}

#[test]
fn a_quota_survives_the_master() {
    let mut cluster = Cluster::new();
    let quota = config("a", &[("cpus", 1.0)], &[("cpus", 2.0), ("mem", 0.0)]);
    cluster.agent("cpus:4;mem:1024");
    cluster.operator(update(vec![quota.clone()], false));
    cluster.restart();
    let role = Role::parse("a").unwrap();
    let view = cluster.view();
    assert_eq!(crate::quota_config(&role, &view.quotas[&role]), quota);
    cluster.agent("cpus:4;mem:1024");
    let scheduler = cluster.subscribe(in_role("one", "a"));
    let offers = cluster.offers(&scheduler);
    assert_eq!(cpus(&offers), 2.0);
    assert!(
        offers[0]
            .resources
            .iter()
            .all(|resource| resource.name != "mem")
    );
    // The quota of roles that have none takes the record away.
    cluster.operator(update(vec![config("a", &[], &[])], false));
    assert!(!cluster.registry.contains_key("quota/a"));
    assert!(cluster.view().quotas.is_empty());
}

#[test]
fn quotas_of_several_roles_are_set_all_or_none() {
    let mut cluster = Cluster::with(|config| {
        config.roles = Some(["a", "b"].map(str::to_owned).into());
    });
    cluster.agent("cpus:4;mem:1024");
    let good = || config("a", &[("cpus", 1.0)], &[("cpus", 2.0)]);
    for (bad, words) in [
        (config("*", &[], &[]), "default '*' role"),
        (config("a/b", &[], &[]), "'a/b' is not present"),
        (config("a b", &[], &[]), "Invalid role"),
        (config("c", &[], &[]), "--roles"),
        (config("a", &[], &[]), "named twice"),
        (config("b", &[("cpus", -1.0)], &[]), "Invalid amount"),
        (config("b", &[], &[("cpus", f64::NAN)]), "Invalid amount"),
        (config("b", &[], &[("cpus", 2e12)]), "Invalid amount"),
        (
            config("b", &[("cpus", 2.0)], &[("cpus", 1.0)]),
            "more than its limit",
        ),
        (config("b", &[("cpus", 3.5)], &[]), "the cluster has"),
    ] {
        let answer = cluster.operator(update(vec![good(), bad], false));
        let (status, message) = refusal(&answer);
        assert_eq!(status, 400, "{message}");
        assert!(message.contains(words), "{message}");
        assert!(cluster.view().quotas.is_empty());
    }
    let over = config("b", &[("cpus", 3.5)], &[]);
    assert_eq!(
        cluster.operator(update(vec![good(), over], true)),
        Answer::Done
    );
    assert_eq!(cluster.view().quotas.len(), 2);
}

#[test]
fn a_limit_below_what_is_consumed_needs_force() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent("cpus:4;mem:1024;cpus(a):1");
    let scheduler = cluster.subscribe(in_role("one", "a/x"));
    cluster.start(&scheduler, "t");
    let limit = |cpus| vec![config("a", &[], &[("cpus", cpus)])];
    // One cpu is used, another is reserved; what is only offered does not count.
    let answer = cluster.operator(update(limit(1.9), false));
    assert_eq!(refusal(&answer).0, 400);
    assert_eq!(cluster.operator(update(limit(2.0), false)), Answer::Done);
    assert_eq!(cluster.operator(update(limit(1.0), true)), Answer::Done);
    drop(agent);
}

#[test]
fn quotas_of_nested_roles_fit_into_that_of_their_parent() {
    let mut cluster = Cluster::new();
    cluster.agent("cpus:8;mem:1024");
    let eng = || config("eng", &[("cpus", 4.0)], &[("cpus", 6.0)]);
    let web = |cpus| config("eng/web", &[("cpus", cpus)], &[]);
    let answer = cluster.operator(update(vec![eng(), web(2.0)], false));
    assert_eq!(answer, Answer::Done);
    for (configs, words) in [
        // Together with eng/web, which is as it was.
        (
            vec![config("eng/db", &[("cpus", 2.5)], &[])],
            "beneath role 'eng' come to 4.5, but its own guarantee is 4",
        ),
        (
            vec![config("eng", &[("cpus", 1.0)], &[("cpus", 6.0)])],
            "its own guarantee is 1",
        ),
        (
            vec![config("eng", &[], &[("cpus", 1.5)])],
            "its own limit is 1.5",
        ),
        // Guarantees beneath are part of what is above, so 4 and 5 are too much for 8, not 4, 2 and 5.
        (vec![config("ops", &[("cpus", 5.0)], &[])], "come to cpus:9"),
    ] {
        for force in [false, true] {
            if force && words.starts_with("come") {
                continue;
            }
            let answer = cluster.operator(update(configs.clone(), force));
            let (status, message) = refusal(&answer);
            assert_eq!(status, 400, "{message}");
            assert!(message.contains(words), "{message}");
        }
    }
    assert_eq!(cluster.view().quotas.len(), 2);
    let at_once = vec![
        config("eng/db", &[("cpus", 2.5)], &[]),
        config("eng", &[("cpus", 4.5)], &[("cpus", 6.0)]),
    ];
    assert_eq!(cluster.operator(update(at_once, false)), Answer::Done);
    assert_eq!(
        refusal(&cluster.operator(set("eng/x", "cpus:1", true))).0,
        400
    );
    cluster.restart();
    assert_eq!(cluster.view().quotas.len(), 3);
}

#[test]
fn the_limit_of_a_parent_takes_offers_from_its_children() {
    let mut cluster = Cluster::new();
    cluster.agent("cpus:4;mem:1024");
    cluster.agent("cpus:4;mem:1024");
    let web = cluster.subscribe(in_role("web", "eng/web"));
    assert_eq!(cpus(&cluster.offers(&web)), 8.0);
    let nested = config("eng/web", &[], &[("cpus", 7.0)]);
    let parent = config("eng", &[], &[("cpus", 3.0)]);
    let answer = cluster.operator(update(vec![nested, parent], false));
    assert_eq!(answer, Answer::Done);
    let events = cluster.events(&web);
    assert_eq!(rescinded(&events), 2);
    assert_eq!(cpus(&cluster.offers(&web)), 3.0, "less than its own limit");
    let db = cluster.subscribe(in_role("db", "eng/db"));
    assert_eq!(cpus(&cluster.offers(&db)), 0.0);
}

#[test]
fn a_limit_of_a_nested_role_below_what_is_consumed_needs_force() {
    let mut cluster = Cluster::new();
    cluster.agent("cpus:4;mem:1024");
    let scheduler = cluster.subscribe(in_role("one", "a/x/deep"));
    cluster.start(&scheduler, "t");
    let limit = |cpus| vec![config("a/x", &[], &[("cpus", cpus)])];
    let (status, message) = {
        let answer = cluster.operator(update(limit(0.5), false));
        let refused = refusal(&answer);
        (refused.0, refused.1.to_owned())
    };
    assert_eq!(status, 400);
    assert!(message.contains("'a/x' already consumes"), "{message}");
    assert_eq!(cluster.operator(update(limit(0.5), true)), Answer::Done);
}

#[test]
fn the_older_calls_set_and_remove_one_quota() {
    let mut cluster = Cluster::new();
    cluster.agent("cpus:4;mem:1024");
    assert_eq!(refusal(&cluster.operator(set("a", "cpus:9", false))).0, 409);
    assert_eq!(refusal(&cluster.operator(set("a", "", false))).0, 400);
    assert_eq!(
        refusal(&cluster.operator(set("a", "ports:[1-9]", false))).0,
        400
    );
    assert_eq!(
        refusal(&cluster.operator(set("a", "cpus(a):1", false))).0,
        400
    );
    assert_eq!(refusal(&cluster.operator(remove("a"))).0, 400);
    assert_eq!(cluster.operator(set("a", "cpus:2", false)), Answer::Done);
    let (status, message) = (400, "already has a quota");
    let answer = cluster.operator(set("a", "cpus:1", false));
    assert_eq!(refusal(&answer).0, status);
    assert!(refusal(&answer).1.contains(message));
    let scheduler = cluster.subscribe(in_role("one", "a"));
    assert_eq!(
        cpus(&cluster.offers(&scheduler)),
        2.0,
        "the guarantee is the limit"
    );
    assert_eq!(cluster.operator(remove("a")), Answer::Done);
    assert_eq!(cpus(&cluster.offers(&scheduler)), 2.0);
    assert_eq!(cluster.operator(set("b", "cpus:9", true)), Answer::Done);
}

#[test]
fn quotas_being_written_down_count_for_the_next_call() {
    let mut cluster = Cluster::new();
    cluster.agent("cpus:4;mem:1024");
    cluster.slow_disk = true;
    let half = |role: &str| update(vec![config(role, &[("cpus", 3.0)], &[])], false);
    let requests = [half("a"), half("b")].map(|call| {
        let request = crate::RequestKey(cluster.number());
        cluster.apply(Input::OperatorCall {
            request,
            principal: None,
            call: Box::new(call),
        });
        request
    });
    cluster.finish_writes();
    assert_eq!(cluster.answers[&requests[0]], Answer::Done);
    assert_eq!(refusal(&cluster.answers[&requests[1]]).0, 400);
}

#[test]
fn configured_weights_are_for_a_registry_that_has_none() {
    let mut cluster = Cluster::with(|config| {
        config.weights = [(Role::parse("a").unwrap(), 3.0)].into();
    });
    let weight = |cluster: &Cluster, role: &str| {
        let roles = cluster.view().roles;
        roles[&Role::parse(role).unwrap()].weight
    };
    assert_eq!(weight(&cluster, "a"), 3.0);
    cluster.config.weights = [(Role::parse("a").unwrap(), 5.0)].into();
    cluster.restart();
    assert_eq!(weight(&cluster, "a"), 3.0);
}

fn constraint(name: &str, regex: &str) -> scheduler::AttributeConstraint {
    use attribute_constraint::{Predicate, Selector, predicate, selector};
    scheduler::AttributeConstraint {
        selector: Selector {
            selector: Some(selector::Selector::AttributeName(name.to_owned())),
        },
        predicate: Predicate {
            predicate: Some(predicate::Predicate::TextMatches(predicate::TextMatches {
                regex: regex.to_owned(),
            })),
        },
    }
}

fn constraints(
    role: &str,
    groups: Vec<Vec<scheduler::AttributeConstraint>>,
) -> scheduler::OfferConstraints {
    let groups = groups.into_iter();
    let groups = groups.map(
        |attribute_constraints| offer_constraints::role_constraints::Group {
            attribute_constraints,
        },
    );
    let constraints = offer_constraints::RoleConstraints {
        groups: groups.collect(),
    };
    scheduler::OfferConstraints {
        role_constraints: [(role.to_owned(), constraints)].into(),
    }
}

fn racked(rack: &str) -> tepui_api::link::Register {
    let mut register = register("cpus:4;mem:1024");
    register.agent.attributes = tepui_api::convert::attributes_to_wire(
        &tepui_model::parse_attributes(&format!("rack:{rack}")).unwrap(),
    );
    register
}

fn update_framework(
    scheduler: &Scheduler,
    info: &v1::FrameworkInfo,
    change: impl FnOnce(&mut call::UpdateFramework),
) -> Call {
    let mut update = call::UpdateFramework {
        framework_info: v1::FrameworkInfo {
            id: Some(scheduler.id.as_str().into()),
            ..info.clone()
        },
        ..call::UpdateFramework::default()
    };
    change(&mut update);
    Call {
        r#type: Some(call::Type::UpdateFramework.into()),
        update_framework: Some(update),
        ..Call::default()
    }
}

#[test]
fn constraints_hold_from_the_first_offer_on_and_can_be_changed() {
    let mut cluster = Cluster::new();
    let first = cluster.register(racked("r1"));
    let second = cluster.register(racked("r2"));
    let subscribe = call::Subscribe {
        framework_info: in_role("one", "a"),
        offer_constraints: Some(constraints("a", vec![vec![constraint("rack", "r[13]")]])),
        ..Default::default()
    };
    let (_, mut scheduler) = cluster.subscribe_with(None, subscribe, None);
    scheduler.id = "m0-0000".to_owned();
    let offers = cluster.offers(&scheduler);
    assert_eq!(offers.len(), 1);
    assert_eq!(offers[0].agent_id.value, first.id);
    let call = update_framework(&scheduler, &in_role("one", "a"), |update| {
        update.offer_constraints = Some(constraints("a", vec![vec![constraint("rack", "r2")]]));
    });
    assert_eq!(cluster.call(&scheduler, call), Answer::Done);
    let offers = cluster.offers(&scheduler);
    assert_eq!(offers[0].agent_id.value, second.id);
}

#[test]
fn constraints_that_make_no_sense_are_refused_where_they_are_given() {
    let mut cluster = Cluster::new();
    let info = in_roles("one", &["a"]);
    let scheduler = cluster.subscribe(info.clone());
    for (bad, words) in [
        (
            constraints("b", vec![vec![constraint("rack", "r")]]),
            "not subscribed",
        ),
        (constraints("a", vec![]), "at least one group"),
        (
            constraints("a", vec![vec![]]),
            "at least one attribute constraint",
        ),
        (
            constraints("a", vec![vec![constraint("rack", "(")]]),
            "regular expression",
        ),
    ] {
        let call = update_framework(&scheduler, &info, |update| {
            update.offer_constraints = Some(bad.clone());
        });
        let answer = cluster.call(&scheduler, call);
        assert_eq!(refusal(&answer).0, 400);
        assert!(refusal(&answer).1.contains(words), "{answer:?}");
        let subscribe = call::Subscribe {
            framework_info: info.clone(),
            offer_constraints: Some(bad),
            ..Default::default()
        };
        let (request, refused) = cluster.subscribe_with(None, subscribe, None);
        assert_eq!(cluster.answers[&request], Answer::Subscribed);
        assert_eq!(kinds(&cluster.events(&refused)), [event::Type::Error]);
    }
}

#[test]
fn a_framework_changes_its_own_minimum_while_it_runs() {
    let mut cluster = Cluster::new();
    let minimum = |cpus: f64| {
        let quantities = [("cpus".to_owned(), value::Scalar { value: cpus })].into();
        let minimum = v1::offer_filters::MinAllocatableResources {
            quantities: vec![v1::offer_filters::ResourceQuantities { quantities }],
        };
        let filters = v1::OfferFilters {
            min_allocatable_resources: Some(minimum),
        };
        v1::FrameworkInfo {
            offer_filters: [("a".to_owned(), filters)].into(),
            ..in_role("one", "a")
        }
    };
    let scheduler = cluster.subscribe(minimum(8.0));
    cluster.agent("cpus:4;mem:1024");
    assert!(cluster.offers(&scheduler).is_empty());
    let call = update_framework(&scheduler, &minimum(4.0), |_| {});
    assert_eq!(cluster.call(&scheduler, call), Answer::Done);
    assert_eq!(cluster.offers(&scheduler).len(), 1);
}

fn domain(region: &str) -> v1::DomainInfo {
    use v1::domain_info::{FaultDomain, fault_domain};
    v1::DomainInfo {
        fault_domain: Some(FaultDomain {
            region: fault_domain::RegionInfo {
                name: region.to_owned(),
            },
            zone: fault_domain::ZoneInfo {
                name: "z".to_owned(),
            },
        }),
    }
}

#[test]
fn agents_of_other_regions_are_for_those_who_know_of_regions() {
    let mut cluster = Cluster::with(|config| config.domain = Some(domain("here")));
    let place = |region: &str| {
        let mut register = register("cpus:4;mem:1024");
        register.agent.domain = Some(domain(region));
        register
    };
    let plain = cluster.subscribe(info("plain"));
    let here = cluster.register(place("here"));
    let there = cluster.register(place("there"));
    let offers = cluster.offers(&plain);
    assert_eq!(offers.len(), 1);
    assert_eq!(offers[0].agent_id.value, here.id);
    let aware = cluster.subscribe(with_capability(info("aware"), Capability::RegionAware));
    let offers = cluster.offers(&aware);
    assert_eq!(offers[0].agent_id.value, there.id);
    assert_eq!(offers[0].domain, Some(domain("there")));
}

#[test]
fn an_agent_and_its_master_agree_on_whether_places_are_told() {
    for (own, required, told) in [(None, false, true), (Some(domain("here")), true, false)] {
        let mut cluster = Cluster::with(|config| {
            config.domain.clone_from(&own);
            config.require_agent_domain = required;
        });
        let mut register = register("cpus:4;mem:1024");
        register.agent.domain = told.then(|| domain("there"));
        let link = crate::LinkKey(cluster.number());
        cluster.from(link, tepui_api::link::to_master::Body::Register(register));
        assert!(cluster.closed_links.contains(&link));
        assert!(cluster.view().agents.is_empty());
    }
}

#[test]
fn a_request_has_the_named_agent_offered_first() {
    let mut cluster = Cluster::new();
    let one = cluster.subscribe(in_role("one", "a"));
    let agents: Vec<Agent> = (0..4).map(|_| cluster.agent("cpus:4;mem:1024")).collect();
    assert_eq!(cluster.offers(&one).len(), 4);
    let request = |agent: &str, resources: &str| v1::Request {
        agent_id: Some(agent.into()),
        resources: wire_resources(resources),
        ..v1::Request::default()
    };
    let requests = vec![
        request(&agents[3].id, "cpus:1"),
        request("nobody", "cpus:1"),
    ];
    let other = cluster.subscribe(in_role("other", "b"));
    let wish = Call {
        r#type: Some(call::Type::Request.into()),
        request: Some(call::Request { requests }),
        ..Call::default()
    };
    assert_eq!(cluster.call(&other, wish), Answer::Accepted);
    cluster.hang_up(&one);
    let offers = cluster.offers(&other);
    assert_eq!(offers[0].agent_id.value, agents[3].id);
}

#[test]
fn many_small_offers_of_one_agent_become_one() {
    let mut cluster = Cluster::new();
    cluster.agent("cpus:66;mem:16384");
    let scheduler = cluster.subscribe(info("one"));
    let offer = cluster.offers(&scheduler).remove(0);
    let tasks = (0..66).map(|number| task(&offer, &format!("t{number}"), "cpus:1;mem:128"));
    let tasks: Vec<_> = tasks.collect();
    cluster.launch(&scheduler, &[offer], tasks);
    let agent = Agent {
        id: "m0-S0".to_owned(),
        link: crate::LinkKey(2),
    };
    for number in 0..65 {
        let id = format!("t{number}");
        cluster.update(&scheduler, &agent, &id, v1::TaskState::TaskFinished);
        cluster.settle();
    }
    let events = cluster.events(&scheduler);
    assert_eq!(rescinded(&events), 64);
    let last = events.iter().rev().find_map(|event| event.offers.as_ref());
    assert_eq!(cpus(&last.unwrap().offers), 65.0);
    assert_eq!(cluster.view().offers.len(), 1);
}

#[test]
fn who_refuses_for_an_instant_is_asked_again_after_the_others() {
    let mut cluster = Cluster::new();
    cluster.agent("cpus:4;mem:1024");
    let first = cluster.subscribe(in_role("first", "a"));
    let second = cluster.subscribe(in_role("second", "b"));
    for scheduler in [&first, &second, &first] {
        let offers = cluster.offers(scheduler);
        assert_eq!(offers.len(), 1);
        cluster.call(scheduler, decline(&offers, Some(0.0)));
    }
    cluster.advance(Duration::from_millis(10));
    assert_eq!(cluster.view().offers.len(), 1);
}

/// Launching a little on each offer and refusing none of the rest is no declining: weights decide who is next.
#[test]
fn small_tasks_are_launched_as_the_weights_say() {
    let mut cluster = Cluster::with(|config| {
        config.weights = [(Role::parse("v").unwrap(), 3.0)].into();
    });
    cluster.agent("cpus:4;mem:400");
    cluster.agent("cpus:4;mem:400");
    let both = [
        cluster.subscribe(in_role("one", "u")),
        cluster.subscribe(in_role("three", "v")),
    ];
    let mut launched = [0_i32; 2];
    let mut idle = 0;
    while idle < 20 {
        idle += 1;
        for (scheduler, launched) in both.iter().zip(&mut launched) {
            for offer in cluster.offers(scheduler) {
                let little = task(&offer, &launched.to_string(), "cpus:0.1;mem:10");
                let call = accept(&[offer], vec![launch(vec![little])], Some(0.0));
                assert_eq!(cluster.call(scheduler, call), Answer::Accepted);
                *launched += 1;
                idle = 0;
            }
        }
        cluster.advance(Duration::from_millis(5));
    }
    assert!(launched.iter().sum::<i32>() >= 78, "{launched:?}");
    assert!((launched[1] - 3 * launched[0]).abs() <= 8, "{launched:?}");
}
