//! What a task may use, and who it is: limits of disk and memory, users, secrets.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of this file is test code"
)]

use std::path::PathBuf;

use serde_json::{Value, json};
use tepui_tests::{Cluster, Scheduler, guest, request, wait_until};

const RESOURCES: &str = "cpus:4;mem:2048;disk:1024";
const WATCHED: [&str; 2] = [
    "--enforce_container_disk_quota",
    "--container_disk_watch_interval=200ms",
];

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

fn scalar(name: &str, value: f64) -> Value {
    json!({ "name": name, "type": "SCALAR", "scalar": { "value": value } })
}

fn with_disk(mut task: Value, megabytes: f64) -> Value {
    let resources = task["resources"].as_array_mut().unwrap();
    resources.push(scalar("disk", megabytes));
    task
}

fn assert_over_disk(status: &Value, megabytes: f64) {
    assert_eq!(status["state"], "TASK_FAILED", "{status}");
    assert_eq!(status["reason"], "REASON_CONTAINER_LIMITATION_DISK");
    assert_eq!(status["source"], "SOURCE_AGENT");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("exceeds quota"), "{message}");
    let resource = &status["limitation"]["resources"][0];
    assert_eq!(resource["name"], "disk");
    assert_eq!(resource["scalar"]["value"], megabytes);
}

#[test]
fn a_native_task_with_more_on_disk_than_it_was_given_fails_and_others_go_on() {
    let cluster = cluster(&WATCHED);
    let mut scheduler = subscribe(&cluster);
    let offer = scheduler.offer();
    let fill = "dd if=/dev/zero of=big bs=1048576 count=4 2>/dev/null; exec sleep 1000";
    let tasks = [
        with_disk(Scheduler::task("over", &offer, fill), 2.0),
        with_disk(Scheduler::task("within", &offer, fill), 64.0),
        Scheduler::task("without", &offer, fill),
    ];
    assert_eq!(scheduler.launch(&offer, &tasks).status, 202);
    let status = scheduler.until("over", "TASK_FAILED");
    assert_over_disk(&status, 2.0);
    for id in ["within", "without"] {
        scheduler.kill(id);
        scheduler.until(id, "TASK_KILLED");
    }
}

#[test]
fn a_wasm_task_answers_for_what_it_wrote_as_well() {
    let cluster = cluster(&WATCHED);
    let mut scheduler = subscribe(&cluster);
    let offer = scheduler.offer();
    // It comes with more than it may have, and runs until it is noticed.
    let large = cluster.folder.path().join("large");
    std::fs::write(&large, vec![1; 4 << 20]).unwrap();
    let mut task = with_disk(Scheduler::task("wasm", &offer, ""), 2.0);
    task["command"] = json!({
        "value": "spin.wasm",
        "uris": [{ "value": guest("spin") }, { "value": large }],
    });
    assert_eq!(scheduler.launch(&offer, &[task]).status, 202);
    let status = scheduler.until("wasm", "TASK_FAILED");
    assert_over_disk(&status, 2.0);
}

#[test]
fn an_own_executor_answers_for_all_of_its_tasks() {
    let cluster = cluster(&WATCHED);
    let mut scheduler = subscribe(&cluster);
    let offer = scheduler.offer();
    let fill = "dd if=/dev/zero of=big bs=1048576 count=16 2>/dev/null; exec sleep 4720";
    let executor = scheduler.custom_executor("own", fill);
    let task = with_disk(Scheduler::executor_task("of own", &offer, &executor), 2.0);
    assert_eq!(scheduler.launch(&offer, &[task]).status, 202);
    // 8 MB of its own and 2 of its task.
    let status = scheduler.until("of own", "TASK_FAILED");
    assert_over_disk(&status, 10.0);
    assert!(cluster.processes(&["sleep", "4720"]).is_empty());
}

#[test]
fn a_task_of_a_group_with_more_on_disk_than_it_was_given_fails_and_takes_its_group_along() {
    let cluster = cluster(&WATCHED);
    let mut scheduler = subscribe(&cluster);
    let offer = scheduler.offer();
    let fill = "dd if=/dev/zero of=big bs=1048576 count=4 2>/dev/null; exec sleep 1000";
    let tasks = [
        with_disk(Scheduler::task("over", &offer, fill), 2.0),
        with_disk(Scheduler::task("within", &offer, fill), 64.0),
    ];
    let executor = scheduler.default_executor("pod");
    let launched = scheduler.launch_group(&offer, &executor, &tasks);
    assert_eq!(launched.status, 202);
    let (mut over, mut within) = (Value::Null, Value::Null);
    while over.is_null() || within.is_null() {
        let status = scheduler.status();
        let state = status["state"].as_str().unwrap();
        if ["TASK_STARTING", "TASK_RUNNING"].contains(&state) {
            continue;
        }
        match status["task_id"]["value"].as_str().unwrap() {
            "over" => over = status,
            _ => within = status,
        }
    }
    assert_over_disk(&over, 2.0);
    assert_eq!(over["executor_id"]["value"], "pod");
    assert_eq!(within["state"], "TASK_KILLED", "{within}");
}

