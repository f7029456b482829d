//! Whole agents: a scripted master over a real link, real processes in place of the executors, and the test itself as
//! the executor behind the real executor API.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use prost::Message;
use tepui_api::ext::launch_plan;
use tepui_api::guest;
use tepui_api::link::{
    Acknowledge, GuestAnswer, GuestRequest, Launch, Registered, ShutdownFramework, Tail, to_agent,
    to_master,
};
use tepui_api::v1::{self, TaskState, executor};
use tepui_api::{proto, recordio};

use crate::testing::{FakeLink, FakeMaster, Reply, TestServer};
use crate::{Config, Running, start};

/// Stands in for the `tepui` binary: executors write down their environment and wait; modules "compile" by copying.
const PROGRAM: &str = r#"#!/bin/sh
PATH=/usr/bin:/bin
case "$1 $2" in
  "compile --print-key") echo '{"plain":"p1","metered":"m1"}' ;;
  "compile --input") cp "$3" "$5" ;;
  "wall ") exit 1 ;;
  *) env > "$MESOS_SANDBOX/new"; mv "$MESOS_SANDBOX/new" "$MESOS_SANDBOX/environment"; exec sleep 600 ;;
esac
"#;

struct Bench {
    /// Its own in each test: agents of the same id would share their cgroups.
    agent: String,
    directory: tempfile::TempDir,
    master: FakeMaster,
    config: Config,
    running: Option<Running>,
}

async fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("program");
    std::fs::write(&program, PROGRAM).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let master = FakeMaster::start().await;
    let config = Config {
        master: master.address.to_string(),
        port: 0,
        hostname: Some("here".to_owned()),
        work_dir: directory.path().join("work"),
        resources: "cpus:4;mem:1024;disk:1024".to_owned(),
        attributes: "rack:a".to_owned(),
        program: Some(program),
        registration_backoff_factor: Duration::from_millis(5),
        ..Config::default()
    };
    Bench {
        agent: format!("m-{}-S0", uuid::Uuid::new_v4().simple()),
        directory,
        master,
        config,
        running: None,
    }
}

impl Bench {
    /// Starts an agent and registers it.
    async fn start(&mut self) -> (FakeLink, tepui_api::link::Register) {
        self.config.cancel = tokio_util::sync::CancellationToken::new();
        self.running = Some(start(self.config.clone()).await.unwrap());
        self.register().await
    }

    async fn register(&mut self) -> (FakeLink, tepui_api::link::Register) {
        let mut link = self.master.link().await;
        let to_master::Body::Register(register) = link.next().await else {
            panic!("the first message registers")
        };
        link.send(to_agent::Body::Registered(Registered {
            agent_id: v1::AgentId {
                value: self.agent.clone(),
            },
            ping_timeout_ms: 60_000,
            drain: None,
            master_id: "master".to_owned(),
            master_hostname: None,
        }));
        (link, register)
    }

    async fn stop(&mut self) {
        self.config.cancel.cancel();
        self.running.take().unwrap().wait().await.unwrap();
    }

