//! Hostile modules in the executor of a well-behaved neighbour: each is ended or refused in words, the neighbour goes on,
//! and the executor stays the same process. Those of `tests/hostile` are also what `tepui-bench hostile` measures.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tepui_tests::{Cluster, Scheduler, leb, section, wait_until};

/// Writes a byte to stdout every few milliseconds.
const NEIGHBOUR: &str = r#"(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 512) ".")
  (func (export "_start")
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 5000000))
    (i32.store (i32.const 600) (i32.const 512))
    (i32.store (i32.const 604) (i32.const 1))
    (loop $on
      (drop (call $poll (i32.const 0) (i32.const 128) (i32.const 1) (i32.const 256)))
      (drop (call $write (i32.const 1) (i32.const 600) (i32.const 1) (i32.const 608)))
      (br $on))))"#;
/// What the neighbour must have done while a guest that is ended by its time ran; undisturbed it is some hundreds.
const ANSWERS: u64 = 10;

struct Bench {
    cluster: Cluster,
    scheduler: Scheduler,
    executor: i32,
}

impl Bench {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(flags: &[&str]) -> Self {
        let mut cluster = Cluster::master_alone(&[]);
        let resources = ["--resources", "cpus:4;mem:2048;disk:1024"];
        cluster.add_agent(&[&resources, flags].concat());
        cluster.wait_for_agents(1);
        let neighbour = cluster.folder.path().join("neighbour.wat");
        std::fs::write(&neighbour, NEIGHBOUR).unwrap();
        let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
        let offer = scheduler.offer();
        let task = task("neighbour", &offer, &neighbour);
        assert_eq!(scheduler.accept(&offer, launch(&task)).status, 202);
        scheduler.until("neighbour", "TASK_RUNNING");
        let executor = executors(&cluster)[0];
        Self {
            cluster,
            scheduler,
            executor,
        }
    }

    /// How often the neighbour has been up.
    fn answers(&self) -> u64 {
        let frameworks = self.cluster.folder.path().join("agent-1/slaves");
        let agent = std::fs::read_dir(frameworks)
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        let stdout = agent.path().join(format!(
            "frameworks/{}/executors/neighbour/runs/latest/stdout",
            self.scheduler.framework_id
        ));
        std::fs::metadata(stdout).unwrap().len()
    }

    /// Runs a module beside the neighbour: its last status.
    fn suffer(&mut self, id: &str, module: &Path) -> Value {
        self.scheduler.call(json!({ "type": "REVIVE" }));
        let offer = self.scheduler.offer();
        let mut task = task(id, &offer, module);
        task["max_completion_time"] = json!({ "nanoseconds": 2_000_000_000_u64 });
        assert_eq!(self.scheduler.accept(&offer, launch(&task)).status, 202);
        let mut began = None;
        let last = loop {
            let status = self.scheduler.status();
            let state = status["state"].as_str().unwrap();
            assert_eq!(
                status["task_id"]["value"], id,
                "the neighbour ended: {status}"
            );
            match state {
                "TASK_RUNNING" => began = Some(self.answers()),
                "TASK_STAGING" | "TASK_STARTING" => {}
                _ => break status,
            }
        };
        let now = self.answers();
        if last["reason"] == "REASON_MAX_COMPLETION_TIME_REACHED" {
            let answers = now - began.expect("what ran out of time was running");
            assert!(answers >= ANSWERS, "{id}: {answers} answers beside it");
        }
        wait_until("the neighbour to go on", || {
            (self.answers() > now + ANSWERS).then_some(())
        });
        assert_eq!(
            executors(&self.cluster),
            [self.executor],
            "{id} killed its executor"
        );
        last
    }
}

fn executors(cluster: &Cluster) -> Vec<i32> {
    cluster.processes(&["executor-wasm"])
}

fn launch(task: &Value) -> Value {
    json!({ "type": "LAUNCH", "launch": { "task_infos": [task] } })
}

fn task(id: &str, offer: &Value, module: &Path) -> Value {
    let scalar = |name: &str, value: f64| json!({ "name": name, "type": "SCALAR", "scalar": { "value": value } });
    let name = module.file_name().unwrap().to_string_lossy();
    json!({
        "name": id, "task_id": { "value": id }, "agent_id": offer["agent_id"],
        "command": { "shell": false, "value": name, "uris": [{ "value": module }] },
        "container": { "type": "WASM", "wasm": { "output_bytes": 16 << 20 } },
        "resources": [scalar("cpus", 0.1), scalar("mem", 64.0)],
    })
}

/// A module whose `_start` has that body, with further sections behind it.
fn module(memory: Option<&[u8]>, body: &[u8], behind: &[Vec<u8>]) -> Vec<u8> {
    let code = [&[1][..], &leb(body.len()), body].concat();
    let mut whole = b"\0asm\x01\0\0\0".to_vec();
    whole.extend(section(1, &[1, 0x60, 0, 0]));
    whole.extend(section(3, &[1, 0]));
    whole.extend(memory.into_iter().flat_map(|memory| section(5, memory)));
    whole.extend(section(7, &[&[1, 6][..], b"_start", &[0, 0]].concat()));
    whole.extend(section(10, &code));
    whole.extend(behind.concat());
    whole
}

