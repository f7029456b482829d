//! What is explained, as JSON: figures, and for each reason a sentence, how many agents it holds for and some of them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tepui_api::v1::DrainState;
use tepui_master_core::{
    Deactivation, FrameworkKey, FrameworkRecord, FrameworkStanding, Level, Obstacle, Standing,
    Told, View,
};
use tepui_model::{Milli, Quantities, Role};

use crate::explain::Answer;

/// In the order in which they are told of.
pub(crate) type Frameworks = Vec<(FrameworkKey, FrameworkStanding)>;

/// What is said of one agent.
struct Said {
    reason: &'static str,
    /// The same for all agents that it is said of.
    text: String,
    /// Of this agent alone.
    detail: String,
    /// Those with the least are named first.
    distance: f64,
}

pub(crate) fn page(answer: &Answer) -> Value {
    let mut page = Map::new();
    if let Some(path) = &answer.path {
        page.insert(
            "role".to_owned(),
            json!(path.first().map(|level| level.role.as_str())),
        );
        page.insert("path".to_owned(), path_json(path, &answer.view));
    }
    let frameworks = answer.frameworks.iter();
    let frameworks = frameworks.filter_map(|(key, standing)| {
        let record = answer.view.frameworks.get(*key)?;
        Some(framework(answer, *key, record, standing))
    });
    page.insert("frameworks".to_owned(), frameworks.collect());
    if answer.omitted > 0 {
        page.insert("omitted".to_owned(), json!(answer.omitted));
    }
    Value::Object(page)
}

fn framework(
    answer: &Answer,
    key: FrameworkKey,
    record: &FrameworkRecord,
    standing: &FrameworkStanding,
) -> Value {
    let leading = standing
        .roles
        .iter()
        .max_by(|left, right| left.1.share.total_cmp(&right.1.share));
    let roles = answer.parties.iter().enumerate();
    let roles = roles.filter(|(_, party)| party.0 == key);
    let roles = roles.filter_map(|(party, (_, role))| {
        let (_, standing) = standing.roles.iter().find(|(known, _)| known == role)?;
        Some(role_json(answer, party, role, standing))
    });
    json!({
        "id": record.id.as_str(),
        "name": record.info.name,
        "user": record.info.user,
        "active": record.active,
        "connected": record.connected,
        "share": standing.share,
        "dominant_resource": leading.and_then(|(_, standing)| standing.dominant.as_deref()),
        "fair_share": standing.fair_share,
        "share_deficit": (standing.fair_share - standing.share).max(0.0),
        "unoffered_secs": standing.unoffered.map(|waited| waited.as_secs_f64()),
        "offers": offers(answer, key),
        "refusals": refusals(answer, standing),
        "roles": roles.collect::<Vec<_>>(),
    })
}

fn offers(answer: &Answer, key: FrameworkKey) -> Value {
    let count = answer.view.offers_of(key).count();
    let examples = answer.view.offers_of(key).take(answer.most).map(|offer| {
        json!({
            "id": offer.id.as_str(),
            "agent_id": offer.agent_id.as_str(),
            "hostname": offer.wire.hostname,
            "role": offer.role.as_str(),
            "resources": offer.resources.to_string(),
            "age_secs": answer.wall_ns.saturating_sub(offer.offered_ns).max(0) as f64 / 1e9,
        })
    });
    json!({ "count": count, "examples": examples.collect::<Vec<_>>() })
}

fn refusals(answer: &Answer, standing: &FrameworkStanding) -> Value {
    let refusals = standing.refusals.iter().filter_map(|refusal| {
        let agent = answer.view.agents.get(refusal.agent)?;
        Some(json!({
            "agent_id": agent.id.as_str(),
            "hostname": agent.info.hostname,
            "role": refusal.role.as_str(),
            "resources": refusal.resources.to_string(),
            "secs_left": refusal.left.as_secs_f64(),
        }))
    });
    json!({ "agents": standing.refused, "examples": refusals.collect::<Vec<_>>() })
}

