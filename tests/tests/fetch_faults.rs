//! Servers and disks at fault: what a task is told, and that nothing half fetched is ever taken for a file.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of this file is test code"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tepui_tests::{Cluster, FileServer, Reply, Scheduler, digest_of, wait_until};

const RESOURCES: &[&str] = &["--resources", "cpus:4;mem:2048;disk:1024"];

fn cluster(flags: &[&str]) -> Cluster {
    let mut cluster = Cluster::master_alone(&[]);
    cluster.add_agent(&[RESOURCES, flags].concat());
    cluster.wait_for_agents(1);
    cluster
}

fn subscribe(cluster: &Cluster) -> Scheduler {
    Scheduler::subscribe(&cluster.master.address, json!({ "failover_timeout": 60 }))
}

fn store(cluster: &Cluster) -> PathBuf {
    cluster.folder.path().join("agent-1/fetch")
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// `bytes` bytes that are no two alike for long.
fn content(bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|at| (at % 251) as u8 ^ (at >> 8) as u8)
        .collect()
}

#[test]
fn every_fault_of_a_server_has_its_sentence_and_leaves_nothing_behind() {
    let cluster = cluster(&[
        "--fetcher_stall_timeout=1secs",
        "--fetcher_retries=1",
        "--fetcher_max_size=1MB",
    ]);
    let server = FileServer::start();
    let long = || Reply::body(content(100_000));
    let whole = digest_of(&content(100_000));
    let circle = server.serve("/circle", Reply::redirect("/circle"));
    let serve = |path: &str, reply: Reply| json!({ "value": server.serve(path, reply) });
    let cases = [
        (
            "forbidden",
            serve("/403", Reply::status(403)),
            "403 Forbidden; it must let this machine read it",
        ),
        (
            "missing",
            json!({ "value": server.url("/404") }),
            "404 Not Found; check the URI",
        ),
        (
            "broken",
            serve("/500", Reply::status(500)),
            "500 Internal Server Error; try again when the server is well",
        ),
        (
            "circle",
            json!({ "value": circle }),
            "it redirects more than 10 times",
        ),
        (
            "cut",
            serve("/cut", long().truncated_to(70_000)),
            "the body ended after 70000 of 100000 bytes",
        ),
        (
            "promises",
            serve("/promises", long().claiming(200_000)),
            "the body ended after 100000 of 200000 bytes",
        ),
        (
            "lies",
            json!({ "value": server.serve("/lies", long().claiming(50_000)), "sha256": whole }),
            "another file lies there now, or it was changed on its way",
        ),
        (
            "stands",
            serve("/stands", long().stalling_after(70_000)),
            "stands still",
        ),
        (
            "drips",
            serve("/drips", long().dripping(10, Duration::from_millis(100))),
            "the server, or the way to it, is too slow",
        ),
        (
            "huge",
            serve("/huge", Reply::body(content(2 << 20))),
            "it has more than 1 MiB, the most that is taken here",
        ),
        (
            "endless",
            serve("/endless", Reply::body(content(2 << 20)).claiming(1 << 20)),
            "TASK_FINISHED",
        ),
    ];
    let mut scheduler = subscribe(&cluster);
    for (id, uri, expected) in cases {
        let status = scheduler.run(id, "true", &[uri]);
        if expected == "TASK_FINISHED" {
            // What is beyond the promise is not read, and nobody said that it should be anything else.
            assert_eq!(status["state"], expected, "{status}");
            continue;
        }
        assert_eq!(status["state"], "TASK_FAILED", "{id}: {status}");
        assert_eq!(status["reason"], "REASON_CONTAINER_LAUNCH_FAILED");
        let message = status["message"].as_str().unwrap();
        assert!(message.starts_with("fetching 'http://"), "{id}: {message}");
        assert!(message.contains(expected), "{id}: {message}");
        assert_eq!(files(&store(&cluster)), [""; 0], "{id}");
    }
    assert_eq!(
        server.count("/500"),
        2,
        "a server that is unwell is asked again"
    );
    assert_eq!(server.count("/403"), 1, "one that refuses is not");
}

