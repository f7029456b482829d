//! Unpacks what a task fetched. Archives are strangers' bytes: an entry that would land outside the sandbox, a link
//! that points outside, a device node or an endless expansion ends the unpacking with a sentence that names the entry.
//!
//! The agent unpacks in its own memory, so nothing that an archive announces is held there without a bound.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};

use crate::confine::{Directory, inside};
use crate::sandbox::is_output;

/// What one archive may expand to: beyond this it is taken for a bomb.
pub(crate) const MAX_EXTRACTED_BYTES: u64 = 16 << 30;
/// How many entries one archive may have.
pub(crate) const MAX_ENTRIES: u64 = 1_000_000;
/// The longest target of a symbolic link that is read from a zip entry's body.
const MAX_LINK_BYTES: u64 = 4096;
/// What may stand before one entry's body in a tar: its header, long names, extended headers and map of holes, which
/// the library holds in memory.
const MAX_HEAD_BYTES: u64 = 1 << 20;
/// The memory that unpacking xz may take. `xz -9` asks for 65 MiB.
const MAX_XZ_MEMORY: u64 = 128 << 20;
/// The longest central directory of a zip, which the library holds in memory.
const MAX_DIRECTORY_BYTES: u64 = 256 << 20;

/// How a zip's records begin: an entry in its central directory, that directory's end, the same for large archives, and
/// what stands before the former to find the latter.
const ZIP_ENTRY: &[u8] = b"PK\x01\x02";
const ZIP_END: &[u8] = b"PK\x05\x06";
const ZIP64_END: &[u8] = b"PK\x06\x06";
const ZIP64_LOCATOR: &[u8] = b"PK\x06\x07";
const ZIP_END_BYTES: usize = 22;
const ZIP64_END_BYTES: u64 = 56;
const ZIP64_LOCATOR_BYTES: usize = 20;
/// More than the library looks through from a zip's end for the end of its directory, and than a comment can take.
const ZIP_TAIL_BYTES: u64 = 128 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Archive {
    Tar,
    TarGz,
    TarBz2,
    TarXz,
    Zip,
    Gz,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    #[error("the entry '{entry}' would be unpacked outside the sandbox")]
    Outside { entry: String },
    #[error("the link '{entry}' points outside the sandbox, to '{target}'")]
    LinkOutside { entry: String, target: String },
    #[error("the entry '{entry}' is neither a file, a directory nor a link")]
    Special { entry: String },
    #[error("the entry '{entry}' would take the place of the task's output")]
    Reserved { entry: String },
    #[error("the entry '{entry}' lies behind a symbolic link")]
    BehindLink { entry: String },
    #[error("the names and attributes of entry number {number} take more than {limit} bytes")]
    Head { number: u64, limit: u64 },
    #[error("its directory takes more than {limit} bytes")]
    LongDirectory { limit: u64 },
    #[error("unpacking its xz takes more than {limit} bytes of memory")]
    Memory { limit: u64 },
    #[error("it expands to more than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("it has more than {limit} entries")]
    TooMany { limit: u64 },
    #[error("the disk is full")]
    DiskFull,
    #[error("it cannot be read: {0}")]
    Broken(String),
    #[error("the entry '{entry}' cannot be unpacked: {cause}")]
    Entry { entry: String, cause: String },
}

