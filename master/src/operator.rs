//! The operator's reads, from a photograph of the core's state.

use std::collections::BTreeMap;
use std::time::Duration;

use tepui_access::Action;
use tepui_api::convert::{ResourceFormat, resources_to_wire};
use tepui_api::secrets::concealed;
use tepui_api::v1;
use tepui_api::v1::master::{Call, Response, call, response};
use tepui_master_core::{
    AgentRecord, Deactivation, FrameworkKey, FrameworkRecord, View, quota_config,
};
use tepui_model::{Quantities, Resource, Resources, Role};

use crate::shared::{Refusal, Shared};
use crate::unsummed::Unsummed;
use crate::{MESOS_API_LEVEL, log};

pub(crate) enum Kind {
    /// The core decides on it.
    Change,
    Read(Read),
    /// A stream of events.
    Subscribe,
    Metrics {
        patience: Option<Duration>,
    },
    /// Only this process says more for a while.
    SetLoggingLevel {
        level: u32,
        duration: Duration,
    },
}

#[derive(Debug, Clone)]
pub(crate) enum Read {
    Health,
    Flags,
    Version,
    State,
    Agents,
    Frameworks,
    Executors,
    Tasks,
    Operations,
    Roles,
    Weights,
    Quota,
    Master,
    MaintenanceSchedule,
    MaintenanceStatus,
    LoggingLevel,
    ListFiles(call::ListFiles),
    ReadFile(call::ReadFile),
}

impl Kind {
    /// The action that the caller must be permitted, and the name of the list that says so, where the shell decides.
    pub(crate) fn guard(&self) -> Option<Action> {
        match self {
            Self::SetLoggingLevel { .. } => Some(Action::SetLogLevel),
            Self::Read(Read::ListFiles(_) | Read::ReadFile(_)) => Some(Action::AccessMesosLog),
            Self::Read(Read::Flags) => Some(Action::ViewFlags),
            _ => None,
        }
    }
}

pub(crate) fn classify(call: &Call) -> Result<Kind, Refusal> {
    use call::Type;
    // A number that stands for nothing is as good as none.
    if call
        .r#type
        .and_then(|number| Type::try_from(number).ok())
        .is_none()
    {
        return Err(Refusal::bad_request("Expecting 'type' to be present"));
    }
    let kind = call.r#type();
    check_form(kind, call)?;
    Ok(match kind {
        Type::GetHealth => Kind::Read(Read::Health),
        Type::GetFlags => Kind::Read(Read::Flags),
        Type::GetVersion => Kind::Read(Read::Version),
        Type::GetMetrics => {
            let asked = call.get_metrics.as_ref();
            let timeout = asked.and_then(|asked| asked.timeout.as_ref());
            let patience = timeout.map(|timeout| duration("timeout", timeout.nanoseconds));
            Kind::Metrics {
                patience: patience.transpose()?,
            }
        }
        Type::GetState => Kind::Read(Read::State),
        Type::GetAgents => Kind::Read(Read::Agents),
        Type::GetFrameworks => Kind::Read(Read::Frameworks),
        Type::GetExecutors => Kind::Read(Read::Executors),
        Type::GetTasks => Kind::Read(Read::Tasks),
        Type::GetOperations => Kind::Read(Read::Operations),
        Type::GetRoles => Kind::Read(Read::Roles),
        Type::GetWeights => Kind::Read(Read::Weights),
        Type::GetQuota => Kind::Read(Read::Quota),
        Type::GetMaster => Kind::Read(Read::Master),
        Type::GetMaintenanceSchedule => Kind::Read(Read::MaintenanceSchedule),
        Type::GetMaintenanceStatus => Kind::Read(Read::MaintenanceStatus),
        Type::Subscribe => Kind::Subscribe,
        Type::GetLoggingLevel => Kind::Read(Read::LoggingLevel),
        Type::SetLoggingLevel => {
            let set = call.set_logging_level.unwrap_or_default();
            Kind::SetLoggingLevel {
                level: set.level,
                duration: duration("duration", set.duration.nanoseconds)?,
            }
        }
        Type::ListFiles => Kind::Read(Read::ListFiles(call.list_files.clone().unwrap_or_default())),
        Type::ReadFile => Kind::Read(Read::ReadFile(call.read_file.clone().unwrap_or_default())),
        Type::UpdateWeights
        | Type::ReserveResources
        | Type::UnreserveResources
        | Type::CreateVolumes
        | Type::DestroyVolumes
        | Type::GrowVolume
        | Type::ShrinkVolume
        | Type::UpdateMaintenanceSchedule
        | Type::StartMaintenance
        | Type::StopMaintenance
        | Type::DrainAgent
        | Type::DeactivateAgent
        | Type::ReactivateAgent
        | Type::UpdateQuota
        | Type::SetQuota
        | Type::RemoveQuota
        | Type::Teardown
        | Type::MarkAgentGone => Kind::Change,
        Type::Unknown => {
            let message = format!(
                "This master does not implement the call {}",
                kind.as_str_name()
            );
            return Err(Refusal::new(
                axum::http::StatusCode::NOT_IMPLEMENTED,
                message,
            ));
        }
    })
}

