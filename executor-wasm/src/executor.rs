//! The process: hears the agent on one thread, runs the tasks on others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tepui_api::v1::framework_info::capability;
use tepui_api::v1::{FrameworkInfo, TaskInfo, TaskState};
use tepui_sdk_executor::{Config, Event, Handle, connect};
use tokio::sync::Notify;

use crate::governor::{Outcome, Progress, Runtime, Settings, TaskHandle};
use crate::report;
use crate::spec::TaskSpec;
use crate::verdict::{Ending, Usage, bare, verdict};

/// Runs as the wasm executor of one framework until the agent ends it or is gone. Reads the environment.
pub fn run() -> anyhow::Result<()> {
    // Nothing here ever needs more rights than it has.
    nix::sys::prctl::set_no_new_privs()?;
    // Each task holds a directory open.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let config = Config::from_env()?;
    let runtime = Runtime::new(&Settings::default())?;
    let control = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    control.block_on(serve(config, &runtime));
    Ok(())
}

async fn serve(config: Config, runtime: &Runtime) {
    let grace = config.shutdown_grace;
    let (handle, mut events) = connect(config);
    let tasks = Tasks {
        alive: Arc::default(),
        handle: handle.clone(),
    };
    let reporting = tokio::spawn(report::serve({
        let alive = Arc::clone(&tasks.alive);
        move || {
            let alive = alive.lock();
            report::lines(alive.iter().map(|(id, task)| (id.as_str(), task)))
        }
    }));
    let mut tells_killing = false;
    let mut agent_is_there = false;
    while let Some(event) = events.next().await {
        match event {
            Event::Subscribed(subscribed) => {
                tells_killing = has_killing_state(&subscribed.framework);
            }
            Event::Launch(task) => tasks.launch(runtime, &task),
            Event::LaunchGroup(group) => {
                for task in &group {
                    tasks.launch(runtime, task);
                }
            }
            // A module has no signals to be warned by, so there is no grace to give.
            Event::Kill { task_id, .. } => tasks.kill(&task_id, tells_killing),
            Event::Shutdown => {
                agent_is_there = true;
                break;
            }
            Event::Disconnected | Event::Message(_) | Event::Error(_) => {}
        }
    }
    tasks.end_all(grace).await;
    reporting.abort();
    if agent_is_there {
        // The agent waits for the last statuses for the grace period; `events` must live for them to be sent.
        handle.drained(grace).await;
    }
    drop(events);
}

