//! Tables and sets by small integer keys, which whoever calls gives out anew once they are free again.

use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

use fixedbitset::FixedBitSet;

use crate::{AgentKey, FrameworkKey};

/// A small number that stands for something.
pub(crate) trait Key: Copy {
    fn at(self) -> usize;
    fn from_at(at: usize) -> Self;
}

macro_rules! key {
    ($name:ident) => {
        impl Key for $name {
            fn at(self) -> usize {
                self.0 as usize
            }

            fn from_at(at: usize) -> Self {
                Self(u32::try_from(at).expect("keys have 32 bits"))
            }
        }
    };
}

key!(AgentKey);
key!(FrameworkKey);

/// A map from keys, in their order.
#[derive(Debug)]
pub(crate) struct Slots<K, T> {
    slots: Vec<Option<T>>,
    key: PhantomData<K>,
}

impl<K: Key, T> Slots<K, T> {
    pub(crate) fn new() -> Self {
        Self {
            slots: Vec::new(),
            key: PhantomData,
        }
    }

    pub(crate) fn get(&self, key: K) -> Option<&T> {
        self.slots.get(key.at())?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut T> {
        self.slots.get_mut(key.at())?.as_mut()
    }

    pub(crate) fn contains(&self, key: K) -> bool {
        self.get(key).is_some()
    }

    fn slot(&mut self, key: K) -> &mut Option<T> {
        if key.at() >= self.slots.len() {
            self.slots.resize_with(key.at() + 1, || None);
        }
        &mut self.slots[key.at()]
    }

    pub(crate) fn insert(&mut self, key: K, value: T) {
        *self.slot(key) = Some(value);
    }

    pub(crate) fn get_or_default(&mut self, key: K) -> &mut T
    where
        T: Default,
    {
        self.slot(key).get_or_insert_default()
    }

    pub(crate) fn remove(&mut self, key: K) -> Option<T> {
        self.slots.get_mut(key.at())?.take()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &T)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(at, slot)| Some((K::from_at(at), slot.as_ref()?)))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = K> {
        self.iter().map(|(key, _)| key)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten()
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().flatten()
    }
}

impl<K: Key, T> Index<K> for Slots<K, T> {
    type Output = T;

    fn index(&self, key: K) -> &T {
        self.get(key).expect("callers look at what is there")
    }
}

impl<K: Key, T> IndexMut<K> for Slots<K, T> {
    fn index_mut(&mut self, key: K) -> &mut T {
        self.get_mut(key).expect("callers look at what is there")
    }
}

/// A set of agents. Every agent is a bit, so that putting one in or taking one out costs next to nothing, and going
/// through the set is going through the bits.
#[derive(Debug, Clone, Default)]
pub(crate) struct AgentSet {
    bits: FixedBitSet,
    len: usize,
}

impl AgentSet {
    pub(crate) fn insert(&mut self, key: AgentKey) {
        if !self.contains(key) {
            self.bits.grow_and_insert(key.at());
            self.len += 1;
        }
    }

    pub(crate) fn remove(&mut self, key: AgentKey) {
        if self.contains(key) {
            self.bits.remove(key.at());
            self.len -= 1;
        }
    }

    pub(crate) fn contains(&self, key: AgentKey) -> bool {
        self.bits.contains(key.at())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = AgentKey> {
        // An empty set costs nothing, however large it has been.
        let some = if self.is_empty() {
            None
        } else {
            Some(&self.bits)
        };
        some.into_iter()
            .flat_map(|bits| bits.ones().map(AgentKey::from_at))
    }

    pub(crate) fn extend(&mut self, keys: impl IntoIterator<Item = AgentKey>) {
        keys.into_iter().for_each(|key| self.insert(key));
    }

    /// Adds those of the other.
    pub(crate) fn add(&mut self, other: &AgentSet) {
        if !other.is_empty() {
            self.bits.union_with(&other.bits);
            self.len = self.bits.count_ones(..);
        }
    }

    /// Keeps those that are in the other as well.
    pub(crate) fn keep(&mut self, other: &AgentSet) {
        if !self.is_empty() {
            self.bits.intersect_with(&other.bits);
            self.len = self.bits.count_ones(..);
        }
    }
}
