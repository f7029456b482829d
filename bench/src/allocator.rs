//! How long the allocator takes to give a whole cluster away, to find nothing to do, and to deal with one change.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Args;
use tepui_allocator::{
    AgentKey, AgentTraits, Allocation, Allocator as Core, Config, FrameworkCapabilities,
    FrameworkKey, FrameworkTerms, Quota,
};
use tepui_model::{Resources, Role, Tick, parse_quantities, parse_resources};

/// Changes over which one is averaged.
const CHANGES: usize = 1_000;

#[derive(Args, Debug)]
pub(crate) struct Allocator {
    #[arg(long, default_value_t = 10_000)]
    agents: u32,
    #[arg(long, default_value_t = 1_000)]
    frameworks: u32,
    /// Roles, among which the frameworks are spread
    #[arg(long, default_value_t = 100)]
    roles: u32,
    /// Guarantee each role its part of the cluster, and limit it to that
    #[arg(long)]
    quota: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

impl Allocator {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        ensure!(
            self.agents > 0 && self.frameworks > 0 && self.roles > 0,
            "there must be at least one agent, one framework and one role"
        );
        let mut allocator = self.cluster()?;
        let mut now = Tick(0);
        let mut cycle = |allocator: &mut Core| {
            now = Tick(now.0 + 1);
            let began = Instant::now();
            let allocations = allocator.allocate(now);
            (allocations, began.elapsed())
        };
        let (allocations, full) = cycle(&mut allocator);
        let (nothing, empty) = cycle(&mut allocator);
        ensure!(nothing.is_empty(), "a second cycle found something to give");
        let offers = allocations.len();
        let mut held = allocations;
        let began = Instant::now();
        for change in 0..CHANGES.min(held.len()) {
            let Allocation {
                agent,
                framework,
                role,
                resources,
            } = held.swap_remove(change * 7919 % held.len());
            allocator.recover(agent, framework, &role, &resources, None);
            let (given, _) = cycle(&mut allocator);
            held.extend(given);
        }
        let one_change = began.elapsed() / u32::try_from(CHANGES.min(offers))?.max(1);
        let full_ms = full.as_secs_f64() * 1e3;
        let empty_ms = empty.as_secs_f64() * 1e3;
        let change_us = one_change.as_secs_f64() * 1e6;
        let rss = resident_bytes()?;
        let Self {
            agents,
            frameworks,
            roles,
            quota,
            ..
        } = self;
        if self.json {
            let line = serde_json::json!({
                "agents": agents, "frameworks": frameworks, "roles": roles, "quota": quota,
                "full_cycle_ms": full_ms, "empty_cycle_ms": empty_ms, "one_change_us": change_us,
                "offers": offers, "rss_bytes": rss,
            });
            println!("{line}");
        } else {
            println!(
                "{agents} agents, {frameworks} frameworks, {roles} roles: {offers} offers in {full_ms:.2} ms, \
                 nothing to do in {empty_ms:.3} ms, one change in {change_us:.1} us, {} MB",
                rss >> 20
            );
        }
        Ok(())
    }

    fn cluster(&self) -> anyhow::Result<Core> {
        let mut allocator = Core::new(Config::default());
        let total = parse_resources(
            "cpus:16;mem:65536;disk:1048576;ports:[31000-32000]",
            &Role::star(),
        )?;
        let roles: Vec<Role> = (0..self.roles)
            .map(|number| Role::parse(&format!("role{number}")))
            .collect::<Result<_, _>>()?;
        if self.quota {
            allocator.set_quotas(self.quotas(&roles, &total)?);
        }
        for key in 0..self.frameworks {
            let role = &roles[key as usize % roles.len()];
            let terms = FrameworkTerms::plain(
                std::slice::from_ref(role),
                &Default::default(),
                FrameworkCapabilities::ALL,
            );
            allocator.add_framework(FrameworkKey(key), &terms);
        }
        for key in 0..self.agents {
            allocator.add_agent(AgentKey(key), total.clone(), AgentTraits::default(), &[]);
        }
        Ok(allocator)
    }

    /// Each role is guaranteed and limited to the same part of the cluster.
    fn quotas(&self, roles: &[Role], total: &Resources) -> anyhow::Result<BTreeMap<Role, Quota>> {
        let part = |amount: tepui_model::Milli| {
            amount.to_f64() * f64::from(self.agents) / f64::from(self.roles)
        };
        let text = format!(
            "cpus:{:.3};mem:{:.3}",
            part(total.cpus()),
            part(total.mem())
        );
        let guarantees = parse_quantities(&text)?;
        let limits = guarantees.iter();
        let quota = Quota {
            limits: limits.map(|(name, limit)| (name.clone(), limit)).collect(),
            guarantees,
        };
        Ok(roles
            .iter()
            .map(|role| (role.clone(), quota.clone()))
            .collect())
    }
}

fn resident_bytes() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next());
    let kibibytes: u64 = kibibytes
        .context("no VmRSS in /proc/self/status")?
        .parse()?;
    Ok(kibibytes << 10)
}
