//! What placing tasks where their bytes are is worth: the same jobs on the same agents, once placed by what agents hold,
//! once at random, and how many bytes were moved and how long it took.
//!
//! All processes run on this machine. What agents fetch from is a server whose link has a bound, as a network has.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tepui_api::{ext, v1};
use tepui_sdk_scheduler::{Choice, Config, Event, Events, Held, Placement, Scheduler, connect};

use crate::cluster::Cluster;

#[derive(Args, Debug)]
pub(crate) struct Locality {
    /// How many agents, of 2 cpus each
    #[arg(long, default_value_t = 4)]
    agents: usize,
    /// How many jobs, each of which reads one input
    #[arg(long, default_value_t = 40)]
    jobs: usize,
    /// How many inputs there are, each on one agent at the beginning
    #[arg(long, default_value_t = 8)]
    inputs: usize,
    /// The size of an input in MB
    #[arg(long, default_value_t = 64)]
    mb: usize,
    /// What the link that all agents fetch over carries, in Mbit/s
    #[arg(long, default_value_t = 1000)]
    link_mbit: u64,
    /// How long a job waits for an agent that holds its input
    #[arg(long, default_value_t = 3.0)]
    wait_seconds: f64,
    /// Where chance begins
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Random,
    Local,
}

#[derive(Debug)]
struct Input {
    url: String,
    sha256: String,
    bytes: u64,
}

/// What one run of all jobs took.
#[derive(Debug)]
struct Figures {
    bytes_moved: u64,
    seconds: f64,
}

/// Numbers that are the same in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit.max(1)
    }
}

impl Locality {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let origin = Origin::start(self.inputs, self.mb, self.link_mbit)?;
        let mut chance = Chance(self.seed);
        let jobs: Vec<usize> = (0..self.jobs).map(|_| chance.below(self.inputs)).collect();
        let random = self.measure(Mode::Random, &origin, &jobs)?;
        let local = self.measure(Mode::Local, &origin, &jobs)?;
        let bytes_ratio = local.bytes_moved as f64 / random.bytes_moved.max(1) as f64;
        let seconds_ratio = local.seconds / random.seconds;
        if self.json {
            let of = |figures: &Figures| json!({ "bytes_moved": figures.bytes_moved, "seconds": figures.seconds });
            let line = json!({
                "agents": self.agents, "jobs": self.jobs, "inputs": self.inputs,
                "input_bytes": self.mb << 20, "link_mbit": self.link_mbit,
                "random": of(&random), "locality": of(&local),
                "bytes_ratio": bytes_ratio, "seconds_ratio": seconds_ratio,
            });
            println!("{line}");
            return Ok(());
        }
        println!(
            "{} jobs, each reading one of {} inputs of {} MB, on {} agents; link {} Mbit/s",
            self.jobs, self.inputs, self.mb, self.agents, self.link_mbit
        );
        for (name, figures) in [("random", &random), ("locality", &local)] {
            let megabytes = figures.bytes_moved as f64 / f64::from(1 << 20);
            println!(
                "{name:<10} {megabytes:>8.0} MB moved  {:>7.2} s",
                figures.seconds
            );
        }
        println!("locality / random: bytes {bytes_ratio:.2}, time {seconds_ratio:.2}");
        Ok(())
    }

    /// A new cluster, on which each input lies on one agent, runs all the jobs.
    fn measure(&self, mode: Mode, origin: &Origin, jobs: &[usize]) -> anyhow::Result<Figures> {
        let cluster = Cluster::start_many(self.agents, "cpus:2;mem:2048;disk:10240")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let master = cluster.master.clone();
        let figures = runtime.block_on(async {
            let mut framework = Framework::subscribe(&master, &origin.inputs);
            framework.spread(self.agents).await?;
            let before = held_bytes(&master, origin.inputs.len()).await?;
            let began = Instant::now();
            let wait = match mode {
                Mode::Random => Duration::ZERO,
                Mode::Local => Duration::from_secs_f64(self.wait_seconds),
            };
            framework
                .run_all(mode, jobs, wait, Chance(self.seed))
                .await?;
            let seconds = began.elapsed().as_secs_f64();
            framework.scheduler.teardown().await?;
            // What is held is told a moment after it came.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let after = held_bytes(&master, 0).await?;
            anyhow::Ok(Figures {
                bytes_moved: after.saturating_sub(before),
                seconds,
            })
        });
        drop(runtime);
        figures
    }
}

