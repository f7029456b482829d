//! The maintenance schedule: which machines go away when, which of them are down, and what follows for their agents.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tepui_api::registry;
use tepui_api::v1::maintenance::{ClusterStatus, Schedule, Window, cluster_status};
use tepui_api::v1::{self, MachineId, Unavailability};

use crate::core::Core;
use crate::keys::AgentKey;
use crate::register::DOWN;

/// A machine as operators name it: by its host name, its address or both; what is not said is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Machine {
    /// In lower case.
    hostname: String,
    ip: String,
}

impl Machine {
    fn new(hostname: &str, ip: &str) -> Self {
        Self {
            hostname: hostname.to_lowercase(),
            ip: ip.to_owned(),
        }
    }

    fn of(id: &MachineId) -> Self {
        Self::new(id.hostname(), id.ip())
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.hostname.as_str(), self.ip.as_str()) {
            (hostname, "") => formatter.write_str(hostname),
            ("", ip) => formatter.write_str(ip),
            (hostname, ip) => write!(formatter, "{hostname} ({ip})"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MaintenanceRefused {
    #[error("List of machines is empty")]
    NoMachines,
    #[error("Both 'hostname' and 'ip' for a machine are empty")]
    Nameless,
    #[error("'{ip}' is not the address of a machine")]
    Ip { ip: String },
    #[error("Machine '{0}' appears more than once in the list of machines")]
    Twice(Machine),
    #[error("Machine '{0}' appears more than once in the schedule")]
    TwiceScheduled(Machine),
    #[error("Unavailability 'duration' is negative")]
    NegativeDuration,
    #[error(
        "Machine '{0}' is DOWN and cannot be removed from the schedule; stop its maintenance first"
    )]
    Down(Machine),
    #[error("Machine '{0}' is not part of a maintenance schedule")]
    NotScheduled(Machine),
    #[error("Machine '{0}' is not in DRAINING mode and cannot be brought down")]
    NotDraining(Machine),
    #[error("Machine '{0}' is not in DOWN mode and cannot be brought up")]
    NotDown(Machine),
}

/// The schedule and the machines in it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Maintenance {
    pub(crate) schedule: Arc<Schedule>,
    machines: BTreeMap<Machine, Unavailability>,
    /// All of them are in the schedule.
    down: BTreeSet<Machine>,
}

impl Maintenance {
    fn new(schedule: Schedule, down: BTreeSet<Machine>) -> Result<Self, MaintenanceRefused> {
        let mut machines = BTreeMap::new();
        for window in &schedule.windows {
            let duration = window.unavailability.duration.as_ref();
            if duration.is_some_and(|duration| duration.nanoseconds < 0) {
                return Err(MaintenanceRefused::NegativeDuration);
            }
            for machine in check_machines(&window.machine_ids)? {
                let before = machines.insert(machine.clone(), window.unavailability);
                if before.is_some() {
                    return Err(MaintenanceRefused::TwiceScheduled(machine));
                }
            }
        }
        if let Some(missing) = down.iter().find(|machine| !machines.contains_key(machine)) {
            return Err(MaintenanceRefused::Down(missing.clone()));
        }
        Ok(Self {
            schedule: Arc::new(schedule),
            machines,
            down,
        })
    }

    /// What the registry held.
    pub(crate) fn recovered(record: registry::Maintenance) -> Result<Self, MaintenanceRefused> {
        Self::new(
            record.schedule,
            record.down.iter().map(Machine::of).collect(),
        )
    }

    pub(crate) fn record(&self) -> registry::Maintenance {
        registry::Maintenance {
            schedule: Schedule::clone(&self.schedule),
            down: self.ids(|machine| self.down.contains(machine)).collect(),
        }
    }

    /// As the schedule has them written, in its order.
    fn ids(&self, wanted: impl Fn(&Machine) -> bool) -> impl Iterator<Item = MachineId> {
        let windows = self.schedule.windows.iter();
        windows
            .flat_map(|window| &window.machine_ids)
            .filter(move |id| wanted(&Machine::of(id)))
            .cloned()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.machines.is_empty()
    }

    /// UPDATE_MAINTENANCE_SCHEDULE.
    pub(crate) fn rescheduled(&self, schedule: Schedule) -> Result<Self, MaintenanceRefused> {
        Self::new(schedule, self.down.clone())
    }

    /// START_MAINTENANCE.
    pub(crate) fn started(&self, machines: &[MachineId]) -> Result<Self, MaintenanceRefused> {
        let mut after = self.clone();
        for machine in check_machines(machines)? {
            if !self.machines.contains_key(&machine) {
                return Err(MaintenanceRefused::NotScheduled(machine));
            }
            if !after.down.insert(machine.clone()) {
                return Err(MaintenanceRefused::NotDraining(machine));
            }
        }
        Ok(after)
    }

