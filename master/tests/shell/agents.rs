//! Agents on their links: registration, launches, files.

use bytes::Bytes;
use tepui_api::link::{self, to_agent, to_master};
use tepui_api::v1::scheduler::{Call, call, event};
use tepui_api::{json, v1};

use crate::support::{
    Connection, FakeAgent, SUBSCRIBE, Subscription, eventually, get, master, operator, send,
};

struct Launched {
    agent: FakeAgent,
    agent_id: v1::AgentId,
    scheduler: Subscription,
}

/// A fake agent that was handed one task named `task`.
async fn launch(at: std::net::SocketAddr) -> Launched {
    let mut scheduler = Subscription::open(at, SUBSCRIBE).await;
    let (mut agent, agent_id) = FakeAgent::register(at).await;
    let offers = scheduler
        .wait_for(event::Type::Offers)
        .await
        .offers
        .unwrap()
        .offers;
    assert_eq!(offers[0].agent_id, agent_id);
    let task = format!(
        r#"{{"name": "task", "task_id": {{"value": "task"}}, "agent_id": {{"value": "{agent_id}"}},
            "resources": [{{"name": "cpus", "type": "SCALAR", "scalar": {{"value": 1}}}},
                          {{"name": "mem", "type": "SCALAR", "scalar": {{"value": 64}}}}],
            "command": {{"value": "echo hello"}}}}"#
    );
    let task: v1::TaskInfo = json::from_slice(task.as_bytes()).unwrap();
    let launch = v1::offer::Operation {
        r#type: Some(v1::offer::operation::Type::Launch.into()),
        launch: Some(v1::offer::operation::Launch {
            task_infos: vec![task],
        }),
        ..Default::default()
    };
    let accept = Call {
        r#type: Some(call::Type::Accept.into()),
        accept: Some(call::Accept {
            offer_ids: vec![offers[0].id.clone()],
            operations: vec![launch],
            ..Default::default()
        }),
        ..Default::default()
    };
    let response = scheduler.call(at, accept).await;
    assert_eq!(response.status, 202, "{}", response.text());
    let launch = agent.wait_for(|body| match body {
        to_agent::Body::Launch(launch) => Some(launch),
        _ => None,
    });
    let launch = launch.await;
    assert_eq!(launch.tasks.len(), 1);
    assert_eq!(launch.tasks[0].task_id.value, "task");
    assert_eq!(launch.framework.id.as_ref(), Some(&scheduler.framework_id));
    Launched {
        agent,
        agent_id,
        scheduler,
    }
}

impl Launched {
    async fn report(&self, state: v1::TaskState, uuid: u8) {
        let status = v1::TaskStatus::new(
            v1::TaskId {
                value: "task".to_owned(),
            },
            state,
        )
        .with_source(v1::task_status::Source::Executor)
        .with_agent(self.agent_id.clone())
        .with_timestamp(1.5)
        .with_uuid(vec![uuid; 16]);
        let framework_id = self.scheduler.framework_id.clone();
        let update = link::StatusUpdate {
            framework_id,
            status,
            latest_state: state.into(),
        };
        self.agent.say(to_master::Body::Update(update)).await;
    }

    async fn tail(&mut self) -> link::Tail {
        let tail = self.agent.wait_for(|body| match body {
            to_agent::Body::Tail(tail) => Some(tail),
            _ => None,
        });
        tail.await
    }

    async fn chunk(&self, request_id: u64, data: &'static str, last: bool) {
        let data = Some(Bytes::from_static(data.as_bytes()));
        let chunk = link::FileChunk {
            request_id,
            data,
            last: Some(last),
            ..Default::default()
        };
        self.agent.say(to_master::Body::FileChunk(chunk)).await;
    }
}

