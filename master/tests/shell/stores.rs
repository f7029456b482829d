//! What tasks keep: asked for by guests over their agent's link, and by operators.

use tepui_api::guest::{self, answer, request};
use tepui_api::link::{self, to_agent, to_master};

use crate::support::{FakeAgent, config, get, master, master_with, send, soon};

const STORE: &str = "/api/v1/tepui/store";

async fn guest(agent: &mut FakeAgent, request_id: u64, body: request::Body) -> answer::Body {
    let request = link::GuestRequest {
        request_id,
        framework_id: "f".into(),
        task_id: "t".into(),
        role: "eng/web".to_owned(),
        job: Some("shop".to_owned()),
        request: guest::Request { body: Some(body) },
    };
    agent.say(to_master::Body::GuestRequest(request)).await;
    let answer = agent.wait_for(|body| match body {
        to_agent::Body::GuestAnswer(answer) => Some(answer),
        _ => None,
    });
    let answer = answer.await;
    assert_eq!(answer.request_id, request_id);
    answer.answer.body.expect("an answer")
}

#[tokio::test]
async fn guests_and_operators_share_a_store_that_outlives_the_master() {
    let directory = tempfile::tempdir().unwrap();
    let first = tepui_master::start(config(directory.path())).await.unwrap();
    let (mut agent, _) = FakeAgent::register(first.address()).await;
    let put = request::Body::Put(guest::Put {
        key: "cart/1".to_owned(),
        value: vec![0, 159, 146, 150].into(),
        if_version: None,
    });
    let stored = guest(&mut agent, 7, put).await;
    assert_eq!(stored, answer::Body::Stored(guest::Stored { version: 1 }));

    let at = first.address();
    let listed = get(at, STORE).await.json();
    let store = &listed["stores"][0];
    assert_eq!(
        (&store["role"], &store["job"], &store["keys"]),
        (&"eng/web".into(), &"shop".into(), &1.into())
    );
    assert_eq!(
        get(at, &format!("{STORE}?role=eng/web")).await.json(),
        listed
    );
    let none = get(at, &format!("{STORE}?role=ops")).await.json();
    assert_eq!(none["stores"].as_array().map(Vec::len), Some(0));
    let job = format!("{STORE}?role=eng%2Fweb&job=shop");
    let keys = get(at, &format!("{job}&prefix=cart")).await.json();
    assert_eq!(
        keys["keys"][0],
        serde_json::json!({ "key": "cart/1", "bytes": 4, "version": 1 })
    );
    let key = format!("{job}&key=cart/1");
    let value = get(at, &key).await;
    assert_eq!(
        (value.status, value.body.as_slice()),
        (200, &[0, 159, 146, 150][..])
    );
    assert_eq!(value.header("tepui-version"), Some("1"));
    assert_eq!(
        value.header("content-type"),
        Some("application/octet-stream")
    );

    let put = |query: String, body: &'static [u8]| async move {
        send(at, "PUT", &query, &[], body).await
    };
    let conflict = put(format!("{key}&if_version=0"), b"x").await;
    assert_eq!(
        (conflict.status, conflict.header("tepui-version")),
        (409, Some("1"))
    );
    let put = put(format!("{key}&if_version=1"), b"two").await;
    assert_eq!(put.json(), serde_json::json!({ "version": 2 }));
    soon("the stop", first.stop()).await.unwrap();

    let second = tepui_master::start(config(directory.path())).await.unwrap();
    let at = second.address();
    let (mut agent, _) = FakeAgent::register(at).await;
    let asked = request::Body::Get(guest::Get {
        key: "cart/1".to_owned(),
    });
    let answer::Body::Value(value) = guest(&mut agent, 8, asked).await else {
        panic!("a value");
    };
    let entry = value.entry.expect("it is there");
    assert_eq!((&entry.value[..], entry.version), (&b"two"[..], 2));
    let deleted = send(at, "DELETE", &key, &[], b"").await;
    assert_eq!(deleted.json(), serde_json::json!({ "version": 2 }));
    assert_eq!(get(at, &key).await.status, 404);
    assert_eq!(
        send(at, "DELETE", &job, &[], b"").await.status,
        404,
        "with its last key"
    );
    send(at, "PUT", &key, &[], b"three").await;
    let metrics = get(at, "/metrics/snapshot").await.json();
    assert_eq!(metrics["master/job_stores"], 1.0);
    assert_eq!(metrics["master/job_stores_bytes"], 64.0 + 6.0 + 5.0);
    let removed = send(at, "DELETE", &job, &[], b"").await;
    assert_eq!(removed.json(), serde_json::json!({ "keys": 1 }));
    second.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused_with_what_is_expected() {
    let master = master_with(|config| config.core.store_limits.bytes = 200).await;
    let at = master.running.address();
    let long = "k".repeat(257);
    for (method, query, status, says) in [
        ("GET", "?job=j", 400, "'role'"),
        ("DELETE", "?role=r&job=j&prefix=k", 400, "'prefix'"),
        ("DELETE", "?role=r&job=j&ke=k", 400, "'ke'"),
        ("PUT", "?role=r&job=j&key=k&ifversion=1", 400, "'ifversion'"),
        ("GET", "?role=r&key=k", 400, "'job'"),
        ("PUT", "?role=r&job=j&key=%FF", 400, "UTF-8"),
        ("PUT", "?role=r&job=j", 400, "'key'"),
        (
            "PUT",
            "?role=r&job=j&key=k&if_version=x",
            400,
            "'if_version'",
        ),
        ("PUT", "?role=r&job=j&key=", 400, "1 to 256"),
        (
            "PUT",
            &format!("?role=r&job=j&key={long}"),
            400,
            "257 bytes",
        ),
        ("PUT", "?role=..&job=j&key=k", 400, "role"),
        (
            "PUT",
            "?role=r&job=j&key=large",
            507,
            "--max_job_stores_size",
        ),
        ("DELETE", "?role=r", 400, "'job'"),
        ("DELETE", "?role=r&job=j&if_version=1", 400, "'key'"),
        ("DELETE", "?role=r&job=j", 404, "no store"),
        ("POST", "?role=r&job=j", 405, "PUT"),
    ] {
        let path = format!("{STORE}{query}");
        let answer = send(at, method, &path, &[], &[b'x'; 150]).await;
        assert_eq!(answer.status, status, "{method} {query}: {}", answer.text());
        assert!(
            answer.text().contains(says),
            "{method} {query}: {}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn the_lists_decide_who_sees_and_who_changes() {
    let acls = r#"{ "get_stores": [{ "principals": { "type": "NONE" }, "roles": { "values": ["ops"] } }],
        "update_stores": [{ "principals": { "type": "NONE" }, "roles": { "values": ["eng"] } }] }"#;
    let master = master_with(|config| {
        config.core.acls = std::sync::Arc::new(tepui_access::Acls::parse(acls).unwrap());
    })
    .await;
    let at = master.running.address();
    let of = |role: &str| format!("{STORE}?role={role}&job=j&key=k");
    assert_eq!(send(at, "PUT", &of("ops"), &[], b"x").await.status, 200);
    assert_eq!(send(at, "PUT", &of("eng"), &[], b"x").await.status, 403);
    assert_eq!(get(at, &of("ops")).await.status, 403);
    assert_eq!(get(at, &of("eng")).await.status, 404);
    let listed = get(at, STORE).await.json();
    assert_eq!(listed, serde_json::json!({ "stores": [] }));
}

#[tokio::test]
async fn an_agent_asks_for_services_over_its_link() {
    let master = master().await;
    let (mut agent, _) = FakeAgent::register(master.running.address()).await;
    let find = request::Body::Find(guest::Find {
        name: "web".to_owned(),
    });
    let found = guest(&mut agent, 9, find).await;
    assert_eq!(found, answer::Body::Endpoints(guest::Endpoints::default()));
}
