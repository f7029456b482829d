//! What one agent has, who holds it, and who has refused it for now.

use std::collections::{BTreeMap, BTreeSet};

use tepui_model::{Milli, Quantities, Resources, Role, Tick};

use crate::FrameworkKey;
use crate::config::FrameworkCapabilities;
use crate::constraints::AgentTraits;
use crate::share::Amounts;
use crate::tree::NodeId;

/// How many refusals a framework may have in force on one agent for one role; the first to end is dropped for another.
/// A new one replaces those that it covers, so more than a few come only from ever different resources.
const MAX_FILTERS: usize = 16;

/// A framework within one of its roles.
pub(crate) type Holder = (FrameworkKey, NodeId);

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) total: Resources,
    pub(crate) traits: AgentTraits,
    pub(crate) active: bool,
    has_gpus: bool,
    /// By holder.
    pub(crate) held: Vec<(Holder, Hold)>,
    /// What may be offered: what nobody holds, and shared resources whoever holds them.
    pub(crate) available: Resources,
    pub(crate) filters: BTreeMap<Holder, Vec<Filter>>,
    /// Those with a refusal that has run out and waits for the others to be asked.
    pub(crate) lapsed: BTreeSet<Holder>,
    /// How much of what is available here is counted as free for quotas.
    pub(crate) counted: Amounts,
}

#[derive(Debug, Default)]
pub(crate) struct Hold {
    /// Offered or used, as one sum.
    pub(crate) resources: Resources,
    /// How much of it is in offers not yet answered.
    pub(crate) offered: Amounts,
}

/// A refusal of these resources, or fewer, until a moment.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) refused: Resources,
    pub(crate) until: Tick,
    /// Whether it is more than forgotten when its time is over.
    pub(crate) then_others_first: bool,
    /// Its time is over. It still lets the others go first, until each of them has refused as well or one has made use
    /// of the agent: or else those who refuse everything for a moment could keep it among themselves for ever.
    pub(crate) lapsed: bool,
}

impl Agent {
    pub(crate) fn new(total: Resources, traits: AgentTraits) -> Self {
        Self {
            available: total.clone(),
            has_gpus: total.gpus().is_positive(),
            total,
            traits,
            active: true,
            held: Vec::new(),
            filters: BTreeMap::new(),
            lapsed: BTreeSet::new(),
            counted: Amounts::default(),
        }
    }

    /// What is left of a total. An agent may have shrunk below what is in use: then nothing is.
    pub(crate) fn left_over(&self) -> Resources {
        let mut left = self.total.filter(|resource| !resource.shared);
        for (_, hold) in &self.held {
            left.subtract(&hold.resources);
        }
        left.add(&self.total.shared());
        left
    }

    pub(crate) fn set_total(&mut self, total: Resources) -> Resources {
        self.has_gpus = total.gpus().is_positive();
        let before = std::mem::replace(&mut self.total, total);
        self.available = self.left_over();
        before
    }

    pub(crate) fn hold_of(&self, holder: Holder) -> Option<&Hold> {
        let at = self.find_hold(holder).ok()?;
        Some(&self.held[at].1)
    }

    pub(crate) fn hold_of_mut(&mut self, holder: Holder) -> Option<&mut Hold> {
        let at = self.find_hold(holder).ok()?;
        Some(&mut self.held[at].1)
    }

    pub(crate) fn end_hold(&mut self, holder: Holder) -> Option<Hold> {
        let at = self.find_hold(holder).ok()?;
        Some(self.held.remove(at).1)
    }

    fn find_hold(&self, holder: Holder) -> Result<usize, usize> {
        self.held
            .binary_search_by_key(&holder, |(holder, _)| *holder)
    }

    pub(crate) fn has_something_to_offer(&self) -> bool {
        self.active
            && self
                .available
                .iter_counted()
                .any(|(resource, _)| !resource.shared)
    }

    /// Notes a refusal in place of those that it covers.
    pub(crate) fn refuse(&mut self, holder: Holder, filter: Filter) {
        let filters = self.filters.entry(holder).or_default();
        filters.retain(|old| old.until > filter.until || !filter.refused.contains(&old.refused));
        if filters.len() == MAX_FILTERS {
            let first = (0..MAX_FILTERS)
                .min_by_key(|at| filters[*at].until)
                .unwrap_or_default();
            filters.swap_remove(first);
        }
        filters.push(filter);
    }

