//! A framework for measurements: it subscribes, uploads a module, launches tasks of it and hears what becomes of them.

use std::collections::VecDeque;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use tepui_api::v1;
use tepui_sdk_scheduler::{Config, Event, Events, Scheduler, connect};

use crate::cluster::{Cluster, tepui};

/// A module at the master.
#[derive(Debug, Clone)]
pub(crate) struct Artifact {
    url: String,
    sha256: String,
}

/// A task to be launched.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) id: String,
    pub(crate) artifact: Artifact,
    pub(crate) cpus: f64,
    pub(crate) mem: f64,
}

pub(crate) struct Workload {
    pub(crate) scheduler: Scheduler,
    events: Events,
    offers: VecDeque<v1::Offer>,
    updates: VecDeque<v1::TaskStatus>,
    /// What was launched last, in case its offer was taken back at that moment.
    launched: Vec<Wanted>,
}

impl Artifact {
    pub(crate) fn put(cluster: &Cluster, name: &str, text: &str) -> anyhow::Result<Self> {
        let module = cluster.folder.path().join(format!("{name}.wat"));
        std::fs::write(&module, text)?;
        let output = Command::new(tepui()?)
            .args(["artifact", "put", "--json", &module.display().to_string()])
            .env("TEPUI_MASTER", &cluster.master)
            .output()?;
        let artifact: serde_json::Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let text = |name: &str| artifact[name].as_str().map(str::to_owned);
        Ok(Self {
            url: text("url").context("an artifact has a url")?,
            sha256: text("sha256").context("an artifact has a digest")?,
        })
    }
}

impl Workload {
    /// Must be called inside a runtime.
    pub(crate) fn subscribe(cluster: &Cluster) -> Self {
        let framework = v1::FrameworkInfo {
            user: "root".to_owned(),
            name: "bench".to_owned(),
            ..Default::default()
        };
        let (scheduler, events) = connect(Config::new(cluster.master.clone(), framework));
        Self {
            scheduler,
            events,
            offers: VecDeque::new(),
            updates: VecDeque::new(),
            launched: Vec::new(),
        }
    }

    async fn hear(&mut self) -> anyhow::Result<()> {
        match self.events.next().await {
            Some(Event::Offers(offers)) => self.offers.extend(offers),
            // Small offers that lie are taken back and come again as a larger one.
            Some(Event::Rescinded(id)) => self.offers.retain(|offer| offer.id != id),
            Some(Event::Update(status)) => self.updates.push_back(*Box::new(status)),
            Some(Event::Error(error)) => bail!("{error}"),
            Some(_) => {}
            None => bail!("the connection to the master ended"),
        }
        Ok(())
    }

    /// The next update, acknowledged.
    pub(crate) async fn update(&mut self) -> anyhow::Result<v1::TaskStatus> {
        loop {
            if let Some(status) = self.updates.pop_front() {
                return Ok(status);
            }
            self.hear().await?;
        }
    }

    /// Launches all of them on the next offer, which must have room.
    pub(crate) async fn launch(&mut self, wanted: &[Wanted]) -> anyhow::Result<()> {
        let offer = loop {
            if let Some(offer) = self.offers.pop_front() {
                let has = |name: &str| -> f64 {
                    let named = offer.resources.iter().filter(|one| one.name == name);
                    named
                        .filter_map(|one| Some(one.scalar.as_ref()?.value))
                        .sum()
                };
                let cpus: f64 = wanted.iter().map(|one| one.cpus).sum();
                let mem: f64 = wanted.iter().map(|one| one.mem).sum();
                if has("cpus") >= cpus && has("mem") >= mem {
                    break offer;
                }
                // What was freed in the meantime comes back together with the rest.
                let id = std::slice::from_ref(&offer.id);
                self.scheduler.decline(id, Some(Duration::ZERO)).await?;
                continue;
            }
            self.hear().await?;
        };
        let tasks = wanted.iter().map(|one| task(one, &offer)).collect();
        let operation = v1::offer::Operation {
            r#type: Some(v1::offer::operation::Type::Launch as i32),
            launch: Some(v1::offer::operation::Launch { task_infos: tasks }),
            ..Default::default()
        };
        let filters = v1::Filters {
            refuse_seconds: Some(0.0),
        };
        self.launched = wanted.to_vec();
        let ids = std::slice::from_ref(&offer.id);
        self.scheduler
            .accept(ids, vec![operation], Some(filters))
            .await?;
        Ok(())
    }

    /// Waits until so many tasks are in that state; an error if one ends otherwise.
    pub(crate) async fn until(
        &mut self,
        state: v1::TaskState,
        count: usize,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let all = async {
            let (mut seen, mut refused) = (0, 0);
            while seen < count {
                let status = self.update().await?;
                if status.reason() == v1::task_status::Reason::InvalidOffers {
                    // All tasks of the ACCEPT are told so, one by one.
                    refused += 1;
                    if refused == self.launched.len() {
                        refused = 0;
                        let again = std::mem::take(&mut self.launched);
                        self.launch(&again).await?;
                    }
                    continue;
                }
                if status.state() == state {
                    seen += 1;
                } else if status.state().is_terminal() {
                    let (id, state) = (&status.task_id.value, status.state());
                    bail!("{id} ended as {state:?}: {}", status.message());
                }
            }
            Ok(())
        };
        tokio::time::timeout(patience, all)
            .await
            .with_context(|| format!("waiting for {count} tasks to be {state:?}"))?
    }
}

fn task(wanted: &Wanted, offer: &v1::Offer) -> v1::TaskInfo {
    let scalar = |name: &str, value: f64| v1::Resource {
        name: name.to_owned(),
        r#type: v1::value::Type::Scalar as i32,
        scalar: Some(v1::value::Scalar { value }),
        ..Default::default()
    };
    v1::TaskInfo {
        name: wanted.id.clone(),
        task_id: v1::TaskId {
            value: wanted.id.clone(),
        },
        agent_id: offer.agent_id.clone(),
        resources: vec![scalar("cpus", wanted.cpus), scalar("mem", wanted.mem)],
        command: Some(v1::CommandInfo {
            uris: vec![v1::command_info::Uri {
                value: wanted.artifact.url.clone(),
                output_file: Some("guest.wat".to_owned()),
                sha256: Some(wanted.artifact.sha256.clone()),
                cache: Some(true),
                ..Default::default()
            }],
            shell: Some(false),
            value: Some("guest.wat".to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    }
}
