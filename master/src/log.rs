//! The master's own log: its last part in memory, read as the file `/master/log`, and how much goes into it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tepui_api::v1;
use tepui_api::v1::master::{call, response};

use crate::http::Parameters;
use crate::shared::Refusal;

const PATH: &str = "/master/log";
/// Where the file is found by listing.
const FOLDERS: [&str; 2] = ["", "/master"];
/// What is kept at most. Beyond it the older half is forgotten, as if the log had been rotated.
const CAPACITY_BYTES: usize = 1 << 20;
/// What one read hands out at most.
const MAX_READ_BYTES: usize = 64 << 10;
const MODE: u32 = 0o100_644;

/// One process has one log, however many masters run in it.
static KEPT: Mutex<Kept> = Mutex::new(Kept {
    bytes: Vec::new(),
    changed: UNIX_EPOCH,
});

/// Whether there is a master in this process; other processes of the same program have no use for a copy.
static IS_KEPT: AtomicBool = AtomicBool::new(false);

/// From now on what goes to [`Log`] is kept.
pub(crate) fn keep() {
    IS_KEPT.store(true, Ordering::Relaxed);
}

#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    changed: SystemTime,
}

fn kept() -> MutexGuard<'static, Kept> {
    // Every change is complete in itself.
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kept {
    fn append(&mut self, bytes: &[u8]) {
        // Of a line that is longer than all there is room for, the end is kept.
        let bytes = &bytes[bytes.len().saturating_sub(CAPACITY_BYTES / 2)..];
        if self.bytes.len() + bytes.len() > CAPACITY_BYTES {
            let half = self.bytes.len().saturating_sub(CAPACITY_BYTES / 2);
            let line = self.bytes[half..].iter().position(|byte| *byte == b'\n');
            let forgotten = line.map_or(half, |line| half + line + 1);
            self.bytes.drain(..forgotten);
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Nothing beyond the end.
    fn read(&self, offset: u64, length: Option<u64>) -> &[u8] {
        let whole = |number| usize::try_from(number).unwrap_or(usize::MAX);
        let length = length.map_or(MAX_READ_BYTES, |length| whole(length).min(MAX_READ_BYTES));
        let begin = whole(offset).min(self.bytes.len());
        let end = begin.saturating_add(length).min(self.bytes.len());
        &self.bytes[begin..end]
    }

    fn changed(&self) -> Duration {
        self.changed.duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// Where the command that starts a master writes what is logged. Nothing is kept before a master runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Log;

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if IS_KEPT.load(Ordering::Relaxed) {
            let mut kept = kept();
            kept.append(line);
            kept.changed = SystemTime::now();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How much is logged: 0 is as the process was started.
#[derive(Debug)]
pub(crate) struct Verbosity {
    set: Option<fn(u32)>,
    state: Mutex<Level>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Level {
    current: u32,
    changes: u64,
}

impl Verbosity {
    pub(crate) fn new(set: Option<fn(u32)>) -> Self {
        Self {
            set,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, Level> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn level(&self) -> u32 {
        self.state().current
    }

    /// Back to 0 after the duration, unless the level was changed again by then.
    pub(crate) fn set_for(self: &Arc<Self>, level: u32, duration: Duration) {
        let change = self.change(level);
        tracing::info!(level, ?duration, "the verbosity is changed");
        let verbosity = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(duration).await;
            verbosity.undo(change);
        });
    }

    fn change(&self, level: u32) -> u64 {
        let mut state = self.state();
        state.current = level;
        state.changes += 1;
        if let Some(set) = self.set {
            set(level);
        }
        state.changes
    }

    fn undo(&self, change: u64) {
        let is_last = self.state().changes == change;
        if is_last {
            self.change(0);
        }
    }
}

/// `/logging/toggle?level=1&duration=10mins`: level and duration, or neither, which asks for the level.
pub(crate) fn toggle(parameters: &Parameters) -> Result<Option<(u32, Duration)>, Refusal> {
    let bad = |message: String| Refusal::bad_request(message);
    match (parameters.get("level"), parameters.get("duration")) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(bad("Expecting 'duration=value' in query".to_owned())),
        (None, Some(_)) => Err(bad("Expecting 'level=value' in query".to_owned())),
        (Some(level), Some(duration)) => {
            let level = level
                .parse()
                .map_err(|_| bad(format!("Invalid level '{level}'")))?;
            let duration = tepui_model::parse_duration(duration)
                .map_err(|error| bad(format!("Invalid duration '{duration}': {error}")))?;
            Ok(Some((level, duration)))
        }
    }
}

// Files

fn is_folder(path: &str) -> bool {
    FOLDERS.contains(&path.trim_end_matches('/'))
}

fn must_be_listed(path: &str) -> Result<(), Refusal> {
    if path == PATH || is_folder(path) {
        Ok(())
    } else {
        Err(Refusal::not_found(format!("There is nothing at '{path}'")))
    }
}

fn must_be_log(path: &str) -> Result<(), Refusal> {
    must_be_listed(path)?;
    if is_folder(path) {
        return Err(Refusal::bad_request(format!(
            "Cannot read '{path}': it is a directory"
        )));
    }
    Ok(())
}

pub(crate) fn list(asked: &call::ListFiles) -> Result<response::ListFiles, Refusal> {
    must_be_listed(&asked.path)?;
    let kept = kept();
    let nanoseconds = i64::try_from(kept.changed().as_nanos()).unwrap_or(i64::MAX);
    let file = v1::FileInfo {
        path: PATH.to_owned(),
        nlink: Some(1),
        size: Some(kept.size()),
        mtime: Some(v1::TimeInfo { nanoseconds }),
        mode: Some(MODE),
        uid: Some("root".to_owned()),
        gid: Some("root".to_owned()),
    };
    Ok(response::ListFiles {
        file_infos: vec![file],
    })
}

pub(crate) fn read(asked: &call::ReadFile) -> Result<response::ReadFile, Refusal> {
    must_be_log(&asked.path)?;
    let kept = kept();
    Ok(response::ReadFile {
        size: kept.size(),
        data: kept.read(asked.offset, asked.length).to_vec().into(),
    })
}

fn path_of(parameters: &Parameters) -> Result<&str, Refusal> {
    let path = parameters.get("path").map(String::as_str);
    path.filter(|path| !path.is_empty())
        .ok_or_else(|| Refusal::bad_request("Expecting 'path=value' in query"))
}

/// A number that may be -1 or absent, which is `None`.
fn number(parameters: &Parameters, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(text) = parameters.get(name).filter(|text| *text != "-1") else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        let message = format!("Expecting '{name}' to be -1 or a whole number, not '{text}'");
        Refusal::bad_request(message)
    })
}

pub(crate) fn browse_json(parameters: &Parameters) -> Result<Value, Refusal> {
    must_be_listed(path_of(parameters)?)?;
    let kept = kept();
    Ok(json!([{
        "path": PATH,
        "nlink": 1,
        "size": kept.size(),
        "mtime": kept.changed().as_secs(),
        "mode": "-rw-r--r--",
        "uid": "root",
        "gid": "root",
    }]))
}

/// Without an offset it tells the size, from where a reader who follows the log begins.
pub(crate) fn read_json(parameters: &Parameters) -> Result<Value, Refusal> {
    let path = path_of(parameters)?;
    let (offset, length) = (number(parameters, "offset")?, number(parameters, "length")?);
    must_be_log(path)?;
    let kept = kept();
    Ok(match offset {
        None => json!({ "offset": kept.size(), "data": "" }),
        Some(offset) => {
            let data = String::from_utf8_lossy(kept.read(offset, length));
            json!({ "offset": offset, "data": data })
        }
    })
}

pub(crate) fn debug_json(_: &Parameters) -> Result<Value, Refusal> {
    Ok(json!({ PATH: "the last part of the log, in memory" }))
}

pub(crate) fn download(parameters: &Parameters) -> Result<Response, Refusal> {
    must_be_log(path_of(parameters)?)?;
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        ),
        (
            header::CONTENT_DISPOSITION,
            HeaderValue::from_static("attachment; filename=log"),
        ),
    ];
    Ok((headers, kept().bytes.clone()).into_response())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn empty() -> Kept {
        Kept {
            bytes: Vec::new(),
            changed: UNIX_EPOCH,
        }
    }

    #[test]
    fn the_older_half_is_forgotten_when_there_is_no_room_and_lines_stay_whole() {
        let mut kept = empty();
        for number in 0..200_000 {
            kept.append(format!("line {number:08}\n").as_bytes());
            assert!(kept.bytes.len() <= CAPACITY_BYTES);
        }
        assert!(kept.bytes.len() >= CAPACITY_BYTES / 2 - 14);
        let text = String::from_utf8(kept.bytes).unwrap();
        assert!(text.lines().all(|line| line.len() == 13));
        assert!(text.ends_with("line 00199999\n"));
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut kept = empty();
        kept.append(&vec![b'x'; 3 * CAPACITY_BYTES]);
        kept.append(&vec![b'y'; CAPACITY_BYTES]);
        assert!(kept.bytes.len() <= CAPACITY_BYTES);
    }

    #[test]
    fn a_read_stops_at_the_end_and_at_its_bound() {
        let mut kept = empty();
        kept.append(b"hello");
        assert_eq!(kept.read(1, Some(3)), b"ell");
        assert_eq!(kept.read(4, None), b"o");
        assert!(kept.read(5, Some(100)).is_empty());
        assert!(kept.read(u64::MAX, Some(u64::MAX)).is_empty());
        kept.append(&vec![b'x'; 2 * MAX_READ_BYTES]);
        assert_eq!(kept.read(0, Some(u64::MAX)).len(), MAX_READ_BYTES);
    }

    #[test]
    fn a_level_is_taken_back_unless_another_was_set_since() {
        static TOLD: AtomicU32 = AtomicU32::new(0);
        let verbosity = Verbosity::new(Some(|level| {
            TOLD.store(level, Ordering::Relaxed);
        }));
        let first = verbosity.change(1);
        let second = verbosity.change(3);
        verbosity.undo(first);
        assert_eq!((verbosity.level(), TOLD.load(Ordering::Relaxed)), (3, 3));
        verbosity.undo(second);
        assert_eq!((verbosity.level(), TOLD.load(Ordering::Relaxed)), (0, 0));
    }
}
