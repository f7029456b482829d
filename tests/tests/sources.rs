//! S3, OCI registries and WebHDFS as places of artifacts, at the agent and at the master. The first two are servers that
//! others wrote; WebHDFS is a scripted server, for none is to be had from the registries of packages.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of this file is test code"
)]

use serde_json::{Value, json};
use tepui_tests::{Cluster, FileServer, Registry, Reply, S3, Scheduler, digest_of, guest, request};

const WASM: &str = "application/vnd.wasm.content.layer.v1+wasm";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn cluster(flags: &[&str]) -> Cluster {
    let mut cluster = Cluster::master_alone(&[flags, &["--fetcher_retries=0"]].concat());
    let resources = [
        "--resources",
        "cpus:4;mem:2048;disk:1024",
        "--fetcher_retries=0",
    ];
    cluster.add_agent(&[&resources, flags].concat());
    cluster.wait_for_agents(1);
    cluster
}

fn subscribe(cluster: &Cluster) -> Scheduler {
    Scheduler::subscribe(&cluster.master.address, json!({ "failover_timeout": 60 }))
}

fn run(scheduler: &mut Scheduler, id: &str, uri: &str, command: &str) -> Value {
    scheduler.run(id, command, &[json!({ "value": uri })])
}

/// The same sentence at the agent and at the master.
fn refused(cluster: &Cluster, scheduler: &mut Scheduler, id: &str, uri: &str, sentence: &str) {
    let status = run(scheduler, id, uri, "true");
    assert_eq!(status["state"], "TASK_FAILED", "{status}");
    assert_eq!(status["reason"], "REASON_CONTAINER_LAUNCH_FAILED");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains(sentence), "{id}: {message}");
    let added = cluster.tepui(&["artifact", "add", uri]);
    assert!(
        added.code == 1 && added.stderr.contains(sentence),
        "{id}: {}",
        added.stderr
    );
}

