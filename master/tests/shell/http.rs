//! Paths, methods, media types and the reads.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use tepui_api::v1::master;
use tepui_api::{json, proto};
use tepui_master::StartError;

use crate::support::{JSON, SUBSCRIBE, config, get, master, master_with, operator, send};

#[tokio::test]
async fn a_call_is_checked_in_the_order_in_which_mesos_does() {
    let master = master().await;
    let at = master.running.address();
    for path in ["/api/v1", "/api/v1/scheduler"] {
        let response = send(
            at,
            "GET",
            path,
            &[("Content-Type", "text/plain")],
            b"nonsense",
        )
        .await;
        assert_eq!(
            (response.status, response.header("allow")),
            (405, Some("POST")),
            "{path}"
        );
        let response = send(at, "POST", path, &[], b"nonsense").await;
        assert_eq!(response.status, 400);
        assert!(
            response.text().contains("'Content-Type' to be present"),
            "{}",
            response.text()
        );
        let response = send(
            at,
            "POST",
            path,
            &[("Content-Type", "text/plain")],
            b"nonsense",
        )
        .await;
        assert_eq!(response.status, 415);
        let response = send(
            at,
            "POST",
            path,
            &[("Content-Type", "application/recordio")],
            b"nonsense",
        )
        .await;
        assert_eq!(response.status, 415);
        for content_type in ["application/json", "application/x-protobuf"] {
            let headers = [("Content-Type", content_type), ("Accept", "text/html")];
            let response = send(at, "POST", path, &headers, b"nonsense").await;
            assert_eq!(response.status, 400, "{path} {content_type}");
        }
        let response = send(at, "POST", path, &[JSON], b"{}").await;
        assert_eq!(response.status, 400);
        assert!(response.text().contains("'type'"), "{}", response.text());
        let response = send(at, "POST", path, &[JSON], br#"{"type": "UNKNOWN"}"#).await;
        assert_eq!(response.status, 501, "{}", response.text());
        // The number of no call.
        let protobuf = [("Content-Type", "application/x-protobuf")];
        let number: &[u8] = match path {
            "/api/v1" => b"\x08\xe7\x07",
            _ => b"\x10\xe7\x07",
        };
        let response = send(at, "POST", path, &protobuf, number).await;
        assert_eq!(response.status, 400, "{path}: {}", response.text());
        assert!(response.text().contains("'type'"), "{}", response.text());
    }
}

/// What is sent so, byte for byte, and what comes back until the master hangs up.
async fn raw(at: std::net::SocketAddr, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(std::time::Duration::from_secs(30), read)
        .await
        .expect("the master hangs up")
        .unwrap();
    answer
}

#[tokio::test]
async fn who_is_refused_before_the_body_came_is_told_that_the_connection_ends() {
    let master = master().await;
    let at = master.running.address();
    for (path, length, status) in [("/api/v1", 1_u64 << 40, "413"), ("/nowhere", 1000, "404")] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        let answer = raw(at, &head).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    }
    let head = "POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answers = raw(at, head).await;
    assert!(
        answers.contains("HTTP/1.1 404") && answers.contains("HTTP/1.1 200"),
        "{answers}"
    );
}

#[tokio::test]
async fn what_the_client_cannot_read_is_not_sent() {
    let master = master().await;
    let at = master.running.address();
    let refusing = [JSON, ("Accept", "text/html")];
    assert_eq!(
        send(
            at,
            "POST",
            "/api/v1",
            &refusing,
            br#"{"type": "GET_HEALTH"}"#
        )
        .await
        .status,
        406
    );
    assert_eq!(
        send(
            at,
            "POST",
            "/api/v1/scheduler",
            &refusing,
            SUBSCRIBE.as_bytes()
        )
        .await
        .status,
        406
    );
    // A SUBSCRIBE without its body is wrong whatever is accepted; other calls have no answer to accept.
    assert_eq!(
        send(
            at,
            "POST",
            "/api/v1/scheduler",
            &refusing,
            br#"{"type": "SUBSCRIBE"}"#
        )
        .await
        .status,
        400
    );
    let reconcile = br#"{"type": "RECONCILE_OPERATIONS", "framework_id": {"value": "nobody"},
        "reconcile_operations": {}}"#;
    assert_eq!(
        send(at, "POST", "/api/v1/scheduler", &refusing, reconcile)
            .await
            .status,
        406
    );
    let decline = br#"{"type": "SUPPRESS", "framework_id": {"value": "nobody"}}"#;
    assert_ne!(
        send(at, "POST", "/api/v1/scheduler", &refusing, decline)
            .await
            .status,
        406
    );
}

