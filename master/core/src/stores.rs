//! What tasks keep: each job of a role has a store of values by key. Here are the tables and their rules; who asks, and
//! when the answer may be given, is `store_calls`.
//!
//! Every change of a store has a version, the next whole number. No number is used twice under one name, whatever is
//! removed in between: a store that loses its last key vanishes, and what is begun under any name afterwards starts
//! above it.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use tepui_api::guest::failure;
use tepui_api::registry;
use tepui_model::{Role, StoreLimits, format_bytes};

use crate::effect::RegistryOperation;
use crate::recover::{RecoverError, decode};
use crate::wire;

/// The registry's key of the highest version of a store that is gone.
pub(crate) const FLOOR_KEY: &str = "job";

/// Why something is not kept, or not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreRefused {
    #[error("{what} has {found} bytes; expecting 1 to {most}")]
    Name {
        what: &'static str,
        found: usize,
        most: usize,
    },
    #[error("The value has {found} bytes; a value may have at most {most}")]
    Value { found: usize, most: usize },
    #[error("Invalid role: {0}")]
    Role(String),
    #[error("Expecting '{0}' to be present")]
    Missing(&'static str),
    #[error(
        "The task belongs to no job, so it has nowhere to keep anything: whoever launches it must give it the label 'tepui.job'"
    )]
    NoJob,
    #[error("The key '{key}' has version {found}, not {expected}: get it again before changing it")]
    Conflict {
        key: String,
        expected: u64,
        /// 0 if there is no such key.
        found: u64,
    },
    #[error(
        "The store of job '{job}' has {most} keys, and may have no more: delete some that nobody needs"
    )]
    Keys { job: String, most: usize },
    #[error(
        "The store of job '{job}' would grow beyond {}: delete what nobody needs, or keep large data elsewhere", format_bytes(*.most)
    )]
    Job { job: String, most: u64 },
    #[error(
        "Role '{role}' has stores for {most} jobs, and may have no more: an operator must remove those of jobs that are over (tepui store rm)"
    )]
    Jobs { role: Role, most: usize },
    #[error(
        "The stores of role '{role}' would grow beyond {}: an operator must remove those of jobs that are over (tepui store rm)", format_bytes(*.most)
    )]
    OfRole { role: Role, most: u64 },
    #[error(
        "The stores of all roles together would grow beyond {}: an operator must remove those of jobs that are over, or give the master more (--max_job_stores_size)", format_bytes(*.most)
    )]
    All { most: u64 },
    #[error("Role '{role}' has no store of a job '{job}'")]
    NoStore { role: Role, job: String },
    #[error("{0}")]
    Denied(String),
}

impl StoreRefused {
    /// As a guest is told it.
    pub fn code(&self) -> failure::Code {
        match self {
            Self::NoJob => failure::Code::NoJob,
            Self::Conflict { .. } => failure::Code::Conflict,
            Self::Keys { .. }
            | Self::Job { .. }
            | Self::Jobs { .. }
            | Self::OfRole { .. }
            | Self::All { .. } => failure::Code::Full,
            Self::Name { .. }
            | Self::Value { .. }
            | Self::Role(_)
            | Self::Missing(_)
            | Self::NoStore { .. }
            | Self::Denied(_) => failure::Code::Invalid,
        }
    }

    /// The version that a key has which should have another.
    pub fn found(&self) -> Option<u64> {
        match self {
            Self::Conflict { found, .. } => Some(*found),
            _ => None,
        }
    }
}

/// A value, and the version that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredValue {
    pub value: Bytes,
    pub version: u64,
}

/// One store, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSummary {
    pub role: Role,
    pub job: String,
    pub keys: usize,
    /// What counts against the limits.
    pub bytes: u64,
    /// Of the last change.
    pub version: u64,
}

/// One key, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySummary {
    pub key: String,
    /// Of the value.
    pub bytes: u64,
    pub version: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Stores {
    roles: BTreeMap<Role, RoleStores>,
    /// Stores that are begun start above this.
    floor: u64,
    pub(crate) bytes: u64,
    pub(crate) jobs: usize,
}