impl Archive {
    /// By the name's ending, as Mesos does; what follows a `?` is no part of the name's ending.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let name = name.split('?').next().unwrap_or(name).to_ascii_lowercase();
        let ends = |endings: &[&str]| {
            endings
                .iter()
                .any(|ending| name.len() > ending.len() && name.ends_with(ending))
        };
        if ends(&[".tar"]) {
            Some(Self::Tar)
        } else if ends(&[".tgz", ".tar.gz"]) {
            Some(Self::TarGz)
        } else if ends(&[".tbz2", ".tar.bz2"]) {
            Some(Self::TarBz2)
        } else if ends(&[".txz", ".tar.xz"]) {
            Some(Self::TarXz)
        } else if ends(&[".zip"]) {
            Some(Self::Zip)
        } else if ends(&[".gz"]) {
            Some(Self::Gz)
        } else {
            None
        }
    }

    /// Unpacks `archive` into the directory; `name` is the file's name in the sandbox, from which a `.gz` gets its own.
    pub(crate) fn extract(
        self,
        archive: &Path,
        name: &str,
        into: &Directory,
    ) -> Result<(), ArchiveError> {
        let file = File::open(archive).map_err(|error| broken(&error))?;
        let reader = BufReader::new(file);
        // What an entry's name says of its place must be true: no link that an earlier entry made leads it elsewhere.
        let into = &into.without_links().map_err(|error| broken(&error))?;
        match self {
            Self::Tar => tar(reader, into),
            Self::TarGz => tar(flate2::bufread::MultiGzDecoder::new(reader), into),
            Self::TarBz2 => tar(bzip2::bufread::MultiBzDecoder::new(reader), into),
            Self::TarXz => {
                let stream = liblzma::stream::Stream::new_auto_decoder(
                    MAX_XZ_MEMORY,
                    liblzma::stream::CONCATENATED,
                );
                let stream = stream.map_err(|error| broken(&io::Error::from(error)))?;
                tar(
                    liblzma::bufread::XzDecoder::new_stream(reader, stream),
                    into,
                )
            }
            Self::Zip => zip(reader, into),
            Self::Gz => {
                let name = name.split('?').next().unwrap_or(name);
                let target = name
                    .get(..name.len().saturating_sub(".gz".len()))
                    .unwrap_or(name);
                let mut budget = Budget::new();
                budget.write(
                    &mut flate2::bufread::MultiGzDecoder::new(reader),
                    into,
                    &entry_path(Path::new(target))?,
                    0o644,
                )
            }
        }
    }
}

/// What is still allowed to come out of one archive.
struct Budget {
    bytes: u64,
    entries: u64,
}

impl Budget {
    fn new() -> Self {
        Self {
            bytes: MAX_EXTRACTED_BYTES,
            entries: MAX_ENTRIES,
        }
    }

    fn entry(&mut self) -> Result<(), ArchiveError> {
        self.entries = self
            .entries
            .checked_sub(1)
            .ok_or(ArchiveError::TooMany { limit: MAX_ENTRIES })?;
        Ok(())
    }

    /// The number of the entry that was asked for last, from one.
    fn number(&self) -> u64 {
        MAX_ENTRIES - self.entries
    }

    fn take(&mut self, count: u64) -> Result<(), ArchiveError> {
        self.bytes = self
            .bytes
            .checked_sub(count)
            .ok_or(ArchiveError::TooLarge {
                limit: MAX_EXTRACTED_BYTES,
            })?;
        Ok(())
    }

    /// The next bytes that come out; none at the end.
    fn read(&mut self, from: &mut dyn Read, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        loop {
            match from.read(buffer) {
                Ok(count) => {
                    self.take(count as u64)?;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(&error)),
            }
        }
    }

    /// Reads to the end what is not unpacked; it has to be expanded all the same.
    fn skip(&mut self, from: &mut dyn Read) -> Result<(), ArchiveError> {
        let mut buffer = [0; 8 << 10];
        while self.read(from, &mut buffer)? > 0 {}
        Ok(())
    }

    fn write(
        &mut self,
        from: &mut dyn Read,
        into: &Directory,
        path: &Path,
        mode: u32,
    ) -> Result<(), ArchiveError> {
        let mut file = into
            .create_file(path, mode)
            .map_err(|error| of_entry(path, &error))?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count = self.read(from, &mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            file.write_all(&buffer[..count])
                .map_err(|error| of_entry(path, &error))?;
        }
    }
}

/// Gives no more bytes away than are left. The libraries hold what describes entries in memory, however much there is;
/// what they cannot read they do not hold.
struct Metered<'a, R> {
    inner: R,
    left: &'a Cell<u64>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::other("it describes its entries without end"));
        }
        let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = self.inner.read(&mut buffer[..most])?;
        self.left.set(left.saturating_sub(count as u64));
        Ok(count)
    }
}

