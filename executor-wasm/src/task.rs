//! One guest, from its module to its ending.

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;
use wasmtime::{
    Engine, ExternType, Module, PoolConcurrencyLimitError, Store, Trap, UpdateDeadline, ValType,
    WasmBacktrace,
};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::engines::Engines;
use crate::http::Http;
use crate::limits::{Limits, MemoryLimit, Meter};
use crate::modules::{Loaded, LoadedComponent, LoadedModule, Modules};
use crate::output::{Output, Quota};
use crate::spec::{MemoryPolicy, TaskSpec};
use crate::verdict::Ending;
use crate::world::{COMMAND, SERVICE};

/// Fuel after which a metered guest yields. Without such an interval the count can lag behind for as long as a loop
/// runs; with it the count is right to within the interval.
const FUEL_INTERVAL: u64 = 1_000_000;
/// Most turns a guest with a small share of a cpu lets pass.
const TURNS_MAX: f64 = 10.0;
/// A page of memory, in which a module says what it needs.
const PAGE_BYTES: u64 = 65_536;
/// Longest backtrace in a status.
const BACKTRACE_BYTES: usize = 2_048;
/// Longest name of a function in it.
const NAME_BYTES: usize = 120;
/// Exports listed when none can be called.
const EXPORTS_LISTED: usize = 8;

/// What the store of a guest carries.
pub(crate) struct State {
    /// Serves components as well.
    wasi: WasiP1Ctx,
    http_ctx: WasiHttpCtx,
    http: Http,
    limits: Limits,
}

impl State {
    pub(crate) fn wasi(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http_ctx,
            table: self.wasi.ctx().table,
            hooks: &mut self.http,
        }
    }
}

/// Ends a guest from outside.
#[derive(Default)]
pub(crate) struct Switch {
    off: AtomicBool,
    wake: Notify,
}

impl Switch {
    pub(crate) fn turn_off(&self) {
        self.off.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    fn is_off(&self) -> bool {
        self.off.load(Ordering::Acquire)
    }

    /// Waits until it is turned off.
    pub(crate) async fn off(&self) {
        while !self.is_off() {
            self.wake.notified().await;
        }
    }
}

/// How an exported function can be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It gives nothing back.
    Plain,
    /// It gives back an exit status.
    Status,
}

impl Entry {
    /// Looks whether `name` is something to call. The error is a sentence.
    pub(crate) fn find(module: &Module, name: &str) -> Result<Self, String> {
        match module.get_export(name) {
            Some(ExternType::Func(function)) => {
                let mut results = function.results();
                match (function.params().len(), results.next(), results.next()) {
                    (0, None, None) => Ok(Self::Plain),
                    (0, Some(ValType::I32), None) => Ok(Self::Status),
                    _ => Err(format!(
                        "module cannot be started by {name}: it must take nothing and return nothing or an i32, but is {function}"
                    )),
                }
            }
            Some(_) => Err(format!(
                "module cannot be started by {name}: it is no function"
            )),
            None => {
                let exports = module.exports();
                let more = exports.len().saturating_sub(EXPORTS_LISTED);
                let names: Vec<String> = exports
                    .take(EXPORTS_LISTED)
                    .map(|export| bounded(export.name(), NAME_BYTES).to_owned())
                    .collect();
                let listed = match (names.is_empty(), more) {
                    (true, _) => "nothing".to_owned(),
                    (false, 0) => names.join(", "),
                    (false, more) => format!("{} and {more} more", names.join(", ")),
                };
                Err(format!("module has no {name} export: it exports {listed}"))
            }
        }
    }
}

/// What a guest needs of the process it runs in.
pub(crate) struct Surroundings<'a> {
    pub(crate) engines: &'a Engines,
    pub(crate) modules: &'a Modules,
    /// Output files that may stay open.
    pub(crate) outputs: &'a Arc<Quota>,
    /// Sandboxes that may be open.
    pub(crate) sandboxes: &'a Arc<Quota>,
    pub(crate) meter: &'a Arc<Meter>,
    pub(crate) switch: &'a Arc<Switch>,
}

/// How a guest ended, and the last growth it was refused.
pub(crate) struct End {
    pub(crate) ending: Ending,
    pub(crate) refused: Option<MemoryLimit>,
}

impl From<Ending> for End {
    fn from(ending: Ending) -> Self {
        Self {
            ending,
            refused: None,
        }
    }
}

