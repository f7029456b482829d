//! Reservations and persistent volumes, from the ACCEPT or the operator's call down to the files.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tepui_tests::{Cluster, Response, Scheduler, request, wait_until};

const CAPABILITIES: [&str; 3] = ["MULTI_ROLE", "RESERVATION_REFINEMENT", "SHARED_RESOURCES"];

fn subscribe(cluster: &Cluster, mut info: Value) -> Scheduler {
    let capabilities = CAPABILITIES.map(|name| json!({ "type": name }));
    info["capabilities"] = json!(capabilities);
    info["roles"] = json!(["web"]);
    info["failover_timeout"] = json!(600);
    Scheduler::subscribe(&cluster.master.address, info)
}

fn scalar(name: &str, amount: f64) -> Value {
    json!({ "name": name, "type": "SCALAR", "scalar": { "value": amount } })
}

fn reserved(name: &str, amount: f64) -> Value {
    let mut resource = scalar(name, amount);
    resource["reservations"] = json!([{ "type": "DYNAMIC", "role": "web" }]);
    resource
}

fn volume(id: &str, megabytes: f64) -> Value {
    let mut volume = reserved("disk", megabytes);
    volume["disk"] = json!({
        "persistence": { "id": id },
        "volume": { "container_path": "data", "mode": "RW" },
    });
    volume
}

fn shared(id: &str, megabytes: f64) -> Value {
    let mut volume = volume(id, megabytes);
    volume["shared"] = json!({});
    volume
}

fn reserve(resources: &[Value]) -> Value {
    json!({ "type": "RESERVE", "reserve": { "resources": resources } })
}

fn create(volumes: &[Value]) -> Value {
    json!({ "type": "CREATE", "create": { "volumes": volumes } })
}

fn destroy(volumes: &[Value]) -> Value {
    json!({ "type": "DESTROY", "destroy": { "volumes": volumes } })
}

fn launch(tasks: &[Value]) -> Value {
    json!({ "type": "LAUNCH", "launch": { "task_infos": tasks } })
}

fn accept(scheduler: &Scheduler, offer: &Value, operations: &[Value], refuse_seconds: f64) {
    let accepted = scheduler.call(json!({ "type": "ACCEPT", "accept": {
        "offer_ids": [offer["id"]],
        "operations": operations,
        "filters": { "refuse_seconds": refuse_seconds },
    }}));
    assert_eq!(accepted.status, 202, "{}", accepted.text());
}

/// A task with a volume beside its cpus and memory.
fn with_volume(id: &str, offer: &Value, command: &str, volume: &Value) -> Value {
    let mut task = Scheduler::task(id, offer, command);
    task["resources"]
        .as_array_mut()
        .unwrap()
        .push(volume.clone());
    task
}

fn is_volume(resource: &Value, id: &str) -> bool {
    resource["disk"]["persistence"]["id"] == id
}

/// How much of a scalar is there under exactly these reservations.
fn amount(resources: &Value, name: &str, role: Option<&str>) -> f64 {
    let of_name = resources.as_array().unwrap().iter().filter(|resource| {
        let last = resource["reservations"]
            .as_array()
            .and_then(|stack| stack.last());
        resource["name"] == name
            && resource.get("disk").is_none()
            && last.and_then(|last| last["role"].as_str()) == role
    });
    of_name
        .map(|resource| resource["scalar"]["value"].as_f64().unwrap())
        .sum()
}

/// Offers until one satisfies that has not been rescinded; the others are declined for a moment.
fn offer_with(scheduler: &mut Scheduler, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut rescinded = Vec::new();
    for _ in 0..200 {
        let offer = scheduler.offer();
        while let Some(event) = scheduler.next("RESCIND", Duration::ZERO) {
            rescinded.push(event["rescind"]["offer_id"].clone());
        }
        if rescinded.contains(&offer["id"]) {
            continue;
        }
        if wanted(&offer["resources"]) {
            return offer;
        }
        scheduler.call(json!({ "type": "DECLINE", "decline": {
            "offer_ids": [offer["id"]], "filters": { "refuse_seconds": 0.1 },
        }}));
    }
    panic!("no offer with {what}");
}

