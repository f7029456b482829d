//! From how a task ended to what its framework is told. Pure: the one place where an ending becomes a state and a reason.

use std::time::Duration;

use tepui_api::ext::{TaskUsage, launch_plan, task_usage};
use tepui_api::v1::task_status::Reason;
use tepui_api::v1::{Resource, TaskId, TaskResourceLimitation, TaskState, TaskStatus, value};
use tepui_model::{format_duration, plain_lines};

use crate::governor::Outcome;
use crate::limits::{MemoryLimit, OutputLimit};

/// In which way a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// By itself; 0 also when its function just returned.
    Exited(i32),
    /// All its fuel is burnt.
    Fuel {
        /// What it had.
        limit: u64,
    },
    /// It wanted more memory than it may have.
    Memory(MemoryLimit),
    /// It wrote more to stdout and stderr than it may.
    Output {
        /// Bytes, of both together.
        limit: u64,
    },
    /// It wanted to hold more files, sockets and streams than it may.
    Handles {
        /// How many it may.
        limit: usize,
    },
    /// Its time is up.
    TimedOut {
        /// What it had.
        limit: Duration,
    },
    /// A trap: a mistake of the guest.
    Trapped {
        /// Which.
        trap: String,
        /// Where, one frame a line.
        backtrace: String,
    },
    /// It was ended because somebody asked for it.
    Killed,
    /// It never ran.
    NotLaunched {
        /// Why.
        message: String,
    },
    /// The host could not go on with it.
    Failed {
        /// Why.
        message: String,
    },
}

/// What a task used, and what it might have used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Set if fuel was counted. Of a killed task, right to within a million.
    pub fuel_used: Option<u64>,
    /// If there was one.
    pub fuel_limit: Option<u64>,
    /// Bytes of all memories and tables, at most.
    pub memory_peak: u64,
    /// If there was one.
    pub memory_limit: Option<u64>,
    /// Processor time.
    pub cpu_time: Duration,
    /// Time from launch to end.
    pub wall_time: Duration,
    /// Of a service: what became of its requests.
    pub requests: Option<Requests>,
    /// Bytes of stdout and stderr.
    pub output: u64,
    /// Bytes read from files, sockets and bodies of HTTP.
    pub read: u64,
    /// Bytes written to them.
    pub written: u64,
}

/// What became of the requests to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Requests {
    /// By the guest, whatever the status.
    pub answered: u64,
    /// The guest trapped, ran out of memory or gave no answer.
    pub failed: u64,
    /// They took too long.
    pub timed_out: u64,
    /// They waited in vain, or could not be asked of a guest.
    pub turned_away: u64,
    /// Who asked went away, or the service ended.
    pub cut_off: u64,
}

impl From<Usage> for TaskUsage {
    fn from(usage: Usage) -> Self {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            fuel_used: usage.fuel_used,
            fuel_limit: usage.fuel_limit,
            memory_peak_bytes: Some(usage.memory_peak),
            memory_limit_bytes: usage.memory_limit,
            cpu_time_ns: Some(nanoseconds(usage.cpu_time)),
            wall_time_ns: Some(nanoseconds(usage.wall_time)),
            body: Some(launch_plan::Body::Wasm as i32),
            output_bytes: Some(usage.output),
            bytes_read: Some(usage.read),
            bytes_written: Some(usage.written),
            requests: usage.requests.map(|requests| task_usage::Requests {
                answered: Some(requests.answered),
                failed: Some(requests.failed),
                timed_out: Some(requests.timed_out),
                turned_away: Some(requests.turned_away),
                cut_off: Some(requests.cut_off),
            }),
            ..Self::default()
        }
    }
}

/// A status of nothing but a task and its state.
pub(crate) fn bare(task_id: &str, state: TaskState) -> TaskStatus {
    TaskStatus {
        task_id: TaskId {
            value: task_id.to_owned(),
        },
        state: state as i32,
        ..TaskStatus::default()
    }
}

