//! Schedulers that do everything the protocol allows, wisely or not.

use tepui_api::v1::scheduler::{Call, call};
use tepui_api::v1::{self, offer};

use crate::event::Event;
use crate::tenant::plain;
use crate::workload::{Demand, scalar};
use crate::world::World;
use crate::{MILLISECOND, SECOND};

impl World {
    pub(crate) fn use_offers_chaotically(&mut self, tenant: usize, offers: Vec<v1::Offer>) {
        let held = &mut self.tenants[tenant];
        for offer in offers {
            held.offers.insert(offer.id.value.clone(), offer);
        }
        if self.is_winding_down(tenant) {
            self.decline_all(tenant, 2.0);
            return;
        }
        // Some lie for a while, and some for too long.
        while !self.tenants[tenant].offers.is_empty() && !self.tenants[tenant].chance.odds(250) {
            self.use_one(tenant);
        }
    }

    fn is_winding_down(&self, tenant: usize) -> bool {
        let held = &self.tenants[tenant];
        held.launched >= held.appetite.in_all
    }

    fn decline_all(&mut self, tenant: usize, seconds: f64) {
        let offers = std::mem::take(&mut self.tenants[tenant].offers);
        let ids: Vec<_> = offers.into_values().map(|offer| offer.id).collect();
        if !ids.is_empty() {
            self.decline(tenant, ids, seconds);
        }
    }

    /// All it holds of one agent is accepted together, or declined.
    fn use_one(&mut self, tenant: usize) {
        let held = &mut self.tenants[tenant];
        let ids: Vec<String> = held.offers.keys().cloned().collect();
        let Some(first) = held
            .chance
            .pick(&ids)
            .and_then(|id| held.offers.get(id))
            .cloned()
        else {
            return;
        };
        let (same, other) = std::mem::take(&mut held.offers)
            .into_iter()
            .partition(|(_, offer)| offer.agent_id == first.agent_id);
        held.offers = other;
        let same: Vec<v1::Offer> = same.into_values().collect();
        let ids: Vec<_> = same.iter().map(|offer| offer.id.clone()).collect();
        let refuse_seconds = held.chance.below(4) as f64;
        if held.chance.odds(200) {
            self.decline(tenant, ids, refuse_seconds);
            return;
        }
        let mut room = Demand { cpus: 0, mem: 0 };
        for offer in &same {
            let more = Demand::of(&offer.resources);
            room.cpus += more.cpus;
            room.mem += more.mem;
        }
        let executor = self.custom_executor(tenant, &mut room);
        let mut tasks = Vec::new();
        for _ in 0..=self.tenants[tenant].chance.below(4) {
            let chance = &mut self.tenants[tenant].chance;
            let mut demand = Demand {
                cpus: chance.between(100, 1500) as i64,
                mem: chance.between(32_000, 400_000) as i64,
            };
            // One in a while asks for what there is not.
            if (demand.cpus > room.cpus || demand.mem > room.mem) && !chance.odds(20) {
                demand = Demand {
                    cpus: demand.cpus.min(room.cpus),
                    mem: demand.mem.min(room.mem),
                };
                if demand.cpus < 10 || demand.mem < 1000 {
                    break;
                }
            }
            let longest = if chance.odds(200) { 60 } else { 8 };
            let duration = chance.between(0, longest * SECOND);
            room.cpus -= demand.cpus;
            room.mem -= demand.mem;
            let mut task = self.new_task(tenant, &first, demand, duration);
            if executor.is_some() {
                task.command = None;
                task.executor.clone_from(&executor);
            }
            tasks.push(task);
        }
        let launch = offer::Operation {
            r#type: Some(offer::operation::Type::Launch.into()),
            launch: Some(offer::operation::Launch { task_infos: tasks }),
            ..offer::Operation::default()
        };
        self.accept_with(tenant, ids, vec![launch], refuse_seconds);
    }

    /// Every now and then a framework has tasks run by an executor of its own.
    fn custom_executor(&mut self, tenant: usize, room: &mut Demand) -> Option<v1::ExecutorInfo> {
        let held = &mut self.tenants[tenant];
        let own = Demand {
            cpus: 100,
            mem: 32_000,
        };
        if !held.chance.odds(250) || room.cpus < own.cpus || room.mem < own.mem {
            return None;
        }
        room.cpus -= own.cpus;
        room.mem -= own.mem;
        let name = format!("executor-{}", held.chance.below(3));
        Some(v1::ExecutorInfo {
            r#type: Some(v1::executor_info::Type::Custom.into()),
            executor_id: v1::ExecutorId { value: name },
            framework_id: held.info.id.clone(),
            command: Some(v1::CommandInfo {
                value: Some("./executor".to_owned()),
                ..v1::CommandInfo::default()
            }),
            resources: vec![scalar("cpus", own.cpus), scalar("mem", own.mem)],
            ..v1::ExecutorInfo::default()
        })
    }

    pub(crate) fn on_tenant_turn(&mut self, tenant: usize) {
        let wait = self.tenants[tenant]
            .chance
            .between(300 * MILLISECOND, 3 * SECOND);
        self.after(wait, Event::TenantTurn { tenant });
        if !self.tenants[tenant].subscribed {
            return;
        }
        if self.is_winding_down(tenant) {
            self.decline_all(tenant, 2.0);
            self.reconcile_known(tenant);
            return;
        }
        match self.tenants[tenant].chance.below(100) {
            0..25 => self.kill_some(tenant),
            25..45 => self.reconcile_known(tenant),
            45..50 => self.reconcile(tenant, Vec::new()),
            50..75 => self.use_one(tenant),
            75..80 => self.decline_all(tenant, 1.0),
            80..84 => self.suppress(tenant),
            84..90 => {
                self.tenants[tenant].suppressed = false;
                self.revive(tenant);
            }
            90..94 => self.shut_executor_down(tenant),
            _ => {}
        }
    }

    fn kill_some(&mut self, tenant: usize) {
        let held = &mut self.tenants[tenant];
        let tasks: Vec<_> = held
            .tasks
            .iter()
            .map(|(id, known)| (id.clone(), known.agent.clone()))
            .collect();
        if let Some((task, agent)) = held.chance.pick(&tasks).cloned() {
            let named = held.chance.odds(500).then_some(agent);
            self.kill(tenant, &task, named.as_deref());
        }
    }

    fn shut_executor_down(&mut self, tenant: usize) {
        let held = &mut self.tenants[tenant];
        let agents: Vec<String> = held
            .tasks
            .values()
            .map(|known| known.agent.clone())
            .collect();
        let Some(agent) = held.chance.pick(&agents).cloned() else {
            return;
        };
        let executor = format!("executor-{}", held.chance.below(3));
        let shutdown = call::Shutdown {
            executor_id: v1::ExecutorId { value: executor },
            agent_id: agent.as_str().into(),
        };
        let call = Call {
            shutdown: Some(shutdown),
            ..plain(call::Type::Shutdown)
        };
        self.call(tenant, call);
    }

    /// Nobody launches anything from now on.
    pub fn wind_down(&mut self) {
        for tenant in 0..self.tenants.len() {
            let held = &mut self.tenants[tenant];
            held.appetite.in_all = 0;
        }
    }
}