fn operator(cluster: &Cluster, call: Value) -> Response {
    request(
        &cluster.master.address,
        "POST",
        "/api/v1",
        &[("Content-Type", "application/json")],
        call.to_string().as_bytes(),
    )
    .unwrap()
}

fn agent_id(cluster: &Cluster) -> Value {
    let agents = operator(cluster, json!({ "type": "GET_AGENTS" })).json();
    agents["get_agents"]["agents"][0]["agent_info"]["id"].clone()
}

fn operations(cluster: &Cluster) -> Vec<Value> {
    let answer = operator(cluster, json!({ "type": "GET_OPERATIONS" })).json();
    assert_eq!(answer["type"], "GET_OPERATIONS");
    let operations = answer["get_operations"]["operations"].as_array();
    operations.cloned().unwrap_or_default()
}

fn volume_on_disk(cluster: &Cluster, id: &str) -> PathBuf {
    let roles = cluster.folder.path().join("agent-1/volumes/roles/web");
    roles.join(id)
}

fn finished(scheduler: &mut Scheduler, task: &str) {
    let status = loop {
        let status = scheduler.status();
        let state = status["state"].as_str().unwrap();
        if status["task_id"]["value"] == task && !["TASK_STARTING", "TASK_RUNNING"].contains(&state)
        {
            break status;
        }
    };
    assert_eq!(status["state"], "TASK_FINISHED", "{status}");
}

#[test]
fn a_task_runs_on_what_the_same_accept_reserved() {
    let cluster = Cluster::start(1);
    let mut scheduler = subscribe(&cluster, json!({}));
    let offer = scheduler.offer();
    let mut task = Scheduler::task("t", &offer, "true");
    task["resources"] = json!([reserved("cpus", 1.0), reserved("mem", 64.0)]);
    let mut operation = reserve(&[reserved("cpus", 1.5), reserved("mem", 64.0)]);
    operation["id"] = json!({ "value": "r1" });
    accept(&scheduler, &offer, &[operation, launch(&[task])], 0.0);
    // The operation is told with a uuid, until it is acknowledged.
    let status =
        scheduler.expect("UPDATE_OPERATION_STATUS")["update_operation_status"]["status"].clone();
    assert_eq!(status["operation_id"]["value"], "r1");
    assert_eq!(status["state"], "OPERATION_FINISHED");
    assert_eq!(
        operations(&cluster)[0]["latest_status"]["state"],
        "OPERATION_FINISHED"
    );
    let acknowledged = scheduler.call(json!({
        "type": "ACKNOWLEDGE_OPERATION_STATUS", "acknowledge_operation_status": {
            "agent_id": status["agent_id"], "uuid": status["uuid"]["value"],
            "operation_id": status["operation_id"],
        },
    }));
    assert_eq!(acknowledged.status, 202, "{}", acknowledged.text());
    wait_until("the operation to be forgotten", || {
        operations(&cluster).is_empty().then_some(())
    });
    finished(&mut scheduler, "t");
    let offer = offer_with(&mut scheduler, "what was reserved", |resources| {
        amount(resources, "cpus", Some("web")) == 1.5
    });
    accept(
        &scheduler,
        &offer,
        &[json!({ "type": "UNRESERVE", "unreserve": {
            "resources": [reserved("cpus", 1.5), reserved("mem", 64.0)],
        }})],
        0.0,
    );
    let offer = offer_with(&mut scheduler, "all that was unreserved", |resources| {
        amount(resources, "cpus", None) == 2.0 && amount(resources, "cpus", Some("web")) == 0.0
    });
    // One that is too large leaves everything as it is.
    let mut large = reserve(&[reserved("cpus", 100.0)]);
    large["id"] = json!({ "value": "large" });
    accept(&scheduler, &offer, &[large], 0.0);
    let status = scheduler.expect("UPDATE_OPERATION_STATUS");
    assert_eq!(
        status["update_operation_status"]["status"]["state"],
        "OPERATION_ERROR"
    );
    let counted = |name: &str| {
        let metrics = cluster.get("/metrics/snapshot").json();
        metrics[format!("master/operations/{name}")].as_f64()
    };
    wait_until("the agent to have said so", || {
        (counted("unreserve/finished") == Some(1.0)).then_some(())
    });
    for (name, value) in [
        ("reserve/finished", 1.0),
        ("reserve/error", 1.0),
        ("reserve/pending", 0.0),
        ("create/finished", 0.0),
        ("finished", 2.0),
        ("error", 1.0),
        ("gone_by_operator", 0.0),
    ] {
        assert_eq!(counted(name), Some(value), "{name}");
    }
    // What was reserved and given back is the agent's as before.
    let agent = &cluster.agents[0].address;
    let figures = request(agent, "GET", "/metrics/snapshot", &[], b"").unwrap();
    assert_eq!(figures.json()["slave/cpus_total"], 2.0);
    assert!(figures.json()["slave/recovery_time_secs"].as_f64() > Some(0.0));
    offer_with(&mut scheduler, "all of it again", |resources| {
        amount(resources, "cpus", None) == 2.0
    });
}

