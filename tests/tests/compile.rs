//! Compiling as the agent does it: large modules start before they are optimised, and bombs hurt nobody else.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::path::{Path, PathBuf};

use serde_json::json;
use tepui_tests::{Cluster, Scheduler, guest, leb, section, wait_until};

/// A module of so many functions of `steps` additions each; `_start` calls the first three times and leaves.
fn large(functions: usize, steps: usize) -> Vec<u8> {
    large_with(functions, steps, &[0x10, 0, 0x10, 0, 0x10, 0])
}

/// The same with that in `_start`.
fn large_with(functions: usize, steps: usize, start: &[u8]) -> Vec<u8> {
    let types = [1, 0x60, 0, 0];
    let indices = [leb(functions + 1), vec![0; functions + 1]].concat();
    let exports = [&[1, 6][..], b"_start", &[0], &leb(functions)].concat();
    let mut step = Vec::new();
    for number in 0..steps {
        // local = (local + number) * local
        step.extend([
            0x20,
            0,
            0x41,
            (number % 64) as u8,
            0x6a,
            0x20,
            0,
            0x6c,
            0x21,
            0,
        ]);
    }
    // One local, an i32.
    let body = [&[1, 1, 0x7f][..], &step, &[0x0b]].concat();
    let body = [leb(body.len()), body].concat();
    let start = [&[0][..], start, &[0x0b]].concat();
    let start = [leb(start.len()), start].concat();
    let code = [leb(functions + 1), body.repeat(functions), start].concat();
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, &types),
        section(3, &indices),
        section(7, &exports),
        section(10, &code),
    ]
    .concat()
}

/// A small module no optimiser comes to an end with: nested loops, around a body that changes every one of many locals.
fn bomb(number: usize) -> Vec<u8> {
    let (depth, locals) = (500, 3_000 + number);
    let mut body = [&[1][..], &leb(locals), &[0x7f]].concat();
    body.extend([0x03, 0x40].repeat(depth));
    for local in 0..locals {
        body.push(0x20);
        body.extend(leb((local + 1) % locals));
        body.extend([0x41, 1, 0x6a, 0x21]);
        body.extend(leb(local));
    }
    for level in 0..depth {
        body.push(0x20);
        body.extend(leb(level));
        body.extend([0x0d, 0, 0x0b]);
    }
    body.push(0x0b);
    let code = [&[1][..], &leb(body.len()), &body].concat();
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, &[1, 0x60, 0, 0]),
        section(3, &[1, 0]),
        section(7, &[&[1, 6][..], b"_start", &[0, 0]].concat()),
        section(10, &code),
    ]
    .concat()
}

fn compiled(cluster: &Cluster) -> Vec<String> {
    let entries = std::fs::read_dir(cluster.folder.path().join("agent-1/compiled")).unwrap();
    let names = entries.flatten().map(|entry| entry.file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(".cwasm")).collect()
}

#[test]
fn a_large_module_runs_before_it_is_optimised_and_says_what_it_waits_for() {
    let cluster = Cluster::start(1);
    let module = cluster.folder.path().join("large.wasm");
    std::fs::write(&module, large(1_000, 200)).unwrap();
    let module = module.display().to_string();
    let first = cluster.tepui(&["run", &module]);
    assert_eq!(first.code, 0, "{first:?}");
    assert!(
        first.stderr.contains("compiling a module of 1.9 MiB"),
        "{first:?}"
    );
    assert!(first.stderr.contains("compiled the module in"), "{first:?}");
    let quick = |name: &String| name.ends_with("-baseline.cwasm");
    assert!(compiled(&cluster).iter().any(quick));
    wait_until("the optimised form", || {
        (!compiled(&cluster).iter().all(quick)).then_some(())
    });
    let second = cluster.tepui(&["run", &module]);
    assert_eq!((second.code, second.stderr.as_str()), (0, ""), "{second:?}");
    // Fuel is counted in both forms alike.
    let fuel = |limit: &str| cluster.tepui(&["run", "--fuel", limit, &module]).code;
    assert_eq!(fuel("2000"), 202);
    wait_until("the optimised metered form", || {
        (compiled(&cluster).len() == 4).then_some(())
    });
    assert_eq!(fuel("2000"), 202);
    assert_eq!(fuel("4000"), 0);
}

