//! Who holds what: `GET /api/v1/tepui/holdings`, and its short form among the other figures of an agent.

use std::collections::BTreeMap;

use serde::Serialize;
use tepui_api::ext::Holding;
use tepui_api::ext::holding::Kind;
use tepui_master_core::{AgentRecord, Inventory, View};

use crate::http::Parameters;
use crate::shared::{Refusal, Shared};

/// One thing on one agent.
#[derive(Serialize)]
struct Held<'a> {
    kind: &'static str,
    name: &'a str,
    /// Unset while it is being counted.
    bytes: Option<u64>,
    roles: &'a [String],
    agent_id: &'a str,
    hostname: &'a str,
    /// `ip:port` of the agent's own HTTP endpoint.
    endpoint: &'a str,
}

impl<'a> Held<'a> {
    fn new(agent: &'a AgentRecord, holding: &'a Holding) -> Self {
        Self {
            kind: holding.kind().as_str_name(),
            name: &holding.name,
            bytes: holding.bytes,
            roles: &holding.roles,
            agent_id: agent.id.as_str(),
            hostname: &agent.info.hostname,
            endpoint: &agent.endpoint,
        }
    }
}

/// All that agents hold that can be reached; with `sha256`, an artifact and what was compiled of it; with `dataset`, a
/// data set.
pub(crate) fn list(_: &Shared, view: &View, parameters: &Parameters) -> Result<Vec<u8>, Refusal> {
    let held: Vec<Held<'_>> = match (parameters.get("sha256"), parameters.get("dataset")) {
        (Some(_), Some(_)) => {
            let message = "Expecting one of 'sha256' and 'dataset', or neither";
            return Err(Refusal::bad_request(message));
        }
        (Some(sha256), None) => {
            let sha256 = sha256.to_ascii_lowercase();
            let kinds = [Kind::Artifact, Kind::Compiled].into_iter();
            let holders = kinds.flat_map(|kind| view.holders(kind, &sha256));
            holders
                .map(|(agent, held)| Held::new(agent, held))
                .collect()
        }
        (None, Some(name)) => {
            let holders = view.holders(Kind::Dataset, name).into_iter();
            holders
                .map(|(agent, held)| Held::new(agent, held))
                .collect()
        }
        (None, None) => {
            let agents = view.agents.values().filter(|agent| agent.connected);
            agents
                .flat_map(|agent| agent.inventory.iter().map(|held| Held::new(agent, held)))
                .collect()
        }
    };
    serde_json::to_vec(&serde_json::json!({ "holdings": held }))
        .map_err(|error| Refusal::internal(error.to_string()))
}

/// How many there are of a kind, and their bytes together.
#[derive(Debug, Default, Serialize)]
struct Sum {
    count: u64,
    bytes: u64,
}

/// What an agent holds, by kind; its data sets one by one.
#[derive(Debug, Serialize)]
pub(crate) struct Summary<'a> {
    sums: BTreeMap<&'static str, Sum>,
    datasets: BTreeMap<&'a str, Option<u64>>,
}

impl<'a> Summary<'a> {
    pub(crate) fn of(inventory: &'a Inventory) -> Self {
        let mut sums: BTreeMap<&'static str, Sum> = BTreeMap::new();
        let mut datasets = BTreeMap::new();
        for holding in inventory.iter() {
            let sum = sums.entry(holding.kind().as_str_name()).or_default();
            sum.count += 1;
            sum.bytes += holding.bytes();
            if holding.kind() == Kind::Dataset {
                datasets.insert(holding.name.as_str(), holding.bytes);
            }
        }
        Self { sums, datasets }
    }
}
