//! `tepui run`: one task, its output here, its exit code ours.
//!
//! It is an ordinary framework: everything goes through the v1 API by the scheduler SDK.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use tepui_api::ext::WasmInfo;
use tepui_api::ext::wasm_info::Preopen;
use tepui_api::v1;
use tepui_api::v1::task_status::Reason;
use tepui_model::{plain, plain_lines};
use tepui_sdk_scheduler::{Choice, Config, Event, Events, Held, Placement, Scheduler, connect};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::client::{self, Client, MasterAddress};
use crate::further::Further;
use crate::inputs::{Found, Inputs};
use crate::logs::{self, Position};
use crate::{explain, progress, wasm};

/// Exit codes that say the task did not end by itself. A guest may use the same numbers; the line on stderr tells.
mod exit {
    /// The memory limit was reached.
    pub(super) const MEMORY: u8 = 201;
    /// The fuel limit was reached.
    pub(super) const FUEL: u8 = 202;
    /// The time limit was reached.
    pub(super) const TIME: u8 = 203;
    /// The module trapped.
    pub(super) const TRAP: u8 = 204;
    /// The task could not be started: fetching, compiling, linking or executing it failed.
    pub(super) const START: u8 = 205;
    /// The platform lost the task: its agent or executor went away.
    pub(super) const LOST: u8 = 206;
    /// Somebody killed the task.
    pub(super) const KILLED: u8 = 207;
    /// The master refused the task.
    pub(super) const REFUSED: u8 = 208;
    /// Another limit was reached: output, open handles, disk.
    pub(super) const LIMIT: u8 = 209;
}

/// The label that names the job a task belongs to.
const JOB_LABEL: &str = "tepui.job";

#[derive(Args, Debug)]
#[command(
    after_help = "Without FILE the words after -- are a native command: tepui run -- ls -l /\n\n\
Exit codes: the task's own; 201 memory, 202 fuel, 203 time limit; 204 trap; 205 could not start; 206 lost; \
207 killed; 208 refused by the master; 209 another limit (output, handles, disk)."
)]
pub(crate) struct Run {
    #[command(flatten)]
    master: MasterAddress,
    /// A wasm module, a .wat text or a native program: a file here or a URL
    #[arg(value_name = "FILE|URL")]
    program: Option<String>,
    /// Fuel the task may burn, in all
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    fuel: Option<u64>,
    /// Memory: 64MB, 1GiB; a plain number is MB
    #[arg(long, default_value = "128MB", value_parser = parse_mem)]
    mem: u64,
    /// Share of CPUs
    #[arg(long, default_value = "0.5", value_parser = parse_cpus, allow_negative_numbers = true)]
    cpus: f64,
    /// Longest time it may run: 500ms, 10s, 5mins
    #[arg(long, value_parser = parse_time)]
    time: Option<Duration>,
    /// An environment variable, NAME=VALUE; may be repeated
    #[arg(long, value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// What runs natively, with the same arguments, where the module cannot: a file here or a URL
    #[arg(long, value_name = "FILE|URL")]
    fallback: Option<String>,
    /// A directory of the agent's machine the guest sees at GUEST, where the agent's operator allows it; may be repeated
    #[arg(long, value_name = "HOST:GUEST[:ro]", value_parser = wasm::parse_mount)]
    mount: Vec<Preopen>,
    /// A host the guest may reach, where the agent's operator allows it; may be repeated
    #[arg(long, value_name = "HOST[:PORT]", value_parser = wasm::parse_host)]
    allow_net: Vec<String>,
    #[command(flatten)]
    service: wasm::Service,
    #[command(flatten)]
    bounds: wasm::Bounds,
    /// A further file to fetch into the sandbox: URL, URL=NAME, URL#sha256=DIGEST or URL#sha256=DIGEST=NAME; a URL with a
    /// '?' or '#' and no digest gets its name as URL#=NAME; may be repeated
    #[arg(long, value_name = "URL[#sha256=DIGEST][=NAME]")]
    fetch: Vec<Further>,
    #[command(flatten)]
    inputs: Inputs,
    /// The role whose share it runs in
    #[arg(long, default_value = "*")]
    role: String,
    /// The task's name; its id begins with it, and if it serves, guests of the cluster find it by that
    #[arg(long)]
    name: Option<String>,
    /// The job it belongs to: its guest shares a store with all tasks of the role's job (label tepui.job)
    #[arg(long, value_parser = parse_job)]
    job: Option<String>,
    /// A label of the task; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// Arguments of the task
    #[arg(last = true)]
    arguments: Vec<String>,
}

