//! Measurements, each printed with what was measured. Run with `cargo run --release -p tepui-bench -- NAME`.
#![allow(clippy::print_stdout, reason = "a measurement is printed")]

mod allocator;
mod clock;
#[cfg(feature = "cluster")]
mod cluster;
#[cfg(feature = "cluster")]
mod density;
#[cfg(feature = "cluster")]
mod hostile;
#[cfg(feature = "cluster")]
mod locality;
#[cfg(feature = "cluster")]
mod shares;
#[cfg(feature = "cluster")]
mod tasks;
#[cfg(feature = "cluster")]
mod workload;

use clap::{Parser, Subcommand};

#[derive(Parser, Debug)]
struct Arguments {
    #[command(subcommand)]
    measurement: Measurement,
}

#[derive(Subcommand, Debug)]
enum Measurement {
    #[cfg(feature = "cluster")]
    /// Short wasm tasks per second, end to end through the scheduler API: launch to acknowledged TASK_FINISHED
    Tasks(tasks::Tasks),
    #[cfg(feature = "cluster")]
    /// What lines of stdin ask for (`wasm rate 1000`, `native alone 50`), a line of JSON each: for bench/peers
    OnDemand(tasks::OnDemand),
    /// One cycle of the allocator: all free, nothing to do, one change
    Allocator(allocator::Allocator),
    #[cfg(feature = "cluster")]
    /// The same jobs placed where their inputs are and at random: bytes moved, and time
    Locality(locality::Locality),
    #[cfg(feature = "cluster")]
    /// How processor time is divided among guests of 3:2:1 cpus, and how long a fourth one waits
    Shares(shares::Shares),
    #[cfg(feature = "cluster")]
    /// How late a guest comes beside each hostile one of tests/hostile
    Hostile(hostile::Hostile),
    #[cfg(feature = "cluster")]
    /// What parked tasks cost, and what short ones leave behind
    Density(density::Density),
    #[cfg(feature = "cluster")]
    /// Resident memory of an idle master and an idle agent
    Idle,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().measurement {
        #[cfg(feature = "cluster")]
        Measurement::Tasks(tasks) => tasks.run(),
        #[cfg(feature = "cluster")]
        Measurement::OnDemand(on_demand) => on_demand.run(),
        Measurement::Allocator(allocator) => allocator.run(),
        #[cfg(feature = "cluster")]
        Measurement::Locality(locality) => locality.run(),
        #[cfg(feature = "cluster")]
        Measurement::Shares(shares) => shares.run(),
        #[cfg(feature = "cluster")]
        Measurement::Hostile(hostile) => hostile.run(),
        #[cfg(feature = "cluster")]
        Measurement::Density(density) => density.run(),
        #[cfg(feature = "cluster")]
        Measurement::Idle => cluster::idle(),
    }
}
