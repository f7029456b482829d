//! What reserving resources and making volumes of them turns them into.

use std::cmp::Ordering;

use crate::amount::Milli;
use crate::resource::{Disk, DiskSource, Persistence, Quantity, Resource};
use crate::resources::Resources;

/// Something to be done with resources of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Binds resources one level further, or from the stack of the source to another one.
    Reserve {
        resources: Resources,
        /// Empty: the same resources without their last reservation.
        source: Resources,
    },
    /// Undoes the last reservation.
    Unreserve(Resources),
    /// Makes persistent volumes of reserved disk.
    Create(Resources),
    /// Turns persistent volumes into disk again.
    Destroy(Resources),
    Grow {
        volume: Resource,
        addition: Resource,
    },
    Shrink {
        volume: Resource,
        subtract: Milli,
    },
}

/// What is there before and what is there afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversion {
    pub consumed: Resources,
    pub converted: Resources,
}

impl Change {
    pub fn conversion(&self) -> Conversion {
        let (consumed, converted) = match self {
            Self::Reserve { resources, source } if source.is_empty() => (
                resources.map(Resource::without_last_reservation),
                resources.clone(),
            ),
            Self::Reserve { resources, source } => (source.clone(), resources.clone()),
            Self::Unreserve(resources) => (
                resources.clone(),
                resources.map(Resource::without_last_reservation),
            ),
            Self::Create(volumes) => (volumes.map(Resource::without_volume), volumes.clone()),
            Self::Destroy(volumes) => (volumes.clone(), volumes.map(Resource::without_volume)),
            Self::Grow { volume, addition } => {
                let mut grown = volume.clone();
                if let (Quantity::Scalar(size), Quantity::Scalar(more)) =
                    (&mut grown.quantity, &addition.quantity)
                {
                    *size += *more;
                }
                (
                    Resources::from_iter([volume.clone(), addition.clone()]),
                    Resources::from(grown),
                )
            }
            Self::Shrink { volume, subtract } => {
                let (mut shrunk, mut freed) = (volume.clone(), volume.clone().without_volume());
                if let Quantity::Scalar(size) = &mut shrunk.quantity {
                    *size = size.saturating_sub(*subtract);
                }
                freed.quantity = Quantity::Scalar(*subtract);
                (
                    Resources::from(volume.clone()),
                    Resources::from_iter([shrunk, freed]),
                )
            }
        };
        Conversion {
            consumed,
            converted,
        }
    }

    /// The same of what is there: see [`Resources::known_as`].
    #[must_use]
    pub fn known_as(self, there: &Resources) -> Self {
        match self {
            Self::Reserve { resources, source } => Self::Reserve {
                resources,
                source: source.known_as(there),
            },
            Self::Destroy(volumes) => Self::Destroy(volumes.known_as(there)),
            Self::Grow { volume, addition } => Self::Grow {
                volume: volume.known_as(there),
                addition,
            },
            Self::Shrink { volume, subtract } => Self::Shrink {
                volume: volume.known_as(there),
                subtract,
            },
            other @ (Self::Unreserve(_) | Self::Create(_)) => other,
        }
    }
}

impl Resource {
    #[must_use]
    pub fn without_last_reservation(mut self) -> Self {
        self.reservations.pop();
        self
    }

    #[must_use]
    pub fn unreserved(mut self) -> Self {
        self.reservations.clear();
        self
    }

    /// The disk of which a volume was made.
    #[must_use]
    pub fn without_volume(mut self) -> Self {
        self.shared = false;
        let source = self.disk.take().and_then(|disk| disk.source);
        self.disk = source.map(|source| {
            Box::new(Disk {
                source: Some(source),
                ..Disk::default()
            })
        });
        self
    }

    /// What an operator's flags would call this: nothing that was made at run time is left of it.
    #[must_use]
    pub fn as_configured(self) -> Self {
        let mut configured = self.without_volume();
        configured
            .reservations
            .retain(|reservation| !reservation.dynamic);
        configured
    }

