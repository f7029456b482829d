//! The engines: with and without fuel, each with a pool of ready slots and, for what does not fit one, on demand.
//!
//! A compiled module fits an engine only if both were made with the same tunables. So there is one function that sets
//! them, [`tunables`], for the compiler and for every engine here; pooled and on-demand engines differ in how they find
//! memory for an instance, which the compiled form does not depend on. Memories keep wasmtime's reservation of 4 GiB of
//! address space, with which 32-bit modules need no bounds checks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, Linker, OptLevel, PoolingAllocationConfig,
    RegallocAlgorithm, StoreContextMut, Strategy, WasmBacktraceDetails, component,
};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p2::Network;
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::Host as _;
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;
use wasmtime_wasi::sockets::WasiSocketsView as _;

use crate::guest::{abi, component as interfaces};
use crate::pieces;
use crate::store::State;

/// Most slots of one pool: each reserves 4 GiB, and a process has 128 TiB to give.
pub(crate) const POOL_SLOTS_MAX: usize = 10_000;
/// Memory mappings a pool makes for each slot when it is made (a stack and its guard).
const MAPS_POOL_SLOT: usize = 2;
/// And those an instance in a slot adds.
const MAPS_POOLED: usize = 4;
/// Those of an instance outside a pool.
const MAPS_ON_DEMAND: usize = 7;
/// And those of each further memory of a component.
const MAPS_MEMORY: usize = 3;
/// Core instances and tables of a component: its main module, adapters, and the small modules that tie them together.
const PARTS_OF_A_COMPONENT: u32 = 4;
/// Elements a table in a slot may grow to; address space only.
const TABLE_ELEMENTS: usize = 16 << 20;
/// Bytes of a memory, and of a table, that a freed slot keeps and zeroes itself rather than ask the kernel to.
const MEMORY_KEEP_RESIDENT: usize = 64 << 10;
const TABLE_KEEP_RESIDENT: usize = 8 << 10;
/// Of the stack of a guest. What is compiled in haste takes several times what the same code takes optimised: a compiler that
/// recurses over its trees must not fail for being started the first time.
pub(crate) const STACK_BYTES: usize = 4 << 20;
/// Beside it, for what the host does when it is called.
const HOST_STACK_BYTES: usize = 1 << 20;
/// Of a stack that is given back; the rest goes back to the system, or each slot would in time hold the deepest recursion
/// it has seen.
const STACK_KEEP_RESIDENT: usize = 16 << 10;
/// Frames of a trap's backtrace.
const BACKTRACE_FRAMES: usize = 16;

/// Whether compiled code counts fuel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metering {
    /// It does not.
    Plain,
    /// It does, at a third of its speed or more.
    Metered,
}

/// Which engine runs compiled code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Build {
    pub(crate) metering: Metering,
    /// Whether the baseline compiler made it.
    pub(crate) baseline: bool,
}

impl From<Metering> for Build {
    fn from(metering: Metering) -> Self {
        Self {
            metering,
            baseline: false,
        }
    }
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
#[error("no wasm engine can be made: {message}")]
pub struct EngineError {
    message: String,
}

impl EngineError {
    pub(crate) fn new(error: &wasmtime::Error) -> Self {
        Self {
            message: format!("{error:#}"),
        }
    }
}

/// All that the compiled form depends on.
pub(crate) fn tunables(metering: Metering) -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true);
    config.consume_fuel(metering == Metering::Metered);
    config.max_wasm_stack(STACK_BYTES);
    config.async_stack_size(STACK_BYTES + HOST_STACK_BYTES);
    config.async_stack_zeroing(true);
    // Left to itself this follows a variable of the environment, which compiler and executor need not share.
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config.wasm_backtrace_max_frames(std::num::NonZeroUsize::new(BACKTRACE_FRAMES));
    config
}

/// An engine of the baseline compiler: its code is made in a fraction of the time, runs several times slower, and calls
/// by other rules, so that no other engine can run it.
pub(crate) fn baseline_engine(metering: Metering) -> Result<Engine, EngineError> {
    let mut config = tunables(metering);
    config.strategy(Strategy::Winch);
    Engine::new(&config).map_err(|error| EngineError::new(&error))
}

/// The optimising compiler without its optimisations, for what the baseline compiler does not know. Its code runs in the
/// same engines as optimised code.
pub(crate) fn unoptimised_engine(metering: Metering) -> Result<Engine, EngineError> {
    let mut config = tunables(metering);
    config
        .cranelift_opt_level(OptLevel::None)
        .cranelift_regalloc_algorithm(RegallocAlgorithm::SinglePass);
    Engine::new(&config).map_err(|error| EngineError::new(&error))
}

