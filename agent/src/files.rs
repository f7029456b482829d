//! Answers the master's requests for files of sandboxes: reading, listing, following. The core knows nothing of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tepui_agent_core::TaskRef;
use tepui_api::link::{FileChunk, ListFiles, ReadFile, Tail, ToMaster, to_agent, to_master};
use tepui_api::v1;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::confine::Directory;
use crate::follow::{follow, is_over, read_at};
use crate::holders::Holders;
use crate::owner::Event;
use crate::sandbox;
use crate::watch::Watcher;

/// What Mesos calls an agent's log.
pub(crate) const LOG_PATHS: [&str; 2] = ["/slave/log", "/agent/log"];
/// How much one ReadFile gives at most.
const MAX_READ_BYTES: u64 = 4 << 20;
/// How often a file is looked for that is followed and not there yet.
const LOOK: Duration = Duration::from_millis(200);

/// How far a task has come, as far as its files are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// The sandbox is not there yet.
    Preparing,
    Ready,
    /// Nothing is written any more.
    Ended,
}

/// Whose sandbox it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SandboxOwner {
    /// Of a container that stands alone.
    Container(String),
    Executor {
        framework: String,
        executor: String,
    },
}

/// Where a task's files are.
#[derive(Debug)]
pub(crate) struct Located {
    /// Absolute.
    pub(crate) sandbox: PathBuf,
    pub(crate) phase: watch::Receiver<Phase>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("no task '{task}' of framework '{framework}' is known to this agent")]
    UnknownTask { framework: String, task: String },
    #[error("'{path}' is no path of a sandbox")]
    NotASandbox { path: String },
    #[error("there is no '{path}'")]
    Missing { path: String },
    #[error("'{path}' cannot be read: {cause}")]
    Refused { path: String, cause: String },
    #[error("'{path}' cannot be read: {cause}")]
    Broken { path: String, cause: String },
    #[error("the agent is stopping")]
    Stopping,
}

impl FileError {
    fn of(path: &str, error: &io::Error) -> Self {
        let (path, cause) = (path.to_owned(), error.to_string());
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing { path },
            // The system's own refusal. A path that leads outside is our finding, and the client's mistake.
            io::ErrorKind::PermissionDenied if error.raw_os_error().is_some() => {
                Self::Refused { path, cause }
            }
            _ => Self::Broken { path, cause },
        }
    }

    pub(crate) fn status(&self) -> u32 {
        match self {
            Self::UnknownTask { .. } | Self::NotASandbox { .. } | Self::Missing { .. } => 404,
            Self::Refused { .. } => 403,
            Self::Broken { .. } => 400,
            Self::Stopping => 503,
        }
    }
}

/// The requests of one link; they end with it.
#[derive(Debug)]
pub(crate) struct Files {
    context: Arc<FilesContext>,
    answers: mpsc::Sender<ToMaster>,
    under_way: Arc<Mutex<BTreeMap<u64, AbortHandle>>>,
}

#[derive(Debug)]
pub(crate) struct FilesContext {
    pub(crate) work_dir: PathBuf,
    pub(crate) watcher: Watcher,
    pub(crate) events: mpsc::Sender<Event>,
    /// Told of the link, and of what it brings of artifacts.
    pub(crate) holders: Holders,
}

impl Files {
    pub(crate) fn new(context: Arc<FilesContext>, answers: mpsc::Sender<ToMaster>) -> Self {
        Self {
            context,
            answers,
            under_way: Arc::default(),
        }
    }

    /// Takes the message if it is a request for files, else gives it back.
    pub(crate) fn take(&self, body: to_agent::Body) -> Option<to_agent::Body> {
        match body {
            to_agent::Body::Tail(tail) => {
                let (context, answers) = (self.context.clone(), self.answers.clone());
                self.start(tail.request_id, async move {
                    context.tail(&tail, &answers).await
                });
            }
            to_agent::Body::ReadFile(read) => {
                let (context, answers) = (self.context.clone(), self.answers.clone());
                self.start(read.request_id, async move {
                    context.read(&read, &answers).await
                });
            }
            to_agent::Body::ListFiles(list) => {
                let (context, answers) = (self.context.clone(), self.answers.clone());
                self.start(list.request_id, async move {
                    context.list(&list, &answers).await
                });
            }
            to_agent::Body::CancelFile(cancel) => {
                if let Some(request) = self.lock().remove(&cancel.request_id) {
                    request.abort();
                }
            }
            other => return Some(other),
        }
        None
    }

