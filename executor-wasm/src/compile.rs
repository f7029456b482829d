//! The compiler's side: a module in, the form executors load out, or a sentence why not.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::hash::{Hash as _, Hasher};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tepui_model::plain;
use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{Component, Type};
use wasmtime::{Engine, Module, UnknownImportError};

use crate::ending::{bounded, named};
use crate::engines::{
    EngineError, Metering, baseline_engine, component_linker, linker, on_demand_engine,
    unoptimised_engine,
};
use crate::task::Entry;
use crate::world::{
    COMMAND, SERVICE, Shape, Worlds, provider_of_function, provider_of_interface, shares_memory,
};

const MAGIC: &[u8] = b"\0asm";
/// What is told of a message of the parsers and compilers.
const MESSAGE_BYTES: usize = 2_048;

/// Why a file is not compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The input cannot be read.
    #[error("{} cannot be read: {error}", path.display())]
    Read {
        /// The input.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The output cannot be written.
    #[error("{} cannot be written: {error}", path.display())]
    Write {
        /// The output.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// It is compiled code, and not from our compiler as far as anybody can tell.
    #[error("the file is compiled code already; give the .wasm module it was made from")]
    Precompiled,
    /// It is a component for a world that agents do not carry.
    #[error(
        "the component is built for WASI 0.3 (by {name}); agents carry WASI 0.2: build it for wasm32-wasip2"
    )]
    Newer {
        /// By what that is seen.
        name: String,
    },
    /// It is something else.
    #[error(
        "the file is not a WebAssembly module: it begins with neither the wasm magic nor WebAssembly text"
    )]
    NotAModule,
    /// It claims to be a module, and is none that can be compiled.
    #[error("the module is not valid: {message}")]
    Invalid {
        /// What is wrong, with the offset.
        message: String,
    },
    /// It is valid by a proposal that is not carried.
    #[error(
        "the module uses a WebAssembly proposal that agents do not carry; build it without: {message}"
    )]
    Proposal {
        /// Which, with the offset.
        message: String,
    },
    /// It wants something from the host that the host has not.
    #[error("{}", missing_function(module, name))]
    MissingImport {
        /// From where.
        module: String,
        /// What.
        name: String,
    },
    /// The same of a component.
    #[error(
        "the component imports {name}, which does not exist here: {}",
        provider_of_interface(name)
    )]
    MissingInterface {
        /// What.
        name: String,
    },
    /// It wants something the host has, but of another type.
    #[error("it does not fit this host: {message}")]
    WrongImport {
        /// What does not fit.
        message: String,
    },
    /// What it is to be started by is of another type.
    #[error("the component cannot be started: its {world} is not that of WASI 0.2, whose {wanted}")]
    WrongExport {
        /// Which.
        world: &'static str,
        /// What it would be.
        wanted: &'static str,
    },
    /// Nothing in it can be called.
    #[error("{message}")]
    NoStart {
        /// What it has instead.
        message: String,
    },
    /// The same of a component.
    #[error(
        "the component exports neither wasi:cli/run (a command) nor wasi:http/incoming-handler (a service) of version 0.2, but {exports}"
    )]
    NoWorld {
        /// What it has instead.
        exports: String,
    },
    /// There is no engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl CompileError {
    /// The kind of error in one word, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::Precompiled => "precompiled",
            Self::Newer { .. } => "newer",
            Self::NotAModule => "not_a_module",
            Self::Invalid { .. } => "invalid",
            Self::Proposal { .. } => "proposal",
            Self::MissingImport { .. } | Self::MissingInterface { .. } => "missing_import",
            Self::WrongImport { .. } => "wrong_import",
            Self::NoStart { .. } | Self::NoWorld { .. } | Self::WrongExport { .. } => "no_start",
            Self::Engine(_) => "engine",
        }
    }
}

/// Compiles the module (binary or text) in `input` and puts the outcome at `output`, whole or not at all.
pub fn compile(input: &Path, output: &Path, metered: bool) -> Result<(), CompileError> {
    let bytes = std::fs::read(input).map_err(|error| CompileError::Read {
        path: input.to_owned(),
        error,
    })?;
    let code = compile_bytes(&bytes, &on_demand_engine(metering(metered))?)?;
    write(output, &code).map_err(|error| CompileError::Write {
        path: output.to_owned(),
        error,
    })
}

