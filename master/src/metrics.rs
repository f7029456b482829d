//! Figures under the names that Mesos's tools ask for: the core's counters, and what follows from its state.

use std::collections::BTreeMap;
use std::fs;

use tepui_master_core::View;
use tepui_model::Milli;

use crate::http::Parameters;
use crate::shared::{Identity, Refusal, Shared};

pub(crate) fn snapshot(shared: &Shared, view: &View, _: &Parameters) -> Result<Vec<u8>, Refusal> {
    let metrics = collect(&shared.identity, view);
    serde_json::to_vec(&metrics).map_err(|error| Refusal::internal(error.to_string()))
}

pub(crate) fn collect(identity: &Identity, view: &View) -> BTreeMap<String, f64> {
    let mut metrics: BTreeMap<String, f64> = view
        .counters
        .iter()
        .map(|(name, value)| ((*name).to_owned(), *value as f64))
        .collect();
    let mut add = |name: &str, value: f64| {
        metrics.entry(name.to_owned()).or_insert(value);
    };
    add("master/elected", 1.0);
    add(
        "master/uptime_secs",
        identity.started.elapsed().as_secs_f64(),
    );
    add(
        "master/recovered_slaves",
        view.recovered_agents.len() as f64,
    );
    for name in ["cpus", "gpus", "mem", "disk"] {
        for revocable in [false, true] {
            let sum = |of: fn(&tepui_master_core::AgentRecord) -> &tepui_model::Resources| {
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
            let name = if revocable {
                format!("master/{name}_revocable")
            } else {
                format!("master/{name}")
            };
            add(&format!("{name}_total"), total);
            add(&format!("{name}_used"), used);
            add(
                &format!("{name}_percent"),
                if total > 0.0 { used / total } else { 0.0 },
            );
        }
    }
    for (name, value) in system() {
        add(name, value);
    }
    metrics
}

/// Of the machine; what it does not tell is left out.
fn system() -> Vec<(&'static str, f64)> {
    let mut figures = Vec::new();
    if let Ok(processors) = std::thread::available_parallelism() {
        figures.push(("system/cpus_total", processors.get() as f64));
    }
    if let Ok(load) = fs::read_to_string("/proc/loadavg") {
        let names = ["system/load_1min", "system/load_5min", "system/load_15min"];
        let loads = load
            .split_whitespace()
            .map_while(|figure| figure.parse().ok());
        figures.extend(names.into_iter().zip(loads));
    }
    if let Ok(memory) = fs::read_to_string("/proc/meminfo") {
        for (line, name) in [
            ("MemTotal:", "system/mem_total_bytes"),
            ("MemFree:", "system/mem_free_bytes"),
        ] {
            let kibibytes = memory
                .lines()
                .find_map(|candidate| candidate.strip_prefix(line))
                .and_then(|rest| rest.split_whitespace().next())
                .and_then(|figure| figure.parse::<f64>().ok());
            figures.extend(kibibytes.map(|kibibytes| (name, kibibytes * 1024.0)));
        }
    }
    figures
}
