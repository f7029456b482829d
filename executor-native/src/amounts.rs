//! What a task asked for, in the kernel's figures. Pure.

use tepui_api::v1::TaskInfo;

/// Length of the period a cpu quota is counted over, in microseconds. The kernel's own default.
pub(crate) const PERIOD_US: u64 = 100_000;
/// The least quota the kernel takes.
const QUOTA_MIN_US: i64 = 1_000;
/// Shares of one cpu on v1, and the least the kernel takes.
const SHARES_PER_CPU: f64 = 1024.0;
const SHARES_MIN: u64 = 2;
/// Weight of one cpu on v2, where 100 is what a group has that nobody gave any; and the bounds the kernel sets.
const WEIGHT_PER_CPU: f64 = 100.0;
const WEIGHT_MIN: u64 = 1;
const WEIGHT_MAX: u64 = 10_000;
/// Processes and threads a task may have. Enough for a build or a JVM with hundreds of threads; a fork bomb stops well
/// before it fills the host's table (`pid_max` is 32,768 on small hosts).
pub(crate) const PROCESSES_MAX: i64 = 1024;

const MIB: f64 = 1024.0 * 1024.0;

/// The limits of one task. Unset: none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Limits {
    /// What the task may count on, in cpus.
    pub(crate) cpus: f64,
    /// What it may never exceed, in cpus.
    pub(crate) cpus_max: Option<f64>,
    /// What its memory may never exceed.
    pub(crate) memory_bytes: Option<u64>,
    /// What it may count on when memory is short, where it may have more than that.
    pub(crate) memory_soft_bytes: Option<u64>,
}

impl Limits {
    /// `resources` say what a task is given; `limits`, where they name something, what it may rise to. An infinite limit
    /// is none.
    pub(crate) fn of(task: &TaskInfo) -> Self {
        let given = |name: &str| -> f64 {
            let scalars = task
                .resources
                .iter()
                .filter(|resource| resource.name == name);
            scalars
                .filter_map(|resource| resource.scalar.as_ref())
                .map(|scalar| scalar.value)
                .sum()
        };
        let limit = |name: &str| task.limits.get(name).map(|scalar| scalar.value);
        let bytes = |megabytes: f64| {
            (megabytes.is_finite() && megabytes > 0.0).then_some((megabytes * MIB) as u64)
        };
        Self {
            cpus: given("cpus"),
            cpus_max: limit("cpus").filter(|cpus| cpus.is_finite() && *cpus > 0.0),
            memory_bytes: bytes(limit("mem").unwrap_or_else(|| given("mem"))),
            memory_soft_bytes: limit("mem").and_then(|_| bytes(given("mem"))),
        }
    }

    /// `cpu.shares` of v1.
    pub(crate) fn shares(&self) -> u64 {
        ((self.cpus * SHARES_PER_CPU).round() as u64).max(SHARES_MIN)
    }

    /// `cpu.weight` of v2.
    pub(crate) fn weight(&self) -> u64 {
        ((self.cpus * WEIGHT_PER_CPU).round() as u64).clamp(WEIGHT_MIN, WEIGHT_MAX)
    }

    /// Microseconds of cpu time per period.
    pub(crate) fn quota_us(&self) -> Option<i64> {
        let quota = self.cpus_max? * PERIOD_US as f64;
        Some((quota.round() as i64).max(QUOTA_MIN_US))
    }

    /// The memory limits as the kernel's files have them.
    pub(crate) fn memory(&self) -> Option<i64> {
        self.memory_bytes.map(saturated)
    }

    pub(crate) fn memory_soft(&self) -> Option<i64> {
        self.memory_soft_bytes.map(saturated)
    }
}

fn saturated(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use tepui_api::v1::{Resource, value};

    use super::*;

    fn task(resources: &[(&str, f64)], limits: &[(&str, f64)]) -> TaskInfo {
        TaskInfo {
            resources: resources
                .iter()
                .map(|(name, value)| Resource {
                    name: (*name).to_owned(),
                    scalar: Some(value::Scalar { value: *value }),
                    ..Resource::default()
                })
                .collect(),
            limits: limits
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value::Scalar { value: *value }))
                .collect(),
            ..TaskInfo::default()
        }
    }

    #[test]
    fn resources_are_what_is_given_and_memory_is_a_limit_at_once() {
        let limits = Limits::of(&task(&[("cpus", 0.5), ("mem", 32.0), ("cpus", 1.0)], &[]));
        assert_eq!(
            limits,
            Limits {
                cpus: 1.5,
                cpus_max: None,
                memory_bytes: Some(32 << 20),
                memory_soft_bytes: None,
            }
        );
        assert_eq!(
            (limits.shares(), limits.weight(), limits.quota_us()),
            (1536, 150, None)
        );
    }

    #[test]
    fn limits_raise_memory_and_cap_the_cpu() {
        let limits = Limits::of(&task(
            &[("cpus", 1.0), ("mem", 32.0)],
            &[("mem", 64.0), ("cpus", 2.5)],
        ));
        assert_eq!(limits.memory(), Some(64 << 20));
        assert_eq!(limits.memory_soft(), Some(32 << 20));
        assert_eq!(limits.quota_us(), Some(250_000));
    }

    #[test]
    fn an_infinite_limit_is_none() {
        let endless = f64::INFINITY;
        let limits = Limits::of(&task(
            &[("cpus", 1.0), ("mem", 32.0)],
            &[("mem", endless), ("cpus", endless)],
        ));
        assert_eq!((limits.memory(), limits.quota_us()), (None, None));
    }

    #[test]
    fn what_the_kernel_would_refuse_is_rounded_to_what_it_takes() {
        let little = Limits {
            cpus: 0.0,
            cpus_max: Some(0.001),
            memory_bytes: None,
            memory_soft_bytes: None,
        };
        assert_eq!(
            (little.shares(), little.weight(), little.quota_us()),
            (2, 1, Some(1_000))
        );
        let much = Limits {
            cpus: 1_000.0,
            cpus_max: None,
            memory_bytes: Some(u64::MAX),
            memory_soft_bytes: None,
        };
        assert_eq!((much.weight(), much.memory()), (10_000, Some(i64::MAX)));
    }
}
