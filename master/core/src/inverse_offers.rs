//! Inverse offers: asking frameworks to leave an agent before its machine goes away, and what they answered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tepui_api::v1::allocator::{InverseOfferStatus, inverse_offer_status};
use tepui_api::v1::{self, Unavailability};
use tepui_model::Tick;

use crate::core::{Core, Timer};
use crate::keys::{AgentKey, FrameworkKey};
use crate::offers::agent_url;
use crate::{messages, wire};

/// However little a framework wants to be left alone for: it and the master must not talk in a circle.
const SHORTEST_REFUSE: Duration = Duration::from_secs(1);

/// What goes on between one framework and one agent.
#[derive(Debug, Default)]
struct Asked {
    outstanding: Option<Outstanding>,
    status: Option<InverseOfferStatus>,
    refused_until: Option<Tick>,
}

#[derive(Debug, Clone, Copy)]
struct Outstanding {
    /// In the inverse offer's id.
    number: u64,
    expires: Option<Tick>,
}

#[derive(Debug, Default)]
pub(crate) struct InverseOffers {
    by_number: BTreeMap<u64, (AgentKey, FrameworkKey)>,
    asked: BTreeMap<(AgentKey, FrameworkKey), Asked>,
    /// Agents of scheduled machines on which something changed.
    due: BTreeSet<AgentKey>,
}

impl InverseOffers {
    /// The last answer of each framework about each agent.
    pub(crate) fn answered(&self) -> impl Iterator<Item = (AgentKey, &InverseOfferStatus)> {
        let asked = self.asked.iter();
        asked.filter_map(|((agent, _), asked)| Some((*agent, asked.status.as_ref()?)))
    }

    /// Panics if the two tables contradict each other.
    pub(crate) fn check_invariants(&self) {
        for (number, place) in &self.by_number {
            let outstanding = self.asked.get(place).and_then(|asked| asked.outstanding);
            assert_eq!(
                outstanding.map(|outstanding| outstanding.number),
                Some(*number),
                "inverse offer {number}"
            );
        }
        let outstanding = self
            .asked
            .values()
            .filter(|asked| asked.outstanding.is_some());
        assert_eq!(outstanding.count(), self.by_number.len());
    }

    pub(crate) fn outstanding(&self) -> impl Iterator<Item = (AgentKey, FrameworkKey)> {
        self.by_number.values().copied()
    }

    fn take_outstanding(&mut self, place: (AgentKey, FrameworkKey)) -> Option<Outstanding> {
        let outstanding = self.asked.get_mut(&place)?.outstanding.take()?;
        self.by_number.remove(&outstanding.number);
        Some(outstanding)
    }

    fn places_of_agent(&self, agent: AgentKey) -> Vec<(AgentKey, FrameworkKey)> {
        let from = (agent, FrameworkKey(0));
        let places = self.asked.range(from..).map(|(place, _)| *place);
        places.take_while(|(other, _)| *other == agent).collect()
    }

    fn places_of_framework(&self, framework: FrameworkKey) -> Vec<(AgentKey, FrameworkKey)> {
        let places = self.asked.keys().copied();
        places.filter(|(_, other)| *other == framework).collect()
    }
}

impl Core {
    /// Something changed on the agent; if its machine is scheduled, some framework may have to be asked.
    pub(crate) fn invert_offers_of(&mut self, agent: AgentKey) {
        if !self.maintenance.is_empty() {
            self.inverse_offers.due.insert(agent);
        }
    }

    /// A framework has come back: it is to be asked again wherever it is.
    pub(crate) fn invert_offers_to(&mut self, framework: FrameworkKey) {
        if !self.maintenance.is_empty() {
            let agents = self.agents_of_framework(framework);
            self.inverse_offers.due.extend(agents);
        }
    }

    /// Asks whoever holds something on the agents that are due, all of one framework's agents in one event.
    pub(crate) fn make_inverse_offers(&mut self) {
        let mut made: BTreeMap<FrameworkKey, Vec<v1::InverseOffer>> = BTreeMap::new();
        for agent in std::mem::take(&mut self.inverse_offers.due) {
            let there = self
                .agents
                .get(agent)
                .is_some_and(|record| record.connected);
            let Some(unavailability) = there.then(|| self.unavailability(agent)).flatten() else {
                continue;
            };
            for framework in self.frameworks_on(agent) {
                if let Some(offer) = self.make_inverse_offer(framework, agent, unavailability) {
                    made.entry(framework).or_default().push(offer);
                }
            }
        }
        for (framework, offers) in made {
            self.send(framework, messages::inverse_offers(offers));
        }
    }

    /// The connected frameworks with a task, an executor or an offer there.
    fn frameworks_on(&self, agent: AgentKey) -> BTreeSet<FrameworkKey> {
        let state = &self.agent_states[&agent];
        let tasks = state.tasks.iter().map(|key| &self.tasks[*key]);
        let of_tasks = tasks.filter(|task| task.charged).map(|task| task.framework);
        let of_executors = state.executors.keys().map(|(framework, _)| *framework);
        let of_offers = state.offers.iter().map(|key| self.offers[*key].framework);
        of_tasks
            .chain(of_executors)
            .chain(of_offers)
            .filter(|framework| self.frameworks[*framework].connected)
            .collect()
    }