#[tokio::test]
async fn an_agent_registers_gets_a_launch_and_its_updates_reach_the_scheduler_and_the_reads() {
    let master = master().await;
    let at = master.running.address();
    let mut launched = launch(at).await;
    launched.report(v1::TaskState::TaskRunning, 1).await;
    let update = launched
        .scheduler
        .wait_for(event::Type::Update)
        .await
        .update
        .unwrap();
    assert_eq!(update.status.state(), v1::TaskState::TaskRunning);
    assert_eq!(update.status.uuid(), [1; 16]);
    let acknowledge = Call {
        r#type: Some(call::Type::Acknowledge.into()),
        acknowledge: Some(call::Acknowledge {
            agent_id: launched.agent_id.clone(),
            task_id: update.status.task_id.clone(),
            uuid: Bytes::from(vec![1; 16]),
        }),
        ..Default::default()
    };
    assert_eq!(launched.scheduler.call(at, acknowledge).await.status, 202);
    let acknowledged = launched.agent.wait_for(|body| match body {
        to_agent::Body::Acknowledge(acknowledge) => Some(acknowledge),
        _ => None,
    });
    assert_eq!(acknowledged.await.uuid, [1; 16][..]);

    let tasks = operator(at, r#"{"type": "GET_TASKS"}"#)
        .await
        .get_tasks
        .unwrap()
        .tasks;
    assert_eq!(tasks.len(), 1);
    assert_eq!(tasks[0].state(), v1::TaskState::TaskRunning);
    let agents = operator(at, r#"{"type": "GET_AGENTS"}"#)
        .await
        .get_agents
        .unwrap()
        .agents;
    assert_eq!(agents[0].pid(), "slave(1)@127.0.0.1:5051");
    assert!(agents[0].active);

    let state = get(at, "/state.json").await.json();
    assert_eq!(state["activated_slaves"], 1);
    let agent = &state["slaves"][0];
    assert_eq!(agent["id"], launched.agent_id.value.as_str());
    assert_eq!(agent["resources"]["cpus"], 4.0);
    assert_eq!(agent["resources"]["ports"], "[31000-31009]");
    assert_eq!(agent["used_resources"]["mem"], 64.0);
    assert_eq!(agent["attributes"]["rack"], "r1");
    assert_eq!(agent["unreserved_resources_full"][0]["name"], "cpus");
    let task = &state["frameworks"][0]["tasks"][0];
    assert_eq!(
        (&task["id"], &task["state"]),
        (&"task".into(), &"TASK_RUNNING".into())
    );
    assert_eq!(task["slave_id"], launched.agent_id.value.as_str());
    assert_eq!(task["resources"]["cpus"], 1.0);
    assert_eq!(task["statuses"][0]["state"], "TASK_RUNNING");
    assert_eq!(
        get(at, "/tasks?task_id=task").await.json()["tasks"][0]["name"],
        "task"
    );
    assert_eq!(
        get(at, "/tasks?task_id=other").await.json()["tasks"],
        serde_json::json!([])
    );
    assert_eq!(
        get(at, "/slaves?slave_id=other").await.json()["slaves"],
        serde_json::json!([])
    );
    let summary = get(at, "/state-summary").await.json();
    assert_eq!(summary["slaves"][0]["TASK_RUNNING"], 1);
    assert_eq!(
        summary["frameworks"][0]["slave_ids"][0],
        launched.agent_id.value.as_str()
    );
    let roles = get(at, "/roles").await.json();
    let role = roles["roles"]
        .as_array()
        .unwrap()
        .iter()
        .find(|role| role["name"] == "*")
        .unwrap();
    assert_eq!(role["allocated"]["cpus"], 1.0);
    assert_eq!(
        get(at, "/metrics/snapshot").await.json()["master/tasks_running"],
        1.0
    );
    assert_eq!(
        get(at, "/metrics/snapshot").await.json()["master/cpus_used"],
        1.0
    );
}

#[tokio::test]
async fn a_tasks_output_flows_from_its_agent_to_whoever_asks() {
    let master = master().await;
    let at = master.running.address();
    let mut launched = launch(at).await;
    let path = format!(
        "/api/v1/tepui/logs?framework_id={}&task_id=task&path=stderr&offset=3&follow=true",
        launched.scheduler.framework_id
    );
    let mut reader = Connection::open(at, "GET", &path, &[], b"").await;
    let tail = launched.tail().await;
    assert_eq!(
        (tail.path.as_str(), tail.offset(), tail.follow()),
        ("stderr", 3, true)
    );
    assert_eq!(tail.framework_id, launched.scheduler.framework_id);
    launched.chunk(tail.request_id, "first ", false).await;
    assert_eq!(reader.head().await.status, 200);
    assert_eq!(reader.chunk().await.unwrap(), b"first ");
    launched.chunk(tail.request_id, "second", false).await;
    assert_eq!(reader.chunk().await.unwrap(), b"second");
    launched.chunk(tail.request_id, "", true).await;
    assert_eq!(reader.chunk().await, None);
}

#[tokio::test]
async fn a_reader_that_leaves_stops_the_agent_from_reading() {
    let master = master().await;
    let at = master.running.address();
    let mut launched = launch(at).await;
    let mut reader = Connection::open(
        at,
        "GET",
        "/api/v1/tepui/logs?task_id=task&follow=true",
        &[],
        b"",
    )
    .await;
    let tail = launched.tail().await;
    assert_eq!(tail.path, "stdout");
    launched.chunk(tail.request_id, "some", false).await;
    assert_eq!(reader.head().await.status, 200);
    drop(reader);
    let cancelled = launched.agent.wait_for(|body| match body {
        to_agent::Body::CancelFile(cancel) => Some(cancel.request_id),
        _ => None,
    });
    assert_eq!(cancelled.await, tail.request_id);
}

#[tokio::test]
async fn a_reader_is_told_when_there_is_nothing_to_read() {
    let master = master().await;
    let at = master.running.address();
    let missing = get(at, "/api/v1/tepui/logs?task_id=task").await;
    assert_eq!(
        (missing.status, missing.text().as_str()),
        (404, "No framework has a task 'task'")
    );
    assert_eq!(get(at, "/api/v1/tepui/logs").await.status, 400);

    let mut launched = launch(at).await;
    let reader = Connection::open(
        at,
        "GET",
        "/api/v1/tepui/logs?task_id=task&path=none",
        &[],
        b"",
    )
    .await;
    let request_id = launched.tail().await.request_id;
    let failure = link::FileChunk {
        request_id,
        error_status: Some(404),
        error: Some("the sandbox has no file 'none'".to_owned()),
        last: Some(true),
        ..Default::default()
    };
    launched
        .agent
        .say(to_master::Body::FileChunk(failure))
        .await;
    let response = reader.rest("GET").await;
    assert_eq!(
        (response.status, response.text().as_str()),
        (404, "the sandbox has no file 'none'")
    );

    let agent_id = launched.agent_id.clone();
    drop(launched.agent);
    eventually(at, r#"{"type": "GET_AGENTS"}"#, |response| {
        response
            .get_agents
            .unwrap()
            .agents
            .iter()
            .all(|agent| !agent.active)
            .then_some(())
    })
    .await;
    let away = get(at, "/api/v1/tepui/logs?task_id=task").await;
    assert_eq!(away.status, 503);
    assert!(away.text().contains(&agent_id.value), "{}", away.text());
}

#[tokio::test]
async fn a_link_needs_both_directions_and_an_introduction() {
    let master = master().await;
    let at = master.running.address();
    assert_eq!(
        send(at, "POST", "/tepui/v1/agent-link", &[], b"")
            .await
            .status,
        505
    );
    assert_eq!(
        send(at, "GET", "/tepui/v1/agent-link", &[], b"")
            .await
            .status,
        405
    );
    let mut agent = FakeAgent::dial(at).await;
    agent
        .say(to_master::Body::Pong(link::Pong { sequence: 1 }))
        .await;
    assert!(agent.hear().await.is_none(), "the master hangs up");
}

#[tokio::test]
async fn a_reader_that_lags_still_gets_every_byte_once_and_in_order() {
    const PIECE: usize = 256 << 10;
    let content: Bytes = (0..32_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let master = master().await;
    let at = master.running.address();
    let mut launched = launch(at).await;
    let mut reader =
        Some(Connection::open(at, "GET", "/api/v1/tepui/logs?task_id=task", &[], b"").await);
    let mut reading = None;
    let mut offsets = Vec::new();
    let mut request = Some(launched.tail().await);
    while let Some(tail) = request.take() {
        offsets.push(tail.offset());
        let rest = content.slice(usize::try_from(tail.offset()).unwrap()..);
        let mut sent = 0;
        while sent < rest.len() {
            let end = rest.len().min(sent + PIECE);
            let chunk = link::FileChunk {
                request_id: tail.request_id,
                data: Some(rest.slice(sent..end)),
                last: Some(end == rest.len()),
                ..Default::default()
            };
            launched.agent.say(to_master::Body::FileChunk(chunk)).await;
            sent = end;
        }
        // Nothing is read until the master has given up waiting for the reader.
        if let Some(reader) = reader.take() {
            let cancelled = launched.agent.wait_for(|body| match body {
                to_agent::Body::CancelFile(cancel) => Some(cancel.request_id),
                _ => None,
            });
            assert_eq!(cancelled.await, tail.request_id);
            reading = Some(tokio::spawn(reader.rest("GET")));
        }
        let ended = reading.as_mut().expect("the first request was cancelled");
        tokio::select! {
            response = ended => {
                let response = response.unwrap();
                assert_eq!(response.status, 200);
                let received = response.body.len();
                assert!(response.body == content, "{received} of {} bytes", content.len());
            }
            again = launched.tail() => request = Some(again),
        }
    }
    assert!(offsets.len() > 1 && offsets.is_sorted(), "{offsets:?}");
}
