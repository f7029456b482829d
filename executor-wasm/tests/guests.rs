//! Guests under the runtime, without an agent: each ends in the one way it should.

mod common;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use tepui_api::v1::task_status::Reason;
use tepui_api::v1::{TaskState, TaskStatus};
use tepui_executor_wasm::{
    MemoryPolicy, Metering, ModuleFile, Outcome, Progress, Runtime, Settings, TaskHandle, TaskSpec,
    Volume, compile, compile_quickly, verdict,
};

use common::plain_task;

const PATIENCE: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let settings = Settings {
        threads: 2,
        pool_slots: 64,
        ..Settings::default()
    };
    Runtime::new(&settings).expect("threads")
});

/// A place for compiled guests and sandboxes, one for each test.
struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().expect("a directory"),
        }
    }

    fn module(&self, guest: &str, metering: Metering) -> ModuleFile {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/guests")
            .join(guest)
            .with_extension("wat");
        let compiled = self.directory.path().join(format!("{guest}-{metering:?}"));
        if !compiled.exists() {
            compile(&source, &compiled, metering == Metering::Metered).expect("it compiles");
        }
        ModuleFile {
            // The runtime is shared by tests whose caches differ, so the path serves as the name.
            sha256: String::new(),
            compiled,
            metering,
            baseline: false,
        }
    }

    fn sandbox(&self, name: &str) -> PathBuf {
        let sandbox = self.directory.path().join("sandboxes").join(name);
        std::fs::create_dir_all(&sandbox).expect("a sandbox");
        sandbox
    }

    fn spec(&self, guest: &str) -> TaskSpec {
        plain_task(
            guest,
            self.module(guest, Metering::Plain),
            self.sandbox(guest),
        )
    }

    fn metered(&self, guest: &str, fuel: Option<u64>) -> TaskSpec {
        let mut spec = self.spec(guest);
        spec.module = self.module(guest, Metering::Metered);
        spec.fuel_limit = fuel;
        spec
    }
}

/// A task under way.
struct Running {
    handle: TaskHandle,
    progress: Receiver<Progress>,
    task_id: String,
}

impl Running {
    fn start(runtime: &Runtime, spec: TaskSpec) -> Self {
        let (sender, progress) = mpsc::channel();
        let task_id = spec.task_id.clone();
        let handle = runtime.spawn(spec, move |step| drop(sender.send(step)));
        Self {
            handle,
            progress,
            task_id,
        }
    }

    fn step(&self) -> Progress {
        self.progress.recv_timeout(PATIENCE).expect("it goes on")
    }

    fn started(&self) {
        assert_eq!(self.step(), Progress::Started);
    }

    fn ended(&self) -> TaskStatus {
        let outcome: Box<Outcome> = match self.step() {
            Progress::Ended(outcome) => outcome,
            Progress::Started => panic!("it started already"),
        };
        let status = verdict(&self.task_id, &outcome);
        let usage = status.usage.as_ref().expect("every last status has it");
        assert!(usage.wall_time_ns() > 0);
        assert_eq!(usage.fuel_limit, outcome.usage.fuel_limit);
        assert!(
            self.progress.recv_timeout(PATIENCE).is_err(),
            "nothing comes after the ending"
        );
        status
    }
}

/// Runs a task that starts and ends by itself.
fn run(spec: TaskSpec) -> TaskStatus {
    let running = Running::start(&RUNTIME, spec);
    running.started();
    running.ended()
}

/// Runs a task that never starts.
fn refused(spec: TaskSpec) -> TaskStatus {
    Running::start(&RUNTIME, spec).ended()
}

fn limited(status: &TaskStatus) -> (String, f64) {
    let limitation = status.limitation.as_ref().expect("a limitation");
    let resource = limitation.resources.first().expect("a resource");
    (
        resource.name.clone(),
        resource.scalar.as_ref().expect("a scalar").value,
    )
}

/// What was hit, without after how long and where.
fn before_when(status: &TaskStatus) -> &str {
    let (what, when) = status
        .message()
        .split_once(" after ")
        .expect("it says when");
    assert!(when.contains('s'), "{when}");
    what
}

