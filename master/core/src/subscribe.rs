//! SUBSCRIBE, fail-over to another scheduler, UPDATE_FRAMEWORK, and schedulers that hang up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tepui_api::link::{self, to_agent};
use tepui_api::registry;
use tepui_api::v1;
use tepui_api::v1::scheduler::{OfferConstraints, call, event};
use tepui_model::{FrameworkId, Resources, Tick};

use crate::calls::CallRefused;
use crate::core::{Core, FrameworkState, Pending, Stream, StreamState, Timer};
use crate::effect::{Answer, Effect, RegistryOperation};
use crate::framework_info::{self, Checked};
use crate::history::History;
use crate::input::{PersistKey, RequestKey, StreamKey};
use crate::keys::{AgentKey, FrameworkKey};
use crate::metrics::FrameworkMetrics;
use crate::view::FrameworkRecord;
use crate::{messages, wire};

/// A SUBSCRIBE whose framework is being written down.
#[derive(Debug)]
pub(crate) struct Subscribing {
    request: RequestKey,
    stream: Stream,
    /// The scheduler has hung up in the meantime.
    closed: bool,
    id: FrameworkId,
    info: v1::FrameworkInfo,
    checked: Checked,
    constraints: Option<OfferConstraints>,
}

/// An UPDATE_FRAMEWORK that is being written down.
#[derive(Debug)]
pub(crate) struct UpdatingFramework {
    request: RequestKey,
    id: FrameworkId,
    info: v1::FrameworkInfo,
    checked: Checked,
    constraints: Option<OfferConstraints>,
}

impl Core {
    pub(crate) fn subscribe(
        &mut self,
        request: RequestKey,
        principal: Option<String>,
        framework_id: Option<v1::FrameworkId>,
        subscribe: call::Subscribe,
        new_stream: Option<(StreamKey, String)>,
    ) -> Result<(), CallRefused> {
        let call::Subscribe {
            framework_info: mut info,
            suppressed_roles,
            offer_constraints,
        } = subscribe;
        let named = framework_id.as_ref().map_or("", |id| &id.value);
        if named != info.id.as_ref().map_or("", |id| &id.value) {
            return Err(CallRefused::IdDiffers);
        }
        if let Some(authenticated) = principal {
            match &info.principal {
                Some(set) if *set != authenticated => {
                    return Err(CallRefused::Principal {
                        authenticated,
                        set: set.clone(),
                    });
                }
                _ => info.principal = Some(authenticated),
            }
        }
        let (key, stream_id) = new_stream.ok_or(CallRefused::Missing { field: "stream" })?;
        let stream = Stream { key, id: stream_id };
        self.metrics.count("master/messages_register_framework");

        let checked = match framework_info::check(
            &self.config,
            &info,
            &suppressed_roles,
            offer_constraints.as_ref(),
        ) {
            Ok(checked) => checked,
            Err(invalid) => {
                self.refuse_on_stream(request, key, &invalid.to_string());
                return Ok(());
            }
        };
        if let Err(denied) = self.authorize_roles(info.principal.as_deref(), &checked.roles) {
            self.refuse_on_stream(request, key, &denied.to_string());
            return Ok(());
        }
        let id = if named.is_empty() {
            self.mint_framework_id()
        } else {
            FrameworkId::from(named)
        };
        if self.completed_ids.contains(&id) {
            self.refuse_on_stream(request, key, "Framework has been removed");
            return Ok(());
        }
        let mut registered_ns = self.now.wall_ns;
        if let Some(known) = self.framework_by_id.get(&id) {
            let record = &self.frameworks[*known];
            if record.info.principal != info.principal {
                self.refuse_on_stream(
                    request,
                    key,
                    "Changing framework's principal is not allowed.",
                );
                return Ok(());
            }
            // These two never change while a framework lives: agents rely on them.
            info.user.clone_from(&record.info.user);
            info.checkpoint = record.info.checkpoint;
            registered_ns = record.registered_ns;
        }
        info.id = Some(wire::framework_id(&id));
        let put = framework_record(&id, &info, registered_ns, None);
        let constraints = offer_constraints;
        let subscribing = Subscribing {
            request,
            stream,
            closed: false,
            id,
            info,
            checked,
            constraints,
        };
        let persist = self.persist(vec![put], Pending::Subscribe(Box::new(subscribing)));
        self.streams.insert(key, StreamState::Subscribing(persist));
        Ok(())
    }

