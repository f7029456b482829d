//! What the build runs that cargo does not: `cargo xtask demo | test | tidy | guests | polyglot | clients`.
#![allow(
    clippy::print_stdout,
    reason = "a build command talks to the person who called it"
)]

mod clients;
mod demo;
mod polyglot;
mod servers;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};

const USAGE: &str = "usage: cargo xtask COMMAND

  demo     build everything, start a cluster on loopback and run the main job on it
  test     build everything and run every test, the demo among them; with --offline without the stock clients and servers and the polyglot guests
  tidy     check the dependency arrows, the module documents and the licences
  guests   build the wasm example guests (into target/guests)
  polyglot install the toolchains of the guests in other languages and build them (into target/polyglot); further words
           are the languages to build
  clients  install the stock clients and servers that the tests run (into target/clients)";

fn main() -> ExitCode {
    match command() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn command() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    std::env::set_current_dir(root())?;
    match words.as_slice() {
        ["demo"] => {
            prepare()?;
            demo::run()
        }
        ["test"] => {
            clients::install()?;
            polyglot::build(&[])?;
            install_ip();
            test(&[])
        }
        ["test", "--offline"] => {
            println!(
                "offline, so these are not tested: {}",
                [clients::names()?, servers::names()?].concat().join(", ")
            );
            println!("nor are guests in {}", polyglot::names().join(", "));
            let skipped = [clients::TESTS, servers::TESTS, polyglot::TESTS];
            let skipped = skipped.iter().flat_map(|tests| ["--skip", tests]);
            test(&std::iter::once("--").chain(skipped).collect::<Vec<_>>())
        }
        ["tidy"] => tidy::run(),
        ["guests"] => guests(),
        ["polyglot", languages @ ..] => polyglot::build(languages),
        ["clients"] => clients::install(),
        _ => {
            eprintln!("{USAGE}");
            std::process::exit(2);
        }
    }
}

/// The top of the repository.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Where cargo puts what it builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// Everything the demo and the tests stand on: the binaries and the guests.
fn prepare() -> anyhow::Result<()> {
    guests()?;
    // The same selection as the tests build, so that no dependency is compiled twice with other features.
    run(cargo().args(["build", "--workspace", "--bins"]))
}

/// Guests that are built as components too, or can be nothing else.
const COMPONENTS: &[&str] = &[
    "hello",
    "hungry",
    "spin",
    "probe",
    "http-service",
    "census",
    "census-service",
    "sdk-tour",
    "sdk-service",
];

/// Builds the guests: modules, and some of them as components.
fn guests() -> anyhow::Result<()> {
    build_guests("wasm32-wasip1", &[])?;
    build_guests("wasm32-wasip2", COMPONENTS)
}

/// Adds a wasm target if it is missing and builds those packages for it, or else what is built by default.
fn build_guests(wasm: &str, packages: &[&str]) -> anyhow::Result<()> {
    let installed = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", wasm])
        .output()
        .context("cannot start rustc: install a Rust toolchain with rustup")?;
    let library = PathBuf::from(String::from_utf8_lossy(&installed.stdout).trim());
    if !library.is_dir() {
        run(Command::new("rustup").args(["target", "add", wasm])).with_context(|| {
            format!("the guests need the {wasm} target: `rustup target add {wasm}`")
        })?;
    }
    run(cargo()
        .args([
            "build",
            "--quiet",
            "--release",
            "--target",
            wasm,
            "--manifest-path",
            "examples/guests/Cargo.toml",
        ])
        .args(packages.iter().flat_map(|package| ["--package", package]))
        .env("CARGO_TARGET_DIR", target().join("guests")))
}

/// Some tests make hosts out of network namespaces, with `ip`. Where it cannot be installed those say so and are skipped.
fn install_ip() {
    if Command::new("ip").arg("-V").output().is_ok() {
        return;
    }
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "--no-install-recommends", "iproute2"]);
    if let Err(error) = run(&mut install) {
        println!("without `ip` (the package iproute2) hosts are not tested: {error:#}");
    }
}

fn test(more: &[&str]) -> anyhow::Result<()> {
    prepare()?;
    // A workspace of its own, for it is compiled to wasm; outside of wasm it says so.
    run(cargo()
        .args(["test", "--manifest-path", "sdk-guest/Cargo.toml"])
        .env("CARGO_TARGET_DIR", target().join("guests")))?;
    // All that fails is told at once.
    run(cargo()
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(more))?;
    demo::run()
}
