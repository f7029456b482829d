//! What the end of a task's main process means. Pure.

use std::time::Duration;

use nix::sys::signal::Signal;
use tepui_api::v1::task_status::Reason;
use tepui_api::v1::{Resource, TaskResourceLimitation, TaskState, TaskStatus, value};
use tepui_model::{format_bytes, format_duration};

const MIB: f64 = 1024.0 * 1024.0;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Exited(i32),
    Signalled(i32),
}

impl Ending {
    /// Reads the status of wait(2).
    pub(crate) fn from_wait(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signalled(libc::WTERMSIG(status))
        } else {
            Self::Exited(libc::WEXITSTATUS(status))
        }
    }

    /// In Mesos's words, which some frameworks read.
    fn sentence(self) -> String {
        match self {
            Self::Exited(status) => format!("Command exited with status {status}"),
            Self::Signalled(number) => match Signal::try_from(number) {
                Ok(signal) => format!("Command terminated with signal {signal}"),
                // Real-time signals have no names.
                Err(_) => format!("Command terminated with signal {number}"),
            },
        }
    }
}

/// What we did to the task before it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intervention {
    None,
    /// Somebody asked for its end.
    Killed,
    /// It ran longer than this.
    TimedOut(Duration),
}

/// What the task's cgroup says of its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Memory {
    /// Processes the kernel killed because the limit was reached.
    pub(crate) kills: u64,
    pub(crate) limit_bytes: Option<u64>,
    pub(crate) peak_bytes: Option<u64>,
}

/// The task's last status, as far as its ending decides it.
pub(crate) fn judge(ending: Ending, intervention: Intervention, memory: Memory) -> TaskStatus {
    let status = |state: TaskState, message: String| TaskStatus {
        state: state as i32,
        message: Some(message),
        ..TaskStatus::default()
    };
    match (intervention, ending) {
        (Intervention::Killed, ending) => status(TaskState::TaskKilled, ending.sentence()),
        (Intervention::TimedOut(limit), _) => status(
            TaskState::TaskFailed,
            format!(
                "the task ran longer than its max_completion_time of {}",
                format_duration(limit)
            ),
        )
        .with_reason(Reason::MaxCompletionTimeReached),
        // Even if a process of it was killed: the task itself says that all is well.
        (Intervention::None, Ending::Exited(0)) => {
            status(TaskState::TaskFinished, ending.sentence())
        }
        // The killed process may have been a child, and the task then failed because of that.
        (Intervention::None, ending) if memory.kills > 0 => {
            let mut status = status(TaskState::TaskFailed, memory_sentence(ending, memory))
                .with_reason(Reason::ContainerLimitationMemory);
            status.limitation = Some(TaskResourceLimitation {
                resources: limitation(memory),
            });
            status
        }
        (Intervention::None, ending) => status(TaskState::TaskFailed, ending.sentence()),
    }
}

fn memory_sentence(ending: Ending, memory: Memory) -> String {
    match (memory.limit_bytes, memory.peak_bytes) {
        (Some(limit), Some(peak)) => {
            format!(
                "memory limit {} reached (peak {})",
                format_bytes(limit),
                format_bytes(peak)
            )
        }
        (Some(limit), None) => format!("memory limit {} reached", format_bytes(limit)),
        // A limit above ours, the executor's or the host's.
        (None, _) => format!("the host ran out of memory: {}", ending.sentence()),
    }
}

fn limitation(memory: Memory) -> Vec<Resource> {
    let Some(bytes) = memory.limit_bytes else {
        return Vec::new();
    };
    vec![Resource {
        name: "mem".to_owned(),
        r#type: value::Type::Scalar as i32,
        scalar: Some(value::Scalar {
            value: bytes as f64 / MIB,
        }),
        ..Resource::default()
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Memory = Memory {
        kills: 0,
        limit_bytes: Some(64 << 20),
        peak_bytes: Some(3 << 20),
    };
    const STARVED: Memory = Memory {
        kills: 1,
        limit_bytes: Some(64 << 20),
        peak_bytes: Some(64 << 20),
    };

    fn told(
        ending: Ending,
        intervention: Intervention,
        memory: Memory,
    ) -> (TaskState, Option<Reason>, String) {
        let status = judge(ending, intervention, memory);
        let reason = status
            .reason
            .map(|reason| Reason::try_from(reason).unwrap());
        (status.state(), reason, status.message.unwrap())
    }

    #[test]
    fn a_process_that_ends_by_itself_has_finished_or_failed() {
        let expected = [
            (
                Ending::Exited(0),
                TaskState::TaskFinished,
                "Command exited with status 0",
            ),
            (
                Ending::Exited(3),
                TaskState::TaskFailed,
                "Command exited with status 3",
            ),
            (
                Ending::Signalled(9),
                TaskState::TaskFailed,
                "Command terminated with signal SIGKILL",
            ),
            (
                Ending::Signalled(40),
                TaskState::TaskFailed,
                "Command terminated with signal 40",
            ),
        ];
        for (ending, state, message) in expected {
            assert_eq!(
                told(ending, Intervention::None, QUIET),
                (state, None, message.to_owned())
            );
        }
    }

    #[test]
    fn only_a_task_somebody_killed_counts_as_killed() {
        for ending in [Ending::Exited(0), Ending::Signalled(15)] {
            let (state, reason, _) = told(ending, Intervention::Killed, STARVED);
            assert_eq!((state, reason), (TaskState::TaskKilled, None));
        }
    }

    #[test]
    fn a_task_that_ran_out_of_memory_says_so_with_the_figures() {
        for ending in [Ending::Signalled(9), Ending::Exited(137)] {
            let (state, reason, message) = told(ending, Intervention::None, STARVED);
            assert_eq!(
                (state, reason),
                (
                    TaskState::TaskFailed,
                    Some(Reason::ContainerLimitationMemory)
                )
            );
            assert_eq!(message, "memory limit 64 MiB reached (peak 64 MiB)");
        }
        let status = judge(Ending::Signalled(9), Intervention::None, STARVED);
        let resources = status.limitation.unwrap().resources;
        assert_eq!(
            (
                resources[0].name.as_str(),
                resources[0].scalar.unwrap().value
            ),
            ("mem", 64.0)
        );
    }

    #[test]
    fn a_task_that_succeeds_in_spite_of_a_killed_child_has_finished() {
        assert_eq!(
            told(Ending::Exited(0), Intervention::None, STARVED).0,
            TaskState::TaskFinished
        );
    }

    #[test]
    fn a_task_that_ran_too_long_has_failed_whatever_its_end() {
        let limit = Intervention::TimedOut(Duration::from_secs(90));
        let (state, reason, message) = told(Ending::Signalled(9), limit, QUIET);
        assert_eq!(
            (state, reason),
            (
                TaskState::TaskFailed,
                Some(Reason::MaxCompletionTimeReached)
            )
        );
        assert!(message.contains("90secs"), "{message}");
    }

    #[test]
    fn the_status_of_wait_is_read() {
        assert_eq!(Ending::from_wait(3 << 8), Ending::Exited(3));
        assert_eq!(Ending::from_wait(9), Ending::Signalled(9));
    }
}
