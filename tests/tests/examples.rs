//! The example frameworks do what their pages say.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tepui_tests::{Cluster, FileServer, Reply, guest, program};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn run(command: &mut Command) -> Output {
    let output = command.output();
    output.unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn python(cluster: &Cluster, words: &[&str]) -> Output {
    let script = root().join("examples/frameworks/python/scheduler.py");
    run(Command::new("python3")
        .arg(script)
        .args(["--master", &cluster.master.address])
        .args(words))
}

#[test]
fn the_python_scheduler_runs_a_command_several_times() {
    let cluster = Cluster::start(1);
    let output = python(
        &cluster,
        &["--count", "12", "--", "test $MESOS_TASK_ID != run-7"],
    );
    let said = text(&output.stdout);
    let ended = |line: &str| said.lines().filter(|said| said.contains(line)).count();
    assert_eq!(
        ended("TASK_FINISHED Command exited with status 0"),
        11,
        "{said}"
    );
    assert!(
        said.contains("run-7 TASK_FAILED Command exited with status 1"),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn the_python_scheduler_runs_a_wasm_module() {
    let cluster = Cluster::start(1);
    let server = FileServer::start();
    let module = server.serve(
        "/hello.wasm",
        Reply::body(std::fs::read(guest("hello")).unwrap()),
    );
    let output = python(
        &cluster,
        &["--module", &module, "--", "hello.wasm", "from", "python"],
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    let framework = said
        .lines()
        .find_map(|line| line.strip_prefix("framework "))
        .unwrap();
    let logs = cluster.tepui(&["logs", "--framework", framework, "run-0"]);
    assert!(
        logs.stdout.contains("hello from wasm from python"),
        "{logs:?}"
    );
}

/// The garden of `tests/sites`, as a web server shows it.
fn garden() -> FileServer {
    let server = FileServer::start();
    let folder = root().join("tests/sites/garden");
    for (path, file) in [
        ("/", "index.html"),
        ("/index.html", "index.html"),
        ("/beds/", "beds/index.html"),
        ("/orchard.html", "orchard.html"),
        ("/compost.html", "compost.html"),
    ] {
        server.serve(path, Reply::body(std::fs::read(folder.join(file)).unwrap()));
    }
    server
}

#[test]
fn rendler_crawls_a_site_and_draws_a_picture_of_it() {
    let cluster = Cluster::start(2);
    let site = garden();
    let modules = FileServer::start();
    let module = |name: &str| {
        let bytes = std::fs::read(guest(name)).unwrap();
        modules.serve(&format!("/{name}.wasm"), Reply::body(bytes))
    };
    let out = cluster.folder.path().join("out");
    let output = run(Command::new(program("rendler"))
        .args(["--master", &cluster.master.address])
        .args([
            "--crawl",
            &module("rendler-crawl"),
            "--render",
            &module("rendler-render"),
        ])
        .arg("--out")
        .arg(&out)
        .arg(site.url("/")));
    let said = text(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{said}{}",
        text(&output.stderr)
    );

    // Six pages, one of them a broken link; the one that only a script or another host knows is not among them.
    for (page, links) in [
        ("/", 4),
        ("/index.html", 4),
        ("/beds/", 2),
        ("/orchard.html", 1),
        ("/compost.html", 0),
    ] {
        let line = format!("page {} links to {links} pages", site.url(page));
        assert!(said.contains(&line), "{line:?} is missing: {said}");
    }
    assert!(
        said.contains(&format!("page {} failed", site.url("/missing.html"))),
        "{said}"
    );
    assert_eq!(
        said.lines()
            .filter(|line| line.starts_with("page "))
            .count(),
        6,
        "{said}"
    );
    assert_eq!(site.count("/never.html"), 0);

    let svg = std::fs::read_to_string(out.join("site.svg")).unwrap();
    assert_eq!(
        svg.matches("<image ").count(),
        5,
        "every page that is there has its picture"
    );
    assert_eq!(svg.matches("no picture").count(), 1);
    let pictures =
        (0..6).filter_map(|page| std::fs::read(out.join(format!("page-{page}.png"))).ok());
    let pictures: Vec<_> = pictures.collect();
    assert_eq!(pictures.len(), 5);
    for picture in &pictures {
        assert!(picture.starts_with(b"\x89PNG\r\n\x1a\n"));
        assert_eq!(
            &picture[16..24],
            [0, 0, 1, 104, 0, 0, 1, 14],
            "360 by 270 pixels"
        );
    }
}
