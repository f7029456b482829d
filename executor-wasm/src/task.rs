//! One guest, from its module to its ending.

use std::sync::Arc;

use wasmtime::{Engine, ExternType, Module, PoolConcurrencyLimitError, Store, ValType};
use wasmtime_wasi::p2::bindings::CommandPre;

use crate::coredump;
use crate::ending::{ending, named, place};
use crate::engines::Engines;
use crate::guest::Guest;
use crate::limits::{MemoryLimit, Meter, OutputLimit};
use crate::modules::{Loaded, LoadedComponent, LoadedModule, Modules};
use crate::output::Quota;
use crate::service;
use crate::shares::Share;
use crate::spec::TaskSpec;
use crate::store::{Furniture, State, settle};
use crate::switch::Switch;
use crate::verdict::Ending;
use crate::world::{COMMAND, SERVICE};

/// A page of memory, in which a module says what it needs.
const PAGE_BYTES: u64 = 65_536;
/// Exports listed when none can be called.
const EXPORTS_LISTED: usize = 8;

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
                    .map(|export| named(export.name()))
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
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) engines: Arc<Engines>,
    pub(crate) modules: Arc<Modules>,
    /// Output files that may stay open.
    pub(crate) outputs: Arc<Quota>,
    /// Sandboxes that may be open.
    pub(crate) sandboxes: Arc<Quota>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) switch: Arc<Switch>,
    pub(crate) share: Arc<Share>,
    /// Its way to the cluster.
    pub(crate) guest: Arc<Guest>,
}

/// Said when there is no room for one more memory.
pub(crate) const FULL: &str = "this executor is full: it runs as many wasm tasks as vm.max_map_count allows; raising that sysctl on the agent makes room";

/// How a guest ended, and the last growth it was refused.
pub(crate) struct End {
    pub(crate) ending: Ending,
    pub(crate) refused: Option<MemoryLimit>,
    /// Where it was at its end, if that is known.
    pub(crate) place: String,
}

impl End {
    /// What happened, as text.
    pub(crate) fn told(&self) -> String {
        let told = match &self.ending {
            Ending::Memory(limit) => return limit.to_string(),
            Ending::Fuel { limit } => format!("the fuel limit of the task, {limit}, is reached"),
            Ending::Exited(status) => format!("the guest exited with status {status}"),
            Ending::Trapped { trap, backtrace } => format!("{trap}\n{backtrace}"),
            Ending::NotLaunched { message } => message.clone(),
            Ending::Failed { message } => {
                format!("{message}\n{}", self.place).trim_end().to_owned()
            }
            Ending::Output { limit } => OutputLimit { limit: *limit }.to_string(),
            Ending::Handles { limit } => format!("the handle limit, {limit}, is reached"),
            Ending::Killed | Ending::TimedOut { .. } => "the task ended".to_owned(),
        };
        match self.refused {
            Some(refused) => format!("{refused}; then: {told}"),
            None => told,
        }
    }
}

impl From<Ending> for End {
    fn from(ending: Ending) -> Self {
        Self {
            ending,
            refused: None,
            place: String::new(),
        }
    }
}

