//! The scalability experiment of the Mesos paper (Hindman et al., NSDI 2011, section 6.5): a cluster that many
//! frameworks keep full, and the extra delay of one more framework with one task.

use crate::table::Summary;
use crate::{
    Appetite, Counts, Demand, MILLISECOND, Micros, SECOND, Settings, Spread, TenantId, World,
};

#[derive(Debug, Clone)]
pub struct Paper {
    pub seed: u64,
    pub agents: usize,
    pub frameworks: usize,
    /// How many tasks an agent has room for.
    pub slots: i64,
    pub tasks: Spread,
    /// How long the extra task runs.
    pub extra: Micros,
    pub repetitions: usize,
    /// Between one extra task's start and the next one's.
    pub every: Micros,
    /// For how long the frameworks are left alone at first, so that tasks end at any time.
    pub settle: Micros,
    /// The master's time for one input, in microseconds.
    pub master_cost: u64,
    pub master_clock: Option<fn() -> u64>,
    pub check_every: u64,
}

impl Default for Paper {
    fn default() -> Self {
        Self {
            seed: 1,
            agents: 50_000,
            frameworks: 200,
            slots: 2,
            tasks: Spread {
                mean: 30 * SECOND,
                deviation: 10 * SECOND,
                least: SECOND,
            },
            extra: 10 * SECOND,
            repetitions: 50,
            every: 500 * MILLISECOND,
            settle: 60 * SECOND,
            master_cost: 25,
            master_clock: None,
            check_every: 0,
        }
    }
}

/// One extra task, in seconds after its scheduler was started.
#[derive(Debug, Clone, Copy)]
pub struct Extra {
    pub subscribed: f64,
    pub offered: f64,
    pub running: f64,
    /// Of the end, less the time the task itself runs.
    pub delay: f64,
}

#[derive(Debug)]
pub struct Outcome {
    pub extras: Vec<Extra>,
    pub delay: Summary,
    /// Part of the room for tasks that was in use, at its least while extra tasks came.
    pub busy: f64,
    pub counts: Counts,
    /// Virtual time at the end.
    pub virtual_s: f64,
    pub fingerprint: u64,
}

impl Paper {
    /// Fails if the cluster does not fill, or an extra task does not end.
    pub fn run(&self) -> anyhow::Result<Outcome> {
        let mut settings = Settings::calm(self.seed);
        settings.check_every = self.check_every;
        settings.remember_ends = self.check_every > 0;
        settings.master_cost = self.master_cost;
        settings.master_clock = self.master_clock;
        settings.master.max_completed_tasks_per_framework = 10;
        settings.agent.ended_tasks = 1;
        settings.agent.executor_idle = std::time::Duration::from_secs(5);
        let mut world = World::new(settings);
        let whole = Demand::new(self.slots, 1024 * self.slots);
        for machine in 0..self.agents {
            // Agents do not all come in the same instant.
            let starts = machine as u64 * 5 * SECOND / self.agents.max(1) as u64;
            world.add_machine(whole.resources(), starts);
        }
        let appetite = Appetite {
            demand: Demand::new(1, 1024),
            duration: self.tasks,
            per_offer: 1,
            at_once: u64::MAX,
            in_all: u64::MAX,
            chaotic: false,
        };
        for number in 0..self.frameworks {
            let name = format!("f{number}");
            world.add_tenant(&name, "*", appetite, 6 * SECOND);
        }
        world.run_until(8 * SECOND + self.settle);
        let room = (self.agents as i64 * self.slots) as f64;
        let mut busy = self.busy(&world, room);
        anyhow::ensure!(
            busy > 0.9,
            "the frameworks keep only {:.0} % of the cluster busy; give them longer to fill it (--settle)",
            busy * 100.0
        );
        let begin = world.now();
        let mut started = Vec::new();
        for number in 0..self.repetitions {
            world.run_until(begin + number as u64 * self.every);
            busy = busy.min(self.busy(&world, room));
            let appetite = Appetite {
                duration: Spread::fixed(self.extra),
                in_all: 1,
                ..appetite
            };
            let name = format!("extra{number}");
            started.push((world.now(), world.add_tenant(&name, "*", appetite, 0)));
        }
        let last = started.last().map_or(begin, |(at, _)| *at);
        world.run_until(last + self.extra + 5 * SECOND);
        let mut extras = Vec::new();
        for (at, tenant) in started {
            extras.push(self.extra(&world, at, tenant)?);
            world.tear_down(tenant);
        }
        let delays: Vec<f64> = extras.iter().map(|extra| extra.delay).collect();
        let delay = Summary::of(&delays)
            .ok_or_else(|| anyhow::anyhow!("there must be at least one repetition"))?;
        Ok(Outcome {
            extras,
            delay,
            busy,
            counts: world.counts().clone(),
            virtual_s: world.now() as f64 / SECOND as f64,
            fingerprint: world.fingerprint(),
        })
    }

    fn extra(&self, world: &World, at: Micros, tenant: TenantId) -> anyhow::Result<Extra> {
        let since = |moment: Option<Micros>| {
            moment
                .map(|moment| (moment - at) as f64 / SECOND as f64)
                .ok_or_else(|| {
                    anyhow::anyhow!(
                        "the extra task started at {at} us did not end within 5 s of its time"
                    )
                })
        };
        let [subscribed, offered, running, ended] = world.moments(tenant);
        Ok(Extra {
            subscribed: since(subscribed)?,
            offered: since(offered)?,
            running: since(running)?,
            delay: since(ended)? - self.extra as f64 / SECOND as f64,
        })
    }

    /// Which part of the room is in use.
    fn busy(&self, world: &World, room: f64) -> f64 {
        let Some(view) = world.view() else { return 0.0 };
        let used: i64 = view
            .frameworks
            .values()
            .map(|framework| framework.used.cpus().0)
            .sum();
        used as f64 / 1000.0 / room
    }
}
