//! The order in which roles, and frameworks within a role, are served.
//!
//! Roles form a tree by their paths. Each node keeps its children, and each role its frameworks, in a set ordered by
//! share, then by how often something was allocated, then by name. When what somebody holds changes, only the sets on
//! the way from there to the root are touched. A role that has both frameworks and roles beneath it competes with its
//! children as a child of its own, named `.` and of weight one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use tepui_model::Role;

use crate::framework::RoleTerms;
use crate::quota::{QuotaId, Quotas};
use crate::share::{Amounts, Booking, Share};
use crate::{AgentKey, FrameworkKey};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeId(u32);

const ROOT: NodeId = NodeId(0);

/// A role's place among its siblings.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    share: Share,
    allocations: u64,
    name: Arc<str>,
    node: NodeId,
}

/// A framework's place within its role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClientRank {
    share: Share,
    allocations: u64,
    framework: FrameworkKey,
}

/// What was ever allocated and is now held, by a framework or by a role.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) held: Amounts,
    pub(crate) allocations: u64,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) role: Role,
    /// The last component of the role.
    name: Arc<str>,
    parent: NodeId,
    pub(crate) children: BTreeSet<NodeId>,
    weight: f64,
    /// With everything beneath.
    pub(crate) account: Account,
    /// Without what is beneath.
    pub(crate) own: Account,
    pub(crate) clients: BTreeMap<FrameworkKey, Client>,
    /// Where this role's consumption is booked, if there is a quota on it or above.
    pub(crate) quota: Option<QuotaId>,
    /// The children with somebody to serve, and this node itself if its own frameworks are to be served.
    order: BTreeSet<Rank>,
    client_order: BTreeSet<ClientRank>,
    /// Where this node stands in its parent's order, and where in its own.
    rank: Option<Rank>,
    own_rank: Option<Rank>,
}

/// A framework within one role.
#[derive(Debug, Default)]
pub(crate) struct Client {
    /// The framework names this role among its own. If not, it is only remembered for what it still holds.
    pub(crate) subscribed: bool,
    pub(crate) terms: RoleTerms,
    pub(crate) account: Account,
    /// Where it holds something.
    pub(crate) agents: BTreeSet<AgentKey>,
    /// Where it refuses something.
    pub(crate) filtered: BTreeSet<AgentKey>,
    /// Its place in the order; `None` while it is not to be served.
    rank: Option<ClientRank>,
}

impl Client {
    pub(crate) fn is_served(&self) -> bool {
        self.rank.is_some()
    }
}

#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Option<Node>>,
    vacant: Vec<NodeId>,
    index: BTreeMap<Role, NodeId>,
    weights: BTreeMap<Role, f64>,
    pub(crate) total: Amounts,
    pub(crate) quotas: Quotas,
    /// The name that a role's own frameworks bear among the roles beneath it.
    own_name: Arc<str>,
    /// The total has changed since the ranks were computed.
    stale: bool,
}

impl Tree {
    pub(crate) fn new() -> Self {
        // The root's role is never looked at; it only has to be some role.
        let root = Node::new(Role::star(), "".into(), ROOT, 1.0);
        Self {
            nodes: vec![Some(root)],
            vacant: Vec::new(),
            index: BTreeMap::new(),
            weights: BTreeMap::new(),
            total: Amounts::default(),
            quotas: Quotas::default(),
            own_name: ".".into(),
            stale: false,
        }
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        self.nodes[id.0 as usize]
            .as_ref()
            .expect("a node lives while it has clients or children")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes[id.0 as usize]
            .as_mut()
            .expect("a node lives while it has clients or children")
    }

    pub(crate) fn find(&self, role: &Role) -> Option<NodeId> {
        self.index.get(role).copied()
    }

    pub(crate) fn client(&self, id: NodeId, framework: FrameworkKey) -> Option<&Client> {
        self.node(id).clients.get(&framework)
    }

    pub(crate) fn client_mut(
        &mut self,
        id: NodeId,
        framework: FrameworkKey,
    ) -> Option<&mut Client> {
        self.node_mut(id).clients.get_mut(&framework)
    }

    /// The framework's account in the role, made if it is not there.
    pub(crate) fn open_client(&mut self, role: &Role, framework: FrameworkKey) -> NodeId {
        let id = self.open(role);
        self.node_mut(id).clients.entry(framework).or_default();
        id
    }

