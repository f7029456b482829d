//! Writes the core's records below `work_dir/meta` and reads them back. Records are opaque here.
//!
//! One thread writes, in the order given, and makes many writes durable at once; each is reported when it is on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tepui_agent_core::{Input, Recovered, SaveKey, Write};
use tepui_model::AgentId;
use tokio::sync::mpsc;

use crate::confine::inside;
use crate::owner::Event;

/// How long writing waits for a descriptor, and between two tries.
const DESCRIPTOR_PATIENCE: Duration = Duration::from_secs(60);
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);
const AGENT_ID: &str = "agent_id";
/// What the agent was when it registered under that id.
const AGENT: &str = "agent";
/// A record that was being written when the agent stopped.
const UNFINISHED: &str = ".unfinished";
/// How many writes share one flush.
const BATCH: usize = 256;

#[derive(Debug)]
pub(crate) struct Save {
    /// None for what nobody waits for.
    pub(crate) key: Option<SaveKey>,
    pub(crate) path: String,
    pub(crate) write: Write,
}

impl Save {
    /// What the agent is registered as, and under which id.
    pub(crate) fn agent(id: &AgentId, record: Bytes) -> [Self; 2] {
        let id = Bytes::from(id.as_str().to_owned());
        [(AGENT, record), (AGENT_ID, id)].map(|(path, value)| Self {
            key: None,
            path: path.to_owned(),
            write: Write::Replace(value),
        })
    }

    pub(crate) fn no_agent() -> [Self; 2] {
        [AGENT_ID, AGENT].map(|path| Self {
            key: None,
            path: path.to_owned(),
            write: Write::Remove,
        })
    }
}

/// All records an earlier agent process left. Without `strict`, files that cannot be read are passed over.
pub(crate) fn recover(meta: &Path, strict: bool) -> io::Result<Recovered> {
    std::fs::create_dir_all(meta)?;
    let mut recovered = Recovered::default();
    let mut directories = vec![meta.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            if path
                .extension()
                .is_some_and(|ending| ending == &UNFINISHED[1..])
            {
                std::fs::remove_file(&path)?;
                continue;
            }
            let Some(name) = path.strip_prefix(meta).ok().and_then(Path::to_str) else {
                continue;
            };
            let value = match std::fs::read(&path) {
                Err(error) if !strict => {
                    tracing::warn!(record = %path.display(), %error, "a record is passed over");
                    continue;
                }
                read => read?,
            };
            if name == AGENT {
                recovered.agent = Some(value.into());
            } else if name == AGENT_ID {
                let id = String::from_utf8_lossy(&value).trim().to_owned();
                recovered.agent_id = (!id.is_empty()).then(|| AgentId::from(id));
            } else {
                recovered.saved.push((name.to_owned(), value.into()));
            }
        }
    }
    recovered.saved.sort();
    Ok(recovered)
}

/// Starts the writing thread; it ends when the sender is dropped and everything is written.
pub(crate) fn start(
    meta: PathBuf,
    events: mpsc::Sender<Event>,
) -> io::Result<(mpsc::UnboundedSender<Save>, std::thread::JoinHandle<()>)> {
    let (sender, mut inbox) = mpsc::unbounded_channel::<Save>();
    let thread = std::thread::Builder::new()
        .name("tepui-checkpoint".to_owned())
        .spawn(move || {
            let mut batch = Vec::new();
            while inbox.blocking_recv_many(&mut batch, BATCH) > 0 {
                if let Err(error) = write_all(&meta, &batch) {
                    // What is promised to survive must; without a disk the agent cannot keep its word.
                    tracing::error!(%error, "a checkpoint could not be written; the agent stops");
                    let _ = events.blocking_send(Event::Failed(format!(
                        "a checkpoint could not be written: {error}"
                    )));
                    return;
                }
                for key in batch.drain(..).filter_map(|save| save.key) {
                    // An agent that is leaving does not listen any more, and yet all it asked for is written.
                    let _ = events.blocking_send(Event::Core(Box::new(Input::Saved { key })));
                }
            }
        })?;
    Ok((sender, thread))
}

