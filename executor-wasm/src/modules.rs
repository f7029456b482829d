//! Compiled modules, loaded and linked once and kept for the tasks that come after.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;
use wasmtime::component::{self, Component};
use wasmtime::{Engine, ExternType, InstancePre, Module, Precompiled, UnknownImportError};

use crate::compile::missing_function;
use crate::engines::{Build, Engines, Linked, Metering};
use crate::store::State;
use crate::world::Worlds;

/// Modules kept loaded.
const CAPACITY: usize = 256;

/// A compiled module in the agent's cache.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModuleFile {
    /// Digest of the module it was compiled from, in hex.
    pub sha256: String,
    /// The file. The agent's compiler wrote it, and nobody changes it.
    pub compiled: PathBuf,
    /// Whether the code counts fuel.
    pub metering: Metering,
    /// Whether the baseline compiler made it.
    pub baseline: bool,
}

impl ModuleFile {
    pub(crate) fn build(&self) -> Build {
        Build {
            metering: self.metering,
            baseline: self.baseline,
        }
    }
}

/// Code ready to be instantiated.
pub(crate) enum Loaded {
    Module(LoadedModule),
    Component(LoadedComponent),
}

pub(crate) struct LoadedModule {
    pub(crate) module: Module,
    pub(crate) linked: Forms<InstancePre<State>>,
}

pub(crate) struct LoadedComponent {
    pub(crate) component: Component,
    pub(crate) worlds: Worlds,
    pub(crate) linked: Forms<component::InstancePre<State>>,
}

impl LoadedComponent {
    /// Pages of its largest memory at the beginning.
    pub(crate) fn minimum_pages(&self) -> Option<u64> {
        self.component.resources_required()?.max_initial_memory_size
    }

    /// Whether it looks at files at all.
    pub(crate) fn wants_files(&self) -> bool {
        let engine = self.component.engine();
        let wanted = self.component.component_type();
        wanted
            .imports(engine)
            .any(|(name, _)| name.starts_with("wasi:filesystem/preopens"))
    }

    pub(crate) fn memories(&self) -> u32 {
        let needs = self.component.resources_required();
        needs.map_or(1, |needs| needs.num_memories.max(1))
    }
}

/// The same code in the two engines of a flavour.
pub(crate) struct Forms<P> {
    /// Not all code fits a pool.
    pub(crate) pooled: Option<P>,
    pub(crate) on_demand: P,
}

impl<P> Forms<P> {
    /// The same forms of something made of them.
    pub(crate) fn try_map<Q, E>(&self, make: impl Fn(&P) -> Result<Q, E>) -> Result<Forms<Q>, E> {
        Ok(Forms {
            pooled: self.pooled.as_ref().map(&make).transpose()?,
            on_demand: make(&self.on_demand)?,
        })
    }

    pub(crate) fn of(&self, pooled: bool) -> &P {
        match &self.pooled {
            Some(form) if pooled => form,
            _ => &self.on_demand,
        }
    }
}

#[derive(Default)]
struct Kept {
    cell: Arc<OnceCell<Arc<Loaded>>>,
    used: u64,
}

#[derive(Default)]
struct Shelf {
    kept: HashMap<(String, Metering, bool), Kept>,
    clock: u64,
}

pub(crate) struct Modules {
    engines: Arc<Engines>,
    shelf: Mutex<Shelf>,
}

impl Modules {
    pub(crate) fn new(engines: Arc<Engines>) -> Self {
        Self {
            engines,
            shelf: Mutex::default(),
        }
    }

