//! The subcommands.

mod chaos;
mod drf;
mod paper;

use clap::{Parser, Subcommand};

/// Simulate a Tepui cluster: the real state machines of master and agents on a virtual clock and a seeded network
#[derive(Parser, Debug)]
#[command(name = "tepui-sim", version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Subcommand, Debug)]
enum Experiment {
    /// Small clusters of which everything breaks, with all invariants checked after every step
    Chaos(chaos::Command),
    /// The job mixes of the DRF paper: what each job has over time
    Drf(drf::Command),
    /// The Mesos paper's experiment: a full cluster, and the extra delay of one more task
    MesosPaper(paper::Command),
}

impl Arguments {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.experiment {
            Experiment::Chaos(command) => command.run(),
            Experiment::Drf(command) => command.run(),
            Experiment::MesosPaper(command) => command.run(),
        }
    }
}
