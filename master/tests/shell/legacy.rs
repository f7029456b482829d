//! What tools from before the v1 API read and change.

use std::io::Write as _;

use tepui_api::json;
use tepui_api::v1::master;

use crate::support::{FakeAgent, JSON, SUBSCRIBE, Subscription, get, master, operator, send};

#[tokio::test]
async fn a_framework_is_torn_down_by_a_form() {
    let master = master().await;
    let at = master.running.address();
    let mut scheduler = Subscription::open(at, SUBSCRIBE).await;
    for (form, status) in [("frameworkId=nobody", 400), ("framework=x", 400), ("", 400)] {
        let response = send(at, "POST", "/teardown", &[], form.as_bytes()).await;
        assert_eq!(response.status, status, "{form}: {}", response.text());
    }
    let response = send(at, "GET", "/master/teardown", &[], b"").await;
    assert_eq!(
        (response.status, response.header("allow")),
        (405, Some("POST"))
    );
    // Every byte may be encoded.
    let id: String = scheduler
        .framework_id
        .value
        .bytes()
        .map(|byte| format!("%{byte:02x}"))
        .collect();
    let form = format!("frameworkId={id}");
    let response = send(at, "POST", "/master/teardown", &[], form.as_bytes()).await;
    assert_eq!((response.status, response.text().as_str()), (200, ""));
    while scheduler.event().await.is_some() {}
    let state = get(at, "/state").await.json();
    assert_eq!(state["frameworks"].as_array().unwrap().len(), 0);
    let completed = &state["completed_frameworks"][0];
    assert_eq!(completed["id"], scheduler.framework_id.value.as_str());
}

