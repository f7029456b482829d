//! The agent's own HTTP side: operator calls, containers, pages and files.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use tepui_tests::{Cluster, Response, Scheduler, Stream, call_ahead, guest, request, wait_until};

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn get(address: &str, path: &str) -> Response {
    request(address, "GET", path, &[], b"").unwrap()
}

fn call(address: &str, call: &Value) -> Response {
    let body = call.to_string();
    request(address, "POST", "/api/v1", &[JSON], body.as_bytes()).unwrap()
}

/// A cluster of one agent with one command task that runs, and the task's status.
struct Site {
    cluster: Cluster,
    scheduler: Scheduler,
    agent: String,
    status: Value,
}

fn site(command: &str) -> Site {
    let cluster = Cluster::start(1);
    let agent = cluster.agents[0].address.clone();
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let offer = scheduler.offer();
    let task = Scheduler::task("job", &offer, command);
    assert_eq!(scheduler.launch(&offer, &[task]).status, 202);
    let status = scheduler.until("job", "TASK_RUNNING");
    Site {
        cluster,
        scheduler,
        agent,
        status,
    }
}

impl Site {
    fn container(&self) -> Value {
        self.status["container_status"]["container_id"].clone()
    }

    fn nested(&self, id: &str) -> Value {
        json!({ "value": id, "parent": self.container() })
    }

    fn executor(&self) -> Value {
        let state = get(&self.agent, "/slave(1)/state.json").json();
        state["frameworks"][0]["executors"][0].clone()
    }
}

