//! Tenants that hoard, decline or flood, as real schedulers do it, and others that get their share all the same; and
//! what those who wait are told.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tepui_tests::{Cluster, Scheduler, wait_until};

const AGENT: [&str; 2] = ["--resources", "cpus:2;mem:1024"];
const MOMENT: Duration = Duration::from_millis(1);

fn cluster(agents: usize, flags: &[&str]) -> Cluster {
    let mut cluster = Cluster::master_alone(flags);
    for _ in 0..agents {
        cluster.add_agent(&AGENT);
    }
    cluster.wait_for_agents(agents);
    cluster
}

fn in_role(cluster: &Cluster, name: &str, role: &str) -> Scheduler {
    let info = json!({ "name": name, "roles": [role], "capabilities": [{ "type": "MULTI_ROLE" }] });
    Scheduler::subscribe(&cluster.master.address, info)
}

fn cpus(offer: &Value) -> f64 {
    let resources = offer["resources"].as_array().unwrap().iter();
    let cpus = resources.filter(|resource| resource["name"] == "cpus");
    cpus.map(|resource| resource["scalar"]["value"].as_f64().unwrap())
        .sum()
}

/// Offers that have come by now.
fn offers_now(scheduler: &mut Scheduler) -> Vec<Value> {
    let mut all = Vec::new();
    while let Some(event) = scheduler.next("OFFERS", MOMENT) {
        all.extend(event["offers"]["offers"].as_array().unwrap().clone());
    }
    all
}

fn decline(scheduler: &Scheduler, offers: &[Value]) {
    let ids: Vec<&Value> = offers.iter().map(|offer| &offer["id"]).collect();
    let answer = scheduler.call(json!({ "type": "DECLINE", "decline": {
        "offer_ids": ids, "filters": { "refuse_seconds": 0 },
    }}));
    assert_eq!(answer.status, 202, "{}", answer.text());
}

fn task(id: &str, offer: &Value, cpus: f64, command: &str) -> Value {
    let mut task = Scheduler::task(id, offer, command);
    task["resources"][0]["scalar"]["value"] = json!(cpus);
    task["resources"][1]["scalar"]["value"] = json!(16);
    task
}

/// Lets small offers lie, while others do what they do, until they are as many cpus together.
fn gathered(worker: &mut Scheduler, least: f64, mut others: impl FnMut()) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut lying: Vec<Value> = Vec::new();
    while Instant::now() < deadline {
        others();
        while let Some(event) = worker.next("RESCIND", MOMENT) {
            lying.retain(|offer| offer["id"] != event["rescind"]["offer_id"]);
        }
        lying.extend(offers_now(worker));
        // A sum of tenths falls short of the whole by a little.
        if lying.iter().map(cpus).sum::<f64>() > least - 0.001 {
            return lying;
        }
    }
    panic!("the worker was offered too little");
}

/// Lets others do what they do until the worker is offered as many cpus as that.
fn offered(worker: &mut Scheduler, least: f64, mut others: impl FnMut()) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        others();
        for offer in offers_now(worker) {
            if cpus(&offer) >= least {
                return offer;
            }
            decline(worker, &[offer]);
        }
    }
    panic!("the worker was offered nothing");
}

#[test]
fn what_a_hoarder_lets_lie_goes_to_whoever_would_take_it() {
    let cluster = cluster(2, &["--contended_offer_timeout", "2secs"]);
    let mut hoarder = in_role(&cluster, "hoarder", "a");
    wait_until("both agents to be hoarded", || {
        let explained = cluster.json(&["explain", "hoarder", "--json"]);
        (explained["frameworks"][0]["offers"]["count"] == 2).then_some(())
    });
    let mut worker = in_role(&cluster, "worker", "b");
    let explained = cluster.json(&["explain", "worker", "--json"]);
    let reason = &explained["frameworks"][0]["roles"][0]["agents"][0];
    assert_eq!(
        (&reason["reason"], &reason["count"]),
        (&json!("IN_OFFERS"), &json!(2))
    );
    assert!(reason["text"].to_string().contains("'hoarder'"), "{reason}");
    let offer = worker.offer();
    assert_eq!(cpus(&offer), 2.0);
    hoarder.expect("RESCIND");
    worker.launch(&offer, &[task("t", &offer, 2.0, "sleep 1000")]);
    worker.until("t", "TASK_RUNNING");
}

