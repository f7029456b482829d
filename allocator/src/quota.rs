//! Quota: how much a role, with all beneath it, may have at most, and how much it can be sure of.
//!
//! A role's consumption is what is reserved for it, held or not, and what it holds of the rest (offers included), apart
//! from what can be taken back at any moment. A limit bounds consumption. A guarantee not yet met keeps head-room free
//! for it: from what is free, others get only what all guarantees together leave. Along a path of roles a parent's
//! limit bounds its children, and what the children's guarantees lack is part of what the parent's lacks.
//!
//! All of it is counted only while there are quotas, and counted anew whenever one is set.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tepui_model::{Milli, Quantities, Quantity, Resource, Resources, Role};

use crate::share::{Amounts, Names, is_quota_relevant};

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quota {
    pub guarantees: Quantities,
    /// What is not named is not limited.
    pub limits: BTreeMap<Arc<str>, Milli>,
}

impl Quota {
    /// Whether this is the quota of roles that have none.
    pub fn is_default(&self) -> bool {
        self.guarantees.is_empty() && self.limits.is_empty()
    }

    /// A resource of which more is guaranteed than allowed.
    pub fn contradiction(&self) -> Option<&Arc<str>> {
        let mut limits = self.limits.iter();
        limits
            .find(|(name, limit)| self.guarantees.get(name) > **limit)
            .map(|(name, _)| name)
    }

