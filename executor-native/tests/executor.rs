//! The executor as a process of its own, with real tasks, under an agent that does what the test says.
//!
//! This file's test binary is also the executor: each test starts it again with one test selected, which is [`run`].
//!
//! [`run`]: tepui_executor_native::run

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "a test that is not run says so")]

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tepui_api::ext::{LaunchPlan, launch_plan};
use tepui_api::v1::environment::Variable;
use tepui_api::v1::executor::{Call, Event, call, event};
use tepui_api::v1::framework_info::{Capability, capability};
use tepui_api::v1::r_limit_info::{RLimit, r_limit};
use tepui_api::v1::task_status::Reason;
use tepui_api::v1::{
    AgentInfo, CommandInfo, ContainerInfo, DurationInfo, ExecutorInfo, FrameworkInfo, KillPolicy,
    RLimitInfo, Resource, TaskId, TaskInfo, TaskState, TaskStatus, container_info, value,
};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

const UNDER_TEST: &str = "TEPUI_EXECUTOR_UNDER_TEST";
const V1: &str = "/sys/fs/cgroup";

type Body = UnsyncBoxBody<Bytes, Infallible>;

#[test]
fn this_is_the_executor_when_another_test_starts_it() {
    if std::env::var_os(UNDER_TEST).is_some() {
        tepui_executor_native::run().unwrap();
    }
}

struct Server {
    updates: mpsc::UnboundedSender<TaskStatus>,
    streams: mpsc::UnboundedSender<mpsc::UnboundedSender<Bytes>>,
}

impl Server {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let plain = |status: u16| {
            let empty = Full::new(Bytes::new()).boxed_unsync();
            Response::builder().status(status).body(empty).unwrap()
        };
        if request.headers().get("content-type").unwrap() != "application/x-protobuf" {
            return plain(415);
        }
        let call = Call::decode(request.into_body().collect().await.unwrap().to_bytes()).unwrap();
        match call.r#type() {
            call::Type::Subscribe => {
                let (sender, receiver) = mpsc::unbounded_channel::<Bytes>();
                self.streams.send(sender).ok();
                let chunks = futures::stream::unfold(receiver, async |mut receiver| {
                    let chunk = receiver.recv().await?;
                    Some((Ok(Frame::data(chunk)), receiver))
                });
                Response::new(StreamBody::new(chunks.boxed()).boxed_unsync())
            }
            call::Type::Update => {
                self.updates.send(call.update.unwrap().status).ok();
                plain(202)
            }
            _ => plain(202),
        }
    }
}