impl<R: Seek> Seek for Metered<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

fn tar(reader: impl Read, into: &Directory) -> Result<(), ArchiveError> {
    let left = Cell::new(u64::MAX);
    let mut archive = tar::Archive::new(Metered {
        inner: reader,
        left: &left,
    });
    let mut budget = Budget::new();
    let mut entries = archive.entries().map_err(|error| broken(&error))?;
    loop {
        // Every body is read to its end below, so what is read in between are heads alone.
        left.set(MAX_HEAD_BYTES);
        let Some(entry) = entries.next() else {
            return Ok(());
        };
        budget.entry()?;
        let endless = || ArchiveError::Head {
            number: budget.number(),
            limit: MAX_HEAD_BYTES,
        };
        let mut entry = entry.map_err(|error| match left.get() {
            0 => endless(),
            _ => broken(&error),
        })?;
        // A global header has a body, which nobody holds; it is a head nevertheless.
        if entry.header().entry_type().is_pax_global_extensions() && entry.size() > MAX_HEAD_BYTES {
            return Err(endless());
        }
        budget.take(MAX_HEAD_BYTES - left.get())?;
        left.set(u64::MAX);
        let name = entry.path().map_err(|error| broken(&error))?.into_owned();
        let path = entry_path(&name)?;
        let mode = entry.header().mode().unwrap_or(0o644);
        let target = entry
            .link_name()
            .map_err(|error| broken(&error))?
            .map(std::borrow::Cow::into_owned);
        match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                budget.write(&mut entry, into, &path, mode)?;
            }
            tar::EntryType::Directory => {
                into.create_directories(&path)
                    .map_err(|error| of_entry(&path, &error))?;
            }
            tar::EntryType::Symlink => link(into, &path, &target.unwrap_or_default())?,
            tar::EntryType::Link => {
                let target = entry_path(&target.unwrap_or_default())?;
                let mut source = into
                    .open_file(&target)
                    .map_err(|error| of_entry(&path, &error))?;
                // A copy instead of a second name: nothing outside can be reached by it and nothing is shared.
                budget.write(&mut source, into, &path, mode)?;
            }
            tar::EntryType::XGlobalHeader | tar::EntryType::XHeader => {}
            _ => {
                return Err(ArchiveError::Special {
                    entry: name.display().to_string(),
                });
            }
        }
        budget.skip(&mut entry)?;
    }
}

fn zip(mut reader: impl Read + Seek, into: &Directory) -> Result<(), ArchiveError> {
    // Told where the archive begins, the library does not search the file for it: a search holds in memory whatever
    // looks like a record, and may end at other records than those that were looked at here.
    let config = zip::read::Config {
        archive_offset: zip::read::ArchiveOffset::Known(beginning(&mut reader)?),
    };
    // What the end says of the directory's length need not be true.
    let left = Cell::new(MAX_DIRECTORY_BYTES);
    let metered = Metered {
        inner: reader,
        left: &left,
    };
    let mut archive =
        zip::ZipArchive::with_config(config, metered).map_err(|error| match left.get() {
            0 => ArchiveError::LongDirectory {
                limit: MAX_DIRECTORY_BYTES,
            },
            _ => ArchiveError::Broken(error.to_string()),
        })?;
    left.set(u64::MAX);
    let mut budget = Budget::new();
    for index in 0..archive.len() {
        let mut entry = archive
            .by_index(index)
            .map_err(|error| ArchiveError::Broken(error.to_string()))?;
        budget.entry()?;
        let name = entry
            .name()
            .map_err(|error| ArchiveError::Broken(error.to_string()))?
            .into_owned();
        let path = entry_path(Path::new(&name))?;
        let mode = entry.unix_mode().unwrap_or(0o644);
        if entry.is_dir() {
            into.create_directories(&path)
                .map_err(|error| of_entry(&path, &error))?;
        } else if entry.is_symlink() {
            let mut target = String::new();
            (&mut entry)
                .take(MAX_LINK_BYTES)
                .read_to_string(&mut target)
                .map_err(|error| broken(&error))?;
            link(into, &path, Path::new(&target))?;
        } else {
            budget.write(&mut entry, into, &path, mode)?;
        }
    }
    Ok(())
}

