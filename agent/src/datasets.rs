//! Data sets: directories and files of this machine that its operator lets tasks read.
//!
//! A task gets each that it asks for as a directory it can only read: a wasm task by opening that directory to it, a
//! native one by a mount of its own. What is one file is shown in a directory made for it.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use tepui_agent_core::DATASET_ATTRIBUTES;
use tepui_api::ext::holding::Kind;
use tepui_api::ext::{self, Holding, launch_plan};
use tepui_api::v1::{self, environment, value};
use tepui_model::{Role, RoleError};
use tokio::sync::mpsc::UnboundedSender;

use crate::confine::Directory;
use crate::persistent::{PersistentError, relative};
use crate::sandbox;

/// Where those that are files are shown, below the work directory.
const SHOWN: &str = "datasets";
const LONGEST_NAME: usize = 64;

/// A data set as an operator declares it: `NAME=/PATH`, `NAME=/PATH:ROLE,ROLE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredDataset {
    pub name: String,
    pub path: PathBuf,
    /// Who may read it, with the roles beneath; none: everybody.
    pub roles: Vec<Role>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeclarationError {
    #[error("'{0}' is not NAME=/PATH or NAME=/PATH:ROLE,ROLE")]
    Form(String),
    #[error(
        "'{0}' is not the name of a data set: up to 64 letters, digits, '-', '_' and '.', the first a letter or digit"
    )]
    Name(String),
    #[error("the path '{0}' must be absolute")]
    Path(String),
    #[error(
        "what follows the last ':' of '{text}' are roles: {error}; for a path with a ':', write ':*' behind it"
    )]
    Role { text: String, error: RoleError },
}

impl FromStr for DeclaredDataset {
    type Err = DeclarationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, rest) = text
            .split_once('=')
            .ok_or_else(|| DeclarationError::Form(text.to_owned()))?;
        if !is_name(name) {
            return Err(DeclarationError::Name(name.to_owned()));
        }
        let (path, roles) = rest.rsplit_once(':').unwrap_or((rest, "*"));
        if !path.starts_with('/') {
            return Err(DeclarationError::Path(path.to_owned()));
        }
        let roles = match roles {
            "*" => Vec::new(),
            roles => {
                let parsed = roles.split(',').map(Role::parse);
                let parsed: Result<Vec<Role>, _> = parsed.collect();
                parsed.map_err(|error| DeclarationError::Role {
                    text: text.to_owned(),
                    error,
                })?
            }
        };
        Ok(Self {
            name: name.to_owned(),
            path: PathBuf::from(path),
            roles,
        })
    }
}

impl std::fmt::Display for DeclaredDataset {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let roles = self.roles_text();
        write!(formatter, "{}={}:{roles}", self.name, self.path.display())
    }
}

impl DeclaredDataset {
    fn roles_text(&self) -> String {
        let roles: Vec<&str> = self.roles.iter().map(Role::as_str).collect();
        if roles.is_empty() {
            return "*".to_owned();
        }
        roles.join(",")
    }

    fn holding(&self, bytes: Option<u64>) -> Holding {
        let roles = self.roles.iter().map(|role| role.as_str().to_owned());
        Holding {
            kind: Kind::Dataset.into(),
            name: self.name.clone(),
            bytes,
            roles: roles.collect(),
        }
    }
}

/// Whether a data set can be called so.
pub fn is_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Why an agent cannot start with a data set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("--dataset {name}: {} cannot be used: {source}", .path.display())]
    Path {
        name: String,
        path: PathBuf,
        source: io::Error,
    },
    #[error("--dataset {name}: {} is neither a directory nor a file", .path.display())]
    Kind { name: String, path: PathBuf },
    #[error("--dataset: '{0}' is declared twice")]
    Twice(String),
}

