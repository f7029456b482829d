//! `tepui preinit`: a module whose initialisation has been done already.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tepui_api::ext::wasm_info::Preopen;
use tepui_executor_wasm::{Preinit as Work, Volume};
use tepui_model::format_bytes;

use crate::roles::{duration, size};
use crate::run::parse_variable;
use crate::wasm;

#[derive(Args, Debug)]
#[command(
    after_help = "The function runs here, not at an agent. What it has read is part of the module afterwards: environment, \
files, random numbers, the time; files it left open are not."
)]
pub(crate) struct Preinit {
    /// The module or component, binary or text
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// Where the outcome goes
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// The exported function that initialises; of a component's interface INTERFACE#FUNCTION
    #[arg(long, default_value = "wizer-initialize", value_name = "NAME")]
    init_func: String,
    /// The exported function that tasks start by afterwards, in place of `_start`
    #[arg(long, value_name = "NAME")]
    start: Option<String>,
    /// Leave the initialising function among the exports
    #[arg(long)]
    keep_init_func: bool,
    /// An environment variable, NAME=VALUE; may be repeated
    #[arg(long, value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// A directory of this machine that the function sees at GUEST; may be repeated
    #[arg(long, value_name = "HOST:GUEST[:ro]", value_parser = wasm::parse_mount)]
    mount: Vec<Preopen>,
    /// The most that each of its memories may hold
    #[arg(long, default_value = "1GB", value_parser = size)]
    mem: u64,
    /// Longest time it may take
    #[arg(long, default_value = "1mins", value_parser = duration)]
    time: Duration,
    /// Arguments it sees behind the program's name
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Preinit {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let path = self.input.display();
        let bytes = std::fs::read(&self.input).with_context(|| format!("{path} cannot be read"))?;
        let name = self.input.file_name().unwrap_or_default().to_string_lossy();
        let work = Work {
            function: self.init_func,
            start: self.start,
            keep: self.keep_init_func,
            arguments: std::iter::once(name.into_owned())
                .chain(self.arguments)
                .collect(),
            environment: self.env,
            mounts: self.mount.into_iter().map(volume).collect(),
            memory: usize::try_from(self.mem).unwrap_or(usize::MAX),
            time: self.time,
        };
        let made = work.run(&bytes).with_context(|| format!("{path}"))?;
        std::fs::write(&self.output, &made)
            .with_context(|| format!("{} cannot be written", self.output.display()))?;
        eprintln!(
            "tepui: {} is initialised: {} (before: {})",
            self.output.display(),
            format_bytes(made.len() as u64),
            format_bytes(bytes.len() as u64)
        );
        Ok(ExitCode::SUCCESS)
    }
}

fn volume(mount: Preopen) -> Volume {
    Volume {
        read_only: mount.read_only(),
        host: PathBuf::from(mount.host_path),
        guest: mount.guest_path,
    }
}
