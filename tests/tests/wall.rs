//! The second wall: native code in the box of a wasm executor, as if a guest had broken out of the runtime.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of this file is test code"
)]

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use serde_json::{Value, json};
use tepui_tests::{Cluster, Scheduler, guest, program, wait_until};

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("not run: it needs root");
    }
    root
}

/// A wasm task of that role; with its framework and the sandbox.
fn launch(cluster: &Cluster, role: &str, module: &str) -> (Scheduler, PathBuf) {
    let info = json!({
        "roles": [role], "capabilities": [{ "type": "MULTI_ROLE" }], "failover_timeout": 60,
    });
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, info);
    let offer = scheduler.offer();
    let mut task = Scheduler::task("guest", &offer, "");
    task["command"] = json!({
        "value": format!("{module}.wasm"), "uris": [{ "value": guest(module) }],
    });
    assert_eq!(scheduler.launch(&offer, &[task]).status, 202);
    let agent = offer["agent_id"]["value"].as_str().unwrap();
    let framework = &scheduler.framework_id;
    let sandbox = cluster.folder.path().join(format!(
        "agent-1/slaves/{agent}/frameworks/{framework}/executors"
    ));
    (scheduler, sandbox)
}

fn executor_of(cluster: &Cluster, scheduler: &Scheduler) -> i32 {
    wait_until("the executor", || {
        let found = cluster.processes(&["executor-wasm"]);
        found.into_iter().find(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            String::from_utf8_lossy(&environment)
                .contains(&format!("MESOS_FRAMEWORK_ID={}", scheduler.framework_id))
        })
    })
}

/// The file of that name in any sandbox below.
fn found(below: &std::path::Path, name: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(below).ok()?;
    let runs = entries
        .flatten()
        .flat_map(|entry| std::fs::read_dir(entry.path().join("runs")));
    let sandboxes = runs.flat_map(|entries| entries.flatten());
    sandboxes
        .map(|entry| entry.path().join(name))
        .find(|path| path.exists())
}

fn user_line(pid: i32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status
        .lines()
        .find(|line| line.starts_with("Uid:"))
        .unwrap()
        .to_owned()
}

#[test]
fn an_escaped_guest_finds_nothing_but_its_own() {
    if is_root() {
        escape(&[], &[]);
    }
}

/// Then the kernel's own list of files is all there is: what it does not know of is open to the user the agent is.
#[test]
fn without_a_user_of_its_own_it_still_finds_no_files_and_nobody_to_signal() {
    if is_root() {
        let open = [
            "the agent's own socket",
            "state of the agent",
            "a call of operators",
            "becoming root",
            "list of compiled code",
            "packet socket",
        ];
        escape(&["--executor-uids=none"], &open);
    }
}

/// Lets native code attack from inside the box of an executor; everything but what is `open` must be refused.
fn escape(flags: &[&str], open: &[&str]) {
    let mut cluster = Cluster::master_alone(&[]);
    let attack = cluster.folder.path().join("attack.json");
    let escapee = program("escapee").display().to_string();
    let variables = json!({ "ESCAPE": attack }).to_string();
    let own = [
        "--resources",
        "cpus:4;mem:2048;disk:1024",
        "--executor-program",
        &escapee,
        "--executor-environment-variables",
        &variables,
    ];
    cluster.add_agent(&[&own, flags].concat());
    cluster.wait_for_agents(1);
    let (mut of_victim, victims) = launch(&cluster, "victim", "spin");
    of_victim.until("guest", "TASK_RUNNING");
    let victim = executor_of(&cluster, &of_victim);
    let work_dir = cluster
        .folder
        .path()
        .join("agent-1")
        .canonicalize()
        .unwrap();
    let compiled = std::fs::read_dir(work_dir.join("compiled"))
        .unwrap()
        .flatten();
    let compiled = compiled
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|ending| ending == "cwasm"));
    let stdout = found(&victims, "stdout").unwrap();
    let targets = json!({
        "victim_pid": victim,
        "agent_pid": cluster.agents[0].pid(),
        "victim_sandbox": stdout.parent().unwrap(),
        "work_dir": work_dir,
        "compiled": compiled.unwrap(),
        "agent_socket": work_dir.join("agent.sock"),
        "executor_socket": work_dir.join("api/executor.sock"),
        "agent_endpoint": cluster.agents[0].address,
        "abstract": format!("tepui-usage-{victim}"),
    });
    std::fs::write(&attack, targets.to_string()).unwrap();

    let (_attacker, attackers) = launch(&cluster, "attacker", "spin");
    for report in ["executor.json", "runner.json"] {
        let path = wait_until("the report", || found(&attackers, report));
        let attempts: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let attempts = attempts.as_object().unwrap();
        assert!(attempts.len() > 50, "{attempts:?}");
        println!("{report}: {attempts:#?}");
        for (name, outcome) in attempts {
            let outcome = outcome.as_str().unwrap();
            match name.strip_prefix("able: ") {
                Some(able) => assert_eq!(outcome, "yes", "{report}: {able}"),
                None if open.contains(&name.as_str()) => {}
                None => assert!(
                    outcome.starts_with("refused"),
                    "{report}: {name}: {outcome}"
                ),
            }
        }
    }
    let line = user_line(victim);
    let own_user = line.contains("\t19000");
    assert_eq!(own_user, open.is_empty(), "{line}");
    // The victim lives on, and nothing was left anywhere.
    of_victim.kill("guest");
    of_victim.until("guest", "TASK_KILLED");
    assert!(!stdout.with_file_name("planted").exists());
    assert!(!work_dir.join("compiled/planted").exists());
}

