//! How far guests reach beyond their sandbox: directories of the host and other hosts, by what task and operator say.

#![allow(clippy::unwrap_used, reason = "what cannot be had here ends the test")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use tepui_tests::{Cluster, component, guest};

const RESOURCES: &[&str] = &["--resources", "cpus:2;mem:1024;disk:1024"];

/// An agent that lets tasks have and reach what the flags say.
fn cluster(flags: &[&str]) -> Cluster {
    let mut cluster = Cluster::master_alone(&[]);
    let flags: Vec<&str> = RESOURCES.iter().chain(flags).copied().collect();
    cluster.add_agent(&flags);
    cluster.wait_for_agents(1);
    cluster
}

/// A server on loopback that greets whoever connects; gives its port.
fn greeter() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // It lives as long as the test's process, which is not long.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\ncontent-length: 8\r\n\r\ngreeting");
        }
    });
    port
}

#[test]
fn a_directory_of_the_host_is_seen_where_task_and_operator_say_so() {
    let host = tempfile::tempdir().unwrap();
    let allowed = host.path().join("allowed");
    std::fs::create_dir_all(&allowed).unwrap();
    std::fs::create_dir_all(host.path().join("secret")).unwrap();
    std::fs::write(allowed.join("greeting"), "from the host").unwrap();
    std::os::unix::fs::symlink("../secret", allowed.join("escape")).unwrap();
    // Executors may run as a user of their own.
    for path in [host.path(), &allowed] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let allowed = allowed.canonicalize().unwrap().display().to_string();
    let cluster = cluster(&["--allow_host_directories", &allowed]);
    for probe in [guest("probe"), component("probe")] {
        let run = |mount: &str, words: &[&str]| {
            let mut all = vec!["run", "--mount", mount, &probe, "--"];
            all.extend(words);
            cluster.tepui(&all)
        };
        let ended = run(&format!("{allowed}:/data:ro"), &["read", "/data/greeting"]);
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (0, "from the host\n"),
            "{ended:?}"
        );
        let ended = run(&format!("{allowed}:/data:ro"), &["write", "/data/new", "x"]);
        assert_eq!(ended.code, 1, "{ended:?}");
        assert!(!host.path().join("allowed/new").exists());
        let ended = run(&format!("{allowed}:/data"), &["write", "/data/new", "x"]);
        assert_eq!(ended.code, 0, "{ended:?}");
        std::fs::remove_file(host.path().join("allowed/new")).unwrap();
        let ended = run(&format!("{allowed}:/data"), &["list", "/data/escape"]);
        assert_eq!(ended.code, 1, "a link out of it leads nowhere: {ended:?}");
        for elsewhere in [
            "/etc",
            &format!("{allowed}/escape"),
            &format!("{allowed}/../secret"),
        ] {
            let ended = run(&format!("{elsewhere}:/data"), &["list", "/data"]);
            assert_eq!(ended.code, 205, "{ended:?}");
            assert!(
                ended.stderr.contains("--allow_host_directories"),
                "{ended:?}"
            );
        }
    }
    // Without being asked for, nothing is seen.
    let ended = cluster.tepui(&["run", &guest("probe"), "--", "read", "/data/greeting"]);
    assert_eq!(ended.code, 1, "{ended:?}");
}

#[test]
fn without_the_operator_no_directory_and_no_host_is_had() {
    let cluster = cluster(&[]);
    let ended = cluster.tepui(&[
        "run",
        "--mount",
        "/tmp:/data",
        &guest("probe"),
        "--",
        "list",
        "/",
    ]);
    assert_eq!(ended.code, 205, "{ended:?}");
    assert!(
        ended.stderr.contains("--allow_host_directories"),
        "{ended:?}"
    );
    let words = [
        "run",
        "--allow-net",
        "example.com:80",
        &component("probe"),
        "--",
        "list",
        "/",
    ];
    let ended = cluster.tepui(&words);
    assert_eq!(ended.code, 205, "{ended:?}");
    assert!(ended.stderr.contains("--allow_hosts"), "{ended:?}");
}

#[test]
fn sockets_reach_what_is_allowed_and_nothing_else() {
    let (friend, stranger) = (greeter(), greeter());
    let cluster = cluster(&["--allow_hosts", "*,localhost,127.0.0.0/8"]);
    let probe = component("probe");
    let connect = |rule: Option<String>, address: String| {
        let mut words = vec!["run".to_owned()];
        words.extend(
            rule.into_iter()
                .flat_map(|rule| ["--allow-net".to_owned(), rule]),
        );
        words.extend([
            probe.clone(),
            "--".to_owned(),
            "connect".to_owned(),
            address,
        ]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        cluster.tepui(&words)
    };
    let rule = format!("127.0.0.1:{friend}");
    let ended = connect(Some(rule.clone()), rule.clone());
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (0, "HTTP/1.0 200 OK\n"),
        "{ended:?}"
    );
    let ended = connect(Some(rule.clone()), format!("127.0.0.1:{stranger}"));
    assert_eq!(ended.code, 1, "{ended:?}");
    let ended = connect(None, rule.clone());
    assert_eq!(ended.code, 1, "{ended:?}");
    let ended = connect(Some("*".to_owned()), rule);
    assert_eq!(
        ended.code, 1,
        "everything is not the machine itself: {ended:?}"
    );
    let ended = connect(
        Some(format!("localhost:{friend}")),
        format!("localhost:{friend}"),
    );
    assert_eq!(ended.code, 0, "{ended:?}");
}