    fn start(&self, id: u64, work: impl Future<Output = Result<(), FileError>> + Send + 'static) {
        let (answers, under_way) = (self.answers.clone(), self.under_way.clone());
        let mut requests = self.lock();
        let task = tokio::spawn(async move {
            if let Err(error) = work.await {
                let chunk = FileChunk {
                    error_status: Some(error.status()),
                    error: Some(error.to_string()),
                    last: Some(true),
                    ..chunk(id)
                };
                send(&answers, chunk).await;
            }
            under_way
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&id);
        });
        if let Some(earlier) = requests.insert(id, task.abort_handle()) {
            earlier.abort();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, AbortHandle>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for request in self.lock().values() {
            request.abort();
        }
    }
}

impl FilesContext {
    async fn tail(&self, tail: &Tail, answers: &mpsc::Sender<ToMaster>) -> Result<(), FileError> {
        let task = TaskRef {
            framework: tail.framework_id.value.as_str().into(),
            task: tail.task_id.value.as_str().into(),
        };
        let (reply, located) = oneshot::channel();
        self.events
            .send(Event::Locate { task, reply })
            .await
            .map_err(|_| FileError::Stopping)?;
        let located = located.await.map_err(|_| FileError::Stopping)?;
        let Some(mut located) = located else {
            return Err(FileError::UnknownTask {
                framework: tail.framework_id.value.clone(),
                task: tail.task_id.value.clone(),
            });
        };
        // Whoever asks right after the launch waits for the sandbox rather than being told there is none.
        let prepared = located
            .phase
            .wait_for(|phase| *phase != Phase::Preparing)
            .await
            .is_ok();
        if !prepared && !located.sandbox.exists() {
            return Err(FileError::Missing {
                path: tail.path.clone(),
            });
        }
        let opened = || {
            Directory::open(&located.sandbox)
                .and_then(|sandbox| sandbox.open_file(Path::new(&tail.path)))
                .map_err(|error| FileError::of(&tail.path, &error))
        };
        let mut writer = tail.follow.unwrap_or(false).then_some(located.phase);
        let mut waited = false;
        let file = loop {
            // Looked at before opening: what was made before the end is then found after it.
            let phase = writer
                .as_mut()
                .and_then(|phase| (!is_over(phase)).then_some(phase));
            match (opened(), phase) {
                (Err(FileError::Missing { .. }), Some(phase)) => tokio::select! {
                    () = tokio::time::sleep(LOOK) => waited = true,
                    _ = phase.changed() => waited = true,
                    () = answers.closed() => return Ok(()),
                },
                // Who followed has been answered, with nothing.
                (Err(FileError::Missing { .. }), None) if waited => {
                    send(answers, last(tail.request_id)).await;
                    return Ok(());
                }
                (opened, _) => break opened?,
            }
        };
        let (pieces, mut taken) = mpsc::channel(1);
        let following = follow(
            &file,
            tail.offset.unwrap_or(0),
            &self.watcher,
            writer,
            pieces,
        );
        let passing_on = async move {
            while let Some(data) = taken.recv().await {
                let piece = FileChunk {
                    data: Some(data),
                    ..chunk(tail.request_id)
                };
                if !send(answers, piece).await {
                    return;
                }
            }
        };
        tokio::select! {
            (followed, ()) = async { tokio::join!(following, passing_on) } => {
                followed.map_err(|error| FileError::of(&tail.path, &error))?;
                send(answers, last(tail.request_id)).await;
            }
            () = answers.closed() => {}
        }
        Ok(())
    }

    async fn read(
        &self,
        request: &ReadFile,
        answers: &mpsc::Sender<ToMaster>,
    ) -> Result<(), FileError> {
        let wanted = request.length.unwrap_or(MAX_READ_BYTES).min(MAX_READ_BYTES);
        let (size, data) = self.read_path(&request.path, request.offset, wanted)?;
        let answer = FileChunk {
            data: Some(data),
            size: Some(size),
            last: Some(true),
            ..chunk(request.request_id)
        };
        send(answers, answer).await;
        Ok(())
    }

