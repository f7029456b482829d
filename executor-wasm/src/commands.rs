//! The commands of a task's checks. They are native: processes beside this one, in the task's sandbox and with its
//! environment, and what they use is the executor's.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::process::Stdio;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, User, geteuid};
use tepui_api::v1::{CommandInfo, TaskInfo};
use tepui_sdk_executor::{RunCommand, arguments_of, variables_of};
use tokio::process::{Child, Command};

/// Where programs are found; a wasm task has no PATH of its own unless it asks for one.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(crate) struct Commands {
    sandbox: PathBuf,
    environment: Vec<(String, String)>,
    user: Option<String>,
}

impl Commands {
    pub(crate) fn of(task: &TaskInfo) -> Self {
        let plan = task.plan.as_ref();
        let set = plan.map(|plan| plan.environment.as_slice());
        let set = set.unwrap_or_default().iter();
        let user = task
            .command
            .as_ref()
            .and_then(|command| command.user.clone());
        Self {
            sandbox: plan
                .map(|plan| PathBuf::from(&plan.sandbox))
                .unwrap_or_default(),
            environment: [("PATH".to_owned(), PATH.to_owned())]
                .into_iter()
                .chain(set.map(|set| (set.name.clone(), set.value().to_owned())))
                .collect(),
            user: user.filter(|user| !user.is_empty()),
        }
    }

    fn spawn(&self, command: &CommandInfo) -> io::Result<Leash> {
        let arguments = arguments_of(command);
        let (program, rest) = arguments
            .split_first()
            .ok_or_else(|| io::Error::other("the check has no command"))?;
        let mut child = Command::new(program);
        child
            .args(rest)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .envs(variables_of(command))
            .current_dir(&self.sandbox)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(self.output("stdout")?)
            .stderr(self.output("stderr")?);
        if let Some(name) = self.user.as_ref().filter(|_| geteuid().is_root()) {
            let user = User::from_name(name)?.ok_or_else(|| {
                io::Error::other(format!("the user {name} does not exist on this agent"))
            })?;
            child.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        child.spawn().map(Leash)
    }

    fn output(&self, name: &str) -> io::Result<File> {
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.sandbox.join(name))
    }
}

impl RunCommand for Commands {
    async fn run(&self, command: &CommandInfo) -> Result<Option<i32>, String> {
        let mut leash = self
            .spawn(command)
            .map_err(|error| format!("the check's command cannot be run: {error}"))?;
        let status = leash.0.wait().await.map_err(|error| error.to_string())?;
        Ok(status.code())
    }
}

/// Ends a command, and what it has started, when nobody waits for it any more.
struct Leash(Child);

impl Drop for Leash {
    fn drop(&mut self) {
        // None once it was waited for: then its number may be somebody else's.
        let leader = self.0.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(leader) = leader {
            // It may have ended by itself just now.
            let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
        }
    }
}