    /// Forgets the refusals that have run out. Returns those holders that refuse nothing any more, and those that still
    /// refuse something else.
    pub(crate) fn forget_lapsed(&mut self) -> Vec<(Holder, bool)> {
        let mut forgotten = Vec::new();
        for holder in std::mem::take(&mut self.lapsed) {
            let Some(filters) = self.filters.get_mut(&holder) else {
                continue;
            };
            filters.retain(|filter| !filter.lapsed);
            let refuses_nothing = filters.is_empty();
            if refuses_nothing {
                self.filters.remove(&holder);
            }
            forgotten.push((holder, refuses_nothing));
        }
        forgotten
    }

    pub(crate) fn has_gpus(&self) -> bool {
        self.has_gpus
    }

    /// Takes resources out of what is available, on a holder's account.
    pub(crate) fn take(&mut self, holder: Holder, taken: &Resources) -> &mut Hold {
        self.available
            .subtract(&taken.filter(|resource| !resource.shared));
        self.hold(holder, taken)
    }

    /// Puts resources, of which there are some, on a holder's account without regard to what is available.
    pub(crate) fn hold(&mut self, holder: Holder, resources: &Resources) -> &mut Hold {
        let at = self.find_hold(holder).unwrap_or_else(|at| {
            self.held.insert(at, (holder, Hold::default()));
            at
        });
        let hold = &mut self.held[at].1;
        hold.resources.add(resources);
        hold
    }

    /// Those of the holder's refusals that the offer falls under.
    pub(crate) fn refusals(
        &self,
        holder: Holder,
        offer: &Resources,
    ) -> impl Iterator<Item = &Filter> {
        let filters = self.filters.get(&holder).into_iter().flatten();
        filters.filter(|filter| filter.refused.contains(offer))
    }
}

/// The part of what is available that a framework may be offered in a role.
pub(crate) fn offerable(
    available: &Resources,
    role: &Role,
    capabilities: FrameworkCapabilities,
) -> Resources {
    available
        .filter(|resource| capabilities.understand(resource) && resource.is_allocatable_to(role))
}

/// The roles for which all that is available is reserved; `None` if some of it is for everybody.
pub(crate) fn reserved_roles(available: &Resources) -> Option<BTreeSet<&Role>> {
    let unshared = available
        .iter_counted()
        .filter(|(resource, _)| !resource.shared);
    unshared
        .map(|(resource, _)| resource.reserved_role())
        .collect()
}

/// Whether all may be offered to anybody, so that what is offerable is the same for all.
pub(crate) fn is_plain(available: &Resources) -> bool {
    let mut available = available.iter_counted();
    available
        .all(|(resource, _)| !resource.is_reserved() && !resource.revocable && !resource.shared)
}

/// How much of something an offer has. Shared resources count for nothing here, or a volume in use would be offered
/// alone, over and over.
fn amount_in(offer: &Resources, name: &str) -> Milli {
    let named = offer
        .iter_counted()
        .filter(|(resource, _)| !resource.shared && *resource.name == *name);
    named
        .map(|(resource, copies)| {
            let amount = resource.quantity.amount().0;
            Milli(amount.saturating_mul(i64::from(copies)))
        })
        .sum()
}

/// Whether an offer is worth making.
pub(crate) fn is_worth_offering(offer: &Resources, minimums: &[Quantities]) -> bool {
    if minimums.is_empty() {
        return offer.iter_counted().any(|(resource, _)| !resource.shared);
    }
    let holds = |minimum: &Quantities| {
        let mut least = minimum.iter();
        least.all(|(name, least)| amount_in(offer, name) >= least)
    };
    minimums.iter().any(holds)
}

/// What an offer lacks at the minimum that it comes nearest to; `None` if it is worth making.
pub(crate) fn shortfall(offer: &Resources, minimums: &[Quantities]) -> Option<Quantities> {
    if is_worth_offering(offer, minimums) {
        return None;
    }
    let lacking = minimums.iter().map(|minimum| {
        let mut part = 0.0;
        let lacking = minimum.iter().map(|(name, least)| {
            let lacking = least.saturating_sub(amount_in(offer, name));
            part += lacking.to_f64() / least.to_f64();
            (name.clone(), lacking)
        });
        let lacking: Quantities = lacking.collect();
        (part, lacking)
    });
    let nearest = lacking.min_by(|left, right| left.0.total_cmp(&right.0));
    Some(nearest.map_or_else(Quantities::new, |(_, lacking)| lacking))
}
