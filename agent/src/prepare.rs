//! Makes a task ready to run: its sandbox, what it fetches, which of its bodies runs, and the plan the executor gets.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tepui_agent_core::{Parent, PrepareFailure, Volume, volumes_of};
use tepui_api::ext::{self, LaunchPlan, launch_plan};
use tepui_api::v1::{self, command_info::Uri, environment, task_status::Reason};
use tepui_model::{plain_lines, without_credentials};
use tepui_wall::Identity;
use tokio::sync::watch;

use crate::compile::{CompileError, Compiler};
use crate::confine::Directory;
use crate::datasets::{self, DatasetError, Datasets};
use crate::environment::{DEFAULT_PATH, Executor, Surroundings};
use crate::fetcher::{FetchError, Fetcher, Wanted};
use crate::files::Phase;
use crate::kind::{self, Format, WordsError};
use crate::persistent::{PersistentError, Volumes};
use crate::reach::{self, ReachError};
use crate::sandbox;
use crate::store::{self, Pin};
use crate::tenants::TenantError;
use crate::unsupported::{unsupported, unsupported_as};
use crate::user::{UserError, give_unless_theirs, own_directory, user_of};
use crate::volumes::{self, VolumeError};

/// The limit by which a task asks to be metered.
const FUEL: &str = "fuel";

#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error("the sandbox could not be made: {0}")]
    Sandbox(String),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("unpacking '{uri}' failed: {cause}")]
    Unpack { uri: String, cause: String },
    #[error("'{name}' could not be put into the sandbox: {cause}")]
    Place { name: String, cause: String },
    #[error("this agent starts no tasks with {0}")]
    Unsupported(&'static str),
    #[error("the task has no command")]
    NoCommand,
    #[error("the command has no value, and its URIs do not say which file to run")]
    NoProgram,
    #[error(transparent)]
    Words(#[from] WordsError),
    #[error("'{name}' is to run as wasm but is no wasm module")]
    NotWasm { name: String },
    #[error("the variable '{name}' refers to a secret, which this agent cannot resolve")]
    Secret { name: String },
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Tenant(#[from] TenantError),
    #[error("{0}")]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Reach(#[from] ReachError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error("'{name}' is a wasm module; commands of checks run natively")]
    WasmCheck { name: String },
    #[error(transparent)]
    Persistent(#[from] PersistentError),
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error(
        "'{name}' is built for {has}, and this agent's machine is {own}: build it for that, or keep the task to other agents by their attributes"
    )]
    Architecture {
        name: String,
        has: &'static str,
        own: &'static str,
    },
    #[error("the wasm body cannot run: {wasm}; nor can the native body: {native}")]
    NoBody { wasm: String, native: String },
}

impl From<PrepareError> for PrepareFailure {
    fn from(error: PrepareError) -> Self {
        Self {
            reason: Reason::ContainerLaunchFailed,
            message: plain_lines(&without_credentials(&error.to_string())),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) info: Arc<v1::TaskInfo>,
    pub(crate) framework: Arc<v1::FrameworkInfo>,
    pub(crate) container_id: String,
    /// Relative to the work directory.
    pub(crate) sandbox: String,
    /// The executor of its group, whose sandbox its own is in.
    pub(crate) parent: Option<Parent>,
    pub(crate) phase: watch::Sender<Phase>,
}

/// A plan, and what must stay in the stores while it is carried out.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) plan: LaunchPlan,
    pub(crate) pins: Vec<Pin>,
}

#[derive(Debug, Clone)]
pub(crate) struct Preparer {
    pub(crate) work_dir: PathBuf,
    /// Whether what runs here is given to users of its own.
    pub(crate) switch_user: bool,
    pub(crate) fetcher: Fetcher,
    pub(crate) compiler: Compiler,
    pub(crate) surroundings: Arc<Surroundings>,
    pub(crate) volumes: Volumes,
    pub(crate) datasets: Datasets,
}

/// One fetched file that is not in the sandbox yet.
#[derive(Debug, Clone)]
struct Fetched {
    wanted: Wanted,
    pin: Pin,
}

/// The file a task runs, if the agent knows it.
#[derive(Debug)]
struct Program {
    name: String,
    format: Format,
    pin: Pin,
}

/// A command's arguments, in the two readings they have.
#[derive(Debug, Clone, Default)]
struct CommandLine {
    value: Option<String>,
    shell: bool,
    arguments: Vec<String>,
}

impl CommandLine {
    fn of(command: Option<&v1::CommandInfo>) -> Self {
        let Some(command) = command else {
            return Self {
                shell: true,
                ..Self::default()
            };
        };
        Self {
            value: command
                .value
                .clone()
                .filter(|value| !value.trim().is_empty()),
            shell: command.shell.unwrap_or(true),
            arguments: command.arguments.clone(),
        }
    }

    /// The word that names the program, as written.
    fn program(&self) -> Option<&str> {
        let value = self.value.as_deref()?;
        if self.shell {
            kind::first_word(value)
        } else {
            Some(value)
        }
    }

    /// A guest's argument vector: the program's name and what follows.
    fn guest_arguments(
        &self,
        program: &str,
        environment: &BTreeMap<String, String>,
    ) -> Result<Vec<String>, WordsError> {
        let mut vector = match &self.value {
            Some(value) if self.shell => kind::split_words(value, environment)?,
            Some(value) => vec![value.clone()],
            None => vec![program.to_owned()],
        };
        // In Mesos the first argument of a command without shell is the program's name once more; others leave it out.
        let base = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
        let repeats = |first: &String| vector.first().is_some_and(|name| base(name) == base(first));
        let skip = usize::from(!self.shell && self.arguments.first().is_some_and(repeats));
        vector.extend(self.arguments.iter().skip(skip).cloned());
        Ok(vector)
    }

    /// A process's argument vector.
    fn native_arguments(&self) -> Option<Vec<String>> {
        let value = self.value.clone()?;
        if self.shell {
            return Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), value]);
        }
        // The first argument is what the program is told its name is; the file to run is the value.
        Some(
            std::iter::once(value)
                .chain(self.arguments.iter().skip(1).cloned())
                .collect(),
        )
    }
}

