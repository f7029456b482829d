//! The `tepui` command: every role of the cluster and every client of it.
//!
//! Data goes to stdout; everything said to a person goes to stderr.
#![allow(clippy::print_stdout, reason = "a command's result goes to stdout")]

mod access;
mod agents;
mod allocation;
mod artifact;
mod client;
mod dev;
mod explain;
mod further;
mod inputs;
mod logging;
mod logs;
mod patience;
mod preinit;
mod progress;
mod ps;
mod roles;
mod run;
mod sources;
mod store;
mod table;
mod wasm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser, Debug)]
#[command(
    name = "tepui",
    version,
    about = "A cluster whose tasks are WebAssembly modules"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a master and agents here, for development
    Dev(dev::Dev),
    /// Run a master
    Master(roles::Master),
    /// Run an agent
    Agent(roles::Agent),
    /// Run one task, stream its output, exit with its exit code
    Run(run::Run),
    /// List tasks
    Ps(ps::Ps),
    /// Print a file of a task's sandbox: its stdout unless told otherwise
    Logs(logs::Logs),
    /// Tell why a framework or a waiting task is offered nothing
    Explain(explain::Explain),
    /// List agents
    Agents(agents::Agents),
    /// Initialise a module ahead of time: make one that starts where its initialising function ended
    Preinit(preinit::Preinit),
    /// Keep modules and data at the master, for tasks to fetch
    Artifact(artifact::Artifact),
    /// See and change what tasks keep in the stores of their jobs
    Store(store::Store),
    /// Run as the wasm executor of one framework (agents start it)
    #[command(hide = true, name = "executor-wasm")]
    ExecutorWasm,
    /// Run as the native executor of one framework (agents start it)
    #[command(hide = true, name = "executor-native")]
    ExecutorNative,
    /// Try out the wall around executors (agents start it)
    #[command(hide = true)]
    Wall,
    /// Compile one module (agents start it)
    #[command(hide = true)]
    Compile(roles::Compile),
}

/// Keeps the allocator from giving each of a server's many threads an area of its own: what one task needed for a moment would
/// stay with the process once for each of them. Must be called while there is one thread.
fn share_memory_areas() {
    #[cfg(target_env = "gnu")]
    {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let areas = i32::try_from(cpus).unwrap_or(i32::MAX).max(2);
        // SAFETY: the call takes two numbers and changes a setting of the allocator.
        if unsafe { libc::mallopt(libc::M_ARENA_MAX, areas) } == 0 {
            tracing::debug!("the allocator does not limit its areas");
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse_from(roles::from_mesos(std::env::args_os()));
    // The one crypto provider; building an HTTPS client without it would panic.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let result = match arguments.command {
        Command::Dev(dev) => dev.run(),
        Command::Master(master) => {
            share_memory_areas();
            master.run()
        }
        Command::Agent(agent) => {
            share_memory_areas();
            agent.run()
        }
        Command::Run(run) => run.run(),
        Command::Ps(ps) => ps.run(),
        Command::Logs(logs) => logs.run(),
        Command::Agents(agents) => agents.run(),
        Command::Explain(explain) => explain.run(),
        Command::Preinit(preinit) => preinit.run(),
        Command::Artifact(artifact) => artifact.run(),
        Command::Store(store) => store.run(),
        Command::ExecutorWasm => roles::executor_wasm(),
        Command::ExecutorNative => roles::executor_native(),
        Command::Wall => roles::wall(),
        Command::Compile(compile) => compile.run(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tepui: {}", tepui_model::plain_lines(&format!("{error:#}")));
            ExitCode::from(1)
        }
    }
}
