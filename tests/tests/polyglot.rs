//! One program in eight languages: each as a task, and all of them with the same outcome.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tepui_tests::{Cluster, Ended, FileServer, Reply, Scheduler, polyglot, request};

/// Those that are modules: their exit codes arrive whole, and they have no way to others.
const MODULES: &[&str] = &["rust", "c", "cpp", "go", "zig", "assemblyscript"];
/// Those that are components, with what an exit code of 2 is when it arrives.
const COMPONENTS: &[(&str, i32)] = &[("rust-component", 1), ("python", 2), ("javascript", 1)];
const SERVICES: &[&str] = &["rust-service", "python-service", "javascript-service"];

/// What the guest SDK is for, with the language each writes into its log.
const TOURS: &[(&str, &str)] = &[("c-tour", "c"), ("python-tour", "python")];

const POEM: &str = "The tepui stands. The rain\nfalls on the tepui, and\nthe tepui stands again\n";
const REST: &[u8] = b"no end of line, th\xc3\xa9 rain AND \x00\xffagain";

/// A cluster whose agent has the data set `texts`.
fn cluster(memory: u32) -> Cluster {
    let mut cluster = Cluster::master_alone(&[]);
    let texts = cluster.folder.path().join("texts");
    std::fs::create_dir_all(texts.join("deeper")).unwrap();
    std::fs::write(texts.join("poem.txt"), POEM).unwrap();
    std::fs::write(texts.join("rest"), REST).unwrap();
    std::fs::write(texts.join("deeper/unread"), "these are not read").unwrap();
    let texts = format!("texts={}", texts.display());
    let resources = format!("cpus:4;mem:{memory};disk:1024;ports:[{}]", free_ports());
    let flags = ["--resources", &resources, "--dataset", &texts];
    cluster.add_agent(&[&flags[..], &["--allow_hosts=127.0.0.0/8"]].concat());
    cluster.wait_for_agents(1);
    cluster
}

/// One port for each service, which nobody had a moment ago.
fn free_ports() -> String {
    let held: Vec<_> = SERVICES
        .iter()
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let ports = held.iter().map(|held| held.local_addr().unwrap().port());
    let ranges: Vec<_> = ports.map(|port| format!("{port}-{port}")).collect();
    ranges.join(",")
}

/// What must be reported of some files, counted here in yet another way.
fn expected(files: &[&[u8]], top: usize, limit: u64) -> String {
    let mut words = BTreeMap::<String, u64>::new();
    for content in files {
        let text: String = content.iter().map(|byte| char::from(*byte)).collect();
        for word in text.split(|letter: char| !letter.is_ascii_alphabetic()) {
            if !word.is_empty() {
                *words.entry(word.to_ascii_lowercase()).or_default() += 1;
            }
        }
    }
    let bytes: usize = files.iter().map(|content| content.len()).sum();
    let ends = |content: &&[u8]| content.iter().filter(|byte| **byte == b'\n').count();
    let lines: usize = files.iter().map(ends).sum();
    let mut text = format!("files {}\nbytes {bytes}\nlines {lines}\n", files.len());
    let total: u64 = words.values().sum();
    text.push_str(&format!("words {total}\ndistinct {}\n", words.len()));
    let mut frequent: Vec<_> = words.into_iter().collect();
    // A sort that keeps the order of the alphabet among equals.
    frequent.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (word, count) in frequent.iter().take(top) {
        text.push_str(&format!("top {word} {count}\n"));
    }
    let is_prime = |number: &u64| {
        (2..)
            .take_while(|d| d * d <= *number)
            .all(|d| !number.is_multiple_of(d))
    };
    let primes: Vec<u64> = (2..limit).filter(is_prime).collect();
    let squares: u64 = primes.iter().map(|prime| prime * prime).sum();
    text.push_str(&format!("primes {}\nsquares {squares}\n", primes.len()));
    text
}

