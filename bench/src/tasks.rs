//! How many short tasks a second go all the way: ACCEPT, start, TASK_RUNNING, TASK_FINISHED, acknowledged; and how long
//! one alone takes.

use std::collections::VecDeque;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use tepui_api::v1;
use tepui_sdk_scheduler::{Config, Event, Events, Scheduler, connect};

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

/// Measures on demand, so that somebody else's figures can be taken in between.
#[derive(Args, Debug)]
pub(crate) struct OnDemand {}

/// Does nothing at all: what is measured is the way there and back.
const NOTHING: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
/// Tasks that start an executor and compile the module, before anything is counted.
const WARM: usize = 16;
/// For how long offers are refused while nothing is measured. REVIVE ends it.
const PAUSE: Duration = Duration::from_secs(3600);

impl Tasks {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let cluster = Cluster::start("cpus:16;mem:16384")?;
        let took = runtime()?.block_on(async {
            let mut runner = Runner::subscribe(&cluster)?;
            runner.run(Kind::Wasm, WARM).await?;
            let took = runner.run(Kind::Wasm, self.count).await?;
            runner.scheduler.teardown().await?;
            anyhow::Ok(took)
        })?;
        let rate = self.count as f64 / took.as_secs_f64();
        if self.json {
            let line =
                json!({ "tasks": self.count, "seconds": took.as_secs_f64(), "tasks_per_s": rate });
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

impl OnDemand {
    /// Each line of stdin is `wasm` or `native`, `rate` or `alone`, and how many; each is answered by a line of JSON:
    /// `{"seconds": S}` for all together, `{"ms": [...]}` for one after the other.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let cluster = Cluster::start("cpus:16;mem:16384")?;
        runtime()?.block_on(async {
            let mut runner = Runner::subscribe(&cluster)?;
            for kind in [Kind::Wasm, Kind::Native] {
                runner.run(kind, WARM).await?;
            }
            while let Some(line) = runner.line().await? {
                let answer = runner.answer(&line).await?;
                println!("{answer}");
                std::io::stdout().flush()?;
            }
            runner.scheduler.teardown().await?;
            Ok(())
        })
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An empty module.
    Wasm,
    /// `/bin/true`.
    Native,
}

/// A framework that runs short tasks, so many at a time.
struct Runner {
    scheduler: Scheduler,
    events: Events,
    module: v1::command_info::Uri,
    /// In hand.
    offers: VecDeque<v1::Offer>,
    /// Of all tasks so far.
    launched: usize,
}

impl Runner {
    /// Must be called inside a runtime.
    fn subscribe(cluster: &Cluster) -> anyhow::Result<Self> {
        let module = cluster.folder.path().join("nothing.wat");
        std::fs::write(&module, NOTHING)?;
        let output = Command::new(tepui()?)
            .args(["artifact", "put", "--json", &module.display().to_string()])
            .env("TEPUI_MASTER", &cluster.master)
            .output()?;
        let artifact: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let text = |name: &str| artifact[name].as_str().map(str::to_owned);
        let framework = v1::FrameworkInfo {
            user: "root".to_owned(),
            name: "bench".to_owned(),
            ..Default::default()
        };
        let (scheduler, events) = connect(Config::new(cluster.master.clone(), framework));
        Ok(Self {
            scheduler,
            events,
            module: v1::command_info::Uri {
                value: text("url").context("an artifact has a url")?,
                output_file: Some("nothing.wat".to_owned()),
                sha256: Some(text("sha256").context("an artifact has a digest")?),
                cache: Some(true),
                ..Default::default()
            },
            offers: VecDeque::new(),
            launched: 0,
        })
    }

    async fn answer(&mut self, line: &str) -> anyhow::Result<Value> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [kind, how, count] = words.as_slice() else {
            bail!("{line:?}: three words are wanted, as in: wasm rate 1000");
        };
        let kind = match *kind {
            "wasm" => Kind::Wasm,
            "native" => Kind::Native,
            _ => bail!("{kind:?} is neither wasm nor native"),
        };
        let count: usize = count
            .parse()
            .with_context(|| format!("{count:?} is no number of tasks"))?;
        match *how {
            "rate" => Ok(json!({ "seconds": self.run(kind, count).await?.as_secs_f64() })),
            "alone" => {
                let took = self.alone(kind, count).await?;
                let ms: Vec<f64> = took.iter().map(|one| one.as_secs_f64() * 1e3).collect();
                Ok(json!({ "ms": ms }))
            }
            _ => bail!("{how:?} is neither rate nor alone"),
        }
    }

    /// The next line of stdin; what happens in the meantime is heard.
    async fn line(&mut self) -> anyhow::Result<Option<String>> {
        let mut line = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin()
                .read_line(&mut line)
                .map(|read| (read, line))
        });
        loop {
            tokio::select! {
                line = &mut line => {
                    let (read, line) = line??;
                    return Ok((read > 0).then_some(line));
                }
                event = self.events.next() => {
                    self.hear(event)?;
                    self.pause().await?;
                }
            }
        }
    }

    /// Keeps offers, and returns a status. Anything that ends a task but TASK_FINISHED is an error.
    fn hear(&mut self, event: Option<Event>) -> anyhow::Result<Option<v1::TaskState>> {
        match event {
            Some(Event::Offers(offers)) => self.offers.extend(offers),
            Some(Event::Rescinded(id)) => self.offers.retain(|offer| offer.id != id),
            Some(Event::Update(status)) => match status.state() {
                v1::TaskState::TaskFinished => return Ok(Some(status.state())),
                state if state.is_terminal() => {
                    bail!("a task ended as {state:?}: {}", status.message())
                }
                state => return Ok(Some(state)),
            },
            Some(Event::Error(error)) => bail!("{error}"),
            Some(_) => {}
            None => bail!("the connection to the master ended"),
        }
        Ok(None)
    }

    /// Gives offers in hand back for a long time.
    async fn pause(&mut self) -> anyhow::Result<()> {
        let ids: Vec<v1::OfferId> = self.offers.drain(..).map(|offer| offer.id).collect();
        if !ids.is_empty() {
            self.scheduler.decline(&ids, Some(PAUSE)).await?;
        }
        Ok(())
    }

    /// How long it takes from asking for offers until so many tasks are over.
    async fn run(&mut self, kind: Kind, count: usize) -> anyhow::Result<Duration> {
        let began = Instant::now();
        if self.scheduler.framework_id().is_some() {
            self.scheduler.revive(&[]).await?;
        }
        let (mut left, mut finished) = (count, 0);
        while finished < count {
            let event = self.events.next().await;
            if self.hear(event)? == Some(v1::TaskState::TaskFinished) {
                finished += 1;
            }
            if left == 0 {
                self.pause().await?;
            }
            while let Some(offer) = self.offers.pop_front() {
                left -= self.launch(kind, vec![offer], left).await?;
            }
        }
        let took = began.elapsed();
        self.pause().await?;
        Ok(took)
    }

    /// How long each of so many tasks takes by itself, from its ACCEPT, with an offer in hand, until its end is seen.
    async fn alone(&mut self, kind: Kind, count: usize) -> anyhow::Result<Vec<Duration>> {
        self.scheduler.revive(&[]).await?;
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            while self.offers.is_empty() {
                let event = self.events.next().await;
                self.hear(event)?;
            }
            let offers = self.offers.drain(..).collect();
            let began = Instant::now();
            if self.launch(kind, offers, 1).await? == 0 {
                continue;
            }
            loop {
                let event = self.events.next().await;
                if self.hear(event)? == Some(v1::TaskState::TaskFinished) {
                    break;
                }
            }
            all.push(began.elapsed());
        }
        self.pause().await?;
        Ok(all)
    }

    /// Launches as many tasks on these offers, all of one agent, as they have room for, and returns how many.
    async fn launch(
        &mut self,
        kind: Kind,
        offers: Vec<v1::Offer>,
        most: usize,
    ) -> anyhow::Result<usize> {
        let has = |name: &str| -> f64 {
            let all = offers.iter().flat_map(|offer| &offer.resources);
            all.filter(|one| one.name == name)
                .filter_map(|one| Some(one.scalar.as_ref()?.value))
                .sum()
        };
        let (cpus, mem) = match kind {
            Kind::Wasm => (0.01, 2.0),
            Kind::Native => (0.1, 16.0),
        };
        let room = (has("cpus") / cpus).min(has("mem") / mem) as usize;
        let fit = room.min(most);
        let ids: Vec<v1::OfferId> = offers.iter().map(|offer| offer.id.clone()).collect();
        let Some(first) = offers.first().filter(|_| fit > 0) else {
            self.scheduler.decline(&ids, Some(Duration::ZERO)).await?;
            return Ok(0);
        };
        let scalar = |name: &str, value: f64| v1::Resource {
            name: name.to_owned(),
            r#type: v1::value::Type::Scalar as i32,
            scalar: Some(v1::value::Scalar { value }),
            ..Default::default()
        };
        let command = match kind {
            Kind::Wasm => v1::CommandInfo {
                uris: vec![self.module.clone()],
                shell: Some(false),
                value: Some("nothing.wat".to_owned()),
                ..Default::default()
            },
            Kind::Native => v1::CommandInfo {
                shell: Some(false),
                value: Some("/bin/true".to_owned()),
                arguments: vec!["true".to_owned()],
                ..Default::default()
            },
        };
        let tasks = (0..fit)
            .map(|number| v1::TaskInfo {
                name: "nothing".to_owned(),
                task_id: v1::TaskId {
                    value: format!("t{}", self.launched + number),
                },
                agent_id: first.agent_id.clone(),
                resources: vec![scalar("cpus", cpus), scalar("mem", mem)],
                command: Some(command.clone()),
                ..Default::default()
            })
            .collect();
        self.launched += fit;
        let operation = v1::offer::Operation {
            r#type: Some(v1::offer::operation::Type::Launch as i32),
            launch: Some(v1::offer::operation::Launch { task_infos: tasks }),
            ..Default::default()
        };
        let filters = v1::Filters {
            refuse_seconds: Some(0.0),
        };
        self.scheduler
            .accept(&ids, vec![operation], Some(filters))
            .await?;
        Ok(fit)
    }
}