    fn mint_framework_id(&mut self) -> FrameworkId {
        let id = format!("{}-{:04}", self.config.master_id, self.minted.frameworks);
        self.minted.frameworks += 1;
        FrameworkId::from(id)
    }

    /// The 200 is out by the time anything about the framework is looked at, so a refusal goes where events go.
    fn refuse_on_stream(&mut self, request: RequestKey, stream: StreamKey, message: &str) {
        self.answer(request, Answer::Subscribed);
        self.effects.push(Effect::Send {
            stream,
            event: Box::new(messages::error(message)),
        });
        self.effects.push(Effect::CloseStream { stream });
        self.streams.remove(&stream);
    }

    pub(crate) fn on_subscribe_persisted(&mut self, subscribing: Subscribing) {
        let Subscribing {
            request,
            stream,
            closed,
            id,
            info,
            checked,
            constraints,
        } = subscribing;
        if self.completed_ids.contains(&id) {
            self.refuse_on_stream(request, stream.key, "Framework has been removed");
            return;
        }
        let known = self.framework_by_id.get(&id).copied();
        let framework = match known {
            Some(framework) => {
                self.fail_over(framework);
                self.replace_info(framework, info, checked, constraints);
                let reregistered_ns = self.now.wall_ns;
                let record = &mut self.frameworks[framework];
                record.reregistered_ns = Some(reregistered_ns);
                record.recovered = false;
                framework
            }
            None => self.add_framework(id.clone(), info, checked, constraints, self.now.wall_ns),
        };
        let record = &mut self.frameworks[framework];
        record.connected = true;
        record.active = true;
        self.allocator.set_framework_active(framework.into(), true);
        self.streams
            .insert(stream.key, StreamState::Subscribed(framework));
        let key = stream.key;
        self.framework_state(framework).stream = Some(stream);
        let metrics = &mut self.frameworks[framework].metrics;
        metrics.calls.count(call::Type::Subscribe.as_str_name());
        match known {
            Some(_) => self.tell_framework_updated(framework),
            None => self.tell_framework_added(framework),
        }
        self.answer(request, Answer::Subscribed);
        let subscribed = event::Subscribed {
            framework_id: wire::framework_id(&id),
            heartbeat_interval_seconds: Some(self.config.heartbeat_interval.as_secs_f64()),
            master_info: Some(v1::MasterInfo::clone(&self.master_info)),
        };
        self.send(framework, messages::subscribed(subscribed));
        self.invert_offers_to(framework);
        if closed {
            self.on_stream_closed(key);
        }
    }

    /// Takes the framework away from the scheduler that had it, if any. Whatever that one was offered is void.
    fn fail_over(&mut self, framework: FrameworkKey) {
        if let Some(old) = self.framework_state(framework).stream.take() {
            self.streams.remove(&old.key);
            self.effects.push(Effect::Send {
                stream: old.key,
                event: Box::new(messages::error("Framework failed over")),
            });
            self.effects.push(Effect::CloseStream { stream: old.key });
        }
        self.discard_offers_of_framework(framework);
        self.stop_failover_timer(framework);
    }