/// An agent with one executor.
struct Agent {
    updates: mpsc::UnboundedReceiver<TaskStatus>,
    stream: mpsc::UnboundedSender<Bytes>,
    executor: Child,
    sandbox: tempfile::TempDir,
    cgroup: Option<String>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let Some(cgroup) = &self.cgroup else { return };
        for hierarchy in fs::read_dir(V1).unwrap().flatten() {
            let parent = hierarchy.path().join(cgroup);
            // The executor may be busy with the last task's group; a hundred looks are enough for it to be done.
            for _ in 0..100 {
                fs::remove_dir(parent.join("container-1")).ok();
                fs::remove_dir(&parent).ok();
                if !parent.exists() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// A name for a new cgroup, or `None` where the kernel lets us make none, which is then said.
fn cgroup(test: &str) -> Option<String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!(
        "tepui-test-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    );
    let memory = Path::new(V1).join("memory").join(&name);
    match fs::create_dir(&memory) {
        Ok(()) => Some(name),
        Err(error) => {
            println!(
                "not run: {test}: no cgroup can be made at {}: {error}",
                memory.display()
            );
            None
        }
    }
}

impl Agent {
    async fn start(cgroup: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (update_sender, updates) = mpsc::unbounded_channel();
        let (stream_sender, mut streams) = mpsc::unbounded_channel();
        let server = Arc::new(Server {
            updates: update_sender,
            streams: stream_sender,
        });
        tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                let server = Arc::clone(&server);
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let server = Arc::clone(&server);
                        async move { Ok::<_, Infallible>(server.answer(request).await) }
                    });
                    let builder = hyper::server::conn::http1::Builder::new();
                    builder
                        .serve_connection(TokioIo::new(connection), service)
                        .await
                        .ok();
                });
            }
        });
        let executor = Self::executor(address, cgroup.as_deref());
        let stream = streams.recv().await.unwrap();
        let agent = Self {
            updates,
            stream,
            executor,
            sandbox: tempfile::tempdir().unwrap(),
            cgroup,
        };
        agent.send(event::Type::Subscribed, |event| {
            let killing = Capability {
                r#type: Some(capability::Type::TaskKillingState as i32),
            };
            event.subscribed = Some(event::Subscribed {
                executor_info: ExecutorInfo::default(),
                framework_info: FrameworkInfo {
                    capabilities: vec![killing],
                    ..FrameworkInfo::default()
                },
                agent_info: AgentInfo::default(),
                container_id: None,
            });
        });
        agent
    }

    fn executor(agent: SocketAddr, cgroup: Option<&str>) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([
                "--exact",
                "this_is_the_executor_when_another_test_starts_it",
            ])
            .env_clear()
            .env(UNDER_TEST, "1")
            .env("MESOS_FRAMEWORK_ID", "framework")
            .env("MESOS_EXECUTOR_ID", "tepui-native")
            .env("MESOS_AGENT_ENDPOINT", agent.to_string())
            .env("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", "10secs")
            .envs(cgroup.map(|cgroup| ("TEPUI_CGROUP", cgroup)))
            .stdout(Stdio::null())
            .kill_on_drop(true);
        command.spawn().unwrap()
    }

    fn send(&self, kind: event::Type, fill: impl FnOnce(&mut Event)) {
        let mut event = Event {
            r#type: Some(kind as i32),
            ..Event::default()
        };
        fill(&mut event);
        let payload = event.encode_to_vec();
        let mut record = format!("{}\n", payload.len()).into_bytes();
        record.extend(payload);
        self.stream.send(record.into()).unwrap();
    }

    fn task(&self, arguments: &[&str]) -> TaskInfo {
        TaskInfo {
            name: "task".to_owned(),
            task_id: TaskId {
                value: "task".to_owned(),
            },
            resources: vec![scalar("cpus", 0.1), scalar("mem", 32.0)],
            command: Some(CommandInfo::default()),
            plan: Some(LaunchPlan {
                body: launch_plan::Body::Native as i32,
                sandbox: self.sandbox.path().to_str().unwrap().to_owned(),
                container_id: "container-1".to_owned(),
                arguments: arguments
                    .iter()
                    .map(|argument| (*argument).to_owned())
                    .collect(),
                environment: vec![Variable {
                    name: "PATH".to_owned(),
                    value: Some("/usr/bin:/bin".to_owned()),
                    ..Variable::default()
                }],
                ..LaunchPlan::default()
            }),
            ..TaskInfo::default()
        }
    }

    fn shell(&self, script: &str) -> TaskInfo {
        self.task(&["/bin/sh", "-c", script])
    }

    fn limited(&self, script: &str, soft: u64, hard: u64) -> TaskInfo {
        let limit = RLimit {
            r#type: Some(r_limit::Type::RlmtNofile.into()),
            soft: Some(soft),
            hard: Some(hard),
        };
        TaskInfo {
            container: Some(ContainerInfo {
                r#type: container_info::Type::Mesos.into(),
                rlimit_info: Some(RLimitInfo {
                    rlimits: vec![limit],
                }),
                ..ContainerInfo::default()
            }),
            ..self.shell(script)
        }
    }

    fn launch(&self, task: TaskInfo) {
        self.send(event::Type::Launch, |event| {
            event.launch = Some(event::Launch { task })
        });
    }

    fn kill(&self, grace: Option<Duration>) {
        let kill_policy = grace.map(|grace| KillPolicy {
            grace_period: Some(DurationInfo {
                nanoseconds: grace.as_nanos() as i64,
            }),
        });
        let task_id = TaskId {
            value: "task".to_owned(),
        };
        self.send(event::Type::Kill, |event| {
            event.kill = Some(event::Kill {
                task_id,
                signal: None,
                kill_policy,
            })
        });
    }

    /// The next status, acknowledged.
    async fn update(&mut self) -> TaskStatus {
        let status = self.updates.recv().await.unwrap();
        self.send(event::Type::Acknowledged, |event| {
            event.acknowledged = Some(event::Acknowledged {
                task_id: status.task_id.clone(),
                uuid: status.uuid.clone().unwrap(),
            });
        });
        status
    }

    async fn expect(&mut self, state: TaskState) -> TaskStatus {
        let status = self.update().await;
        assert_eq!(status.state(), state, "{:?}", status.message);
        status
    }

    /// Launches a task that starts, and gives back its TASK_RUNNING.
    async fn run(&mut self, task: TaskInfo) -> TaskStatus {
        self.launch(task);
        self.expect(TaskState::TaskStarting).await;
        self.expect(TaskState::TaskRunning).await
    }

    fn file(&self, name: &str) -> PathBuf {
        self.sandbox.path().join(name)
    }

    /// The first line of the task's output, once it is whole.
    async fn first_line(&self) -> String {
        loop {
            let text = fs::read_to_string(self.file("stdout")).unwrap_or_default();
            if let Some((line, _)) = text.split_once('\n') {
                return line.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn scalar(name: &str, value: f64) -> Resource {
    Resource {
        name: name.to_owned(),
        r#type: value::Type::Scalar as i32,
        scalar: Some(value::Scalar { value }),
        ..Resource::default()
    }
}

fn reason(status: &TaskStatus) -> Option<Reason> {
    status
        .reason
        .map(|reason| Reason::try_from(reason).unwrap())
}

/// Returns when there is no such process any more, not even a zombie.
async fn gone(pid: &str) {
    assert!(pid.parse::<u32>().is_ok(), "{pid:?}");
    while Path::new("/proc").join(pid).exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[tokio::test]
async fn a_command_gets_exactly_the_planned_environment_and_writes_to_its_sandbox() {
    let mut agent = Agent::start(None).await;
    let mut task = agent.task(&["/usr/bin/env"]);
    let plan = task.plan.as_mut().unwrap();
    plan.environment[0].name = "ONLY".to_owned();
    plan.environment[0].value = Some("this one".to_owned());
    fs::write(agent.file("stdout"), "earlier\n").unwrap();
    let running = agent.run(task).await;
    assert_eq!(running.message(), "no cgroups: limits are not enforced");
    let finished = agent.expect(TaskState::TaskFinished).await;
    assert_eq!(finished.message(), "Command exited with status 0");
    assert_eq!(
        fs::read_to_string(agent.file("stdout")).unwrap(),
        "earlier\nONLY=this one\n"
    );
    assert_eq!(fs::read_to_string(agent.file("stderr")).unwrap(), "");
    let usage = finished.usage.unwrap();
    assert_eq!(usage.body(), launch_plan::Body::Native);
    assert!(usage.wall_time_ns.is_some_and(|time| time > 0));
    assert_eq!(
        usage.memory_limit_bytes, None,
        "no limit is claimed that is not enforced"
    );
}

#[tokio::test]
async fn the_task_runs_in_its_sandbox_as_leader_of_a_session_with_nothing_to_read() {
    let mut agent = Agent::start(None).await;
    // The sixth field of stat is the session.
    agent
        .run(agent.shell("cut -d' ' -f1,6 /proc/$$/stat; pwd; read line || echo nothing"))
        .await;
    agent.expect(TaskState::TaskFinished).await;
    let text = fs::read_to_string(agent.file("stdout")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let (pid, session) = lines[0].split_once(' ').unwrap();
    assert_eq!(pid, session);
    assert_eq!(
        fs::canonicalize(lines[1]).unwrap(),
        fs::canonicalize(agent.sandbox.path()).unwrap()
    );
    assert_eq!(lines[2], "nothing");
}

#[tokio::test]
async fn a_status_that_is_not_zero_or_a_signal_is_a_failure() {
    let mut agent = Agent::start(None).await;
    agent.run(agent.shell("exit 3")).await;
    assert_eq!(
        agent.expect(TaskState::TaskFailed).await.message(),
        "Command exited with status 3"
    );
    agent.run(agent.shell("kill -KILL $$")).await;
    let failed = agent.expect(TaskState::TaskFailed).await;
    assert_eq!(failed.message(), "Command terminated with signal SIGKILL");
    assert_eq!(reason(&failed), None);
}

#[tokio::test]
async fn what_cannot_be_run_is_named() {
    let mut agent = Agent::start(cgroup("what_cannot_be_run_is_named")).await;
    fs::write(agent.file("data"), "no program").unwrap();
    for program in ["/no/such/program", "./data", "not-in-any-path"] {
        agent.launch(agent.task(&[program]));
        agent.expect(TaskState::TaskStarting).await;
        let failed = agent.expect(TaskState::TaskFailed).await;
        assert_eq!(reason(&failed), Some(Reason::ContainerLaunchFailed));
        assert!(failed.message().contains(program), "{}", failed.message());
    }
}

#[tokio::test]
async fn a_task_has_the_limits_it_asks_for_and_may_not_ask_for_nonsense() {
    let mut agent = Agent::start(None).await;
    let shows = "test \"$(ulimit -Sn) $(ulimit -Hn)\" = '57 61'";
    agent.run(agent.limited(shows, 57, 61)).await;
    agent.expect(TaskState::TaskFinished).await;
    agent.launch(agent.limited(shows, 61, 57));
    agent.expect(TaskState::TaskStarting).await;
    let status = agent.expect(TaskState::TaskFailed).await;
    assert_eq!(status.reason(), Reason::ContainerLaunchFailed);
    assert!(status.message().contains("RLMT_NOFILE"), "{status:?}");
}

#[tokio::test]
async fn a_user_nobody_knows_fails_the_task() {
    if !is_root() {
        println!("not run: a_user_nobody_knows_fails_the_task: it needs root");
        return;
    }
    let mut agent = Agent::start(None).await;
    let mut task = agent.shell("true");
    task.plan.as_mut().unwrap().user = Some("no-such-user-here".to_owned());
    agent.launch(task);
    agent.expect(TaskState::TaskStarting).await;
    let failed = agent.expect(TaskState::TaskFailed).await;
    assert_eq!(
        failed.message(),
        "the user 'no-such-user-here' does not exist on this agent"
    );
}

#[tokio::test]
async fn a_task_becomes_the_user_it_names_with_that_users_groups_alone() {
    if !is_root() {
        println!(
            "not run: a_task_becomes_the_user_it_names_with_that_users_groups_alone: it needs root"
        );
        return;
    }
    let test = "a_task_becomes_the_user_it_names_with_that_users_groups_alone";
    let mut agent = Agent::start(cgroup(test)).await;
    let mut task = agent.shell("id -u; id -G; touch mine && stat -c %u mine");
    task.plan.as_mut().unwrap().user = Some("nobody".to_owned());
    agent.run(task).await;
    agent.expect(TaskState::TaskFinished).await;
    let text = fs::read_to_string(agent.file("stdout")).unwrap();
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    assert_eq!(text, format!("{0}\n{1}\n{0}\n", nobody.uid, nobody.gid));
}

#[tokio::test]
async fn a_killed_task_is_asked_first_and_its_children_go_with_it() {
    let mut agent = Agent::start(cgroup(
        "a_killed_task_is_asked_first_and_its_children_go_with_it",
    ))
    .await;
    agent.run(agent.shell("sleep 1000 & echo $!; wait")).await;
    let child = agent.first_line().await;
    agent.kill(None);
    agent.expect(TaskState::TaskKilling).await;
    let killed = agent.expect(TaskState::TaskKilled).await;
    assert_eq!(killed.message(), "Command terminated with signal SIGTERM");
    gone(&child).await;
}

#[tokio::test]
async fn a_task_that_will_not_go_is_made_to_after_its_grace() {
    for cgroup in [
        None,
        cgroup("a_task_that_will_not_go_is_made_to_after_its_grace"),
    ] {
        let mut agent = Agent::start(cgroup).await;
        agent
            .run(agent.shell("trap '' TERM; sleep 1000 & echo $!; while :; do sleep 1000; done"))
            .await;
        let child = agent.first_line().await;
        agent.kill(Some(Duration::from_secs(1000)));
        agent.expect(TaskState::TaskKilling).await;
        // The second KILL shortens the first one's grace, and there is no second TASK_KILLING.
        agent.kill(Some(Duration::from_millis(20)));
        let killed = agent.expect(TaskState::TaskKilled).await;
        assert_eq!(killed.message(), "Command terminated with signal SIGKILL");
        gone(&child).await;
    }
}

#[tokio::test]
async fn what_a_task_leaves_behind_ends_with_it() {
    for cgroup in [None, cgroup("what_a_task_leaves_behind_ends_with_it")] {
        let in_cgroup = cgroup.is_some();
        let mut agent = Agent::start(cgroup).await;
        // Only a cgroup holds what has left the session.
        let leaving = if in_cgroup { "setsid " } else { "" };
        agent
            .run(agent.shell(&format!("{leaving}sleep 1000 & echo $!")))
            .await;
        agent.expect(TaskState::TaskFinished).await;
        gone(&agent.first_line().await).await;
    }
}

#[tokio::test]
async fn a_task_that_runs_too_long_fails_without_a_word_of_killing() {
    let mut agent = Agent::start(cgroup(
        "a_task_that_runs_too_long_fails_without_a_word_of_killing",
    ))
    .await;
    let mut task = agent.shell("sleep 1000");
    task.max_completion_time = Some(DurationInfo {
        nanoseconds: 20_000_000,
    });
    agent.run(task).await;
    let failed = agent.expect(TaskState::TaskFailed).await;
    assert_eq!(reason(&failed), Some(Reason::MaxCompletionTimeReached));
}

#[tokio::test]
async fn a_task_that_outgrows_its_memory_fails_with_the_figures_and_leaves_no_cgroup() {
    let test = "a_task_that_outgrows_its_memory_fails_with_the_figures_and_leaves_no_cgroup";
    let Some(cgroup) = cgroup(test) else { return };
    let mut agent = Agent::start(Some(cgroup.clone())).await;
    // A line that long tail must hold as a whole.
    let running = agent
        .run(agent.shell("head -c 300M /dev/zero | tail > /dev/null"))
        .await;
    assert_eq!(running.message, None);
    let failed = agent.expect(TaskState::TaskFailed).await;
    assert_eq!(
        reason(&failed),
        Some(Reason::ContainerLimitationMemory),
        "{:?}",
        failed.message
    );
    assert_eq!(
        failed.message(),
        "memory limit 32 MiB reached (peak 32 MiB)"
    );
    let resources = failed.limitation.unwrap().resources;
    assert_eq!(
        (
            resources[0].name.as_str(),
            resources[0].scalar.unwrap().value
        ),
        ("mem", 32.0)
    );
    let usage = failed.usage.unwrap();
    assert_eq!(usage.memory_limit_bytes, Some(32 << 20));
    assert_eq!(usage.memory_peak_bytes, Some(32 << 20));
    assert!(usage.cpu_time_ns.is_some_and(|time| time > 0));

    let group = Path::new(V1)
        .join("memory")
        .join(cgroup)
        .join("container-1");
    while group.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_task_is_in_its_cgroup_from_its_first_instruction_on() {
    let Some(cgroup) = cgroup("a_task_is_in_its_cgroup_from_its_first_instruction_on") else {
        return;
    };
    let mut agent = Agent::start(Some(cgroup.clone())).await;
    agent
        .run(agent.task(&["/bin/cat", "/proc/self/cgroup"]))
        .await;
    agent.expect(TaskState::TaskFinished).await;
    let text = fs::read_to_string(agent.file("stdout")).unwrap();
    for controller in ["memory", "cpu", "pids", "freezer"] {
        let line = text
            .lines()
            .find(|line| line.split(':').nth(1) == Some(controller))
            .unwrap();
        assert!(line.ends_with(&format!(":/{cgroup}/container-1")), "{line}");
    }
}

#[tokio::test]
async fn at_shutdown_every_task_is_killed_and_reported_and_the_executor_ends() {
    let mut agent = Agent::start(cgroup(
        "at_shutdown_every_task_is_killed_and_reported_and_the_executor_ends",
    ))
    .await;
    agent.run(agent.shell("echo $$; exec sleep 1000")).await;
    let pid = agent.first_line().await;
    agent.send(event::Type::Shutdown, |_| ());
    agent.expect(TaskState::TaskKilling).await;
    agent.expect(TaskState::TaskKilled).await;
    assert!(agent.executor.wait().await.unwrap().success());
    gone(&pid).await;
}

#[tokio::test]
async fn without_its_agent_the_executor_ends_and_takes_its_tasks_along() {
    let mut agent = Agent::start(cgroup(
        "without_its_agent_the_executor_ends_and_takes_its_tasks_along",
    ))
    .await;
    agent
        .run(agent.shell("trap '' TERM; echo $$; while :; do sleep 1000; done"))
        .await;
    let pid = agent.first_line().await;
    // The stream ends when its sender is dropped.
    agent.stream = mpsc::unbounded_channel().0;
    assert!(agent.executor.wait().await.unwrap().success());
    gone(&pid).await;
}
