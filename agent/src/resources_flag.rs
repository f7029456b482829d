//! `--resources` in its three forms: `cpus:4;mem(role):64`, a JSON array of Mesos's Resource, or the file that has either.

use std::collections::BTreeSet;

use serde_json::Value;
use tepui_api::convert::{ConvertError, resource_from_wire};
use tepui_api::json::{self, JsonError};
use tepui_api::v1;
use tepui_model::{ParseError, Resource, Resources, Role, parse_resources};

const FILE: &str = "file://";

/// Why resources cannot be what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ResourcesError {
    #[error("the file '{path}' cannot be read: {source}")]
    File {
        path: String,
        source: std::io::Error,
    },
    #[error(transparent)]
    Text(#[from] ParseError),
    #[error("it is not JSON: {0}")]
    Syntax(#[from] serde_json::Error),
    #[error("it must be a JSON array of resources")]
    NoArray,
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error(transparent)]
    Resource(#[from] ConvertError),
    #[error(
        "{0} is something that is made at run time: dynamic reservations and volumes are for operators' calls and frameworks"
    )]
    Made(Resource),
    #[error("{0} is revocable, which an agent's resources cannot be")]
    Revocable(Resource),
}

/// The flag's resources, and the names of all it mentions: an amount of nothing, written out, is an amount.
#[derive(Debug)]
pub struct Given {
    pub(crate) resources: Resources,
    pub(crate) names: BTreeSet<String>,
}

/// Reads the flag; what names no role is for the default role.
pub fn read_resources(flag: &str, default_role: &Role) -> Result<Given, ResourcesError> {
    let Some(path) = flag.trim().strip_prefix(FILE) else {
        return read(flag, default_role);
    };
    let text = std::fs::read_to_string(path).map_err(|source| ResourcesError::File {
        path: path.to_owned(),
        source,
    })?;
    read(&text, default_role)
}

fn read(text: &str, default_role: &Role) -> Result<Given, ResourcesError> {
    if !text.trim_start().starts_with(['[', '{']) {
        return Ok(Given {
            resources: parse_resources(text, default_role)?,
            names: text.split([';', '\n']).map(name).collect(),
        });
    }
    let Value::Array(items) = serde_json::from_str(text)? else {
        return Err(ResourcesError::NoArray);
    };
    let (mut resources, mut names) = (Resources::new(), BTreeSet::new());
    for item in &items {
        let mut wire: v1::Resource = json::from_value(item)?;
        if wire.role.is_none() && wire.reservations.is_empty() && !default_role.is_star() {
            wire.role = Some(default_role.to_string());
        }
        let (resource, _) = resource_from_wire(&wire)?;
        if resource.is_made() || resource.reservations.iter().any(|one| one.dynamic) {
            return Err(ResourcesError::Made(resource));
        }
        if resource.revocable {
            return Err(ResourcesError::Revocable(resource));
        }
        names.insert(wire.name);
        resources.add_resource(resource);
    }
    Ok(Given { resources, names })
}

/// Of a piece such as `mem(role):64`.
fn name(piece: &str) -> String {
    let named = piece.split(':').next().unwrap_or_default();
    named
        .split('(')
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(flag: &str, expected: &str) {
        let role = Role::parse("web").unwrap();
        let read = match read_resources(flag, &role) {
            Ok(given) => given.resources.to_string(),
            Err(error) => error.to_string(),
        };
        assert!(read.contains(expected), "{flag}: {read}");
    }

    #[test]
    fn all_forms_are_read_and_the_default_role_gets_what_names_none() {
        check("cpus:4;mem(db):64", "cpus(web):4; mem(db):64");
        let array = r#"[
            {"name":"cpus","type":"SCALAR","scalar":{"value":4}},
            {"name":"mem","type":"SCALAR","scalar":{"value":64},"role":"db"},
            {"name":"gold","type":"SET","set":{"item":["a"]},"role":"*"},
            {"name":"disk","type":"SCALAR","scalar":{"value":9},
             "reservations":[{"type":"STATIC","role":"db"}],
             "disk":{"source":{"type":"MOUNT","mount":{"root":"/mnt"}}}}
        ]"#;
        let all = "cpus(web):4; disk(db)[MOUNT:/mnt]:9; gold:{a}; mem(db):64";
        check(array, all);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), array).unwrap();
        check(&format!("file://{}", file.path().display()), all);
        std::fs::write(file.path(), "cpus:2\nmem:32\n").unwrap();
        check(
            &format!("file://{}", file.path().display()),
            "cpus(web):2; mem(web):32",
        );
    }

    #[test]
    fn what_cannot_be_had_is_told() {
        check("file:///no/such/file", "cannot be read");
        check("{}", "must be a JSON array");
        check("[", "is not JSON");
        check("cpus:x", "is not a number");
        check(r#"[{"name":"cpus"}]"#, "type");
        let resource = |more: &str| {
            format!(
                r#"[{{"name":"disk","type":"SCALAR","scalar":{{"value":4}},"role":"a",{more}}}]"#
            )
        };
        check(&resource(r#""reservation":{}"#), "made at run time");
        check(
            &resource(r#""disk":{"persistence":{"id":"v"}}"#),
            "made at run time",
        );
        check(&resource(r#""revocable":{}"#), "is revocable");
    }
}