#[test]
fn a_volume_keeps_its_files_over_tasks_an_agents_and_a_masters_life() {
    let mut cluster = Cluster::start(1);
    let mut scheduler = subscribe(&cluster, json!({}));
    let offer = scheduler.offer();
    let made = volume("v1", 64.0);
    let write = with_volume("write", &offer, "echo one > data/file", &made);
    let steps = [
        reserve(&[reserved("disk", 64.0)]),
        create(std::slice::from_ref(&made)),
        launch(&[write]),
    ];
    accept(&scheduler, &offer, &steps, 0.0);
    finished(&mut scheduler, "write");
    let file = volume_on_disk(&cluster, "v1").join("file");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "one\n");

    let has_volume = |resources: &Value| {
        resources
            .as_array()
            .unwrap()
            .iter()
            .any(|one| is_volume(one, "v1"))
    };
    // A task of a framework without checkpointing, so that nothing but the volume can carry the file over.
    cluster.agents[0].start_again();
    cluster.wait_for_agents(1);
    let offer = offer_with(&mut scheduler, "the volume", has_volume);
    let append = with_volume(
        "append",
        &offer,
        "grep one data/file && echo two >> data/file",
        &made,
    );
    accept(&scheduler, &offer, &[launch(&[append])], 0.0);
    finished(&mut scheduler, "append");

    cluster.master.start_again();
    cluster.wait_for_agents(1);
    let id = json!({ "value": scheduler.framework_id });
    let mut scheduler = subscribe(&cluster, json!({ "id": id }));
    let offer = offer_with(&mut scheduler, "the volume", has_volume);
    // The same volume, read-only and at another path; who only reads cannot write.
    let mut read = made.clone();
    read["disk"]["volume"] = json!({ "container_path": "there/too", "mode": "RO" });
    let command = "grep two there/too/file && ! echo three >> there/too/file";
    let read = with_volume("read", &offer, command, &read);
    accept(&scheduler, &offer, &[launch(&[read])], 0.0);
    finished(&mut scheduler, "read");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "one\ntwo\n");

    let offer = offer_with(&mut scheduler, "the volume", has_volume);
    accept(&scheduler, &offer, &[destroy(&[made])], 0.0);
    offer_with(&mut scheduler, "the disk again", |resources| {
        amount(resources, "disk", Some("web")) == 64.0
    });
    wait_until("the files to go", || (!file.exists()).then_some(()));
}

#[test]
fn a_task_keeps_its_volume_while_its_agent_is_away() {
    let mut cluster = Cluster::start(1);
    let mut scheduler = subscribe(&cluster, json!({ "checkpoint": true }));
    let offer = scheduler.offer();
    let made = volume("v1", 64.0);
    let command =
        "echo one > data/file; until test -e data/go; do sleep 0.05; done; echo two >> data/file";
    let steps = [
        reserve(&[reserved("disk", 64.0)]),
        create(std::slice::from_ref(&made)),
        launch(&[with_volume("through", &offer, command, &made)]),
    ];
    accept(&scheduler, &offer, &steps, 0.0);
    scheduler.until("through", "TASK_RUNNING");
    let file = volume_on_disk(&cluster, "v1").join("file");
    wait_until("the task to have written", || file.exists().then_some(()));
    cluster.agents[0].start_again();
    cluster.wait_for_agents(1);
    // The volume is the task's and offered to nobody.
    let state = cluster.get("/state").json();
    let agent = &state["slaves"][0];
    let used = agent["used_resources_full"].to_string();
    assert!(used.contains("\"v1\""), "{agent}");
    std::fs::write(volume_on_disk(&cluster, "v1").join("go"), "").unwrap();
    finished(&mut scheduler, "through");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "one\ntwo\n");
    offer_with(&mut scheduler, "the volume", |resources| {
        let mut all = resources.as_array().unwrap().iter();
        all.any(|one| is_volume(one, "v1"))
    });
}

