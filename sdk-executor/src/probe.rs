//! Makes the probes of a task's checks, for as long as somebody hears what they find.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tepui_api::v1::network_info::Protocol;
use tepui_api::v1::{CommandInfo, TaskInfo, check_info, health_check};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::checks::{Check, Health, News, Outcome, Pulse, Rhythm};

/// How many redirections are followed: as many as curl follows.
const MAX_REDIRECTS: usize = 50;

/// Runs the commands of COMMAND checks, where and as whom the task runs.
pub trait RunCommand: Send + Sync {
    /// Runs a command to its end and gives its exit status, `None` if a signal ended it. Dropping the future ends the
    /// command.
    fn run(
        &self,
        command: &CommandInfo,
    ) -> impl Future<Output = Result<Option<i32>, String>> + Send;
}

/// A command's argument vector, program first. Through a shell the value is a line; else the first argument is what the
/// program is told its name is, and the value is run.
pub fn arguments_of(command: &CommandInfo) -> Vec<String> {
    let value = command.value().to_owned();
    if command.shell() {
        return vec!["/bin/sh".to_owned(), "-c".to_owned(), value];
    }
    let rest = command.arguments.iter().skip(1).cloned();
    std::iter::once(value).chain(rest).collect()
}

/// The variables a command sets.
pub fn variables_of(command: &CommandInfo) -> impl Iterator<Item = (&str, &str)> {
    let set = command.environment.iter();
    set.flat_map(|set| &set.variables)
        .map(|set| (set.name.as_str(), set.value()))
}

/// What is looked at.
enum Target {
    Command(CommandInfo),
    Http(String),
    Tcp(SocketAddr),
}

/// What a result is compared with.
enum Rule {
    Check(Check),
    Health(Health),
}

struct Probe {
    target: Target,
    rhythm: Rhythm,
    rule: Rule,
}

/// The checks of one task.
pub struct Checks {
    probes: Vec<Probe>,
}

impl Checks {
    /// Those the task asks for; `None` if there are none.
    pub fn of(task: &TaskInfo) -> Option<Self> {
        let probes: Vec<Probe> = check_of(task)
            .into_iter()
            .chain(health_check_of(task))
            .collect();
        (!probes.is_empty()).then_some(Self { probes })
    }

    /// Probes until it is dropped or nobody listens. The task begins now; `heard` says whether its agent is there.
    pub async fn run(
        self,
        commands: impl RunCommand,
        heard: watch::Receiver<bool>,
        news: mpsc::UnboundedSender<News>,
    ) {
        let began = Instant::now();
        let probes = self
            .probes
            .into_iter()
            .map(|probe| probe.repeat(began, &commands, heard.clone(), &news));
        futures::future::join_all(probes).await;
    }
}

fn check_of(task: &TaskInfo) -> Option<Probe> {
    let check = task.check.as_ref()?;
    let target = match check.r#type() {
        check_info::Type::Command => Target::Command(check.command.as_ref()?.command.clone()),
        check_info::Type::Http => {
            let http = check.http.as_ref()?;
            Target::Http(url("http", local(Protocol::IPv4), http.port, http.path()))
        }
        check_info::Type::Tcp => {
            Target::Tcp(address(local(Protocol::IPv4), check.tcp.as_ref()?.port)?)
        }
        check_info::Type::Unknown => return None,
    };
    Some(Probe {
        target,
        rhythm: Rhythm::of_check(check),
        rule: Rule::Check(Check::new(check.r#type())),
    })
}

fn health_check_of(task: &TaskInfo) -> Option<Probe> {
    let check = task.health_check.as_ref()?;
    let target = match check.r#type() {
        health_check::Type::Command => Target::Command(check.command.clone()?),
        health_check::Type::Http => {
            let http = check.http.as_ref()?;
            let scheme = http.scheme.as_deref().unwrap_or("http");
            Target::Http(url(scheme, local(http.protocol()), http.port, http.path()))
        }
        health_check::Type::Tcp => {
            let tcp = check.tcp.as_ref()?;
            Target::Tcp(address(local(tcp.protocol()), tcp.port)?)
        }
        health_check::Type::Unknown => return None,
    };
    Some(Probe {
        target,
        rhythm: Rhythm::of_health_check(check),
        rule: Rule::Health(Health::new(check)),
    })
}

/// Tasks share the network of their agent's machine.
fn local(protocol: Protocol) -> IpAddr {
    match protocol {
        Protocol::IPv4 => Ipv4Addr::LOCALHOST.into(),
        Protocol::IPv6 => Ipv6Addr::LOCALHOST.into(),
    }
}