/// Runs the guest to its end. Dropping the future ends it as well, wherever it is. `started` is called when nothing
/// stands in its way any more.
pub(crate) async fn run(
    spec: &TaskSpec,
    surroundings: Surroundings<'_>,
    started: &mut (dyn FnMut() + Send),
) -> End {
    let not_launched = |message: String| End::from(Ending::NotLaunched { message });
    let loaded = match surroundings.modules.get(&spec.module).await {
        Ok(loaded) => loaded,
        Err(message) => return not_launched(message),
    };
    let program = match Program::of(&loaded, &spec.entrypoint) {
        Ok(program) => program,
        Err(message) => return not_launched(message),
    };
    let minimum = program.minimum();
    if let Some(limit) = spec.memory_limit
        && minimum > limit
    {
        return End::from(Ending::Memory(MemoryLimit {
            limit,
            current: 0,
            wanted: minimum,
        }));
    }
    let flavour = match surroundings.engines.flavour(spec.module.metering) {
        Ok(flavour) => flavour,
        Err(error) => return not_launched(error.to_string()),
    };
    // Dropped after the store, which holds the directory.
    let Some(_sandbox) = surroundings.sandboxes.take() else {
        return not_launched(
            "this executor is full: it runs as many wasm tasks as its limit of open files allows; raising the agent's makes room".to_owned(),
        );
    };
    let mut started = Some(started);
    for pooled in [true, false] {
        // Dropped after the store, which is made later.
        let Some(place) =
            surroundings
                .engines
                .place(flavour, pooled && program.can_pool(), program.memories())
        else {
            return not_launched(
                "this executor is full: it runs as many wasm tasks as vm.max_map_count allows; raising that sysctl on the agent makes room".to_owned(),
            );
        };
        let mut store = match store(spec, program.engine(place.is_pooled()), &surroundings) {
            Ok(store) => store,
            Err(message) => return not_launched(message),
        };
        if let Some(started) = started.take() {
            started();
        }
        let called = program.call(&mut store, place.is_pooled()).await;
        if let Err(error) = &called
            && place.is_pooled()
            && error.is::<PoolConcurrencyLimitError>()
        {
            // Some rarer kind of slot has run out; nothing of the guest has run.
            continue;
        }
        if let Ok(fuel) = store.get_fuel() {
            surroundings.meter.set_fuel_left(fuel);
        }
        return End {
            ending: ending(called, spec, surroundings.switch.is_off()),
            refused: store.data().limits.refused(),
        };
    }
    not_launched("no place was found for the guest".to_owned())
}

fn store(
    spec: &TaskSpec,
    engine: &Engine,
    surroundings: &Surroundings<'_>,
) -> Result<Store<State>, String> {
    let state = State {
        wasi: wasi(spec, surroundings.outputs)?,
        http_ctx: WasiHttpCtx::new(),
        http: Http,
        limits: Limits::new(
            spec.memory_limit,
            spec.memory_policy,
            Arc::clone(surroundings.meter),
        ),
    };
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.limits);
    let fuel = spec.fuel_limit.unwrap_or(u64::MAX);
    // A plain engine has no fuel to set, which is no error here.
    if store.set_fuel(fuel).is_ok() {
        surroundings.meter.set_fuel_left(fuel);
        store
            .fuel_async_yield_interval(Some(FUEL_INTERVAL))
            .map_err(|error| format!("fuel cannot be counted: {error:#}"))?;
    }
    let turns = turns(spec.cpus);
    let meter = Arc::clone(surroundings.meter);
    let switch = Arc::clone(surroundings.switch);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |context| {
        if switch.is_off() {
            return Ok(UpdateDeadline::Interrupt);
        }
        if let Ok(fuel) = context.get_fuel() {
            meter.set_fuel_left(fuel);
        }
        Ok(UpdateDeadline::YieldCustom(1, pass(turns)))
    });
    Ok(store)
}

/// How often a guest goes to the end of the queue after each slice, so that its share is like its `cpus`.
fn turns(cpus: f64) -> u32 {
    if cpus > 0.0 && cpus < 1.0 {
        (1.0 / cpus).round().clamp(1.0, TURNS_MAX) as u32
    } else {
        1
    }
}

/// A plain epoch yield would be run again at once, ahead of every timer and neighbour.
fn pass(turns: u32) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    })
}

fn wasi(spec: &TaskSpec, outputs: &Arc<Quota>) -> Result<WasiP1Ctx, String> {
    let output = |name| Output::create(spec.sandbox.join(name), outputs);
    let mut builder = WasiCtxBuilder::new();
    builder
        .args(&spec.arguments)
        .envs(&spec.environment)
        .stdout(output("stdout")?)
        .stderr(output("stderr")?)
        // C libraries take a relative path for one below `/`, so this one directory serves both.
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
            .map_err(|error| format!("the volume {} cannot be opened: {error:#}", volume.guest))?;
    }
    Ok(builder.build_p1())
}

/// What of the loaded code is run.
enum Program<'a> {
    Module {
        loaded: &'a LoadedModule,
        entrypoint: &'a str,
        entry: Entry,
        initialize: bool,
    },
    Command(&'a LoadedComponent),
}

impl<'a> Program<'a> {
    /// Decides by what the code exports. The error is a sentence.
    fn of(loaded: &'a Loaded, entrypoint: &'a str) -> Result<Self, String> {
        match loaded {
            Loaded::Module(loaded) => {
                let name = if entrypoint.is_empty() {
                    "_start"
                } else {
                    entrypoint
                };
                let entry = Entry::find(&loaded.module, name)?;
                Ok(Self::Module {
                    initialize: name != "_start"
                        && Entry::find(&loaded.module, "_initialize") == Ok(Entry::Plain),
                    loaded,
                    entrypoint: name,
                    entry,
                })
            }
            Loaded::Component(loaded) => match entrypoint {
                "" | COMMAND if loaded.worlds.command => Ok(Self::Command(loaded)),
                "" | SERVICE if loaded.worlds.service => Err(format!(
                    "the component is an HTTP service ({SERVICE}), which this executor cannot serve"
                )),
                "" => Err(format!(
                    "the component exports neither {COMMAND} nor {SERVICE}"
                )),
                other => Err(format!(
                    "a component is started by {COMMAND} or {SERVICE}, not by {other}, and only if it exports it"
                )),
            },
        }
    }

