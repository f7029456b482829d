//! A scheduler scripted by the test, in JSON over plain HTTP.

use std::time::Duration;

use serde_json::{Value, json};

use crate::events::Events;
use crate::http::{Response, Stream, request};

/// A subscribed framework.
#[derive(Debug)]
pub struct Scheduler {
    master: String,
    pub framework_id: String,
    pub stream_id: String,
    events: Events,
}

impl Scheduler {
    pub fn subscribe(master: &str, info: Value) -> Self {
        Self::subscribe_with(master, info, json!({}))
    }

    /// As [`Scheduler::subscribe`], with further fields of the call, such as `suppressed_roles`.
    pub fn subscribe_with(master: &str, info: Value, more: Value) -> Self {
        let mut scheduler = Self::open(master, info, more);
        let subscribed = scheduler.expect("SUBSCRIBED");
        scheduler.framework_id = subscribed["subscribed"]["framework_id"]["value"]
            .as_str()
            .unwrap()
            .to_owned();
        scheduler
    }

    /// The sentence with which a framework is refused.
    pub fn refused(master: &str, info: Value) -> String {
        let error = Self::open(master, info, json!({})).expect("ERROR");
        error["error"]["message"].as_str().unwrap().to_owned()
    }

    fn open(master: &str, mut info: Value, mut more: Value) -> Self {
        let fields = info.as_object_mut().expect("a FrameworkInfo is an object");
        fields.entry("user").or_insert_with(|| json!("root"));
        fields.entry("name").or_insert_with(|| json!("test"));
        more["framework_info"] = info;
        let mut call = json!({ "type": "SUBSCRIBE", "subscribe": more });
        if let Some(id) = call["subscribe"]["framework_info"].get("id").cloned() {
            call["framework_id"] = id;
        }
        let headers = [
            ("Content-Type", "application/json"),
            ("Accept", "application/json"),
        ];
        let stream = Stream::open(
            master,
            "/api/v1/scheduler",
            &headers,
            call.to_string().as_bytes(),
        )
        .unwrap();
        assert_eq!(stream.response.status, 200);
        let stream_id = stream
            .response
            .header("mesos-stream-id")
            .expect("a stream has an id")
            .to_owned();
        Self {
            master: master.to_owned(),
            framework_id: String::new(),
            stream_id,
            events: Events::read(stream),
        }
    }

    /// Sends a call of this framework; `call` lacks only the framework's id.
    pub fn call(&self, mut call: Value) -> Response {
        call["framework_id"] = json!({ "value": self.framework_id });
        let headers = [
            ("Content-Type", "application/json"),
            ("Mesos-Stream-Id", self.stream_id.as_str()),
        ];
        request(
            &self.master,
            "POST",
            "/api/v1/scheduler",
            &headers,
            call.to_string().as_bytes(),
        )
        .unwrap()
    }

    /// The next event of a type, or `None` if the time is over or the stream has ended. Others are kept for later.
    pub fn next(&mut self, kind: &str, patience: Duration) -> Option<Value> {
        self.events.next(kind, patience)
    }

    pub fn expect(&mut self, kind: &str) -> Value {
        self.events.expect(kind)
    }

    /// The first offer of the next OFFERS event.
    pub fn offer(&mut self) -> Value {
        self.expect("OFFERS")["offers"]["offers"][0].clone()
    }

    /// Launches tasks on an offer.
    pub fn launch(&self, offer: &Value, tasks: &[Value]) -> Response {
        let launch = json!({ "type": "LAUNCH", "launch": { "task_infos": tasks } });
        self.call(json!({ "type": "ACCEPT", "accept": {
            "offer_ids": [offer["id"]],
            "operations": [launch],
        }}))
    }

    /// Launches a task group on an offer.
    pub fn launch_group(&self, offer: &Value, executor: &Value, tasks: &[Value]) -> Response {
        let group = json!({ "executor": executor, "task_group": { "tasks": tasks } });
        self.accept(
            offer,
            json!({ "type": "LAUNCH_GROUP", "launch_group": group }),
        )
    }