/// The last status of a task.
pub fn verdict(task_id: &str, outcome: &Outcome) -> TaskStatus {
    let failed = |reason: Option<Reason>, message: String| {
        let mut status = bare(task_id, TaskState::TaskFailed);
        status.reason = reason.map(|reason| reason as i32);
        status.message = Some(message);
        status
    };
    let fails_after = |message: String| match outcome.refused {
        // Most programs die of a refused growth in some way of their own, which by itself says nothing.
        Some(refused) => {
            let mut status = failed(
                Some(Reason::ContainerLimitationMemory),
                format!("{refused}; then: {message}"),
            );
            status.limitation = Some(memory_limitation(refused));
            status
        }
        None => failed(None, message),
    };
    let usage = &outcome.usage;
    // What was hit comes first, then when, then where.
    let told = |what: String| {
        let when = format!("{what} after {:.1?}", usage.wall_time);
        match outcome.place.as_str() {
            "" => when,
            place => format!("{when}\n{place}"),
        }
    };
    let limited = |name: &str, amount: f64, what: String| {
        let mut status = failed(Some(Reason::ContainerLimitation), told(what));
        status.limitation = Some(limitation(name, amount));
        status
    };
    let mut status = match &outcome.ending {
        Ending::Exited(0) => {
            let mut status = bare(task_id, TaskState::TaskFinished);
            status.message = Some("Command exited with status 0".to_owned());
            status
        }
        Ending::Exited(code) => fails_after(format!("Command exited with status {code}")),
        Ending::Trapped { trap, backtrace } => {
            let when = format!("{trap} after {:.1?}", usage.wall_time);
            let place = match outcome.place.as_str() {
                "" => backtrace,
                place => place,
            };
            fails_after(format!("{when}\n{place}").trim_end().to_owned())
        }
        Ending::Failed { message } => fails_after(told(message.clone())),
        Ending::Memory(limit) => {
            let mut status = failed(
                Some(Reason::ContainerLimitationMemory),
                told(limit.to_string()),
            );
            status.limitation = Some(memory_limitation(*limit));
            status
        }
        Ending::Fuel { limit } => {
            limited("fuel", *limit as f64, format!("fuel limit {limit} reached"))
        }
        Ending::Output { limit } => {
            let what = OutputLimit { limit: *limit }.to_string();
            limited("output", *limit as f64, what)
        }
        Ending::Handles { limit } => limited(
            "handles",
            *limit as f64,
            format!("limit of {limit} handles (open files, sockets, streams) reached"),
        ),
        Ending::TimedOut { limit } => {
            let what = format!("time limit {} reached", format_duration(*limit));
            failed(Some(Reason::MaxCompletionTimeReached), told(what))
        }
        Ending::NotLaunched { message } => {
            failed(Some(Reason::ContainerLaunchFailed), message.clone())
        }
        Ending::Killed => {
            let mut status = bare(task_id, TaskState::TaskKilled);
            status.message = Some("Command terminated on request".to_owned());
            status
        }
    };
    // Words of the guest have come in by many ways; none of them is to speak to a terminal.
    status.message = status.message.map(|message| plain_lines(&message));
    status.usage = Some(outcome.usage.into());
    status
}

fn limitation(name: &str, amount: f64) -> TaskResourceLimitation {
    TaskResourceLimitation {
        resources: vec![Resource {
            name: name.to_owned(),
            r#type: value::Type::Scalar as i32,
            scalar: Some(value::Scalar { value: amount }),
            ..Resource::default()
        }],
    }
}

