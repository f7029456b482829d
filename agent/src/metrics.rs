//! Figures under the names that Mesos's tools ask for: the core's counters, and what follows from its state.

use std::collections::BTreeMap;
use std::num::NonZero;

use tepui_agent_core::AgentView;
use tepui_api::system_metrics;
use tepui_api::v1::TaskState;
use tepui_model::Resources;

use crate::owner::wall_secs;
use crate::shown;
use crate::site::Site;

pub(crate) fn collect(site: &Site, view: &AgentView) -> BTreeMap<String, f64> {
    let about = &site.about;
    // Counters that have not counted yet are there all the same.
    let zero = [
        "slave/tasks_finished",
        "slave/tasks_failed",
        "slave/tasks_killed",
        "slave/tasks_lost",
        "slave/tasks_gone",
        "slave/valid_status_updates",
        "slave/invalid_status_updates",
        "slave/valid_framework_messages",
        "slave/invalid_framework_messages",
        "slave/executors_terminated",
        "slave/executors_preempted",
        "slave/container_launch_errors",
        "slave/recovery_errors",
    ];
    let mut metrics: BTreeMap<String, f64> = zero
        .into_iter()
        .map(|name| (name.to_owned(), 0.0))
        .collect();
    for (name, value) in &view.counters {
        metrics.insert((*name).to_owned(), *value as f64);
    }
    let mut set = |name: &str, value: f64| {
        metrics.insert(name.to_owned(), value);
    };
    set("slave/uptime_secs", wall_secs() - about.start_time);
    set("slave/recovery_time_secs", about.recovery.as_secs_f64());
    set("slave/registered", f64::from(u8::from(view.registered)));
    set("slave/frameworks_active", view.frameworks.len() as f64);
    for (name, state) in [
        ("slave/tasks_staging", TaskState::TaskStaging),
        ("slave/tasks_starting", TaskState::TaskStarting),
        ("slave/tasks_running", TaskState::TaskRunning),
        ("slave/tasks_killing", TaskState::TaskKilling),
    ] {
        let count = view.tasks.iter().filter(|task| task.state == state).count();
        set(name, count as f64);
    }
    let frameworks = shown::frameworks(view);
    let live = || {
        let all = frameworks.iter().flat_map(|framework| &framework.executors);
        all.filter(|executor| executor.alive)
    };
    let registering = view
        .executors
        .iter()
        .filter(|executor| !executor.connected)
        .count();
    set("slave/executors_registering", registering as f64);
    set("slave/executors_running", live().count() as f64);
    set("slave/executors_terminating", 0.0);
    let mut used = Resources::new();
    live().for_each(|executor| used.add(&executor.resources));
    let amount = |resources: &Resources, wanted: &str| {
        let amounts = resources
            .iter()
            .filter(|resource| &*resource.name == wanted)
            .map(|resource| resource.quantity.amount().to_f64());
        // The sum of nothing is -0.
        amounts.sum::<f64>() + 0.0
    };
    for name in ["cpus", "gpus", "mem", "disk"] {
        let (total, used) = (amount(&view.total, name), amount(&used, name));
        set(&format!("slave/{name}_total"), total);
        set(&format!("slave/{name}_used"), used);
        let share = if total > 0.0 { used / total } else { 0.0 };
        set(&format!("slave/{name}_percent"), share);
        for kind in ["total", "used", "percent"] {
            set(&format!("slave/{name}_revocable_{kind}"), 0.0);
        }
    }
    for (name, value) in system().into_iter().chain(site.peers.fetcher.figures()) {
        set(name, value);
    }
    metrics
}

/// Of the machine.
fn system() -> Vec<(&'static str, f64)> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processors = std::thread::available_parallelism().ok();
    system_metrics(
        processors.map(NonZero::get),
        &read("/proc/loadavg"),
        &read("/proc/meminfo"),
    )
}