#[test]
fn calls_are_checked_in_mesos_order_and_answered_in_the_form_asked_for() {
    let cluster = Cluster::start(1);
    let agent = &cluster.agents[0].address;
    let ask = |method: &str, headers: &[(&str, &str)], body: &str| {
        request(agent, method, "/api/v1", headers, body.as_bytes()).unwrap()
    };
    let wrong = ask("GET", &[], "");
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    let version = r#"{"type":"GET_VERSION"}"#;
    assert_eq!(ask("POST", &[], version).status, 400);
    assert_eq!(
        ask("POST", &[("Content-Type", "text/plain")], version).status,
        415
    );
    assert_eq!(ask("POST", &[JSON], "{").status, 400);
    assert_eq!(ask("POST", &[JSON], "{}").status, 400);
    assert_eq!(ask("POST", &[JSON], r#"{"type":"NO_SUCH"}"#).status, 400);
    assert_eq!(ask("POST", &[JSON], r#"{"type":"UNKNOWN"}"#).status, 501);
    assert_eq!(
        ask("POST", &[JSON], r#"{"type":"GET_METRICS"}"#).status,
        400
    );
    for accept in ["text/html", "application/recordio"] {
        assert_eq!(
            ask("POST", &[JSON, ("Accept", accept)], version).status,
            406
        );
    }
    let padded = [JSON, ("Message-Accept", "application/json")];
    assert_eq!(ask("POST", &padded, version).status, 406);
    let recordio = ("Content-Type", "application/recordio");
    assert_eq!(ask("POST", &[recordio], version).status, 400);
    let inner = ("Message-Content-Type", "application/json");
    assert_eq!(
        ask("POST", &[recordio, inner], "22\n{\"type\":\"GET_VERSION\"}").status,
        415
    );
    assert_eq!(ask("POST", &[JSON, inner], version).status, 415);
    for kind in [
        "PRUNE_IMAGES",
        "ADD_RESOURCE_PROVIDER_CONFIG",
        "MARK_RESOURCE_PROVIDER_GONE",
    ] {
        let refused = call(agent, &json!({ "type": kind }));
        assert_eq!(refused.status, 501);
        assert!(refused.text().contains(kind), "{}", refused.text());
    }
    assert_eq!(
        call(agent, &json!({ "type": "GET_VERSION" })).json()["get_version"]["version_info"]["version"],
        "1.11.0"
    );
    let protobuf = ask(
        "POST",
        &[JSON, ("Accept", "application/x-protobuf")],
        r#"{"type":"GET_HEALTH"}"#,
    );
    assert_eq!(
        protobuf.header("content-type"),
        Some("application/x-protobuf")
    );
    // type = GET_HEALTH, get_health { healthy: true }
    assert_eq!(protobuf.body, [8, 1, 18, 2, 8, 1]);
    let flags = call(agent, &json!({ "type": "GET_FLAGS" })).json();
    let flags = flags["get_flags"]["flags"].as_array().unwrap().clone();
    assert!(
        flags.iter().any(|flag| flag["name"] == "work_dir"),
        "{flags:?}"
    );
    let metrics = call(agent, &json!({ "type": "GET_METRICS", "get_metrics": {} })).json();
    let metrics = metrics["get_metrics"]["metrics"]
        .as_array()
        .unwrap()
        .clone();
    assert!(
        metrics
            .iter()
            .any(|metric| metric["name"] == "slave/registered" && metric["value"] == 1.0)
    );
    let level = |expected: u32| {
        let answer = call(agent, &json!({ "type": "GET_LOGGING_LEVEL" })).json();
        answer["get_logging_level"]["level"] == expected
    };
    assert!(level(0));
    let raise = json!({ "type": "SET_LOGGING_LEVEL",
        "set_logging_level": { "level": 1, "duration": { "nanoseconds": 2_000_000_000_u64 } } });
    assert_eq!(call(agent, &raise).status, 200);
    assert!(level(1));
    wait_until("the level to go back", || level(0).then_some(()));
    let info = call(agent, &json!({ "type": "GET_AGENT" })).json();
    assert!(
        info["get_agent"]["agent_info"]["id"]["value"].is_string(),
        "{info}"
    );
    for kind in [
        "GET_OPERATIONS",
        "GET_RESOURCE_PROVIDERS",
        "GET_TASKS",
        "GET_EXECUTORS",
        "GET_FRAMEWORKS",
        "GET_STATE",
    ] {
        assert_eq!(call(agent, &json!({ "type": kind })).json()["type"], kind);
    }
    for (path, status) in [
        ("/nowhere", 404),
        ("/slave(1)/version", 200),
        ("/slave%281%29/state/", 200),
        ("/health/deep", 200),
    ] {
        let answer = get(agent, path);
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
    }
    let script = get(agent, "/version?jsonp=show");
    assert!(script.text().starts_with("show({") && script.text().ends_with(");"));
}

#[test]
fn a_command_task_has_an_executor_of_its_own_in_the_eyes_of_tools() {
    let mut site = site("echo out; echo err >&2; exec sleep 1000");
    let executor = site.executor();
    assert_eq!(executor["id"], "job");
    assert_eq!(executor["source"], "job");
    assert!(
        executor["name"]
            .as_str()
            .unwrap()
            .starts_with("Command Executor (Task: job)")
    );
    assert_eq!(executor["tasks"][0]["id"], "job");
    assert_eq!(executor["tasks"][0]["state"], "TASK_RUNNING");
    assert_eq!(executor["container"], site.container()["value"]);
    let row = wait_until("the task to have used cpu", || {
        let rows = get(&site.agent, "/monitor/statistics.json").json();
        let row = rows
            .as_array()?
            .iter()
            .find(|row| row["executor_id"] == "job")?
            .clone();
        row["statistics"]["mem_limit_bytes"]
            .as_u64()
            .is_some()
            .then_some(row)
    });
    assert_eq!(row["framework_id"], site.scheduler.framework_id);
    assert_eq!(row["statistics"]["cpus_limit"], 0.1);
    if row["statistics"].get("mem_rss_bytes").is_some() {
        assert!(
            row["statistics"]["processes"].as_u64().unwrap() >= 1,
            "{row}"
        );
        assert!(
            row["statistics"]["cpus_user_time_secs"].is_number(),
            "{row}"
        );
    }
    let of = |query: &str| get(&site.agent, &format!("/containers{query}"));
    let all = of("").json();
    assert_eq!(all[0]["status"]["container_id"], site.container());
    assert_eq!(of("?framework_id=nobody").json(), json!([]));
    let exact = format!(
        "?framework_id={}&executor_id=job",
        site.scheduler.framework_id
    );
    assert_eq!(of(&exact).json().as_array().unwrap().len(), 1);
    assert_eq!(of("?executor_id=job").status, 400);
    let executors = call(&site.agent, &json!({ "type": "GET_EXECUTORS" })).json();
    assert_eq!(
        executors["get_executors"]["executors"][0]["executor_info"]["executor_id"]["value"],
        "job"
    );
    let containers = call(&site.agent, &json!({ "type": "GET_CONTAINERS" })).json();
    assert_eq!(
        containers["get_containers"]["containers"][0]["container_id"],
        site.container()
    );
    site.scheduler
        .call(json!({ "type": "KILL", "kill": { "task_id": { "value": "job" } } }));
    site.scheduler.until("job", "TASK_KILLED");
    let completed = wait_until("the framework to be over here", || {
        let state = get(&site.agent, "/state").json();
        let frameworks = state["completed_frameworks"].as_array()?.iter();
        let frameworks = frameworks.chain(state["frameworks"].as_array()?.iter());
        let executors: Vec<Value> = frameworks
            .flat_map(|framework| {
                framework["completed_executors"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default()
            })
            .collect();
        executors
            .into_iter()
            .find(|executor| executor["completed_tasks"][0]["id"] == "job")
    });
    assert_eq!(completed["completed_tasks"][0]["state"], "TASK_KILLED");
    assert_eq!(completed["directory"], executor["directory"]);
}

#[test]
fn sandboxes_are_read_by_real_and_virtual_paths_while_and_after_the_task_runs() {
    let mut site = site("printf 0123456789; exec sleep 1000");
    let agent = site.agent.clone();
    let directory = site.executor()["directory"].as_str().unwrap().to_owned();
    let latest = format!("{}/latest", directory.rsplit_once('/').unwrap().0);
    let virtual_path = format!(
        "/frameworks/{}/executors/job/runs/latest",
        site.scheduler.framework_id
    );
    let read = |query: &str| get(&agent, &format!("/files/read.json?{query}"));
    let check = || {
        for path in [&directory, &latest, &virtual_path] {
            let names: Vec<String> = get(&agent, &format!("/slave(1)/files/browse?path={path}"))
                .json()
                .as_array()
                .unwrap()
                .iter()
                .map(|file| {
                    file["path"]
                        .as_str()
                        .unwrap()
                        .rsplit('/')
                        .next()
                        .unwrap()
                        .to_owned()
                })
                .collect();
            assert_eq!(names, ["stderr", "stdout"], "{path}");
            let stdout = format!("path={path}/stdout");
            wait_until("the output", || {
                (read(&format!("{stdout}&offset=0&length=-1")).json()["data"] == "0123456789")
                    .then_some(())
            });
            assert_eq!(
                read(&format!("{stdout}&offset=2&length=3")).json(),
                json!({ "offset": 2, "data": "234" })
            );
            assert_eq!(
                read(&format!("{stdout}&offset=-1")).json(),
                json!({ "offset": 10, "data": "" })
            );
            assert_eq!(read(&stdout).json(), json!({ "offset": 10, "data": "" }));
            assert_eq!(read(&format!("{stdout}&offset=99")).json()["data"], "");
            let download = get(&agent, &format!("/files/download?{stdout}"));
            assert_eq!(download.text(), "0123456789");
            assert!(
                download
                    .header("content-disposition")
                    .unwrap()
                    .contains("stdout")
            );
            let by_call = call(
                &agent,
                &json!({ "type": "READ_FILE", "read_file": { "path": format!("{path}/stdout"), "offset": 8 } }),
            );
            assert_eq!(
                by_call.json()["read_file"],
                json!({ "size": 10, "data": "ODk=" })
            );
            let listed = call(
                &agent,
                &json!({ "type": "LIST_FILES", "list_files": { "path": path } }),
            )
            .json();
            assert_eq!(
                listed["list_files"]["file_infos"].as_array().unwrap().len(),
                2
            );
        }
    };
    check();
    let stdout = format!("path={virtual_path}/stdout");
    for (query, status) in [
        ("offset=0".to_owned(), 400),
        (format!("{stdout}&offset=x"), 400),
        (format!("{stdout}&offset=0&length=x"), 400),
        (format!("{stdout}&offset=-2"), 400),
        (format!("{stdout}&offset=0&length=-2"), 400),
        (format!("path={virtual_path}&offset=0"), 400),
        (
            format!("path={virtual_path}/../../../../../../../lock&offset=0"),
            400,
        ),
        (format!("path={virtual_path}/nothing&offset=0"), 404),
        ("path=/etc/passwd&offset=0".to_owned(), 404),
    ] {
        let answer = read(&query);
        assert_eq!(answer.status, status, "{query}: {}", answer.text());
    }
    std::os::unix::fs::symlink("/etc/passwd", format!("{directory}/link")).unwrap();
    let link = call(
        &agent,
        &json!({ "type": "READ_FILE", "read_file": { "path": format!("{virtual_path}/link"), "offset": 0 } }),
    );
    assert_eq!(link.status, 400, "{}", link.text());
    std::fs::remove_file(format!("{directory}/link")).unwrap();
    let log = read("path=/slave/log&offset=0");
    assert!(
        log.json()["data"]
            .as_str()
            .unwrap()
            .contains("the agent runs"),
        "{}",
        log.text()
    );
    assert!(get(&agent, "/files/debug").json()[&virtual_path].is_string());
    site.scheduler
        .call(json!({ "type": "KILL", "kill": { "task_id": { "value": "job" } } }));
    site.scheduler.until("job", "TASK_KILLED");
    check();
}

#[test]
fn a_nested_container_is_launched_once_waited_for_by_many_and_removed_in_the_end() {
    let site = site("exec sleep 1000");
    let agent = &site.agent;
    let id = site.nested("inner");
    let launch = json!({ "type": "LAUNCH_CONTAINER", "launch_container": {
        "container_id": id, "command": { "value": "pwd; echo started >> ../../launches; read nothing; exec sleep 1000" } } });
    assert_eq!(call(agent, &launch).status, 200);
    assert_eq!(call(agent, &launch).status, 202);
    let directory = site.executor()["directory"].as_str().unwrap().to_owned();
    let own = format!("{directory}/containers/inner");
    wait_until("its output", || {
        let text = std::fs::read_to_string(format!("{own}/stdout")).ok()?;
        (text.trim() == own).then_some(())
    });
    let launches = std::fs::read_to_string(format!("{directory}/launches")).unwrap();
    assert_eq!(launches, "started\n", "no second process");
    let containers = call(
        agent,
        &json!({ "type": "GET_CONTAINERS", "get_containers": { "show_nested": true } }),
    )
    .json();
    let containers = containers["get_containers"]["containers"]
        .as_array()
        .unwrap()
        .clone();
    assert!(
        containers
            .iter()
            .any(|container| container["container_id"] == id),
        "{containers:?}"
    );
    let waits: Vec<_> = ["WAIT_CONTAINER", "WAIT_NESTED_CONTAINER", "WAIT_CONTAINER"]
        .into_iter()
        .map(|kind| {
            let field = kind.to_lowercase();
            let wait = json!({ "type": kind, &field: { "container_id": id } });
            let agent = agent.clone();
            std::thread::spawn(move || call(&agent, &wait).json()[&field]["exit_status"].clone())
        })
        .collect();
    let remove = json!({ "type": "REMOVE_CONTAINER", "remove_container": { "container_id": id } });
    assert_eq!(call(agent, &remove).status, 500, "it still runs");
    let kill =
        json!({ "type": "KILL_CONTAINER", "kill_container": { "container_id": id, "signal": 15 } });
    assert_eq!(call(agent, &kill).status, 200);
    for wait in waits {
        assert_eq!(wait.join().unwrap(), 15);
    }
    assert_eq!(call(agent, &kill).status, 404, "it has ended");
    assert_eq!(call(agent, &remove).status, 200);
    assert!(!std::path::Path::new(&own).exists());
    let wait = json!({ "type": "WAIT_CONTAINER", "wait_container": { "container_id": id } });
    assert_eq!(call(agent, &wait).status, 404);
    // Whose parent ends, ends too.
    assert_eq!(call(agent, &launch).status, 200);
    let mut site = site;
    site.scheduler
        .call(json!({ "type": "KILL", "kill": { "task_id": { "value": "job" } } }));
    site.scheduler.until("job", "TASK_KILLED");
    wait_until("the nested container to be gone", || {
        (call(&site.agent, &wait).status == 404).then_some(())
    });
}

#[test]
fn containers_that_are_not_there_or_cannot_be_are_refused_plainly() {
    let site = site("exec sleep 1000");
    let agent = &site.agent;
    let stranger = json!({ "value": "inner", "parent": { "value": "nobody" } });
    for (kind, status) in [
        ("KILL_CONTAINER", 404),
        ("WAIT_CONTAINER", 404),
        ("REMOVE_CONTAINER", 404),
        ("KILL_NESTED_CONTAINER", 404),
        ("WAIT_NESTED_CONTAINER", 404),
        ("ATTACH_CONTAINER_OUTPUT", 404),
        ("LAUNCH_NESTED_CONTAINER", 404),
    ] {
        let mut body = json!({ "container_id": stranger });
        if kind.starts_with("LAUNCH") {
            body["command"] = json!({ "value": "true" });
        }
        let answer = call(agent, &json!({ "type": kind, kind.to_lowercase(): body }));
        assert_eq!(answer.status, status, "{kind}: {}", answer.text());
    }
    let launch = |body: Value| {
        let mut body = body;
        body.as_object_mut()
            .unwrap()
            .entry("container_id")
            .or_insert_with(|| site.nested("inner"));
        call(
            agent,
            &json!({ "type": "LAUNCH_CONTAINER", "launch_container": body }),
        )
    };
    let command = json!({ "value": "true" });
    for (body, words) in [
        (json!({}), "command"),
        (
            json!({ "command": command, "container": { "type": "DOCKER", "docker": { "image": "x" } } }),
            "DOCKER",
        ),
        (json!({ "command": { "value": "module.wasm" } }), "wasm"),
        (
            json!({ "command": { "value": "/no/such/program", "shell": false } }),
            "/no/such/program",
        ),
        (
            json!({ "command": { "value": "true", "user": "no-such-user" } }),
            "no-such-user",
        ),
        (
            json!({ "command": command, "container_id": site.nested("a/b") }),
            "container id",
        ),
        (
            json!({ "command": command, "container_id": { "value": "alone" },
            "container": { "type": "MESOS", "linux_info": { "share_cgroups": true } } }),
            "share_cgroups",
        ),
    ] {
        let answer = launch(body.clone());
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        assert!(answer.text().contains(words), "{body}: {}", answer.text());
    }
    assert_eq!(
        launch(json!({ "command": command })).status,
        200,
        "what failed can be tried again"
    );
}

#[test]
fn a_container_can_stand_alone_and_ends_with_its_agent() {
    let mut cluster = Cluster::start(1);
    let agent = cluster.agents[0].address.clone();
    let id = json!({ "value": "alone" });
    let launch = |id: &Value, command: &str| {
        call(
            &agent,
            &json!({ "type": "LAUNCH_CONTAINER", "launch_container": {
            "container_id": id, "command": { "value": command },
            "resources": [
                { "name": "cpus", "type": "SCALAR", "scalar": { "value": 0.1 } },
                { "name": "mem", "type": "SCALAR", "scalar": { "value": 32 } } ] } }),
        )
    };
    let started = launch(&id, "echo here; exit 3");
    assert_eq!(started.status, 200, "{}", started.text());
    let wait = json!({ "type": "WAIT_CONTAINER", "wait_container": { "container_id": id } });
    assert_eq!(
        call(&agent, &wait).json()["wait_container"]["exit_status"],
        3 << 8
    );
    let state = get(&agent, "/state").json();
    let path = format!(
        "{}/containers/alone/stdout",
        state["flags"]["work_dir"].as_str().unwrap()
    );
    assert_eq!(
        get(&agent, &format!("/files/read?path={path}&offset=0")).json()["data"],
        "here\n"
    );
    let longer = json!({ "value": "longer" });
    assert_eq!(launch(&longer, "exec sleep 7777").status, 200);
    let shown = json!({ "type": "GET_CONTAINERS", "get_containers": { "show_standalone": true } });
    let shown = call(&agent, &shown).json();
    assert_eq!(
        shown["get_containers"]["containers"][0]["container_id"],
        longer
    );
    // A crash leaves it; the next agent ends it.
    let of_container = |cluster: &Cluster| {
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let folder = cluster.folder.path().display().to_string();
        pids.filter(|entry| {
            let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
            let has = |bytes: &[u8], text: &str| String::from_utf8_lossy(bytes).contains(text);
            has(&read("cmdline"), "7777") && has(&read("environ"), &folder)
        })
        .count()
    };
    assert_eq!(of_container(&cluster), 1);
    cluster.agents[0].start_again();
    wait_until("the container to be gone", || {
        (of_container(&cluster) == 0).then_some(())
    });
}

/// The records of a stream, decoded, as text of one kind.
fn output(stream: &mut Stream, kind: &str, until: &str) -> String {
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains(until) {
        let record = stream.record().unwrap().expect("the stream goes on");
        if record["data"]["type"] == kind {
            text.extend(decode(record["data"]["data"].as_str().unwrap()));
        }
    }
    String::from_utf8(text).unwrap()
}

fn decode(base64: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for letter in base64.bytes().take_while(|letter| *letter != b'=') {
        let value = LETTERS.iter().position(|known| *known == letter).unwrap();
        bits = (bits << 6) | u32::try_from(value).unwrap();
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    bytes
}

/// A request whose body goes on: chunk by chunk.
struct Input {
    socket: TcpStream,
}

impl Input {
    fn attach(agent: &str, id: &Value) -> Self {
        let mut socket = TcpStream::connect(agent).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let head = format!(
            "POST /api/v1 HTTP/1.1\r\nHost: {agent}\r\nContent-Type: application/recordio\r\n\
             Message-Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).unwrap();
        let mut input = Self { socket };
        input.send(json!({ "type": "CONTAINER_ID", "container_id": id }));
        input
    }

    fn send(&mut self, attach: Value) {
        let call = json!({ "type": "ATTACH_CONTAINER_INPUT", "attach_container_input": attach })
            .to_string();
        let record = format!("{}\n{call}", call.len());
        write!(self.socket, "{:x}\r\n{record}\r\n", record.len()).unwrap();
    }

    /// Data in base64; none is the end.
    fn data(&mut self, base64: &str) {
        self.send(json!({ "type": "PROCESS_IO", "process_io": {
            "type": "DATA", "data": { "type": "STDIN", "data": base64 } } }));
    }

    fn answer(mut self) -> String {
        let _ = self.socket.write_all(b"0\r\n\r\n");
        let mut text = String::new();
        let _ = self.socket.read_to_string(&mut text);
        text
    }
}

fn session(site: &Site, id: &str, command: &str, tty: bool) -> Stream {
    let mut body = json!({ "container_id": site.nested(id), "command": { "value": command } });
    if tty {
        body["container"] = json!({ "type": "MESOS", "tty_info": { "window_size": { "rows": 20, "columns": 70 } } });
    }
    let launch = json!({ "type": "LAUNCH_NESTED_CONTAINER_SESSION", "launch_nested_container_session": body });
    let headers = [
        JSON,
        ("Accept", "application/recordio"),
        ("Message-Accept", "application/json"),
    ];
    let stream = Stream::open(
        &site.agent,
        "/api/v1",
        &headers,
        launch.to_string().as_bytes(),
    )
    .unwrap();
    assert_eq!(stream.response.status, 200);
    assert_eq!(
        stream.response.header("content-type"),
        Some("application/recordio")
    );
    assert_eq!(
        stream.response.header("message-content-type"),
        Some("application/json")
    );
    stream
}

#[test]
fn a_session_streams_its_output_takes_input_and_ends_with_its_connection() {
    let site = site("echo mine > file; exec sleep 1000");
    let agent = &site.agent;
    // Its home is the task's directory.
    let mut stream = session(
        &site,
        "exec",
        "cat file; echo oops >&2; cat; echo bye",
        false,
    );
    assert_eq!(output(&mut stream, "STDOUT", "mine\n"), "mine\n");
    let mut input = Input::attach(agent, &site.nested("exec"));
    input.data("aGVsbG8K");
    assert_eq!(output(&mut stream, "STDOUT", "hello\n"), "hello\n");
    let second = Input::attach(agent, &site.nested("exec")).answer();
    assert!(second.starts_with("HTTP/1.1 409"), "{second}");
    input.data("");
    assert!(input.answer().starts_with("HTTP/1.1 200"));
    assert_eq!(output(&mut stream, "STDOUT", "bye\n"), "bye\n");
    while stream.record().unwrap().is_some() {}
    let wait = |id: &str| {
        let wait = json!({ "type": "WAIT_NESTED_CONTAINER", "wait_nested_container": { "container_id": site.nested(id) } });
        call(agent, &wait).json()["wait_nested_container"]["exit_status"].clone()
    };
    assert_eq!(wait("exec"), 0);
    let dropped = session(&site, "dropped", "echo up; exec sleep 1000", false);
    drop(dropped);
    assert_eq!(wait("dropped"), 9);
    // With a terminal, which can be resized.
    let mut stream = session(
        &site,
        "tty",
        "stty size; read line; stty size; echo got $line",
        true,
    );
    assert_eq!(output(&mut stream, "STDOUT", "20 70").trim(), "20 70");
    let mut input = Input::attach(agent, &site.nested("tty"));
    input.send(
        json!({ "type": "PROCESS_IO", "process_io": { "type": "CONTROL", "control": {
        "type": "TTY_INFO", "tty_info": { "window_size": { "rows": 33, "columns": 99 } } } } }),
    );
    input.data("eWVzCg==");
    let text = output(&mut stream, "STDOUT", "got yes");
    assert!(text.contains("33 99"), "{text}");
    let none = Input::attach(agent, &site.container()).answer();
    assert!(none.starts_with("HTTP/1.1 400"), "{none}");
}

/// What the container wrote, once that contains the text.
fn written(site: &Site, directory: &str, until: &str) -> String {
    let file = format!(
        "{}/{directory}stdout",
        site.executor()["directory"].as_str().unwrap()
    );
    wait_until("the container's output", || {
        let text = std::fs::read_to_string(&file).ok()?;
        text.contains(until).then_some(text)
    })
}

#[test]
fn what_is_nested_finds_the_environment_of_what_it_is_nested_in() {
    let site = site("export UNKNOWN=1; exec sleep 1000");
    let launch = |id: &Value, value: &str| {
        let variables = json!([{ "name": "OWN", "value": "own" }]);
        let command = json!({ "value": value, "environment": { "variables": variables } });
        let call_ = json!({ "type": "LAUNCH_CONTAINER",
            "launch_container": { "container_id": id, "command": command } });
        assert_eq!(call(&site.agent, &call_).status, 200);
    };
    let outer = site.nested("outer");
    launch(&outer, "env; echo done; exec sleep 1000");
    let text = written(&site, "containers/outer/", "done");
    for line in [
        format!("MESOS_FRAMEWORK_ID={}", site.scheduler.framework_id),
        "MESOS_TASK_ID=job".to_owned(),
        "MESOS_EXECUTOR_ID=job".to_owned(),
        "OWN=own".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    let sandbox = format!(
        "MESOS_SANDBOX={}/containers/outer",
        site.executor()["directory"].as_str().unwrap()
    );
    assert!(text.lines().any(|line| line == sandbox), "{text}");
    assert!(
        !text.contains("UNKNOWN=") && !text.contains("TOKEN"),
        "{text}"
    );
    let inner = json!({ "value": "inner", "parent": outer });
    let launch_ = json!({ "type": "LAUNCH_CONTAINER", "launch_container": {
        "container_id": inner, "command": { "value": "echo $MESOS_TASK_ID $OWN" } } });
    assert_eq!(call(&site.agent, &launch_).status, 200);
    let text = written(&site, "containers/outer/containers/inner/", "\n");
    assert_eq!(text, "job own\n");
}

#[test]
fn a_tasks_own_container_can_be_signalled_killed_and_waited_for() {
    let signal = |agent: &str, id: &Value, signal: Option<i32>| {
        let mut kill = json!({ "container_id": id });
        if let Some(signal) = signal {
            kill["signal"] = json!(signal);
        }
        call(
            agent,
            &json!({ "type": "KILL_CONTAINER", "kill_container": kill }),
        )
        .status
    };
    let wait = |agent: &str, id: &Value| {
        let wait = json!({ "type": "WAIT_CONTAINER", "wait_container": { "container_id": id } });
        // On its way before anything is done to the container.
        call_ahead(agent, "/api/v1", &[JSON], wait.to_string().as_bytes()).unwrap()
    };
    // One that makes of a signal what it likes.
    let mut first = site(
        "trap 'echo heard' USR1; trap 'exit 3' TERM; echo up; while true; do sleep 0.05; done",
    );
    written(&first, "", "up");
    let container = first.container();
    let waiting = wait(&first.agent, &container);
    assert_eq!(signal(&first.agent, &container, Some(10)), 200);
    written(&first, "", "heard");
    assert_eq!(signal(&first.agent, &container, Some(15)), 200);
    let status = first.scheduler.until("job", "TASK_FAILED");
    assert_eq!(status["message"], "Command exited with status 3");
    let ended = &waiting.join().unwrap().json()["wait_container"];
    assert_eq!(ended["state"], "TASK_FAILED", "{ended}");
    assert_eq!(ended["exit_status"], 3 << 8, "{ended}");
    // And one that is killed.
    let mut second = site("exec sleep 4730");
    let container = second.container();
    let waiting = wait(&second.agent, &container);
    assert_eq!(signal(&second.agent, &container, None), 200);
    let status = second.scheduler.until("job", "TASK_FAILED");
    assert_eq!(status["reason"], "REASON_EXECUTOR_TERMINATED", "{status}");
    let ended = &waiting.join().unwrap().json()["wait_container"];
    assert_eq!(ended["exit_status"], 9, "{ended}");
    assert!(second.cluster.processes(&["sleep", "4730"]).is_empty());
    assert_eq!(signal(&second.agent, &container, None), 404);
}

#[test]
fn a_tasks_output_is_heard_as_it_is_written_until_it_ends() {
    let mut site = site("while true; do echo tick; echo tock >&2; sleep 0.1; done");
    let attach = json!({ "type": "ATTACH_CONTAINER_OUTPUT",
        "attach_container_output": { "container_id": site.container() } });
    let mut stream = Stream::open(
        &site.agent,
        "/api/v1",
        &[JSON],
        attach.to_string().as_bytes(),
    )
    .unwrap();
    assert_eq!(
        stream.response.header("content-type"),
        Some("application/json")
    );
    assert!(output(&mut stream, "STDOUT", "tick\n").contains("tick"));
    assert!(output(&mut stream, "STDERR", "tock\n").contains("tock"));
    site.scheduler
        .call(json!({ "type": "KILL", "kill": { "task_id": { "value": "job" } } }));
    while stream.record().unwrap().is_some() {}
    let wait =
        json!({ "type": "WAIT_CONTAINER", "wait_container": { "container_id": site.container() } });
    let waited = call(&site.agent, &wait);
    if waited.status == 200 {
        assert_eq!(waited.json()["wait_container"]["state"], "TASK_KILLED");
    } else {
        assert_eq!(
            waited.status, 404,
            "the end was acknowledged and the container forgotten"
        );
    }
    site.scheduler.until("job", "TASK_KILLED");
    drop(site.cluster);
}

#[test]
fn a_wasm_task_is_shown_as_any_command_task_is() {
    let cluster = Cluster::start(1);
    let run = cluster.spawn(&["run", &guest("hello"), "--", "--sleep", "4000"]);
    let task = cluster.running_task();
    let agent = &cluster.agents[0].address;
    let state = get(agent, "/state").json();
    let executor = &state["frameworks"][0]["executors"][0];
    assert_eq!(executor["id"], task["id"]);
    assert_eq!(executor["tasks"][0]["id"], task["id"]);
    let rows = get(agent, "/monitor/statistics").json();
    assert_eq!(rows[0]["executor_id"], task["id"]);
    let statistics = &rows[0]["statistics"];
    assert!(statistics["mem_limit_bytes"].as_u64().unwrap() > 0);
    assert!(statistics["mem_rss_bytes"].as_u64().unwrap() > 0, "{rows}");
    assert!(statistics["cpus_user_time_secs"].is_number(), "{rows}");
    assert_eq!(run.wait().code, 0);
}
