//! One task from LAUNCH to its last status.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tepui_api::body_told;
use tepui_api::ext::{LaunchPlan, TaskUsage, launch_plan};
use tepui_api::v1::task_status::Reason;
use tepui_api::v1::{KillPolicy, RLimitInfo, TaskInfo, TaskState, TaskStatus};
use tepui_sdk_executor::{Checks, Condition, News};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::Shared;
use crate::amounts::Limits;
use crate::commands::Commands;
use crate::group::{Group, GroupError, Usage};
use crate::process::{self, Exit, Start, StartError};
use crate::verdict::{self, Ending, Intervention, Memory};

/// What a task gets between SIGTERM and SIGKILL if nobody says otherwise. Mesos's default.
const GRACE: Duration = Duration::from_secs(3);

/// What others want of a running task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    /// Its framework has it killed.
    Kill {
        /// Overrides the task's own.
        grace: Option<Duration>,
    },
    /// The executor ends; the task has at most this long.
    End { grace: Duration },
    /// An operator sends its main process this, whatever it makes of it.
    Signal(i32),
}

/// The grace a kill policy names.
pub(crate) fn grace_of(policy: Option<&KillPolicy>) -> Option<Duration> {
    let grace = policy?.grace_period.as_ref()?;
    Some(duration(grace.nanoseconds))
}

fn duration(nanoseconds: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
}

/// A task whose process runs.
struct Running {
    pid: Pid,
    exit: oneshot::Receiver<Exit>,
    /// `None`: its limits are not enforced.
    group: Option<Arc<Group>>,
    began: Instant,
}

/// A task that has ended, of which the last is yet to be said.
pub(crate) struct Ended {
    pub(crate) task: Arc<TaskInfo>,
    /// The last status.
    pub(crate) status: TaskStatus,
    /// To be removed; nothing is in it any more.
    pub(crate) group: Option<Arc<Group>>,
}

/// Runs a task to its end, and reports everything but that.
pub(crate) async fn run(
    shared: &Arc<Shared>,
    task: TaskInfo,
    mut control: mpsc::UnboundedReceiver<Control>,
) -> Ended {
    let task = Arc::new(task);
    let mut condition = Condition::of(&task);
    let with = |condition: &Condition, mut status: TaskStatus| {
        condition.add_to(&mut status);
        status
    };
    report(
        shared,
        &task,
        with(&condition, state(TaskState::TaskStarting)),
    );
    let limits = Limits::of(&task);
    let started = tokio::task::spawn_blocking({
        let (shared, task) = (Arc::clone(shared), Arc::clone(&task));
        move || start(&shared, &task, &limits)
    });
    let mut running = match started.await.expect("starting does not panic") {
        Ok(running) => running,
        Err(error) => {
            let failed = state(TaskState::TaskFailed)
                .with_reason(Reason::ContainerLaunchFailed)
                .with_message(error.to_string());
            return Ended {
                task,
                status: with(&condition, failed),
                group: None,
            };
        }
    };
    let mut status = state(TaskState::TaskRunning);
    status.message = match (body_told(&task), running.group.is_none()) {
        (Some(told), false) => Some(told),
        (Some(told), true) => Some(format!("{told}; no cgroups: limits are not enforced")),
        (None, true) => Some("no cgroups: limits are not enforced".to_owned()),
        (None, false) => None,
    };
    report(shared, &task, with(&condition, status));

    let (exit, intervention) =
        supervise(shared, &task, &mut running, &mut control, &mut condition).await;
    let wall_time = running.began.elapsed();
    let group = running.group.clone();
    let used = match group.clone() {
        None => None,
        // What is left of the task ends with it; killing blocks.
        Some(group) => tokio::task::spawn_blocking(move || {
            if !group.kill() {
                tracing::error!(?group, "processes of a task do not end");
            }
            Some(group.usage())
        })
        .await
        .expect("killing does not panic"),
    };
    let status = last_status(exit, intervention, used, &limits, wall_time);
    Ended {
        task,
        status: with(&condition, status),
        group,
    }
}

fn state(state: TaskState) -> TaskStatus {
    TaskStatus {
        state: state.into(),
        ..TaskStatus::default()
    }
}

/// Tells the agent, and the log.
pub(crate) fn report(shared: &Shared, task: &TaskInfo, mut status: TaskStatus) {
    status.task_id = task.task_id.clone();
    status.agent_id = Some(task.agent_id.clone());
    tracing::info!(
        task = task.task_id.value,
        state = status.state().as_str_name(),
        message = status.message()
    );
    shared.handle.update(status);
}

