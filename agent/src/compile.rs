//! Turns modules into machine code, each once, in child processes of low priority with hard limits: compiling strangers'
//! bytes can take any amount of time and memory, and neither may come from the agent or from running tasks.
//!
//! The results are the only compiled code that executors load, and only the agent writes them.

use std::collections::BTreeMap;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tepui_model::format_bytes;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::{OnceCell, Semaphore, watch};

use crate::store::{Pin, Store};

/// What is kept of what a child says; the rest of a flood is read and dropped.
const MAX_SAID_BYTES: usize = 16 << 10;
/// How many modules that cannot be compiled are remembered, so that relaunching one costs nothing.
const MAX_REMEMBERED_FAILURES: usize = 4096;
/// The priority of the child: it gets what nobody else wants.
const NICE: libc::c_int = 19;

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
}

#[derive(Debug, Clone, serde::Deserialize)]
struct Keys {
    plain: String,
    metered: String,
}

#[derive(Debug, serde::Deserialize)]
struct Refusal {
    error: String,
    message: String,
}

#[derive(Debug)]
struct Flight {
    outcome: watch::Receiver<Option<Result<Pin, CompileError>>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Compiler {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    program: PathBuf,
    store: Store,
    limits: CompileLimits,
    keys: OnceCell<Keys>,
    workers: Semaphore,
    flights: Mutex<BTreeMap<String, Weak<Flight>>>,
    failures: Mutex<BTreeMap<String, CompileError>>,
}

impl Compiler {
    pub(crate) fn new(program: PathBuf, store: Store, limits: CompileLimits) -> Self {
        let workers = Semaphore::new(limits.workers.max(1));
        let shared = Shared {
            program,
            store,
            limits,
            keys: OnceCell::new(),
            workers,
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
        (key == keys.plain || key == keys.metered).then_some(module)
    }

    async fn keys(&self) -> Result<&Keys, CompileError> {
        let keys = self.shared.keys.get_or_try_init(|| self.shared.ask_keys());
        keys.await
    }

    /// The compiled form of a module in the fetcher's store.
    pub(crate) async fn compile(&self, module: &Pin, metered: bool) -> Result<Pin, CompileError> {
        let limit = self.shared.limits.module_bytes;
        if module.bytes() > limit {
            return Err(CompileError::TooLarge {
                bytes: module.bytes(),
                limit,
            });
        }
        let keys = self.keys().await?;
        let key = if metered { &keys.metered } else { &keys.plain };
        let name = format!("{}-{key}.cwasm", module.name());
        if let Some(pin) = self.shared.store.get(&name) {
            return Ok(pin);
        }
        if let Some(error) = self
            .shared
            .failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&name)
        {
            return Err(error.clone());
        }
        let flight = self.join(module, &name, metered);
        let mut outcome = flight.outcome.clone();
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().expect("waited for"),
            Err(_) => Err(CompileError::NotRun("it was given up".to_owned())),
        }
    }