    async fn list(
        &self,
        request: &ListFiles,
        answers: &mpsc::Sender<ToMaster>,
    ) -> Result<(), FileError> {
        let files = self.list_path(&request.path)?;
        send(
            answers,
            FileChunk {
                files,
                last: Some(true),
                ..chunk(request.request_id)
            },
        )
        .await;
        Ok(())
    }

    /// The entries of a directory as clients name it. Blocks on the disk for a moment.
    pub(crate) fn list_path(&self, path: &str) -> Result<Vec<v1::FileInfo>, FileError> {
        let (directory, inside) = self.open(path)?;
        let entries = directory
            .list(&inside)
            .map_err(|error| FileError::of(path, &error))?;
        let base = path.trim_end_matches('/');
        let files = entries.into_iter().map(|entry| v1::FileInfo {
            path: format!("{base}/{}", entry.name),
            nlink: i32::try_from(entry.links).ok(),
            size: Some(entry.size),
            mtime: Some(v1::TimeInfo {
                nanoseconds: entry.modified_ns,
            }),
            mode: Some(entry.mode),
            uid: Some(entry.uid.to_string()),
            gid: Some(entry.gid.to_string()),
        });
        Ok(files.collect())
    }

    /// The file's size and up to `wanted` bytes of it. Blocks on the disk for a moment.
    pub(crate) fn read_path(
        &self,
        path: &str,
        offset: u64,
        wanted: u64,
    ) -> Result<(u64, Bytes), FileError> {
        let failed = |error: io::Error| FileError::of(path, &error);
        let file = self.open_path(path)?;
        let size = file.metadata().map_err(failed)?.len();
        let mut data = Vec::new();
        while (data.len() as u64) < wanted {
            let left = wanted - data.len() as u64;
            match read_at(&file, offset + data.len() as u64, left).map_err(failed)? {
                Some(piece) => data.extend_from_slice(&piece),
                None => break,
            }
        }
        Ok((size, data.into()))
    }

    pub(crate) fn open_path(&self, path: &str) -> Result<File, FileError> {
        if LOG_PATHS.contains(&path) {
            return File::open(self.work_dir.join(crate::log::FILE))
                .map_err(|error| FileError::of(path, &error));
        }
        let (directory, inside) = self.open(path)?;
        directory
            .open_file(&inside)
            .map_err(|error| FileError::of(path, &error))
    }

    /// Whose sandbox a path as clients name it is in; none if in no single one's.
    pub(crate) fn owner(&self, path: &str) -> Option<SandboxOwner> {
        let split = self.split(path)?;
        let parts: Option<Vec<&str>> = split.trusted.iter().map(|part| part.to_str()).collect();
        match parts?[..] {
            [sandbox::STANDALONE, id] => Some(SandboxOwner::Container(id.to_owned())),
            [_, _, _, framework, _, executor, ..] => Some(SandboxOwner::Executor {
                framework: framework.to_owned(),
                executor: executor.to_owned(),
            }),
            _ => None,
        }
    }

    fn split(&self, path: &str) -> Option<sandbox::Split> {
        let agent = std::fs::read_to_string(self.work_dir.join("meta/agent_id")).ok();
        sandbox::split(&self.work_dir, agent.as_deref().map(str::trim), path)
    }

    /// The directory that confines a path, and the path in it.
    fn open(&self, path: &str) -> Result<(Directory, PathBuf), FileError> {
        if Path::new(path)
            .components()
            .any(|part| part == Component::ParentDir)
        {
            return Err(FileError::Broken {
                path: path.to_owned(),
                cause: "it steps upwards, out of what it names".to_owned(),
            });
        }
        let split = self.split(path).ok_or_else(|| FileError::NotASandbox {
            path: path.to_owned(),
        })?;
        let directory = Directory::open_trusted(&self.work_dir.join(&split.trusted));
        let directory = directory.map_err(|error| FileError::of(path, &error))?;
        Ok((directory, split.inside.unwrap_or_default()))
    }
}

fn chunk(request_id: u64) -> FileChunk {
    FileChunk {
        request_id,
        ..FileChunk::default()
    }
}

