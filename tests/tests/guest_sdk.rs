//! What a guest asks of its cluster, by the SDK: as a module, as a component and as an HTTP service.

#![allow(clippy::unwrap_used, reason = "what cannot be had here ends the test")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tepui_tests::{Cluster, FileServer, Reply, Scheduler, component, guest};

/// The tour in both forms, and the service, by HTTP.
fn files() -> FileServer {
    let files = FileServer::start();
    for (path, file) in [
        ("/module.wasm", guest("sdk-tour")),
        ("/component.wasm", component("sdk-tour")),
        ("/service.wasm", component("sdk_service")),
    ] {
        files.serve(path, Reply::body(std::fs::read(file).unwrap()));
    }
    files
}

const FORMS: [&str; 2] = ["module", "component"];

/// A task that runs one of those files with these arguments; further fields are set in its TaskInfo.
fn task(id: &str, offer: &Value, url: &str, stops: &[&str], more: Value) -> Value {
    let mut task = Scheduler::task(id, offer, "");
    let words = [&["guest.wasm"][..], stops].concat();
    task["command"] = json!({
        "shell": false, "value": "./guest.wasm", "arguments": words,
        "uris": [{ "value": url, "executable": true, "output_file": "guest.wasm" }],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        task[key] = value.clone();
    }
    task
}

fn labels(pairs: &[(&str, &str)]) -> Value {
    let labels = pairs
        .iter()
        .map(|(key, value)| json!({ "key": key, "value": value }));
    json!({ "labels": labels.collect::<Vec<_>>() })
}

/// Launches a task and reads its statuses to its end.
fn run(scheduler: &mut Scheduler, id: &str, url: &str, stops: &[&str], more: Value) -> Vec<Value> {
    let offer = scheduler.offer();
    let task = task(id, &offer, url, stops, more);
    assert_eq!(scheduler.launch(&offer, &[task]).status, 202);
    let mut statuses = Vec::new();
    loop {
        let status = scheduler.status();
        statuses.push(status.clone());
        let state = status["state"].as_str().unwrap();
        if !["TASK_STARTING", "TASK_RUNNING"].contains(&state) {
            assert_eq!(state, "TASK_FINISHED", "{status}");
            return statuses;
        }
    }
}

fn file(cluster: &Cluster, scheduler: &Scheduler, id: &str, name: &str) -> String {
    let words = [
        "logs",
        id,
        "--file",
        name,
        "--framework",
        &scheduler.framework_id,
    ];
    let ended = cluster.tepui(&words);
    assert_eq!(ended.code, 0, "{ended:?}");
    ended.stdout
}

/// What the next message says, and to whom an answer goes.
fn message(scheduler: &mut Scheduler) -> (Value, Value) {
    let event = scheduler.expect("MESSAGE")["message"].clone();
    let data = BASE64_STANDARD
        .decode(event["data"].as_str().unwrap())
        .unwrap();
    (serde_json::from_slice(&data).unwrap(), event)
}

fn say(scheduler: &Scheduler, agent: &Value, executor: &Value, data: &[u8]) {
    let message =
        json!({ "agent_id": agent, "executor_id": executor, "data": BASE64_STANDARD.encode(data) });
    let said = scheduler.call(json!({ "type": "MESSAGE", "message": message }));
    assert_eq!(said.status, 202);
}

#[test]
fn a_task_knows_itself_and_its_reports_become_few_statuses() {
    let (cluster, files) = (Cluster::start(1), files());
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    for form in FORMS {
        let url = files.url(&format!("/{form}.wasm"));
        let more = json!({
            "name": "touring",
            "labels": labels(&[("tepui.attempt", "2"), ("tepui.job", "tour"), ("colour", "red")]),
        });
        let statuses = run(
            &mut scheduler,
            form,
            &url,
            &["who", "log", "progress", "health"],
            more,
        );
        let said = file(&cluster, &scheduler, form, "stdout");
        let agent = statuses[0]["agent_id"]["value"].as_str().unwrap();
        let expected = format!(
            "task {form} (touring) of {}\nrole *, agent {agent}\nattempt 2, job Some(\"tour\")\ncolour Some(\"red\")\n",
            scheduler.framework_id
        );
        assert_eq!(said, expected);

        let log = file(&cluster, &scheduler, form, "log.jsonl");
        let lines: Vec<Value> = log
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2, "{log}");
        assert_eq!(
            (&lines[0]["level"], &lines[0]["message"]),
            (&json!("info"), &json!("the tour goes on"))
        );
        assert_eq!(
            lines[0]["fields"],
            json!({ "stop": "log", "day": "a \"fine\" one" })
        );
        assert_eq!(lines[1]["level"], "warn");

        let last = statuses.last().unwrap();
        assert_eq!(
            last["usage"]["progress"],
            json!({ "fraction": 1.0, "message": "step 10 of 10" })
        );
        let shown = cluster.json(&["ps", "--all", "--json"]);
        let shown = shown
            .as_array()
            .unwrap()
            .iter()
            .find(|task| task["id"] == form);
        assert_eq!(shown.unwrap()["progress"]["fraction"], 1.0, "{shown:?}");
        assert_eq!(last["healthy"], true);
        let early = statuses.iter().filter(|status| {
            status["state"] == "TASK_RUNNING" && status["usage"]["progress"]["fraction"].is_number()
        });
        assert!(early.count() >= 2, "{statuses:?}");
        let health: Vec<(&Value, &Value)> = statuses
            .iter()
            .filter(|status| status["reason"] == "REASON_TASK_HEALTH_CHECK_STATUS_UPDATED")
            .map(|status| (&status["healthy"], &status["message"]))
            .collect();
        let (sick, well) = (json!("the feet hurt"), json!("a rest has helped"));
        assert_eq!(health, [(&json!(false), &sick), (&json!(true), &well)]);
        // Eleven steps in less than two seconds, and two words about its health.
        assert!(statuses.len() <= 9, "{statuses:?}");
    }
}

