//! Builds `examples/guests/polyglot`, one program in eight languages, into `target/polyglot`, with toolchains out of the
//! registries of packages: those of each language are named, with their versions, in its own folder.
//!
//! Nothing is installed into the system but Debian's clang, and that only by root; everything else stays below the target
//! directory. A language whose toolchain cannot be had fails the run by name, after all others were tried.

mod toolchains;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail};

use crate::{guests, target};
use toolchains::{quiet, venv};

/// Tests of these guests begin so; `--offline` leaves them out by it.
pub(crate) const TESTS: &str = "polyglot_";

const SOURCES: &str = "examples/guests/polyglot";

/// A language: its folder, what is made of it, and how.
struct Language {
    name: &'static str,
    /// The modules, without `.wasm`.
    makes: &'static [&'static str],
    /// What the guest SDK has for it: folders, and where in its own the build puts their files.
    sdk: &'static [(&'static str, &'static str)],
    build: fn(&Job) -> anyhow::Result<()>,
}

/// Slowest first, since they are begun in this order.
const LANGUAGES: &[Language] = &[
    Language {
        name: "javascript",
        makes: &["javascript", "javascript-service"],
        sdk: &[],
        build: javascript,
    },
    Language {
        name: "python",
        makes: &["python", "python-service", "python-tour"],
        sdk: &[("sdk-guest/wit", "wit/deps")],
        build: python,
    },
    Language {
        name: "go",
        makes: &["go"],
        sdk: &[],
        build: go,
    },
    Language {
        name: "zig",
        makes: &["zig"],
        sdk: &[],
        build: zig,
    },
    Language {
        name: "assemblyscript",
        makes: &["assemblyscript"],
        sdk: &[],
        build: assemblyscript,
    },
    Language {
        name: "c",
        makes: &["c", "c-tour"],
        sdk: &[("sdk-guest/c", "sdk")],
        build: c,
    },
    Language {
        name: "cpp",
        makes: &["cpp"],
        sdk: &[],
        build: cpp,
    },
];

/// Where one language is built.
struct Job {
    /// A copy of its folder, in which the tools may leave what they like.
    folder: PathBuf,
    /// Its toolchain.
    tools: PathBuf,
    /// Where the modules go.
    out: PathBuf,
}

impl Job {
    fn module(&self, name: &str) -> PathBuf {
        self.out.join(format!("{name}.wasm"))
    }
}

/// The names of all languages.
pub(crate) fn names() -> Vec<String> {
    let others = LANGUAGES.iter().map(|language| language.name.to_owned());
    std::iter::once("rust".to_owned()).chain(others).collect()
}

/// Installs what is not installed and builds what changed. Without `only`, all languages.
pub(crate) fn build(only: &[&str]) -> anyhow::Result<()> {
    if let Some(unknown) = only
        .iter()
        .find(|name| !names().iter().any(|known| known == *name))
    {
        bail!(
            "there is no language {unknown:?}; there are {}",
            names().join(", ")
        );
    }
    let wanted = |name: &str| only.is_empty() || only.contains(&name);
    let out = target().join("polyglot");
    std::fs::create_dir_all(&out)?;
    let mut failed = Vec::new();
    // Python and JavaScript take WASI's interfaces from a package of the Rust guests, which this fetches.
    if let Err(error) = guests().and_then(|()| rust(&out)) {
        failed.push(format!("rust: {error:#}"));
    }
    std::thread::scope(|scope| {
        let languages = LANGUAGES.iter().filter(|language| wanted(language.name));
        let begun: Vec<_> = languages
            .map(|language| (language, scope.spawn(|| language.make(&out))))
            .collect();
        for (language, thread) in begun {
            match thread.join() {
                Ok(Ok(said)) => println!("polyglot: {} {said}", language.name),
                Ok(Err(error)) => failed.push(format!("{}: {error:#}", language.name)),
                Err(_) => failed.push(format!("{}: its build panicked", language.name)),
            }
        }
    });
    if failed.is_empty() {
        return Ok(());
    }
    bail!(
        "these languages cannot be built:\n  {}\nWithout network, `cargo xtask test --offline` leaves their tests out",
        failed.join("\n  ")
    )
}

impl Language {
    /// Builds it unless it is built of these very sources; a word on what was done.
    fn make(&self, out: &Path) -> anyhow::Result<String> {
        let begun = Instant::now();
        let sources = Path::new(SOURCES).join(self.name);
        let job = Job {
            folder: out.join("build").join(self.name),
            tools: out.join("tools").join(self.name),
            out: out.to_owned(),
        };
        let mut wanted = fingerprint(&sources)?;
        for (from, _) in self.sdk {
            wanted.push_str(&fingerprint(Path::new(from))?);
        }
        let stamp = out.join("build").join(format!("{}.built", self.name));
        let there = self.makes.iter().all(|name| job.module(name).exists());
        if there && std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
            return Ok("is built".to_owned());
        }
        copy(&sources, &job.folder)?;
        for (from, to) in self.sdk {
            copy(Path::new(from), &job.folder.join(to))?;
        }
        (self.build)(&job)?;
        std::fs::write(stamp, wanted)?;
        Ok(format!("built in {:.1} s", begun.elapsed().as_secs_f64()))
    }
}