#[test]
fn exit_statuses_are_told_as_they_are() {
    let bench = Bench::new();
    let status = run(bench.spec("exit_0"));
    assert_eq!(status.state(), TaskState::TaskFinished);
    for (guest, message) in [
        ("exit_3", "Command exited with status 3"),
        ("exit_200", "Command exited with status 200"),
        ("old", "Command exited with status 130"),
    ] {
        let status = run(bench.spec(guest));
        assert_eq!(status.state(), TaskState::TaskFailed);
        assert_eq!(status.message(), message);
        assert_eq!(status.reason, None);
    }
}

#[test]
fn a_component_ends_well_or_badly_and_its_memories_are_one_sum() {
    let bench = Bench::new();
    let status = run(bench.spec("component_ok"));
    assert_eq!(status.state(), TaskState::TaskFinished);
    let status = run(bench.metered("component_ok", Some(1_000_000)));
    assert!(status.usage.expect("it has it").fuel_used() > 0);
    let status = run(bench.spec("component_err"));
    assert_eq!(status.message(), "Command exited with status 1");
    let status = run(bench.spec("component_trap"));
    assert!(
        status.message().contains("integer divide by zero") && status.message().contains("inner"),
        "{}",
        status.message()
    );
    let status = run(bench.spec("component_memories"));
    assert_eq!(status.reason(), Reason::ContainerLimitationMemory);
    assert!(
        status
            .message()
            .starts_with("memory limit 64 MiB reached growing by 37.5 MiB (held 37.5 MiB)"),
        "{}",
        status.message()
    );
    let mut spec = bench.spec("component_memories");
    spec.memory_limit = Some(80 * MIB);
    let usage = run(spec).usage.expect("it has it");
    assert_eq!(usage.memory_peak_bytes(), 75 * MIB);
}

#[test]
fn a_component_is_started_by_its_world_and_nothing_else() {
    let bench = Bench::new();
    let mut spec = bench.spec("component_ok");
    spec.entrypoint = "wasi:cli/run".to_owned();
    assert_eq!(run(spec.clone()).state(), TaskState::TaskFinished);
    spec.entrypoint = "_start".to_owned();
    let status = refused(spec);
    assert_eq!(status.reason(), Reason::ContainerLaunchFailed);
    assert!(
        status.message().starts_with(
            "a component is started by wasi:cli/run or wasi:http/incoming-handler, not by _start"
        ),
        "{}",
        status.message()
    );
}

#[test]
fn arguments_and_environment_are_exactly_those_given() {
    let bench = Bench::new();
    let mut spec = bench.spec("echo");
    spec.arguments = vec!["echo".to_owned(), "two words".to_owned()];
    spec.environment = vec![("A".to_owned(), "1".to_owned())];
    let sandbox = spec.sandbox.clone();
    std::fs::write(sandbox.join("stdout"), "before;").expect("written");
    assert_eq!(run(spec).state(), TaskState::TaskFinished);
    let read = |name| std::fs::read_to_string(sandbox.join(name)).expect("it is there");
    assert_eq!(read("stdout"), "before;echo\0two words\0");
    assert_eq!(read("stderr"), "A=1\0");
}

#[test]
fn a_guest_writes_in_its_sandbox_and_nowhere_else() {
    let bench = Bench::new();
    let spec = bench.spec("write_file");
    let sandbox = spec.sandbox.clone();
    let status = run(spec);
    // 63 is EPERM: that is what leading out of the sandbox meets.
    assert_eq!(status.message(), "Command exited with status 63");
    let text = std::fs::read_to_string(sandbox.join("out.txt")).expect("it is there");
    assert_eq!(text, "made by a guest");
    let usage = status.usage.as_ref().expect("every last status has it");
    assert_eq!((usage.bytes_read(), usage.bytes_written()), (0, 15));
    assert!(!bench.sandbox("outside").join("../outside.txt").exists());
}

