//! Unpacks what a task fetched. Archives are strangers' bytes: an entry that would land outside the sandbox, a link
//! that points outside, a device node or an endless expansion ends the unpacking with a sentence that names the entry.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::{Component, Path, PathBuf};

use crate::confine::{Directory, inside};
use crate::sandbox::is_output;

/// What one archive may expand to: beyond this it is taken for a bomb.
pub(crate) const MAX_EXTRACTED_BYTES: u64 = 16 << 30;
/// How many entries one archive may have.
pub(crate) const MAX_ENTRIES: u64 = 1_000_000;
/// The longest target of a symbolic link that is read from a zip entry's body.
const MAX_LINK_BYTES: u64 = 4096;

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
        match self {
            Self::Tar => tar(reader, into),
            Self::TarGz => tar(flate2::bufread::MultiGzDecoder::new(reader), into),
            Self::TarBz2 => tar(bzip2::bufread::MultiBzDecoder::new(reader), into),
            Self::TarXz => tar(liblzma::bufread::XzDecoder::new_multi_decoder(reader), into),
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
            let count = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(&error)),
            };
            self.bytes = self
                .bytes
                .checked_sub(count as u64)
                .ok_or(ArchiveError::TooLarge {
                    limit: MAX_EXTRACTED_BYTES,
                })?;
            file.write_all(&buffer[..count])
                .map_err(|error| of_entry(path, &error))?;
        }
    }
}

fn tar(reader: impl Read, into: &Directory) -> Result<(), ArchiveError> {
    let mut archive = tar::Archive::new(reader);
    let mut budget = Budget::new();
    for entry in archive.entries().map_err(|error| broken(&error))? {
        let mut entry = entry.map_err(|error| broken(&error))?;
        budget.entry()?;
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
    }
    Ok(())
}

fn zip(reader: impl Read + Seek, into: &Directory) -> Result<(), ArchiveError> {
    let mut archive =
        zip::ZipArchive::new(reader).map_err(|error| ArchiveError::Broken(error.to_string()))?;
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
    let mut depth = path.components().count().saturating_sub(1);
    for component in target.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => depth = depth.checked_sub(1).ok_or_else(escapes)?,
            Component::RootDir | Component::Prefix(_) => return Err(escapes()),
        }
    }
    into.create_symlink(target, path)
        .map_err(|error| of_entry(path, &error))
}

fn broken(error: &io::Error) -> ArchiveError {
    if error.kind() == io::ErrorKind::StorageFull {
        ArchiveError::DiskFull
    } else {
        ArchiveError::Broken(error.to_string())
    }
}

fn of_entry(entry: &Path, error: &io::Error) -> ArchiveError {
    let name = || entry.display().to_string();
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
        assert!(matches!(error, ArchiveError::Outside { .. }), "{error}");
        assert!(!bench.outer.path().join("planted").exists());
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