impl Preparer {
    pub(crate) async fn prepare(&self, order: Order) -> Result<Ready, PrepareError> {
        let outcome = async { self.hand_over(&order, self.attempt(&order).await?).await }.await;
        if let Err(error) = &outcome {
            sandbox::complain(&self.work_dir.join(&order.sandbox), &error.to_string());
        }
        outcome
    }

    /// Makes a task's directory its user's.
    async fn hand_over(&self, order: &Order, mut ready: Ready) -> Result<Ready, PrepareError> {
        if ready.plan.body() == launch_plan::Body::Wasm {
            if let Some(user) = self.wasm_user(order)? {
                let sandbox = PathBuf::from(&ready.plan.sandbox);
                give_all(vec![sandbox], user).await?;
            }
            return Ok(ready);
        }
        if !self.switch_user {
            return Ok(ready);
        }
        let wasm = order
            .info
            .container
            .as_ref()
            .and_then(|one| one.wasm.as_ref());
        let fallback = wasm.and_then(|wasm| wasm.fallback.as_ref());
        let command = fallback.or(order.info.command.as_ref());
        if let Some(user) = user_of(command, &order.framework) {
            let identity = Identity::of(user).map_err(UserError::from)?;
            own_directory(&identity, Path::new(&ready.plan.sandbox)).await?;
            ready.plan.user = Some(user.to_owned());
        }
        Ok(ready)
    }

    /// As whom the framework's wasm tasks run, if not as the agent's user.
    fn wasm_user(&self, order: &Order) -> Result<Option<u32>, PrepareError> {
        match &self.surroundings.wall {
            Some(wall) => Ok(wall.user_of(&order.framework)?),
            None => Ok(None),
        }
    }

    async fn attempt(&self, order: &Order) -> Result<Ready, PrepareError> {
        if let Some(what) = unsupported(&order.info) {
            return Err(PrepareError::Unsupported(what));
        }
        refuse_wasm_checks(&order.info)?;
        let wasm = order
            .info
            .container
            .as_ref()
            .and_then(|container| container.wasm.as_ref());
        let command = order.info.command.as_ref();
        let artifact = wasm.and_then(|wasm| wasm.artifact.as_ref());
        let uris: Vec<&Uri> = command
            .iter()
            .flat_map(|command| &command.uris)
            .chain(artifact)
            .collect();
        let (made, fetched) = tokio::join!(self.make_sandbox(order), self.fetch_all(&uris));
        let (path, fetched) = (made?, fetched?);
        let asked_for_wasm = order.info.container.as_ref().is_some_and(|container| {
            container.r#type == i32::from(v1::container_info::Type::Wasm)
                || container.wasm.is_some()
        });
        let outcome = self
            .choose(order, &path, fetched, artifact.is_some(), asked_for_wasm)
            .await;
        let fallback = wasm.and_then(|wasm| wasm.fallback.as_ref());
        let mut ready = match (outcome, fallback) {
            (Err(error), Some(fallback)) if can_fall_back(&error) => {
                let native = self.fall_back(order, &path, fallback, &error).await;
                native.map_err(|native| PrepareError::NoBody {
                    wasm: error.to_string(),
                    native: native.to_string(),
                })?
            }
            (outcome, _) => outcome?,
        };
        let (body, resources) = (ready.plan.body(), volumes_of(&order.info.resources));
        if let Some(what) = unsupported_as(body, order.info.container.as_ref()) {
            return Err(PrepareError::Unsupported(what));
        }
        let mut mounts = self.volumes.mount(&path, resources, body).await?;
        mounts.extend(self.lay_datasets(order, &path, &mut ready.plan).await?);
        let (container, of_executor) = self.share_volumes(order)?;
        let of_executor = self.volumes.mount(&path, of_executor, body).await?;
        mounts.extend(of_executor);
        ready.plan.preopens = self.lay_volumes(order, container, path, body).await?;
        match body {
            launch_plan::Body::Wasm => {
                if let Some(user) = self.wasm_user(order)? {
                    let laid = ready.plan.preopens.iter();
                    // Not those of the host, which are whose they are.
                    let laid = laid
                        .map(|volume| Path::new(&volume.host_path))
                        .filter(|path| path.starts_with(&self.work_dir));
                    let kept = mounts.iter().filter(|mount| !mount.read_only());
                    let kept = kept.map(|mount| Path::new(&mount.host_path));
                    give_all(laid.chain(kept).map(Path::to_path_buf).collect(), user).await?;
                }
                ready.plan.preopens.extend(mounts.into_iter().map(opened));
            }
            launch_plan::Body::Native => ready.plan.mounts = mounts,
        }
        Ok(ready)
    }

    /// Makes the places for the data sets that the task asks for, and tells it in its environment where they are.
    async fn lay_datasets(
        &self,
        order: &Order,
        sandbox: &Path,
        plan: &mut LaunchPlan,
    ) -> Result<Vec<launch_plan::Mount>, PrepareError> {
        if order.info.datasets.is_empty() {
            return Ok(Vec::new());
        }
        let (datasets, role) = (self.datasets.clone(), allocation_role(order));
        let (info, path) = (order.info.clone(), sandbox.to_path_buf());
        let laying =
            tokio::task::spawn_blocking(move || datasets.lay(&path, &info.datasets, &role));
        let mounts = laying
            .await
            .map_err(|error| PrepareError::Sandbox(error.to_string()))??;
        for (asked, mount) in order.info.datasets.iter().zip(&mounts) {
            let place = match plan.body() {
                launch_plan::Body::Wasm => Path::new("/").join(&mount.container_path),
                launch_plan::Body::Native => sandbox.join(&mount.container_path),
            };
            let variable = datasets::variable(&asked.name, place.to_string_lossy().into_owned());
            if !plan.environment.iter().any(|set| set.name == variable.name) {
                plan.environment.push(variable);
            }
        }
        Ok(mounts)
    }

