//! Who must prove who they are to an agent, and what they may do and see there.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use serde_json::{Value, json};
use tepui_tests::{Cluster, Response, Scheduler, request};

/// base64 of `ann:tea`, `bob:rum` and `ann:rum`.
const ANN: &str = "Basic YW5uOnRlYQ==";
const BOB: &str = "Basic Ym9iOnJ1bQ==";
const LIAR: &str = "Basic YW5uOnJ1bQ==";

/// A cluster whose agent asks everybody, with a task of root's that runs.
struct Site {
    _cluster: Cluster,
    _scheduler: Scheduler,
    agent: String,
    status: Value,
}

fn guarded(flags: &[&str]) -> Site {
    let mut cluster = Cluster::master_alone(&[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials.json");
    let known = json!({ "credentials": [
        { "principal": "ann", "secret": "tea" },
        { "principal": "bob", "secret": "rum" },
    ]});
    std::fs::write(&file, known.to_string()).unwrap();
    let file = format!("--http_credentials={}", file.display());
    let mut words = vec![
        file.as_str(),
        "--authenticate_http_readonly",
        "--authenticate_http_readwrite",
        "--resources=cpus:2;mem:1024;disk:1024",
    ];
    words.extend(flags);
    cluster.add_agent(&words);
    cluster.wait_for_agents(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let offer = scheduler.offer();
    let task = Scheduler::task("job", &offer, "echo of root; exec sleep 1000");
    assert_eq!(scheduler.launch(&offer, &[task]).status, 202);
    let status = scheduler.until("job", "TASK_RUNNING");
    Site {
        agent: cluster.agents[0].address.clone(),
        _cluster: cluster,
        _scheduler: scheduler,
        status,
    }
}

impl Site {
    fn get(&self, path: &str, who: Option<&str>) -> Response {
        let headers: Vec<_> = who.map(|who| ("Authorization", who)).into_iter().collect();
        request(&self.agent, "GET", path, &headers, b"").unwrap()
    }

    fn call(&self, call: &Value, who: Option<&str>) -> Response {
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(who.map(|who| ("Authorization", who)));
        let body = call.to_string();
        request(&self.agent, "POST", "/api/v1", &headers, body.as_bytes()).unwrap()
    }

    fn sandbox(&self, who: &str) -> String {
        let state = self.get("/state", Some(who)).json();
        let directory = &state["frameworks"][0]["executors"][0]["directory"];
        directory.as_str().unwrap().to_owned()
    }

    fn session(&self, user: Option<&str>) -> Value {
        let mut command = json!({ "value": "id -un" });
        command["user"] = json!(user);
        let id =
            json!({ "value": "peek", "parent": self.status["container_status"]["container_id"] });
        json!({ "type": "LAUNCH_NESTED_CONTAINER_SESSION",
                "launch_nested_container_session": { "container_id": id, "command": command } })
    }
}

#[test]
fn an_agent_asks_who_is_there_before_anything_else() {
    let site = guarded(&[]);
    for who in [
        None,
        Some(LIAR),
        Some("Basic ?"),
        Some("Bearer YW5uOnRlYQ=="),
    ] {
        for path in [
            "/state",
            "/slave(1)/state.json",
            "/slave%281%29/state",
            "/flags",
            "/metrics/snapshot",
            "/monitor/statistics",
            "/containers",
            "/files/browse?path=/",
            "/files/read?path=/slave/log",
            "/files/download?path=/slave/log",
            "/files/debug",
            "/nowhere",
        ] {
            let refused = site.get(path, who);
            assert_eq!(refused.status, 401, "{path} as {who:?}");
            assert_eq!(
                refused.header("www-authenticate"),
                Some("Basic realm=\"mesos-agent-readonly\"")
            );
        }
        let refused = site.call(&json!({ "type": "GET_STATE" }), who);
        assert_eq!(refused.status, 401, "{who:?}");
        assert_eq!(
            refused.header("www-authenticate"),
            Some("Basic realm=\"mesos-agent-readwrite\"")
        );
    }
    for path in ["/health", "/version"] {
        assert_eq!(site.get(path, None).status, 200, "{path}");
    }
    // An executor shows a token and no credentials: it is asked for what its call lacks.
    let executor = request(&site.agent, "POST", "/api/v1/executor", &[], b"").unwrap();
    assert_eq!(executor.status, 400, "{}", executor.text());

    let path = format!("/files/read?path={}/stdout&offset=0", site.sandbox(BOB));
    assert_eq!(site.get(&path, Some(BOB)).json()["data"], "of root\n");
    let state = site.call(&json!({ "type": "GET_STATE" }), Some(BOB)).json();
    let tasks = &state["get_state"]["get_tasks"]["launched_tasks"];
    assert_eq!(tasks[0]["task_id"]["value"], "job", "{state}");
}

#[test]
fn lists_decide_what_a_principal_may_do_and_see_on_an_agent() {
    let only_ann = |object: &str| {
        json!([{ "principals": { "values": ["ann"] }, object: { "type": "ANY" } },
               { "principals": { "type": "NONE" }, object: { "type": "ANY" } }])
    };
    let acls = json!({
        "view_frameworks": only_ann("users"),
        "view_containers": only_ann("users"),
        "access_sandboxes": only_ann("users"),
        "access_mesos_logs": only_ann("logs"),
        "view_flags": only_ann("flags"),
        "set_log_level": only_ann("level"),
        "get_endpoints": [{ "principals": { "type": "NONE" }, "paths": { "values": ["/monitor/statistics"] } }],
        "launch_nested_container_sessions_as_user": [
            { "principals": { "values": ["ann"] }, "users": { "values": ["nobody"] } },
            { "principals": { "type": "NONE" }, "users": { "type": "ANY" } }],
        "launch_nested_container_sessions_under_parent_with_user": only_ann("users"),
        "launch_standalone_containers": only_ann("users"),
        "wait_nested_containers": only_ann("users"),
    });
    let site = guarded(&[&format!("--acls={acls}")]);
    let ends = |response: Response, list: &str| {
        assert_eq!(response.status, 403, "{}", response.text());
        let says = format!("ACL '{list}'");
        assert!(response.text().contains(&says), "{}", response.text());
    };

    // What bob may not see is not there for him.
    let state = site.get("/state", Some(BOB)).json();
    assert_eq!(state["frameworks"], json!([]));
    assert!(state.get("flags").is_none(), "{state}");
    let state = site.get("/state", Some(ANN)).json();
    assert_eq!(state["frameworks"][0]["executors"][0]["id"], "job");
    assert!(state["flags"].is_object());
    for (kind, field) in [
        ("GET_TASKS", "launched_tasks"),
        ("GET_EXECUTORS", "executors"),
        ("GET_FRAMEWORKS", "frameworks"),
        ("GET_CONTAINERS", "containers"),
    ] {
        let seen = |who| {
            let answer = site.call(&json!({ "type": kind }), Some(who)).json();
            let answer = &answer[kind.to_lowercase()][field];
            answer.as_array().map_or(0, Vec::len)
        };
        assert_eq!((seen(ANN), seen(BOB)), (1, 0), "{kind}");
    }

    ends(site.get("/flags", Some(BOB)), "view_flags");
    ends(
        site.call(&json!({ "type": "GET_FLAGS" }), Some(BOB)),
        "view_flags",
    );
    ends(site.get("/monitor/statistics", Some(ANN)), "get_endpoints");
    assert_eq!(site.get("/containers", Some(BOB)).json(), json!([]));
    let raise = json!({ "type": "SET_LOGGING_LEVEL",
        "set_logging_level": { "level": 1, "duration": { "nanoseconds": 1 } } });
    ends(site.call(&raise, Some(BOB)), "set_log_level");

    // Files.
    ends(
        site.get("/files/read?path=/slave/log", Some(BOB)),
        "access_mesos_logs",
    );
    let sandbox = site.sandbox(ANN);
    let read = |path: &str| {
        json!({ "type": "READ_FILE",
                "read_file": { "path": path, "offset": 0 } })
    };
    let file = format!("{sandbox}/stdout");
    assert_eq!(site.call(&read(&file), Some(ANN)).status, 200);
    ends(site.call(&read(&file), Some(BOB)), "access_sandboxes");
    for page in ["browse", "read", "download"] {
        for path in [&sandbox, &file, "/slaves", "/frameworks/unknown"] {
            let page = format!("/files/{page}?path={path}");
            ends(site.get(&page, Some(BOB)), "access_sandboxes");
        }
    }
    assert_eq!(
        site.get("/files/debug", Some(BOB))
            .json()
            .as_object()
            .unwrap()
            .len(),
        2,
        "only the two names of the log"
    );

    // Containers.
    let list = "launch_nested_container_sessions_as_user";
    ends(site.call(&site.session(None), Some(ANN)), list);
    ends(site.call(&site.session(Some("nobody")), Some(BOB)), list);
    let answer = site.call(&site.session(Some("nobody")), Some(ANN));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let alone = json!({ "type": "LAUNCH_CONTAINER", "launch_container": {
        "container_id": { "value": "alone" }, "command": { "value": "true" } } });
    ends(site.call(&alone, Some(BOB)), "launch_standalone_containers");
    assert_eq!(site.call(&alone, Some(ANN)).status, 200);
}

#[test]
fn an_agent_that_knows_nobody_does_not_ask() {
    let cluster = Cluster::master_alone(&[]);
    let agent = ["agent", "--port", "0", "--authenticate_http_readonly"];
    let ended = cluster.tepui(&agent);
    assert!(
        ended.code != 0 && ended.stderr.contains("--http_credentials"),
        "{ended:?}"
    );
}
