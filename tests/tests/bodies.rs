//! A task with two bodies: it runs as wasm where it can, natively where the wasm body cannot, and says which and why.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};
use tepui_tests::{Cluster, Scheduler, guest};

const SAYS: &str = "#!/bin/sh\necho \"native $GREETING $*\"\n";
const MYSTERY: &str =
    r#"(module (import "env" "mystery" (func)) (func (export "_start") (call 0)))"#;

fn file(cluster: &Cluster, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = cluster.folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// A task whose artifact is that file, and whose native body that program with an argument and a variable.
fn task(id: &str, offer: &Value, artifact: &str, program: &str) -> Value {
    let name = Path::new(program).file_name().unwrap().to_string_lossy();
    let word = format!("./{name}");
    let mut task = Scheduler::task(id, offer, "");
    task.as_object_mut().unwrap().remove("command");
    task["container"] = json!({ "type": "WASM", "wasm": {
        "artifact": { "value": artifact },
        "fallback": {
            "shell": false, "value": word, "arguments": [word, "one two"],
            "uris": [{ "value": program, "executable": true }],
            "environment": { "variables": [{ "name": "GREETING", "value": "hi" }] },
        },
    }});
    task
}

/// Runs it to its end: what TASK_RUNNING said, if it came, and the last status.
fn run(scheduler: &mut Scheduler, change: impl FnOnce(&Value) -> Value) -> (String, Value) {
    scheduler.call(json!({ "type": "REVIVE" }));
    let offer = scheduler.offer();
    let task = change(&offer);
    assert_eq!(
        scheduler.launch(&offer, std::slice::from_ref(&task)).status,
        202
    );
    let mut told = String::new();
    loop {
        let status = scheduler.status();
        if status["task_id"] != task["task_id"] {
            continue;
        }
        match status["state"].as_str().unwrap() {
            "TASK_STARTING" | "TASK_STAGING" => {}
            "TASK_RUNNING" => told = status["message"].as_str().unwrap_or_default().to_owned(),
            _ => return (told, status),
        }
    }
}

fn stdout(cluster: &Cluster, scheduler: &Scheduler, task: &str) -> String {
    let framework = &scheduler.framework_id;
    let ended = cluster.tepui(&["logs", "--framework", framework, task]);
    assert_eq!(ended.code, 0, "{ended:?}");
    ended.stdout
}

#[test]
fn wasm_runs_where_it_can_and_the_native_body_where_it_cannot() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let native = file(&cluster, "native.sh", SAYS);

    let (told, last) = run(&mut scheduler, |offer| {
        task("able", offer, &guest("hello"), &native)
    });
    assert_eq!(told, "runs its wasm body: 'hello.wasm' is a wasm module");
    assert_eq!(last["state"], "TASK_FINISHED", "{last}");
    assert_eq!(last["usage"]["body"], "WASM");

    for (id, text, why) in [
        ("import.wat", MYSTERY, "the module imports env::mystery"),
        (
            "newer.wat",
            r#"(component (instance $i) (export "wasi:cli/run@0.3.0" (instance $i)))"#,
            "the component is built for WASI 0.3",
        ),
        (
            "broken.wat",
            "(module (func (export",
            "the module is not valid",
        ),
        ("text", "no module at all", "is no wasm module"),
    ] {
        let artifact = file(&cluster, id, text);
        let (told, last) = run(&mut scheduler, |offer| task(id, offer, &artifact, &native));
        assert!(
            told.starts_with("runs its native body: the wasm body cannot run: "),
            "{id}: {told}"
        );
        assert!(told.contains(why), "{id}: {told}");
        assert_eq!(last["state"], "TASK_FINISHED", "{id}: {last}");
        assert_eq!(last["usage"]["body"], "NATIVE", "{id}");
        let said = stdout(&cluster, &scheduler, id);
        assert_eq!(said, "native hi one two\n", "{id}");
    }
}

