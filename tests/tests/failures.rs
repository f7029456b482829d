//! `kill -9` of each process while tasks run.

use serde_json::json;
use tepui_tests::{Cluster, Scheduler, guest, wait_until};

fn kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    let killed = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    assert!(killed.is_ok(), "{killed:?}");
}

#[test]
fn a_task_outlives_its_master_and_its_client_finds_it_again() {
    let mut cluster = Cluster::start(1);
    let run = cluster.spawn(&[
        "run",
        &guest("hello"),
        "--",
        "--sleep",
        "4000",
        "--exit",
        "9",
    ]);
    let task = cluster.running_task();
    cluster.master.start_again();
    let seen = wait_until("the task to be listed again", || {
        let tasks = cluster.json(&["ps", "--json"]);
        tasks
            .as_array()?
            .iter()
            .find(|other| other["id"] == task["id"])
            .cloned()
    });
    assert_eq!(seen["state"], "TASK_RUNNING");
    let ended = run.wait();
    assert_eq!(ended.code, 9, "{ended:?}");
    assert!(ended.stdout.contains("slept 4000 ms"), "{ended:?}");
}

#[test]
fn a_dead_executor_fails_its_tasks_and_the_next_task_gets_a_new_one() {
    let cluster = Cluster::start(1);
    let run = cluster.spawn(&["run", &guest("spin")]);
    cluster.running_task();
    let executors = cluster.processes(&["executor-wasm"]);
    assert_eq!(
        executors.len(),
        1,
        "one resident executor for the framework"
    );
    kill(executors[0]);
    let ended = run.wait();
    assert_eq!(ended.code, 206, "{ended:?}");
    assert!(
        ended.stderr.contains("REASON_EXECUTOR_TERMINATED"),
        "{ended:?}"
    );
    assert_eq!(cluster.tepui(&["run", &guest("hello")]).code, 0);
}

#[test]
fn tasks_of_a_checkpointing_framework_outlive_their_agent() {
    let mut cluster = Cluster::start(1);
    let run = cluster.spawn(&["run", &guest("hello"), "--", "--sleep", "4000"]);
    let task = cluster.running_task();
    cluster.agents[0].start_again();
    cluster.wait_for_agents(1);
    let tasks = cluster.json(&["ps", "--json"]);
    assert!(
        tasks
            .as_array()
            .unwrap()
            .iter()
            .any(|other| other["id"] == task["id"]),
        "{tasks}"
    );
    let ended = run.wait();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.contains("slept 4000 ms"), "{ended:?}");
}

#[test]
fn tasks_of_other_frameworks_are_lost_with_their_agent_and_leave_no_process() {
    let mut cluster = Cluster::start(1);
    let mut scheduler =
        Scheduler::subscribe(&cluster.master.address, json!({ "failover_timeout": 60 }));
    let offer = scheduler.offer();
    assert_eq!(
        scheduler
            .launch(
                &offer,
                &[Scheduler::task("sleeper", &offer, "exec sleep 1000")]
            )
            .status,
        202
    );
    scheduler.until("sleeper", "TASK_RUNNING");
    assert_eq!(cluster.processes(&["sleep", "1000"]).len(), 1);
    cluster.agents[0].kill();
    let lost = scheduler.until("sleeper", "TASK_LOST");
    assert_eq!(lost["source"], "SOURCE_MASTER");
    wait_until("the task's process to be gone", || {
        cluster
            .processes(&["sleep", "1000"])
            .is_empty()
            .then_some(())
    });
    cluster.agents[0].start_again();
    cluster.wait_for_agents(1);
    assert_eq!(
        scheduler.offer()["agent_id"],
        offer["agent_id"],
        "the agent keeps its id"
    );
}

#[test]
fn nothing_acknowledged_is_lost_by_a_master_killed_while_writing() {
    let mut cluster = Cluster::master_alone(&[]);
    let mut known: Vec<String> = Vec::new();
    for round in 0..50 {
        let address = cluster.master.address.clone();
        let (sender, receiver) = std::sync::mpsc::channel();
        let writers: Vec<_> = (0..4)
            .map(|_| {
                let (address, sender) = (address.clone(), sender.clone());
                std::thread::spawn(move || {
                    // Until the master is gone: each subscription is one acknowledged record.
                    while let Ok(id) = std::panic::catch_unwind(|| {
                        Scheduler::subscribe(&address, json!({ "failover_timeout": 86400 }))
                            .framework_id
                    }) {
                        if sender.send(id).is_err() {
                            return;
                        }
                    }
                })
            })
            .collect();
        drop(sender);
        // A different number of writes each round, so that the kill falls on different moments.
        let mut seen: Vec<String> = receiver.iter().take(1 + round % 7).collect();
        cluster.master.kill();
        for writer in writers {
            let _ = writer.join();
        }
        seen.extend(receiver.try_iter());
        known.extend(seen);
        cluster.master.start_again();
    }
    let headers = [("Content-Type", "application/json")];
    let answer = tepui_tests::request(
        &cluster.master.address,
        "POST",
        "/api/v1",
        &headers,
        br#"{"type":"GET_FRAMEWORKS"}"#,
    )
    .unwrap();
    let text = answer.text();
    assert!(known.len() >= 50);
    for id in &known {
        assert!(
            text.contains(id.as_str()),
            "framework {id} was acknowledged and is forgotten"
        );
    }
}

#[test]
fn a_second_agent_on_the_same_directory_is_refused_and_the_first_goes_on() {
    let cluster = Cluster::start(1);
    let folder = cluster.folder.path().join("agent-1").display().to_string();
    let second = cluster.tepui(&["agent", "--port", "0", "--work-dir", &folder]);
    assert_eq!(second.code, 1, "{second:?}");
    assert!(
        second.stderr.contains("another agent runs on"),
        "{second:?}"
    );
    assert_eq!(cluster.tepui(&["run", &guest("hello")]).code, 0);
}
