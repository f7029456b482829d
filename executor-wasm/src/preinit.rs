//! Initialises a module ahead of time: runs its initialising function here, under limits, and makes a module of what its
//! memories and globals have become. Tasks of that module begin where the initialisation ended.
//!
//! What is made is an ordinary module, which agents compile like any other; nothing of this machine's compiled code is in
//! it. It is made by whoever has the module, not by an agent.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use tepui_model::{format_bytes, format_duration};
use wasmtime::component::{self, Component, Lift, WasmList, types::ComponentItem};
use wasmtime::{
    Config, Engine, ExternType, Instance, Linker, Module, Store, StoreLimits, StoreLimitsBuilder,
    Trap, Val,
};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wizer::{ComponentInstanceState, InstanceState, SnapshotVal, ValType, Wizer};

use crate::ending::place;
use crate::engines::STACK_BYTES;
use crate::spec::Volume;
use crate::world::Shape;

/// How a module is initialised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preinit {
    /// The exported function that initialises it, which takes and gives nothing; of a component also `INTERFACE#FUNCTION`.
    pub function: String,
    /// The exported function that becomes `_start`; unset: `_start` stays what it is. Not for components.
    pub start: Option<String>,
    /// Whether the function is still exported afterwards.
    pub keep: bool,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
    /// The directories it sees.
    pub mounts: Vec<Volume>,
    /// Bytes of each memory.
    pub memory: usize,
    /// How long it may take.
    pub time: Duration,
}

/// Why nothing is made.
#[derive(Debug, thiserror::Error)]
pub enum PreinitError {
    /// It is no module, or one that cannot be compiled.
    #[error("the module is not valid: {0}")]
    Invalid(String),
    /// It has something in it of which no image can be taken.
    #[error("no image can be taken of this module: {0}")]
    Unsupported(String),
    /// There is no such function.
    #[error("the module exports no function {name} that takes and gives nothing; {what}")]
    NoFunction {
        /// Which was asked for.
        name: String,
        /// What there is.
        what: String,
    },
    /// A directory cannot be opened.
    #[error("the directory {path} cannot be opened: {error}")]
    Mount {
        /// On this machine.
        path: String,
        /// Why.
        error: String,
    },
    /// It took too long.
    #[error("the initialisation was not over after {}", format_duration(*.0))]
    TimedOut(Duration),
    /// It failed.
    #[error("the initialisation failed: {0}")]
    Failed(String),
    /// The runtime could not be made.
    #[error("no wasm engine can be made: {0}")]
    Engine(String),
}

struct Ctx {
    wasi: WasiP1Ctx,
    limits: StoreLimits,
}

impl WasiView for Ctx {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl Preinit {
    /// Initialises a module or component, binary or text. Blocks for as long as that takes; stdout and stderr are this
    /// process's.
    pub fn run(&self, bytes: &[u8]) -> Result<Vec<u8>, PreinitError> {
        let binary =
            wat::parse_bytes(bytes).map_err(|error| PreinitError::Invalid(error.to_string()))?;
        let shape = Shape::of(&binary).map_err(PreinitError::Invalid)?;
        let engine = engine()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| PreinitError::Engine(error.to_string()))?;
        let _watch = Watch::start(&engine, self.time);
        runtime.block_on(async {
            // A function that waits for the host is not stopped by the engine's clock.
            let work = async {
                match shape.component {
                    true => self.component(&engine, &binary).await,
                    false => self.module(&engine, &binary).await,
                }
            };
            match tokio::time::timeout(self.time, work).await {
                Ok(made) => made,
                Err(_) => Err(PreinitError::TimedOut(self.time)),
            }
        })
    }