fn added(cluster: &Cluster, uri: &str, bytes: &[u8]) {
    let ended = cluster.tepui(&["artifact", "add", "--json", uri]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let answer: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(answer["sha256"], digest_of(bytes), "{answer}");
}

#[test]
fn stock_server_s3_objects_are_fetched_by_who_has_a_key() {
    let server = S3::start();
    let bytes = vec![b'x'; 3 << 20];
    let uri = server.put("data", "dir/some key", &bytes);
    // Both processes take their keys from the environment.
    let cluster = Cluster::with_environment(
        &[
            ("AWS_ENDPOINT_URL", &server.url()),
            ("AWS_ACCESS_KEY_ID", "ann"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
        ],
        &["--fetcher_retries=0"],
    );
    let mut scheduler = subscribe(&cluster);
    let status = run(
        &mut scheduler,
        "s3",
        &uri,
        "test $(wc -c < 'some key') = 3145728",
    );
    assert_eq!(status["state"], "TASK_FINISHED", "{status}");
    added(&cluster, &uri, &bytes);
    refused(
        &cluster,
        &mut scheduler,
        "none",
        "s3://data/none",
        "there is no object 'none' in the bucket 'data'",
    );
    refused(
        &cluster,
        &mut scheduler,
        "bucket",
        "s3://nobucket/x",
        "in the bucket 'nobucket'",
    );

    // Without keys nothing is signed, and this server gives nothing away.
    let strangers = self::cluster(&["--s3_endpoint", &server.url()]);
    let mut scheduler = subscribe(&strangers);
    refused(
        &strangers,
        &mut scheduler,
        "unsigned",
        &uri,
        "start this process with AWS_ACCESS_KEY_ID",
    );
}

#[test]
fn stock_server_oci_artifacts_are_fetched_and_run() {
    let registry = Registry::start();
    let hello = std::fs::read(guest("hello")).unwrap();
    let module = registry.push("guests/hello", "1.0", &[(WASM, &hello)]);
    let layers: &[(&str, &[u8])] = &[(TAR, b"not really a tar"), ("application/wasm", &hello)];
    let mixed = registry.push("guests/mixed", "1.0", layers);
    let plain = registry.push("data/words", "1.0", &[(TAR, b"words")]);
    let two = registry.push("data/two", "1.0", &[(TAR, b"one"), (TAR, b"two")]);
    let cluster = cluster(&[]);
    let mut scheduler = subscribe(&cluster);
    for (id, uri) in [("module", &module), ("mixed", &mixed)] {
        let name = uri.rsplit('/').next().unwrap().split(':').next().unwrap();
        let status = run(&mut scheduler, id, uri, name);
        assert_eq!(status["state"], "TASK_FINISHED", "{status}");
    }
    // A registry says what it would give, so that what is here is not sent again.
    let agent = &cluster.agents[0].address;
    let figures = || {
        request(agent, "GET", "/metrics/snapshot", &[], b"")
            .unwrap()
            .json()
    };
    let moved = || figures()["tepui/fetcher/bytes_from_uris"].as_f64().unwrap();
    assert_eq!(moved(), hello.len() as f64);
    let status = run(&mut scheduler, "again", &module, "hello");
    assert_eq!(status["state"], "TASK_FINISHED", "{status}");
    assert_eq!(moved(), hello.len() as f64);
    let layer = format!(
        "oci://{}/data/words@sha256:{}",
        registry.address(),
        digest_of(b"words")
    );
    for (id, uri) in [("plain", &plain), ("layer", &layer)] {
        let status = run(&mut scheduler, id, uri, "test $(cat words) = words");
        assert_eq!(status["state"], "TASK_FINISHED", "{status}");
    }
    added(&cluster, &module, &hello);
    added(&cluster, &layer, b"words");
    refused(
        &cluster,
        &mut scheduler,
        "two",
        &two,
        "2 layers, 0 of them wasm",
    );
    let none = format!("oci://{}/guests/hello:2.0", registry.address());
    refused(
        &cluster,
        &mut scheduler,
        "none",
        &none,
        "there is no artifact",
    );
}

#[test]
fn stock_server_oci_registries_may_ask_who_is_there() {
    let registry = Registry::guarded();
    let uri = registry.push("ours/words", "1", &[(TAR, b"words")]);
    let folder = tempfile::tempdir().unwrap();
    let known = folder.path().join("known");
    std::fs::write(&known, format!("{}=ann:secret\n", registry.address())).unwrap();
    let friends = cluster(&["--registry_credentials", known.to_str().unwrap()]);
    let mut scheduler = subscribe(&friends);
    let status = run(&mut scheduler, "known", &uri, "test $(cat words) = words");
    assert_eq!(status["state"], "TASK_FINISHED", "{status}");
    added(&friends, &uri, b"words");

    let strangers = cluster(&[]);
    let mut scheduler = subscribe(&strangers);
    refused(
        &strangers,
        &mut scheduler,
        "unknown",
        &uri,
        "--registry_credentials",
    );
}

#[test]
fn webhdfs_files_are_fetched_from_where_the_name_node_sends() {
    let (names, data) = (FileServer::start(), FileServer::start());
    let bytes = vec![b'h'; 2 << 20];
    let status = json!({ "FileStatus": {
        "length": bytes.len(), "modificationTime": 1_700_000_000_000_i64, "type": "FILE", "pathSuffix": "",
        "accessTime": 0, "blockSize": 134_217_728, "childrenNum": 0, "fileId": 1, "group": "g", "owner": "o",
        "permission": "644", "replication": 1, "storagePolicy": 0,
    } });
    let directory = status.to_string().replace("FILE", "DIRECTORY");
    names.serve("/webhdfs/v1/?op=GETFILESTATUS", Reply::body(directory));
    names.serve(
        "/webhdfs/v1/dir/file?op=GETFILESTATUS",
        Reply::body(status.to_string()),
    );
    let block = data.serve("/block", Reply::body(bytes.clone()));
    let open = format!(
        "/webhdfs/v1/dir/file?op=OPEN&offset=0&length={}",
        bytes.len()
    );
    names.serve(&open, Reply::redirect(&block));
    let cluster = cluster(&["--webhdfs", &names.address()]);
    let mut scheduler = subscribe(&cluster);
    let check = "test $(wc -c < file) = 2097152";
    let uri = format!("webhdfs://{}/dir/file", names.address());
    for (id, uri) in [
        ("webhdfs", uri.as_str()),
        ("hdfs", "hdfs://anything:8020/dir/file"),
    ] {
        let status = run(&mut scheduler, id, uri, check);
        assert_eq!(status["state"], "TASK_FINISHED", "{status}");
    }
    added(&cluster, &uri, &bytes);
    assert_eq!(data.count("/block"), 3);
    // A data node that breaks off is asked for the rest, by way of the name node.
    let (half, rest) = bytes.split_at(1_000_000);
    let half = data.serve("/half", Reply::body(half).claiming(bytes.len()));
    let rest = data.serve("/rest", Reply::body(rest));
    names.serve(&open, Reply::redirect(&half));
    let open = format!(
        "/webhdfs/v1/dir/file?op=OPEN&offset=1000000&length={}",
        bytes.len() - 1_000_000
    );
    names.serve(&open, Reply::redirect(&rest));
    let status = run(&mut scheduler, "resumed", &uri, check);
    assert_eq!(status["state"], "TASK_FINISHED", "{status}");
    assert_eq!((data.count("/half"), data.count("/rest")), (1, 1));
    let missing = format!("webhdfs://{}/dir/none", names.address());
    refused(
        &cluster,
        &mut scheduler,
        "none",
        &missing,
        "there is no file '/dir/none' in HDFS",
    );
    names.serve(
        "/webhdfs/v1/dir/closed?op=GETFILESTATUS",
        Reply::status(403),
    );
    let closed = format!("webhdfs://{}/dir/closed", names.address());
    refused(
        &cluster,
        &mut scheduler,
        "closed",
        &closed,
        "HDFS refuses to give it; name a user",
    );
}
