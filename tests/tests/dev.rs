//! `tepui dev`: a cluster that is one command.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tepui_tests::{component, program, request, wait_until};

/// What is left of a test ends with it.
struct Started(Child);

impl Started {
    fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }

    /// How it ended, and what was left to read of its outputs.
    fn ended(mut self) -> (Option<i32>, String) {
        let mut text = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            std::io::Read::read_to_string(&mut stderr, &mut text).unwrap();
        }
        (self.0.wait().unwrap().code(), text)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn tepui(words: &[&str], master: &str) -> Command {
    let mut command = Command::new(program("tepui"));
    command
        .args(words)
        .env("TEPUI_MASTER", master)
        .stdin(Stdio::null());
    command
}

#[test]
fn services_on_all_its_agents_have_ports_of_their_own_and_their_ends_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().display().to_string();
    let words = [
        "dev",
        "--listen",
        "127.0.0.1:0",
        "--agents",
        "2",
        "--data-dir",
        &data_dir,
        "--resources",
        "cpus:1;mem:1024",
    ];
    let mut dev = tepui(&words, "")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map(Started)
        .unwrap();
    let mut said = BufReader::new(dev.0.stdout.take().unwrap()).lines();
    let master = said.next().unwrap().unwrap();
    let master = master.strip_prefix("master on http://").unwrap();
    let mut ports = wait_until("both agents", || {
        let agents = request(master, "GET", "/slaves", &[], b"").unwrap().json();
        let ports = |agent: &Value| agent["resources"]["ports"].as_str().map(str::to_owned);
        let ports: Vec<_> = agents["slaves"].as_array()?.iter().map(ports).collect();
        (ports.len() == 2).then_some(ports)
    });
    ports.sort();
    assert_eq!(
        ports.iter().flatten().collect::<Vec<_>>(),
        ["[31000-31499]", "[31500-32000]"]
    );
    // Each takes an agent's only cpu.
    let services: Vec<_> = (0..2)
        .map(|_| {
            tepui(&["run", "--cpus", "1", &component("http_service")], master)
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .map(Started)
                .unwrap()
        })
        .collect();
    wait_until("both services to run", || {
        let tasks = tepui(&["ps", "--json"], master).output().unwrap();
        let tasks: Value = serde_json::from_slice(&tasks.stdout).unwrap_or_default();
        let running = |task: &&Value| task["state"] == "TASK_RUNNING";
        (tasks.as_array()?.iter().filter(running).count() == 2).then_some(())
    });
    dev.terminate();
    for service in services {
        let (_, said) = service.ended();
        assert!(said.contains("TASK_KILLED"), "{said}");
    }
    assert_eq!(dev.ended().0, Some(0));
}
