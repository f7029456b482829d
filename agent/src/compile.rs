//! Turns modules into machine code, each once, in child processes of low priority with hard limits: compiling strangers'
//! bytes can take any amount of time and memory, and neither may come from the agent or from running tasks.
//!
//! The results are the only compiled code that executors load, and only the agent writes them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tepui_model::format_bytes;
use tepui_wall::{Access, Grant, Plan};
use tokio::sync::{OnceCell, watch};

use crate::compile_queue::{MAX_WAITING, Queue, Urgency};
use crate::compile_worker::Worker;
use crate::store::{Pin, Store};

/// How many modules that cannot be compiled are remembered, so that relaunching one costs nothing.
const MAX_REMEMBERED_FAILURES: usize = 4096;
/// What the compiler prints when code needs the engine of the baseline compiler.
const BASELINE: &[u8] = br#"{"form":"baseline"}"#;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CompileError {
    #[error("the module has {}, at most {} are allowed", format_bytes(*.bytes), format_bytes(*.limit))]
    TooLarge { bytes: u64, limit: u64 },
    /// The child's own sentence.
    #[error("{message}")]
    Refused { kind: String, message: String },
    #[error("compiling the module took longer than {} s", .limit.as_secs_f64())]
    TimedOut { limit: Duration },
    #[error("the compiler was killed by signal {signal}; it may use at most {} of memory", format_bytes(*.memory))]
    Killed { signal: i32, memory: u64 },
    #[error("the compiler failed with exit status {status}: {said}")]
    Failed { status: i32, said: String },
    #[error("the compiler could not be run: {0}")]
    NotRun(String),
    #[error(
        "{MAX_WAITING} modules of this framework wait to be compiled on this agent already: launch fewer at a time"
    )]
    Busy,
}

impl CompileError {
    /// Whether the same module will fail again on this agent.
    fn is_final(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::Refused { .. })
    }
}

#[derive(Debug, Clone)]
pub(crate) struct CompileLimits {
    pub(crate) workers: usize,
    pub(crate) time: Duration,
    /// Of writable memory (`RLIMIT_DATA`): address space alone would not do, engines reserve far more than they use.
    pub(crate) memory_bytes: u64,
    pub(crate) module_bytes: u64,
    /// A module with more is first compiled quickly, and well only later.
    pub(crate) quick_above_bytes: u64,
    /// Whether compilers can be shut in on this machine.
    pub(crate) shut_in: bool,
}

#[derive(Debug, Clone, serde::Deserialize)]
struct Keys {
    plain: String,
    metered: String,
    /// Of forms that are made quickly; a compiler without it makes none.
    quick: Option<String>,
}

impl Keys {
    fn optimised(&self, module: &Pin, metered: bool) -> String {
        let key = if metered { &self.metered } else { &self.plain };
        format!("{}-{key}", module.name())
    }

    fn quick(&self, module: &Pin, metered: bool) -> Option<String> {
        let kind = if metered { "metered" } else { "plain" };
        let key = self.quick.as_ref()?;
        Some(format!("{}-{key}-{kind}", module.name()))
    }
}

/// Code an executor can load.
#[derive(Debug, Clone)]
pub(crate) struct Compiled {
    pub(crate) pin: Pin,
    /// Whether it is the baseline compiler's, which has an engine of its own.
    pub(crate) baseline: bool,
}

/// One form of one module to be made.
#[derive(Debug, Clone)]
struct Job {
    module: Pin,
    metered: bool,
    quick: bool,
    /// Names the module, the compiler and its settings.
    name: String,
    owner: String,
    urgency: Urgency,
}

impl Job {
    /// The file its outcome is kept in.
    fn file(&self, baseline: bool) -> String {
        let form = if baseline { "-baseline" } else { "" };
        format!("{}{form}.cwasm", self.name)
    }
}

#[derive(Debug)]
struct Flight {
    outcome: watch::Receiver<Option<Result<Compiled, CompileError>>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Compiler {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    worker: Worker,
    store: Store,
    limits: CompileLimits,
    keys: OnceCell<Keys>,
    queue: Arc<Queue>,
    flights: Mutex<BTreeMap<String, Weak<Flight>>>,
    failures: Mutex<BTreeMap<String, CompileError>>,
}

impl Compiler {
    pub(crate) fn new(program: PathBuf, store: Store, limits: CompileLimits) -> Self {
        let shared = Shared {
            worker: Worker {
                program,
                time: limits.time,
                memory_bytes: limits.memory_bytes,
                shut_in: limits.shut_in,
            },
            store,
            queue: Queue::new(limits.workers),
            limits,
            keys: OnceCell::new(),
            flights: Mutex::default(),
            failures: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The module, by its sha256, of which a file of the store is a compiled form that can still be used.
    pub(crate) async fn module_of<'a>(&self, file: &'a str) -> Option<&'a str> {
        let (module, key) = file.strip_suffix(".cwasm")?.split_once('-')?;
        let keys = self.keys().await.ok()?;
        let quick = keys.quick.as_ref();
        let made_quickly = quick.is_some_and(|quick| key.starts_with(&format!("{quick}-")));
        (key == keys.plain || key == keys.metered || made_quickly).then_some(module)
    }

