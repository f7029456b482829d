//! Checks that no compiler makes: who may depend on whom, a document for every module, licences, leftovers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

/// Of our own crates, which each may use. A crate that is absent here may use none.
const ARROWS: &[(&str, &[&str])] = &[
    ("tepui-model", &[]),
    ("tepui-access", &[]),
    ("tepui-api", &["tepui-model"]),
    ("tepui-allocator", &["tepui-model"]),
    ("tepui-fetch", &["tepui-model"]),
    ("tepui-bodies", &["tepui-model"]),
    ("tepui-wall", &[]),
    (
        "tepui-sim",
        &[
            "tepui-model",
            "tepui-api",
            "tepui-master-core",
            "tepui-agent-core",
        ],
    ),
    (
        "tepui-master-core",
        &[
            "tepui-access",
            "tepui-model",
            "tepui-api",
            "tepui-allocator",
        ],
    ),
    (
        "tepui-master",
        &[
            "tepui-access",
            "tepui-model",
            "tepui-api",
            "tepui-bodies",
            "tepui-fetch",
            "tepui-master-core",
        ],
    ),
    ("tepui-agent-core", &["tepui-model", "tepui-api"]),
    (
        "tepui-agent",
        &[
            "tepui-access",
            "tepui-model",
            "tepui-api",
            "tepui-bodies",
            "tepui-fetch",
            "tepui-agent-core",
            "tepui-wall",
        ],
    ),
    ("tepui-sdk-executor", &["tepui-api", "tepui-model"]),
    (
        "tepui-executor-wasm",
        &[
            "tepui-api",
            "tepui-model",
            "tepui-sdk-executor",
            "tepui-wall",
        ],
    ),
    (
        "tepui-executor-native",
        &[
            "tepui-api",
            "tepui-model",
            "tepui-sdk-executor",
            "tepui-wall",
        ],
    ),
    (
        "tepui-sdk-scheduler",
        &["tepui-access", "tepui-api", "tepui-model"],
    ),
    (
        "tepui",
        &[
            "tepui-access",
            "tepui-model",
            "tepui-api",
            "tepui-fetch",
            "tepui-master",
            "tepui-agent",
            "tepui-executor-wasm",
            "tepui-executor-native",
            "tepui-sdk-scheduler",
            "tepui-wall",
        ],
    ),
    ("tepui-tests", &["tepui-api", "tepui-wall"]),
    (
        "tepui-bench",
        &[
            "tepui-api",
            "tepui-sdk-scheduler",
            "tepui-allocator",
            "tepui-model",
        ],
    ),
    ("wordcount", &["tepui-api", "tepui-sdk-scheduler"]),
    ("rendler", &["tepui-api", "tepui-sdk-scheduler"]),
];

/// Crates that must stay free of any runtime.
const PURE: &[&str] = &[
    "tepui-model",
    "tepui-access",
    "tepui-api",
    "tepui-allocator",
    "tepui-master-core",
    "tepui-agent-core",
];
const RUNTIMES: &[&str] = &[
    "tokio", "hyper", "sled", "wasmtime", "reqwest", "axum", "nix", "libc",
];

/// Licences we take; an expression passes if one of its alternatives is made of these alone.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "BSL-1.0",
    "CC0-1.0",
    "Unlicense",
    "Unicode-3.0",
    "CDLA-Permissive-2.0",
    "bzip2-1.0.6",
];

pub(crate) fn run() -> anyhow::Result<()> {
    let metadata = metadata()?;
    let mut faults = Vec::new();
    arrows(&metadata, &mut faults);
    licences(&metadata, &mut faults);
    sources(&mut faults)?;
    conformance(&mut faults)?;
    if faults.is_empty() {
        println!("tidy: arrows, module documents, licences and the conformance table are in order");
        return Ok(());
    }
    for fault in &faults {
        eprintln!("tidy: {fault}");
    }
    bail!("{} things to tidy", faults.len())
}