pub(crate) fn on_demand_engine(metering: Metering) -> Result<Engine, EngineError> {
    Engine::new(&tunables(metering)).map_err(|error| EngineError::new(&error))
}

fn pooled_engine(metering: Metering, slots: usize) -> wasmtime::Result<Engine> {
    let count = u32::try_from(slots).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    let parts = count.saturating_mul(PARTS_OF_A_COMPONENT);
    pool.total_core_instances(parts)
        .total_memories(count)
        .total_tables(parts)
        .table_elements(TABLE_ELEMENTS)
        .max_tables_per_module(PARTS_OF_A_COMPONENT)
        .total_stacks(count)
        .total_gc_heaps(count)
        .total_component_instances(count)
        .linear_memory_keep_resident(MEMORY_KEEP_RESIDENT)
        .table_keep_resident(TABLE_KEEP_RESIDENT)
        .async_stack_keep_resident(STACK_KEEP_RESIDENT)
        .pagemap_scan(Enabled::Auto);
    let mut config = tunables(metering);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

/// What a guest may import: WASI preview 1, its forerunner for old modules, and the guest interface.
pub(crate) fn linker(engine: &Engine) -> Result<Linker<State>, EngineError> {
    let mut linker = Linker::<State>::new(engine);
    let link = |linker: &mut Linker<State>| {
        wasmtime_wasi::p1::add_to_linker_async(linker, State::wasi)?;
        wasmtime_wasi::p0::add_to_linker_async(linker, State::wasi)?;
        // WASI's own knows no status above 125; programs do.
        linker.allow_shadowing(true);
        for world in ["wasi_snapshot_preview1", "wasi_unstable"] {
            linker.func_wrap(world, "proc_exit", |code: i32| -> wasmtime::Result<()> {
                Err(I32Exit(code).into())
            })?;
            pieces::link(linker, world)?;
        }
        linker.allow_shadowing(false);
        abi::add_to_linker(linker)
    };
    link(&mut linker).map_err(|error: wasmtime::Error| EngineError::new(&error))?;
    Ok(linker)
}

/// What a component may import: WASI 0.2 as of `wasi:cli/imports`, `wasi:http`, and `tepui:guest`.
pub(crate) fn component_linker(engine: &Engine) -> Result<component::Linker<State>, EngineError> {
    let mut linker = component::Linker::<State>::new(engine);
    let link = |linker: &mut component::Linker<State>| {
        wasmtime_wasi::p2::add_to_linker_async(linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
        interfaces::add_to_linker(linker)?;
        replace_some(linker)
    };
    link(&mut linker).map_err(|error: wasmtime::Error| EngineError::new(&error))?;
    Ok(linker)
}

/// Puts our own in place of what may take too long, and of name lookups: one tells a server somewhere what is asked for, so
/// that it is a way out by itself.
fn replace_some(linker: &mut component::Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    pieces::link_components(linker)?;
    linker
        .instance("wasi:sockets/ip-name-lookup@0.2.12")?
        .func_wrap(
            "resolve-addresses",
            |mut store: StoreContextMut<'_, State>,
             (network, name): (component::Resource<Network>, String)| {
                let state = store.data_mut();
                if !state.allows_lookup(&name) {
                    return Ok((Err(ErrorCode::AccessDenied),));
                }
                match state.sockets().resolve_addresses(network, name) {
                    Ok(stream) => Ok((Ok(stream),)),
                    Err(error) => Ok((Err(error.downcast()?),)),
                }
            },
        )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// An engine and what modules and components of it are linked with.
pub(crate) struct Linked {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<State>,
    pub(crate) components: component::Linker<State>,
}

impl Linked {
    fn new(engine: Engine) -> Result<Self, EngineError> {
        let linker = linker(&engine)?;
        let components = component_linker(&engine)?;
        Ok(Self {
            engine,
            linker,
            components,
        })
    }
}

/// The engines of one metering.
pub(crate) struct Flavour {
    pub(crate) pooled: Option<Linked>,
    pub(crate) on_demand: Linked,
    slots: usize,
    slots_taken: AtomicUsize,
}

/// Every engine of the process, made when first needed, and the count of memory mappings they use.
pub(crate) struct Engines {
    /// By metering, and whether they are the baseline compiler's.
    flavours: [[OnceLock<Flavour>; 2]; 2],
    /// By metering, and whether they are the baseline compiler's: engines whose traps come with a core dump. Collecting one
    /// takes time at each trap and exit, so that only tasks that ask for it run here.
    dumping: [[OnceLock<Linked>; 2]; 2],
    making: std::sync::Mutex<()>,
    pool_slots: usize,
    maps_budget: usize,
    maps_taken: AtomicUsize,
}

/// Where an instance lives; dropped when it is gone.
pub(crate) struct Place {
    engines: Arc<Engines>,
    maps: usize,
    slot_of: Option<Build>,
}

impl Place {
    pub(crate) fn is_pooled(&self) -> bool {
        self.slot_of.is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.engines
            .maps_taken
            .fetch_sub(self.maps, Ordering::Relaxed);
        let flavour = self.slot_of.map(|build| self.engines.cell(build));
        if let Some(flavour) = flavour.and_then(OnceLock::get) {
            flavour.slots_taken.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Engines {
    pub(crate) fn new(pool_slots: usize, maps_budget: usize) -> Self {
        Self {
            flavours: Default::default(),
            dumping: Default::default(),
            making: std::sync::Mutex::new(()),
            pool_slots: pool_slots.min(POOL_SLOTS_MAX),
            maps_budget,
            maps_taken: AtomicUsize::new(0),
        }
    }

    fn cell(&self, build: Build) -> &OnceLock<Flavour> {
        let [plain, metered] = &self.flavours;
        let [optimised, quick] = match build.metering {
            Metering::Plain => plain,
            Metering::Metered => metered,
        };
        if build.baseline { quick } else { optimised }
    }

    /// The engines of one kind; makes them, which takes a while, if need be.
    pub(crate) fn flavour(&self, build: impl Into<Build>) -> Result<&Flavour, EngineError> {
        let build = build.into();
        let (metering, baseline) = (build.metering, build.baseline);
        let cell = self.cell(build);
        if let Some(flavour) = cell.get() {
            return Ok(flavour);
        }
        let _one_at_a_time = self
            .making
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(flavour) = cell.get() {
            return Ok(flavour);
        }
        // Baseline code is of modules so large that a slot would save them nothing.
        let (pooled, slots) = match baseline {
            true => (None, 0),
            false => self.make_pool(metering)?,
        };
        let on_demand = Linked::new(match baseline {
            true => baseline_engine(metering)?,
            false => on_demand_engine(metering)?,
        })?;
        self.maps_taken
            .fetch_add(slots * MAPS_POOL_SLOT, Ordering::Relaxed);
        Ok(cell.get_or_init(|| Flavour {
            pooled,
            on_demand,
            slots,
            slots_taken: AtomicUsize::new(0),
        }))
    }

    /// The engine for tasks that want a core dump if they fail.
    pub(crate) fn dumping(&self, build: impl Into<Build>) -> Result<&Linked, EngineError> {
        let Build { metering, baseline } = build.into();
        let of_metering = &self.dumping[usize::from(metering == Metering::Metered)];
        let cell = &of_metering[usize::from(baseline)];
        if let Some(linked) = cell.get() {
            return Ok(linked);
        }
        let mut config = tunables(metering);
        if baseline {
            config.strategy(Strategy::Winch);
        }
        config.coredump_on_trap(true);
        let engine = Engine::new(&config).map_err(|error| EngineError::new(&error))?;
        let linked = Linked::new(engine)?;
        // Should another have been faster, this one is dropped again.
        Ok(cell.get_or_init(|| linked))
    }

    fn make_pool(&self, metering: Metering) -> Result<(Option<Linked>, usize), EngineError> {
        // Fuel is asked for by few tasks.
        let mut slots = match metering {
            Metering::Plain => self.pool_slots,
            Metering::Metered => self.pool_slots / 8,
        };
        // A host may not have the address space for all of them, but for some.
        while slots > 0 {
            match pooled_engine(metering, slots) {
                Ok(engine) => {
                    tracing::info!(?metering, slots, "instances are pooled");
                    return Ok((Some(Linked::new(engine)?), slots));
                }
                Err(error) => {
                    tracing::warn!(?metering, slots, error = %format!("{error:#}"), "the pool cannot be made");
                    slots /= 4;
                }
            }
        }
        tracing::warn!(?metering, "instances are not pooled: starts will be slower");
        Ok((None, 0))
    }

    /// Reserves what one more instance with so many memories takes. `None`: the process is full.
    pub(crate) fn place(
        self: &Arc<Self>,
        build: impl Into<Build>,
        may_pool: bool,
        memories: u32,
    ) -> Option<Place> {
        let build = build.into();
        let flavour = self.cell(build).get()?;
        let slot_of = (may_pool && flavour.pooled.is_some() && {
            let taken =
                flavour
                    .slots_taken
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                        (taken < flavour.slots).then_some(taken + 1)
                    });
            taken.is_ok()
        })
        .then_some(build);
        let maps = if slot_of.is_some() {
            MAPS_POOLED
        } else {
            MAPS_ON_DEMAND
        } + MAPS_MEMORY * usize::try_from(memories.saturating_sub(1)).unwrap_or(0);
        let before = self.maps_taken.fetch_add(maps, Ordering::Relaxed);
        // Made at once, so that it is given back if it was too much.
        let place = Place {
            engines: Arc::clone(self),
            maps,
            slot_of,
        };
        (before + maps <= self.maps_budget).then_some(place)
    }

    /// Lets every guest that runs come to its next slice.
    pub(crate) fn tick(&self) {
        for linked in self.dumping.iter().flatten().filter_map(OnceLock::get) {
            linked.engine.increment_epoch();
        }
        for flavour in self.flavours.iter().flatten().filter_map(OnceLock::get) {
            flavour.on_demand.engine.increment_epoch();
            if let Some(pooled) = &flavour.pooled {
                pooled.engine.increment_epoch();
            }
        }
    }
}

/// What `vm.max_map_count` leaves to guests in a process like this one.
pub(crate) fn maps_budget() -> usize {
    const DEFAULT: usize = 65_530;
    const OWN: usize = 3_500;
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    text.and_then(|text| text.trim().parse().ok())
        .unwrap_or(DEFAULT)
        .saturating_sub(OWN)
}

/// As many pool slots as the mappings allow to be full at once.
pub(crate) fn pool_slots(maps_budget: usize) -> usize {
    (maps_budget / (MAPS_POOL_SLOT + MAPS_POOLED)).min(POOL_SLOTS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_compiled_for_one_engine_loads_into_the_pooled_one_too() {
        for metering in [Metering::Plain, Metering::Metered] {
            let compiler = on_demand_engine(metering).expect("an engine");
            let pooled = pooled_engine(metering, 4).expect("a pool");
            let code = compiler
                .precompile_module(b"(module (memory 1))")
                .expect("it compiles");
            // SAFETY: the bytes come from the compiler a line above.
            unsafe { wasmtime::Module::deserialize(&pooled, &code) }.expect("it fits");
        }
    }

    #[test]
    fn places_run_out_and_come_back() {
        let engines = Arc::new(Engines::new(
            2,
            2 * MAPS_POOL_SLOT + 2 * MAPS_POOLED + MAPS_ON_DEMAND,
        ));
        engines.flavour(Metering::Plain).expect("engines");
        let first = engines.place(Metering::Plain, true, 1).expect("a slot");
        let second = engines.place(Metering::Plain, true, 1).expect("a slot");
        let third = engines
            .place(Metering::Plain, true, 1)
            .expect("room outside the pool");
        assert!(first.is_pooled() && second.is_pooled() && !third.is_pooled());
        assert!(engines.place(Metering::Plain, true, 1).is_none());
        drop(second);
        assert!(
            engines
                .place(Metering::Plain, true, 1)
                .expect("a slot")
                .is_pooled()
        );
    }

    #[test]
    fn unoptimised_code_loads_where_optimised_does_and_baseline_code_only_in_its_own_engine() {
        let module = b"(module (memory 1) (func (export \"_start\")))";
        for metering in [Metering::Plain, Metering::Metered] {
            let (usual, own) = (
                on_demand_engine(metering).expect("an engine"),
                baseline_engine(metering).expect("an engine"),
            );
            let quick = unoptimised_engine(metering).expect("an engine");
            let quick = quick.precompile_module(module).expect("it compiles");
            let baseline = own.precompile_module(module).expect("it compiles");
            // SAFETY: the bytes come from the compilers a few lines above.
            let load = |engine, code: &[u8]| unsafe { wasmtime::Module::deserialize(engine, code) };
            load(&usual, &quick).expect("it fits");
            load(&own, &baseline).expect("it fits");
            assert!(load(&usual, &baseline).is_err());
        }
    }
}
