//! Figures under the names that Mesos's tools ask for: the core's counters, and what follows from its state.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZero;
use std::time::{Duration, Instant};

use tepui_api::system_metrics;
use tepui_api::v1::scheduler::{call, event};
use tepui_api::v1::{OperationState, offer};
use tepui_master_core::{
    AgentRecord, FrameworkRecord, Metric, Starvation, TASK_STATES, Tally, View,
};
use tepui_model::{FrameworkId, Milli, Resources};

use crate::http::Parameters;
use crate::shared::{Refusal, Shared};

/// What the shell adds to the core's own [`tepui_master_core::METRICS`]. A name that ends in a slash stands for all
/// that begin so.
pub(crate) const METRICS: &[Metric] = &[
    metric("master/elected", "1: this master leads"),
    metric(
        "allocator/mesos/allocation_run_ms",
        "How long the last step took in which the allocator was asked, what it gave made into offers",
    ),
    metric(
        "allocator/mesos/allocation_run_ms/",
        "The same, of the last hour and at most 1,000 runs: count, min, max and percentiles (p50 to p9999)",
    ),
    metric(
        "master/event_queue_messages",
        "Calls and messages of agents that wait for the core",
    ),
    metric(
        "master/event_queue_dispatches",
        "Questions to the core and answers of the registry that wait for it",
    ),
    metric("master/uptime_secs", "Seconds since the start"),
    metric(
        "master/operator_event_stream_subscribers",
        "Operators that listen to events",
    ),
    metric(
        "master/recovered_slaves",
        "Agents from before the restart that are not back yet",
    ),
    metric(
        "master/frameworks/",
        "Of one framework: calls, events, operations, offers, tasks by state; allocation/unoffered_secs, for how long it \
         has asked and was offered nothing; allocation/share_deficit, by how much its dominant share is below its fair one",
    ),
    metric(
        "registrar/queued_operations",
        "Writes that wait for the registry",
    ),
    metric(
        "registrar/registry_size_bytes",
        "What the registry takes on disk",
    ),
    metric(
        "registrar/state_fetch_ms",
        "How long reading the registry took at the start",
    ),
    metric("registrar/state_store_ms", "How long the last write took"),
    metric(
        "frameworks/",
        "Calls of the frameworks of one principal: how many came, and how many had their turn",
    ),
    metric(
        "master/operations/",
        "Operations on agents' resources by type and state: those under way, and how others ended",
    ),
    metric("system/cpus_total", "Processors of the machine"),
    metric("system/load_1min", "Load of the last minute"),
    metric("system/load_5min", "Load of the last 5 minutes"),
    metric("system/load_15min", "Load of the last 15 minutes"),
    metric("system/mem_free_bytes", "Free memory of the machine"),
    metric("system/mem_total_bytes", "Memory of the machine"),
];

const fn metric(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help }
}

/// What each figure means, by its name.
pub(crate) fn help() -> BTreeMap<String, &'static str> {
    let own = METRICS.iter().chain(tepui_master_core::METRICS);
    let mut help: BTreeMap<String, &str> = own
        .map(|metric| (metric.name.to_owned(), metric.help))
        .collect();
    for (name, unit) in RESOURCES.into_iter().flat_map(with_revocable) {
        help.insert(format!("master/{name}_total"), unit);
        help.insert(format!("master/{name}_used"), "How much of it tasks use");
        help.insert(
            format!("master/{name}_percent"),
            "Which part of it, from 0 to 1",
        );
    }
    help
}

const RESOURCES: [(&str, &str); 4] = [
    ("cpus", "CPUs of all agents"),
    ("gpus", "GPUs of all agents"),
    ("mem", "Megabytes of memory of all agents"),
    ("disk", "Megabytes of disk of all agents"),
];

fn with_revocable((name, unit): (&str, &'static str)) -> [(String, &'static str); 2] {
    [(name.to_owned(), unit), (format!("{name}_revocable"), unit)]
}

/// All figures, or, if the core is not heard of in time, those for which it need not be asked.
pub(crate) async fn within(
    shared: &Shared,
    patience: Option<Duration>,
) -> Result<BTreeMap<String, f64>, Refusal> {
    let view = match patience {
        None => shared.view().await.map(Some),
        Some(patience) => tokio::time::timeout(patience, shared.view())
            .await
            .map_or(Ok(None), |view| view.map(Some)),
    }?;
    let Some(view) = view else {
        return Ok(own(shared));
    };
    let starvation = shared.ask(|core, now| core.starvation(now)).await?;
    Ok(collect(shared, &view, starvation))
}

