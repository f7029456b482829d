//! A directory of files that never change once they are there: what was fetched, and what was compiled.
//!
//! A file gets its name by a rename when it is complete, so a reader never sees half of one, not even after a crash.
//! The directory's size has a bound; the least recently used file goes first, one in use never.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tempfile::{NamedTempFile, TempPath};
use tokio::sync::mpsc::UnboundedSender;

/// Unfinished files begin with this; what is found of them at start is what a crash left over.
const UNFINISHED: &str = ".unfinished-";
/// Files whose content is known beforehand begin with this while they are filled; what a crash left of them is gone on
/// with, if somebody wants it before its room is needed.
const PARTIAL: &str = ".partial-";

#[derive(Debug, Clone)]
pub(crate) struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    bound_bytes: u64,
    state: Mutex<State>,
}

/// How what is in a store has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Kept { name: String, bytes: u64 },
    Gone { name: String },
}

#[derive(Debug, Default)]
struct State {
    /// Who hears of every change.
    follower: Option<UnboundedSender<Change>>,
    entries: BTreeMap<String, Entry>,
    /// The unpinned entries by when they were used last.
    idle: BTreeMap<u64, String>,
    uses: u64,
    total_bytes: u64,
    /// The names of the partial files that are being filled.
    filling: BTreeSet<String>,
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    pins: usize,
    used: u64,
}

/// A file of the store that is in use: it stays where it is while this lives.
#[derive(Debug)]
pub(crate) struct Pin {
    inner: Arc<Inner>,
    name: String,
    bytes: u64,
}

/// A file that is being filled. It vanishes if it is dropped instead of handed to [`Store::keep_partial`].
#[derive(Debug)]
pub(crate) struct Partial {
    inner: Arc<Inner>,
    file: Option<NamedTempFile>,
    /// Its name, if a crash leaves it for the next process.
    name: Option<String>,
}

impl Partial {
    /// To write to.
    pub(crate) fn file(&self) -> io::Result<File> {
        match &self.file {
            Some(file) => file.as_file().try_clone(),
            None => Err(io::Error::other("the file is kept already")),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // The file goes before somebody else may take its name.
        drop(self.file.take());
        if let Some(name) = &self.name {
            self.inner.lock().filling.remove(name);
        }
    }
}

impl Store {
    /// Opens the directory, taking over the finished files that are in it already.
    pub(crate) fn open(directory: PathBuf, bound_bytes: u64) -> io::Result<Self> {
        std::fs::create_dir_all(&directory)?;
        std::fs::set_permissions(&directory, Permissions::from_mode(0o711))?;
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if name.starts_with(UNFINISHED) {
                if metadata.is_dir() {
                    std::fs::remove_dir_all(entry.path())?;
                } else {
                    std::fs::remove_file(entry.path())?;
                }
            } else if metadata.is_file() {
                found.push((metadata.modified()?, name, metadata.len()));
            }
        }
        // What is whole is worth more than what a crash left.
        found.sort_by_key(|(modified, name, _)| (!name.starts_with(PARTIAL), *modified));
        let mut state = State::default();
        for (_, name, bytes) in found {
            state.insert(name, bytes);
        }
        let inner = Arc::new(Inner {
            directory,
            bound_bytes,
            state: Mutex::new(state),
        });
        inner.evict(&mut inner.lock(), bound_bytes);
        Ok(Self { inner })
    }

    /// Tells what is there, and from then on what comes and goes.
    pub(crate) fn follow(&self, follower: UnboundedSender<Change>) {
        let mut state = self.inner.lock();
        for (name, entry) in &state.entries {
            let (name, bytes) = (name.clone(), entry.bytes);
            let _ = follower.send(Change::Kept { name, bytes });
        }
        state.follower = Some(follower);
    }

    /// The file of that name, pinned.
    pub(crate) fn get(&self, name: &str) -> Option<Pin> {
        let mut state = self.inner.lock();
        let bytes = state.entries.get(name)?.bytes;
        // Somebody may have tidied up behind our back; such a file is fetched again.
        let there = self
            .inner
            .directory
            .join(name)
            .metadata()
            .is_ok_and(|metadata| metadata.len() == bytes);
        if !there {
            state.forget(name);
            return None;
        }
        state.pin(name);
        Some(Pin {
            inner: self.inner.clone(),
            name: name.to_owned(),
            bytes,
        })
    }

    /// A file to be filled and then handed to [`Store::keep`]; it vanishes if it is dropped instead.
    pub(crate) fn unfinished(&self) -> io::Result<NamedTempFile> {
        tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(&self.inner.directory)
    }

