//! Who has an artifact: the master, and the agents that told so.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tepui_api::ext::holding::Kind;
use tepui_api::link::{self, to_agent};
use tepui_fetch::is_digest;
use tepui_master_core::{AgentRecord, LinkKey, View};

use super::{Listed, unknown};
use crate::shared::{Refusal, Shared, wall_ns};

/// How long a token opens an artifact, begun downloads aside.
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// Agents that are named to one who asks.
const MOST_NAMED: usize = 4;

#[derive(Serialize)]
struct Holder {
    id: String,
    hostname: String,
    endpoint: String,
}

/// An artifact's record, if the master has it, and who has the bytes.
pub(super) async fn describe(shared: &Shared, sha256: &str) -> Result<serde_json::Value, Refusal> {
    if !is_digest(sha256) {
        return Err(unknown(sha256));
    }
    let record = shared.artifacts.get(sha256);
    let view = shared.view().await?;
    let agents: Vec<Holder> = holding(&view, sha256)
        .map(|agent| Holder {
            id: agent.id.to_string(),
            hostname: agent.info.hostname.clone(),
            endpoint: address(shared, agent),
        })
        .collect();
    if record.is_none() && agents.is_empty() {
        return Err(unknown(sha256));
    }
    let listed = record
        .as_ref()
        .map(|record| Listed::new(record, &shared.identity));
    let mut description = match listed {
        Some(listed) => serde_json::to_value(listed),
        None => Ok(serde_json::json!({ "sha256": sha256 })),
    }
    .map_err(|error| Refusal::internal(error.to_string()))?;
    description["master"] = record.is_some().into();
    description["agents"] =
        serde_json::to_value(agents).map_err(|error| Refusal::internal(error.to_string()))?;
    Ok(description)
}

fn holding<'a>(view: &'a View, sha256: &str) -> impl Iterator<Item = &'a Arc<AgentRecord>> {
    view.holders(Kind::Artifact, sha256)
        .into_iter()
        .map(|(agent, _)| agent)
}

/// What is told an agent that asks who has it.
pub(crate) async fn answer(shared: Arc<Shared>, asking: LinkKey, asked: link::LocateArtifact) {
    let mut answer = link::ArtifactHolders {
        request_id: asked.request_id,
        ..Default::default()
    };
    if is_digest(&asked.sha256) {
        answer.master = Some(shared.artifacts.get(&asked.sha256).is_some());
        if let Ok(view) = shared.view().await {
            answer.agents = nearest(&shared, &view, asking, &asked.sha256);
        }
        let seconds = u64::try_from(wall_ns()).unwrap_or(0) / 1_000_000_000;
        let expires = seconds + TOKEN_LIFE.as_secs();
        answer.token = Some(shared.artifact_key.token(&asked.sha256, expires));
    }
    shared
        .links
        .tell(asking, to_agent::Body::ArtifactHolders(answer));
}

/// Those in the same zone first, then those in the same region; among equals a different one each time.
fn nearest(shared: &Shared, view: &View, asking: LinkKey, sha256: &str) -> Vec<String> {
    let asker = view
        .agents
        .values()
        .find(|agent| agent.link == Some(asking));
    let place = |agent: &AgentRecord| {
        let domain = agent.info.domain.as_ref()?.fault_domain.as_ref()?;
        Some((domain.region.name.clone(), domain.zone.name.clone()))
    };
    let here = asker.and_then(|asker| place(asker));
    let distance = |agent: &AgentRecord| match (&here, place(agent)) {
        (Some(here), Some(there)) if *here == there => 0,
        (Some(here), Some(there)) if here.0 == there.0 => 1,
        (None, None) => 0,
        _ => 2,
    };
    let others =
        holding(view, sha256).filter(|agent| agent.link.is_some() && agent.link != Some(asking));
    let mut others: Vec<_> = others
        .map(|agent| (distance(agent), uuid::Uuid::new_v4(), agent))
        .collect();
    others.sort_by_key(|(distance, chance, _)| (*distance, *chance));
    let nearest = others.into_iter().take(MOST_NAMED);
    nearest
        .map(|(_, _, agent)| address(shared, agent))
        .collect()
}

/// Where others reach an agent.
fn address(shared: &Shared, agent: &AgentRecord) -> String {
    let linked_from = agent.link.and_then(|link| shared.links.address(link));
    reachable(&agent.endpoint, linked_from)
}

/// An agent that listens everywhere only knows what it calls itself.
fn reachable(endpoint: &str, linked_from: Option<IpAddr>) -> String {
    let Ok(told) = endpoint.parse::<SocketAddr>() else {
        return endpoint.to_owned();
    };
    let ip = match linked_from {
        Some(ip) if told.ip().is_loopback() || told.ip().is_unspecified() => ip,
        _ => told.ip(),
    };
    SocketAddr::new(ip, told.port()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_reached_where_it_listens_or_where_its_link_comes_from() {
        let linked = Some(IpAddr::from([10, 0, 0, 7]));
        let at = reachable;
        assert_eq!(at("10.0.0.9:5051", linked), "10.0.0.9:5051");
        assert_eq!(at("127.0.0.1:5051", linked), "10.0.0.7:5051");
        assert_eq!(at("127.0.0.1:5051", None), "127.0.0.1:5051");
        assert_eq!(at("[::]:5051", linked), "10.0.0.7:5051");
        assert_eq!(at("agent.test:5051", linked), "agent.test:5051");
    }
}