fn launch(scheduler: &mut Scheduler, modules: &[PathBuf]) {
    let offer = scheduler.offer();
    let tasks: Vec<_> = modules
        .iter()
        .map(|module| {
            let name = module.file_stem().unwrap().to_string_lossy().into_owned();
            let mut task = Scheduler::task(&name, &offer, "");
            task["command"] = json!({
                "value": module.file_name().unwrap().to_string_lossy(),
                "uris": [{ "value": module }],
            });
            task
        })
        .collect();
    assert_eq!(scheduler.launch(&offer, &tasks).status, 202);
}

#[test]
fn compile_bombs_fail_clearly_and_a_neighbour_does_not_wait_for_them() {
    let mut cluster = Cluster::master_alone(&[]);
    cluster.add_agent(&[
        "--resources",
        "cpus:4;mem:2048;disk:1024",
        "--compile-timeout=8secs",
    ]);
    cluster.wait_for_agents(1);
    let bombs: Vec<PathBuf> = (0..2)
        .map(|number| {
            let path = cluster.folder.path().join(format!("bomb{number}.wasm"));
            std::fs::write(&path, bomb(number)).unwrap();
            path
        })
        .collect();
    let mut bomber = Scheduler::subscribe(&cluster.master.address, json!({}));
    launch(&mut bomber, &bombs);
    wait_until("the compiler", || {
        (!cluster.processes(&["compile", "--input"]).is_empty()).then_some(())
    });
    let mut neighbour = Scheduler::subscribe(&cluster.master.address, json!({}));
    launch(&mut neighbour, &[Path::new(&guest("hello")).to_owned()]);
    neighbour.until("hello", "TASK_FINISHED");
    assert!(
        !cluster.processes(&["compile", "--input"]).is_empty(),
        "the bombs were still being compiled"
    );
    let mut failed = Vec::new();
    while failed.len() < 2 {
        let status = bomber.status();
        if status["state"] != "TASK_FAILED" {
            continue;
        }
        assert_eq!(status["reason"], "REASON_CONTAINER_LAUNCH_FAILED");
        let message = status["message"].as_str().unwrap();
        assert!(
            message.contains("compiling the module took longer than 8 s"),
            "{message}"
        );
        failed.push(status["task_id"]["value"].clone());
    }
    assert_ne!(failed[0], failed[1]);
}

#[test]
fn where_a_bomb_is_given_up_its_native_body_runs() {
    let mut cluster = Cluster::master_alone(&[]);
    cluster.add_agent(&["--resources", "cpus:4;mem:2048", "--compile-timeout=2secs"]);
    cluster.wait_for_agents(1);
    let path = cluster.folder.path().join("bomb.wasm");
    std::fs::write(&path, bomb(0)).unwrap();
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let offer = scheduler.offer();
    let mut task = Scheduler::task("bomb", &offer, "");
    task.as_object_mut().unwrap().remove("command");
    task["container"] = json!({ "type": "WASM", "wasm": {
        "artifact": { "value": path },
        "fallback": { "value": "true" },
    }});
    scheduler.launch(&offer, &[task]);
    let running = scheduler.until("bomb", "TASK_RUNNING");
    let message = running["message"].as_str().unwrap();
    let why =
        "runs its native body: the wasm body cannot run: compiling the module took longer than 2 s";
    assert!(message.starts_with(why), "{message}");
    scheduler.until("bomb", "TASK_FINISHED");
}

#[test]
fn quickly_made_code_leaves_a_core_dump_too() {
    let cluster = Cluster::start(1);
    let module = cluster.folder.path().join("traps.wasm");
    std::fs::write(&module, large_with(1_000, 200, &[0x10, 0, 0])).unwrap();
    let ended = cluster.tepui(&["run", "--coredump", &module.display().to_string()]);
    assert_eq!(ended.code, 204, "{ended:?}");
    assert!(
        compiled(&cluster)
            .iter()
            .any(|name| name.ends_with("-baseline.cwasm"))
    );
    assert!(ended.stderr.contains("compiled the module in"), "{ended:?}");
    let told = "coredump.wasm in the sandbox: ";
    assert!(ended.stderr.contains(told), "{ended:?}");
}
