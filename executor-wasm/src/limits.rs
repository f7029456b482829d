//! The memory limit of a task: one sum over all memories and tables of its stores, and what the host holds for them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tepui_model::format_bytes;
use wasmtime::ResourceLimiter;

use crate::spec::MemoryPolicy;
use crate::verdict::Requests;

/// What a table's element costs the host.
const TABLE_ELEMENT_BYTES: u64 = 8;

/// A growth that would have crossed the limit. All in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimit {
    /// What the task may hold.
    pub limit: u64,
    /// What it held.
    pub current: u64,
    /// By how much it wanted to grow.
    pub wanted: u64,
    /// Whether this is the limit of one instance of a service, not of the task.
    pub of_instance: bool,
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "memory limit {}{} reached growing by {} (held {})",
            format_bytes(self.limit),
            if self.of_instance {
                " of an instance"
            } else {
                ""
            },
            format_bytes(self.wanted),
            format_bytes(self.current)
        )
    }
}

impl std::error::Error for MemoryLimit {}

/// More written to stdout, stderr and the log than may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutputLimit {
    /// Bytes, of all together.
    pub(crate) limit: u64,
}

impl fmt::Display for OutputLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "output limit {} reached",
            format_bytes(self.limit)
        )
    }
}

impl std::error::Error for OutputLimit {}

/// What of a store must be known while, and after, its guest runs: the store itself is borrowed by the call and gone
/// with it if the task is killed.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Of all stores of the task; a service has one for each instance.
    memory: AtomicU64,
    memory_peak: AtomicU64,
    fuel_left: AtomicU64,
    output: AtomicU64,
    read: AtomicU64,
    /// With stdout, stderr and the log.
    written: AtomicU64,
    pub(crate) requests: RequestCounts,
}

/// What became of the requests to a service.
#[derive(Debug, Default)]
pub(crate) struct RequestCounts {
    /// Whether there can be any.
    pub(crate) served: AtomicBool,
    pub(crate) answered: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) timed_out: AtomicU64,
    pub(crate) turned_away: AtomicU64,
    pub(crate) cut_off: AtomicU64,
}

impl Meter {
    pub(crate) fn memory_peak(&self) -> u64 {
        self.memory_peak.load(Ordering::Relaxed)
    }

    pub(crate) fn fuel_left(&self) -> u64 {
        self.fuel_left.load(Ordering::Relaxed)
    }

    pub(crate) fn set_fuel_left(&self, fuel: u64) {
        self.fuel_left.store(fuel, Ordering::Relaxed);
    }

    /// Takes what a store burnt from what its task has left.
    pub(crate) fn burn(&self, fuel: u64) {
        let left = |left: u64| Some(left.saturating_sub(fuel));
        let _ = self
            .fuel_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
    }

    pub(crate) fn count_read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn count_written(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes read from files, sockets and bodies of HTTP.
    pub(crate) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes written to them.
    pub(crate) fn written(&self) -> u64 {
        let written = self.written.load(Ordering::Relaxed);
        written.saturating_sub(self.output())
    }

    /// Bytes of stdout, stderr and the log.
    pub(crate) fn output(&self) -> u64 {
        self.output.load(Ordering::Relaxed)
    }

    /// Counts output, as much of it as fits under the limit, and says how much that is.
    pub(crate) fn count_output(&self, bytes: u64, limit: u64) -> u64 {
        let counted = |before: u64| Some(before.saturating_add(bytes).min(limit.max(before)));
        let before = self
            .output
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted)
            .unwrap_or(limit);
        limit.saturating_sub(before).min(bytes)
    }
}

impl RequestCounts {
    pub(crate) fn told(&self) -> Option<Requests> {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        self.served.load(Ordering::Relaxed).then(|| Requests {
            answered: read(&self.answered),
            failed: read(&self.failed),
            timed_out: read(&self.timed_out),
            turned_away: read(&self.turned_away),
            cut_off: read(&self.cut_off),
        })
    }
}

/// Counts what a store holds and refuses what is too much.
#[derive(Debug)]
pub(crate) struct Limits {
    /// Of the task.
    limit: Option<u64>,
    /// Of this store.
    own_limit: Option<u64>,
    policy: MemoryPolicy,
    held: u64,
    /// What of that the host holds, beside the memories.
    hosted: u64,
    /// What the last granted growth of a memory added, in case the system then cannot give it.
    last: u64,
    refused: Option<MemoryLimit>,
    meter: Arc<Meter>,
}