    fn open(&mut self, role: &Role) -> NodeId {
        if let Some(id) = self.find(role) {
            return id;
        }
        let mut path: Vec<Role> = role.ancestors().collect();
        path.reverse();
        path.push(role.clone());
        let mut parent = ROOT;
        for role in path {
            parent = match self.find(&role) {
                Some(id) => id,
                None => self.insert(role, parent),
            };
        }
        parent
    }

    fn insert(&mut self, role: Role, parent: NodeId) -> NodeId {
        let name: Arc<str> = role.components().last().unwrap_or_default().into();
        let weight = self.weights.get(&role).copied().unwrap_or(1.0);
        let mut node = Node::new(role.clone(), name, parent, weight);
        node.quota = self.quotas.of(&role);
        let node = Some(node);
        let id = match self.vacant.pop() {
            Some(id) => {
                self.nodes[id.0 as usize] = node;
                id
            }
            None => {
                self.nodes.push(node);
                NodeId(
                    u32::try_from(self.nodes.len() - 1).expect("roles fit memory, hence 32 bits"),
                )
            }
        };
        self.index.insert(role, id);
        self.node_mut(parent).children.insert(id);
        id
    }

    /// Forgets a framework that neither names the role nor holds anything in it, and roles that nobody is left in.
    /// Says whether it did.
    pub(crate) fn close_client(&mut self, id: NodeId, framework: FrameworkKey) -> bool {
        let idle = self
            .client(id, framework)
            .is_some_and(|client| !client.subscribed && client.agents.is_empty());
        if !idle {
            return false;
        }
        self.serve_client(id, framework, false);
        let node = self.node_mut(id);
        node.clients.remove(&framework);
        let mut id = id;
        while id != ROOT && self.node(id).clients.is_empty() && self.node(id).children.is_empty() {
            let node = self.nodes[id.0 as usize].take().expect("looked at above");
            self.index.remove(&node.role);
            self.vacant.push(id);
            self.node_mut(node.parent).children.remove(&id);
            id = node.parent;
        }
        true
    }

    pub(crate) fn set_weight(&mut self, role: Role, weight: f64) {
        assert!(
            weight > 0.0 && weight.is_finite(),
            "the weight {weight} of {role} is checked by whoever sets it"
        );
        if let Some(id) = self.find(&role) {
            self.node_mut(id).weight = weight;
            self.place(id);
        }
        self.weights.insert(role, weight);
    }

    pub(crate) fn change_total(&mut self, change: &Amounts) {
        if !change.is_zero() {
            self.total.add(change);
            self.stale = true;
        }
    }

    /// Takes a framework into the order, or out of it.
    pub(crate) fn serve_client(&mut self, id: NodeId, framework: FrameworkKey, serve: bool) {
        if self
            .client(id, framework)
            .is_none_or(|client| client.is_served() == serve)
        {
            return;
        }
        self.place_client(id, framework, serve);
        self.place_own(id);
        self.place_up(id);
    }

    /// Books what a framework has been given or has given back.
    pub(crate) fn book(
        &mut self,
        id: NodeId,
        framework: FrameworkKey,
        booking: &Booking,
        allocations: u64,
    ) {
        let change = &booking.held;
        let client = self
            .client_mut(id, framework)
            .expect("accounts are opened before they are used");
        client.account.book(change, allocations);
        let serve = client.is_served();
        self.place_client(id, framework, serve);
        self.node_mut(id).own.book(change, allocations);
        self.place_own(id);
        let mut up = id;
        while up != ROOT {
            self.node_mut(up).account.book(change, allocations);
            self.place(up);
            up = self.node(up).parent;
        }
        if !booking.unreserved.is_zero() {
            let quota = self.node(id).quota;
            self.quotas.consume(quota, &booking.unreserved);
        }
    }

    /// Other quotas are in force, with nothing counted yet.
    pub(crate) fn set_quotas(&mut self, quotas: Quotas) {
        self.quotas = quotas;
        for node in self.nodes.iter_mut().flatten() {
            node.quota = self.quotas.of(&node.role);
        }
    }

    fn place_client(&mut self, id: NodeId, framework: FrameworkKey, serve: bool) {
        let Self { nodes, total, .. } = self;
        let node = nodes[id.0 as usize]
            .as_mut()
            .expect("callers hold a live node");
        let Some(client) = node.clients.get_mut(&framework) else {
            return;
        };
        let rank = serve.then(|| ClientRank {
            share: Share::new(client.account.held.dominant_share(total)),
            allocations: client.account.allocations,
            framework,
        });
        if client.rank != rank {
            if let Some(old) = std::mem::replace(&mut client.rank, rank) {
                node.client_order.remove(&old);
            }
            node.client_order.extend(rank);
        }
    }

