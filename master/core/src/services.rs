//! Who offers a service under a name: running tasks whose DiscoveryInfo has it, looked up without going through all tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tepui_api::guest;
use tepui_api::v1::discovery_info::Visibility;
use tepui_api::v1::{self, TaskState};

use crate::core::Core;
use crate::input::LinkKey;
use crate::keys::{AgentKey, TaskKey};
use crate::view::TaskRecord;
use crate::wire;

/// Tasks of one name that are looked at.
const LOOKED_AT: usize = 4096;
/// Endpoints that are told.
const TOLD: usize = 1024;
/// Ports that are told of one task that names none.
const PORTS_NAMED: usize = 16;
const LONGEST_NAME: usize = 256;

/// The running tasks by the name they are found by.
#[derive(Debug, Default)]
pub(crate) struct Services(BTreeMap<String, BTreeSet<TaskKey>>);

/// Who is to be tried first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Healthy,
    /// Nobody looks whether it is.
    Unwatched,
    /// Its agent is; the task may run on.
    Away,
    Unhealthy,
}

fn refused(code: guest::failure::Code, message: String) -> guest::Answer {
    let mut failure = guest::Failure {
        message,
        ..guest::Failure::default()
    };
    failure.set_code(code);
    guest::Answer {
        body: Some(guest::answer::Body::Failure(failure)),
    }
}

/// What it would be found by if it ran.
fn name_of(task: &TaskRecord) -> Option<&str> {
    let name = task.wire.discovery.as_ref()?.name.as_deref()?;
    (!name.is_empty()).then_some(name)
}

impl Services {
    fn remove(&mut self, name: &str, key: TaskKey) {
        if let Some(named) = self.0.get_mut(name) {
            named.remove(&key);
            if named.is_empty() {
                self.0.remove(name);
            }
        }
    }
}

impl Core {
    /// Keeps the index true of a task that has just come, or whose state has changed.
    pub(crate) fn index_service(&mut self, key: TaskKey) {
        let task = &self.tasks[key];
        let Some(name) = name_of(task) else { return };
        if task.state() == TaskState::TaskRunning {
            self.services
                .0
                .entry(name.to_owned())
                .or_default()
                .insert(key);
        } else {
            self.services.remove(name, key);
        }
    }

    /// The task was taken out of the table.
    pub(crate) fn forget_service(&mut self, key: TaskKey, task: &TaskRecord) {
        if let Some(name) = name_of(task) {
            self.services.remove(name, key);
        }
    }

    /// What a guest of a task of that framework, on the agent at the other end of the link, is told of a name.
    pub(crate) fn find_services(
        &self,
        link: LinkKey,
        framework: &str,
        name: &str,
        turn: u64,
    ) -> guest::Answer {
        if name.is_empty() || name.len() > LONGEST_NAME {
            let message = format!("The name of a service has 1 to {LONGEST_NAME} bytes");
            return refused(guest::failure::Code::Invalid, message);
        }
        let asking = self.links.get(&link);
        let named = self.services.0.get(name).into_iter().flatten();
        let mut found: Vec<(Rank, Vec<guest::Endpoint>)> = named
            .take(LOOKED_AT)
            .filter_map(|key| self.service(*key, framework, asking.copied()))
            .collect();
        if found.is_empty() && !self.recovered_agents.is_empty() {
            let message = format!(
                "Ask again later: the master has just started, {} agents have not come back yet, and none of the others \
                 has a service '{name}'",
                self.recovered_agents.len()
            );
            return refused(guest::failure::Code::Unavailable, message);
        }
        found.sort_by(|(left, ours), (right, theirs)| {
            let first = |endpoints: &[guest::Endpoint]| {
                let first = endpoints.first()?;
                let (framework, task) = (&first.framework_id.value, &first.task_id.value);
                Some((framework.clone(), task.clone()))
            };
            (left, first(ours)).cmp(&(right, first(theirs)))
        });
        // Whoever takes the first of equals is to take another one each time.
        for equals in found.chunk_by_mut(|(left, _), (right, _)| left == right) {
            let turns = (turn % equals.len() as u64) as usize;
            equals.rotate_left(turns);
        }
        let endpoints = found.into_iter().flat_map(|(_, endpoints)| endpoints);
        let endpoints = guest::Endpoints {
            endpoints: endpoints.take(TOLD).collect(),
        };
        guest::Answer {
            body: Some(guest::answer::Body::Endpoints(endpoints)),
        }
    }