#[test]
fn messages_go_both_ways_and_what_is_none_harms_nobody() {
    let (cluster, files) = (Cluster::start(1), files());
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    for form in FORMS {
        let offer = scheduler.offer();
        let task = task(
            form,
            &offer,
            &files.url(&format!("/{form}.wasm")),
            &["echo"],
            json!({}),
        );
        assert_eq!(scheduler.launch(&offer, &[task]).status, 202);
        let running = scheduler.until(form, "TASK_RUNNING");
        let (ready, event) = message(&mut scheduler);
        assert_eq!(ready, json!({ "task_id": form, "text": "ready" }));
        let (agent, executor) = (&event["agent_id"], &event["executor_id"]);
        // The executor that the event names, and the one that the task's statuses name.
        for executor in [executor, &running["executor_id"]] {
            say(&scheduler, agent, executor, b"hello");
            say(
                &scheduler,
                agent,
                executor,
                br#"{"task_id":"nobody","text":"x"}"#,
            );
            say(
                &scheduler,
                agent,
                executor,
                json!({ "task_id": form, "text": "ä" })
                    .to_string()
                    .as_bytes(),
            );
            assert_eq!(message(&mut scheduler).0["text"], "echo ä");
        }
        say(
            &scheduler,
            agent,
            executor,
            json!({ "task_id": form, "data": "/wA=" })
                .to_string()
                .as_bytes(),
        );
        let (echo, _) = message(&mut scheduler);
        let data = BASE64_STANDARD
            .decode(echo["data"].as_str().unwrap())
            .unwrap();
        assert_eq!(data, b"echo \xff\0");
        say(
            &scheduler,
            agent,
            executor,
            json!({ "task_id": form, "text": "bye" })
                .to_string()
                .as_bytes(),
        );
        assert_eq!(message(&mut scheduler).0["text"], "echo bye");
        assert_eq!(scheduler.ended(form)["state"], "TASK_FINISHED");
    }
}

#[test]
fn a_flood_of_all_of_it_is_a_handful_of_statuses() {
    let (cluster, files) = (Cluster::start(1), files());
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    for form in FORMS {
        let url = files.url(&format!("/{form}.wasm"));
        let statuses = run(&mut scheduler, form, &url, &["flood"], json!({}));
        let said = file(&cluster, &scheduler, form, "stdout");
        assert_eq!(said, "refused as many as were dropped: true\n");
        let last = &statuses.last().unwrap()["usage"];
        assert_eq!(last["progress"]["message"], "flooded");
        let seconds = last["wall_time_ns"].as_u64().unwrap() as usize / 1_000_000_000;
        assert!(statuses.len() <= 4 + seconds, "{}", statuses.len());
    }
}

/// One that was told to look after it speaks, and the guest's own word is only noted.
#[test]
fn a_health_check_goes_before_the_guests_own_word() {
    let (cluster, files) = (Cluster::start(1), files());
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let check = json!({
        "type": "COMMAND", "delay_seconds": 0, "interval_seconds": 60, "command": { "value": "true" },
    });
    let more = json!({ "health_check": check });
    let statuses = run(
        &mut scheduler,
        "checked",
        &files.url("/module.wasm"),
        &["health"],
        more,
    );
    assert!(
        statuses.iter().all(|status| status["healthy"] != false),
        "{statuses:?}"
    );
    let said = file(&cluster, &scheduler, "checked", "stderr");
    assert!(said.contains("the task has a health check"), "{said}");
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(40)))
        .unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    // One chunk at most: the answers are short.
    match head.to_lowercase().contains("transfer-encoding: chunked") {
        true => body.split("\r\n").nth(1).unwrap_or_default().to_owned(),
        false => body.to_owned(),
    }
}

