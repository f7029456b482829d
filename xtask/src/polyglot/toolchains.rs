//! Where the toolchains of the polyglot guests come from, and how they are called.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};

use super::SOURCES;
use crate::{cargo, target};

/// Debian's compiler for C and C++ to wasm, with its libraries.
const DEBIAN: &[&str] = &[
    "clang",
    "lld",
    "wasi-libc",
    "libclang-rt-14-dev-wasm32",
    "libc++-14-dev-wasm32",
    "libc++abi-14-dev-wasm32",
];

/// How much of what a failed command said is told.
const SAID_LINES: usize = 12;

/// Runs a command without showing what it says, unless it fails.
pub(super) fn quiet(command: &mut Command) -> anyhow::Result<()> {
    output(command).map(|_| ())
}

fn output(command: &mut Command) -> anyhow::Result<Output> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<_> = said.lines().collect();
    let end = &lines[lines.len().saturating_sub(SAID_LINES)..];
    bail!(
        "{command:?} ended with {}:\n    {}",
        output.status,
        end.join("\n    ")
    )
}

/// Makes a Python environment of a list of packages, unless it was made of that list. Where the packages are.
pub(super) fn venv(folder: &Path, list: &Path) -> anyhow::Result<PathBuf> {
    let wanted = std::fs::read_to_string(list)?;
    let stamp = folder.join(".installed");
    if !std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
        quiet(Command::new("python3").args(["-m", "venv"]).arg(folder))
            .context("Python 3 with its module venv is needed")?;
        quiet(
            Command::new(folder.join("bin/python"))
                .args(["-m", "pip", "--disable-pip-version-check", "--quiet"])
                .args(["install", "-r"])
                .arg(list),
        )?;
        std::fs::write(&stamp, wanted)?;
    }
    // lib/python3.N/site-packages
    let versions = std::fs::read_dir(folder.join("lib"))?;
    let packages = versions
        .filter_map(|entry| Some(entry.ok()?.path().join("site-packages")))
        .find(|path| path.is_dir());
    packages.with_context(|| format!("there are no packages in {}", folder.display()))
}

/// Installs what `package.json` of a folder lists, unless that was done.
pub(super) fn npm(folder: &Path) -> anyhow::Result<()> {
    let wanted = std::fs::read_to_string(folder.join("package.json"))?;
    let stamp = folder.join("node_modules/.installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(());
    }
    quiet(
        Command::new("npm")
            .args(["install", "--ignore-scripts", "--no-package-lock"])
            .args(["--no-audit", "--no-fund"])
            .current_dir(folder),
    )
    .context("Node.js 20 or later with npm is needed")?;
    Ok(std::fs::write(stamp, wanted)?)
}

/// Makes a file one that can be run.
pub(super) fn make_executable(file: &Path) -> anyhow::Result<()> {
    let permissions = file.metadata()?.permissions();
    if permissions.mode() & 0o111 == 0 {
        let mode = permissions.mode() | 0o755;
        std::fs::set_permissions(file, PermissionsExt::from_mode(mode))?;
    }
    Ok(())
}

/// Puts WASI's interfaces into a folder, as some older version if that is asked for. They come with the Rust guests'
/// package `wasip2`.
pub(super) fn wit(folder: &Path, older: Option<&str>) -> anyhow::Result<()> {
    let metadata = output(cargo().args([
        "metadata",
        "--locked",
        "--format-version",
        "1",
        "--manifest-path",
        "examples/guests/Cargo.toml",
    ]))?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout)?;
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    let package = packages
        .find(|package| package["name"] == "wasip2")
        .context("the Rust guests do not use the package wasip2")?;
    let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
    // 2.0.1+wasi-0.2.12
    let version = package["version"].as_str().unwrap_or_default();
    let (_, version) = version
        .split_once("+wasi-")
        .context("the version of wasip2 does not name WASI's")?;
    let from = manifest.with_file_name("wit").join("deps");
    std::fs::create_dir_all(folder)?;
    let interfaces =
        std::fs::read_dir(&from).with_context(|| format!("{} is missing", from.display()))?;
    for entry in interfaces {
        let path = entry?.path();
        let mut text = std::fs::read_to_string(&path)?;
        if let Some(older) = older {
            text = as_version(&text, version, older)?;
        }
        std::fs::write(
            folder.join(path.file_name().context("it has no name")?),
            text,
        )?;
    }
    Ok(())
}