    fn join(&self, module: &Pin, name: &str, metered: bool) -> Arc<Flight> {
        let mut flights = self
            .shared
            .flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(name).and_then(Weak::upgrade) {
            return flight;
        }
        let (sender, outcome) = watch::channel(None);
        let flight = Arc::new(Flight { outcome });
        let mine = Arc::downgrade(&flight);
        flights.insert(name.to_owned(), mine.clone());
        let (shared, module, name) = (self.shared.clone(), module.clone(), name.to_owned());
        tokio::spawn(async move {
            let outcome = tokio::select! {
                () = sender.closed() => None,
                outcome = shared.run(&module, &name, metered) => Some(outcome),
            };
            if let Some(Err(error)) = outcome
                .as_ref()
                .filter(|outcome| outcome.as_ref().is_err_and(CompileError::is_final))
            {
                let mut failures = shared
                    .failures
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                if failures.len() >= MAX_REMEMBERED_FAILURES {
                    failures.clear();
                }
                failures.insert(name.clone(), error.clone());
            }
            let mut flights = shared
                .flights
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if flights
                .get(&name)
                .is_some_and(|current| current.ptr_eq(&mine))
            {
                flights.remove(&name);
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
        let mut command = self.command();
        command.args(["compile", "--print-key"]);
        let child = self.child(command).await?;
        if !child.status.success() {
            return Err(self.failure(&child));
        }
        let keys: Keys = serde_json::from_slice(&child.output).map_err(|error| {
            CompileError::NotRun(format!("its keys are not understood: {error}"))
        })?;
        let plain =
            |key: &str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if plain(&keys.plain) && plain(&keys.metered) {
            Ok(keys)
        } else {
            Err(CompileError::NotRun(
                "its keys are not usable as file names".to_owned(),
            ))
        }
    }

    async fn run(&self, module: &Pin, name: &str, metered: bool) -> Result<Pin, CompileError> {
        let _worker = self
            .workers
            .acquire()
            .await
            .map_err(|error| CompileError::NotRun(error.to_string()))?;
        let not_run = |error: std::io::Error| CompileError::NotRun(error.to_string());
        // The child writes beside its output and renames; a directory of its own takes both, and whatever a crash leaves.
        let scratch = self.store.scratch().map_err(not_run)?;
        let output = scratch.path().join("module.cwasm");
        let mut command = self.command();
        command
            .arg("compile")
            .arg("--input")
            .arg(module.path())
            .arg("--output")
            .arg(&output);
        if metered {
            command.arg("--metered");
        }
        let child = self.child(command).await?;
        if !child.status.success() {
            return Err(self.failure(&child));
        }
        let (store, name) = (self.store.clone(), name.to_owned());
        let kept = tokio::task::spawn_blocking(move || {
            let mut file = store.unfinished()?;
            std::io::copy(&mut std::fs::File::open(&output)?, file.as_file_mut())?;
            drop(scratch);
            // Executors with users of their own read it; who does not know its name does not find it.
            store.keep(file, &name, 0o444)
        });
        kept.await
            .map_err(|error| CompileError::NotRun(error.to_string()))?
            .map_err(not_run)
    }

    fn command(&self) -> Command {
        let memory = self.limits.memory_bytes;
        let mut command = std::process::Command::new(&self.program);
        command
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        // SAFETY: between fork and exec only setpriority, setrlimit and prctl are called: plain system calls that
        // neither allocate nor take locks.
        unsafe {
            command.pre_exec(move || {
                limit(libc::RLIMIT_DATA, memory)?;
                limit(libc::RLIMIT_CORE, 0)?;
                libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
                Ok(())
            });
        }
        let mut command = Command::from(command);
        command.kill_on_drop(true);
        command
    }

    async fn child(&self, mut command: Command) -> Result<Child, CompileError> {
        let not_run = |error: std::io::Error| {
            CompileError::NotRun(format!("{}: {error}", self.program.display()))
        };
        let mut child = command.spawn().map_err(not_run)?;
        let group = child.id();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let whole = async {
            let (output, said, status) =
                tokio::join!(read_some(stdout), read_some(stderr), child.wait());
            status.map(|status| Child {
                status,
                output,
                said,
            })
        };
        match tokio::time::timeout(self.limits.time, whole).await {
            Ok(child) => child.map_err(not_run),
            Err(_) => {
                kill_group(group);
                Err(CompileError::TimedOut {
                    limit: self.limits.time,
                })
            }
        }
    }

    fn failure(&self, child: &Child) -> CompileError {
        if let Some(signal) = child.status.signal() {
            return CompileError::Killed {
                signal,
                memory: self.limits.memory_bytes,
            };
        }
        let refusal = child
            .output
            .split(|byte| *byte == b'\n')
            .rev()
            .find(|line| !line.is_empty());
        if let Some(Ok(refusal)) = refusal.map(serde_json::from_slice::<Refusal>) {
            return CompileError::Refused {
                kind: refusal.error,
                message: refusal.message,
            };
        }
        let said = String::from_utf8_lossy(&child.said).trim().to_owned();
        CompileError::Failed {
            status: child.status.code().unwrap_or(-1),
            said,
        }
    }
}

#[derive(Debug)]
struct Child {
    status: ExitStatus,
    output: Vec<u8>,
    said: Vec<u8>,
}

async fn read_some(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else {
        return kept;
    };
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let room = MAX_SAID_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
    kept
}

fn kill_group(leader: Option<u32>) {
    let Some(leader) = leader.and_then(|leader| i32::try_from(leader).ok()) else {
        return;
    };
    // It may have ended in this very moment; then there is nothing to kill.
    let _ = nix::sys::signal::killpg(
        nix::unistd::Pid::from_raw(leader),
        nix::sys::signal::Signal::SIGKILL,
    );
}

fn limit(resource: libc::__rlimit_resource_t, value: u64) -> std::io::Result<()> {
    let limits = libc::rlimit {
        rlim_cur: value,
        rlim_max: value,
    };
    // SAFETY: the pointer is to a live value of the type the call wants.
    if unsafe { libc::setrlimit(resource, &raw const limits) } == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
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
        let all =
            futures::future::join_all((0..10).map(|_| bench.compiler.compile(&module, false)))
                .await;
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
        let metered = bench.compiler.compile(&module, true).await.unwrap();
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
            let error = bench.compiler.compile(&module, false).await.unwrap_err();
            assert_eq!(error.to_string(), "missing import env::foo");
        }
        assert_eq!(bench.runs(), 1);
    }

    #[tokio::test]
    async fn a_compiler_that_does_not_end_is_ended() {
        let bench = bench("sleep 600", Duration::from_millis(700));
        let error = bench
            .compiler
            .compile(&bench.module("abc", 10), false)
            .await
            .unwrap_err();
        assert!(matches!(error, CompileError::TimedOut { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_compiler_that_dies_is_described() {
        let killed = bench("kill -9 $$", LONG);
        let error = killed
            .compiler
            .compile(&killed.module("abc", 10), false)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("signal 9") && error.to_string().contains("1 GiB"),
            "{error}"
        );
        let broken = bench("echo no luck >&2; exit 7", LONG);
        let error = broken
            .compiler
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
            .compiler
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
            .compiler
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
        };
        let compiler = Compiler::new(PathBuf::from("/nowhere/tepui"), store.clone(), limits);
        let mut file = store.unfinished().unwrap();
        file.write_all(b"m").unwrap();
        let module = store.keep(file, "abc", 0o444).unwrap();
        assert!(
            compiler
                .compile(&module, false)
                .await
                .unwrap_err()
                .to_string()
                .contains("/nowhere/tepui")
        );
    }
}