    /// The persistent volumes of a group's executor lie in its sandbox, and its tasks see those they ask for. Returns the
    /// task's container without these, and them.
    fn share_volumes(
        &self,
        order: &Order,
    ) -> Result<(Option<v1::ContainerInfo>, Vec<Volume>), PrepareError> {
        let mut container = order.info.container.clone();
        let Some(parent) = &order.parent else {
            return Ok((container, Vec::new()));
        };
        let kept = volumes_of(&parent.executor.resources);
        self.volumes.link(&parent.sandbox, &kept)?;
        let mut shared = Vec::new();
        if let Some(container) = &mut container {
            container.volumes.retain(|wanted| {
                let found = kept.iter().find(|kept| volumes::names(wanted, kept));
                shared.extend(found.map(|kept| Volume {
                    container_path: wanted.container_path.clone(),
                    read_only: kept.read_only || wanted.mode() == v1::volume::Mode::Ro,
                    shared: true,
                    ..kept.clone()
                }));
                found.is_none()
            });
        }
        Ok((container, shared))
    }

    /// Makes the task's volumes; those that are to be opened for it rather than linked.
    async fn lay_volumes(
        &self,
        order: &Order,
        container: Option<v1::ContainerInfo>,
        path: PathBuf,
        body: launch_plan::Body,
    ) -> Result<Vec<ext::wasm_info::Preopen>, PrepareError> {
        let parent = order.parent.as_ref();
        let parent = parent.map(|parent| self.work_dir.join(&parent.sandbox));
        let laying = tokio::task::spawn_blocking(move || {
            let container = container.as_ref();
            match body {
                launch_plan::Body::Wasm => volumes::preopens(container, &path, parent.as_deref()),
                launch_plan::Body::Native => {
                    volumes::link(container, &path, parent.as_deref()).map(|()| Vec::new())
                }
            }
        });
        let laid = laying
            .await
            .map_err(|error| PrepareError::Sandbox(error.to_string()))?;
        Ok(laid?)
    }

    async fn choose(
        &self,
        order: &Order,
        path: &Path,
        fetched: Vec<Fetched>,
        has_artifact: bool,
        asked_for_wasm: bool,
    ) -> Result<Ready, PrepareError> {
        let line = CommandLine::of(order.info.command.as_ref());
        let direct = match direct_program(&line, &fetched, has_artifact) {
            Ok(direct) => direct,
            Err(error) => {
                // Another body works with the same files.
                place_all(path, fetched).await?;
                return Err(error);
            }
        };
        // A module stays in the store: no copy for each of a thousand tasks, and nobody can change what was compiled.
        let module = direct
            .as_ref()
            .filter(|(_, program)| program.format.is_wasm())
            .map(|(index, _)| *index);
        let placed: Vec<Fetched> = fetched
            .into_iter()
            .enumerate()
            .filter(|(index, _)| Some(*index) != module)
            .map(|(_, one)| one)
            .collect();
        place_all(path, placed).await?;
        let program = match direct {
            Some((_, program)) => Some(program),
            None => self.indirect_program(&line, path).await?,
        };
        match program {
            Some(program) if program.format.is_wasm() => {
                self.wasm_plan(order, path, &line, program).await
            }
            Some(program) if has_artifact || asked_for_wasm => {
                Err(PrepareError::NotWasm { name: program.name })
            }
            Some(program) => {
                let mut line = line;
                if line.value.is_none() {
                    // The sole fetched file is the program; it runs from where it was put.
                    line.shell = false;
                    line.value = Some(format!("./{}", program.name));
                }
                self.native_plan(
                    order,
                    path,
                    order.info.command.as_ref(),
                    &line,
                    "the program is no wasm module".to_owned(),
                )
            }
            None if asked_for_wasm => Err(PrepareError::NotWasm {
                name: line.program().unwrap_or("the command").to_owned(),
            }),
            None => {
                let reason = "the command names no wasm module".to_owned();
                self.native_plan(order, path, order.info.command.as_ref(), &line, reason)
            }
        }
    }

    async fn wasm_plan(
        &self,
        order: &Order,
        path: &Path,
        line: &CommandLine,
        program: Program,
    ) -> Result<Ready, PrepareError> {
        let wasm = order.info.container.as_ref();
        let wasm = wasm.and_then(|container| container.wasm.as_ref());
        let (hosts, preopens) = wasm
            .map(|wasm| (wasm.allowed_hosts.as_slice(), wasm.preopens.clone()))
            .unwrap_or_default();
        let network_policy = self.surroundings.reach.policy(hosts)?;
        let surroundings = Arc::clone(&self.surroundings);
        let opening =
            tokio::task::spawn_blocking(move || surroundings.reach.directories(&preopens));
        let host_directories = opening
            .await
            .map_err(|error| PrepareError::Sandbox(error.to_string()))??;
        let listen = reach::listen(self.surroundings.endpoint.ip(), &reach::ports(&order.info));
        let environment = self.environment_of(order, path, order.info.command.as_ref(), false)?;
        let arguments = line.guest_arguments(&program.name, &environment)?;
        let metered = order.info.limits.contains_key(FUEL);
        let tell = |sentence: &str| sandbox::complain(path, &format!("tepui: {sentence}"));
        let owner = order.framework.id.as_ref().map_or("", |id| &id.value);
        let compiled = self.compiler.compile(&program.pin, metered, owner, &tell);
        let compiled = compiled.await?;
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let plan = LaunchPlan {
            body: launch_plan::Body::Wasm.into(),
            reason: Some(format!("'{}' is {}", program.name, program.format.noun())),
            sandbox: path.to_string_lossy().into_owned(),
            container_id: order.container_id.clone(),
            module_path: Some(text(program.pin.path())),
            module_sha256: Some(program.pin.name().to_owned()),
            compiled_path: Some(text(compiled.pin.path())),
            baseline: Some(compiled.baseline),
            metered: Some(metered),
            arguments,
            environment: variables(environment),
            listen,
            network_policy,
            host_directories,
            user: None,
            preopens: Vec::new(),
            mounts: Vec::new(),
        };
        Ok(Ready {
            plan,
            pins: vec![program.pin, compiled.pin],
        })
    }