fn last_status(
    exit: Option<Exit>,
    intervention: Intervention,
    used: Option<Usage>,
    limits: &Limits,
    wall_time: Duration,
) -> TaskStatus {
    let group = used.unwrap_or_default();
    // Without a cgroup, what the kernel counted for the main process is better than nothing.
    let memory_peak_bytes = group
        .memory_peak_bytes
        .or(exit.map(|exit| exit.memory_peak_bytes));
    let enforced = limits.memory_bytes.filter(|_| used.is_some());
    let mut status = match exit {
        Some(exit) => verdict::judge(
            Ending::from_wait(exit.status),
            intervention,
            Memory {
                kills: group.memory_kills,
                limit_bytes: enforced,
                peak_bytes: group.memory_peak_bytes,
            },
        ),
        None => TaskStatus {
            state: TaskState::TaskFailed as i32,
            ..TaskStatus::default()
        }
        .with_message("how the command ended is not known"),
    };
    status.usage = Some(TaskUsage {
        memory_peak_bytes,
        memory_limit_bytes: enforced,
        cpu_time_ns: group.cpu_time_ns.or(exit.map(|exit| exit.cpu_time_ns)),
        wall_time_ns: Some(u64::try_from(wall_time.as_nanos()).unwrap_or(u64::MAX)),
        body: Some(launch_plan::Body::Native as i32),
        wait_status: exit.map(|exit| exit.status),
        ..TaskUsage::default()
    });
    status
}

/// Has a task's checks made for as long as this lives.
struct Checking {
    news: mpsc::UnboundedReceiver<News>,
    probing: Option<AbortHandle>,
}

impl Checking {
    fn start(shared: &Arc<Shared>, task: &Arc<TaskInfo>, running: &Running) -> Self {
        let (sender, news) = mpsc::unbounded_channel();
        let probing = Checks::of(task).map(|checks| {
            let commands = Commands {
                shared: Arc::clone(shared),
                task: Arc::clone(task),
                group: running.group.clone(),
            };
            let heard = shared.heard.subscribe();
            tokio::spawn(checks.run(commands, heard, sender)).abort_handle()
        });
        Self { news, probing }
    }

    /// Nothing is checked any more, and what was found last is not told.
    fn stop(&mut self) {
        self.news.close();
        while self.news.try_recv().is_ok() {}
        if let Some(probing) = self.probing.take() {
            probing.abort();
        }
    }
}

