//! A disk: writes take their time, are done in order, and a crash loses the last of them.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tepui_agent_core::Write;

use crate::{Chance, Micros};

/// One write: several keys at once, all or none.
pub(crate) type Batch = Vec<(String, Write)>;

#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) records: BTreeMap<String, Bytes>,
    /// Not yet said to be done; the second part is who waits for it.
    under_way: VecDeque<(u64, Batch)>,
    last_done: Micros,
}

impl Disk {
    /// Begins a write and returns when it will be done. Writes keep their order.
    pub(crate) fn begin(
        &mut self,
        now: Micros,
        takes: Micros,
        waiting: u64,
        batch: Batch,
    ) -> Micros {
        self.under_way.push_back((waiting, batch));
        self.last_done = self.last_done.max(now + takes);
        self.last_done
    }

    /// The oldest write is done; returns who waits for it.
    pub(crate) fn finish(&mut self) -> Option<u64> {
        let (waiting, batch) = self.under_way.pop_front()?;
        self.write(batch);
        Some(waiting)
    }

    fn write(&mut self, batch: Batch) {
        for (key, write) in batch {
            match write {
                Write::Replace(value) => drop(self.records.insert(key, value)),
                Write::Append(value) => {
                    let held = self.records.entry(key).or_default();
                    *held = [&held[..], &value[..]].concat().into();
                }
                Write::Remove => drop(self.records.remove(&key)),
            }
        }
    }

    /// The process is gone: of what it had under way some may have reached the disk, the oldest first.
    pub(crate) fn crash(&mut self, chance: &mut Chance) {
        let done = chance.index(self.under_way.len() + 1);
        for _ in 0..done {
            self.finish();
        }
        self.under_way.clear();
        self.last_done = 0;
    }
}
