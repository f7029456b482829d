//! What a task works on: artifacts and data sets named on the command line, and found at the master.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use serde_json::Value;
use tepui_api::ext;
use tepui_api::v1::command_info::Uri;
use tepui_api::v1::scheduler::{
    AttributeConstraint, OfferConstraints, attribute_constraint, offer_constraints,
};

use crate::client::{self, Client};
use crate::roles::duration;

#[derive(Args, Debug)]
pub(crate) struct Inputs {
    /// What it works on: an artifact by digest or name, which is put into its sandbox, or a data set; may be repeated
    #[arg(long = "input", value_name = "SHA256|NAME")]
    inputs: Vec<String>,
    /// A data set of an agent to read, at PATH or at /data/NAME; may be repeated
    #[arg(long = "dataset", value_name = "NAME[=PATH]")]
    datasets: Vec<String>,
    /// Longest wait for an agent that holds its inputs while others could run it
    #[arg(long, default_value = "3secs", value_parser = duration)]
    pub(crate) locality_wait: Duration,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Artifacts to fetch into the sandbox.
    pub(crate) uris: Vec<Uri>,
    pub(crate) datasets: Vec<ext::Dataset>,
    /// All of it, as the master is told.
    pub(crate) named: Vec<ext::Input>,
}

impl Found {
    pub(crate) fn name_digest(&mut self, sha256: &str) {
        let sha256 = Some(sha256.to_owned());
        let named = ext::Input {
            sha256,
            dataset: None,
        };
        if !self.named.contains(&named) {
            self.named.push(named);
        }
    }

    /// Named twice it is there once, but only in one place.
    fn add_dataset(&mut self, name: &str, path: Option<&str>) -> anyhow::Result<()> {
        if let Some(known) = self.datasets.iter_mut().find(|known| known.name == name) {
            match (&known.path, path) {
                (Some(one), Some(other)) if one != other => bail!(
                    "the data set '{name}' cannot be at {one} and at {other}; name one place for it"
                ),
                (None, Some(path)) => known.path = Some(path.to_owned()),
                _ => {}
            }
            return Ok(());
        }
        self.named.push(ext::Input {
            sha256: None,
            dataset: Some(name.to_owned()),
        });
        self.datasets.push(ext::Dataset {
            name: name.to_owned(),
            path: path.map(str::to_owned),
        });
        Ok(())
    }

    fn add_artifact(&mut self, artifact: &Value) {
        let sha256 = client::text(artifact, &["sha256"]);
        let name = client::text(artifact, &["name"]);
        self.name_digest(sha256);
        if (self.uris.iter()).any(|known| known.sha256.as_deref() == Some(sha256)) {
            return;
        }
        self.uris.push(Uri {
            value: client::text(artifact, &["url"]).to_owned(),
            output_file: Some(if name.is_empty() { sha256 } else { name }.to_owned()),
            sha256: Some(sha256.to_owned()),
            cache: Some(true),
            // An input is data; who wants an archive unpacked says so with --fetch.
            extract: Some(false),
            ..Default::default()
        });
    }

    /// Only agents with all the data sets are of use.
    pub(crate) fn constraints(&self, role: &str) -> Option<OfferConstraints> {
        use attribute_constraint::{Predicate, Selector, predicate, selector};
        if self.datasets.is_empty() {
            return None;
        }
        let exists = self.datasets.iter().map(|dataset| AttributeConstraint {
            selector: Selector {
                selector: Some(selector::Selector::AttributeName(format!(
                    "{}{}",
                    tepui_agent::DATASET_ATTRIBUTES,
                    dataset.name
                ))),
            },
            predicate: Predicate {
                predicate: Some(predicate::Predicate::Exists(predicate::Exists {})),
            },
        });
        let group = offer_constraints::role_constraints::Group {
            attribute_constraints: exists.collect(),
        };
        let constraints = offer_constraints::RoleConstraints {
            groups: vec![group],
        };
        Some(OfferConstraints {
            role_constraints: BTreeMap::from([(role.to_owned(), constraints)]),
        })
    }
}

impl Inputs {
    pub(crate) async fn find(&self, client: &Client) -> anyhow::Result<Found> {
        let mut found = Found::default();
        for wanted in &self.datasets {
            let (name, path) = dataset(wanted)?;
            if !is_there(client, name).await? {
                eprintln!(
                    "tepui: no agent has the data set '{name}' now; waiting for one that does"
                );
            }
            found.add_dataset(name, path)?;
        }
        if self.inputs.is_empty() {
            return Ok(found);
        }
        let answer = client.get("/api/v1/tepui/artifacts", &[]).await?;
        let answer: Value = answer.json().await?;
        for wanted in &self.inputs {
            match pick(wanted, &answer["artifacts"])? {
                Some(artifact) => found.add_artifact(artifact),
                None if is_there(client, wanted).await? => found.add_dataset(wanted, None)?,
                None => bail!(
                    "--input {wanted:?} is neither an artifact (see `tepui artifact ls`) nor a data set of an agent"
                ),
            }
        }
        Ok(found)
    }
}

