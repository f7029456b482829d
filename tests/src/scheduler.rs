//! A scheduler scripted by the test, in JSON over plain HTTP.

use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::{Response, Stream, request};

/// A subscribed framework.
#[derive(Debug)]
pub struct Scheduler {
    master: String,
    pub framework_id: String,
    pub stream_id: String,
    events: Receiver<Value>,
    /// Events read while looking for another kind.
    passed: Vec<Value>,
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
        let mut stream = Stream::open(
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
        let (sender, events) = mpsc::channel();
        std::thread::spawn(move || {
            while let Ok(Some(event)) = stream.record() {
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Self {
            master: master.to_owned(),
            framework_id: String::new(),
            stream_id,
            events,
            passed: Vec::new(),
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
        if let Some(at) = self.passed.iter().position(|event| event["type"] == kind) {
            return Some(self.passed.remove(at));
        }
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left).ok()?;
            if event["type"] == kind {
                return Some(event);
            }
            if event["type"] != "HEARTBEAT" {
                self.passed.push(event);
            }
        }
    }

    pub fn expect(&mut self, kind: &str) -> Value {
        let event = self.next(kind, Duration::from_secs(30));
        event.unwrap_or_else(|| panic!("no {kind} within 30 s; seen: {:?}", self.passed))
    }

    /// The first offer of the next OFFERS event.
    pub fn offer(&mut self) -> Value {
        self.expect("OFFERS")["offers"]["offers"][0].clone()
    }

    /// Launches tasks on an offer.
    pub fn launch(&self, offer: &Value, tasks: &[Value]) -> Response {
        self.call(json!({ "type": "ACCEPT", "accept": {
            "offer_ids": [offer["id"]],
            "operations": [{ "type": "LAUNCH", "launch": { "task_infos": tasks } }],
        }}))
    }

    /// A command task of 0.1 cpus and 32 MB for that offer.
    pub fn task(id: &str, offer: &Value, command: &str) -> Value {
        json!({
            "name": id, "task_id": { "value": id }, "agent_id": offer["agent_id"],
            "command": { "value": command },
            "resources": [
                { "name": "cpus", "type": "SCALAR", "scalar": { "value": 0.1 } },
                { "name": "mem", "type": "SCALAR", "scalar": { "value": 32 } },
            ],
        })
    }

    /// The next status, acknowledged if it has a uuid.
    pub fn status(&mut self) -> Value {
        let status = self.expect("UPDATE")["update"]["status"].clone();
        if status.get("uuid").is_some() {
            let acknowledged = self.call(json!({ "type": "ACKNOWLEDGE", "acknowledge": {
                "agent_id": status["agent_id"], "task_id": status["task_id"], "uuid": status["uuid"],
            }}));
            assert_eq!(acknowledged.status, 202);
        }
        status
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