    async fn module(&self, engine: &Engine, binary: &[u8]) -> Result<Vec<u8>, PreinitError> {
        let mut wizer = Wizer::new();
        wizer.init_func(&self.function).keep_init_func(self.keep);
        if let Some(start) = &self.start {
            wizer.func_rename("_start", start);
        }
        let original = Module::new(engine, binary)
            .map_err(|error| PreinitError::Invalid(format!("{error:#}")))?;
        let names: Vec<&str> = original.exports().map(|export| export.name()).collect();
        let callable = |name: &str| match original.get_export(name) {
            Some(ExternType::Func(function)) => {
                function.params().len() == 0 && function.results().len() == 0
            }
            _ => false,
        };
        for name in [Some(&self.function), self.start.as_ref()]
            .into_iter()
            .flatten()
        {
            if !callable(name) {
                return Err(PreinitError::NoFunction {
                    name: name.clone(),
                    what: format!("it exports {}", names.join(", ")),
                });
            }
        }
        let (context, instrumented) = wizer.instrument(binary).map_err(unsupported)?;
        let module = Module::new(engine, &instrumented).map_err(unsupported)?;
        let mut linker = Linker::<Ctx>::new(engine);
        let linked = wasmtime_wasi::p1::add_to_linker_async(&mut linker, |ctx| &mut ctx.wasi)
            .and_then(|()| linker.define_unknown_imports_as_traps(&module));
        linked.map_err(unsupported)?;
        let mut store = self.store(engine)?;
        let called = async {
            let instance = linker.instantiate_async(&mut store, &module).await?;
            let mut functions = vec![self.function.as_str()];
            if self.function != "_initialize" && callable("_initialize") {
                functions.insert(0, "_initialize");
            }
            for name in functions {
                let function = instance.get_typed_func::<(), ()>(&mut store, name)?;
                function.call_async(&mut store, ()).await?;
            }
            Ok(instance)
        };
        let instance = called.await.map_err(|error| self.failed(&error))?;
        let mut image = ModuleImage { store, instance };
        wizer
            .snapshot(&context, &mut image)
            .await
            .map_err(unsupported)
    }

    async fn component(&self, engine: &Engine, binary: &[u8]) -> Result<Vec<u8>, PreinitError> {
        if self.start.is_some() {
            return Err(PreinitError::Unsupported(
                "a component is started by its world; its functions have no other names".to_owned(),
            ));
        }
        let mut wizer = Wizer::new();
        wizer.init_func(&self.function).keep_init_func(self.keep);
        let (context, instrumented) = wizer.instrument_component(binary).map_err(unsupported)?;
        let component = Component::new(engine, &instrumented).map_err(unsupported)?;
        let (instance, function) = match self.function.split_once('#') {
            Some((instance, function)) => (Some(instance), function),
            None => (None, self.function.as_str()),
        };
        let inside = match instance {
            Some(name) => component
                .get_export(None, name)
                .map(|(_, index)| Some(index)),
            None => Some(None),
        };
        let found = inside.and_then(|inside| component.get_export(inside.as_ref(), function));
        let index = match found {
            Some((ComponentItem::ComponentFunc(of), index))
                if of.params().len() == 0 && of.results().len() == 0 =>
            {
                index
            }
            _ => {
                return Err(PreinitError::NoFunction {
                    name: self.function.clone(),
                    what: "of an interface it is named INTERFACE#FUNCTION".to_owned(),
                });
            }
        };
        let mut linker = component::Linker::<Ctx>::new(engine);
        let linked = wasmtime_wasi::p2::add_to_linker_async(&mut linker)
            .and_then(|()| linker.define_unknown_imports_as_traps(&component));
        linked.map_err(unsupported)?;
        let mut store = self.store(engine)?;
        let called = async {
            let instance = linker.instantiate_async(&mut store, &component).await?;
            let function = instance.get_typed_func::<(), ()>(&mut store, index)?;
            function.call_async(&mut store, ()).await?;
            Ok(instance)
        };
        let instance = called.await.map_err(|error| self.failed(&error))?;
        let mut image = ComponentImage { store, instance };
        wizer
            .snapshot_component(&context, &mut image)
            .await
            .map_err(unsupported)
    }

    fn store(&self, engine: &Engine) -> Result<Store<Ctx>, PreinitError> {
        let mut builder = WasiCtxBuilder::new();
        builder
            .args(&self.arguments)
            .envs(&self.environment)
            .inherit_stdout()
            .inherit_stderr();
        for mount in &self.mounts {
            let permissions = match mount.read_only {
                true => FsPerms::ReadOnly,
                false => FsPerms::ReadWrite,
            };
            let opened = builder.preopened_dir(&mount.host, &mount.guest, permissions);
            opened.map_err(|error| PreinitError::Mount {
                path: display(&mount.host),
                error: format!("{error:#}"),
            })?;
        }
        let limits = StoreLimitsBuilder::new()
            .memory_size(self.memory)
            .trap_on_grow_failure(true)
            .build();
        let wasi = builder.build_p1();
        let mut store = Store::new(engine, Ctx { wasi, limits });
        store.limiter(|ctx| &mut ctx.limits);
        store.set_epoch_deadline(1);
        Ok(store)
    }

