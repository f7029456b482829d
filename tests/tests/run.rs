//! `tepui run` and its neighbours, as a person uses them.

use tepui_tests::{Cluster, guest, wait_until};

#[test]
fn a_module_runs_and_its_output_and_exit_code_come_back() {
    let cluster = Cluster::start(1);
    let hello = guest("hello");
    let ended = cluster.tepui(&["run", "--env", "GREETING=hi", &hello, "--", "a", "b c"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(
        ended.stdout.starts_with("hello from wasm a b c\n"),
        "{ended:?}"
    );
    assert!(ended.stdout.contains("GREETING=hi\n"), "{ended:?}");
    assert!(ended.stdout.contains("in role *\n"), "{ended:?}");

    let ended = cluster.tepui(&["run", &hello, "--", "--exit", "7"]);
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (7, "exiting with 7 as asked\n")
    );
    let ended = cluster.tepui(&["run", &hello, "--", "--exit", "200"]);
    assert_eq!(ended.code, 200);

    let tasks = cluster.json(&["ps", "--all", "--json"]);
    let states: Vec<&str> = tasks
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|task| task["state"].as_str())
        .collect();
    assert_eq!(
        states
            .iter()
            .filter(|state| **state == "TASK_FAILED")
            .count(),
        2,
        "{tasks}"
    );
    assert_eq!(
        states
            .iter()
            .filter(|state| **state == "TASK_FINISHED")
            .count(),
        1,
        "{tasks}"
    );
}

#[test]
fn each_limit_ends_the_task_with_its_own_code_and_sentence() {
    let cluster = Cluster::start(1);
    let (hungry, spin) = (guest("hungry"), guest("spin"));
    let ended = cluster.tepui(&["run", "--mem", "64MB", &hungry]);
    assert_eq!(ended.code, 201, "{ended:?}");
    assert!(ended.stderr.contains("memory limit 64 MiB"), "{ended:?}");
    assert!(
        ended.stderr.contains("REASON_CONTAINER_LIMITATION_MEMORY"),
        "{ended:?}"
    );
    assert!(
        ended.stdout.contains("holding 16 MiB"),
        "what it wrote before is not lost: {ended:?}"
    );

    let ended = cluster.tepui(&["run", "--fuel", "100000000", &spin]);
    assert_eq!(ended.code, 202, "{ended:?}");
    assert!(ended.stderr.contains("fuel limit 100000000"), "{ended:?}");

    let ended = cluster.tepui(&["run", "--time", "1s", &spin]);
    assert_eq!(ended.code, 203, "{ended:?}");
    assert!(ended.stderr.contains("time limit"), "{ended:?}");
    assert!(
        ended.stderr.contains("REASON_MAX_COMPLETION_TIME_REACHED"),
        "{ended:?}"
    );
}