    fn place_own(&mut self, id: NodeId) {
        let Self {
            nodes,
            total,
            own_name,
            ..
        } = self;
        let node = nodes[id.0 as usize]
            .as_mut()
            .expect("callers hold a live node");
        let rank = (!node.client_order.is_empty()).then(|| Rank {
            share: Share::new(node.own.held.dominant_share(total)),
            allocations: node.own.allocations,
            name: own_name.clone(),
            node: id,
        });
        if node.own_rank != rank {
            if let Some(old) = std::mem::replace(&mut node.own_rank, rank.clone()) {
                node.order.remove(&old);
            }
            node.order.extend(rank);
        }
    }

    /// Puts a node where it now belongs in its parent's order.
    fn place(&mut self, id: NodeId) {
        let Self { nodes, total, .. } = self;
        let node = nodes[id.0 as usize]
            .as_mut()
            .expect("callers hold a live node");
        let rank = (!node.order.is_empty()).then(|| Rank {
            share: Share::new(node.account.held.dominant_share(total) / node.weight),
            allocations: node.account.allocations,
            name: node.name.clone(),
            node: id,
        });
        if node.rank == rank {
            return;
        }
        let old = std::mem::replace(&mut node.rank, rank.clone());
        let parent = node.parent;
        let parent = self.node_mut(parent);
        if let Some(old) = old {
            parent.order.remove(&old);
        }
        parent.order.extend(rank);
    }

    fn place_up(&mut self, mut id: NodeId) {
        while id != ROOT {
            self.place(id);
            id = self.node(id).parent;
        }
    }

    /// Computes all ranks again if the cluster has grown or shrunk.
    pub(crate) fn refresh(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let all: Vec<NodeId> = self.index.values().copied().collect();
        for id in all {
            let clients: Vec<(FrameworkKey, bool)> = self
                .node(id)
                .clients
                .iter()
                .map(|(framework, client)| (*framework, client.is_served()))
                .collect();
            for (framework, serve) in clients {
                self.place_client(id, framework, serve);
            }
            self.place_own(id);
            self.place(id);
        }
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.stale
    }

    /// Visits all frameworks to be served, first in order first, until the visitor breaks off.
    pub(crate) fn walk<Found>(
        &self,
        mut visit: impl FnMut(NodeId, FrameworkKey) -> ControlFlow<Found>,
    ) -> Option<Found> {
        self.walk_all(ROOT, &mut visit).break_value()
    }