#[test]
fn a_guest_sees_its_volumes_and_writes_only_where_it_may() {
    let bench = Bench::new();
    let volume = |name: &str, guest_path: &str, read_only| Volume {
        host: bench.sandbox(name),
        guest: guest_path.to_owned(),
        read_only,
    };
    let mut spec = bench.spec("volume");
    spec.volumes = vec![
        volume("data", "/data", false),
        volume("fixed", "/fixed", true),
    ];
    let status = run(spec.clone());
    // 63 is EPERM.
    assert_eq!(status.message(), "Command exited with status 63");
    let text = std::fs::read_to_string(bench.sandbox("data").join("out.txt"));
    assert_eq!(text.expect("it is there"), "made by a guest");
    assert!(!bench.sandbox("fixed").join("out.txt").exists());

    spec.volumes[1].host = bench.sandbox("data").join("gone");
    let status = refused(spec);
    assert_eq!(status.reason(), Reason::ContainerLaunchFailed);
    assert!(
        status
            .message()
            .contains("the volume /fixed cannot be opened")
    );
}

#[test]
fn a_trap_is_named_with_its_place() {
    let bench = Bench::new();
    let status = run(bench.spec("trap"));
    assert_eq!(status.state(), TaskState::TaskFailed);
    let message = status.message();
    assert!(message.contains("integer divide by zero"), "{message}");
    assert!(
        message.contains("divide at 0x") && message.contains("main at 0x"),
        "{message}"
    );

    let status = run(bench.spec("recurse"));
    assert!(
        status.message().contains("call stack exhausted"),
        "{}",
        status.message()
    );
    assert!(status.message().len() < 4_096);
}

#[test]
fn what_the_host_could_not_do_is_told_by_cause_time_and_place() {
    let bench = Bench::new();
    for (guest, cause) in [
        ("throw", "thrown Wasm exception"),
        ("no_memory", "the module exports no memory"),
        ("unaligned", "Pointer not aligned"),
    ] {
        let status = run(bench.spec(guest));
        assert_eq!(status.state(), TaskState::TaskFailed);
        let told = before_when(&status);
        assert!(told.starts_with(cause), "{}", status.message());
        let (_, place) = status.message().split_once('\n').expect("it says where");
        assert!(place.starts_with("  0: "), "{place}");
    }
}

#[test]
fn a_failure_leaves_a_core_dump_where_it_was_asked_for() {
    let bench = Bench::new();
    for guest in ["trap", "grow", "component_trap", "recurse"] {
        let mut spec = bench.spec(guest);
        spec.coredump = true;
        let sandbox = spec.sandbox.clone();
        let status = run(spec);
        assert!(
            status.message().contains("coredump.wasm in the sandbox: "),
            "{status:?}"
        );
        let dump = std::fs::read(sandbox.join("coredump.wasm")).expect("it is there");
        assert!(dump.starts_with(b"\0asm"));
        let holds = |text: &[u8]| dump.windows(text.len()).any(|part| part == text);
        assert!(holds(b"corestack"), "it has the stack");
    }
    for guest in ["exit_3", "exit_0"] {
        let mut spec = bench.spec(guest);
        spec.coredump = true;
        let sandbox = spec.sandbox.clone();
        run(spec);
        assert!(
            !sandbox.join("coredump.wasm").exists(),
            "an exit is no failure"
        );
    }
    let spec = bench.spec("trap");
    let dump = spec.sandbox.join("coredump.wasm");
    std::fs::remove_file(&dump).expect("that of before");
    run(spec);
    assert!(!dump.exists(), "nobody asked");
}

#[test]
fn too_much_output_and_too_many_open_files_end_the_task_by_name() {
    let bench = Bench::new();
    let spec = bench.spec("chatter");
    let stdout = spec.sandbox.join("stdout");
    let status = run(spec);
    assert_eq!(status.reason(), Reason::ContainerLimitation);
    assert_eq!(before_when(&status), "output limit 1 MiB reached");
    assert_eq!(limited(&status), ("output".to_owned(), MIB as f64));
    assert_eq!(status.usage.expect("it has it").output_bytes(), MIB);
    assert_eq!(stdout.metadata().expect("it is there").len(), MIB);
    let status = run(bench.spec("hoarder"));
    assert_eq!(status.reason(), Reason::ContainerLimitation);
    assert_eq!(limited(&status), ("handles".to_owned(), 64.0));
    assert!(
        status
            .message()
            .contains("limit of 64 handles (open files, sockets, streams) reached"),
        "{}",
        status.message()
    );
}

