//! `tepui ps`: the tasks, where they run and why they ended.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use crate::client::{self, Client, MasterAddress};
use crate::{progress, table};

#[derive(Args, Debug)]
pub(crate) struct Ps {
    #[command(flatten)]
    master: MasterAddress,
    /// Ended tasks too
    #[arg(long, short)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Ps {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let state =
            client::block_on(async { Client::new(&self.master)?.operator("GET_STATE").await })?;
        let tasks = rows(&state["get_state"], self.all);
        if self.json {
            table::json(&Value::Array(tasks));
            return Ok(ExitCode::SUCCESS);
        }
        let cell = |task: &Value, key: &str| client::text(task, &[key]).to_owned();
        let rows: Vec<Vec<String>> = tasks
            .iter()
            .map(|task| {
                vec![
                    cell(task, "id"),
                    cell(task, "state"),
                    cell(task, "framework"),
                    cell(task, "host"),
                    cell(task, "cpus"),
                    cell(task, "mem"),
                    message(task),
                ]
            })
            .collect();
        table::print(
            &[
                "TASK",
                "STATE",
                "FRAMEWORK",
                "HOST",
                "CPUS",
                "MEM",
                "MESSAGE",
            ],
            &rows,
        );
        Ok(ExitCode::SUCCESS)
    }
}

/// The first line of what its last status says, or else how far it is.
fn message(task: &Value) -> String {
    let progress = &task["progress"];
    match client::text(task, &["message"]).lines().next() {
        None | Some("") => progress::told(
            progress["fraction"].as_f64(),
            client::text(progress, &["message"]),
        ),
        Some(line) => line.to_owned(),
    }
}

fn rows(state: &Value, all: bool) -> Vec<Value> {
    let mut frameworks: BTreeMap<&str, &str> = BTreeMap::new();
    for list in ["frameworks", "completed_frameworks"] {
        for framework in client::items(&state["get_frameworks"][list]) {
            let info = &framework["framework_info"];
            frameworks.insert(
                client::text(info, &["id", "value"]),
                client::text(info, &["name"]),
            );
        }
    }
    let mut hosts: BTreeMap<&str, &str> = BTreeMap::new();
    for agent in client::items(&state["get_agents"]["agents"]) {
        let info = &agent["agent_info"];
        hosts.insert(
            client::text(info, &["id", "value"]),
            client::text(info, &["hostname"]),
        );
    }
    let lists: &[&str] = if all {
        &["tasks", "unreachable_tasks", "completed_tasks"]
    } else {
        &["tasks", "unreachable_tasks"]
    };
    let mut rows = Vec::new();
    for list in lists {
        for task in client::items(&state["get_tasks"][*list]) {
            let ended = matches!(
                client::text(task, &["state"]),
                "TASK_FINISHED"
                    | "TASK_FAILED"
                    | "TASK_KILLED"
                    | "TASK_ERROR"
                    | "TASK_LOST"
                    | "TASK_DROPPED"
                    | "TASK_GONE"
                    | "TASK_GONE_BY_OPERATOR"
            );
            if ended && !all {
                continue;
            }
            let framework = client::text(task, &["framework_id", "value"]);
            let agent = client::text(task, &["agent_id", "value"]);
            let last = client::items(&task["statuses"])
                .last()
                .cloned()
                .unwrap_or_default();
            let amount = |name: &str| -> String {
                let of_that_name = client::items(&task["resources"])
                    .filter(|one| client::text(one, &["name"]) == name);
                of_that_name
                    .filter_map(|one| one["scalar"]["value"].as_f64())
                    .sum::<f64>()
                    .to_string()
            };
            rows.push(json!({
                "id": client::text(task, &["task_id", "value"]),
                "name": task["name"],
                "state": task["state"],
                "framework": frameworks.get(framework).copied().unwrap_or(framework),
                "framework_id": framework,
                "agent_id": agent,
                "host": hosts.get(agent).copied().unwrap_or(agent),
                "cpus": amount("cpus"),
                "mem": amount("mem"),
                "reason": last["reason"],
                "message": client::text(&last, &["message"]),
                "progress": last["usage"]["progress"],
                "timestamp": last["timestamp"],
            }));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::{message, rows};
    use serde_json::json;

    #[test]
    fn ended_tasks_are_listed_only_when_asked_for() {
        let state = json!({
            "get_frameworks": { "frameworks": [{ "framework_info": { "id": { "value": "f" }, "name": "web" } }] },
            "get_agents": { "agents": [{ "agent_info": { "id": { "value": "a" }, "hostname": "h" } }] },
            "get_tasks": {
                "tasks": [{ "task_id": { "value": "t1" }, "framework_id": { "value": "f" }, "agent_id": { "value": "a" },
                            "state": "TASK_RUNNING", "resources": [{ "name": "cpus", "scalar": { "value": 0.5 } }] }],
                "completed_tasks": [{ "task_id": { "value": "t2" }, "state": "TASK_FAILED",
                                      "statuses": [{ "state": "TASK_RUNNING" }, { "message": "memory limit" }] }],
            },
        });
        let live = rows(&state, false);
        assert_eq!(live.len(), 1);
        assert_eq!(live[0]["framework"], "web");
        assert_eq!(live[0]["host"], "h");
        assert_eq!(live[0]["cpus"], "0.5");
        let all = rows(&state, true);
        assert_eq!(all.len(), 2);
        assert_eq!(all[1]["message"], "memory limit");
        assert_eq!(message(&all[1]), "memory limit");
        let running =
            json!({ "message": "", "progress": { "fraction": 0.5, "message": "reading" } });
        assert_eq!(message(&running), "50 %: reading");
        assert_eq!(message(&live[0]), "");
    }
}