    async fn keys(&self) -> Result<&Keys, CompileError> {
        let keys = self.shared.keys.get_or_try_init(|| self.shared.ask_keys());
        keys.await
    }

    /// A compiled form of a module in the fetcher's store: the optimised one if it is there; of a large
    /// module else one that is made quickly, and the optimised one for those that come later. `owner` is the framework
    /// that asks; `tell` hears, in sentences, what takes long.
    pub(crate) async fn compile(
        &self,
        module: &Pin,
        metered: bool,
        owner: &str,
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<Compiled, CompileError> {
        let limits = &self.shared.limits;
        if module.bytes() > limits.module_bytes {
            return Err(CompileError::TooLarge {
                bytes: module.bytes(),
                limit: limits.module_bytes,
            });
        }
        let keys = self.keys().await?;
        let job = Job {
            module: module.clone(),
            metered,
            quick: false,
            name: keys.optimised(module, metered),
            owner: owner.to_owned(),
            urgency: Urgency::Awaited,
        };
        let large = limits.workers > 1 && module.bytes() > limits.quick_above_bytes;
        let quick = keys.quick(module, metered).filter(|_| large);
        match self.shared.found(&job) {
            // That it could not be optimised says nothing of its quick form.
            Some(Err(_)) if quick.is_some() => {}
            Some(found) => return found,
            None => {}
        }
        let Some(quick) = quick else {
            return self.await_one(job).await;
        };
        let later = Job {
            urgency: Urgency::Idle,
            ..job.clone()
        };
        let job = Job {
            quick: true,
            name: quick,
            ..job
        };
        let compiled = match self.shared.found(&job) {
            Some(found) => found?,
            None => {
                let bytes = format_bytes(module.bytes());
                tell(&format!("compiling a module of {bytes}"));
                let began = Instant::now();
                let compiled = self.await_one(job).await?;
                let took = began.elapsed().as_secs_f64();
                tell(&format!("compiled the module in {took:.1} s"));
                compiled
            }
        };
        self.improve(later);
        Ok(compiled)
    }

    async fn await_one(&self, job: Job) -> Result<Compiled, CompileError> {
        let flight = self.join(job);
        let mut outcome = flight.outcome.clone();
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().expect("waited for"),
            Err(_) => Err(CompileError::NotRun("it was given up".to_owned())),
        }
    }

    /// Has it done when nobody needs a worker, unless that was in vain before.
    fn improve(&self, job: Job) {
        if self.shared.found(&job).is_some() {
            return;
        }
        let compiler = self.clone();
        tokio::spawn(async move {
            let (name, shared) = (job.name.clone(), compiler.shared.clone());
            match compiler.await_one(job).await {
                Ok(_) => tracing::info!(name, "a module has its optimised form"),
                Err(error) => {
                    tracing::warn!(name, %error, "a module keeps its quickly made form");
                    // What had no place this time may have one when the module is started again.
                    if !matches!(error, CompileError::Busy | CompileError::NotRun(_)) {
                        shared.remember(&name, error);
                    }
                }
            }
        });
    }

    fn join(&self, job: Job) -> Arc<Flight> {
        let mut flights = self
            .shared
            .flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&job.name).and_then(Weak::upgrade) {
            return flight;
        }
        let (sender, outcome) = watch::channel(None);
        let flight = Arc::new(Flight { outcome });
        let mine = Arc::downgrade(&flight);
        flights.insert(job.name.clone(), mine.clone());
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let outcome = tokio::select! {
                () = sender.closed() => None,
                outcome = shared.run(&job) => Some(outcome),
            };
            if let Some(Err(error)) = &outcome
                && error.is_final()
            {
                shared.remember(&job.name, error.clone());
            }
            let mut flights = shared
                .flights
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if flights
                .get(&job.name)
                .is_some_and(|current| current.ptr_eq(&mine))
            {
                flights.remove(&job.name);
            }
            drop(flights);
            if let Some(outcome) = outcome {
                let _ = sender.send(Some(outcome));
            }
        });
        flight
    }
}