fn metadata() -> anyhow::Result<Value> {
    let output = super::cargo()
        .args(["metadata", "--format-version", "1", "--locked"])
        .output()?;
    if !output.status.success() {
        bail!(
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

fn arrows(metadata: &Value, faults: &mut Vec<String>) {
    let allowed: BTreeMap<&str, BTreeSet<&str>> = ARROWS
        .iter()
        .map(|(name, uses)| (*name, uses.iter().copied().collect()))
        .collect();
    for package in packages(metadata).filter(|package| package["source"].is_null()) {
        let name = package["name"].as_str().unwrap_or_default();
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or_default();
            let ships = dependency["kind"].is_null();
            if dependency["source"].is_null() && ships {
                let may = allowed.get(name).is_some_and(|uses| uses.contains(used));
                if !may {
                    faults.push(format!(
                        "{name} must not use {used}: the arrows are in xtask/src/tidy.rs"
                    ));
                }
            }
            if ships && PURE.contains(&name) && RUNTIMES.contains(&used) {
                faults.push(format!("{name} is pure and must not list {used}"));
            }
        }
    }
}

fn licences(metadata: &Value, faults: &mut Vec<String>) {
    for package in packages(metadata) {
        let name = package["name"].as_str().unwrap_or_default();
        match package["license"].as_str() {
            Some(expression) if permissive(expression) => {}
            Some(expression) => faults.push(format!(
                "{name} is under {expression}, which is not on the list"
            )),
            None => faults.push(format!("{name} states no licence")),
        }
    }
}

/// Whether an SPDX expression can be met with the licences on the list.
fn permissive(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], " ");
    // Every expression met so far is a choice of conjunctions, or a conjunction holding one choice; read the second
    // kind word by word: each AND part must have an allowed alternative.
    expression.split(" AND ").all(|part| {
        part.split(" OR ")
            .any(|licence| LICENCES.contains(&licence.trim()))
    })
}

fn sources(faults: &mut Vec<String>) -> anyhow::Result<()> {
    let listed = Command::new("git")
        .args(["ls-files", "-co", "--exclude-standard"])
        .output()?;
    for path in String::from_utf8_lossy(&listed.stdout).lines() {
        let Ok(text) = std::fs::read_to_string(Path::new(path)) else {
            continue;
        };
        if path.ends_with(".rs") {
            if !text.trim_start().starts_with("//!") {
                faults.push(format!(
                    "{path} does not begin with a module document (//!)"
                ));
            }
            // Spelled apart, so that this file does not find itself.
            for leftover in [
                concat!("#[", "ignore"),
                concat!("todo", "!("),
                concat!("dbg", "!("),
            ] {
                if text.contains(leftover) {
                    faults.push(format!("{path} holds a leftover: {leftover}"));
                }
            }
        }
    }
    Ok(())
}

/// Every test that the conformance table names exists, and no row is there twice.
fn conformance(faults: &mut Vec<String>) -> anyhow::Result<()> {
    const TABLE: &str = "docs/conformance.md";
    let mut rows = BTreeSet::new();
    for line in std::fs::read_to_string(TABLE)?.lines() {
        if let Some(row) = row_number(line)
            && !rows.insert(row)
        {
            faults.push(format!("{TABLE} has the row {row} twice"));
        }
        for (path, name) in named_tests(line) {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            if !text.contains(&format!("fn {name}(")) {
                faults.push(format!(
                    "{TABLE} names {path}::{name}, which does not exist"
                ));
            }
        }
    }
    Ok(())
}

/// The number in the first cell of a table's line.
fn row_number(line: &str) -> Option<u32> {
    line.strip_prefix('|')?
        .split('|')
        .next()?
        .trim()
        .parse()
        .ok()
}

/// What a line quotes as `path/to/file.rs::name_of_a_test`.
fn named_tests(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let quoted = line.split('`').skip(1).step_by(2);
    quoted.filter_map(|quoted| {
        quoted
            .split_once(".rs::")
            .map(|(path, name)| (&quoted[..path.len() + 3], name))
    })
}

#[cfg(test)]
mod tests {
    use super::{named_tests, permissive, row_number};

    #[test]
    fn a_line_of_the_conformance_table_is_read() {
        let line = "| 81 | `A.B` | what | `tests/tests/x.rs::one`, `a/b.rs::two` |";
        assert_eq!(row_number(line), Some(81));
        let named: Vec<_> = named_tests(line).collect();
        assert_eq!(named, [("tests/tests/x.rs", "one"), ("a/b.rs", "two")]);
        assert_eq!(row_number("| # | test |"), None);
    }

    #[test]
    fn an_expression_passes_when_each_part_has_an_allowed_alternative() {
        assert!(permissive("MIT OR Apache-2.0"));
        assert!(permissive("MIT/Apache-2.0"));
        assert!(permissive("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(permissive("Apache-2.0 AND ISC"));
        assert!(!permissive("GPL-3.0"));
        assert!(!permissive("MIT AND GPL-2.0"));
        assert!(permissive("MPL-2.0 OR MIT"));
    }
}
