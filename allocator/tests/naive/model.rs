//! A second allocator, written to be read: it keeps a list of who holds what, and adds up and sorts everything afresh
//! for each single decision. It shares nothing with the first one but the words for resources.

use std::collections::{BTreeMap, BTreeSet};

use tepui_allocator::{AgentKey, Allocation, FrameworkCapabilities, FrameworkKey, Quota};
use tepui_model::{Milli, Quantities, Quantity, Resource, Resources, Role, Tick};

use crate::support::role;

pub(crate) type Client = (FrameworkKey, Role);

/// The scalars of these clusters.
pub(crate) const NAMES: [&str; 4] = ["cpus", "disk", "gpus", "mem"];

pub(crate) struct Agent {
    pub(crate) total: Resources,
    pub(crate) rack: &'static str,
    pub(crate) active: bool,
}

pub(crate) struct Framework {
    pub(crate) capabilities: FrameworkCapabilities,
    pub(crate) active: bool,
}

/// What a framework says of one of its roles.
#[derive(Clone, Default)]
pub(crate) struct Wants {
    pub(crate) suppressed: bool,
    /// Only agents of this rack.
    pub(crate) rack: Option<&'static str>,
    /// In place of the operator's minimum.
    pub(crate) minimum: Option<Vec<Quantities>>,
}

/// Something that somebody holds.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) what: Allocation,
    /// In an offer that was not answered yet; else a task uses it.
    pub(crate) offered: bool,
}

pub(crate) struct Refusal {
    pub(crate) what: Allocation,
    pub(crate) until: Tick,
    /// Its time was over when somebody last looked. Until all others have been asked, or one of them has made use of
    /// the agent, it still holds.
    pub(crate) lapsed: bool,
}

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) agents: BTreeMap<AgentKey, Agent>,
    pub(crate) frameworks: BTreeMap<FrameworkKey, Framework>,
    pub(crate) clients: BTreeMap<Client, Wants>,
    pub(crate) held: Vec<Held>,
    /// How often each was given something.
    pub(crate) counts: BTreeMap<Client, u64>,
    pub(crate) refusals: Vec<Refusal>,
    pub(crate) weights: BTreeMap<Role, f64>,
    pub(crate) quotas: BTreeMap<Role, Quota>,
    pub(crate) offer_cap: Option<f64>,
}

fn is_within(role: &Role, top: &Role) -> bool {
    role == top || role.is_strict_sub_role_of(top)
}

/// What counts against a quota when it is given to somebody.
fn counted(resources: &Resources, name: &str) -> i64 {
    let plain = resources.filter(|resource| !resource.is_reserved() && !resource.revocable);
    plain.scalar(name).0
}

fn holds_all(offer: &Resources, minimum: &Quantities) -> bool {
    minimum
        .iter()
        .all(|(name, amount)| offer.scalar(name) >= amount)
}

// Sums.
impl Model {
    pub(crate) fn free_on(&self, agent: AgentKey) -> Resources {
        let held: Resources = self
            .held
            .iter()
            .filter(|held| held.what.agent == agent)
            .map(|held| &held.what.resources)
            .collect();
        self.agents[&agent]
            .total
            .checked_subtract(&held)
            .expect("nothing is given away twice")
    }

    fn sum(&self, of: impl Fn(&Held) -> bool) -> Resources {
        let held = self.held.iter().filter(|held| of(held));
        held.map(|held| &held.what.resources).collect()
    }

    /// The largest part of the cluster's total of anything.
    fn dominant_share(&self, resources: &Resources) -> f64 {
        let total: Resources = self.agents.values().map(|agent| &agent.total).collect();
        let share = |name| resources.scalar(name).0 as f64 / total.scalar(name).0 as f64;
        NAMES
            .into_iter()
            .map(share)
            .filter(|share| share.is_finite())
            .fold(0.0, f64::max)
    }