#[test]
fn native_commands_run_beside_wasm() {
    let cluster = Cluster::start(1);
    let ended = cluster.tepui(&["run", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!(
        (ended.code, ended.stdout.as_str(), ended.stderr.as_str()),
        (3, "out\n", "err\n")
    );
    let ended = cluster.tepui(&["run", "--", "no-such-command-anywhere"]);
    assert_eq!(ended.code, 205, "{ended:?}");
    assert!(
        ended.stderr.contains("no-such-command-anywhere"),
        "{ended:?}"
    );
    let ended = cluster.tepui(&["run", "--", "sh", "-c", "env | grep -c TEPUI_; true"]);
    assert_eq!(
        ended.stdout, "0\n",
        "nothing of the agent's environment leaks: {ended:?}"
    );
}

#[test]
fn what_cannot_run_says_why() {
    let cluster = Cluster::start(1);
    let folder = cluster.folder.path();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let broken = write("broken.wasm", b"\0asm\x01\0\0\0this is not a module");
    let ended = cluster.tepui(&["run", &broken]);
    assert_eq!(ended.code, 205, "{ended:?}");
    assert!(
        ended.stderr.contains("the module is not valid"),
        "{ended:?}"
    );

    let missing = write(
        "missing.wat",
        br#"(module (import "env" "foo" (func)) (func (export "_start") call 0))"#,
    );
    let ended = cluster.tepui(&["run", &missing]);
    assert_eq!(ended.code, 205, "{ended:?}");
    assert!(ended.stderr.contains("env::foo"), "{ended:?}");

    let trap = write(
        "trap.wat",
        br#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#,
    );
    let ended = cluster.tepui(&["run", &trap]);
    assert_eq!(ended.code, 204, "{ended:?}");
    assert!(ended.stderr.contains("unreachable"), "{ended:?}");

    let url = format!(
        "http://{}/artifacts/{}",
        cluster.master.address,
        "0".repeat(64)
    );
    let ended = cluster.tepui(&["run", &url]);
    assert_eq!(ended.code, 205, "{ended:?}");
    assert!(
        ended.stderr.contains(&url) && ended.stderr.contains("404"),
        "{ended:?}"
    );

    let put = cluster.json(&["artifact", "put", "--json", &guest("hello")]);
    let url = format!("{}#sha256={}", put["url"].as_str().unwrap(), "1".repeat(64));
    let ended = cluster.tepui(&["run", &url]);
    assert_eq!(ended.code, 205, "{ended:?}");
    assert!(ended.stderr.contains(&"1".repeat(64)), "{ended:?}");
    assert!(
        ended.stderr.contains(put["sha256"].as_str().unwrap()),
        "{ended:?}"
    );
}

#[test]
fn bad_flags_are_refused_with_a_sentence() {
    let cluster = Cluster::master_alone(&[]);
    for (words, said) in [
        (vec!["run"], "nothing to run"),
        (vec!["run", "--mem", "lots", "x.wasm"], "--mem"),
        (vec!["run", "--cpus", "-1", "x.wasm"], "--cpus"),
        (vec!["run", "--time", "soon", "x.wasm"], "--time"),
        (vec!["run", "--fuel", "0", "x.wasm"], "--fuel"),
        (vec!["run", "--env", "novalue", "x.wasm"], "NAME=VALUE"),
        (vec!["run", "/no/such/file.wasm"], "/no/such/file.wasm"),
        (vec!["run", "--fuel", "5", "--", "ls"], "--time"),
        (vec!["logs", "no-such-task"], "no-such-task"),
        (vec!["agents", "--master", "not a url"], "HOST:PORT"),
        (vec!["ps", "--master", "127.0.0.1:1"], "tepui dev"),
        (
            vec![
                "agent",
                "--resources",
                "cpus:many",
                "--port",
                "0",
                "--work-dir",
                "/tmp/tepui-never-made",
            ],
            "cpus",
        ),
        (
            vec![
                "master",
                "--ip",
                "0.0.0.0",
                "--port",
                "0",
                "--work-dir",
                "/tmp/tepui-never-made",
            ],
            "--insecure",
        ),
    ] {
        let ended = cluster.tepui(&words);
        assert_ne!(ended.code, 0, "{words:?} {ended:?}");
        assert!(
            ended.stderr.contains(said),
            "{words:?} should mention {said:?}: {ended:?}"
        );
    }
    assert!(
        !std::path::Path::new("/tmp/tepui-never-made").exists(),
        "a refused start leaves nothing behind"
    );
}

#[test]
fn logs_follow_a_task_until_it_ends() {
    let cluster = Cluster::start(1);
    let hello = guest("hello");
    let run = cluster.spawn(&["run", &hello, "--", "--sleep", "1500"]);
    let task = cluster.running_task();
    let followed = cluster.tepui(&["logs", "-f", task["id"].as_str().unwrap()]);
    assert_eq!(followed.code, 0, "{followed:?}");
    assert!(followed.stdout.contains("slept 1500 ms"), "{followed:?}");
    assert_eq!(run.wait().code, 0);
    let afterwards = cluster.tepui(&["logs", task["id"].as_str().unwrap()]);
    assert_eq!(afterwards.stdout, followed.stdout);
}

#[test]
fn logs_go_on_after_the_master_and_wait_for_a_file_that_comes_later() {
    let mut cluster = Cluster::start(1);
    let go = cluster.folder.path().join("go");
    let script = format!(
        "echo one; until [ -e {} ]; do sleep 0.05; done; echo two; echo three > late",
        go.display()
    );
    let run = cluster.spawn(&["run", "/bin/sh", "--", "-c", &script]);
    let task = cluster.running_task();
    let id = task["id"].as_str().unwrap();
    let followed = ["stdout", "late", "never"]
        .map(|file| cluster.spawn(&["logs", "--follow", "--file", file, id]));
    wait_until("the first line", || {
        (cluster.tepui(&["logs", id]).stdout == "one\n").then_some(())
    });
    // All three are being answered by now: an answer begins after a second at the latest.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    cluster.master.start_again();
    wait_until("the task's agent", || {
        (cluster.tepui(&["logs", id]).code == 0).then_some(())
    });
    std::fs::write(go, "").unwrap();
    let [stdout, late, never] = followed.map(|followed| followed.wait());
    assert_eq!((stdout.code, stdout.stdout.as_str()), (0, "one\ntwo\n"));
    assert_eq!((late.code, late.stdout.as_str()), (0, "three\n"));
    assert_ne!(never.code, 0);
    assert!(never.stderr.contains("there is no 'never'"), "{never:?}");
    assert_eq!(run.wait().code, 0);
}

#[test]
fn an_interrupted_run_kills_its_task() {
    let cluster = Cluster::start(1);
    let run = cluster.spawn(&["run", &guest("spin")]);
    cluster.running_task();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(run.pid()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(run.wait().code, 207);
    wait_until("the task to be gone", || {
        cluster
            .json(&["ps", "--json"])
            .as_array()
            .is_some_and(Vec::is_empty)
            .then_some(())
    });
}
