//! Installs the stock clients that `tests/tests/stock_clients.rs` runs, into `target/clients`, out of the registries
//! of their languages and unchanged.
//!
//! A client that cannot be installed fails the run by name: a run that quietly left one out would prove nothing of it.
//! Who has no registry at hand says so with `--offline`, and is told what was left out.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::{run, servers, target};

/// Tests of stock clients begin so; `--offline` leaves them out by it.
pub(crate) const TESTS: &str = "stock_client_";

const REQUIREMENTS: &str = "tests/clients/requirements.txt";
const CLI_REQUIREMENTS: &str = "tests/clients/cli-requirements.txt";
const PACKAGES: &str = "tests/clients/package.json";

/// pymesos reads HTTP with this. Its released C source predates Python 3.11, so that file is made anew of the released
/// Cython source, by the last Cython that reads it.
const HTTP_PARSER: &str = "http-parser==0.9.0";
const CYTHON: &str = "cython==0.29.37";

/// The names and versions of all stock clients.
pub(crate) fn names() -> anyhow::Result<Vec<String>> {
    let mut names = python_packages(REQUIREMENTS)?;
    names.extend(python_packages(CLI_REQUIREMENTS)?);
    names.push(HTTP_PARSER.to_owned());
    let packages: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(PACKAGES)?)?;
    for (name, version) in packages["dependencies"].as_object().into_iter().flatten() {
        names.push(format!("{name}@{}", version.as_str().unwrap_or_default()));
    }
    Ok(names)
}

pub(crate) fn python_packages(list: &str) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(list)?;
    let packages = text.lines().map(str::trim);
    let packages = packages.filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(packages.map(str::to_owned).collect())
}

/// Installs what is not installed yet; all of it is tried, so that one run names all that is missing.
pub(crate) fn install() -> anyhow::Result<()> {
    let folder = target().join("clients");
    std::fs::create_dir_all(&folder)?;
    let mut missing = Vec::new();
    if let Err(error) = once(&folder.join("python"), REQUIREMENTS, python) {
        let packages = python_packages(REQUIREMENTS)?.join(", ");
        missing.push(format!("{packages}, {HTTP_PARSER} (Python): {error:#}"));
    }
    let cli = |folder: &Path| command_line(&folder.with_file_name("python"), folder);
    if let Err(error) = once(&folder.join("mesos-cli"), CLI_REQUIREMENTS, cli) {
        let packages = python_packages(CLI_REQUIREMENTS)?.join(", ");
        missing.push(format!("{packages} (Python): {error:#}"));
    }
    if let Err(error) = once(&folder.join("node"), PACKAGES, node) {
        missing.push(format!("those of {PACKAGES} (Node): {error:#}"));
    }
    servers::install(&folder, &mut missing);
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "stock clients and servers cannot be installed:\n  {}\nWithout network, `cargo xtask test --offline` leaves their tests out",
        missing.join("\n  ")
    )
}

/// Makes a folder anew by a list, unless it was made by that same list.
pub(crate) fn once(
    folder: &Path,
    list: &str,
    make: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let wanted = format!(
        "{HTTP_PARSER}\n{CYTHON}\n{}",
        std::fs::read_to_string(list)?
    );
    let stamp = folder.join(".installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(());
    }
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    make(folder)?;
    Ok(std::fs::write(stamp, wanted)?)
}

fn python(folder: &Path) -> anyhow::Result<()> {
    run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    let pip = |words: &[&str]| pip(folder, words);
    // setuptools beyond 80 no longer has what http-parser's setup.py imports.
    run(&mut pip(&["install", "setuptools<81", "wheel", CYTHON]))?;
    http_parser(folder, &pip)?;
    run(&mut pip(&[
        "install",
        "--no-build-isolation",
        "-r",
        REQUIREMENTS,
    ]))
}

fn pip(environment: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(environment.join("bin/python"));
    command.args(["-m", "pip", "--disable-pip-version-check", "--quiet"]);
    command.args(words);
    command
}

/// The command line beside the environment, not in it, and without what only its makers need.
fn command_line(environment: &Path, folder: &Path) -> anyhow::Result<()> {
    let words = ["install", "--no-deps", "-r", CLI_REQUIREMENTS, "--target"];
    run(pip(environment, &words).arg(folder))
}

fn http_parser(folder: &Path, pip: &impl Fn(&[&str]) -> Command) -> anyhow::Result<()> {
    let sources = folder.join("sources");
    std::fs::create_dir_all(&sources)?;
    run(pip(&[
        "download",
        "--no-deps",
        "--no-build-isolation",
        "--no-binary",
        ":all:",
        HTTP_PARSER,
        "--dest",
    ])
    .arg(&sources))?;
    let archive = only_file(&sources)?;
    run(Command::new(folder.join("bin/python"))
        .args(["-m", "tarfile", "-e"])
        .arg(&archive)
        .arg(&sources))?;
    let source = sources.join(HTTP_PARSER.replace("==", "-"));
    run(Command::new(folder.join("bin/cython"))
        .args(["-2", "parser.pyx", "-o", "parser.c"])
        .current_dir(source.join("http_parser")))?;
    run(pip(&["install", "--no-deps", "--no-build-isolation"]).arg(&source))
}

fn only_file(folder: &Path) -> anyhow::Result<PathBuf> {
    let first = std::fs::read_dir(folder)?.next();
    Ok(first.context("nothing was downloaded")??.path())
}

fn node(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::copy(PACKAGES, folder.join("package.json"))?;
    run(Command::new("npm")
        .args([
            "install",
            "--ignore-scripts",
            "--no-package-lock",
            "--no-audit",
            "--no-fund",
        ])
        .current_dir(folder))
}