fn has_killing_state(framework: &FrameworkInfo) -> bool {
    framework
        .capabilities
        .iter()
        .any(|capability| capability.r#type() == capability::Type::TaskKillingState)
}

#[derive(Default)]
struct Alive {
    tasks: Mutex<HashMap<String, TaskHandle>>,
    empty: Notify,
}

impl Alive {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, TaskHandle>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tasks that have not ended. Statuses are sent under the lock, so that no task's last one is overtaken.
struct Tasks {
    alive: Arc<Alive>,
    handle: Handle,
}

impl Tasks {
    fn launch(&self, runtime: &Runtime, task: &TaskInfo) {
        let task_id = task.task_id.value.clone();
        let mut alive = self.alive.lock();
        if alive.contains_key(&task_id) {
            tracing::warn!(task_id, "a task that runs already was launched again");
            return;
        }
        self.handle.update(bare(&task_id, TaskState::TaskStarting));
        let spec = match TaskSpec::from_task(task) {
            Ok(spec) => spec,
            Err(error) => {
                let outcome = Outcome {
                    ending: Ending::NotLaunched {
                        message: error.to_string(),
                    },
                    refused: None,
                    usage: Usage::default(),
                };
                self.handle.update(verdict(&task_id, &outcome));
                return;
            }
        };
        let report = {
            let alive = Arc::clone(&self.alive);
            let handle = self.handle.clone();
            let task_id = task_id.clone();
            move |progress| match progress {
                Progress::Started => {
                    let _order = alive.lock();
                    handle.update(bare(&task_id, TaskState::TaskRunning));
                }
                Progress::Ended(outcome) => {
                    let mut tasks = alive.lock();
                    tasks.remove(&task_id);
                    handle.update(verdict(&task_id, &outcome));
                    if tasks.is_empty() {
                        alive.empty.notify_waiters();
                    }
                }
            }
        };
        // Its reports wait for the lock, so it is in the map before it can leave it.
        let task = runtime.spawn(spec, report);
        alive.insert(task_id, task);
    }

    fn kill(&self, task_id: &str, tells_killing: bool) {
        let alive = self.alive.lock();
        match alive.get(task_id) {
            Some(task) => {
                if tells_killing {
                    self.handle.update(bare(task_id, TaskState::TaskKilling));
                }
                task.kill();
            }
            // Its last status is under way already.
            None => tracing::debug!(task_id, "a task that is not here is to be killed"),
        }
    }

    async fn end_all(&self, patience: Duration) {
        let emptied = self.alive.empty.notified();
        {
            let tasks = self.alive.lock();
            if tasks.is_empty() {
                return;
            }
            for task in tasks.values() {
                task.kill();
            }
        }
        if tokio::time::timeout(patience, emptied).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use bytes::Bytes;
    use tepui_api::ext::{LaunchPlan, launch_plan};
    use tepui_api::v1::executor::{self, call, event};
    use tepui_api::v1::{TaskId, TaskStatus, framework_info};
    use tepui_api::{proto, recordio};
    use tepui_sdk_executor::Address;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// As little of an agent as an executor can live with: it takes calls one by one.
    struct Agent {
        events: mpsc::UnboundedSender<executor::Event>,
        statuses: mpsc::UnboundedReceiver<TaskStatus>,
    }

    impl Agent {
        fn start(socket: &Path) -> Self {
            let listener = UnixListener::bind(socket).expect("the socket is free");
            let (events, outgoing) = mpsc::unbounded_channel();
            let (incoming, statuses) = mpsc::unbounded_channel();
            let mut outgoing = Some(outgoing);
            tokio::spawn(async move {
                // The first connection is the subscription's.
                while let Ok((stream, _)) = listener.accept().await {
                    match outgoing.take() {
                        Some(outgoing) => drop(tokio::spawn(subscription(stream, outgoing))),
                        None => drop(tokio::spawn(calls(stream, incoming.clone()))),
                    }
                }
            });
            Self { events, statuses }
        }

        fn send(&self, event: executor::Event) {
            self.events.send(event).expect("somebody is subscribed");
        }

        /// The next status, acknowledged.
        async fn status(&mut self) -> (String, TaskState) {
            let status = tokio::time::timeout(PATIENCE, self.statuses.recv())
                .await
                .expect("a status comes in time")
                .expect("the executor lives");
            let state = status.state();
            let task_id = status.task_id.value.clone();
            if state.is_terminal() {
                assert!(status.usage.is_some());
            }
            self.send(executor::Event {
                r#type: Some(event::Type::Acknowledged as i32),
                acknowledged: Some(event::Acknowledged {
                    task_id: status.task_id,
                    uuid: status.uuid.expect("every update has one"),
                }),
                ..executor::Event::default()
            });
            (task_id, state)
        }

        async fn expect(&mut self, task_id: &str, states: &[TaskState]) {
            for state in states {
                assert_eq!(self.status().await, (task_id.to_owned(), *state));
            }
        }
    }

    async fn request(stream: &mut UnixStream) -> Option<(String, Bytes)> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head)
            .expect("a head is text")
            .to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().expect("a number"));
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        Some((head, body.into()))
    }

    async fn subscription(
        mut stream: UnixStream,
        mut events: mpsc::UnboundedReceiver<executor::Event>,
    ) {
        request(&mut stream).await.expect("a request");
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.expect("written");
        while let Some(event) = events.recv().await {
            let record = recordio::encode(&proto::to_vec(&event));
            let size = format!("{:x}\r\n", record.len());
            let chunk = [size.as_bytes(), &record, b"\r\n"].concat();
            if stream.write_all(&chunk).await.is_err() {
                return;
            }
        }
    }

    async fn calls(mut stream: UnixStream, statuses: mpsc::UnboundedSender<TaskStatus>) {
        while let Some((head, body)) = request(&mut stream).await {
            let answer = if head.contains("application/recordio") {
                "415 Unsupported Media Type"
            } else {
                let call: executor::Call = proto::from_bytes(body).expect("a call");
                assert_eq!(call.r#type(), call::Type::Update);
                drop(statuses.send(call.update.expect("it has its content").status));
                "202 Accepted"
            };
            let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn subscribed() -> executor::Event {
        let killing = framework_info::Capability {
            r#type: Some(capability::Type::TaskKillingState as i32),
        };
        executor::Event {
            r#type: Some(event::Type::Subscribed as i32),
            subscribed: Some(event::Subscribed {
                framework_info: FrameworkInfo {
                    capabilities: vec![killing],
                    ..FrameworkInfo::default()
                },
                ..event::Subscribed::default()
            }),
            ..executor::Event::default()
        }
    }

    fn launch(task_id: &str, guest: &str, directory: &Path) -> executor::Event {
        let source =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/guests/{guest}.wat"));
        let compiled: PathBuf = directory.join(guest);
        crate::compile(&source, &compiled, false).expect("it compiles");
        executor::Event {
            r#type: Some(event::Type::Launch as i32),
            launch: Some(event::Launch {
                task: TaskInfo {
                    task_id: TaskId {
                        value: task_id.to_owned(),
                    },
                    plan: Some(LaunchPlan {
                        body: launch_plan::Body::Wasm as i32,
                        sandbox: directory.to_string_lossy().into_owned(),
                        compiled_path: Some(compiled.to_string_lossy().into_owned()),
                        ..LaunchPlan::default()
                    }),
                    ..TaskInfo::default()
                },
            }),
            ..executor::Event::default()
        }
    }

    fn kill(task_id: &str) -> executor::Event {
        executor::Event {
            r#type: Some(event::Type::Kill as i32),
            kill: Some(event::Kill {
                task_id: TaskId {
                    value: task_id.to_owned(),
                },
                kill_policy: None,
            }),
            ..executor::Event::default()
        }
    }

    #[tokio::test]
    async fn tasks_live_and_die_as_the_agent_says() {
        use TaskState::{TaskFailed, TaskKilled, TaskKilling, TaskRunning, TaskStarting};

        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("agent.sock");
        let mut agent = Agent::start(&socket);
        let runtime = Runtime::new(&Settings {
            threads: 1,
            pool_slots: 8,
            ..Settings::default()
        })
        .expect("threads");
        let served = tokio::spawn(async move {
            serve(Config::new("f", "e", Address::Unix(socket)), &runtime).await;
        });
        agent.send(subscribed());

        agent.send(launch("spinner", "spin", directory.path()));
        agent.expect("spinner", &[TaskStarting, TaskRunning]).await;
        agent.send(launch("exiting", "exit_3", directory.path()));
        agent
            .expect("exiting", &[TaskStarting, TaskRunning, TaskFailed])
            .await;
        agent.send(kill("nobody"));
        agent.send(kill("spinner"));
        agent.expect("spinner", &[TaskKilling, TaskKilled]).await;

        let mut unplanned = launch("unplanned", "spin", directory.path());
        if let Some(launch) = &mut unplanned.launch {
            launch.task.plan = None;
        }
        agent.send(unplanned);
        agent.expect("unplanned", &[TaskStarting, TaskFailed]).await;

        agent.send(launch("sleeper", "sleep", directory.path()));
        agent.expect("sleeper", &[TaskStarting, TaskRunning]).await;
        agent.send(executor::Event {
            r#type: Some(event::Type::Shutdown as i32),
            ..executor::Event::default()
        });
        agent.expect("sleeper", &[TaskKilled]).await;
        tokio::time::timeout(PATIENCE, served)
            .await
            .expect("it ends")
            .expect("it does not panic");
    }
}
