//! Counts words on a cluster: a map task per shard, then a reduce task that fetches what the maps wrote.
//!
//! It shows the whole of what a scheduler does: match offers against what is still to launch, remember which agent got
//! what, react to the end of each task, and leave.
#![allow(clippy::print_stdout, reason = "a command's result goes to stdout")]

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use clap::Parser;
use tepui_api::v1;
use tepui_sdk_scheduler::{Config, Event, Scheduler, connect};

#[derive(Parser, Debug)]
struct Arguments {
    /// The master, host:port.
    #[arg(long, env = "TEPUI_MASTER", default_value = "127.0.0.1:5050")]
    master: String,
    /// URL of the map module.
    #[arg(long)]
    map: String,
    /// URL of the reduce module.
    #[arg(long)]
    reduce: String,
    /// Memory of each task in MB.
    #[arg(long, default_value_t = 192.0)]
    mem: f64,
    /// URLs of the shards.
    #[arg(required = true)]
    shards: Vec<String>,
}

/// What a launched task is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Map(usize),
    Reduce,
}

struct Job {
    arguments: Arguments,
    framework_id: String,
    to_launch: Vec<Part>,
    running: BTreeMap<String, Part>,
    maps_done: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let framework = v1::FrameworkInfo {
        user: "root".to_owned(),
        name: "wordcount".to_owned(),
        failover_timeout: Some(60.0),
        checkpoint: Some(true),
        ..Default::default()
    };
    let (scheduler, mut events) = connect(Config::new(arguments.master.clone(), framework));
    let mut job = Job {
        to_launch: (0..arguments.shards.len()).rev().map(Part::Map).collect(),
        arguments,
        framework_id: String::new(),
        running: BTreeMap::new(),
        maps_done: 0,
    };
    while let Some(event) = events.next().await {
        match event {
            Event::Subscribed { framework_id, .. } => job.framework_id = framework_id.value,
            Event::Offers(offers) => {
                for offer in offers {
                    job.use_offer(&scheduler, offer).await?;
                }
            }
            Event::Update(status) if job.on_update(&scheduler, &status).await? => {
                scheduler.teardown().await?;
                return Ok(());
            }
            Event::Error(error) => bail!("the master ended the framework: {error}"),
            _ => {}
        }
    }
    bail!("the connection to the master ended")
}

impl Job {
    /// Launches as many tasks as fit into the offer; what is left over goes back.
    async fn use_offer(&mut self, scheduler: &Scheduler, offer: v1::Offer) -> anyhow::Result<()> {
        let held = |name: &str| -> f64 {
            let of_that_name = offer
                .resources
                .iter()
                .filter(|resource| resource.name == name);
            of_that_name
                .filter_map(|resource| resource.scalar.as_ref())
                .map(|scalar| scalar.value)
                .sum()
        };
        let fits =
            ((held("cpus") / 0.5).floor()).min((held("mem") / self.arguments.mem).floor()) as usize;
        let mut tasks = Vec::new();
        while tasks.len() < fits {
            let Some(part) = self.to_launch.pop() else {
                break;
            };
            let task = self.task(part, &offer.agent_id);
            self.running.insert(task.task_id.value.clone(), part);
            tasks.push(task);
        }
        if tasks.is_empty() {
            scheduler
                .decline(std::slice::from_ref(&offer.id), None)
                .await?;
        } else {
            scheduler
                .launch(std::slice::from_ref(&offer.id), tasks)
                .await?;
        }
        Ok(())
    }

    fn task(&self, part: Part, agent_id: &v1::AgentId) -> v1::TaskInfo {
        let fetch = |url: &str, name: String| v1::command_info::Uri {
            value: url.to_owned(),
            output_file: Some(name),
            extract: Some(false),
            ..Default::default()
        };
        let (id, uris, words) = match part {
            Part::Map(shard) => (
                format!("map-{shard}"),
                vec![
                    fetch(&self.arguments.map, "map.wasm".to_owned()),
                    fetch(&self.arguments.shards[shard], format!("shard-{shard}.txt")),
                ],
                vec!["map.wasm".to_owned(), format!("shard-{shard}.txt")],
            ),
            Part::Reduce => {
                let mut uris = vec![fetch(&self.arguments.reduce, "reduce.wasm".to_owned())];
                let mut words = vec!["reduce.wasm".to_owned()];
                for shard in 0..self.arguments.shards.len() {
                    let counts = format!(
                        "http://{}/api/v1/tepui/logs?framework_id={}&task_id=map-{shard}&path=counts.tsv",
                        self.arguments.master, self.framework_id
                    );
                    uris.push(fetch(&counts, format!("counts-{shard}.tsv")));
                    words.push(format!("counts-{shard}.tsv"));
                }
                ("reduce".to_owned(), uris, words)
            }
        };
        let scalar = |name: &str, value: f64| v1::Resource {
            name: name.to_owned(),
            r#type: v1::value::Type::Scalar as i32,
            scalar: Some(v1::value::Scalar { value }),
            ..Default::default()
        };
        v1::TaskInfo {
            name: id.clone(),
            task_id: v1::TaskId { value: id },
            agent_id: agent_id.clone(),
            resources: vec![scalar("cpus", 0.5), scalar("mem", self.arguments.mem)],
            command: Some(v1::CommandInfo {
                uris,
                shell: Some(false),
                value: words.first().cloned(),
                arguments: words,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Returns whether the whole job is done.
    async fn on_update(
        &mut self,
        scheduler: &Scheduler,
        status: &v1::TaskStatus,
    ) -> anyhow::Result<bool> {
        if !status.state().is_terminal() {
            return Ok(false);
        }
        let Some(part) = self.running.remove(&status.task_id.value) else {
            return Ok(false);
        };
        if status.state() != v1::TaskState::TaskFinished {
            bail!(
                "{} ended as {}: {}",
                status.task_id.value,
                status.state().as_str_name(),
                status.message()
            );
        }
        match part {
            Part::Map(_) => {
                self.maps_done += 1;
                if self.maps_done == self.arguments.shards.len() {
                    self.to_launch.push(Part::Reduce);
                    scheduler.revive(&[]).await?;
                }
                Ok(false)
            }
            Part::Reduce => {
                println!("framework {}", self.framework_id);
                println!("maps {}", self.maps_done);
                let agent = status
                    .agent_id
                    .as_ref()
                    .context("a status names its agent")?;
                println!("reduced on {}", agent.value);
                Ok(true)
            }
        }
    }
}
