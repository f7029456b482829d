//! What a file is and what it wants, read from its bytes: the world it is for, and who could provide what nobody here does.

use wasmparser::{Encoding, Parser, Payload};

use crate::guest::abi::MODULE as GUEST_MODULE;

/// The interface a command is started by.
pub(crate) const COMMAND: &str = "wasi:cli/run";
/// The interface requests are handed to.
pub(crate) const SERVICE: &str = "wasi:http/incoming-handler";
/// The same two in WASI 0.3.
const COMMAND_3: &str = "wasi:cli/run@0.3";
const SERVICE_3: &str = "wasi:http/handler@0.3";

/// What the modules of all versions of the guest interface begin with.
const GUEST_MODULES: &str = "tepui_guest_v";
/// The package of the guest interface.
const GUEST_PACKAGE: &str = "tepui:guest/";

/// What a WebAssembly binary is, as far as its outermost sections say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shape {
    /// A component, not a core module.
    pub component: bool,
    /// Of a component: the names it exports.
    pub exports: Vec<String>,
    /// Of a component: the names it imports.
    pub imports: Vec<String>,
}

impl Shape {
    /// Reads a binary. The error is a sentence with an offset.
    pub fn of(bytes: &[u8]) -> Result<Self, String> {
        let mut shape = Self::default();
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(|error| error.to_string())? {
                Payload::Version { encoding, .. } => {
                    depth += 1;
                    if depth == 1 {
                        shape.component = encoding == Encoding::Component;
                        if !shape.component {
                            break;
                        }
                    }
                }
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(section) if depth == 1 => {
                    for import in section {
                        let import = import.map_err(|error| error.to_string())?;
                        shape.imports.push(import.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    for export in section {
                        let export = export.map_err(|error| error.to_string())?;
                        shape.exports.push(export.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(shape)
    }

    /// Whether it answers HTTP requests and does nothing else.
    pub fn is_service(&self) -> bool {
        let worlds = Worlds::of(self.exports.iter().map(String::as_str));
        worlds.service && !worlds.command
    }

    /// What shows that it was built for WASI 0.3.
    pub(crate) fn newer(&self) -> Option<&str> {
        let own = self
            .exports
            .iter()
            .find(|name| name.starts_with(COMMAND_3) || name.starts_with(SERVICE_3));
        let wanted = || {
            let mut imports = self.imports.iter();
            imports.find(|name| name.starts_with("wasi:") && name.contains("@0.3"))
        };
        own.or_else(wanted).map(String::as_str)
    }
}

/// The worlds a component is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Worlds {
    pub(crate) command: bool,
    pub(crate) service: bool,
}

impl Worlds {
    pub(crate) fn of<'a>(exports: impl Iterator<Item = &'a str>) -> Self {
        let mut worlds = Self::default();
        for name in exports {
            worlds.command |= is_version_2(name, COMMAND);
            worlds.service |= is_version_2(name, SERVICE);
        }
        worlds
    }

    pub(crate) fn is_none(self) -> bool {
        self == Self::default()
    }
}

fn is_version_2(name: &str, interface: &str) -> bool {
    let version = name
        .strip_prefix(interface)
        .and_then(|rest| rest.strip_prefix('@'));
    version.is_some_and(|version| version.starts_with("0.2."))
}

/// Whether a valid binary has a memory for several threads, in itself or in a module inside it.
pub(crate) fn shares_memory(bytes: &[u8]) -> bool {
    Parser::new(0)
        .parse_all(bytes)
        .any(|payload| match payload {
            Ok(Payload::MemorySection(memories)) => {
                memories.into_iter().flatten().any(|memory| memory.shared)
            }
            _ => false,
        })
}

/// Who would provide what a core module imports, as the end of a sentence.
pub(crate) fn provider_of_function(module: &str, name: &str) -> &'static str {
    match module {
        GUEST_MODULE => {
            "agents here carry version 1 of the guest interface, which has no such function; a newer one may, or it is misspelt"
        }
        _ if module.starts_with(GUEST_MODULES) => {
            "agents here carry version 1 of the guest interface (tepui_guest_v1); build with its tepui.h, or run it on newer agents"
        }
        "wasi_snapshot_preview1" | "wasi_unstable" => {
            "it is no function of WASI preview 1; a newer or altered libc asks for it"
        }
        "wasi" => "it is wasi-threads; build without threads (wasm32-wasip1)",
        "env" if name == "memory" => {
            "a module built for threads takes its memory from the host; build without threads (wasm32-wasip1)"
        }
        "env" if name.starts_with("emscripten") || name.starts_with("invoke_") => {
            "Emscripten's JavaScript provides it; build with a WASI toolchain, or with -sSTANDALONE_WASM"
        }
        "env" => {
            "a C function without a definition becomes such an import; link the library that has it"
        }
        "go" | "gojs" => "a browser with Go's wasm_exec.js provides it; build with GOOS=wasip1",
        "wbg" | "__wbindgen_placeholder__" => {
            "wasm-bindgen's JavaScript provides it; build for wasm32-wasip1 without wasm-bindgen"
        }
        "wasix_32v1" | "wasix_64v1" => "it is WASIX; build for WASI preview 1",
        _ if module.starts_with("wasi:") => {
            "it is an interface of components; make a component of the module (wasm-tools component new)"
        }
        _ => "only a host made for this module provides it",
    }
}

/// Who would provide what a component imports, as the end of a sentence.
pub(crate) fn provider_of_interface(name: &str) -> &'static str {
    let carried = [
        "wasi:io/",
        "wasi:clocks/",
        "wasi:random/",
        "wasi:filesystem/",
        "wasi:cli/",
        "wasi:sockets/",
        "wasi:http/",
    ];
    if name.starts_with(GUEST_PACKAGE) {
        "agents here carry version 0.1.0 of tepui:guest, which has no such thing; build for that, or run it on newer agents"
    } else if carried.iter().any(|package| name.starts_with(package)) {
        "agents carry version 0.2 of this package; build the component for that"
    } else if name.starts_with("wasi:") {
        "no agent carries this package; another component that exports it can be linked in (wac plug)"
    } else {
        "another component that exports it has to be linked in first (wac plug)"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> Shape {
        Shape::of(&wat::parse_str(text).expect("it is text")).expect("it is binary")
    }

    #[test]
    fn a_shape_is_read_from_the_outermost_component() {
        assert_eq!(shape("(module)"), Shape::default());
        let nested = shape(
            r#"(component
                (import "wasi:io/poll@0.2.0" (instance))
                (component (import "hidden" (func)) (export "wasi:cli/run@0.2.0" (func 0)))
                (instance $run)
                (export "wasi:cli/run@0.2.6" (instance $run)))"#,
        );
        assert!(nested.component);
        assert_eq!(nested.imports, ["wasi:io/poll@0.2.0"]);
        assert_eq!(nested.exports, ["wasi:cli/run@0.2.6"]);
        assert!(!nested.is_service());
        assert!(Shape::of(b"\0asm\x0d\0\x01\0\xff").is_err());
    }

    #[test]
    fn worlds_are_told_by_exports_of_version_2() {
        let worlds = |names: &[&str]| Worlds::of(names.iter().copied());
        assert!(worlds(&["wasi:cli/run@0.2.0", "x"]).command);
        assert!(worlds(&["wasi:http/incoming-handler@0.2.12"]).service);
        assert!(worlds(&["wasi:cli/runner@0.2.0", "wasi:cli/run@0.3.0", "run"]).is_none());
    }

    #[test]
    fn what_is_built_for_the_next_version_is_recognised() {
        let with = |exports: &[&str], imports: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let shape = Shape {
                component: true,
                exports: owned(exports),
                imports: owned(imports),
            };
            shape.newer().map(str::to_owned)
        };
        assert_eq!(
            with(&["wasi:http/handler@0.3.0"], &[]).as_deref(),
            Some("wasi:http/handler@0.3.0")
        );
        assert_eq!(
            with(&["x"], &["wasi:cli/stdout@0.3.1"]).as_deref(),
            Some("wasi:cli/stdout@0.3.1")
        );
        assert_eq!(with(&["wasi:cli/run@0.2.3"], &["wasi:io/poll@0.2.3"]), None);
    }
}