/// As [`compile`], in a fraction of the time, for code that runs several times slower. Whether the baseline compiler did
/// it: it does not know every proposal, and what it does not know the other compiler does without optimising.
pub fn compile_quickly(input: &Path, output: &Path, metered: bool) -> Result<bool, CompileError> {
    let bytes = std::fs::read(input).map_err(|error| CompileError::Read {
        path: input.to_owned(),
        error,
    })?;
    let metering = metering(metered);
    // What it cannot do, it may also say by a panic. This process has nothing else to do.
    let baseline =
        std::panic::catch_unwind(|| compile_bytes(&bytes, &baseline_engine(metering).ok()?).ok());
    let (code, baseline) = match baseline {
        Ok(Some(code)) => (code, true),
        _ => (
            compile_bytes(&bytes, &unoptimised_engine(metering)?)?,
            false,
        ),
    };
    write(output, &code).map_err(|error| CompileError::Write {
        path: output.to_owned(),
        error,
    })?;
    Ok(baseline)
}

/// Names the compilers of [`compile_quickly`] and their settings, in hex.
pub fn quick_key() -> String {
    let mut hasher = KeyHasher(Sha256::new());
    for metering in [Metering::Plain, Metering::Metered] {
        let engines = [baseline_engine(metering), unoptimised_engine(metering)];
        for engine in engines.iter().flatten() {
            engine.precompile_compatibility_hash().hash(&mut hasher);
        }
    }
    hex::encode(hasher.0.finalize())
}

/// Names the compiler and all its settings, in hex: code of one key is not loaded by an executor of another.
pub fn compatibility_key(metered: bool) -> String {
    match on_demand_engine(metering(metered)) {
        Ok(engine) => {
            let mut hasher = KeyHasher(Sha256::new());
            engine.precompile_compatibility_hash().hash(&mut hasher);
            hex::encode(hasher.0.finalize())
        }
        // A host without an engine compiles nothing, so it does not matter what that is kept under.
        Err(error) => hex::encode(Sha256::digest(error.to_string())),
    }
}

fn metering(metered: bool) -> Metering {
    if metered {
        Metering::Metered
    } else {
        Metering::Plain
    }
}

/// The standard hasher may change with the toolchain, and 64 bits are few for a name.
struct KeyHasher(Sha256);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        // Nobody asks: the digest is taken whole.
        0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

fn compile_bytes(bytes: &[u8], engine: &Engine) -> Result<Vec<u8>, CompileError> {
    if Engine::detect_precompiled(bytes).is_some() {
        return Err(CompileError::Precompiled);
    }
    let invalid = |message: &str| CompileError::Invalid {
        message: one_line(message),
    };
    let binary = if bytes.starts_with(MAGIC) {
        Cow::Borrowed(bytes)
    } else if looks_like_text(bytes) {
        wat::parse_bytes(bytes).map_err(|error| invalid(&error.to_string()))?
    } else {
        return Err(CompileError::NotAModule);
    };
    let shape = Shape::of(&binary).map_err(|error| invalid(&error))?;
    // The engine takes it, but makes no such memory.
    if shares_memory(&binary) {
        return Err(CompileError::Proposal {
            message: "it has a shared memory, which is for threads".to_owned(),
        });
    }
    if shape.component {
        return compile_component(engine, &binary, &shape);
    }
    let module = Module::new(engine, &binary).map_err(|error| not_compiled(&error))?;
    if let Err(error) = linker(engine)?.instantiate_pre(&module) {
        return Err(match error.downcast_ref::<UnknownImportError>() {
            Some(unknown) => CompileError::MissingImport {
                module: unknown.module().to_owned(),
                name: unknown.name().to_owned(),
            },
            None => CompileError::WrongImport {
                message: one_line(&format!("{error:#}")),
            },
        });
    }
    // Which function is the entrypoint is known only at launch. A module with any that could be one is let through.
    let callable = module
        .exports()
        .any(|export| Entry::find(&module, export.name()).is_ok());
    if !callable {
        let message = match Entry::find(&module, "_start") {
            Err(message) => message,
            Ok(_) => String::new(),
        };
        return Err(CompileError::NoStart { message });
    }
    module.serialize().map_err(|error| CompileError::Invalid {
        message: one_line(&format!("{error:#}")),
    })
}

