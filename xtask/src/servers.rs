//! Installs the servers from others that the tests of artifacts run, into `target/clients`, out of the registries of
//! packages and unchanged: one that speaks S3 (Python) and an OCI registry (Debian).

use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::clients::{once, python_packages};
use crate::run;

/// Tests of them begin so; `--offline` leaves them out by it.
pub(crate) const TESTS: &str = "stock_server_";

const S3_REQUIREMENTS: &str = "tests/clients/s3-requirements.txt";
/// A Debian package; of its files only the binary is used, and nothing of it is installed into the system.
const REGISTRY: &str = "docker-registry";

pub(crate) fn names() -> anyhow::Result<Vec<String>> {
    let mut names = python_packages(S3_REQUIREMENTS)?;
    names.push(REGISTRY.to_owned());
    Ok(names)
}

/// Installs what is not installed yet; what cannot be is put on the list.
pub(crate) fn install(folder: &Path, missing: &mut Vec<String>) {
    if let Err(error) = once(&folder.join("s3"), S3_REQUIREMENTS, s3) {
        missing.push(format!("moto (Python): {error:#}"));
    }
    if let Err(error) = registry(&folder.join("registry")) {
        missing.push(format!("{REGISTRY} (Debian): {error:#}"));
    }
}

fn s3(folder: &Path) -> anyhow::Result<()> {
    run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    run(Command::new(folder.join("bin/python"))
        .args(["-m", "pip", "--disable-pip-version-check", "--quiet"])
        .args(["install", "-r", S3_REQUIREMENTS]))
}

fn registry(folder: &Path) -> anyhow::Result<()> {
    if folder.join("usr/bin").join(REGISTRY).exists() {
        return Ok(());
    }
    std::fs::create_dir_all(folder)?;
    let download = || {
        run(Command::new("apt-get")
            .args(["--quiet=2", "download", REGISTRY])
            .current_dir(folder))
    };
    if download().is_err() {
        // A machine that never looked knows no packages.
        run(Command::new("apt-get").args(["--quiet=2", "update"]))?;
        download()?;
    }
    let files = std::fs::read_dir(folder)?.filter_map(Result::ok);
    let package = files
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|ending| ending == "deb"))
        .context("nothing was downloaded")?;
    run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(folder))?;
    Ok(std::fs::remove_file(package)?)
}