    /// Whether this was made at run time, so that the agent has to remember it.
    pub fn is_made(&self) -> bool {
        self.persistence().is_some() || self.is_dynamically_reserved()
    }

    pub fn is_mount(&self) -> bool {
        let source = self.disk.as_ref().and_then(|disk| disk.source.as_ref());
        matches!(source, Some(DiskSource::Mount { .. }))
    }

    fn is_same_volume(&self, other: &Resource) -> bool {
        let named = |resource: &Resource| {
            let disk = resource.disk.as_deref().cloned().unwrap_or_default();
            Disk {
                volume: None,
                persistence: disk.persistence.map(|persistence| Persistence {
                    principal: None,
                    ..persistence
                }),
                ..disk
            }
        };
        let plain = |resource: &Resource| Resource {
            disk: None,
            ..resource.clone()
        };
        self.persistence().is_some()
            && self.name == other.name
            && named(self) == named(other)
            && plain(self).compare_identity(&plain(other)) == Ordering::Equal
            && self.quantity == other.quantity
    }

    /// A volume as it is called where it lies: those who use it may want it at another path, or read-only.
    #[must_use]
    pub fn known_as(self, there: &Resources) -> Self {
        if self.persistence().is_none() {
            return self;
        }
        let found = there
            .iter_counted()
            .map(|(resource, _)| resource)
            .find(|resource| resource.is_same_volume(&self));
        found.cloned().unwrap_or(self)
    }
}

impl Resources {
    /// These, with volumes called as they are where they lie. How a task wants to see a volume does not make it another.
    #[must_use]
    pub fn known_as(&self, there: &Resources) -> Self {
        self.map(|resource| resource.known_as(there))
    }

    /// What was made at run time.
    #[must_use]
    pub fn made(&self) -> Self {
        self.filter(Resource::is_made)
    }

    /// One copy of each shared resource that this has and the other has not.
    #[must_use]
    pub fn shared_missing_from(&self, other: &Resources) -> Self {
        let shared = self.iter_counted().map(|(resource, _)| resource);
        shared
            .filter(|resource| resource.shared && !other.contains_resource(resource))
            .cloned()
            .collect()
    }

