//! `tepui agents`: who is in the cluster and what is free there.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use crate::client::{self, Client, MasterAddress};
use crate::table;

#[derive(Args, Debug)]
pub(crate) struct Agents {
    #[command(flatten)]
    master: MasterAddress,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Agents {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let answer =
            client::block_on(async { Client::new(&self.master)?.operator("GET_AGENTS").await })?;
        let agents: Vec<Value> = client::items(&answer["get_agents"]["agents"])
            .map(row)
            .collect();
        if self.json {
            table::json(&Value::Array(agents));
            return Ok(ExitCode::SUCCESS);
        }
        let rows: Vec<Vec<String>> = agents
            .iter()
            .map(|agent| {
                let share = |name: &str| {
                    format!(
                        "{}/{}",
                        number(&agent["used"][name]),
                        number(&agent["total"][name])
                    )
                };
                vec![
                    client::text(agent, &["id"]).to_owned(),
                    client::text(agent, &["hostname"]).to_owned(),
                    client::text(agent, &["state"]).to_owned(),
                    share("cpus"),
                    share("mem"),
                    client::text(agent, &["attributes"]).to_owned(),
                ]
            })
            .collect();
        table::print(
            &["AGENT", "HOST", "STATE", "CPUS", "MEM (MB)", "ATTRIBUTES"],
            &rows,
        );
        Ok(ExitCode::SUCCESS)
    }
}

/// What to make of the agent, in a word.
fn state(agent: &Value) -> &'static str {
    match client::text(agent, &["drain_info", "state"]) {
        "DRAINING" => "draining",
        "DRAINED" => "drained",
        _ if agent["deactivated"] == Value::Bool(true) => "deactivated",
        _ if agent["active"] == Value::Bool(true) => "active",
        _ => "away",
    }
}

fn row(agent: &Value) -> Value {
    let scalars = |list: &Value| -> Value {
        let mut sums = serde_json::Map::new();
        for resource in client::items(list) {
            if let Some(value) = resource["scalar"]["value"].as_f64() {
                let name = client::text(resource, &["name"]).to_owned();
                let sum = sums.get(&name).and_then(Value::as_f64).unwrap_or_default() + value;
                sums.insert(name, json!(sum));
            }
        }
        Value::Object(sums)
    };
    let info = &agent["agent_info"];
    let attributes: Vec<String> = client::items(&info["attributes"])
        .map(|attribute| {
            let name = client::text(attribute, &["name"]);
            let text = client::text(attribute, &["text", "value"]);
            let value = if text.is_empty() {
                number(&attribute["scalar"]["value"])
            } else {
                text.to_owned()
            };
            format!("{name}:{value}")
        })
        .collect();
    json!({
        "state": state(agent),
        "id": info["id"]["value"],
        "hostname": info["hostname"],
        "port": info["port"],
        "active": agent["active"],
        "attributes": attributes.join(";"),
        "total": scalars(&agent["total_resources"]),
        "used": scalars(&agent["allocated_resources"]),
        "offered": scalars(&agent["offered_resources"]),
    })
}

fn number(value: &Value) -> String {
    value.as_f64().unwrap_or_default().to_string()
}
