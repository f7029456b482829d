//! Access control lists: for each action a list of entries, of which the first that fits decides.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::action::Action;

/// Everything an operator allows and denies. Without any list everything is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acls {
    /// What is decided where no entry fits.
    permissive: bool,
    lists: BTreeMap<Action, Vec<Entry>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    principals: Entity,
    objects: Entity,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entity {
    /// Nobody: an entry that fits denies.
    None,
    Any,
    Some(BTreeSet<String>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AclsError {
    #[error("the ACLs are not JSON: {0}")]
    Json(String),
    #[error("the ACLs must be a JSON object")]
    NotAnObject,
    #[error("'permissive' must be true or false")]
    Permissive,
    #[error("there is no action '{0}'")]
    UnknownAction(String),
    #[error("'{0}' must be a list of objects")]
    NotAList(&'static str),
    #[error("an entry of '{list}' lacks '{field}'")]
    Missing {
        list: &'static str,
        field: &'static str,
    },
    #[error(
        "'{field}' of an entry of '{list}' must be {{\"values\": [\"...\"]}} or {{\"type\": \"ANY\"}} or {{\"type\": \"NONE\"}}"
    )]
    Entity {
        list: &'static str,
        field: &'static str,
    },
}

impl Default for Acls {
    fn default() -> Self {
        Self {
            permissive: true,
            lists: BTreeMap::new(),
        }
    }
}

impl Acls {
    /// Reads an ACL file.
    pub fn parse(text: &str) -> Result<Self, AclsError> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| AclsError::Json(error.to_string()))?;
        let Value::Object(fields) = value else {
            return Err(AclsError::NotAnObject);
        };
        let mut acls = Self::default();
        for (name, value) in &fields {
            if name == "permissive" {
                acls.permissive = value.as_bool().ok_or(AclsError::Permissive)?;
                continue;
            }
            let action = Action::ALL.iter().find(|action| action.list() == name);
            let action = *action.ok_or_else(|| AclsError::UnknownAction(name.clone()))?;
            acls.lists.insert(action, entries(action, value)?);
        }
        Ok(acls)
    }

    /// Whether the principal may do it to the object. A caller without a name, and an object that is not named ("some
    /// user or other"), are met only by entries for anybody and for nobody.
    pub fn permit(&self, principal: Option<&str>, action: Action, object: Option<&str>) -> bool {
        let deciding = self.lists.get(&action).into_iter().flatten().find(|entry| {
            entry.principals.fits(principal, false)
                && entry.objects.fits(object, action.is_on_roles())
        });
        match deciding {
            Some(entry) => entry.principals != Entity::None && entry.objects != Entity::None,
            None => self.permissive,
        }
    }

    /// Whether the principal may do it to every object there can be.
    pub fn permit_all(&self, principal: Option<&str>, action: Action) -> bool {
        let entries = self.lists.get(&action).into_iter().flatten();
        for entry in entries.filter(|entry| entry.principals.fits(principal, false)) {
            if entry.principals == Entity::None || entry.objects == Entity::None {
                return false;
            }
            if entry.objects == Entity::Any {
                return true;
            }
        }
        self.permissive
    }

    /// Whether everybody may do it whatever the object is, so that objects need not be looked at one by one.
    pub fn is_open(&self, action: Action) -> bool {
        self.permissive && self.lists.get(&action).is_none_or(Vec::is_empty)
    }
}

fn entries(action: Action, value: &Value) -> Result<Vec<Entry>, AclsError> {
    let list = action.list();
    let Value::Array(items) = value else {
        return Err(AclsError::NotAList(list));
    };
    let entries = items.iter().map(|item| {
        let fields = item.as_object().ok_or(AclsError::NotAList(list))?;
        Ok(Entry {
            principals: entity(list, "principals", fields)?,
            objects: entity(list, action.objects(), fields)?,
        })
    });
    entries.collect()
}

fn entity(
    list: &'static str,
    field: &'static str,
    fields: &Map<String, Value>,
) -> Result<Entity, AclsError> {
    let wrong = || AclsError::Entity { list, field };
    let entity = fields
        .get(field)
        .ok_or(AclsError::Missing { list, field })?
        .as_object()
        .ok_or_else(wrong)?;
    let values = match entity.get("values") {
        None => BTreeSet::new(),
        Some(Value::Array(values)) => {
            let texts = values.iter().map(|value| value.as_str().map(str::to_owned));
            texts.collect::<Option<_>>().ok_or_else(wrong)?
        }
        Some(_) => return Err(wrong()),
    };
    match entity.get("type").map(Value::as_str) {
        None | Some(Some("SOME")) => Ok(Entity::Some(values)),
        Some(Some("ANY")) => Ok(Entity::Any),
        Some(Some("NONE")) => Ok(Entity::None),
        Some(_) => Err(wrong()),
    }
}