#[test]
fn a_table_grows_as_far_as_the_memory_limit_and_is_named_by_it() {
    let bench = Bench::new();
    let status = run(bench.spec("table"));
    assert_eq!(status.reason(), Reason::ContainerLimitationMemory);
    assert!(
        before_when(&status).starts_with("memory limit 64 MiB reached growing by "),
        "{status:?}"
    );
    let usage = status.usage.expect("it has it");
    assert!(usage.memory_peak_bytes() > 32 * MIB, "{usage:?}");
}

#[test]
fn a_table_that_cannot_grow_gives_no_memory_back() {
    let bench = Bench::new();
    let status = run(bench.spec("overflow"));
    assert_eq!(
        before_when(&status),
        "memory limit 64 MiB reached growing by 10 MiB (held 60.1 MiB)"
    );
}

#[test]
fn growing_over_the_memory_limit_ends_the_task_with_the_figures() {
    let bench = Bench::new();
    let status = run(bench.spec("grow"));
    assert_eq!(status.state(), TaskState::TaskFailed);
    assert_eq!(status.reason(), Reason::ContainerLimitationMemory);
    assert_eq!(
        before_when(&status),
        "memory limit 64 MiB reached growing by 16 MiB (held 48.1 MiB)"
    );
    assert_eq!(limited(&status), ("mem".to_owned(), 64.0));
    let usage = status.usage.expect("it has it");
    assert_eq!(usage.memory_peak_bytes, Some(48 * MIB + 65_536));
    assert_eq!(usage.memory_limit_bytes, Some(64 * MIB));
}

#[test]
fn a_guest_that_may_be_refused_memory_decides_itself() {
    let bench = Bench::new();
    let refusable = |guest| {
        let mut spec = bench.spec(guest);
        spec.memory_policy = MemoryPolicy::Refuse;
        run(spec)
    };
    assert_eq!(refusable("grow_and_go_on").state(), TaskState::TaskFinished);
    for (guest, end) in [("grow", "status 9"), ("grow_and_trap", "unreachable")] {
        let status = refusable(guest);
        assert_eq!(status.state(), TaskState::TaskFailed);
        assert_eq!(status.reason(), Reason::ContainerLimitationMemory);
        let message = status.message();
        assert!(
            message.starts_with("memory limit 64 MiB reached growing by "),
            "{message}"
        );
        assert!(message.contains(end), "{message}");
    }
}

#[test]
fn memory_a_module_asks_for_from_the_beginning_counts_as_well() {
    let bench = Bench::new();
    let status = refused(bench.spec("large"));
    assert_eq!(status.reason(), Reason::ContainerLimitationMemory);
    assert_eq!(
        before_when(&status),
        "memory limit 64 MiB reached growing by 128 MiB (held 0 B)"
    );
    let status = run(bench.spec("two_memories"));
    assert_eq!(status.reason(), Reason::ContainerLimitationMemory);
    assert_eq!(
        before_when(&status),
        "memory limit 64 MiB reached growing by 37.5 MiB (held 37.5 MiB)"
    );
    let mut spec = bench.spec("two_memories");
    spec.memory_policy = MemoryPolicy::Refuse;
    assert_eq!(run(spec).reason(), Reason::ContainerLimitationMemory);
    let mut spec = bench.spec("two_memories");
    spec.memory_limit = None;
    assert_eq!(run(spec).state(), TaskState::TaskFinished);
}