/// What is not handy as text.
fn made() -> Vec<(&'static str, Vec<u8>)> {
    let nothing = [0, 0x0b];
    let custom = |name: &str, bytes: usize| {
        section(
            0,
            &[leb(name.len()), name.as_bytes().to_vec(), vec![1; bytes]].concat(),
        )
    };
    // Names of functions: a subsection that claims to have a billion of them.
    let names = [
        leb(4),
        b"name".to_vec(),
        vec![1],
        leb(6),
        leb(1_000_000_000),
        vec![0],
    ]
    .concat();
    // 20 MB in one segment, behind the end of a memory of one page.
    let data = [
        &[1, 0, 0x41, 0, 0x0b][..],
        &leb(20 << 20),
        &vec![7; 20 << 20],
    ]
    .concat();
    // Two hundred memories.
    let memories = [leb(200), [0, 1].repeat(200)].concat();
    let mut nested = Vec::new();
    for _ in 0..2_000 {
        let inner = [b"\0asm\x0d\0\x01\0".to_vec(), nested].concat();
        nested = section(4, &inner);
    }
    // One of three thousand instances computes; each has a memory.
    let instances: String = (0..3_000)
        .map(|number| format!("(core instance $i{number} (instantiate $m))"))
        .collect();
    let instances = format!(
        r#"(component
          (core module $m (memory 0) (func (export "run") (result i32) (loop $on (br $on)) (i32.const 0)))
          {instances}
          (func $run (result (result)) (canon lift (core func $i7 "run")))
          (instance $cli (export "run" (func $run)))
          (export "wasi:cli/run@0.2.0" (instance $cli)))"#
    );
    vec![
        ("many_instances", instances.into_bytes()),
        (
            "custom_giant",
            module(None, &nothing, &[custom("x", 20 << 20)]),
        ),
        (
            "names_that_lie",
            module(None, &nothing, &[section(0, &names)]),
        ),
        (
            "data_giant",
            module(Some(&[1, 0, 1]), &nothing, &[section(11, &data)]),
        ),
        ("many_memories", module(Some(&memories), &nothing, &[])),
        (
            "billion_locals",
            module(
                None,
                &[leb(1), leb(1_000_000_000), vec![0x7f, 0x0b]].concat(),
                &[],
            ),
        ),
        (
            "most_locals",
            // It calls itself with as many locals as there may be.
            module(
                None,
                &[leb(1), leb(49_999), vec![0x7e, 0x10, 0, 0x0b]].concat(),
                &[],
            ),
        ),
        (
            "deep_components",
            [b"\0asm\x0d\0\x01\0".to_vec(), nested].concat(),
        ),
        ("cut_off", module(None, &nothing, &[])[..20].to_vec()),
    ]
}

fn texts() -> Vec<(String, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("hostile");
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, path)
        })
        .collect();
    all.sort();
    all
}

/// Why a module that is not ended by its time ends.
fn expected(id: &str) -> &'static [&'static str] {
    const LAUNCH: &str = "REASON_CONTAINER_LAUNCH_FAILED";
    const MEMORY: &str = "REASON_CONTAINER_LIMITATION_MEMORY";
    const LIMIT: &str = "REASON_CONTAINER_LIMITATION";
    const TIME: &str = "REASON_MAX_COMPLETION_TIME_REACHED";
    // A trap is the guest's own affair: there is no reason of the platform's.
    const TRAP: &str = "";
    match id {
        "grow" | "tables" | "huge_table" | "memories" | "memory64" => &[MEMORY],
        "garbage" => &[MEMORY, LAUNCH, TRAP],
        "many_instances" => &[TIME, LAUNCH],
        "output" | "open_and_keep" | "poll_many" => &[LIMIT],
        "shared_memory" | "billion_locals" | "deep_components" | "cut_off" | "many_memories" => {
            &[LAUNCH]
        }
        "recurse" | "most_locals" | "data_giant" => &[TRAP],
        _ => &[TIME],
    }
}