#[test]
fn disk_is_not_enforced_unless_the_operator_says_so() {
    let cluster = cluster(&["--container_disk_watch_interval=100ms"]);
    let mut scheduler = subscribe(&cluster);
    let offer = scheduler.offer();
    let fill = "dd if=/dev/zero of=big bs=1048576 count=4 2>/dev/null; sleep 1";
    let task = with_disk(Scheduler::task("over", &offer, fill), 1.0);
    scheduler.launch(&offer, &[task]);
    scheduler.until("over", "TASK_FINISHED");
}

#[test]
fn sandboxes_of_ended_tasks_go_at_once_when_the_disk_has_no_room_for_them() {
    let flags = ["--gc_disk_headroom=1.0", "--disk_watch_interval=200ms"];
    let cluster = cluster(&flags);
    let mut scheduler = subscribe(&cluster);
    let offer = scheduler.offer();
    let agent = offer["agent_id"]["value"].as_str().unwrap();
    let tasks = [
        Scheduler::task("ends", &offer, "true"),
        Scheduler::task("stays", &offer, "exec sleep 1000"),
    ];
    scheduler.launch(&offer, &tasks);
    scheduler.until("ends", "TASK_FINISHED");
    let executors = cluster.folder.path().join(format!(
        "agent-1/slaves/{agent}/frameworks/{}/executors",
        scheduler.framework_id
    ));
    wait_until("the sandbox to be removed", || {
        (!executors.join("ends").exists()).then_some(())
    });
    assert!(executors.join("stays/runs/latest/stdout").exists());
}

/// The directories of the cgroup a process is in, by controller; empty where this machine has none.
fn cgroup(pid: i32, controller: &str) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let controllers = parts.nth(1)?;
        let path = parts.next()?.trim_start_matches('/');
        let has = controllers.split(',').any(|one| one == controller);
        has.then(|| PathBuf::from(format!("/sys/fs/cgroup/{controller}")).join(path))
    })
}

#[test]
fn a_task_that_listens_where_it_may_not_fails_and_others_go_on() {
    let cluster = cluster(&[
        "--enforce_container_ports",
        "--container_ports_watch_interval=200ms",
    ]);
    let state = cluster.json(&["agents", "--json"]).to_string();
    if state.contains("tepui_isolation") && state.contains("none") {
        println!("not run: without cgroups nobody is watched");
        return;
    }
    let mut scheduler = subscribe(&cluster);
    let offer = scheduler.offer();
    // Two ports of the agent's: one is given to who listens on it, the other is not.
    let free = |from: u16| {
        let mut ports = from..32000;
        ports
            .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
            .unwrap()
    };
    let given = free(31_100);
    let other = free(given + 1);
    let listen =
        |port: u16| format!("exec openssl s_server -quiet -www -nocert -accept 127.0.0.1:{port}");
    let mut within = Scheduler::task("within", &offer, &listen(given));
    let ports = json!({ "name": "ports", "type": "RANGES",
        "ranges": { "range": [{ "begin": given, "end": given }] } });
    within["resources"].as_array_mut().unwrap().push(ports);
    let over = Scheduler::task("over", &offer, &listen(other));
    assert_eq!(scheduler.launch(&offer, &[within, over]).status, 202);
    let status = scheduler.until("over", "TASK_FAILED");
    assert_eq!(status["reason"], "REASON_CONTAINER_LIMITATION", "{status}");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains(&other.to_string())
    );
    let resource = &status["limitation"]["resources"][0];
    assert_eq!(resource["name"], "ports");
    assert_eq!(resource["ranges"]["range"][0]["begin"], other);
    scheduler.kill("within");
    let status = scheduler.until("within", "TASK_KILLED");
    assert_eq!(status["state"], "TASK_KILLED");
}