/// Where a zip begins in its file: not at zero if a program stands before it. Refuses what its end announces if that is
/// too much. Several records may look like the end, and which of them is taken is the library's matter, so all must pass.
fn beginning(reader: &mut (impl Read + Seek)) -> Result<u64, ArchiveError> {
    let length = reader
        .seek(SeekFrom::End(0))
        .map_err(|error| broken(&error))?;
    let start = length.saturating_sub(ZIP_TAIL_BYTES);
    let tail = read_at(reader, start, ZIP_TAIL_BYTES)?;
    let mut beginning = None;
    let mut located = Vec::new();
    for (at, end) in tail.windows(ZIP_END_BYTES).enumerate().rev() {
        if !end.starts_with(ZIP_END) {
            continue;
        }
        let place = start + at as u64;
        let (entries, size, offset) = (&end[10..12], &end[12..16], &end[16..20]);
        let large = [entries, size, offset]
            .iter()
            .any(|field| field.iter().all(|byte| *byte == u8::MAX));
        let locator = at
            .checked_sub(ZIP64_LOCATOR_BYTES)
            .map(|from| &tail[from..at])
            .filter(|locator| large && locator.starts_with(ZIP64_LOCATOR));
        // A record's place by what lies behind it, and by its distance from the beginning, which differ by where that is.
        let (record, behind, offset) = match locator {
            Some(locator) => {
                let locator_place = place - ZIP64_LOCATOR_BYTES as u64;
                let offset = number(&locator[8..16]);
                located.push((locator_place, offset));
                (
                    ZIP64_END,
                    locator_place.checked_sub(ZIP64_END_BYTES),
                    offset,
                )
            }
            None => {
                if !large {
                    announced(number(entries), number(size))?;
                }
                (ZIP_ENTRY, place.checked_sub(number(size)), number(offset))
            }
        };
        let Some(behind) = behind.filter(|behind| beginning.is_none() && *behind >= offset) else {
            continue;
        };
        if read_at(reader, behind, record.len() as u64)? == record {
            beginning = Some(behind - offset);
        }
    }
    let beginning = beginning.unwrap_or(0);
    for (locator_place, offset) in located {
        let place = offset.saturating_add(beginning).min(locator_place);
        let end = read_at(reader, place, ZIP64_END_BYTES)?;
        if end.starts_with(ZIP64_END) && end.len() as u64 == ZIP64_END_BYTES {
            announced(number(&end[32..40]), number(&end[40..48]))?;
            // The record's own length, for what may follow its fixed part is held too.
            announced(0, number(&end[4..12]))?;
        }
    }
    Ok(beginning)
}

fn announced(entries: u64, directory_bytes: u64) -> Result<(), ArchiveError> {
    if entries > MAX_ENTRIES {
        return Err(ArchiveError::TooMany { limit: MAX_ENTRIES });
    }
    if directory_bytes > MAX_DIRECTORY_BYTES {
        return Err(ArchiveError::LongDirectory {
            limit: MAX_DIRECTORY_BYTES,
        });
    }
    Ok(())
}

/// The bytes at a place, fewer where the file ends.
fn read_at(
    reader: &mut (impl Read + Seek),
    place: u64,
    count: u64,
) -> Result<Vec<u8>, ArchiveError> {
    let mut bytes = Vec::new();
    reader
        .seek(SeekFrom::Start(place))
        .map_err(|error| broken(&error))?;
    reader
        .by_ref()
        .take(count)
        .read_to_end(&mut bytes)
        .map_err(|error| broken(&error))?;
    Ok(bytes)
}