/// WebAssembly text begins with a parenthesis, after white space and comments.
fn looks_like_text(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let text = text.trim_start();
    text.starts_with('(') || text.starts_with(";;")
}

fn compile_component(
    engine: &Engine,
    binary: &[u8],
    shape: &Shape,
) -> Result<Vec<u8>, CompileError> {
    if let Some(name) = shape.newer() {
        return Err(CompileError::Newer { name: named(name) });
    }
    let component = Component::new(engine, binary).map_err(|error| not_compiled(&error))?;
    if let Err(error) = component_linker(engine)?.instantiate_pre(&component) {
        let whole = format!("{error:#}");
        let missing = whole.contains("was not found in the linker");
        let is_named = |name: &&String| whole.contains(&format!("`{name}`"));
        return Err(match shape.imports.iter().find(is_named) {
            Some(name) if missing => CompileError::MissingInterface { name: named(name) },
            _ => CompileError::WrongImport {
                message: one_line(&whole),
            },
        });
    }
    let worlds = Worlds::of(shape.exports.iter().map(String::as_str));
    if worlds.is_none() {
        let exports = match shape.exports.as_slice() {
            [] => "nothing".to_owned(),
            names => one_line(&names.join(", ")),
        };
        return Err(CompileError::NoWorld { exports });
    }
    if worlds.command && !is_command(&component) {
        return Err(CompileError::WrongExport {
            world: COMMAND,
            wanted: "run takes nothing and gives a result without values",
        });
    }
    if worlds.service && !is_service(&component) {
        return Err(CompileError::WrongExport {
            world: SERVICE,
            wanted: "handle takes a request and a place for the response and gives nothing",
        });
    }
    component.serialize().map_err(|error| not_compiled(&error))
}

/// Why a module or component was not taken. The validator knows all proposals and says which one is not switched on.
fn not_compiled(error: &wasmtime::Error) -> CompileError {
    let message = one_line(&format!("{error:#}"));
    let switched_off = ["support is not enabled", "must be enabled"];
    if switched_off.iter().any(|words| message.contains(words)) {
        return CompileError::Proposal { message };
    }
    CompileError::Invalid { message }
}

fn is_command(component: &Component) -> bool {
    let Some(function) = entry(component, "run", |worlds| worlds.command) else {
        return false;
    };
    let gives = match function.results().collect::<Vec<_>>().as_slice() {
        [Type::Result(result)] => result.ok().is_none() && result.err().is_none(),
        _ => false,
    };
    gives && function.params().len() == 0
}

fn is_service(component: &Component) -> bool {
    let Some(function) = entry(component, "handle", |worlds| worlds.service) else {
        return false;
    };
    let takes: Vec<Type> = function.params().map(|(_, of)| of).collect();
    matches!(takes.as_slice(), [Type::Own(_), Type::Own(_)]) && function.results().len() == 0
}

/// The function a component is started by in a world.
fn entry(
    component: &Component,
    function: &str,
    is_of: impl Fn(Worlds) -> bool,
) -> Option<ComponentFunc> {
    let engine = component.engine();
    let exported = component.component_type();
    let (_, export) = exported
        .exports(engine)
        .find(|(name, _)| is_of(Worlds::of(std::iter::once(*name))))?;
    let ComponentItem::ComponentInstance(instance) = export.ty else {
        return None;
    };
    match instance.get_export(engine, function)?.ty {
        ComponentItem::ComponentFunc(function) => Some(function),
        _ => None,
    }
}

/// What a module that lacks a function of its host is told.
pub(crate) fn missing_function(module: &str, name: &str) -> String {
    let provider = provider_of_function(module, name);
    let (module, name) = (named(module), named(name));
    format!("the module imports {module}::{name}, which does not exist here: {provider}")
}

/// A message as one line that can be told: some repeat the line of text they complain about, whatever its length.
fn one_line(text: &str) -> String {
    let beginning = bounded(text, MESSAGE_BYTES);
    let mut line = beginning.split_whitespace().collect::<Vec<_>>().join(" ");
    if beginning.len() < text.len() {
        line.push_str(" ...");
    }
    plain(&line)
}

