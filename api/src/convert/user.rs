//! Whose processes are whose: users, as the wire's messages name them.

use crate::v1;

/// Who a task's processes run as: its own choice, its executor's, else its framework's.
pub fn task_user<'a>(task: &'a v1::TaskInfo, framework_user: &'a str) -> &'a str {
    let of_executor = || command_user(task.executor.as_ref()?.command.as_ref());
    command_user(task.command.as_ref())
        .or_else(of_executor)
        .unwrap_or(framework_user)
}

/// Who the native body of a wasm task runs as, if it has one: its own choice, else its framework's.
pub fn fallback_user<'a>(task: &'a v1::TaskInfo, framework_user: &'a str) -> Option<&'a str> {
    let wasm = task.container.as_ref()?.wasm.as_ref()?;
    let fallback = wasm.fallback.as_ref()?;
    Some(command_user(Some(fallback)).unwrap_or(framework_user))
}

/// Who an executor runs as: its own choice, else its framework's.
pub fn executor_user<'a>(executor: &'a v1::ExecutorInfo, framework_user: &'a str) -> &'a str {
    command_user(executor.command.as_ref()).unwrap_or(framework_user)
}

fn command_user(command: Option<&v1::CommandInfo>) -> Option<&str> {
    command?.user.as_deref().filter(|user| !user.is_empty())
}