/// A number whose lowest byte comes first.
fn number(field: &[u8]) -> u64 {
    field
        .iter()
        .rev()
        .fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

fn entry_path(name: &Path) -> Result<PathBuf, ArchiveError> {
    let entry = || name.display().to_string();
    let path = inside(name).map_err(|_| ArchiveError::Outside { entry: entry() })?;
    if is_output(&path) {
        return Err(ArchiveError::Reserved { entry: entry() });
    }
    Ok(path)
}

/// Makes a symbolic link if, followed from where it stands, it never leaves the sandbox.
fn link(into: &Directory, path: &Path, target: &Path) -> Result<(), ArchiveError> {
    let escapes = || ArchiveError::LinkOutside {
        entry: path.display().to_string(),
        target: target.display().to_string(),
    };
    // The link's own directory is what its name says, or it is not made.
    let mut at = path.parent().unwrap_or(Path::new("")).to_path_buf();
    let mut descended = false;
    for component in target.components() {
        match component {
            Component::Normal(part) => {
                at.push(part);
                descended = true;
            }
            Component::CurDir => {}
            Component::ParentDir => {
                // Above a link lies what is above its target. A directory that is there stays one; what is not there
                // yet may become a link.
                if (descended && !into.has_directory(&at)) || !at.pop() {
                    return Err(escapes());
                }
            }
            Component::RootDir | Component::Prefix(_) => return Err(escapes()),
        }
    }
    into.create_symlink(target, path)
        .map_err(|error| of_entry(path, &error))
}

fn broken(error: &io::Error) -> ArchiveError {
    let xz = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<liblzma::stream::Error>());
    if xz == Some(&liblzma::stream::Error::MemLimit) {
        ArchiveError::Memory {
            limit: MAX_XZ_MEMORY,
        }
    } else if error.kind() == io::ErrorKind::StorageFull {
        ArchiveError::DiskFull
    } else {
        ArchiveError::Broken(error.to_string())
    }
}