/// The names and contents of all files of a folder, one after another.
fn fingerprint(folder: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    for path in files(folder)? {
        text.push_str(&format!("--- {}\n", path.display()));
        text.push_str(&std::fs::read_to_string(&path)?);
    }
    Ok(text)
}

/// What whoever worked in a language's folder may have left there.
const LEFT: &[&str] = &["node_modules", "__pycache__"];

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("{} cannot be read", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if !path.is_dir() {
            found.push(path);
        } else if !LEFT.iter().any(|name| path.ends_with(name)) {
            found.extend(files(&path)?);
        }
    }
    found.sort();
    Ok(found)
}

/// Copies the files over what may be there already: packages installed in a folder stay.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    for path in files(from)? {
        let copied = to.join(path.strip_prefix(from)?);
        std::fs::create_dir_all(copied.parent().unwrap_or(to))?;
        std::fs::copy(&path, copied)?;
    }
    Ok(())
}

fn rust(out: &Path) -> anyhow::Result<()> {
    for (wasm, built, name) in [
        ("wasm32-wasip1", "census", "rust"),
        ("wasm32-wasip2", "census", "rust-component"),
        ("wasm32-wasip2", "census_service", "rust-service"),
    ] {
        let module = target().join(format!("guests/{wasm}/release/{built}.wasm"));
        std::fs::copy(&module, out.join(format!("{name}.wasm")))
            .with_context(|| format!("{} is missing", module.display()))?;
    }
    Ok(())
}

fn c(job: &Job) -> anyhow::Result<()> {
    for (source, name) in [("census.c", "c"), ("sdk/tour.c", "c-tour")] {
        quiet(
            toolchains::c_compiler(&job.out, "cc")?
                .args(["-std=c11", "-O2", "-s", "-Wall", "-Wextra", source])
                .arg("-o")
                .arg(job.module(name))
                .current_dir(&job.folder),
        )?;
    }
    Ok(())
}

fn cpp(job: &Job) -> anyhow::Result<()> {
    quiet(
        toolchains::c_compiler(&job.out, "c++")?
            .args(["-std=c++20", "-O2", "-s", "-Wall", "-Wextra"])
            .args(["-fno-exceptions", "census.cpp", "-o"])
            .arg(job.module("cpp"))
            .current_dir(&job.folder),
    )
}

fn go(job: &Job) -> anyhow::Result<()> {
    let packages = venv(&job.tools, &job.folder.join("requirements.txt"))?;
    // The package's command is a Python script that finds this; it may lack the bit that lets it run.
    let sdk = packages.join("go");
    for program in files(&sdk.join("bin"))?
        .into_iter()
        .chain(files(&sdk.join("pkg/tool"))?)
    {
        toolchains::make_executable(&program)?;
    }
    quiet(
        Command::new(sdk.join("bin/go"))
            .args(["build", "-trimpath", "-ldflags=-s", "-o"])
            .arg(job.module("go"))
            .arg(".")
            .envs([("GOOS", "wasip1"), ("GOARCH", "wasm")])
            .envs([("GOTOOLCHAIN", "local"), ("GOFLAGS", "-mod=mod")])
            .env("GOCACHE", job.tools.join("cache"))
            .env("GOPATH", job.tools.join("path"))
            .env("GOROOT", &sdk)
            .current_dir(&job.folder),
    )
}

fn zig(job: &Job) -> anyhow::Result<()> {
    let name = job.module("zig");
    quiet(
        toolchains::zig(&job.out)?
            .args(["build-exe", "census.zig", "-target", "wasm32-wasi"])
            // Else it reserves 16 MiB.
            .args(["-OReleaseSafe", "-fstrip", "--stack", "1048576"])
            .arg(format!("-femit-bin={}", name.display()))
            .current_dir(&job.folder),
    )
}

fn assemblyscript(job: &Job) -> anyhow::Result<()> {
    toolchains::npm(&job.folder)?;
    quiet(
        Command::new("npm")
            .args(["run", "--silent", "build"])
            .current_dir(&job.folder),
    )?;
    std::fs::rename(job.folder.join("census.wasm"), job.module("assemblyscript"))?;
    Ok(())
}

fn python(job: &Job) -> anyhow::Result<()> {
    venv(&job.tools, &job.folder.join("requirements.txt"))?;
    toolchains::wit(&job.folder.join("wit/deps"), None)?;
    for (world, app, name) in [
        ("job", "app", "python"),
        ("service", "service", "python-service"),
        ("tour", "tour", "python-tour"),
    ] {
        quiet(
            Command::new(job.tools.join("bin/componentize-py"))
                .args(["--quiet", "--wit-path", "wit", "--world", world])
                .args(["componentize", app, "--output"])
                .arg(job.module(name))
                .current_dir(&job.folder),
        )?;
    }
    Ok(())
}

fn javascript(job: &Job) -> anyhow::Result<()> {
    toolchains::npm(&job.folder)?;
    // What its engine was made for; at a later one `fetch` does not link.
    toolchains::wit(&job.folder.join("wit/deps"), Some("0.2.10"))?;
    quiet(
        Command::new("npm")
            .args(["run", "--silent", "build"])
            .current_dir(&job.folder),
    )?;
    for (made, name) in [("job", "javascript"), ("service", "javascript-service")] {
        std::fs::rename(job.folder.join(format!("{made}.wasm")), job.module(name))?;
    }
    Ok(())
}