impl Drop for Checking {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits for the end, and brings it about where that is asked for or a health check asks for it. The exit is `None` if it could not be learnt.
async fn supervise(
    shared: &Arc<Shared>,
    task: &Arc<TaskInfo>,
    running: &mut Running,
    control: &mut mpsc::UnboundedReceiver<Control>,
    condition: &mut Condition,
) -> (Option<Exit>, Intervention) {
    let mut checking = Checking::start(shared, task, running);
    let completion = task
        .max_completion_time
        .as_ref()
        .map(|limit| duration(limit.nanoseconds));
    let mut too_long = completion.map(|limit| running.began + limit);
    let mut deadline: Option<Instant> = None;
    let mut intervention = Intervention::None;
    loop {
        let asked = tokio::select! {
            exit = &mut running.exit => return (exit.ok(), intervention),
            Some(asked) = control.recv() => asked,
            Some(news) = checking.news.recv() => {
                report(shared, task, condition.take(&news));
                match news {
                    News::Health { kill: true, .. } => Control::Kill { grace: None },
                    _ => continue,
                }
            }
            () = until(deadline) => {
                // Once is enough: what cannot be killed now cannot be killed later either.
                deadline = None;
                kill(running).await;
                continue;
            }
            () = until(too_long) => {
                too_long = None;
                if intervention == Intervention::None {
                    checking.stop();
                    intervention = Intervention::TimedOut(completion.unwrap_or_default());
                    kill(running).await;
                }
                continue;
            }
        };
        if let Control::Signal(number) = asked {
            signal_leader(running.pid, number);
            continue;
        }
        checking.stop();
        let of_task = || grace_of(task.kill_policy.as_ref()).unwrap_or(GRACE);
        let grace = match asked {
            Control::Kill { grace } => grace.unwrap_or_else(of_task),
            Control::End { grace } => grace.min(of_task()),
            Control::Signal(_) => continue,
        };
        let until = Instant::now() + grace;
        // Asked twice, the sooner holds.
        let first = deadline.is_none();
        deadline = Some(deadline.map_or(until, |earlier| earlier.min(until)));
        if intervention == Intervention::None {
            intervention = Intervention::Killed;
            if shared.knows_killing.load(Ordering::Relaxed) {
                let mut killing = state(TaskState::TaskKilling);
                condition.add_to(&mut killing);
                report(shared, task, killing);
            }
        }
        if first && !grace.is_zero() {
            terminate(running);
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Asks every process of the task to end.
fn terminate(running: &Running) {
    match &running.group {
        Some(group) => group.signal(Signal::SIGTERM),
        None => signal_processes(running.pid, Signal::SIGTERM),
    }
}

/// Ends every process of the task.
async fn kill(running: &Running) {
    match running.group.clone() {
        // Whether all are gone is seen to when the main process has ended.
        Some(group) => tokio::task::spawn_blocking(move || group.kill_once())
            .await
            .expect("killing does not panic"),
        None => signal_processes(running.pid, Signal::SIGKILL),
    }
}

fn signal_leader(leader: Pid, number: i32) {
    let sent = Signal::try_from(number).and_then(|signal| nix::sys::signal::kill(leader, signal));
    if let Err(error) = sent {
        tracing::debug!(%leader, number, %error, "a task cannot be signalled");
    }
}

fn signal_processes(leader: Pid, signal: Signal) {
    // It fails if there is nobody left, which is what is wanted.
    if let Err(error) = killpg(leader, signal) {
        tracing::debug!(%leader, %error, "a process group cannot be signalled");
    }
}

#[derive(Debug, thiserror::Error)]
enum LaunchError {
    #[error("the agent sent no launch plan with the task")]
    NoPlan,
    #[error("the agent sent a task that is not native")]
    NotNative,
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Makes the cgroup and starts the process in it. Blocks.
fn start(shared: &Shared, task: &TaskInfo, limits: &Limits) -> Result<Running, LaunchError> {
    let plan = task.plan.as_ref().ok_or(LaunchError::NoPlan)?;
    if plan.body() != launch_plan::Body::Native {
        return Err(LaunchError::NotNative);
    }
    let sandbox = Path::new(&plan.sandbox);
    process::check_sandbox(sandbox)?;
    let group = match make_group(shared, plan, limits) {
        Ok(group) => group,
        Err(error) => {
            tracing::warn!(%error, task = task.task_id.value, "no cgroup: its limits are not enforced");
            None
        }
    };
    let started = process::start(
        &shared.reaper,
        Start {
            // Which file that is the agent knows: of a task with two bodies, the task's own command is not this one's.
            program: plan.arguments.first().map_or("", String::as_str),
            arguments: &plan.arguments,
            environment: plan
                .environment
                .iter()
                .map(|set| (set.name.as_str(), set.value()))
                .collect(),
            sandbox,
            mounts: &plan.mounts,
            rlimits: rlimits_of(task),
            user: plan.user.as_deref(),
            doors: group.as_ref().map(Group::doors).unwrap_or_default(),
        },
    );
    match started {
        Ok((pid, exit)) => Ok(Running {
            pid,
            exit,
            group: group.map(Arc::new),
            began: Instant::now(),
        }),
        Err(error) => {
            if let Some(group) = group {
                group.remove();
            }
            Err(error.into())
        }
    }
}

fn make_group(
    shared: &Shared,
    plan: &LaunchPlan,
    limits: &Limits,
) -> Result<Option<Group>, GroupError> {
    let Some(cgroups) = &shared.cgroups else {
        return Ok(None);
    };
    let name = format!("{}/{}", cgroups.parent, plan.container_id);
    Group::create(&cgroups.hierarchies, name, limits).map(Some)
}

pub(crate) fn rlimits_of(task: &TaskInfo) -> Option<&RLimitInfo> {
    task.container.as_ref()?.rlimit_info.as_ref()
}

#[cfg(test)]
mod tests {
    use tepui_api::v1::DurationInfo;

    use super::*;

    #[test]
    fn a_kill_policy_without_a_grace_leaves_it_to_the_task() {
        assert_eq!(grace_of(None), None);
        assert_eq!(grace_of(Some(&KillPolicy::default())), None);
        let policy = |nanoseconds| KillPolicy {
            grace_period: Some(DurationInfo { nanoseconds }),
        };
        assert_eq!(
            grace_of(Some(&policy(1_500_000_000))),
            Some(Duration::from_millis(1500))
        );
        assert_eq!(grace_of(Some(&policy(-1))), Some(Duration::ZERO));
    }
}
