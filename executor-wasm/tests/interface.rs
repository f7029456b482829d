//! What guests ask of their cluster, in front of a cluster the test plays: messages, store, reports, log; floods, lengths and
//! pointers that are wrong.

mod common;

use std::any::Any;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use tepui_api::envelope::Envelope;
use tepui_api::guest::{self, Answer, Request, answer, failure, request};
use tepui_api::v1::task_status::Reason;
use tepui_api::v1::{TaskState, TaskStatus};
use tepui_executor_wasm::{
    Cluster, Identity, Metering, ModuleFile, Progress, Runtime, Settings, TaskHandle, TaskSpec,
    compile, verdict,
};

use common::plain_task;

const PATIENCE: Duration = Duration::from_secs(60);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let settings = Settings {
        threads: 2,
        pool_slots: 16,
        ..Settings::default()
    };
    Runtime::new(&settings).expect("threads")
});

/// Remembers what is sent, keeps a store, and counts reports.
#[derive(Default)]
struct Stage {
    sent: Mutex<Vec<Envelope>>,
    /// While this is there, what is sent counts as waiting.
    holds: Mutex<Option<Vec<Arc<dyn Any + Send + Sync>>>>,
    store: Mutex<BTreeMap<String, (Bytes, u64)>>,
    reports: Mutex<Vec<Duration>>,
    asked: Mutex<usize>,
}

impl Stage {
    fn answer(&self, request: Request) -> Result<answer::Body, guest::Failure> {
        let mut store = self.store.lock().expect("no panic");
        let conflict = |version| guest::Failure {
            code: failure::Code::Conflict as i32,
            message: "another was faster".to_owned(),
            version: Some(version),
        };
        Ok(match request.body.expect("it asks for something") {
            request::Body::Get(get) => answer::Body::Value(guest::Value {
                entry: store.get(&get.key).map(|(value, version)| guest::Entry {
                    value: value.clone(),
                    version: *version,
                }),
            }),
            request::Body::Put(put) => {
                let known = store.get(&put.key).map_or(0, |(_, version)| *version);
                if put.if_version.is_some_and(|wanted| wanted != known) {
                    return Err(conflict(known));
                }
                let version = known + 7;
                store.insert(put.key, (put.value, version));
                answer::Body::Stored(guest::Stored { version })
            }
            request::Body::Delete(delete) => {
                let version = store.remove(&delete.key).map_or(0, |(_, version)| version);
                answer::Body::Stored(guest::Stored { version })
            }
            request::Body::Keys(keys) => answer::Body::Keys(guest::KeyList {
                keys: store
                    .keys()
                    .filter(|key| key.starts_with(keys.prefix()))
                    .cloned()
                    .collect(),
            }),
            request::Body::Find(_) => answer::Body::Endpoints(guest::Endpoints::default()),
        })
    }
}

impl Cluster for Stage {
    fn send(&self, message: Bytes, held: Arc<dyn Any + Send + Sync>) {
        let envelope = Envelope::decode(&message).expect("it is an envelope");
        self.sent.lock().expect("no panic").push(envelope);
        if let Some(holds) = &mut *self.holds.lock().expect("no panic") {
            holds.push(held);
        }
    }

    fn ask(&self, _task_id: &str, request: Request) -> BoxFuture<'static, Answer> {
        *self.asked.lock().expect("no panic") += 1;
        let body = match self.answer(request) {
            Ok(body) => body,
            Err(failure) => answer::Body::Failure(failure),
        };
        Box::pin(async move {
            // As from far away.
            tokio::time::sleep(Duration::from_millis(1)).await;
            Answer { body: Some(body) }
        })
    }

    fn report(&self, _task_id: &str, after: Duration) {
        self.reports.lock().expect("no panic").push(after);
    }
}

/// One task on the stage.
struct Task {
    stage: Arc<Stage>,
    directory: tempfile::TempDir,
    handle: TaskHandle,
    progress: Receiver<Progress>,
}