#[test]
fn a_volume_with_more_in_it_than_its_size_fails_its_task() {
    let mut cluster = Cluster::master_alone(&[]);
    cluster.add_agent(&[
        "--resources",
        "cpus:2;mem:1024;disk:1024",
        "--enforce_container_disk_quota",
        "--container_disk_watch_interval=200ms",
    ]);
    cluster.wait_for_agents(1);
    let mut scheduler = subscribe(&cluster, json!({}));
    let offer = scheduler.offer();
    let (small, large) = (volume("small", 2.0), volume("large", 64.0));
    let fill = "dd if=/dev/zero of=data/big bs=1048576 count=4 2>/dev/null; exec sleep 1000";
    let steps = [
        reserve(&[reserved("disk", 66.0)]),
        create(&[small.clone(), large.clone()]),
        launch(&[
            with_volume("over", &offer, fill, &small),
            with_volume("within", &offer, fill, &large),
        ]),
    ];
    accept(&scheduler, &offer, &steps, 0.0);
    let status = scheduler.until("over", "TASK_FAILED");
    assert_eq!(status["reason"], "REASON_CONTAINER_LIMITATION_DISK");
    let resource = &status["limitation"]["resources"][0];
    assert!(is_volume(resource, "small"), "{status}");
    scheduler.kill("within");
    scheduler.until("within", "TASK_KILLED");
}

/// Appends an `x` to `log` in its volume, the first directory after its sandbox.
const APPEND: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 100) "log")
  (data (i32.const 200) "x")
  (func (export "_start")
    (if (call $open (i32.const 4) (i32.const 0) (i32.const 100) (i32.const 3) (i32.const 1)
          (i64.const 64) (i64.const 64) (i32.const 1) (i32.const 0))
      (then (unreachable)))
    (i32.store (i32.const 16) (i32.const 200))
    (i32.store (i32.const 20) (i32.const 1))
    (if (call $write (i32.load (i32.const 0)) (i32.const 16) (i32.const 1) (i32.const 32))
      (then (unreachable)))))"#;

#[test]
fn wasm_and_native_tasks_share_one_volume() {
    let cluster = Cluster::start(1);
    let module = cluster.folder.path().join("append.wat");
    std::fs::write(&module, APPEND).unwrap();
    let mut scheduler = subscribe(&cluster, json!({}));
    let offer = scheduler.offer();
    let both = shared("s1", 64.0);
    let mut guest = with_volume("guest", &offer, "append.wat", &both);
    guest["command"]["uris"] = json!([{ "value": format!("file://{}", module.display()) }]);
    // It waits for the guest's letter, so that both have the volume at the same time.
    let command = "until grep -q x data/log; do sleep 0.05; done; printf y >> data/log";
    let native = with_volume("native", &offer, command, &both);
    let steps = [
        reserve(&[reserved("disk", 64.0)]),
        create(std::slice::from_ref(&both)),
        launch(&[native, guest]),
    ];
    accept(&scheduler, &offer, &steps, 0.0);
    both_finished(&mut scheduler);
    let log = volume_on_disk(&cluster, "s1").join("log");
    assert_eq!(std::fs::read_to_string(log).unwrap(), "xy");
}

fn launch_group(executor: &Value, tasks: &[Value]) -> Value {
    json!({ "type": "LAUNCH_GROUP", "launch_group": {
        "executor": executor, "task_group": { "tasks": tasks },
    }})
}

/// Both tasks have finished, whatever else is told of them.
fn both_finished(scheduler: &mut Scheduler) {
    let mut ended = std::collections::BTreeSet::new();
    while ended.len() < 2 {
        let status = scheduler.status();
        match status["state"].as_str().unwrap() {
            "TASK_STARTING" | "TASK_RUNNING" => {}
            "TASK_FINISHED" => {
                ended.insert(status["task_id"]["value"].to_string());
            }
            _ => panic!("{status}"),
        }
    }
}