/// Writes beside the final name and renames: whoever maps the file must never see it change.
fn write(output: &Path, code: &[u8]) -> std::io::Result<()> {
    let directory = match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = output
        .file_name()
        .ok_or_else(|| std::io::Error::other("it names no file"))?;
    let temporary = directory.join(format!(
        ".{}.{}.partial",
        name.to_string_lossy(),
        std::process::id()
    ));
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(libc::O_NOFOLLOW)
            .mode(0o644)
            .open(&temporary)?;
        file.write_all(code)?;
        file.sync_all()?;
        std::fs::rename(&temporary, output)?;
        File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        // The first error is the one to tell.
        drop(std::fs::remove_file(&temporary));
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile_for(bytes: &[u8], metering: Metering) -> Result<Vec<u8>, CompileError> {
        compile_bytes(bytes, &on_demand_engine(metering)?)
    }

    fn refusal(bytes: &[u8]) -> CompileError {
        compile_for(bytes, Metering::Plain).expect_err("it must be refused")
    }

    #[test]
    fn text_and_binary_are_compiled() {
        let code = compile_for(
            b";; a comment\n(module (func (export \"_start\")))",
            Metering::Plain,
        );
        assert!(code.is_ok());
        // The smallest module with `_start`, in binary.
        let binary = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x0a\x01\x06_start\0\0\x0a\x04\x01\x02\0\x0b";
        assert!(compile_for(binary, Metering::Metered).is_ok());
    }

    #[test]
    fn a_missing_import_is_named() {
        let error =
            refusal(b"(module (import \"env\" \"mystery\" (func)) (func (export \"_start\")))");
        assert_eq!(
            error.to_string(),
            "the module imports env::mystery, which does not exist here: a C function without a definition \
             becomes such an import; link the library that has it"
        );
        assert_eq!(error.kind(), "missing_import");
        let error = refusal(
            b"(module (import \"wasi_snapshot_preview1\" \"proc_exit\" (func)) (func (export \"_start\")))",
        );
        assert_eq!(error.kind(), "wrong_import");
    }

    #[test]
    fn the_guest_interface_is_known_and_other_versions_are_refused_by_name() {
        let known = b"(module (import \"tepui_guest_v1\" \"message_send\" (func (param i32 i32) (result i32)))
            (func (export \"_start\")))";
        assert!(compile_for(known, Metering::Plain).is_ok());
        for (module, says) in [
            ("tepui_guest_v2", "(tepui_guest_v1)"),
            ("tepui_guest_v1", "no such function"),
        ] {
            let text = format!(
                "(module (import \"{module}\" \"message_shout\" (func)) (func (export \"_start\")))"
            );
            let error = refusal(text.as_bytes());
            assert_eq!(error.kind(), "missing_import");
            let error = error.to_string();
            let named = format!("{module}::message_shout");
            assert!(error.contains(&named) && error.contains(says), "{error}");
        }
        let run = "(core module $m (func (export \"run\") (result i32) i32.const 0)) (core instance $m (instantiate $m))
            (func $run (result (result)) (canon lift (core func $m \"run\")))
            (instance $i (export \"run\" (func $run))) (export \"wasi:cli/run@0.2.0\" (instance $i))";
        let component = |name: &str, function: &str| {
            format!(
                "(component (import \"tepui:guest/{name}\" (instance (export \"{function}\" (func (result u64))))) {run})"
            )
        };
        let known = component("messages@0.1.0", "dropped");
        compile_for(known.as_bytes(), Metering::Plain).expect("it is of this version");
        for (name, function) in [
            ("messages@0.2.0", "dropped"),
            ("mail@0.1.0", "dropped"),
            ("messages@0.1.7", "shouted"),
        ] {
            let error = refusal(component(name, function).as_bytes());
            assert_eq!(error.kind(), "missing_import", "{error}");
            let error = error.to_string();
            assert!(
                error.contains(name) && error.contains("0.1.0 of tepui:guest"),
                "{error}"
            );
        }
    }

    #[test]
    fn words_of_a_module_are_told_without_effect_and_not_at_length() {
        let named =
            r#"(module (import "\1b[31mred\0a" "x\e2\80\ae" (func)) (func (export "_start")))"#;
        let told = refusal(named.as_bytes()).to_string();
        assert!(
            told.starts_with("the module imports \\u{1b}[31mred\\n::x\\u{202e}, which"),
            "{told}"
        );
        let told = refusal("(".repeat(100_000).as_bytes()).to_string();
        assert!(told.starts_with("the module is not valid: "), "{told}");
        assert!(told.len() < 2 * MESSAGE_BYTES);
    }

    #[test]
    fn a_world_of_another_type_is_refused() {
        let component = |export: &str| {
            format!(
                r#"(component
                    (core module $m (func (export "r") (param i32) (result i32) (i32.const 0)))
                    (core instance $i (instantiate $m))
                    (func $f (param "a" u32) (result u32) (canon lift (core func $i "r")))
                    (instance $x (export "run" (func $f)) (export "handle" (func $f)))
                    (export "{export}" (instance $x)))"#
            )
        };
        for (export, world) in [
            ("wasi:cli/run@0.2.0", "wasi:cli/run"),
            (
                "wasi:http/incoming-handler@0.2.0",
                "wasi:http/incoming-handler",
            ),
        ] {
            let error = refusal(component(export).as_bytes());
            assert_eq!(error.kind(), "no_start");
            let told = format!("the component cannot be started: its {world} is not that of");
            assert!(error.to_string().starts_with(&told), "{error}");
        }
    }

    #[test]
    fn what_is_no_module_is_refused_with_a_sentence() {
        assert_eq!(refusal(b"#!/bin/sh\n").kind(), "not_a_module");
        assert_eq!(refusal(b"").kind(), "not_a_module");
        let invalid = refusal(b"\0asm\x01\0\0\0\xff\xff");
        assert_eq!(invalid.kind(), "invalid");
        assert!(invalid.to_string().contains("offset"), "{invalid}");
    }

    #[test]
    fn a_proposal_that_is_not_carried_is_named() {
        let error = refusal(b"(module (memory 1 1 shared) (func (export \"_start\")))");
        assert_eq!(error.kind(), "proposal", "{error}");
        let said = error.to_string();
        assert!(said.contains("do not carry; build it without"), "{said}");
        assert!(said.contains("shared memory"), "{said}");
    }

    #[test]
    fn a_component_without_a_world_or_its_imports_is_refused_by_name() {
        assert_eq!(
            refusal(b"(component (instance $i) (export \"my:own/thing\" (instance $i)))")
                .to_string(),
            "the component exports neither wasi:cli/run (a command) nor wasi:http/incoming-handler (a service) \
             of version 0.2, but my:own/thing"
        );
        let error = refusal(
            b"(component (import \"wasi:keyvalue/store@0.2.0-draft\" (instance (export \"open\" (func)))))",
        );
        assert_eq!(error.kind(), "missing_import");
        assert!(
            error.to_string().starts_with(
                "the component imports wasi:keyvalue/store@0.2.0-draft, which does not exist here: "
            ),
            "{error}"
        );
        let newer =
            refusal(b"(component (instance $i) (export \"wasi:cli/run@0.3.0\" (instance $i)))");
        assert_eq!(newer.kind(), "newer");
        assert!(newer.to_string().contains("wasi:cli/run@0.3.0"), "{newer}");
    }

    #[test]
    fn compiled_code_is_not_taken_for_a_module() {
        let code = compile_for(b"(module (func (export \"_start\")))", Metering::Plain)
            .expect("it compiles");
        assert_eq!(refusal(&code).kind(), "precompiled");
    }

    #[test]
    fn a_module_without_anything_to_call_is_refused() {
        let error =
            refusal(b"(module (memory (export \"memory\") 1) (func (export \"add\") (param i32)))");
        assert_eq!(
            error.to_string(),
            "module has no _start export: it exports memory, add"
        );
        assert!(
            compile_for(b"(module (func (export \"go\")))", Metering::Plain).is_ok(),
            "another entrypoint may be named at launch"
        );
    }

    #[test]
    fn the_key_tells_metered_from_plain_and_does_not_change() {
        assert_eq!(compatibility_key(false), compatibility_key(false));
        assert_ne!(compatibility_key(false), compatibility_key(true));
        assert_eq!(compatibility_key(false).len(), 64);
    }

    #[test]
    fn the_output_appears_whole_and_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let input = directory.path().join("in.wat");
        let output = directory.path().join("out");
        std::fs::write(&input, "(module (func (export \"_start\")))").expect("written");
        compile(&input, &output, false).expect("compiled");
        let names = std::fs::read_dir(directory.path()).expect("listed").count();
        assert_eq!(names, 2, "no partial file is left");
        assert!(matches!(
            compile(&directory.path().join("none"), &output, false),
            Err(CompileError::Read { .. })
        ));
    }
}