fn address(ip: IpAddr, port: u32) -> Option<SocketAddr> {
    Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
}

fn url(scheme: &str, ip: IpAddr, port: u32, path: &str) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{scheme}://{ip}:{port}{path}"),
        IpAddr::V6(ip) => format!("{scheme}://[{ip}]:{port}{path}"),
    }
}

impl Probe {
    async fn repeat(
        mut self,
        began: Instant,
        commands: &impl RunCommand,
        mut heard: watch::Receiver<bool>,
        news: &mpsc::UnboundedSender<News>,
    ) {
        let mut pulse = Pulse::new(self.rhythm);
        loop {
            if !*heard.borrow_and_update() {
                pulse.pause();
                if heard.wait_for(|heard| *heard).await.is_err() {
                    return;
                }
                pulse.resume(began.elapsed());
            }
            let Some(due) = pulse.due() else { return };
            let silenced = async {
                // If nobody can say so any more, the executor ends, and this with it.
                if heard.wait_for(|heard| !*heard).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let outcome = tokio::select! {
                () = silenced => continue,
                outcome = async {
                    tokio::time::sleep_until(at(began, due)).await;
                    self.probe(commands, pulse.begin()).await
                } => outcome,
            };
            let now = began.elapsed();
            pulse.ended(now);
            let found = match &mut self.rule {
                Rule::Check(check) => check.observe(&outcome),
                Rule::Health(health) => health.observe(now, &outcome),
            };
            if let Some(found) = found
                && news.send(found).is_err()
            {
                return;
            }
        }
    }

    async fn probe(&self, commands: &impl RunCommand, timeout: Option<Duration>) -> Outcome {
        let probing = async {
            match &self.target {
                Target::Command(command) => match commands.run(command).await {
                    Ok(Some(status)) => Outcome::Exited(status),
                    Ok(None) => Outcome::Nothing("a signal ended the command".to_owned()),
                    Err(error) => Outcome::Nothing(error),
                },
                Target::Http(url) => get(url).await,
                Target::Tcp(address) => {
                    Outcome::Connected(TcpStream::connect(address).await.is_ok())
                }
            }
        };
        match timeout {
            None => probing.await,
            Some(limit) => tokio::time::timeout(limit, probing)
                .await
                .unwrap_or_else(|_| Outcome::Nothing(format!("it took longer than {limit:?}"))),
        }
    }
}

/// A moment too far away for the clock never comes.
fn at(began: Instant, span: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    began + span.min(FAR)
}

/// Like `curl -L -k`: redirections are followed, certificates are not looked at, for a task on this machine vouches for
/// nothing by having one.
async fn get(url: &str) -> Outcome {
    // Somebody else in this process may have installed a provider already; either will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS))
        .tls_danger_accept_invalid_certs(true)
        .no_proxy()
        .pool_max_idle_per_host(0)
        .build();
    let answer = match client {
        Ok(client) => client.get(url).send().await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(answer) => Outcome::Answered(answer.status().as_u16()),
        Err(error) => Outcome::Nothing(format!("GET {url} failed: {}", cause(&error))),
    }
}

/// The innermost cause, which says more than the layers around it.
fn cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(inner) = error.source() {
        error = inner;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tepui_api::v1::{CheckInfo, HealthCheck};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Ends with each status in turn, the last one for ever.
    struct Script {
        statuses: Vec<Option<i32>>,
        runs: AtomicUsize,
    }

    impl RunCommand for Script {
        async fn run(&self, _: &CommandInfo) -> Result<Option<i32>, String> {
            let run = self.runs.fetch_add(1, Ordering::Relaxed);
            match self.statuses[run.min(self.statuses.len() - 1)] {
                Some(status) => Ok(Some(status)),
                // One that never ends.
                None => std::future::pending().await,
            }
        }
    }

    fn script(statuses: &[Option<i32>]) -> Script {
        Script {
            statuses: statuses.to_vec(),
            runs: AtomicUsize::new(0),
        }
    }

    fn health(change: impl FnOnce(&mut HealthCheck)) -> TaskInfo {
        let mut check = HealthCheck {
            r#type: Some(health_check::Type::Command.into()),
            command: Some(CommandInfo::default()),
            delay_seconds: Some(0.0),
            interval_seconds: Some(0.01),
            timeout_seconds: Some(0.05),
            grace_period_seconds: Some(0.0),
            ..HealthCheck::default()
        };
        change(&mut check);
        TaskInfo {
            health_check: Some(check),
            ..TaskInfo::default()
        }
    }

    struct Watched {
        heard: watch::Sender<bool>,
        news: mpsc::UnboundedReceiver<News>,
        running: tokio::task::JoinHandle<()>,
    }

    impl Watched {
        fn new(task: &TaskInfo, commands: Script) -> Self {
            let (heard, hears) = watch::channel(true);
            let (sender, news) = mpsc::unbounded_channel();
            let checks = Checks::of(task).expect("the task has a check");
            Self {
                heard,
                news,
                running: tokio::spawn(checks.run(commands, hears, sender)),
            }
        }

        async fn next(&mut self) -> News {
            let next = tokio::time::timeout(Duration::from_secs(30), self.news.recv());
            next.await.expect("news come in time").expect("it probes")
        }

        async fn health(&mut self) -> (bool, bool) {
            match self.next().await {
                News::Health { healthy, kill, .. } => (healthy, kill),
                other => panic!("{other:?}"),
            }
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            self.running.abort();
        }
    }

    #[tokio::test]
    async fn a_probe_that_takes_too_long_counts_as_failed_and_probing_goes_on() {
        let commands = script(&[Some(0), None, None, Some(0), Some(1), None, Some(3)]);
        let mut watched = Watched::new(&health(|_| {}), commands);
        for expected in [
            (true, false),
            (false, false),
            (false, false),
            (true, false),
            (false, false),
            (false, false),
            (false, true),
        ] {
            assert_eq!(watched.health().await, expected);
        }
    }

    #[tokio::test]
    async fn nothing_is_probed_while_nobody_hears_of_it() {
        let mut watched = Watched::new(&health(|_| {}), script(&[Some(0), Some(1), Some(0)]));
        assert_eq!(watched.health().await, (true, false));
        watched.heard.send_replace(false);
        // One may have been found just before.
        let before = tokio::time::timeout(Duration::from_millis(100), watched.news.recv())
            .await
            .is_ok();
        let quiet = tokio::time::timeout(Duration::from_millis(100), watched.news.recv()).await;
        assert!(quiet.is_err() || before, "{quiet:?}");
        watched.heard.send_replace(true);
        if !before {
            assert_eq!(watched.health().await, (false, false));
        }
        assert_eq!(watched.health().await, (true, false));
    }

    /// Answers every request with these heads in turn.
    async fn server(answers: &'static [&'static str]) -> u32 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            for answer in answers.iter().cycle() {
                let (mut stream, _) = listener.accept().await.expect("a client");
                let mut head = vec![0; 4096];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port.into()
    }

