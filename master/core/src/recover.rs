//! The master's first moments: what the registry says was there before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tepui_allocator::Allocator;
use tepui_api::registry;
use tepui_api::v1;
use tepui_model::{AgentId, FrameworkId, Now, Role, RoleError};

use crate::config::Config;
use crate::core::{Core, Minted, Pending, Timer};
use crate::departure::Removals;
use crate::framework_info;
use crate::history::History;
use crate::interest::Interests;
use crate::inverse_offers::InverseOffers;
use crate::maintenance::Maintenance;
use crate::management::Management;
use crate::metrics::Metrics;
use crate::operator::weight_record;
use crate::quota;
use crate::services::Services;
use crate::slab::Slab;
use crate::store_calls::StoreWrites;
use crate::stores::{FLOOR_KEY, Stores};
use crate::subscribe::{failover_timeout, framework_record};
use crate::throttle::Throttles;
use crate::view::{AwayAgent, Deactivation, Drain};
use crate::wire;

/// The layout of the registry's records that this master reads and writes.
const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RecoverError {
    #[error("the registry's record '{key}' cannot be read: {source}")]
    Decode {
        key: String,
        source: prost::DecodeError,
    },
    #[error("the registry has the format {found}; this master knows {FORMAT} only")]
    Format { found: u32 },
    #[error("the registry's record '{key}' is for a role that is not valid: {source}")]
    Role { key: String, source: RoleError },
    #[error("the registry's maintenance schedule is not valid: {message}")]
    Maintenance { message: String },
    #[error("the registry's quota '{key}' is not valid: {message}")]
    Quota { key: String, message: String },
    #[error("the registry's key '{key}' is not that of what a job keeps")]
    Job { key: String },
    #[error("the registry's framework '{key}' is not valid: {message}")]
    Framework { key: String, message: String },
}

