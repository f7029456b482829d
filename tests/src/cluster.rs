//! A cluster of real processes on loopback, each ended by its own id when the test ends.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::hosts::Hosts;
use crate::http::{Response, request};

/// The folder the build put the binaries into.
fn built() -> PathBuf {
    // A test runs from target/debug/deps.
    let here = std::env::current_exe().expect("a process has a path");
    here.ancestors()
        .nth(2)
        .expect("tests run from the target directory")
        .to_owned()
}

fn tepui() -> PathBuf {
    program("tepui")
}

/// The program, on the host whose network that is, or on this one.
fn tepui_in(namespace: Option<&str>) -> Command {
    match namespace {
        // It becomes the program, so that the child's id is the program's.
        Some(namespace) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={namespace}")).arg(tepui());
            command
        }
        None => Command::new(tepui()),
    }
}

/// The path of one of the workspace's programs.
pub fn program(name: &str) -> PathBuf {
    let binary = built().join(name);
    assert!(
        binary.exists(),
        "{} is missing: build it with `cargo build --workspace --bins`",
        binary.display()
    );
    binary
}

/// The path of an example guest; builds are made by `cargo xtask guests`.
pub fn guest(name: &str) -> String {
    built_guest("wasm32-wasip1", name)
}

/// The path of an example guest built as a component.
pub fn component(name: &str) -> String {
    built_guest("wasm32-wasip2", name)
}

/// The path of a guest in another language; builds are made by `cargo xtask polyglot`.
pub fn polyglot(name: &str) -> String {
    built_module(&format!("polyglot/{name}.wasm"), "polyglot")
}

fn built_guest(wasm: &str, name: &str) -> String {
    built_module(&format!("guests/{wasm}/release/{name}.wasm"), "guests")
}

/// A file of the target directory, and the command of xtask that makes it.
fn built_module(file: &str, command: &str) -> String {
    let built = built();
    let target = built.parent().expect("target/debug has a parent");
    let module = target.join(file);
    assert!(
        module.exists(),
        "{} is missing: build it with `cargo xtask {command}`",
        module.display()
    );
    module.display().to_string()
}

/// Waits for something to become true; panics with what was waited for after 30 s.
pub fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited 30 s in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One process of the cluster.
#[derive(Debug)]
pub struct Process {
    child: Child,
    words: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    pub address: String,
    namespace: Option<String>,
}

impl Process {
    fn start(words: Vec<String>, log: &Path) -> Self {
        Self::start_in(words, Vec::new(), log)
    }

    fn start_in(words: Vec<String>, environment: Vec<(String, String)>, log: &Path) -> Self {
        Self::start_on(None, words, environment, log)
    }

    /// On the host whose network that is, see [`Hosts::namespace`](crate::Hosts::namespace).
    fn start_on(
        namespace: Option<String>,
        words: Vec<String>,
        environment: Vec<(String, String)>,
        log: &Path,
    ) -> Self {
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        let mut child = tepui_in(namespace.as_deref())
            .args(&words)
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(address) = line.strip_prefix("listening on ") {
                    let _ = sender.send(address.to_owned());
                }
            }
        });
        let address = receiver
            .recv_timeout(Duration::from_secs(30))
            .unwrap_or_else(|_| {
                let _ = child.kill();
                let _ = child.wait();
                panic!(
                    "{words:?} did not start: {}",
                    std::fs::read_to_string(log).unwrap_or_default()
                )
            });
        Self {
            child,
            words,
            environment,
            log: log.to_owned(),
            address,
            namespace,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, now.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Starts it again with the same words.
    pub fn start_again(&mut self) {
        self.kill();
        let (words, environment) = (self.words.clone(), self.environment.clone());
        *self = Self::start_on(self.namespace.clone(), words, environment, &self.log);
    }

    /// Starts it again with some flags set otherwise or anew. A flag without a value stands alone.
    pub fn start_again_with(&mut self, flags: &[(&str, &str)]) {
        for (name, value) in flags {
            match self.words.iter().position(|word| word == name) {
                Some(at) => self.words[at + 1] = (*value).to_owned(),
                None => self.words.extend(
                    [*name, *value]
                        .into_iter()
                        .filter(|word| !word.is_empty())
                        .map(str::to_owned),
                ),
            }
        }
        self.start_again();
    }

    fn terminate(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
    }
}

