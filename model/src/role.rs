//! Roles: who resources are for. A role is a path, and what is reserved for a role is also for the roles beneath it.

use std::fmt;
use std::sync::Arc;

/// The longest role in bytes. Every level of a role is kept with its whole path, so a long one of many levels would cost
/// the square of its length.
pub const MAX_ROLE_BYTES: usize = 1024;

/// A valid role: `*` or a path such as `engineering/backend`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Role(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoleError {
    #[error("a role must not be empty")]
    Empty,
    #[error("a role has at most {MAX_ROLE_BYTES} bytes, not {bytes}")]
    TooLong { bytes: usize },
    #[error("the role '{role}' must not begin with a slash")]
    LeadingSlash { role: String },
    #[error("the role '{role}' must not end with a slash")]
    TrailingSlash { role: String },
    #[error("the role '{role}' has two slashes in a row")]
    DoubleSlash { role: String },
    #[error("the role '{role}' has the component '{component}', which is not allowed")]
    Component { role: String, component: String },
    #[error("the role '{role}' has a component that begins with '-'")]
    Dash { role: String },
    #[error("the role '{}' contains {character:?}, which is not allowed", .role.escape_debug())]
    Character { role: String, character: char },
}

impl Role {
    pub fn parse(role: &str) -> Result<Self, RoleError> {
        let owned = || role.to_owned();
        if role.is_empty() {
            return Err(RoleError::Empty);
        }
        if role.len() > MAX_ROLE_BYTES {
            return Err(RoleError::TooLong { bytes: role.len() });
        }
        if role == "*" {
            return Ok(Self::star());
        }
        if role.starts_with('/') {
            return Err(RoleError::LeadingSlash { role: owned() });
        }
        if role.ends_with('/') {
            return Err(RoleError::TrailingSlash { role: owned() });
        }
        for component in role.split('/') {
            match component {
                "" => return Err(RoleError::DoubleSlash { role: owned() }),
                "." | ".." | "*" => {
                    return Err(RoleError::Component {
                        role: owned(),
                        component: component.to_owned(),
                    });
                }
                component if component.starts_with('-') => {
                    return Err(RoleError::Dash { role: owned() });
                }
                _ => {}
            }
        }
        match role
            .chars()
            .find(|character| matches!(character, '\x09'..='\x0d' | ' ' | '\x7f'))
        {
            Some(character) => Err(RoleError::Character {
                role: owned(),
                character,
            }),
            None => Ok(Self(role.into())),
        }
    }

    /// `*`, the role of everybody and of what is reserved for nobody.
    pub fn star() -> Self {
        Self("*".into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_star(&self) -> bool {
        &*self.0 == "*"
    }

    /// Whether this role lies beneath the other: `a/b` beneath `a`, but `ab` does not.
    pub fn is_strict_sub_role_of(&self, other: &Role) -> bool {
        self.0
            .strip_prefix(&*other.0)
            .is_some_and(|rest| rest.starts_with('/'))
    }

    /// Whether this role is one of the named, or beneath one of them.
    pub fn is_within<'a>(&self, named: impl IntoIterator<Item = &'a str>) -> bool {
        named.into_iter().any(|name| {
            let rest = self.0.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// The roles above this one, nearest first.
    pub fn ancestors(&self) -> impl Iterator<Item = Role> + '_ {
        self.0
            .rmatch_indices('/')
            .map(|(at, _)| Role(self.0[..at].into()))
    }

    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The role's first component.
    pub fn top_level(&self) -> Role {
        match self.0.split_once('/') {
            Some((top, _)) => Role(top.into()),
            None => self.clone(),
        }
    }
}

impl fmt::Debug for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Role({})", self.0)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl AsRef<str> for Role {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Role {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Role {
    type Err = RoleError;

    fn from_str(role: &str) -> Result<Self, RoleError> {
        Self::parse(role)
    }
}

impl TryFrom<&str> for Role {
    type Error = RoleError;

    fn try_from(role: &str) -> Result<Self, RoleError> {
        Self::parse(role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(text: &str) -> Role {
        Role::parse(text).unwrap()
    }

    #[test]
    fn paths_and_the_star_are_roles() {
        for text in ["*", "a", "a/b/c", "a-b", "dev.team", "**", "ä"] {
            assert_eq!(role(text).as_str(), text);
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in [
            "", "/a", "a/", "a//b", ".", "..", "a/./b", "a/*", "-a", "a/-b", "a b", "a\tb",
            "a\u{7f}", "/",
        ] {
            assert!(Role::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(
            Role::parse(&"a".repeat(1025)),
            Err(RoleError::TooLong { bytes: 1025 })
        );
        let error = Role::parse("a/*").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the role 'a/*' has the component '*', which is not allowed"
        );
    }

    #[test]
    fn sub_roles_are_told_by_whole_components() {
        assert!(role("a/b").is_strict_sub_role_of(&role("a")));
        assert!(role("a/b/c").is_strict_sub_role_of(&role("a")));
        assert!(!role("ab").is_strict_sub_role_of(&role("a")));
        assert!(!role("a").is_strict_sub_role_of(&role("a")));
        assert!(!role("a").is_strict_sub_role_of(&role("a/b")));
        assert!(!role("a").is_strict_sub_role_of(&Role::star()));
    }

    #[test]
    fn ancestors_come_nearest_first() {
        let ancestors: Vec<String> = role("a/b/c")
            .ancestors()
            .map(|role| role.to_string())
            .collect();
        assert_eq!(ancestors, ["a/b", "a"]);
        assert_eq!(Role::star().ancestors().count(), 0);
        assert_eq!(
            role("a/b/c").components().collect::<Vec<_>>(),
            ["a", "b", "c"]
        );
        assert_eq!(role("a/b/c").top_level(), role("a"));
    }
}