impl Core {
    /// A master that begins with what the registry holds. What it has to write itself comes out of the first `apply`.
    pub fn new(
        config: Config,
        records: &[(String, Bytes)],
        now: Now,
    ) -> Result<Core, RecoverError> {
        let mut core = Core {
            now,
            effects: Vec::new(),
            master_info: Arc::new(master_info(&config)),
            cluster_id: config.master_id.as_str().into(),
            minted: Minted::default(),
            allocator: Allocator::new(config.allocator.clone()),
            timers: BTreeSet::new(),
            allocation_due: false,
            allocation_planned: false,
            pending: BTreeMap::new(),
            agents: Slab::default(),
            agent_states: BTreeMap::new(),
            agent_by_id: BTreeMap::new(),
            links: BTreeMap::new(),
            registering: BTreeMap::new(),
            registering_by_id: BTreeMap::new(),
            recovered_agents: Arc::default(),
            holders: BTreeMap::new(),
            interests: Interests::default(),
            unreachable_agents: Arc::default(),
            gone_agents: Arc::default(),
            marking: BTreeMap::new(),
            removals: Removals::default(),
            recovered_at_start: 0,
            deactivated_agents: Arc::default(),
            management: Management::default(),
            maintenance: Maintenance::default(),
            inverse_offers: InverseOffers::default(),
            throttles: Throttles::new(&config.call_limits),
            away_tasks: BTreeMap::new(),
            given_up: BTreeMap::new(),
            frameworks: Slab::default(),
            framework_states: BTreeMap::new(),
            framework_by_id: BTreeMap::new(),
            streams: BTreeMap::new(),
            completed_frameworks: History::new(config.max_completed_frameworks),
            completed_ids: BTreeSet::new(),
            tasks: Slab::default(),
            executors: Slab::default(),
            offers: Slab::default(),
            offer_by_number: BTreeMap::new(),
            offer_states: BTreeMap::new(),
            operations: Slab::default(),
            operation_by_uuid: BTreeMap::new(),
            stores: Stores::default(),
            store_writes: StoreWrites::default(),
            services: Services::default(),
            weights: BTreeMap::new(),
            operators_listen: false,
            quotas: Arc::default(),
            metrics: Metrics::default(),
            config,
        };
        let mut new = true;
        for (key, value) in records {
            if key == "meta" {
                core.recover_meta(key, value)?;
                new = false;
            }
        }
        if new {
            let cluster_id = core.cluster_id.to_string();
            let meta = registry::Meta {
                format: FORMAT,
                cluster_id,
                next_agent: 0,
                next_framework: 0,
            };
            core.persist(vec![wire::put("meta".to_owned(), &meta)], Pending::Nothing);
        }
        let mut quotas = BTreeMap::new();
        for (key, value) in records {
            match key.split_once('/') {
                Some(("agent", id)) => core.recover_agent(key, AgentId::from(id), value)?,
                Some(("framework", id)) => {
                    core.recover_framework(key, FrameworkId::from(id), value)?
                }
                Some(("weight", role)) => core.recover_weight(key, role, value)?,
                Some(("deactivated", id)) => {
                    core.recover_deactivated(key, AgentId::from(id), value)?
                }
                Some((FLOOR_KEY, _)) => core.stores.recover(key, value)?,
                None if key == FLOOR_KEY => core.stores.recover(key, value)?,
                None if key == "maintenance" => core.recover_maintenance(key, value)?,
                Some(("quota", role)) => {
                    let (role, quota) = quota::from_record(key, role, value)?;
                    quotas.insert(role, quota);
                }
                // Others keep records here as well.
                _ => {}
            }
        }
        core.stores.settle();
        let mut deactivated = std::mem::take(&mut core.deactivated_agents);
        Arc::make_mut(&mut deactivated).retain(|id, _| core.is_known(id));
        core.deactivated_agents = deactivated;
        core.recovered_at_start = core.recovered_agents.len();
        let gc = now.tick.after(core.config.registry_gc_interval);
        core.timers.insert((gc, Timer::RegistryGc));
        if !quotas.is_empty() {
            core.enforce_quotas(quotas);
        }
        if core.weights.is_empty() {
            core.use_configured_weights();
        }
        if !core.recovered_agents.is_empty() {
            let due = now.tick.after(core.config.agent_reregister_timeout);
            core.timers.insert((due, Timer::Recovered));
        }
        Ok(core)
    }

    fn recover_meta(&mut self, key: &str, value: &Bytes) -> Result<(), RecoverError> {
        let meta: registry::Meta = decode(key, value)?;
        if meta.format != FORMAT {
            return Err(RecoverError::Format { found: meta.format });
        }
        self.cluster_id = meta.cluster_id.into();
        Ok(())
    }

    fn recover_agent(&mut self, key: &str, id: AgentId, value: &Bytes) -> Result<(), RecoverError> {
        let agent: registry::Agent = decode(key, value)?;
        let state = agent.state();
        let since_ns = agent
            .since
            .map_or(self.now.wall_ns, |since| since.nanoseconds);
        let info = Arc::new(agent.info);
        match state {
            registry::agent::State::Admitted => {
                Arc::make_mut(&mut self.recovered_agents).insert(id, info);
            }
            registry::agent::State::Unreachable => {
                Arc::make_mut(&mut self.unreachable_agents)
                    .insert(id, AwayAgent { info, since_ns });
            }
            registry::agent::State::Gone => {
                Arc::make_mut(&mut self.gone_agents).insert(id, AwayAgent { info, since_ns });
            }
        }
        Ok(())
    }

    fn recover_deactivated(
        &mut self,
        key: &str,
        id: AgentId,
        value: &Bytes,
    ) -> Result<(), RecoverError> {
        let registry::Deactivated {
            drain_info,
            drain_start_time,
        } = decode(key, value)?;
        let started_ns = drain_start_time.map_or(self.now.wall_ns, |time| time.nanoseconds);
        let drain = drain_info.map(|info| Drain { info, started_ns });
        Arc::make_mut(&mut self.deactivated_agents).insert(id, Deactivation { drain });
        Ok(())
    }