/// The bytes of fetched files on all agents, once there are at least so many files.
async fn held_bytes(master: &str, files: usize) -> anyhow::Result<u64> {
    for _ in 0..100 {
        let answer = get(master, "/api/v1/tepui/holdings")?;
        let held = answer["holdings"].as_array().context("a list")?.iter();
        let fetched: Vec<u64> = held
            .filter(|one| one["kind"] == "ARTIFACT")
            .filter_map(|one| one["bytes"].as_u64())
            .collect();
        if fetched.len() >= files {
            return Ok(fetched.iter().sum());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the agents did not tell what they hold")
}

fn get(master: &str, path: &str) -> anyhow::Result<Value> {
    let mut stream = TcpStream::connect(master)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {master}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let (_, body) = text
        .split_once("\r\n\r\n")
        .context("an answer has a body")?;
    Ok(serde_json::from_str(body)?)
}

struct Framework<'a> {
    inputs: &'a [Input],
    scheduler: Scheduler,
    events: Events,
    launched: usize,
}

impl<'a> Framework<'a> {
    fn subscribe(master: &str, inputs: &'a [Input]) -> Self {
        let framework = v1::FrameworkInfo {
            user: "root".to_owned(),
            name: "bench".to_owned(),
            inputs: inputs.iter().map(named).collect(),
            ..Default::default()
        };
        let (scheduler, events) = connect(Config::new(master.to_owned(), framework));
        Self {
            inputs,
            scheduler,
            events,
            launched: 0,
        }
    }

    fn task(&mut self, offer: &v1::Offer, input: usize) -> v1::TaskInfo {
        let scalar = |name: &str, value: f64| v1::Resource {
            name: name.to_owned(),
            r#type: v1::value::Type::Scalar as i32,
            scalar: Some(v1::value::Scalar { value }),
            ..Default::default()
        };
        self.launched += 1;
        let id = format!("t{}", self.launched);
        let input = &self.inputs[input];
        v1::TaskInfo {
            name: id.clone(),
            task_id: v1::TaskId { value: id },
            agent_id: offer.agent_id.clone(),
            resources: vec![scalar("cpus", 1.0), scalar("mem", 64.0)],
            command: Some(v1::CommandInfo {
                uris: vec![v1::command_info::Uri {
                    value: input.url.clone(),
                    output_file: Some("input".to_owned()),
                    sha256: Some(input.sha256.clone()),
                    cache: Some(true),
                    ..Default::default()
                }],
                value: Some("cksum < input".to_owned()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Brings each input to one agent.
    async fn spread(&mut self, agents: usize) -> anyhow::Result<()> {
        let mut of_agent: BTreeMap<String, VecDeque<usize>> = BTreeMap::new();
        let mut left = self.inputs.len();
        while left > 0 {
            match self.next().await? {
                Event::Offers(offers) => {
                    for offer in offers {
                        let known = of_agent.len();
                        let mine =
                            of_agent
                                .entry(offer.agent_id.value.clone())
                                .or_insert_with(|| {
                                    (known..self.inputs.len()).step_by(agents).collect()
                                });
                        let tasks = match mine.pop_front() {
                            Some(input) => vec![self.task(&offer, input)],
                            None => Vec::new(),
                        };
                        self.answer(&offer, tasks).await?;
                    }
                }
                Event::Update(status) if has_finished(&status)? => left -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> anyhow::Result<Event> {
        match self.events.next().await {
            Some(Event::Error(error)) => bail!("{error}"),
            Some(event) => Ok(event),
            None => bail!("the connection to the master ended"),
        }
    }

    async fn answer(&self, offer: &v1::Offer, tasks: Vec<v1::TaskInfo>) -> anyhow::Result<()> {
        let ids = std::slice::from_ref(&offer.id);
        let soon = Duration::from_millis(100);
        if tasks.is_empty() {
            return Ok(self.scheduler.decline(ids, Some(soon)).await?);
        }
        let operation = v1::offer::Operation {
            r#type: Some(v1::offer::operation::Type::Launch as i32),
            launch: Some(v1::offer::operation::Launch { task_infos: tasks }),
            ..Default::default()
        };
        let filters = v1::Filters {
            refuse_seconds: Some(soon.as_secs_f64()),
        };
        Ok(self
            .scheduler
            .accept(ids, vec![operation], Some(filters))
            .await?)
    }

    async fn run_all(
        &mut self,
        mode: Mode,
        jobs: &[usize],
        wait: Duration,
        mut chance: Chance,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut waiting: Vec<(usize, Placement)> = jobs
            .iter()
            .map(|input| (*input, Placement::new(wait)))
            .collect();
        let mut left = jobs.len();
        while left > 0 {
            match self.next().await? {
                Event::Offers(mut offers) => {
                    while !offers.is_empty() {
                        let offer = offers.swap_remove(chance.below(offers.len()));
                        let mut tasks = Vec::new();
                        for _ in 0..cpus(&offer) as usize {
                            let Some(at) = self.pick(mode, &offer, &mut waiting, began) else {
                                break;
                            };
                            let (input, _) = waiting.remove(at);
                            tasks.push(self.task(&offer, input));
                        }
                        self.answer(&offer, tasks).await?;
                    }
                }
                Event::Update(status) if has_finished(&status)? => left -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    /// The job to launch on the offer: the first, or the one that has most there, if it does not wait for better.
    fn pick(
        &self,
        mode: Mode,
        offer: &v1::Offer,
        waiting: &mut [(usize, Placement)],
        began: Instant,
    ) -> Option<usize> {
        if mode == Mode::Random {
            return (!waiting.is_empty()).then_some(0);
        }
        let mut best: Option<(u64, usize)> = None;
        for (at, (input, placement)) in waiting.iter_mut().enumerate() {
            let input = &self.inputs[*input];
            let held = Held::of_inputs(offer, &[named(input)], input.bytes);
            let chosen = placement.choose(began.elapsed(), &[held]);
            if chosen == Choice::Take(0) && best.is_none_or(|(most, _)| held.bytes > most) {
                best = Some((held.bytes, at));
            }
        }
        best.map(|(_, at)| at)
    }
}

fn named(input: &Input) -> ext::Input {
    ext::Input {
        sha256: Some(input.sha256.clone()),
        dataset: None,
    }
}

fn cpus(offer: &v1::Offer) -> f64 {
    let cpus = offer.resources.iter().filter(|one| one.name == "cpus");
    cpus.filter_map(|one| one.scalar.as_ref())
        .map(|scalar| scalar.value)
        .sum()
}

fn has_finished(status: &v1::TaskStatus) -> anyhow::Result<bool> {
    match status.state() {
        v1::TaskState::TaskFinished => Ok(true),
        state if state.is_terminal() => {
            bail!("a task ended as {state:?}: {}", status.message())
        }
        _ => Ok(false),
    }
}

/// Where the inputs come from: a server whose link carries no more than it is said to, however many fetch.
struct Origin {
    inputs: Vec<Input>,
}

const PIECE: usize = 64 << 10;

impl Origin {
    fn start(inputs: usize, mb: usize, link_mbit: u64) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let bodies: Vec<Arc<[u8]>> = (0..inputs)
            .map(|number| {
                let mut chance = Chance(number as u64 + 1);
                let bytes = (0..mb << 17).flat_map(|_| {
                    chance.below(1);
                    chance.0.to_le_bytes()
                });
                bytes.collect()
            })
            .collect();
        let inputs = bodies.iter().enumerate().map(|(number, body)| Input {
            url: format!("http://{address}/{number}"),
            sha256: hex::encode(Sha256::digest(body)),
            bytes: body.len() as u64,
        });
        let inputs = inputs.collect();
        let link = Arc::new(Link {
            piece: Duration::from_secs_f64(PIECE as f64 * 8.0 / (link_mbit.max(1) as f64 * 1e6)),
            free: Mutex::new(Instant::now()),
        });
        let bodies: Arc<[Arc<[u8]>]> = bodies.into();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (link, bodies) = (link.clone(), bodies.clone());
                std::thread::spawn(move || {
                    // A client that hangs up has had enough.
                    let _ = serve(stream, &bodies, &link);
                });
            }
        });
        Ok(Self { inputs })
    }
}

struct Link {
    /// How long the link is busy with one piece.
    piece: Duration,
    free: Mutex<Instant>,
}

impl Link {
    /// Waits for one's turn to send a piece.
    fn wait(&self) {
        let turn = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            *free = (*free).max(Instant::now()) + self.piece;
            *free
        };
        std::thread::sleep(turn.saturating_duration_since(Instant::now()));
    }
}

fn serve(mut stream: TcpStream, bodies: &[Arc<[u8]>], link: &Link) -> anyhow::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().context("a request has a line")??;
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let number: Option<usize> = path.trim_start_matches('/').parse().ok();
    let Some(body) = number.and_then(|number| bodies.get(number)) else {
        write!(
            stream,
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )?;
        return Ok(());
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    if first.starts_with("HEAD") {
        return Ok(());
    }
    for piece in body.chunks(PIECE) {
        link.wait();
        stream.write_all(piece)?;
    }
    Ok(())
}
