//! Tables that can be photographed: a snapshot copies one pointer per chunk, however many records there are.
//!
//! Records live behind `Arc` in chunks behind `Arc`. A writer that changes a record which a snapshot still holds
//! copies that record and its chunk's pointers first; without snapshots it changes everything in place.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::keys::Key;

const CHUNK: usize = 128;

type Chunk<T> = Vec<Option<Arc<T>>>;

/// A table as it was at one moment. Cloning it is cheap.
#[derive(Debug)]
pub struct Table<K, T> {
    chunks: Vec<Arc<Chunk<T>>>,
    len: usize,
    key: PhantomData<K>,
}

impl<K, T> Clone for Table<K, T> {
    fn clone(&self) -> Self {
        Self {
            chunks: self.chunks.clone(),
            len: self.len,
            key: PhantomData,
        }
    }
}

impl<K, T> Default for Table<K, T> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            len: 0,
            key: PhantomData,
        }
    }
}

impl<K: Key, T> Table<K, T> {
    pub fn get(&self, key: K) -> Option<&Arc<T>> {
        let (chunk, slot) = place(key);
        self.chunks.get(chunk)?.get(slot)?.as_ref()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The records with their keys, by key.
    pub fn iter(&self) -> impl Iterator<Item = (K, &Arc<T>)> {
        self.chunks.iter().enumerate().flat_map(|(chunk, slots)| {
            slots.iter().enumerate().filter_map(move |(slot, record)| {
                let index =
                    u32::try_from(chunk * CHUNK + slot).expect("insert gives out 32-bit keys only");
                record.as_ref().map(|record| (K::from_index(index), record))
            })
        })
    }

    pub fn values(&self) -> impl Iterator<Item = &Arc<T>> {
        self.chunks.iter().flat_map(|slots| slots.iter().flatten())
    }

    /// The table with every record replaced by what `change` makes of it, or without it.
    pub(crate) fn filter_map(&self, change: impl Fn(&Arc<T>) -> Option<Arc<T>>) -> Self {
        let chunks = self.chunks.iter().map(|slots| {
            let slots = slots.iter().map(|record| record.as_ref().and_then(&change));
            Arc::new(slots.collect::<Chunk<T>>())
        });
        let mut table = Self {
            chunks: chunks.collect(),
            len: 0,
            key: PhantomData,
        };
        table.len = table.values().count();
        table
    }
}

fn place<K: Key>(key: K) -> (usize, usize) {
    let index = key.index() as usize;
    (index / CHUNK, index % CHUNK)
}

/// The writer's side of a [`Table`].
#[derive(Debug)]
pub(crate) struct Slab<K, T> {
    table: Table<K, T>,
    free: Vec<K>,
}

impl<K, T> Default for Slab<K, T> {
    fn default() -> Self {
        Self {
            table: Table::default(),
            free: Vec::new(),
        }
    }
}

impl<K: Key, T: Clone> Slab<K, T> {
    pub(crate) fn insert(&mut self, record: T) -> K {
        let key = self.free.pop().unwrap_or_else(|| self.grow());
        let (chunk, slot) = place(key);
        Arc::make_mut(&mut self.table.chunks[chunk])[slot] = Some(Arc::new(record));
        self.table.len += 1;
        key
    }

    /// Makes room for one more record at the end. All chunks but the last are full.
    fn grow(&mut self) -> K {
        match self.table.chunks.last_mut() {
            Some(last) if last.len() < CHUNK => Arc::make_mut(last).push(None),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(None);
                self.table.chunks.push(Arc::new(chunk));
            }
        }
        let last = self
            .table
            .chunks
            .last()
            .expect("a chunk was just made sure of");
        let index = (self.table.chunks.len() - 1) * CHUNK + last.len() - 1;
        K::from_index(u32::try_from(index).expect("fewer than 2^32 records fit into memory"))
    }

    pub(crate) fn remove(&mut self, key: K) -> Option<Arc<T>> {
        self.table.get(key)?;
        let (chunk, slot) = place(key);
        let record = Arc::make_mut(&mut self.table.chunks[chunk])[slot].take()?;
        self.table.len -= 1;
        self.free.push(key);
        Some(record)
    }

    pub(crate) fn get(&self, key: K) -> Option<&Arc<T>> {
        self.table.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut T> {
        self.table.get(key)?;
        let (chunk, slot) = place(key);
        Arc::make_mut(&mut self.table.chunks[chunk])[slot]
            .as_mut()
            .map(Arc::make_mut)
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &Arc<T>)> {
        self.table.iter()
    }

    /// As [`Slab::iter`], from a key on.
    pub(crate) fn iter_from(&self, from: K) -> impl Iterator<Item = (K, &Arc<T>)> {
        let end = (self.table.chunks.len() * CHUNK) as u32;
        let keys = (from.index()..end).map(K::from_index);
        keys.filter_map(|key| Some((key, self.get(key)?)))
    }

    pub(crate) fn snapshot(&self) -> Table<K, T> {
        self.table.clone()
    }
}

impl<K: Key, T: Clone> std::ops::Index<K> for Slab<K, T> {
    type Output = T;

    fn index(&self, key: K) -> &T {
        self.get(key)
            .expect("keys are dropped together with their records")
    }
}

impl<K: Key, T: Clone> std::ops::IndexMut<K> for Slab<K, T> {
    fn index_mut(&mut self, key: K) -> &mut T {
        self.get_mut(key)
            .expect("keys are dropped together with their records")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::TaskKey;

    #[test]
    fn a_snapshot_does_not_see_later_changes() {
        let mut slab: Slab<TaskKey, String> = Slab::default();
        let keys: Vec<TaskKey> = (0..300)
            .map(|number| slab.insert(number.to_string()))
            .collect();
        let before = slab.snapshot();
        slab[keys[5]].push('x');
        slab.remove(keys[200]);
        assert_eq!(before.get(keys[5]).unwrap().as_str(), "5");
        assert_eq!(before.get(keys[200]).unwrap().as_str(), "200");
        assert_eq!(before.len(), 300);
        let after = slab.snapshot();
        assert_eq!(after.get(keys[5]).unwrap().as_str(), "5x");
        assert!(after.get(keys[200]).is_none());
        assert_eq!(
            (after.len(), after.iter().count(), after.values().count()),
            (299, 299, 299)
        );
    }

    #[test]
    fn places_are_given_out_again() {
        let mut slab: Slab<TaskKey, u32> = Slab::default();
        let first = slab.insert(1);
        slab.insert(2);
        assert_eq!(slab.remove(first).as_deref(), Some(&1));
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.insert(3), first);
        assert_eq!(
            slab.iter()
                .map(|(key, value)| (key.0, **value))
                .collect::<Vec<_>>(),
            [(0, 3), (1, 2)]
        );
        assert_eq!(slab.len(), 2);
    }

    #[test]
    fn a_record_that_no_snapshot_holds_is_changed_in_place() {
        let mut slab: Slab<TaskKey, u32> = Slab::default();
        let key = slab.insert(1);
        drop(slab.snapshot());
        let before = Arc::as_ptr(slab.get(key).unwrap());
        slab[key] = 2;
        assert_eq!(Arc::as_ptr(slab.get(key).unwrap()), before);
    }
}