#[test]
fn requests_are_soft_limits_and_limits_hard_ones() {
    let cluster = cluster(&[]);
    let mut scheduler = subscribe(&cluster);
    let offer = scheduler.offer();
    let mut task = Scheduler::task("limited", &offer, "exec sleep 4721");
    task["limits"] = json!({ "cpus": { "value": 0.5 }, "mem": { "value": 64 } });
    scheduler.launch(&offer, &[task]);
    scheduler.until("limited", "TASK_RUNNING");
    let pid = cluster.processes(&["sleep", "4721"])[0];
    let Some(memory) =
        cgroup(pid, "memory").filter(|path| path.join("memory.limit_in_bytes").exists())
    else {
        println!("not run: this machine has no memory cgroups of version 1");
        return;
    };
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap().trim().to_owned();
    assert_eq!(
        read(memory.join("memory.limit_in_bytes")),
        (64 << 20).to_string()
    );
    assert_eq!(
        read(memory.join("memory.soft_limit_in_bytes")),
        (32 << 20).to_string()
    );
    if let Some(cpu) = cgroup(pid, "cpu") {
        assert_eq!(read(cpu.join("cpu.cfs_quota_us")), "50000");
        assert_eq!(read(cpu.join("cpu.shares")), "102");
    }
}

#[test]
fn a_secret_reaches_the_task_and_nobody_else() {
    let cluster = cluster(&[]);
    let mut scheduler = subscribe(&cluster);
    let offer = scheduler.offer();
    // "hush-hush", as bytes travel in JSON.
    let (secret, encoded) = ("hush-hush", "aHVzaC1odXNo");
    let check = format!("test \"$WORD\" = {secret} && exec sleep 1000");
    let mut task = Scheduler::task("knows", &offer, &check.replace(secret, "hush-\"\"hush"));
    task["command"]["environment"] = json!({ "variables": [{
        "name": "WORD", "type": "SECRET",
        "secret": { "type": "VALUE", "value": { "data": encoded } },
    }]});
    assert_eq!(scheduler.launch(&offer, &[task]).status, 202);
    scheduler.until("knows", "TASK_RUNNING");
    let headers = [("Content-Type", "application/json")];
    let (master, agent) = (&cluster.master.address, &cluster.agents[0].address);
    for (server, method, path, body) in [
        (master, "GET", "/state", ""),
        (master, "GET", "/frameworks", ""),
        (master, "POST", "/api/v1", "{\"type\":\"GET_STATE\"}"),
        (agent, "GET", "/state", ""),
        (agent, "POST", "/api/v1", "{\"type\":\"GET_STATE\"}"),
        (agent, "POST", "/api/v1", "{\"type\":\"GET_EXECUTORS\"}"),
    ] {
        let answer = request(server, method, path, &headers, body.as_bytes()).unwrap();
        assert_eq!(answer.status, 200, "{path}");
        let text = answer.text();
        assert!(text.contains("knows"), "{path} of {server} has no task");
        assert!(!text.contains(secret) && !text.contains(encoded), "{path}");
    }
    scheduler.kill("knows");
    scheduler.until("knows", "TASK_KILLED");
}

#[test]
fn tasks_and_executors_run_as_their_user_with_a_sandbox_of_their_own() {
    if !nix::unistd::geteuid().is_root() {
        println!("not run: it needs root");
        return;
    }
    let cluster = cluster(&[]);
    // Others must get as far as their sandboxes.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(cluster.folder.path(), open).unwrap();
    let info = json!({ "user": "nobody", "failover_timeout": 60 });
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, info);
    let offer = scheduler.offer();
    let file = cluster.folder.path().join("fetched");
    std::fs::write(&file, "fetched").unwrap();
    let mine = "test \"$(id -un)\" = nobody && echo more >> fetched && touch new";
    let mut of_framework = Scheduler::task("of framework", &offer, mine);
    of_framework["command"]["uris"] = json!([{ "value": file }]);
    let mut of_command = Scheduler::task("of command", &offer, "test \"$(id -un)\" = root");
    of_command["command"]["user"] = json!("root");
    let mut unknown = Scheduler::task("unknown", &offer, "true");
    unknown["command"]["user"] = json!("nobody-of-that-name");
    let executor = scheduler.custom_executor("own", &format!("{mine}; exec sleep 4722"));
    let mut executor = executor;
    executor["command"]["uris"] = json!([{ "value": file }]);
    let of_executor = Scheduler::executor_task("of executor", &offer, &executor);
    let tasks = [of_framework, of_command, unknown, of_executor];
    assert_eq!(scheduler.launch(&offer, &tasks).status, 202);
    let mut ended = Vec::new();
    while ended.len() < 3 {
        let status = scheduler.status();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let state = text(&status["state"]);
        if ["TASK_FINISHED", "TASK_FAILED"].contains(&state.as_str()) {
            ended.push((
                text(&status["task_id"]["value"]),
                state,
                text(&status["message"]),
            ));
        }
    }
    ended.sort();
    let states: Vec<_> = ended
        .iter()
        .map(|(id, state, _)| (id.as_str(), state.as_str()))
        .collect();
    let expected = [
        ("of command", "TASK_FINISHED"),
        ("of framework", "TASK_FINISHED"),
        ("unknown", "TASK_FAILED"),
    ];
    assert_eq!(states, expected, "{ended:?}");
    assert!(
        ended[2].2.contains("'nobody-of-that-name' does not exist"),
        "{ended:?}"
    );
    let pid = wait_until("the executor", || {
        cluster.processes(&["sleep", "4722"]).first().copied()
    });
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let user = status
        .lines()
        .find(|line| line.starts_with("Uid:"))
        .unwrap();
    assert!(!user.contains("\t0"), "{user}");
}