    /// The module, loaded by whoever asks first. Errors are sentences, and are not kept; nor is what is loaded to leave a
    /// core dump.
    pub(crate) async fn get(&self, file: &ModuleFile, dumps: bool) -> Result<Arc<Loaded>, String> {
        if dumps {
            let engines = Arc::clone(&self.engines);
            let file = file.clone();
            let loading = tokio::task::spawn_blocking(move || load_dumping(&engines, &file));
            let loaded = loading
                .await
                .map_err(|error| format!("loading the module failed: {error}"))?;
            return loaded.map(Arc::new);
        }
        let cell = self.cell(file);
        let loaded = cell
            .get_or_try_init(async || {
                let engines = Arc::clone(&self.engines);
                let file = file.clone();
                tokio::task::spawn_blocking(move || load(&engines, &file))
                    .await
                    .map_err(|error| format!("loading the module failed: {error}"))?
                    .map(Arc::new)
            })
            .await?;
        Ok(Arc::clone(loaded))
    }

    fn cell(&self, file: &ModuleFile) -> Arc<OnceCell<Arc<Loaded>>> {
        // Without a digest the path, which the agent derives from it, stands in.
        let name = if file.sha256.is_empty() {
            file.compiled.to_string_lossy().into_owned()
        } else {
            file.sha256.clone()
        };
        let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        shelf.clock += 1;
        let now = shelf.clock;
        let key = (name, file.metering, file.baseline);
        if shelf.kept.len() >= CAPACITY && !shelf.kept.contains_key(&key) {
            let oldest = shelf.kept.iter().min_by_key(|(_, kept)| kept.used);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                shelf.kept.remove(&oldest);
            }
        }
        let kept = shelf.kept.entry(key).or_default();
        kept.used = now;
        Arc::clone(&kept.cell)
    }
}

/// Opens compiled code so that what is checked is what is mapped.
fn open(path: &Path) -> Result<File, String> {
    let failed = |error: &dyn std::fmt::Display| {
        format!(
            "the compiled module {} cannot be used: {error}",
            path.display()
        )
    };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| failed(&error))?;
    let metadata = file.metadata().map_err(|error| failed(&error))?;
    if !metadata.is_file() {
        return Err(failed(&"it is not a file"));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(failed(&"others may write to it"));
    }
    Ok(file)
}

fn load(engines: &Engines, file: &ModuleFile) -> Result<Loaded, String> {
    let flavour = engines
        .flavour(file.build())
        .map_err(|error| error.to_string())?;
    load_into(&flavour.on_demand, flavour.pooled.as_ref(), file)
}

fn load_dumping(engines: &Engines, file: &ModuleFile) -> Result<Loaded, String> {
    // The usual ones have to be there for the count of what they hold.
    engines
        .flavour(file.build())
        .map_err(|error| error.to_string())?;
    let linked = engines
        .dumping(file.build())
        .map_err(|error| error.to_string())?;
    load_into(linked, None, file)
}

fn load_into(usual: &Linked, pooled: Option<&Linked>, file: &ModuleFile) -> Result<Loaded, String> {
    let opened = Opened(open(&file.compiled)?);
    let unfit = |error: wasmtime::Error| {
        format!("the compiled module does not fit this executor: {error:#}")
    };
    // Code with needs beyond those of a slot does not load into the pool's engine. That is all right.
    match opened.kind() {
        Some(Precompiled::Component) => {
            let component = opened.component(usual).map_err(unfit)?;
            let on_demand = link_component(usual, &component)?;
            let pooled = pooled.and_then(|linked| {
                let component = opened.component(linked).inspect_err(not_pooled).ok()?;
                link_component(linked, &component).ok()
            });
            let engine = component.engine();
            let exports = component.component_type();
            let names: Vec<String> = exports
                .exports(engine)
                .map(|(name, _)| name.to_owned())
                .collect();
            Ok(Loaded::Component(LoadedComponent {
                worlds: Worlds::of(names.iter().map(String::as_str)),
                linked: Forms { pooled, on_demand },
                component,
            }))
        }
        _ => {
            let module = opened.module(usual).map_err(unfit)?;
            let on_demand = link(usual, &module)?;
            let pooled = pooled
                .filter(|_| !outgrows_a_slot(&module))
                .and_then(|linked| {
                    let module = opened.module(linked).inspect_err(not_pooled).ok()?;
                    link(linked, &module).ok()
                });
            Ok(Loaded::Module(LoadedModule {
                module,
                linked: Forms { pooled, on_demand },
            }))
        }
    }
}