    /// STOP_MAINTENANCE: the machines are as if they had never been scheduled.
    pub(crate) fn stopped(&self, machines: &[MachineId]) -> Result<Self, MaintenanceRefused> {
        let machines = check_machines(machines)?;
        let mut down = self.down.clone();
        for machine in &machines {
            if !self.machines.contains_key(machine) {
                return Err(MaintenanceRefused::NotScheduled(machine.clone()));
            }
            if !down.remove(machine) {
                return Err(MaintenanceRefused::NotDown(machine.clone()));
            }
        }
        let windows = self.schedule.windows.iter().map(|window| {
            let mut window = window.clone();
            window
                .machine_ids
                .retain(|id| !machines.contains(&Machine::of(id)));
            window
        });
        let windows = windows
            .filter(|window: &Window| !window.machine_ids.is_empty())
            .collect();
        Self::new(Schedule { windows }, down)
    }

    /// The machine in the schedule that an agent of that host name and address is on.
    fn find(&self, hostname: &str, ip: &str) -> Option<(&Machine, &Unavailability)> {
        let named = [
            Machine::new(hostname, ip),
            Machine::new(hostname, ""),
            Machine::new("", ip),
        ];
        named
            .iter()
            .find_map(|machine| self.machines.get_key_value(machine))
    }

    fn status(&self, mut statuses: BTreeMap<Machine, Vec<Answered>>) -> ClusterStatus {
        let draining = self.ids(|machine| !self.down.contains(machine));
        let draining_machines = draining.map(|id| cluster_status::DrainingMachine {
            statuses: statuses.remove(&Machine::of(&id)).unwrap_or_default(),
            id,
        });
        ClusterStatus {
            draining_machines: draining_machines.collect(),
            down_machines: self.ids(|machine| self.down.contains(machine)).collect(),
        }
    }
}

type Answered = v1::allocator::InverseOfferStatus;

fn check_machines(ids: &[MachineId]) -> Result<BTreeSet<Machine>, MaintenanceRefused> {
    if ids.is_empty() {
        return Err(MaintenanceRefused::NoMachines);
    }
    let mut machines = BTreeSet::new();
    for id in ids {
        let machine = Machine::of(id);
        if machine.hostname.is_empty() && machine.ip.is_empty() {
            return Err(MaintenanceRefused::Nameless);
        }
        if !machine.ip.is_empty() && machine.ip.parse::<IpAddr>().is_err() {
            return Err(MaintenanceRefused::Ip { ip: machine.ip });
        }
        if !machines.insert(machine.clone()) {
            return Err(MaintenanceRefused::Twice(machine));
        }
    }
    Ok(machines)
}

/// Of `10.0.0.1:5051` or `[::1]:5051`.
fn ip_of(endpoint: &str) -> &str {
    let (ip, _) = endpoint.rsplit_once(':').unwrap_or((endpoint, ""));
    ip.trim_matches(['[', ']'])
}

impl Core {
    fn machine(&self, agent: AgentKey) -> Option<(&Machine, &Unavailability)> {
        if self.maintenance.is_empty() {
            return None;
        }
        let record = &self.agents[agent];
        self.maintenance
            .find(&record.info.hostname, ip_of(&record.endpoint))
    }

    /// When the agent's machine is going to be away.
    pub(crate) fn unavailability(&self, agent: AgentKey) -> Option<Unavailability> {
        self.machine(agent)
            .map(|(_, unavailability)| *unavailability)
    }

    /// Whether agents of that host name and address are kept out.
    pub(crate) fn is_down(&self, hostname: &str, endpoint: &str) -> bool {
        let machine = self.maintenance.find(hostname, ip_of(endpoint));
        machine.is_some_and(|(machine, _)| self.maintenance.down.contains(machine))
    }

    pub(crate) fn on_maintenance_changed(&mut self, after: Maintenance) {
        let agents: Vec<AgentKey> = self.agents.iter().map(|(agent, _)| agent).collect();
        let before: Vec<_> = agents
            .iter()
            .map(|agent| self.unavailability(*agent))
            .collect();
        self.maintenance = after;
        for (agent, before) in agents.into_iter().zip(before) {
            let record = &self.agents[agent];
            if self.marking.contains_key(&record.id) {
                // It leaves anyway, and what the registry is being told of it must stand.
                continue;
            }
            if self.is_down(&record.info.hostname, &record.endpoint) {
                self.remove_agent(agent, DOWN);
            } else if self.unavailability(agent) != before {
                // They are made again, and say when.
                self.rescind_offers_of_agent(agent);
                self.forget_inverse_offers_of_agent(agent);
                self.invert_offers_of(agent);
            }
        }
    }

    /// What GET_MAINTENANCE_STATUS shows.
    pub(crate) fn maintenance_status(&self) -> ClusterStatus {
        let mut statuses: BTreeMap<Machine, Vec<Answered>> = BTreeMap::new();
        for (agent, status) in self.inverse_offers.answered() {
            if let Some((machine, _)) = self.machine(agent) {
                statuses
                    .entry(machine.clone())
                    .or_default()
                    .push(status.clone());
            }
        }
        self.maintenance.status(statuses)
    }
}
