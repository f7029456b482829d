//! The store of a guest: what it may see, hold and burn, and how it lets others have their turn.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use wasmtime::{AsContextMut, Engine, Store, Trap, UpdateDeadline};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::egress::Names;
use crate::guest::Guest;
use crate::guest::component::HOSTCALL_BYTES;
use crate::hosted::{Census, held};
use crate::http::Http;
use crate::limits::{Limits, MemoryLimit};
use crate::output::Output;
use crate::spec::TaskSpec;
use crate::task::Surroundings;

/// Fuel after which a metered guest yields. Without such an interval the count can lag behind for as long as a loop
/// runs; with it the count is right to within the interval.
const FUEL_INTERVAL: u64 = 1_000_000;

/// What the store of a guest carries.
pub(crate) struct State {
    /// Serves components as well.
    wasi: WasiP1Ctx,
    http_ctx: WasiHttpCtx,
    http: Http,
    limits: Limits,
    guest: Arc<Guest>,
    /// Why the guest's last call of the cluster failed.
    last_failure: Option<String>,
    census: Census,
    /// What the host holds for it is too much.
    over: Option<MemoryLimit>,
    engine: Engine,
    /// What it had left of its fuel when its task last paid.
    fuel: u64,
}

impl State {
    /// Counts now and then what the host holds for the guest. Too much ends it the next time it computes.
    fn take_stock(&mut self) {
        if !self.census.is_due() {
            return;
        }
        let held = held(self.wasi.ctx().table);
        match self.limits.host_holds(held) {
            Ok(()) => self.census.took(self.limits.room()),
            Err(limit) => {
                self.over = Some(limit);
                // Nobody waits for the clock.
                self.engine.increment_epoch();
            }
        }
    }

    /// The last growth of memory it was refused.
    pub(crate) fn refused(&self) -> Option<MemoryLimit> {
        self.limits.refused()
    }

    pub(crate) fn allows_lookup(&self, name: &str) -> bool {
        self.http.egress.allows_lookup(name)
    }

    pub(crate) fn meter(&self) -> &crate::limits::Meter {
        self.limits.meter()
    }

    /// What the task may ask of its cluster.
    pub(crate) fn guest(&self) -> &Arc<Guest> {
        &self.guest
    }

    pub(crate) fn last_failure(&self) -> Option<&str> {
        self.last_failure.as_deref()
    }

    pub(crate) fn set_last_failure(&mut self, message: String) {
        self.last_failure = Some(message);
    }

    pub(crate) fn limits(&mut self) -> &mut Limits {
        &mut self.limits
    }

    pub(crate) fn wasi(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }
}

/// Gives a store fuel, as much as its task has. Without a count of fuel there is none to give.
pub(crate) fn refuel(store: &mut Store<State>) -> bool {
    let fuel = store.data().meter().fuel_left();
    let given = store.set_fuel(fuel).is_ok();
    store.data_mut().fuel = fuel;
    given
}

/// Takes what a store has burnt since the last time from what its task has left.
pub(crate) fn settle(mut store: impl AsContextMut<Data = State>) {
    let mut store = store.as_context_mut();
    let Ok(left) = store.get_fuel() else { return };
    let state = store.data_mut();
    let burnt = std::mem::replace(&mut state.fuel, left).saturating_sub(left);
    state.meter().burn(burnt);
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.take_stock();
        WasiHttpCtxView {
            ctx: &mut self.http_ctx,
            table: self.wasi.ctx().table,
            hooks: &mut self.http,
        }
    }
}

/// What all stores of a task have in common.
pub(crate) struct Furniture {
    stdout: Output,
    stderr: Output,
    /// Whether its directories are opened for it.
    files: bool,
}

impl Furniture {
    /// Makes the output files. The error is a sentence.
    pub(crate) fn new(
        spec: &TaskSpec,
        surroundings: &Surroundings,
        files: bool,
    ) -> Result<Self, String> {
        let output = |name| {
            Output::create(
                spec.sandbox.join(name),
                &surroundings.outputs,
                spec.output_limit,
                &surroundings.meter,
            )
        };
        Ok(Self {
            stdout: output("stdout")?,
            stderr: output("stderr")?,
            files,
        })
    }

    /// Where a guest's complaints go, and those about it.
    pub(crate) fn stderr(&self) -> &Output {
        &self.stderr
    }

    /// Whether a store of it holds directories open.
    pub(crate) fn has_files(&self) -> bool {
        self.files
    }