#[test]
fn what_the_host_holds_for_a_guest_counts_against_its_memory() {
    let bench = Bench::new();
    for (guest, policy) in [
        ("fields", MemoryPolicy::EndTask),
        ("fields", MemoryPolicy::Refuse),
        ("random", MemoryPolicy::EndTask),
    ] {
        let mut spec = bench.spec(guest);
        spec.memory_limit = Some(8 * MIB);
        spec.memory_policy = policy;
        spec.handles = 2_000;
        let status = run(spec);
        assert_eq!(status.reason(), Reason::ContainerLimitationMemory);
        let message = status.message();
        assert!(
            message.starts_with("memory limit 8 MiB reached"),
            "{message}"
        );
        assert_eq!(limited(&status), ("mem".to_owned(), 8.0));
    }
}

#[test]
fn burning_all_fuel_ends_the_task_with_the_figures() {
    let bench = Bench::new();
    for fuel in [1_000, 20_000_000] {
        let status = run(bench.metered("spin", Some(fuel)));
        assert_eq!(status.state(), TaskState::TaskFailed);
        assert_eq!(status.reason(), Reason::ContainerLimitation);
        assert_eq!(limited(&status), ("fuel".to_owned(), fuel as f64));
        assert!(
            status
                .message()
                .starts_with(&format!("fuel limit {fuel} reached after ")),
            "{}",
            status.message()
        );
        let usage = status.usage.expect("it has it");
        assert_eq!(
            (usage.fuel_used, usage.fuel_limit),
            (Some(fuel), Some(fuel))
        );
    }
}

#[test]
fn fuel_is_counted_without_a_limit_and_is_the_same_each_time() {
    let bench = Bench::new();
    let used = || {
        let mut spec = bench.metered("grow_and_go_on", None);
        spec.memory_policy = MemoryPolicy::Refuse;
        let status = run(spec);
        assert_eq!(status.state(), TaskState::TaskFinished);
        let usage = status.usage.expect("it has it");
        usage.fuel_used.expect("it was counted")
    };
    assert!(used() > 0);
    assert_eq!(used(), used());
    let plain = run(bench.spec("exit_0")).usage.expect("it has it");
    assert_eq!(plain.fuel_used, None);
}

#[test]
fn the_time_limit_ends_spinning_sleeping_and_endlessly_starting_guests() {
    let bench = Bench::new();
    for guest in ["spin", "sleep", "endless_start"] {
        let mut spec = bench.spec(guest);
        spec.time_limit = Some(Duration::from_millis(200));
        let status = run(spec);
        assert_eq!(status.state(), TaskState::TaskFailed);
        assert_eq!(status.reason(), Reason::MaxCompletionTimeReached);
        assert_eq!(before_when(&status), "time limit 200ms reached");
        let place = status.message().lines().nth(1).expect("where it was");
        // A machine that is busy may not have let it come to its next slice.
        let found = guest != "sleep" && place.contains(" at 0x");
        assert!(
            found || place.contains("it was waiting"),
            "{guest}: {place}"
        );
        assert!(status.usage.expect("it has it").wall_time_ns() >= 200_000_000);
    }
}

#[test]
fn spinning_sleeping_and_endlessly_starting_guests_can_be_killed() {
    let bench = Bench::new();
    for spec in [
        bench.spec("spin"),
        bench.spec("sleep"),
        bench.spec("endless_start"),
        bench.metered("spin", None),
    ] {
        let running = Running::start(&RUNTIME, spec);
        running.started();
        running.handle.kill(Duration::ZERO);
        let status = running.ended();
        assert_eq!(status.state(), TaskState::TaskKilled);
    }
}

#[test]
fn a_task_killed_before_its_start_is_killed() {
    let bench = Bench::new();
    let running = Running::start(&RUNTIME, bench.spec("spin"));
    running.handle.kill(Duration::ZERO);
    let outcome = loop {
        match running.step() {
            Progress::Started => {}
            Progress::Ended(outcome) => break outcome,
        }
    };
    assert_eq!(verdict("t", &outcome).state(), TaskState::TaskKilled);
}