    async fn fall_back(
        &self,
        order: &Order,
        path: &Path,
        fallback: &v1::CommandInfo,
        error: &PrepareError,
    ) -> Result<Ready, PrepareError> {
        let uris: Vec<&Uri> = fallback.uris.iter().collect();
        let fetched = self.fetch_all(&uris).await?;
        let mut line = CommandLine::of(Some(fallback));
        if line.value.is_none()
            && let [sole] = fetched.as_slice()
            && sole.wanted.archive.is_none()
        {
            line.shell = false;
            line.value = Some(format!("./{}", sole.wanted.name.display()));
        }
        place_all(path, fetched).await?;
        check_architecture(path, &line).await?;
        let mut reason = format!("the wasm body cannot run: {error}");
        if order.info.limits.contains_key(FUEL) {
            reason.push_str("; no fuel is counted");
        }
        self.native_plan(order, path, Some(fallback), &line, reason)
    }

    async fn make_sandbox(&self, order: &Order) -> Result<PathBuf, PrepareError> {
        let (work_dir, name) = (self.work_dir.clone(), order.sandbox.clone());
        let task = order.info.task_id.value.clone();
        let parent = order.parent.as_ref().map(|parent| parent.sandbox.clone());
        let made = tokio::task::spawn_blocking(move || match parent {
            Some(parent) => sandbox::create_nested(&work_dir, &parent, &name, &task),
            None => sandbox::create(&work_dir, &name),
        })
        .await;
        let path = match made {
            Ok(Ok(path)) => path,
            Ok(Err(error)) => return Err(PrepareError::Sandbox(error.to_string())),
            Err(error) => return Err(PrepareError::Sandbox(error.to_string())),
        };
        order.phase.send_if_modified(|phase| {
            let first = *phase == Phase::Preparing;
            if first {
                *phase = Phase::Ready;
            }
            first
        });
        Ok(path)
    }

    async fn fetch_all(&self, uris: &[&Uri]) -> Result<Vec<Fetched>, PrepareError> {
        let fetches = uris.iter().map(|uri| async {
            let wanted = self.fetcher.wanted(uri)?;
            let pin = self.fetcher.fetch(&wanted).await?;
            Ok::<_, PrepareError>(Fetched { wanted, pin })
        });
        futures::future::try_join_all(fetches).await
    }

    /// Fetches what a custom executor's command names and puts it into its sandbox.
    pub(crate) async fn furnish(&self, path: &Path, uris: &[Uri]) -> Result<(), PrepareError> {
        let uris: Vec<&Uri> = uris.iter().collect();
        place_all(path, self.fetch_all(&uris).await?).await
    }

    /// A program that came out of an archive, or lies on this machine.
    async fn indirect_program(
        &self,
        line: &CommandLine,
        path: &Path,
    ) -> Result<Option<Program>, PrepareError> {
        let Some(name) = line.program().map(str::to_owned) else {
            return Ok(None);
        };
        // A shell's first word names a file of the sandbox only if it has that form; `echo` is nobody's file.
        let (fetcher, path, shell) = (self.fetcher.clone(), path.to_path_buf(), line.shell);
        let found = tokio::task::spawn_blocking(move || {
            let file = if name.starts_with('/') && !shell {
                // Pipes and devices are not programs, and nothing is waited for.
                let file = File::options()
                    .read(true)
                    .custom_flags(libc::O_NONBLOCK)
                    .open(&name)
                    .ok()?;
                file.metadata().ok().filter(std::fs::Metadata::is_file)?;
                file
            } else {
                Directory::open(&path)
                    .ok()?
                    .open_file(Path::new(&name))
                    .ok()?
            };
            let mut file = file;
            let format = Format::of(&name, &beginning(&mut file).ok()?);
            if !format.is_wasm() {
                return None;
            }
            io::Seek::rewind(&mut file).ok()?;
            Some(fetcher.ingest(&name, &mut file).map(|pin| Program {
                name: name.clone(),
                format,
                pin,
            }))
        });
        match found.await {
            Ok(Some(program)) => Ok(Some(program?)),
            Ok(None) => Ok(None),
            Err(error) => Err(PrepareError::Sandbox(error.to_string())),
        }
    }
}

/// Makes directories, and all that is in them, a user's.
async fn give_all(directories: Vec<PathBuf>, user: u32) -> Result<(), PrepareError> {
    let giving = tokio::task::spawn_blocking(move || {
        directories
            .iter()
            .try_for_each(|directory| give_unless_theirs(directory, user))
    });
    let given = giving
        .await
        .map_err(|error| UserError::Give(error.to_string()))?;
    Ok(given.map_err(|error| UserError::Give(error.to_string()))?)
}

/// A volume as a directory that is opened for a guest; its sandbox is the root of what it sees.
fn opened(mount: launch_plan::Mount) -> ext::wasm_info::Preopen {
    ext::wasm_info::Preopen {
        guest_path: format!("/{}", mount.container_path),
        host_path: mount.host_path,
        read_only: mount.read_only,
    }
}

/// Whether the fault lies in the wasm body itself, so that another body could do better. What cannot be fetched, what the
/// operator does not allow and what is wrong with the task would only be hidden by it.
fn can_fall_back(error: &PrepareError) -> bool {
    match error {
        // The next task may find the queue shorter; which body runs is not to depend on that.
        PrepareError::Compile(error) => *error != CompileError::Busy,
        PrepareError::NotWasm { .. } => true,
        _ => false,
    }
}

/// Looks whether a program in the sandbox is for this machine: the system's own word for it is "Exec format error".
async fn check_architecture(path: &Path, line: &CommandLine) -> Result<(), PrepareError> {
    let Some(name) = line.program().map(str::to_owned) else {
        return Ok(());
    };
    let (path, file) = (path.to_path_buf(), name.clone());
    let looking = tokio::task::spawn_blocking(move || {
        let directory = Directory::open(&path).ok()?;
        let mut file = directory.open_file(Path::new(&file)).ok()?;
        kind::foreign_architecture(&beginning(&mut file).ok()?)
    });
    let looked = looking
        .await
        .map_err(|error| PrepareError::Sandbox(error.to_string()))?;
    match looked {
        Some(has) => Err(PrepareError::Architecture {
            name,
            has,
            own: std::env::consts::ARCH,
        }),
        None => Ok(()),
    }
}