    /// A resource of which this is more than the limit.
    pub fn exceeded_by(&self, consumed: &Quantities) -> Option<&Arc<str>> {
        let mut limits = self.limits.iter();
        limits
            .find(|(name, limit)| consumed.get(name) > **limit)
            .map(|(name, _)| name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QuotaId(usize);

#[derive(Debug, Default)]
pub(crate) struct Quotas {
    set: BTreeMap<Role, Quota>,
    accounts: Vec<Account>,
    index: BTreeMap<Role, QuotaId>,
    /// On active agents, reserved for nobody, held by nobody, not to be taken back.
    pub(crate) free: Amounts,
    /// What of it guarantees lack.
    pub(crate) lacking: Amounts,
    /// Those for which something is kept free, beyond what is kept for those below them.
    pub(crate) lacking_ids: BTreeSet<QuotaId>,
    /// How much of it was there for anybody at the end of the last round.
    spare_before: Vec<i64>,
    /// Roles that have given something back since the last round: they have come away from their limit, or more is kept
    /// free for them.
    pub(crate) loosened: BTreeSet<QuotaId>,
}

/// One role with a quota of its own.
#[derive(Debug)]
struct Account {
    role: Role,
    /// The nearest role above with a quota.
    parent: Option<QuotaId>,
    guarantees: Amounts,
    limits: Vec<(usize, i64)>,
    consumed: Amounts,
    /// What is lacking at the guarantees of the accounts below.
    lacking_below: Amounts,
    /// What is lacking at this guarantee and those below.
    lacking: Amounts,
}

/// How much one role may be given now.
#[derive(Debug)]
pub(crate) struct Room {
    /// By number of name: up to the limits of the role and those above.
    limits: Vec<(usize, i64)>,
    /// By number of name: before it eats from what is kept for others.
    head_room: Vec<i64>,
}

/// What kept part of an offer back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct KeptBack {
    pub(crate) by_limit: bool,
    pub(crate) by_guarantees: bool,
}

impl Account {
    fn concerns(&self, number: usize) -> bool {
        self.guarantees.at(number) > 0 || self.limits.iter().any(|(limited, _)| *limited == number)
    }

    /// Whether something is lacking that is not lacking below already.
    fn is_lacking(&self) -> bool {
        let own = |number| self.lacking.at(number) > self.lacking_below.at(number);
        (0..self.lacking.len()).any(own)
    }

    /// Reckons again what is lacking of one resource, and says by how much that changed.
    fn settle(&mut self, number: usize) -> i64 {
        let lacking = self.lacking_after(number, 0, 0);
        let change = lacking - self.lacking.at(number);
        self.lacking.add_at(number, change);
        change
    }

    fn lacking_after(&self, number: usize, consumed: i64, lacking_below: i64) -> i64 {
        let own = self.guarantees.at(number) - self.consumed.at(number) - consumed;
        own.max(self.lacking_below.at(number) + lacking_below)
            .max(0)
    }
}

impl Quotas {
    pub(crate) fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    pub(crate) fn all(&self) -> &BTreeMap<Role, Quota> {
        &self.set
    }

    /// The same quotas with nothing counted yet.
    pub(crate) fn begin(set: BTreeMap<Role, Quota>, names: &mut Names) -> Self {
        let mut quotas = Self::default();
        // A role stands before those beneath it.
        for (role, quota) in &set {
            let mut guarantees = Amounts::default();
            for (name, amount) in quota.guarantees.iter() {
                guarantees.add_at(names.number(name), amount.0);
            }
            let limits = quota.limits.iter();
            let account = Account {
                role: role.clone(),
                parent: quotas.above(role),
                guarantees,
                limits: limits
                    .map(|(name, limit)| (names.number(name), limit.0))
                    .collect(),
                consumed: Amounts::default(),
                lacking_below: Amounts::default(),
                lacking: Amounts::default(),
            };
            let id = QuotaId(quotas.accounts.len());
            quotas.index.insert(role.clone(), id);
            let guaranteed = account.guarantees.len();
            quotas.accounts.push(account);
            for number in 0..guaranteed {
                quotas.consume_one(Some(id), number, 0);
            }
        }
        quotas.set = set;
        quotas
    }

    /// The account on which a role's consumption is booked: its own, or the nearest above.
    pub(crate) fn of(&self, role: &Role) -> Option<QuotaId> {
        self.index.get(role).copied().or_else(|| self.above(role))
    }

    fn above(&self, role: &Role) -> Option<QuotaId> {
        role.ancestors()
            .find_map(|ancestor| self.index.get(&ancestor).copied())
    }

    pub(crate) fn role(&self, id: QuotaId) -> &Role {
        &self.accounts[id.0].role
    }

    /// The accounts from this one up.
    fn path(&self, id: Option<QuotaId>) -> impl Iterator<Item = &Account> {
        std::iter::successors(id.map(|id| &self.accounts[id.0]), |account| {
            account.parent.map(|parent| &self.accounts[parent.0])
        })
    }

    pub(crate) fn consume(&mut self, id: Option<QuotaId>, change: &Amounts) {
        for (number, amount) in change.iter() {
            self.consume_one(id, number, amount);
        }
    }

    pub(crate) fn consume_one(&mut self, id: Option<QuotaId>, number: usize, amount: i64) {
        let mut next = id;
        let mut lacking = 0;
        while let Some(id) = next {
            let account = &mut self.accounts[id.0];
            account.consumed.add_at(number, amount);
            account.lacking_below.add_at(number, lacking);
            lacking = account.settle(number);
            if amount < 0 && account.concerns(number) {
                self.loosened.insert(id);
            }
            if account.is_lacking() {
                self.lacking_ids.insert(id);
            } else {
                self.lacking_ids.remove(&id);
            }
            next = account.parent;
        }
        self.lacking.add_at(number, lacking);
    }

    pub(crate) fn consumed(&self, role: &Role) -> Option<&Amounts> {
        let id = self.index.get(role)?;
        Some(&self.accounts[id.0].consumed)
    }

    fn spare(&self, number: usize) -> i64 {
        (self.free.at(number) - self.lacking.at(number)).max(0)
    }

    /// Whether there is more for anybody than at the end of the last round.
    pub(crate) fn has_more_to_spare(&self) -> bool {
        !self.is_empty()
            && (0..self.free.len()).any(|number| {
                self.spare(number) > self.spare_before.get(number).copied().unwrap_or(0)
            })
    }

    pub(crate) fn end_round(&mut self) {
        self.spare_before = (0..self.free.len())
            .map(|number| self.spare(number))
            .collect();
    }

    pub(crate) fn room(&self, id: Option<QuotaId>) -> Room {
        let mut limits: Vec<(usize, i64)> = Vec::new();
        for account in self.path(id) {
            for &(number, limit) in &account.limits {
                let left = limit - account.consumed.at(number);
                match limits.iter_mut().find(|(limited, _)| *limited == number) {
                    Some((_, least)) => *least = left.min(*least),
                    None => limits.push((number, left)),
                }
            }
        }
        // What is kept for the role itself, or for those above it and nobody else, it may have beside what is spare.
        let own = |number| {
            let path = self.path(id);
            let kept =
                path.map(|account| account.lacking.at(number) - account.lacking_below.at(number));
            kept.sum::<i64>()
        };
        let head_room = (0..self.free.len())
            .map(|number| own(number) + self.spare(number))
            .collect();
        Room { limits, head_room }
    }

    /// The limit on the path that has the least left, with what is consumed of it, if that is what bounds the role.
    pub(crate) fn reached(&self, id: Option<QuotaId>, number: usize) -> Option<(&Role, i64, i64)> {
        let limits = self.path(id).filter_map(|account| {
            let mut limits = account.limits.iter();
            let (_, limit) = limits.find(|(limited, _)| *limited == number)?;
            Some((&account.role, *limit, account.consumed.at(number)))
        });
        let tightest = limits.min_by_key(|(_, limit, consumed)| limit - consumed)?;
        let (left, head_room) = self.room(id).of(number);
        (left <= head_room).then_some(tightest)
    }

    /// Whether giving back this much of one resource brings a limit nearer to being kept, or a guarantee nearer to
    /// having its head-room.
    pub(crate) fn would_help(&self, id: Option<QuotaId>, number: usize, amount: i64) -> bool {
        if amount <= 0 {
            return false;
        }
        let over = |account: &Account| {
            let mut limits = account.limits.iter();
            limits
                .any(|(limited, limit)| *limited == number && account.consumed.at(number) > *limit)
        };
        if self.path(id).any(over) {
            return true;
        }
        let lacking = self.path(id).fold(0, |below, account| {
            account.lacking_after(number, -amount, below) - account.lacking.at(number)
        });
        self.lacking.at(number) > self.free.at(number) && lacking < amount
    }

    /// What of an offer a role may be given now. What is reserved, may be taken back or has no amount is not touched.
    pub(crate) fn allowed(
        &self,
        offer: &Resources,
        id: Option<QuotaId>,
        names: &Names,
    ) -> (Resources, KeptBack) {
        let mut room = self.room(id);
        let mut kept_back = KeptBack::default();
        let mut allowed = Resources::new();
        for (resource, copies) in offer.iter_counted() {
            let number = match &resource.quantity {
                Quantity::Scalar(_) if is_quota_relevant(resource) => names.find(&resource.name),
                _ => None,
            };
            for _ in 0..copies {
                allowed.add_resource(match number {
                    Some(number) => room.take(resource.clone(), number, &mut kept_back),
                    None => resource.clone(),
                });
            }
        }
        (allowed, kept_back)
    }

    /// Panics if these are not the same quotas with the same counts.
    pub(crate) fn check_against(&self, reckoned: &Self) {
        assert!(self.free == reckoned.free, "what is free for quota");
        assert!(self.lacking == reckoned.lacking, "what guarantees lack");
        assert_eq!(self.lacking_ids, reckoned.lacking_ids, "whose lack it");
        for (own, other) in self.accounts.iter().zip(&reckoned.accounts) {
            assert!(own.consumed == other.consumed, "consumed by {}", own.role);
            assert!(own.lacking == other.lacking, "lacking at {}", own.role);
            assert!(
                own.lacking_below == other.lacking_below,
                "lacking beneath {}",
                own.role
            );
        }
    }
}

impl Room {
    pub(crate) fn holds(&self, least: &Quantities, names: &Names) -> bool {
        least.iter().all(|(name, amount)| {
            let (limit, head_room) = names
                .find(name)
                .map_or((i64::MAX, 0), |number| self.of(number));
            limit.min(head_room) >= amount.0
        })
    }

    /// What there is room for, of everything that is free somewhere.
    pub(crate) fn quantities(&self, names: &Names) -> Quantities {
        let mut room = Amounts::default();
        for number in 0..self.head_room.len() {
            let (limit, head_room) = self.of(number);
            room.add_at(number, limit.min(head_room).max(0));
        }
        names.quantities(&room)
    }

    fn of(&self, number: usize) -> (i64, i64) {
        let limit = self.limits.iter().find(|(limited, _)| *limited == number);
        (
            limit.map_or(i64::MAX, |(_, left)| *left),
            self.head_room.get(number).copied().unwrap_or(0),
        )
    }

    /// As much of a resource as there is room for, and then less room.
    fn take(
        &mut self,
        mut resource: Resource,
        number: usize,
        kept_back: &mut KeptBack,
    ) -> Resource {
        let Quantity::Scalar(amount) = resource.quantity else {
            return resource;
        };
        let (limit, head_room) = self.of(number);
        kept_back.by_limit |= limit < amount.0;
        kept_back.by_guarantees |= head_room < amount.0;
        let room = limit.min(head_room).max(0);
        let taken = if room >= amount.0 {
            amount
        } else if resource.is_indivisible() {
            Milli::ZERO
        } else if &*resource.name == "gpus" {
            // There are no parts of a gpu.
            Milli(room - room % 1000)
        } else {
            Milli(room)
        };
        for (_, left) in self
            .limits
            .iter_mut()
            .filter(|(limited, _)| *limited == number)
        {
            *left -= taken.0;
        }
        if let Some(left) = self.head_room.get_mut(number) {
            *left -= taken.0;
        }
        resource.quantity = Quantity::Scalar(taken);
        resource
    }
}

impl KeptBack {
    pub(crate) fn add(&mut self, other: Self) {
        self.by_limit |= other.by_limit;
        self.by_guarantees |= other.by_guarantees;
    }
}