    fn replace_info(
        &mut self,
        framework: FrameworkKey,
        info: v1::FrameworkInfo,
        checked: Checked,
        constraints: Option<OfferConstraints>,
    ) {
        self.allocator
            .update_framework(framework.into(), &checked.terms());
        self.framework_state(framework).capabilities = checked.capabilities;
        let record = &mut self.frameworks[framework];
        record.info = Arc::new(info);
        record.roles = Arc::new(checked.roles);
        record.suppressed = Arc::new(checked.suppressed.into_iter().collect());
        record.offer_constraints = constraints.map(Arc::new);
        self.note_standing_interest(framework);
        let record = &mut self.frameworks[framework];
        let info = record.info.clone();
        for agent in self.agents_of_framework(framework) {
            let framework = v1::FrameworkInfo::clone(&info);
            self.send_to_agent(
                agent,
                to_agent::Body::UpdateFramework(link::UpdateFramework { framework }),
            );
        }
    }

    /// Enters a framework; it is not connected yet.
    pub(crate) fn add_framework(
        &mut self,
        id: FrameworkId,
        info: v1::FrameworkInfo,
        checked: Checked,
        constraints: Option<OfferConstraints>,
        registered_ns: i64,
    ) -> FrameworkKey {
        let terms = checked.terms();
        let framework = self.frameworks.insert(FrameworkRecord {
            id: id.clone(),
            info: Arc::new(info),
            active: false,
            connected: false,
            recovered: false,
            registered_ns,
            reregistered_ns: None,
            unregistered_ns: None,
            roles: Arc::new(checked.roles),
            suppressed: Arc::new(checked.suppressed.into_iter().collect()),
            offer_constraints: constraints.map(Arc::new),
            used: Resources::new(),
            offered: Resources::new(),
            tasks: 0,
            completed_tasks: History::new(self.config.max_completed_tasks_per_framework),
            metrics: FrameworkMetrics::default(),
            unreachable_tasks: Arc::default(),
        });
        self.framework_by_id.insert(id, framework);
        self.framework_states.insert(
            framework,
            FrameworkState {
                stream: None,
                capabilities: checked.capabilities,
                tasks: BTreeMap::new(),
                executors: BTreeSet::new(),
                offers: BTreeSet::new(),
                operations: BTreeMap::new(),
                kills: BTreeMap::new(),
                unreachable_order: VecDeque::new(),
                failover: None,
            },
        );
        self.allocator.add_framework(framework.into(), &terms);
        self.allocator.set_framework_active(framework.into(), false);
        self.note_standing_interest(framework);
        framework
    }

    pub(crate) fn on_stream_closed(&mut self, stream: StreamKey) {
        match self.streams.get(&stream).copied() {
            None => {}
            Some(StreamState::Subscribing(persist)) => self.close_subscribing(persist),
            Some(StreamState::Subscribed(framework)) => {
                self.streams.remove(&stream);
                self.disconnect_framework(framework);
            }
        }
    }

    fn close_subscribing(&mut self, persist: PersistKey) {
        if let Some(Pending::Subscribe(subscribing)) = self.pending.get_mut(&persist) {
            subscribing.closed = true;
        }
    }

    fn disconnect_framework(&mut self, framework: FrameworkKey) {
        self.framework_state(framework).stream = None;
        let record = &mut self.frameworks[framework];
        record.connected = false;
        record.active = false;
        let timeout = failover_timeout(&record.info);
        let put = framework_record(
            &record.id,
            &record.info,
            record.registered_ns,
            Some(self.now.wall_ns),
        );
        self.allocator.set_framework_active(framework.into(), false);
        self.discard_offers_of_framework(framework);
        // A framework that goes at once is deleted at once; nothing needs to be known of its disconnection.
        if !timeout.is_zero() {
            self.persist(vec![put], Pending::Nothing);
        }
        self.start_failover_timer(framework, timeout);
    }

    pub(crate) fn start_failover_timer(&mut self, framework: FrameworkKey, timeout: Duration) {
        self.stop_failover_timer(framework);
        let due: Tick = self.now.tick.after(timeout);
        self.framework_state(framework).failover = Some(due);
        self.timers.insert((due, Timer::Failover(framework)));
    }

