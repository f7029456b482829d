//! Who is offered what, as schedulers and operators see it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::time::Duration;

use serde_json::{Value, json};
use tepui_tests::{Cluster, Response, Scheduler, request, wait_until};

const JSON: (&str, &str) = ("Content-Type", "application/json");
/// Long enough for an offer to arrive that must not.
const QUIET: Duration = Duration::from_millis(1500);

fn operator(cluster: &Cluster, call: Value) -> Response {
    let body = call.to_string();
    request(
        &cluster.master.address,
        "POST",
        "/api/v1",
        &[JSON],
        body.as_bytes(),
    )
    .unwrap()
}

fn get(cluster: &Cluster, path: &str) -> Value {
    let answer = request(&cluster.master.address, "GET", path, &[], b"").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn metric(cluster: &Cluster, name: &str) -> f64 {
    get(cluster, "/metrics/snapshot")[name]
        .as_f64()
        .unwrap_or(-1.0)
}

fn amount(resources: &Value, name: &str) -> f64 {
    let resources = resources["resources"].as_array().unwrap().iter();
    resources
        .filter(|resource| resource["name"] == name)
        .map(|resource| resource["scalar"]["value"].as_f64().unwrap())
        .sum()
}

/// The offers of the next OFFERS event.
fn offers(scheduler: &mut Scheduler) -> Vec<Value> {
    scheduler.expect("OFFERS")["offers"]["offers"]
        .as_array()
        .unwrap()
        .clone()
}

/// Offers until they hold so many cpus in all.
fn offers_of_cpus(scheduler: &mut Scheduler, cpus: f64) -> Vec<Value> {
    let mut all = Vec::new();
    while all.iter().map(|offer| amount(offer, "cpus")).sum::<f64>() < cpus {
        all.extend(offers(scheduler));
    }
    all
}

fn is_quiet(scheduler: &mut Scheduler) -> bool {
    scheduler.next("OFFERS", QUIET).is_none()
}

fn decline(scheduler: &Scheduler, offers: &[Value], seconds: f64) {
    let ids: Vec<&Value> = offers.iter().map(|offer| &offer["id"]).collect();
    let answer = scheduler.call(json!({ "type": "DECLINE", "decline": {
        "offer_ids": ids, "filters": { "refuse_seconds": seconds },
    }}));
    assert_eq!(answer.status, 202, "{}", answer.text());
}

fn sized_task(id: &str, offer: &Value, cpus: f64, command: &str) -> Value {
    let mut task = Scheduler::task(id, offer, command);
    task["resources"][0]["scalar"]["value"] = json!(cpus);
    task
}

fn accept(scheduler: &Scheduler, offers: &[&Value], tasks: &[Value], seconds: f64) {
    let ids: Vec<&Value> = offers.iter().map(|offer| &offer["id"]).collect();
    let answer = scheduler.call(json!({ "type": "ACCEPT", "accept": {
        "offer_ids": ids,
        "operations": [{ "type": "LAUNCH", "launch": { "task_infos": tasks } }],
        "filters": { "refuse_seconds": seconds },
    }}));
    assert_eq!(answer.status, 202, "{}", answer.text());
}

fn multi_role(roles: &[&str]) -> Value {
    json!({ "roles": roles, "capabilities": [{ "type": "MULTI_ROLE" }] })
}

fn limit(role: &str, guarantees: Value, limits: Value) -> Value {
    json!({ "type": "UPDATE_QUOTA", "update_quota": { "quota_configs": [
        { "role": role, "guarantees": guarantees, "limits": limits },
    ]}})
}

/// Catalogue rows 14, 15, 22, 24.
#[test]
fn an_agent_is_offered_whole_then_what_is_left_and_refusals_hold_until_revived() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let offer = scheduler.offer();
    assert_eq!(
        (amount(&offer, "cpus"), amount(&offer, "mem")),
        (2.0, 1024.0)
    );
    let task = sized_task("t", &offer, 0.5, "sleep 1000");
    accept(&scheduler, &[&offer], &[task], 0.0);
    let left = scheduler.offer();
    assert_eq!(amount(&left, "cpus"), 1.5);
    decline(&scheduler, &[left], 1000.0);
    assert!(is_quiet(&mut scheduler));
    assert_eq!(scheduler.call(json!({ "type": "REVIVE" })).status, 202);
    assert_eq!(amount(&scheduler.offer(), "cpus"), 1.5);
}