fn duration(field: &str, nanoseconds: i64) -> Result<Duration, Refusal> {
    let duration = u64::try_from(nanoseconds).map(Duration::from_nanos);
    duration.map_err(|_| {
        let message = format!("Expecting '{field}' not to be negative: {nanoseconds} ns");
        Refusal::bad_request(message)
    })
}

/// A call that needs its own message has it.
fn check_form(kind: call::Type, call: &Call) -> Result<(), Refusal> {
    use call::Type;
    let (field, is_there) = match kind {
        Type::GetMetrics => ("get_metrics", call.get_metrics.is_some()),
        Type::SetLoggingLevel => ("set_logging_level", call.set_logging_level.is_some()),
        Type::ListFiles => ("list_files", call.list_files.is_some()),
        Type::ReadFile => ("read_file", call.read_file.is_some()),
        Type::UpdateWeights => ("update_weights", call.update_weights.is_some()),
        Type::ReserveResources => ("reserve_resources", call.reserve_resources.is_some()),
        Type::UnreserveResources => ("unreserve_resources", call.unreserve_resources.is_some()),
        Type::CreateVolumes => ("create_volumes", call.create_volumes.is_some()),
        Type::DestroyVolumes => ("destroy_volumes", call.destroy_volumes.is_some()),
        Type::GrowVolume => ("grow_volume", call.grow_volume.is_some()),
        Type::ShrinkVolume => ("shrink_volume", call.shrink_volume.is_some()),
        Type::UpdateMaintenanceSchedule => (
            "update_maintenance_schedule",
            call.update_maintenance_schedule.is_some(),
        ),
        Type::StartMaintenance => ("start_maintenance", call.start_maintenance.is_some()),
        Type::StopMaintenance => ("stop_maintenance", call.stop_maintenance.is_some()),
        Type::DrainAgent => ("drain_agent", call.drain_agent.is_some()),
        Type::DeactivateAgent => ("deactivate_agent", call.deactivate_agent.is_some()),
        Type::ReactivateAgent => ("reactivate_agent", call.reactivate_agent.is_some()),
        Type::UpdateQuota => ("update_quota", call.update_quota.is_some()),
        Type::SetQuota => ("set_quota", call.set_quota.is_some()),
        Type::RemoveQuota => ("remove_quota", call.remove_quota.is_some()),
        Type::Teardown => ("teardown", call.teardown.is_some()),
        Type::MarkAgentGone => ("mark_agent_gone", call.mark_agent_gone.is_some()),
        _ => return Ok(()),
    };
    if is_there {
        Ok(())
    } else {
        Err(Refusal::bad_request(format!(
            "Expecting '{field}' to be present"
        )))
    }
}

pub(crate) fn metrics(figures: BTreeMap<String, f64>) -> Response {
    let metrics = figures.into_iter().map(|(name, value)| v1::Metric {
        name,
        value: Some(value),
    });
    Response {
        r#type: Some(response::Type::GetMetrics.into()),
        get_metrics: Some(response::GetMetrics {
            metrics: metrics.collect(),
        }),
        ..Response::default()
    }
}