fn of_entry(entry: &Path, error: &io::Error) -> ArchiveError {
    let name = || entry.display().to_string();
    if error.raw_os_error() == Some(libc::ELOOP) {
        return ArchiveError::BehindLink { entry: name() };
    }
    match error.kind() {
        io::ErrorKind::StorageFull => ArchiveError::DiskFull,
        io::ErrorKind::PermissionDenied => ArchiveError::Outside { entry: name() },
        _ => ArchiveError::Entry {
            entry: name(),
            cause: error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        outer: tempfile::TempDir,
        directory: Directory,
    }

    fn bench() -> Bench {
        let outer = tempfile::tempdir().unwrap();
        std::fs::create_dir(outer.path().join("sandbox")).unwrap();
        let directory = Directory::open(&outer.path().join("sandbox")).unwrap();
        Bench { outer, directory }
    }

    impl Bench {
        fn extract(&self, name: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
            let path = self.outer.path().join("archive");
            std::fs::write(&path, bytes).unwrap();
            Archive::of_name(name)
                .expect("an archive's name")
                .extract(&path, name, &self.directory)
        }

        fn read(&self, name: &str) -> String {
            std::fs::read_to_string(self.outer.path().join("sandbox").join(name)).unwrap()
        }
    }

    fn small_tar() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        append(
            &mut builder,
            "bin/tool",
            tar::EntryType::Regular,
            "",
            b"#!/bin/sh\n",
            0o4755,
        );
        append(
            &mut builder,
            "bin/link",
            tar::EntryType::Symlink,
            "../bin/tool",
            b"",
            0o777,
        );
        append(
            &mut builder,
            "hard",
            tar::EntryType::Link,
            "bin/tool",
            b"",
            0o644,
        );
        builder.into_inner().unwrap()
    }

    /// Writes a header by hand: the builder itself refuses the names that a hostile archive has.
    fn append(
        builder: &mut tar::Builder<Vec<u8>>,
        name: &str,
        kind: tar::EntryType,
        target: &str,
        body: &[u8],
        mode: u32,
    ) {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_size(body.len() as u64);
        header.set_mode(mode);
        header.set_cksum();
        builder.append(&header, body).unwrap();
    }

    fn one(name: &str, kind: tar::EntryType, target: &str) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        append(&mut builder, name, kind, target, b"", 0o644);
        builder.into_inner().unwrap()
    }

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_kind_of_tar_is_unpacked_with_modes_and_links() {
        use std::os::unix::fs::PermissionsExt;
        let tar = small_tar();
        let mut bz2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bz2.write_all(&tar).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&tar).unwrap();
        let cases = [
            ("a.tar", tar.clone()),
            ("a.tgz", gz(&tar)),
            ("a.tar.gz", gz(&tar)),
            ("a.tar.bz2", bz2.finish().unwrap()),
            ("a.TXZ", xz.finish().unwrap()),
        ];
        for (name, bytes) in cases {
            let bench = bench();
            bench.extract(name, &bytes).unwrap();
            assert_eq!(bench.read("bin/link"), "#!/bin/sh\n", "{name}");
            assert_eq!(bench.read("hard"), "#!/bin/sh\n", "{name}");
            let mode = bench
                .outer
                .path()
                .join("sandbox/bin/tool")
                .metadata()
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o7777, 0o755, "set-user-id must not survive: {name}");
        }
    }

    #[test]
    fn gunzip_drops_the_ending() {
        let bench = bench();
        bench.extract("data/words.txt.gz", &gz(b"words")).unwrap();
        assert_eq!(bench.read("data/words.txt"), "words");
        assert_eq!(Archive::of_name(".gz"), None);
        assert_eq!(Archive::of_name("plain.txt"), None);
        assert_eq!(Archive::of_name("a.zip?token=1"), Some(Archive::Zip));
    }

    #[test]
    fn zip_files_are_unpacked() {
        let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default().unix_permissions(0o755);
        writer.add_directory("d", options).unwrap();
        writer.start_file("d/run.sh", options).unwrap();
        writer.write_all(b"echo").unwrap();
        let bytes = writer.finish().unwrap().into_inner();
        let bench = bench();
        bench.extract("x.zip", &bytes).unwrap();
        assert_eq!(bench.read("d/run.sh"), "echo");
    }

    #[test]
    fn entries_and_links_that_leave_the_sandbox_are_refused() {
        use tar::EntryType;
        for (name, kind, target) in [
            ("../planted", EntryType::Regular, ""),
            ("/planted", EntryType::Regular, ""),
            ("a/../../planted", EntryType::Regular, ""),
            ("link", EntryType::Symlink, "/etc/passwd"),
            ("link", EntryType::Symlink, "../planted"),
            ("a/link", EntryType::Symlink, "../../planted"),
            ("hard", EntryType::Link, "../archive"),
            ("node", EntryType::Char, ""),
            ("pipe", EntryType::Fifo, ""),
        ] {
            let bench = bench();
            let error = bench
                .extract("hostile.tar", &one(name, kind, target))
                .unwrap_err();
            assert!(
                matches!(
                    error,
                    ArchiveError::Outside { .. }
                        | ArchiveError::LinkOutside { .. }
                        | ArchiveError::Special { .. }
                ),
                "{name}: {error}"
            );
            assert!(!bench.outer.path().join("planted").exists());
        }
    }

    #[test]
    fn a_file_is_not_written_through_a_link_that_was_there_before() {
        let bench = bench();
        std::os::unix::fs::symlink("..", bench.outer.path().join("sandbox/up")).unwrap();
        let error = bench
            .extract(
                "hostile.tar",
                &one("up/planted", tar::EntryType::Regular, ""),
            )
            .unwrap_err();
        assert!(matches!(error, ArchiveError::BehindLink { .. }), "{error}");
        assert!(!bench.outer.path().join("planted").exists());
    }

    #[test]
    fn no_entry_lies_behind_a_link_of_the_archive() {
        use tar::EntryType;
        for (name, kind, target) in [
            (
                "a/b/c/l/stdout",
                EntryType::Symlink,
                "../../../../etc/passwd",
            ),
            ("a/b/c/l/stdout", EntryType::Regular, ""),
            ("a/b/c/l/stdout", EntryType::Link, "file"),
            ("a/b/c/l/stdout", EntryType::Directory, ""),
            ("a/b/c/l", EntryType::Directory, ""),
        ] {
            let mut builder = tar::Builder::new(Vec::new());
            append(&mut builder, "file", EntryType::Regular, "", b"", 0o644);
            append(&mut builder, "a/b/c", EntryType::Directory, "", b"", 0o755);
            let link = EntryType::Symlink;
            append(&mut builder, "a/b/c/l", link, "../../..", b"", 0o777);
            append(&mut builder, name, kind, target, b"", 0o644);
            let bench = bench();
            let error = bench
                .extract("hostile.tar", &builder.into_inner().unwrap())
                .unwrap_err();
            assert!(
                matches!(&error, ArchiveError::BehindLink { entry } if entry == name),
                "{name}: {error}"
            );
            let planted = bench.outer.path().join("sandbox/stdout");
            assert!(planted.symlink_metadata().is_err(), "{name}");
        }
    }

    #[test]
    fn a_link_climbs_out_of_real_directories_only() {
        use tar::EntryType;
        for (target, allowed) in [
            ("a/b/../b/./file", true),
            ("a/up/../../planted", false),
            ("a/up/../planted", false),
            ("missing/../planted", false),
            ("a/b/../../../planted", false),
        ] {
            let mut builder = tar::Builder::new(Vec::new());
            append(&mut builder, "a/b", EntryType::Directory, "", b"", 0o755);
            append(&mut builder, "a/up", EntryType::Symlink, "..", b"", 0o777);
            append(&mut builder, "link", EntryType::Symlink, target, b"", 0o777);
            let result = bench().extract("a.tar", &builder.into_inner().unwrap());
            match result {
                Ok(()) => assert!(allowed, "{target}"),
                Err(ArchiveError::LinkOutside { .. }) => assert!(!allowed, "{target}"),
                Err(error) => panic!("{target}: {error}"),
            }
        }
    }

    #[test]
    fn what_describes_a_tar_entry_is_bounded() {
        use tar::EntryType;
        let long = vec![0; 2 << 20];
        for kind in [
            EntryType::GNULongName,
            EntryType::GNULongLink,
            EntryType::XHeader,
            EntryType::XGlobalHeader,
        ] {
            let mut builder = tar::Builder::new(Vec::new());
            append(&mut builder, "first", EntryType::Regular, "", b"1", 0o644);
            append(&mut builder, "head", kind, "", &long, 0o644);
            append(&mut builder, "second", EntryType::Regular, "", b"2", 0o644);
            let bench = bench();
            let error = bench
                .extract("a.tgz", &gz(&builder.into_inner().unwrap()))
                .unwrap_err();
            assert!(
                matches!(error, ArchiveError::Head { number: 2, .. }),
                "{kind:?}: {error}"
            );
            assert_eq!(bench.read("first"), "1");
        }
    }

    #[test]
    fn long_names_and_bodies_are_no_long_heads() {
        let mut builder = tar::Builder::new(Vec::new());
        let name = format!("d/{}", "n".repeat(200));
        let mut header = tar::Header::new_gnu();
        header.set_size(3 << 20);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, &name, &vec![b'x'; 3 << 20][..])
            .unwrap();
        // A directory's body is nothing that anybody unpacks.
        let body = vec![0; 2 << 20];
        let kind = tar::EntryType::Directory;
        append(&mut builder, "e", kind, "", &body, 0o755);
        let kind = tar::EntryType::Regular;
        append(&mut builder, "last", kind, "", b"last", 0o644);
        let bench = bench();
        bench
            .extract("a.tar", &builder.into_inner().unwrap())
            .unwrap();
        assert_eq!(bench.read(&name).len(), 3 << 20);
        assert_eq!(bench.read("last"), "last");
    }

    #[test]
    fn xz_that_wants_much_memory_is_refused() {
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&small_tar()).unwrap();
        let mut bytes = xz.finish().unwrap();
        // The first block's header: its length, flags, the filter and its one property, which is the dictionary's size.
        assert_eq!(bytes[12..16], [2, 0, 0x21, 1]);
        bytes[16] = 36;
        let mut sum = flate2::Crc::new();
        sum.update(&bytes[12..20]);
        bytes[20..24].copy_from_slice(&sum.sum().to_le_bytes());
        let error = bench().extract("a.tar.xz", &bytes).unwrap_err();
        assert!(matches!(error, ArchiveError::Memory { .. }), "{error}");
    }

    fn small_zip() -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        writer
            .start_file("file", zip::write::SimpleFileOptions::default())
            .unwrap();
        writer.write_all(b"text").unwrap();
        writer.finish().unwrap().into_inner()
    }

    /// The end of a large zip, which announces a directory that is not there.
    fn zip64_end(entries: u64, directory_bytes: u64) -> Vec<u8> {
        [
            ZIP64_END,
            &44_u64.to_le_bytes(),
            &[45, 0, 45, 0],
            &[0; 8],
            &entries.to_le_bytes(),
            &entries.to_le_bytes(),
            &directory_bytes.to_le_bytes(),
            &[0; 8],
            ZIP64_LOCATOR,
            &[0; 12],
            &1_u32.to_le_bytes(),
            ZIP_END,
            &[0; 4],
            &[u8::MAX; 12],
            &[0; 2],
        ]
        .concat()
    }

    #[test]
    fn a_zip_that_announces_too_much_is_refused_unread() {
        let many = bench().extract("x.zip", &zip64_end(MAX_ENTRIES + 1, 1 << 20));
        assert!(matches!(many, Err(ArchiveError::TooMany { .. })));
        let long = bench().extract("x.zip", &zip64_end(1, MAX_DIRECTORY_BYTES + 1));
        assert!(matches!(long, Err(ArchiveError::LongDirectory { .. })));
        // Behind something else, too.
        let shifted = [b"#!/bin/sh\n".to_vec(), zip64_end(MAX_ENTRIES + 1, 0)].concat();
        let shifted = bench().extract("x.zip", &shifted);
        assert!(matches!(shifted, Err(ArchiveError::TooMany { .. })));
        let decoy = [zip64_end(MAX_ENTRIES + 1, 0), small_zip()].concat();
        let behind = bench();
        behind.extract("x.zip", &decoy).unwrap();
        assert_eq!(
            behind.read("file"),
            "text",
            "the last end is the one that counts"
        );

        let mut bytes = small_zip();
        let end = bytes.len() - ZIP_END_BYTES;
        bytes[end + 12..end + 16].copy_from_slice(&(512_u32 << 20).to_le_bytes());
        let long = bench().extract("x.zip", &bytes);
        assert!(matches!(long, Err(ArchiveError::LongDirectory { .. })));
    }

    #[test]
    fn a_zip_may_stand_behind_a_program() {
        for before in ["", "#!/bin/sh\nexit\n"] {
            let bench = bench();
            let bytes = [before.as_bytes(), &small_zip()].concat();
            bench.extract("x.zip", &bytes).unwrap();
            assert_eq!(bench.read("file"), "text");
        }
    }

    #[test]
    fn no_more_is_read_than_is_left() {
        let left = Cell::new(5);
        let mut metered = Metered {
            inner: &b"0123456789"[..],
            left: &left,
        };
        let mut bytes = [0; 8];
        assert!(metered.read_exact(&mut bytes).is_err());
        assert_eq!((&bytes[..5], left.get()), (&b"01234"[..], 0));
    }

    #[test]
    fn a_zip_that_climbs_out_is_refused() {
        let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        writer
            .start_file("../../planted", zip::write::SimpleFileOptions::default())
            .unwrap();
        let bytes = writer.finish().unwrap().into_inner();
        let bench = bench();
        assert!(matches!(
            bench.extract("x.zip", &bytes),
            Err(ArchiveError::Outside { .. })
        ));
    }

    #[test]
    fn a_cut_archive_is_an_error() {
        let whole = gz(&small_tar());
        let bench = bench();
        assert!(matches!(
            bench.extract("a.tgz", &whole[..whole.len() / 2]),
            Err(ArchiveError::Broken(_))
        ));
        assert!(matches!(
            bench.extract("a.zip", b"no zip at all"),
            Err(ArchiveError::Broken(_))
        ));
    }
}