    /// A store for one instance, which may hold so many bytes of its task's memory. The error is a sentence.
    pub(crate) fn store(
        &self,
        spec: &TaskSpec,
        engine: &Engine,
        surroundings: &Surroundings,
        memory: Option<u64>,
    ) -> Result<Store<State>, String> {
        let state = State {
            wasi: self.wasi(spec)?,
            http_ctx: WasiHttpCtx::new(),
            http: Http {
                egress: Arc::clone(&spec.egress),
            },
            limits: Limits::new(
                spec.memory_limit,
                spec.memory_policy,
                Arc::clone(&surroundings.meter),
            )
            .with_own(memory),
            guest: Arc::clone(&surroundings.guest),
            last_failure: None,
            census: Census::default(),
            over: None,
            engine: engine.clone(),
            fuel: 0,
        };

        let mut store = Store::new(engine, state);
        store.data_mut().ctx().table.set_max_capacity(spec.handles);
        store.limiter(|state| &mut state.limits);
        store.set_hostcall_fuel(HOSTCALL_BYTES);
        let metered = refuel(&mut store);
        if metered {
            store
                .fuel_async_yield_interval(Some(FUEL_INTERVAL))
                .map_err(|error| format!("fuel cannot be counted: {error:#}"))?;
        }
        let share = Arc::clone(&surroundings.share);
        let meter = Arc::clone(&surroundings.meter);
        let switch = Arc::clone(&surroundings.switch);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |mut context| {
            if switch.is_off() {
                return Ok(UpdateDeadline::Interrupt);
            }
            if let Some(limit) = context.data().over {
                return Err(limit.into());
            }
            if metered {
                settle(&mut context);
                // The task's other instances burn of the same.
                if meter.fuel_left() == 0 {
                    return Err(Trap::OutOfFuel.into());
                }
            }
            // A plain yield would be run again at once, ahead of every timer and neighbour.
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(share.turn())))
        });
        Ok(store)
    }

    fn wasi(&self, spec: &TaskSpec) -> Result<WasiP1Ctx, String> {
        let mut builder = WasiCtxBuilder::new();
        if spec.egress.is_open() || !spec.listen.is_empty() {
            let egress = Arc::clone(&spec.egress);
            let names = Arc::new(Names::default());
            builder
                .allow_tcp(true)
                .allow_udp(true)
                .allow_ip_name_lookup(true)
                .socket_addr_check(move |address, usage| {
                    let (egress, names) = (Arc::clone(&egress), Arc::clone(&names));
                    Box::pin(async move { egress.allows_socket(address, usage, &names).await })
                });
        }
        builder
            .args(&spec.arguments)
            .envs(&spec.environment)
            .stdout(self.stdout.clone())
            .stderr(self.stderr.clone());
        if !self.files {
            return Ok(builder.build_p1());
        }
        // C libraries take a relative path for one below `/`, so this one directory serves both.
        builder
            .preopened_dir(&spec.sandbox, "/", FsPerms::ReadWrite)
            .map_err(|error| {
                format!(
                    "the sandbox {} cannot be opened: {error:#}",
                    spec.sandbox.display()
                )
            })?;
        for volume in &spec.volumes {
            let permissions = if volume.read_only {
                FsPerms::ReadOnly
            } else {
                FsPerms::ReadWrite
            };
            builder
                .preopened_dir(&volume.host, &volume.guest, permissions)
                .map_err(|error| {
                    format!("the volume {} cannot be opened: {error:#}", volume.guest)
                })?;
        }
        for mount in &spec.mounts {
            let permissions = if mount.read_only {
                FsPerms::ReadOnly
            } else {
                FsPerms::ReadWrite
            };
            let failed = |error: String| {
                format!(
                    "the directory {} cannot be opened for {}: {error}",
                    mount.host.display(),
                    mount.guest
                )
            };
            let opened = open_without_links(&mount.host).map_err(|error| match error {
                // The agent saw it. Behind a wall what lies in a closed directory may not be there at all.
                Errno::EACCES | Errno::ENOENT => {
                    let user = nix::unistd::geteuid();
                    failed(format!(
                        "{error}: the task's user, {user}, must be let into it, and into what lies above it from the directory that is allowed on"
                    ))
                }
                error => failed(error.to_string()),
            })?;
            let through = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
            // Behind a wall there may be no such paths; what was found to have no links a moment ago must do.
            let path = match through.exists() {
                true => through,
                false => mount.host.clone(),
            };
            builder
                .preopened_dir(path, &mount.guest, permissions)
                .map_err(|error| failed(format!("{error:#}")))?;
        }
        Ok(builder.build_p1())
    }
}

/// Opens a directory none of whose path is a link: the agent has looked where it leads, and that must still be so.
fn open_without_links(path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(AT_FDCWD, path, how)
}
