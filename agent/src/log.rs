//! A copy of what the agent logs in its work directory, bounded, for those who read it as `/slave/log`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Relative to the work directory.
pub(crate) const FILE: &str = "agent.log";
/// Then the file begins anew and its old self is kept beside it.
const MAX_BYTES: u64 = 8 << 20;

static COPY: Mutex<Option<Kept>> = Mutex::new(None);

#[derive(Debug)]
struct Kept {
    path: PathBuf,
    file: File,
    written: u64,
}

impl Kept {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(&path)?;
        let written = file.metadata()?.len();
        Ok(Self {
            path,
            file,
            written,
        })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.written > 0 && self.written + line.len() as u64 > MAX_BYTES {
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
            *self = Self::open(self.path.clone())?;
        }
        self.file.write_all(line)?;
        self.written += line.len() as u64;
        Ok(())
    }
}

fn copy() -> MutexGuard<'static, Option<Kept>> {
    COPY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on what goes to [`Log`] is kept below that directory.
pub(crate) fn keep_in(work_dir: &Path) -> io::Result<()> {
    *copy() = Some(Kept::open(work_dir.join(FILE))?);
    Ok(())
}

/// The file, once an agent runs in this process; nothing before.
#[derive(Debug, Clone, Copy, Default)]
pub struct Log;

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(kept) = copy().as_mut() {
            kept.write(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_begins_anew_and_keeps_its_old_self() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        std::fs::write(&path, vec![b'x'; MAX_BYTES as usize]).unwrap();
        let mut copy = Kept::open(path.clone()).unwrap();
        copy.write(b"first\n").unwrap();
        copy.write(b"second\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first\nsecond\n");
        let old = std::fs::metadata(path.with_extension("log.1")).unwrap();
        assert_eq!(old.len(), MAX_BYTES);
    }
}