/// `?timeout=5secs`
pub(crate) fn patience(parameters: &Parameters) -> Result<Option<Duration>, Refusal> {
    let Some(text) = parameters.get("timeout") else {
        return Ok(None);
    };
    tepui_model::parse_duration(text)
        .map(Some)
        .map_err(|error| Refusal::bad_request(format!("Invalid timeout '{text}': {error}")))
}

fn collect(shared: &Shared, view: &View, starvation: Vec<Starvation>) -> BTreeMap<String, f64> {
    let mut metrics = Figures(own(shared));
    for (name, value) in view.counters.iter() {
        metrics.add(name, *value as f64);
    }
    metrics.add(
        "master/recovered_slaves",
        view.recovered_agents.len() as f64,
    );
    resources(view, &mut metrics);
    operations(view, &mut metrics);
    for (principal, calls) in &view.calls {
        let prefix = format!("frameworks/{principal}");
        metrics.add(
            &format!("{prefix}/messages_received"),
            calls.received as f64,
        );
        metrics.add(
            &format!("{prefix}/messages_processed"),
            calls.processed as f64,
        );
    }
    let starvation: BTreeMap<FrameworkId, Starvation> = starvation
        .into_iter()
        .map(|starvation| (starvation.framework.clone(), starvation))
        .collect();
    for framework in view.frameworks.values() {
        of_framework(framework, starvation.get(&framework.id), &mut metrics);
    }
    metrics.0
}

#[derive(Default)]
struct Figures(BTreeMap<String, f64>);

impl Figures {
    fn add(&mut self, name: &str, value: f64) {
        self.0.insert(name.to_owned(), value);
    }
}

/// What is known without asking the core.
fn own(shared: &Shared) -> BTreeMap<String, f64> {
    let mut metrics = Figures::default();
    let waiting = shared.inbox.max_capacity() - shared.inbox.capacity();
    let uptime = shared.identity.started.elapsed();
    metrics.add("master/elected", 1.0);
    metrics.add("master/uptime_secs", uptime.as_secs_f64());
    let dispatches = shared.gauges.dispatches();
    metrics.add(
        "master/event_queue_messages",
        waiting.saturating_sub(dispatches) as f64,
    );
    metrics.add("master/event_queue_dispatches", dispatches as f64);
    let runs = shared.gauges.allocation_runs();
    for (name, value) in runs.figures("allocator/mesos/allocation_run_ms", Instant::now()) {
        metrics.add(&name, value);
    }
    drop(runs);
    metrics.add(
        "master/operator_event_stream_subscribers",
        shared.gauges.operator_stream_subscribers() as f64,
    );
    metrics.add("registrar/queued_operations", shared.writer.queued() as f64);
    if let Ok(file) = fs::metadata(shared.config.registry_dir().join("db")) {
        metrics.add("registrar/registry_size_bytes", file.len() as f64);
    }
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    metrics.add(
        "registrar/state_store_ms",
        milliseconds(shared.writer.last_commit()),
    );
    metrics.add(
        "registrar/state_fetch_ms",
        milliseconds(shared.registry_loaded_in),
    );
    for (name, value) in system() {
        metrics.add(name, value);
    }
    metrics.0
}

fn resources(view: &View, metrics: &mut Figures) {
    for (name, _) in RESOURCES {
        for revocable in [false, true] {
            let sum = |of: fn(&AgentRecord) -> &Resources| {
                let resources = view.agents.values().flat_map(|agent| of(agent).iter());
                let matching = resources
                    .filter(|resource| &*resource.name == name && resource.revocable == revocable);
                matching
                    .fold(Milli::ZERO, |sum, resource| {
                        sum.checked_add(resource.quantity.amount()).unwrap_or(sum)
                    })
                    .to_f64()
            };
            let (total, used) = (sum(|agent| &agent.total), sum(|agent| &agent.used));
            let suffix = if revocable { "_revocable" } else { "" };
            metrics.add(&format!("master/{name}{suffix}_total"), total);
            metrics.add(&format!("master/{name}{suffix}_used"), used);
            let share = if total > 0.0 { used / total } else { 0.0 };
            metrics.add(&format!("master/{name}{suffix}_percent"), share);
        }
    }
}

/// The types that agents carry out, and the states in which operations end.
const OPERATIONS: [offer::operation::Type; 6] = [
    offer::operation::Type::Reserve,
    offer::operation::Type::Unreserve,
    offer::operation::Type::Create,
    offer::operation::Type::Destroy,
    offer::operation::Type::GrowVolume,
    offer::operation::Type::ShrinkVolume,
];
const ENDINGS: [OperationState; 6] = [
    OperationState::OperationFinished,
    OperationState::OperationFailed,
    OperationState::OperationError,
    OperationState::OperationDropped,
    OperationState::OperationUnreachable,
    OperationState::OperationGoneByOperator,
];