    pub(crate) fn stop_failover_timer(&mut self, framework: FrameworkKey) {
        if let Some(due) = self.framework_state(framework).failover.take() {
            self.timers.remove(&(due, Timer::Failover(framework)));
        }
    }

    pub(crate) fn on_failover_timeout(&mut self, framework: FrameworkKey) {
        self.framework_state(framework).failover = None;
        self.remove_framework(framework, None);
    }

    pub(crate) fn update_framework(
        &mut self,
        request: RequestKey,
        framework: FrameworkKey,
        update: call::UpdateFramework,
    ) -> Result<(), CallRefused> {
        let call::UpdateFramework {
            framework_info: mut info,
            suppressed_roles,
            offer_constraints,
        } = update;
        let record = &self.frameworks[framework];
        if info.id.as_ref().map(|id| id.value.as_str()) != Some(record.id.as_str()) {
            return Err(CallRefused::UpdatedIdDiffers);
        }
        let checked = framework_info::check(
            &self.config,
            &info,
            &suppressed_roles,
            offer_constraints.as_ref(),
        )
        .map_err(|invalid| CallRefused::FrameworkInfo(invalid.to_string()))?;
        if info.principal.is_none() {
            info.principal.clone_from(&record.info.principal);
        }
        self.authorize_roles(info.principal.as_deref(), &checked.roles)?;
        if info.principal != record.info.principal {
            return Err(CallRefused::Fixed { field: "principal" });
        }
        if info.user != record.info.user {
            return Err(CallRefused::Fixed { field: "user" });
        }
        if info.checkpoint() != record.info.checkpoint() {
            return Err(CallRefused::Fixed {
                field: "checkpoint",
            });
        }
        let put = framework_record(&record.id, &info, record.registered_ns, None);
        let id = record.id.clone();
        let updating = UpdatingFramework {
            request,
            id,
            info,
            checked,
            constraints: offer_constraints,
        };
        self.persist(vec![put], Pending::UpdateFramework(Box::new(updating)));
        Ok(())
    }

    pub(crate) fn on_framework_update_persisted(&mut self, updating: UpdatingFramework) {
        let UpdatingFramework {
            request,
            id,
            info,
            checked,
            constraints,
        } = updating;
        let Some(framework) = self.framework_by_id.get(&id).copied() else {
            let refused = CallRefused::NoFramework;
            self.refuse(request, refused.status(), refused.to_string());
            return;
        };
        self.rescind_offers_outside(framework, &checked.roles);
        self.replace_info(framework, info, checked, constraints);
        self.tell_framework_updated(framework);
        self.answer(request, Answer::Done);
    }

    /// The agents that run or ran anything of the framework that is not acknowledged yet.
    pub(crate) fn agents_of_framework(&self, framework: FrameworkKey) -> BTreeSet<AgentKey> {
        let state = &self.framework_states[&framework];
        let of_tasks = state.tasks.values().map(|task| self.tasks[*task].agent);
        let of_executors = state
            .executors
            .iter()
            .map(|executor| self.executors[*executor].agent);
        of_tasks.chain(of_executors).collect()
    }
}

pub(crate) fn failover_timeout(info: &v1::FrameworkInfo) -> Duration {
    Duration::try_from_secs_f64(info.failover_timeout()).unwrap_or(Duration::ZERO)
}

pub(crate) fn framework_key(id: &FrameworkId) -> String {
    format!("framework/{id}")
}

pub(crate) fn framework_record(
    id: &FrameworkId,
    info: &v1::FrameworkInfo,
    registered_ns: i64,
    disconnected_ns: Option<i64>,
) -> RegistryOperation {
    let record = registry::Framework {
        info: info.clone(),
        registered_time: wire::time(registered_ns),
        disconnected_time: disconnected_ns.map(wire::time),
    };
    wire::put(framework_key(id), &record)
}