    /// Acts as the executor of this name that the agent started.
    async fn executor(&self, framework: &str, executor: &str) -> ScriptedExecutor {
        let base = self.directory.path().join("work/slaves").join(&self.agent);
        let latest = base.join(format!(
            "frameworks/{framework}/executors/{executor}/runs/latest/environment"
        ));
        let text = loop {
            match std::fs::read_to_string(&latest) {
                Ok(text) => break text,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let environment: BTreeMap<String, String> = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        ScriptedExecutor::subscribe(environment).await
    }
}

struct ScriptedExecutor {
    environment: BTreeMap<String, String>,
    client: reqwest::Client,
    events: reqwest::Response,
    decoder: recordio::Decoder,
}

impl ScriptedExecutor {
    async fn subscribe(environment: BTreeMap<String, String>) -> Self {
        let client = reqwest::Client::builder()
            .tls_certs_only(Vec::new())
            .build()
            .unwrap();
        let call = executor::Call {
            subscribe: Some(executor::call::Subscribe::default()),
            ..call(&environment, executor::call::Type::Subscribe)
        };
        let events = post(&client, &environment)
            .body(call.encode_to_vec())
            .send()
            .await
            .unwrap();
        assert_eq!(events.status().as_u16(), 200);
        let mut subscribed = Self {
            environment,
            client,
            events,
            decoder: recordio::Decoder::new(1 << 20),
        };
        assert!(subscribed.next().await.unwrap().subscribed.is_some());
        subscribed
    }

    async fn next(&mut self) -> Option<executor::Event> {
        loop {
            if let Some(record) = self.decoder.next().unwrap() {
                return Some(proto::from_bytes(record).unwrap());
            }
            self.decoder.push(self.events.chunk().await.ok()??);
        }
    }

    async fn launched(&mut self) -> v1::TaskInfo {
        loop {
            if let Some(launch) = self.next().await.expect("the stream stands").launch {
                return launch.task;
            }
        }
    }

    async fn update(&self, task: &str, state: TaskState) {
        let status = v1::TaskStatus {
            task_id: v1::TaskId {
                value: task.to_owned(),
            },
            state: state.into(),
            source: Some(v1::task_status::Source::Executor.into()),
            uuid: Some(uuid::Uuid::new_v4().as_bytes().to_vec().into()),
            ..Default::default()
        };
        let update = executor::Call {
            update: Some(executor::call::Update { status }),
            ..call(&self.environment, executor::call::Type::Update)
        };
        let answer = post(&self.client, &self.environment)
            .body(update.encode_to_vec())
            .send()
            .await
            .unwrap();
        assert_eq!(
            answer.status().as_u16(),
            202,
            "{}",
            answer.text().await.unwrap()
        );
    }
}

fn call(environment: &BTreeMap<String, String>, kind: executor::call::Type) -> executor::Call {
    executor::Call {
        executor_id: v1::ExecutorId {
            value: environment["MESOS_EXECUTOR_ID"].clone(),
        },
        framework_id: v1::FrameworkId {
            value: environment["MESOS_FRAMEWORK_ID"].clone(),
        },
        r#type: Some(kind.into()),
        ..Default::default()
    }
}

fn post(
    client: &reqwest::Client,
    environment: &BTreeMap<String, String>,
) -> reqwest::RequestBuilder {
    client
        .post(format!(
            "http://{}/api/v1/executor",
            environment["MESOS_AGENT_ENDPOINT"]
        ))
        .header("content-type", "application/x-protobuf")
        .header("accept", "application/x-protobuf")
        .header(
            "authorization",
            format!(
                "Bearer {}",
                environment["MESOS_EXECUTOR_AUTHENTICATION_TOKEN"]
            ),
        )
}

fn framework(checkpoint: bool) -> v1::FrameworkInfo {
    v1::FrameworkInfo {
        id: Some(v1::FrameworkId {
            value: "f".to_owned(),
        }),
        name: "tests".to_owned(),
        user: "root".to_owned(),
        checkpoint: Some(checkpoint),
        ..Default::default()
    }
}

fn launch(task: &str, command: v1::CommandInfo, checkpoint: bool) -> to_agent::Body {
    let scalar = |name: &str, value| v1::Resource {
        name: name.to_owned(),
        r#type: v1::value::Type::Scalar.into(),
        scalar: Some(v1::value::Scalar { value }),
        ..Default::default()
    };
    let info = v1::TaskInfo {
        name: task.to_owned(),
        task_id: v1::TaskId {
            value: task.to_owned(),
        },
        resources: vec![scalar("cpus", 0.5), scalar("mem", 32.0)],
        command: Some(command),
        ..Default::default()
    };
    to_agent::Body::Launch(Launch {
        framework: framework(checkpoint),
        tasks: vec![info],
        ..Launch::default()
    })
}

fn command(value: &str) -> v1::CommandInfo {
    v1::CommandInfo {
        value: Some(value.to_owned()),
        ..Default::default()
    }
}

/// The next status, acknowledged.
async fn status(link: &mut FakeLink) -> v1::TaskStatus {
    loop {
        if let to_master::Body::Update(update) = link.next().await {
            link.send(to_agent::Body::Acknowledge(Acknowledge {
                framework_id: update.framework_id,
                task_id: update.status.task_id.clone(),
                uuid: update.status.uuid.clone().unwrap(),
            }));
            return update.status;
        }
    }
}

fn tail(request_id: u64, task: &str) -> to_agent::Body {
    to_agent::Body::Tail(Tail {
        request_id,
        framework_id: v1::FrameworkId {
            value: "f".to_owned(),
        },
        task_id: v1::TaskId {
            value: task.to_owned(),
        },
        path: "stdout".to_owned(),
        offset: None,
        follow: Some(true),
    })
}

fn is_gone(pid: &str) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z')),
        Err(_) => true,
    }
}

