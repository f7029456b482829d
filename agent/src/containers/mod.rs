//! Containers that frameworks and operators start beside the agent's own executors: nested in the container of an
//! executor or a task, or standing alone.
//!
//! A container runs a native command as a process of the agent's. It ends with whatever it is nested in, and with the
//! agent. What is known of it stays for those who wait until it is removed or what it is nested in has ended.

mod process;
mod streams;
mod terminal;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use futures::future::BoxFuture;
use tepui_agent_core::{ContainerOwner, ContainerView, ExecutorRef, Input as CoreInput};
use tepui_api::convert::resources_from_wire;
use tepui_api::v1;
use tepui_model::{Resources, check_container_id, check_id};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use self::process::Ended;
use self::process::{Cgroup, Input, Plan};
pub(crate) use self::streams::Stdin;
use crate::containment::{Group, Layout, Limits};
use crate::environment::{DEFAULT_PATH, Executor};
use crate::executors::Executors;
use crate::files::Phase;
use crate::owner::Event;
use crate::prepare::{Preparer, add_variables};
use crate::sandbox::STANDALONE;
use crate::site::Refusal;
use crate::user;
use crate::watch::Watcher;

/// What the kernel counts memory in, as resources do: binary megabytes.
const MEGABYTE: f64 = 1_048_576.0;
/// How deep containers may be nested.
const DEEPEST: usize = 32;
/// How many ended containers are remembered at most.
const ENDED: usize = 1000;

/// The ids from the outermost container to the one that is meant.
type Key = Vec<String>;

/// What is asked to be started.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) id: v1::ContainerId,
    pub(crate) command: Option<v1::CommandInfo>,
    pub(crate) container: Option<v1::ContainerInfo>,
    pub(crate) resources: Vec<v1::Resource>,
    pub(crate) limits: BTreeMap<String, f64>,
    /// It lives in the directory of what it is nested in, has a stdin, and ends with the client that asked for it.
    pub(crate) session: bool,
}

#[derive(Debug)]
pub(crate) enum Launched {
    Started(Arc<Container>),
    Exists,
}

#[derive(Debug, Clone)]
pub(crate) enum State {
    Starting,
    Running { pid: u32 },
    Ended(Ended),
}

/// One container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: v1::ContainerId,
    /// Whose it is; none if it stands alone.
    pub(crate) executor: Option<ExecutorRef>,
    pub(crate) place: Place,
    /// Whom its process runs as: the user it asked for, else that of what it is nested in.
    pub(crate) user: String,
    /// Its process's, which what is nested in it inherits.
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) resources: Resources,
    pub(crate) state: watch::Sender<State>,
    /// For those who follow its files.
    pub(crate) phase: watch::Sender<Phase>,
    /// Cancelled to end it.
    pub(crate) destroy: CancellationToken,
    /// Cancelled when it is forgotten.
    removed: CancellationToken,
    /// Its stdin, if it was given one and that was not closed. One client holds it at a time.
    pub(crate) input: Arc<tokio::sync::Mutex<Option<Input>>>,
}

impl Container {
    fn pid(&self) -> Option<u32> {
        match *self.state.borrow() {
            State::Running { pid } => Some(pid),
            _ => None,
        }
    }

    fn has_ended(&self) -> bool {
        matches!(*self.state.borrow(), State::Ended(_))
    }

    fn end(&self, ended: Ended) {
        self.state.send_replace(State::Ended(ended));
        self.phase.send_replace(Phase::Ended);
    }

    pub(crate) async fn ended(&self) -> Ended {
        let mut state = self.state.subscribe();
        loop {
            if let State::Ended(ended) = &*state.borrow_and_update() {
                return ended.clone();
            }
            if state.changed().await.is_err() {
                return Ended::default();
            }
        }
    }
}

/// A container's own directory, with its `stdout` and `stderr`.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Made by the agent alone: no tenant can put a link on the way there.
    root: PathBuf,
    /// What is below is the tenant's, who may have put anything there.
    inside: PathBuf,
}

impl Place {
    pub(crate) fn path(&self) -> PathBuf {
        self.root.join(&self.inside)
    }

