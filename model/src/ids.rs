//! One type per kind of id, so that a function that wants an agent cannot be handed a framework.
//!
//! The types do not validate: an id that came over the wire is checked once, at the edge, with [`check_id`].

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The longest id in bytes: ids become file names on agents, and a file name has no more room than this.
pub const MAX_ID_BYTES: usize = 255;
/// The longest container id: its name is prefixed and suffixed on disk, and must still fit a file name.
pub const MAX_CONTAINER_ID_BYTES: usize = 242;

macro_rules! id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn new(id: impl Into<Arc<str>>) -> Self {
                Self(id.into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                Self(id.into())
            }
        }

        impl From<String> for $name {
            fn from(id: String) -> Self {
                Self(id.into())
            }
        }

        impl From<Arc<str>> for $name {
            fn from(id: Arc<str>) -> Self {
                Self(id)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

id!(
    /// A machine's agent, as the master named it.
    AgentId
);
id!(
    /// A scheduler's registration.
    FrameworkId
);
id!(
    /// A task, unique within its framework.
    TaskId
);
id!(
    /// An executor, unique within its framework on one agent.
    ExecutorId
);
id!(
    /// One open offer.
    OfferId
);
id!(
    /// A container on an agent.
    ContainerId
);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("the {what} must not be empty")]
    Empty { what: &'static str },
    #[error("the {what} '{}…' has {bytes} bytes, at most {limit} are allowed", beginning(.id))]
    TooLong {
        what: &'static str,
        id: String,
        bytes: usize,
        limit: usize,
    },
    #[error("the {what} '{id}' is a directory's own name and cannot be used")]
    Dots { what: &'static str, id: String },
    #[error("the {what} '{}' contains {character:?}, which is not allowed", .id.escape_debug())]
    Character {
        what: &'static str,
        id: String,
        character: char,
    },
}

fn beginning(id: &str) -> String {
    id.chars().take(40).flat_map(char::escape_debug).collect()
}

/// Whether a task, executor, framework, agent or persistence id can be used as a file name; `what` names its kind.
pub fn check_id(what: &'static str, id: &str) -> Result<(), IdError> {
    check(what, id, MAX_ID_BYTES, |character| {
        character.is_control() || matches!(character, '/' | '\\')
    })
}

/// The stricter rule for the value of a container id that a client chose.
pub fn check_container_id(id: &str) -> Result<(), IdError> {
    check("container id", id, MAX_CONTAINER_ID_BYTES, |character| {
        character.is_control() || matches!(character, '/' | '\\' | '.' | ' ')
    })
}

fn check(
    what: &'static str,
    id: &str,
    limit: usize,
    forbidden: impl Fn(char) -> bool,
) -> Result<(), IdError> {
    if id.is_empty() {
        return Err(IdError::Empty { what });
    }
    if id.len() > limit {
        return Err(IdError::TooLong {
            what,
            id: id.to_owned(),
            bytes: id.len(),
            limit,
        });
    }
    if id == "." || id == ".." {
        return Err(IdError::Dots {
            what,
            id: id.to_owned(),
        });
    }
    match id.chars().find(|character| forbidden(*character)) {
        Some(character) => Err(IdError::Character {
            what,
            id: id.to_owned(),
            character,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_id_is_accepted_up_to_the_length_of_a_file_name() {
        for id in ["a", "task-1", "with space", "…", ".hidden", "a.b"] {
            assert_eq!(check_id("task id", id), Ok(()));
        }
        assert_eq!(check_id("task id", &"x".repeat(255)), Ok(()));
        assert!(matches!(
            check_id("task id", &"x".repeat(256)),
            Err(IdError::TooLong { bytes: 256, .. })
        ));
    }

    #[test]
    fn an_id_that_could_leave_its_directory_is_refused_with_a_sentence() {
        for id in ["", ".", "..", "a/b", "a\\b", "a\nb", "\u{7f}"] {
            assert!(check_id("task id", id).is_err(), "{id:?}");
        }
        let error = check_id("executor id", "a/b").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the executor id 'a/b' contains '/', which is not allowed"
        );
        assert_eq!(
            check_id("task id", "").unwrap_err().to_string(),
            "the task id must not be empty"
        );
    }

    #[test]
    fn a_container_id_may_have_neither_dots_nor_spaces() {
        assert_eq!(check_container_id("debug-1"), Ok(()));
        assert!(check_container_id("a.b").is_err());
        assert!(check_container_id("a b").is_err());
        assert!(check_container_id(&"x".repeat(243)).is_err());
    }

    #[test]
    fn an_id_is_found_in_a_map_by_its_text() {
        let map = std::collections::BTreeMap::from([(TaskId::new("one"), 1)]);
        assert_eq!(map.get("one"), Some(&1));
        assert_eq!(
            format!("{} {:?}", TaskId::from("one"), TaskId::from("one")),
            "one TaskId(one)"
        );
    }
}
