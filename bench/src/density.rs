//! How many parked tasks an agent holds and what each costs; and whether many short ones leave anything behind.

use std::time::Duration;

use anyhow::Context;
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
    /// Short tasks run one after the other through the same executor
    #[arg(long, default_value_t = 0)]
    short: usize,
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
/// How long idle processor time is looked at.
const LOOK: Duration = Duration::from_secs(5);

impl Density {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let most = self.tasks.max(BATCH);
        let resources = format!("cpus:{};mem:{};disk:10000", most / 50 + 16, most * 2 + 1024);
        let cluster = Cluster::start(&resources)?;
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
        let (mut done, mut at_tenth) = (0, None);
        while done < self.short {
            let count = BATCH.min(self.short - done);
            let prefix = format!("short{done}-");
            run(workload, &nothing, &prefix, count, TaskState::TaskFinished).await?;
            done += count;
            if done * 10 >= self.short && at_tenth.is_none() {
                at_tenth = Some((done, Sizes::of(cluster)?));
            }
        }
        let (counted, first) = at_tenth.context("there were some")?;
        let last = Sizes::of(cluster)?;
        let grown =
            |now: u64, then: u64| (now as f64 - then as f64) / (self.short - counted).max(1) as f64;
        let (executor, agent) = (
            grown(last.executor, first.executor),
            grown(last.agent, first.agent),
        );
        if self.json {
            let line = serde_json::json!({
                "short_tasks": self.short, "executor": last.executor, "agent": last.agent,
                "executor_growth_bytes_per_task": executor, "agent_growth_bytes_per_task": agent,
            });
            println!("{line}");
        } else {
            println!(
                "{} short tasks: the executor has {:.1} MB, {executor:.1} bytes more for each task; the agent {:.1} MB, {agent:.1}",
                self.short,
                last.executor as f64 / 1e6,
                last.agent as f64 / 1e6,
            );
        }
        Ok(())
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

/// Resident bytes.
struct Sizes {
    master: u64,
    agent: u64,
    executor: u64,
}

impl Sizes {
    fn of(cluster: &Cluster) -> anyhow::Result<Self> {
        let sum = |of: &[Process]| of.iter().map(|process| process.resident).sum();
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
