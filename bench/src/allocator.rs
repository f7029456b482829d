//! How long the allocator takes to give a whole cluster away, to find nothing to do, and to deal with one change.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use tepui_allocator::{
    AgentKey, AgentTraits, Allocation, Allocator as Core, Config, FrameworkCapabilities,
    FrameworkKey, FrameworkTerms, Obstacle, Quota,
};
use tepui_model::{Resources, Role, Tick, parse_quantities, parse_resources};

use crate::clock::{Span, Stopwatch};

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
    /// Clusters that are given away, each made anew; the median is told
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    /// Print a row of a table
    #[arg(long, conflicts_with = "json")]
    row: bool,
}

/// What was measured on one cluster.
struct Measured {
    full: Span,
    empty: Span,
    one_change: Span,
    /// Why one framework is offered nothing of one agent.
    one_answer: Span,
    offers: usize,
    rss_bytes: u64,
}

impl Allocator {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        ensure!(
            self.agents > 0 && self.frameworks > 0 && self.roles > 0 && self.runs > 0,
            "there must be at least one agent, one framework, one role and one run"
        );
        let mut runs: Vec<Measured> = (0..self.runs)
            .map(|_| self.measure())
            .collect::<anyhow::Result<_>>()?;
        let mut median = |of: fn(&Measured) -> Duration| {
            runs.sort_by_key(of);
            of(&runs[runs.len() / 2])
        };
        let full = Span {
            wall: median(|run| run.full.wall),
            cpu: median(|run| run.full.cpu),
        };
        let empty = Span {
            wall: median(|run| run.empty.wall),
            cpu: median(|run| run.empty.cpu),
        };
        let change = Span {
            wall: median(|run| run.one_change.wall),
            cpu: median(|run| run.one_change.cpu),
        };
        let answer = Span {
            wall: median(|run| run.one_answer.wall),
            cpu: median(|run| run.one_answer.cpu),
        };
        let rss_bytes = runs.iter().map(|run| run.rss_bytes).max().unwrap_or(0);
        let offers = runs.iter().map(|run| run.offers).max().unwrap_or(0);
        let Self {
            agents,
            frameworks,
            roles,
            quota,
            runs,
            ..
        } = self;
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let us = |duration: Duration| duration.as_secs_f64() * 1e6;
        if self.json {
            let line = serde_json::json!({
                "agents": agents, "frameworks": frameworks, "roles": roles, "quota": quota, "runs": runs,
                "full_cycle_ms": ms(full.wall), "full_cycle_cpu_ms": ms(full.cpu),
                "empty_cycle_ms": ms(empty.wall), "empty_cycle_cpu_ms": ms(empty.cpu),
                "one_change_us": us(change.wall), "one_change_cpu_us": us(change.cpu),
                "one_answer_us": us(answer.wall), "one_answer_cpu_us": us(answer.cpu),
                "offers": offers, "rss_bytes": rss_bytes,
            });
            println!("{line}");
            return Ok(());
        }
        let quotas = if quota { "each a quota" } else { "none" };
        let (full_ms, full_cpu) = (ms(full.wall), ms(full.cpu));
        let (empty_ms, change_us, rss) = (ms(empty.wall), us(change.wall), rss_bytes >> 20);
        if self.row {
            println!(
                "| {agents} | {frameworks} | {roles} | {quotas} | {offers} | {full_ms:.1} | {full_cpu:.1} | {empty_ms:.3} | {change_us:.1} | {rss} |"
            );
        } else {
            println!(
                "{agents} agents, {frameworks} frameworks, {roles} roles, quotas: {quotas}: {offers} offers in {full_ms:.1} ms \
                 ({full_cpu:.1} ms of CPU), nothing to do in {empty_ms:.3} ms, one change in {change_us:.1} us, {rss} MB"
            );
        }
        Ok(())
    }

    fn measure(&self) -> anyhow::Result<Measured> {
        let mut allocator = self.cluster()?;
        let watch = Stopwatch::start();
        let allocations = allocator.allocate(Tick(1));
        let full = watch.span();
        let watch = Stopwatch::start();
        let nothing = allocator.allocate(Tick(2));
        let empty = watch.span();
        ensure!(nothing.is_empty(), "a second cycle found something to give");
        let offers = allocations.len();
        let mut held = allocations;
        let changes = CHANGES.min(offers);
        let watch = Stopwatch::start();
        for change in 0..changes {
            let Allocation {
                agent,
                framework,
                role,
                resources,
            } = held.swap_remove(change * 7919 % held.len());
            allocator.recover(agent, framework, &role, &resources, None);
            held.extend(allocator.allocate(Tick(3 + change as u64)));
        }
        let one_change = watch.span() / u32::try_from(changes)?.max(1);
        let one_answer = explain(&mut allocator, held.swap_remove(0))?;
        Ok(Measured {
            full,
            empty,
            one_change,
            one_answer,
            offers,
            rss_bytes: resident_bytes()?,
        })
    }

    fn cluster(&self) -> anyhow::Result<Core> {
        let mut allocator = Core::new(Config::default());
        // Parsed for each agent anew, so that no two share what they have.
        let total = || {
            parse_resources(
                "cpus:16;mem:65536;disk:1048576;ports:[31000-32000]",
                &Role::star(),
            )
        };
        let roles: Vec<Role> = (0..self.roles)
            .map(|number| Role::parse(&format!("role{number}")))
            .collect::<Result<_, _>>()?;
        if self.quota {
            allocator.set_quotas(self.quotas(&roles, &total()?)?);
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
            allocator.add_agent(AgentKey(key), total()?, AgentTraits::default(), &[]);
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

/// How long it takes to say why a framework is offered nothing of an agent: what it held there it now refuses.
fn explain(allocator: &mut Core, refused: Allocation) -> anyhow::Result<Span> {
    let Allocation {
        framework,
        role,
        agent,
        resources,
    } = refused;
    let for_ever = Some(Tick(u64::MAX));
    allocator.recover(agent, framework, &role, &resources, for_ever);
    let watch = Stopwatch::start();
    for _ in 0..CHANGES {
        let obstacle = allocator.obstacle(std::hint::black_box(agent), framework, &role);
        ensure!(
            matches!(obstacle, Some(Obstacle::Refused { .. })),
            "the framework refuses the agent, and that is not what is said: {obstacle:?}"
        );
    }
    Ok(watch.span() / u32::try_from(CHANGES)?)
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