/// The program among the fetched files, with its place.
fn direct_program(
    line: &CommandLine,
    fetched: &[Fetched],
    has_artifact: bool,
) -> Result<Option<(usize, Program)>, PrepareError> {
    let index = if has_artifact {
        fetched.len().checked_sub(1)
    } else if let Some(word) = line.program() {
        let word = Path::new(word.strip_prefix("./").unwrap_or(word));
        fetched
            .iter()
            .position(|one| one.wanted.archive.is_none() && one.wanted.name == word)
    } else if let [sole] = fetched {
        if sole.wanted.archive.is_some() {
            return Err(PrepareError::NoProgram);
        }
        Some(0)
    } else if fetched.is_empty() {
        None
    } else {
        return Err(PrepareError::NoProgram);
    };
    let Some(index) = index else { return Ok(None) };
    let one = &fetched[index];
    let name = one.wanted.name.to_string_lossy().into_owned();
    let first = File::open(one.pin.path()).and_then(|mut file| beginning(&mut file));
    let first = first.map_err(|error| PrepareError::Place {
        name: name.clone(),
        cause: error.to_string(),
    })?;
    let format = Format::of(&name, &first);
    // Handing such a file to the system, or its shell, could only end in something nobody meant.
    if !format.is_wasm()
        && Path::new(&name)
            .extension()
            .is_some_and(|ending| ending == "wasm")
    {
        return Err(PrepareError::NotWasm { name });
    }
    Ok(Some((
        index,
        Program {
            name,
            format,
            pin: one.pin.clone(),
        },
    )))
}

fn beginning(file: &mut File) -> io::Result<Vec<u8>> {
    let mut first = Vec::with_capacity(kind::MAGIC_BYTES);
    file.take(kind::MAGIC_BYTES as u64)
        .read_to_end(&mut first)?;
    Ok(first)
}

async fn place_all(path: &Path, fetched: Vec<Fetched>) -> Result<(), PrepareError> {
    if fetched.is_empty() {
        return Ok(());
    }
    let path = path.to_path_buf();
    let placing = tokio::task::spawn_blocking(move || {
        let directory =
            Directory::open(&path).map_err(|error| PrepareError::Sandbox(error.to_string()))?;
        fetched.iter().try_for_each(|one| place(&directory, one))
    });
    placing
        .await
        .map_err(|error| PrepareError::Sandbox(error.to_string()))?
}

/// Puts one file where the task looks for it. As in Mesos, an archive's own file is left there too unless it came from
/// the cache.
fn place(directory: &Directory, one: &Fetched) -> Result<(), PrepareError> {
    let wanted = &one.wanted;
    if wanted.archive.is_none() || !wanted.cache {
        let mode = if wanted.executable { 0o755 } else { 0o644 };
        // Behind a link of an archive the name would not be the place.
        let placed = directory
            .without_links()
            .and_then(|directory| directory.create_file(&wanted.name, mode))
            .and_then(|file| store::copy_to(&one.pin.path(), file));
        placed.map_err(|error| PrepareError::Place {
            name: wanted.name.display().to_string(),
            cause: match error.kind() {
                io::ErrorKind::StorageFull => "the disk is full".to_owned(),
                _ => error.to_string(),
            },
        })?;
    }
    match wanted.archive {
        Some(archive) => archive
            .extract(&one.pin.path(), &wanted.name.to_string_lossy(), directory)
            .map_err(|error| PrepareError::Unpack {
                uri: wanted.uri.clone(),
                cause: error.to_string(),
            }),
        None => Ok(()),
    }
}

impl Preparer {
    fn native_plan(
        &self,
        order: &Order,
        path: &Path,
        command: Option<&v1::CommandInfo>,
        line: &CommandLine,
        reason: String,
    ) -> Result<Ready, PrepareError> {
        let arguments = match line.native_arguments() {
            Some(arguments) => arguments,
            // With an executor of its own, a task need not have a command.
            None if order.info.executor.is_some() => Vec::new(),
            None => return Err(PrepareError::NoCommand),
        };
        let environment = self.environment_of(order, path, command, true)?;
        let plan = LaunchPlan {
            body: launch_plan::Body::Native.into(),
            reason: Some(reason),
            sandbox: path.to_string_lossy().into_owned(),
            container_id: order.container_id.clone(),
            arguments,
            environment: variables(environment),
            ..LaunchPlan::default()
        };
        Ok(Ready {
            plan,
            pins: Vec::new(),
        })
    }

    /// The whole environment of a task: its executor's, and what is its own.
    fn environment_of(
        &self,
        order: &Order,
        path: &Path,
        command: Option<&v1::CommandInfo>,
        native: bool,
    ) -> Result<BTreeMap<String, String>, PrepareError> {
        let task_id = order.info.task_id.value.as_str();
        let framework = order.framework.id.as_ref();
        let parent = order.parent.as_ref();
        let above = parent.map(|parent| self.work_dir.join(&parent.sandbox));
        let mut environment = self.surroundings.of(&Executor {
            framework: framework.map_or("", |id| id.value.as_str()),
            // A task that is nobody else's is its own executor's only one.
            executor: parent.map_or(task_id, |parent| &parent.executor.executor_id.value),
            sandbox: &order.sandbox,
            directory: above.as_deref().unwrap_or(path),
            checkpoint: order.framework.checkpoint.unwrap_or(false),
            info: parent.map(|parent| &*parent.executor),
        });
        let mut set = |name: &str, value: String| environment.insert(name.to_owned(), value);
        // A guest sees no other directory than its own.
        let shown = if native { path } else { Path::new("/") };
        set("MESOS_SANDBOX", shown.to_string_lossy().into_owned());
        set("MESOS_TASK_ID", task_id.to_owned());
        set("MESOS_ALLOCATION_ROLE", allocation_role(order));
        for (name, value) in reach::port_variables(&reach::ports(&order.info)) {
            set(&name, value);
        }
        if parent.is_some() {
            let address = self.surroundings.endpoint.ip();
            set("MESOS_CONTAINER_IP", address.to_string());
        }
        add_variables(&mut environment, command)?;
        if native {
            let path = || DEFAULT_PATH.to_owned();
            environment.entry("PATH".to_owned()).or_insert_with(path);
        }
        Ok(environment)
    }
}

