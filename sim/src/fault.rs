//! What breaks, and when.

use crate::event::Event;
use crate::world::World;
use crate::{MILLISECOND, Micros, SECOND};

/// For how long something breaks again and again, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    pub until: Micros,
    /// Between one and the next.
    pub least: Micros,
    pub most: Micros,
}

impl World {
    /// From now on things break.
    pub fn begin_faults(&mut self, faults: Faults) {
        self.faults = Some(faults);
        self.after(faults.least, Event::Fault);
    }

    pub(crate) fn on_fault(&mut self) {
        let Some(faults) = self.faults.filter(|faults| self.now < faults.until) else {
            return;
        };
        let kind = match self.chance.below(100) {
            0..20 => self.break_link(),
            20..30 => self.partition(),
            30..40 => self.restart_agent(),
            40..46 => self.lose_power(false),
            46..49 => self.lose_power(true),
            49..54 => self.restart_master(),
            54..64 => self.break_stream(),
            64..70 => self.fail_over(),
            70..78 => self.crash_executor(),
            78..86 => self.break_executor_stream(),
            _ => self.operate_at_random(),
        };
        *self.counts.faults.entry(kind).or_default() += 1;
        if let Some(log) = self.settings.log {
            log(&format!("{:>13.6} fault: {kind}", self.now as f64 / 1e6));
        }
        let wait = self.chance.between(faults.least, faults.most);
        self.after(wait, Event::Fault);
    }

    fn break_link(&mut self) -> &'static str {
        let machine = self.chance.index(self.machines.len());
        if let Some(link) = self.machines[machine].link {
            self.cut_link(link);
        }
        "link broken"
    }

    /// Nothing passes any more, and each end finds out in its own time.
    fn cut_link(&mut self, link: usize) {
        self.links[link].cut = true;
        let wait = self.chance.between(0, 4 * SECOND);
        self.after(wait, Event::AgentLosesLink { link });
        let wait = self.chance.between(0, 4 * SECOND);
        self.after(wait, Event::MasterLosesLink { link });
    }

    fn partition(&mut self) -> &'static str {
        let several = 1 + self.chance.index(self.machines.len().div_ceil(2));
        let until = self.now + self.chance.between(200 * MILLISECOND, 20 * SECOND);
        for _ in 0..several {
            let machine = self.chance.index(self.machines.len());
            self.machines[machine].blocked_until = until;
        }
        "partition"
    }

    fn restart_agent(&mut self) -> &'static str {
        let machine = self.chance.index(self.machines.len());
        self.stop_agent(machine);
        let wait = self.chance.between(50 * MILLISECOND, 4 * SECOND);
        self.after(wait, Event::AgentStart { machine });
        "agent restarted"
    }

    fn lose_power(&mut self, empty: bool) -> &'static str {
        let machine = self.chance.index(self.machines.len());
        // A machine that loses power says no good-bye; one that is shut down does.
        if let Some(link) = self.machines[machine]
            .link
            .filter(|_| self.chance.odds(500))
        {
            self.links[link].cut = true;
        }
        self.power_off(machine, empty);
        let wait = self.chance.between(SECOND, 25 * SECOND);
        self.after(wait, Event::AgentStart { machine });
        if empty {
            "machine lost with its disk"
        } else {
            "machine lost power"
        }
    }

    fn restart_master(&mut self) -> &'static str {
        if self.master.core.is_some() {
            self.stop_master();
            let wait = self.chance.between(50 * MILLISECOND, 8 * SECOND);
            self.after(wait, Event::MasterStart);
        }
        "master restarted"
    }

    fn break_stream(&mut self) -> &'static str {
        let tenant = self.chance.index(self.tenants.len());
        if let Some(stream) = self.tenants[tenant].stream {
            self.streams[stream].cut = true;
            let wait = self.chance.between(0, 4 * SECOND);
            self.after(wait, Event::TenantLosesStream { stream });
            let wait = self.chance.between(0, 4 * SECOND);
            self.after(wait, Event::MasterLosesStream { stream });
        }
        "scheduler's stream broken"
    }

    /// Another scheduler of the same framework takes over, before the master knows that the first is gone.
    fn fail_over(&mut self) -> &'static str {
        let tenant = self.chance.index(self.tenants.len());
        if let Some(stream) = self.tenants[tenant].stream {
            self.streams[stream].cut = true;
            self.on_tenant_loses_stream(stream);
            let life = self.tenants[tenant].life;
            self.after(MILLISECOND, Event::Subscribe { tenant, life });
            let wait = self.chance.between(0, 4 * SECOND);
            self.after(wait, Event::MasterLosesStream { stream });
        }
        "scheduler failed over"
    }

    fn some_executor(&mut self) -> Option<(usize, tepui_agent_core::ExecutorRef)> {
        let machine = self.chance.index(self.machines.len());
        let executors: Vec<_> = self.machines[machine]
            .processes
            .iter()
            .filter(|(_, process)| process.up)
            .map(|(executor, _)| executor.clone())
            .collect();
        let executor = self.chance.pick(&executors)?.clone();
        Some((machine, executor))
    }

    fn crash_executor(&mut self) -> &'static str {
        if let Some((machine, executor)) = self.some_executor() {
            self.machines[machine].processes.remove(&executor);
            self.bury(machine, executor);
        }
        "executor crashed"
    }

    fn break_executor_stream(&mut self) -> &'static str {
        if let Some((machine, executor)) = self.some_executor() {
            self.disconnect_executor(machine, &executor);
        }
        "executor's stream broken"
    }

    /// Everything that is cut off is in reach again.
    pub fn heal(&mut self) {
        self.faults = None;
        for machine in &mut self.machines {
            machine.blocked_until = machine.blocked_until.min(self.now);
        }
    }
}