#[derive(Debug, Default)]
struct RoleStores {
    jobs: BTreeMap<String, JobStore>,
    bytes: u64,
}

#[derive(Debug, Default)]
struct JobStore {
    entries: BTreeMap<String, StoredValue>,
    bytes: u64,
    version: u64,
}

/// What came of a change, and what is to be written for it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) version: u64,
    pub(crate) writes: Vec<RegistryOperation>,
}

impl Stores {
    fn store(&self, role: &Role, job: &str) -> Option<&JobStore> {
        self.roles.get(role)?.jobs.get(job)
    }

    pub(crate) fn get(&self, role: &Role, job: &str, key: &str) -> Option<&StoredValue> {
        self.store(role, job)?.entries.get(key)
    }

    /// Those that begin with the prefix, in order.
    pub(crate) fn keys(&self, role: &Role, job: &str, prefix: &str) -> Vec<KeySummary> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let entries = self.store(role, job).into_iter();
        let entries = entries.flat_map(|store| store.entries.range::<str, _>(from));
        entries
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, entry)| KeySummary {
                key: key.clone(),
                bytes: entry.value.len() as u64,
                version: entry.version,
            })
            .collect()
    }

    /// By role and job.
    pub(crate) fn list(&self, wanted: impl Fn(&Role) -> bool) -> Vec<StoreSummary> {
        let roles = self.roles.iter().filter(|(role, _)| wanted(role));
        let stores = roles.flat_map(|(role, stores)| {
            stores.jobs.iter().map(|(job, store)| StoreSummary {
                role: role.clone(),
                job: job.clone(),
                keys: store.entries.len(),
                bytes: store.bytes,
                version: store.version,
            })
        });
        stores.collect()
    }

    fn check_version(
        &self,
        role: &Role,
        job: &str,
        key: &str,
        expected: Option<u64>,
    ) -> Result<(), StoreRefused> {
        let found = self.get(role, job, key).map_or(0, |entry| entry.version);
        match expected {
            Some(expected) if expected != found => Err(StoreRefused::Conflict {
                key: key.to_owned(),
                expected,
                found,
            }),
            _ => Ok(()),
        }
    }

    pub(crate) fn put(
        &mut self,
        limits: &StoreLimits,
        role: &Role,
        job: &str,
        key: &str,
        value: &Bytes,
        if_version: Option<u64>,
    ) -> Result<Changed, StoreRefused> {
        check_name(limits, "The key", key)?;
        if value.len() > limits.value {
            return Err(StoreRefused::Value {
                found: value.len(),
                most: limits.value,
            });
        }
        self.check_version(role, job, key, if_version)?;
        self.check_room(limits, role, job, key, value)?;
        let version = match self.store(role, job) {
            Some(store) => store.version + 1,
            None => self.floor + 1,
        };
        // Not a piece of what it came in, which may be much larger.
        let value = Bytes::copy_from_slice(value);
        let record = registry::JobEntry {
            value: value.clone(),
            version,
        };
        self.insert(role, job, key, StoredValue { value, version });
        Ok(Changed {
            version,
            writes: vec![wire::put(entry_key(role, job, key), &record)],
        })
    }

    fn check_room(
        &self,
        limits: &StoreLimits,
        role: &Role,
        job: &str,
        key: &str,
        value: &Bytes,
    ) -> Result<(), StoreRefused> {
        let before = self.get(role, job, key);
        let freed = before.map_or(0, |entry| StoreLimits::size_of(key, &entry.value));
        let taken = StoreLimits::size_of(key, value);
        let of_role = self.roles.get(role);
        let store = self.store(role, job);
        let job = job.to_owned();
        let role = role.clone();
        if before.is_none() && store.is_some_and(|store| store.entries.len() >= limits.keys_of_job)
        {
            let most = limits.keys_of_job;
            return Err(StoreRefused::Keys { job, most });
        }
        if store.is_none() && of_role.is_some_and(|role| role.jobs.len() >= limits.jobs_of_role) {
            let most = limits.jobs_of_role;
            return Err(StoreRefused::Jobs { role, most });
        }
        // What is there may be more than is allowed by now; making it smaller is always allowed.
        let exceeds = |bytes: u64, most: u64| taken > freed && bytes - freed + taken > most;
        if exceeds(store.map_or(0, |store| store.bytes), limits.bytes_of_job) {
            let most = limits.bytes_of_job;
            return Err(StoreRefused::Job { job, most });
        }
        if exceeds(of_role.map_or(0, |role| role.bytes), limits.bytes_of_role) {
            let most = limits.bytes_of_role;
            return Err(StoreRefused::OfRole { role, most });
        }
        if exceeds(self.bytes, limits.bytes) {
            return Err(StoreRefused::All { most: limits.bytes });
        }
        Ok(())
    }

    /// The version is the one the key had; nothing is written if there was none.
    pub(crate) fn delete(
        &mut self,
        limits: &StoreLimits,
        role: &Role,
        job: &str,
        key: &str,
        if_version: Option<u64>,
    ) -> Result<Changed, StoreRefused> {
        check_name(limits, "The key", key)?;
        self.check_version(role, job, key, if_version)?;
        let Some(entry) = self.take(role, job, key) else {
            return Ok(Changed {
                version: 0,
                writes: Vec::new(),
            });
        };
        let mut writes = vec![RegistryOperation::Delete {
            key: entry_key(role, job, key),
        }];
        // Its version is that of no entry, so it is written down by itself.
        match self
            .roles
            .get_mut(role)
            .and_then(|role| role.jobs.get_mut(job))
        {
            Some(store) => {
                store.version += 1;
                let version = store.version;
                writes.push(wire::put(store_key(role, job), &registry::Job { version }));
            }
            None => writes.extend(self.write_floor(role, job)),
        }
        Ok(Changed {
            version: entry.version,
            writes,
        })
    }

    /// Removes the whole store. The version is how many keys it had.
    pub(crate) fn remove(&mut self, role: &Role, job: &str) -> Result<Changed, StoreRefused> {
        let keys = self.keys(role, job, "");
        if keys.is_empty() {
            let (role, job) = (role.clone(), job.to_owned());
            return Err(StoreRefused::NoStore { role, job });
        }
        let mut writes = Vec::with_capacity(keys.len() + 2);
        for KeySummary { key, .. } in &keys {
            self.take(role, job, key);
            writes.push(RegistryOperation::Delete {
                key: entry_key(role, job, key),
            });
        }
        writes.extend(self.write_floor(role, job));
        Ok(Changed {
            version: keys.len() as u64,
            writes,
        })
    }

    /// What is written of a store that is gone.
    fn write_floor(&self, role: &Role, job: &str) -> [RegistryOperation; 2] {
        let version = self.floor;
        let gone = RegistryOperation::Delete {
            key: store_key(role, job),
        };
        [
            gone,
            wire::put(FLOOR_KEY.to_owned(), &registry::Job { version }),
        ]
    }

    fn insert(&mut self, role: &Role, job: &str, key: &str, entry: StoredValue) {
        let of_role = self.roles.entry(role.clone()).or_default();
        if !of_role.jobs.contains_key(job) {
            self.jobs += 1;
        }
        let store = of_role.jobs.entry(job.to_owned()).or_default();
        store.version = store.version.max(entry.version);
        let grown = StoreLimits::size_of(key, &entry.value);
        let before = store.entries.insert(key.to_owned(), entry);
        let freed = before.map_or(0, |entry| StoreLimits::size_of(key, &entry.value));
        for bytes in [&mut store.bytes, &mut of_role.bytes, &mut self.bytes] {
            *bytes = *bytes + grown - freed;
        }
    }

    /// Takes a key out, and with the last one its store.
    fn take(&mut self, role: &Role, job: &str, key: &str) -> Option<StoredValue> {
        let of_role = self.roles.get_mut(role)?;
        let store = of_role.jobs.get_mut(job)?;
        let entry = store.entries.remove(key)?;
        let freed = StoreLimits::size_of(key, &entry.value);
        store.bytes -= freed;
        of_role.bytes -= freed;
        self.bytes -= freed;
        if store.entries.is_empty() {
            // Its removal was a change as well.
            self.floor = self.floor.max(store.version + 1);
            of_role.jobs.remove(job);
            self.jobs -= 1;
            if of_role.jobs.is_empty() {
                self.roles.remove(role);
            }
        }
        Some(entry)
    }

    /// Takes in a record whose key begins with [`FLOOR_KEY`].
    pub(crate) fn recover(&mut self, key: &str, value: &Bytes) -> Result<(), RecoverError> {
        let invalid = || RecoverError::Job {
            key: key.to_owned(),
        };
        let parts = key.split('/').skip(1).map(percent_decode);
        let parts: Vec<String> = parts.collect::<Option<_>>().ok_or_else(invalid)?;
        let role = |text: &str| {
            Role::parse(text).map_err(|source| RecoverError::Role {
                key: key.to_owned(),
                source,
            })
        };
        match parts.as_slice() {
            [] => {
                let record: registry::Job = decode(key, value)?;
                self.floor = record.version;
            }
            [of, job] => {
                let record: registry::Job = decode(key, value)?;
                let of_role = self.roles.entry(role(of)?).or_default();
                let store = of_role.jobs.entry(job.clone()).or_insert_with(|| {
                    self.jobs += 1;
                    JobStore::default()
                });
                store.version = store.version.max(record.version);
            }
            [of, job, name] => {
                let registry::JobEntry { value, version } = decode(key, value)?;
                self.insert(&role(of)?, job, name, StoredValue { value, version });
            }
            _ => return Err(invalid()),
        }
        Ok(())
    }

    /// All records were taken in. A store of which there is but its version is gone.
    pub(crate) fn settle(&mut self) {
        for of_role in self.roles.values_mut() {
            of_role.jobs.retain(|_, store| {
                if store.entries.is_empty() {
                    self.floor = self.floor.max(store.version);
                    self.jobs -= 1;
                }
                !store.entries.is_empty()
            });
        }
        self.roles.retain(|_, of_role| !of_role.jobs.is_empty());
    }

    /// Panics if the sums are not those of what is there. For tests: it walks everything.
    pub(crate) fn check(&self) {
        let (mut bytes, mut jobs) = (0, 0);
        for (role, of_role) in &self.roles {
            assert!(!of_role.jobs.is_empty(), "role {role} has no store");
            let mut of_jobs = 0;
            for (job, store) in &of_role.jobs {
                assert!(
                    !store.entries.is_empty(),
                    "the store of {role} {job} is empty"
                );
                let entries = store.entries.iter();
                let sizes = entries.map(|(key, entry)| StoreLimits::size_of(key, &entry.value));
                assert_eq!(store.bytes, sizes.sum::<u64>(), "bytes of {role} {job}");
                let newest = store.entries.values().map(|entry| entry.version).max();
                assert!(newest <= Some(store.version), "version of {role} {job}");
                of_jobs += store.bytes;
            }
            assert_eq!(of_role.bytes, of_jobs, "bytes of role {role}");
            bytes += of_role.bytes;
            jobs += of_role.jobs.len();
        }
        assert_eq!((self.bytes, self.jobs), (bytes, jobs), "bytes and stores");
    }
}

pub(crate) fn check_name(
    limits: &StoreLimits,
    what: &'static str,
    name: &str,
) -> Result<(), StoreRefused> {
    if (1..=limits.name).contains(&name.len()) {
        return Ok(());
    }
    Err(StoreRefused::Name {
        what,
        found: name.len(),
        most: limits.name,
    })
}

fn store_key(role: &Role, job: &str) -> String {
    format!(
        "{FLOOR_KEY}/{}/{}",
        percent_encode(role.as_str()),
        percent_encode(job)
    )
}

fn entry_key(role: &Role, job: &str, key: &str) -> String {
    format!("{}/{}", store_key(role, job), percent_encode(key))
}

fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'*') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}
