//! HTTP services: components that answer requests on the port of their task.

#![allow(clippy::unwrap_used, reason = "what cannot be had here ends the test")]

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tepui_tests::{Cluster, component, request, wait_until};

/// An agent that offers one port, which nobody had a moment ago.
fn cluster() -> (Cluster, u16) {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut cluster = Cluster::master_alone(&[]);
    let resources = format!("cpus:2;mem:1024;disk:1024;ports:[{port}-{port}]");
    cluster.add_agent(&["--resources", &resources]);
    cluster.wait_for_agents(1);
    (cluster, port)
}

/// A service under `tepui run`, and where it listens.
struct Service {
    run: Child,
    said: PathBuf,
    address: String,
}

impl Service {
    fn start(cluster: &Cluster, flags: &[&str]) -> Self {
        let guest = component("http_service");
        let mut words = vec!["run"];
        words.extend(flags);
        words.push(&guest);
        let said = cluster.folder.path().join("said");
        let mut run = cluster
            .command(&words)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&said).unwrap())
            .spawn()
            .unwrap();
        let address = wait_until("the service to listen", || {
            let text = std::fs::read_to_string(&said).unwrap();
            assert!(run.try_wait().unwrap().is_none(), "{text}");
            let (_, rest) = text.split_once("serves http://")?;
            Some(rest.split_once('/')?.0.to_owned())
        });
        Self { run, said, address }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.said).unwrap()
    }

    fn terminate(&self) {
        kill(
            Pid::from_raw(self.run.id().try_into().unwrap()),
            Signal::SIGTERM,
        )
        .unwrap();
    }

    /// The exit code of the command that ran it.
    fn ended(&mut self) -> Option<i32> {
        self.run.wait().unwrap().code()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("it listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream
    }

    fn ask(&self, path: &str) -> TcpStream {
        let mut stream = self.connect();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        stream
    }

    /// The status and the body of the answer to one request.
    fn get(&self, path: &str) -> (u16, String) {
        answer(self.ask(path))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.run.kill();
        let _ = self.run.wait();
    }
}

fn answer(mut stream: TcpStream) -> (u16, String) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an answer");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = match head.to_lowercase().contains("transfer-encoding: chunked") {
        true => unchunk(body),
        false => body.to_owned(),
    };
    (
        status.unwrap_or_else(|| panic!("no answer: {text:?}")),
        body,
    )
}

/// What the agent's statistics say that its only task uses, once its requests have come to this.
fn usage_when(agent: &str, enough: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    wait_until("the requests to be counted", || {
        let statistics = request(agent, "GET", "/monitor/statistics", &[], b"").unwrap();
        last = statistics.json()[0]["statistics"]["usage"].clone();
        enough(&last["requests"]).then(|| last.clone())
    })
}

/// All bytes of an answer, until the connection ends.
fn raw(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    // However it ends.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn unchunk(mut text: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a size");
        whole.push_str(&rest[..size]);
        text = rest[size..].trim_start_matches("\r\n");
        if size == 0 {
            break;
        }
    }
    whole
}

#[test]
fn a_service_answers_each_request_in_a_new_instance_and_ends_when_killed() {
    let (cluster, _) = cluster();
    let mut service = Service::start(&cluster, &["--env", "GREETING=hi"]);
    assert_eq!(
        service.get("/"),
        (200, "hello from a component\n".to_owned())
    );
    assert_eq!(service.get("/nowhere").0, 404);
    for _ in 0..3 {
        assert_eq!(service.get("/count"), (200, "1".to_owned()));
    }
    assert_eq!(service.get("/env?GREETING").1, "hi");
    let port = service.address.rsplit(':').next().unwrap().to_owned();
    assert_eq!(service.get("/env?PORT").1, port);
    assert_eq!(service.get("/env?PORT0").1, port);
    assert_eq!(service.get("/env?MESOS_SANDBOX").1, "/", "as it sees it");

    // While it runs, the agent's statistics tell how it does.
    let agent = &cluster.agents[0].address;
    let usage = usage_when(agent, |requests| requests["answered"] == json!(9));
    assert_eq!(usage["body"], "WASM", "{usage}");
    assert_eq!(usage["requests"]["failed"], json!(0));
    assert!(usage["bytes_written"].as_u64() > Some(20), "{usage}");

    service.terminate();
    assert_eq!(service.ended(), Some(207), "{}", service.said());
    assert!(TcpStream::connect(&service.address).is_err());
    let tasks = cluster.json(&["ps", "--all", "--json"]);
    assert_eq!(tasks[0]["state"], "TASK_KILLED", "{tasks}");
}