pub(crate) fn answer(read: &Read, shared: &Shared, view: &View) -> Result<Response, Refusal> {
    use response::Type;
    let mut response = Response::default();
    let kind = match read {
        Read::Health => {
            response.get_health = Some(response::GetHealth { healthy: true });
            Type::GetHealth
        }
        Read::Flags => {
            let flags = shared.config.flags().into_iter();
            let flags = flags
                .map(|(name, value)| v1::Flag {
                    name: name.to_owned(),
                    value: Some(value),
                })
                .collect();
            response.get_flags = Some(response::GetFlags { flags });
            Type::GetFlags
        }
        Read::Version => {
            let version_info = v1::VersionInfo {
                version: MESOS_API_LEVEL.to_owned(),
                ..Default::default()
            };
            response.get_version = Some(response::GetVersion { version_info });
            Type::GetVersion
        }
        Read::State => {
            response.get_state = Some(state(view));
            Type::GetState
        }
        Read::Agents => {
            response.get_agents = Some(agents(view));
            Type::GetAgents
        }
        Read::Frameworks => {
            response.get_frameworks = Some(frameworks(view));
            Type::GetFrameworks
        }
        Read::Executors => {
            response.get_executors = Some(executors(view));
            Type::GetExecutors
        }
        Read::Tasks => {
            response.get_tasks = Some(tasks(view));
            Type::GetTasks
        }
        Read::Operations => {
            let operations = view.operations.values();
            response.get_operations = Some(response::GetOperations {
                operations: operations.map(|operation| operation.wire.clone()).collect(),
            });
            Type::GetOperations
        }
        Read::Roles => {
            response.get_roles = Some(roles(view));
            Type::GetRoles
        }
        Read::Weights => {
            // 1 is what a role has without having been given a weight.
            let given = view.roles.iter().filter(|(_, record)| record.weight != 1.0);
            let infos = given.map(|(role, record)| v1::WeightInfo {
                weight: record.weight,
                role: Some(role.to_string()),
            });
            response.get_weights = Some(response::GetWeights {
                weight_infos: infos.collect(),
            });
            Type::GetWeights
        }
        Read::Quota => {
            response.get_quota = Some(response::GetQuota {
                status: quota_status(view),
            });
            Type::GetQuota
        }
        Read::Master => {
            let started = shared.identity.started_wall_ns as f64 / 1e9;
            response.get_master = Some(response::GetMaster {
                master_info: Some(v1::MasterInfo::clone(&view.master)),
                start_time: Some(started),
                elected_time: Some(started),
            });
            Type::GetMaster
        }
        Read::MaintenanceSchedule => {
            response.get_maintenance_schedule = Some(response::GetMaintenanceSchedule {
                schedule: v1::maintenance::Schedule::clone(&view.maintenance_schedule),
            });
            Type::GetMaintenanceSchedule
        }
        Read::MaintenanceStatus => {
            response.get_maintenance_status = Some(response::GetMaintenanceStatus {
                status: view.maintenance_status.clone(),
            });
            Type::GetMaintenanceStatus
        }
        Read::LoggingLevel => {
            let level = shared.verbosity.level();
            response.get_logging_level = Some(response::GetLoggingLevel { level });
            Type::GetLoggingLevel
        }
        Read::ListFiles(asked) => {
            response.list_files = Some(log::list(asked)?);
            Type::ListFiles
        }
        Read::ReadFile(asked) => {
            response.read_file = Some(log::read(asked)?);
            Type::ReadFile
        }
    };
    response.r#type = Some(kind.into());
    Ok(response)
}

pub(crate) fn state(view: &View) -> response::GetState {
    response::GetState {
        get_tasks: Some(tasks(view)),
        get_executors: Some(executors(view)),
        get_frameworks: Some(frameworks(view)),
        get_agents: Some(agents(view)),
    }
}

fn wire(resources: &Resources) -> Vec<v1::Resource> {
    resources_to_wire(resources, ResourceFormat::Endpoint, None)
}

fn time(nanoseconds: i64) -> v1::TimeInfo {
    v1::TimeInfo { nanoseconds }
}