    pub(crate) fn share(&self, of: impl Fn(&Held) -> bool) -> f64 {
        self.dominant_share(&self.sum(of))
    }

    fn count(&self, of: impl Fn(&Client) -> bool) -> u64 {
        let counts = self.counts.iter().filter(|(client, _)| of(client));
        counts.map(|(_, count)| count).sum()
    }

    /// What is free that counts against quotas.
    fn free(&self, name: &str) -> i64 {
        let active = self.agents.iter().filter(|(_, agent)| agent.active);
        active
            .map(|(key, _)| counted(&self.free_on(*key), name))
            .sum()
    }

    /// What is reserved for the role and those beneath it, held or not, and what they hold of the rest.
    pub(crate) fn consumed(&self, top: &Role, name: &str) -> i64 {
        let reserved = self.agents.values().map(|agent| {
            let reserved = agent.total.filter(|resource| {
                let whose = resource.reserved_role();
                !resource.revocable && whose.is_some_and(|role| is_within(role, top))
            });
            reserved.scalar(name).0
        });
        let held = self.sum(|held| is_within(&held.what.role, top));
        reserved.sum::<i64>() + counted(&held, name)
    }
}

/// What quotas allow at one moment of one resource.
pub(crate) struct Books<'a> {
    quotas: &'a BTreeMap<Role, Quota>,
    name: &'static str,
    free: i64,
    consumed: BTreeMap<&'a Role, i64>,
}

impl<'a> Books<'a> {
    pub(crate) fn of(model: &'a Model, name: &'static str) -> Self {
        let roles = model.quotas.keys();
        Self {
            quotas: &model.quotas,
            name,
            free: model.free(name),
            consumed: roles
                .map(|role| (role, model.consumed(role, name)))
                .collect(),
        }
    }

    /// What is lacking at the guarantees of the roles for which `parent` is the nearest role above with a quota, if
    /// `amount` were given to `receiver`.
    fn lacking(&self, parent: Option<&Role>, receiver: &Role, amount: i64) -> i64 {
        let nearest = |role: &Role| {
            let mut above = role.ancestors();
            above.find(|above| self.quotas.contains_key(above))
        };
        let children = self
            .quotas
            .iter()
            .filter(|(role, _)| nearest(role).as_ref() == parent);
        let lacking = children.map(|(role, quota)| {
            let more = if is_within(receiver, role) { amount } else { 0 };
            let own = quota.guarantees.get(self.name).0 - self.consumed[role] - more;
            own.max(self.lacking(Some(role), receiver, amount)).max(0)
        });
        lacking.sum()
    }

    /// How much more is lacking than there is, if so much were given away.
    pub(crate) fn deficit(&self, receiver: &Role, amount: i64) -> i64 {
        (self.lacking(None, receiver, amount) - (self.free - amount)).max(0)
    }

    /// Whether giving so much passes no limit, and leaves those who were guaranteed something no worse off.
    fn allow(&self, receiver: &Role, amount: i64) -> bool {
        let mut above = self
            .quotas
            .iter()
            .filter(|(top, _)| is_within(receiver, top));
        let within_limits = above.all(|(top, quota)| {
            let limit = quota.limits.get(self.name);
            limit.is_none_or(|limit| self.consumed[top] + amount <= limit.0)
        });
        within_limits && self.deficit(receiver, amount) <= self.deficit(receiver, 0)
    }

    /// The most of an amount that is allowed, found by halving.
    fn most(&self, receiver: &Role, amount: i64) -> i64 {
        if self.allow(receiver, amount) {
            return amount;
        }
        let (mut good, mut bad) = (0, amount);
        while bad - good > 1 {
            let middle = good.midpoint(bad);
            if self.allow(receiver, middle) {
                good = middle;
            } else {
                bad = middle;
            }
        }
        if self.name == "gpus" {
            good - good % 1000
        } else {
            good
        }
    }
}

