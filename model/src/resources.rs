//! Sums of resources, in one normal form, so that equal sums are equal values however they came about.

use std::cmp::Ordering;
use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;

use crate::amount::Milli;
use crate::quantities::Quantities;
use crate::ranges::Ranges;
use crate::resource::{Quantity, Resource};
use crate::role::Role;

/// Sorted by identity; what can be added up is one entry, and identical indivisible resources are counted.
/// Quantities of nothing (or less) are dropped.
///
/// Clones share their entries until one of them is changed: what an agent has, what of it is free and what is offered
/// is mostly the same sum, and is then kept once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources(
    /// Never an empty list, so that there is one way to write an empty sum.
    Option<Arc<Vec<Entry>>>,
);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    resource: Resource,
    /// More than one only for indivisible resources.
    copies: u32,
}

impl Entry {
    fn contains(&self, other: &Entry) -> bool {
        self.copies >= other.copies && self.resource.quantity.contains(&other.resource.quantity)
    }
}

impl Resources {
    pub fn new() -> Self {
        Self::default()
    }

    fn from_entries(entries: Vec<Entry>) -> Self {
        Self((!entries.is_empty()).then(|| Arc::new(entries)))
    }

    fn entries(&self) -> &[Entry] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }

    /// Whether both are clones of one sum. Sums that are not may be equal all the same.
    fn is_clone_of(&self, other: &Resources) -> bool {
        match (&self.0, &other.0) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (own, other) => own.is_none() && other.is_none(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Every resource; of several copies each one.
    pub fn iter(&self) -> impl Iterator<Item = &Resource> {
        self.entries()
            .iter()
            .flat_map(|entry| std::iter::repeat_n(&entry.resource, entry.copies as usize))
    }

    /// Every resource with the number of its copies.
    pub fn iter_counted(&self) -> impl Iterator<Item = (&Resource, u32)> {
        self.entries()
            .iter()
            .map(|entry| (&entry.resource, entry.copies))
    }

    fn find(&self, resource: &Resource) -> Result<usize, usize> {
        self.entries()
            .binary_search_by(|entry| entry.resource.compare_identity(resource))
    }

    pub fn add_resource(&mut self, resource: Resource) {
        self.add_copies(resource, 1);
    }

    fn add_copies(&mut self, resource: Resource, copies: u32) {
        if resource.quantity.is_empty() {
            return;
        }
        let found = self.find(&resource);
        let entries = Arc::make_mut(self.0.get_or_insert_default());
        match found {
            Ok(at) if resource.is_indivisible() => {
                entries[at].copies = entries[at].copies.saturating_add(copies);
            }
            Ok(at) => entries[at].resource.quantity.add(&resource.quantity),
            Err(at) => entries.insert(at, Entry { resource, copies }),
        }
    }

    pub fn add(&mut self, other: &Resources) {
        if self.is_empty() {
            self.0.clone_from(&other.0);
            return;
        }
        for entry in other.entries() {
            let found = self.find(&entry.resource);
            let entries = Arc::make_mut(self.0.get_or_insert_default());
            match found {
                Ok(at) if entry.resource.is_indivisible() => {
                    entries[at].copies = entries[at].copies.saturating_add(entry.copies);
                }
                Ok(at) => entries[at].resource.quantity.add(&entry.resource.quantity),
                Err(at) => entries.insert(at, entry.clone()),
            }
        }
    }

    /// What is left after taking all of the other away; `None` if the other has something that this has not.
    #[must_use]
    pub fn checked_subtract(&self, other: &Resources) -> Option<Resources> {
        self.contains(other)
            .then(|| self.saturating_subtract(other))
    }

    /// What is left after taking away as much of the other as there is.
    #[must_use]
    pub fn saturating_subtract(&self, other: &Resources) -> Resources {
        let mut left = self.clone();
        left.subtract(other);
        left
    }

    /// Takes away as much of the other as there is.
    pub fn subtract(&mut self, other: &Resources) {
        if self.is_clone_of(other) {
            self.0 = None;
            return;
        }
        let mut emptied = false;
        for entry in other.entries() {
            let Ok(at) = self.find(&entry.resource) else {
                continue;
            };
            let own = &mut Arc::make_mut(self.0.get_or_insert_default())[at];
            if own.resource.is_indivisible() {
                own.copies = own.copies.saturating_sub(entry.copies);
            } else {
                own.resource.quantity.subtract(&entry.resource.quantity);
            }
            // Emptied entries stay until all are done, for the search needs the order.
            emptied |= own.copies == 0 || own.resource.quantity.is_empty();
        }
        if emptied && let Some(mut entries) = self.0.take() {
            Arc::make_mut(&mut entries)
                .retain(|entry| entry.copies > 0 && !entry.resource.quantity.is_empty());
            self.0 = (!entries.is_empty()).then_some(entries);
        }
    }

    /// Whether all of the other is in this: the same identities, and no more of each.
    pub fn contains(&self, other: &Resources) -> bool {
        if self.is_clone_of(other) {
            return true;
        }
        // Both are sorted, so one walk suffices.
        let mut own = self.entries().iter();
        other.entries().iter().all(|entry| {
            own.by_ref()
                .find_map(
                    |candidate| match candidate.resource.compare_identity(&entry.resource) {
                        Ordering::Less => None,
                        Ordering::Equal => Some(candidate.contains(entry)),
                        Ordering::Greater => Some(false),
                    },
                )
                .unwrap_or(false)
        })
    }

    pub fn contains_resource(&self, resource: &Resource) -> bool {
        resource.quantity.is_empty()
            || self.find(resource).is_ok_and(|at| {
                self.entries()[at]
                    .resource
                    .quantity
                    .contains(&resource.quantity)
            })
    }

    /// The sum of a scalar over all reservations; a shared one counts once.
    pub fn scalar(&self, name: &str) -> Milli {
        self.named(name)
            .map(|entry| match entry.resource.quantity {
                Quantity::Scalar(amount) => amount_of(entry, amount),
                _ => Milli::ZERO,
            })
            .sum()
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &Entry> {
        let entries = self.entries();
        let first = entries.partition_point(|entry| &*entry.resource.name < name);
        entries[first..]
            .iter()
            .take_while(move |entry| &*entry.resource.name == name)
    }

    pub fn cpus(&self) -> Milli {
        self.scalar("cpus")
    }

    /// In MB (2^20 bytes).
    pub fn mem(&self) -> Milli {
        self.scalar("mem")
    }

    /// In MB (2^20 bytes).
    pub fn disk(&self) -> Milli {
        self.scalar("disk")
    }

    pub fn gpus(&self) -> Milli {
        self.scalar("gpus")
    }

    pub fn ranges(&self, name: &str) -> Ranges {
        self.named(name)
            .fold(Ranges::new(), |sum, entry| match &entry.resource.quantity {
                Quantity::Ranges(ranges) => sum.union(ranges),
                _ => sum,
            })
    }

    pub fn ports(&self) -> Ranges {
        self.ranges("ports")
    }

    /// Those that satisfy the condition, with all their copies.
    #[must_use]
    pub fn filter(&self, keep: impl Fn(&Resource) -> bool) -> Resources {
        let kept = |entry: &&Entry| keep(&entry.resource);
        let entries = self.entries();
        if entries.iter().all(|entry| kept(&entry)) {
            return self.clone();
        }
        Resources::from_entries(entries.iter().filter(kept).cloned().collect())
    }

    /// Those that satisfy the condition, and the others.
    pub fn partition(self, belongs: impl Fn(&Resource) -> bool) -> (Resources, Resources) {
        let entries = self.0.map_or_else(Vec::new, Arc::unwrap_or_clone);
        let (left, right) = entries
            .into_iter()
            .partition(|entry| belongs(&entry.resource));
        (
            Resources::from_entries(left),
            Resources::from_entries(right),
        )
    }

    #[must_use]
    pub fn unreserved(&self) -> Resources {
        self.filter(|resource| !resource.is_reserved())
    }

    /// What is reserved for exactly this role.
    #[must_use]
    pub fn reserved_to(&self, role: &Role) -> Resources {
        self.filter(|resource| resource.reserved_role() == Some(role))
    }

    /// What a framework of this role may be offered: the unreserved, and what is reserved for it or for a role above.
    #[must_use]
    pub fn allocatable_to(&self, role: &Role) -> Resources {
        self.filter(|resource| resource.is_allocatable_to(role))
    }

    #[must_use]
    pub fn shared(&self) -> Resources {
        self.filter(|resource| resource.shared)
    }

    /// Each resource replaced by what the function makes of it.
    #[must_use]
    pub fn map(&self, replace: impl Fn(Resource) -> Resource) -> Resources {
        let mut mapped = Resources::new();
        for entry in self.entries() {
            mapped.add_copies(replace(entry.resource.clone()), entry.copies);
        }
        mapped
    }

    /// How much of each kind there is. A shared resource counts once, however many copies are held.
    pub fn quantities(&self) -> Quantities {
        let mut quantities = Quantities::new();
        for entry in self.entries() {
            quantities.add_amount(
                &entry.resource.name,
                amount_of(entry, entry.resource.quantity.amount()),
            );
        }
        quantities
    }
}

fn amount_of(entry: &Entry, amount: Milli) -> Milli {
    let copies = if entry.resource.shared {
        1
    } else {
        i64::from(entry.copies)
    };
    Milli(amount.0.saturating_mul(copies))
}

impl AddAssign<&Resources> for Resources {
    fn add_assign(&mut self, other: &Resources) {
        self.add(other);
    }
}

impl AddAssign<Resource> for Resources {
    fn add_assign(&mut self, resource: Resource) {
        self.add_resource(resource);
    }
}

impl From<Resource> for Resources {
    fn from(resource: Resource) -> Self {
        Self::from_iter([resource])
    }
}

impl FromIterator<Resource> for Resources {
    fn from_iter<I: IntoIterator<Item = Resource>>(all: I) -> Self {
        let mut resources = Self::new();
        for resource in all {
            resources.add_resource(resource);
        }
        resources
    }
}

impl<'a> FromIterator<&'a Resources> for Resources {
    fn from_iter<I: IntoIterator<Item = &'a Resources>>(all: I) -> Self {
        let mut sum = Self::new();
        for resources in all {
            sum.add(resources);
        }
        sum
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (resource, copies)) in self.iter_counted().enumerate() {
            let separator = if index > 0 { "; " } else { "" };
            write!(formatter, "{separator}{resource}")?;
            if copies > 1 {
                write!(formatter, "<{copies}>")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parse_resources;
    use crate::resource::tests::Random;
    use crate::resource::{Disk, DiskSource, DiskVolume, Persistence, Reservation};

    fn resources(text: &str) -> Resources {
        parse_resources(text, &Role::star()).unwrap()
    }

    fn role(text: &str) -> Role {
        Role::parse(text).unwrap()
    }

    fn volume(id: &str, megabytes: i64, shared: bool) -> Resource {
        let mut resource = Resource::scalar("disk", Milli::from_units(megabytes))
            .with_reservation(Reservation::dynamic(role("a"), Some("ops".into())));
        resource.disk = Some(Box::new(Disk {
            persistence: Some(Persistence {
                id: id.into(),
                principal: None,
            }),
            volume: Some(DiskVolume {
                container_path: "data".into(),
                host_path: None,
                read_only: false,
            }),
            source: None,
        }));
        resource.shared = shared;
        resource
    }

    #[test]
    fn the_same_resource_in_parts_is_one() {
        let mut sum = resources("cpus:1; ports:[1-3]; cpus(a):2; zones:{x}");
        sum += &resources("cpus:0.5; ports:[4-5, 9-9]; cpus(b):1; zones:{y}");
        assert_eq!(
            sum.to_string(),
            "cpus:1.5; cpus(a):2; cpus(b):1; ports:[1-5, 9-9]; zones:{x, y}"
        );
        assert_eq!(sum.cpus(), Milli(4500));
        assert_eq!(sum.ports().count(), 6);
        assert_eq!(sum.quantities().to_string(), "cpus:4.5; ports:6; zones:2");
    }

    #[test]
    fn what_is_not_there_cannot_be_taken() {
        let all = resources("cpus:2; mem:64; ports:[1-10]; zones:{x, y}");
        for text in [
            "cpus:2.001",
            "disk:1",
            "ports:[10-11]",
            "zones:{z}",
            "cpus(a):1",
            "cpus:[1-2]",
        ] {
            assert!(!all.contains(&resources(text)), "{text}");
            assert_eq!(all.checked_subtract(&resources(text)), None, "{text}");
        }
        assert_eq!(all.checked_subtract(&all), Some(Resources::new()));
        let left = all
            .checked_subtract(&resources("cpus:0.5; ports:[3-3]; zones:{x}; mem:64"))
            .unwrap();
        assert_eq!(left, resources("cpus:1.5; ports:[1-2, 4-10]; zones:{y}"));
    }

    #[test]
    fn taking_more_than_there_is_leaves_nothing_of_it() {
        let left = resources("cpus:2; mem:64; ports:[1-5]")
            .saturating_subtract(&resources("cpus:3; ports:[4-9]; x:1"));
        assert_eq!(left, resources("mem:64; ports:[1-3]"));
    }

    #[test]
    fn persistent_volumes_do_not_melt_into_each_other() {
        let mut sum = Resources::from(volume("one", 10, false));
        sum += volume("two", 10, false);
        sum += &resources("disk(a):5");
        assert_eq!(sum.iter().count(), 3);
        assert_eq!(sum.disk(), Milli::from_units(25));
        assert!(!sum.contains(&Resources::from(volume("one", 9, false))));
        assert_eq!(
            sum.checked_subtract(&Resources::from(volume("one", 10, false)))
                .unwrap()
                .iter()
                .count(),
            2
        );
    }

    #[test]
    fn a_mounted_disk_is_taken_whole() {
        let mount = |megabytes| {
            let mut resource = Resource::scalar("disk", Milli::from_units(megabytes));
            let source = DiskSource::Mount {
                root: Some("/mnt/a".into()),
                origin: Default::default(),
            };
            resource.disk = Some(Box::new(Disk {
                source: Some(source),
                ..Disk::default()
            }));
            Resources::from(resource)
        };
        assert!(!mount(100).contains(&mount(40)));
        assert_eq!(
            mount(100).checked_subtract(&mount(100)),
            Some(Resources::new())
        );
        assert_eq!(mount(100).to_string(), "disk[MOUNT:/mnt/a]:100");
    }

    #[test]
    fn copies_of_a_shared_volume_are_counted_and_their_size_is_not() {
        let one = Resources::from(volume("one", 10, true));
        let mut sum = one.clone();
        sum += &one;
        assert_eq!(sum.iter().count(), 2);
        assert_eq!(sum.disk(), Milli::from_units(10));
        assert_eq!(sum.checked_subtract(&one), Some(one.clone()));
        assert!(sum.contains(&one) && !one.contains(&sum));
        assert_eq!(sum.to_string(), "disk(a)[one,data]<SHARED>:10<2>");
    }

    #[test]
    fn revocable_resources_are_kept_apart() {
        let mut revocable = Resource::scalar("cpus", Milli(1000));
        revocable.revocable = true;
        let mut sum = resources("cpus:1");
        sum += revocable;
        assert_eq!(sum.to_string(), "cpus:1; cpus{REV}:1");
        assert!(!resources("cpus:2").contains(&sum));
    }

    #[test]
    fn a_role_gets_the_unreserved_its_own_and_what_is_above() {
        let all = resources("cpus:1; cpus(a):2; cpus(a/b):4; cpus(c):8");
        assert_eq!(all.allocatable_to(&role("a/b")).cpus(), Milli(7000));
        assert_eq!(all.allocatable_to(&role("a")).cpus(), Milli(3000));
        assert_eq!(all.allocatable_to(&Role::star()).cpus(), Milli(1000));
        assert_eq!(all.unreserved().cpus(), Milli(1000));
        assert_eq!(all.reserved_to(&role("a")).cpus(), Milli(2000));
        let (taken, left) = all
            .clone()
            .partition(|resource| resource.is_allocatable_to(&role("a")));
        assert_eq!(Resources::from_iter([&taken, &left]), all);
    }

    #[test]
    fn what_is_done_to_a_clone_is_not_done_to_the_sum() {
        let sum = resources("cpus:2; mem:64; ports:[1-5]");
        let mut clone = sum.clone();
        clone.subtract(&resources("cpus:1; ports:[1-5]"));
        assert_eq!(clone, resources("cpus:1; mem:64"));
        let mut other = sum.clone();
        other += &resources("cpus:1; disk:7");
        assert_eq!(other, resources("cpus:3; disk:7; mem:64; ports:[1-5]"));
        let mut emptied = sum.clone();
        emptied.subtract(&sum.filter(|_| true));
        assert_eq!(emptied, Resources::new());
        assert_eq!(sum, resources("cpus:2; mem:64; ports:[1-5]"));
    }

    #[test]
    fn zero_is_dropped_from_sums() {
        assert!(Resources::from(Resource::scalar("cpus", Milli::ZERO)).is_empty());
        assert!(resources("cpus:0").is_empty());
    }

    #[test]
    fn what_was_added_can_be_taken_away_again_without_trace() {
        let mut random = Random(11);
        for _ in 0..200 {
            let before = random_resources(&mut random, 0);
            let mut sum = before.clone();
            let parts: Vec<Resources> = (1..8)
                .map(|part| random_resources(&mut random, part))
                .collect();
            for part in &parts {
                sum += part;
                assert!(sum.contains(part), "{sum} contains {part}");
            }
            for part in parts.iter().rev() {
                sum = sum.checked_subtract(part).unwrap();
            }
            assert_eq!(sum, before);
        }
    }

    #[test]
    fn the_order_of_adding_makes_no_difference() {
        let mut random = Random(13);
        for _ in 0..200 {
            let parts: Vec<Resources> = (0..5)
                .map(|part| random_resources(&mut random, part))
                .collect();
            assert_eq!(
                parts.iter().collect::<Resources>(),
                parts.iter().rev().collect::<Resources>()
            );
        }
    }

    /// Scalars at will, but numbers and names that no other part has.
    fn random_resources(random: &mut Random, part: u64) -> Resources {
        let mut all = Resources::new();
        for _ in 0..random.below(6) {
            let mut resource = match random.below(5) {
                0 => Resource::scalar("cpus", Milli(random.below(5000) as i64)),
                1 => Resource::scalar("mem", Milli(random.below(500_000) as i64)),
                2 => {
                    let begin = part * 100 + random.below(50);
                    Resource::ranges("ports", Ranges::single(begin, begin + random.below(50)))
                }
                3 => Resource::set(
                    "zones",
                    [Arc::from(format!("{part}-{}", random.below(9)))].into(),
                ),
                _ => volume(
                    &format!("volume{}", random.below(3)),
                    10,
                    random.below(2) == 0,
                ),
            };
            if resource.disk.is_none() && random.below(2) == 0 {
                resource = resource.with_reservation(Reservation::fixed(role(
                    ["a", "a/b"][random.below(2) as usize],
                )));
            }
            all += resource;
        }
        all
    }
}