#[test]
fn instances_are_reused_as_often_as_asked_and_no_more() {
    let (cluster, _) = cluster();
    let service = Service::start(&cluster, &["--reuse", "3"]);
    let counts: Vec<String> = (0..7).map(|_| service.get("/count").1).collect();
    assert_eq!(counts, ["1", "2", "3", "1", "2", "3", "1"]);
}

#[test]
fn a_head_that_is_too_large_is_refused_before_it_is_held() {
    let (cluster, _) = cluster();
    let service = Service::start(&cluster, &[]);
    let mut stream = service.connect();
    let head = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}", "x".repeat(100 << 10));
    // It need not be taken to its end.
    let _ = stream.write_all(head.as_bytes());
    // Long before the time a head may take. That there was more to read may cost the peer the answer.
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut answered = Vec::new();
    let ended = stream.read_to_end(&mut answered);
    let waits = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
    assert!(
        !ended.is_err_and(|error| waits.contains(&error.kind())),
        "it still waits for the rest"
    );
    let answered = String::from_utf8_lossy(&answered);
    assert!(
        answered.is_empty() || answered.starts_with("HTTP/1.1 431"),
        "{answered}"
    );
    assert_eq!(service.get("/count").0, 200);
}

#[test]
fn a_request_that_fails_is_answered_and_told_and_the_service_goes_on() {
    let (cluster, _) = cluster();
    let service = Service::start(
        &cluster,
        &[
            "--reuse",
            "100",
            "--request-time",
            "1s",
            "--instance-mem",
            "32MB",
        ],
    );
    assert_eq!(service.get("/trap").0, 500);
    let (status, text) = service.get("/grow");
    assert_eq!(
        (status, text.as_str()),
        (500, "the service ran out of memory\n")
    );
    let (status, text) = service.get("/spin");
    assert_eq!(
        (status, text.as_str()),
        (504, "the service took too long\n")
    );
    assert_eq!(
        service.get("/count"),
        (200, "1".to_owned()),
        "in a new instance"
    );
    let said = wait_until("the failures to be told", || {
        let said = service.said();
        said.contains("GET /spin: it took too long").then_some(said)
    });
    assert!(
        said.contains("GET /trap: wasm trap: wasm `unreachable` instruction executed"),
        "{said}"
    );
    assert!(
        said.contains("GET /grow: memory limit 32 MiB of an instance reached"),
        "{said}"
    );
}

#[test]
fn an_answer_that_breaks_off_does_not_look_whole() {
    let (cluster, _) = cluster();
    let service = Service::start(&cluster, &["--reuse", "100", "--request-time", "1s"]);
    for (path, piece) in [("/early", "part"), ("/hold", "part"), ("/endless", "xxxx")] {
        let got = raw(service.ask(path));
        assert!(got.starts_with("HTTP/1.1 200 "), "{path}: {got:.200}");
        assert!(got.contains(piece), "{path}: {got:.200}");
        assert!(!got.ends_with("0\r\n\r\n"), "{path} was ended in order");
    }
    let got = raw(service.ask("/"));
    assert!(got.ends_with("\r\n0\r\n\r\n"), "{got}");
}