// The order of shares.
impl Model {
    pub(crate) fn is_served(&self, client: &Client) -> bool {
        self.frameworks[&client.0].active && !self.clients[client].suppressed
    }

    /// All who are to be served, first in order first.
    pub(crate) fn order(&self) -> Vec<Client> {
        self.order_beneath("")
    }

    fn order_beneath(&self, path: &str) -> Vec<Client> {
        let beneath = |role: &Role, top: &str| {
            let rest = role.as_str().strip_prefix(top);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        // A framework of the role itself, by share, by how often it was served, by key.
        let mut own: Vec<(f64, u64, FrameworkKey)> = Vec::new();
        let mut children = BTreeSet::new();
        for client in self.clients.keys().filter(|client| self.is_served(client)) {
            let (framework, role) = client;
            if role.as_str() == path {
                let share =
                    self.share(|held| held.what.framework == *framework && held.what.role == *role);
                own.push((share, self.count(|other| other == client), *framework));
            } else if path.is_empty() {
                children.insert(role.as_str().split('/').next().unwrap());
            } else if beneath(role, path) {
                let rest = &role.as_str()[path.len() + 1..];
                children.insert(rest.split('/').next().unwrap());
            }
        }
        // The role's own frameworks together, named `.`, and the roles beneath: by share, by how often, by name.
        let mut entries: Vec<(f64, u64, &str, Vec<Client>)> = Vec::new();
        if !own.is_empty() {
            own.sort_by(|left, right| left.partial_cmp(right).expect("shares are numbers"));
            let own = own.into_iter().map(|(.., key)| (key, role(path)));
            entries.push((
                self.share(|held| held.what.role.as_str() == path),
                self.count(|(_, role)| role.as_str() == path),
                ".",
                own.collect(),
            ));
        }
        for name in children {
            let top = match path {
                "" => name.to_owned(),
                path => format!("{path}/{name}"),
            };
            let weight = self.weights.get(&role(&top)).copied().unwrap_or(1.0);
            entries.push((
                self.share(|held| beneath(&held.what.role, &top)) / weight,
                self.count(|(_, role)| beneath(role, &top)),
                name,
                self.order_beneath(&top),
            ));
        }
        entries.sort_by(|left, right| {
            let key = |entry: &(f64, u64, &str, _)| (entry.0, entry.1, entry.2.to_owned());
            key(left)
                .partial_cmp(&key(right))
                .expect("shares are numbers")
        });
        entries
            .into_iter()
            .flat_map(|(.., clients)| clients)
            .collect()
    }
}

// Who is next.
impl Model {
    /// Who is next on the agent. If all who would take it have refused it lately, those whose time is over are asked
    /// again; and what nobody else would take, one may have beyond the cap on open offers.
    pub(crate) fn choose(&mut self, agent: AgentKey) -> Option<Allocation> {
        let offerable = self.free_on(agent);
        let has_something = offerable.iter().next().is_some() && self.agents[&agent].active;
        let anybody_own = self.clients.values().any(|wants| wants.minimum.is_some());
        if !has_something || (!anybody_own && !is_worth_it(&offerable, None)) {
            return None;
        }
        if let (Some(first), _) = self.first_willing(agent) {
            return Some(first);
        }
        self.forget_lapsed(agent);
        let (first, beyond_cap) = self.first_willing(agent);
        first.or(beyond_cap)
    }

    pub(crate) fn forget_lapsed(&mut self, agent: AgentKey) {
        self.refusals
            .retain(|refusal| refusal.what.agent != agent || !refusal.lapsed);
    }

