//! Whether `cpus` is what a guest gets: three that compute without end, and one that mostly sleeps beside them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use tepui_api::v1::{TaskId, TaskState};

use crate::cluster::Cluster;
use crate::workload::{Artifact, Wanted, Workload};

/// Measures how processor time is divided.
#[derive(Args, Debug)]
pub(crate) struct Shares {
    /// How long the spinning guests run, in seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

const SPIN: &str = r#"(module (func (export "_start") (loop $on (br $on))))"#;
/// Sleeps 10 ms at a time, `$ROUNDS` times, and exits with the longest it was late, in hundredths of a millisecond.
pub(crate) const IDLE: &str = r#"(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func $now (result i64)
    (drop (call $time (i32.const 1) (i64.const 1) (i32.const 512)))
    (i64.load (i32.const 512)))
  (func (export "_start") (local $left i32) (local $before i64) (local $late i64) (local $most i64)
    (i32.store8 (i32.const 8) (i32.const 0))
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 10000000))
    (local.set $left (i32.const $ROUNDS))
    (loop $on
      (local.set $before (call $now))
      (drop (call $poll (i32.const 0) (i32.const 128) (i32.const 1) (i32.const 256)))
      (local.set $late (i64.sub (i64.sub (call $now) (local.get $before)) (i64.const 10000000)))
      (if (i64.gt_s (local.get $late) (local.get $most)) (then (local.set $most (local.get $late))))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $on (local.get $left)))
    (call $exit (i32.wrap_i64 (i64.div_s (local.get $most) (i64.const 10000))))))"#;
const WEIGHTS: [f64; 3] = [3.0, 2.0, 1.0];

impl Shares {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let cluster = Cluster::start("cpus:16;mem:4096")?;
        let spin = Artifact::put(&cluster, "spin", SPIN)?;
        // Each round takes 10 ms at least; it ends before the others are killed.
        let rounds = (self.seconds * 80).to_string();
        let idle = Artifact::put(&cluster, "idle", &IDLE.replace("$ROUNDS", &rounds))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.measure(&cluster, spin, idle))
    }

    async fn measure(
        &self,
        cluster: &Cluster,
        spin: Artifact,
        idle: Artifact,
    ) -> anyhow::Result<()> {
        let mut workload = Workload::subscribe(cluster);
        let wanted = |id: String, artifact: &Artifact, cpus: f64| Wanted {
            id,
            artifact: artifact.clone(),
            cpus,
            mem: 32.0,
        };
        let mut tasks: Vec<Wanted> = WEIGHTS
            .iter()
            .map(|weight| wanted(format!("spin{weight}"), &spin, *weight))
            .collect();
        tasks.push(wanted("idle".to_owned(), &idle, 0.1));
        let patience = Duration::from_secs(120);
        // All of them ready, so that they begin together.
        let warm: Vec<Wanted> = [&spin, &idle]
            .iter()
            .enumerate()
            .map(|(number, artifact)| wanted(format!("warm{number}"), artifact, 0.1))
            .collect();
        workload.launch(&warm).await?;
        workload.until(TaskState::TaskRunning, 2, patience).await?;
        for number in 0..2 {
            let value = format!("warm{number}");
            workload.scheduler.kill(&TaskId { value }, None).await?;
        }
        workload.until(TaskState::TaskKilled, 2, patience).await?;
        workload.launch(&tasks).await?;
        workload.until(TaskState::TaskRunning, 4, patience).await?;
        tokio::time::sleep(Duration::from_secs(self.seconds)).await;
        let killed = Instant::now();
        for weight in WEIGHTS {
            let value = format!("spin{weight}");
            workload.scheduler.kill(&TaskId { value }, None).await?;
        }
        let (mut cpu, mut late) = (BTreeMap::new(), None);
        let mut kill_ms = 0.0;
        while cpu.len() < WEIGHTS.len() || late.is_none() {
            let status = workload.update().await?;
            if !status.state().is_terminal() {
                continue;
            }
            let id = status.task_id.value.clone();
            if id == "idle" {
                let code = status.message().rsplit(' ').next();
                let code: f64 = code.and_then(|code| code.parse().ok()).with_context(|| {
                    format!("the idle guest ended otherwise: {}", status.message())
                })?;
                late = Some(code / 100.0);
                continue;
            }
            kill_ms = f64::max(kill_ms, killed.elapsed().as_secs_f64() * 1e3);
            let used = status.usage.as_ref().map(|usage| usage.cpu_time_ns());
            cpu.insert(
                id,
                used.context("every last status has its usage")? as f64 / 1e9,
            );
        }
        workload.scheduler.teardown().await?;
        let got: Vec<f64> = WEIGHTS
            .iter()
            .map(|weight| cpu[&format!("spin{weight}")])
            .collect();
        let (all, sum): (f64, f64) = (got.iter().sum(), WEIGHTS.iter().sum());
        let off = got
            .iter()
            .zip(WEIGHTS)
            .map(|(got, weight)| (got / all / (weight / sum) - 1.0).abs())
            .fold(0.0, f64::max);
        let late = late.unwrap_or_default();
        if self.json {
            let line = serde_json::json!({
                "cpu_s": got, "of_all": got.iter().map(|got| got / all).collect::<Vec<_>>(),
                "furthest_off": off, "idle_latest_ms": late, "killed_after_ms": kill_ms,
            });
            println!("{line}");
        } else {
            println!(
                "cpu seconds of 3:2:1: {got:.2?}, at most {:.1} % off",
                off * 100.0
            );
            println!("the idle guest woke at most {late:.2} ms late");
            println!("killed within {kill_ms:.1} ms");
        }
        Ok(())
    }
}
