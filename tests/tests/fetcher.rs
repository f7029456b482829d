//! What tasks fetch: once however many ask, again when it is gone, and with a sentence when it cannot be had.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of this file is test code"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tepui_tests::{Cluster, FileServer, Reply, Scheduler, wait_until};

const RESOURCES: &str = "cpus:4;mem:2048;disk:1024";

fn cluster(flags: &[&str]) -> Cluster {
    let mut cluster = Cluster::master_alone(&[]);
    let mut words = vec!["--resources", RESOURCES];
    words.extend(flags);
    cluster.add_agent(&words);
    cluster.wait_for_agents(1);
    cluster
}

fn subscribe(cluster: &Cluster) -> Scheduler {
    Scheduler::subscribe(&cluster.master.address, json!({ "failover_timeout": 60 }))
}

fn cached(url: &str) -> Value {
    json!({ "value": url, "cache": true })
}

/// The only sandbox of that executor or command task.
fn sandbox(cluster: &Cluster, scheduler: &Scheduler, id: &str) -> PathBuf {
    let slaves = cluster.folder.path().join("agent-1/slaves");
    let agent = std::fs::read_dir(slaves).unwrap().next().unwrap().unwrap();
    let framework = &scheduler.framework_id;
    agent
        .path()
        .join(format!("frameworks/{framework}/executors/{id}/runs/latest"))
}

#[test]
fn however_many_tasks_ask_at_once_a_cached_uri_is_downloaded_once() {
    let cluster = cluster(&[]);
    let server = FileServer::start();
    let one = server.serve("/one", Reply::body("first").held());
    let two = server.serve("/two", Reply::body("second").held());
    let mut scheduler = subscribe(&cluster);
    let offer = scheduler.offer();
    let uris = [cached(&one), cached(&two)];
    let command = "test \"$(cat one two)\" = firstsecond";
    let ids: Vec<String> = (0..8).map(|number| format!("task-{number}")).collect();
    let tasks: Vec<Value> = ids
        .iter()
        .map(|id| Scheduler::fetching(id, &offer, command, &uris))
        .collect();
    scheduler.launch(&offer, &tasks);
    server.wait_for("/one");
    server.wait_for("/two");
    server.release("/one");
    server.release("/two");
    let mut finished = 0;
    while finished < ids.len() {
        let status = scheduler.status();
        assert_ne!(status["state"], "TASK_FAILED", "{status}");
        finished += usize::from(status["state"] == "TASK_FINISHED");
    }
    assert_eq!(
        scheduler.run("later", command, &uris)["state"],
        "TASK_FINISHED"
    );
    assert_eq!((server.count("/one"), server.count("/two")), (1, 1));
}