impl Limits {
    pub(crate) fn new(limit: Option<u64>, policy: MemoryPolicy, meter: Arc<Meter>) -> Self {
        Self {
            limit,
            own_limit: None,
            policy,
            held: 0,
            hosted: 0,
            last: 0,
            refused: None,
            meter,
        }
    }

    /// Holds this store, one of several of a task, to a limit of its own as well.
    pub(crate) fn with_own(mut self, limit: Option<u64>) -> Self {
        self.own_limit = limit;
        self
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// The last growth that was refused.
    pub(crate) fn refused(&self) -> Option<MemoryLimit> {
        self.refused
    }

    /// Bytes it may still take; `None` if nothing bounds it.
    pub(crate) fn room(&self) -> Option<u64> {
        let used = self.meter.memory.load(Ordering::Relaxed);
        let of_task = self.limit.map(|limit| limit.saturating_sub(used));
        let of_store = self.own_limit.map(|limit| limit.saturating_sub(self.held));
        of_task.into_iter().chain(of_store).min()
    }

    /// Takes note of what the host now holds for the store. A guest cannot be refused it, so the error ends it.
    pub(crate) fn host_holds(&mut self, bytes: u64) -> Result<(), MemoryLimit> {
        if let Some(more) = bytes.checked_sub(self.hosted) {
            self.take(more)?;
        } else {
            self.give_back(self.hosted - bytes);
        }
        self.hosted = bytes;
        Ok(())
    }

    /// Counts what the host is about to hold for one call. As above, the error ends the guest.
    pub(crate) fn borrow(&mut self, bytes: u64) -> Result<(), MemoryLimit> {
        self.take(bytes)
    }

    /// The call is over.
    pub(crate) fn give_back(&mut self, bytes: u64) {
        self.held -= bytes;
        self.meter.memory.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn grow(&mut self, wanted: u64) -> wasmtime::Result<bool> {
        match (self.take(wanted), self.policy) {
            (Ok(()), _) => {
                self.last = wanted;
                Ok(true)
            }
            (Err(refused), MemoryPolicy::EndTask) => Err(refused.into()),
            (Err(_), MemoryPolicy::Refuse) => Ok(false),
        }
    }

    fn take(&mut self, wanted: u64) -> Result<(), MemoryLimit> {
        let fits = |limit: Option<u64>, held: u64| {
            let sum = held.checked_add(wanted)?;
            limit.is_none_or(|limit| sum <= limit).then_some(sum)
        };
        let refusal = |limit: Option<u64>, current, of_instance| MemoryLimit {
            limit: limit.unwrap_or(u64::MAX),
            current,
            wanted,
            of_instance,
        };
        let taken = if fits(self.own_limit, self.held).is_none() {
            Err(refusal(self.own_limit, self.held, true))
        } else {
            // What is refused is not counted for a moment either: another store might be refused for it.
            let memory = &self.meter.memory;
            memory
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                    fits(self.limit, held)
                })
                .map_err(|held| refusal(self.limit, held, false))
        };
        self.refused = taken.err().or(self.refused);
        let before = taken?;
        self.held += wanted;
        self.meter
            .memory_peak
            .fetch_max(before + wanted, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        self.meter.memory.fetch_sub(self.held, Ordering::Relaxed);
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            // The module's own maximum refuses this, not our limit.
            return Ok(false);
        }
        self.grow(desired.saturating_sub(current) as u64)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        let last = std::mem::take(&mut self.last);
        self.give_back(last);
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let wanted = (desired.saturating_sub(current) as u64).saturating_mul(TABLE_ELEMENT_BYTES);
        let granted = self.grow(wanted);
        // Only a memory's growth is given back, see below.
        self.last = 0;
        granted
    }

    // What `table_grow_failed` hears of may never have been asked for: a size that overflows is refused before. So nothing is given
    // back then; where the system could not give what was granted, too much is counted, and not too little.
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn limits(policy: MemoryPolicy) -> Limits {
        Limits::new(Some(64 * MIB as u64), policy, Arc::default())
    }

    #[test]
    fn the_limit_is_on_the_sum_of_all_memories_and_tables() {
        let mut limits = limits(MemoryPolicy::Refuse);
        assert!(limits.memory_growing(0, 40 * MIB, None).expect("granted"));
        assert!(limits.memory_growing(0, 20 * MIB, None).expect("granted"));
        assert!(limits.table_growing(0, MIB / 8, None).expect("granted"));
        assert!(
            !limits
                .memory_growing(20 * MIB, 24 * MIB, None)
                .expect("refused")
        );
        assert!(
            limits
                .memory_growing(20 * MIB, 23 * MIB, None)
                .expect("granted")
        );
        assert_eq!(limits.meter.memory_peak(), 64 * MIB as u64);
        assert_eq!(
            limits.refused().expect("it was remembered").wanted,
            4 * MIB as u64
        );
    }