    /// Carries one operation out on an offer; what it leaves over is offered again at once.
    pub fn accept(&self, offer: &Value, operation: Value) -> Response {
        self.call(json!({ "type": "ACCEPT", "accept": {
            "offer_ids": [offer["id"]],
            "operations": [operation],
            "filters": { "refuse_seconds": 0 },
        }}))
    }

    pub fn kill(&self, task: &str) -> Response {
        self.call(json!({ "type": "KILL", "kill": { "task_id": { "value": task } } }))
    }

    /// The executor of a task group, with the least an agent gives one.
    pub fn default_executor(&self, id: &str) -> Value {
        json!({
            "executor_id": { "value": id },
            "framework_id": { "value": self.framework_id },
            "type": "DEFAULT",
            "resources": [scalar("cpus", 0.1), scalar("mem", 32.0), scalar("disk", 8.0)],
        })
    }

    /// A framework's own executor that runs a shell command.
    pub fn custom_executor(&self, id: &str, command: &str) -> Value {
        json!({
            "executor_id": { "value": id },
            "framework_id": { "value": self.framework_id },
            "type": "CUSTOM",
            "command": { "value": command },
            "resources": [scalar("cpus", 0.1), scalar("mem", 32.0), scalar("disk", 8.0)],
        })
    }

    /// A command task of 0.1 cpus and 32 MB for that offer.
    pub fn task(id: &str, offer: &Value, command: &str) -> Value {
        json!({
            "name": id, "task_id": { "value": id }, "agent_id": offer["agent_id"],
            "command": { "value": command },
            "resources": [scalar("cpus", 0.1), scalar("mem", 32.0)],
        })
    }

    /// A task of 0.1 cpus and 32 MB for a framework's own executor.
    pub fn executor_task(id: &str, offer: &Value, executor: &Value) -> Value {
        let mut task = Self::task(id, offer, "");
        if let Some(fields) = task.as_object_mut() {
            fields.remove("command");
        }
        task["executor"] = executor.clone();
        task
    }

    /// A command task with URIs for that offer.
    pub fn fetching(id: &str, offer: &Value, command: &str, uris: &[Value]) -> Value {
        let mut task = Self::task(id, offer, command);
        task["command"]["uris"] = json!(uris);
        task
    }

    /// Launches one command task with URIs on the next offer; its last status.
    pub fn run(&mut self, id: &str, command: &str, uris: &[Value]) -> Value {
        let offer = self.offer();
        self.launch(&offer, &[Self::fetching(id, &offer, command, uris)]);
        self.ended(id)
    }

    /// Reads statuses until the task has ended; its last status.
    pub fn ended(&mut self, id: &str) -> Value {
        loop {
            let status = self.status();
            let state = status["state"].as_str().unwrap();
            let live = ["TASK_STAGING", "TASK_STARTING", "TASK_RUNNING"].contains(&state);
            if status["task_id"]["value"] == id && !live {
                return status;
            }
        }
    }

    /// The next status, acknowledged if it has a uuid.
    pub fn status(&mut self) -> Value {
        let status = self.expect("UPDATE")["update"]["status"].clone();
        self.acknowledge(&status);
        status
    }

    pub fn acknowledge(&self, status: &Value) {
        if status.get("uuid").is_some() {
            let acknowledged = self.call(json!({ "type": "ACKNOWLEDGE", "acknowledge": {
                "agent_id": status["agent_id"], "task_id": status["task_id"], "uuid": status["uuid"],
            }}));
            assert_eq!(acknowledged.status, 202);
        }
    }

    /// Reads statuses until the task is in that state.
    pub fn until(&mut self, task: &str, state: &str) -> Value {
        loop {
            let status = self.status();
            if status["task_id"]["value"] == task && status["state"] == state {
                return status;
            }
        }
    }
}

fn scalar(name: &str, value: f64) -> Value {
    json!({ "name": name, "type": "SCALAR", "scalar": { "value": value } })
}