/// Launches the service; where it listens, and the status that says so.
fn service(
    scheduler: &mut Scheduler,
    files: &FileServer,
    id: &str,
    mut more: Value,
) -> (String, Value) {
    let offer = scheduler.offer();
    let port = offer["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|resource| resource["name"] == "ports")
        .map(|resource| &resource["ranges"]["range"][0])
        .unwrap();
    let bounds = ["begin", "end"].map(|bound| port[bound].as_u64().unwrap());
    // Agents of other tests offer the same ones.
    let port = (bounds[0]..=bounds[1])
        .find(|port| std::net::TcpListener::bind(format!("127.0.0.1:{port}")).is_ok())
        .unwrap();
    let mut service = task(id, &offer, &files.url("/service.wasm"), &[], json!({}));
    service["resources"].as_array_mut().unwrap().push(json!({
        "name": "ports", "type": "RANGES", "ranges": { "range": [{ "begin": port, "end": port }] },
    }));
    if let Some(name) = more.as_object_mut().and_then(|more| more.remove("service")) {
        more["discovery"] = json!({
            "visibility": "CLUSTER", "name": name,
            "ports": { "ports": [{ "number": port, "name": "http", "protocol": "tcp" }] },
        });
    }
    for (key, value) in more.as_object().unwrap() {
        service[key] = value.clone();
    }
    assert_eq!(
        scheduler
            .accept(
                &offer,
                json!({ "type": "LAUNCH", "launch": { "task_infos": [service] } })
            )
            .status,
        202
    );
    let running = scheduler.until(id, "TASK_RUNNING");
    let address = running["message"]
        .as_str()
        .unwrap()
        .strip_prefix("listening on ");
    (address.unwrap().to_owned(), running)
}

#[test]
fn a_service_has_it_too() {
    let (cluster, files) = (Cluster::start(1), files());
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let more = json!({ "labels": labels(&[("tepui.attempt", "4")]) });
    let (address, running) = service(&mut scheduler, &files, "serving", more);
    assert_eq!(get(&address, "/who"), "serving 4");
    assert_eq!(get(&address, "/say?hi"), "said");
    let (said, event) = message(&mut scheduler);
    assert_eq!(said, json!({ "task_id": "serving", "text": "hi" }));
    let asking = std::thread::spawn({
        let address = address.clone();
        move || get(&address, "/next")
    });
    say(
        &scheduler,
        &event["agent_id"],
        &running["executor_id"],
        br#"{"task_id":"serving","text":"work"}"#,
    );
    assert_eq!(asking.join().unwrap(), "work");
    assert_eq!(get(&address, "/sick?tired"), "sick");
    let sick = scheduler.status();
    assert_eq!(
        (&sick["healthy"], &sick["message"]),
        (&json!(false), &json!("tired"))
    );
    // Whoever waits for a message does not hold up the end.
    let asking = std::thread::spawn({
        let address = address.clone();
        move || get(&address, "/next")
    });
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(scheduler.kill("serving").status, 202);
    assert_eq!(asking.join().unwrap(), "nothing");
    assert_eq!(scheduler.ended("serving")["state"], "TASK_KILLED");
}

#[test]
fn a_jobs_store_outlives_tasks_frameworks_and_the_master() {
    let (mut cluster, files) = (Cluster::start(1), files());
    let of_job = json!({ "labels": labels(&[("tepui.job", "guide")]) });
    let mut visits = 0;
    for form in FORMS {
        let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
        let url = files.url(&format!("/{form}.wasm"));
        for id in ["first", "second"] {
            run(&mut scheduler, id, &url, &["count"], of_job.clone());
            visits += 1;
            let said = file(&cluster, &scheduler, id, "stdout");
            let expected =
                format!("visit {visits}\nit is there: true\nkeys [\"visits/tour\"]\ngone: true\n");
            assert_eq!(said, expected);
        }
        run(&mut scheduler, "jobless", &url, &["count"], json!({}));
        let said = file(&cluster, &scheduler, "jobless", "stdout");
        assert!(said.starts_with("count: NoJob: "), "{said}");
        assert_eq!(scheduler.call(json!({ "type": "TEARDOWN" })).status, 202);
        cluster.master.start_again();
        cluster.wait_for_agents(1);
    }
}

#[test]
fn services_are_found_by_name_with_their_health() {
    let (cluster, files) = (Cluster::start(1), files());
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let more = json!({ "service": "web", "labels": labels(&[("tepui.job", "web")]) });
    let (address, _) = service(&mut scheduler, &files, "serving", more);
    assert_eq!(get(&address, "/find?web"), format!("{address} None\n"));
    assert_eq!(get(&address, "/find?nobody"), "");
    assert_eq!(get(&address, "/sick?tired"), "sick");
    assert_eq!(scheduler.status()["healthy"], false);
    assert_eq!(
        get(&address, "/find?web"),
        format!("{address} Some(false)\n")
    );
    assert_eq!(get(&address, "/visit"), "1");
    assert_eq!(get(&address, "/visit"), "2");
    for form in FORMS {
        let url = files.url(&format!("/{form}.wasm"));
        run(&mut scheduler, form, &url, &["find=web"], json!({}));
        let said = file(&cluster, &scheduler, form, "stdout");
        assert_eq!(said, format!("web answers at {address} (serving)\n"));
    }
}