/// A data set's name, and where it is wanted.
fn dataset(wanted: &str) -> anyhow::Result<(&str, Option<&str>)> {
    let (name, path) = wanted.split_once('=').unzip();
    let name = name.unwrap_or(wanted);
    if name.is_empty() || path.is_some_and(str::is_empty) {
        bail!("--dataset {wanted:?} is not NAME or NAME=PATH");
    }
    if !tepui_agent::is_dataset_name(name) {
        return Err(tepui_agent::DeclarationError::Name(name.to_owned()).into());
    }
    Ok((name, path))
}

/// The artifact of that digest or name.
fn pick<'a>(wanted: &str, artifacts: &'a Value) -> anyhow::Result<Option<&'a Value>> {
    let all = || client::items(artifacts);
    if wanted.len() == 64 && wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let wanted = wanted.to_ascii_lowercase();
        return Ok(all().find(|one| client::text(one, &["sha256"]) == wanted));
    }
    let named: Vec<&Value> = all()
        .filter(|one| client::text(one, &["name"]) == wanted)
        .collect();
    match named.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        several => {
            let digests: Vec<&str> = several
                .iter()
                .map(|one| client::text(one, &["sha256"]))
                .collect();
            bail!(
                "several artifacts are called {wanted:?}; name one by its digest: {}",
                digests.join(", ")
            )
        }
    }
}

async fn is_there(client: &Client, dataset: &str) -> anyhow::Result<bool> {
    let answer = client
        .get("/api/v1/tepui/holdings", &[("dataset", dataset)])
        .await?;
    let answer: Value = answer.json().await?;
    Ok(client::items(&answer["holdings"]).next().is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_data_set_that_cannot_be_is_not_waited_for() {
        assert_eq!(dataset("genome").unwrap(), ("genome", None));
        assert_eq!(dataset("genome=/g").unwrap(), ("genome", Some("/g")));
        for wrong in ["", "=/g", "genome=", "ge/nome", "-g", ".g=/g", "ge nome"] {
            assert!(dataset(wrong).is_err(), "{wrong:?}");
        }
        let error = dataset("ge/nome").unwrap_err().to_string();
        assert!(error.contains("not the name of a data set"), "{error}");
    }

    #[test]
    fn what_is_named_twice_is_there_once() {
        let mut found = Found::default();
        for path in [None, Some("/g"), Some("/g"), None] {
            found.add_dataset("genome", path).unwrap();
        }
        assert_eq!((found.datasets.len(), found.named.len()), (1, 1));
        assert_eq!(found.datasets[0].path.as_deref(), Some("/g"));
        let error = found.add_dataset("genome", Some("/h")).unwrap_err();
        assert!(error.to_string().contains("/g and at /h"), "{error}");
        found.add_dataset("other", None).unwrap();
        let artifact = json!({ "sha256": "a".repeat(64), "name": "table", "url": "http://m/a" });
        found.add_artifact(&artifact);
        found.add_artifact(&artifact);
        found.name_digest(&"a".repeat(64));
        assert_eq!(
            (found.datasets.len(), found.uris.len(), found.named.len()),
            (2, 1, 3)
        );
    }

    #[test]
    fn an_artifact_is_meant_by_digest_or_by_a_name_that_only_one_has() {
        let digest = |letter: &str| letter.repeat(64);
        let artifacts = json!([
            { "sha256": digest("a"), "name": "table" },
            { "sha256": digest("b"), "name": "twice" },
            { "sha256": digest("c"), "name": "twice" },
        ]);
        let found = |wanted: &str| {
            let picked = pick(wanted, &artifacts);
            picked.map(|one| one.map(|one| client::text(one, &["sha256"])[..1].to_owned()))
        };
        assert_eq!(found("table").unwrap().as_deref(), Some("a"));
        assert_eq!(found(&digest("B")).unwrap().as_deref(), Some("b"));
        assert_eq!(found(&digest("d")).unwrap(), None);
        assert_eq!(found("other").unwrap(), None);
        let error = found("twice").unwrap_err().to_string();
        assert!(error.contains(&digest("c")), "{error}");
    }
}
