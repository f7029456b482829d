//! `tepui-sim chaos`: many seeds, and for each that fails how to see it again.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::bail;
use clap::{Args, ValueEnum};
use serde_json::json;
use tepui_sim::experiments::chaos::Chaos;
use tepui_sim::{Counts, Plant, SECOND};

#[derive(Args, Debug)]
pub(crate) struct Command {
    /// The first seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds, one after the other
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    #[arg(long, default_value_t = 5)]
    agents: usize,
    #[arg(long, default_value_t = 4)]
    frameworks: usize,
    /// For how many virtual seconds things break
    #[arg(long, default_value_t = 60)]
    storm: u64,
    /// Check all invariants after each so many steps
    #[arg(long, default_value_t = 1)]
    check_every: u64,
    /// Seeds that are run at the same time
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Make the simulated cluster itself faulty, to see that it is noticed
    #[arg(long)]
    plant: Option<PlantArgument>,
    /// Nothing breaks
    #[arg(long)]
    calm: bool,
    /// Print every event
    #[arg(long)]
    log: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum PlantArgument {
    LoseLaunch,
    ForgeEnd,
    SwallowUpdate,
    DoubleLaunch,
}

impl From<PlantArgument> for Plant {
    fn from(argument: PlantArgument) -> Self {
        match argument {
            PlantArgument::LoseLaunch => Self::LoseLaunch,
            PlantArgument::ForgeEnd => Self::ForgeEnd,
            PlantArgument::SwallowUpdate => Self::SwallowUpdate,
            PlantArgument::DoubleLaunch => Self::DoubleLaunch,
        }
    }
}

#[derive(Default)]
struct Outcome {
    runs: u64,
    counts: Counts,
    /// The seeds that failed, and how.
    failures: BTreeMap<u64, String>,
}

impl Command {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let chaos = Chaos {
            agents: self.agents,
            tenants: self.frameworks,
            storm: self.storm * SECOND,
            check_every: self.check_every,
            plant: self.plant.map(Into::into),
            calm: self.calm,
            full_trace: self.seeds == 1,
            log: self.log.then_some(|line| println!("{line}")),
        };
        let outcome = Mutex::new(Outcome::default());
        let next = AtomicU64::new(self.seed);
        let end = self.seed + self.seeds;
        let fingerprint = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= end {
                            break;
                        }
                        let run = catch_unwind(AssertUnwindSafe(|| chaos.run(seed)));
                        let Ok(mut outcome) = outcome.lock() else {
                            break;
                        };
                        outcome.runs += 1;
                        match run {
                            Ok(world) => {
                                fingerprint.store(world.fingerprint(), Ordering::Relaxed);
                                outcome.counts.add(world.counts());
                            }
                            Err(panic) => {
                                outcome.failures.insert(seed, sentence(panic.as_ref()));
                            }
                        }
                    }
                });
            }
        });
        let outcome = outcome.into_inner().unwrap_or_default();
        self.report(&outcome, fingerprint.into_inner());
        if !outcome.failures.is_empty() {
            bail!(
                "{} of {} seeds failed",
                outcome.failures.len(),
                outcome.runs
            );
        }
        Ok(())
    }

    fn report(&self, outcome: &Outcome, fingerprint: u64) {
        let counts = &outcome.counts;
        if self.json {
            let failures: Vec<_> = outcome
                .failures
                .iter()
                .map(|(seed, sentence)| {
                    json!({"seed": seed, "sentence": sentence, "replay": self.replay(*seed)})
                })
                .collect();
            let line = json!({
                "runs": outcome.runs,
                "steps": counts.steps,
                "master_inputs": counts.master_inputs,
                "agent_inputs": counts.agent_inputs,
                "launched": counts.launched,
                "ended": counts.ended,
                "faults": counts.faults,
                "reasons": counts.reasons,
                "fingerprint": format!("{fingerprint:016x}"),
                "failures": failures,
            });
            println!("{line}");
            return;
        }
        println!(
            "{} runs, {} steps, {} inputs of masters and {} of agents, {} tasks launched",
            outcome.runs, counts.steps, counts.master_inputs, counts.agent_inputs, counts.launched
        );
        let list = |counts: &BTreeMap<&'static str, u64>| {
            let parts: Vec<_> = counts
                .iter()
                .map(|(name, times)| format!("{name} {times}"))
                .collect();
            parts.join(", ")
        };
        println!("ended:  {}", list(&counts.ended));
        println!("faults: {}", list(&counts.faults));
        if outcome.runs == 1 && outcome.failures.is_empty() {
            println!("fingerprint {fingerprint:016x}");
        }
        for (seed, sentence) in &outcome.failures {
            println!("seed {seed} failed: {sentence}");
            println!("  replay: {}", self.replay(*seed));
        }
    }

    /// The command that does the same again, and says what happens.
    fn replay(&self, seed: u64) -> String {
        let mut command = format!(
            "tepui-sim chaos --seed {seed} --agents {} --frameworks {} --storm {} --check-every {}",
            self.agents, self.frameworks, self.storm, self.check_every
        );
        if self.calm {
            command.push_str(" --calm");
        }
        if let Some(plant) = self.plant.and_then(|plant| plant.to_possible_value()) {
            command.push_str(&format!(" --plant {}", plant.get_name()));
        }
        command.push_str(" --log");
        command
    }
}

fn sentence(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "it ended without a sentence".to_owned())
}
