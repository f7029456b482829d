//! An executor scripted by the test, in JSON over plain HTTP. The process the agent started for it need do nothing:
//! `sleep 1000` will do, and the test speaks in its name.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Cluster, wait_until};
use crate::events::Events;
use crate::http::{Response, Stream, request};

/// Where executors call.
const PATH: &str = "/api/v1/executor";

/// A subscribed executor.
#[derive(Debug)]
pub struct Executor {
    agent: String,
    pub framework_id: String,
    pub executor_id: String,
    events: Events,
}

impl Executor {
    /// Subscribes as soon as the agent knows the executor.
    pub fn subscribe(agent: &str, framework_id: &str, executor_id: &str) -> Self {
        wait_until("the agent to take the subscription", || {
            Self::try_subscribe(agent, framework_id, executor_id, json!({})).ok()
        })
    }

    /// Subscribes with what an executor has left over from an earlier subscription.
    ///
    /// # Errors
    /// With the agent's answer, if that is no stream.
    pub fn try_subscribe(
        agent: &str,
        framework_id: &str,
        executor_id: &str,
        subscribe: Value,
    ) -> Result<Self, Response> {
        let call = json!({
            "type": "SUBSCRIBE",
            "framework_id": { "value": framework_id },
            "executor_id": { "value": executor_id },
            "subscribe": subscribe,
        });
        let headers = [
            ("Content-Type", "application/json"),
            ("Accept", "application/json"),
        ];
        let stream = Stream::open(agent, PATH, &headers, call.to_string().as_bytes()).unwrap();
        if stream.response.status != 200 {
            return Err(stream.response);
        }
        Ok(Self {
            agent: agent.to_owned(),
            framework_id: framework_id.to_owned(),
            executor_id: executor_id.to_owned(),
            events: Events::read(stream.patient()),
        })
    }

    /// Sends a call of this executor; `call` lacks only the ids.
    pub fn call(&self, mut call: Value) -> Response {
        call["framework_id"] = json!({ "value": self.framework_id });
        call["executor_id"] = json!({ "value": self.executor_id });
        let headers = [("Content-Type", "application/json")];
        request(
            &self.agent,
            "POST",
            PATH,
            &headers,
            call.to_string().as_bytes(),
        )
        .unwrap()
    }

    pub fn next(&mut self, kind: &str, patience: Duration) -> Option<Value> {
        self.events.next(kind, patience)
    }

    pub fn expect(&mut self, kind: &str) -> Value {
        self.events.expect(kind)
    }

    /// Whether the agent ends the stream.
    pub fn ends(&mut self) -> bool {
        self.events.end()
    }

    /// A status of a task, complete and with a uuid nobody used before.
    pub fn status(&self, task: &str, state: &str) -> Value {
        json!({
            "task_id": { "value": task },
            "executor_id": { "value": self.executor_id },
            "state": state,
            "source": "SOURCE_EXECUTOR",
            "uuid": new_uuid(),
        })
    }

    /// Reports a status; the answer.
    pub fn send(&self, status: &Value) -> Response {
        self.call(json!({ "type": "UPDATE", "update": { "status": status } }))
    }

    /// Reports a state and reads its acknowledgement.
    pub fn update(&mut self, task: &str, state: &str) {
        let status = self.status(task, state);
        let answer = self.send(&status);
        assert_eq!(answer.status, 202, "{}", answer.text());
        self.acknowledged(&status);
    }

    /// Reads acknowledgements until that of the status comes.
    pub fn acknowledged(&mut self, status: &Value) {
        while self.expect("ACKNOWLEDGED")["acknowledged"]["uuid"] != status["uuid"] {}
    }
}

/// 16 bytes in base64, each time others.
pub fn new_uuid() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // Digits are base64, and an `A` ends on whole bytes.
    format!("{:021}A==", NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Cluster {
    /// A file below the newest sandbox of an executor, or of a task without one, once it is there and not empty.
    pub fn sandboxed(&self, framework_id: &str, executor_id: &str, file: &str) -> String {
        wait_until(file, || {
            let agents = self.folder.path().read_dir().ok()?.flatten();
            agents.into_iter().find_map(|agent| {
                let ids = agent.path().join("slaves").read_dir().ok()?.flatten();
                ids.into_iter().find_map(|id| {
                    let sandbox = id.path().join(format!(
                        "frameworks/{framework_id}/executors/{executor_id}/runs/latest/{file}"
                    ));
                    std::fs::read_to_string(sandbox)
                        .ok()
                        .filter(|text| !text.is_empty())
                })
            })
        })
    }
}
