//! The users of wasm executors: one for each set of roles, out of a range that is nobody else's on this machine.
//!
//! Where the search for a role's user begins follows from its name, so that one role mostly has the same user on every
//! agent, and two agents of one machine hardly ever give two roles the same. Who has which is kept on disk: files
//! outlive the agent's process.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::Digest;
use tepui_api::v1;

/// Users from `first` to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserRange {
    pub first: u32,
    pub last: u32,
}

impl Default for UserRange {
    /// Above what distributions, directories and containers hand out.
    fn default() -> Self {
        Self {
            first: 1_900_000_000,
            last: 1_900_065_535,
        }
    }
}

impl std::fmt::Display for UserRange {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}-{}", self.first, self.last)
    }
}

impl FromStr for UserRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bounds = text.split_once('-').and_then(|(first, last)| {
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        });
        match bounds {
            Some((first, last)) if 0 < first && first <= last && last < u32::MAX => {
                Ok(Self { first, last })
            }
            _ => Err(format!(
                "'{text}' is no range of users: give FIRST-LAST, without 0, or 'none'"
            )),
        }
    }
}

impl UserRange {
    pub(crate) fn contains(self, user: u32) -> bool {
        (self.first..=self.last).contains(&user)
    }

    fn size(self) -> u64 {
        u64::from(self.last - self.first) + 1
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum TenantError {
    #[error("all users of --executor_uids={0} are some role's: widen the range on this agent")]
    Exhausted(UserRange),
    #[error("the users of roles cannot be kept: {0}")]
    Keep(#[from] io::Error),
}

/// Who has which user.
#[derive(Debug, Clone)]
pub(crate) struct Tenants {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    range: UserRange,
    file: PathBuf,
    users: Mutex<BTreeMap<String, u32>>,
}

impl Tenants {
    /// Takes over what an earlier process wrote into `file`. Users outside the range are forgotten.
    pub(crate) fn open(range: UserRange, file: PathBuf) -> io::Result<Self> {
        let mut users: BTreeMap<String, u32> = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        users.retain(|_, user| range.contains(*user));
        Ok(Self {
            inner: Arc::new(Inner {
                range,
                file,
                users: Mutex::new(users),
            }),
        })
    }

    pub(crate) fn range(&self) -> UserRange {
        self.inner.range
    }

    /// The user of a framework's tasks, on disk before it is told.
    pub(crate) fn user_of(&self, framework: &v1::FrameworkInfo) -> Result<u32, TenantError> {
        let mut roles = tepui_api::roles_of(framework);
        roles.sort();
        // A role has no space in it, but may have a comma.
        let key = roles
            .iter()
            .map(|role| role.replace(',', " "))
            .collect::<Vec<_>>()
            .join(",");
        let range = self.inner.range;
        let mut users = self
            .inner
            .users
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(user) = users.get(&key) {
            return Ok(*user);
        }
        if users.len() as u64 >= range.size() {
            return Err(TenantError::Exhausted(range));
        }
        let digest = sha2::Sha256::digest(key.as_bytes());
        let start = digest
            .iter()
            .take(8)
            .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        let taken: std::collections::BTreeSet<u32> = users.values().copied().collect();
        let user = (0..range.size())
            .map(|step| range.first + ((start.wrapping_add(step)) % range.size()) as u32)
            .find(|user| !taken.contains(user))
            .ok_or(TenantError::Exhausted(range))?;
        let mut kept = users.clone();
        kept.insert(key, user);
        self.keep(&kept)?;
        *users = kept;
        Ok(user)
    }

    fn keep(&self, users: &BTreeMap<String, u32>) -> io::Result<()> {
        let unfinished = self.inner.file.with_extension("unfinished");
        let mut file = std::fs::File::create(&unfinished)?;
        file.write_all(&serde_json::to_vec(users)?)?;
        file.sync_all()?;
        std::fs::rename(unfinished, &self.inner.file)?;
        match self.inner.file.parent() {
            Some(directory) => std::fs::File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framework(roles: &[&str]) -> v1::FrameworkInfo {
        v1::FrameworkInfo {
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            capabilities: vec![v1::framework_info::Capability {
                r#type: Some(v1::framework_info::capability::Type::MultiRole.into()),
            }],
            ..Default::default()
        }
    }

    #[test]
    fn each_set_of_roles_has_a_user_of_its_own_and_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let range: UserRange = "700-702".parse().unwrap();
        let open = || Tenants::open(range, folder.path().join("users.json")).unwrap();
        let tenants = open();
        let a = tenants.user_of(&framework(&["a"])).unwrap();
        let both = tenants.user_of(&framework(&["b", "a"])).unwrap();
        assert_ne!(a, both);
        assert_eq!(tenants.user_of(&framework(&["a", "b"])).unwrap(), both);
        let again = open();
        assert_eq!(again.user_of(&framework(&["a"])).unwrap(), a);
        let c = again.user_of(&framework(&["c"])).unwrap();
        assert!(range.contains(c) && c != a && c != both);
        let error = again.user_of(&framework(&["d"])).unwrap_err().to_string();
        assert!(error.contains("700-702"), "{error}");
    }

    #[test]
    fn a_role_with_a_comma_is_not_two_roles() {
        let folder = tempfile::tempdir().unwrap();
        let range: UserRange = "700-702".parse().unwrap();
        let tenants = Tenants::open(range, folder.path().join("users.json")).unwrap();
        let one = tenants.user_of(&framework(&["a,b"])).unwrap();
        assert_ne!(tenants.user_of(&framework(&["a", "b"])).unwrap(), one);
        assert_eq!(tenants.user_of(&framework(&["a,b"])).unwrap(), one);
    }

    #[test]
    fn a_user_that_could_not_be_kept_is_nobodys() {
        let folder = tempfile::tempdir().unwrap();
        let range: UserRange = "700-702".parse().unwrap();
        let place = folder.path().join("not-there");
        let tenants = Tenants::open(range, place.join("users.json")).unwrap();
        assert!(tenants.user_of(&framework(&["a"])).is_err());
        assert!(tenants.user_of(&framework(&["a"])).is_err());
        std::fs::create_dir(place).unwrap();
        assert!(tenants.user_of(&framework(&["a"])).is_ok());
    }

    #[test]
    fn a_range_is_two_users_and_never_root() {
        for text in ["", "5", "9-3", "0-10", "a-b", "1-4294967295"] {
            assert!(text.parse::<UserRange>().is_err(), "{text}");
        }
        assert_eq!(UserRange::default().size(), 65_536);
    }
}