fn memory_limitation(limit: MemoryLimit) -> TaskResourceLimitation {
    limitation("mem", limit.limit as f64 / 1_048_576.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: MemoryLimit = MemoryLimit {
        limit: 64 << 20,
        current: 60 << 20,
        wanted: 16 << 20,
        of_instance: false,
    };

    fn told(ending: Ending, refused: Option<MemoryLimit>) -> TaskStatus {
        let status = verdict(
            "t",
            &Outcome {
                ending,
                refused,
                place: "  0: main at 0x2a".to_owned(),
                usage: Usage {
                    memory_peak: 7,
                    wall_time: Duration::from_nanos(1_234_567_890),
                    ..Usage::default()
                },
            },
        );
        let usage = status.usage.as_ref().expect("every last status has it");
        assert_eq!(usage.memory_peak_bytes, Some(7));
        assert_eq!(usage.wall_time_ns, Some(1_234_567_890));
        assert_eq!(usage.body, Some(launch_plan::Body::Wasm as i32));
        status
    }

    fn limited(status: &TaskStatus) -> (String, f64) {
        let limitation = status.limitation.as_ref().expect("a limitation");
        let resource = limitation.resources.first().expect("a resource");
        let scalar = resource.scalar.as_ref().expect("a scalar");
        (resource.name.clone(), scalar.value)
    }

    #[test]
    fn an_exit_with_nothing_wrong_is_finished() {
        let status = told(Ending::Exited(0), None);
        assert_eq!(status.state(), TaskState::TaskFinished);
        assert_eq!(status.reason, None);
    }

    #[test]
    fn an_exit_with_another_status_is_failed() {
        let status = told(Ending::Exited(200), None);
        assert_eq!(status.state(), TaskState::TaskFailed);
        assert_eq!(status.message(), "Command exited with status 200");
        assert_eq!(status.reason, None);
    }

    #[test]
    fn a_task_that_had_memory_refused_and_finished_is_finished() {
        let status = told(Ending::Exited(0), Some(REFUSED));
        assert_eq!(status.state(), TaskState::TaskFinished);
        assert_eq!(status.limitation, None);
    }

    #[test]
    fn a_task_that_fails_after_a_refused_growth_names_memory() {
        for ending in [
            Ending::Exited(1),
            Ending::Trapped {
                trap: "unreachable".to_owned(),
                backtrace: String::new(),
            },
        ] {
            let status = told(ending, Some(REFUSED));
            assert_eq!(status.reason(), Reason::ContainerLimitationMemory);
            assert!(
                status.message().starts_with(
                    "memory limit 64 MiB reached growing by 16 MiB (held 60 MiB); then: "
                ),
                "{}",
                status.message()
            );
            assert_eq!(limited(&status), ("mem".to_owned(), 64.0));
        }
    }

    #[test]
    fn the_memory_limit_is_told_with_its_figures() {
        let status = told(Ending::Memory(REFUSED), Some(REFUSED));
        assert_eq!(status.state(), TaskState::TaskFailed);
        assert_eq!(status.reason(), Reason::ContainerLimitationMemory);
        assert_eq!(
            status.message(),
            "memory limit 64 MiB reached growing by 16 MiB (held 60 MiB) after 1.2s\n  0: main at 0x2a"
        );
        assert_eq!(limited(&status), ("mem".to_owned(), 64.0));
    }

    #[test]
    fn output_and_handles_are_told_with_their_figures() {
        let status = told(Ending::Output { limit: 1 << 20 }, None);
        assert_eq!(status.reason(), Reason::ContainerLimitation);
        assert!(
            status
                .message()
                .starts_with("output limit 1 MiB reached after 1.2s\n")
        );
        assert_eq!(limited(&status), ("output".to_owned(), 1_048_576.0));
        let status = told(Ending::Handles { limit: 64 }, None);
        assert_eq!(limited(&status), ("handles".to_owned(), 64.0));
    }

    #[test]
    fn the_fuel_limit_is_told_with_its_figures() {
        let status = told(Ending::Fuel { limit: 5_000 }, None);
        assert_eq!(status.state(), TaskState::TaskFailed);
        assert_eq!(status.reason(), Reason::ContainerLimitation);
        assert_eq!(
            status.message(),
            "fuel limit 5000 reached after 1.2s\n  0: main at 0x2a"
        );
        assert_eq!(limited(&status), ("fuel".to_owned(), 5_000.0));
    }

    #[test]
    fn the_time_limit_is_told() {
        let status = told(
            Ending::TimedOut {
                limit: Duration::from_secs(2),
            },
            None,
        );
        assert_eq!(status.state(), TaskState::TaskFailed);
        assert_eq!(status.reason(), Reason::MaxCompletionTimeReached);
        assert_eq!(
            status.message(),
            "time limit 2secs reached after 1.2s\n  0: main at 0x2a"
        );
    }

    #[test]
    fn a_trap_is_told_with_its_place() {
        let status = told(
            Ending::Trapped {
                trap: "integer divide by zero".to_owned(),
                backtrace: "  0: main at 0x2a".to_owned(),
            },
            None,
        );
        assert_eq!(status.state(), TaskState::TaskFailed);
        assert_eq!(status.reason, None);
        assert_eq!(
            status.message(),
            "integer divide by zero after 1.2s\n  0: main at 0x2a"
        );
    }

    #[test]
    fn a_failure_of_the_host_is_told_with_its_place() {
        let failed = Ending::Failed {
            message: "pointer not aligned\x1b[2J".to_owned(),
        };
        let status = told(failed, None);
        assert_eq!(status.state(), TaskState::TaskFailed);
        assert_eq!(
            status.message(),
            "pointer not aligned\\u{1b}[2J after 1.2s\n  0: main at 0x2a"
        );
    }

    #[test]
    fn a_task_that_could_not_be_launched_says_why() {
        let status = told(
            Ending::NotLaunched {
                message: "the module imports env::mystery, which does not exist here".to_owned(),
            },
            None,
        );
        assert_eq!(status.state(), TaskState::TaskFailed);
        assert_eq!(status.reason(), Reason::ContainerLaunchFailed);
        assert!(status.message().contains("env::mystery"));
    }

    #[test]
    fn a_killed_task_is_killed() {
        let status = told(Ending::Killed, Some(REFUSED));
        assert_eq!(status.state(), TaskState::TaskKilled);
        assert_eq!(status.reason, None);
    }
}
