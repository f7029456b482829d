//! The calls schedulers make.

use tepui_api::v1::scheduler::{Call, call};
use tepui_api::v1::{self, offer};

use crate::Micros;
use crate::event::Event;
use crate::tenant::{Known, TenantId, plain, stream_id};
use crate::workload::{Demand, duration_data};
use crate::world::World;
use tepui_api::v1::TaskState;

impl World {
    /// Sends a call if there is a stream it belongs to. It may not arrive, and it may arrive twice.
    pub(crate) fn call(&mut self, tenant: usize, mut call: Call) {
        let held = &self.tenants[tenant];
        let (Some(stream), Some(id)) = (held.stream, &held.info.id) else {
            return;
        };
        if !held.subscribed {
            return;
        }
        let life = held.life;
        call.framework_id = Some(id.clone());
        let mishaps = self.settings.mishaps;
        if self.chance.odds(mishaps.lost_calls) {
            return;
        }
        // What has an effect of its own each time is not sent again by anybody in his senses.
        let may_be_repeated = !matches!(
            call.r#type(),
            call::Type::Accept | call::Type::Teardown | call::Type::Subscribe
        );
        let copies = 1 + u32::from(may_be_repeated && self.chance.odds(mishaps.doubled_calls));
        for _ in 1..copies {
            self.send_call(tenant, life, stream, call.clone());
        }
        self.send_call(tenant, life, stream, call);
    }

    fn send_call(&mut self, tenant: usize, life: u32, stream: usize, call: Call) {
        let latency = self.settings.tenant_latency.sample(&mut self.chance);
        let arrival = self.tenants[tenant].calls.arrival(self.now, latency, 0);
        let request = self.new_request(Some((tenant, life)));
        self.queue.push(
            arrival,
            Event::Call {
                request,
                stream_id: Some(stream_id(stream)),
                call: Box::new(call),
                new_stream: None,
            },
        );
    }

    /// A task that is going to be launched on the offer. Its scheduler counts it as launched.
    pub(crate) fn new_task(
        &mut self,
        tenant: usize,
        offer: &v1::Offer,
        demand: Demand,
        duration: Micros,
    ) -> v1::TaskInfo {
        let held = &mut self.tenants[tenant];
        held.launched += 1;
        self.counts.launched += 1;
        // What is made native instead of wasm has an `n` at its end.
        let kind = if held.appetite.chaotic && held.chance.odds(300) {
            "n"
        } else {
            ""
        };
        let id = format!("{}-{}{kind}", held.info.name, held.launched);
        held.tasks.insert(
            id.clone(),
            Known {
                agent: offer.agent_id.value.clone(),
                state: TaskState::TaskStaging,
            },
        );
        v1::TaskInfo {
            name: "task".to_owned(),
            task_id: id.as_str().into(),
            agent_id: offer.agent_id.clone(),
            resources: demand.resources(),
            command: Some(v1::CommandInfo {
                value: Some("task.wasm".to_owned()),
                ..v1::CommandInfo::default()
            }),
            data: Some(duration_data(duration)),
            ..v1::TaskInfo::default()
        }
    }

    pub(crate) fn accept(
        &mut self,
        tenant: usize,
        offers: Vec<v1::OfferId>,
        tasks: Vec<v1::TaskInfo>,
        refuse_seconds: f64,
    ) {
        let launch = offer::Operation {
            r#type: Some(offer::operation::Type::Launch.into()),
            launch: Some(offer::operation::Launch { task_infos: tasks }),
            ..offer::Operation::default()
        };
        self.accept_with(tenant, offers, vec![launch], refuse_seconds);
    }

    pub(crate) fn accept_with(
        &mut self,
        tenant: usize,
        offers: Vec<v1::OfferId>,
        operations: Vec<offer::Operation>,
        refuse_seconds: f64,
    ) {
        let accept = call::Accept {
            offer_ids: offers,
            operations,
            filters: Some(v1::Filters {
                refuse_seconds: Some(refuse_seconds),
            }),
        };
        let call = Call {
            accept: Some(accept),
            ..plain(call::Type::Accept)
        };
        self.call(tenant, call);
    }

    pub(crate) fn decline(&mut self, tenant: usize, offers: Vec<v1::OfferId>, refuse_seconds: f64) {
        let decline = call::Decline {
            offer_ids: offers,
            filters: Some(v1::Filters {
                refuse_seconds: Some(refuse_seconds),
            }),
        };
        let call = Call {
            decline: Some(decline),
            ..plain(call::Type::Decline)
        };
        self.call(tenant, call);
    }

    pub(crate) fn acknowledge(&mut self, tenant: usize, status: v1::TaskStatus) {
        let (Some(agent_id), Some(uuid)) = (status.agent_id, status.uuid) else {
            return;
        };
        if self
            .chance
            .odds(self.settings.mishaps.forgotten_acknowledgements)
        {
            return;
        }
        let acknowledge = call::Acknowledge {
            agent_id,
            task_id: status.task_id,
            uuid,
        };
        let call = Call {
            acknowledge: Some(acknowledge),
            ..plain(call::Type::Acknowledge)
        };
        self.call(tenant, call);
    }

    pub(crate) fn kill(&mut self, tenant: usize, task: &str, agent: Option<&str>) {
        let kill = call::Kill {
            task_id: task.into(),
            agent_id: agent.map(Into::into),
            kill_policy: None,
        };
        let call = Call {
            kill: Some(kill),
            ..plain(call::Type::Kill)
        };
        self.call(tenant, call);
    }

    /// Asks after everything it believes to be alive.
    pub(crate) fn reconcile_known(&mut self, tenant: usize) {
        let tasks = self.tenants[tenant].tasks.iter();
        let tasks = tasks
            .map(|(task, known)| call::reconcile::Task {
                task_id: task.as_str().into(),
                agent_id: Some(known.agent.as_str().into()),
            })
            .collect();
        self.reconcile(tenant, tasks);
    }

    pub(crate) fn reconcile(&mut self, tenant: usize, tasks: Vec<call::reconcile::Task>) {
        let call = Call {
            reconcile: Some(call::Reconcile { tasks }),
            ..plain(call::Type::Reconcile)
        };
        self.call(tenant, call);
    }

    pub(crate) fn revive(&mut self, tenant: usize) {
        self.call(tenant, plain(call::Type::Revive));
    }

    pub(crate) fn suppress(&mut self, tenant: usize) {
        if !std::mem::replace(&mut self.tenants[tenant].suppressed, true) {
            self.call(tenant, plain(call::Type::Suppress));
        }
    }

    /// Whether a scheduler is subscribed.
    pub fn is_subscribed(&self, tenant: TenantId) -> bool {
        self.tenants[tenant.0].subscribed
    }
}
