//! A second process that runs the commands of checks, forked off before the executor shuts itself in.
//!
//! The executor itself cannot start programs any more, and should a guest ever take it over it must not. Commands are
//! native and a tenant's own; they run behind the same wall, widened by the programs of the system, in a process that no
//! guest is ever in. Requests and answers are lines of JSON over a socket pair.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{ForkResult, Pid, User, fork};
use serde::{Deserialize, Serialize};
use tepui_wall::{Plan, open_output};

/// What the executor asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    /// To run a command to its end.
    Run {
        id: u64,
        arguments: Vec<String>,
        environment: Vec<(String, String)>,
        /// Where it runs and its output goes.
        sandbox: PathBuf,
        user: Option<String>,
    },
    /// To end one, with what it has started.
    Kill { id: u64 },
}

/// How a command ended: its exit status, nothing after a signal, or why it was not run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) id: u64,
    pub(crate) ended: Result<Option<i32>, String>,
}

/// Forks the runner off; the calling process must have one thread. It is behind `plan`, and ends with its parent.
pub(crate) fn start(plan: Option<&Plan>) -> anyhow::Result<UnixStream> {
    let (ours, its) = UnixStream::pair()?;
    // SAFETY: there is one thread, so the child's memory is in a state it can go on from.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => Ok(ours),
        ForkResult::Child => {
            drop(ours);
            let code = match shut_in(plan).and_then(|walled| serve(its, walled)) {
                Ok(()) => 0,
                Err(error) => {
                    tracing::error!(error = %format!("{error:#}"), "commands of checks cannot be run");
                    1
                }
            };
            std::process::exit(code)
        }
    }
}

fn shut_in(plan: Option<&Plan>) -> anyhow::Result<bool> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    nix::sys::prctl::set_name(c"checks")?;
    let Some(plan) = plan else { return Ok(false) };
    let plan = Plan {
        runs_programs: true,
        ..plan.clone()
    };
    plan.enter()?;
    // A change of user forgets it.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    Ok(plan.user.is_some())
}

/// The leaders of the groups that run, by the number of their request; `None` for one that has not begun. What is not here
/// is over.
type Leaders = Arc<Mutex<HashMap<u64, Option<Pid>>>>;

fn lock(leaders: &Leaders) -> MutexGuard<'_, HashMap<u64, Option<Pid>>> {
    leaders.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(stream: UnixStream, walled: bool) -> anyhow::Result<()> {
    let answers = Arc::new(Mutex::new(stream.try_clone()?));
    let leaders = Leaders::default();
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line?)? {
            Request::Kill { id } => {
                // A command that has not begun yet finds that it need not.
                if let Some(Some(leader)) = lock(&leaders).remove(&id) {
                    // It may have ended by itself just now.
                    let _ = killpg(leader, Signal::SIGKILL);
                }
            }
            Request::Run {
                id,
                arguments,
                environment,
                sandbox,
                user,
            } => {
                lock(&leaders).insert(id, None);
                let begun = (Arc::clone(&answers), Arc::clone(&leaders));
                let run = move || {
                    let (answers, leaders) = begun;
                    let ended = run(
                        id,
                        &arguments,
                        environment,
                        &sandbox,
                        user,
                        walled,
                        &leaders,
                    );
                    tell(&answers, id, ended);
                };
                let started = std::thread::Builder::new()
                    .name("check".to_owned())
                    .stack_size(256 << 10)
                    .spawn(run);
                // The system may give no thread now, and one to the next.
                if let Err(error) = started {
                    lock(&leaders).remove(&id);
                    tell(&answers, id, Err(error));
                }
            }
        }
    }
    Ok(())
}

/// The answer to a request.
fn tell(answers: &Mutex<UnixStream>, id: u64, ended: io::Result<Option<i32>>) {
    let answer = Answer {
        id,
        ended: ended.map_err(|error| format!("the check's command cannot be run: {error}")),
    };
    let line = serde_json::to_string(&answer).unwrap_or_default();
    let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
    // Nobody is left to hear it if this fails.
    let _ = writeln!(answers, "{line}");
}

