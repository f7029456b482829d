//! Offers: made from what the allocator hands out, declined, rescinded, expired.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tepui_allocator as allocator;
use tepui_api::convert::{self, ResourceFormat};
use tepui_api::v1;
use tepui_api::v1::scheduler::call;
use tepui_model::{OfferId, Resources, Role, Tick};

use crate::core::{Core, OfferState, Timer};
use crate::framework_info::Capabilities;
use crate::keys::{AgentKey, FrameworkKey, OfferKey};
use crate::view::OfferRecord;
use crate::wire::additive;
use crate::{messages, wire};

const DEFAULT_REFUSE: Duration = Duration::from_secs(5);
/// How many offers of one agent a scheduler may have open in one role.
const MOST_FRAGMENTS: usize = 64;
const LONGEST_REFUSE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl From<AgentKey> for allocator::AgentKey {
    fn from(key: AgentKey) -> Self {
        Self(key.0)
    }
}

impl From<allocator::AgentKey> for AgentKey {
    fn from(key: allocator::AgentKey) -> Self {
        Self(key.0)
    }
}

impl From<FrameworkKey> for allocator::FrameworkKey {
    fn from(key: FrameworkKey) -> Self {
        Self(key.0)
    }
}

impl From<allocator::FrameworkKey> for FrameworkKey {
    fn from(key: allocator::FrameworkKey) -> Self {
        Self(key.0)
    }
}

impl Core {
    /// Turns everything the allocator hands out now into offers, all of one framework's in one event.
    pub(crate) fn make_offers(&mut self) {
        let mut made: BTreeMap<FrameworkKey, Vec<v1::Offer>> = BTreeMap::new();
        self.metrics.allocation_runs += 1;
        self.rank_agents();
        for allocation in self.allocator.allocate(self.now.tick) {
            let allocator::Allocation {
                framework,
                role,
                agent,
                resources,
            } = allocation;
            let (framework, agent) = (FrameworkKey::from(framework), AgentKey::from(agent));
            let resources = self.join_fragments(framework, agent, &role, resources);
            let offer = self.make_offer(framework, agent, role, resources);
            made.entry(framework).or_default().push(offer);
        }
        for (framework, offers) in made {
            self.send(framework, messages::offers(offers));
        }
    }

    /// Tasks that end one by one leave an agent in small offers. When a scheduler has let as many of them lie as it may,
    /// they are taken back and are offered as one with what has come free now.
    fn join_fragments(
        &mut self,
        framework: FrameworkKey,
        agent: AgentKey,
        role: &Role,
        mut resources: Resources,
    ) -> Resources {
        let of_agent = &self.agent_states[&agent].offers;
        let fragments: Vec<OfferKey> = of_agent
            .iter()
            .copied()
            .filter(|key| {
                let offer = &self.offers[*key];
                offer.framework == framework && offer.role == *role
            })
            .collect();
        if fragments.len() < MOST_FRAGMENTS {
            return resources;
        }
        for key in fragments {
            if let Some(offer) = self.take_offer(key) {
                resources.add(&offer.resources);
                self.frameworks[framework].metrics.offers_rescinded += 1;
                self.send(framework, messages::rescind(&offer.id));
            }
        }
        resources
    }

    fn make_offer(
        &mut self,
        framework: FrameworkKey,
        agent: AgentKey,
        role: Role,
        resources: Resources,
    ) -> v1::Offer {
        let number = self.minted.offers;
        self.minted.offers += 1;
        let id = OfferId::from(format!("{}-O{number}", self.config.master_id));
        let wire = self.offer_to_wire(&id, framework, agent, &role, &resources);
        self.agents[agent].offered.add(&resources);
        let record = &mut self.frameworks[framework];
        record.offered.add(&additive(&resources));
        record.metrics.offers_sent += 1;
        let key = self.offers.insert(OfferRecord {
            wire: Arc::new(wire.clone()),
            id,
            framework,
            agent,
            framework_id: self.frameworks[framework].id.clone(),
            agent_id: self.agents[agent].id.clone(),
            role,
            resources,
            offered_ns: self.now.wall_ns,
        });
        let after = |timeout: Option<Duration>| Some(self.now.tick.after(timeout?));
        let expires = after(self.config.offer_timeout);
        let contended = after(self.config.contended_offer_timeout);
        let timers = [
            expires.map(|at| (at, Timer::Offer(key))),
            contended.map(|at| (at, Timer::Contended(key))),
        ];
        self.timers.extend(timers.into_iter().flatten());
        self.offer_by_number.insert(number, key);
        self.offer_states.insert(
            key,
            OfferState {
                number,
                expires,
                contended,
            },
        );
        self.agent_state(agent).offers.insert(key);
        self.framework_state(framework).offers.insert(key);
        self.invert_offers_of(agent);
        wire
    }