#[test]
fn a_transfer_goes_on_where_its_server_broke_off() {
    let cluster = cluster(&["--fetcher_retries=1"]);
    let server = FileServer::start();
    let bytes = content(1_000_000);
    let url = server.serve(
        "/file",
        Reply::body(bytes.clone())
            .ranged()
            .truncated_to(300_000)
            .failing_first(1),
    );
    let mut scheduler = subscribe(&cluster);
    let status = scheduler.run(
        "task",
        "test $(wc -c < file) = 1000000",
        &[json!({ "value": url })],
    );
    assert_eq!(status["state"], "TASK_FINISHED", "{status}");
    let ranges = server.ranges("/file");
    let asked: Vec<&str> = ranges
        .iter()
        .map(|range| range.as_deref().unwrap_or(""))
        .collect();
    assert_eq!(
        asked,
        ["", "", "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    );
    assert_eq!(files(&store(&cluster)), [digest_of(&bytes)]);
}

#[test]
fn a_server_without_ranges_is_read_from_the_beginning_again() {
    let cluster = cluster(&["--fetcher_retries=1"]);
    let server = FileServer::start();
    let bytes = content(100_000);
    let url = server.serve("/file", Reply::body(bytes.clone()).truncated_to(60_000));
    let mut scheduler = subscribe(&cluster);
    let offer = scheduler.offer();
    let uri = json!({ "value": url });
    scheduler.launch(
        &offer,
        &[Scheduler::fetching("task", &offer, "true", &[uri])],
    );
    server.wait_for("/file");
    server.serve("/file", Reply::body(bytes.clone()));
    let status = scheduler.ended("task");
    assert_eq!(status["state"], "TASK_FINISHED", "{status}");
    assert_eq!(files(&store(&cluster)), [digest_of(&bytes)]);
}

#[test]
fn an_agent_that_is_killed_in_the_middle_goes_on_where_it_was() {
    let mut cluster = cluster(&[]);
    let server = FileServer::start();
    let bytes = content(8_000_000);
    let sha256 = digest_of(&bytes);
    let url = server.serve(
        "/file",
        Reply::body(bytes).ranged().stalling_after(5_000_000),
    );
    let uri = json!({ "value": url, "sha256": sha256 });
    let mut scheduler = subscribe(&cluster);
    let offer = scheduler.offer();
    let task = Scheduler::fetching("killed", &offer, "true", std::slice::from_ref(&uri));
    scheduler.launch(&offer, &[task]);
    let part = store(&cluster).join(format!(".partial-{sha256}"));
    let size = || part.metadata().map_or(0, |metadata| metadata.len());
    // What is gathered before it is written is at most one piece short of it.
    wait_until("most of the file", || (size() >= 3_000_000).then_some(()));
    cluster.agents[0].kill();
    let had = size();
    server.serve("/file", Reply::body(content(8_000_000)).ranged());
    cluster.agents[0].start_again();
    cluster.wait_for_agents(1);
    let status = scheduler.ended("killed");
    assert_eq!(status["state"], "TASK_LOST", "{status}");
    let status = scheduler.run("again", "test $(wc -c < file) = 8000000", &[uri]);
    assert_eq!(status["state"], "TASK_FINISHED", "{status}");
    let range = server.ranges("/file").pop().unwrap();
    assert_eq!(range, Some(format!("bytes={had}-")));
    assert_eq!(files(&store(&cluster)), [sha256]);
}

/// A small disk, mounted where a cluster's agent will keep what it fetches.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        let size = format!("size={size}");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(
            Some("tmpfs"),
            &path,
            Some("tmpfs"),
            flags,
            Some(size.as_str()),
        )
        .expect("tests mount file systems, as root");
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_lets_go_of_what_nobody_uses_and_then_says_that_it_is_full() {
    let mut cluster = Cluster::master_alone(&[]);
    let disk = SmallDisk::mount(store(&cluster), "3m");
    cluster.add_agent(RESOURCES);
    cluster.wait_for_agents(1);
    let server = FileServer::start();
    let serve = |path: &str, bytes: usize| {
        let url = server.serve(path, Reply::body(content(bytes)));
        json!({ "value": url, "cache": true })
    };
    let (small, middle, large) = (
        serve("/small", 2_000_000),
        serve("/middle", 2_500_000),
        serve("/large", 4_000_000),
    );
    let mut scheduler = subscribe(&cluster);
    let state = |status: &Value| status["state"].as_str().unwrap().to_owned();
    let status = scheduler.run("small", "true", std::slice::from_ref(&small));
    assert_eq!(state(&status), "TASK_FINISHED", "{status}");
    let status = scheduler.run("middle", "true", &[middle]);
    assert_eq!(state(&status), "TASK_FINISHED", "room is made: {status}");
    assert_eq!(files(&disk.0), [digest_of(&content(2_500_000))]);
    let status = scheduler.run("large", "true", &[large]);
    assert_eq!(state(&status), "TASK_FAILED", "{status}");
    assert_eq!(status["reason"], "REASON_CONTAINER_LAUNCH_FAILED");
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("the disk is full; make room on this machine"),
        "{message}"
    );
    assert_eq!(files(&disk.0), [""; 0]);
    let status = scheduler.run("again", "true", &[small]);
    assert_eq!(state(&status), "TASK_FINISHED", "{status}");
}
