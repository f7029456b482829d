//! `tepui-sim`: whole clusters on a virtual clock, from a seed.
#![allow(clippy::print_stdout, reason = "results are printed")]

mod command;

use clap::Parser;

fn main() -> anyhow::Result<()> {
    command::Arguments::parse().run()
}