#[test]
fn those_who_decline_everything_at_once_leave_others_their_turn() {
    let cluster = cluster(1, &[]);
    let mut decliners: Vec<Scheduler> = (0..4)
        .map(|number| in_role(&cluster, &format!("decliner{number}"), "*"))
        .collect();
    let mut worker = in_role(&cluster, "worker", "*");
    let mut round = || {
        for decliner in &mut decliners {
            let offers = offers_now(decliner);
            if !offers.is_empty() {
                decline(decliner, &offers);
            }
        }
    };
    for number in 0..3 {
        let offer = offered(&mut worker, 1.5, &mut round);
        let id = format!("t{number}");
        worker.launch(&offer, &[task(&id, &offer, 1.5, "true")]);
        worker.until(&id, "TASK_FINISHED");
    }
}

#[test]
fn a_flood_of_frameworks_and_tiny_tasks_leaves_another_tenant_its_share() {
    let mut cluster = Cluster::master_alone(&[]);
    // Of nothing is there more than the tiny tasks need: who lets an offer lie has all of it on its account.
    cluster.add_agent(&["--resources", "cpus:2;mem:320;disk:0;ports:[]"]);
    cluster.wait_for_agents(1);
    let mut flood: Vec<Scheduler> = (0..5)
        .map(|number| in_role(&cluster, &format!("flood{number}"), "flood"))
        .collect();
    let mut launched = 0;
    let mut round = || {
        for scheduler in &mut flood {
            for offer in offers_now(scheduler) {
                launched += 1;
                let tiny = task(&format!("tiny{launched}"), &offer, 0.1, "sleep 0.2");
                let launch = json!({ "type": "LAUNCH", "launch": { "task_infos": [tiny] } });
                scheduler.accept(&offer, launch);
            }
            // Their statuses have to be acknowledged for the tasks to be over.
            while let Some(update) = scheduler.next("UPDATE", MOMENT) {
                scheduler.acknowledge(&update["update"]["status"]);
            }
        }
    };
    for _ in 0..20 {
        round();
    }
    let mut worker = in_role(&cluster, "worker", "steady");
    let offers = gathered(&mut worker, 1.0, &mut round);
    let ids: Vec<&Value> = offers.iter().map(|offer| &offer["id"]).collect();
    let large = task("t", &offers[0], 1.0, "sleep 1000");
    worker.call(
        json!({ "type": "ACCEPT", "accept": { "offer_ids": ids, "operations": [
            { "type": "LAUNCH", "launch": { "task_infos": [large] } },
        ]}}),
    );
    worker.until("t", "TASK_RUNNING");
    for _ in 0..10 {
        round();
    }
    let explained = cluster.json(&["explain", "worker", "--json"]);
    let share = explained["frameworks"][0]["share"].as_f64().unwrap();
    assert!(share >= 0.5, "{explained}");
}

#[test]
fn a_task_that_fits_nowhere_is_told_what_is_lacking() {
    let cluster = cluster(2, &[]);
    let run = cluster.spawn(&["run", "--cpus", "5", "--name", "huge", "--", "true"]);
    let explained = wait_until("the run to subscribe", || {
        let explained = cluster.json(&["explain", "huge", "--json"]);
        let groups = explained["frameworks"][0]["roles"][0]["agents"]
            .as_array()?
            .len();
        (groups == 1).then_some(explained)
    });
    let group = &explained["frameworks"][0]["roles"][0]["agents"][0];
    assert_eq!(
        (&group["reason"], &group["count"]),
        (&json!("TOO_LITTLE"), &json!(2))
    );
    assert_eq!(group["examples"][0]["detail"], "lacks cpus:3");
    let told = cluster.tepui(&["explain", "huge"]);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.stdout.contains("agents: 2, less is free"), "{told:?}");
    assert!(told.stdout.contains("lacks cpus:3"), "{told:?}");
    let nobody = cluster.tepui(&["explain", "nobody"]);
    assert_eq!(nobody.code, 1);
    assert!(
        nobody.stderr.contains("nothing is called 'nobody'"),
        "{nobody:?}"
    );
    // After a while it says so itself.
    std::thread::sleep(Duration::from_secs(6));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(run.pid()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let ended = run.wait();
    assert!(ended.stderr.contains("lacks cpus:3"), "{ended:?}");
}