    /// What there is of each shared resource beyond one copy.
    #[must_use]
    pub fn surplus_copies(&self) -> Self {
        let shared = self.iter_counted().filter(|(resource, _)| resource.shared);
        shared
            .flat_map(|(resource, copies)| {
                std::iter::repeat_n(resource, copies.saturating_sub(1) as usize)
            })
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parse_resources;
    use crate::resource::{DiskVolume, Reservation};
    use crate::role::Role;
    use std::sync::Arc;

    fn resources(text: &str) -> Resources {
        parse_resources(text, &Role::star()).unwrap()
    }

    fn reserved(text: &str, roles: &[&str]) -> Resources {
        resources(text).map(|resource| {
            roles.iter().fold(resource, |resource, role| {
                resource.with_reservation(Reservation::dynamic(Role::parse(role).unwrap(), None))
            })
        })
    }

    fn volume(id: &str, megabytes: i64, path: &str) -> Resource {
        let disk = reserved(&format!("disk:{megabytes}"), &["a"]);
        let mut volume = disk.iter().next().unwrap().clone();
        volume.disk = Some(Box::new(Disk {
            persistence: Some(Persistence {
                id: id.into(),
                principal: None,
            }),
            volume: Some(DiskVolume {
                container_path: path.into(),
                host_path: None,
                read_only: false,
            }),
            source: None,
        }));
        volume
    }

    /// Reads `consumed -> converted`, and checks that nothing was made from nothing.
    fn check(change: Change, expected: &str) {
        let Conversion {
            consumed,
            converted,
        } = change.conversion();
        assert_eq!(format!("{consumed} -> {converted}"), expected);
        assert_eq!(consumed.quantities(), converted.quantities());
        let configured = |resources: &Resources| resources.map(Resource::as_configured);
        assert_eq!(configured(&consumed), configured(&converted));
    }

    #[test]
    fn reservations_are_put_on_and_taken_off_one_by_one() {
        let reserve = |resources: Resources| Change::Reserve {
            resources,
            source: Resources::new(),
        };
        check(
            reserve(reserved("cpus:2;ports:[1-3]", &["a"])),
            "cpus:2; ports:[1-3] -> cpus(a):2; ports(a):[1-3]",
        );
        check(
            reserve(reserved("cpus:2", &["a", "a/b"])),
            "cpus(a):2 -> cpus(a/b):2",
        );
        check(
            Change::Unreserve(reserved("cpus:2", &["a", "a/b"])),
            "cpus(a/b):2 -> cpus(a):2",
        );
        check(
            Change::Reserve {
                resources: reserved("cpus:2", &["c"]),
                source: reserved("cpus:2", &["a", "a/b"]),
            },
            "cpus(a/b):2 -> cpus(c):2",
        );
    }

    #[test]
    fn volumes_are_made_of_disk_and_become_disk_again() {
        let plain = volume("v", 64, "data");
        let shared = Resource {
            shared: true,
            ..plain.clone()
        };
        check(
            Change::Create(shared.clone().into()),
            "disk(a):64 -> disk(a)[v,data]<SHARED>:64",
        );
        check(
            Change::Destroy(shared.into()),
            "disk(a)[v,data]<SHARED>:64 -> disk(a):64",
        );
        check(
            Change::Grow {
                volume: plain.clone(),
                addition: reserved("disk:6", &["a"]).iter().next().unwrap().clone(),
            },
            "disk(a):6; disk(a)[v,data]:64 -> disk(a)[v,data]:70",
        );
        check(
            Change::Shrink {
                volume: plain,
                subtract: Milli::from_units(4),
            },
            "disk(a)[v,data]:64 -> disk(a):4; disk(a)[v,data]:60",
        );
    }

    #[test]
    fn a_disk_of_a_source_keeps_it() {
        let mut mount = volume("v", 64, "data");
        mount.disk.as_mut().unwrap().source = Some(DiskSource::Mount {
            root: Some("/mnt".into()),
            origin: crate::resource::DiskOrigin::default(),
        });
        check(
            Change::Create(mount.into()),
            "disk(a)[MOUNT:/mnt]:64 -> disk(a)[MOUNT:/mnt,v,data]:64",
        );
    }

    #[test]
    fn how_a_volume_is_used_does_not_make_it_another() {
        let there = Resources::from_iter([volume("v", 64, "data"), volume("w", 64, "data")]);
        let mut used = volume("v", 64, "elsewhere");
        let disk = used.disk.as_mut().unwrap();
        disk.volume.as_mut().unwrap().read_only = true;
        disk.persistence.as_mut().unwrap().principal = Some(Arc::from("somebody"));
        assert_eq!(used.clone().known_as(&there), volume("v", 64, "data"));
        let larger = volume("v", 65, "data");
        assert_eq!(larger.clone().known_as(&there), larger);
        let cpus = resources("cpus:1");
        assert_eq!(cpus.known_as(&there), cpus);
    }

    #[test]
    fn shared_resources_are_told_by_their_copies() {
        let shared = Resource {
            shared: true,
            ..volume("v", 64, "data")
        };
        let twice = Resources::from_iter([shared.clone(), shared.clone(), volume("w", 1, "w")]);
        assert_eq!(twice.surplus_copies(), Resources::from(shared.clone()));
        assert_eq!(
            twice.shared_missing_from(&resources("cpus:1")),
            shared.into()
        );
        assert!(twice.shared_missing_from(&twice).is_empty());
    }
}