/// Runs the guest to its end. Dropping the future ends it as well, wherever it is. `started` is called when nothing
/// stands in its way any more.
pub(crate) async fn run(
    spec: &Arc<TaskSpec>,
    surroundings: Surroundings,
    started: &mut (dyn FnMut() + Send),
) -> End {
    let not_launched = |message: String| End::from(Ending::NotLaunched { message });
    let loaded = match surroundings.modules.get(&spec.module, spec.coredump).await {
        Ok(loaded) => loaded,
        Err(message) => return not_launched(message),
    };
    let program = match Program::of(&loaded, spec) {
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
            of_instance: false,
        }));
    }
    if let Err(error) = surroundings.engines.flavour(spec.module.build()) {
        return not_launched(error.to_string());
    }
    if let Program::Service(_) = program {
        return service::serve(spec, &loaded, surroundings, started).await;
    }
    // Dropped after the store, which holds the directory.
    let Some(_sandbox) = surroundings.sandboxes.take() else {
        return not_launched(
            "this executor is full: it runs as many wasm tasks as its limit of open files allows; raising the agent's makes room".to_owned(),
        );
    };
    let furniture = match Furniture::new(spec, &surroundings, true) {
        Ok(furniture) => furniture,
        Err(message) => return not_launched(message),
    };
    let mut started = Some(started);
    for pooled in [true, false] {
        // Dropped after the store, which is made later.
        let Some(slot) = surroundings.engines.place(
            spec.module.build(),
            pooled && program.can_pool(),
            program.memories(),
        ) else {
            return not_launched(FULL.to_owned());
        };
        let engine = program.engine(slot.is_pooled());
        let mut store = match furniture.store(spec, engine, &surroundings, None) {
            Ok(store) => store,
            Err(message) => return not_launched(message),
        };
        if let Some(started) = started.take() {
            started();
        }
        let called = program.call(&mut store, slot.is_pooled()).await;
        if let Err(error) = &called
            && slot.is_pooled()
            && error.is::<PoolConcurrencyLimitError>()
        {
            // Some rarer kind of slot has run out; nothing of the guest has run.
            continue;
        }
        settle(&mut store);
        let place = match &called {
            Ok(_) => String::new(),
            Err(error) => {
                let dumped = coredump::write(error, &mut store, spec);
                let place = place(error);
                [place, dumped].join("\n").trim_end().to_owned()
            }
        };
        return End {
            ending: ending(called, spec, surroundings.switch.is_off()),
            refused: store.data().refused(),
            place,
        };
    }
    not_launched("no place was found for the guest".to_owned())
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
    Service(&'a LoadedComponent),
}

impl<'a> Program<'a> {
    /// Decides by what the code exports. The error is a sentence.
    fn of(loaded: &'a Loaded, spec: &'a TaskSpec) -> Result<Self, String> {
        let entrypoint = spec.entrypoint.as_str();
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
            Loaded::Component(loaded) => {
                let worlds = loaded.worlds;
                // One that could be either serves if it was given something to listen on.
                let serves = worlds.service && (!worlds.command || !spec.listen.is_empty());
                match entrypoint {
                    "" if serves => Ok(Self::Service(loaded)),
                    "" | COMMAND if worlds.command => Ok(Self::Command(loaded)),
                    SERVICE if worlds.service => Ok(Self::Service(loaded)),
                    _ => Err(format!(
                        "a component is started by {COMMAND} or {SERVICE}, not by {entrypoint}, and only if it exports that"
                    )),
                }
            }
        }
    }

    fn can_pool(&self) -> bool {
        match self {
            Self::Module { loaded, .. } => loaded.linked.pooled.is_some(),
            Self::Command(loaded) | Self::Service(loaded) => loaded.linked.pooled.is_some(),
        }
    }

    fn engine(&self, pooled: bool) -> &Engine {
        match self {
            Self::Module { loaded, .. } => loaded.linked.of(pooled).module().engine(),
            Self::Command(loaded) | Self::Service(loaded) => loaded.linked.of(pooled).engine(),
        }
    }

    /// The bytes its largest memory has from the beginning.
    fn minimum(&self) -> u64 {
        let pages = match self {
            Self::Module { loaded, .. } => {
                loaded.module.resources_required().max_initial_memory_size
            }
            Self::Command(loaded) | Self::Service(loaded) => loaded.minimum_pages(),
        };
        pages.unwrap_or(0).saturating_mul(PAGE_BYTES)
    }

    fn memories(&self) -> u32 {
        match self {
            Self::Module { loaded, .. } => loaded.module.resources_required().num_memories.max(1),
            Self::Command(loaded) | Self::Service(loaded) => loaded.memories(),
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
            Self::Service(_) => wasmtime::bail!("a service is not called but asked"),
        }
    }
}