pub(crate) fn agent_pid(agent: &AgentRecord) -> String {
    format!("slave(1)@{}", agent.endpoint)
}

pub(crate) fn agent(
    agent: &AgentRecord,
    deactivation: Option<&Deactivation>,
) -> response::get_agents::Agent {
    let drain = deactivation.and_then(|deactivation| deactivation.drain.as_ref());
    response::get_agents::Agent {
        agent_info: v1::AgentInfo::clone(&agent.info),
        active: agent.active,
        version: MESOS_API_LEVEL.to_owned(),
        pid: Some(agent_pid(agent)),
        registered_time: Some(time(agent.registered_ns)),
        reregistered_time: agent.reregistered_ns.map(time),
        total_resources: wire(&agent.total),
        allocated_resources: wire(&agent.used),
        offered_resources: wire(&agent.offered),
        capabilities: agent.capabilities.to_vec(),
        deactivated: Some(deactivation.is_some()),
        drain_info: drain.map(|drain| drain.info),
        estimated_drain_start_time: drain.map(|drain| time(drain.started_ns)),
        holdings: agent.inventory.iter().cloned().collect(),
        ..Default::default()
    }
}

fn agents(view: &View) -> response::GetAgents {
    let agents = view
        .agents
        .values()
        .map(|record| agent(record, view.deactivated_agents.get(&record.id)));
    let recovered_agents = view
        .recovered_agents
        .values()
        .map(|info| v1::AgentInfo::clone(info))
        .collect();
    response::GetAgents {
        agents: agents.collect(),
        recovered_agents,
    }
}

pub(crate) fn framework(
    record: &FrameworkRecord,
    offers: Vec<v1::Offer>,
) -> response::get_frameworks::Framework {
    response::get_frameworks::Framework {
        framework_info: v1::FrameworkInfo::clone(&record.info),
        active: record.active,
        connected: record.connected,
        recovered: record.recovered,
        registered_time: Some(time(record.registered_ns)),
        reregistered_time: record.reregistered_ns.map(time),
        unregistered_time: record.unregistered_ns.map(time),
        offers,
        allocated_resources: wire(&record.used),
        offered_resources: wire(&record.offered),
        offer_constraints: record.offer_constraints.as_deref().cloned(),
        ..Default::default()
    }
}

fn frameworks(view: &View) -> response::GetFrameworks {
    let mut offers: BTreeMap<FrameworkKey, Vec<v1::Offer>> = BTreeMap::new();
    for offer in view.offers.values() {
        offers
            .entry(offer.framework)
            .or_default()
            .push(v1::Offer::clone(&offer.wire));
    }
    let unsummed = Unsummed::of(view);
    let live = view.frameworks.iter();
    response::GetFrameworks {
        frameworks: live
            .map(|(key, record)| response::get_frameworks::Framework {
                allocated_resources: wire(&unsummed.used(key, &record.used)),
                offered_resources: wire(&unsummed.offered(key, &record.offered)),
                ..framework(record, offers.remove(&key).unwrap_or_default())
            })
            .collect(),
        completed_frameworks: view
            .completed_frameworks
            .iter()
            .map(|record| framework(record, Vec::new()))
            .collect(),
        ..Default::default()
    }
}

fn executors(view: &View) -> response::GetExecutors {
    let executors = view
        .executors
        .values()
        .map(|record| response::get_executors::Executor {
            executor_info: concealed(&*record.info),
            agent_id: v1::AgentId {
                value: record.agent_id.to_string(),
            },
        });
    response::GetExecutors {
        executors: executors.collect(),
        ..Default::default()
    }
}

fn tasks(view: &View) -> response::GetTasks {
    let known = || {
        view.frameworks
            .values()
            .chain(view.completed_frameworks.iter())
    };
    response::GetTasks {
        tasks: view
            .tasks
            .values()
            .map(|record| record.wire.clone())
            .collect(),
        completed_tasks: known()
            .flat_map(|framework| framework.completed_tasks.iter())
            .map(|task| v1::Task::clone(task))
            .collect(),
        unreachable_tasks: known()
            .flat_map(|framework| framework.unreachable_tasks.values())
            .map(|task| v1::Task::clone(task))
            .collect(),
        ..Default::default()
    }
}

