//! The executor of native tasks: one process per framework and agent, each task in a cgroup of its own.
//!
//! [`run`] is the whole of it. The agent starts the process with the environment of an executor; `TEPUI_CGROUP` names the
//! cgroup under which every task gets one of its own. Where that is unset or the kernel does not let us, tasks still run,
//! as mere process groups: then nothing enforces their limits, and `TASK_RUNNING` says so.
//!
//! - `amounts`: what a task asked for, as the kernel wants it
//! - `commands`: the commands of its checks
//! - `group`: a task's cgroup
//! - `process`: starting a process and hearing of its end
//! - `task`: one task from LAUNCH to its last status
//! - `verdict`: what an ending means

#![warn(missing_docs)]

mod amounts;
mod commands;
mod group;
mod process;
mod rlimits;
mod task;
mod verdict;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tepui_api::v1::TaskInfo;
use tepui_api::v1::framework_info::capability;
use tepui_sdk_executor::{Config, Event, Events, Handle, connect};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::group::Hierarchies;
use crate::process::Reaper;
use crate::task::{Control, Ended};

/// The executor does little but wait; a second thread keeps it answering while the first one forks.
const THREADS: usize = 2;
/// How long the last statuses may take to reach an agent that is there.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves one framework until its agent says SHUTDOWN or is gone, or until SIGTERM; then ends every task and returns.
///
/// # Errors
/// If the environment is not that of an executor, or the process cannot be set up. What befalls a task is told to the
/// framework instead.
pub fn run() -> anyhow::Result<()> {
    let config = Config::from_env().context("this process was not started by an agent")?;
    // Processes whose parents have died become our children: until somebody reaps them they count against pids limits.
    nix::sys::prctl::set_child_subreaper(true).context("cannot adopt orphaned processes")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(config))
}

/// Where the tasks' cgroups are made.
struct Cgroups {
    hierarchies: Hierarchies,
    /// Relative to each hierarchy's root.
    parent: String,
}

/// What all tasks have in common.
struct Shared {
    handle: Handle,
    reaper: Arc<Reaper>,
    /// `None`: limits are not enforced.
    cgroups: Option<Cgroups>,
    /// Whether the framework knows TASK_KILLING.
    knows_killing: AtomicBool,
    /// Whether the agent is there to hear of checks.
    heard: watch::Sender<bool>,
}

/// Why the executor ends.
enum Farewell {
    /// The agent or the operator asks for it.
    Asked,
    AgentGone,
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let reaper = Arc::new(Reaper::default());
    // Before the first child there is, so that none ends unseen.
    let children = signal(SignalKind::child()).context("cannot hear of children that end")?;
    tokio::spawn(Arc::clone(&reaper).run(children));
    let mut terminate = signal(SignalKind::terminate()).context("cannot hear SIGTERM")?;

    let grace = config.shutdown_grace;
    let cgroups = prepare_cgroups(config.cgroup.as_deref());
    let (handle, mut events) = connect(config);
    let shared = Arc::new(Shared {
        handle,
        reaper,
        cgroups,
        knows_killing: AtomicBool::new(false),
        heard: watch::Sender::new(true),
    });
    let mut tasks = Tasks::default();
    let farewell = loop {
        tokio::select! {
            event = events.next() => match event {
                None => break Farewell::AgentGone,
                Some(Event::Shutdown) => break Farewell::Asked,
                Some(event) => tasks.heed(&shared, event),
            },
            Some(ended) = tasks.running.join_next() => tasks.close(&shared, ended),
            Some(_) = tasks.closing.join_next() => {}
            _ = terminate.recv() => break Farewell::Asked,
        }
    };
    tasks.end(&shared, &mut events, &farewell, grace).await;
    Ok(())
}

fn prepare_cgroups(parent: Option<&str>) -> Option<Cgroups> {
    let Some(parent) = parent else {
        tracing::warn!("TEPUI_CGROUP is not set: limits are not enforced");
        return None;
    };
    let parent = parent.trim_matches('/').to_owned();
    let prepared = Hierarchies::detect().and_then(|hierarchies| {
        hierarchies.prepare(&parent)?;
        Ok(hierarchies)
    });
    match prepared {
        Ok(hierarchies) => Some(Cgroups {
            hierarchies,
            parent,
        }),
        Err(error) => {
            tracing::warn!(%error, "no cgroups: limits are not enforced");
            None
        }
    }
}