fn role_json(answer: &Answer, party: usize, role: &Role, standing: &Standing) -> Value {
    // It comes of all quotas, and tells of those that are not the caller's to see.
    let room = standing.room.as_ref().filter(|_| !answer.hides_quotas);
    json!({
        "role": role.as_str(),
        "asking": standing.is_asking,
        "suppressed": standing.suppressed,
        "share": standing.share,
        "dominant_resource": standing.dominant.as_deref(),
        "fair_share": standing.fair_share,
        "held": quantities(&standing.held),
        "room": room.map(quantities),
        "room_hidden": answer.hides_quotas,
        "path": path_json(&standing.path, &answer.view),
        "agents": agents(answer, party),
    })
}

/// Quotas that the caller may not see are left out.
fn path_json(path: &[Level], view: &View) -> Value {
    let levels = path.iter().map(|level| {
        let quota = level.quota.as_ref();
        let quota = quota.filter(|_| view.quotas.contains_key(&level.role));
        let quota = quota.map(|(quota, consumed)| {
            let limits = quota.limits.iter();
            let left = limits.clone().map(|(name, limit)| {
                let left = limit.saturating_sub(consumed.get(name));
                (name.to_string(), json!(left.to_f64()))
            });
            json!({
                "guarantees": quantities(&quota.guarantees),
                "limits": limits
                    .map(|(name, limit)| (name.to_string(), json!(limit.to_f64())))
                    .collect::<Map<_, _>>(),
                "consumed": quantities(consumed),
                "head_room": left.collect::<Map<_, _>>(),
            })
        });
        json!({
            "role": level.role.as_str(),
            "weight": level.weight,
            "share": level.share,
            "quota": quota,
        })
    });
    levels.collect()
}

fn quantities(quantities: &Quantities) -> Value {
    let amounts = quantities.iter();
    let amounts = amounts.map(|(name, amount)| (name.to_string(), json!(amount.to_f64())));
    Value::Object(amounts.collect())
}

/// The agents by what is said of them, the most frequent first.
fn agents(answer: &Answer, party: usize) -> Value {
    let mut groups: BTreeMap<(&'static str, String), Vec<(Said, &Told)>> = BTreeMap::new();
    for told in answer.told.iter().filter(|told| told.party == party) {
        let said = say(answer, told);
        let group = (said.reason, said.text.clone());
        groups.entry(group).or_default().push((said, told));
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, agents)| std::cmp::Reverse(agents.len()));
    let groups = groups.into_iter().map(|((reason, text), mut agents)| {
        agents.sort_by(|left, right| left.0.distance.total_cmp(&right.0.distance));
        let examples = agents.iter().take(answer.most).map(|(said, told)| {
            let mut example = json!({
                "agent_id": told.agent.id.as_str(),
                "hostname": told.agent.info.hostname,
            });
            if !said.detail.is_empty() {
                example["detail"] = json!(said.detail);
            }
            example
        });
        json!({
            "reason": reason,
            "text": text,
            "count": agents.len(),
            "examples": examples.collect::<Vec<_>>(),
        })
    });
    groups.collect()
}