    fn make_inverse_offer(
        &mut self,
        framework: FrameworkKey,
        agent: AgentKey,
        unavailability: Unavailability,
    ) -> Option<v1::InverseOffer> {
        let now = self.now.tick;
        let place = (agent, framework);
        let asked = self.inverse_offers.asked.entry(place).or_default();
        if asked.outstanding.is_some() || asked.refused_until.is_some_and(|until| until > now) {
            return None;
        }
        let number = self.minted.offers;
        self.minted.offers += 1;
        let expires = self.config.offer_timeout.map(|timeout| now.after(timeout));
        if let Some(expires) = expires {
            self.timers.insert((expires, Timer::InverseOffer(number)));
        }
        asked.refused_until = None;
        asked.outstanding = Some(Outstanding { number, expires });
        self.inverse_offers.by_number.insert(number, place);
        let record = &self.agents[agent];
        Some(v1::InverseOffer {
            id: self.inverse_offer_id(number),
            url: Some(agent_url(&record.info, &record.endpoint)),
            framework_id: wire::framework_id(self.framework_id(framework)),
            agent_id: Some(wire::agent_id(&record.id)),
            unavailability,
            // None: all that the framework has there.
            resources: Vec::new(),
        })
    }

    fn inverse_offer_id(&self, number: u64) -> v1::OfferId {
        v1::OfferId {
            value: format!("{}-O{number}", self.config.master_id),
        }
    }

    /// ACCEPT_INVERSE_OFFERS and DECLINE_INVERSE_OFFERS: the answer is kept for the operator to see, no more. Ids of
    /// inverse offers that are over, or somebody else's, mean nothing.
    pub(crate) fn answer_inverse_offers(
        &mut self,
        framework: FrameworkKey,
        ids: &[v1::OfferId],
        status: inverse_offer_status::Status,
        filters: Option<&v1::Filters>,
    ) {
        let shortest = self.now.tick.after(SHORTEST_REFUSE);
        let refused_until = self
            .refuse_until(filters)
            .map_or(shortest, |until| until.max(shortest));
        for id in ids {
            let number = self.offer_number(&id.value);
            let place = number.and_then(|number| self.inverse_offers.by_number.get(&number));
            let Some(place) = place.copied().filter(|(_, owner)| *owner == framework) else {
                continue;
            };
            self.close_inverse_offer(place);
            let answered = InverseOfferStatus {
                status: status.into(),
                framework_id: wire::framework_id(self.framework_id(framework)),
                timestamp: wire::time(self.now.wall_ns),
            };
            let asked = self.inverse_offers.asked.entry(place).or_default();
            asked.status = Some(answered);
            asked.refused_until = Some(refused_until);
            self.timers
                .insert((refused_until, Timer::InverseFilter(place.0)));
        }
    }

    fn close_inverse_offer(&mut self, place: (AgentKey, FrameworkKey)) -> Option<v1::OfferId> {
        let Outstanding { number, expires } = self.inverse_offers.take_outstanding(place)?;
        if let Some(expires) = expires {
            self.timers.remove(&(expires, Timer::InverseOffer(number)));
        }
        Some(self.inverse_offer_id(number))
    }

    fn rescind_inverse_offer(&mut self, place: (AgentKey, FrameworkKey)) {
        if let Some(id) = self.close_inverse_offer(place) {
            self.send(place.1, messages::rescind_inverse_offer(id));
        }
    }

    /// Nobody answered it in time.
    pub(crate) fn on_inverse_offer_expired(&mut self, number: u64) {
        if let Some(place) = self.inverse_offers.by_number.get(&number).copied() {
            self.rescind_inverse_offer(place);
            self.invert_offers_of(place.0);
        }
    }

    pub(crate) fn rescind_inverse_offers_of_agent(&mut self, agent: AgentKey) {
        for place in self.inverse_offers.places_of_agent(agent) {
            self.rescind_inverse_offer(place);
        }
    }

    /// What was asked and answered about the agent is over.
    pub(crate) fn forget_inverse_offers_of_agent(&mut self, agent: AgentKey) {
        for place in self.inverse_offers.places_of_agent(agent) {
            self.rescind_inverse_offer(place);
            self.inverse_offers.asked.remove(&place);
        }
    }

    /// The framework's scheduler is away or another one by now: it cannot answer what was sent to the old one.
    pub(crate) fn discard_inverse_offers_of_framework(&mut self, framework: FrameworkKey) {
        for place in self.inverse_offers.places_of_framework(framework) {
            self.close_inverse_offer(place);
        }
    }

    pub(crate) fn forget_inverse_offers_of_framework(&mut self, framework: FrameworkKey) {
        for place in self.inverse_offers.places_of_framework(framework) {
            self.close_inverse_offer(place);
            self.inverse_offers.asked.remove(&place);
        }
    }

    /// The framework wants to hear everything again.
    pub(crate) fn revive_inverse_offers(&mut self, framework: FrameworkKey) {
        for place in self.inverse_offers.places_of_framework(framework) {
            if let Some(asked) = self.inverse_offers.asked.get_mut(&place) {
                asked.refused_until = None;
                self.inverse_offers.due.insert(place.0);
            }
        }
    }
}