    fn nested(&self, id: &str) -> Self {
        Self {
            root: self.root.clone(),
            inside: self.inside.join(STANDALONE).join(id),
        }
    }
}

/// What a container is nested in.
struct Outer {
    executor: Option<ExecutorRef>,
    place: Place,
    user: String,
    environment: BTreeMap<String, String>,
    /// Until it has ended.
    life: BoxFuture<'static, ()>,
    /// The cgroup its processes are in.
    group: Option<Group>,
}

#[derive(Debug, Clone)]
pub(crate) struct Containers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    work_dir: PathBuf,
    layout: Layout,
    preparer: Preparer,
    executors: Executors,
    events: mpsc::Sender<Event>,
    watcher: Watcher,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    containers: BTreeMap<Key, Arc<Container>>,
    /// Those that have ended, in that order.
    ended: VecDeque<Key>,
    stopping: bool,
}

fn unknown(id: &v1::ContainerId) -> Refusal {
    Refusal(
        StatusCode::NOT_FOUND,
        format!("Container {} cannot be found", name(id)),
    )
}

/// As Mesos writes it: the ids from the outside in, with dots between.
pub(crate) fn name(id: &v1::ContainerId) -> String {
    match &id.parent {
        Some(parent) => format!("{}.{}", name(parent), id.value),
        None => id.value.clone(),
    }
}

fn key(id: &v1::ContainerId) -> Result<Key, Refusal> {
    let mut key = Vec::new();
    let mut next = Some(id);
    while let Some(id) = next {
        if key.len() == DEEPEST {
            return Err(Refusal::bad(format!(
                "Containers cannot be nested more than {DEEPEST} deep"
            )));
        }
        check_id("container id", &id.value).map_err(Refusal::bad)?;
        key.push(id.value.clone());
        next = id.parent.as_deref();
    }
    key.reverse();
    Ok(key)
}

impl Containers {
    pub(crate) fn new(
        work_dir: PathBuf,
        layout: Layout,
        preparer: Preparer,
        executors: Executors,
        events: mpsc::Sender<Event>,
        watcher: Watcher,
    ) -> Self {
        process::clean_up(&work_dir);
        Self {
            shared: Arc::new(Shared {
                work_dir,
                layout,
                preparer,
                executors,
                events,
                watcher,
                table: Mutex::default(),
            }),
        }
    }