#[test]
fn every_request_is_counted_once() {
    let (cluster, _) = cluster();
    let service = Service::start(&cluster, &["--request-time", "1s"]);
    assert_eq!(service.get("/").0, 200);
    let (status, text) = service.get("/none");
    assert_eq!(
        (status, text.as_str()),
        (500, "the service gave no answer\n")
    );
    raw(service.ask("/early"));
    raw(service.ask("/endless"));
    let gone = service.ask("/slow?600000");
    std::thread::sleep(Duration::from_millis(100));
    drop(gone);
    let counted = json!({
        "answered": 1, "failed": 2, "timed_out": 1, "turned_away": 0, "cut_off": 1
    });
    usage_when(&cluster.agents[0].address, |requests| *requests == counted);
    let said = service.said();
    assert!(said.contains("GET /none: it gave no answer"), "{said}");
}

#[test]
fn who_takes_no_answer_does_not_keep_the_place() {
    let (cluster, _) = cluster();
    let service = Service::start(
        &cluster,
        &[
            "--connections",
            "1",
            "--request-time",
            "1s",
            "--queue-time",
            "60s",
        ],
    );
    let idle = service.ask("/endless");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(service.get("/").0, 200);
    drop(idle);
}

#[test]
fn requests_wait_for_the_memory_that_others_use() {
    let (cluster, _) = cluster();
    let service = Service::start(&cluster, &["--mem", "8MB", "--queue-time", "60s"]);
    let asked: Vec<TcpStream> = (0..32).map(|_| service.ask("/slow?200")).collect();
    for stream in asked {
        assert_eq!(answer(stream), (200, "at last\n".to_owned()));
    }
}

#[test]
fn http_1_0_needs_no_host() {
    let (cluster, _) = cluster();
    let service = Service::start(&cluster, &[]);
    let mut stream = service.connect();
    write!(stream, "GET / HTTP/1.0\r\n\r\n").unwrap();
    let got = raw(stream);
    assert!(got.ends_with("hello from a component\n"), "{got}");
}

