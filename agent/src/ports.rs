//! Finds native tasks and executors that listen on TCP ports they were not given. What listens is told from what a task
//! holds by its cgroup, so without cgroups nobody is watched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tepui_agent_core::{AgentView, ExecutorKind, Input, Limitation};
use tepui_api::convert::resources_from_wire;
use tepui_api::v1::{self, task_status::Reason, value};
use tepui_model::{Quantity, Ranges};
use tokio::sync::mpsc;

use crate::containment::Group;
use crate::executors::Executors;
use crate::overstepping::{self, Whose};
use crate::owner::Event;

/// In `/proc/net/tcp`: a socket that waits for connections.
const LISTENING: &str = "0A";

/// The processes of a group, and where they may listen.
#[derive(Debug)]
struct Watched {
    whose: Whose,
    group: Group,
    allowed: Ranges,
}

/// Looks at everything each interval, counted from the end of the last look, until nobody listens.
pub(crate) async fn watch(executors: Executors, interval: Duration, events: mpsc::Sender<Event>) {
    let look = |all: Vec<Watched>| {
        let sockets = listening_here();
        let found = all.iter().filter_map(|one| trespassing(one, &sockets));
        found.collect()
    };
    overstepping::watch(interval, events, |view| watched(&executors, view), look).await;
}

fn watched(executors: &Executors, view: &AgentView) -> Vec<Watched> {
    let mut all = Vec::new();
    for executor in &view.executors {
        let Some(group) = executors.group(&executor.executor) else {
            continue;
        };
        let tasks = view.tasks.iter().filter(|task| {
            task.task.framework == executor.executor.framework
                && task.executor.as_ref() == Some(&executor.executor.executor)
                && !task.state.is_terminal()
        });
        match executor.kind {
            Some(ExecutorKind::Custom) => {
                let mut resources = executor.info.resources.clone();
                resources.extend(tasks.flat_map(|task| task.info.resources.clone()));
                all.push(Watched {
                    whose: Whose::Executor(executor.executor.clone()),
                    group,
                    allowed: ports(&resources),
                });
            }
            Some(ExecutorKind::Native) => all.extend(tasks.map(|task| Watched {
                whose: Whose::Task(task.task.clone()),
                group: group.inner(task.container_id.as_str()),
                allowed: ports(&task.info.resources),
            })),
            // What a component may listen on its executor checks.
            Some(ExecutorKind::Wasm) | None => {}
        }
    }
    all
}

fn ports(resources: &[v1::Resource]) -> Ranges {
    let (resources, _) = resources_from_wire(resources).unwrap_or_default();
    let mut all = Ranges::default();
    for resource in resources.iter().filter(|one| &*one.name == "ports") {
        if let Quantity::Ranges(ranges) = &resource.quantity {
            all = all.union(ranges);
        }
    }
    all
}

/// The ports on which somebody of this machine listens, by the inodes of their sockets.
fn listening_here() -> BTreeMap<u64, u16> {
    let mut all = BTreeMap::new();
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        all.extend(listening(
            &std::fs::read_to_string(path).unwrap_or_default(),
        ));
    }
    all
}

fn listening(table: &str) -> BTreeMap<u64, u16> {
    let rows = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        (*state == LISTENING).then_some((inode.parse().ok()?, port))
    });
    rows.collect()
}

/// What is to be done about a group whose processes listen where they may not. Blocks.
fn trespassing(watched: &Watched, sockets: &BTreeMap<u64, u16>) -> Option<Input> {
    let mut found = BTreeSet::new();
    for pid in watched.group.processes() {
        // What ends meanwhile listens no more.
        let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        for file in open.flatten() {
            let target = std::fs::read_link(file.path()).unwrap_or_default();
            let inode = target
                .to_str()
                .and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']'))
                .and_then(|inode| inode.parse::<u64>().ok());
            found.extend(inode.and_then(|inode| sockets.get(&inode)));
        }
    }
    found.retain(|port| !watched.allowed.contains_number(u64::from(*port)));
    if found.is_empty() {
        return None;
    }
    let names: Vec<String> = found.iter().map(u16::to_string).collect();
    let range = found.iter().map(|port| value::Range {
        begin: u64::from(*port),
        end: u64::from(*port),
    });
    let limitation = Limitation {
        reason: Reason::ContainerLimitation,
        message: format!(
            "Listening on port(s) that were not given: {}",
            names.join(", ")
        ),
        resources: vec![v1::Resource {
            name: "ports".to_owned(),
            r#type: value::Type::Ranges.into(),
            ranges: Some(value::Ranges {
                range: range.collect(),
            }),
            ..Default::default()
        }],
    };
    Some(watched.whose.limited(limitation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_that_wait_for_connections_are_found() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n\
            \x20  1: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n\
            \x20  2: 00000000000000000000000001000000:0050 00:0000 0A 0:0 00:0 0 0 0 4713 1\n\
            broken\n";
        assert_eq!(listening(table), BTreeMap::from([(4711, 8080), (4713, 80)]));
    }

    #[test]
    fn what_a_task_was_given_are_all_its_ranges() {
        let given = |begin: u64, end: u64| v1::Resource {
            name: "ports".to_owned(),
            r#type: value::Type::Ranges.into(),
            ranges: Some(value::Ranges {
                range: vec![value::Range { begin, end }],
            }),
            ..Default::default()
        };
        let all = ports(&[given(80, 81), given(31000, 31009)]);
        assert!(all.contains_number(80) && all.contains_number(31009) && !all.contains_number(82));
    }
}
