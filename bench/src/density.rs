//! How many parked tasks an agent holds and what each costs; and whether many short ones leave anything behind.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use tepui_api::v1::TaskState;

use crate::cluster::{Cluster, Process};
use crate::workload::{Artifact, Wanted, Workload};

/// Measures what tasks cost that do nothing.
#[derive(Args, Debug)]
pub(crate) struct Density {
    /// Tasks parked at the same time
    #[arg(long, default_value_t = 10_000)]
    tasks: usize,
    /// Short tasks run through the same executor, after so many that everything that is remembered of ended ones is full;
    /// it takes tens of thousands to tell a leak from chance
    #[arg(long, default_value_t = 0)]
    short: usize,
    /// What a process may grow by for each short task, in bytes; with more the exit code is 1
    #[arg(long, default_value_t = 50.0)]
    bound: f64,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Sleeps for a day.
const PARK: &str = r#"(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 86400000000000))
    (drop (call $poll (i32.const 0) (i32.const 128) (i32.const 1) (i32.const 256)))))"#;
const NOTHING: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
/// Tasks in one ACCEPT.
const BATCH: usize = 500;
/// What the agent keeps of ended tasks' sandboxes here; like everything else that is kept of ended tasks it is full after
/// `WARM_UP`, so that what grows later grows without bound.
const SANDBOXES: &str = "1000";
const WARM_UP: usize = 5_000;
/// How long idle processor time is looked at.
const LOOK: Duration = Duration::from_secs(5);

impl Density {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let most = self.tasks.max(BATCH);
        let resources = format!("cpus:{};mem:{};disk:10000", most / 50 + 16, most * 2 + 1024);
        let cluster = Cluster::start_with(1, &resources, &["--gc_max_sandboxes", SANDBOXES])?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let mut workload = Workload::subscribe(&cluster);
            if self.short > 0 {
                self.leaks(&cluster, &mut workload).await?;
            }
            if self.tasks > 0 {
                self.parked(&cluster, &mut workload).await?;
            }
            workload.scheduler.teardown().await?;
            Ok(())
        })
    }

    async fn parked(&self, cluster: &Cluster, workload: &mut Workload) -> anyhow::Result<()> {
        let park = Artifact::put(cluster, "park", PARK)?;
        // The first starts the executor and has it make its pool, which is not the others' cost.
        run(workload, &park, "first", 1, TaskState::TaskRunning).await?;
        let before = Sizes::of(cluster)?;
        let mut launched = 0;
        while launched < self.tasks {
            let count = BATCH.min(self.tasks - launched);
            let prefix = format!("park{launched}-");
            run(workload, &park, &prefix, count, TaskState::TaskRunning).await?;
            launched += count;
        }
        let after = Sizes::of(cluster)?;
        let idle = cluster.processes()?;
        tokio::time::sleep(LOOK).await;
        let busy: f64 = cluster
            .processes()?
            .iter()
            .zip(idle)
            .map(|(now, then)| (now.cpu_s - then.cpu_s) / LOOK.as_secs_f64())
            .sum();
        let each = |now: u64, then: u64| now.saturating_sub(then) as f64 / self.tasks as f64;
        if self.json {
            let line = serde_json::json!({
                "tasks": self.tasks, "resident": after.all(), "executor": after.executor,
                "agent": after.agent, "master": after.master,
                "bytes_per_task": each(after.all(), before.all()),
                "executor_bytes_per_task": each(after.executor, before.executor),
                "idle_cpus": busy,
            });
            println!("{line}");
        } else {
            println!(
                "{} parked tasks: {:.0} MB in all (executors {:.0}, agent {:.0}, master {:.0})",
                self.tasks,
                after.all() as f64 / 1e6,
                after.executor as f64 / 1e6,
                after.agent as f64 / 1e6,
                after.master as f64 / 1e6,
            );
            println!(
                "each costs {:.0} bytes, {:.0} of them in its executor",
                each(after.all(), before.all()),
                each(after.executor, before.executor),
            );
            println!("idle, all together use {:.2} % of one cpu", busy * 100.0);
        }
        Ok(())
    }

    async fn leaks(&self, cluster: &Cluster, workload: &mut Workload) -> anyhow::Result<()> {
        let nothing = Artifact::put(cluster, "nothing", NOTHING)?;
        let mut done = 0;
        let mut looks: Vec<(usize, Sizes)> = Vec::new();
        while done < WARM_UP + self.short {
            let count = BATCH.min(WARM_UP + self.short - done);
            let prefix = format!("short{done}-");
            run(workload, &nothing, &prefix, count, TaskState::TaskFinished).await?;
            done += count;
            if done >= WARM_UP {
                looks.push((done, Sizes::allocated(cluster)?));
            }
        }
        let growth = |of: fn(&Sizes) -> u64| {
            let points: Vec<(f64, f64)> = looks
                .iter()
                .map(|(done, sizes)| (*done as f64, of(sizes) as f64))
                .collect();
            growth_of_a_window(&points)
        };
        let last = &looks.last().context("it looked at least once")?.1;
        let grown = [
            ("executor", last.executor, growth(|sizes| sizes.executor)),
            ("agent", last.agent, growth(|sizes| sizes.agent)),
            ("master", last.master, growth(|sizes| sizes.master)),
        ];
        let leaking: Vec<&str> = grown
            .iter()
            .filter(|(_, _, growth)| *growth > self.bound)
            .map(|(name, ..)| *name)
            .collect();
        if self.json {
            let mut line = serde_json::json!({
                "warm_up": WARM_UP, "short_tasks": self.short, "bound": self.bound,
                "leaking": leaking,
            });
            for (name, bytes, growth) in &grown {
                line[name] =
                    serde_json::json!({ "allocated": bytes, "growth_bytes_per_task": growth });
            }
            println!("{line}");
        } else {
            println!("{} short tasks after {WARM_UP} others", self.short);
            for (name, bytes, growth) in &grown {
                let allocated = *bytes as f64 / 1e6;
                println!(
                    "{name:<8} {allocated:6.1} MB allocated, {growth:6.1} bytes more for each task"
                );
            }
        }
        if !leaking.is_empty() {
            bail!(
                "more than {} bytes stay behind of each task in: {}",
                self.bound,
                leaking.join(", ")
            );
        }
        Ok(())
    }
}