fn say(answer: &Answer, told: &Told) -> Said {
    let said = |reason, text: &str| Said {
        reason,
        text: text.to_owned(),
        detail: String::new(),
        distance: 0.0,
    };
    match &told.obstacle {
        Obstacle::AgentInactive => inactive(told),
        Obstacle::NothingFree { .. } => nothing_free(answer, told),
        Obstacle::TooLittle { lacking } => Said {
            detail: format!("lacks {lacking}"),
            distance: distance(lacking),
            ..said(
                "TOO_LITTLE",
                "less is free than the least that makes an offer",
            )
        },
        Obstacle::ReservedForOthers => said("RESERVED", "what is free is reserved for other roles"),
        Obstacle::NotUnderstood => said(
            "NOT_UNDERSTOOD",
            "what is free is revocable, shared or reserved in several steps, for which the framework lacks the capability",
        ),
        Obstacle::GpusKept => said(
            "GPUS",
            "agents with gpus are kept for frameworks with the capability GPU_RESOURCES",
        ),
        Obstacle::OtherRegion => said(
            "REGION",
            "agents of other regions are for frameworks with the capability REGION_AWARE",
        ),
        Obstacle::Limit(reached) => said(
            "QUOTA_LIMIT",
            &format!(
                "the quota of role '{}' limits {} to {}, and {} are consumed",
                reached.role, reached.name, reached.limit, reached.consumed
            ),
        ),
        Obstacle::Guaranteed { name } => said(
            "GUARANTEED",
            &format!("what is free of {name} is kept for what other roles are guaranteed"),
        ),
        Obstacle::Refused { .. } => Said {
            detail: format!("for another {:.1} s", told.left.as_secs_f64()),
            distance: told.left.as_secs_f64(),
            ..said("REFUSED", "the framework has refused as much")
        },
        Obstacle::OthersFirst => said(
            "OTHERS_FIRST",
            "the framework has refused as much; that is over, and the others are asked first",
        ),
        Obstacle::Constraints(failing) => {
            let failing: Vec<String> = failing.iter().map(ToString::to_string).collect();
            let text = format!("its offer constraints: {}", failing.join(", or "));
            said("CONSTRAINT", &text)
        }
        Obstacle::Behind { .. } => said(
            "BEHIND",
            &format!("{} comes first in the order", names(answer, told)),
        ),
        Obstacle::Next => said("NEXT", "it is next and is about to be offered this"),
        Obstacle::NotAsking => said(
            "NOT_ASKING",
            "the framework does not ask for offers in the role",
        ),
    }
}

fn inactive(told: &Told) -> Said {
    let drain = |deactivation: &Deactivation| {
        let drain = deactivation.drain.as_ref()?;
        Some(drain.info.state() == DrainState::Draining)
    };
    let (reason, text) = match told.deactivated.as_ref().map(drain) {
        Some(Some(true)) => ("AGENT_DRAINING", "an operator drains the agent"),
        Some(Some(false)) => ("AGENT_DRAINED", "an operator has drained the agent"),
        Some(None) => ("AGENT_DEACTIVATED", "an operator has deactivated the agent"),
        None if !told.agent.connected => ("AGENT_AWAY", "the agent is away"),
        None => ("AGENT_INACTIVE", "the agent is not offered at present"),
    };
    Said {
        reason,
        text: text.to_owned(),
        detail: String::new(),
        distance: 0.0,
    }
}

fn nothing_free(answer: &Answer, told: &Told) -> Said {
    let own = answer.parties[told.party].0;
    let own = answer.view.frameworks.get(own);
    let is_own = told
        .others
        .iter()
        .any(|(id, _)| own.is_some_and(|own| own.id == *id));
    let (reason, text) = if is_own {
        (
            "OFFERED",
            "the framework holds an open offer of it".to_owned(),
        )
    } else if told.others.is_empty() {
        ("IN_USE", "all of it is used by tasks".to_owned())
    } else {
        let text = format!("is in open offers of {}", names(answer, told));
        ("IN_OFFERS", text)
    };
    Said {
        reason,
        text,
        detail: String::new(),
        distance: 0.0,
    }
}

/// Those whom an obstacle names, as far as the caller may see them.
fn names(answer: &Answer, told: &Told) -> String {
    let names = told
        .others
        .iter()
        .map(|(id, role)| match answer.view.framework(id.as_str()) {
            Some(record) => format!("'{}' ({id}) in role '{role}'", record.info.name),
            None => "another framework".to_owned(),
        });
    let mut names: Vec<String> = names.collect();
    names.dedup();
    names.join(" and ")
}

/// How far an agent is from having enough: by what is lacking, a megabyte weighing as much as a thousandth of anything
/// else.
fn distance(lacking: &Quantities) -> f64 {
    let parts = lacking.iter().map(|(name, amount)| match &**name {
        "mem" | "disk" => Milli(amount.0 / 1000).to_f64(),
        _ => amount.to_f64(),
    });
    parts.sum()
}