/// The commands of checks are native, whatever the task is.
fn refuse_wasm_checks(task: &v1::TaskInfo) -> Result<(), PrepareError> {
    let check = task.check.as_ref().and_then(|check| check.command.as_ref());
    let health_check = task.health_check.as_ref();
    let commands = check
        .map(|check| &check.command)
        .into_iter()
        .chain(health_check.and_then(|check| check.command.as_ref()));
    for command in commands {
        let line = CommandLine::of(Some(command));
        let name = line.program().unwrap_or_default();
        let ending = Path::new(name).extension();
        if ending.is_some_and(|ending| ending == "wasm" || ending == "wat") {
            return Err(PrepareError::WasmCheck {
                name: name.to_owned(),
            });
        }
    }
    Ok(())
}

/// Adds what a command sets, which goes before everything else.
pub(crate) fn add_variables(
    environment: &mut BTreeMap<String, String>,
    command: Option<&v1::CommandInfo>,
) -> Result<(), PrepareError> {
    let set = command.and_then(|command| command.environment.as_ref());
    for variable in set.iter().flat_map(|set| &set.variables) {
        let secret = variable.secret.as_ref();
        let value = match (&variable.value, secret) {
            (Some(value), _) => value.clone(),
            (
                None,
                Some(v1::Secret {
                    value: Some(secret),
                    ..
                }),
            ) => String::from_utf8_lossy(&secret.data).into_owned(),
            (None, Some(_)) => {
                return Err(PrepareError::Secret {
                    name: variable.name.clone(),
                });
            }
            (None, None) => String::new(),
        };
        environment.insert(variable.name.clone(), value);
    }
    Ok(())
}

fn allocation_role(order: &Order) -> String {
    let allocated = order
        .info
        .resources
        .iter()
        .find_map(|resource| resource.allocation_info.as_ref()?.role.clone());
    allocated
        .or_else(|| tepui_api::roles_of(&order.framework).into_iter().next())
        .unwrap_or_else(|| "*".to_owned())
}

