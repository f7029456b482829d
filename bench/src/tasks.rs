//! How many short wasm tasks a second go all the way: ACCEPT, start, TASK_RUNNING, TASK_FINISHED, acknowledged.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use tepui_api::v1;
use tepui_sdk_scheduler::{Config, Event, connect};

use crate::cluster::{Cluster, tepui};

#[derive(Args, Debug)]
pub(crate) struct Tasks {
    /// How many tasks
    #[arg(long, default_value_t = 10_000)]
    count: usize,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Does nothing at all: what is measured is the way there and back.
const NOTHING: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;

impl Tasks {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let cluster = Cluster::start("cpus:16;mem:16384")?;
        let module = cluster.folder.path().join("nothing.wat");
        std::fs::write(&module, NOTHING)?;
        let output = Command::new(tepui()?)
            .args(["artifact", "put", "--json", &module.display().to_string()])
            .env("TEPUI_MASTER", &cluster.master)
            .output()?;
        let artifact: serde_json::Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let url = artifact["url"].as_str().context("an artifact has a url")?;
        let sha256 = artifact["sha256"]
            .as_str()
            .context("an artifact has a digest")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        // The first tasks start the executor and compile the module; they are not counted.
        let took = runtime
            .block_on(async { launch_all(&cluster.master, url, sha256, 16, self.count).await })?;
        let rate = self.count as f64 / took.as_secs_f64();
        if self.json {
            let line = serde_json::json!({ "tasks": self.count, "seconds": took.as_secs_f64(), "tasks_per_s": rate });
            println!("{line}");
        } else {
            println!(
                "{} wasm tasks in {:.2} s: {rate:.0} tasks/s",
                self.count,
                took.as_secs_f64()
            );
        }
        Ok(())
    }
}

/// Runs `warm` tasks to their end, then `count` more, and returns how long those took.
async fn launch_all(
    master: &str,
    url: &str,
    sha256: &str,
    warm: usize,
    count: usize,
) -> anyhow::Result<Duration> {
    let framework = v1::FrameworkInfo {
        user: "root".to_owned(),
        name: "bench".to_owned(),
        ..Default::default()
    };
    let (scheduler, mut events) = connect(Config::new(master.to_owned(), framework));
    let scalar = |name: &str, value: f64| v1::Resource {
        name: name.to_owned(),
        r#type: v1::value::Type::Scalar as i32,
        scalar: Some(v1::value::Scalar { value }),
        ..Default::default()
    };
    let (mut launched, mut finished) = (0, 0);
    let mut began = Instant::now();
    while let Some(event) = events.next().await {
        match event {
            Event::Offers(offers) => {
                for offer in offers {
                    let cpus: f64 = offer
                        .resources
                        .iter()
                        .filter(|resource| resource.name == "cpus")
                        .filter_map(|resource| resource.scalar.as_ref())
                        .map(|scalar| scalar.value)
                        .sum();
                    let wanted = if finished < warm { warm } else { warm + count };
                    let fit = ((cpus / 0.01) as usize).min(wanted.saturating_sub(launched));
                    let tasks: Vec<v1::TaskInfo> = (0..fit)
                        .map(|number| v1::TaskInfo {
                            name: "nothing".to_owned(),
                            task_id: v1::TaskId {
                                value: format!("t{}", launched + number),
                            },
                            agent_id: offer.agent_id.clone(),
                            resources: vec![scalar("cpus", 0.01), scalar("mem", 2.0)],
                            command: Some(v1::CommandInfo {
                                uris: vec![v1::command_info::Uri {
                                    value: url.to_owned(),
                                    output_file: Some("nothing.wat".to_owned()),
                                    sha256: Some(sha256.to_owned()),
                                    cache: Some(true),
                                    ..Default::default()
                                }],
                                shell: Some(false),
                                value: Some("nothing.wat".to_owned()),
                                ..Default::default()
                            }),
                            ..Default::default()
                        })
                        .collect();
                    launched += fit;
                    if tasks.is_empty() {
                        scheduler
                            .decline(std::slice::from_ref(&offer.id), Some(Duration::ZERO))
                            .await?;
                    } else {
                        let filters = v1::Filters {
                            refuse_seconds: Some(0.0),
                        };
                        let operation = v1::offer::Operation {
                            r#type: Some(v1::offer::operation::Type::Launch as i32),
                            launch: Some(v1::offer::operation::Launch { task_infos: tasks }),
                            ..Default::default()
                        };
                        scheduler
                            .accept(
                                std::slice::from_ref(&offer.id),
                                vec![operation],
                                Some(filters),
                            )
                            .await?;
                    }
                }
            }
            Event::Update(status) => match status.state() {
                v1::TaskState::TaskFinished => {
                    finished += 1;
                    if finished == warm {
                        began = Instant::now();
                        scheduler.revive(&[]).await?;
                    }
                    if finished == warm + count {
                        let took = began.elapsed();
                        scheduler.teardown().await?;
                        return Ok(took);
                    }
                }
                state if state.is_terminal() => {
                    bail!("a task ended as {state:?}: {}", status.message())
                }
                _ => {}
            },
            Event::Error(error) => bail!("{error}"),
            _ => {}
        }
    }
    bail!("the connection to the master ended")
}
