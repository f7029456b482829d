//! `tepui artifact`: what is kept is sent once, checked, and had from whoever is near.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of this file is test code"
)]

use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;

use serde_json::{Value, json};
use tepui_tests::{Cluster, FileServer, Reply, Scheduler, digest_of, request, wait_until};

const ARTIFACTS: &str = "/api/v1/tepui/artifacts";
const RESOURCES: &[&str] = &["--resources", "cpus:4;mem:2048;disk:1024"];

fn file(cluster: &Cluster, name: &str, bytes: &[u8]) -> PathBuf {
    let path = cluster.folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

fn member(sha256: &str) -> String {
    format!("{ARTIFACTS}/{sha256}")
}

#[test]
fn what_the_master_has_is_not_sent_again() {
    let cluster = Cluster::master_alone(&[]);
    let path = file(&cluster, "data", b"hello");
    let first = cluster.json(&["artifact", "put", "--json", text(&path)]);
    assert_eq!(first["sha256"], digest_of(b"hello"));
    let again = cluster.json(&["artifact", "put", "--json", text(&path)]);
    assert_eq!(again["url"], first["url"]);
    let renamed = cluster.json(&["artifact", "put", "--json", "--name", "other", text(&path)]);
    assert_eq!(
        (&renamed["name"], &renamed["sha256"]),
        (&json!("other"), &first["sha256"])
    );
    assert_eq!(
        cluster.json(&["artifact", "ls", "--json"])["artifacts"]
            .as_array()
            .unwrap()
            .len(),
        1
    );

    // A master that knows the digest is asked for it and for nothing else.
    let master = FileServer::start();
    let path_asked = member(&digest_of(b"hello"));
    let known =
        json!({ "sha256": digest_of(b"hello"), "name": "data", "url": "/x", "master": true });
    master.serve(&path_asked, Reply::body(known.to_string()));
    let put = cluster.tepui(&[
        "artifact",
        "put",
        "--master",
        &master.address(),
        text(&path),
    ]);
    assert_eq!(put.stdout.trim(), master.url("/x"), "{}", put.stderr);
    assert_eq!(master.requests(), [("GET".to_owned(), path_asked)]);
    assert_eq!(put.stderr, "", "no progress is shown where nobody looks");
}

#[test]
fn an_upload_that_broke_off_is_gone_on_with_even_after_the_master_was_killed() {
    let mut cluster = Cluster::master_alone(&[]);
    let bytes: Vec<u8> = (0..400_000_u32).map(|at| (at % 253) as u8).collect();
    let (half, rest) = bytes.split_at(150_000);
    let sha256 = digest_of(&bytes);
    let put = |offset: usize| format!("{ARTIFACTS}?name=big&sha256={sha256}&offset={offset}");
    let mut socket = TcpStream::connect(&cluster.master.address).unwrap();
    let head = format!(
        "PUT {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        put(0),
        bytes.len()
    );
    socket.write_all(head.as_bytes()).unwrap();
    socket.write_all(half).unwrap();
    drop(socket);
    let offset = |cluster: &Cluster| {
        let answer = cluster.get(&member(&sha256));
        assert_eq!(answer.status, 404);
        answer
            .header("upload-offset")
            .map(|offset| offset.parse::<usize>().unwrap())
    };
    wait_until("what came to be kept", || {
        (offset(&cluster) == Some(half.len())).then_some(())
    });
    cluster.master.kill();
    cluster.master.start_again();
    assert_eq!(offset(&cluster), Some(half.len()));
    let beyond = request(&cluster.master.address, "PUT", &put(200_000), &[], rest).unwrap();
    assert_eq!(beyond.status, 409, "{}", beyond.text());
    assert!(
        beyond.text().contains("Only 150000 bytes"),
        "{}",
        beyond.text()
    );
    let path = file(&cluster, "big", &bytes);
    let done = cluster.json(&["artifact", "put", "--json", text(&path)]);
    assert_eq!(
        (&done["sha256"], &done["size"]),
        (&json!(sha256), &json!(bytes.len()))
    );
    assert_eq!(cluster.get(&format!("/artifacts/{sha256}")).body, bytes);

    // The rest of something else is noticed, and not kept for anybody to stumble over.
    let other = digest_of(b"other");
    let path = format!("{ARTIFACTS}?sha256={other}");
    let wrong = request(&cluster.master.address, "PUT", &path, &[], b"something").unwrap();
    assert_eq!(wrong.status, 400, "{}", wrong.text());
    assert_eq!(cluster.get(&member(&other)).header("upload-offset"), None);
}

#[test]
fn a_download_is_resumed_and_checked() {
    let cluster = Cluster::master_alone(&[]);
    let bytes: Vec<u8> = (0..700_000_u32).map(|at| (at % 241) as u8).collect();
    let path = file(&cluster, "big", &bytes);
    let sha256 = digest_of(&bytes);
    cluster.tepui(&["artifact", "put", text(&path)]);
    let to = |name: &str| cluster.folder.path().join(name);
    for (name, part) in [
        ("fresh", &b""[..]),
        ("resumed", &bytes[..300_000]),
        ("spoilt", &[7; 300_000]),
        ("too-long", &[7; 800_000]),
    ] {
        if !part.is_empty() {
            std::fs::write(to(&format!("{name}.part")), part).unwrap();
        }
        let got = cluster.tepui(&["artifact", "get", &sha256, "-o", text(&to(name))]);
        assert_eq!(got.code, 0, "{name}: {}", got.stderr);
        assert_eq!(std::fs::read(to(name)).unwrap(), bytes, "{name}");
        assert!(!to(&format!("{name}.part")).exists());
    }
    let there = cluster.tepui(&["artifact", "get", &sha256, "-o", text(&to("fresh"))]);
    assert!(
        there.code == 1 && there.stderr.contains("is there already"),
        "{}",
        there.stderr
    );
    let unknown = cluster.tepui(&[
        "artifact",
        "get",
        &digest_of(b"unknown"),
        "-o",
        text(&to("none")),
    ]);
    assert!(
        unknown.code == 1 && unknown.stderr.contains("404 Not Found"),
        "{}",
        unknown.stderr
    );
    assert!(!to("none").exists());
    let typo = cluster.tepui(&["artifact", "get", "abc"]);
    assert!(
        typo.stderr.contains("not a sha256 digest"),
        "{}",
        typo.stderr
    );
}

#[test]
fn the_master_adds_what_a_url_gives_and_says_what_it_does_not() {
    let mut cluster = Cluster::master_alone(&[]);
    let open = cluster.folder.path().join("open");
    std::fs::create_dir(&open).unwrap();
    let flag = ["--artifact_files", text(&open)];
    cluster.master.start_again_with(&[
        (flag[0], flag[1]),
        ("--fetcher_retries", "0"),
        ("--max_artifact_size", "1MB"),
    ]);
    let server = FileServer::start();
    let url = server.serve("/dir/module.wasm?x=1", Reply::body("\0asm").ranged());
    let sha256 = digest_of(b"\0asm");
    let added = cluster.json(&["artifact", "add", "--json", &url]);
    assert_eq!(
        (&added["sha256"], &added["name"]),
        (&json!(sha256), &json!("module.wasm"))
    );
    assert_eq!(cluster.get(&format!("/artifacts/{sha256}")).body, b"\0asm");
    let known = cluster.json(&[
        "artifact", "add", "--json", "--sha256", &sha256, "--name", "m", &url,
    ]);
    assert_eq!(
        (&known["name"], server.count("/dir/module.wasm?x=1")),
        (&json!("m"), 1)
    );

    std::fs::write(open.join("local"), "local").unwrap();
    let local = cluster.json(&[
        "artifact",
        "add",
        "--json",
        &format!("file://{}/local", open.display()),
    ]);
    assert_eq!(local["sha256"], digest_of(b"local"));
    let closed = file(&cluster, "closed", b"closed");
    std::os::unix::fs::symlink(&closed, open.join("link")).unwrap();
    let refused = |words: &[&str], sentence: &str| {
        let words = [&["artifact", "add"], words].concat();
        let ended = cluster.tepui(&words);
        assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{words:?}");
        assert!(
            ended.stderr.contains(sentence),
            "{words:?}: {}",
            ended.stderr
        );
    };
    let wrong = digest_of(b"wrong");
    for path in [
        text(&closed),
        text(&open.join("link")),
        "/no/such/file",
        &format!("{}/../closed", open.display()),
    ] {
        refused(&[path], "--artifact_files");
    }
    refused(&["--sha256", &wrong, &url], "its sha256 is");
    refused(
        &[&format!("{url}#sha256={wrong}"), "--sha256", &sha256],
        "another was given with it",
    );
    refused(&["--sha256", "abc", &url], "64 hexadecimal digits");
    refused(&[&server.url("/none")], "404 Not Found; check the URI");
    refused(&["gopher://x/y"], "scheme that is not supported");
    refused(&["hdfs://x/y"], "--webhdfs");
    refused(
        &[&server.serve("/cut", Reply::body("0123456789").truncated_to(4))],
        "ended after 4 of 10 bytes",
    );
    refused(
        &[&server.serve("/huge", Reply::body(vec![0; 2 << 20]))],
        "more than 1 MiB",
    );
    assert_eq!(
        cluster.json(&["artifact", "ls", "--json"])["artifacts"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let incoming = cluster.folder.path().join("master/artifacts/incoming");
    assert_eq!(std::fs::read_dir(incoming).unwrap().count(), 0);
}

/// Offers of an agent that is none of those.
fn offer_of_another(scheduler: &mut Scheduler, agents: &[&Value]) -> Value {
    loop {
        let offers = scheduler.expect("OFFERS");
        let offers = offers["offers"]["offers"].as_array().unwrap();
        let other = offers
            .iter()
            .find(|offer| !agents.contains(&&offer["agent_id"]));
        if let Some(other) = other {
            return other.clone();
        }
    }
}

/// How many bytes an agent has from there.
fn moved(cluster: &Cluster, agent: usize, from: &str) -> f64 {
    let agent = &cluster.agents[agent - 1].address;
    let figures = request(agent, "GET", "/metrics/snapshot", &[], b"").unwrap();
    let figures = figures.json();
    figures[format!("tepui/fetcher/bytes_from_{from}")]
        .as_f64()
        .unwrap()
}

fn holders(cluster: &Cluster, sha256: &str) -> usize {
    let answer = cluster.json(&["artifact", "where", "--json", sha256]);
    answer["agents"].as_array().map_or(0, Vec::len)
}

#[test]
fn agents_have_it_from_each_other_and_believe_nobody() {
    let mut cluster = Cluster::master_alone(&[]);
    cluster.add_agent(RESOURCES);
    cluster.wait_for_agents(1);
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 239) as u8).collect();
    let sha256 = digest_of(&bytes);
    let server = FileServer::start();
    let url = server.serve("/file", Reply::body(bytes));
    let uri = json!({ "value": url, "sha256": sha256 });
    let command = format!("echo \"{sha256}  file\" | sha256sum -c");
    let mut scheduler =
        Scheduler::subscribe(&cluster.master.address, json!({ "failover_timeout": 60 }));
    let mut run = |id: &str, agents: &[&Value]| {
        let offer = offer_of_another(&mut scheduler, agents);
        scheduler.launch(
            &offer,
            &[Scheduler::fetching(
                id,
                &offer,
                &command,
                std::slice::from_ref(&uri),
            )],
        );
        let status = scheduler.ended(id);
        assert_eq!(status["state"], "TASK_FINISHED", "{status}");
        offer["agent_id"].clone()
    };
    let first = run("first", &[]);
    assert_eq!(server.count("/file"), 1);
    wait_until("the first agent to tell", || {
        (holders(&cluster, &sha256) == 1).then_some(())
    });

    cluster.add_agent(RESOURCES);
    let second = run("second", &[&first]);
    assert_eq!(server.count("/file"), 1, "the second has it from the first");
    assert_eq!(moved(&cluster, 1, "uris"), 3e6);
    assert_eq!(
        (moved(&cluster, 2, "agents"), moved(&cluster, 2, "uris")),
        (3e6, 0.0)
    );
    wait_until("the second agent to tell", || {
        (holders(&cluster, &sha256) == 2).then_some(())
    });
    let shown = cluster.tepui(&["artifact", "where", &sha256]).stdout;
    for agent in &cluster.agents {
        assert!(shown.contains(&agent.address), "{shown}");
    }

    // Nobody has it there without a token.
    let agent = &cluster.agents[0].address;
    let path = format!("/tepui/v1/artifacts/{sha256}");
    for header in [&[][..], &[("Authorization", "Bearer 99999999999.00")]] {
        assert_eq!(
            request(agent, "GET", &path, header, b"").unwrap().status,
            401
        );
    }

    // Both copies are spoilt, one of them cut short; a third agent is not taken in.
    let copy = |number: usize| {
        cluster
            .folder
            .path()
            .join(format!("agent-{number}/fetch/{sha256}"))
    };
    let spoilt: Vec<u8> = vec![0; 3_000_000];
    for (number, bytes) in [(1, &spoilt[..]), (2, &spoilt[..2_000_000])] {
        std::fs::remove_file(copy(number)).unwrap();
        std::fs::write(copy(number), bytes).unwrap();
    }
    cluster.add_agent(RESOURCES);
    run("third", &[&first, &second]);
    assert_eq!(server.count("/file"), 2, "the origin had to help");
    assert_eq!(
        (moved(&cluster, 3, "agents"), moved(&cluster, 3, "uris")),
        (3e6, 3e6)
    );
}

#[test]
fn the_master_helps_where_the_origin_is_gone() {
    let mut cluster = Cluster::master_alone(&[]);
    cluster.add_agent(RESOURCES);
    cluster.wait_for_agents(1);
    let path = file(&cluster, "data", b"kept");
    cluster.tepui(&["artifact", "put", text(&path)]);
    let sha256 = digest_of(b"kept");
    let shown = cluster.json(&["artifact", "where", "--json", &sha256]);
    assert_eq!(
        (&shown["master"], &shown["agents"]),
        (&json!(true), &json!([]))
    );
    let server = FileServer::start();
    let uri = json!({ "value": server.url("/gone"), "sha256": sha256 });
    let mut scheduler =
        Scheduler::subscribe(&cluster.master.address, json!({ "failover_timeout": 60 }));
    let status = scheduler.run("task", "test $(cat gone) = kept", &[uri]);
    assert_eq!(status["state"], "TASK_FINISHED", "{status}");
    assert_eq!(server.count("/gone"), 0);
    assert_eq!(moved(&cluster, 1, "master"), 4.0);
    let removed = cluster.tepui(&["artifact", "rm", &sha256]);
    assert_eq!(removed.code, 0, "{}", removed.stderr);
    let unknown = cluster.tepui(&["artifact", "where", &digest_of(b"unknown")]);
    assert!(
        unknown.code == 1 && unknown.stderr.contains("No artifact has the digest"),
        "{}",
        unknown.stderr
    );
}