    #[tokio::test]
    async fn http_is_healthy_from_200_to_399_and_redirections_are_followed() {
        let port = server(&[
            "HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
        ])
        .await;
        let task = health(|check| {
            check.r#type = Some(health_check::Type::Http.into());
            check.timeout_seconds = Some(20.0);
            check.http = Some(health_check::HttpCheckInfo {
                port,
                path: Some("/here".into()),
                ..Default::default()
            });
        });
        let mut watched = Watched::new(&task, script(&[None]));
        assert_eq!(watched.health().await, (true, false));
        assert_eq!(watched.health().await, (false, false));
    }

    #[tokio::test]
    async fn a_check_gives_what_it_found_whatever_that_is() {
        let port = server(&["HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"]).await;
        let http = |port| TaskInfo {
            check: Some(CheckInfo {
                r#type: Some(check_info::Type::Http.into()),
                http: Some(check_info::Http { port, path: None }),
                delay_seconds: Some(0.0),
                ..CheckInfo::default()
            }),
            ..TaskInfo::default()
        };
        let mut watched = Watched::new(&http(port), script(&[None]));
        let News::Checked(found) = watched.next().await else {
            panic!("it is a check")
        };
        assert_eq!(found.http.expect("of its type").status_code, Some(404));

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = u32::from(listener.local_addr().expect("bound").port());
        let tcp = TaskInfo {
            check: Some(CheckInfo {
                r#type: Some(check_info::Type::Tcp.into()),
                tcp: Some(check_info::Tcp { port }),
                delay_seconds: Some(0.0),
                interval_seconds: Some(0.01),
                ..CheckInfo::default()
            }),
            ..TaskInfo::default()
        };
        let mut watched = Watched::new(&tcp, script(&[None]));
        let succeeded = |news| match news {
            News::Checked(found) => found.tcp.and_then(|tcp| tcp.succeeded),
            other => panic!("{other:?}"),
        };
        assert_eq!(succeeded(watched.next().await), Some(true));
        drop(listener);
        assert_eq!(succeeded(watched.next().await), Some(false));
    }
}
