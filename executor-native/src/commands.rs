//! The commands of a task's checks: run as the task is, beside it and in its cgroup.

use std::path::Path;
use std::sync::Arc;

use nix::unistd::Pid;
use tepui_api::v1::{CommandInfo, TaskInfo};
use tepui_sdk_executor::{RunCommand, arguments_of, variables_of};
use tokio::sync::oneshot;

use crate::Shared;
use crate::group::Group;
use crate::process::{self, Exit, Reaper, Start, StartError};
use crate::task::rlimits_of;
use crate::verdict::Ending;

pub(crate) struct Commands {
    pub(crate) shared: Arc<Shared>,
    pub(crate) task: Arc<TaskInfo>,
    pub(crate) group: Option<Arc<Group>>,
}

impl RunCommand for Commands {
    async fn run(&self, command: &CommandInfo) -> Result<Option<i32>, String> {
        let (shared, task) = (Arc::clone(&self.shared), Arc::clone(&self.task));
        let (group, command) = (self.group.clone(), command.clone());
        let started =
            tokio::task::spawn_blocking(move || start(&shared, &task, group.as_deref(), &command));
        let (_leash, exit) = started
            .await
            .expect("starting does not panic")
            .map_err(|error| error.to_string())?;
        let exit = exit
            .await
            .map_err(|_| "how the command ended is not known".to_owned())?;
        Ok(match Ending::from_wait(exit.status) {
            Ending::Exited(status) => Some(status),
            Ending::Signalled(_) => None,
        })
    }
}

/// Ends a command that nobody waits for any more.
struct Leash {
    reaper: Arc<Reaper>,
    leader: Pid,
}

impl Drop for Leash {
    fn drop(&mut self) {
        self.reaper.kill(self.leader);
    }
}

/// Blocks.
fn start(
    shared: &Shared,
    task: &TaskInfo,
    group: Option<&Group>,
    command: &CommandInfo,
) -> Result<(Leash, oneshot::Receiver<Exit>), StartError> {
    let plan = task.plan.as_ref().ok_or(StartError::NoCommand)?;
    let arguments = arguments_of(command);
    let (leader, exit) = process::start(
        &shared.reaper,
        Start {
            program: arguments.first().map_or("", String::as_str),
            arguments: &arguments,
            environment: plan
                .environment
                .iter()
                .map(|set| (set.name.as_str(), set.value()))
                .chain(variables_of(command))
                .collect(),
            sandbox: Path::new(&plan.sandbox),
            mounts: &plan.mounts,
            rlimits: rlimits_of(task),
            user: plan.user.as_deref(),
            doors: group.map(Group::doors).unwrap_or_default(),
        },
    )?;
    let leash = Leash {
        reaper: Arc::clone(&shared.reaper),
        leader,
    };
    Ok((leash, exit))
}