fn operations(view: &View, metrics: &mut Figures) {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for kind in OPERATIONS {
        let name = kind.as_str_name().to_lowercase();
        let pending = view.operations.values();
        let pending =
            pending.filter(|record| record.is_pending() && record.wire.info.r#type() == kind);
        let mut counts = vec![("pending".to_owned(), pending.count() as u64)];
        for state in ENDINGS {
            let ended = view.operations_ended.get(&(kind, state)).copied();
            let state = state.as_str_name().to_lowercase();
            let state = state.trim_start_matches("operation_").to_owned();
            counts.push((state, ended.unwrap_or(0)));
        }
        for (state, count) in counts {
            metrics.add(&format!("master/operations/{name}/{state}"), count as f64);
            *sums.entry(state).or_default() += count;
        }
    }
    for (state, count) in sums {
        metrics.add(&format!("master/operations/{state}"), count as f64);
    }
}

fn of_framework(record: &FrameworkRecord, starvation: Option<&Starvation>, metrics: &mut Figures) {
    let prefix = format!(
        "master/frameworks/{}.{}",
        encode(&record.info.name),
        record.id
    );
    let counted = &record.metrics;
    if let Some(starvation) = starvation {
        let waited = starvation.unoffered.as_secs_f64();
        metrics.add(&format!("{prefix}/allocation/unoffered_secs"), waited);
        metrics.add(
            &format!("{prefix}/allocation/share_deficit"),
            starvation.share_deficit,
        );
    }
    let mut add = |name: &str, value: u64| metrics.add(&format!("{prefix}/{name}"), value as f64);
    add("subscribed", u64::from(record.connected));
    for role in record.roles.iter() {
        let suppressed = record.suppressed.contains(role);
        add(&format!("roles/{role}/suppressed"), u64::from(suppressed));
    }
    add("offers/sent", counted.offers_sent);
    add("offers/accepted", counted.offers_accepted);
    add("offers/declined", counted.offers_declined);
    add("offers/rescinded", counted.offers_rescinded);
    let groups: [(&str, Vec<&str>, &Tally); 3] = [
        (
            "calls",
            names(|number| Some(call::Type::try_from(number).ok()?.as_str_name())),
            &counted.calls,
        ),
        (
            "events",
            names(|number| Some(event::Type::try_from(number).ok()?.as_str_name())),
            &counted.events,
        ),
        (
            "operations",
            names(|number| Some(offer::operation::Type::try_from(number).ok()?.as_str_name())),
            &counted.operations,
        ),
    ];
    for (group, names, tally) in groups {
        let counts = || names.iter().map(|name| (name, tally.get(name)));
        add(group, counts().map(|(_, count)| count).sum());
        for (name, count) in counts() {
            add(&format!("{group}/{}", name.to_lowercase()), count);
        }
    }
    for (state, _) in TASK_STATES {
        let kind = if state.is_terminal() {
            "terminal"
        } else {
            "active"
        };
        let name = state.as_str_name();
        let count = counted.tasks.get(name);
        add(&format!("tasks/{kind}/{}", name.to_lowercase()), count);
    }
}

/// The values of an enumeration of the wire, but for 0, which stands for none of them.
fn names(name: impl Fn(i32) -> Option<&'static str>) -> Vec<&'static str> {
    /// No enumeration that is counted by goes further.
    const LAST: i32 = 40;
    (1..=LAST).filter_map(name).collect()
}

/// A name as part of a metric's: as in a URL, so that it has no slash of its own.
fn encode(name: &str) -> String {
    const RESERVED: &[u8] = b"$&+,/:;=?@ \"<>#%{}|\\^~[]`";
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_control() || !byte.is_ascii() || RESERVED.contains(&byte) {
            encoded.push_str(&format!("%{byte:02X}"));
        } else {
            encoded.push(char::from(byte));
        }
    }
    encoded
}

/// Of the machine.
fn system() -> Vec<(&'static str, f64)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processors = std::thread::available_parallelism().ok();
    system_metrics(
        processors.map(NonZero::get),
        &read("/proc/loadavg"),
        &read("/proc/meminfo"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frameworks_name_is_part_of_its_metrics_names_in_encoded_form() {
        assert_eq!(
            encode("Spark: 100% (ü)/x"),
            "Spark%3A%20100%25%20(%C3%BC)%2Fx"
        );
        assert_eq!(encode("plain-name_1.2"), "plain-name_1.2");
    }

    #[test]
    fn all_names_of_an_enumeration_are_found() {
        let calls = names(|number| Some(call::Type::try_from(number).ok()?.as_str_name()));
        assert_eq!(calls.first(), Some(&"SUBSCRIBE"));
        assert!(calls.contains(&"UPDATE_FRAMEWORK"));
        assert!(!calls.contains(&"UNKNOWN"));
    }
}
