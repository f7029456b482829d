//! A task's or executor's own directory: where it lies, what is in it from the start, and which part of a path names it.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use tepui_wall::open_output;

use crate::confine::Directory;

/// The parts of a sandbox's path below the work directory, those at the odd places being ids:
/// `slaves/<agent>/frameworks/<framework>/executors/<executor>/runs/<container>`.
const LABELS: [&str; 4] = ["slaves", "frameworks", "executors", "runs"];
/// Where containers that belong to no executor have theirs: `containers/<id>`.
pub(crate) const STANDALONE: &str = "containers";
/// The newest run beside the runs.
const LATEST: &str = "latest";

/// Where a task's output goes, relative to its sandbox.
const OUTPUTS: [&str; 2] = ["stdout", "stderr"];

/// Whether the path, relative to a sandbox, is one of its output files.
pub(crate) fn is_output(path: &Path) -> bool {
    OUTPUTS.iter().any(|output| path == Path::new(output))
}

/// Adds a sentence to what the task said on stderr, for whoever looks there first. What cannot be written is not missed.
pub(crate) fn complain(sandbox: &Path, message: &str) {
    let file = open_output(&sandbox.join("stderr"));
    if let Err(error) = file.and_then(|mut file| writeln!(file, "{message}")) {
        tracing::debug!(sandbox = %sandbox.display(), %error, "stderr cannot be written");
    }
}

/// Makes the directory with its `stdout` and `stderr`, and points `latest` at it. Doing so again changes nothing.
pub(crate) fn create(work_dir: &Path, sandbox: &str) -> io::Result<PathBuf> {
    let path = work_dir.join(sandbox);
    std::fs::create_dir_all(&path)?;
    create_outputs(&path)?;
    if let (Some(runs), Some(container)) = (path.parent(), path.file_name()) {
        point_latest(runs, Path::new(container))?;
    }
    Ok(path)
}

/// Makes the sandbox of a task of a group inside that of the group's executor, where `tasks` has it under its id.
pub(crate) fn create_nested(
    work_dir: &Path,
    parent: &str,
    sandbox: &str,
    task: &str,
) -> io::Result<PathBuf> {
    let pod = create(work_dir, parent)?;
    let path = work_dir.join(sandbox);
    let inside = path.strip_prefix(&pod).map_err(io::Error::other)?;
    // Other tasks of the group may see the group's directory, and have put links into it.
    let within = Directory::open(&pod)?.without_links()?;
    let own = within.create_directories(inside)?;
    create_outputs(Path::new(&format!("/proc/self/fd/{}", own.as_raw_fd())))?;
    if let Some(container) = path.file_name() {
        let target = Path::new("../containers").join(container);
        within.create_symlink(&target, &Path::new("tasks").join(task))?;
    }
    Ok(path)
}

fn create_outputs(path: &Path) -> io::Result<()> {
    OUTPUTS
        .iter()
        .try_for_each(|name| open_output(&path.join(name)).map(drop))
}

fn point_latest(runs: &Path, container: &Path) -> io::Result<()> {
    let latest = runs.join(LATEST);
    match symlink(container, &latest) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other,
    }
    if std::fs::read_link(&latest).is_ok_and(|target| target == container) {
        return Ok(());
    }
    let new = runs.join(format!(".{LATEST}-{}", container.display()));
    symlink(container, &new)?;
    std::fs::rename(&new, &latest)
}

/// A path as clients name it, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Split {
    /// Made by the agent alone: no tenant can put a link there. Relative to the work directory.
    pub(crate) trusted: PathBuf,
    /// Inside the sandbox, if the path goes that far.
    pub(crate) inside: Option<PathBuf>,
}

/// Splits an absolute path below the work directory, the same path relative to it, or Mesos's virtual
/// `/frameworks/<framework>/executors/<executor>/runs/latest`. None for any other path.
pub(crate) fn split(work_dir: &Path, agent: Option<&str>, path: &str) -> Option<Split> {
    let path = Path::new(path);
    let relative = match path.strip_prefix(work_dir) {
        Ok(relative) => relative.to_path_buf(),
        Err(_) if path.starts_with("/frameworks") => Path::new("slaves")
            .join(agent?)
            .join(path.strip_prefix("/").ok()?),
        Err(_) => path.strip_prefix("/").unwrap_or(path).to_path_buf(),
    };
    let mut parts = Vec::new();
    for component in relative.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::CurDir => {}
            _ => return None,
        }
    }
    if parts.is_empty() {
        return None;
    }
    let labels = if parts[0] == STANDALONE {
        &[STANDALONE][..]
    } else {
        &LABELS
    };
    for (index, label) in labels.iter().enumerate() {
        if parts.get(index * 2).is_some_and(|part| part != label) {
            return None;
        }
    }
    let depth = labels.len() * 2;
    let inside = (parts.len() >= depth).then(|| parts.iter().skip(depth).collect());
    Some(Split {
        trusted: parts.iter().take(depth).collect(),
        inside,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_has_its_files_and_the_newest_one_is_latest() {
        let work_dir = tempfile::tempdir().unwrap();
        for container in ["c1", "c2", "c2"] {
            let path = create(
                work_dir.path(),
                &format!("slaves/s/frameworks/f/executors/t/runs/{container}"),
            )
            .unwrap();
            assert!(path.join("stdout").is_file() && path.join("stderr").is_file());
            let latest = path.parent().unwrap().join("latest");
            assert_eq!(std::fs::read_link(latest).unwrap(), Path::new(container));
        }
    }

    #[test]
    fn a_path_is_split_where_the_tenants_part_begins() {
        let work_dir = Path::new("/var/tepui");
        let trusted = PathBuf::from("slaves/s/frameworks/f/executors/t/runs/c");
        let whole = split(
            work_dir,
            Some("s"),
            "/var/tepui/slaves/s/frameworks/f/executors/t/runs/c/out/x",
        )
        .unwrap();
        assert_eq!(
            whole,
            Split {
                trusted: trusted.clone(),
                inside: Some("out/x".into())
            }
        );
        let root = split(work_dir, None, "slaves/s/frameworks/f/executors/t/runs/c").unwrap();
        assert_eq!(
            root,
            Split {
                trusted,
                inside: Some(PathBuf::new())
            }
        );
        let above = split(work_dir, None, "slaves/s/frameworks").unwrap();
        assert_eq!(
            above,
            Split {
                trusted: "slaves/s/frameworks".into(),
                inside: None
            }
        );
        let virtual_path = split(
            work_dir,
            Some("s"),
            "/frameworks/f/executors/t/runs/latest/stdout",
        )
        .unwrap();
        assert_eq!(
            virtual_path.trusted,
            Path::new("slaves/s/frameworks/f/executors/t/runs/latest")
        );
        for path in [
            "/etc/passwd",
            "meta/agent_id",
            "slaves/../meta",
            "",
            "/",
            "slaves/s/other/f",
        ] {
            assert_eq!(split(work_dir, Some("s"), path), None, "{path}");
        }
    }
}