    #[test]
    fn a_growth_over_the_limit_ends_the_task_with_the_figures() {
        let mut limits = limits(MemoryPolicy::EndTask);
        assert!(limits.memory_growing(0, 60 * MIB, None).expect("granted"));
        let error = limits
            .memory_growing(60 * MIB, 76 * MIB, None)
            .expect_err("too much");
        assert_eq!(
            error
                .downcast_ref::<MemoryLimit>()
                .expect("it is ours")
                .to_string(),
            "memory limit 64 MiB reached growing by 16 MiB (held 60 MiB)"
        );
    }

    #[test]
    fn what_the_module_itself_forbids_does_not_count_as_refused() {
        let mut limits = limits(MemoryPolicy::EndTask);
        assert!(
            !limits
                .memory_growing(MIB, 65 * MIB, Some(2 * MIB))
                .expect("no error")
        );
        assert_eq!(limits.refused(), None);
    }

    #[test]
    fn stores_of_one_task_share_its_limit_and_give_back_what_they_held() {
        let meter = Arc::<Meter>::default();
        let store = || {
            Limits::new(
                Some(64 * MIB as u64),
                MemoryPolicy::Refuse,
                Arc::clone(&meter),
            )
            .with_own(Some(40 * MIB as u64))
        };
        let (mut first, mut second) = (store(), store());
        assert!(!first.memory_growing(0, 41 * MIB, None).expect("refused"));
        let refused = first.refused().expect("known");
        assert_eq!(
            refused.to_string(),
            "memory limit 40 MiB of an instance reached growing by 41 MiB (held 0 B)"
        );
        assert!(first.memory_growing(0, 40 * MIB, None).expect("granted"));
        assert!(!second.memory_growing(0, 25 * MIB, None).expect("refused"));
        assert_eq!(second.refused().expect("known").limit, 64 * MIB as u64);
        drop(first);
        assert!(second.memory_growing(0, 25 * MIB, None).expect("granted"));
        assert_eq!(meter.memory_peak(), 40 * MIB as u64);
    }

    #[test]
    fn what_the_host_holds_counts_as_well() {
        let mut limits = limits(MemoryPolicy::Refuse);
        assert!(limits.memory_growing(0, 40 * MIB, None).expect("granted"));
        limits.host_holds(20 * MIB as u64).expect("it fits");
        assert_eq!(limits.room(), Some(4 * MIB as u64));
        assert!(
            !limits
                .memory_growing(40 * MIB, 45 * MIB, None)
                .expect("refused")
        );
        let crossed = limits
            .host_holds(25 * MIB as u64)
            .expect_err("it is too much");
        assert_eq!(
            crossed.to_string(),
            "memory limit 64 MiB reached growing by 5 MiB (held 60 MiB)"
        );
        limits.host_holds(0).expect("less always fits");
        assert_eq!(limits.room(), Some(24 * MIB as u64));
    }

    #[test]
    fn a_table_that_did_not_grow_gives_back_nothing_of_what_a_memory_took() {
        let mut limits = limits(MemoryPolicy::Refuse);
        assert!(limits.memory_growing(0, 60 * MIB, None).expect("granted"));
        limits
            .table_grow_failed(wasmtime::Error::msg("overflow"))
            .expect("no error");
        assert!(!limits.memory_growing(0, 60 * MIB, None).expect("refused"));
        assert!(limits.table_growing(0, 1, None).expect("granted"));
        limits
            .memory_grow_failed(wasmtime::Error::msg("it was not this one that grew"))
            .expect("no error");
        assert_eq!(limits.room(), Some(4 * MIB as u64 - TABLE_ELEMENT_BYTES));
    }

    #[test]
    fn a_growth_the_system_could_not_give_is_not_held() {
        let mut limits = limits(MemoryPolicy::EndTask);
        assert!(limits.memory_growing(0, 60 * MIB, None).expect("granted"));
        limits
            .memory_grow_failed(wasmtime::Error::msg("no memory"))
            .expect("no error");
        assert!(limits.memory_growing(0, 60 * MIB, None).expect("granted"));
    }
}