/// Why a task does not get a data set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DatasetError {
    #[error("this agent has no data set '{name}'; it has {has}")]
    Unknown { name: String, has: String },
    #[error("the data set '{name}' is not for the role '{role}'; it is for {roles}")]
    Denied {
        name: String,
        role: String,
        roles: String,
    },
    #[error("the data set '{name}': {source}")]
    Place {
        name: String,
        source: PersistentError,
    },
    #[error("the data set '{name}' cannot be shown at '{path}': {cause}")]
    Make {
        name: String,
        path: String,
        cause: String,
    },
    #[error(
        "the data sets '{one}' and '{other}' are wanted at the same place or one inside the other"
    )]
    Overlap { one: String, other: String },
}

#[derive(Debug)]
struct Dataset {
    declared: DeclaredDataset,
    /// The directory that tasks see.
    shown: PathBuf,
    /// Known at once for a file.
    bytes: Option<u64>,
}

impl Dataset {
    fn is_for(&self, role: &str) -> bool {
        let roles = &self.declared.roles;
        roles.is_empty()
            || Role::parse(role).is_ok_and(|role| role.is_within(roles.iter().map(Role::as_str)))
    }
}

/// All that this agent has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Datasets {
    all: Arc<BTreeMap<String, Dataset>>,
}

impl Datasets {
    /// Looks at what was declared. A file on another file system than the work directory is copied. Blocks.
    pub(crate) fn open(work_dir: &Path, declared: &[DeclaredDataset]) -> Result<Self, OpenError> {
        let mut all = BTreeMap::new();
        for declared in declared {
            let name = declared.name.clone();
            let failed = |source| OpenError::Path {
                name: declared.name.clone(),
                path: declared.path.clone(),
                source,
            };
            let path = declared.path.canonicalize().map_err(failed)?;
            let metadata = path.metadata().map_err(failed)?;
            let (shown, bytes) = if metadata.is_dir() {
                std::fs::read_dir(&path).map_err(failed)?;
                (path, None)
            } else if metadata.is_file() {
                let shown = work_dir.join(SHOWN).join(&name);
                show_file(&path, &metadata, &shown).map_err(failed)?;
                (shown, Some(metadata.len()))
            } else {
                let path = declared.path.clone();
                return Err(OpenError::Kind { name, path });
            };
            let dataset = Dataset {
                declared: declared.clone(),
                shown,
                bytes,
            };
            if all.insert(name.clone(), dataset).is_some() {
                return Err(OpenError::Twice(name));
            }
        }
        Ok(Self { all: Arc::new(all) })
    }

