//! The reads from before the v1 API, in the shapes that command lines and monitoring tools parse.
//!
//! They are written straight from the photograph into the body: a tree of a hundred thousand tasks in between would
//! take more memory than the tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use tepui_api::convert::{ResourceFormat, resources_to_wire};
use tepui_api::entries;
use tepui_api::legacy::{Attributes, Each, Message, Sums, Task, labels};
use tepui_api::secrets::concealed;
use tepui_api::v1;
use tepui_master_core::{
    AgentRecord, Deactivation, ExecutorRecord, FrameworkKey, FrameworkRecord, OfferRecord, Quota,
    TaskRecord, View,
};
use tepui_model::{Milli, Resources, Role};

use crate::holdings::Summary as Holdings;
use crate::http::Parameters;
use crate::operator::{agent_pid, holdings, weight};
use crate::shared::{Refusal, Shared};
use crate::unsummed::Unsummed;
use crate::{MESOS_API_LEVEL, VERSION};

type Body = Result<Vec<u8>, Refusal>;

fn body(value: &impl Serialize) -> Body {
    serde_json::to_vec(value).map_err(|error| Refusal::internal(error.to_string()))
}

fn seconds(nanoseconds: i64) -> f64 {
    nanoseconds as f64 / 1e9
}

// Agents

struct Agent<'a> {
    record: &'a AgentRecord,
    deactivation: Option<&'a Deactivation>,
    /// With every resource in full as well.
    full: bool,
}

impl<'a> Agent<'a> {
    fn of(view: &'a View, record: &'a AgentRecord) -> Self {
        Self {
            record,
            deactivation: view.deactivated_agents.get(&record.id),
            full: true,
        }
    }
}

impl Serialize for Agent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = self.record;
        let mut map = serializer.serialize_map(None)?;
        let mut reserved: BTreeMap<&str, Resources> = BTreeMap::new();
        for resource in record.total.iter() {
            if let Some(role) = resource.reserved_role() {
                reserved
                    .entry(role.as_str())
                    .or_default()
                    .add_resource(resource.clone());
            }
        }
        let unreserved = record.total.unreserved();
        entries!(map,
            "id": record.id.as_str(),
            "hostname": record.info.hostname,
            "port": record.info.port(),
            "attributes": Attributes(&record.info.attributes),
            "pid": agent_pid(record),
            "registered_time": seconds(record.registered_ns),
            "resources": Sums::of(&record.total),
            "used_resources": Sums::of(&record.used),
            "offered_resources": Sums::of(&record.offered),
            "reserved_resources": reserved.iter().map(|(role, held)| (*role, Sums::of(held))).collect::<BTreeMap<_, _>>(),
            "unreserved_resources": Sums::of(&unreserved),
            "active": record.active,
            "deactivated": self.deactivation.is_some(),
            "connected": record.connected,
            "version": MESOS_API_LEVEL,
            "tepui_version": &*record.version,
            "capabilities": Each(|| record.capabilities.iter().map(|capability| capability.r#type().as_str_name())),
        );
        if let Some(domain) = &record.info.domain {
            map.serialize_entry("domain", &Message(domain))?;
        }
        map.serialize_entry("tepui_holdings", &Holdings::of(&record.inventory))?;
        if let Some(time) = record.reregistered_ns {
            map.serialize_entry("reregistered_time", &seconds(time))?;
        }
        if let Some(drain) = self.deactivation.and_then(|known| known.drain.as_ref()) {
            entries!(map,
                "drain_info": Message(&drain.info),
                "estimated_drain_start_time_seconds": seconds(drain.started_ns),
            );
        }
        if self.full {
            let wire = |resources: &Resources| {
                resources_to_wire(resources, ResourceFormat::Endpoint, None)
            };
            let reserved: BTreeMap<&str, Vec<v1::Resource>> = reserved
                .iter()
                .map(|(role, held)| (*role, wire(held)))
                .collect();
            let reserved: BTreeMap<&str, Vec<Message<'_, _>>> = reserved
                .iter()
                .map(|(role, held)| (*role, held.iter().map(Message).collect()))
                .collect();
            entries!(map,
                "reserved_resources_full": reserved,
                "unreserved_resources_full": Full(&unreserved),
                "used_resources_full": Full(&record.used),
                "offered_resources_full": Full(&record.offered),
            );
        }
        map.end()
    }
}