    /// Where a task is reached, if the asking framework may know of it and its machine can be reached from the agent.
    fn service(
        &self,
        key: TaskKey,
        framework: &str,
        asking: Option<AgentKey>,
    ) -> Option<(Rank, Vec<guest::Endpoint>)> {
        let task = self.tasks.get(key)?;
        let discovery = task.wire.discovery.as_ref()?;
        let is_own = task.framework_id.as_str() == framework;
        let is_for = |visibility: Visibility| visibility != Visibility::Framework || is_own;
        if !is_for(discovery.visibility()) {
            return None;
        }
        let host = self.host_of(task.agent, asking)?;
        let named = discovery.ports.iter().flat_map(|ports| &ports.ports);
        let named = named
            .clone()
            // One that says nothing of its own is as visible as its task.
            .filter(|port| port.visibility.is_none() || is_for(port.visibility()))
            .cloned();
        let mut ports: Vec<v1::Port> = match discovery.ports.iter().all(|all| all.ports.is_empty())
        {
            true => held_ports(&task.wire.resources),
            false => named.collect(),
        };
        ports.retain(|port| (1..=u32::from(u16::MAX)).contains(&port.number));
        let healthy = task.wire.statuses.last().and_then(|last| last.healthy);
        let rank = match (healthy, self.agents[task.agent].connected) {
            (Some(false), _) => Rank::Unhealthy,
            (_, false) => Rank::Away,
            (None, true) => Rank::Unwatched,
            (Some(true), true) => Rank::Healthy,
        };
        let endpoints = ports.into_iter().map(|port| guest::Endpoint {
            host: host.clone(),
            port: port.number,
            port_name: port.name,
            protocol: port.protocol,
            framework_id: wire::framework_id(&task.framework_id),
            task_id: wire::task_id(&task.id),
            healthy,
        });
        Some((rank, endpoints.collect()))
    }

    /// Where tasks of an agent answer to those of another; `None` if nowhere.
    fn host_of(&self, agent: AgentKey, asking: Option<AgentKey>) -> Option<String> {
        let record = self.agents.get(agent)?;
        let here = asking.and_then(|asking| self.agents.get(asking));
        let is_same_machine = here.is_some_and(|here| {
            here.id == record.id || (here.seen_at.is_some() && here.seen_at == record.seen_at)
        });
        let Ok(told) = record.endpoint.parse::<SocketAddr>() else {
            // A name, as the agent knows itself.
            let name = record.endpoint.rsplit_once(':').map(|(name, _)| name);
            return name.map(str::to_owned);
        };
        let ip = told.ip();
        if !ip.is_loopback() && !ip.is_unspecified() {
            return Some(ip.to_string());
        }
        let loopback = match ip {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        if !record.listens_everywhere {
            // From another machine nobody gets there, and would find somebody else at its own loopback.
            return is_same_machine.then(|| loopback.to_string());
        }
        let of_master = self.config.ip.parse::<IpAddr>().ok();
        let from_elsewhere = |ip: &IpAddr| !ip.is_loopback() && !ip.is_unspecified();
        // One that dials by the loopback is on the master's machine.
        let seen_at = record.seen_at.filter(from_elsewhere);
        match seen_at.or(of_master.filter(from_elsewhere)) {
            Some(ip) => Some(ip.to_string()),
            None if is_same_machine => Some(loopback.to_string()),
            None => Some(record.info.hostname.clone()),
        }
    }

    pub(crate) fn check_services(&self) {
        let mut counted = BTreeMap::<String, BTreeSet<TaskKey>>::new();
        for (key, task) in self.tasks.iter() {
            let runs = task.state() == TaskState::TaskRunning;
            if let Some(name) = name_of(task).filter(|_| runs) {
                counted.entry(name.to_owned()).or_default().insert(key);
            }
        }
        assert_eq!(self.services.0, counted, "who offers what");
    }
}

/// In the order in which the agent tells a task of its ports, so that what a service listens on comes first.
fn held_ports(resources: &[v1::Resource]) -> Vec<v1::Port> {
    let ports = resources
        .iter()
        .filter(|resource| resource.name == "ports")
        .filter_map(|resource| resource.ranges.as_ref())
        .flat_map(|ranges| &ranges.range)
        .flat_map(|range| range.begin..=range.end.min(u64::from(u16::MAX)));
    ports
        .take(PORTS_NAMED)
        .filter_map(|port| u32::try_from(port).ok())
        .map(|number| v1::Port {
            number,
            ..v1::Port::default()
        })
        .collect()
}