    /// By which schedulers that know nothing of data sets can look for them: name, and who may read it.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = v1::Attribute> {
        self.all.values().map(|dataset| v1::Attribute {
            name: format!("{DATASET_ATTRIBUTES}{}", dataset.declared.name),
            r#type: value::Type::Text.into(),
            text: Some(value::Text {
                value: dataset.declared.roles_text(),
            }),
            ..Default::default()
        })
    }

    /// All there is.
    pub(crate) fn holdings(&self) -> Vec<Holding> {
        let all = self.all.values();
        all.map(|dataset| dataset.declared.holding(dataset.bytes))
            .collect()
    }

    /// Tells of the bytes of each once they are counted. Nobody listens any more when the agent stops.
    pub(crate) fn count(&self, holdings: &UnboundedSender<Holding>) {
        let (all, holdings) = (self.all.clone(), holdings.clone());
        tokio::task::spawn_blocking(move || {
            for dataset in all.values().filter(|dataset| dataset.bytes.is_none()) {
                let bytes = bytes_below(&dataset.shown);
                if holdings
                    .send(dataset.declared.holding(Some(bytes)))
                    .is_err()
                {
                    return;
                }
            }
        });
    }

    /// Makes the places for the data sets in the task's sandbox. Blocks.
    pub(crate) fn lay(
        &self,
        sandbox: &Path,
        asked: &[ext::Dataset],
        role: &str,
    ) -> Result<Vec<launch_plan::Mount>, DatasetError> {
        let mut mounts: Vec<launch_plan::Mount> = Vec::with_capacity(asked.len());
        for (at, wanted) in asked.iter().enumerate() {
            let dataset = self.find(&wanted.name, role)?;
            let place = place_of(wanted)?;
            for (before, other) in mounts.iter().zip(asked) {
                let before = Path::new(&before.container_path);
                if before.starts_with(&place) || place.starts_with(before) {
                    return Err(DatasetError::Overlap {
                        one: other.name.clone(),
                        other: asked[at].name.clone(),
                    });
                }
            }
            let made = Directory::open(sandbox)
                .and_then(|sandbox| sandbox.create_directories(&place).map(drop));
            made.map_err(|error| DatasetError::Make {
                name: wanted.name.clone(),
                path: place.display().to_string(),
                cause: error.to_string(),
            })?;
            mounts.push(launch_plan::Mount {
                host_path: dataset.shown.to_string_lossy().into_owned(),
                container_path: place.to_string_lossy().into_owned(),
                read_only: Some(true),
                shared: Some(true),
            });
        }
        Ok(mounts)
    }

    /// The directories that frameworks of these roles may read.
    pub(crate) fn readable_by(&self, roles: &[String]) -> impl Iterator<Item = PathBuf> {
        let readable = self
            .all
            .values()
            .filter(|dataset| roles.iter().any(|role| dataset.is_for(role)));
        readable.map(|dataset| dataset.shown.clone())
    }

    fn find(&self, name: &str, role: &str) -> Result<&Dataset, DatasetError> {
        let Some(dataset) = self.all.get(name) else {
            let names: Vec<&str> = self.all.keys().map(String::as_str).collect();
            return Err(DatasetError::Unknown {
                name: name.to_owned(),
                has: match names.as_slice() {
                    [] => "none".to_owned(),
                    names => names.join(", "),
                },
            });
        };
        if !dataset.is_for(role) {
            return Err(DatasetError::Denied {
                name: name.to_owned(),
                role: role.to_owned(),
                roles: dataset.declared.roles_text(),
            });
        }
        Ok(dataset)
    }
}

/// Where the task wants it, relative to its sandbox.
fn place_of(wanted: &ext::Dataset) -> Result<PathBuf, DatasetError> {
    let default = || format!("/data/{}", wanted.name);
    let path = wanted.path.clone().unwrap_or_else(default);
    // The sandbox is the root of what a task is told of paths, whatever its body.
    let place = relative(&path, launch_plan::Body::Wasm);
    let place = place.map_err(|source| DatasetError::Place {
        name: wanted.name.clone(),
        source,
    })?;
    if sandbox::is_output(&place) {
        return Err(DatasetError::Make {
            name: wanted.name.clone(),
            path,
            cause: "that is where its output goes".to_owned(),
        });
    }
    Ok(place)
}

/// By which a task finds a data set without knowing where it asked for it: `TEPUI_DATASET_NAME`.
pub(crate) fn variable(name: &str, place: String) -> environment::Variable {
    let letter = |letter: char| match letter.is_ascii_alphanumeric() {
        true => letter.to_ascii_uppercase(),
        false => '_',
    };
    let name: String = name.chars().map(letter).collect();
    environment::Variable {
        name: format!("TEPUI_DATASET_{name}"),
        value: Some(place),
        ..Default::default()
    }
}