struct Full<'a>(&'a Resources);

impl Serialize for Full<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let wire = resources_to_wire(self.0, ResourceFormat::Endpoint, None);
        serializer.collect_seq(wire.iter().map(Message))
    }
}

// Tasks, executors, frameworks

fn live_task(record: &TaskRecord) -> Task<'_> {
    Task(&record.wire, record.info.as_deref())
}

fn ended_task(task: &v1::Task) -> Task<'_> {
    Task(task, None)
}

struct Executor<'a>(&'a ExecutorRecord);

impl Serialize for Executor<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(record) = self;
        let mut map = serializer.serialize_map(None)?;
        entries!(map,
            "executor_id": record.id.as_str(),
            "name": record.info.name(),
            "framework_id": record.framework_id.as_str(),
            "resources": Sums::of(&record.resources),
            "role": record.role.as_str(),
            "slave_id": record.agent_id.as_str(),
        );
        if let Some(command) = &record.info.command {
            map.serialize_entry("command", &Message(&concealed(command)))?;
        }
        if let Some(given) = &record.info.labels {
            map.serialize_entry("labels", &labels(given))?;
        }
        if record.info.r#type.is_some() {
            map.serialize_entry("type", record.info.r#type().as_str_name())?;
        }
        if let Some(source) = &record.info.source {
            map.serialize_entry("source", source)?;
        }
        map.end()
    }
}

struct Offer<'a>(&'a OfferRecord);

impl Serialize for Offer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(record) = self;
        let mut map = serializer.serialize_map(None)?;
        entries!(map,
            "id": record.id.as_str(),
            "framework_id": record.framework_id.as_str(),
            "slave_id": record.agent_id.as_str(),
            "resources": Sums::of(&record.resources),
            "allocation_info": BTreeMap::from([("role", record.role.as_str())]),
        );
        map.end()
    }
}

/// What belongs to each framework, looked up once for all of them.
#[derive(Default)]
struct Belongings<'a> {
    unsummed: Unsummed,
    tasks: BTreeMap<FrameworkKey, Vec<&'a TaskRecord>>,
    executors: BTreeMap<FrameworkKey, Vec<&'a ExecutorRecord>>,
    offers: BTreeMap<FrameworkKey, Vec<&'a OfferRecord>>,
}

impl<'a> Belongings<'a> {
    fn of(view: &'a View) -> Self {
        let mut belongings = Self {
            unsummed: Unsummed::of(view),
            ..Self::default()
        };
        for task in view.tasks.values() {
            belongings
                .tasks
                .entry(task.framework)
                .or_default()
                .push(task);
        }
        for executor in view.executors.values() {
            belongings
                .executors
                .entry(executor.framework)
                .or_default()
                .push(executor);
        }
        for offer in view.offers.values() {
            belongings
                .offers
                .entry(offer.framework)
                .or_default()
                .push(offer);
        }
        belongings
    }

    fn framework(&'a self, key: FrameworkKey, record: &'a FrameworkRecord) -> Framework<'a> {
        Framework {
            record,
            used: self.unsummed.used(key, &record.used),
            offered: self.unsummed.offered(key, &record.offered),
            tasks: self.tasks.get(&key).map_or(&[], Vec::as_slice),
            executors: self.executors.get(&key).map_or(&[], Vec::as_slice),
            offers: self.offers.get(&key).map_or(&[], Vec::as_slice),
        }
    }
}

struct Framework<'a> {
    record: &'a FrameworkRecord,
    used: Resources,
    offered: Resources,
    tasks: &'a [&'a TaskRecord],
    executors: &'a [&'a ExecutorRecord],
    offers: &'a [&'a OfferRecord],
}

impl<'a> Framework<'a> {
    fn completed(record: &'a FrameworkRecord) -> Self {
        Self {
            record,
            used: record.used.clone(),
            offered: record.offered.clone(),
            tasks: &[],
            executors: &[],
            offers: &[],
        }
    }
}