fn write_all(meta: &Path, batch: &[Save]) -> io::Result<()> {
    let mut touched = BTreeSet::new();
    // What was appended to and not flushed yet.
    let mut grown: BTreeMap<PathBuf, File> = BTreeMap::new();
    for save in batch {
        let path = meta.join(inside(Path::new(&save.path))?);
        let parent = path.parent().unwrap_or(meta).to_path_buf();
        if !matches!(save.write, Write::Append(_)) {
            // Nothing may be on disk before what was asked for earlier.
            flush(&mut grown)?;
        }
        match &save.write {
            Write::Append(value) => {
                let mut file = match grown.remove(&path) {
                    Some(file) => file,
                    None => {
                        make_directories(meta, &parent, &mut touched)?;
                        opened(|| OpenOptions::new().create(true).append(true).open(&path))?
                    }
                };
                file.write_all(value)?;
                grown.insert(path, file);
            }
            Write::Replace(value) => {
                make_directories(meta, &parent, &mut touched)?;
                let mut unfinished = path.clone().into_os_string();
                unfinished.push(UNFINISHED);
                let mut file = opened(|| File::create(&unfinished))?;
                file.write_all(value)?;
                file.sync_data()?;
                std::fs::rename(&unfinished, &path)?;
            }
            Write::Remove => match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            },
        }
        touched.insert(parent);
    }
    flush(&mut grown)?;
    for directory in &touched {
        match opened(|| File::open(directory)) {
            Ok(directory) => directory.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    // Emptied directories go, up to the first that is in use.
    for save in batch.iter().filter(|save| save.write == Write::Remove) {
        let mut directory = meta.join(&save.path);
        while directory.pop() && directory != meta && std::fs::remove_dir(&directory).is_ok() {}
    }
    Ok(())
}

/// Opens a file. That there is no descriptor left is none of the disk's faults, and passes.
fn opened(open: impl Fn() -> io::Result<File>) -> io::Result<File> {
    let began = Instant::now();
    loop {
        match open() {
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
                    && began.elapsed() < DESCRIPTOR_PATIENCE =>
            {
                tracing::warn!(%error, "a checkpoint waits for a descriptor");
                std::thread::sleep(DESCRIPTOR_PAUSE);
            }
            opened => return opened,
        }
    }
}

fn flush(grown: &mut BTreeMap<PathBuf, File>) -> io::Result<()> {
    while let Some((_, file)) = grown.pop_first() {
        file.sync_data()?;
    }
    Ok(())
}

fn make_directories(meta: &Path, parent: &Path, touched: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    if parent.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(parent)?;
    // New directories are entries of their parents, which must be on disk as well.
    let mut directory = parent.to_path_buf();
    while directory.pop() {
        touched.insert(directory.clone());
        if directory == meta {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(key: u64, path: &str, value: Option<&str>) -> Save {
        let write = match value {
            Some(value) => Write::Replace(Bytes::from(value.to_owned())),
            None => Write::Remove,
        };
        Save {
            key: Some(SaveKey(key)),
            path: path.to_owned(),
            write,
        }
    }

    fn append(key: u64, path: &str, value: &'static str) -> Save {
        Save {
            write: Write::Append(value.into()),
            ..save(key, path, None)
        }
    }

    #[test]
    fn what_is_appended_comes_behind_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let meta = directory.path();
        let batch = [
            append(1, "f/a", "one "),
            append(2, "f/b", "other"),
            append(3, "f/a", "two"),
            save(4, "f/b", None),
            append(5, "f/b", "new"),
        ];
        write_all(meta, &batch).unwrap();
        write_all(meta, &[append(6, "f/a", " three")]).unwrap();
        let held = |name: &str| std::fs::read_to_string(meta.join(name)).unwrap();
        assert_eq!(
            (held("f/a"), held("f/b")),
            ("one two three".into(), "new".into())
        );
        write_all(meta, &[save(7, "f/a", Some("anew")), append(8, "f/a", "!")]).unwrap();
        assert_eq!(held("f/a"), "anew!");
    }

    #[tokio::test]
    async fn what_was_saved_is_recovered_and_what_was_removed_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let meta = directory.path().join("meta");
        assert!(recover(&meta, true).unwrap().saved.is_empty());
        let (events, mut inbox) = mpsc::channel(10);
        let (saves, thread) = start(meta.clone(), events).unwrap();
        for save in Save::agent(&AgentId::from("m-S1"), Bytes::from("what it is")) {
            saves.send(save).unwrap();
        }
        saves
            .send(save(1, "frameworks/f/info", Some("one")))
            .unwrap();
        saves
            .send(save(2, "frameworks/f/tasks/t", Some("two")))
            .unwrap();
        saves.send(save(3, "frameworks/f/tasks/t", None)).unwrap();
        saves
            .send(save(4, "frameworks/f/info", Some("three")))
            .unwrap();
        for expected in 1..=4 {
            match inbox.recv().await {
                Some(Event::Core(input)) => {
                    assert!(
                        matches!(*input, Input::Saved { key: SaveKey(key) } if key == expected)
                    );
                }
                other => panic!("{other:?}"),
            }
        }
        drop(saves);
        tokio::task::spawn_blocking(|| thread.join().unwrap())
            .await
            .unwrap();
        std::fs::write(meta.join("frameworks/f/half.unfinished"), "ha").unwrap();
        let recovered = recover(&meta, true).unwrap();
        assert_eq!(recovered.agent_id, Some(AgentId::from("m-S1")));
        assert_eq!(recovered.agent, Some(Bytes::from("what it is")));
        assert_eq!(
            recovered.saved,
            [("frameworks/f/info".to_owned(), Bytes::from("three"))]
        );
        assert!(!meta.join("frameworks/f/tasks").exists());
    }

    #[tokio::test]
    async fn everything_is_written_though_nobody_listens_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let meta = directory.path().join("meta");
        std::fs::create_dir_all(&meta).unwrap();
        let (events, inbox) = mpsc::channel(1);
        drop(inbox);
        let (saves, thread) = start(meta.clone(), events).unwrap();
        for key in 0..=BATCH as u64 {
            saves
                .send(save(key, &format!("f/{key}"), Some("x")))
                .unwrap();
        }
        drop(saves);
        tokio::task::spawn_blocking(|| thread.join().unwrap())
            .await
            .unwrap();
        let written = std::fs::read_dir(meta.join("f")).unwrap().count();
        assert_eq!(written, BATCH + 1);
    }

    #[test]
    fn a_record_cannot_be_written_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let meta = directory.path().join("meta");
        std::fs::create_dir(&meta).unwrap();
        assert!(write_all(&meta, &[save(1, "../x", Some("x"))]).is_err());
        assert!(!directory.path().join("x").exists());
    }
}