/// Parts into which what was seen is cut.
const WINDOWS: usize = 10;

/// What each of the first adds to the second: the middle one of ten windows. What a busy moment needed stays with a process as
/// one step up; a leak is in every window.
fn growth_of_a_window(points: &[(f64, f64)]) -> f64 {
    let windows = WINDOWS.min(points.len().saturating_sub(1));
    let point = |window: usize| points.get(window * (points.len() - 1) / windows.max(1));
    let mut growths: Vec<f64> = (0..windows)
        .filter_map(|window| {
            let (from, to) = (point(window)?, point(window + 1)?);
            Some((to.1 - from.1) / (to.0 - from.0))
        })
        .collect();
    growths.sort_by(f64::total_cmp);
    let middle = growths.len() / 2;
    match growths.len() {
        0 => 0.0,
        count if count % 2 == 1 => growths[middle],
        _ => f64::midpoint(growths[middle - 1], growths[middle]),
    }
}

/// Launches so many tasks and waits until they are in that state.
async fn run(
    workload: &mut Workload,
    artifact: &Artifact,
    prefix: &str,
    count: usize,
    state: TaskState,
) -> anyhow::Result<()> {
    let wanted: Vec<Wanted> = (0..count)
        .map(|number| Wanted {
            id: format!("{prefix}{number}"),
            artifact: artifact.clone(),
            cpus: 0.01,
            mem: 1.0,
        })
        .collect();
    workload.launch(&wanted).await?;
    workload.until(state, count, Duration::from_secs(600)).await
}

/// Bytes.
struct Sizes {
    master: u64,
    agent: u64,
    executor: u64,
}

impl Sizes {
    /// What is resident.
    fn of(cluster: &Cluster) -> anyhow::Result<Self> {
        Self::sums(cluster, |process| process.resident)
    }

    /// What is resident and no file's.
    fn allocated(cluster: &Cluster) -> anyhow::Result<Self> {
        Self::sums(cluster, |process| process.anonymous)
    }

    fn sums(cluster: &Cluster, bytes: fn(&Process) -> u64) -> anyhow::Result<Self> {
        let sum = |of: &[Process]| of.iter().map(bytes).sum();
        let all = cluster.processes()?;
        let (servers, executors) = all.split_at(2);
        Ok(Self {
            master: sum(&servers[..1]),
            agent: sum(&servers[1..]),
            executor: sum(executors),
        })
    }

    fn all(&self) -> u64 {
        self.master + self.agent + self.executor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_is_in_every_window_and_a_step_in_one() {
        let points = |value: fn(u32) -> f64| -> Vec<(f64, f64)> {
            (0..=200).map(|n| (f64::from(n), value(n))).collect()
        };
        let leak = points(|n| 7.0 * f64::from(n));
        assert_eq!(growth_of_a_window(&leak), 7.0);
        let steps = points(|n| if n < 55 { 0.0 } else { 1e6 } + if n < 130 { 0.0 } else { 3e6 });
        assert_eq!(growth_of_a_window(&steps), 0.0);
        let both = points(|n| 7.0 * f64::from(n) + if n < 100 { 0.0 } else { 1e6 });
        assert_eq!(growth_of_a_window(&both), 7.0);
        assert_eq!(growth_of_a_window(&leak[..2]), 7.0);
        assert_eq!(growth_of_a_window(&leak[..1]), 0.0);
    }
}