pub(crate) fn parse_mem(text: &str) -> Result<u64, String> {
    match tepui_model::parse_size(text) {
        Ok(bytes) if bytes >= 1 << 20 => Ok(bytes),
        Ok(_) => Err("a task needs at least 1 MB".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_cpus(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(cpus) if cpus.is_finite() && cpus >= 0.001 => Ok(cpus),
        _ => Err("a number of CPUs of at least 0.001, such as 0.5".to_owned()),
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    match tepui_model::parse_duration(text) {
        Ok(time) if !time.is_zero() => Ok(time),
        Ok(_) => Err("a task needs more time than none".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

pub(crate) fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("an environment variable is given as NAME=VALUE".to_owned()),
    }
}

/// A program that is a file here or a URL, as something an agent can fetch.
struct Program {
    /// The name it gets in the sandbox.
    file: String,
    uri: v1::command_info::Uri,
    /// Where it is, if it is here.
    path: Option<PathBuf>,
}

impl Program {
    async fn find(client: &Client, text: &str) -> anyhow::Result<Self> {
        let (url, file, path, sha256) = if text.contains("://") {
            let path = text.split(['?', '#']).next().unwrap_or(text);
            let file = path
                .rsplit('/')
                .next()
                .filter(|name| !name.is_empty())
                .unwrap_or("program")
                .to_owned();
            (text.to_owned(), file, None, None)
        } else {
            let path = PathBuf::from(text);
            let file = path
                .file_name()
                .and_then(|name| name.to_str())
                .context("the file has no name")?
                .to_owned();
            let artifact = crate::artifact::put(client, &path, None).await?;
            let said = |name: &str| client::text(&artifact, &[name]).to_owned();
            (said("url"), file, Some(path), Some(said("sha256")))
        };
        Ok(Self {
            uri: v1::command_info::Uri {
                value: url,
                output_file: Some(file.clone()),
                executable: Some(true),
                cache: Some(sha256.is_some()),
                sha256,
                ..Default::default()
            },
            file,
            path,
        })
    }
}

/// The words that run a file of the sandbox.
fn words_of(file: &str, arguments: &[String]) -> Vec<String> {
    std::iter::once(format!("./{file}"))
        .chain(arguments.iter().cloned())
        .collect()
}

/// A command without a shell.
fn command(words: Vec<String>) -> v1::CommandInfo {
    v1::CommandInfo {
        shell: Some(false),
        value: words.first().cloned(),
        arguments: words,
        ..Default::default()
    }
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((JOB_LABEL, _)) => Err("the label tepui.job is given as --job NAME".to_owned()),
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is given as KEY=VALUE".to_owned()),
    }
}

fn parse_job(text: &str) -> Result<String, String> {
    let most = tepui_model::StoreLimits::default().name;
    if (1..=most).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(format!("the name of a job has 1 to {most} bytes"))
    }
}

/// What is to be run, and what has to be fetched for it.
struct Body {
    /// What runs natively where that cannot, but for its environment.
    fallback: Option<v1::CommandInfo>,
    name: String,
    /// Whether it needs something to listen on.
    serves: bool,
    uris: Vec<v1::command_info::Uri>,
    words: Vec<String>,
    found: Found,
}

impl Run {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        client::block_on(async {
            let client = Client::new(&self.master)?;
            let body = self.body(&client).await?;
            self.execute(&client, body).await
        })
    }

    async fn body(&self, client: &Client) -> anyhow::Result<Body> {
        let mut found = self.inputs.find(client).await?;
        let mut uris = std::mem::take(&mut found.uris);
        for fetch in &self.fetch {
            uris.push(fetch.uri());
        }
        let Some(program) = &self.program else {
            let Some(first) = self.arguments.first() else {
                bail!(
                    "nothing to run: give a module (tepui run hello.wasm) or a command (tepui run -- ls -l)"
                );
            };
            if self.fuel.is_some() {
                bail!(
                    "--fuel is counted by the wasm runtime; a native command has none: use --time"
                );
            }
            if self.fallback.is_some() {
                bail!("--fallback is for a module: a native command has no other body");
            }
            if self.wasm_info().is_some() {
                bail!(
                    "--mount, --allow-net, --coredump and the like are for wasm; a native command sees the agent's machine as it is"
                );
            }
            let name = Path::new(first)
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or("command");
            return Ok(Body {
                name: self.task_name(name),
                serves: self.service.port.is_some(),
                uris,
                words: self.arguments.clone(),
                found,
                fallback: None,
            });
        };
        let mut serves = self.service.port.is_some();
        let Program { file, uri, path } = Program::find(client, program).await?;
        serves |= path.is_some_and(|path| wasm::is_service(&path));
        if let Some(sha256) = &uri.sha256 {
            found.name_digest(sha256);
        }
        uris.insert(0, uri);
        let fallback = match &self.fallback {
            Some(fallback) => {
                let Program { file, uri, .. } = Program::find(client, fallback).await?;
                Some(v1::CommandInfo {
                    uris: vec![uri],
                    ..command(words_of(&file, &self.arguments))
                })
            }
            None => None,
        };
        let stem = file
            .split('.')
            .next()
            .filter(|stem| !stem.is_empty())
            .unwrap_or("task")
            .to_owned();
        Ok(Body {
            name: self.task_name(&stem),
            serves,
            uris,
            words: words_of(&file, &self.arguments),
            found,
            fallback,
        })
    }

    /// What is asked of the wasm runtime beyond the ordinary.
    fn wasm_info(&self) -> Option<WasmInfo> {
        let info = WasmInfo {
            allowed_hosts: self.allow_net.clone(),
            preopens: self.mount.clone(),
            service: self.service.info(),
            coredump: self.bounds.coredump.then_some(true),
            output_bytes: self.bounds.output,
            handles: self.bounds.handles,
            ..WasmInfo::default()
        };
        (info != WasmInfo::default()).then_some(info)
    }

    fn labels(&self) -> Option<v1::Labels> {
        let job = self.job.iter().map(|job| (JOB_LABEL, job));
        let others = self.label.iter().map(|(key, value)| (key.as_str(), value));
        let labels: Vec<_> = job
            .chain(others)
            .map(|(key, value)| v1::Label {
                key: key.to_owned(),
                value: Some(value.clone()),
            })
            .collect();
        (!labels.is_empty()).then_some(v1::Labels { labels })
    }

    /// How others in the cluster find what was given a name and serves.
    fn discovery(&self, body: &Body, port: u64) -> Option<v1::DiscoveryInfo> {
        self.name.as_ref()?;
        let port = v1::Port {
            number: u32::try_from(port).ok()?,
            protocol: Some("tcp".to_owned()),
            ..Default::default()
        };
        Some(v1::DiscoveryInfo {
            visibility: v1::discovery_info::Visibility::Cluster.into(),
            name: Some(body.name.clone()),
            ports: Some(v1::Ports { ports: vec![port] }),
            ..Default::default()
        })
    }

    fn task_name(&self, default: &str) -> String {
        let wished = self.name.as_deref().unwrap_or(default);
        let allowed = |c: char| {
            if c.is_control() || c.is_whitespace() || matches!(c, '/' | '\\') {
                '-'
            } else {
                c
            }
        };
        wished.chars().map(allowed).take(200).collect()
    }

    async fn execute(&self, client: &Client, body: Body) -> anyhow::Result<ExitCode> {
        use v1::framework_info::capability::Type;
        let capability = |kind: Type| v1::framework_info::Capability {
            r#type: Some(kind as i32),
        };
        let framework = v1::FrameworkInfo {
            user: nix::unistd::User::from_uid(nix::unistd::geteuid())
                .ok()
                .flatten()
                .map_or_else(|| "nobody".to_owned(), |user| user.name),
            name: format!("run {}", body.name),
            // Long enough for this command to find a restarted master, short enough to leave nothing behind if it dies.
            failover_timeout: Some(30.0),
            checkpoint: Some(true),
            roles: vec![self.role.clone()],
            capabilities: vec![
                capability(Type::MultiRole),
                capability(Type::PartitionAware),
                capability(Type::TaskKillingState),
                capability(Type::ReservationRefinement),
            ],
            // What is too small is not offered, and the master can tell what is lacking.
            offer_filters: [(self.role.clone(), self.least())].into(),
            hostname: nix::unistd::gethostname()
                .ok()
                .and_then(|name| name.into_string().ok()),
            inputs: body.found.named.clone(),
            ..Default::default()
        };
        let task_id = format!(
            "{}-{}",
            body.name,
            &uuid::Uuid::new_v4().simple().to_string()[..8]
        );
        let mut config = Config::new(self.master.url()?, framework);
        config.credential.clone_from(&self.master.credential);
        config.give_up_after = Some(Duration::from_secs(60));
        config.offer_constraints = body.found.constraints(&self.role);
        let (scheduler, events) = connect(config);
        let mut job = Job {
            run: self,
            client,
            scheduler,
            events,
            task_id,
            body,
            framework_id: String::new(),
            launched: None,
            hostname: String::new(),
            said_where: false,
            progress: progress::Lines::default(),
            placement: Placement::new(self.inputs.locality_wait),
            began: Instant::now(),
        };
        let code = job.follow_to_the_end().await;
        // Whatever happened, nothing of ours stays behind; a master that is gone cannot be told.
        let _ = tokio::time::timeout(Duration::from_secs(5), job.scheduler.teardown()).await;
        code
    }
}

impl Run {
    /// In MB.
    fn megabytes(&self) -> f64 {
        (self.mem >> 20) as f64
    }

    /// The least that the task can be started with.
    fn least(&self) -> v1::OfferFilters {
        use v1::offer_filters::{MinAllocatableResources, ResourceQuantities};
        let amounts = [("cpus", self.cpus), ("mem", self.megabytes())];
        let quantities =
            amounts.map(|(name, value)| (name.to_owned(), v1::value::Scalar { value }));
        v1::OfferFilters {
            min_allocatable_resources: Some(MinAllocatableResources {
                quantities: vec![ResourceQuantities {
                    quantities: quantities.into(),
                }],
            }),
        }
    }
}

struct Job<'a> {
    run: &'a Run,
    client: &'a Client,
    scheduler: Scheduler,
    events: Events,
    task_id: String,
    body: Body,
    framework_id: String,
    /// The agent the task went to, and the machine it is on.
    launched: Option<v1::AgentId>,
    hostname: String,
    said_where: bool,
    progress: progress::Lines,
    placement: Placement,
    began: Instant,
}