fn run(cluster: &Cluster, name: &str, flags: &[&str], words: &[&str]) -> Ended {
    let guest = polyglot(name);
    let always = ["run", "--mem", "256MB", "--dataset", "texts=/texts"];
    cluster.tepui(&[&always[..], flags, &[&guest, "--"], words].concat())
}

/// One cluster for all of it, so that each module is compiled once.
#[test]
fn polyglot_jobs_report_the_same_and_fail_alike() {
    let cluster = cluster(2048);
    jobs_report_the_same_and_tell_what_went_wrong(&cluster);
    components_fetch_data_and_modules_cannot(&cluster);
    python_without_memory_is_told_so(&cluster);
}

fn jobs_report_the_same_and_tell_what_went_wrong(cluster: &Cluster) {
    let known = expected(&[POEM.as_bytes(), REST], 5, 300_000);
    assert!(known.contains("words 22\n"), "{known}");
    assert!(known.contains("top the 4\ntop tepui 3\n"), "{known}");
    // The squares are beyond 2^53, up to which a double is exact.
    let few = expected(&[POEM.as_bytes()], 2, 1_000_000);
    assert!(
        few.ends_with("primes 78498\nsquares 24693298341834533\n"),
        "{few}"
    );
    let all = MODULES
        .iter()
        .map(|name| (*name, 2))
        .chain(COMPONENTS.iter().copied());
    for (name, misused) in all {
        let ended = run(cluster, name, &[], &["/texts", "300000"]);
        assert_eq!(
            (ended.code, ended.stdout),
            (0, known.clone()),
            "{name}: {}",
            ended.stderr
        );

        let flags = [
            "--name",
            name,
            "--env",
            "CENSUS_TOP=2",
            "--env",
            "CENSUS_OUT=/few.txt",
        ];
        let ended = run(cluster, name, &flags, &["/texts/poem.txt", "1000000"]);
        assert_eq!(
            (ended.code, ended.stdout),
            (0, few.clone()),
            "{name}: {}",
            ended.stderr
        );
        let tasks = cluster.json(&["ps", "--all", "--json"]);
        let mut tasks = tasks.as_array().unwrap().iter();
        let is_this = |task: &&Value| task["name"] == name && task["state"] == "TASK_FINISHED";
        let task = tasks.rfind(is_this).unwrap()["id"]
            .as_str()
            .unwrap()
            .to_owned();
        let left = cluster.tepui(&["logs", &task, "--file", "few.txt"]);
        assert_eq!(
            (left.code, left.stdout),
            (0, few.clone()),
            "{name}: {}",
            left.stderr
        );

        let ended = run(cluster, name, &[], &["/texts", "1"]);
        assert_eq!(ended.code, misused, "{name}: {ended:?}");
        assert!(
            ended.stderr.starts_with("usage: census DATA LIMIT"),
            "{name}: {ended:?}"
        );
        let ended = run(cluster, name, &[], &["/nowhere", "10"]);
        assert_eq!(ended.code, 1, "{name}: {ended:?}");
        assert!(ended.stderr.starts_with("census: "), "{name}: {ended:?}");
        assert!(ended.stderr.contains("/nowhere"), "{name}: {ended:?}");
    }
}

fn components_fetch_data_and_modules_cannot(cluster: &Cluster) {
    let server = FileServer::start();
    let url = server.serve("/poem", Reply::body(POEM));
    let gone = server.url("/gone");
    let known = expected(&[POEM.as_bytes()], 5, 100);
    for (name, _) in COMPONENTS {
        let ended = run(cluster, name, &["--allow-net", "127.0.0.1"], &[&url, "100"]);
        assert_eq!(
            (ended.code, ended.stdout),
            (0, known.clone()),
            "{name}: {}",
            ended.stderr
        );
        let ended = run(
            cluster,
            name,
            &["--allow-net", "127.0.0.1"],
            &[&gone, "100"],
        );
        assert_eq!(ended.code, 1, "{name}: {ended:?}");
        assert!(
            ended.stderr.contains("the server answered 404"),
            "{name}: {ended:?}"
        );
        // Not without being allowed to.
        let ended = run(cluster, name, &[], &[&url, "100"]);
        assert_eq!(ended.code, 1, "{name}: {ended:?}");
    }
    assert_eq!(server.count("/poem"), COMPONENTS.len());
    let ended = run(cluster, "c", &["--allow-net", "127.0.0.1"], &[&url, "100"]);
    assert_eq!(ended.code, 1, "{ended:?}");
}

