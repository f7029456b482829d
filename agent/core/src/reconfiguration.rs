//! Whether an agent may go on under its id although it was started with other resources or attributes than before.
//! The port is no part of it: nobody finds an agent by its port, for it is the agent that dials.

use std::fmt;

use tepui_api::convert::attribute_from_wire;
use tepui_api::v1;
use tepui_model::Resources;

use crate::wire;

/// Attributes that begin so say which data sets an agent has.
pub const DATASET_ATTRIBUTES: &str = "tepui.dataset.";
/// Attributes that begin so are what the agent found on its machine, not what its operator gave it.
const FOUND_ATTRIBUTES: &str = "tepui_";

/// What an agent that is started again may have changed. Mesos's `--reconfiguration_policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reconfiguration {
    /// Nothing.
    #[default]
    Equal,
    /// It may have more of everything, and less of nothing.
    Additive,
}

impl fmt::Display for Reconfiguration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Equal => "equal",
            Self::Additive => "additive",
        })
    }
}

impl Reconfiguration {
    /// The first thing the policy does not allow, in words.
    pub(crate) fn objection(self, before: &v1::AgentInfo, now: &v1::AgentInfo) -> Option<String> {
        let changed = |what: &str, before: &dyn fmt::Display, now: &dyn fmt::Display| {
            Some(format!("its {what} was '{before}' and is '{now}'"))
        };
        if before.hostname != now.hostname {
            return changed("hostname", &before.hostname, &now.hostname);
        }
        if !self.allows(before.domain.as_ref(), now.domain.as_ref()) {
            return changed("domain", &domain(before), &domain(now));
        }
        let (held, given) = (attributes(before), attributes(now));
        let kept = match self {
            Self::Equal => held == given,
            Self::Additive => held.iter().all(|one| given.contains(one)),
        };
        if !kept {
            return changed("list of attributes", &held.join("; "), &given.join("; "));
        }
        let (held, given) = (resources(before), resources(now));
        let kept = match self {
            Self::Equal => held == given,
            Self::Additive => given.contains(&held),
        };
        if !kept {
            return changed("list of resources", &held, &given);
        }
        None
    }

    fn allows<T: PartialEq>(self, before: Option<&T>, now: Option<&T>) -> bool {
        before == now || (self == Self::Additive && before.is_none())
    }
}

fn domain(info: &v1::AgentInfo) -> String {
    let fault = info
        .domain
        .as_ref()
        .and_then(|domain| domain.fault_domain.as_ref());
    fault.map_or_else(
        || "none".to_owned(),
        |fault| format!("{}/{}", fault.region.name, fault.zone.name),
    )
}

fn attributes(info: &v1::AgentInfo) -> Vec<String> {
    // What data sets there are is the operator's to change: tasks that read one hold it by its files, not by its name.
    // What the agent finds changes with the kernel and with its own version, and must not cost the tasks an upgrade.
    let all = info.attributes.iter().filter(|one| {
        !one.name.starts_with(DATASET_ATTRIBUTES) && !one.name.starts_with(FOUND_ATTRIBUTES)
    });
    all.filter_map(|one| attribute_from_wire(one).ok())
        .map(|one| one.to_string())
        .collect()
}

/// An agent's own resources were checked when it was started.
fn resources(info: &v1::AgentInfo) -> Resources {
    wire::resources(&info.resources).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tepui_api::convert::{ResourceFormat, attributes_to_wire, resources_to_wire};

    use super::*;

    fn info(resources: &str, attributes: &str) -> v1::AgentInfo {
        let parsed = tepui_model::parse_resources(resources, &tepui_model::Role::star()).unwrap();
        v1::AgentInfo {
            hostname: "machine".into(),
            resources: resources_to_wire(&parsed, ResourceFormat::Refined, None),
            attributes: attributes_to_wire(&tepui_model::parse_attributes(attributes).unwrap()),
            ..v1::AgentInfo::default()
        }
    }

    #[test]
    fn each_policy_allows_what_its_name_says() {
        let before = info("cpus:2;mem:64;ports:[1-9]", "rack:a");
        let objection =
            |policy: Reconfiguration, now: &v1::AgentInfo| policy.objection(&before, now);
        let more = info("cpus:3;mem:64;ports:[1-19];disk:5", "rack:a;level:3");
        let less = info("cpus:2;mem:63;ports:[1-9]", "rack:a");
        let other = info("cpus:2;mem:64;ports:[1-9]", "rack:b");
        for policy in [Reconfiguration::Equal, Reconfiguration::Additive] {
            assert_eq!(objection(policy, &before), None);
            let port = v1::AgentInfo {
                port: Some(7),
                ..before.clone()
            };
            assert_eq!(objection(policy, &port), None);
            assert!(
                objection(policy, &less)
                    .unwrap()
                    .starts_with("its list of resources was '")
            );
            assert_eq!(
                objection(policy, &other).unwrap(),
                "its list of attributes was 'rack:a' and is 'rack:b'"
            );
            let moved = v1::AgentInfo {
                hostname: "other".into(),
                ..before.clone()
            };
            assert!(objection(policy, &moved).unwrap().contains("hostname"));
        }
        let upgraded = info(
            "cpus:2;mem:64;ports:[1-9]",
            "rack:a;tepui_wall:user;tepui.dataset.x:1",
        );
        assert_eq!(objection(Reconfiguration::Equal, &upgraded), None);
        assert_eq!(objection(Reconfiguration::Additive, &more), None);
        assert!(objection(Reconfiguration::Equal, &more).is_some());
    }
}