#[test]
fn the_tasks_of_a_group_share_a_volume_that_is_shared() {
    let cluster = Cluster::start(1);
    let mut scheduler = subscribe(&cluster, json!({}));
    let offer = scheduler.offer();
    let both = shared("g1", 64.0);
    let first = with_volume(
        "first",
        &offer,
        "echo one > data/file; until grep two data/file; do sleep 0.05; done",
        &both,
    );
    let second = with_volume(
        "second",
        &offer,
        "until grep one data/file; do sleep 0.05; done; echo two >> data/file",
        &both,
    );
    let executor = scheduler.default_executor("pod");
    let steps = [
        reserve(&[reserved("disk", 64.0)]),
        create(std::slice::from_ref(&both)),
        launch_group(&executor, &[first, second]),
    ];
    accept(&scheduler, &offer, &steps, 0.0);
    both_finished(&mut scheduler);
    // All copies are back: it is offered once, and can be destroyed.
    let offer = offer_with(&mut scheduler, "the volume", |resources| {
        let volumes = resources.as_array().unwrap().iter();
        volumes.filter(|one| is_volume(one, "g1")).count() == 1
            && amount(resources, "cpus", None) == 2.0
    });
    accept(&scheduler, &offer, &[destroy(&[both])], 0.0);
    offer_with(&mut scheduler, "the disk again", |resources| {
        amount(resources, "disk", Some("web")) == 64.0
    });
}

#[test]
fn a_groups_executor_keeps_a_volume_that_its_tasks_see_in_it() {
    let cluster = Cluster::start(1);
    let mut scheduler = subscribe(&cluster, json!({}));
    let offer = scheduler.offer();
    let kept = volume("e1", 64.0);
    let mut executor = scheduler.default_executor("pod");
    executor["resources"]
        .as_array_mut()
        .unwrap()
        .push(kept.clone());
    let seen = |id: &str, command: &str, mode: &str| {
        let mut task = Scheduler::task(id, &offer, command);
        task["container"] = json!({ "type": "MESOS", "volumes": [{
            "container_path": "view", "mode": mode,
            "source": { "type": "SANDBOX_PATH", "sandbox_path": { "type": "PARENT", "path": "data" } },
        }]});
        task
    };
    let wait = "until grep one view/file; do sleep 0.05; done; ! echo three > view/other";
    let tasks = [
        seen("writer", "echo one > view/file; sleep 1", "RW"),
        seen("reader", wait, "RO"),
    ];
    let steps = [
        reserve(&[reserved("disk", 64.0)]),
        create(std::slice::from_ref(&kept)),
        launch_group(&executor, &tasks),
    ];
    accept(&scheduler, &offer, &steps, 0.0);
    both_finished(&mut scheduler);
    let directory = volume_on_disk(&cluster, "e1");
    assert_eq!(
        std::fs::read_to_string(directory.join("file")).unwrap(),
        "one\n"
    );
    assert!(!directory.join("other").exists());
}

#[test]
fn destroying_a_shared_volume_rescinds_the_offers_that_hold_it() {
    let cluster = Cluster::start(1);
    let mut scheduler = subscribe(&cluster, json!({}));
    let offer = scheduler.offer();
    let both = shared("s1", 64.0);
    let task = with_volume("t", &offer, "sleep 1000", &both);
    let steps = [
        reserve(&[reserved("disk", 64.0)]),
        create(std::slice::from_ref(&both)),
        launch(&[task]),
    ];
    accept(&scheduler, &offer, &steps, 0.0);
    scheduler.until("t", "TASK_RUNNING");
    let offer = offer_with(&mut scheduler, "the volume in use", |resources| {
        resources
            .as_array()
            .unwrap()
            .iter()
            .any(|one| is_volume(one, "s1"))
    });
    let agent = agent_id(&cluster);
    let call = json!({ "type": "DESTROY_VOLUMES", "destroy_volumes": {
        "agent_id": agent, "volumes": [both],
    }});
    let refused = operator(&cluster, call.clone());
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("is in use"), "{}", refused.text());
    let kill = json!({ "type": "KILL", "kill": { "task_id": { "value": "t" } } });
    assert_eq!(scheduler.call(kill).status, 202);
    scheduler.until("t", "TASK_KILLED");
    wait_until("the volume to be free", || {
        (operator(&cluster, call.clone()).status == 202).then_some(())
    });
    loop {
        let rescinded = scheduler.expect("RESCIND");
        if rescinded["rescind"]["offer_id"] == offer["id"] {
            return;
        }
    }
}