#[test]
fn what_is_no_fault_of_the_module_runs_neither_body() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let native = file(&cluster, "native.sh", SAYS);
    let missing = cluster.folder.path().join("missing.wasm");
    let missing = missing.display().to_string();
    let hello = guest("hello");
    let mystery = file(&cluster, "mystery.wat", MYSTERY);
    let foreign = file(&cluster, "foreign", {
        // s390x, big-endian.
        let mut head = b"\x7fELF\x02\x02\x01".to_vec();
        head.resize(18, 0);
        [head, vec![0, 22]].concat()
    });
    for (id, artifact, program, hosts, why) in [
        ("missing", &missing, &native, json!([]), "missing.wasm"),
        (
            "forbidden",
            &hello,
            &native,
            json!(["example.com"]),
            "example.com",
        ),
        (
            "foreign",
            &mystery,
            &foreign,
            json!([]),
            "nor can the native body: './foreign' is built for s390x",
        ),
    ] {
        let (told, last) = run(&mut scheduler, |offer| {
            let mut task = task(id, offer, artifact, program);
            task["container"]["wasm"]["allowed_hosts"] = hosts;
            task
        });
        assert_eq!(told, "", "{id} ran");
        assert_eq!(last["state"], "TASK_FAILED", "{id}: {last}");
        assert_eq!(last["reason"], "REASON_CONTAINER_LAUNCH_FAILED", "{id}");
        let message = last["message"].as_str().unwrap();
        assert!(message.contains(why), "{id}: {message}");
    }
}

#[test]
fn the_native_body_has_its_own_words_and_the_tasks_limits() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let mystery = file(&cluster, "mystery.wat", MYSTERY);
    let native = file(&cluster, "native.sh", SAYS);
    // The task's own command names the module.
    let (told, last) = run(&mut scheduler, |offer| {
        let mut task = task("words", offer, &mystery, &native);
        let uri = task["container"]["wasm"]["artifact"].take();
        task["container"]["wasm"]
            .as_object_mut()
            .unwrap()
            .remove("artifact");
        task["command"] = json!({ "shell": false, "value": "mystery.wat", "uris": [uri] });
        task
    });
    assert!(told.starts_with("runs its native body"), "{told}");
    assert_eq!(last["state"], "TASK_FINISHED", "{last}");
    assert_eq!(stdout(&cluster, &scheduler, "words"), "native hi one two\n");

    let slow = file(&cluster, "slow.sh", "#!/bin/sh\nexec sleep 1000\n");
    let (told, last) = run(&mut scheduler, |offer| {
        let mut task = task("late", offer, &mystery, &slow);
        task["max_completion_time"] = json!({ "nanoseconds": 1_000_000_000 });
        task["limits"] = json!({ "fuel": { "value": 1000 } });
        task
    });
    assert!(told.contains("no fuel is counted"), "{told}");
    assert_eq!(last["state"], "TASK_FAILED", "{last}");
    assert_eq!(last["reason"], "REASON_MAX_COMPLETION_TIME_REACHED");
}

#[test]
fn tepui_run_takes_a_fallback() {
    let cluster = Cluster::start(1);
    let mystery = file(&cluster, "mystery.wat", MYSTERY);
    let native = file(&cluster, "native.sh", SAYS);
    let words = ["--env", "GREETING=yes", "--fallback", &native, &mystery];
    let ended = cluster.tepui(&[&["run"], &words[..], &["--", "a b"]].concat());
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(ended.stdout, "native yes a b\n");
    assert!(
        ended
            .stderr
            .contains("runs its native body: the wasm body cannot run: "),
        "{ended:?}"
    );
    let ended = cluster.tepui(&["run", "--fallback", &native, &guest("hello"), "--", "x"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.starts_with("hello from wasm x\n"), "{ended:?}");
    assert_eq!(ended.stderr, "");
    let ended = cluster.tepui(&["run", "--fallback", &native, "--", "true"]);
    assert!(
        ended.stderr.contains("--fallback is for a module"),
        "{ended:?}"
    );
}
