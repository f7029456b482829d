//! The job mixes of the paper on dominant resource fairness (Ghodsi et al., NSDI 2011): the worked example of its
//! section 4.1 and the changing jobs of its section 6.1.

use crate::{Appetite, Demand, Micros, SECOND, Settings, Spread, TenantId, World};

/// What a job wants from a moment on.
#[derive(Debug, Clone, Copy)]
pub struct Phase {
    pub from: Micros,
    pub demand: Demand,
}

#[derive(Debug, Clone)]
pub struct Job {
    pub name: &'static str,
    /// In the order of their beginnings. Before the first the job is not there.
    pub phases: Vec<Phase>,
    /// When it leaves.
    pub until: Micros,
    pub weight: f64,
}

#[derive(Debug, Clone)]
pub struct Drf {
    pub seed: u64,
    pub agents: usize,
    pub agent: Demand,
    pub jobs: Vec<Job>,
    pub duration: Spread,
    pub until: Micros,
    pub every: Micros,
}

/// What each job has at one moment, as parts of the cluster.
#[derive(Debug, Clone)]
pub struct Sample {
    pub at: Micros,
    pub jobs: Vec<Shares>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Shares {
    pub cpus: f64,
    pub mem: f64,
    pub tasks: usize,
}

impl Shares {
    pub fn dominant(&self) -> f64 {
        self.cpus.max(self.mem)
    }
}

impl Drf {
    /// One machine of 9 cpus and 18 GB; tasks of <1 cpu, 4 GB> against tasks of <3 cpus, 1 GB>.
    pub fn example(seed: u64) -> Self {
        Self {
            seed,
            agents: 1,
            agent: Demand::new(9, 18 * 1024),
            jobs: vec![
                always("A", Demand::new(1, 4 * 1024), 60 * SECOND),
                always("B", Demand::new(3, 1024), 60 * SECOND),
            ],
            duration: Spread::fixed(600 * SECOND),
            until: 60 * SECOND,
            every: 10 * SECOND,
        }
    }

    /// 48 machines of 4 cpus and 14 GB, and two jobs whose tasks change every two minutes.
    pub fn dynamic(seed: u64) -> Self {
        let until = 360 * SECOND;
        let job = |name, demands: [Demand; 3]| Job {
            name,
            phases: demands
                .into_iter()
                .zip([0, 120 * SECOND, 240 * SECOND])
                .map(|(demand, from)| Phase { from, demand })
                .collect(),
            until,
            weight: 1.0,
        };
        let demand = |cpus, gb: i64| Demand::new(cpus, gb * 1024);
        Self {
            seed,
            agents: 48,
            agent: demand(4, 14),
            jobs: vec![
                job("job 1", [demand(1, 10), demand(2, 4), demand(1, 7)]),
                job("job 2", [demand(1, 1), demand(1, 3), demand(1, 4)]),
            ],
            duration: Spread {
                mean: 10 * SECOND,
                deviation: 2 * SECOND,
                least: SECOND,
            },
            until,
            every: 5 * SECOND,
        }
    }

    /// Runs to the end and returns what was seen every so often.
    pub fn run(&self) -> (World, Vec<Sample>) {
        let mut settings = Settings::calm(self.seed);
        // A look at everything costs as much as there is.
        settings.check_every = 1 + 10 * self.agents as u64;
        let mut world = World::new(settings);
        for _ in 0..self.agents {
            world.add_machine(self.agent.resources(), 0);
        }
        world.run_until(SECOND);
        let mut tenants: Vec<Option<TenantId>> = vec![None; self.jobs.len()];
        let mut phases = vec![0; self.jobs.len()];
        let mut samples = Vec::new();
        let begin = world.now();
        let mut at = 0;
        while at <= self.until {
            for (number, job) in self.jobs.iter().enumerate() {
                if at >= job.until {
                    if let Some(tenant) = tenants[number].take() {
                        world.tear_down(tenant);
                    }
                    continue;
                }
                let begun = job.phases.iter().filter(|phase| phase.from <= at).count();
                if begun > phases[number] {
                    phases[number] = begun;
                    let appetite = self.appetite(job.phases[begun - 1].demand);
                    match tenants[number] {
                        Some(tenant) => world.set_appetite(tenant, appetite),
                        None => {
                            let role = format!("role-{number}");
                            let tenant = world.add_tenant(job.name, &role, appetite, 0);
                            tenants[number] = Some(tenant);
                        }
                    }
                }
            }
            at += self.every;
            world.run_until(begin + at);
            samples.push(Sample {
                at,
                jobs: self.shares(&world, &tenants),
            });
        }
        (world, samples)
    }

    fn appetite(&self, demand: Demand) -> Appetite {
        Appetite {
            demand,
            duration: self.duration,
            per_offer: 1,
            at_once: u64::MAX,
            in_all: u64::MAX,
            chaotic: false,
        }
    }

    fn shares(&self, world: &World, tenants: &[Option<TenantId>]) -> Vec<Shares> {
        let (cpus, mem) = (
            (self.agent.cpus * self.agents as i64) as f64,
            (self.agent.mem * self.agents as i64) as f64,
        );
        let Some(view) = world.view() else {
            return vec![Shares::default(); tenants.len()];
        };
        let of = |tenant: &Option<TenantId>| {
            let id = world.framework_id((*tenant)?)?;
            let framework = view.framework(id)?;
            Some(Shares {
                cpus: framework.used.cpus().0 as f64 / cpus,
                mem: framework.used.mem().0 as f64 / mem,
                tasks: framework.tasks,
            })
        };
        tenants
            .iter()
            .map(|tenant| of(tenant).unwrap_or_default())
            .collect()
    }
}

fn always(name: &'static str, demand: Demand, until: Micros) -> Job {
    Job {
        name,
        phases: vec![Phase { from: 0, demand }],
        until: until + SECOND,
        weight: 1.0,
    }
}
