//! Who must prove who they are, and what they may do and see then.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use serde_json::{Value, json};
use tepui_tests::{Cluster, Response, request, wait_until};

const ANN: &str = "ann:tea";
/// base64 of `ann:tea`, `bob:rum` and `ann:rum`.
const HEADER_OF_ANN: &str = "Basic YW5uOnRlYQ==";
const HEADER_OF_BOB: &str = "Basic Ym9iOnJ1bQ==";
const HEADER_OF_A_LIAR: &str = "Basic YW5uOnJ1bQ==";

/// A master that asks everybody, with one agent that ann started.
fn guarded(flags: &[&str]) -> Cluster {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials.json");
    let known = json!({ "credentials": [
        { "principal": "ann", "secret": "tea" },
        { "principal": "bob", "secret": "rum" },
    ]});
    std::fs::write(&file, known.to_string()).unwrap();
    let file = file.display().to_string();
    let mut words = vec![
        "--credentials",
        &file,
        "--authenticate-http-frameworks",
        "--authenticate-http-readonly",
        "--authenticate-http-readwrite",
        "--authenticate-agents",
    ];
    words.extend(flags);
    let mut cluster = Cluster::master_alone(&words);
    cluster.add_agent(&["--credential", ANN, "--resources", "cpus:2;mem:1024"]);
    wait_until("the agent to register", || {
        let agents = cluster.json(&["agents", "--json", "--credential", ANN]);
        (agents.as_array()?.len() == 1).then_some(())
    });
    cluster
}

fn ask(cluster: &Cluster, method: &str, path: &str, who: Option<&str>, body: &Value) -> Response {
    let mut headers = vec![("Content-Type", "application/json")];
    headers.extend(who.map(|who| ("Authorization", who)));
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    request(
        &cluster.master.address,
        method,
        path,
        &headers,
        body.as_bytes(),
    )
    .unwrap()
}

fn subscribe() -> Value {
    json!({ "type": "SUBSCRIBE", "subscribe": { "framework_info": { "user": "root", "name": "x" } } })
}

#[test]
fn a_caller_who_proves_nothing_is_asked_for_credentials_before_anything_else() {
    let cluster = guarded(&[]);
    for (method, path, realm) in [
        ("POST", "/api/v1/scheduler", "mesos-master-scheduler"),
        ("GET", "/api/v1/scheduler", "mesos-master-scheduler"),
        ("POST", "/api/v1", "mesos-master-readwrite"),
        ("GET", "/state", "mesos-master-readonly"),
        ("GET", "/master/state.json", "mesos-master-readonly"),
        ("GET", "/metrics/snapshot", "mesos-master-readonly"),
        ("POST", "/tepui/v1/agent-link", "tepui-master-agent"),
    ] {
        for who in [
            None,
            Some(HEADER_OF_A_LIAR),
            Some("Basic ?"),
            Some("Bearer YW5uOnRlYQ=="),
        ] {
            let response = ask(&cluster, method, path, who, &Value::Null);
            assert_eq!(response.status, 401, "{method} {path} as {who:?}");
            let challenge = format!("Basic realm=\"{realm}\"");
            assert_eq!(
                response.header("www-authenticate"),
                Some(challenge.as_str())
            );
        }
    }
    for path in ["/health", "/version", "/redirect"] {
        assert!(
            ask(&cluster, "GET", path, None, &Value::Null).status < 400,
            "{path}"
        );
    }
    assert_eq!(
        ask(&cluster, "GET", "/state", Some(HEADER_OF_BOB), &Value::Null).status,
        200
    );

    let ended = cluster.tepui(&["run", "--credential", ANN, "--", "echo", "let in"]);
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (0, "let in\n"),
        "{ended:?}"
    );
    let ended = cluster.tepui(&["ps"]);
    assert!(
        ended.code != 0 && ended.stderr.contains("needs credentials"),
        "{ended:?}"
    );
}

