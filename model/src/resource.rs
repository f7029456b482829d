//! One resource: a quantity of something on one agent, and who or what it is bound to.
//!
//! The role a resource is offered or allocated to is not part of it: offers and tasks carry that beside their
//! resources, so that what a task gives back is equal to what the agent had.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::amount::Milli;
use crate::ranges::Ranges;
use crate::role::Role;

/// Free-form keys, each with or without a value, in the order in which they were given.
pub type Labels = Vec<(Arc<str>, Option<Arc<str>>)>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quantity {
    Scalar(Milli),
    Ranges(Ranges),
    Set(BTreeSet<Arc<str>>),
}

/// One level of binding to a role. Several make a stack, each for a role beneath the previous one's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reservation {
    pub role: Role,
    /// Made at run time, and so can be undone at run time.
    pub dynamic: bool,
    pub principal: Option<Arc<str>>,
    pub labels: Labels,
}

/// What a storage provider says about a disk it offers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct DiskOrigin {
    pub id: Option<Arc<str>>,
    pub profile: Option<Arc<str>>,
    pub vendor: Option<Arc<str>>,
    pub metadata: Labels,
}

/// Where a disk comes from when it is not the one under the agent's work directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskSource {
    /// A directory that several may have parts of.
    Path {
        root: Option<Arc<str>>,
        origin: DiskOrigin,
    },
    /// A whole file system that only one may have.
    Mount {
        root: Option<Arc<str>>,
        origin: DiskOrigin,
    },
    Raw {
        origin: DiskOrigin,
    },
    Block {
        origin: DiskOrigin,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Persistence {
    pub id: Arc<str>,
    pub principal: Option<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiskVolume {
    pub container_path: Arc<str>,
    pub host_path: Option<Arc<str>>,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Disk {
    pub persistence: Option<Persistence>,
    pub volume: Option<DiskVolume>,
    pub source: Option<DiskSource>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub name: Arc<str>,
    pub quantity: Quantity,
    /// Empty means reserved for nobody; the last one says for whom.
    pub reservations: Vec<Reservation>,
    pub disk: Option<Box<Disk>>,
    /// May be taken back at any moment.
    pub revocable: bool,
    /// Several may use it at once.
    pub shared: bool,
    pub provider_id: Option<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    #[error("a resource must have a name")]
    NoName,
    #[error("the resource {name} must not be negative, but is {amount}")]
    Negative { name: Arc<str>, amount: Milli },
    #[error("the resource gpus must be whole, but is {amount}")]
    PartOfGpu { amount: Milli },
    #[error("the resource {name} is reserved for '*', which stands for everybody")]
    ReservedForStar { name: Arc<str> },
    #[error(
        "the resource {name} is reserved for '{inner}' within '{outer}', but '{inner}' is not beneath '{outer}'"
    )]
    NotBeneath {
        name: Arc<str>,
        inner: Role,
        outer: Role,
    },
    #[error("the reservation of {name} for '{role}' within another one must be dynamic")]
    StaticRefinement { name: Arc<str>, role: Role },
    #[error("the persistent volume '{id}' must be reserved")]
    UnreservedVolume { id: Arc<str> },
    #[error("the resource {name} is shared, but only persistent volumes can be")]
    SharedWithoutVolume { name: Arc<str> },
    #[error("the resource {name} has a disk, but only disk resources can")]
    DiskOnOther { name: Arc<str> },
}

impl Quantity {
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Scalar(amount) => !amount.is_positive(),
            Self::Ranges(ranges) => ranges.is_empty(),
            Self::Set(items) => items.is_empty(),
        }
    }

    /// The amount, or else the number of elements.
    pub fn amount(&self) -> Milli {
        let count = |count: u64| {
            Milli::from_units(i64::try_from(count).unwrap_or(i64::MAX)).min(Milli::LIMIT)
        };
        match self {
            Self::Scalar(amount) => *amount,
            Self::Ranges(ranges) => count(ranges.count()),
            Self::Set(items) => count(items.len() as u64),
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Scalar(_) => 0,
            Self::Ranges(_) => 1,
            Self::Set(_) => 2,
        }
    }

    /// Adds a quantity of the same kind; [`Resource::compare_identity`] keeps kinds apart.
    pub(crate) fn add(&mut self, other: &Quantity) {
        match (self, other) {
            (Self::Scalar(sum), Self::Scalar(amount)) => *sum += *amount,
            (Self::Ranges(sum), Self::Ranges(ranges)) => *sum = sum.union(ranges),
            (Self::Set(sum), Self::Set(items)) => sum.extend(items.iter().cloned()),
            _ => unreachable!("quantities of two kinds have two identities"),
        }
    }

    /// Takes away as much of the other as there is.
    pub(crate) fn subtract(&mut self, other: &Quantity) {
        match (self, other) {
            (Self::Scalar(left), Self::Scalar(amount)) => *left = left.saturating_sub(*amount),
            (Self::Ranges(left), Self::Ranges(ranges)) => *left = left.difference(ranges),
            (Self::Set(left), Self::Set(items)) => left.retain(|item| !items.contains(item)),
            _ => unreachable!("quantities of two kinds have two identities"),
        }
    }

    pub(crate) fn contains(&self, other: &Quantity) -> bool {
        match (self, other) {
            (Self::Scalar(left), Self::Scalar(right)) => left >= right,
            (Self::Ranges(left), Self::Ranges(right)) => left.contains(right),
            (Self::Set(left), Self::Set(right)) => left.is_superset(right),
            _ => false,
        }
    }
}