    fn can_pool(&self) -> bool {
        match self {
            Self::Module { loaded, .. } => loaded.linked.pooled.is_some(),
            Self::Command(loaded) => loaded.linked.pooled.is_some(),
        }
    }

    fn engine(&self, pooled: bool) -> &Engine {
        match self {
            Self::Module { loaded, .. } => loaded.linked.of(pooled).module().engine(),
            Self::Command(loaded) => loaded.linked.of(pooled).engine(),
        }
    }

    /// The bytes its largest memory has from the beginning.
    fn minimum(&self) -> u64 {
        let pages = match self {
            Self::Module { loaded, .. } => {
                loaded.module.resources_required().max_initial_memory_size
            }
            Self::Command(loaded) => loaded.minimum_pages(),
        };
        pages.unwrap_or(0).saturating_mul(PAGE_BYTES)
    }

    fn memories(&self) -> u32 {
        match self {
            Self::Module { .. } => 1,
            Self::Command(loaded) => loaded.memories(),
        }
    }

    async fn call(&self, store: &mut Store<State>, pooled: bool) -> wasmtime::Result<i32> {
        match self {
            Self::Module {
                loaded,
                entrypoint,
                entry,
                initialize,
            } => {
                let linked = loaded.linked.of(pooled);
                let instance = linked.instantiate_async(&mut *store).await?;
                if *initialize {
                    let function = instance.get_typed_func::<(), ()>(&mut *store, "_initialize")?;
                    function.call_async(&mut *store, ()).await?;
                }
                match entry {
                    Entry::Plain => {
                        let function =
                            instance.get_typed_func::<(), ()>(&mut *store, entrypoint)?;
                        function.call_async(&mut *store, ()).await?;
                        Ok(0)
                    }
                    Entry::Status => {
                        let function =
                            instance.get_typed_func::<(), i32>(&mut *store, entrypoint)?;
                        function.call_async(&mut *store, ()).await
                    }
                }
            }
            Self::Command(loaded) => {
                let command = CommandPre::new(loaded.linked.of(pooled).clone())?;
                let command = command.instantiate_async(&mut *store).await?;
                let ended = command.wasi_cli_run().call_run(&mut *store).await?;
                // All a component says of its end is whether it went well.
                Ok(i32::from(ended.is_err()))
            }
        }
    }
}

fn ending(called: wasmtime::Result<i32>, spec: &TaskSpec, off: bool) -> Ending {
    let error = match called {
        Ok(status) => return Ending::Exited(status),
        Err(error) => error,
    };
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return Ending::Exited(exit.0);
    }
    if let Some(limit) = error.downcast_ref::<MemoryLimit>()
        && spec.memory_policy == MemoryPolicy::EndTask
    {
        return Ending::Memory(*limit);
    }
    match (error.downcast_ref::<Trap>(), spec.fuel_limit) {
        (Some(Trap::Interrupt), _) if off => Ending::Killed,
        (Some(Trap::OutOfFuel), Some(limit)) => Ending::Fuel { limit },
        (Some(trap), _) => Ending::Trapped {
            trap: trap.to_string(),
            backtrace: error
                .downcast_ref::<WasmBacktrace>()
                .map(backtrace)
                .unwrap_or_default(),
        },
        (None, _) => Ending::Failed {
            message: bounded(&format!("{error:#}"), BACKTRACE_BYTES).to_owned(),
        },
    }
}

fn backtrace(backtrace: &WasmBacktrace) -> String {
    let mut text = String::new();
    for (number, frame) in backtrace.frames().iter().enumerate() {
        let offset = frame.module_offset().unwrap_or(0);
        let written = match frame.func_name() {
            Some(name) => writeln!(
                text,
                "  {number}: {} at {offset:#x}",
                bounded(name, NAME_BYTES)
            ),
            None => writeln!(
                text,
                "  {number}: function {} at {offset:#x}",
                frame.func_index()
            ),
        };
        if written.is_err() || text.len() > BACKTRACE_BYTES {
            break;
        }
    }
    bounded(text.trim_end(), BACKTRACE_BYTES).to_owned()
}

/// The beginning of a text, cut between characters.
fn bounded(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_share_of_a_cpu_lets_more_turns_pass() {
        assert_eq!(turns(1.0), 1);
        assert_eq!(turns(4.0), 1);
        assert_eq!(turns(0.5), 2);
        assert_eq!(turns(0.1), 10);
        assert_eq!(turns(0.001), 10);
        assert_eq!(turns(0.0), 1);
        assert_eq!(turns(f64::NAN), 1);
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(bounded("äöü", 3), "ä");
        assert_eq!(bounded("abc", 10), "abc");
    }
}