#[test]
fn bodies_stream_both_ways() {
    let (cluster, _) = cluster();
    let service = Service::start(&cluster, &["--mem", "32MB"]);
    let mut stream = service.connect();
    let line = "all that is sent comes back. ".repeat(4096);
    let length = line.len() * 400;
    assert!(length > 32 << 20, "more than the task may hold");
    write!(
        stream,
        "POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    )
    .unwrap();
    let mut sender = stream.try_clone().unwrap();
    let sent = line.clone();
    let sending = std::thread::spawn(move || {
        for _ in 0..400 {
            sender.write_all(sent.as_bytes()).unwrap();
        }
    });
    let (status, body) = answer(stream);
    sending.join().unwrap();
    assert_eq!((status, body.len()), (200, length));
    assert!(body.starts_with(&line) && body.ends_with(&line));

    // The first line is there before the last is made.
    let mut stream = service.connect();
    write!(
        stream,
        "GET /stream HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut seen = String::new();
    let mut piece = [0; 256];
    while !seen.contains("line 0") {
        let count = stream.read(&mut piece).unwrap();
        seen.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    assert!(!seen.contains("line 4"), "{seen}");
    stream.read_to_string(&mut seen).unwrap();
    assert!(seen.contains("line 4"), "{seen}");
}

#[test]
fn too_much_waits_and_is_then_turned_away() {
    let (cluster, _) = cluster();
    let service = Service::start(
        &cluster,
        &[
            "--concurrency",
            "1",
            "--connections",
            "3",
            "--queue-time",
            "2s",
        ],
    );
    // One is served, one waits for it and is served, one waits in vain.
    let slow = service.ask("/slow?600");
    std::thread::sleep(Duration::from_millis(100));
    let waits = service.ask("/");
    assert_eq!(answer(waits).0, 200);
    assert_eq!(answer(slow).0, 200);
    let slow = service.ask("/slow?6000");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(
        answer(service.ask("/")),
        (503, "the service is busy; try again\n".to_owned())
    );

    // Connections that say nothing take the places of all; the next one hears that there is none.
    let silent: Vec<TcpStream> = (0..2).map(|_| service.connect()).collect();
    std::thread::sleep(Duration::from_millis(100));
    let (status, _) = answer(service.ask("/"));
    assert_eq!(status, 503);
    drop(silent);
    assert_eq!(answer(slow).0, 200);
    assert_eq!(
        wait_until("a place", || Some(service.get("/"))
            .filter(|got| got.0 == 200))
        .0,
        200
    );
}

#[test]
fn what_has_begun_is_finished_when_a_service_ends() {
    let (cluster, _) = cluster();
    let mut service = Service::start(&cluster, &[]);
    let mut stream = service.connect();
    write!(stream, "GET /slow?1500 HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    service.terminate();
    assert_eq!(answer(stream), (200, "at last\n".to_owned()));
    assert_eq!(service.ended(), Some(207));
}

#[test]
fn a_service_without_a_port_or_with_a_taken_one_is_refused_in_words() {
    let (cluster, port) = cluster();
    let put = cluster.json(&["artifact", "put", "--json", &component("http_service")]);
    let url = put["url"].as_str().unwrap();
    let ended = cluster.tepui(&["run", url]);
    assert_eq!(ended.code, 205, "{ended:?}");
    assert!(ended.stderr.contains("needs a port"), "{ended:?}");

    // Somebody else may listen on a port an agent offers.
    let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let ended = cluster.tepui(&["run", "--port", &port.to_string(), url]);
    assert_eq!(ended.code, 205, "{ended:?}");
    assert!(ended.stderr.contains("cannot be listened on"), "{ended:?}");
}

#[test]
fn a_service_asks_others_only_where_it_may() {
    let friend = TcpListener::bind("127.0.0.1:0").unwrap();
    let authority = friend.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in friend.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\ngreeting");
        }
    });
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut cluster = Cluster::master_alone(&[]);
    let resources = format!("cpus:2;mem:1024;disk:1024;ports:[{port}-{port}]");
    cluster.add_agent(&[
        "--resources",
        &resources,
        "--allow_hosts",
        "127.0.0.0/8,localhost",
    ]);
    cluster.wait_for_agents(1);
    {
        let mut service = Service::start(&cluster, &["--allow-net", &authority]);
        assert_eq!(
            service.get(&format!("/fetch?{authority}")),
            (200, "200 greeting".to_owned())
        );
        for other in ["127.0.0.1:1", "localhost:80", "example.com"] {
            let (status, text) = service.get(&format!("/fetch?{other}"));
            assert_eq!(status, 502);
            assert!(text.contains("HttpRequestDenied"), "{other}: {text}");
        }
        service.terminate();
        // Dropped before it has asked for the end, the command would leave that to its framework's time for failing over.
        service.ended();
    }
    wait_until("the port to be free", || {
        TcpListener::bind(("127.0.0.1", port)).ok()
    });
    let service = Service::start(&cluster, &[]);
    assert_eq!(service.get(&format!("/fetch?{authority}")).0, 502);
}

#[test]
fn an_agent_that_is_stopped_lets_services_finish_and_tells_how_its_tasks_ended() {
    let (cluster, _) = cluster();
    let mut service = Service::start(&cluster, &[]);
    let mut stream = service.connect();
    write!(stream, "GET /slow?1500 HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let agent = cluster.agents.first().unwrap().pid();
    kill(Pid::from_raw(agent.try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(answer(stream), (200, "at last\n".to_owned()));
    assert_eq!(service.ended(), Some(207), "{}", service.said());
    let said = service.said();
    assert!(
        said.contains("TASK_KILLED: The agent was stopped"),
        "{said}"
    );
    // It has not come back, and need not.
    let tasks = cluster.json(&["ps", "--all", "--json"]);
    assert_eq!(tasks[0]["state"], "TASK_KILLED", "{tasks}");
}