/// Shows a file in a directory of its own: the same file by another name, or, from another file system, a copy.
fn show_file(path: &Path, metadata: &Metadata, shown: &Path) -> io::Result<()> {
    std::fs::create_dir_all(shown)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let target = shown.join(name);
    for entry in std::fs::read_dir(shown)? {
        let entry = entry?;
        let found = entry.metadata()?;
        let is_same = entry.file_name() == *name
            && found.len() == metadata.len()
            && found.modified()? == metadata.modified()?
            // A link is made anew: the path may lead to another file by now.
            && found.dev() != metadata.dev();
        if is_same {
            return Ok(());
        }
        std::fs::remove_file(entry.path())?;
    }
    if std::fs::hard_link(path, &target).is_ok() {
        return Ok(());
    }
    tracing::info!(path = %path.display(), "a data set on another file system is copied");
    let part = shown.join(".part");
    std::fs::copy(path, &part)?;
    std::fs::File::options()
        .append(true)
        .open(&part)
        .and_then(|copy| copy.set_modified(metadata.modified()?))?;
    std::fs::rename(part, target)
}

/// The bytes of all files below a directory; what links lead to is not counted, nor what cannot be looked at. Blocks.
fn bytes_below(directory: &Path) -> u64 {
    let mut bytes = 0;
    let mut open = vec![directory.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                open.push(entry.path());
            } else if metadata.is_file() {
                bytes += metadata.len();
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(text: &str) -> DeclaredDataset {
        text.parse().unwrap()
    }

    fn wanted(name: &str, path: Option<&str>) -> ext::Dataset {
        ext::Dataset {
            name: name.to_owned(),
            path: path.map(str::to_owned),
        }
    }

    #[test]
    fn a_declaration_is_a_name_a_path_and_maybe_roles() {
        let plain = declared("genome=/srv/genome");
        assert_eq!((plain.name.as_str(), plain.roles.len()), ("genome", 0));
        let some = declared("g.2-a_b=/srv/a=b:eng/web,ops");
        assert_eq!(some.path, Path::new("/srv/a=b"));
        assert_eq!(some.roles_text(), "eng/web,ops");
        assert_eq!(declared("x=/a:b:*").path, Path::new("/a:b"));
        assert_eq!(declared(&some.to_string()), some);
        for text in [
            "genome",
            "=/x",
            "-x=/x",
            "a/b=/x",
            "x=relative",
            "x=",
            "x=/a:",
            "x=/a:b//c",
            "ü=/x",
        ] {
            assert!(text.parse::<DeclaredDataset>().is_err(), "{text}");
        }
        let long = format!("{}=/x", "x".repeat(65));
        assert!(long.parse::<DeclaredDataset>().is_err());
    }

    #[test]
    fn what_is_declared_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        let open = |texts: &[String]| {
            let declared: Vec<_> = texts.iter().map(|text| declared(text)).collect();
            Datasets::open(folder.path(), &declared)
        };
        let missing = open(&[format!("x={path}/missing")]).unwrap_err();
        assert!(missing.to_string().contains("cannot be used"), "{missing}");
        let device = open(&["x=/dev/null".to_owned()]).unwrap_err();
        assert!(device.to_string().contains("neither"), "{device}");
        let twice = open(&[format!("x={path}"), format!("x={path}")]).unwrap_err();
        assert!(twice.to_string().contains("twice"), "{twice}");
    }

    #[tokio::test]
    async fn bytes_are_counted_and_told_with_name_and_roles() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        std::fs::create_dir_all(tree.join("deep")).unwrap();
        std::fs::write(tree.join("one"), "12345").unwrap();
        std::fs::write(tree.join("deep/two"), "678").unwrap();
        std::os::unix::fs::symlink("/usr", tree.join("link")).unwrap();
        let sets = [
            declared(&format!("tree={}:eng", tree.display())),
            declared(&format!("one={}", tree.join("one").display())),
        ];
        let datasets = Datasets::open(&folder.path().join("work"), &sets).unwrap();
        let attributes: Vec<_> = datasets
            .attributes()
            .map(|one| format!("{}:{}", one.name, one.text.unwrap().value))
            .collect();
        assert_eq!(
            attributes,
            ["tepui.dataset.one:*", "tepui.dataset.tree:eng"]
        );
        let expected = [sets[1].holding(Some(5)), sets[0].holding(None)];
        assert_eq!(datasets.holdings(), expected);
        let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
        datasets.count(&sender);
        assert_eq!(told.recv().await, Some(sets[0].holding(Some(8))));
    }

    #[test]
    fn a_file_is_shown_in_a_directory_of_its_own_as_it_is_when_the_agent_starts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("table.csv");
        let sets = [declared(&format!("t={}", file.display()))];
        let work = folder.path().join("work");
        for content in ["first", "second"] {
            std::fs::remove_file(&file).ok();
            std::fs::write(&file, content).unwrap();
            Datasets::open(&work, &sets).unwrap();
            let shown = work.join("datasets/t/table.csv");
            assert_eq!(std::fs::read_to_string(&shown).unwrap(), content);
            assert_eq!(
                shown.metadata().unwrap().ino(),
                file.metadata().unwrap().ino()
            );
        }
    }

    #[test]
    fn a_file_of_another_file_system_is_copied_once() {
        let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else {
            println!("skipped: there is no /dev/shm");
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        if elsewhere.path().metadata().unwrap().dev() == folder.path().metadata().unwrap().dev() {
            println!("skipped: /dev/shm is no other file system");
            return;
        }
        let file = elsewhere.path().join("f");
        std::fs::write(&file, "content").unwrap();
        let sets = [declared(&format!("f={}", file.display()))];
        let inode = || {
            Datasets::open(folder.path(), &sets).unwrap();
            let shown = folder.path().join("datasets/f/f");
            assert_eq!(
                std::fs::read(&shown).unwrap(),
                std::fs::read(&file).unwrap()
            );
            shown.metadata().unwrap().ino()
        };
        let first = inode();
        assert_eq!(inode(), first);
        std::fs::write(&file, "changed!").unwrap();
        inode();
    }

    #[test]
    fn data_sets_are_laid_where_they_are_wanted_and_for_whom_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, sandbox) = (folder.path().join("tree"), folder.path().join("sandbox"));
        std::fs::create_dir(&tree).unwrap();
        std::fs::create_dir(&sandbox).unwrap();
        let sets = [
            declared(&format!("open={}", tree.display())),
            declared(&format!("eng={}:eng", tree.display())),
        ];
        let datasets = Datasets::open(folder.path(), &sets).unwrap();
        let lay = |asked: &[ext::Dataset], role: &str| {
            let mounts = datasets.lay(&sandbox, asked, role);
            mounts.map_err(|error| error.to_string())
        };
        let mounts = lay(
            &[wanted("open", None), wanted("eng", Some("/in"))],
            "eng/web",
        )
        .unwrap();
        let paths: Vec<_> = mounts
            .iter()
            .map(|one| one.container_path.as_str())
            .collect();
        assert_eq!(paths, ["data/open", "in"]);
        assert!(mounts.iter().all(|one| one.read_only()));
        assert!(sandbox.join("data/open").is_dir());
        let refused = [
            (
                vec![wanted("eng", None)],
                "engine",
                "not for the role 'engine'",
            ),
            (vec![wanted("none", None)], "eng", "it has eng, open"),
            (
                vec![wanted("open", Some("../x"))],
                "eng",
                "out of the sandbox",
            ),
            (vec![wanted("open", Some("/"))], "eng", "out of the sandbox"),
            (vec![wanted("open", Some("stdout"))], "eng", "output"),
            (
                vec![wanted("open", Some("a")), wanted("eng", Some("/a/b"))],
                "eng",
                "inside the other",
            ),
        ];
        for (asked, role, expected) in refused {
            let error = lay(&asked, role).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        // A link that an archive put there leads nowhere.
        std::os::unix::fs::symlink("/", sandbox.join("up")).unwrap();
        let error = lay(&[wanted("open", Some("up/x"))], "eng").unwrap_err();
        assert!(error.contains("cannot be shown"), "{error}");
    }
}