#[tokio::test]
async fn a_call_that_is_too_long_is_refused() {
    let master = master_with(|config| config.max_call_bytes = 1000).await;
    let at = master.running.address();
    let call = format!(
        r#"{{"type": "GET_HEALTH", "comment": "{}"}}"#,
        "x".repeat(1000)
    );
    assert_eq!(
        send(at, "POST", "/api/v1", &[JSON], call.as_bytes())
            .await
            .status,
        413
    );
    let mut small = GzEncoder::new(Vec::new(), Compression::best());
    small.write_all(call.as_bytes()).unwrap();
    let small = small.finish().unwrap();
    assert!(small.len() < 1000);
    assert_eq!(
        send(
            at,
            "POST",
            "/api/v1",
            &[JSON, ("Content-Encoding", "gzip")],
            &small
        )
        .await
        .status,
        413
    );
}

#[tokio::test]
async fn every_path_answers_bare_and_beneath_master_and_reads_with_json_too() {
    let master = master().await;
    let at = master.running.address();
    let reads = [
        "/health",
        "/version",
        "/flags",
        "/state",
        "/state-summary",
        "/slaves",
        "/tasks",
        "/frameworks",
        "/roles",
        "/metrics/snapshot",
        "/metrics/help",
        "/files/debug",
    ];
    for path in reads {
        for variant in [
            path.to_owned(),
            format!("/master{path}"),
            format!("{path}.json"),
            format!("/master{path}.json"),
            format!("{path}/"),
        ] {
            assert_eq!(get(at, &variant).await.status, 200, "{variant}");
        }
    }
    for path in [
        "/api/v1",
        "/api/v1?_ts=1",
        "/master/api/v1",
        "/api/v1/operator",
        "/api/v1/",
    ] {
        assert_eq!(
            send(at, "POST", path, &[JSON], br#"{"type": "GET_HEALTH"}"#)
                .await
                .status,
            200,
            "{path}"
        );
    }
    for path in [
        "/nothing",
        "/master",
        "/master/nothing",
        "/redirect/anything",
        "/artifacts",
    ] {
        assert_eq!(get(at, path).await.status, 404, "{path}");
    }
    let response = get(at, "/master/redirect").await;
    assert_eq!(
        (response.status, response.header("location")),
        (307, Some(format!("//{at}").as_str()))
    );
}

#[tokio::test]
async fn the_version_is_the_level_of_the_api_with_ours_beside_it() {
    let master = master().await;
    let at = master.running.address();
    let version = get(at, "/version").await.json();
    assert_eq!(version["version"], "1.11.0");
    assert_eq!(version["tepui_version"], env!("CARGO_PKG_VERSION"));
    let answer = operator(at, r#"{"type": "GET_VERSION"}"#).await;
    assert_eq!(answer.get_version.unwrap().version_info.version, "1.11.0");
    let state = get(at, "/state").await.json();
    assert_eq!(state["version"], "1.11.0");
    let (_agent, _) = crate::support::FakeAgent::register(at).await;
    let slaves = get(at, "/slaves").await.json();
    assert_eq!(slaves["slaves"][0]["version"], "1.11.0");
    assert!(slaves["slaves"][0]["tepui_version"].is_string());
    let answer = operator(at, r#"{"type": "GET_MASTER"}"#).await;
    let info = answer.get_master.unwrap().master_info.unwrap();
    assert_eq!(info.version(), "1.11.0");
}

#[tokio::test]
async fn an_old_read_can_be_had_as_a_script_that_calls_a_function() {
    let master = master().await;
    let at = master.running.address();
    for path in ["/slaves?jsonp=show.it", "/version?jsonp=show.it"] {
        let response = get(at, path).await;
        assert_eq!(response.header("content-type"), Some("text/javascript"));
        let text = response.text();
        assert!(
            text.starts_with("show.it({") && text.ends_with("});"),
            "{text}"
        );
    }
    assert_eq!(get(at, "/slaves?jsonp=alert(1)//").await.status, 400);
}

#[tokio::test]
async fn operators_read_in_json_and_in_protobuf() {
    let master = master().await;
    let at = master.running.address();
    let accept = [JSON, ("Accept", "application/x-protobuf")];
    for call in [
        "GET_HEALTH",
        "GET_FLAGS",
        "GET_VERSION",
        "GET_STATE",
        "GET_TASKS",
        "GET_AGENTS",
        "GET_FRAMEWORKS",
        "GET_EXECUTORS",
        "GET_MASTER",
        "GET_ROLES",
        "GET_WEIGHTS",
    ] {
        let body = format!(r#"{{"type": "{call}"}}"#);
        let in_json = operator(at, &body).await;
        assert_eq!(in_json.r#type().as_str_name(), call);
        let response = send(at, "POST", "/api/v1", &accept, body.as_bytes()).await;
        assert_eq!(
            response.header("content-type"),
            Some("application/x-protobuf")
        );
        let in_protobuf: master::Response = proto::from_slice(&response.body).unwrap();
        assert_eq!(in_protobuf, in_json, "{call}");
    }
    let metrics = operator(at, r#"{"type": "GET_METRICS", "get_metrics": {}}"#)
        .await
        .get_metrics
        .unwrap()
        .metrics;
    let elected = metrics
        .iter()
        .find(|metric| metric.name == "master/elected")
        .unwrap();
    assert_eq!(elected.value, Some(1.0));
    let snapshot = get(at, "/metrics/snapshot").await.json();
    for name in [
        "master/uptime_secs",
        "master/tasks_running",
        "master/cpus_total",
        "system/mem_total_bytes",
    ] {
        assert!(snapshot[name].is_number(), "{name} in {snapshot}");
    }
}

#[tokio::test]
async fn every_call_of_an_operator_is_known_and_what_it_lacks_is_said() {
    let master = master().await;
    let at = master.running.address();
    for (body, status, says) in [
        (r#"{"type": "GET_QUOTA"}"#, 200, "get_quota"),
        (r#"{"type": "GET_OPERATIONS"}"#, 200, "get_operations"),
        (
            r#"{"type": "RESERVE_RESOURCES", "reserve_resources": {"agent_id": {"value": "a"}}}"#,
            400,
            "a",
        ),
        (
            r#"{"type": "DRAIN_AGENT"}"#,
            400,
            "Expecting 'drain_agent' to be present",
        ),
        (r#"{"type": "UNKNOWN"}"#, 501, ""),
    ] {
        let response = send(at, "POST", "/api/v1", &[JSON], body.as_bytes()).await;
        assert_eq!(response.status, status, "{body}: {}", response.text());
        assert!(response.text().contains(says), "{}", response.text());
    }
}

#[tokio::test]
async fn weights_that_an_operator_sets_are_read_back() {
    let master = master().await;
    let at = master.running.address();
    let call = br#"{"type": "UPDATE_WEIGHTS", "update_weights": {"weight_infos": [{"role": "ads", "weight": 2.5}]}}"#;
    let response = send(at, "POST", "/api/v1", &[JSON], call).await;
    assert_eq!((response.status, response.text().as_str()), (200, ""));
    let weights = operator(at, r#"{"type": "GET_WEIGHTS"}"#)
        .await
        .get_weights
        .unwrap()
        .weight_infos;
    assert_eq!((weights[0].role(), weights[0].weight), ("ads", 2.5));
}

#[tokio::test]
async fn bodies_may_be_compressed_on_both_ways() {
    let master = master().await;
    let at = master.running.address();
    let mut call = GzEncoder::new(Vec::new(), Compression::fast());
    call.write_all(br#"{"type": "GET_FLAGS"}"#).unwrap();
    let headers = [JSON, ("Content-Encoding", "gzip")];
    let response = send(at, "POST", "/api/v1", &headers, &call.finish().unwrap()).await;
    let answer: master::Response = json::from_slice(&response.body).unwrap();
    assert!(
        answer
            .get_flags
            .unwrap()
            .flags
            .iter()
            .any(|flag| flag.name == "work_dir")
    );

    let response = send(
        at,
        "GET",
        "/state",
        &[("Accept-Encoding", "deflate, gzip;q=0.5")],
        b"",
    )
    .await;
    assert_eq!(response.header("content-encoding"), Some("gzip"));
    let mut plain = String::new();
    GzDecoder::new(&response.body[..])
        .read_to_string(&mut plain)
        .unwrap();
    assert!(plain.contains("activated_slaves"));
    let response = send(at, "GET", "/state", &[("Accept-Encoding", "gzip;q=0")], b"").await;
    assert_eq!(response.header("content-encoding"), None);
}

#[tokio::test]
async fn a_master_without_credentials_listens_to_this_machine_only_unless_told_otherwise() {
    let directory = tempfile::tempdir().unwrap();
    let mut open = config(directory.path());
    open.ip = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let error = tepui_master::start(open.clone())
        .await
        .err()
        .expect("it is refused");
    assert!(matches!(error, StartError::Insecure { .. }));
    assert!(error.to_string().contains("--insecure"), "{error}");
    open.insecure = true;
    let running = tepui_master::start(open).await.unwrap();
    running.stop().await.unwrap();
}