impl Serialize for Framework<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            record,
            used,
            offered,
            tasks,
            executors,
            offers,
        } = self;
        let info = &record.info;
        let (live, ended): (Vec<&TaskRecord>, Vec<&TaskRecord>) = tasks
            .iter()
            .copied()
            .partition(|task| !task.state().is_terminal());
        let mut held = used.clone();
        held.add(offered);
        let mut map = serializer.serialize_map(None)?;
        entries!(map,
            "id": record.id.as_str(),
            "name": info.name,
            "user": info.user,
            "hostname": info.hostname(),
            "webui_url": info.webui_url(),
            "failover_timeout": info.failover_timeout(),
            "checkpoint": info.checkpoint(),
            "active": record.active,
            "connected": record.connected,
            "recovered": record.recovered,
            "registered_time": seconds(record.registered_ns),
            "unregistered_time": record.unregistered_ns.map_or(0.0, seconds),
            "used_resources": Sums::of(used),
            "offered_resources": Sums::of(offered),
            "resources": Sums::of(&held),
            "capabilities": Each(|| info.capabilities.iter().map(|capability| capability.r#type().as_str_name())),
            "tasks": Each(|| live.iter().copied().map(live_task)),
            "unreachable_tasks": Each(|| record.unreachable_tasks.values().map(|task| ended_task(task))),
            "completed_tasks": Each(|| {
                let kept = record.completed_tasks.iter().map(|task| ended_task(task));
                kept.chain(ended.iter().copied().map(live_task))
            }),
            "offers": Each(|| offers.iter().copied().map(Offer)),
            "executors": Each(|| executors.iter().copied().map(Executor)),
        );
        if let Some(time) = record.reregistered_ns {
            map.serialize_entry("reregistered_time", &seconds(time))?;
        }
        if let Some(principal) = &info.principal {
            map.serialize_entry("principal", principal)?;
        }
        if info.has_capability(v1::framework_info::capability::Type::MultiRole) {
            map.serialize_entry("roles", &info.roles)?;
        } else {
            map.serialize_entry("role", info.role.as_deref().unwrap_or("*"))?;
        }
        if let Some(given) = &info.labels {
            map.serialize_entry("labels", &labels(given))?;
        }
        if let Some(constraints) = &record.offer_constraints {
            map.serialize_entry("offer_constraints", &Message(&**constraints))?;
        }
        map.end()
    }
}

// Answers

/// Clients read `version` part by part as numbers, so Tepui's own stands beside it.
pub(crate) struct Version;

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entries!(map,
            "version": MESOS_API_LEVEL,
            "tepui_version": VERSION,
            "build_date": "",
            "build_time": 0.0,
            "build_user": "",
        );
        map.end()
    }
}

struct State<'a> {
    shared: &'a Shared,
    view: &'a View,
}

impl Serialize for State<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { shared, view } = self;
        let identity = &shared.identity;
        let belongings = Belongings::of(view);
        let active = view.agents.values().filter(|agent| agent.active).count();
        let flags: BTreeMap<_, _> = shared.config.flags().into_iter().collect();
        let started = seconds(identity.started_wall_ns);
        let nothing: [(); 0] = [];
        let leader = serde_json::json!({
            "id": view.master.id, "pid": identity.pid(), "port": identity.port, "hostname": identity.hostname,
        });
        let mut map = serializer.serialize_map(None)?;
        entries!(map,
            "version": MESOS_API_LEVEL,
            "tepui_version": VERSION,
            "build_date": "",
            "build_time": 0.0,
            "build_user": "",
            "start_time": started,
            "elected_time": started,
            "id": view.master.id,
            "cluster_id": &*view.cluster_id,
            "pid": identity.pid(),
            "hostname": identity.hostname,
            "capabilities": Each(|| view.master.capabilities.iter().map(|capability| capability.r#type().as_str_name())),
            "activated_slaves": active,
            "deactivated_slaves": view.agents.len() - active,
            "unreachable_slaves": view.unreachable_agents.len(),
            "leader": identity.pid(),
            "leader_info": leader,
            "flags": flags,
            "slaves": Each(|| view.agents.values().map(|record| Agent::of(view, record))),
            "recovered_slaves": Each(|| view.recovered_agents.values().map(|info| Recovered(info))),
            "frameworks": Each(|| view.frameworks.iter().map(|(key, record)| belongings.framework(key, record))),
            "completed_frameworks": Each(|| view.completed_frameworks.iter().map(|record| Framework::completed(record))),
            "orphan_tasks": nothing,
            "unregistered_frameworks": nothing,
        );
        if let Some(cluster) = &shared.config.cluster {
            map.serialize_entry("cluster", cluster)?;
        }
        map.end()
    }
}