impl Reservation {
    pub fn fixed(role: Role) -> Self {
        Self {
            role,
            dynamic: false,
            principal: None,
            labels: Vec::new(),
        }
    }

    pub fn dynamic(role: Role, principal: Option<Arc<str>>) -> Self {
        Self {
            role,
            dynamic: true,
            principal,
            labels: Vec::new(),
        }
    }
}

impl DiskSource {
    pub fn origin(&self) -> &DiskOrigin {
        match self {
            Self::Path { origin, .. }
            | Self::Mount { origin, .. }
            | Self::Raw { origin }
            | Self::Block { origin } => origin,
        }
    }

    fn is_indivisible(&self) -> bool {
        match self {
            Self::Path { .. } => false,
            Self::Mount { .. } | Self::Block { .. } => true,
            Self::Raw { origin } => origin.id.is_some(),
        }
    }
}

impl Resource {
    pub fn new(name: impl Into<Arc<str>>, quantity: Quantity) -> Self {
        Self {
            name: name.into(),
            quantity,
            reservations: Vec::new(),
            disk: None,
            revocable: false,
            shared: false,
            provider_id: None,
        }
    }

    pub fn scalar(name: impl Into<Arc<str>>, amount: Milli) -> Self {
        Self::new(name, Quantity::Scalar(amount))
    }

    pub fn ranges(name: impl Into<Arc<str>>, ranges: Ranges) -> Self {
        Self::new(name, Quantity::Ranges(ranges))
    }

    pub fn set(name: impl Into<Arc<str>>, items: BTreeSet<Arc<str>>) -> Self {
        Self::new(name, Quantity::Set(items))
    }

    /// This resource, bound one level further.
    #[must_use]
    pub fn with_reservation(mut self, reservation: Reservation) -> Self {
        self.reservations.push(reservation);
        self
    }

    /// For whom this is reserved, if for anybody.
    pub fn reserved_role(&self) -> Option<&Role> {
        self.reservations
            .last()
            .map(|reservation| &reservation.role)
    }

    pub fn is_reserved(&self) -> bool {
        !self.reservations.is_empty()
    }

    pub fn is_dynamically_reserved(&self) -> bool {
        self.reservations
            .last()
            .is_some_and(|reservation| reservation.dynamic)
    }

    /// Whether this is reserved within a reservation, which not every framework understands.
    pub fn is_refined(&self) -> bool {
        self.reservations.len() > 1
    }

    pub fn persistence(&self) -> Option<&Persistence> {
        self.disk.as_ref()?.persistence.as_ref()
    }

    /// Whether a framework of this role may be offered this: everybody what is reserved for nobody, and a role what is
    /// reserved for it or for a role above it.
    pub fn is_allocatable_to(&self, role: &Role) -> bool {
        self.reserved_role()
            .is_none_or(|reserved| reserved == role || role.is_strict_sub_role_of(reserved))
    }

    /// Such a resource is had whole or not at all.
    pub fn is_indivisible(&self) -> bool {
        self.shared
            || self.disk.as_ref().is_some_and(|disk| {
                disk.persistence.is_some()
                    || disk.source.as_ref().is_some_and(DiskSource::is_indivisible)
            })
    }

    /// Orders resources by everything that keeps them from being added up. Equal ones are one resource in two parts, or
    /// copies of each other if they are indivisible.
    pub fn compare_identity(&self, other: &Resource) -> Ordering {
        self.name
            .cmp(&other.name)
            .then_with(|| self.quantity.kind().cmp(&other.quantity.kind()))
            .then_with(|| self.reservations.cmp(&other.reservations))
            .then_with(|| self.disk.cmp(&other.disk))
            .then_with(|| self.revocable.cmp(&other.revocable))
            .then_with(|| self.shared.cmp(&other.shared))
            .then_with(|| self.provider_id.cmp(&other.provider_id))
            .then_with(|| {
                if self.is_indivisible() {
                    self.quantity.cmp(&other.quantity)
                } else {
                    Ordering::Equal
                }
            })
    }