/// Row 16.
#[test]
fn what_a_dead_agent_had_is_rescinded_and_offered_to_nobody() {
    let mut cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let offer = scheduler.offer();
    cluster.agents[0].kill();
    let rescinded = scheduler.expect("RESCIND");
    assert_eq!(rescinded["rescind"]["offer_id"], offer["id"]);
    let mut other = Scheduler::subscribe(&cluster.master.address, json!({}));
    assert!(is_quiet(&mut other) && is_quiet(&mut scheduler));
}

/// Rows 17, 29.
#[test]
fn remnants_are_not_offered_and_offers_left_lying_are_rescinded() {
    let mut cluster = Cluster::master_alone(&[
        "--min_allocatable_resources",
        "cpus:1;mem:512",
        "--offer_timeout",
        "1secs",
    ]);
    cluster.add_agent(&["--resources", "cpus:2;mem:1024"]);
    cluster.wait_for_agents(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({ "name": "slow" }));
    let offer = scheduler.offer();
    let rescinded = scheduler.expect("RESCIND");
    assert_eq!(rescinded["rescind"]["offer_id"], offer["id"]);
    let again = scheduler.offer();
    assert_ne!(again["id"], offer["id"]);
    let count = |event: &str| {
        let name = format!(
            "master/frameworks/slow.{}/offers/{event}",
            scheduler.framework_id
        );
        metric(&cluster, &name)
    };
    assert!(count("sent") >= 2.0 && count("rescinded") >= 1.0);
    assert_eq!(count("accepted"), 0.0);
    // An offer may have run out just now, so the next that is in force is taken.
    let task = |offer: &Value| sized_task("t", offer, 1.5, "sleep 1000");
    let mut offer = again;
    loop {
        accept(&scheduler, &[&offer], &[task(&offer)], 0.0);
        let state = scheduler.status()["state"].clone();
        if state != "TASK_LOST" {
            break;
        }
        offer = scheduler.offer();
    }
    scheduler.until("t", "TASK_RUNNING");
    while scheduler.next("OFFERS", Duration::from_millis(1)).is_some() {}
    assert!(is_quiet(&mut scheduler), "half a cpu is too little");
}

/// Row 20.
#[test]
fn equal_frameworks_take_turns() {
    let cluster = Cluster::start(1);
    let mut first = Scheduler::subscribe(&cluster.master.address, json!({ "name": "a" }));
    let held = first.offer();
    let mut second = Scheduler::subscribe(&cluster.master.address, json!({ "name": "b" }));
    decline(&first, &[held], 0.0);
    for _ in 0..5 {
        let offer = second.offer();
        assert!(first.next("OFFERS", Duration::from_millis(50)).is_none());
        decline(&second, &[offer], 0.0);
        let offer = first.offer();
        decline(&first, &[offer], 0.0);
    }
}

/// Rows 25, 26, 27, 28.
#[test]
fn roles_are_suppressed_and_revived_one_by_one() {
    let cluster = Cluster::start(1);
    let both = json!(["a", "b"]);
    let info = || multi_role(&["a", "b"]);
    let mut scheduler = Scheduler::subscribe_with(
        &cluster.master.address,
        info(),
        json!({ "suppressed_roles": both }),
    );
    assert!(is_quiet(&mut scheduler));
    let revive = |scheduler: &Scheduler, role: &str| {
        let call = json!({ "type": "REVIVE", "revive": { "roles": [role] } });
        assert_eq!(scheduler.call(call).status, 202);
    };
    revive(&scheduler, "b");
    let offer = scheduler.offer();
    assert_eq!(offer["allocation_info"]["role"], "b");
    decline(&scheduler, &[offer], 1000.0);
    revive(&scheduler, "a");
    let offer = scheduler.offer();
    assert_eq!(offer["allocation_info"]["role"], "a");
    decline(&scheduler, &[offer], 1000.0);
    revive(&scheduler, "b");
    let offer = scheduler.offer();
    assert_eq!(offer["allocation_info"]["role"], "b", "a still refuses");
    let suppress = json!({ "type": "SUPPRESS", "suppress": { "roles": ["b"] } });
    assert_eq!(scheduler.call(suppress).status, 202);
    decline(&scheduler, &[offer], 0.0);
    assert!(is_quiet(&mut scheduler));
    revive(&scheduler, "a");
    assert_eq!(scheduler.offer()["allocation_info"]["role"], "a");
    let mut again = info();
    again["id"] = json!({ "value": scheduler.framework_id });
    let mut successor = Scheduler::subscribe_with(
        &cluster.master.address,
        again,
        json!({ "suppressed_roles": both }),
    );
    assert!(is_quiet(&mut successor));
}