#[test]
fn neighbours_of_spinning_guests_go_on() {
    let bench = Bench::new();
    let single = Runtime::new(&Settings {
        threads: 1,
        pool_slots: 8,
        ..Settings::default()
    })
    .expect("threads");
    let spinning: Vec<Running> = (0..3)
        .map(|_| Running::start(&single, bench.spec("spin")))
        .collect();
    for spinner in &spinning {
        spinner.started();
    }
    for _ in 0..5 {
        for guest in ["nap", "exit_3", "echo", "write_file"] {
            let neighbour = Running::start(&single, bench.spec(guest));
            neighbour.started();
            neighbour.ended();
        }
    }
    for spinner in &spinning {
        spinner.handle.kill(Duration::ZERO);
        let status = spinner.ended();
        assert_eq!(status.state(), TaskState::TaskKilled);
        assert!(status.usage.expect("it has it").cpu_time_ns() > 0);
    }
}

#[test]
fn two_hundred_tasks_at_once_all_end_as_they_should() {
    let bench = Bench::new();
    // More than the pool has slots, of both meterings.
    let running: Vec<Running> = (0..200)
        .map(|number| {
            let mut spec = match number % 4 {
                0 => bench.spec("exit_3"),
                1 => bench.metered("nap", Some(1_000_000)),
                _ => bench.spec("nap"),
            };
            spec.task_id = format!("task-{number}");
            spec.sandbox = bench.sandbox(&spec.task_id);
            Running::start(&RUNTIME, spec)
        })
        .collect();
    for (number, task) in running.iter().enumerate() {
        task.started();
        let status = task.ended();
        assert_eq!(status.task_id.value, format!("task-{number}"));
        let state = if number % 4 == 0 {
            TaskState::TaskFailed
        } else {
            TaskState::TaskFinished
        };
        assert_eq!(status.state(), state, "{}", status.message());
    }
}

#[test]
fn a_full_executor_refuses_in_words_and_takes_tasks_again() {
    let bench = Bench::new();
    let small = Runtime::new(&Settings {
        threads: 1,
        pool_slots: 0,
        maps: 15,
        ..Settings::default()
    })
    .expect("threads");
    let sleepers: Vec<Running> = (0..2)
        .map(|_| Running::start(&small, bench.spec("sleep")))
        .collect();
    for sleeper in &sleepers {
        sleeper.started();
    }
    let status = Running::start(&small, bench.spec("exit_0")).ended();
    assert_eq!(status.reason(), Reason::ContainerLaunchFailed);
    assert!(status.message().contains("vm.max_map_count"));
    sleepers[0].handle.kill(Duration::ZERO);
    sleepers[0].ended();
    let running = Running::start(&small, bench.spec("exit_0"));
    running.started();
    assert_eq!(running.ended().state(), TaskState::TaskFinished);
}

#[test]
fn an_executor_without_descriptors_refuses_in_words() {
    let bench = Bench::new();
    let small = Runtime::new(&Settings {
        threads: 1,
        pool_slots: 0,
        descriptors: 1,
        ..Settings::default()
    })
    .expect("threads");
    let sleeper = Running::start(&small, bench.spec("sleep"));
    sleeper.started();
    let status = Running::start(&small, bench.spec("exit_0")).ended();
    assert_eq!(status.reason(), Reason::ContainerLaunchFailed);
    assert!(status.message().contains("open files"));
    sleeper.handle.kill(Duration::ZERO);
    sleeper.ended();
    // Without any to spare for output files, output is written all the same.
    let spec = bench.spec("echo");
    let stdout = spec.sandbox.join("stdout");
    let running = Running::start(&small, spec);
    running.started();
    running.ended();
    let text = std::fs::read_to_string(stdout).expect("it is there");
    assert_eq!(text, "echo\0");
}

#[test]
fn what_a_guest_drops_is_collected() {
    let bench = Bench::new();
    // Of it all a limit twice as high would be too low.
    let status = run(bench.spec("garbage"));
    assert_eq!(status.state(), TaskState::TaskFinished, "{status:?}");
}

#[test]
fn atomic_operations_work_on_memory_that_nobody_shares() {
    let bench = Bench::new();
    let status = run(bench.spec("atomic"));
    assert_eq!(status.state(), TaskState::TaskFinished, "{status:?}");
}