fn python_without_memory_is_told_so(cluster: &Cluster) {
    // Less than the interpreter begins with, and less than its work needs.
    for (memory, held) in [("8MB", "held 0 B"), ("24MB", "held 2")] {
        let guest = polyglot("python");
        let words = ["run", "--mem", memory, "--dataset", "texts=/texts", &guest];
        let ended = cluster.tepui(&[&words[..], &["--", "/texts", "5000000"]].concat());
        assert_eq!(ended.code, 201, "{ended:?}");
        let limit = format!("memory limit {} reached", memory.replace("MB", " MiB"));
        assert!(ended.stderr.contains(&limit), "{ended:?}");
        assert!(ended.stderr.contains(held), "{ended:?}");
    }
    // Where the guest is let go on, Python raises MemoryError and fails in its own way; the status names memory all the same.
    let info = json!({ "user": "root", "name": "refuses" });
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, info);
    let offer = scheduler.offer();
    let mut task = Scheduler::task("python", &offer, "");
    task["command"] =
        json!({ "shell": false, "value": "python", "arguments": ["python", "/", "5000000"] });
    task["container"] = json!({ "type": "WASM", "wasm": {
        "artifact": { "value": polyglot("python") }, "memory_policy": "REFUSE",
    }});
    task["resources"][1]["scalar"]["value"] = json!(24.0);
    assert_eq!(scheduler.launch(&offer, &[task]).status, 202);
    let status = scheduler.ended("python");
    assert_eq!(status["state"], "TASK_FAILED", "{status}");
    assert_eq!(
        status["reason"], "REASON_CONTAINER_LIMITATION_MEMORY",
        "{status}"
    );
    let message = status["message"].as_str().unwrap();
    assert!(
        message.starts_with("memory limit 24 MiB reached growing by "),
        "{status}"
    );
    assert!(message.contains("; then: "), "{status}");
    let stderr = cluster.tepui(&["logs", "python", "--stderr"]).stdout;
    assert!(stderr.contains("MemoryError"), "{stderr}");
}

/// Who it is, the store, the log, progress, health and messages: by the imports of a module and by those of a component.
#[test]
fn polyglot_tours_ask_their_cluster() {
    let cluster = cluster(2048);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    for (name, language) in TOURS {
        for visit in ["1", "2"] {
            tour(&cluster, &mut scheduler, name, language, visit);
        }
        let key = format!("visits/{language}");
        let kept = cluster.tepui(&["store", "get", "*", "tour", &key]);
        assert_eq!((kept.code, kept.stdout.trim_end()), (0, "2"), "{kept:?}");
    }
}