    fn offer_to_wire(
        &self,
        id: &OfferId,
        framework: FrameworkKey,
        agent: AgentKey,
        role: &Role,
        resources: &Resources,
    ) -> v1::Offer {
        let record = &self.agents[agent];
        let capabilities = self.capabilities(framework);
        let format = resource_format(capabilities.reservation_refinement);
        let told_role = capabilities.multi_role.then_some(role);
        let executors = self.agent_states[&agent]
            .executors
            .range((framework, tepui_model::ExecutorId::from(""))..)
            .take_while(|((owner, _), _)| *owner == framework);
        v1::Offer {
            id: v1::OfferId {
                value: id.as_str().to_owned(),
            },
            framework_id: wire::framework_id(self.framework_id(framework)),
            agent_id: wire::agent_id(&record.id),
            hostname: record.info.hostname.clone(),
            resources: convert::resources_to_wire(resources, format, told_role),
            executor_ids: executors
                .map(|((_, id), _)| wire::executor_id(id))
                .collect(),
            attributes: record.info.attributes.clone(),
            url: Some(agent_url(&record.info, &record.endpoint)),
            unavailability: self.unavailability(agent),
            allocation_info: told_role.map(wire::allocation_info),
            domain: record.info.domain.clone(),
            locality: self.locality(framework, agent, role),
        }
    }

    /// `None` also for what never was one of this master's offers.
    pub(crate) fn find_offer(&self, id: &str) -> Option<OfferKey> {
        self.offer_by_number.get(&self.offer_number(id)?).copied()
    }

    /// The number in the id of an offer or inverse offer of this master.
    pub(crate) fn offer_number(&self, id: &str) -> Option<u64> {
        let number = id
            .strip_prefix(self.config.master_id.as_str())?
            .strip_prefix("-O")?;
        number.parse().ok()
    }

    /// Closes an offer. What it held stays allocated to its framework; the caller says what becomes of it.
    pub(crate) fn take_offer(&mut self, key: OfferKey) -> Option<Arc<OfferRecord>> {
        let offer = self.offers.remove(key)?;
        if let Some(OfferState {
            number,
            expires,
            contended,
        }) = self.offer_states.remove(&key)
        {
            self.offer_by_number.remove(&number);
            if let Some(expires) = expires {
                self.timers.remove(&(expires, Timer::Offer(key)));
            }
            if let Some(contended) = contended {
                self.timers.remove(&(contended, Timer::Contended(key)));
            }
        }
        self.agent_state(offer.agent).offers.remove(&key);
        self.framework_state(offer.framework).offers.remove(&key);
        self.agents[offer.agent].offered.subtract(&offer.resources);
        self.frameworks[offer.framework]
            .offered
            .subtract(&additive(&offer.resources));
        Some(offer)
    }

    /// Closes an offer and takes back what it held, without telling its scheduler.
    pub(crate) fn discard_offer(&mut self, key: OfferKey, refuse_until: Option<Tick>) {
        if let Some(offer) = self.take_offer(key) {
            self.allocator.recover(
                offer.agent.into(),
                offer.framework.into(),
                &offer.role,
                &offer.resources,
                refuse_until,
            );
        }
    }

    pub(crate) fn rescind_offer(&mut self, key: OfferKey) {
        self.rescind_refused(key, None);
    }

    fn rescind_refused(&mut self, key: OfferKey, refuse_until: Option<Tick>) {
        let Some(offer) = self.offers.get(key).cloned() else {
            return;
        };
        self.discard_offer(key, refuse_until);
        self.frameworks[offer.framework].metrics.offers_rescinded += 1;
        self.send(offer.framework, messages::rescind(&offer.id));
    }

    pub(crate) fn discard_offers_of_framework(&mut self, framework: FrameworkKey) {
        self.discard_inverse_offers_of_framework(framework);
        for key in std::mem::take(&mut self.framework_state(framework).offers) {
            self.discard_offer(key, None);
        }
    }