fn variables(environment: BTreeMap<String, String>) -> Vec<environment::Variable> {
    let variable = |(name, value)| environment::Variable {
        name,
        value: Some(value),
        ..Default::default()
    };
    environment.into_iter().map(variable).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use tepui_api::ext::WasmInfo;

    use super::*;
    use crate::compile::CompileLimits;
    use crate::store::Store;
    use crate::testing::{Reply, TestServer};

    const MODULE: &[u8] = b"\0asm\x01\0\0\0 rest";
    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    struct Bench {
        directory: tempfile::TempDir,
        server: TestServer,
        preparer: Preparer,
    }

    async fn bench() -> Bench {
        with_compiler("cp \"$3\" \"$5\"").await
    }

    async fn with_compiler(script: &str) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        let keys =
            r#"if [ "$2" = --print-key ]; then echo '{"plain":"p","metered":"m"}'; exit; fi"#;
        std::fs::write(
            &program,
            format!("#!/bin/sh\nPATH=/usr/bin:/bin\n{keys}\n{script}\n"),
        )
        .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let store = |name: &str| Store::open(directory.path().join(name), 1 << 20).unwrap();
        let limits = CompileLimits {
            workers: 1,
            time: Duration::from_secs(60),
            memory_bytes: 1 << 30,
            module_bytes: 1 << 20,
            quick_above_bytes: 1 << 20,
            shut_in: false,
        };
        let preparer = Preparer {
            work_dir: directory.path().to_path_buf(),
            switch_user: false,
            fetcher: crate::testing::fetcher(store("fetch")),
            compiler: Compiler::new(program, store("compiled"), limits),
            surroundings: Arc::new(crate::testing::surroundings(directory.path())),
            volumes: Volumes::start(
                directory.path().to_path_buf(),
                tokio::sync::mpsc::channel(1).0,
            )
            .unwrap(),
            datasets: Datasets::default(),
        };
        Bench {
            preparer,
            server: TestServer::start().await,
            directory,
        }
    }

    const SANDBOX: &str = "slaves/s/frameworks/f/executors/t/runs/c";

    impl Bench {
        fn serve(&self, name: &str, bytes: &[u8]) -> Uri {
            let path = format!("/{name}");
            self.server.reply(&path, Reply::bytes(bytes.to_vec()));
            Uri {
                value: self.server.url(&path),
                ..Default::default()
            }
        }

        async fn prepare(&self, info: v1::TaskInfo) -> Result<Ready, PrepareError> {
            let framework = v1::FrameworkInfo {
                id: Some(v1::FrameworkId {
                    value: "f".to_owned(),
                }),
                ..Default::default()
            };
            let order = Order {
                info: Arc::new(info),
                framework: Arc::new(framework),
                container_id: "c".to_owned(),
                sandbox: SANDBOX.to_owned(),
                parent: None,
                phase: watch::channel(Phase::Preparing).0,
            };
            self.preparer.prepare(order).await
        }

        async fn command(&self, command: v1::CommandInfo) -> Result<Ready, PrepareError> {
            self.prepare(task(command)).await
        }

        fn sandboxed(&self, name: &str) -> PathBuf {
            self.directory.path().join(SANDBOX).join(name)
        }
    }

    fn task(command: v1::CommandInfo) -> v1::TaskInfo {
        v1::TaskInfo {
            task_id: v1::TaskId {
                value: "t".to_owned(),
            },
            command: Some(command),
            ..Default::default()
        }
    }

    fn command(value: &str, uris: Vec<Uri>) -> v1::CommandInfo {
        v1::CommandInfo {
            value: (!value.is_empty()).then(|| value.to_owned()),
            uris,
            ..Default::default()
        }
    }

    fn is_wasm(ready: &Ready) -> bool {
        ready.plan.body == i32::from(launch_plan::Body::Wasm)
    }

    fn variable(ready: &Ready, name: &str) -> Option<String> {
        ready
            .plan
            .environment
            .iter()
            .find(|variable| variable.name == name)?
            .value
            .clone()
    }

    fn tgz(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut builder = tar::Builder::new(encoder);
        for (name, body) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(body.len() as u64);
            header.set_mode(0o755);
            builder.append_data(&mut header, name, *body).unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap()
    }

    #[tokio::test]
    async fn a_command_line_whose_first_word_is_a_fetched_module_runs_as_wasm() {
        let bench = bench().await;
        let uri = bench.serve("hello.wasm", MODULE);
        let ready = bench
            .command(command("./hello.wasm 'a b' $MESOS_TASK_ID", vec![uri]))
            .await
            .unwrap();
        assert!(is_wasm(&ready));
        assert_eq!(ready.plan.arguments, ["./hello.wasm", "a b", "t"]);
        assert_eq!(
            std::fs::read(ready.plan.module_path.as_ref().unwrap()).unwrap(),
            MODULE
        );
        assert_eq!(
            std::fs::read(ready.plan.compiled_path.as_ref().unwrap()).unwrap(),
            MODULE
        );
        assert_eq!(ready.plan.metered, Some(false));
        assert_eq!(ready.pins.len(), 2);
        assert_eq!(variable(&ready, "PATH"), None);
        assert_eq!(variable(&ready, "MESOS_FRAMEWORK_ID").as_deref(), Some("f"));
        assert!(bench.sandboxed("stdout").exists());
    }

    #[tokio::test]
    async fn a_sole_fetched_module_is_the_program_whatever_it_is_called() {
        let bench = bench().await;
        let uri = bench.serve("tool", MODULE);
        let arguments = vec!["x".to_owned()];
        let ready = bench
            .command(v1::CommandInfo {
                arguments,
                ..command("", vec![uri])
            })
            .await
            .unwrap();
        assert!(is_wasm(&ready));
        assert_eq!(ready.plan.arguments, ["tool", "x"]);
    }

    #[tokio::test]
    async fn without_a_shell_the_first_argument_may_repeat_the_programs_name() {
        let bench = bench().await;
        for (arguments, expected) in [
            (vec!["a"], vec!["m.wasm", "a"]),
            (vec!["m.wasm", "a"], vec!["m.wasm", "a"]),
        ] {
            let uri = bench.serve("m.wasm", MODULE);
            let command = v1::CommandInfo {
                shell: Some(false),
                arguments: arguments.into_iter().map(str::to_owned).collect(),
                ..command("m.wasm", vec![uri])
            };
            assert_eq!(
                bench.command(command).await.unwrap().plan.arguments,
                expected
            );
        }
    }

    #[tokio::test]
    async fn a_module_out_of_an_archive_is_found_too() {
        let bench = bench().await;
        let uri = bench.serve(
            "app.tar.gz",
            &tgz(&[("bin/app.wasm", MODULE), ("data", b"data")]),
        );
        let ready = bench
            .command(command("bin/app.wasm", vec![uri]))
            .await
            .unwrap();
        assert!(is_wasm(&ready));
        assert!(
            Path::new(ready.plan.module_path.as_ref().unwrap())
                .starts_with(bench.directory.path().join("fetch"))
        );
        assert_eq!(std::fs::read(bench.sandboxed("data")).unwrap(), b"data");
        assert!(bench.sandboxed("app.tar.gz").exists());
    }

    #[tokio::test]
    async fn an_archive_from_the_cache_leaves_only_its_content() {
        let bench = bench().await;
        let uri = Uri {
            cache: Some(true),
            ..bench.serve("app.tgz", &tgz(&[("data", b"data")]))
        };
        bench.command(command("true", vec![uri])).await.unwrap();
        assert!(bench.sandboxed("data").exists() && !bench.sandboxed("app.tgz").exists());
    }

    #[tokio::test]
    async fn a_hostile_archive_fails_the_task_with_a_sentence() {
        let bench = bench().await;
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..10].copy_from_slice(b"../planted");
        header.set_size(0);
        header.set_cksum();
        builder.append(&header, io::empty()).unwrap();
        let uri = bench.serve("evil.tar", &builder.into_inner().unwrap());
        let text = bench
            .command(command("true", vec![uri]))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("'../planted' would be unpacked outside the sandbox"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_native_command_gets_its_files_a_path_and_its_variables() {
        let bench = bench().await;
        let uri = Uri {
            executable: Some(true),
            output_file: Some("bin/run".to_owned()),
            ..bench.serve("run.sh", b"#!/bin/sh\n")
        };
        let variables = vec![environment::Variable {
            name: "GREETING".to_owned(),
            value: Some("hi".to_owned()),
            ..Default::default()
        }];
        let environment = Some(v1::Environment { variables });
        let line = "bin/run | cat";
        let command = v1::CommandInfo {
            environment,
            ..command(line, vec![uri])
        };
        let ready = bench.command(command).await.unwrap();
        assert!(!is_wasm(&ready));
        assert_eq!(ready.plan.arguments, ["/bin/sh", "-c", line]);
        assert_eq!(variable(&ready, "GREETING").as_deref(), Some("hi"));
        assert_eq!(variable(&ready, "PATH").as_deref(), Some(DEFAULT_PATH));
        assert_eq!(variable(&ready, "HOME"), None);
        assert_eq!(
            bench
                .sandboxed("bin/run")
                .metadata()
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o755
        );
    }

    #[tokio::test]
    async fn a_native_vector_runs_the_value_and_drops_the_name_it_is_told() {
        let bench = bench().await;
        let arguments = ["ls", "-l"].map(str::to_owned).to_vec();
        let command = v1::CommandInfo {
            shell: Some(false),
            arguments,
            ..command("/bin/ls", vec![])
        };
        assert_eq!(
            bench.command(command).await.unwrap().plan.arguments,
            ["/bin/ls", "-l"]
        );
        let none = bench.command(v1::CommandInfo::default()).await.unwrap_err();
        assert!(matches!(none, PrepareError::NoCommand), "{none}");
    }

    #[tokio::test]
    async fn a_container_of_a_kind_that_is_not_run_here_is_refused() {
        let bench = bench().await;
        for (container, named) in [
            (
                r#"{ "type": "DOCKER", "docker": { "image": "x" } }"#,
                "DOCKER",
            ),
            (
                r#"{ "type": "MESOS", "mesos": { "image": { "type": "DOCKER", "docker": { "name": "x" } } } }"#,
                "image",
            ),
            (
                r#"{ "type": "MESOS", "network_infos": [{ "name": "cni" }] }"#,
                "network_infos",
            ),
        ] {
            let refused = bench.prepare(v1::TaskInfo {
                container: Some(tepui_api::json::from_slice(container.as_bytes()).unwrap()),
                ..task(command("/bin/ls", vec![]))
            });
            let refused = refused.await.unwrap_err().to_string();
            assert!(refused.contains(named), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_component_is_compiled_and_run_as_a_module_is() {
        let bench = bench().await;
        let uri = bench.serve("c.wasm", COMPONENT);
        let ready = bench.command(command("c.wasm", vec![uri])).await.unwrap();
        assert!(is_wasm(&ready));
        assert_eq!(
            ready.plan.reason.as_deref(),
            Some("'c.wasm' is a wasm component")
        );
    }

    #[tokio::test]
    async fn a_fuel_limit_asks_for_metered_code() {
        let bench = bench().await;
        let uri = bench.serve("m.wasm", MODULE);
        let mut info = task(command("m.wasm", vec![uri]));
        info.limits
            .insert("fuel".to_owned(), v1::value::Scalar { value: 1e6 });
        let ready = bench.prepare(info).await.unwrap();
        assert_eq!(ready.plan.metered, Some(true));
        assert!(ready.plan.compiled_path.unwrap().ends_with("-m.cwasm"));
    }

    fn wasm_task(artifact: Uri, fallback: Option<v1::CommandInfo>) -> v1::TaskInfo {
        let wasm = WasmInfo {
            artifact: Some(artifact),
            fallback,
            ..Default::default()
        };
        let container = v1::ContainerInfo {
            r#type: v1::container_info::Type::Wasm.into(),
            wasm: Some(wasm),
            ..Default::default()
        };
        let task_id = v1::TaskId {
            value: "t".to_owned(),
        };
        v1::TaskInfo {
            task_id,
            container: Some(container),
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn an_artifact_needs_no_command() {
        let bench = bench().await;
        let ready = bench
            .prepare(wasm_task(bench.serve("a.wasm", MODULE), None))
            .await
            .unwrap();
        assert!(is_wasm(&ready));
        assert_eq!(ready.plan.arguments, ["a.wasm"]);
    }

    #[tokio::test]
    async fn what_cannot_run_as_wasm_falls_back_and_says_why() {
        let bench = with_compiler(
            r#"echo '{"error":"import","message":"missing import env::foo"}'; exit 1"#,
        )
        .await;
        let fallback = command("./native", vec![bench.serve("native", b"#!/bin/sh\n")]);
        let ready = bench
            .prepare(wasm_task(bench.serve("a.wasm", MODULE), Some(fallback)))
            .await
            .unwrap();
        assert!(!is_wasm(&ready));
        assert_eq!(
            ready.plan.reason.as_deref(),
            Some("the wasm body cannot run: missing import env::foo")
        );
        assert!(bench.sandboxed("native").exists());
        let alone = bench
            .prepare(wasm_task(bench.serve("a.wasm", MODULE), None))
            .await
            .unwrap_err();
        let failure = PrepareFailure::from(alone);
        assert_eq!(failure.reason, Reason::ContainerLaunchFailed);
        assert_eq!(failure.message, "missing import env::foo");
    }

    /// The beginning of a program for that machine (`e_machine`).
    fn elf(machine: u8) -> Vec<u8> {
        let mut head = b"\x7fELF\x02\x01\x01".to_vec();
        head.resize(18, 0);
        head.extend([machine, 0]);
        head
    }

    #[tokio::test]
    async fn which_body_runs_depends_on_the_module_and_not_on_what_else_is_wrong() {
        let bench = with_compiler(
            r#"echo '{"error":"import","message":"missing import env::foo"}'; exit 1"#,
        )
        .await;
        let fallback = |name: &str, bytes: &[u8]| command("", vec![bench.serve(name, bytes)]);
        // Not a module at all: the fallback's only file is its program.
        let shell = fallback("native", b"#!/bin/sh\n");
        let ready = bench
            .prepare(wasm_task(bench.serve("a", b"text"), Some(shell.clone())))
            .await
            .unwrap();
        assert_eq!(ready.plan.arguments, ["./native"]);
        // What is missing is an error, whoever could do without it.
        let missing = Uri {
            value: bench.server.url("/missing"),
            ..Default::default()
        };
        let error = bench.prepare(wasm_task(missing, Some(shell.clone()))).await;
        assert!(matches!(error, Err(PrepareError::Fetch(_))), "{error:?}");
        // So is what the operator does not allow: it is looked at before the module is.
        let mut task = wasm_task(bench.serve("a.wasm", MODULE), Some(shell));
        let wasm = task.container.as_mut().unwrap().wasm.as_mut().unwrap();
        wasm.allowed_hosts = vec!["example.com".to_owned()];
        let error = bench.prepare(task).await;
        assert!(matches!(error, Err(PrepareError::Reach(_))), "{error:?}");
    }

    #[tokio::test]
    async fn a_native_body_for_another_machine_is_named_with_both_reasons() {
        let bench = with_compiler(
            r#"echo '{"error":"import","message":"missing import env::foo"}'; exit 1"#,
        )
        .await;
        let (own, other) = match std::env::consts::ARCH {
            "aarch64" => (183, 62),
            _ => (62, 183),
        };
        let task = |machine| {
            let fallback = command("", vec![bench.serve("native", &elf(machine))]);
            wasm_task(bench.serve("a.wasm", MODULE), Some(fallback))
        };
        let error = bench.prepare(task(other)).await.unwrap_err().to_string();
        assert!(
            error.starts_with(
                "the wasm body cannot run: missing import env::foo; nor can the native body: './native' is built for "
            ),
            "{error}"
        );
        assert!(bench.prepare(task(own)).await.is_ok());
        let mut fuelled = task(own);
        let fuel = v1::value::Scalar { value: 1.0 };
        fuelled.limits.insert(FUEL.to_owned(), fuel);
        let ready = bench.prepare(fuelled).await.unwrap();
        assert!(ready.plan.reason().ends_with("no fuel is counted"));
    }

    #[tokio::test]
    async fn a_fetch_that_fails_is_the_tasks_failure() {
        let bench = bench().await;
        let uri = Uri {
            value: bench.server.url("/nothing"),
            ..Default::default()
        };
        let text = bench
            .command(command("true", vec![uri]))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            text.ends_with("/nothing' failed: the server answered 404 Not Found; check the URI"),
            "{text}"
        );
    }
}
