//! `tepui-sim mesos-paper`: how long one more task waits in a cluster that is full.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Instant;

use clap::Args;
use serde_json::json;
use tepui_sim::experiments::paper::{Outcome, Paper};
use tepui_sim::plot::{Chart, Line, draw};
use tepui_sim::{MILLISECOND, SECOND, table};

#[derive(Args, Debug)]
pub(crate) struct Command {
    /// Sizes of clusters, one after the other: 1000,10000,50000
    #[arg(long, value_delimiter = ',', default_value = "50000")]
    agents: Vec<usize>,
    #[arg(long, default_value_t = 200)]
    frameworks: usize,
    /// How many extra tasks
    #[arg(long, default_value_t = 50)]
    repetitions: usize,
    /// Milliseconds from one extra task to the next
    #[arg(long, default_value_t = 500)]
    every: u64,
    /// Virtual seconds until the first extra task
    #[arg(long, default_value_t = 60)]
    settle: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Microseconds the master takes over one input
    #[arg(long, default_value_t = 25)]
    master_cost: u64,
    /// Have the master take as long as its core really takes here; the run is then not the same twice
    #[arg(long, conflicts_with = "master_cost")]
    measure: bool,
    /// Check all invariants after each so many steps; 0 for never
    #[arg(long, default_value_t = 0)]
    check_every: u64,
    /// Print one line of JSON for each size
    #[arg(long)]
    json: bool,
    /// Write the distribution of the delays as SVG
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

impl Command {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut lines = Vec::new();
        let mut rows = Vec::new();
        for agents in &self.agents {
            let paper = Paper {
                seed: self.seed,
                agents: *agents,
                frameworks: self.frameworks,
                repetitions: self.repetitions,
                every: self.every * MILLISECOND,
                settle: self.settle * SECOND,
                master_cost: self.master_cost,
                master_clock: self.measure.then_some(nanoseconds),
                check_every: self.check_every,
                ..Paper::default()
            };
            let before = nanoseconds();
            let outcome = paper.run()?;
            let real_s = (nanoseconds() - before) as f64 / 1e9;
            if self.json {
                println!("{}", of_outcome(*agents, self.frameworks, &outcome, real_s));
            }
            rows.push(row(*agents, &outcome, real_s));
            lines.push(distribution(*agents, &outcome));
        }
        if !self.json {
            let head = [
                "agents", "busy", "mean", "median", "95 %", "99 %", "most", "to offer", "tasks",
                "virtual", "real",
            ];
            print!("{}", table::render(&head, &rows));
        }
        if let Some(path) = &self.plot {
            let chart = Chart {
                title: format!(
                    "extra delay of one more 10 s task, {} frameworks",
                    self.frameworks
                ),
                x: "milliseconds".to_owned(),
                y: "% of the tasks".to_owned(),
                top: Some(100.0),
                lines,
            };
            draw(path, &[chart])?;
        }
        Ok(())
    }
}

/// Real time since the first call.
#[allow(
    clippy::disallowed_methods,
    reason = "measures the simulation; what is simulated sees none of it unless asked to"
)]
fn nanoseconds() -> u64 {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    u64::try_from(BEGIN.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn mean(outcome: &Outcome, of: impl Fn(&tepui_sim::experiments::paper::Extra) -> f64) -> f64 {
    outcome.extras.iter().map(of).sum::<f64>() / outcome.extras.len().max(1) as f64
}

fn row(agents: usize, outcome: &Outcome, real_s: f64) -> Vec<String> {
    let ms = |seconds: f64| format!("{:.1} ms", seconds * 1000.0);
    let delay = &outcome.delay;
    vec![
        agents.to_string(),
        format!("{:.1} %", outcome.busy * 100.0),
        ms(delay.mean),
        ms(delay.p50),
        ms(delay.p95),
        ms(delay.p99),
        ms(delay.most),
        ms(mean(outcome, |extra| extra.offered)),
        outcome.counts.launched.to_string(),
        format!("{:.0} s", outcome.virtual_s),
        format!("{real_s:.1} s"),
    ]
}

fn of_outcome(
    agents: usize,
    frameworks: usize,
    outcome: &Outcome,
    real_s: f64,
) -> serde_json::Value {
    let ms = |seconds: f64| seconds * 1000.0;
    let delay = &outcome.delay;
    json!({
        "agents": agents,
        "frameworks": frameworks,
        "repetitions": outcome.extras.len(),
        "busy": outcome.busy,
        "delay_ms": {
            "mean": ms(delay.mean),
            "p50": ms(delay.p50),
            "p95": ms(delay.p95),
            "p99": ms(delay.p99),
            "max": ms(delay.most),
        },
        "subscribed_ms": ms(mean(outcome, |extra| extra.subscribed)),
        "offered_ms": ms(mean(outcome, |extra| extra.offered)),
        "running_ms": ms(mean(outcome, |extra| extra.running)),
        "delays_ms": outcome.extras.iter().map(|extra| ms(extra.delay)).collect::<Vec<_>>(),
        "tasks": outcome.counts.launched,
        "steps": outcome.counts.steps,
        "master_inputs": outcome.counts.master_inputs,
        "master_us_mean": outcome.counts.master_ns as f64 / 1e3 / outcome.counts.master_inputs.max(1) as f64,
        "master_us_max": outcome.counts.longest_ns as f64 / 1e3,
        "virtual_s": outcome.virtual_s,
        "real_s": real_s,
        "fingerprint": format!("{:016x}", outcome.fingerprint),
    })
}

/// How many of the tasks were delayed no longer than so.
fn distribution(agents: usize, outcome: &Outcome) -> Line {
    let mut delays: Vec<f64> = outcome
        .extras
        .iter()
        .map(|extra| extra.delay * 1000.0)
        .collect();
    delays.sort_by(f64::total_cmp);
    let count = delays.len() as f64;
    let points = delays
        .into_iter()
        .enumerate()
        .flat_map(|(place, delay)| {
            let step = 100.0 / count;
            [
                (delay, place as f64 * step),
                (delay, (place + 1) as f64 * step),
            ]
        })
        .collect();
    Line {
        name: format!("{agents} agents"),
        points,
    }
}