/// What root opens for a task, and gives it, is no file of the host's that the task put in its place.
#[test]
fn a_tasks_output_leads_nowhere_else() {
    use std::os::unix::fs::MetadataExt;
    if !nix::unistd::geteuid().is_root() {
        println!("not root: tasks have no users of their own to be given anything");
        return;
    }
    let cluster = cluster(&[]);
    // Others must get as far as their sandboxes.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(cluster.folder.path(), open).unwrap();
    let mut scheduler = subscribe(&cluster);
    let secret = cluster.folder.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let untouched = || {
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "secret");
        assert_eq!(secret.metadata().unwrap().uid(), 0);
    };
    // As a volume.
    let offer = scheduler.offer();
    let mut task = Scheduler::task("volume", &offer, "echo mine");
    task["command"]["user"] = json!("nobody");
    task["container"] = json!({ "type": "MESOS", "volumes": [{
        "mode": "RW", "container_path": "stdout", "host_path": secret.display().to_string() }] });
    assert_eq!(scheduler.launch(&offer, &[task]).status, 202);
    let status = scheduler.until("volume", "TASK_FAILED");
    assert_eq!(
        status["reason"], "REASON_CONTAINER_LAUNCH_FAILED",
        "{status}"
    );
    untouched();
    // As a link, before a check's command gets its output.
    let offer = scheduler.offer();
    let line = format!(
        "rm stdout; ln -s {} stdout; exec sleep 1000",
        secret.display()
    );
    let mut task = Scheduler::task("link", &offer, &line);
    task["command"]["user"] = json!("nobody");
    task["health_check"] = json!({ "type": "COMMAND", "command": { "value": "echo mine" },
        "delay_seconds": 0, "interval_seconds": 0.1, "grace_period_seconds": 0, "consecutive_failures": 100 });
    assert_eq!(scheduler.launch(&offer, &[task]).status, 202);
    loop {
        let status = scheduler.status();
        // The first check may have come before the link.
        if status["healthy"] == json!(false) {
            break;
        }
    }
    untouched();
    scheduler.kill("link");
    scheduler.until("link", "TASK_KILLED");
}

#[test]
fn a_native_task_has_the_resource_limits_of_its_container() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let offer = scheduler.offer();
    let limits = |soft: u64, hard: u64| {
        json!({ "type": "MESOS", "rlimit_info": { "rlimits": [
            { "type": "RLMT_NOFILE", "soft": soft, "hard": hard },
            { "type": "RLMT_CORE", "soft": 0, "hard": 0 },
        ] } })
    };
    let shows = "test \"$(ulimit -Sn) $(ulimit -Hn) $(ulimit -c)\" = '57 61 0'";
    let mut limited = Scheduler::task("limited", &offer, shows);
    limited["container"] = limits(57, 61);
    let mut nonsense = Scheduler::task("nonsense", &offer, "true");
    nonsense["container"] = limits(61, 57);
    scheduler.launch(&offer, &[limited, nonsense]);
    let mut ended = std::collections::BTreeMap::new();
    while ended.len() < 2 {
        let status = scheduler.status();
        let state = status["state"].as_str().unwrap().to_owned();
        if state == "TASK_FINISHED" || state == "TASK_FAILED" {
            let id = status["task_id"]["value"].as_str().unwrap().to_owned();
            ended.insert(id, (state, status["message"].to_string()));
        }
    }
    assert_eq!(ended["limited"].0, "TASK_FINISHED", "{ended:?}");
    assert_eq!(ended["nonsense"].0, "TASK_FAILED", "{ended:?}");
    assert!(
        ended["nonsense"].1.contains("above its hard one"),
        "{ended:?}"
    );
}