    /// Starts a container, unless there is one of that id already.
    pub(crate) async fn launch(&self, launch: Launch) -> Result<Launched, Refusal> {
        let shared = &self.shared;
        let key = key(&launch.id)?;
        check_container_id(&launch.id.value).map_err(Refusal::bad)?;
        if shared.get(&key).is_some() {
            return Ok(Launched::Exists);
        }
        let share_cgroups = check(&launch, key.len())?;
        let resources = resources_from_wire(&launch.resources)
            .map(|(resources, _)| resources)
            .map_err(Refusal::bad)?;
        let outer = match key.split_last() {
            Some((_, outer)) if !outer.is_empty() => {
                let parent = launch.id.parent.as_deref().unwrap_or(&launch.id);
                shared.outer(outer, parent).await?
            }
            _ if shared.find(&key[0]).await?.is_some() => return Ok(Launched::Exists),
            _ => Outer {
                executor: None,
                place: Place {
                    root: shared.work_dir.clone(),
                    inside: PathBuf::new(),
                },
                user: user::own(),
                environment: BTreeMap::new(),
                life: Box::pin(std::future::pending()),
                group: None,
            },
        };
        let place = outer.place.nested(&launch.id.value);
        // A session lives where what it is nested in lives, any other container in a directory of its own.
        let home = if launch.session {
            outer.place.path()
        } else {
            place.path()
        };
        let mut environment = outer.environment;
        let sandbox = home.to_string_lossy().into_owned();
        environment.insert("MESOS_SANDBOX".to_owned(), sandbox);
        environment
            .entry("PATH".to_owned())
            .or_insert_with(|| DEFAULT_PATH.to_owned());
        add_variables(&mut environment, launch.command.as_ref()).map_err(Refusal::bad)?;
        let asked = launch.command.as_ref();
        let asked = asked.and_then(|command| command.user.clone());
        let container = Arc::new(Container {
            id: launch.id.clone(),
            user: asked.filter(|user| !user.is_empty()).unwrap_or(outer.user),
            executor: outer.executor.clone(),
            place,
            environment,
            resources,
            state: watch::channel(State::Starting).0,
            phase: watch::channel(Phase::Preparing).0,
            destroy: CancellationToken::new(),
            removed: CancellationToken::new(),
            input: Arc::default(),
        });
        {
            let mut table = shared.lock();
            if table.stopping {
                return Err(Refusal::stopping());
            }
            // Another client may have been quicker.
            if table.containers.contains_key(&key) {
                return Ok(Launched::Exists);
            }
            table.containers.insert(key.clone(), container.clone());
        }
        let plan = Plan {
            outer: outer.place,
            cgroup: shared.cgroup(&launch, &container.resources, outer.group, share_cgroups),
            launch,
        };
        let (told, started) = oneshot::channel();
        let (shared, running, mut life) = (shared.clone(), container.clone(), outer.life);
        // Goes on also if the client that asked for it has gone.
        tokio::spawn(async move {
            match process::start(&shared, plan, &running).await {
                Ok(process) => {
                    let _ = told.send(Ok(()));
                    let outlived = process.until_its_end(&running, &mut life).await;
                    if outlived {
                        shared.forget(&key, &running);
                        return;
                    }
                    shared.remember(key.clone());
                    tokio::select! {
                        () = life => shared.forget(&key, &running),
                        () = running.removed.cancelled() => {}
                    }
                }
                Err(error) => {
                    // Forgotten before it is told: whoever hears it may try again with the same id.
                    shared.forget(&key, &running);
                    running.end(Ended::failed(&error));
                    let _ = told.send(Err(error.to_string()));
                }
            }
        });
        match started.await {
            Ok(Ok(())) => Ok(Launched::Started(container)),
            Ok(Err(message)) => Err(Refusal::bad(message)),
            Err(_) => Err(Refusal::stopping()),
        }
    }

    /// Whom a container's processes run as. One that is forgotten was of the user of what it was nested in.
    pub(crate) async fn user_of(&self, id: &v1::ContainerId) -> Result<String, Refusal> {
        let known = key(id)?;
        for depth in (1..=known.len()).rev() {
            if let Some(container) = self.shared.get(&known[..depth].to_vec()) {
                return Ok(container.user.clone());
            }
            if let Some((view, _)) = self.shared.find(&known[depth - 1]).await? {
                return Ok(view.user);
            }
        }
        Err(unknown(id))
    }

    /// Until the container has ended: how.
    pub(crate) async fn wait(&self, id: &v1::ContainerId) -> Result<Ended, Refusal> {
        let key = key(id)?;
        if let Some(container) = self.shared.get(&key) {
            return Ok(container.ended().await);
        }
        let (view, phase) = self.shared.find_own(id).await?;
        match (&view.owner, phase) {
            (ContainerOwner::Task(task), Some(mut phase)) => {
                let _ = phase.wait_for(|phase| *phase == Phase::Ended).await;
                let state = self.shared.view().await?;
                let all = state.tasks.iter().chain(&state.ended);
                let status = all
                    .filter(|view| view.task == *task)
                    .find_map(|view| view.status.clone());
                Ok(status.map_or_else(Ended::default, |status| Ended::of_task(&status)))
            }
            _ => {
                if let Some(gone) = self.shared.executors.gone(&view.executor) {
                    gone.cancelled().await;
                }
                Ok(Ended::default())
            }
        }
    }