struct Recovered<'a>(&'a v1::AgentInfo);

impl Serialize for Recovered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(info) = self;
        let mut map = serializer.serialize_map(None)?;
        entries!(map,
            "id": info.id.as_ref().map_or("", |id| &id.value),
            "hostname": info.hostname,
            "port": info.port(),
            "attributes": Attributes(&info.attributes),
            "resources": Sums::of_wire(&info.resources),
        );
        map.end()
    }
}

pub(crate) fn state(shared: &Shared, view: &View, _: &Parameters) -> Body {
    body(&State { shared, view })
}

struct Slaves<'a> {
    view: &'a View,
    id: Option<&'a str>,
}

impl Serialize for Slaves<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { view, id } = *self;
        let mut map = serializer.serialize_map(None)?;
        entries!(map,
            "slaves": Each(|| {
                let wanted = view.agents.values().filter(move |record| id.is_none_or(|id| record.id.as_str() == id));
                wanted.map(|record| Agent::of(view, record))
            }),
            "recovered_slaves": Each(|| {
                let wanted = view.recovered_agents.iter();
                let wanted = wanted.filter(move |(known, _)| id.is_none_or(|id| known.as_str() == id));
                wanted.map(|(_, info)| Recovered(info))
            }),
        );
        map.end()
    }
}

pub(crate) fn slaves(_: &Shared, view: &View, parameters: &Parameters) -> Body {
    body(&Slaves {
        view,
        id: parameters.get("slave_id").map(String::as_str),
    })
}

struct Frameworks<'a> {
    view: &'a View,
    id: Option<&'a str>,
}

impl Serialize for Frameworks<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { view, id } = *self;
        let belongings = Belongings::of(view);
        let wanted = move |record: &FrameworkRecord| id.is_none_or(|id| record.id.as_str() == id);
        let nothing: [(); 0] = [];
        let mut map = serializer.serialize_map(None)?;
        entries!(map,
            "frameworks": Each(|| {
                let live = view.frameworks.iter().filter(move |(_, record)| wanted(record));
                live.map(|(key, record)| belongings.framework(key, record))
            }),
            "completed_frameworks": Each(|| {
                let completed = view.completed_frameworks.iter().filter(move |record| wanted(record));
                completed.map(|record| Framework::completed(record))
            }),
            "unregistered_frameworks": nothing,
        );
        map.end()
    }
}

pub(crate) fn frameworks(_: &Shared, view: &View, parameters: &Parameters) -> Body {
    body(&Frameworks {
        view,
        id: parameters.get("framework_id").map(String::as_str),
    })
}

pub(crate) fn tasks(_: &Shared, view: &View, parameters: &Parameters) -> Body {
    const DEFAULT_LIMIT: usize = 100;
    let number = |name: &str, default: usize| match parameters.get(name).map(String::as_str) {
        None | Some("") => Ok(default),
        // Some tools ask so for all of them.
        Some("-1") => Ok(usize::MAX),
        Some(text) => text
            .parse()
            .map_err(|_| Refusal::bad_request(format!("Failed to parse query '{name}': '{text}'"))),
    };
    let (limit, offset) = (number("limit", DEFAULT_LIMIT)?, number("offset", 0)?);
    let ascending = parameters.get("order").is_some_and(|order| order == "asc");
    let is_wanted = |task: &Task<'_>| {
        parameters
            .get("framework_id")
            .is_none_or(|id| *id == task.0.framework_id.value)
            && parameters
                .get("task_id")
                .is_none_or(|id| *id == task.0.task_id.value)
    };
    let known = || {
        view.frameworks
            .values()
            .chain(view.completed_frameworks.iter())
    };
    let completed = known().flat_map(|framework| framework.completed_tasks.iter());
    let unreachable = known().flat_map(|framework| framework.unreachable_tasks.values());
    let mut tasks: Vec<Task<'_>> = view
        .tasks
        .values()
        .map(|record| live_task(record))
        .chain(completed.chain(unreachable).map(|task| ended_task(task)))
        .filter(is_wanted)
        .collect();
    tasks.sort_by(|one, other| {
        let order = one.began().total_cmp(&other.began());
        if ascending { order } else { order.reverse() }
    });
    let page = || tasks.iter().skip(offset).take(limit);
    body(&BTreeMap::from([("tasks", Each(page))]))
}

