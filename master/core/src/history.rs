//! The last so many records of something, oldest first; copying it costs one pointer per chunk.

use std::collections::VecDeque;
use std::sync::Arc;

const CHUNK: usize = 64;

#[derive(Debug)]
pub struct History<T> {
    chunks: VecDeque<Arc<Vec<Arc<T>>>>,
    /// Records at the front that are too old already.
    skipped: usize,
    len: usize,
    limit: usize,
}

impl<T> Clone for History<T> {
    fn clone(&self) -> Self {
        Self {
            chunks: self.chunks.clone(),
            skipped: self.skipped,
            len: self.len,
            limit: self.limit,
        }
    }
}

impl<T> History<T> {
    pub fn new(limit: usize) -> Self {
        Self {
            chunks: VecDeque::new(),
            skipped: 0,
            len: 0,
            limit,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<T>> {
        let skipped = self.skipped;
        self.chunks
            .iter()
            .enumerate()
            .flat_map(move |(index, chunk)| chunk[if index == 0 { skipped } else { 0 }..].iter())
    }

    /// Those of the records that `change` does not leave out, as it makes them.
    pub(crate) fn filter_map(&self, change: impl Fn(&Arc<T>) -> Option<Arc<T>>) -> Self {
        let mut kept = Self::new(self.limit);
        for record in self.iter().filter_map(change) {
            kept.push(record);
        }
        kept
    }

    /// Appends; the oldest record that there is no room for any more is handed back.
    pub(crate) fn push(&mut self, record: Arc<T>) -> Option<Arc<T>> {
        if self.limit == 0 {
            return Some(record);
        }
        match self.chunks.back_mut() {
            Some(last) if last.len() < CHUNK => Arc::make_mut(last).push(record),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(record);
                self.chunks.push_back(Arc::new(chunk));
            }
        }
        self.len += 1;
        if self.len <= self.limit {
            return None;
        }
        let oldest = self.chunks[0][self.skipped].clone();
        self.len -= 1;
        self.skipped += 1;
        if self.skipped == CHUNK {
            self.chunks.pop_front();
            self.skipped = 0;
        }
        Some(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_so_many_are_kept() {
        let mut history = History::new(100);
        for number in 0..1000_u32 {
            let dropped = history.push(Arc::new(number));
            assert_eq!(dropped.as_deref().copied(), number.checked_sub(100));
            assert_eq!(history.iter().next_back().map(|last| **last), Some(number));
        }
        let kept: Vec<u32> = history.iter().map(|number| **number).collect();
        assert_eq!(kept, (900..1000).collect::<Vec<_>>());
        assert_eq!(history.len(), 100);
    }

    #[test]
    fn a_history_without_room_keeps_nothing() {
        let mut history = History::new(0);
        assert!(history.push(Arc::new(1)).is_some());
        assert!(history.is_empty());
    }
}
