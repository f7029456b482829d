//! What a status says of a task that could run as wasm and natively.

use crate::ext::launch_plan::Body;
use crate::v1;

/// Which of its two bodies runs and why, as a sentence; `None` for a task that has only one, or no plan yet.
pub fn body_told(task: &v1::TaskInfo) -> Option<String> {
    task.container.as_ref()?.wasm.as_ref()?.fallback.as_ref()?;
    let plan = task.plan.as_ref()?;
    let body = match plan.body() {
        Body::Wasm => "wasm",
        Body::Native => "native",
    };
    Some(format!("runs its {body} body: {}", plan.reason()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ext;

    #[test]
    fn only_of_a_task_with_two_bodies_is_there_something_to_tell() {
        let plan = ext::LaunchPlan {
            body: Body::Native as i32,
            reason: Some("the wasm body cannot run: x".to_owned()),
            ..Default::default()
        };
        let mut task = v1::TaskInfo {
            plan: Some(plan),
            container: Some(v1::ContainerInfo {
                wasm: Some(ext::WasmInfo::default()),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(body_told(&task), None);
        let wasm = task.container.as_mut().and_then(|one| one.wasm.as_mut());
        wasm.expect("set above").fallback = Some(v1::CommandInfo::default());
        assert_eq!(
            body_told(&task).as_deref(),
            Some("runs its native body: the wasm body cannot run: x")
        );
    }
}