/// One task of the job `tour`, which comes that often.
fn tour(cluster: &Cluster, scheduler: &mut Scheduler, name: &str, language: &str, visit: &str) {
    let id = format!("{name}-{visit}");
    let offer = scheduler.offer();
    let mut task = Scheduler::task(&id, &offer, "");
    task["command"] = json!({ "shell": false, "value": name, "arguments": [name] });
    task["container"] =
        json!({ "type": "WASM", "wasm": { "artifact": { "value": polyglot(name) } } });
    task["resources"][1]["scalar"]["value"] = json!(128.0);
    task["labels"] = json!({ "labels": [
        { "key": "tepui.job", "value": "tour" }, { "key": "tepui.attempt", "value": visit },
    ]});
    assert_eq!(scheduler.launch(&offer, &[task]).status, 202);
    for (heard, answer) in [
        ("ready", Some("one")),
        ("echo one", Some("bye")),
        ("echo bye", None),
    ] {
        let event = message(scheduler, &id);
        let data = BASE64_STANDARD
            .decode(event["data"].as_str().unwrap())
            .unwrap();
        let data: Value = serde_json::from_slice(&data).unwrap();
        assert_eq!(data, json!({ "task_id": id, "text": heard }));
        if let Some(text) = answer {
            let data = json!({ "task_id": id, "text": text }).to_string();
            let call = json!({ "type": "MESSAGE", "message": {
                "agent_id": event["agent_id"], "executor_id": event["executor_id"],
                "data": BASE64_STANDARD.encode(data),
            }});
            assert_eq!(scheduler.call(call).status, 202);
        }
    }
    let status = scheduler.ended(&id);
    assert_eq!(status["state"], "TASK_FINISHED", "{status}");
    assert_eq!(status["healthy"], true, "{status}");
    assert_eq!(
        status["usage"]["progress"],
        json!({ "fraction": 1.0, "message": "done" })
    );
    let file = |file: &str| {
        let words = ["logs", &id, "--file", file];
        cluster.tepui(&words).stdout
    };
    assert_eq!(
        file("stdout"),
        format!(
            "task {id}, attempt {visit}\nlabel tepui.job = tour\nlabel tepui.attempt = {visit}\nvisit {visit}\n"
        )
    );
    let line: Value = serde_json::from_str(&file("log.jsonl")).unwrap();
    assert_eq!(line["message"], "the tour begins");
    assert_eq!(line["fields"], json!({ "language": language }));
}

/// The next message; the first one comes when the module is compiled, which takes a while.
fn message(scheduler: &mut Scheduler, id: &str) -> Value {
    let event = scheduler.next("MESSAGE", Duration::from_secs(300));
    event.unwrap_or_else(|| panic!("{id} says nothing"))["message"].clone()
}

/// A service under `tepui run`, ended when the test ends.
struct Service {
    run: Child,
    address: String,
}

impl Service {
    fn start(cluster: &Cluster, name: &str) -> Self {
        let guest = polyglot(name);
        let words = ["run", "--mem", "256MB", "--dataset", "texts=/data", &guest];
        let mut run = cluster
            .command(&words)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        // It takes as long as compiling takes, and ends if it cannot start.
        let address = BufReader::new(run.stderr.take().unwrap())
            .lines()
            .find_map(|line| {
                let line = line.unwrap();
                said.push_str(&line);
                let (_, rest) = line.split_once("serves http://")?;
                Some(rest.trim_end_matches('/').to_owned())
            });
        let address = address.unwrap_or_else(|| panic!("{name} does not serve: {said}"));
        Self { run, address }
    }

    fn get(&self, path: &str) -> (u16, String) {
        let response = request(&self.address, "GET", path, &[], &[]).unwrap();
        (response.status, response.text())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = kill(
            Pid::from_raw(self.run.id().try_into().unwrap()),
            Signal::SIGTERM,
        );
        let _ = self.run.wait();
    }
}

#[test]
fn polyglot_services_answer_the_same() {
    let cluster = cluster(2048);
    let known = expected(&[POEM.as_bytes(), REST], 5, 1000);
    for name in SERVICES {
        let service = Service::start(&cluster, name);
        for _ in 0..3 {
            assert_eq!(
                service.get("/census?limit=1000"),
                (200, known.clone()),
                "{name}"
            );
        }
        let (status, text) = service.get("/census?limit=1");
        assert_eq!(status, 400, "{name}: {text}");
        assert_eq!(service.get("/census").0, 400, "{name}");
        assert_eq!(service.get("/other?limit=10").0, 404, "{name}");
    }
}