#[tokio::test]
async fn weights_are_put_and_read_as_arrays() {
    let master = master().await;
    let at = master.running.address();
    assert_eq!(get(at, "/weights").await.json(), serde_json::json!([]));
    let infos = br#"[{"role": "ads", "weight": 2.5}]"#;
    let response = send(at, "PUT", "/weights", &[], infos).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(
        get(at, "/master/weights").await.json(),
        serde_json::json!([{ "role": "ads", "weight": 2.5 }])
    );
    for (method, body, status) in [
        ("PUT", &br#"[{"role": "ads", "weight": -1}]"#[..], 400),
        ("PUT", br#"{"role": "ads", "weight": 1}"#, 400),
        ("PUT", b"nonsense", 400),
        ("POST", infos, 405),
    ] {
        let response = send(at, method, "/weights", &[], body).await;
        assert_eq!(response.status, status, "{method}: {}", response.text());
    }
    let padded = get(at, "/weights?jsonp=f").await;
    assert!(padded.text().starts_with("f(["), "{}", padded.text());
}

/// A legacy path answers as the v1 call does that it stands for, whatever that is.
#[tokio::test]
async fn each_write_is_the_v1_call_it_stands_for() {
    let master = master().await;
    let at = master.running.address();
    let (_agent, id) = FakeAgent::register(at).await;
    let id = id.value;
    let resource = r#"{"name": "cpus", "type": "SCALAR", "scalar": {"value": 1000}, "reservations": [{"type": "DYNAMIC", "role": "r"}]}"#;
    let volume = r#"{"name": "disk", "type": "SCALAR", "scalar": {"value": 1}}"#;
    let machines = r#"[{"hostname": "nowhere"}]"#;
    let cases = [
        ("POST", "/reserve", format!("slaveId={id}&resources=[{resource}]"),
            format!(r#"{{"type": "RESERVE_RESOURCES", "reserve_resources": {{"agent_id": {{"value": "{id}"}}, "resources": [{resource}]}}}}"#)),
        ("POST", "/unreserve", format!("slaveId={id}&resources=[{resource}]"),
            format!(r#"{{"type": "UNRESERVE_RESOURCES", "unreserve_resources": {{"agent_id": {{"value": "{id}"}}, "resources": [{resource}]}}}}"#)),
        ("POST", "/create-volumes", format!("slaveId={id}&volumes=[{volume}]"),
            format!(r#"{{"type": "CREATE_VOLUMES", "create_volumes": {{"agent_id": {{"value": "{id}"}}, "volumes": [{volume}]}}}}"#)),
        ("POST", "/destroy-volumes", format!("slaveId={id}&volumes=[{volume}]"),
            format!(r#"{{"type": "DESTROY_VOLUMES", "destroy_volumes": {{"agent_id": {{"value": "{id}"}}, "volumes": [{volume}]}}}}"#)),
        ("POST", "/machine/down", machines.to_owned(),
            format!(r#"{{"type": "START_MAINTENANCE", "start_maintenance": {{"machines": {machines}}}}}"#)),
        ("POST", "/machine/up", machines.to_owned(),
            format!(r#"{{"type": "STOP_MAINTENANCE", "stop_maintenance": {{"machines": {machines}}}}}"#)),
        ("POST", "/maintenance/schedule", r#"{"windows": [{"machine_ids": [], "unavailability": {"start": {"nanoseconds": 1}}}]}"#.to_owned(),
            r#"{"type": "UPDATE_MAINTENANCE_SCHEDULE", "update_maintenance_schedule": {"schedule": {"windows": [{"machine_ids": [], "unavailability": {"start": {"nanoseconds": 1}}}]}}}"#.to_owned()),
        ("POST", "/quota", r#"{"role": "a/b"}"#.to_owned(),
            r#"{"type": "SET_QUOTA", "set_quota": {"quota_request": {"role": "a/b"}}}"#.to_owned()),
        ("DELETE", "/quota/nobody", String::new(),
            r#"{"type": "REMOVE_QUOTA", "remove_quota": {"role": "nobody"}}"#.to_owned()),
    ];
    for (method, path, body, call) in cases {
        let legacy = send(at, method, path, &[], body.as_bytes()).await;
        let v1 = send(at, "POST", "/api/v1", &[JSON], call.as_bytes()).await;
        assert!(legacy.status >= 400, "{path}: {}", legacy.text());
        assert_eq!(
            (legacy.status, legacy.text()),
            (v1.status, v1.text()),
            "{path}"
        );
        let wrong = send(at, "PATCH", path, &[], b"").await;
        assert_eq!(wrong.status, 405, "{path}");
        assert!(
            wrong
                .header("allow")
                .is_some_and(|allow| allow.contains(method))
        );
    }
    for (path, form) in [
        ("/reserve", "resources=[]"),
        ("/reserve", "slaveId=a"),
        ("/reserve", "slaveId=a&resources=nonsense"),
        ("/create-volumes", "slaveId=a&volumes={}"),
        ("/machine/down", "{}"),
        ("/machine/up", "nonsense"),
        ("/maintenance/schedule", "nonsense"),
        ("/quota", "nonsense"),
    ] {
        let response = send(at, "POST", path, &[], form.as_bytes()).await;
        assert_eq!(response.status, 400, "{path} {form}: {}", response.text());
    }
}

/// The log is that of this process, which other tests write to as well.
#[tokio::test]
async fn the_masters_log_is_a_file_to_read() {
    let master = master().await;
    let at = master.running.address();
    let marker = format!("marker {}", std::process::id());
    writeln!(tepui_master::Log, "{marker}").unwrap();
    let listed = get(at, "/files/browse?path=/master/log").await.json();
    assert_eq!(listed[0]["path"], "/master/log");
    assert_eq!(listed[0]["mode"], "-rw-r--r--");
    let size = get(at, "/files/read.json?path=/master/log&offset=-1")
        .await
        .json();
    assert!(size["offset"].as_u64().unwrap() >= marker.len() as u64);
    assert_eq!(size["data"], "");
    let read = get(at, "/master/files/read?path=/master/log&offset=0")
        .await
        .json();
    assert!(read["data"].as_str().unwrap().contains(&marker));
    let part = get(at, "/files/read?path=/master/log&offset=1&length=4")
        .await
        .json();
    assert_eq!(
        (part["offset"].as_u64(), part["data"].as_str().map(str::len)),
        (Some(1), Some(4))
    );
    let far = get(at, "/files/read?path=/master/log&offset=99999999")
        .await
        .json();
    assert_eq!(far["data"], "");
    let download = get(at, "/files/download?path=/master/log").await;
    assert!(download.text().contains(&marker));
    assert!(download.header("content-disposition").is_some());
    assert!(get(at, "/files/debug").await.json()["/master/log"].is_string());
    for (query, status) in [
        ("/files/read", 400),
        ("/files/browse?path=", 400),
        ("/files/read?path=/master/log&offset=x", 400),
        ("/files/read?path=/master/log&offset=-2", 400),
        ("/files/read?path=/master/log&offset=0&length=-2", 400),
        ("/files/read?path=/master&offset=0", 400),
        ("/files/read?path=/etc/passwd&offset=0", 404),
        ("/files/download?path=/master/log/../../etc/passwd", 404),
        ("/files/browse?path=/nothing", 404),
    ] {
        assert_eq!(get(at, query).await.status, status, "{query}");
    }
    let call = r#"{"type": "READ_FILE", "read_file": {"path": "/master/log", "offset": 0}}"#;
    let read = operator(at, call).await.read_file.unwrap();
    assert!(read.size >= read.data.len() as u64);
    assert!(String::from_utf8_lossy(&read.data).contains(&marker));
    let call = r#"{"type": "LIST_FILES", "list_files": {"path": "/"}}"#;
    let listed = operator(at, call).await.list_files.unwrap().file_infos;
    assert_eq!(listed[0].path, "/master/log");
    let call = br#"{"type": "READ_FILE", "read_file": {"path": "/nothing", "offset": 0}}"#;
    assert_eq!(send(at, "POST", "/api/v1", &[JSON], call).await.status, 404);
}

#[tokio::test]
async fn the_level_of_the_log_is_changed_for_a_while() {
    let master = master().await;
    let at = master.running.address();
    let level = async || {
        let answer = operator(at, r#"{"type": "GET_LOGGING_LEVEL"}"#).await;
        answer.get_logging_level.unwrap().level
    };
    assert_eq!(level().await, 0);
    let call = br#"{"type": "SET_LOGGING_LEVEL",
        "set_logging_level": {"level": 2, "duration": {"nanoseconds": 60000000000}}}"#;
    let response = send(at, "POST", "/api/v1", &[JSON], call).await;
    assert_eq!((response.status, response.text().as_str()), (200, ""));
    assert_eq!(level().await, 2);
    assert_eq!(get(at, "/logging/toggle").await.text(), "2\n");
    let response = get(at, "/logging/toggle?level=1&duration=1ms").await;
    assert_eq!(response.status, 200);
    crate::support::soon("the level to go back", async {
        while level().await != 0 {}
    })
    .await;
    for query in [
        "level=1",
        "duration=1secs",
        "level=-1&duration=1secs",
        "level=x&duration=1secs",
        "level=1&duration=soon",
    ] {
        let response = get(at, &format!("/logging/toggle?{query}")).await;
        assert_eq!(response.status, 400, "{query}");
    }
    let call = br#"{"type": "SET_LOGGING_LEVEL",
        "set_logging_level": {"level": 2, "duration": {"nanoseconds": -1}}}"#;
    assert_eq!(send(at, "POST", "/api/v1", &[JSON], call).await.status, 400);
}

#[tokio::test]
async fn a_call_without_the_message_it_needs_is_refused_by_the_name_of_that() {
    let master = master().await;
    let at = master.running.address();
    for call in [
        "GET_METRICS",
        "SET_LOGGING_LEVEL",
        "LIST_FILES",
        "READ_FILE",
        "UPDATE_WEIGHTS",
        "RESERVE_RESOURCES",
        "UNRESERVE_RESOURCES",
        "CREATE_VOLUMES",
        "DESTROY_VOLUMES",
        "GROW_VOLUME",
        "SHRINK_VOLUME",
        "UPDATE_MAINTENANCE_SCHEDULE",
        "START_MAINTENANCE",
        "STOP_MAINTENANCE",
        "DRAIN_AGENT",
        "DEACTIVATE_AGENT",
        "REACTIVATE_AGENT",
        "UPDATE_QUOTA",
        "SET_QUOTA",
        "REMOVE_QUOTA",
        "TEARDOWN",
        "MARK_AGENT_GONE",
    ] {
        let body = format!(r#"{{"type": "{call}"}}"#);
        // Before it is looked at what the client accepts.
        let headers = [JSON, ("Accept", "text/html")];
        let response = send(at, "POST", "/api/v1", &headers, body.as_bytes()).await;
        assert_eq!(response.status, 400, "{call}: {}", response.text());
        let field = format!("'{}'", call.to_lowercase());
        assert!(response.text().contains(&field), "{}", response.text());
    }
}

#[tokio::test]
async fn long_answers_are_compressed_whoever_renders_them() {
    let master = master().await;
    let at = master.running.address();
    let gzip = ("Accept-Encoding", "gzip");
    for path in ["/flags", "/metrics/help", "/metrics/snapshot", "/state"] {
        let plain = get(at, path).await;
        let response = send(at, "GET", path, &[gzip], b"").await;
        let packed = response.header("content-encoding") == Some("gzip");
        assert_eq!(packed, plain.body.len() >= 1024, "{path}");
    }
    let call =
        br#"{"type": "GET_METRICS", "get_metrics": {"timeout": {"nanoseconds": 5000000000}}}"#;
    let response = send(at, "POST", "/api/v1", &[JSON, gzip], call).await;
    assert_eq!(response.header("content-encoding"), Some("gzip"));
    let response = send(at, "POST", "/api/v1", &[JSON], call).await;
    let answer: master::Response = json::from_slice(&response.body).unwrap();
    assert!(answer.get_metrics.unwrap().metrics.len() > 50);
}

#[tokio::test]
async fn the_log_its_level_and_the_flags_are_for_those_whom_the_lists_let() {
    let acls = r#"{ "access_mesos_logs": [{ "principals": { "type": "NONE" }, "logs": { "type": "ANY" } }],
        "set_log_level": [{ "principals": { "type": "NONE" }, "level": { "type": "ANY" } }],
        "view_flags": [{ "principals": { "type": "NONE" }, "flags": { "type": "ANY" } }] }"#;
    let acls = std::sync::Arc::new(tepui_access::Acls::parse(acls).unwrap());
    let master = crate::support::master_with(|config| config.core.acls = acls).await;
    let at = master.running.address();
    for path in [
        "/files/browse?path=/master/log",
        "/files/read?path=/master/log",
        "/files/download?path=/master/log",
        "/logging/toggle?level=1&duration=1secs",
        "/flags",
    ] {
        assert_eq!(get(at, path).await.status, 403, "{path}");
    }
    for call in [
        r#"{"type": "READ_FILE", "read_file": {"path": "/master/log", "offset": 0}}"#,
        r#"{"type": "LIST_FILES", "list_files": {"path": "/master/log"}}"#,
        r#"{"type": "GET_FLAGS"}"#,
        r#"{"type": "SET_LOGGING_LEVEL",
            "set_logging_level": {"level": 1, "duration": {"nanoseconds": 1}}}"#,
    ] {
        let response = send(at, "POST", "/api/v1", &[JSON], call.as_bytes()).await;
        assert_eq!(response.status, 403, "{call}: {}", response.text());
    }
}

#[tokio::test]
async fn a_framework_is_shown_the_ports_it_is_offered() {
    let master = master().await;
    let at = master.running.address();
    let (_agent, _) = FakeAgent::register(at).await;
    let mut scheduler = Subscription::open(at, SUBSCRIBE).await;
    while scheduler.event().await.unwrap().offers.is_none() {}
    for path in ["/state", "/frameworks", "/state-summary"] {
        let answer = get(at, path).await.json();
        let framework = &answer["frameworks"][0];
        assert_eq!(
            framework["offered_resources"]["ports"], "[31000-31009]",
            "{path}: {answer}"
        );
    }
    let answer = operator(at, r#"{"type": "GET_FRAMEWORKS"}"#).await;
    let frameworks = answer.get_frameworks.unwrap().frameworks;
    let offered = &frameworks[0].offered_resources;
    assert!(offered.iter().any(|resource| resource.name == "ports"));
}
