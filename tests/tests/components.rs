//! Components of the WASI 0.2 command world as tasks: the kind is found by looking, never by a flag.

use tepui_tests::{Cluster, component};

#[test]
fn a_component_runs_like_a_module_but_for_its_exit_code() {
    let cluster = Cluster::start(1);
    let hello = component("hello");
    let ended = cluster.tepui(&["run", "--env", "GREETING=hi", &hello, "--", "a", "b c"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(
        ended.stdout.starts_with("hello from wasm a b c\n"),
        "{ended:?}"
    );
    assert!(ended.stdout.contains("GREETING=hi\n"), "{ended:?}");
    assert!(ended.stdout.contains("in role *\n"), "{ended:?}");
    // Its world knows only good and bad.
    let ended = cluster.tepui(&["run", &hello, "--", "--exit", "7"]);
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (1, "exiting with 7 as asked\n")
    );

    let probe = component("probe");
    let ended = cluster.tepui(&["run", &probe, "--", "write", "/made.txt", "by a component"]);
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (0, "written to /made.txt\n")
    );
    for outside in ["/etc/passwd", "../../../etc/passwd"] {
        let ended = cluster.tepui(&["run", &probe, "--", "read", outside]);
        assert_eq!(ended.code, 1, "{ended:?}");
    }
    let ended = cluster.tepui(&["run", &probe, "--", "fail"]);
    assert_eq!(ended.code, 204, "{ended:?}");
    assert!(
        ended.stderr.contains("this guest fails as asked"),
        "{ended:?}"
    );
    assert!(ended.stderr.contains("unreachable"), "{ended:?}");
}

#[test]
fn limits_hold_for_components_too() {
    let cluster = Cluster::start(1);
    let (hungry, spin) = (component("hungry"), component("spin"));
    let ended = cluster.tepui(&["run", "--mem", "64MB", &hungry]);
    assert_eq!(ended.code, 201, "{ended:?}");
    assert!(ended.stderr.contains("memory limit 64 MiB"), "{ended:?}");
    let ended = cluster.tepui(&["run", "--fuel", "100000000", &spin]);
    assert_eq!(ended.code, 202, "{ended:?}");
    let ended = cluster.tepui(&["run", "--time", "1s", &spin]);
    assert_eq!(ended.code, 203, "{ended:?}");
}

#[test]
fn what_nobody_provides_is_named_before_anything_runs() {
    let cluster = Cluster::start(1);
    let directory = tempfile::tempdir().unwrap();
    let refused = |name: &str, text: &str| {
        let file = directory.path().join(name);
        std::fs::write(&file, text).unwrap();
        let ended = cluster.tepui(&["run", &file.display().to_string()]);
        assert_eq!(ended.code, 205, "{ended:?}");
        ended.stderr
    };
    let said = refused(
        "wants.wat",
        r#"(component (import "wasi:keyvalue/store@0.2.0-draft" (instance (export "open" (func)))))"#,
    );
    assert!(said.contains("wasi:keyvalue/store@0.2.0-draft"), "{said}");
    assert!(said.contains("REASON_CONTAINER_LAUNCH_FAILED"), "{said}");
    let said = refused(
        "emscripten.wat",
        r#"(module (import "env" "emscripten_resize_heap" (func (param i32) (result i32))) (func (export "_start")))"#,
    );
    assert!(said.contains("env::emscripten_resize_heap"), "{said}");
    assert!(said.contains("Emscripten"), "{said}");
    let said = refused(
        "reactor.wat",
        r#"(module (func (export "_initialize")) (func (export "add") (param i32)))"#,
    );
    assert!(said.contains("no _start export"), "{said}");
    let said = refused("nothing.wat", "(component)");
    assert!(said.contains("exports neither wasi:cli/run"), "{said}");
}