#[test]
fn operators_reserve_and_make_volumes_and_hear_what_is_not_possible() {
    let cluster = Cluster::start(1);
    let agent = agent_id(&cluster);
    let call = |kind: &str, field: &str, resources: &[Value]| {
        let list = if kind.ends_with("VOLUMES") {
            "volumes"
        } else {
            "resources"
        };
        operator(
            &cluster,
            json!({ "type": kind, field: { "agent_id": agent, list: resources } }),
        )
    };
    let reserve = |resources: &[Value]| call("RESERVE_RESOURCES", "reserve_resources", resources);
    let unreserve =
        |resources: &[Value]| call("UNRESERVE_RESOURCES", "unreserve_resources", resources);
    let create = |volumes: &[Value]| call("CREATE_VOLUMES", "create_volumes", volumes);
    let destroy = |volumes: &[Value]| call("DESTROY_VOLUMES", "destroy_volumes", volumes);
    let check = |answer: Response, status: u16| {
        assert_eq!(answer.status, status, "{}", answer.text());
    };
    check(
        reserve(&[reserved("cpus", 1.0), reserved("disk", 100.0)]),
        202,
    );
    check(reserve(&[reserved("cpus", 50.0)]), 409);
    check(reserve(&[scalar("cpus", 0.5)]), 400);
    check(reserve(&[]), 400);
    let nowhere = json!({ "type": "RESERVE_RESOURCES", "reserve_resources": {
        "agent_id": { "value": "nowhere" }, "resources": [reserved("cpus", 0.1)],
    }});
    check(operator(&cluster, nowhere), 400);
    check(
        operator(&cluster, json!({ "type": "RESERVE_RESOURCES" })),
        400,
    );

    let mut scheduler = subscribe(&cluster, json!({}));
    let offer = scheduler.offer();
    assert_eq!(amount(&offer["resources"], "cpus", Some("web")), 1.0);
    // The offer gives way to what is wanted of it.
    check(create(&[volume("v1", 60.0)]), 202);
    assert_eq!(
        scheduler.expect("RESCIND")["rescind"]["offer_id"],
        offer["id"]
    );
    offer_with(&mut scheduler, "the volume", |resources| {
        resources
            .as_array()
            .unwrap()
            .iter()
            .any(|one| is_volume(one, "v1"))
    });
    check(create(&[volume("v1", 5.0)]), 400);
    check(unreserve(&[reserved("disk", 100.0)]), 409);
    wait_until("the directory", || {
        volume_on_disk(&cluster, "v1").is_dir().then_some(())
    });
    let grow = json!({ "type": "GROW_VOLUME", "grow_volume": {
        "agent_id": agent, "volume": volume("v1", 60.0), "addition": reserved("disk", 4.0),
    }});
    check(operator(&cluster, grow), 202);
    let shrink = |volume: Value, subtract: f64| {
        json!({ "type": "SHRINK_VOLUME", "shrink_volume": {
            "agent_id": agent, "volume": volume, "subtract": { "value": subtract },
        }})
    };
    check(operator(&cluster, shrink(volume("v1", 64.0), 64.0)), 400);
    check(operator(&cluster, shrink(volume("v1", 64.0), 14.0)), 202);
    check(destroy(&[volume("v1", 64.0)]), 400);
    check(destroy(&[volume("v1", 50.0)]), 202);
    check(
        unreserve(&[reserved("disk", 100.0), reserved("cpus", 1.0)]),
        202,
    );
    wait_until("the operations to be done", || {
        operations(&cluster).is_empty().then_some(())
    });
    wait_until("the directory to go", || {
        (!volume_on_disk(&cluster, "v1").exists()).then_some(())
    });
}