    /// A file to be filled with the content of that digest, or of an unknown one. What a process that was killed had of it
    /// is in it already.
    pub(crate) fn partial(&self, digest: Option<&str>) -> io::Result<Partial> {
        let name = digest.map(|digest| format!("{PARTIAL}{digest}"));
        let name = name.filter(|name| {
            let mut state = self.inner.lock();
            // From now on it is not there to be evicted.
            state.forget(name);
            state.filling.insert(name.clone())
        });
        let mut partial = Partial {
            inner: self.inner.clone(),
            file: None,
            name,
        };
        partial.file = Some(match &partial.name {
            None => self.unfinished()?,
            Some(name) => {
                let path = self.inner.directory.join(name);
                let file = File::options()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(&path)?;
                NamedTempFile::from_parts(file, TempPath::try_from_path(path)?)
            }
        });
        Ok(partial)
    }

    /// As [`Store::keep`].
    pub(crate) fn keep_partial(
        &self,
        mut partial: Partial,
        name: &str,
        mode: u32,
    ) -> io::Result<Pin> {
        let file = partial.file.take();
        let file = file.ok_or_else(|| io::Error::other("the file is kept already"))?;
        self.keep(file, name, mode)
    }

    /// How many bytes are in it, and how many may be.
    pub(crate) fn fill(&self) -> (u64, u64) {
        (self.inner.lock().total_bytes, self.inner.bound_bytes)
    }

    /// Lets go of what nobody uses so that so many bytes more fit under the bound.
    pub(crate) fn make_room(&self, bytes: u64) {
        let mut state = self.inner.lock();
        let bound = self.inner.bound_bytes.saturating_sub(bytes);
        self.inner.evict(&mut state, bound);
    }

    /// Lets go of all that nobody uses, for the disk is full; whether there was anything.
    pub(crate) fn give_way(&self) -> bool {
        let mut state = self.inner.lock();
        let before = state.total_bytes;
        self.inner.evict(&mut state, 0);
        state.total_bytes < before
    }

    /// A directory for work whose result comes here; it vanishes with its handle.
    pub(crate) fn scratch(&self) -> io::Result<tempfile::TempDir> {
        tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempdir_in(&self.inner.directory)
    }

    /// Gives a complete file its name, on disk before anybody can see it. If the name is taken the content is the
    /// same, and the new copy goes.
    pub(crate) fn keep(&self, file: NamedTempFile, name: &str, mode: u32) -> io::Result<Pin> {
        if let Some(pin) = self.get(name) {
            return Ok(pin);
        }
        file.as_file()
            .set_permissions(Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        let bytes = file.as_file().metadata()?.len();
        let path = self.inner.directory.join(name);
        let mut state = self.inner.lock();
        if state.entries.contains_key(name) {
            // Another was faster with the same content, and somebody may have it in use.
            state.pin(name);
            return Ok(Pin {
                inner: self.inner.clone(),
                name: name.to_owned(),
                bytes,
            });
        }
        file.persist(&path).map_err(|error| error.error)?;
        state.insert(name.to_owned(), bytes);
        state.pin(name);
        self.inner.evict(&mut state, self.inner.bound_bytes);
        drop(state);
        File::open(&self.inner.directory)?.sync_all()?;
        Ok(Pin {
            inner: self.inner.clone(),
            name: name.to_owned(),
            bytes,
        })
    }

    #[cfg(test)]
    pub(crate) fn total_bytes(&self) -> u64 {
        self.inner.lock().total_bytes
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.inner.lock().entries.len()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between any two statements that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn evict(&self, state: &mut State, bound_bytes: u64) {
        while state.total_bytes > bound_bytes {
            let Some((_, name)) = state.idle.pop_first() else {
                return;
            };
            if let Err(error) = std::fs::remove_file(self.directory.join(&name)) {
                tracing::warn!(file = name, %error, "a cached file could not be removed");
            }
            state.forget(&name);
        }
    }
}

impl State {
    fn insert(&mut self, name: String, bytes: u64) {
        self.uses += 1;
        self.total_bytes += bytes;
        self.idle.insert(self.uses, name.clone());
        self.tell(|| Change::Kept {
            name: name.clone(),
            bytes,
        });
        self.entries.insert(
            name,
            Entry {
                bytes,
                pins: 0,
                used: self.uses,
            },
        );
    }

    fn forget(&mut self, name: &str) {
        if let Some(entry) = self.entries.remove(name) {
            self.total_bytes -= entry.bytes;
            self.idle.remove(&entry.used);
            self.tell(|| Change::Gone {
                name: name.to_owned(),
            });
        }
    }

    fn tell(&self, change: impl FnOnce() -> Change) {
        if let Some(follower) = &self.follower {
            // Nobody listens any more when the agent stops.
            let _ = follower.send(change());
        }
    }

    fn pin(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.pins += 1;
            self.idle.remove(&entry.used);
        }
    }

    fn unpin(&mut self, name: &str) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        entry.pins = entry.pins.saturating_sub(1);
        self.uses += 1;
        entry.used = self.uses;
        if entry.pins == 0 {
            self.idle.insert(entry.used, name.to_owned());
        }
    }
}