    fn failed(&self, error: &wasmtime::Error) -> PreinitError {
        if error.downcast_ref::<Trap>() == Some(&Trap::Interrupt) {
            return PreinitError::TimedOut(self.time);
        }
        if let Some(I32Exit(status)) = error.downcast_ref::<I32Exit>() {
            return PreinitError::Failed(format!(
                "it exited with status {status}; an initialising function returns"
            ));
        }
        // What went wrong comes first, then where.
        let cause = error.root_cause().to_string();
        let hint = match cause.contains("growing memory") {
            true => format!(" (it may use {})", format_bytes(self.memory as u64)),
            false => String::new(),
        };
        let told = format!("{cause}{hint}\n{}", place(error));
        PreinitError::Failed(told.trim_end().to_owned())
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

fn unsupported(error: wasmtime::Error) -> PreinitError {
    PreinitError::Unsupported(format!("{error:#}"))
}

fn engine() -> Result<Engine, PreinitError> {
    let mut config = Config::new();
    config.epoch_interruption(true);
    config.max_wasm_stack(STACK_BYTES);
    config.async_stack_size(2 * STACK_BYTES);
    Engine::new(&config).map_err(|error| PreinitError::Engine(format!("{error:#}")))
}

/// Stops whatever computes when the time is up, unless it is dropped before.
struct Watch(#[expect(dead_code, reason = "it goes with this")] mpsc::Sender<()>);

impl Watch {
    fn start(engine: &Engine, time: Duration) -> Self {
        let (done, waiting) = mpsc::channel::<()>();
        let engine = engine.clone();
        std::thread::spawn(move || {
            let mut time = time;
            while waiting.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Timeout) {
                engine.increment_epoch();
                // It may not have begun yet, and counts from then.
                time = Duration::from_millis(1);
            }
        });
        Self(done)
    }
}

/// A module's instance after its initialisation.
struct ModuleImage {
    store: Store<Ctx>,
    instance: Instance,
}

impl InstanceState for ModuleImage {
    async fn global_get(&mut self, name: &str, _: ValType) -> SnapshotVal {
        let global = self.instance.get_global(&mut self.store, name);
        let value = global.map(|global| global.get(&mut self.store));
        match value {
            Some(Val::I32(value)) => SnapshotVal::I32(value),
            Some(Val::I64(value)) => SnapshotVal::I64(value),
            Some(Val::F32(value)) => SnapshotVal::F32(value),
            Some(Val::F64(value)) => SnapshotVal::F64(value),
            Some(Val::V128(value)) => SnapshotVal::V128(value.as_u128()),
            _ => unreachable!("only numbers are asked for, by names the instrumenting gave them"),
        }
    }

    async fn memory_contents(&mut self, name: &str, contents: impl FnOnce(&[u8]) + Send) {
        let memory = self.instance.get_memory(&mut self.store, name);
        let memory = memory.expect("the instrumenting exported it");
        contents(memory.data(&self.store));
    }
}

/// A component's instance after its initialisation. The instrumenting gave it functions that tell its state.
struct ComponentImage {
    store: Store<Ctx>,
    instance: component::Instance,
}

impl ComponentImage {
    async fn ask<R: Lift + 'static>(&mut self, instance: &str, function: &str) -> R {
        let asked = async {
            let (_, inside) = self.instance.get_export(&mut self.store, None, instance)?;
            let inside = Some(&inside);
            let (_, index) = self
                .instance
                .get_export(&mut self.store, inside, function)?;
            let function = self
                .instance
                .get_typed_func::<(), (R,)>(&mut self.store, index)
                .ok()?;
            Some(function.call_async(&mut self.store, ()).await.ok()?.0)
        };
        asked.await.expect("the instrumenting made this function")
    }
}

impl ComponentInstanceState for ComponentImage {
    async fn call_func_ret_list_u8(
        &mut self,
        instance: &str,
        function: &str,
        contents: impl FnOnce(&[u8]) + Send,
    ) {
        let list: WasmList<u8> = self.ask(instance, function).await;
        contents(list.as_le_slice(&self.store));
    }

    async fn call_func_ret_s32(&mut self, instance: &str, function: &str) -> i32 {
        self.ask(instance, function).await
    }

    async fn call_func_ret_s64(&mut self, instance: &str, function: &str) -> i64 {
        self.ask(instance, function).await
    }

    async fn call_func_ret_f32(&mut self, instance: &str, function: &str) -> u32 {
        self.ask::<f32>(instance, function).await.to_bits()
    }