    /// The first in order, and the first of those who would come over the cap.
    fn first_willing(&self, agent: AgentKey) -> (Option<Allocation>, Option<Allocation>) {
        let books = NAMES.map(|name| Books::of(self, name));
        let mut beyond_cap = None;
        for client in self.order() {
            let Some(resources) = self.takes(&client, agent, &books) else {
                continue;
            };
            let (framework, role) = client;
            let allocation = Allocation {
                framework,
                role,
                agent,
                resources,
            };
            if !self.is_over_cap(&allocation) {
                return (Some(allocation), beyond_cap);
            }
            beyond_cap.get_or_insert(allocation);
        }
        (None, beyond_cap)
    }

    fn is_over_cap(&self, next: &Allocation) -> bool {
        let mut offered = self.sum(|held| held.offered && held.what.framework == next.framework);
        let Some(cap) = self.offer_cap else {
            return false;
        };
        if NAMES.iter().all(|name| offered.scalar(name).0 == 0) {
            return false;
        }
        offered.add(&next.resources);
        self.dominant_share(&offered) > cap
    }

    /// What the client would take of the agent.
    fn takes(&self, client: &Client, agent: AgentKey, books: &[Books<'_>]) -> Option<Resources> {
        let (framework, role) = client;
        let wants = &self.clients[client];
        let capabilities = self.frameworks[framework].capabilities;
        let there = &self.agents[&agent];
        if (there.total.gpus().0 > 0 && !capabilities.gpu)
            || wants.rack.is_some_and(|rack| rack != there.rack)
        {
            return None;
        }
        let understood = self.free_on(agent).filter(|resource| {
            (capabilities.revocable || !resource.revocable)
                && (capabilities.reservation_refinement || resource.reservations.len() < 2)
        });
        let offer = cut(&understood.allocatable_to(role), role, books);
        let refused = self.refusals.iter().any(|refusal| {
            let Allocation {
                framework,
                role,
                agent: whence,
                resources,
            } = &refusal.what;
            (framework, role, *whence) == (&client.0, &client.1, agent)
                && resources.contains(&offer)
        });
        (is_worth_it(&offer, wants.minimum.as_deref()) && !refused).then_some(offer)
    }
}

/// As much of an offer as quotas allow a role. What is reserved or may be taken back is not cut.
fn cut(offer: &Resources, role: &Role, books: &[Books<'_>]) -> Resources {
    offer.map(|mut resource: Resource| {
        let counts = !resource.is_reserved() && !resource.revocable;
        let book = books.iter().find(|book| *book.name == *resource.name);
        if let (Quantity::Scalar(amount), Some(book), true) = (&mut resource.quantity, book, counts)
        {
            *amount = Milli(book.most(role, amount.0));
        }
        resource
    })
}

fn is_worth_it(offer: &Resources, own: Option<&[Quantities]>) -> bool {
    match own {
        None => offer.cpus() >= Milli(10) || offer.mem() >= Milli::from_units(32),
        Some([]) => offer.iter().next().is_some(),
        Some(minimums) => minimums.iter().any(|minimum| holds_all(offer, minimum)),
    }
}

// Promises.
impl Model {
    /// Books something that was given, and panics if that broke what a quota promises to anybody.
    pub(crate) fn give(&mut self, given: Allocation) {
        let before = NAMES.map(|name| Books::of(self, name).deficit(&given.role, 0));
        let client = (given.framework, given.role.clone());
        *self.counts.entry(client).or_default() += 1;
        self.held.push(Held {
            what: given.clone(),
            offered: true,
        });
        for (name, before) in NAMES.into_iter().zip(before) {
            let books = Books::of(self, name);
            let above = self.quotas.iter();
            let above = above.filter(|(top, _)| is_within(&given.role, top));
            for (top, quota) in above.filter(|_| counted(&given.resources, name) > 0) {
                let limit = quota.limits.get(name).map_or(i64::MAX, |limit| limit.0);
                let consumed = books.consumed[top];
                assert!(consumed <= limit, "{top} has {consumed} {name} of {limit}");
            }
            assert!(
                books.deficit(&given.role, 0) <= before,
                "{} ate {name} guaranteed to others",
                given.role
            );
        }
    }
}