impl Pin {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.inner.directory.join(&self.name)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Clone for Pin {
    fn clone(&self) -> Self {
        self.inner.lock().pin(&self.name);
        Self {
            inner: self.inner.clone(),
            name: self.name.clone(),
            bytes: self.bytes,
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        state.unpin(&self.name);
        self.inner.evict(&mut state, self.inner.bound_bytes);
    }
}

/// Copies a file of a store to a new, writable file.
pub(crate) fn copy_to(from: &Path, mut to: File) -> io::Result<()> {
    io::copy(&mut File::open(from)?, &mut to)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn add(store: &Store, name: &str, bytes: usize) -> Pin {
        let mut file = store.unfinished().unwrap();
        file.write_all(&vec![b'x'; bytes]).unwrap();
        store.keep(file, name, 0o400).unwrap()
    }

    #[test]
    fn the_least_recently_used_file_goes_first() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("s"), 250).unwrap();
        drop(add(&store, "a", 100));
        drop(add(&store, "b", 100));
        drop(store.get("a"));
        drop(add(&store, "c", 100));
        assert!(store.get("a").is_some());
        assert!(store.get("b").is_none());
        assert!(store.get("c").is_some());
        assert!(!directory.path().join("s/b").exists());
        assert_eq!(store.total_bytes(), 200);
    }

    #[test]
    fn a_file_in_use_stays_even_beyond_the_bound() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("s"), 150).unwrap();
        let a = add(&store, "a", 100);
        let again = a.clone();
        let b = add(&store, "b", 100);
        drop(a);
        assert!(again.path().exists());
        assert_eq!(store.total_bytes(), 200);
        drop(again);
        assert!(!directory.path().join("s/a").exists());
        assert!(b.path().exists());
    }

    #[test]
    fn finished_files_survive_a_restart_and_unfinished_ones_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("s"), 1000).unwrap();
        drop(add(&store, "kept", 10));
        std::fs::write(directory.path().join("s/.unfinished-1"), "half").unwrap();
        drop(store);
        let store = Store::open(directory.path().join("s"), 1000).unwrap();
        assert_eq!((store.len(), store.total_bytes()), (1, 10));
        assert!(!directory.path().join("s/.unfinished-1").exists());
        std::fs::remove_file(directory.path().join("s/kept")).unwrap();
        assert!(
            store.get("kept").is_none(),
            "a file that vanished is not promised"
        );
    }

    #[test]
    fn what_a_crash_left_of_a_known_content_is_gone_on_with() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let digest = "0a".repeat(32);
        let left = path.join(format!("{PARTIAL}{digest}"));
        let store = Store::open(path.clone(), 1000).unwrap();
        drop(store.partial(Some(&digest)).unwrap());
        assert!(!left.exists(), "given up is not crashed");
        std::fs::write(&left, "half").unwrap();
        drop(store);
        let store = Store::open(path.clone(), 1000).unwrap();
        assert_eq!(store.total_bytes(), 4);
        let partial = store.partial(Some(&digest)).unwrap();
        assert_eq!(store.total_bytes(), 0);
        let mut file = partial.file().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "half");
        // Another one who fills the same content does not get in the way.
        let other = store.partial(Some(&digest)).unwrap();
        assert_eq!(other.file().unwrap().metadata().unwrap().len(), 0);
        drop(other);
        file.write_all(b" and half").unwrap();
        let pin = store.keep_partial(partial, &digest, 0o444).unwrap();
        assert_eq!(std::fs::read(pin.path()).unwrap(), b"half and half");
        assert!(!left.exists());
        // And if nobody comes for it, its room is not lost.
        std::fs::write(&left, vec![b'x'; 2000]).unwrap();
        drop((pin, store));
        assert_eq!(Store::open(path, 1000).unwrap().len(), 1);
        assert!(!left.exists());
    }

    #[test]
    fn room_is_made_of_what_nobody_uses() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("s"), 300).unwrap();
        let used = add(&store, "used", 100);
        drop(add(&store, "a", 100));
        drop(add(&store, "b", 100));
        store.make_room(100);
        assert!(store.get("a").is_none() && store.get("b").is_some());
        assert!(store.give_way());
        assert!(!store.give_way(), "there is nothing more to let go of");
        assert!(used.path().exists());
    }

    #[test]
    fn a_name_that_is_taken_keeps_its_first_file() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("s"), 1000).unwrap();
        drop(add(&store, "same", 10));
        assert_eq!(add(&store, "same", 10).bytes(), 10);
        assert_eq!((store.len(), store.total_bytes()), (1, 10));
        let left: Vec<_> = std::fs::read_dir(directory.path().join("s"))
            .unwrap()
            .collect();
        assert_eq!(left.len(), 1);
    }
}