#[test]
fn a_cached_file_that_somebody_removed_is_fetched_again() {
    let cluster = cluster(&[]);
    let server = FileServer::start();
    let uris = [cached(&server.serve("/data", Reply::body("data")))];
    let mut scheduler = subscribe(&cluster);
    let command = "test \"$(cat data)\" = data";
    assert_eq!(
        scheduler.run("before", command, &uris)["state"],
        "TASK_FINISHED"
    );
    for entry in std::fs::read_dir(cluster.folder.path().join("agent-1/fetch")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(
        scheduler.run("after", command, &uris)["state"],
        "TASK_FINISHED"
    );
    assert_eq!(server.count("/data"), 2);
}

#[test]
fn the_least_recently_used_file_leaves_a_full_cache_first() {
    let cluster = cluster(&["--fetcher_cache_size=2MB"]);
    let server = FileServer::start();
    let mut scheduler = subscribe(&cluster);
    let body = |letter: u8| Reply::body(vec![letter; 900 << 10]);
    let [a, b, c] = [b'a', b'b', b'c']
        .map(|letter| server.serve(&format!("/{}", char::from(letter)), body(letter)));
    for (number, url) in [&a, &b, &a, &c, &a, &b].into_iter().enumerate() {
        let id = format!("task-{number}");
        let status = scheduler.run(&id, "true", &[cached(url)]);
        assert_eq!(status["state"], "TASK_FINISHED", "{status}");
    }
    let counts = ["/a", "/b", "/c"].map(|path| server.count(path));
    assert_eq!(counts, [1, 2, 1], "b was used least recently when c came");
}

#[test]
fn what_cannot_be_fetched_fails_the_task_with_a_sentence_that_is_in_its_stderr_too() {
    let cluster = cluster(&["--fetcher_stall_timeout=1secs"]);
    let server = FileServer::start();
    let mut scheduler = subscribe(&cluster);
    let good = server.serve("/good", Reply::body("good"));
    let digest = "0".repeat(64);
    let truncated = Reply::body("0123456789").truncated_to(4);
    let stalled = Reply::body("0123456789").stalling_after(4);
    let cases = [
        ("missing", json!({ "value": server.url("/none") }), "404"),
        (
            "truncated",
            json!({ "value": server.serve("/truncated", truncated) }),
            "the body ended after 4 of 10 bytes",
        ),
        (
            "stalled",
            json!({ "value": server.serve("/stalled", stalled) }),
            "nothing arrived for 1 s",
        ),
        (
            "digest",
            json!({ "value": good, "sha256": digest }),
            "its sha256 is",
        ),
        (
            "local",
            json!({ "value": "/no/such/file" }),
            "there is no such file",
        ),
        (
            "relative",
            json!({ "value": "lib/tool" }),
            "--frameworks_home",
        ),
        ("scheme", json!({ "value": "gopher://host/x" }), "scheme"),
        (
            "output",
            json!({ "value": good, "output_file": "stdout" }),
            "name another place",
        ),
        (
            "outside",
            json!({ "value": good, "output_file": "../x" }),
            "relative path inside the sandbox",
        ),
    ];
    for (id, uri, expected) in cases {
        let status = scheduler.run(id, "true", &[uri]);
        assert_eq!(status["state"], "TASK_FAILED", "{status}");
        assert_eq!(status["reason"], "REASON_CONTAINER_LAUNCH_FAILED");
        let message = status["message"].as_str().unwrap();
        assert!(message.contains(expected), "{message}");
        let stderr = sandbox(&cluster, &scheduler, id).join("stderr");
        let stderr = std::fs::read_to_string(stderr).unwrap();
        assert!(stderr.contains(message), "{stderr}");
    }
}

fn pack(folder: &Path, words: &[&str]) {
    let packed = Command::new(words[0])
        .args(&words[1..])
        .current_dir(folder)
        .status();
    assert!(packed.unwrap().success(), "{words:?}");
}

#[test]
fn files_are_named_made_executable_and_unpacked_as_the_uri_says() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("inner"), "packed").unwrap();
    pack(home.path(), &["tar", "-czf", "archive.tar.gz", "inner"]);
    std::fs::write(home.path().join("single"), "zipped").unwrap();
    pack(home.path(), &["gzip", "single"]);
    let archive = std::fs::read(home.path().join("archive.tar.gz")).unwrap();
    let cluster = cluster(&["--frameworks_home", &home.path().display().to_string()]);
    let server = FileServer::start();
    server.serve("/real", Reply::body("#!/bin/sh\necho ran\n"));
    let tool = server.serve("/tool", Reply::redirect("/real"));
    let packed = server.serve("/packed.tar.gz", Reply::body(archive));
    let local = format!(
        "file://localhost{}",
        home.path().join("single.gz").display()
    );
    let uris = [
        json!({ "value": format!("  {tool}"), "executable": true }),
        json!({ "value": packed, "cache": true }),
        json!({ "value": packed, "extract": false, "output_file": "deep/er/kept.tar.gz" }),
        json!({ "value": local }),
        json!({ "value": "archive.tar.gz", "output_file": "home.tar.gz", "extract": false }),
    ];
    let command = "test \"$(./tool)\" = ran && test -x tool && test \"$(cat inner)\" = packed \
        && test ! -e packed.tar.gz && test -s deep/er/kept.tar.gz && test \"$(cat single)\" = zipped \
        && cmp home.tar.gz deep/er/kept.tar.gz";
    let mut scheduler = subscribe(&cluster);
    let status = scheduler.run("all", command, &uris);
    assert_eq!(status["state"], "TASK_FINISHED", "{status}");
}

#[test]
fn the_registration_timeout_does_not_wait_for_a_slow_fetch() {
    let cluster = cluster(&["--executor_registration_timeout=1secs"]);
    let server = FileServer::start();
    let slow = server.serve("/executor", Reply::body("#!/bin/sh\n").held());
    let mut scheduler = subscribe(&cluster);
    let offer = scheduler.offer();
    let mut task = Scheduler::task("waits", &offer, "");
    task.as_object_mut().unwrap().remove("command");
    task["executor"] = json!({
        "executor_id": { "value": "mine" },
        "command": { "value": "./executor", "uris": [{ "value": slow, "executable": true }] },
    });
    scheduler.launch(&offer, &[task]);
    server.wait_for("/executor");
    let status = scheduler.ended("waits");
    assert_eq!(status["state"], "TASK_FAILED", "{status}");
    assert_eq!(status["reason"], "REASON_EXECUTOR_REGISTRATION_TIMEOUT");
    assert!(scheduler.next("OFFERS", Duration::from_secs(30)).is_some());
    wait_until("the executor to be forgotten", || {
        let run = cluster.folder.path().join("agent-1/run");
        let left = std::fs::read_dir(run).unwrap().count();
        (left == 0).then_some(())
    });
}