    /// Whether this makes sense on its own, whoever sent it.
    pub fn check(&self) -> Result<(), ResourceError> {
        let name = || self.name.clone();
        if self.name.is_empty() {
            return Err(ResourceError::NoName);
        }
        if let Quantity::Scalar(amount) = self.quantity {
            if amount < Milli::ZERO {
                return Err(ResourceError::Negative {
                    name: name(),
                    amount,
                });
            }
            if &*self.name == "gpus" && !amount.is_whole() {
                return Err(ResourceError::PartOfGpu { amount });
            }
        }
        if self
            .reservations
            .iter()
            .any(|reservation| reservation.role.is_star())
        {
            return Err(ResourceError::ReservedForStar { name: name() });
        }
        for pair in self.reservations.windows(2) {
            let (outer, inner) = (&pair[0], &pair[1]);
            if !inner.dynamic {
                return Err(ResourceError::StaticRefinement {
                    name: name(),
                    role: inner.role.clone(),
                });
            }
            if !inner.role.is_strict_sub_role_of(&outer.role) {
                let (inner, outer) = (inner.role.clone(), outer.role.clone());
                return Err(ResourceError::NotBeneath {
                    name: name(),
                    inner,
                    outer,
                });
            }
        }
        if self.disk.is_some() && &*self.name != "disk" {
            return Err(ResourceError::DiskOnOther { name: name() });
        }
        match self.persistence() {
            Some(persistence) if !self.is_reserved() => Err(ResourceError::UnreservedVolume {
                id: persistence.id.clone(),
            }),
            None if self.shared => Err(ResourceError::SharedWithoutVolume { name: name() }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar(amount) => write!(formatter, "{amount}"),
            Self::Ranges(ranges) => write!(formatter, "{ranges}"),
            Self::Set(items) => {
                let items: Vec<&str> = items.iter().map(|item| &**item).collect();
                write!(formatter, "{{{}}}", items.join(", "))
            }
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)?;
        if let Some(role) = self.reserved_role() {
            write!(formatter, "({role})")?;
        }
        if let Some(disk) = &self.disk {
            write!(formatter, "{disk}")?;
        }
        if self.revocable {
            formatter.write_str("{REV}")?;
        }
        if self.shared {
            formatter.write_str("<SHARED>")?;
        }
        write!(formatter, ":{}", self.quantity)
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some(source) = &self.source {
            let root = |root: &Option<Arc<str>>| {
                root.as_ref()
                    .map_or(String::new(), |root| format!(":{root}"))
            };
            parts.push(match source {
                DiskSource::Path { root: at, .. } => format!("PATH{}", root(at)),
                DiskSource::Mount { root: at, .. } => format!("MOUNT{}", root(at)),
                DiskSource::Raw { origin } => format!("RAW{}", root(&origin.id)),
                DiskSource::Block { origin } => format!("BLOCK{}", root(&origin.id)),
            });
        }
        if let Some(persistence) = &self.persistence {
            parts.push(persistence.id.to_string());
        }
        if let Some(volume) = &self.volume {
            parts.push(volume.container_path.to_string());
        }
        write!(formatter, "[{}]", parts.join(","))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A small generator with a fixed seed: the same numbers in every run.
    pub(crate) struct Random(pub(crate) u64);

    impl Random {
        pub(crate) fn below(&mut self, limit: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (self.0 >> 33) % limit
        }
    }

    fn role(text: &str) -> Role {
        Role::parse(text).unwrap()
    }

    #[test]
    fn reserved_resources_are_for_the_role_and_those_beneath_it() {
        let free = Resource::scalar("cpus", Milli(1000));
        let reserved = free.clone().with_reservation(Reservation::fixed(role("a")));
        for (text, allowed) in [
            ("a", true),
            ("a/b", true),
            ("ab", false),
            ("b", false),
            ("*", false),
        ] {
            assert!(free.is_allocatable_to(&role(text)));
            assert_eq!(reserved.is_allocatable_to(&role(text)), allowed, "{text}");
        }
        let refined = reserved.with_reservation(Reservation::dynamic(role("a/b"), None));
        assert!(!refined.is_allocatable_to(&role("a")));
        assert!(refined.is_allocatable_to(&role("a/b/c")));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        let cpus = Resource::scalar("cpus", Milli(1000));
        assert_eq!(cpus.check(), Ok(()));
        assert!(matches!(
            Resource::scalar("cpus", Milli(-1)).check(),
            Err(ResourceError::Negative { .. })
        ));
        assert!(matches!(
            Resource::scalar("gpus", Milli(1500)).check(),
            Err(ResourceError::PartOfGpu { .. })
        ));
        let reserved = cpus.clone().with_reservation(Reservation::fixed(role("a")));
        assert_eq!(reserved.check(), Ok(()));
        let beside = reserved
            .clone()
            .with_reservation(Reservation::dynamic(role("b"), None));
        assert!(matches!(
            beside.check(),
            Err(ResourceError::NotBeneath { .. })
        ));
        let fixed = reserved.with_reservation(Reservation::fixed(role("a/b")));
        assert!(matches!(
            fixed.check(),
            Err(ResourceError::StaticRefinement { .. })
        ));
        let star = cpus.with_reservation(Reservation::fixed(Role::star()));
        assert!(matches!(
            star.check(),
            Err(ResourceError::ReservedForStar { .. })
        ));
    }
}