fn not_pooled(error: &wasmtime::Error) {
    tracing::debug!(error = %format!("{error:#}"), "a module does not fit the pool");
}

/// A file whose content has been found to be what the agent put there.
struct Opened(File);

impl Opened {
    /// Leads to this very file, whatever has come to stand under its name.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    /// Behind a wall there may be no such paths.
    fn has_path(&self) -> bool {
        File::open(self.path()).is_ok()
    }

    fn content(&self) -> wasmtime::Result<Vec<u8>> {
        let mut code = Vec::new();
        let mut file = self.0.try_clone()?;
        file.rewind()?;
        file.read_to_end(&mut code)?;
        Ok(code)
    }

    fn kind(&self) -> Option<Precompiled> {
        if self.has_path() {
            return Engine::detect_precompiled_file(self.path()).ok().flatten();
        }
        Engine::detect_precompiled(&self.content().ok()?)
    }

    fn module(&self, linked: &Linked) -> wasmtime::Result<Module> {
        let file = self.0.try_clone()?;
        // SAFETY: the agent names only files its own compiler wrote into its own cache, by a rename of a finished file
        // under a name never used again; `open` has seen that this is a file nobody else may write to.
        unsafe { Module::deserialize_open_file(&linked.engine, file) }
    }

    fn component(&self, linked: &Linked) -> wasmtime::Result<Component> {
        if self.has_path() {
            // SAFETY: as above; the path leads to the file that was opened.
            return unsafe { Component::deserialize_file(&linked.engine, self.path()) };
        }
        let code = self.content()?;
        // SAFETY: as above.
        unsafe { Component::deserialize(&linked.engine, &code) }
    }
}

fn link(linked: &Linked, module: &Module) -> Result<InstancePre<State>, String> {
    linked.linker.instantiate_pre(module).map_err(|error| {
        match error.downcast_ref::<UnknownImportError>() {
            Some(unknown) => missing_function(unknown.module(), unknown.name()),
            None => format!("the module does not fit this host: {error:#}"),
        }
    })
}

fn link_component(
    linked: &Linked,
    component: &Component,
) -> Result<component::InstancePre<State>, String> {
    let linked = linked.components.instantiate_pre(component);
    linked.map_err(|error| format!("the component does not fit this host: {error:#}"))
}

/// Whether a memory may grow beyond the 4 GiB of a slot: only 64-bit ones can.
fn outgrows_a_slot(module: &Module) -> bool {
    module.exports().any(|export| match export.ty() {
        ExternType::Memory(memory) => memory.is_64(),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_link_or_a_writable_file_is_not_loaded() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("code");
        std::fs::write(&file, "x").expect("written");
        let mode = |mode| {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("set");
        };
        mode(0o644);
        open(&file).expect("it is all right");
        mode(0o666);
        assert!(
            open(&file)
                .expect_err("refused")
                .contains("others may write")
        );
        mode(0o644);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        open(&link).expect_err("a link could come to name another file");
        open(directory.path()).expect_err("a directory holds no code");
    }

    #[test]
    fn the_shelf_is_bounded_and_forgets_the_longest_unused() {
        let modules = Modules::new(Arc::new(Engines::new(0, 0)));
        let file = |number: usize| ModuleFile {
            sha256: number.to_string(),
            compiled: PathBuf::new(),
            metering: Metering::Plain,
            baseline: false,
        };
        let first = modules.cell(&file(0));
        for number in 1..CAPACITY + 10 {
            modules.cell(&file(number));
            modules.cell(&file(0));
        }
        assert_eq!(
            modules.shelf.lock().expect("unpoisoned").kept.len(),
            CAPACITY
        );
        assert!(Arc::ptr_eq(&first, &modules.cell(&file(0))));
    }
}