    pub(crate) async fn kill(&self, id: &v1::ContainerId, signal: i32) -> Result<(), Refusal> {
        let wanted = nix::sys::signal::Signal::try_from(signal)
            .map_err(|_| Refusal::bad(format!("There is no signal {signal}")))?;
        let key = key(id)?;
        if let Some(container) = self.shared.get(&key) {
            if container.has_ended() {
                return Err(unknown(id));
            }
            match container.pid() {
                Some(pid) if wanted != nix::sys::signal::Signal::SIGKILL => {
                    process::signal(pid, wanted);
                }
                // Also one that is still being started.
                _ => container.destroy.cancel(),
            }
            return Ok(());
        }
        let (view, phase) = self.shared.find_own(id).await?;
        match (&view.owner, view.pid) {
            (ContainerOwner::Executor, Some(pid)) => {
                process::signal(pid, wanted);
                Ok(())
            }
            // A task, or an executor without a process: the core knows what that means.
            _ if phase.is_some_and(|phase| *phase.borrow() != Phase::Ready) => Err(unknown(id)),
            _ => {
                let input = CoreInput::Signal {
                    container: id.value.clone(),
                    signal,
                };
                let sent = self.shared.events.send(Event::Core(Box::new(input))).await;
                sent.map_err(|_| Refusal::stopping())
            }
        }
    }