/// How long a launched task may take to run before its output is looked at all the same.
const IMPATIENCE: Duration = Duration::from_secs(1);

impl Job<'_> {
    async fn follow_to_the_end(&mut self) -> anyhow::Result<ExitCode> {
        let mut output = None;
        let mut patience = tokio::time::interval(Duration::from_secs(5));
        patience.tick().await;
        // What was wrong with an offer that came lately.
        let mut nearest = String::new();
        let mut interrupted = false;
        // From here on none is lost, whatever is waited for when it comes.
        let mut asked_to_end = AskedToEnd::listen()?;
        loop {
            let event = tokio::select! {
                event = self.events.next() => event,
                _ = patience.tick(), if self.launched.is_none() => {
                    let why = match std::mem::take(&mut nearest) {
                        lately if !lately.is_empty() => lately,
                        _ => tokio::time::timeout(
                            IMPATIENCE,
                            explain::in_short(self.client, &self.framework_id),
                        )
                        .await
                        .ok()
                        .and_then(Result::ok)
                        .unwrap_or_else(|| "no agent has offered it yet".to_owned()),
                    };
                    eprintln!("tepui: waiting for {}: {why}", self.wish());
                    continue;
                }
                // What it waits for is said there, before it runs.
                () = tokio::time::sleep(IMPATIENCE), if self.launched.is_some() && output.is_none() => {
                    output = Some(self.stream());
                    continue;
                }
                () = asked_to_end.once() => {
                    if self.launched.is_none() || interrupted {
                        eprintln!("tepui: interrupted");
                        return Ok(ExitCode::from(130));
                    }
                    interrupted = true;
                    eprintln!("tepui: killing {} (once more to leave at once)", self.task_id);
                    let task_id = v1::TaskId { value: self.task_id.clone() };
                    self.scheduler.kill(&task_id, self.launched.as_ref()).await?;
                    continue;
                }
            };
            match event {
                None => bail!(
                    "the master at {} cannot be reached any more",
                    self.run.master.url()?
                ),
                Some(Event::Subscribed { framework_id, .. }) => {
                    self.framework_id = framework_id.value
                }
                Some(Event::Offers(offers)) => {
                    self.consider(offers, &mut nearest).await?;
                }
                Some(Event::Disconnected { why }) => {
                    eprintln!("tepui: the master is away ({why}); trying again")
                }
                Some(Event::Error(error)) => {
                    eprintln!("tepui: the master refused: {error}");
                    return Ok(ExitCode::from(exit::REFUSED));
                }
                Some(Event::Update(status)) if status.task_id.value == self.task_id => {
                    let state = status.state();
                    if state == v1::TaskState::TaskUnreachable {
                        eprintln!(
                            "tepui: the agent of {} is unreachable; waiting for it",
                            self.task_id
                        );
                    }
                    if state == v1::TaskState::TaskRunning {
                        self.say_where(status.message());
                        self.say_progress(&status);
                    }
                    let began = matches!(
                        state,
                        v1::TaskState::TaskStarting | v1::TaskState::TaskRunning
                    );
                    if output.is_none()
                        && (began || state.is_terminal())
                        && status.agent_id.is_some()
                    {
                        output = Some(self.stream());
                    }
                    if state.is_terminal() {
                        if let Some(output) = output {
                            // The end of the streams; a lost agent would never send it.
                            let _ = tokio::time::timeout(Duration::from_secs(10), output).await;
                        }
                        return Ok(self.verdict(&status));
                    }
                }
                Some(_) => {}
            }
        }
    }

    /// Copies stdout and stderr of the task here until both have ended.
    fn stream(&self) -> tokio::task::JoinHandle<()> {
        let (client, framework, task) = (
            self.client.clone(),
            self.framework_id.clone(),
            self.task_id.clone(),
        );
        tokio::spawn(async move {
            let file = |path| logs::File {
                client: &client,
                framework: Some(&framework),
                task: &task,
                path,
            };
            let (mut stdout, mut stderr) = (std::io::stdout(), std::io::stderr());
            // The task is there, whatever the master says at first.
            let start = || Position {
                offset: 0,
                begun: true,
            };
            let (mut from_out, mut from_err) = (start(), start());
            let (one, two) = tokio::join!(
                file("stdout").follow(&mut from_out, &mut stdout),
                file("stderr").follow(&mut from_err, &mut stderr),
            );
            for result in [one, two] {
                if let Err(error) = result {
                    eprintln!("tepui: the task's output cannot be shown: {error:#}");
                }
            }
        })
    }

    /// A service says where it listens when it does; a task with two bodies, that it is the native one that runs.
    fn say_where(&mut self, message: &str) {
        let Some(address) = message.strip_prefix("listening on ") else {
            // Of two bodies, the one that was not expected.
            if message.starts_with("runs its native body") && !self.said_where {
                self.said_where = true;
                eprintln!("tepui: {} {}", self.task_id, plain(message));
            }
            return;
        };
        let address = &plain(address);
        let port = address.rsplit(':').next().unwrap_or_default();
        let host = match address.starts_with("0.0.0.0:") || address.starts_with("[::]:") {
            true => self.hostname.as_str(),
            false => address.strip_suffix(&format!(":{port}")).unwrap_or(address),
        };
        if !std::mem::replace(&mut self.said_where, true) {
            let host = plain(host);
            eprintln!("tepui: {} serves http://{host}:{port}/", self.task_id);
        }
    }

    /// For whoever sits there and waits; a script has the output of the task alone.
    fn say_progress(&mut self, status: &v1::TaskStatus) {
        if std::io::stderr().is_terminal()
            && let Some(line) = self.progress.line(Instant::now(), status)
        {
            eprintln!("tepui: {line}");
        }
    }

    fn wish(&self) -> String {
        let port = match (self.body.serves, self.run.service.port) {
            (false, _) => String::new(),
            (true, None | Some(0)) => ", a port".to_owned(),
            (true, Some(port)) => format!(", port {port}"),
        };
        format!(
            "cpus {}, mem {} MB{port} in role {}",
            self.run.cpus,
            self.run.mem >> 20,
            self.run.role
        )
    }

    /// Launches on the best of the offers, or waits a little for a better one; what is not taken goes back.
    async fn consider(
        &mut self,
        offers: Vec<v1::Offer>,
        nearest: &mut String,
    ) -> anyhow::Result<()> {
        let mem = self.run.megabytes();
        let (mut fitting, mut others) = (Vec::new(), Vec::new());
        for offer in offers {
            let (cpus, memory) = (amount(&offer, "cpus"), amount(&offer, "mem"));
            let has_port = !self.body.serves || self.port(&offer).is_some();
            let has_amounts = cpus >= self.run.cpus && memory >= mem;
            if self.launched.is_none() && has_amounts && has_port {
                fitting.push(offer);
                continue;
            }
            let lacks = if has_port { "" } else { ", no such port" };
            *nearest = format!(
                "{} offered cpus {cpus}, mem {memory} MB{lacks}",
                offer.hostname
            );
            others.push(offer.id);
        }
        let held: Vec<Held> = fitting.iter().map(Held::of_offer).collect();
        match self.placement.choose(self.began.elapsed(), &held) {
            Choice::Take(at) => {
                let offer = fitting.swap_remove(at);
                let mut task = self.task(&offer, mem);
                if let Some(port) = self.port(&offer) {
                    task.resources.push(wasm::port_resource(port));
                    task.discovery = self.run.discovery(&self.body, port);
                }
                self.hostname.clone_from(&offer.hostname);
                self.scheduler
                    .launch(std::slice::from_ref(&offer.id), vec![task])
                    .await?;
                self.launched = Some(offer.agent_id);
                // One task is all; further offers would only be declined.
                self.scheduler.suppress(&[]).await?;
                others.extend(fitting.into_iter().map(|offer| offer.id));
            }
            Choice::Wait(time) if !fitting.is_empty() => {
                if let Some(offer) = fitting.first() {
                    *nearest = format!(
                        "{} would do, and holds less of its inputs than another",
                        offer.hostname
                    );
                }
                let ids: Vec<_> = fitting.into_iter().map(|offer| offer.id).collect();
                self.scheduler.decline(&ids, Some(time)).await?;
            }
            Choice::Wait(_) => {}
        }
        if !others.is_empty() {
            self.scheduler.decline(&others, None).await?;
        }
        Ok(())
    }

    /// What a task that serves listens on, if the offer has such a port.
    fn port(&self, offer: &v1::Offer) -> Option<u64> {
        let wanted = self.run.service.port;
        self.body
            .serves
            .then(|| wasm::choose_port(offer, wanted))
            .flatten()
    }

    fn task(&self, offer: &v1::Offer, mem: f64) -> v1::TaskInfo {
        let scalar = |name: &str, value: f64| v1::Resource {
            name: name.to_owned(),
            r#type: v1::value::Type::Scalar as i32,
            scalar: Some(v1::value::Scalar { value }),
            ..Default::default()
        };
        let variables = self
            .run
            .env
            .iter()
            .map(|(name, value)| v1::environment::Variable {
                name: name.clone(),
                value: Some(value.clone()),
                ..Default::default()
            });
        let environment = (!self.run.env.is_empty()).then(|| v1::Environment {
            variables: variables.collect(),
        });
        let fallback = self.body.fallback.clone().map(|fallback| v1::CommandInfo {
            environment: environment.clone(),
            ..fallback
        });
        let wasm = match (self.run.wasm_info(), fallback) {
            (None, None) => None,
            (wasm, fallback) => Some(WasmInfo {
                fallback,
                ..wasm.unwrap_or_default()
            }),
        };
        let nanoseconds = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        v1::TaskInfo {
            name: self.body.name.clone(),
            task_id: v1::TaskId {
                value: self.task_id.clone(),
            },
            agent_id: offer.agent_id.clone(),
            resources: vec![scalar("cpus", self.run.cpus), scalar("mem", mem)],
            command: Some(v1::CommandInfo {
                uris: self.body.uris.clone(),
                environment,
                ..command(self.body.words.clone())
            }),
            limits: self
                .run
                .fuel
                .map(|fuel| ("fuel".to_owned(), v1::value::Scalar { value: fuel as f64 }))
                .into_iter()
                .collect(),
            container: wasm.map(|wasm| v1::ContainerInfo {
                r#type: v1::container_info::Type::Wasm as i32,
                wasm: Some(wasm),
                ..Default::default()
            }),
            datasets: self.body.found.datasets.clone(),
            labels: self.run.labels(),
            max_completion_time: self.run.time.map(|time| v1::DurationInfo {
                nanoseconds: nanoseconds(time),
            }),
            ..Default::default()
        }
    }

    /// The exit code of an ending, with a line on stderr unless the task simply exited.
    fn verdict(&self, status: &v1::TaskStatus) -> ExitCode {
        let message = plain_lines(status.message());
        if let Some(code) = own_code(status.state(), &message) {
            return ExitCode::from(code);
        }
        let code = ended_by(status);
        let mut lines = message.lines();
        let first = lines.next().unwrap_or("no message");
        let reason = status
            .reason
            .map(|_| format!(" ({})", status.reason().as_str_name()))
            .unwrap_or_default();
        eprintln!(
            "tepui: {} {}: {first}{reason}",
            self.task_id,
            status.state().as_str_name()
        );
        for line in lines {
            eprintln!("tepui:   {line}");
        }
        ExitCode::from(code)
    }
}