/// Interfaces of one version called an older one, without the marks of what came after that.
fn as_version(text: &str, version: &str, older: &str) -> anyhow::Result<String> {
    let patch = |version: &str| -> anyhow::Result<u32> {
        let (_, patch) = version.rsplit_once('.').context("no version")?;
        Ok(patch.parse()?)
    };
    let mut text = text.replace(&format!("@{version}"), &format!("@{older}"));
    for later in patch(older)? + 1..=patch(version)? {
        text = text.replace(&format!("@since(version = 0.2.{later})"), "");
    }
    Ok(text)
}

/// A compiler of C (`cc`) or C++ (`c++`) for WASI: Debian's clang, which is installed if this is root; else Zig's.
pub(super) fn c_compiler(out: &Path, language: &str) -> anyhow::Result<Command> {
    // Both languages ask at the same time.
    static ASKED: Mutex<Option<bool>> = Mutex::new(None);
    let mut debian = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    let has_debian = *debian.get_or_insert_with(has_debian_clang);
    if has_debian {
        let clang = if language == "cc" { "clang" } else { "clang++" };
        let mut command = Command::new(clang);
        command.arg("--target=wasm32-wasi");
        return Ok(command);
    }
    let mut command = zig(out)?;
    command.args([
        language,
        "-target",
        "wasm32-wasi",
        "-Wl,-z,stack-size=1048576",
    ]);
    Ok(command)
}

/// Whether clang with its libraries for wasm is there, or could be installed.
fn has_debian_clang() -> bool {
    if knows_wasm() {
        return true;
    }
    let install = || {
        quiet(
            Command::new("apt-get")
                .args(["install", "--yes", "--no-install-recommends"])
                .args(DEBIAN)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    // A machine that never looked knows no packages.
    let update = || quiet(Command::new("apt-get").args(["--quiet=2", "update"]));
    let installed = install().or_else(|_| update().and_then(|()| install()));
    if let Err(error) = &installed {
        println!(
            "polyglot: C and C++ by Zig's compiler, for Debian's cannot be installed: {error:#}"
        );
    }
    installed.is_ok() && knows_wasm()
}

/// Whether clang makes a program of C++, which needs all of what C needs too.
fn knows_wasm() -> bool {
    let folder = target().join("polyglot/build");
    let source = folder.join("tried.cpp");
    let program = "#include <string>\nint main() { return std::string{}.size(); }\n";
    let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&source, program));
    written.is_ok()
        && quiet(
            Command::new("clang++")
                .args(["--target=wasm32-wasi", "-fno-exceptions", "-std=c++20"])
                .args(["tried.cpp", "-o", "tried.wasm"])
                .current_dir(&folder),
        )
        .is_ok()
}

/// The Zig compiler, which is one of C and C++ too.
pub(super) fn zig(out: &Path) -> anyhow::Result<Command> {
    // Several languages may ask at the same time.
    static ASKED: Mutex<()> = Mutex::new(());
    let _turn = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    let tools = out.join("tools/zig");
    venv(&tools, &Path::new(SOURCES).join("zig/requirements.txt"))?;
    let mut command = Command::new(tools.join("bin/python"));
    command.args(["-m", "ziglang"]);
    // What it made before is kept with it, not in somebody's home.
    command.env("ZIG_GLOBAL_CACHE_DIR", tools.join("cache"));
    command.env("ZIG_LOCAL_CACHE_DIR", tools.join("local-cache"));
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::as_version;

    #[test]
    fn interfaces_are_called_an_older_version_without_later_marks() {
        let text = "package wasi:cli@0.2.12;\n@since(version = 0.2.0)\n@since(version = 0.2.12)\n@since(version = 0.2.1)\n";
        assert_eq!(
            as_version(text, "0.2.12", "0.2.10").expect("both are versions"),
            "package wasi:cli@0.2.10;\n@since(version = 0.2.0)\n\n@since(version = 0.2.1)\n"
        );
        assert!(as_version(text, "newest", "0.2.10").is_err());
    }
}