#[derive(Default)]
struct Tasks {
    running: JoinSet<Ended>,
    /// Cgroups being removed.
    closing: JoinSet<()>,
    controls: HashMap<String, mpsc::UnboundedSender<Control>>,
}

impl Tasks {
    fn heed(&mut self, shared: &Arc<Shared>, event: Event) {
        match event {
            Event::Subscribed(subscribed) => {
                let knows = subscribed
                    .framework
                    .has_capability(capability::Type::TaskKillingState);
                shared.knows_killing.store(knows, Ordering::Relaxed);
                shared.heard.send_replace(true);
            }
            Event::Launch(task) => self.launch(shared, *task),
            Event::LaunchGroup(group) => {
                for task in group {
                    self.launch(shared, task);
                }
            }
            Event::Kill {
                task_id,
                kill_policy,
                signal,
            } => {
                let control = match signal {
                    Some(signal) => Control::Signal(signal),
                    None => Control::Kill {
                        grace: task::grace_of(kill_policy.as_ref()),
                    },
                };
                self.tell(&task_id, control);
            }
            Event::Disconnected => {
                tracing::info!("the agent is away");
                shared.heard.send_replace(false);
            }
            Event::Message(data) => {
                tracing::debug!(bytes = data.len(), "a message nobody here reads")
            }
            Event::Error(message) => tracing::error!(message, "the agent complains"),
            Event::Shutdown => unreachable!("the loop ends at SHUTDOWN"),
        }
    }

    fn launch(&mut self, shared: &Arc<Shared>, task: TaskInfo) {
        let id = task.task_id.value.clone();
        if self.controls.contains_key(&id) {
            tracing::error!(id, "a task of this id runs already");
            return;
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        self.controls.insert(id.clone(), sender);
        let shared = Arc::clone(shared);
        self.running
            .spawn(async move { task::run(&shared, task, receiver).await });
    }

    fn tell(&self, id: &str, wanted: Control) {
        match self.controls.get(id) {
            // A task that has just ended hears it no more, and need not.
            Some(control) => drop(control.send(wanted)),
            None => tracing::info!(id, ?wanted, "the task is not here"),
        }
    }

    fn close(&mut self, shared: &Shared, ended: Result<Ended, tokio::task::JoinError>) {
        let ended = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "the supervision of a task broke");
                return;
            }
        };
        // Forgotten before it is reported: whoever hears the report may launch another task of that id.
        self.controls.remove(&ended.task.task_id.value);
        task::report(shared, &ended.task, ended.status);
        if let Some(group) = ended.group {
            self.closing.spawn_blocking(move || group.remove());
        }
    }

    /// Ends every task and waits until all that is to be said of them was said.
    async fn end(
        mut self,
        shared: &Shared,
        events: &mut Events,
        farewell: &Farewell,
        grace: Duration,
    ) {
        let grace = match farewell {
            // The agent destroys what is left after the whole of it; a part is kept for the statuses.
            Farewell::Asked => grace * 4 / 5,
            Farewell::AgentGone => Duration::ZERO,
        };
        tracing::info!(tasks = self.controls.len(), "ending every task");
        for control in self.controls.values() {
            control.send(Control::End { grace }).ok();
        }
        while !self.running.is_empty() {
            tokio::select! {
                Some(ended) = self.running.join_next() => self.close(shared, ended),
                // The subscription is kept up, for acknowledgements come over it; what else is said comes too late.
                Some(_) = events.next() => {}
            }
        }
        while self.closing.join_next().await.is_some() {}
        if matches!(farewell, Farewell::Asked) {
            let drained = shared.handle.drained(FAREWELL);
            tokio::pin!(drained);
            loop {
                tokio::select! {
                    told = &mut drained => {
                        if !told {
                            tracing::warn!("the agent did not take the last statuses");
                        }
                        return;
                    }
                    event = events.next() => if event.is_none() { return },
                }
            }
        }
    }
}