/// How a client command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A master and its agents.
#[derive(Debug)]
pub struct Cluster {
    pub master: Process,
    pub agents: Vec<Process>,
    pub folder: TempDir,
}

impl Cluster {
    /// A master alone, with further flags.
    pub fn master_alone(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The port is picked free once and kept, so that a restarted master is found again.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
            .to_string();
        let data = folder.path().join("master").display().to_string();
        let mut words: Vec<String> = ["master", "--port", &port, "--work-dir", &data]
            .map(str::to_owned)
            .to_vec();
        words.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let master = Process::start(words, &folder.path().join("master.log"));
        Self {
            master,
            agents: Vec::new(),
            folder,
        }
    }

    /// A master and an agent with further variables in their environment and further flags.
    pub fn with_environment(environment: &[(&str, &str)], flags: &[&str]) -> Self {
        let environment = environment.iter();
        let environment: Vec<_> = environment
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let mut cluster = Self::master_alone(flags);
        cluster.add_agent(&[&["--resources", "cpus:4;mem:2048;disk:1024"], flags].concat());
        for process in std::iter::once(&mut cluster.master).chain(&mut cluster.agents) {
            process.environment.clone_from(&environment);
            process.start_again();
        }
        cluster.wait_for_agents(1);
        cluster
    }

    /// A master and so many agents of 2 cpus and 1 GB, all registered.
    pub fn start(agents: usize) -> Self {
        let mut cluster = Self::master_alone(&[]);
        for _ in 0..agents {
            cluster.add_agent(&[
                "--resources",
                "cpus:2;mem:1024;disk:1024;ports:[31000-31999]",
            ]);
        }
        cluster.wait_for_agents(agents);
        cluster
    }