/// How much of a resource an offer has.
fn amount(offer: &v1::Offer, name: &str) -> f64 {
    let of_that_name = offer
        .resources
        .iter()
        .filter(|resource| resource.name == name);
    of_that_name
        .filter_map(|resource| resource.scalar.as_ref())
        .map(|scalar| scalar.value)
        .sum()
}

/// Hears when somebody asks this command to end.
struct AskedToEnd {
    interrupt: Signal,
    terminate: Signal,
}

impl AskedToEnd {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn once(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The exit code of a task that ended by itself.
fn own_code(state: v1::TaskState, message: &str) -> Option<u8> {
    match state {
        v1::TaskState::TaskFinished => Some(0),
        v1::TaskState::TaskFailed => {
            let code = message.strip_prefix("Command exited with status ")?;
            let code = code.split_whitespace().next()?.parse::<i64>().ok()?;
            // What a process can hand to its parent is the low byte; a failure must not become 0 by that.
            match (code & 0xff) as u8 {
                0 => Some(1),
                code => Some(code),
            }
        }
        _ => None,
    }
}

fn ended_by(status: &v1::TaskStatus) -> u8 {
    use v1::TaskState as S;
    let names_fuel = || {
        let limited = status
            .limitation
            .iter()
            .flat_map(|limitation| &limitation.resources);
        limited.into_iter().any(|resource| resource.name == "fuel")
    };
    let reason = status.reason.map(|_| status.reason());
    match (status.state(), reason) {
        (S::TaskFailed, Some(Reason::ContainerLimitationMemory)) => exit::MEMORY,
        (S::TaskFailed, Some(Reason::ContainerLimitation)) if names_fuel() => exit::FUEL,
        (S::TaskFailed, Some(Reason::ContainerLimitation | Reason::ContainerLimitationDisk)) => {
            exit::LIMIT
        }
        (S::TaskFailed, Some(Reason::MaxCompletionTimeReached)) => exit::TIME,
        (S::TaskFailed, Some(Reason::ContainerLaunchFailed)) => exit::START,
        (S::TaskFailed, Some(Reason::ExecutorTerminated | Reason::ExecutorRegistrationTimeout)) => {
            exit::LOST
        }
        (S::TaskFailed, _) => match status
            .message()
            .strip_prefix("Command terminated with signal ")
        {
            Some("SIGKILL") => 128 + 9,
            Some("SIGTERM") => 128 + 15,
            Some("SIGSEGV") => 128 + 11,
            Some("SIGABRT") => 128 + 6,
            Some(_) => 128,
            None => exit::TRAP,
        },
        (S::TaskKilled, _) => exit::KILLED,
        (S::TaskError, _) => exit::REFUSED,
        _ => exit::LOST,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        ended_by, exit, own_code, parse_cpus, parse_job, parse_label, parse_mem, parse_variable, v1,
    };

    #[test]
    fn the_code_of_a_task_that_exited_is_passed_on() {
        let failed = v1::TaskState::TaskFailed;
        assert_eq!(own_code(failed, "Command exited with status 7"), Some(7));
        assert_eq!(
            own_code(failed, "Command exited with status 200"),
            Some(200)
        );
        assert_eq!(own_code(failed, "Command exited with status 256"), Some(1));
        assert_eq!(own_code(failed, "Command exited with status -1"), Some(255));
        assert_eq!(own_code(v1::TaskState::TaskFinished, ""), Some(0));
        assert_eq!(own_code(failed, "memory limit 64 MiB reached"), None);
        assert_eq!(
            own_code(v1::TaskState::TaskKilled, "Command exited with status 1"),
            None
        );
    }

    #[test]
    fn an_ending_by_a_limit_has_a_code_of_its_own() {
        let mut status = v1::TaskStatus {
            state: v1::TaskState::TaskFailed as i32,
            ..Default::default()
        };
        assert_eq!(ended_by(&status), exit::TRAP);
        status.reason = Some(super::Reason::ContainerLimitationMemory as i32);
        assert_eq!(ended_by(&status), exit::MEMORY);
        status.reason = Some(super::Reason::MaxCompletionTimeReached as i32);
        assert_eq!(ended_by(&status), exit::TIME);
        status.reason = Some(super::Reason::ContainerLimitation as i32);
        let fuel = v1::Resource {
            name: "fuel".to_owned(),
            ..Default::default()
        };
        status.limitation = Some(v1::TaskResourceLimitation {
            resources: vec![fuel],
        });
        assert_eq!(ended_by(&status), exit::FUEL);
        status.limitation = None;
        assert_eq!(ended_by(&status), exit::LIMIT);
        status.state = v1::TaskState::TaskLost as i32;
        assert_eq!(ended_by(&status), exit::LOST);
    }

    #[test]
    fn flags_refuse_what_makes_no_sense() {
        assert!(parse_mem("0").is_err());
        assert!(parse_mem("lots").is_err());
        assert_eq!(parse_mem("64MB"), Ok(64 << 20));
        assert!(parse_cpus("-1").is_err());
        assert!(parse_cpus("NaN").is_err());
        assert!(parse_variable("=x").is_err());
        assert!(parse_variable("x").is_err());
        assert!(parse_label("=x").is_err() && parse_label("x").is_err());
        assert_eq!(parse_label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(parse_label("tepui.job=x").unwrap_err().contains("--job"));
        assert!(parse_job("").is_err() && parse_job(&"x".repeat(257)).is_err());
        assert_eq!(
            parse_variable("A=b=c"),
            Ok(("A".to_owned(), "b=c".to_owned()))
        );
    }
}