    pub(crate) fn rescind_offers_of_agent(&mut self, agent: AgentKey) {
        self.rescind_inverse_offers_of_agent(agent);
        for key in std::mem::take(&mut self.agent_state(agent).offers) {
            self.rescind_offer(key);
        }
    }

    /// Rescinds the framework's offers that are for none of the roles.
    pub(crate) fn rescind_offers_outside(&mut self, framework: FrameworkKey, roles: &[Role]) {
        for key in self.framework_state(framework).offers.clone() {
            if !roles.contains(&self.offers[key].role) {
                self.rescind_offer(key);
            }
        }
    }

    pub(crate) fn on_offer_expired(&mut self, key: OfferKey) {
        if let Some(state) = self.offer_states.get_mut(&key) {
            state.expires = None;
            self.rescind_unanswered(key);
        }
    }

    /// Others are asked before the one who let it lie is offered the same again.
    fn rescind_unanswered(&mut self, key: OfferKey) {
        let refuse_until = self.now.tick.after(self.config.allocation_delay);
        self.rescind_refused(key, Some(refuse_until));
    }

    /// The offer has been open for a while. If others would take it, it goes to them.
    pub(crate) fn on_offer_contended(&mut self, key: OfferKey) {
        let (Some(offer), Some(timeout)) =
            (self.offers.get(key), self.config.contended_offer_timeout)
        else {
            return;
        };
        let wanted = self.allocator.is_wanted_by_others(
            offer.agent.into(),
            offer.framework.into(),
            &offer.resources,
        );
        let again = self.now.tick.after(timeout);
        if let Some(state) = self.offer_states.get_mut(&key) {
            state.contended = (!wanted).then_some(again);
        }
        if wanted {
            self.rescind_unanswered(key);
        } else {
            self.timers.insert((again, Timer::Contended(key)));
        }
    }

    pub(crate) fn decline(&mut self, framework: FrameworkKey, decline: &call::Decline) {
        self.metrics.count("master/messages_decline_offers");
        let refuse_until = self.refuse_until(decline.filters.as_ref());
        for id in &decline.offer_ids {
            // An offer of somebody else is not this framework's to decline.
            if let Some(key) = self.find_offer(&id.value)
                && self.offers[key].framework == framework
            {
                self.discard_offer(key, refuse_until);
                self.frameworks[framework].metrics.offers_declined += 1;
            }
        }
    }

    /// Until when refused resources are not offered again. Also who refuses for no time at all is not offered the same
    /// at once: the allocator sees to it that others are asked first.
    pub(crate) fn refuse_until(&self, filters: Option<&v1::Filters>) -> Option<Tick> {
        let seconds = filters.map_or(DEFAULT_REFUSE.as_secs_f64(), v1::Filters::refuse_seconds);
        let refuse = if seconds.is_nan() || seconds < 0.0 {
            DEFAULT_REFUSE
        } else {
            Duration::try_from_secs_f64(seconds)
                .unwrap_or(LONGEST_REFUSE)
                .min(LONGEST_REFUSE)
        };
        let shortest = if refuse.is_zero() {
            self.config.allocation_delay
        } else {
            self.config.allocation_interval
        };
        Some(self.now.tick.after(refuse.max(shortest)))
    }
}

pub(crate) fn resource_format(reservation_refinement: bool) -> ResourceFormat {
    if reservation_refinement {
        ResourceFormat::Refined
    } else {
        ResourceFormat::Old
    }
}

pub(crate) fn agent_url(info: &v1::AgentInfo, endpoint: &str) -> v1::Url {
    let (ip, port) = match endpoint.rsplit_once(':') {
        Some((ip, port)) => (
            Some(ip.trim_matches(['[', ']']).to_owned()),
            port.parse().unwrap_or(info.port()),
        ),
        None => (None, info.port()),
    };
    v1::Url {
        scheme: "http".to_owned(),
        address: v1::Address {
            hostname: Some(info.hostname.clone()),
            ip,
            port,
        },
        path: Some("/slave(1)".to_owned()),
        query: Vec::new(),
        fragment: None,
    }
}

pub(crate) fn allocator_capabilities(
    capabilities: Capabilities,
) -> allocator::FrameworkCapabilities {
    allocator::FrameworkCapabilities {
        gpu: capabilities.gpu_resources,
        revocable: capabilities.revocable_resources,
        shared: capabilities.shared_resources,
        reservation_refinement: capabilities.reservation_refinement,
        region_aware: capabilities.region_aware,
    }
}