struct RoleJson<'a> {
    name: &'a Role,
    weight: f64,
    holding: &'a crate::operator::Holding,
    quota: Option<&'a Quota>,
}

/// Plain numbers by name.
fn amounts<'a>(
    amounts: impl Iterator<Item = (&'a Arc<str>, Milli)>,
) -> serde_json::Map<String, serde_json::Value> {
    let amounts = amounts.map(|(name, amount)| (name.to_string(), amount.to_f64().into()));
    amounts.collect()
}

impl Serialize for RoleJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            name,
            weight,
            holding,
            quota,
        } = self;
        let mut held = holding.used.clone();
        held.add(&holding.offered);
        let quota = serde_json::json!({
            "role": name.as_str(),
            "guarantee": quota.map_or_else(Default::default, |quota| amounts(quota.guarantees.iter())),
            "limit": quota.map_or_else(Default::default, |quota| {
                amounts(quota.limits.iter().map(|(name, limit)| (name, *limit)))
            }),
            "consumed": amounts(holding.consumed.iter()),
        });
        let mut map = serializer.serialize_map(None)?;
        entries!(map,
            "name": name.as_str(),
            "weight": weight,
            "frameworks": Each(|| holding.frameworks.iter().map(|id| &id.value)),
            "resources": Sums::of(&held),
            "allocated": Sums::of(&holding.used),
            "offered": Sums::of(&holding.offered),
            "reserved": Sums::of(&holding.reserved),
            "quota": quota,
        );
        map.end()
    }
}

pub(crate) fn roles(_: &Shared, view: &View, _: &Parameters) -> Body {
    let holdings = holdings(view);
    let roles = || {
        holdings.iter().map(|(name, holding)| RoleJson {
            name,
            weight: weight(view, name),
            holding,
            quota: view.quotas.get(*name),
        })
    };
    body(&BTreeMap::from([("roles", Each(roles))]))
}

/// How many tasks are in each state, as `TASK_RUNNING: 3`.
#[derive(Default)]
struct Counts(BTreeMap<&'static str, usize>);

impl Counts {
    fn add(&mut self, task: &v1::Task) {
        *self.0.entry(task.state().as_str_name()).or_default() += 1;
    }
}

struct Summary<'a, T> {
    record: &'a T,
    counts: &'a Counts,
    /// Of an agent its frameworks, of a framework its agents.
    others: &'a BTreeSet<&'a str>,
    used: Resources,
    offered: Resources,
}

const SUMMARY_STATES: [v1::TaskState; 12] = [
    v1::TaskState::TaskStaging,
    v1::TaskState::TaskStarting,
    v1::TaskState::TaskRunning,
    v1::TaskState::TaskKilling,
    v1::TaskState::TaskFinished,
    v1::TaskState::TaskFailed,
    v1::TaskState::TaskKilled,
    v1::TaskState::TaskError,
    v1::TaskState::TaskLost,
    v1::TaskState::TaskDropped,
    v1::TaskState::TaskGone,
    v1::TaskState::TaskUnreachable,
];

impl<T> Summary<'_, T> {
    fn counts<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        for state in SUMMARY_STATES {
            let name = state.as_str_name();
            map.serialize_entry(name, self.counts.0.get(name).unwrap_or(&0))?;
        }
        Ok(())
    }
}