impl Entity {
    fn fits(&self, name: Option<&str>, roles: bool) -> bool {
        match (self, name) {
            (Self::Any | Self::None, _) => true,
            (Self::Some(_), None) => false,
            (Self::Some(values), Some(name)) => {
                values.contains(name) || (roles && is_below_one_of(name, values))
            }
        }
    }
}

/// Whether the role is below one that the values name as `role/%`.
fn is_below_one_of(role: &str, values: &BTreeSet<String>) -> bool {
    let slashes = role.match_indices('/').map(|(at, _)| at);
    let mut parents = slashes.map(|at| &role[..at]);
    parents.any(|parent| values.contains(&format!("{parent}/%")))
}

#[cfg(test)]
mod tests {
    use super::{Acls, AclsError};
    use crate::Action;

    fn acls(text: &str) -> Acls {
        Acls::parse(text).unwrap()
    }

    #[test]
    fn without_lists_everything_is_allowed_and_nothing_if_not_permissive() {
        let open = acls("{}");
        assert!(open.permit(None, Action::RunTask, Some("root")));
        assert!(open.is_open(Action::RunTask));
        let closed = acls(r#"{ "permissive": false }"#);
        assert!(!closed.permit(Some("a"), Action::RunTask, Some("root")));
        assert!(!closed.is_open(Action::RunTask));
    }

    #[test]
    fn the_first_entry_that_fits_decides() {
        let acls = acls(
            r#"{ "run_tasks": [
                { "principals": { "values": ["a"] }, "users": { "values": ["root", "www"] } },
                { "principals": { "values": ["a"] }, "users": { "type": "NONE" } },
                { "principals": { "type": "NONE" }, "users": { "values": ["root"] } }
            ] }"#,
        );
        let may = |who, user| acls.permit(who, Action::RunTask, Some(user));
        assert!(may(Some("a"), "root") && may(Some("a"), "www"));
        assert!(
            !may(Some("a"), "nobody"),
            "what a may do is said, and this is not of it"
        );
        assert!(!may(Some("b"), "root"), "nobody else may be root");
        assert!(
            may(Some("b"), "www"),
            "no entry fits, and the lists are permissive"
        );
        assert!(!may(None, "root"));
        assert!(may(None, "www"));
    }

    #[test]
    fn a_caller_without_a_name_is_anybody_and_no_one_in_particular() {
        let acls = acls(
            r#"{ "permissive": false, "register_frameworks": [
                { "principals": { "values": ["a"] }, "roles": { "type": "ANY" } },
                { "principals": { "type": "ANY" }, "roles": { "values": ["guests"] } }
            ] }"#,
        );
        let may = |who, role| acls.permit(who, Action::RegisterFramework, Some(role));
        assert!(may(Some("a"), "anything"));
        assert!(may(None, "guests"));
        assert!(!may(None, "anything"));
    }

    #[test]
    fn a_percent_sign_stands_for_all_roles_below() {
        let acls = acls(
            r#"{ "permissive": false, "register_frameworks": [
                { "principals": { "type": "ANY" }, "roles": { "values": ["eng/%"] } }
            ] }"#,
        );
        let may = |role| acls.permit(Some("a"), Action::RegisterFramework, Some(role));
        assert!(may("eng/web") && may("eng/web/front"));
        assert!(!may("eng") && !may("engine/web") && !may("ops"));
    }

    #[test]
    fn what_nobody_knows_is_for_those_who_may_do_it_to_all() {
        let acls = acls(
            r#"{ "access_sandboxes": [
                { "principals": { "values": ["a"] }, "users": { "type": "ANY" } },
                { "principals": { "values": ["b"] }, "users": { "values": ["www"] } },
                { "principals": { "type": "NONE" }, "users": { "values": ["root"] } }
            ] }"#,
        );
        let may = |who| acls.permit_all(who, Action::AccessSandbox);
        assert!(may(Some("a")));
        assert!(!may(Some("b")) && !may(None), "it may be root's");
        assert!(acls.permit_all(None, Action::RunTask));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = |text: &str| Acls::parse(text).unwrap_err();
        assert!(matches!(error("{"), AclsError::Json(_)));
        assert_eq!(error("[]"), AclsError::NotAnObject);
        assert_eq!(error(r#"{"permissive": 1}"#), AclsError::Permissive);
        assert_eq!(
            error(r#"{"fly": []}"#),
            AclsError::UnknownAction("fly".to_owned())
        );
        assert_eq!(
            error(r#"{"run_tasks": {}}"#),
            AclsError::NotAList("run_tasks")
        );
        let (list, field) = ("run_tasks", "users");
        assert_eq!(
            error(r#"{"run_tasks": [{"principals": {"type": "ANY"}}]}"#),
            AclsError::Missing { list, field }
        );
        assert_eq!(
            error(r#"{"run_tasks": [{"principals": {"type": "ANY"}, "users": {"type": "ALL"}}]}"#),
            AclsError::Entity { list, field }
        );
    }
}
