//! What the tests of the runtime have in common.

use std::path::PathBuf;
use std::sync::Arc;

use tepui_executor_wasm::{MemoryPolicy, ModuleFile, Serving, TaskSpec};

/// A task of 64 MiB and 64 handles, which may write 1 MiB of output and reaches nothing but its sandbox.
pub(crate) fn plain_task(name: &str, module: ModuleFile, sandbox: PathBuf) -> TaskSpec {
    TaskSpec {
        task_id: name.to_owned(),
        identity: Arc::default(),
        module,
        sandbox,
        volumes: Vec::new(),
        mounts: Vec::new(),
        egress: Arc::default(),
        arguments: vec![name.to_owned()],
        environment: Vec::new(),
        entrypoint: String::new(),
        memory_limit: Some(64 << 20),
        memory_policy: MemoryPolicy::EndTask,
        fuel_limit: None,
        time_limit: None,
        cpus: 1.0,
        cpu_cap: None,
        listen: Vec::new(),
        serving: Serving::default(),
        coredump: false,
        output_limit: 1 << 20,
        handles: 64,
    }
}