#[test]
fn hostile_modules_end_in_words_and_a_neighbour_goes_on() {
    let mut bench = Bench::new();
    let texts = texts();
    assert!(texts.len() > 20, "{texts:?}");
    let made = made().into_iter().map(|(id, bytes)| {
        let ending = if bytes.starts_with(b"(") {
            "wat"
        } else {
            "wasm"
        };
        let path = bench.cluster.folder.path().join(format!("{id}.{ending}"));
        std::fs::write(&path, bytes).unwrap();
        (id.to_owned(), path)
    });
    let all: Vec<_> = texts.into_iter().chain(made).collect();
    let mut wrong = Vec::new();
    for (id, path) in all {
        let last = bench.suffer(&id, &path);
        println!(
            "{id}: {} {} {}",
            last["state"], last["reason"], last["message"]
        );
        let harmless = ["custom_giant", "names_that_lie"].contains(&id.as_str());
        let as_expected = match last["state"].as_str().unwrap() {
            "TASK_FINISHED" => harmless,
            "TASK_FAILED" => expected(&id).contains(&last["reason"].as_str().unwrap_or_default()),
            _ => false,
        };
        if !as_expected || last["message"].as_str().unwrap_or_default().is_empty() && !harmless {
            wrong.push(format!("{id}: {last}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    bench.scheduler.kill("neighbour");
    bench.scheduler.until("neighbour", "TASK_KILLED");
}

#[test]
fn a_capped_guest_has_no_more_than_its_cap_of_an_idle_machine() {
    let mut bench = Bench::new();
    bench.scheduler.call(json!({ "type": "REVIVE" }));
    let offer = bench.scheduler.offer();
    let spin = Path::new(env!("CARGO_MANIFEST_DIR")).join("hostile/spin.wat");
    let mut capped = task("capped", &offer, &spin);
    capped["limits"] = json!({ "cpus": { "value": 0.2 } });
    capped["max_completion_time"] = json!({ "nanoseconds": 4_000_000_000_u64 });
    bench.scheduler.accept(&offer, launch(&capped));
    let last = bench.scheduler.until("capped", "TASK_FAILED");
    assert_eq!(last["reason"], "REASON_MAX_COMPLETION_TIME_REACHED");
    let seconds = |name: &str| {
        let text = &last["usage"][name];
        let nanoseconds = text.as_f64().or_else(|| text.as_str()?.parse().ok());
        nanoseconds.unwrap() / 1e9
    };
    let (cpu, wall) = (seconds("cpu_time_ns"), seconds("wall_time_ns"));
    // It may be 20 ms ahead, and a slice; it lags behind only on a machine that has no time for it.
    assert!(cpu <= wall * 0.2 + 0.1, "{cpu} s of {wall} s");
    assert!(cpu > 0.0);
}

/// Sleeps for a day.
const PARK: &str = r#"(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 86400000000000))
    (drop (call $poll (i32.const 0) (i32.const 128) (i32.const 1) (i32.const 256)))))"#;

#[test]
fn an_executor_that_can_open_no_more_refuses_in_words_and_lives() {
    const TASKS: usize = 60;
    // Limits are changed from outside only for a process of the same user.
    let mut bench = Bench::with(&["--executor_uids", "none"]);
    let executor = bench.executor.to_string();
    let open = std::fs::read_dir(format!("/proc/{executor}/fd")).unwrap();
    // Less than the executor found when it began: what it counts by does not keep it from running into this.
    let limit = format!("--nofile={0}:{0}", open.count() + TASKS / 3);
    let limited = std::process::Command::new("prlimit")
        .args(["--pid", &executor, &limit])
        .status();
    assert!(limited.unwrap().success());
    let park = bench.cluster.folder.path().join("park.wat");
    std::fs::write(&park, PARK).unwrap();
    bench.scheduler.call(json!({ "type": "REVIVE" }));
    let offer = bench.scheduler.offer();
    let tasks: Vec<Value> = (0..TASKS)
        .map(|number| {
            let mut task = task(&format!("park{number}"), &offer, &park);
            for resource in task["resources"].as_array_mut().unwrap() {
                resource["scalar"]["value"] = json!(if resource["name"] == "cpus" {
                    0.01
                } else {
                    8.0
                });
            }
            task
        })
        .collect();
    let all = json!({ "type": "LAUNCH", "launch": { "task_infos": tasks } });
    assert_eq!(bench.scheduler.accept(&offer, all).status, 202);
    let (mut running, mut refused) = (Vec::new(), 0);
    while running.len() + refused < TASKS {
        let status = bench.scheduler.status();
        match status["state"].as_str().unwrap() {
            "TASK_RUNNING" => running.push(status["task_id"]["value"].clone()),
            "TASK_FAILED" => {
                refused += 1;
                // One may have begun and then found that it cannot go on.
                running.retain(|id| *id != status["task_id"]["value"]);
                let message = status["message"].as_str().unwrap();
                assert!(message.contains("open"), "{status}");
            }
            _ => {}
        }
    }
    assert!(
        refused > 0 && !running.is_empty(),
        "{refused} refused, {} run",
        running.len()
    );
    assert_eq!(executors(&bench.cluster), [bench.executor]);
    let now = bench.answers();
    wait_until("the neighbour to go on", || {
        (bench.answers() > now + ANSWERS).then_some(())
    });
    // What one gives back another takes.
    let id = running[0].as_str().unwrap().to_owned();
    bench.scheduler.kill(&id);
    bench.scheduler.until(&id, "TASK_KILLED");
    bench.scheduler.call(json!({ "type": "REVIVE" }));
    let offer = bench.scheduler.offer();
    bench
        .scheduler
        .accept(&offer, launch(&task("again", &offer, &park)));
    bench.scheduler.until("again", "TASK_RUNNING");
}
