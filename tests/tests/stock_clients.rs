//! Clients that others wrote for Mesos, as their registries hand them out, live a framework's life on a real cluster.
//!
//! The scripts that use them are in `tests/clients/` and check each step themselves; `cargo xtask clients` installs
//! the clients into the target directory. Here the cluster is started, what only a test can do is done for them, and
//! the cluster is looked at afterwards.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of this is test code"
)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tepui_tests::{Cluster, Scheduler, guest, program, request, wait_until};

const AGENT: &[&str] = &[
    "--resources",
    "cpus:2;mem:1024;disk:1024;ports:[31000-31999]",
];

/// A file of the folder into which `cargo xtask clients` installs.
fn installed(path: &str) -> PathBuf {
    let target = program("tepui").ancestors().nth(2).unwrap().to_owned();
    let file = target.join("clients").join(path);
    assert!(
        file.exists(),
        "{} is missing: install the stock clients with `cargo xtask clients`",
        file.display()
    );
    file
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("clients")
        .join(name)
}

/// Runs a client to its end, does what it asks for, and looks whether its framework ended as completed.
fn live(mut command: Command, framework: &str) -> Cluster {
    // Some of them hand an event on only when the next one comes, others give a silent stream up after 10 s.
    let mut cluster = Cluster::master_alone(&["--scheduler-heartbeat-interval", "1secs"]);
    cluster.add_agent(AGENT);
    cluster.wait_for_agents(1);
    let module = cluster.json(&["artifact", "put", "--json", &guest("hello")]);
    let mut child = command
        .env("TEPUI_TEST_MASTER", &cluster.master.address)
        .env("TEPUI_TEST_AGENT", &cluster.agents[0].address)
        .env("TEPUI_TEST_WASM", module["url"].as_str().unwrap())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(cluster.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answer = child.stdin.take().unwrap();
    let mut last = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        println!("{line}");
        match line.strip_prefix("PLEASE ") {
            Some("restart the master") => cluster.master.start_again(),
            Some("wait for the agent") => cluster.wait_for_agents(1),
            Some(other) => panic!("nobody knows how to {other}"),
            None => {
                last = line;
                continue;
            }
        }
        // A client that has ended does not need the answer.
        let _ = answer.write_all(b"done\n");
    }
    let status = child.wait().unwrap();
    assert!(status.success(), "the client ended with {status}");
    assert_eq!(last, "lived");
    wait_until("the framework to be completed", || {
        let state = request(&cluster.master.address, "GET", "/state", &[], b"");
        let state = state.ok()?.json();
        let ended = state["completed_frameworks"].as_array()?;
        let named = |value: &&Value| value["name"] == framework;
        ended.iter().find(named).map(|_| ())
    });
    cluster
}

#[test]
fn stock_client_pymesos_lives_a_whole_life() {
    let mut command = Command::new(installed("python/bin/python"));
    command.arg(script("pymesos_life.py"));
    let cluster = live(command, "pymesos");
    wait_until("the executor to be gone", || {
        cluster
            .processes(&["pymesos_executor.py"])
            .is_empty()
            .then_some(())
    });
}

#[test]
fn stock_client_mesoshttp_lives_a_whole_life() {
    let mut command = Command::new(installed("python/bin/python"));
    command.arg(script("mesoshttp_life.py")).arg("mesoshttp");
    live(command, "mesoshttp");
}

#[test]
fn stock_client_avmesos_lives_a_whole_life() {
    let mut command = Command::new(installed("python/bin/python"));
    command.arg(script("mesoshttp_life.py")).arg("avmesos");
    live(command, "avmesos");
}

#[test]
fn stock_client_mesos_framework_lives_a_whole_life() {
    let mut command = Command::new("node");
    command
        .arg(script("mesos_framework_life.js"))
        .env("NODE_PATH", installed("node/node_modules"))
        .env("NODE_NO_WARNINGS", "1");
    live(command, "mesos-framework");
}

#[test]
fn stock_client_pymesos_reads_as_an_operator() {
    let mut command = Command::new(installed("python/bin/python"));
    command.arg(script("pymesos_operator.py"));
    live(command, "watched by pymesos");
}

#[test]
fn stock_client_mesos_cli_shows_agents_frameworks_and_tasks() {
    let python = installed("python/bin/python");
    let packages = installed("mesos-cli");
    let cluster = Cluster::start(1);
    let config = cluster.folder.path().join("config.toml");
    let text = format!("[master]\naddress = \"{}\"\n", cluster.master.address);
    std::fs::write(&config, text).unwrap();
    let mesos = |words: &[&str]| {
        let mut command = Command::new(&python);
        command
            .args(["-m", "avmesos.cli.mesos-cli"])
            .args(words)
            .env("PYTHONPATH", &packages)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("MESOS_CLI_CONFIG", &config);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {said}{errors}");
        said
    };
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({ "name": "shown" }));
    let offer = scheduler.offer();
    scheduler.launch(&offer, &[Scheduler::task("seen", &offer, "sleep 1000")]);
    scheduler.until("seen", "TASK_RUNNING");
    let row = |table: &str, word: &str| {
        let found = table.lines().find(|line| line.contains(word));
        found
            .unwrap_or_else(|| panic!("no {word} in {table}"))
            .to_owned()
    };
    let agent = offer["agent_id"]["value"].as_str().unwrap();
    assert!(row(&mesos(&["agent", "list"]), agent).contains("True"));
    assert!(row(&mesos(&["framework", "list"]), "shown").contains(&scheduler.framework_id));
    assert!(row(&mesos(&["task", "list"]), "seen").contains("TASK_RUNNING"));
    let task: Value = serde_json::from_str(&mesos(&["task", "inspect", "seen"])).unwrap();
    assert_eq!(task["framework_id"], scheduler.framework_id.as_str());
    let inspected = mesos(&["framework", "inspect", &scheduler.framework_id]);
    let framework: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(framework["name"], "shown");
}