#[test]
fn a_reservation_outlives_the_crash_of_its_master() {
    let mut cluster = Cluster::start(1);
    let agent = agent_id(&cluster);
    let call = json!({ "type": "RESERVE_RESOURCES", "reserve_resources": {
        "agent_id": agent, "resources": [reserved("cpus", 1.0)],
    }});
    assert_eq!(operator(&cluster, call).status, 202);
    wait_until("the agent to have it on disk", || {
        operations(&cluster).is_empty().then_some(())
    });
    cluster.master.start_again();
    cluster.wait_for_agents(1);
    let mut scheduler = subscribe(&cluster, json!({}));
    let offer = offer_with(&mut scheduler, "what was reserved", |resources| {
        amount(resources, "cpus", Some("web")) == 1.0
    });
    // Others do not get it, nor can they undo it.
    let mut other = Scheduler::subscribe(&cluster.master.address, json!({ "role": "other" }));
    drop(offer);
    let decline = json!({ "type": "SUPPRESS", "suppress": {} });
    assert_eq!(scheduler.call(decline).status, 202);
    assert_eq!(scheduler.call(json!({ "type": "TEARDOWN" })).status, 202);
    let offer = other.offer();
    let held = offer["resources"].as_array().unwrap();
    assert!(held.iter().all(|one| one["role"] == "*"), "{offer}");
    let mut stolen = scalar("cpus", 1.0);
    stolen["role"] = json!("web");
    stolen["reservation"] = json!({});
    let steal = json!({ "type": "UNRESERVE", "id": { "value": "steal" }, "unreserve": {
        "resources": [stolen],
    }});
    accept(&other, &offer, &[steal], 0.0);
    let status = other.next("UPDATE_OPERATION_STATUS", Duration::from_secs(30));
    let status = status.expect("it is told");
    assert_eq!(
        status["update_operation_status"]["status"]["state"],
        "OPERATION_ERROR"
    );
}

#[test]
fn a_frameworks_own_executor_sees_its_read_only_volume_and_cannot_write_to_it() {
    let cluster = Cluster::start(1);
    let mut scheduler = subscribe(&cluster, json!({}));
    let offer = scheduler.offer();
    let of_executor = volume("v1", 64.0);
    let mut filling = Scheduler::task("fills", &offer, "echo there > data/file");
    filling["resources"] = json!([scalar("cpus", 0.1), scalar("mem", 32.0), of_executor]);
    let operations = [
        reserve(&[reserved("disk", 64.0)]),
        create(std::slice::from_ref(&of_executor)),
        launch(&[filling]),
    ];
    accept(&scheduler, &offer, &operations, 0.0);
    finished(&mut scheduler, "fills");
    let offer = offer_with(&mut scheduler, "the volume again", |resources| {
        let is_it = |one: &Value| one["disk"]["persistence"]["id"] == "v1";
        let room = amount(resources, "cpus", None) >= 0.2 && amount(resources, "mem", None) >= 64.0;
        room && resources.as_array().unwrap().iter().any(is_it)
    });
    let looks = "cat data/file; echo more > data/file || echo refused; sleep 1000";
    let mut executor = scheduler.custom_executor("own", looks);
    let mut read_only = of_executor;
    read_only["disk"]["volume"]["mode"] = json!("RO");
    let held = executor["resources"].as_array_mut().unwrap();
    held.retain(|resource| resource["name"] != "disk");
    held.push(read_only);
    let task = Scheduler::executor_task("t", &offer, &executor);
    accept(&scheduler, &offer, &[launch(&[task])], 0.0);
    let place = cluster.folder.path().join("agent-1");
    wait_until("the executor to have looked", || {
        let said = files_named(&place, "stdout");
        let said = said.iter().find(|text| text.contains("refused"))?;
        assert_eq!(said, "there\nrefused\n");
        Some(())
    });
    let kept = std::fs::read_to_string(volume_on_disk(&cluster, "v1").join("file"));
    assert_eq!(kept.unwrap(), "there\n");
}

/// The texts of all files of that name beneath a directory. Links are not followed.
fn files_named(directory: &std::path::Path, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_directory {
                directories.push(entry.path());
            } else if entry.file_name() == name {
                found.extend(std::fs::read_to_string(entry.path()));
            }
        }
    }
    found
}