    async fn call_func_ret_f64(&mut self, instance: &str, function: &str) -> u64 {
        self.ask::<f64>(instance, function).await.to_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preinit(function: &str) -> Preinit {
        Preinit {
            function: function.to_owned(),
            start: None,
            keep: false,
            arguments: Vec::new(),
            environment: Vec::new(),
            mounts: Vec::new(),
            memory: 64 << 20,
            time: Duration::from_secs(60),
        }
    }

    const SUMS: &str = r#"(module
        (memory (export "memory") 1)
        (global $calls (mut i32) (i32.const 0))
        (func (export "prepare") (local $n i32)
          (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
          (loop $on
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (i64.store (i32.const 8) (i64.add (i64.load (i32.const 8)) (i64.extend_i32_u (local.get $n))))
            (br_if $on (i32.lt_u (local.get $n) (i32.const 100000)))))
        (func (export "resume") (if (i64.ne (i64.load (i32.const 8)) (i64.const 5000050000)) (then unreachable)))
        (func (export "_start") unreachable))"#;

    #[test]
    fn what_was_computed_is_there_and_the_function_is_gone() {
        let mut preinit = preinit("prepare");
        preinit.start = Some("resume".to_owned());
        let made = preinit.run(SUMS.as_bytes()).expect("it can be done");
        let engine = Engine::default();
        let module = Module::new(&engine, &made).expect("it is a module");
        let names: Vec<&str> = module.exports().map(|export| export.name()).collect();
        assert!(
            names.contains(&"_start") && !names.contains(&"prepare"),
            "{names:?}"
        );
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).expect("it has no imports");
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start");
        start
            .expect("it is there")
            .call(&mut store, ())
            .expect("the sum is there");
    }

    #[test]
    fn what_cannot_be_done_is_refused_in_words() {
        let refused = |preinit: &Preinit, text: &str| {
            preinit
                .run(text.as_bytes())
                .expect_err("it is refused")
                .to_string()
        };
        let told = refused(&preinit("begin"), SUMS);
        assert!(
            told.contains("exports no function begin") && told.contains("resume"),
            "{told}"
        );
        let told = refused(&preinit("_start"), SUMS);
        assert!(told.contains("the initialisation failed"), "{told}");
        let endless = r#"(module (func (export "go") (loop $on (br $on))))"#;
        let mut short = preinit("go");
        short.time = Duration::from_millis(200);
        assert!(matches!(
            short.run(endless.as_bytes()),
            Err(PreinitError::TimedOut(_))
        ));
        let grows =
            r#"(module (memory 1) (func (export "go") (drop (memory.grow (i32.const 2000)))))"#;
        let told = refused(&preinit("go"), grows);
        assert!(told.contains("64 MiB"), "{told}");
        let asks = r#"(module (import "tepui" "x" (func $x)) (func (export "go") (call $x)))"#;
        let told = refused(&preinit("go"), asks);
        assert!(told.contains("unknown import"), "{told}");
        let tables = r#"(module (table 1 funcref) (func (export "go") (table.set (i32.const 0) (ref.null func))))"#;
        let told = refused(&preinit("go"), tables);
        assert!(
            told.starts_with("no image can be taken of this module"),
            "{told}"
        );
        assert!(matches!(
            preinit("x").run(b"text"),
            Err(PreinitError::Invalid(_))
        ));
    }

    #[test]
    fn a_component_is_initialised_too() {
        let text = r#"(component
            (core module $m
              (global $n (mut i32) (i32.const 1))
              (func (export "prepare") (global.set $n (i32.const 42)))
              (func (export "tell") (result i32) (global.get $n)))
            (core instance $i (instantiate $m))
            (func (export "prepare") (canon lift (core func $i "prepare")))
            (func (export "tell") (result u32) (canon lift (core func $i "tell"))))"#;
        let mut keeping = preinit("prepare");
        keeping.keep = true;
        let made = keeping.run(text.as_bytes()).expect("it can be done");
        let engine = Engine::default();
        let component = Component::new(&engine, &made).expect("it is a component");
        let mut store = Store::new(&engine, ());
        let linker = component::Linker::<()>::new(&engine);
        let instance = linker
            .instantiate(&mut store, &component)
            .expect("no imports");
        let tell = instance.get_typed_func::<(), (u32,)>(&mut store, "tell");
        let told = tell
            .expect("it is there")
            .call(&mut store, ())
            .expect("it tells");
        assert_eq!(told, (42,));
    }
}