    /// A master on the first of some hosts, and no agent.
    pub fn on_hosts(hosts: &Hosts) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("master").display().to_string();
        let address = hosts.address(0);
        let words = [
            "master",
            "--ip",
            &address,
            "--hostname",
            &address,
            "--insecure",
        ];
        let words = words
            .into_iter()
            .chain(["--port", "5050", "--work-dir", &data]);
        let words = words.map(str::to_owned).collect();
        let log = folder.path().join("master.log");
        Self {
            master: Process::start_on(Some(hosts.namespace(0)), words, Vec::new(), &log),
            agents: Vec::new(),
            folder,
        }
    }

    /// An agent on one of the master's other hosts.
    pub fn add_agent_on(&mut self, hosts: &Hosts, host: usize, flags: &[&str]) {
        let path = |name: String| self.folder.path().join(name);
        let data = path(format!("agent-{host}")).display().to_string();
        let log = path(format!("agent-{host}.log"));
        let words = [
            "agent",
            "--master",
            &self.master.address,
            "--work-dir",
            &data,
        ];
        let words = words.iter().chain(flags).map(|word| (*word).to_owned());
        let words = words.collect();
        self.agents.push(Process::start_on(
            Some(hosts.namespace(host)),
            words,
            Vec::new(),
            &log,
        ));
    }

    pub fn add_agent(&mut self, flags: &[&str]) {
        let master = self.master.address.clone();
        self.add_agent_of(&master, flags);
    }

    /// An agent that reaches its master at that address: a proxy's, say.
    pub fn add_agent_of(&mut self, master: &str, flags: &[&str]) {
        let number = self.agents.len() + 1;
        let data = self
            .folder
            .path()
            .join(format!("agent-{number}"))
            .display()
            .to_string();
        let mut words: Vec<String> = [
            "agent",
            "--master",
            master,
            "--port",
            "0",
            "--work-dir",
            &data,
        ]
        .map(str::to_owned)
        .to_vec();
        words.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self.agents.push(Process::start(
            words,
            &self.folder.path().join(format!("agent-{number}.log")),
        ));
    }

    pub fn wait_for_agents(&self, wanted: usize) {
        wait_until("the agents to register", || {
            let agents = self.json(&["agents", "--json"]);
            let active = agents
                .as_array()?
                .iter()
                .filter(|agent| agent["active"] == Value::Bool(true))
                .count();
            (active == wanted).then_some(())
        });
    }

    /// A call of the operator API, in JSON.
    pub fn operator(&self, call: Value) -> Response {
        let headers = [("Content-Type", "application/json")];
        let body = call.to_string();
        self.ask("POST", "/api/v1", &headers, body.as_bytes())
    }

    /// A read of the master.
    pub fn get(&self, path: &str) -> Response {
        self.ask("GET", path, &[], &[])
    }

    /// From the master's own host.
    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let ask = || request(&self.master.address, method, path, headers, body).unwrap();
        let Some(namespace) = &self.master.namespace else {
            return ask();
        };
        // A network is a thread's, so this one gets a thread.
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                let network = std::fs::File::open(namespace).unwrap();
                nix::sched::setns(network, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                ask()
            });
            there.join().unwrap()
        })
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = tepui_in(self.master.namespace.as_deref());
        command
            .args(words)
            .env("TEPUI_MASTER", &self.master.address)
            .stdin(Stdio::null());
        command
    }

    /// Runs a client command to its end.
    pub fn tepui(&self, words: &[&str]) -> Ended {
        let output = self.command(words).output().unwrap();
        Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What a reading command prints with --json; null when it failed.
    pub fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.tepui(words).stdout).unwrap_or_default()
    }

    /// Starts a client command and leaves it running.
    pub fn spawn(&self, words: &[&str]) -> Running {
        let child = self
            .command(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Running { child: Some(child) }
    }

    /// The only task that runs, once it does.
    pub fn running_task(&self) -> Value {
        wait_until("a task to run", || {
            let tasks = self.json(&["ps", "--json"]);
            tasks
                .as_array()?
                .iter()
                .find(|task| task["state"] == "TASK_RUNNING")
                .cloned()
        })
    }

    /// The ids of processes whose command line holds all the words and that belong to this cluster's folder.
    pub fn processes(&self, words: &[&str]) -> Vec<i32> {
        let folder = self.folder.path().display().to_string();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok())
            else {
                continue;
            };
            let read = |name: &str| {
                let mut bytes = Vec::new();
                let _ = std::fs::File::open(entry.path().join(name))
                    .map(|mut file| file.read_to_end(&mut bytes));
                String::from_utf8_lossy(&bytes).into_owned()
            };
            let line = read("cmdline");
            // The process that runs the commands of a wasm executor's checks has its command line.
            if read("comm").trim() == "checks" {
                continue;
            }
            if words.iter().all(|word| line.contains(word)) && read("environ").contains(&folder) {
                found.push(pid);
            }
        }
        found
    }

    pub fn logs(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(self.folder.path()).unwrap().flatten() {
            if entry
                .path()
                .extension()
                .is_some_and(|ending| ending == "log")
            {
                text.push_str(&format!("--- {}\n", entry.path().display()));
                text.push_str(&std::fs::read_to_string(entry.path()).unwrap_or_default());
            }
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for agent in &mut self.agents {
            agent.terminate();
        }
        self.master.terminate();
        if std::thread::panicking() {
            println!("{}", self.logs());
        }
    }
}

/// A client command under way.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    pub fn wait(mut self) -> Ended {
        let output = self
            .child
            .take()
            .expect("waited for once")
            .wait_with_output()
            .unwrap();
        Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