fn run(
    id: u64,
    arguments: &[String],
    environment: Vec<(String, String)>,
    sandbox: &Path,
    user: Option<String>,
    walled: bool,
    leaders: &Leaders,
) -> io::Result<Option<i32>> {
    let (program, rest) = arguments
        .split_first()
        .ok_or_else(|| io::Error::other("the check has no command"))?;
    let mut command = Command::new(program);
    command
        .args(rest)
        .env_clear()
        .envs(environment)
        .current_dir(sandbox)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(open_output(&sandbox.join("stdout"))?)
        .stderr(open_output(&sandbox.join("stderr"))?);
    if let Some(name) = user {
        if walled {
            return Err(io::Error::other(format!(
                "it is to run as {name}, but checks of wasm tasks run as their executor's own user: leave the user out"
            )));
        }
        if nix::unistd::geteuid().is_root() {
            let user = User::from_name(&name)?.ok_or_else(|| {
                io::Error::other(format!("the user {name} does not exist on this agent"))
            })?;
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
    }
    let mut child = {
        let mut leaders = lock(leaders);
        if !leaders.contains_key(&id) {
            return Ok(None);
        }
        let child = command.spawn()?;
        let leader = i32::try_from(child.id()).map(Pid::from_raw);
        leaders.insert(id, leader.ok());
        child
    };
    let status = child.wait();
    lock(leaders).remove(&id);
    Ok(status?.code())
}

/// The executor's end, for its runtime.
pub(crate) fn connected(stream: UnixStream) -> io::Result<tokio::net::UnixStream> {
    stream.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(UnixStream::from(OwnedFd::from(stream)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(runner: &mut UnixStream, request: &Request) {
        writeln!(runner, "{}", serde_json::to_string(request).expect("JSON")).expect("sent");
    }

    fn request(id: u64, line: &str, sandbox: &Path) -> Request {
        Request::Run {
            id,
            arguments: ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
            environment: vec![("WORD".to_owned(), "4".to_owned())],
            sandbox: sandbox.to_owned(),
            user: None,
        }
    }

    #[test]
    fn commands_run_side_by_side_and_end_when_told_to() {
        let sandbox = tempfile::tempdir().expect("a directory");
        let (mut ours, its) = UnixStream::pair().expect("a pair");
        let served = std::thread::spawn(move || serve(its, false));
        ask(&mut ours, &request(1, "sleep 600 & wait", sandbox.path()));
        ask(
            &mut ours,
            &request(2, "echo said; exit $WORD", sandbox.path()),
        );
        let mut lines = BufReader::new(ours.try_clone().expect("a clone")).lines();
        let mut next = || -> Answer {
            let line = lines.next().expect("an answer").expect("a line");
            serde_json::from_str(&line).expect("an answer")
        };
        let second = next();
        assert_eq!((second.id, second.ended), (2, Ok(Some(4))));
        let said = std::fs::read_to_string(sandbox.path().join("stdout")).expect("output");
        assert_eq!(said, "said\n");
        ask(&mut ours, &Request::Kill { id: 1 });
        let first = next();
        assert_eq!((first.id, first.ended), (1, Ok(None)));
        // The guest has put something else in the place of its output.
        std::fs::remove_file(sandbox.path().join("stdout")).expect("removed");
        let elsewhere = sandbox.path().join("elsewhere");
        std::os::unix::fs::symlink(&elsewhere, sandbox.path().join("stdout")).expect("a link");
        ask(&mut ours, &request(3, "echo said", sandbox.path()));
        let third = next();
        assert!(
            third
                .ended
                .is_err_and(|error| error.contains("symbolic link"))
        );
        assert!(!elsewhere.exists());
        drop((ours, lines));
        served.join().expect("no panic").expect("no error");
    }
}
