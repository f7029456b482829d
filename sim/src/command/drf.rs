//! `tepui-sim drf`: how shares follow the jobs.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;
use tepui_sim::experiments::drf::{Drf, Sample, Shares};
use tepui_sim::plot::{Chart, Line, draw};
use tepui_sim::{SECOND, table};

#[derive(Args, Debug)]
pub(crate) struct Command {
    #[arg(long, value_enum, default_value = "dynamic")]
    mix: Mix,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    /// Write the shares over time as SVG
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum Mix {
    /// The paper's worked example: 9 cpus and 18 GB for tasks of <1 cpu, 4 GB> and of <3 cpus, 1 GB>
    Example,
    /// 48 machines and two jobs whose tasks change every two minutes
    Dynamic,
}

impl Command {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let drf = match self.mix {
            Mix::Example => Drf::example(self.seed),
            Mix::Dynamic => Drf::dynamic(self.seed),
        };
        let (world, samples) = drf.run();
        let names: Vec<&str> = drf.jobs.iter().map(|job| job.name).collect();
        if self.json {
            let samples: Vec<_> = samples
                .iter()
                .map(|sample| of_sample(sample, &names))
                .collect();
            let line = json!({
                "seed": self.seed,
                "samples": samples,
                "fingerprint": format!("{:016x}", world.fingerprint()),
            });
            println!("{line}");
        } else {
            print_table(&samples, &names);
        }
        if let Some(path) = &self.plot {
            draw(path, &charts(&samples, &names))?;
        }
        Ok(())
    }
}

fn of_sample(sample: &Sample, names: &[&str]) -> serde_json::Value {
    let jobs: Vec<_> = sample
        .jobs
        .iter()
        .zip(names)
        .map(|(shares, name)| {
            json!({
                "job": name,
                "tasks": shares.tasks,
                "cpus": shares.cpus,
                "mem": shares.mem,
                "dominant": shares.dominant(),
            })
        })
        .collect();
    json!({"s": sample.at / SECOND, "jobs": jobs})
}

fn print_table(samples: &[Sample], names: &[&str]) {
    let mut head = vec!["s".to_owned()];
    for name in names {
        head.extend([
            format!("{name}: tasks"),
            "cpus".to_owned(),
            "mem".to_owned(),
            "dominant".to_owned(),
        ]);
    }
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let rows: Vec<Vec<String>> = samples
        .iter()
        .map(|sample| {
            let mut row = vec![(sample.at / SECOND).to_string()];
            for shares in &sample.jobs {
                row.extend([
                    shares.tasks.to_string(),
                    percent(shares.cpus),
                    percent(shares.mem),
                    percent(shares.dominant()),
                ]);
            }
            row
        })
        .collect();
    print!("{}", table::render(&head, &rows));
}

fn charts(samples: &[Sample], names: &[&str]) -> Vec<Chart> {
    let chart = |title: &str, share: &dyn Fn(&Shares) -> f64| Chart {
        title: title.to_owned(),
        x: "seconds".to_owned(),
        y: "% of the cluster".to_owned(),
        top: Some(100.0),
        lines: names
            .iter()
            .enumerate()
            .map(|(number, name)| Line {
                name: (*name).to_owned(),
                points: samples
                    .iter()
                    .map(|sample| {
                        let seconds = sample.at as f64 / SECOND as f64;
                        (seconds, share(&sample.jobs[number]) * 100.0)
                    })
                    .collect(),
            })
            .collect(),
    };
    vec![
        chart("cpus", &|shares| shares.cpus),
        chart("memory", &|shares| shares.mem),
        chart("dominant shares", &|shares| shares.dominant()),
    ]
}
