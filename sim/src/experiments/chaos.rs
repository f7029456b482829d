//! A small cluster of which everything breaks for a while; then it has to come to rest.

use tepui_api::v1;
use tepui_api::v1::framework_info::{Capability, capability};

use crate::{
    Appetite, Demand, Faults, MILLISECOND, Micros, Plant, SECOND, Settings, Spread, World,
};

/// How long after the last fault everything must be at rest. The longest timeouts in a row are less than that.
const REST: Micros = 240 * SECOND;

/// One run, but for its seed.
#[derive(Debug, Clone, Copy)]
pub struct Chaos {
    pub agents: usize,
    pub tenants: usize,
    /// For how long things break.
    pub storm: Micros,
    pub check_every: u64,
    pub plant: Option<Plant>,
    /// Nothing breaks; schedulers only take what they want.
    pub calm: bool,
    pub full_trace: bool,
    pub log: Option<fn(&str)>,
}

impl Default for Chaos {
    fn default() -> Self {
        Self {
            agents: 5,
            tenants: 4,
            storm: 60 * SECOND,
            check_every: 1,
            plant: None,
            calm: false,
            full_trace: false,
            log: None,
        }
    }
}

impl Chaos {
    /// Runs from a seed to the end. Panics with a sentence if an invariant does not hold.
    pub fn run(&self, seed: u64) -> World {
        let settings = match self.calm {
            true => Settings::calm(seed),
            false => Settings::stormy(seed),
        };
        let mut world = World::new(Settings {
            check_every: self.check_every,
            plant: self.plant,
            full_trace: self.full_trace,
            log: self.log,
            ..settings
        });
        for _ in 0..self.agents {
            let starts = world.chance.between(0, 3 * SECOND);
            world.add_machine(Demand::new(4, 2048).resources(), starts);
        }
        for tenant in 0..self.tenants {
            self.add_tenant(&mut world, tenant);
        }
        let calm_until = 5 * SECOND;
        world.run_until(calm_until);
        if !self.calm {
            world.begin_faults(Faults {
                until: calm_until + self.storm,
                least: 10 * MILLISECOND,
                most: 3 * SECOND,
            });
        }
        world.run_until(calm_until + self.storm);
        world.heal();
        world.wind_down();
        world.run_until(world.now() + 10 * SECOND);
        world.settings.mishaps = crate::Mishaps::default();
        world.reactivate_all();
        let until = world.now() + REST;
        while let Some(sentence) = world.unrest() {
            assert!(world.now() < until, "no rest: {sentence}");
            world.run_until(world.now() + 5 * SECOND);
        }
        world.check();
        world
    }

    fn add_tenant(&self, world: &mut World, tenant: usize) {
        let roles = ["*", "web", "eng/a", "eng/b"];
        let capabilities = [
            capability::Type::PartitionAware,
            capability::Type::TaskKillingState,
            capability::Type::ReservationRefinement,
        ];
        let capabilities = capabilities
            .into_iter()
            .filter(|_| world.chance.odds(500))
            .map(|kind| Capability {
                r#type: Some(kind.into()),
            })
            .collect();
        let info = v1::FrameworkInfo {
            user: "user".to_owned(),
            name: format!("t{tenant}"),
            role: Some(roles[tenant % roles.len()].to_owned()),
            checkpoint: Some(world.chance.odds(600)),
            failover_timeout: Some(world.chance.between(2, 90) as f64),
            capabilities,
            ..v1::FrameworkInfo::default()
        };
        let appetite = Appetite {
            demand: Demand::new(1, 256),
            duration: Spread {
                mean: 4 * SECOND,
                deviation: 2 * SECOND,
                least: 0,
            },
            per_offer: 2,
            at_once: 100,
            in_all: u64::MAX,
            chaotic: !self.calm,
        };
        let starts = world.chance.between(0, 3 * SECOND);
        world.add_tenant_with(info, appetite, starts);
    }
}