#[tokio::test]
async fn an_agent_says_what_it_has() {
    let mut bench = bench().await;
    let (_link, register) = bench.start().await;
    let info = register.agent;
    assert_eq!(info.hostname, "here");
    let names: Vec<&str> = info
        .resources
        .iter()
        .map(|resource| resource.name.as_str())
        .collect();
    for name in ["cpus", "mem", "disk", "ports"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let attributes: Vec<&str> = info
        .attributes
        .iter()
        .map(|attribute| attribute.name.as_str())
        .collect();
    assert_eq!(attributes, ["rack", "tepui_isolation", "tepui_wall"]);
    let address = bench.running.as_ref().unwrap().address;
    assert_eq!(register.endpoint, address.to_string());
    let client = reqwest::Client::builder()
        .tls_certs_only(Vec::new())
        .build()
        .unwrap();
    for path in [
        "/health",
        "/version",
        "/state",
        "/state.json",
        "/slave(1)/state",
    ] {
        let answer = client
            .get(format!("http://{address}{path}"))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{path}");
    }
    let state: serde_json::Value = client
        .get(format!("http://{address}/state"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(state["hostname"], "here");
    let mode = bench
        .running
        .as_ref()
        .unwrap()
        .socket
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    bench.stop().await;
}

#[tokio::test]
async fn a_native_task_goes_from_launch_to_its_end_and_its_output_is_followed() {
    let mut bench = bench().await;
    let (mut link, _) = bench.start().await;
    link.send(launch("t1", command("echo hello"), false));
    link.send(tail(5, "t1"));
    let mut executor = bench.executor("f", "tepui-native").await;
    let task = executor.launched().await;
    let plan = task.plan.unwrap();
    assert_eq!(plan.body, i32::from(launch_plan::Body::Native));
    assert_eq!(plan.arguments, ["/bin/sh", "-c", "echo hello"]);
    executor.update("t1", TaskState::TaskRunning).await;
    let running = status(&mut link).await;
    assert_eq!(running.state, i32::from(TaskState::TaskRunning));
    std::fs::write(PathBuf::from(&plan.sandbox).join("stdout"), "hello\n").unwrap();
    executor.update("t1", TaskState::TaskFinished).await;
    assert_eq!(link.file(5).await, "hello\n");
    bench.stop().await;
}

#[tokio::test]
async fn a_wasm_task_reaches_its_executor_compiled() {
    let mut bench = bench().await;
    let server = TestServer::start().await;
    server.reply("/hello.wasm", Reply::bytes(b"\0asm\x01\0\0\0".to_vec()));
    let (mut link, _) = bench.start().await;
    let uri = v1::command_info::Uri {
        value: server.url("/hello.wasm"),
        ..Default::default()
    };
    link.send(launch(
        "w1",
        v1::CommandInfo {
            uris: vec![uri],
            ..command("hello.wasm a b")
        },
        false,
    ));
    let mut executor = bench.executor("f", "tepui-wasm").await;
    let plan = executor.launched().await.plan.unwrap();
    assert_eq!(plan.body, i32::from(launch_plan::Body::Wasm));
    assert_eq!(plan.arguments, ["hello.wasm", "a", "b"]);
    assert_eq!(
        std::fs::read(plan.compiled_path.unwrap()).unwrap(),
        b"\0asm\x01\0\0\0"
    );
    executor.update("w1", TaskState::TaskFinished).await;
    assert_eq!(
        status(&mut link).await.state,
        i32::from(TaskState::TaskFinished)
    );
    bench.stop().await;
}

#[tokio::test]
async fn a_fetch_that_fails_ends_the_task_with_the_reason() {
    let mut bench = bench().await;
    let server = TestServer::start().await;
    let (mut link, _) = bench.start().await;
    let uri = v1::command_info::Uri {
        value: server.url("/missing"),
        ..Default::default()
    };
    link.send(launch(
        "t",
        v1::CommandInfo {
            uris: vec![uri],
            ..command("true")
        },
        false,
    ));
    let status = status(&mut link).await;
    assert_eq!(status.state, i32::from(TaskState::TaskFailed));
    assert_eq!(
        status.reason,
        Some(v1::task_status::Reason::ContainerLaunchFailed.into())
    );
    assert!(
        status
            .message
            .unwrap()
            .contains("the server answered 404 Not Found")
    );
    bench.stop().await;
}

#[tokio::test]
async fn calls_without_the_executors_token_are_refused() {
    let mut bench = bench().await;
    let (link, _) = bench.start().await;
    link.send(launch("t1", command("true"), false));
    let executor = bench.executor("f", "tepui-native").await;
    let body = call(&executor.environment, executor::call::Type::Subscribe);
    let body = executor::Call {
        subscribe: Some(executor::call::Subscribe::default()),
        ..body
    }
    .encode_to_vec();
    let answer = executor
        .client
        .post(format!(
            "http://{}/api/v1/executor",
            executor.environment["MESOS_AGENT_ENDPOINT"]
        ))
        .header("content-type", "application/x-protobuf")
        .body(body)
        .send()
        .await
        .unwrap();
    assert!(
        (400..500).contains(&answer.status().as_u16()),
        "{}",
        answer.status()
    );
    bench.stop().await;
}

#[tokio::test]
async fn an_agent_that_lost_its_link_comes_back_with_its_tasks() {
    let mut bench = bench().await;
    let (link, first) = bench.start().await;
    link.send(launch("t1", command("sleep 600"), false));
    let mut executor = bench.executor("f", "tepui-native").await;
    executor.launched().await;
    executor.update("t1", TaskState::TaskRunning).await;
    drop(link);
    let (_link, again) = bench.register().await;
    assert_eq!(
        again.agent.id.map(|id| id.value).as_deref(),
        Some(bench.agent.as_str())
    );
    assert_eq!(again.boot_id, first.boot_id);
    assert_eq!(again.tasks.len(), 1);
    bench.stop().await;
}

#[tokio::test]
async fn an_executor_that_dies_takes_its_task_with_it() {
    let mut bench = bench().await;
    let (mut link, _) = bench.start().await;
    link.send(launch("t1", command("sleep 600"), false));
    let mut executor = bench.executor("f", "tepui-native").await;
    executor.launched().await;
    executor.update("t1", TaskState::TaskRunning).await;
    assert_eq!(
        status(&mut link).await.state,
        i32::from(TaskState::TaskRunning)
    );
    let record = std::fs::read_dir(bench.directory.path().join("work/run"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(record.path()).unwrap()).unwrap();
    let pid = i32::try_from(record["pid"].as_i64().unwrap()).unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let failed = status(&mut link).await;
    assert_eq!(failed.state, i32::from(TaskState::TaskFailed));
    assert_eq!(
        failed.reason,
        Some(v1::task_status::Reason::ExecutorTerminated.into())
    );
    bench.stop().await;
}

#[tokio::test]
async fn stopping_the_agent_ends_executors_unless_they_are_checkpointed_and_to_be_kept() {
    for (checkpoint, keep) in [(false, true), (true, false), (true, true)] {
        let mut bench = bench().await;
        bench.config.keep_tasks_at_stop = keep;
        let (mut link, _) = bench.start().await;
        link.send(launch("t1", command("sleep 600"), checkpoint));
        let mut executor = bench.executor("f", "tepui-native").await;
        executor.launched().await;
        executor.update("t1", TaskState::TaskRunning).await;
        status(&mut link).await;
        let record = std::fs::read_dir(bench.directory.path().join("work/run"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        let record: serde_json::Value =
            serde_json::from_slice(&std::fs::read(record.path()).unwrap()).unwrap();
        let pid = record["pid"].to_string();
        bench.stop().await;
        assert_eq!(is_gone(&pid), !(checkpoint && keep));
        if checkpoint && keep {
            let first = std::mem::take(&mut executor.environment);
            // The next agent listens elsewhere; an executor that really waits finds it by its socket.
            let (link, _) = {
                bench.config.executor_reregistration_timeout = Duration::from_secs(15);
                bench.config.cancel = tokio_util::sync::CancellationToken::new();
                let running = start(bench.config.clone()).await.unwrap();
                let mut environment = first;
                environment.insert(
                    "MESOS_AGENT_ENDPOINT".to_owned(),
                    running.address.to_string(),
                );
                bench.running = Some(running);
                executor = ScriptedExecutor::subscribe(environment).await;
                bench.register().await
            };
            assert!(!is_gone(&pid));
            link.send(to_agent::Body::ShutdownFramework(ShutdownFramework {
                framework_id: v1::FrameworkId {
                    value: "f".to_owned(),
                },
            }));
            loop {
                let event = executor.next().await.expect("a SHUTDOWN comes");
                if event.r#type == Some(executor::event::Type::Shutdown.into()) {
                    break;
                }
            }
            while !is_gone(&pid) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            bench.stop().await;
        }
    }
}

impl ScriptedExecutor {
    /// A guest's question in the name of a task: status and body of the answer.
    fn guest_asks(
        &self,
        task: &str,
        token: &str,
    ) -> impl Future<Output = (u16, bytes::Bytes)> + use<> {
        let call = guest::Call {
            framework_id: self.environment["MESOS_FRAMEWORK_ID"].as_str().into(),
            executor_id: self.environment["MESOS_EXECUTOR_ID"].as_str().into(),
            task_id: task.into(),
            request: guest::Request {
                body: Some(guest::request::Body::Get(guest::Get {
                    key: "key".to_owned(),
                })),
            },
        };
        let asking = self
            .client
            .post(format!(
                "http://{}/api/v1/guest",
                self.environment["MESOS_AGENT_ENDPOINT"]
            ))
            .header("content-type", "application/x-protobuf")
            .header("authorization", format!("Bearer {token}"))
            .body(call.encode_to_vec());
        async move {
            let answer = asking.send().await.unwrap();
            (answer.status().as_u16(), answer.bytes().await.unwrap())
        }
    }
}

async fn guest_request(link: &mut FakeLink) -> GuestRequest {
    loop {
        if let to_master::Body::GuestRequest(request) = link.next().await {
            return request;
        }
    }
}

#[tokio::test]
async fn a_guest_asks_the_master_by_its_agent_and_hears_at_once_if_there_is_none() {
    let mut bench = bench().await;
    let (mut link, _) = bench.start().await;
    let mut launched = launch("a", command("sleep 1000"), false);
    if let to_agent::Body::Launch(launch) = &mut launched {
        launch.tasks[0].labels = Some(v1::Labels {
            labels: vec![v1::Label {
                key: "tepui.job".to_owned(),
                value: Some("shop".to_owned()),
            }],
        });
    }
    link.send(launched);
    let mut executor = bench.executor("f", "tepui-native").await;
    assert_eq!(executor.launched().await.task_id.value, "a");
    executor.update("a", TaskState::TaskRunning).await;
    let token = executor.environment["MESOS_EXECUTOR_AUTHENTICATION_TOKEN"].clone();
    assert_eq!(executor.guest_asks("b", &token).await.0, 403);
    assert_eq!(executor.guest_asks("a", "wrong").await.0, 403);

    let asking = tokio::spawn(executor.guest_asks("a", &token));
    let request = guest_request(&mut link).await;
    assert_eq!(
        (
            request.role.as_str(),
            request.job.as_deref(),
            request.task_id.value.as_str()
        ),
        ("*", Some("shop"), "a")
    );
    let answer = guest::Answer {
        body: Some(guest::answer::Body::Value(guest::Value::default())),
    };
    link.send(to_agent::Body::GuestAnswer(GuestAnswer {
        request_id: request.request_id,
        answer: answer.clone(),
    }));
    let (status, body) = asking.await.unwrap();
    assert_eq!(
        (status, proto::from_bytes(body).as_ref()),
        (200, Ok(&answer))
    );

    // A question that is with a master whose link breaks is not answered, and none is asked until there is another.
    let asking = tokio::spawn(executor.guest_asks("a", &token));
    guest_request(&mut link).await;
    bench.master.refuse(true);
    drop(link);
    let unavailable = |(status, body): (u16, bytes::Bytes)| {
        assert_eq!(status, 200);
        let answer: guest::Answer = proto::from_bytes(body).unwrap();
        match answer.body {
            Some(guest::answer::Body::Failure(failure)) => {
                assert_eq!(failure.code(), guest::failure::Code::Unavailable);
                failure.message
            }
            other => panic!("{other:?}"),
        }
    };
    let lost = unavailable(asking.await.unwrap());
    assert!(lost.contains("is not known"), "{lost}");
    let message = unavailable(executor.guest_asks("a", &token).await);
    assert!(message.contains("no link"), "{message}");
    bench.stop().await;
}