#[test]
fn another_entrypoint_may_be_named_if_it_can_be_called() {
    let bench = Bench::new();
    let entrypoint = |name: &str| {
        let mut spec = bench.spec("status");
        spec.entrypoint = name.to_owned();
        spec
    };
    let status = run(entrypoint("check"));
    assert_eq!(status.message(), "Command exited with status 4");
    for (name, complaint) in [
        (
            "_start",
            "module has no _start export: it exports _initialize, check, takes",
        ),
        (
            "takes",
            "module cannot be started by takes: it must take nothing",
        ),
    ] {
        let status = refused(entrypoint(name));
        assert_eq!(status.reason(), Reason::ContainerLaunchFailed);
        assert!(
            status.message().starts_with(complaint),
            "{}",
            status.message()
        );
    }
}

#[test]
fn what_cannot_be_loaded_is_a_launch_that_failed() {
    let bench = Bench::new();
    let mut missing = bench.spec("exit_0");
    missing.module.compiled = bench.directory.path().join("nothing");
    let mut damaged = bench.spec("exit_0");
    damaged.module.compiled = bench.directory.path().join("damaged");
    std::fs::write(&damaged.module.compiled, "not code").expect("written");
    let mut other = bench.spec("exit_3");
    other.module.metering = Metering::Metered;
    let mut homeless = bench.spec("exit_0");
    homeless.sandbox = bench.directory.path().join("gone");
    for spec in [missing, damaged, other, homeless] {
        let status = refused(spec);
        assert_eq!(status.state(), TaskState::TaskFailed);
        assert_eq!(status.reason(), Reason::ContainerLaunchFailed);
        assert!(!status.message().is_empty());
    }
}

#[test]
fn quickly_made_code_counts_fuel_and_keeps_limits_like_optimised_code() {
    let bench = Bench::new();
    let quick = |guest: &str, metering: Metering| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/guests")
            .join(guest)
            .with_extension("wat");
        let compiled = bench
            .directory
            .path()
            .join(format!("{guest}-quick-{metering:?}"));
        let metered = metering == Metering::Metered;
        let baseline = compile_quickly(&source, &compiled, metered).expect("it compiles");
        ModuleFile {
            sha256: String::new(),
            compiled,
            metering,
            baseline,
        }
    };
    for guest in ["exit_3", "nap", "grow_and_go_on", "component_ok", "trap"] {
        let fuel = Some(1_000_000);
        let optimised = run(bench.metered(guest, fuel));
        let mut spec = bench.metered(guest, fuel);
        spec.module = quick(guest, Metering::Metered);
        assert!(spec.module.baseline, "{guest}");
        let status = run(spec);
        let used = |status: &TaskStatus| status.usage.as_ref().expect("usage").fuel_used();
        // Each operation has its price in both; at an ending in between, those of the last few may not be in yet.
        let apart = used(&status).abs_diff(used(&optimised));
        assert!(
            apart < 8,
            "{guest}: {} and {}",
            used(&status),
            used(&optimised)
        );
        assert_eq!(status.state(), optimised.state(), "{guest}");
        let what = |status: &TaskStatus| {
            let message = status.message();
            let what = message.split(" after ").next();
            what.unwrap_or(message).to_owned()
        };
        assert_eq!(what(&status), what(&optimised), "{guest}");
    }
    let mut spec = bench.spec("trap");
    spec.module = quick("trap", Metering::Plain);
    spec.coredump = true;
    let dump = spec.sandbox.join("coredump.wasm");
    let status = run(spec);
    assert!(
        status.message().contains("coredump.wasm in the sandbox: "),
        "{status:?}"
    );
    let dump = std::fs::read(dump).expect("it is there");
    let stack = b"corestack";
    assert!(dump.windows(stack.len()).any(|part| part == stack));
    let mut spec = bench.spec("spin");
    spec.module = quick("spin", Metering::Plain);
    spec.time_limit = Some(Duration::from_millis(100));
    assert_eq!(run(spec).reason(), Reason::MaxCompletionTimeReached);
    let mut spec = bench.metered("spin", Some(1_000_000));
    spec.module = quick("spin", Metering::Metered);
    assert_eq!(run(spec).reason(), Reason::ContainerLimitation);
}
