//! The flags that say who is offered what.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tepui_api::v1;
use tepui_model::{Quantities, Role, parse_quantities};

use crate::roles::duration;

/// How a master gives resources away.
#[derive(Args, Debug)]
pub(crate) struct MasterAllocation {
    /// Shortest time for which a refused agent is not offered again; what comes free is offered at once
    #[arg(long, default_value = "50ms", value_parser = duration)]
    allocation_interval: Duration,
    /// What an offer must hold at least: sets separated by |, amounts in a set by ;
    #[arg(long, value_name = "SETS", default_value = "cpus:0.01|mem:32", value_parser = minimums)]
    min_allocatable_resources: Minimums,
    /// Largest part of the cluster that one framework may hold in open offers while others wait, above 0 up to 1
    #[arg(long, value_name = "SHARE", value_parser = share)]
    offer_cap: Option<f64>,
    /// How long an offer may lie open while another framework would take it
    #[arg(long, default_value = "10secs", value_parser = duration)]
    contended_offer_timeout: Duration,
    /// Keep agents with gpus for frameworks with the capability GPU_RESOURCES
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    filter_gpu_resources: bool,
    /// The only roles that may be used, separated by commas
    #[arg(long, value_name = "ROLES", value_parser = roles)]
    roles: Option<Roles>,
    /// Weights of roles for a registry that has none yet: ROLE=WEIGHT, separated by commas
    #[arg(long, value_name = "WEIGHTS", default_value = "", value_parser = weights)]
    weights: Weights,
    /// Frameworks may run as root
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    root_submissions: bool,
    /// Where the master is, as JSON of a DomainInfo
    #[arg(long, value_name = "JSON", value_parser = domain)]
    domain: Option<v1::DomainInfo>,
    /// Turn away agents that do not say where they are
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    require_agent_domain: bool,
}

type Minimums = Vec<Quantities>;
type Roles = BTreeSet<String>;
type Weights = BTreeMap<Role, f64>;

impl MasterAllocation {
    pub(crate) fn apply(self, config: &mut tepui_master::Config) {
        let core = &mut config.core;
        core.allocation_interval = self.allocation_interval;
        core.allocator.min_allocatable = self.min_allocatable_resources;
        core.allocator.offer_cap = self.offer_cap;
        core.contended_offer_timeout = Some(self.contended_offer_timeout);
        core.allocator.filter_gpus = self.filter_gpu_resources;
        core.roles = self.roles;
        core.weights = self.weights;
        core.root_submissions = self.root_submissions;
        core.domain = self.domain;
        core.require_agent_domain = self.require_agent_domain;
    }
}

fn minimums(text: &str) -> Result<Minimums, String> {
    let sets = text.split('|').map(str::trim).filter(|set| !set.is_empty());
    let sets = sets.map(|set| parse_quantities(set).map_err(|error| error.to_string()));
    sets.collect()
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err(format!("'{text}' is not a number above 0 and up to 1")),
    }
}

fn roles(text: &str) -> Result<Roles, String> {
    let roles = text.split(',').map(|role| {
        let role = Role::parse(role.trim()).map_err(|error| error.to_string())?;
        Ok(role.to_string())
    });
    roles.collect()
}

fn weights(text: &str) -> Result<Weights, String> {
    let pieces = text.split(',').filter(|piece| !piece.is_empty());
    let weights = pieces.map(|piece| {
        let (role, weight) = piece
            .split_once('=')
            .ok_or_else(|| format!("'{piece}' is not ROLE=WEIGHT"))?;
        let role = Role::parse(role.trim()).map_err(|error| error.to_string())?;
        match weight.trim().parse::<f64>() {
            Ok(weight) if weight.is_finite() && weight > 0.0 => Ok((role, weight)),
            _ => Err(format!(
                "the weight of '{role}' must be a positive number, not '{weight}'"
            )),
        }
    });
    weights.collect()
}

/// A DomainInfo as JSON, or the file that holds it.
pub(crate) fn domain(text: &str) -> Result<v1::DomainInfo, String> {
    let read = || -> anyhow::Result<v1::DomainInfo> {
        let text = match text.strip_prefix("file://") {
            Some(path) => std::fs::read_to_string(path).with_context(|| path.to_owned())?,
            None => text.to_owned(),
        };
        Ok(tepui_api::json::from_slice(text.as_bytes())?)
    };
    read().map_err(|error| format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minimums_are_alternatives_of_amounts() {
        let sets = minimums("cpus:1;mem:64|gpus:1").unwrap();
        let texts: Vec<String> = sets.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["cpus:1; mem:64", "gpus:1"]);
        assert!(minimums("").unwrap().is_empty());
        assert!(minimums("cpus").is_err());
    }

    #[test]
    fn what_is_no_weight_no_share_and_no_place_is_refused() {
        assert_eq!(weights("a=2,b/c=0.5").unwrap().len(), 2);
        assert!(weights("a=0").is_err() && weights("a").is_err() && weights("a b=1").is_err());
        assert!(share("0").is_err() && share("1.1").is_err() && share("0.5").is_ok());
        let text = r#"{"fault_domain":{"region":{"name":"r"},"zone":{"name":"z"}}}"#;
        assert!(domain(text).is_ok());
        assert!(domain("{").is_err() && domain("r/z").is_err());
        assert!(roles("a,b/c").is_ok() && roles("a,").is_err());
    }
}