    fn recover_maintenance(&mut self, key: &str, value: &Bytes) -> Result<(), RecoverError> {
        let recovered = Maintenance::recovered(decode(key, value)?);
        self.maintenance = recovered.map_err(|invalid| RecoverError::Maintenance {
            message: invalid.to_string(),
        })?;
        Ok(())
    }

    fn recover_framework(
        &mut self,
        key: &str,
        id: FrameworkId,
        value: &Bytes,
    ) -> Result<(), RecoverError> {
        let registry::Framework {
            info,
            registered_time,
            disconnected_time,
        } = decode(key, value)?;
        let checked = framework_info::check(&self.config, &info, &[], None).map_err(|invalid| {
            RecoverError::Framework {
                key: key.to_owned(),
                message: invalid.to_string(),
            }
        })?;
        let disconnected_ns = disconnected_time.map_or(self.now.wall_ns, |time| time.nanoseconds);
        if disconnected_time.is_none() {
            // From now on its scheduler counts as away. A master that restarts again and again goes on from here.
            let put = framework_record(
                &id,
                &info,
                registered_time.nanoseconds,
                Some(disconnected_ns),
            );
            self.persist(vec![put], Pending::Nothing);
        }
        let away = u64::try_from(self.now.wall_ns.saturating_sub(disconnected_ns)).unwrap_or(0);
        let left = failover_timeout(&info).saturating_sub(Duration::from_nanos(away));
        let framework = self.add_framework(id, info, checked, None, registered_time.nanoseconds);
        self.frameworks[framework].recovered = true;
        self.start_failover_timer(framework, left.max(self.config.recovered_framework_grace));
        Ok(())
    }

    /// Written down, so that from now on they can only be changed by a call.
    fn use_configured_weights(&mut self) {
        let weights = self.config.weights.clone();
        let puts: Vec<_> = weights
            .iter()
            .map(|(role, weight)| weight_record(role, *weight))
            .collect();
        if !puts.is_empty() {
            self.persist(puts, Pending::Nothing);
        }
        self.set_weights(weights);
    }

    fn recover_weight(&mut self, key: &str, role: &str, value: &Bytes) -> Result<(), RecoverError> {
        let weight: registry::Weight = decode(key, value)?;
        let role = Role::parse(role).map_err(|source| RecoverError::Role {
            key: key.to_owned(),
            source,
        })?;
        self.set_weights([(role, weight.weight)]);
        Ok(())
    }
}

pub(crate) fn decode<M: Message + Default>(key: &str, value: &Bytes) -> Result<M, RecoverError> {
    M::decode(value.clone()).map_err(|source| RecoverError::Decode {
        key: key.to_owned(),
        source,
    })
}

fn master_info(config: &Config) -> v1::MasterInfo {
    use v1::master_info::capability::Type;
    let capabilities = [Type::AgentUpdate, Type::AgentDraining, Type::QuotaV2];
    // In network byte order, as it would lie in memory on the machines Mesos ran on.
    let ip = match config.ip.parse() {
        Ok(IpAddr::V4(ip)) => u32::from_le_bytes(ip.octets()),
        _ => 0,
    };
    v1::MasterInfo {
        id: config.master_id.clone(),
        ip,
        port: u32::from(config.port),
        pid: Some(format!("master@{}:{}", config.ip, config.port)),
        hostname: Some(config.hostname.clone()),
        version: Some(config.version.clone()),
        address: Some(v1::Address {
            hostname: Some(config.hostname.clone()),
            ip: Some(config.ip.clone()),
            port: i32::from(config.port),
        }),
        domain: config.domain.clone(),
        capabilities: capabilities
            .into_iter()
            .map(|capability| v1::master_info::Capability {
                r#type: Some(capability.into()),
            })
            .collect(),
    }
}