impl Shared {
    async fn ask_keys(&self) -> Result<Keys, CompileError> {
        let words = ["compile", "--print-key"].map(Into::into);
        let said = self.worker.run(words.to_vec(), None).await?;
        let keys: Keys = serde_json::from_slice(&said).map_err(|error| {
            CompileError::NotRun(format!("its keys are not understood: {error}"))
        })?;
        let plain =
            |key: &str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let all = [Some(&keys.plain), Some(&keys.metered), keys.quick.as_ref()];
        if all.into_iter().flatten().all(|key| plain(key)) {
            Ok(keys)
        } else {
            Err(CompileError::NotRun(
                "its keys are not usable as file names".to_owned(),
            ))
        }
    }

    /// What is there already: the form, or why there is none.
    fn found(&self, job: &Job) -> Option<Result<Compiled, CompileError>> {
        for baseline in [false, true] {
            if let Some(pin) = self.store.get(&job.file(baseline)) {
                return Some(Ok(Compiled { pin, baseline }));
            }
            if !job.quick {
                break;
            }
        }
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(&job.name).cloned().map(Err)
    }

    fn remember(&self, name: &str, error: CompileError) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= MAX_REMEMBERED_FAILURES {
            failures.clear();
        }
        failures.insert(name.to_owned(), error);
    }

    async fn run(&self, job: &Job) -> Result<Compiled, CompileError> {
        let turn = self.queue.turn(&job.owner, job.module.bytes(), job.urgency);
        let _turn = turn.await.ok_or(CompileError::Busy)?;
        let not_run = |error: std::io::Error| CompileError::NotRun(error.to_string());
        // The child writes beside its output and renames; a directory of its own takes both, and whatever a crash leaves.
        let scratch = self.store.scratch().map_err(not_run)?;
        let output = scratch.path().join("module.cwasm");
        let grant = |path: &Path, access| Grant {
            path: path.to_path_buf(),
            access,
        };
        let plan = Plan {
            grants: vec![
                grant(&job.module.path(), Access::Read),
                grant(scratch.path(), Access::Write),
            ],
            ..Plan::default()
        };
        let mut words = vec![
            "compile".into(),
            "--input".into(),
            job.module.path().into_os_string(),
            "--output".into(),
            output.clone().into_os_string(),
        ];
        words.extend(job.metered.then(|| "--metered".into()));
        words.extend(job.quick.then(|| "--quick".into()));
        let said = self.worker.run(words, Some(plan)).await?;
        let baseline = job.quick && said.trim_ascii() == BASELINE;
        let (store, name) = (self.store.clone(), job.file(baseline));
        let kept = tokio::task::spawn_blocking(move || {
            let mut file = store.unfinished()?;
            std::io::copy(&mut std::fs::File::open(&output)?, file.as_file_mut())?;
            drop(scratch);
            // Executors with users of their own read it; who does not know its name does not find it.
            store.keep(file, &name, 0o444)
        });
        let pin = kept
            .await
            .map_err(|error| CompileError::NotRun(error.to_string()))?
            .map_err(not_run)?;
        Ok(Compiled { pin, baseline })
    }
}

