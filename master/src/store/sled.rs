//! The registry in an embedded sled database: the default, for clusters with one master.
//!
//! Sled's own flush hands pages to the kernel without waiting for the disk. An extra handle on the database file, on
//! which `fdatasync` is called after each flush, makes a commit survive a power cut.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tepui_master_core::RegistryOperation;

use super::{Registry, StoreError};

/// The registry is small; most of sled's default of a gigabyte would be waste.
const CACHE_BYTES: u64 = 64 << 20;
/// A master that is just ending may still hold the lock.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

pub struct SledRegistry {
    path: PathBuf,
    database: sled::Db,
    file: File,
}

impl SledRegistry {
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file_path = path.join("db");
        // Sled would quietly begin an empty database here.
        if path.join("conf").exists() && !file_path.exists() {
            return Err(StoreError::Incomplete {
                path: path.to_owned(),
                missing: "db",
            });
        }
        fs::create_dir_all(path).map_err(|source| StoreError::Io {
            doing: "create",
            path: path.to_owned(),
            source,
        })?;
        let database = open_locked(path)?;
        let file = File::open(&file_path)
            .and_then(|file| {
                file.sync_all()?;
                // The names of new files last only once their directory is on disk.
                File::open(path)?.sync_all()?;
                Ok(file)
            })
            .map_err(|source| StoreError::Io {
                doing: "open",
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            path: path.to_owned(),
            database,
            file,
        })
    }

    fn engine(&self, doing: &'static str) -> impl Fn(sled::Error) -> StoreError {
        let path = self.path.clone();
        move |source| StoreError::Engine {
            doing,
            path: path.clone(),
            source,
        }
    }
}

fn open_locked(path: &Path) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(path)
        .flush_every_ms(None)
        .cache_capacity(CACHE_BYTES)
        .mode(sled::Mode::HighThroughput);
    for _ in 1..LOCK_TRIES {
        match config.open() {
            Err(error) if is_locked(&error) => thread::sleep(LOCK_PAUSE),
            result => return result.map_err(|error| opening(path, error)),
        }
    }
    config.open().map_err(|error| opening(path, error))
}

fn opening(path: &Path, error: sled::Error) -> StoreError {
    if is_locked(&error) {
        StoreError::InUse {
            path: path.to_owned(),
        }
    } else {
        StoreError::Engine {
            doing: "open",
            path: path.to_owned(),
            source: error,
        }
    }
}

/// Sled wraps the lock's own error in one without a kind, so its text has to tell.
fn is_locked(error: &sled::Error) -> bool {
    match error {
        sled::Error::Io(error) => {
            error.kind() == io::ErrorKind::WouldBlock
                || error.to_string().contains("could not acquire lock")
        }
        _ => false,
    }
}

impl Registry for SledRegistry {
    fn load(&mut self) -> Result<Vec<(String, Bytes)>, StoreError> {
        self.database
            .iter()
            .map(|record| {
                let (key, value) = record.map_err(self.engine("read"))?;
                let key = String::from_utf8(key.to_vec()).map_err(|error| StoreError::Key {
                    path: self.path.clone(),
                    key: error.into_bytes(),
                })?;
                Ok((key, Bytes::copy_from_slice(&value)))
            })
            .collect()
    }

    fn commit(&mut self, operations: Vec<RegistryOperation>) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for operation in operations {
            match operation {
                RegistryOperation::Put { key, value } => batch.insert(key.as_bytes(), &value[..]),
                RegistryOperation::Delete { key } => batch.remove(key.as_bytes()),
            }
        }
        self.database
            .apply_batch(batch)
            .map_err(self.engine("write to"))?;
        self.database.flush().map_err(self.engine("flush"))?;
        self.file.sync_data().map_err(|source| StoreError::Io {
            doing: "flush",
            path: self.path.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &'static str) -> RegistryOperation {
        RegistryOperation::Put {
            key: key.to_owned(),
            value: Bytes::from_static(value.as_bytes()),
        }
    }

    #[test]
    fn what_was_committed_is_there_after_opening_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry");
        let mut registry = SledRegistry::open(&path).unwrap();
        registry
            .commit(vec![
                put("agent/1", "a"),
                put("agent/2", "b"),
                put("meta", "m"),
            ])
            .unwrap();
        registry
            .commit(vec![
                RegistryOperation::Delete {
                    key: "agent/1".to_owned(),
                },
                put("agent/2", "c"),
                put("x", "y"),
            ])
            .unwrap();
        drop(registry);
        let records = SledRegistry::open(&path).unwrap().load().unwrap();
        let records: Vec<_> = records
            .iter()
            .map(|(key, value)| (key.as_str(), &value[..]))
            .collect();
        assert_eq!(
            records,
            [("agent/2", &b"c"[..]), ("meta", b"m"), ("x", b"y")]
        );
    }

    #[test]
    fn a_second_open_of_the_same_directory_is_refused_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let _first = SledRegistry::open(directory.path()).unwrap();
        let error = SledRegistry::open(directory.path())
            .err()
            .expect("the directory is taken");
        assert!(matches!(error, StoreError::InUse { .. }), "{error:?}");
        assert!(
            error.to_string().contains("in use by another process"),
            "{error}"
        );
    }

    #[test]
    fn a_registry_whose_file_vanished_is_not_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let mut registry = SledRegistry::open(directory.path()).unwrap();
        registry.commit(vec![put("key", "value")]).unwrap();
        drop(registry);
        fs::remove_file(directory.path().join("db")).unwrap();
        assert!(matches!(
            SledRegistry::open(directory.path()),
            Err(StoreError::Incomplete { missing: "db", .. })
        ));
    }
}