/// What each role holds: in use by its tasks and executors, and in open offers.
#[derive(Default)]
pub(crate) struct Holding {
    pub(crate) used: Resources,
    pub(crate) offered: Resources,
    pub(crate) frameworks: Vec<v1::FrameworkId>,
    /// What is reserved for exactly this role, in use or not.
    pub(crate) reserved: Resources,
    /// Of its quota, with all roles beneath it: what is reserved for them, and what they use of the rest.
    pub(crate) consumed: Quantities,
}

pub(crate) fn holdings(view: &View) -> BTreeMap<&Role, Holding> {
    let mut holdings: BTreeMap<&Role, Holding> = view
        .roles
        .keys()
        .map(|role| (role, Holding::default()))
        .collect();
    for framework in view.frameworks.values() {
        for role in framework.roles.iter() {
            let id = v1::FrameworkId {
                value: framework.id.to_string(),
            };
            holdings.entry(role).or_default().frameworks.push(id);
        }
    }
    for task in view
        .tasks
        .values()
        .filter(|task| !task.state().is_terminal())
    {
        holdings
            .entry(&task.role)
            .or_default()
            .used
            .add(&task.resources);
    }
    for executor in view.executors.values() {
        holdings
            .entry(&executor.role)
            .or_default()
            .used
            .add(&executor.resources);
    }
    for offer in view.offers.values() {
        holdings
            .entry(&offer.role)
            .or_default()
            .offered
            .add(&offer.resources);
    }
    for agent in view.agents.values() {
        let reserved = agent.total.iter().filter_map(|resource| {
            let role = resource.reserved_role()?;
            Some((role, resource.clone()))
        });
        for (role, resource) in reserved {
            holdings
                .entry(role)
                .or_default()
                .reserved
                .add_resource(resource);
        }
    }
    consume(&mut holdings);
    holdings
}

/// Adds up what each role consumes of its quota, beneath and above.
fn consume(holdings: &mut BTreeMap<&Role, Holding>) {
    let own: Vec<(Role, Quantities)> = holdings
        .iter()
        .map(|(role, holding)| {
            let lasting = |resource: &Resource| !resource.revocable;
            let unreserved = |resource: &Resource| lasting(resource) && !resource.is_reserved();
            let mut consumed = holding.used.filter(unreserved).quantities();
            consumed.add(&holding.reserved.filter(lasting).quantities());
            ((*role).clone(), consumed)
        })
        .collect();
    for (role, consumed) in own {
        for role in std::iter::once(role.clone()).chain(role.ancestors()) {
            if let Some(holding) = holdings.get_mut(&role) {
                holding.consumed.add(&consumed);
            }
        }
    }
}

/// In the new form, and in the old one for those roles whose guarantee is all there is to say in it.
fn quota_status(view: &View) -> v1::quota::QuotaStatus {
    let infos = view.quotas.iter().map(|(role, quota)| {
        let guarantee = quota.guarantees.iter();
        let guarantee = guarantee.map(|(name, amount)| Resource::scalar(name.clone(), amount));
        v1::quota::QuotaInfo {
            role: Some(role.to_string()),
            principal: None,
            guarantee: resources_to_wire(&guarantee.collect(), ResourceFormat::Refined, None),
        }
    });
    let configs = view.quotas.iter();
    v1::quota::QuotaStatus {
        infos: infos.collect(),
        configs: configs
            .map(|(role, quota)| quota_config(role, quota))
            .collect(),
    }
}

pub(crate) fn weight(view: &View, role: &Role) -> f64 {
    view.roles.get(role).map_or(1.0, |record| record.weight)
}

fn roles(view: &View) -> response::GetRoles {
    let roles = holdings(view).into_iter().map(|(role, holding)| {
        let mut resources = holding.used;
        resources.add(&holding.offered);
        v1::Role {
            name: role.to_string(),
            weight: weight(view, role),
            frameworks: holding.frameworks,
            resources: wire(&resources),
        }
    });
    response::GetRoles {
        roles: roles.collect(),
    }
}