/// The imports, a page of memory with some text at 100, and what is given, which is a function that gives a status.
fn module(body: &str) -> String {
    let function = |name: &str, parameters: &str| {
        format!(
            "(import \"tepui_guest_v1\" \"{name}\" (func ${name} (param {parameters}) (result i32)))\n"
        )
    };
    let imports = [
        function("error_message", "i32 i32 i32"),
        function("message_send", "i32 i32"),
        function("message_receive", "i32 i32 i32 i32"),
        function("store_get", "i32 i32 i32 i32 i32 i32"),
        function("store_put", "i32 i32 i32 i32 i32 i32"),
        function("store_keys", "i32 i32 i32 i32 i32"),
        function("task_field", "i32 i32 i32 i32"),
        function("task_labels", "i32 i32 i32"),
        function("report_progress", "f64 i32 i32"),
        function("report_health", "i32 i32 i32"),
        function("log_write", "i32 i32 i32 i32 i32"),
    ]
    .concat();
    format!(
        "(module {imports}
          (import \"wasi_snapshot_preview1\" \"proc_exit\" (func $fail (param i32)))
          (import \"tepui_guest_v1\" \"message_dropped\" (func $message_dropped (result i64)))
          (memory (export \"memory\") 1)
          (data (i32.const 100) \"some text of the guest\")
          ;; Ends with a status of its own if the two differ.
          (func $is (param $where i32) (param $seen i32) (param $wanted i32)
            (if (i32.ne (local.get $seen) (local.get $wanted))
              (then (i32.store (i32.const 0) (local.get $seen)) (call $fail (local.get $where)))))
          (func (export \"go\") (result i32) {body} (i32.const 0)))"
    )
}

impl Task {
    fn of_body(body: &str) -> Self {
        Self::start(&module(body), |_| {}, Stage::default())
    }

    fn start(text: &str, change: impl FnOnce(&mut TaskSpec), stage: Stage) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let source = directory.path().join("guest.wat");
        let compiled = directory.path().join("compiled");
        std::fs::write(&source, text).expect("written");
        compile(&source, &compiled, false).expect("it compiles");
        let sandbox = directory.path().join("sandbox");
        std::fs::create_dir(&sandbox).expect("a sandbox");
        let module = ModuleFile {
            sha256: String::new(),
            compiled,
            metering: Metering::Plain,
            baseline: false,
        };
        let mut spec = plain_task("t-1", module, sandbox);
        spec.identity = Arc::new(Identity {
            name: "guest".to_owned(),
            attempt: 2,
            labels: vec![("k".to_owned(), "v".to_owned())],
            ..Identity::default()
        });
        if !text.starts_with("(component") {
            spec.entrypoint = "go".to_owned();
        }
        change(&mut spec);
        let stage = Arc::new(stage);
        let (sender, progress) = mpsc::channel();
        let cluster: Arc<dyn Cluster> = Arc::clone(&stage) as _;
        let handle = RUNTIME.spawn_in(spec, cluster, move |step| drop(sender.send(step)));
        let task = Self {
            stage,
            directory,
            handle,
            progress,
        };
        assert_eq!(task.step(), Progress::Started);
        task
    }

    fn step(&self) -> Progress {
        self.progress.recv_timeout(PATIENCE).expect("it goes on")
    }

    fn ended(&self) -> TaskStatus {
        match self.step() {
            Progress::Ended(outcome) => verdict("t-1", &outcome),
            Progress::Started => panic!("it started already"),
        }
    }

    fn goes_well(&self) -> TaskStatus {
        let status = self.ended();
        assert_eq!(
            status.state(),
            TaskState::TaskFinished,
            "{}",
            status.message()
        );
        status
    }

    fn file(&self, name: &str) -> Option<String> {
        let path: &Path = self.directory.path();
        std::fs::read_to_string(path.join("sandbox").join(name)).ok()
    }

    fn sent(&self) -> Vec<Vec<u8>> {
        let sent = self.stage.sent.lock().expect("no panic");
        assert!(sent.iter().all(|envelope| envelope.task_id == "t-1"));
        sent.iter().map(|envelope| envelope.data.to_vec()).collect()
    }
}

#[test]
fn messages_go_both_ways() {
    let task = Task::of_body(
        "(call $is (i32.const 1) (call $message_receive (i32.const 0) (i32.const 1000) (i32.const 0) (i32.const 500)) (i32.const 7))
         (call $is (i32.const 2) (call $message_send (i32.const 100) (i32.const 4)) (i32.const 0))
         ;; It is too long for the buffer, and stays.
         (call $is (i32.const 3) (call $message_receive (i32.const 60000) (i32.const 1000) (i32.const 2) (i32.const 500)) (i32.const 8))
         (call $is (i32.const 4) (i32.load (i32.const 500)) (i32.const 5))
         (call $is (i32.const 5) (call $message_receive (i32.const 60000) (i32.const 1000) (i32.const 5) (i32.const 500)) (i32.const 0))
         (call $is (i32.const 6) (call $message_send (i32.const 1000) (i32.load (i32.const 500))) (i32.const 0))
         (call $is (i32.const 7) (call $message_receive (i32.const 1) (i32.const 1000) (i32.const 5) (i32.const 500)) (i32.const 7))",
    );
    // By then it has seen that there was none.
    while task.sent().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    task.handle.deliver(Bytes::from_static(b"\xffello"));
    task.goes_well();
    assert_eq!(task.sent(), [&b"some"[..], b"\xffello"]);
}

#[test]
fn whoever_waits_for_a_message_can_be_ended() {
    let task = Task::of_body(
        "(drop (call $message_receive (i32.const -1) (i32.const 1000) (i32.const 5) (i32.const 500)))
         (loop $on (br $on))",
    );
    std::thread::sleep(Duration::from_millis(50));
    task.handle.kill(Duration::ZERO);
    assert_eq!(task.ended().state(), TaskState::TaskKilled);
}

#[test]
fn guests_that_wait_hold_no_thread() {
    // More than there are threads.
    let waiting: Vec<Task> = (0..6)
        .map(|_| {
            Task::of_body(
                "(call $is (i32.const 1) (call $message_receive (i32.const -1) (i32.const 1000) (i32.const 5) (i32.const 500)) (i32.const 0))",
            )
        })
        .collect();
    Task::of_body("(drop (call $message_send (i32.const 100) (i32.const 4)))").goes_well();
    for task in &waiting {
        task.handle.deliver(Bytes::from_static(b"go"));
        task.goes_well();
    }
}

#[test]
fn pointers_out_of_the_memory_are_traps() {
    for call in [
        "(call $message_send (i32.const -16) (i32.const 64))",
        "(call $message_send (i32.const 65530) (i32.const 64))",
        "(call $message_receive (i32.const 0) (i32.const 0) (i32.const -1) (i32.const 500))",
        "(call $message_receive (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 65534))",
        "(call $store_get (i32.const 100) (i32.const 4) (i32.const 0) (i32.const 4) (i32.const 500) (i32.const -4))",
        "(call $store_put (i32.const 100) (i32.const 4) (i32.const 0) (i32.const 4) (i32.const -4) (i32.const 0))",
        "(call $log_write (i32.const 2) (i32.const 100) (i32.const 4) (i32.const -20) (i32.const 4))",
        "(call $report_progress (f64.const 0) (i32.const 65530) (i32.const 64))",
        "(call $task_labels (i32.const 65533) (i32.const 100) (i32.const 500))",
    ] {
        let task = Task::of_body(&format!("(drop {call})"));
        let status = task.ended();
        assert_eq!(status.state(), TaskState::TaskFailed);
        assert!(
            status
                .message()
                .starts_with("wasm trap: out of bounds memory access")
                || status.message().starts_with("out of bounds memory access"),
            "{call}: {}",
            status.message()
        );
        assert_eq!(*task.stage.asked.lock().expect("no panic"), 0);
    }
}

#[test]
fn what_is_too_long_is_refused_before_it_is_looked_at() {
    let task = Task::of_body(
        "(call $is (i32.const 1) (call $error_message (i32.const 1000) (i32.const 500) (i32.const 500)) (i32.const 7))
         (call $is (i32.const 2) (call $message_send (i32.const 0) (i32.const -1)) (i32.const 2))
         (call $is (i32.const 3) (call $error_message (i32.const 1000) (i32.const 500) (i32.const 500)) (i32.const 0))
         (drop (call $message_send (i32.const 1000) (i32.load (i32.const 500))))
         (call $is (i32.const 4) (call $store_put (i32.const 100) (i32.const 4) (i32.const 0) (i32.const 0x7fffffff) (i32.const 0) (i32.const 0)) (i32.const 2))
         (call $is (i32.const 5) (call $store_put (i32.const 0) (i32.const 5000) (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 0)) (i32.const 2))
         (call $is (i32.const 6) (call $log_write (i32.const 2) (i32.const 100) (i32.const 4) (i32.const 0) (i32.const -1)) (i32.const 2))
         (call $is (i32.const 7) (call $log_write (i32.const 9) (i32.const 100) (i32.const 4) (i32.const 0) (i32.const 0)) (i32.const 2))
         (i32.store8 (i32.const 90) (i32.const 0xff))
         (call $is (i32.const 8) (call $store_put (i32.const 90) (i32.const 1) (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 0)) (i32.const 2))
         (call $is (i32.const 9) (call $report_progress (f64.const 1.5) (i32.const 0) (i32.const 0)) (i32.const 2))",
    );
    task.goes_well();
    let said = task.sent();
    let said = String::from_utf8_lossy(&said[0]);
    assert_eq!(said, "a message may have 65536 bytes, not 4294967295");
    assert_eq!(*task.stage.asked.lock().expect("no panic"), 0);
    assert!(task.stage.reports.lock().expect("no panic").is_empty());
}

#[test]
fn the_store_is_read_and_changed_on_condition() {
    let task = Task::of_body(
        "(call $is (i32.const 1) (call $store_get (i32.const 100) (i32.const 4) (i32.const 1000) (i32.const 9) (i32.const 500) (i32.const 600)) (i32.const 7))
         ;; Only if it does not exist.
         (i64.store (i32.const 700) (i64.const 0))
         (call $is (i32.const 2) (call $store_put (i32.const 100) (i32.const 4) (i32.const 105) (i32.const 4) (i32.const 700) (i32.const 600)) (i32.const 0))
         (call $is (i32.const 3) (i32.load (i32.const 600)) (i32.const 7))
         (call $is (i32.const 4) (call $store_put (i32.const 100) (i32.const 4) (i32.const 105) (i32.const 4) (i32.const 700) (i32.const 608)) (i32.const 4))
         (call $is (i32.const 5) (i32.load (i32.const 608)) (i32.const 7))
         (call $is (i32.const 6) (call $store_put (i32.const 100) (i32.const 4) (i32.const 105) (i32.const 4) (i32.const 600) (i32.const 0)) (i32.const 0))
         (call $is (i32.const 7) (call $store_get (i32.const 100) (i32.const 4) (i32.const 1000) (i32.const 3) (i32.const 500) (i32.const 600)) (i32.const 8))
         (call $is (i32.const 8) (call $store_get (i32.const 100) (i32.const 4) (i32.const 1000) (i32.const 4) (i32.const 500) (i32.const 600)) (i32.const 0))
         (call $is (i32.const 9) (i32.load (i32.const 1000)) (i32.load (i32.const 105)))
         (call $is (i32.const 10) (i32.load (i32.const 600)) (i32.const 14))
         ;; A list: the length of the only key, and the key.
         (call $is (i32.const 11) (call $store_keys (i32.const 100) (i32.const 2) (i32.const 1000) (i32.const 99) (i32.const 500)) (i32.const 0))
         (call $is (i32.const 12) (i32.load (i32.const 500)) (i32.const 8))
         (call $is (i32.const 13) (i32.load (i32.const 1000)) (i32.const 4))
         (call $is (i32.const 14) (i32.load (i32.const 1004)) (i32.load (i32.const 100)))
         (call $is (i32.const 15) (call $task_field (i32.const 0) (i32.const 1000) (i32.const 99) (i32.const 500)) (i32.const 0))
         (drop (call $message_send (i32.const 1000) (i32.load (i32.const 500))))
         (call $is (i32.const 16) (call $task_field (i32.const 5) (i32.const 1000) (i32.const 99) (i32.const 500)) (i32.const 7))",
    );
    task.goes_well();
    assert_eq!(task.sent(), [b"t-1"]);
}

#[test]
fn a_flood_of_messages_is_dropped_counted_and_told_once() {
    let stage = Stage {
        holds: Mutex::new(Some(Vec::new())),
        ..Stage::default()
    };
    let text = module(
        "(local $n i32) (local $full i32)
         (loop $on
           (if (i32.eq (call $message_send (i32.const 100) (i32.const 4)) (i32.const 5))
             (then (local.set $full (i32.add (local.get $full) (i32.const 1)))))
           (br_if $on (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1000))))
         (call $is (i32.const 1) (local.get $full) (i32.const 936))
         (call $is (i32.const 2) (i32.wrap_i64 (call $message_dropped)) (i32.const 936))",
    );
    let task = Task::start(&text, |_| {}, stage);
    task.goes_well();
    assert_eq!(task.sent().len(), 64);
    let said = task.file("stderr").expect("it was said");
    assert_eq!(said.lines().count(), 1, "{said}");

    let task = Task::of_body(
        "(drop (call $message_receive (i32.const 60000) (i32.const 1000) (i32.const 0) (i32.const 500)))
         (loop $on (br_if $on (i64.lt_u (call $message_dropped) (i64.const 37))))",
    );
    for _ in 0..100 {
        task.handle.deliver(Bytes::from_static(b"x"));
    }
    task.handle.deliver(Bytes::from(vec![0; 65_537]));
    task.goes_well();
    let said = task.file("stderr").expect("it was said");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_flood_of_reports_is_asked_for_once() {
    let task = Task::of_body(
        "(local $n i32)
         (loop $on
           (call $is (i32.const 1)
             (call $report_progress (f64.div (f64.convert_i32_u (local.get $n)) (f64.const 1e5)) (i32.const 100) (i32.const 4))
             (i32.const 0))
           (drop (call $report_health (i32.and (local.get $n) (i32.const 1)) (i32.const 100) (i32.const 4)))
           (br_if $on (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 100000))))",
    );
    task.goes_well();
    let reports = task.stage.reports.lock().expect("no panic");
    assert_eq!(*reports, [Duration::ZERO]);
}

#[test]
fn the_log_is_json_under_the_limit_of_all_output() {
    let fields =
        "(i32.store (i32.const 800) (i32.const 100)) (i32.store (i32.const 804) (i32.const 4))
         (i32.store (i32.const 808) (i32.const 105)) (i32.store (i32.const 812) (i32.const 4))";
    let write = "(call $log_write (i32.const 3) (i32.const 100) (i32.const 22) (i32.const 800) (i32.const 1))";
    let task = Task::of_body(&format!(
        "{fields} (call $is (i32.const 1) {write} (i32.const 0))"
    ));
    let usage = task.goes_well().usage.expect("it has it");
    let log = task.file("log.jsonl").expect("it was written");
    assert_eq!(usage.output_bytes(), log.len() as u64);
    assert_eq!(usage.bytes_written, Some(0), "output is told apart");
    let line: serde_json::Value = serde_json::from_str(&log).expect("one line of JSON");
    assert_eq!(line["level"], "warn");
    assert_eq!(line["message"], "some text of the guest");
    assert_eq!(line["fields"]["some"], "text");

    let endless = module(&format!("{fields} (loop $on (drop {write}) (br $on))"));
    let task = Task::start(
        &endless,
        |spec| spec.output_limit = 10_000,
        Stage::default(),
    );
    let status = task.ended();
    assert_eq!(status.reason(), Reason::ContainerLimitation);
    assert!(
        status.message().starts_with("output limit"),
        "{}",
        status.message()
    );
    assert_eq!(task.file("log.jsonl").expect("written").len(), 10_000);

    let task = Task::of_body("");
    task.goes_well();
    assert_eq!(task.file("log.jsonl"), None, "nobody asked for one");
}

#[test]
fn a_flood_of_calls_leaves_others_their_turn() {
    let flood = Task::of_body(
        "(loop $on
           (drop (call $message_receive (i32.const 0) (i32.const 1000) (i32.const 9) (i32.const 500)))
           (drop (call $report_progress (f64.const 0.5) (i32.const 100) (i32.const 4)))
           (br $on))",
    );
    let other = Task::of_body(
        "(drop (call $message_receive (i32.const 20) (i32.const 1000) (i32.const 9) (i32.const 500)))",
    );
    other.goes_well();
    flood.handle.kill(Duration::ZERO);
    let began = Instant::now();
    assert_eq!(flood.ended().state(), TaskState::TaskKilled);
    assert!(began.elapsed() < PATIENCE);
}

/// A component that sends bytes of its memory, and ends well if that was taken.
fn component(size: u32) -> String {
    format!(
        "(component
          (import \"tepui:guest/types@0.1.0\" (instance $types
            (type $code' (enum \"unknown\" \"invalid\" \"no-job\" \"conflict\" \"full\" \"unavailable\"))
            (export \"code\" (type $code (eq $code')))
            (type $failure' (record (field \"code\" $code) (field \"message\" string) (field \"version\" (option u64))))
            (export \"failure\" (type $failure (eq $failure')))))
          (alias export $types \"failure\" (type $failure))
          (import \"tepui:guest/messages@0.1.0\" (instance $messages
            (alias outer 1 $failure (type $outer))
            (export \"failure\" (type $failure (eq $outer)))
            (export \"send\" (func (param \"data\" (list u8)) (result (result (error $failure)))))
            (export \"dropped\" (func (result u64)))))
          (core module $libc
            (memory (export \"memory\") 1100)
            (data (i32.const 100) \"from a component\")
            (func (export \"realloc\") (param i32 i32 i32 i32) (result i32) i32.const 1024))
          (core instance $libc (instantiate $libc))
          (alias core export $libc \"memory\" (core memory $memory))
          (alias core export $libc \"realloc\" (core func $realloc))
          (core func $send (canon lower (func $messages \"send\") (memory $memory) (realloc $realloc)))
          (core func $dropped (canon lower (func $messages \"dropped\")))
          (core module $m
            (import \"\" \"send\" (func $send (param i32 i32 i32)))
            (import \"\" \"dropped\" (func $dropped (result i64)))
            (import \"\" \"memory\" (memory 0))
            (func (export \"run\") (result i32)
              (call $send (i32.const 100) (i32.const {size}) (i32.const 2000))
              (i32.or (i32.load8_u (i32.const 2000)) (i32.wrap_i64 (call $dropped)))))
          (core instance $i (export \"send\" (func $send)) (export \"dropped\" (func $dropped)) (export \"memory\" (memory $memory)))
          (core instance $m (instantiate $m (with \"\" (instance $i))))
          (func $run (result (result)) (canon lift (core func $m \"run\")))
          (instance $run (export \"run\" (func $run)))
          (export \"wasi:cli/run@0.2.0\" (instance $run)))"
    )
}

#[test]
fn components_have_the_same_and_the_same_bounds() {
    let memory = |spec: &mut TaskSpec| spec.memory_limit = Some(256 << 20);
    let task = Task::start(&component(16), memory, Stage::default());
    task.goes_well();
    assert_eq!(task.sent(), [b"from a component"]);
    let task = Task::start(&component(70_000), memory, Stage::default());
    assert_eq!(task.ended().message(), "Command exited with status 1");
    assert!(task.sent().is_empty());
    // More than the host takes in at all.
    let task = Task::start(&component(64 << 20), memory, Stage::default());
    let status = task.ended();
    assert_eq!(status.state(), TaskState::TaskFailed);
    assert!(
        status.message().contains("fuel allocated for hostcalls"),
        "{}",
        status.message()
    );
}

#[test]
fn outside_of_a_cluster_whoever_asks_is_told() {
    let task = Task::of_body("");
    task.goes_well();
    let directory = tempfile::tempdir().expect("a directory");
    let (source, compiled) = (
        directory.path().join("guest.wat"),
        directory.path().join("compiled"),
    );
    let text = module(
        "(return (call $store_keys (i32.const 0) (i32.const 0) (i32.const 1000) (i32.const 9) (i32.const 500)))",
    );
    std::fs::write(&source, text).expect("written");
    compile(&source, &compiled, false).expect("it compiles");
    let mut spec = None;
    drop(Task::start(
        &module(""),
        |other| spec = Some(other.clone()),
        Stage::default(),
    ));
    let mut spec = spec.expect("it was made");
    spec.module.compiled = compiled;
    spec.sandbox = directory.path().to_owned();
    let (sender, progress) = mpsc::channel();
    RUNTIME.spawn(spec, move |step| drop(sender.send(step)));
    assert_eq!(progress.recv_timeout(PATIENCE), Ok(Progress::Started));
    let Ok(Progress::Ended(outcome)) = progress.recv_timeout(PATIENCE) else {
        panic!("it ends")
    };
    let status = verdict("t-1", &outcome);
    assert_eq!(status.message(), "Command exited with status 6");
}