/// Rows 30, 31, 33.
#[test]
fn offers_fund_a_task_together_only_if_they_are_of_one_agent_and_role() {
    let mut cluster = Cluster::start(1);
    let master = cluster.master.address.clone();
    let mut scheduler = Scheduler::subscribe(&master, json!({}));
    let offer = scheduler.offer();
    let halves = ["one", "two"].map(|id| sized_task(id, &offer, 1.0, "sleep 1000"));
    accept(&scheduler, &[&offer], &halves, 1000.0);
    scheduler.until("one", "TASK_RUNNING");
    let mut fragments = Vec::new();
    for id in ["one", "two"] {
        let kill = json!({ "type": "KILL", "kill": { "task_id": { "value": id } } });
        assert_eq!(scheduler.call(kill).status, 202);
        scheduler.until(id, "TASK_KILLED");
        fragments.push(scheduler.offer());
    }
    let whole = sized_task("whole", &fragments[0], 2.0, "sleep 1000");
    accept(&scheduler, &[&fragments[0], &fragments[1]], &[whole], 0.0);
    scheduler.until("whole", "TASK_RUNNING");
    assert_eq!(scheduler.call(json!({ "type": "TEARDOWN" })).status, 202);

    cluster.add_agent(&["--resources", "cpus:2;mem:1024"]);
    cluster.wait_for_agents(2);
    wait_until("the first agent to be free", || {
        let slaves = get(&cluster, "/slaves");
        let used = slaves["slaves"].as_array()?.iter();
        used.map(|slave| slave["used_resources"]["cpus"].as_f64())
            .all(|cpus| cpus == Some(0.0))
            .then_some(())
    });
    let mut across = Scheduler::subscribe(&master, json!({ "name": "across" }));
    let both = offers_of_cpus(&mut across, 4.0);
    let task = sized_task("t", &both[0], 1.0, "true");
    accept(&across, &[&both[0], &both[1]], &[task], 0.0);
    let status = across.status();
    assert_eq!(
        (status["state"].as_str(), status["reason"].as_str()),
        (Some("TASK_LOST"), Some("REASON_INVALID_OFFERS"))
    );
    let back = offers_of_cpus(&mut across, 4.0);
    assert_eq!(back.len(), 2, "both agents' capacity is back");
    assert_eq!(across.call(json!({ "type": "TEARDOWN" })).status, 202);

    let mut mixed = Scheduler::subscribe(&master, multi_role(&["a", "b"]));
    let both = offers_of_cpus(&mut mixed, 4.0);
    let roles: Vec<&Value> = both
        .iter()
        .map(|offer| &offer["allocation_info"]["role"])
        .collect();
    assert_ne!(roles[0], roles[1]);
    let task = sized_task("t", &both[0], 1.0, "true");
    accept(&mixed, &[&both[0], &both[1]], &[task], 0.0);
    let status = mixed.status();
    assert_eq!(status["reason"], "REASON_INVALID_OFFERS");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("same role"), "{message}");
}