impl Serialize for Summary<'_, AgentRecord> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = self.record;
        let mut map = serializer.serialize_map(None)?;
        entries!(map,
            "id": record.id.as_str(),
            "hostname": record.info.hostname,
            "pid": agent_pid(record),
            "active": record.active,
            "version": MESOS_API_LEVEL,
            "tepui_version": &*record.version,
            "attributes": Attributes(&record.info.attributes),
            "registered_time": seconds(record.registered_ns),
            "resources": Sums::of(&record.total),
            "used_resources": Sums::of(&record.used),
            "offered_resources": Sums::of(&record.offered),
            "framework_ids": self.others,
        );
        self.counts(&mut map)?;
        map.end()
    }
}

impl Serialize for Summary<'_, FrameworkRecord> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = self.record;
        let mut map = serializer.serialize_map(None)?;
        entries!(map,
            "id": record.id.as_str(),
            "name": record.info.name,
            "user": record.info.user,
            "hostname": record.info.hostname(),
            "webui_url": record.info.webui_url(),
            "active": record.active,
            "connected": record.connected,
            "recovered": record.recovered,
            "used_resources": Sums::of(&self.used),
            "offered_resources": Sums::of(&self.offered),
            "capabilities": Each(|| record.info.capabilities.iter().map(|capability| capability.r#type().as_str_name())),
            "slave_ids": self.others,
        );
        self.counts(&mut map)?;
        map.end()
    }
}

pub(crate) fn state_summary(shared: &Shared, view: &View, _: &Parameters) -> Body {
    let mut by_agent: BTreeMap<&str, (Counts, BTreeSet<&str>)> = BTreeMap::new();
    let mut by_framework: BTreeMap<&str, (Counts, BTreeSet<&str>)> = BTreeMap::new();
    let kept = view.frameworks.values().flat_map(|framework| {
        framework
            .completed_tasks
            .iter()
            .chain(framework.unreachable_tasks.values())
            .map(|task| &**task)
    });
    for task in view.tasks.values().map(|record| &record.wire).chain(kept) {
        let (agent, framework) = (
            task.agent_id.value.as_str(),
            task.framework_id.value.as_str(),
        );
        let entry = by_agent.entry(agent).or_default();
        entry.0.add(task);
        entry.1.insert(framework);
        let entry = by_framework.entry(framework).or_default();
        entry.0.add(task);
        entry.1.insert(agent);
    }
    let unsummed = Unsummed::of(view);
    let none = (Counts::default(), BTreeSet::new());
    let agents: Vec<Summary<'_, AgentRecord>> = view
        .agents
        .values()
        .map(|record| {
            let (counts, others) = by_agent.get(record.id.as_str()).unwrap_or(&none);
            Summary {
                record: &**record,
                counts,
                others,
                used: record.used.clone(),
                offered: record.offered.clone(),
            }
        })
        .collect();
    let frameworks: Vec<Summary<'_, FrameworkRecord>> = view
        .frameworks
        .iter()
        .map(|(key, record)| {
            let (counts, others) = by_framework.get(record.id.as_str()).unwrap_or(&none);
            Summary {
                record: &**record,
                counts,
                others,
                used: unsummed.used(key, &record.used),
                offered: unsummed.offered(key, &record.offered),
            }
        })
        .collect();
    let mut text = String::new();
    write!(
        text,
        "{{\"hostname\":{}",
        serde_json::Value::from(shared.identity.hostname.as_str())
    )
    .map_err(|error| Refusal::internal(error.to_string()))?;
    if let Some(cluster) = &shared.config.cluster {
        let name = serde_json::Value::from(cluster.as_str());
        write!(text, ",\"cluster\":{name}")
            .map_err(|error| Refusal::internal(error.to_string()))?;
    }
    let mut summary = text.into_bytes();
    for (name, part) in [
        ("slaves", body(&agents)?),
        ("frameworks", body(&frameworks)?),
    ] {
        summary.extend_from_slice(format!(",\"{name}\":").as_bytes());
        summary.extend_from_slice(&part);
    }
    summary.push(b'}');
    Ok(summary)
}