    /// Forgets a container that has ended, and removes its directory.
    pub(crate) async fn remove(&self, id: &v1::ContainerId) -> Result<(), Refusal> {
        let key = key(id)?;
        let Some(container) = self.shared.get(&key) else {
            // One that is gone already is removed as well as can be, if what it was nested in is there.
            let mut root = id;
            while let Some(parent) = &root.parent {
                root = parent;
            }
            if self.shared.get(&key[..1].to_vec()).is_some() {
                return Ok(());
            }
            self.shared.find_own(root).await?;
            return match key.len() {
                1 => Err(still_runs(id)),
                _ => Ok(()),
            };
        };
        if !container.has_ended() {
            return Err(still_runs(id));
        }
        self.shared.forget(&key, &container);
        let place = container.place.clone();
        let removed = tokio::task::spawn_blocking(move || process::remove(&place)).await;
        match removed {
            Ok(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => Err(Refusal(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!(
                    "The directory of container {} cannot be removed: {error}",
                    name(id)
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Those that run.
    pub(crate) fn running(&self) -> Vec<(Arc<Container>, u32)> {
        let table = self.shared.lock();
        let all = table.containers.values();
        all.filter_map(|container| Some((container.clone(), container.pid()?)))
            .collect()
    }

    /// Ends all of them and returns when they are gone.
    pub(crate) async fn stop(&self) {
        let containers: Vec<Arc<Container>> = {
            let mut table = self.shared.lock();
            table.stopping = true;
            table.containers.values().cloned().collect()
        };
        for container in &containers {
            container.destroy.cancel();
        }
        for container in containers {
            container.ended().await;
        }
    }
}

fn still_runs(id: &v1::ContainerId) -> Refusal {
    Refusal(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!(
            "Container {} still runs: kill it and wait for its end first",
            name(id)
        ),
    )
}

/// Whether the container shares the cgroup of what it is nested in; an error if it cannot be as it is asked for.
fn check(launch: &Launch, depth: usize) -> Result<bool, Refusal> {
    let linux = launch
        .container
        .as_ref()
        .and_then(|container| container.linux_info.as_ref());
    let share = linux.and_then(|linux| linux.share_cgroups);
    if depth == 1 {
        if launch.session {
            return Err(Refusal::bad(
                "Expecting 'container_id.parent' to be present",
            ));
        }
        if share == Some(true) {
            return Err(Refusal::bad(
                "A standalone container has nobody to share cgroups with: 'share_cgroups' must be false or unset",
            ));
        }
        if launch.command.is_none() {
            return Err(Refusal::bad("Expecting 'command' to be present"));
        }
        if let Some(resource) = launch.resources.iter().find(|resource| {
            !resource.reservations.is_empty()
                || resource.revocable.is_some()
                || resource
                    .disk
                    .as_ref()
                    .is_some_and(|disk| disk.persistence.is_some())
        }) {
            return Err(Refusal::bad(format!(
                "A standalone container can only have unreserved resources that are not revocable and not persistent, which '{}' is not",
                resource.name
            )));
        }
    }
    let own = !launch.resources.is_empty() || !launch.limits.is_empty() || share == Some(false);
    if depth > 2 && own {
        return Err(Refusal::bad(
            "Only containers nested directly in an executor's can have 'resources', 'limits' or 'share_cgroups' of false",
        ));
    }
    if depth == 2 && share != Some(false) && !launch.limits.is_empty() {
        return Err(Refusal::bad(
            "A container that shares cgroups has no limits of its own: 'share_cgroups' must be false",
        ));
    }
    process::check(launch)?;
    Ok(share.unwrap_or(depth > 1))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &Key) -> Option<Arc<Container>> {
        self.lock().containers.get(key).cloned()
    }

    async fn ask<T>(&self, event: impl FnOnce(oneshot::Sender<T>) -> Event) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let sent = self.events.send(event(reply)).await;
        sent.map_err(|_| Refusal::stopping())?;
        answer.await.map_err(|_| Refusal::stopping())
    }

    async fn view(&self) -> Result<Box<tepui_agent_core::AgentView>, Refusal> {
        self.ask(|reply| Event::View { reply }).await
    }

    async fn find(
        &self,
        id: &str,
    ) -> Result<Option<(ContainerView, Option<watch::Receiver<Phase>>)>, Refusal> {
        let id = id.to_owned();
        self.ask(|reply| Event::Container { id, reply }).await
    }

    /// An executor's or a task's own container. Whatever it is said to be nested in must be its executor's.
    async fn find_own(
        &self,
        id: &v1::ContainerId,
    ) -> Result<(ContainerView, Option<watch::Receiver<Phase>>), Refusal> {
        self.find(&id.value).await?.ok_or_else(|| unknown(id))
    }

    async fn outer(&self, key: &[String], id: &v1::ContainerId) -> Result<Outer, Refusal> {
        if let Some(container) = self.get(&key.to_vec()) {
            if container.pid().is_none() {
                return Err(Refusal::bad(format!(
                    "Container {} does not run, so nothing can be nested in it",
                    name(id)
                )));
            }
            let group = container
                .executor
                .as_ref()
                .and_then(|executor| self.executors.group(executor));
            return Ok(Outer {
                executor: container.executor.clone(),
                place: container.place.clone(),
                user: container.user.clone(),
                environment: container.environment.clone(),
                group,
                life: Box::pin(async move {
                    container.ended().await;
                }),
            });
        }
        let (view, phase) = self.find_own(id).await?;
        if phase
            .as_ref()
            .is_some_and(|phase| *phase.borrow() == Phase::Ended)
        {
            return Err(unknown(id));
        }
        let gone = self.executors.gone(&view.executor);
        let gone = gone.ok_or_else(|| unknown(id))?;
        let group = self.executors.group(&view.executor);
        let group = match (&view.owner, group) {
            (ContainerOwner::Task(_), Some(group)) => {
                let inner = group.inner(&id.value);
                Some(if inner.exists() { inner } else { group })
            }
            (_, group) => group,
        };
        let environment = self.environment_of(&view)?;
        Ok(Outer {
            environment,
            executor: Some(view.executor),
            place: Place {
                root: self.work_dir.join(view.sandbox),
                inside: PathBuf::new(),
            },
            user: view.user,
            group,
            life: Box::pin(async move {
                let task = async {
                    match phase {
                        Some(mut phase) => {
                            let _ = phase.wait_for(|phase| *phase == Phase::Ended).await;
                        }
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = gone.cancelled() => {}
                    () = task => {}
                }
            }),
        })
    }

    /// What the processes of an executor or a task have, but for the token that only the executor itself is to show.
    fn environment_of(&self, view: &ContainerView) -> Result<BTreeMap<String, String>, Refusal> {
        let Some(info) = &view.info else {
            let variables = view.environment.iter();
            return Ok(variables
                .map(|variable| (variable.name.clone(), variable.value().to_owned()))
                .collect());
        };
        let mut environment = self.preparer.surroundings.of(&Executor {
            framework: view.executor.framework.as_str(),
            executor: view.executor.executor.as_str(),
            sandbox: &view.sandbox,
            directory: &self.work_dir.join(&view.sandbox),
            checkpoint: view.checkpoint,
            info: Some(info),
        });
        add_variables(&mut environment, info.command.as_ref()).map_err(Refusal::bad)?;
        Ok(environment)
    }

    fn cgroup(
        &self,
        launch: &Launch,
        resources: &Resources,
        outer: Option<Group>,
        share: bool,
    ) -> Cgroup {
        if share {
            return outer.map_or(Cgroup::None, Cgroup::Shared);
        }
        let group = match (&outer, &launch.id.parent) {
            (Some(outer), _) => Some(outer.inner(&launch.id.value)),
            // Nested where there are no cgroups.
            (None, Some(_)) => None,
            (None, None) => {
                let agent = self.work_dir.display().to_string();
                Group::new(self.layout, &agent, &launch.id.value, false)
            }
        };
        let limit = |name: &str, given: f64| launch.limits.get(name).copied().unwrap_or(given);
        let memory = limit("mem", resources.mem().to_f64());
        let limits = Limits {
            // What is not limited is limited by what it is nested in.
            memory_bytes: if memory.is_finite() && memory > 0.0 {
                (memory * MEGABYTE) as u64
            } else {
                u64::MAX
            },
            cpus: resources.cpus().to_f64(),
        };
        group.map_or(Cgroup::None, |group| Cgroup::Own {
            group,
            outer,
            limits,
        })
    }

    /// The container has ended; the oldest of many that have are forgotten.
    fn remember(&self, key: Key) {
        let mut table = self.lock();
        table.ended.push_back(key);
        while table.ended.len() > ENDED {
            let oldest = table.ended.pop_front();
            if let Some(oldest) = oldest.and_then(|oldest| table.containers.remove(&oldest)) {
                oldest.removed.cancel();
            }
        }
    }

    /// Unless there is another container of that id by now.
    fn forget(&self, key: &Key, container: &Arc<Container>) {
        container.removed.cancel();
        let mut table = self.lock();
        if table
            .containers
            .get(key)
            .is_some_and(|known| Arc::ptr_eq(known, container))
        {
            table.containers.remove(key);
            table.ended.retain(|ended| ended != key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ids: &[&str]) -> v1::ContainerId {
        let mut parent = None;
        for value in ids {
            parent = Some(Box::new(v1::ContainerId {
                value: (*value).to_owned(),
                parent,
            }));
        }
        *parent.unwrap()
    }

    #[test]
    fn a_container_is_named_from_the_outside_in() {
        assert_eq!(name(&id(&["a", "b"])), "a.b");
        assert_eq!(key(&id(&["a", "b"])).unwrap(), ["a", "b"]);
        assert!(key(&id(&["..", "b"])).is_err() && key(&id(&["a", ""])).is_err());
        let deep: Vec<&str> = std::iter::repeat_n("x", DEEPEST + 1).collect();
        assert!(key(&id(&deep)).is_err());
    }

    #[test]
    fn what_a_container_may_have_depends_on_how_deep_it_is() {
        let launch = |ids: &[&str], share: Option<bool>, session: bool| Launch {
            id: id(ids),
            command: Some(v1::CommandInfo {
                value: Some("true".into()),
                ..Default::default()
            }),
            container: Some(v1::ContainerInfo {
                r#type: v1::container_info::Type::Mesos.into(),
                linux_info: Some(v1::LinuxInfo {
                    share_cgroups: share,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            resources: Vec::new(),
            limits: BTreeMap::new(),
            session,
        };
        assert_eq!(check(&launch(&["a"], None, false), 1), Ok(false));
        assert!(check(&launch(&["a"], Some(true), false), 1).is_err());
        assert!(check(&launch(&["a"], None, true), 1).is_err());
        assert_eq!(check(&launch(&["a", "b"], None, true), 2), Ok(true));
        assert_eq!(
            check(&launch(&["a", "b"], Some(false), false), 2),
            Ok(false)
        );
        assert!(check(&launch(&["a", "b", "c"], Some(false), false), 3).is_err());
        let limited = Launch {
            limits: BTreeMap::from([("mem".to_owned(), 32.0)]),
            ..launch(&["a", "b"], None, false)
        };
        assert!(check(&limited, 2).is_err());
    }
}