    fn walk_all<Found>(
        &self,
        id: NodeId,
        visit: &mut impl FnMut(NodeId, FrameworkKey) -> ControlFlow<Found>,
    ) -> ControlFlow<Found> {
        for rank in &self.node(id).order {
            if rank.node != id {
                self.walk_all(rank.node, visit)?;
                continue;
            }
            for client in &self.node(id).client_order {
                visit(id, client.framework)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Tells of everybody to be served which part of the cluster is theirs by the weights alone: each level is split
    /// among those on it with somebody to serve.
    pub(crate) fn entitle(&self, mut visit: impl FnMut(NodeId, FrameworkKey, f64)) {
        self.entitle_beneath(ROOT, 1.0, &mut visit);
    }

    fn entitle_beneath(
        &self,
        id: NodeId,
        part: f64,
        visit: &mut impl FnMut(NodeId, FrameworkKey, f64),
    ) {
        let node = self.node(id);
        let weight = |rank: &Rank| match rank.node {
            own if own == id => 1.0,
            child => self.node(child).weight,
        };
        let weights: f64 = node.order.iter().map(weight).sum();
        for rank in &node.order {
            let part = part * weight(rank) / weights;
            if rank.node != id {
                self.entitle_beneath(rank.node, part, visit);
                continue;
            }
            let each = part / node.client_order.len() as f64;
            for client in &node.client_order {
                visit(id, client.framework, each);
            }
        }
    }

    /// As [`Tree::walk`], but only through these roles and those beneath them, without looking at any others.
    pub(crate) fn walk_within<Found>(
        &self,
        roles: &BTreeSet<&Role>,
        mut visit: impl FnMut(NodeId, FrameworkKey) -> ControlFlow<Found>,
    ) -> Option<Found> {
        let tops: BTreeSet<NodeId> = roles.iter().filter_map(|role| self.find(role)).collect();
        let mut ways: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
        for top in &tops {
            let mut id = *top;
            while id != ROOT {
                let parent = self.node(id).parent;
                ways.entry(parent).or_default().insert(id);
                id = parent;
            }
        }
        self.walk_ways(ROOT, &tops, &ways, &mut visit).break_value()
    }

    fn walk_ways<Found>(
        &self,
        id: NodeId,
        tops: &BTreeSet<NodeId>,
        ways: &BTreeMap<NodeId, BTreeSet<NodeId>>,
        visit: &mut impl FnMut(NodeId, FrameworkKey) -> ControlFlow<Found>,
    ) -> ControlFlow<Found> {
        if tops.contains(&id) {
            return self.walk_all(id, visit);
        }
        let mut ranks: Vec<&Rank> = ways
            .get(&id)
            .into_iter()
            .flatten()
            .filter_map(|child| self.node(*child).rank.as_ref())
            .collect();
        ranks.sort_unstable();
        for rank in ranks {
            self.walk_ways(rank.node, tops, ways, visit)?;
        }
        ControlFlow::Continue(())
    }

    /// Sorts a few frameworks as a walk would meet them, without walking past the others.
    pub(crate) fn sorted(
        &self,
        pairs: impl Iterator<Item = (NodeId, FrameworkKey)>,
    ) -> Vec<(NodeId, FrameworkKey)> {
        let mut ranked: Vec<(Vec<&Rank>, &ClientRank, NodeId)> = pairs
            .filter_map(|(id, framework)| {
                let client = self.client(id, framework)?.rank.as_ref()?;
                Some((self.way_down(id), client, id))
            })
            .collect();
        ranked.sort_unstable();
        ranked
            .into_iter()
            .map(|(_, client, id)| (id, client.framework))
            .collect()
    }

    fn way_down(&self, id: NodeId) -> Vec<&Rank> {
        let mut way: Vec<&Rank> = self.node(id).own_rank.iter().collect();
        let mut up = id;
        while up != ROOT {
            way.extend(&self.node(up).rank);
            up = self.node(up).parent;
        }
        way.reverse();
        way
    }

    /// The role and all roles beneath it.
    pub(crate) fn subtree(&self, role: &Role) -> Vec<NodeId> {
        let mut found: Vec<NodeId> = self.find(role).into_iter().collect();
        let mut next = 0;
        while next < found.len() {
            found.extend(&self.node(found[next]).children);
            next += 1;
        }
        found
    }

    pub(crate) fn weight(&self, id: NodeId) -> f64 {
        self.node(id).weight
    }

    pub(crate) fn weight_of(&self, role: &Role) -> f64 {
        self.weights.get(role).copied().unwrap_or(1.0)
    }

    pub(crate) fn live_nodes(&self) -> impl Iterator<Item = NodeId> {
        self.index.values().copied()
    }

    /// Whether every rank is the one that would be computed now. Panics if not.
    pub(crate) fn check_ranks(&self) {
        for id in self.live_nodes() {
            let node = self.node(id);
            let served = node
                .clients
                .values()
                .filter_map(|client| client.rank)
                .collect::<BTreeSet<_>>();
            assert_eq!(
                served, node.client_order,
                "frameworks in order in {}",
                node.role
            );
            assert_eq!(
                node.own_rank.is_some(),
                !served.is_empty(),
                "own place of {}",
                node.role
            );
            let ranks = node
                .children
                .iter()
                .filter_map(|child| self.node(*child).rank.clone());
            let order: BTreeSet<Rank> = ranks.chain(node.own_rank.clone()).collect();
            assert_eq!(order, node.order, "roles in order in {}", node.role);
            assert_eq!(
                node.rank.is_some(),
                !order.is_empty(),
                "place of {}",
                node.role
            );
            if self.stale {
                continue;
            }
            for client in node.clients.values() {
                let share = Share::new(client.account.held.dominant_share(&self.total));
                assert!(client.rank.is_none_or(|rank| rank.share == share));
            }
            let share = Share::new(node.account.held.dominant_share(&self.total) / self.weight(id));
            assert!(
                node.rank.as_ref().is_none_or(|rank| rank.share == share),
                "share of {}",
                node.role
            );
        }
    }
}

impl Node {
    fn new(role: Role, name: Arc<str>, parent: NodeId, weight: f64) -> Self {
        Self {
            role,
            name,
            parent,
            children: BTreeSet::new(),
            weight,
            account: Account::default(),
            own: Account::default(),
            clients: BTreeMap::new(),
            quota: None,
            order: BTreeSet::new(),
            client_order: BTreeSet::new(),
            rank: None,
            own_rank: None,
        }
    }
}

impl Account {
    fn book(&mut self, change: &Amounts, allocations: u64) {
        self.held.add(change);
        self.allocations += allocations;
    }
}