/// Where the keys of compiled files come from is the program; a path is all the agent knows of it.
pub(crate) fn compiled_directory(work_dir: &Path) -> PathBuf {
    work_dir.join("compiled")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Bench {
        directory: tempfile::TempDir,
        modules: Store,
        compiler: Compiler,
    }

    /// A compiler whose program is a shell script; `$3` is the input, `$5` the output, `$6` is `--metered` or nothing.
    fn bench(script: &str, time: Duration) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        let keys =
            r#"if [ "$2" = --print-key ]; then echo '{"plain":"p1","metered":"m1"}'; exit; fi"#;
        let count = directory.path().join("runs");
        let text = format!(
            "#!/bin/sh\nPATH=/usr/bin:/bin\n{keys}\necho run >> {}\n{script}\n",
            count.display()
        );
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let modules = Store::open(directory.path().join("fetch"), 1 << 20).unwrap();
        let store = Store::open(compiled_directory(directory.path()), 1 << 20).unwrap();
        let limits = CompileLimits {
            workers: 1,
            time,
            memory_bytes: 1 << 30,
            module_bytes: 1000,
            quick_above_bytes: 1 << 20,
            shut_in: false,
        };
        let compiler = Compiler::new(program, store, limits);
        Bench {
            directory,
            modules,
            compiler,
        }
    }

    impl Bench {
        fn module(&self, name: &str, bytes: usize) -> Pin {
            let mut file = self.modules.unfinished().unwrap();
            file.write_all(&vec![b'm'; bytes]).unwrap();
            self.modules.keep(file, name, 0o444).unwrap()
        }

        async fn compile(&self, module: &Pin, metered: bool) -> Result<Pin, CompileError> {
            let compiled = self.compiler.compile(module, metered, "f", &|_| {}).await?;
            assert!(!compiled.baseline);
            Ok(compiled.pin)
        }

        fn runs(&self) -> usize {
            std::fs::read_to_string(self.directory.path().join("runs"))
                .map_or(0, |text| text.lines().count())
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_module_is_compiled_once_for_each_key_however_many_ask() {
        let bench = bench(r#"echo "$6" > "$5""#, LONG);
        let module = bench.module("abc", 10);
        let all = futures::future::join_all((0..10).map(|_| bench.compile(&module, false))).await;
        let plain = all.into_iter().next().unwrap().unwrap();
        assert_eq!(bench.runs(), 1);
        assert_eq!(
            plain.path(),
            compiled_directory(bench.directory.path()).join("abc-p1.cwasm")
        );
        assert_eq!(
            plain.path().metadata().unwrap().permissions().mode() & 0o777,
            0o444
        );
        let metered = bench.compile(&module, true).await.unwrap();
        assert_eq!(metered.name(), "abc-m1.cwasm");
        assert_eq!(
            std::fs::read_to_string(metered.path()).unwrap().trim(),
            "--metered"
        );
        assert_eq!(bench.runs(), 2);
    }

    #[tokio::test]
    async fn the_childs_sentence_is_handed_on_and_remembered() {
        let bench = bench(
            r#"echo '{"error":"missing-import","message":"missing import env::foo"}'; exit 1"#,
            LONG,
        );
        let module = bench.module("abc", 10);
        for _ in 0..3 {
            let error = bench.compile(&module, false).await.unwrap_err();
            assert_eq!(error.to_string(), "missing import env::foo");
        }
        assert_eq!(bench.runs(), 1);
    }

    #[tokio::test]
    async fn a_compiler_that_does_not_end_is_ended() {
        let bench = bench("sleep 600", Duration::from_millis(700));
        let error = bench
            .compile(&bench.module("abc", 10), false)
            .await
            .unwrap_err();
        assert!(matches!(error, CompileError::TimedOut { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_compiler_whose_task_is_gone_is_ended_unless_others_wait() {
        // It has a child of its own, as one behind a wall may have.
        let bench = bench(
            r#"sleep 600 & echo $! > "$(dirname "$0")/child"; wait"#,
            LONG,
        );
        let module = bench.module("abc", 10);
        let started = || {
            let compiler = bench.compiler.clone();
            let module = module.clone();
            tokio::spawn(async move { compiler.compile(&module, false, "f", &|_| {}).await })
        };
        let (one, other) = (started(), started());
        let path = bench.directory.path().join("child");
        let child = loop {
            match std::fs::read_to_string(&path).map(|text| text.trim().to_owned()) {
                Ok(child) if !child.is_empty() => break child,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let runs = || {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            // Nobody may have asked yet how it ended.
            !stat.is_empty() && !stat.contains(") Z ")
        };
        one.abort();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(runs());
        other.abort();
        while runs() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_compiler_that_dies_is_described() {
        let killed = bench("kill -9 $$", LONG);
        let error = killed
            .compile(&killed.module("abc", 10), false)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("signal 9") && error.to_string().contains("1 GiB"),
            "{error}"
        );
        let broken = bench("echo no luck >&2; exit 7", LONG);
        let error = broken
            .compile(&broken.module("abc", 10), false)
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the compiler failed with exit status 7: no luck"
        );
    }

    #[tokio::test]
    async fn the_child_runs_at_the_lowest_priority_with_its_limits_and_no_environment() {
        let bench = bench(
            r#"{ nice; ulimit -d; ulimit -c; env | grep -c CARGO; } > "$5"; true"#,
            LONG,
        );
        let compiled = bench
            .compile(&bench.module("abc", 10), false)
            .await
            .unwrap();
        let kibibytes = (1_u64 << 30) >> 10;
        assert_eq!(
            std::fs::read_to_string(compiled.path()).unwrap(),
            format!("19\n{kibibytes}\n0\n0\n")
        );
    }

    #[tokio::test]
    async fn a_module_that_is_too_large_is_refused_before_any_child_runs() {
        let bench = bench("exit 1", LONG);
        let error = bench
            .compile(&bench.module("abc", 1001), false)
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the module has 1001 B, at most 1000 B are allowed"
        );
        assert_eq!(bench.runs(), 0);
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("s"), 1000).unwrap();
        let limits = CompileLimits {
            workers: 1,
            time: LONG,
            memory_bytes: 1 << 30,
            module_bytes: 1000,
            quick_above_bytes: 1 << 20,
            shut_in: false,
        };
        let compiler = Compiler::new(PathBuf::from("/nowhere/tepui"), store.clone(), limits);
        let mut file = store.unfinished().unwrap();
        file.write_all(b"m").unwrap();
        let module = store.keep(file, "abc", 0o444).unwrap();
        assert!(
            compiler
                .compile(&module, false, "f", &|_| {})
                .await
                .unwrap_err()
                .to_string()
                .contains("/nowhere/tepui")
        );
    }

    /// As [`bench`], with a second worker, a compiler that knows quick forms, and a large module from 100 bytes on.
    fn tiered(script: &str) -> Bench {
        let mut bench = bench(script, LONG);
        let program = bench.directory.path().join("program");
        let text = std::fs::read_to_string(&program).unwrap();
        let text = text.replace("\"metered\":\"m1\"", "\"metered\":\"m1\",\"quick\":\"q1\"");
        std::fs::write(&program, text).unwrap();
        let limits = CompileLimits {
            workers: 2,
            quick_above_bytes: 100,
            ..bench.compiler.shared.limits.clone()
        };
        let store = bench.compiler.shared.store.clone();
        bench.compiler = Compiler::new(program, store, limits);
        bench
    }

    #[tokio::test]
    async fn a_large_module_has_a_quick_form_first_and_its_optimised_one_later() {
        let go = r#"case "$6" in
  --quick) echo quick > "$5"; echo '{"form":"baseline"}' ;;
  *) until [ -e "${0%/*}/go" ]; do sleep 0.02; done; echo good > "$5" ;;
esac"#;
        let bench = tiered(go);
        let module = bench.module("abc", 200);
        let said = Mutex::new(Vec::new());
        let tell = |sentence: &str| said.lock().unwrap().push(sentence.to_owned());
        let compile = || bench.compiler.compile(&module, false, "f", &tell);
        let first = compile().await.unwrap();
        assert_eq!(first.pin.name(), "abc-q1-plain-baseline.cwasm");
        assert!(first.baseline);
        assert!(
            compile().await.unwrap().baseline,
            "it is not compiled again"
        );
        assert_eq!(said.lock().unwrap().len(), 2);
        assert!(said.lock().unwrap()[0].contains("200 B"));
        std::fs::write(bench.directory.path().join("go"), "").unwrap();
        let optimised = loop {
            let compiled = compile().await.unwrap();
            if !compiled.baseline {
                break compiled;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(optimised.pin.name(), "abc-p1.cwasm");
        assert_eq!(bench.runs(), 2);
    }

    #[tokio::test]
    async fn a_small_module_is_compiled_well_at_once_and_a_bomb_keeps_its_quick_form() {
        let script = r#"case "$6" in
  --quick) echo quick > "$5" ;;
  *) [ "$(wc -c < "$3")" -lt 100 ] || exit 9; echo good > "$5" ;;
esac"#;
        let bench = tiered(script);
        let small = bench.compile(&bench.module("small", 50), false).await;
        assert_eq!(small.unwrap().name(), "small-p1.cwasm");
        let bomb = bench.module("bomb", 200);
        for _ in 0..3 {
            let quick = bench.compile(&bomb, false).await.unwrap();
            assert_eq!(quick.name(), "bomb-q1-plain.cwasm");
            let failures = &bench.compiler.shared.failures;
            while failures.lock().unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        assert_eq!(bench.runs(), 3, "one in vain is enough");
    }

    #[tokio::test]
    async fn a_neighbours_module_does_not_wait_for_bombs() {
        let script = r#"case "$3" in */bomb*) sleep 600 ;; esac; echo good > "$5""#;
        let bench = tiered(script);
        let bombs: Vec<_> = (0..8)
            .map(|number| {
                let (compiler, bomb) = (
                    bench.compiler.clone(),
                    bench.module(&format!("bomb{number}"), 10),
                );
                tokio::spawn(async move { compiler.compile(&bomb, false, "bomber", &|_| {}).await })
            })
            .collect();
        while bench.runs() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for number in 0..3 {
            let module = bench.module(&format!("good{number}"), 10);
            bench.compile(&module, false).await.unwrap();
        }
        assert_eq!(bench.runs(), 4, "one bomb and three modules");
        bombs.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