#[test]
fn executors_have_users_of_their_own_and_what_they_write_is_theirs() {
    if !is_root() {
        return;
    }
    let cluster = Cluster::start(1);
    let agents = cluster.json(&["agents", "--json"]);
    let text = agents.to_string();
    assert!(text.contains("tepui_wall"), "{text}");
    assert!(text.contains("user+view"), "{text}");
    let (mut first, _) = launch(&cluster, "one", "spin");
    first.until("guest", "TASK_RUNNING");
    let (mut second, sandboxes) = launch(&cluster, "two", "hello");
    second.until("guest", "TASK_FINISHED");
    let (first_pid, second_pid) = (
        executor_of(&cluster, &first),
        executor_of(&cluster, &second),
    );
    assert_ne!(user_line(first_pid), user_line(second_pid));
    let output = found(&sandboxes, "stdout").unwrap();
    let user = output.metadata().unwrap().uid();
    assert!(user_line(second_pid).contains(&user.to_string()));
    let status = std::fs::read_to_string(format!("/proc/{second_pid}/status")).unwrap();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000"] {
        assert!(status.contains(line), "{line} is not in\n{status}");
    }
}

/// Where the work directory lies in a directory tasks may have, but behind one that executors may not enter: the directory
/// itself, or one in it. What an executor needs is still its own, and nothing else behind it is.
#[test]
fn an_agent_inside_an_allowed_directory_is_reached_past_closed_ones() {
    if !is_root() {
        return;
    }
    for is_itself_closed in [true, false] {
        let mut cluster = Cluster::master_alone(&[]);
        let closed = cluster.folder.path().canonicalize().unwrap();
        std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::write(closed.join("secret"), "unseen").unwrap();
        let around = closed.parent().unwrap();
        let open = tempfile::tempdir_in(around).unwrap();
        std::fs::set_permissions(open.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(open.path().join("greeting"), "from the host").unwrap();
        let allowed = if is_itself_closed { &*closed } else { around };
        let allowed = allowed.display().to_string();
        cluster.add_agent(&["--allow_host_directories", &allowed]);
        cluster.wait_for_agents(1);
        let ended = cluster.tepui(&["run", &guest("hello")]);
        assert_eq!(ended.code, 0, "{allowed}: {ended:?}");
        let probe = guest("probe");
        if is_itself_closed {
            let inside = closed.join("inside");
            std::fs::create_dir(&inside).unwrap();
            let mount = format!("{}:/data", inside.display());
            let ended = cluster.tepui(&["run", "--mount", &mount, &probe, "--", "list", "/data"]);
            assert_eq!(ended.code, 205, "{ended:?}");
            assert!(ended.stderr.contains("must be let into it"), "{ended:?}");
            continue;
        }
        let mount = format!("{}:/data", open.path().display());
        let read = |mount: &str, path: &str| {
            cluster.tepui(&["run", "--mount", mount, &probe, "--", "read", path])
        };
        let ended = read(&mount, "/data/greeting");
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (0, "from the host\n"),
            "{ended:?}"
        );
        let name = closed.file_name().unwrap().to_str().unwrap();
        let ended = read(&format!("{allowed}:/data"), &format!("/data/{name}/secret"));
        assert_eq!(ended.code, 1, "{ended:?}");
        assert!(!ended.stdout.contains("unseen"), "{ended:?}");
    }
}