/// The end of an answer.
fn last(request_id: u64) -> FileChunk {
    FileChunk {
        last: Some(true),
        ..chunk(request_id)
    }
}

async fn send(answers: &mpsc::Sender<ToMaster>, chunk: FileChunk) -> bool {
    answers
        .send(ToMaster {
            body: Some(to_master::Body::FileChunk(chunk)),
        })
        .await
        .is_ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    struct Bench {
        directory: tempfile::TempDir,
        phase: watch::Sender<Phase>,
        files: Files,
        answers: mpsc::Receiver<ToMaster>,
    }

    const SANDBOX: &str = "slaves/s/frameworks/f/executors/t/runs/c";

    /// An owner that knows one task, `t` of `f`.
    fn bench(phase: Phase) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let (events, mut inbox) = mpsc::channel(10);
        let (phase, receiver) = watch::channel(phase);
        let sandbox = directory.path().join(SANDBOX);
        tokio::spawn(async move {
            while let Some(event) = inbox.recv().await {
                if let Event::Locate { task, reply } = event {
                    let known = task.task.as_str() == "t";
                    let located = Located {
                        sandbox: sandbox.clone(),
                        phase: receiver.clone(),
                    };
                    let _ = reply.send(known.then_some(located));
                }
            }
        });
        let (sender, answers) = mpsc::channel(4);
        let work_dir = directory.path().to_path_buf();
        let context = Arc::new(FilesContext {
            work_dir,
            watcher: Watcher::new(),
            events,
            holders: Holders::default(),
        });
        Bench {
            directory,
            phase,
            files: Files::new(context, sender),
            answers,
        }
    }

    impl Bench {
        fn create(&self) -> PathBuf {
            sandbox::create(self.directory.path(), SANDBOX).unwrap()
        }

        fn append(&self, text: &str) {
            let path = self.directory.path().join(SANDBOX).join("stdout");
            std::fs::OpenOptions::new()
                .append(true)
                .open(path)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
        }

        fn tail(&self, id: u64, task: &str, path: &str, offset: u64, follow: bool) {
            let request = Tail {
                request_id: id,
                framework_id: v1::FrameworkId {
                    value: "f".to_owned(),
                },
                task_id: v1::TaskId {
                    value: task.to_owned(),
                },
                path: path.to_owned(),
                offset: Some(offset),
                follow: Some(follow),
            };
            assert!(self.files.take(to_agent::Body::Tail(request)).is_none());
        }

        async fn next(&mut self) -> FileChunk {
            match self.answers.recv().await.unwrap().body {
                Some(to_master::Body::FileChunk(chunk)) => chunk,
                other => panic!("{other:?}"),
            }
        }

        /// All that arrives until the last chunk, and that chunk.
        async fn all(&mut self) -> (String, FileChunk) {
            let mut text = String::new();
            loop {
                let chunk = self.next().await;
                text.push_str(
                    std::str::from_utf8(chunk.data.as_deref().unwrap_or_default()).unwrap(),
                );
                if chunk.last == Some(true) {
                    return (text, chunk);
                }
            }
        }
    }

    #[tokio::test]
    async fn a_followed_file_is_sent_as_it_grows_until_the_task_has_ended() {
        let mut bench = bench(Phase::Preparing);
        bench.tail(1, "t", "stdout", 0, true);
        bench.create();
        bench.phase.send_replace(Phase::Ready);
        bench.append("one ");
        let mut seen = String::new();
        while seen != "one " {
            seen.push_str(std::str::from_utf8(&bench.next().await.data.unwrap()).unwrap());
        }
        bench.append("two ");
        while seen != "one two " {
            seen.push_str(std::str::from_utf8(&bench.next().await.data.unwrap()).unwrap());
        }
        bench.append("three");
        bench.phase.send_replace(Phase::Ended);
        let (rest, last) = bench.all().await;
        assert_eq!((rest.as_str(), last.error), ("three", None));
    }

    #[tokio::test]
    async fn a_file_that_comes_later_can_be_followed_until_its_task_has_ended() {
        let mut bench = bench(Phase::Ready);
        let sandbox = bench.create();
        bench.tail(1, "t", "later/log", 0, true);
        bench.tail(2, "t", "never", 0, true);
        tokio::time::sleep(LOOK / 2).await;
        std::fs::create_dir(sandbox.join("later")).unwrap();
        std::fs::write(sandbox.join("later/log"), "text").unwrap();
        let chunk = bench.next().await;
        assert_eq!(
            (chunk.request_id, chunk.data.as_deref()),
            (1, Some(b"text".as_slice()))
        );
        bench.phase.send_replace(Phase::Ended);
        let mut ends = [bench.next().await, bench.next().await];
        ends.sort_by_key(|chunk| chunk.request_id);
        for (chunk, id) in ends.into_iter().zip([1, 2]) {
            assert_eq!(
                (chunk.request_id, chunk.last, chunk.error),
                (id, Some(true), None)
            );
        }
    }

    #[tokio::test]
    async fn a_file_that_is_not_followed_ends_where_it_ends() {
        let mut bench = bench(Phase::Ready);
        bench.create();
        bench.append("hello world");
        bench.tail(1, "t", "stdout", 6, false);
        assert_eq!(bench.all().await.0, "world");
    }

    #[tokio::test]
    async fn a_large_file_comes_in_several_chunks_and_whole() {
        let mut bench = bench(Phase::Ended);
        bench.create();
        let text = "0123456789".repeat(30_000);
        bench.append(&text);
        bench.tail(1, "t", "stdout", 0, true);
        assert_eq!(bench.all().await.0, text);
    }

    #[tokio::test]
    async fn unknown_tasks_missing_files_and_ways_out_are_told_apart() {
        let mut bench = bench(Phase::Ended);
        let sandbox = bench.create();
        std::os::unix::fs::symlink("/etc/passwd", sandbox.join("link")).unwrap();
        for (id, task, path, status) in [
            (1, "other", "stdout", 404),
            (2, "t", "nothing", 404),
            (3, "t", "../../x", 400),
            (4, "t", "link", 400),
        ] {
            bench.tail(id, task, path, 0, true);
            let chunk = bench.next().await;
            assert_eq!(
                (chunk.request_id, chunk.error_status, chunk.last),
                (id, Some(status), Some(true))
            );
        }
    }

    #[tokio::test]
    async fn a_cancelled_request_says_nothing_more() {
        let mut bench = bench(Phase::Ready);
        bench.create();
        bench.append("x");
        bench.tail(7, "t", "stdout", 0, true);
        assert_eq!(bench.next().await.request_id, 7);
        let cancel = tepui_api::link::CancelFile { request_id: 7 };
        bench.files.take(to_agent::Body::CancelFile(cancel));
        bench.append("more");
        bench.phase.send_replace(Phase::Ended);
        bench.tail(8, "t", "stdout", 0, false);
        let (text, last) = bench.all().await;
        assert_eq!((text.as_str(), last.request_id), ("xmore", 8));
    }

    #[tokio::test]
    async fn files_are_read_in_parts_and_listed() {
        let mut bench = bench(Phase::Ready);
        bench.create();
        bench.append("hello");
        let path = format!("/frameworks/../{SANDBOX}");
        for (path, status) in [
            (path, 400),
            (format!("{SANDBOX}/../../x"), 400),
            ("/etc/passwd".to_owned(), 404),
        ] {
            let read = ReadFile {
                request_id: 1,
                path,
                offset: 0,
                length: None,
            };
            bench.files.take(to_agent::Body::ReadFile(read));
            assert_eq!(bench.next().await.error_status, Some(status));
        }
        let path = format!("{}/{SANDBOX}/stdout", bench.directory.path().display());
        bench.files.take(to_agent::Body::ReadFile(ReadFile {
            request_id: 2,
            path,
            offset: 1,
            length: Some(3),
        }));
        let chunk = bench.next().await;
        assert_eq!(
            (chunk.data.as_deref(), chunk.size),
            (Some(b"ell".as_slice()), Some(5))
        );
        let list = ListFiles {
            request_id: 3,
            path: format!("/{SANDBOX}/"),
        };
        bench.files.take(to_agent::Body::ListFiles(list));
        let files: Vec<String> = bench
            .next()
            .await
            .files
            .into_iter()
            .map(|file| file.path)
            .collect();
        assert_eq!(
            files,
            [format!("/{SANDBOX}/stderr"), format!("/{SANDBOX}/stdout")]
        );
    }
}
