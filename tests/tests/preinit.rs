//! `tepui preinit`: what a module computes before it starts is computed once, and its tasks burn less for the same output.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::path::Path;

use serde_json::{Value, json};
use tepui_tests::{Cluster, Scheduler};

/// Adds up numbers for a while, unless that was done before, and writes a digit of the sum; the sum begins with what a file says.
const SLOW: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (global $ready (mut i32) (i32.const 0))
  (func $prepare (export "prepare") (local $n i64)
    (if (global.get $ready) (then (return)))
    ;; The number of variables is part of the sum.
    (drop (call $sizes (i32.const 32) (i32.const 36)))
    (i64.store (i32.const 8) (i64.extend_i32_u (i32.load (i32.const 32))))
    (loop $on
      (local.set $n (i64.add (local.get $n) (i64.const 1)))
      (i64.store (i32.const 8) (i64.add (i64.load (i32.const 8)) (i64.and (local.get $n) (i64.const 1))))
      (br_if $on (i64.lt_u (local.get $n) (i64.const 2000000))))
    (global.set $ready (i32.const 1)))
  (func (export "_start")
    (call $prepare)
    (i32.store8 (i32.const 64)
      (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (i64.load (i32.const 8)) (i64.const 10)))))
    (i32.store (i32.const 16) (i32.const 64))
    (i32.store (i32.const 20) (i32.const 1))
    (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24)))))"#;

/// Its output, and the fuel it burnt.
fn run(cluster: &Cluster, scheduler: &mut Scheduler, id: &str, module: &Path) -> (String, f64) {
    scheduler.call(json!({ "type": "REVIVE" }));
    let offer = scheduler.offer();
    let mut task = Scheduler::task(id, &offer, "");
    let name = module.file_name().unwrap().to_string_lossy();
    task["command"] = json!({
        "shell": false, "value": name, "uris": [{ "value": module }],
        "environment": { "variables": [] },
    });
    task["limits"] = json!({ "fuel": { "value": 1e9 } });
    scheduler.launch(&offer, &[task]);
    let last = scheduler.ended(id);
    assert_eq!(last["state"], "TASK_FINISHED", "{last}");
    let fuel: &Value = &last["usage"]["fuel_used"];
    let fuel = fuel.as_f64().or_else(|| fuel.as_str()?.parse().ok());
    let framework = &scheduler.framework_id;
    let said = cluster.tepui(&["logs", "--framework", framework, id]);
    (said.stdout, fuel.unwrap())
}

#[test]
fn a_preinitialised_module_burns_less_and_says_the_same() {
    let cluster = Cluster::start(1);
    let slow = cluster.folder.path().join("slow.wat");
    let made = cluster.folder.path().join("made.wasm");
    std::fs::write(&slow, SLOW).unwrap();
    let words = |path: &Path| path.display().to_string();
    let preinit = |more: &[&str]| {
        let (input, output) = (words(&slow), words(&made));
        let first = ["preinit", &input, "-o", &output, "--init-func"];
        cluster.tepui(&[&first[..], more].concat())
    };
    let refused = preinit(&["missing"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(
        refused.stderr.contains("exports no function missing"),
        "{refused:?}"
    );
    assert!(!made.exists());

    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let (text, fuel) = run(&cluster, &mut scheduler, "before", &slow);
    assert!(text.len() == 1 && fuel > 2e6, "{text} {fuel}");
    // The agent gives tasks variables; so many are given here that the digit is the same.
    let digit: u32 = text.parse().unwrap();
    let names: Vec<String> = (0..digit).map(|number| format!("V{number}=x")).collect();
    let mut more = vec!["prepare"];
    more.extend(names.iter().flat_map(|name| ["--env", name.as_str()]));
    let done = preinit(&more);
    assert_eq!(done.code, 0, "{done:?}");
    let (same, less) = run(&cluster, &mut scheduler, "after", &made);
    assert_eq!(same, text);
    assert!(less < fuel / 100.0, "{less} of {fuel}");
}

/// Ends well if it was prepared before it was started.
const COMPONENT: &str = r#"(component
  (core module $m
    (memory (export "memory") 1)
    (global $ready (mut i32) (i32.const 1))
    (func (export "prepare") (global.set $ready (i32.const 0)) (i32.store (i32.const 8) (i32.const 7)))
    (func (export "run") (result i32)
      (if (i32.eqz (global.get $ready))
        (then (if (i32.ne (i32.load (i32.const 8)) (i32.const 7)) (then unreachable))))
      (global.get $ready)))
  (core instance $i (instantiate $m))
  (func (export "prepare") (canon lift (core func $i "prepare")))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $cli (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $cli)))"#;

#[test]
fn a_component_is_initialised_as_well() {
    let cluster = Cluster::start(1);
    let path = |name: &str| cluster.folder.path().join(name).display().to_string();
    let (input, output) = (path("component.wat"), path("component.wasm"));
    std::fs::write(&input, COMPONENT).unwrap();
    assert_eq!(cluster.tepui(&["run", &input]).code, 1, "nothing is ready");
    let words = ["preinit", &input, "-o", &output, "--init-func", "prepare"];
    let done = cluster.tepui(&[&words[..], &["--keep-init-func"]].concat());
    assert_eq!(done.code, 0, "{done:?}");
    let ended = cluster.tepui(&["run", &output]);
    assert_eq!(ended.code, 0, "{ended:?}");
}

#[test]
fn what_cannot_be_initialised_is_refused_in_words() {
    let cluster = Cluster::master_alone(&[]);
    let path = |name: &str| cluster.folder.path().join(name).display().to_string();
    let output = path("out.wasm");
    let refused = |text: &str, more: &[&str]| {
        let input = path("in.wat");
        std::fs::write(&input, text).unwrap();
        let words = ["preinit", &input, "-o", &output, "--init-func", "go"];
        let ended = cluster.tepui(&[&words[..], more].concat());
        assert_eq!(ended.code, 1, "{ended:?}");
        assert!(!Path::new(&output).exists());
        ended.stderr
    };
    for (text, more, why) in [
        ("no module", &[][..], "the module is not valid"),
        (
            r#"(module (func (export "go") (loop $on (br $on))))"#,
            &["--time", "300ms"],
            "the initialisation was not over after 300ms",
        ),
        (
            r#"(module (memory 1) (func (export "go") (drop (memory.grow (i32.const 2000)))))"#,
            &["--mem", "64MB"],
            "64 MiB",
        ),
        (
            r#"(module (import "tepui" "x" (func $x)) (func (export "go") (call $x)))"#,
            &[],
            "unknown import",
        ),
        (
            r#"(module (table 1 funcref) (func (export "go") (table.set (i32.const 0) (ref.null func))))"#,
            &[],
            "no image can be taken of this module",
        ),
        (
            r#"(module (func (export "go") unreachable))"#,
            &[],
            "the initialisation failed",
        ),
    ] {
        let told = refused(text, more);
        assert!(told.contains(why), "{told}");
    }
}