/// Rows 35, 36, 110, 111.
#[test]
fn a_framework_changes_what_it_takes_while_it_runs() {
    let mut cluster = Cluster::master_alone(&[]);
    for rack in ["r1", "r2", "r3"] {
        let attributes = format!("rack:{rack};level:3");
        cluster.add_agent(&["--resources", "cpus:1;mem:64", "--attributes", &attributes]);
    }
    cluster.wait_for_agents(3);
    let rack = |predicate: Value| json!({ "selector": { "attribute_name": "rack" }, "predicate": predicate });
    let equals = |value: &str| rack(json!({ "text_equals": { "value": value } }));
    let constraints =
        |role: &str, groups: Value| json!({ "role_constraints": { role: { "groups": groups } } });
    // In the first rack and not in it, which is nowhere, or where the rack's name ends in 2.
    let two_groups = json!([
        { "attribute_constraints": [equals("r1"), rack(json!({ "not_exists": {} }))] },
        { "attribute_constraints": [rack(json!({ "text_matches": { "regex": ".*2" } }))] },
    ]);
    let mut scheduler = Scheduler::subscribe_with(
        &cluster.master.address,
        multi_role(&["a", "b"]),
        json!({
            "suppressed_roles": ["b"],
            "offer_constraints": constraints("a", two_groups),
        }),
    );
    let offer = scheduler.offer();
    assert!(offer["attributes"].to_string().contains("r2"), "{offer}");
    assert!(is_quiet(&mut scheduler));
    let shown = get(&cluster, "/frameworks")["frameworks"][0].clone();
    assert!(shown["offer_constraints"]["role_constraints"]["a"].is_object());

    let update = |scheduler: &Scheduler, mut info: Value, more: Value| {
        info["id"] = json!({ "value": scheduler.framework_id });
        info["user"] = json!("root");
        info["name"] = json!("renamed");
        let mut call = json!({ "type": "UPDATE_FRAMEWORK", "update_framework": more });
        call["update_framework"]["framework_info"] = info;
        scheduler.call(call)
    };
    let one = json!([{ "attribute_constraints": [equals("r1")] }]);
    let foreign = json!({ "offer_constraints": constraints("c", one.clone()) });
    let refused = update(&scheduler, multi_role(&["a", "b"]), foreign);
    assert_eq!(refused.status, 400);
    assert!(
        refused.text().contains("not subscribed"),
        "{}",
        refused.text()
    );
    let broken =
        json!([{ "attribute_constraints": [rack(json!({ "text_matches": { "regex": "(" } }))] }]);
    let refused = update(
        &scheduler,
        multi_role(&["a"]),
        json!({ "offer_constraints": constraints("a", broken) }),
    );
    assert_eq!(refused.status, 400);
    assert_eq!(
        get(&cluster, "/frameworks")["frameworks"][0]["name"],
        "test"
    );
    let mut other_user = multi_role(&["a"]);
    other_user["checkpoint"] = json!(true);
    assert_eq!(update(&scheduler, other_user, json!({})).status, 400);

    let answer = update(
        &scheduler,
        multi_role(&["a", "b"]),
        json!({ "offer_constraints": constraints("b", one) }),
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    let more: Vec<Value> = offers_of_cpus(&mut scheduler, 2.0);
    let of_b: Vec<&Value> = more
        .iter()
        .filter(|offer| offer["allocation_info"]["role"] == "b")
        .collect();
    assert!(
        of_b.iter()
            .all(|offer| offer["attributes"].to_string().contains("r1"))
    );
    let renamed = get(&cluster, "/frameworks")["frameworks"][0].clone();
    assert_eq!(renamed["name"], "renamed");

    let left = update(&scheduler, multi_role(&["c"]), json!({}));
    assert_eq!(left.status, 200, "{}", left.text());
    for _ in 0..3 {
        scheduler.expect("RESCIND");
    }
    let all = offers_of_cpus(&mut scheduler, 3.0);
    assert!(
        all.iter()
            .all(|offer| offer["allocation_info"]["role"] == "c")
    );
}

/// Rows 37, 40, 41, 43.
#[test]
fn a_limit_rescinds_cuts_and_leaves_the_rest_to_others() {
    let mut cluster = Cluster::start(2);
    let mut limited = Scheduler::subscribe(&cluster.master.address, json!({ "role": "a" }));
    offers_of_cpus(&mut limited, 4.0);
    let limits = json!({ "cpus": { "value": 2.5 } });
    let answer = operator(&cluster, limit("a", json!({}), limits.clone()));
    assert_eq!(answer.status, 200, "{}", answer.text());
    limited.expect("RESCIND");
    assert_eq!(amount(&limited.offer(), "cpus"), 0.5);
    assert!(is_quiet(&mut limited));
    let mut other = Scheduler::subscribe(&cluster.master.address, json!({ "role": "b" }));
    assert_eq!(amount(&other.offer(), "cpus"), 1.5);

    let status = |cluster: &Cluster| {
        let answer = operator(cluster, json!({ "type": "GET_QUOTA" }));
        answer.json()["get_quota"]["status"].clone()
    };
    let shown = status(&cluster);
    assert_eq!(
        shown["configs"][0],
        json!({ "role": "a", "limits": limits })
    );
    assert_eq!(shown["infos"][0]["role"], "a");
    let roles = get(&cluster, "/roles");
    let role = roles["roles"].as_array().unwrap().iter();
    let role = role.clone().find(|role| role["name"] == "a").unwrap();
    assert_eq!(role["quota"]["limit"]["cpus"], 2.5);

    for (call, words) in [
        (
            limit("a/b", json!({ "cpus": { "value": 3 } }), json!({})),
            "beneath role 'a' come to 3, but its own limit is 2.5",
        ),
        (limit("*", json!({}), json!({})), "default '*' role"),
        (
            limit(
                "b",
                json!({ "cpus": { "value": 2 } }),
                json!({ "cpus": { "value": 1 } }),
            ),
            "more than its limit",
        ),
        (
            limit("b", json!({ "cpus": { "value": 400 } }), json!({})),
            "cluster has",
        ),
        (
            limit("b", json!({ "cpus": { "value": -1 } }), json!({})),
            "Invalid amount",
        ),
        (json!({ "type": "UPDATE_QUOTA" }), "update_quota"),
        (
            json!({ "type": "REMOVE_QUOTA", "remove_quota": { "role": "b" } }),
            "no quota",
        ),
    ] {
        let answer = operator(&cluster, call);
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(answer.text().contains(words), "{}", answer.text());
    }
    let nested = limit("a/b", json!({ "cpus": { "value": 2 } }), json!({}));
    assert_eq!(operator(&cluster, nested).status, 200);
    let nested = limit("a/b", json!({}), json!({}));
    assert_eq!(operator(&cluster, nested).status, 200);
    // Row 45, for quotas too.
    let weights = json!({ "type": "UPDATE_WEIGHTS", "update_weights": {
        "weight_infos": [{ "role": "a", "weight": 2.5 }],
    }});
    assert_eq!(operator(&cluster, weights).status, 200);
    cluster.master.start_again();
    assert_eq!(status(&cluster), shown);
    let weights = operator(&cluster, json!({ "type": "GET_WEIGHTS" })).json();
    assert_eq!(
        weights["get_weights"]["weight_infos"],
        json!([{ "role": "a", "weight": 2.5 }])
    );
    let remove = json!({ "type": "REMOVE_QUOTA", "remove_quota": { "role": "a" } });
    assert_eq!(operator(&cluster, remove).status, 200);
    assert!(status(&cluster).get("configs").is_none());
}

/// Row 42.
#[test]
fn head_room_for_a_guarantee_is_kept_even_while_its_role_declines() {
    let cluster = Cluster::start(2);
    let guarantee = json!({ "cpus": { "value": 2 }, "mem": { "value": 1024 } });
    let answer = operator(&cluster, limit("sure", guarantee, json!({})));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let mut sure = Scheduler::subscribe(&cluster.master.address, json!({ "role": "sure" }));
    let all = offers_of_cpus(&mut sure, 4.0);
    decline(&sure, &all, 1000.0);
    let mut greedy = Scheduler::subscribe(&cluster.master.address, json!({ "role": "greedy" }));
    assert_eq!(amount(&greedy.offer(), "cpus"), 2.0);
    assert!(is_quiet(&mut greedy));
    assert_eq!(sure.call(json!({ "type": "REVIVE" })).status, 202);
    assert_eq!(amount(&sure.offer(), "cpus"), 2.0);
}

#[test]
fn flags_say_which_roles_and_users_there_may_be() {
    let mut cluster = Cluster::master_alone(&[
        "--roles=a",
        "--no-root_submissions",
        "--weights=a=3",
        "--domain",
        r#"{"fault_domain":{"region":{"name":"here"},"zone":{"name":"z"}}}"#,
    ]);
    cluster.add_agent(&[
        "--resources",
        "cpus:1;mem:64",
        "--domain",
        r#"{"fault_domain":{"region":{"name":"there"},"zone":{"name":"z"}}}"#,
    ]);
    cluster.wait_for_agents(1);
    let master = cluster.master.address.clone();
    let refused = |info: Value| Scheduler::refused(&master, info);
    let message = refused(json!({ "role": "b", "user": "nobody" }));
    assert!(message.contains("--roles"), "{message}");
    let message = refused(json!({ "role": "a", "user": "root" }));
    assert!(message.contains("root"), "{message}");
    let weights = operator(&cluster, json!({ "type": "GET_WEIGHTS" })).json();
    assert_eq!(weights["get_weights"]["weight_infos"][0]["weight"], 3.0);
    let mut plain = Scheduler::subscribe(&master, json!({ "role": "a", "user": "nobody" }));
    assert!(is_quiet(&mut plain));
    let mut aware = Scheduler::subscribe(
        &master,
        json!({ "role": "a", "user": "nobody", "capabilities": [{ "type": "REGION_AWARE" }] }),
    );
    let offer = aware.offer();
    assert_eq!(offer["domain"]["fault_domain"]["region"]["name"], "there");
}
