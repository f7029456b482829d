//! Artifacts: up, down, in part, and across a restart.

use std::fs;

use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{config, get, master, master_with, send, soon};

const UPLOAD: &str = "/api/v1/tepui/artifacts?name=hello%20world.wasm";

fn content() -> Vec<u8> {
    let mut content = b"\0asm\x01\0\0\0".to_vec();
    content.extend((0..300_000_u32).map(|number| (number % 251) as u8));
    content
}

fn digest(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

#[tokio::test]
async fn an_artifact_is_stored_under_its_digest_and_served_whole_and_in_part() {
    let master = master().await;
    let at = master.running.address();
    let content = content();
    let sha256 = digest(&content);
    let response = send(at, "PUT", UPLOAD, &[], &content).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let answer = response.json();
    assert_eq!(answer["sha256"], sha256.as_str());
    assert_eq!(answer["size"], content.len());
    assert_eq!(answer["name"], "hello world.wasm");
    assert_eq!(
        answer["url"],
        format!("http://{at}/artifacts/{sha256}/hello%20world.wasm")
    );

    let path = format!("/artifacts/{sha256}");
    let etag = format!("\"{sha256}\"");
    for path in [
        path.clone(),
        format!("{path}/hello%20world.wasm"),
        format!("/master{path}"),
    ] {
        let whole = get(at, &path).await;
        assert_eq!((whole.status, &whole.body), (200, &content), "{path}");
        assert_eq!(whole.header("content-type"), Some("application/wasm"));
        assert_eq!(whole.header("etag"), Some(etag.as_str()));
        assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    }
    let head = send(at, "HEAD", &path, &[], b"").await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some(content.len().to_string().as_str()))
    );

    let size = content.len();
    for (range, begin, end) in [
        ("bytes=0-3", 0, 4),
        ("bytes=299000-", 299_000, size),
        ("bytes=-5", size - 5, size),
    ] {
        let part = send(at, "GET", &path, &[("Range", range)], b"").await;
        assert_eq!(
            (part.status, &part.body[..]),
            (206, &content[begin..end]),
            "{range}"
        );
        assert_eq!(
            part.header("content-range"),
            Some(format!("bytes {begin}-{}/{size}", end - 1).as_str())
        );
    }
    let beyond = send(at, "GET", &path, &[("Range", "bytes=999999-")], b"").await;
    assert_eq!(
        (beyond.status, beyond.header("content-range")),
        (416, Some(format!("bytes */{size}").as_str()))
    );
    let several = send(at, "GET", &path, &[("Range", "bytes=0-1,4-5")], b"").await;
    assert_eq!((several.status, several.body.len()), (200, size));
    let stale = send(
        at,
        "GET",
        &path,
        &[("Range", "bytes=0-1"), ("If-Range", "\"other\"")],
        b"",
    )
    .await;
    assert_eq!((stale.status, stale.body.len()), (200, size));
    assert_eq!(
        send(at, "GET", &path, &[("If-None-Match", &etag)], b"")
            .await
            .status,
        304
    );
    assert_eq!(send(at, "POST", &path, &[], b"").await.status, 405);
}

#[tokio::test]
async fn a_digest_that_is_wrong_unknown_or_none_is_told_apart() {
    let master = master().await;
    let at = master.running.address();
    let wrong = format!(
        "/api/v1/tepui/artifacts?sha256={}",
        digest(b"something else")
    );
    let response = send(at, "PUT", &wrong, &[], b"content").await;
    assert_eq!(response.status, 400);
    assert!(
        response.text().contains(&digest(b"content")),
        "{}",
        response.text()
    );
    let right = format!(
        "/api/v1/tepui/artifacts?sha256={}",
        digest(b"content").to_uppercase()
    );
    assert_eq!(
        send(
            at,
            "PUT",
            "/api/v1/tepui/artifacts?sha256=short",
            &[],
            b"content"
        )
        .await
        .status,
        400
    );
    assert_eq!(
        get(at, "/api/v1/tepui/artifacts").await.json()["artifacts"],
        serde_json::json!([])
    );
    assert_eq!(send(at, "PUT", &right, &[], b"content").await.status, 200);

    let unknown = get(at, &format!("/artifacts/{}", digest(b"unknown"))).await;
    assert_eq!(unknown.status, 404);
    let malformed = get(at, "/artifacts/..%2F..%2Fetc%2Fpasswd").await;
    assert_eq!(malformed.status, 404);
    assert!(
        malformed.text().contains("not a sha256 digest"),
        "{}",
        malformed.text()
    );
    assert_eq!(
        send(
            at,
            "PUT",
            "/api/v1/tepui/artifacts?name=..",
            &[],
            b"content"
        )
        .await
        .status,
        400
    );
}

#[tokio::test]
async fn artifacts_outlive_the_master_until_they_are_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let running = tepui_master::start(config(directory.path())).await.unwrap();
    let sha256 = digest(b"data");
    let put = send(
        running.address(),
        "PUT",
        "/api/v1/tepui/artifacts?name=data",
        &[],
        b"data",
    )
    .await;
    assert_eq!(put.status, 200);
    soon("the stop", running.stop()).await.unwrap();

    let orphan = directory.path().join("artifacts").join(digest(b"orphan"));
    fs::write(&orphan, b"orphan").unwrap();
    let running = tepui_master::start(config(directory.path())).await.unwrap();
    let at = running.address();
    assert!(!orphan.exists(), "a file without a record is removed");
    let listed = get(at, "/api/v1/tepui/artifacts").await.json();
    assert_eq!(listed["artifacts"][0]["sha256"], sha256.as_str());
    assert_eq!(get(at, &format!("/artifacts/{sha256}")).await.body, b"data");

    let path = format!("/api/v1/tepui/artifacts/{sha256}");
    assert_eq!(send(at, "DELETE", &path, &[], b"").await.status, 204);
    assert_eq!(get(at, &format!("/artifacts/{sha256}")).await.status, 404);
    assert_eq!(send(at, "DELETE", &path, &[], b"").await.status, 404);
    assert!(!directory.path().join("artifacts").join(&sha256).exists());
    assert_eq!(
        send(at, "PUT", "/api/v1/tepui/artifacts", &[], b"data")
            .await
            .json()["name"],
        ""
    );
    running.stop().await.unwrap();
}

#[tokio::test]
async fn an_upload_that_breaks_off_or_is_too_large_leaves_nothing_behind() {
    let master = master_with(|config| config.max_artifact_bytes = Some(1000)).await;
    let at = master.running.address();
    assert_eq!(
        send(at, "PUT", "/api/v1/tepui/artifacts", &[], &[7; 1001])
            .await
            .status,
        413
    );
    assert_eq!(
        send(at, "PUT", "/api/v1/tepui/artifacts", &[], &[7; 1000])
            .await
            .status,
        200
    );
    let mut stream = TcpStream::connect(at).await.unwrap();
    let request = format!(
        "PUT /api/v1/tepui/artifacts HTTP/1.1\r\nHost: {at}\r\nContent-Length: 500\r\n\r\nhalf"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    drop(stream);
    let incoming = master.directory.path().join("artifacts/incoming");
    soon("the upload's end", async {
        while fs::read_dir(&incoming).unwrap().count() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    let listed = get(at, "/api/v1/tepui/artifacts").await.json();
    assert_eq!(listed["artifacts"].as_array().unwrap().len(), 1);
}