#[test]
fn a_framework_is_its_principals_and_nobody_elses() {
    let cluster = guarded(&[]);
    let mut call = subscribe();
    call["subscribe"]["framework_info"]["principal"] = json!("ann");
    let refused = ask(
        &cluster,
        "POST",
        "/api/v1/scheduler",
        Some(HEADER_OF_BOB),
        &call,
    );
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("principal"), "{}", refused.text());
}

#[test]
fn lists_decide_what_a_principal_may_do_and_see() {
    let acls = json!({
        "run_tasks": [{ "principals": { "values": ["ann"] }, "users": { "type": "ANY" } },
                      { "principals": { "type": "ANY" }, "users": { "values": ["nobody"] } },
                      { "principals": { "type": "NONE" }, "users": { "values": ["root"] } }],
        "view_frameworks": [{ "principals": { "values": ["ann"] }, "users": { "type": "ANY" } },
                            { "principals": { "type": "NONE" }, "users": { "type": "ANY" } }],
        "access_sandboxes": [{ "principals": { "values": ["ann"] }, "users": { "type": "ANY" } },
                             { "principals": { "type": "NONE" }, "users": { "type": "ANY" } }],
        "update_weights": [{ "principals": { "type": "NONE" }, "roles": { "values": ["prod"] } }],
    });
    let cluster = guarded(&["--acls", &acls.to_string()]);
    let ended = cluster.tepui(&["run", "--credential", ANN, "--", "echo", "as ann"]);
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (0, "as ann\n"),
        "{ended:?}"
    );
    let tasks = cluster.json(&["ps", "--all", "--json", "--credential", ANN]);
    let task = tasks[0]["task_id"]["value"]
        .as_str()
        .or(tasks[0]["id"].as_str());
    let task = task
        .unwrap_or_else(|| panic!("a task has an id: {tasks}"))
        .to_owned();

    // Bob sees neither the framework nor what its task wrote; the task's name alone does not help him.
    let state = |who| ask(&cluster, "GET", "/state", Some(who), &Value::Null).json();
    assert_eq!(
        state(HEADER_OF_ANN)["completed_frameworks"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(state(HEADER_OF_BOB)["completed_frameworks"], json!([]));
    let logs = format!("/api/v1/tepui/logs?task_id={task}");
    assert_eq!(
        ask(&cluster, "GET", &logs, Some(HEADER_OF_ANN), &Value::Null).text(),
        "as ann\n"
    );
    assert_eq!(
        ask(&cluster, "GET", &logs, Some(HEADER_OF_BOB), &Value::Null).status,
        404
    );

    let weights = |role: &str| {
        let infos = json!([{ "role": role, "weight": 2.0 }]);
        json!({ "type": "UPDATE_WEIGHTS", "update_weights": { "weight_infos": infos } })
    };
    let set = |role: &str| {
        ask(
            &cluster,
            "POST",
            "/api/v1",
            Some(HEADER_OF_BOB),
            &weights(role),
        )
    };
    assert_eq!(set("dev").status, 200);
    let denied = set("prod");
    assert_eq!(denied.status, 403);
    assert!(
        denied.text().contains("update_weights"),
        "{}",
        denied.text()
    );
}

#[test]
fn files_that_make_no_sense_end_the_master_with_a_sentence() {
    let cluster = Cluster::master_alone(&[]);
    let ended = cluster.tepui(&["master", "--port", "0", "--authenticate-agents"]);
    assert!(
        ended.code != 0 && ended.stderr.contains("--credentials"),
        "{ended:?}"
    );
    let ended = cluster.tepui(&["master", "--port", "0", "--acls", r#"{"fly": []}"#]);
    assert!(
        ended.code != 0 && ended.stderr.contains("there is no action 'fly'"),
        "{ended:?}"
    );
    let ended = cluster.tepui(&["master", "--port", "0", "--credentials", "/nowhere"]);
    assert!(
        ended.code != 0 && ended.stderr.contains("/nowhere"),
        "{ended:?}"
    );
}
