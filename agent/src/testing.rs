//! What several test modules share: a small HTTP server whose answers misbehave as told, and which counts; a master
//! that does what the test says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use prost::Message;
use tepui_api::link::{ToAgent, ToMaster, to_agent, to_master};
use tepui_api::{proto, recordio};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};

#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: u16,
    body: Vec<u8>,
    send_only: Option<usize>,
    stall: bool,
    held: bool,
}

impl Reply {
    pub(crate) fn body(text: &str) -> Self {
        Self::bytes(text.as_bytes().to_vec())
    }

    pub(crate) fn bytes(body: Vec<u8>) -> Self {
        Self {
            status: 200,
            body,
            send_only: None,
            stall: false,
            held: false,
        }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::bytes(Vec::new())
        }
    }

    pub(crate) fn truncated_to(self, bytes: usize) -> Self {
        Self {
            send_only: Some(bytes),
            ..self
        }
    }

    pub(crate) fn stalling_after(self, bytes: usize) -> Self {
        Self {
            send_only: Some(bytes),
            stall: true,
            ..self
        }
    }

    /// Not answered before [`TestServer::release`].
    pub(crate) fn held(self) -> Self {
        Self { held: true, ..self }
    }
}

#[derive(Debug, Default)]
struct Route {
    reply: Option<Reply>,
    count: usize,
    asked: Arc<Notify>,
    released: Arc<Notify>,
}

#[derive(Debug, Clone)]
pub(crate) struct TestServer {
    address: SocketAddr,
    routes: Arc<Mutex<BTreeMap<String, Route>>>,
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            routes: Arc::default(),
        };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move { serving.serve(stream).await });
            }
        });
        server
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn reply(&self, path: &str, reply: Reply) {
        self.routes
            .lock()
            .unwrap()
            .entry(path.to_owned())
            .or_default()
            .reply = Some(reply);
    }

    pub(crate) fn count(&self, path: &str) -> usize {
        self.routes
            .lock()
            .unwrap()
            .get(path)
            .map_or(0, |route| route.count)
    }

    /// Until somebody has asked for the path.
    pub(crate) async fn asked(&self, path: &str) {
        let asked = self
            .routes
            .lock()
            .unwrap()
            .entry(path.to_owned())
            .or_default()
            .asked
            .clone();
        asked.notified().await;
    }

    pub(crate) fn release(&self, path: &str) {
        self.routes
            .lock()
            .unwrap()
            .entry(path.to_owned())
            .or_default()
            .released
            .notify_one();
    }

    async fn serve(&self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        if stream.read_line(&mut line).await.is_err() {
            return;
        }
        let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
        let mut header = String::new();
        while stream
            .read_line(&mut header)
            .await
            .is_ok_and(|count| count > 2)
        {
            header.clear();
        }
        let (reply, asked, released) = {
            let mut routes = self.routes.lock().unwrap();
            let route = routes.entry(path).or_default();
            route.count += 1;
            (
                route.reply.clone().unwrap_or(Reply::status(404)),
                route.asked.clone(),
                route.released.clone(),
            )
        };
        asked.notify_one();
        if reply.held {
            released.notified().await;
        }
        let head = format!(
            "HTTP/1.1 {} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            reply.status,
            reply.body.len()
        );
        let sent = reply.send_only.unwrap_or(reply.body.len());
        let _ = stream.get_mut().write_all(head.as_bytes()).await;
        let _ = stream.get_mut().write_all(&reply.body[..sent]).await;
        let _ = stream.get_mut().flush().await;
        if reply.stall {
            tokio::time::sleep(Duration::from_secs(600)).await;
        }
    }
}

/// One link as the master sees it.
pub(crate) struct FakeLink {
    pub(crate) incoming: mpsc::Receiver<ToMaster>,
    outgoing: mpsc::UnboundedSender<ToAgent>,
}

impl FakeLink {
    pub(crate) fn send(&self, body: to_agent::Body) {
        self.outgoing.send(ToAgent { body: Some(body) }).unwrap();
    }

    pub(crate) async fn next(&mut self) -> to_master::Body {
        self.incoming
            .recv()
            .await
            .expect("the link stands")
            .body
            .unwrap()
    }

    /// The answer to a request for files, to its end.
    pub(crate) async fn file(&mut self, request: u64) -> String {
        let mut text = String::new();
        loop {
            if let to_master::Body::FileChunk(chunk) = self.next().await
                && chunk.request_id == request
            {
                assert_eq!(chunk.error, None);
                text.push_str(
                    std::str::from_utf8(chunk.data.as_deref().unwrap_or_default()).unwrap(),
                );
                if chunk.last == Some(true) {
                    return text;
                }
            }
        }
    }
}

/// A master that does what the test says; agents dial it for real.
pub(crate) struct FakeMaster {
    pub(crate) address: SocketAddr,
    links: mpsc::UnboundedReceiver<FakeLink>,
    refuses: Arc<AtomicBool>,
}

impl FakeMaster {
    pub(crate) async fn start() -> Self {
        use axum::response::IntoResponse;
        let (new_links, links) = mpsc::unbounded_channel();
        let refuses = Arc::new(AtomicBool::new(false));
        let refusing = refuses.clone();
        let accept = move |body: axum::body::Body| {
            if refusing.load(Ordering::Relaxed) {
                let answer = axum::http::StatusCode::SERVICE_UNAVAILABLE.into_response();
                return std::future::ready(answer);
            }
            let (sender, incoming) = mpsc::channel(1000);
            let (outgoing, mut to_send) = mpsc::unbounded_channel::<ToAgent>();
            tokio::spawn(async move {
                let mut decoder = recordio::Decoder::new(1 << 20);
                let mut chunks = body.into_data_stream();
                while let Some(Ok(chunk)) = chunks.next().await {
                    decoder.push(chunk);
                    while let Some(record) = decoder.next().unwrap() {
                        if sender
                            .send(proto::from_bytes(record).unwrap())
                            .await
                            .is_err()
                        {
                            return;
                        }
                    }
                }
            });
            let _ = new_links.send(FakeLink { incoming, outgoing });
            let records = futures::stream::poll_fn(move |context| to_send.poll_recv(context)).map(
                |message| {
                    Ok::<_, std::convert::Infallible>(recordio::encode(&message.encode_to_vec()))
                },
            );
            std::future::ready(axum::body::Body::from_stream(records).into_response())
        };
        let router = axum::Router::new().route(crate::link::PATH, axum::routing::post(accept));
        Self {
            address: serve(router).await,
            links,
            refuses,
        }
    }

    /// Whether agents that dial from now on are turned away.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::Relaxed);
    }

    pub(crate) async fn link(&mut self) -> FakeLink {
        self.links.recv().await.unwrap()
    }
}

/// A server that sends every agent to another master.
pub(crate) async fn start_redirect(to: SocketAddr) -> SocketAddr {
    let location = format!("//{to}{}", crate::link::PATH);
    let answer = move || {
        let location = location.clone();
        async move {
            (
                axum::http::StatusCode::TEMPORARY_REDIRECT,
                [("location", location)],
            )
        }
    };
    serve(axum::Router::new().route(crate::link::PATH, axum::routing::post(answer))).await
}

pub(crate) async fn serve(router: axum::Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, router).into_future());
    address
}

/// A site whose owner is the test; its directory lives as long as the runtime.
pub(crate) fn site(events: mpsc::Sender<crate::owner::Event>) -> crate::site::Site {
    use crate::compile::{CompileLimits, Compiler};
    use crate::containers::Containers;
    use crate::containment::Layout;
    use crate::executors::{Executors, Settings};
    use crate::files::FilesContext;
    use crate::prepare::Preparer;
    use crate::site::{About, Site};
    use crate::store::Store;
    use crate::verbosity::Verbosity;
    use crate::watch::Watcher;

    let directory = tempfile::tempdir().unwrap();
    let work_dir = directory.path().to_path_buf();
    tokio::spawn(async move {
        let _kept = directory;
        std::future::pending::<()>().await;
    });
    let limits = CompileLimits {
        workers: 1,
        time: Duration::from_secs(9),
        memory_bytes: 1 << 30,
        module_bytes: 1 << 20,
        quick_above_bytes: 1 << 20,
        shut_in: false,
    };
    let store = |name: &str| Store::open(work_dir.join(name), 1 << 20).unwrap();
    let surroundings = Arc::new(surroundings(&work_dir));
    let preparer = Preparer {
        work_dir: work_dir.clone(),
        switch_user: false,
        fetcher: fetcher(store("fetch")),
        compiler: Compiler::new("/bin/false".into(), store("compiled"), limits),
        surroundings: surroundings.clone(),
        volumes: crate::persistent::Volumes::start(work_dir.clone(), mpsc::channel(1).0).unwrap(),
        datasets: crate::datasets::Datasets::default(),
    };
    let peers = crate::artifacts::Peers {
        fetcher: fetcher(store("peers")),
        holders: crate::holders::Holders::default(),
    };
    let settings = Settings {
        work_dir: work_dir.clone(),
        program: "/bin/false".into(),
        surroundings,
        layout: Layout::None,
        overhead_bytes: 64 << 20,
        memory_bytes: 1 << 30,
    };
    let executors = Executors::new(settings, preparer.clone(), events.clone());
    let watcher = Watcher::new();
    let info = tepui_api::v1::AgentInfo {
        hostname: "here".to_owned(),
        ..Default::default()
    };
    Site {
        access: Arc::default(),
        about: Arc::new(About {
            info,
            endpoint: "127.0.0.1:5051".to_owned(),
            work_dir: work_dir.display().to_string(),
            executor_heartbeat: Duration::from_secs(60),
            start_time: 1.0,
            recovery: Duration::from_millis(1500),
            flags: BTreeMap::new(),
            serves_containers: true,
        }),
        files: Arc::new(FilesContext {
            work_dir: work_dir.clone(),
            watcher: watcher.clone(),
            events: events.clone(),
            holders: peers.holders.clone(),
        }),
        containers: Containers::new(
            work_dir,
            Layout::None,
            preparer,
            executors.clone(),
            events.clone(),
            watcher,
        ),
        executors,
        events,
        verbosity: Verbosity::new(None),
        guests: crate::guest::Guests::new(peers.holders.questions.clone()),
        peers,
    }
}

/// One that nobody but the named origins helps.
pub(crate) fn fetcher(store: crate::store::Store) -> crate::fetcher::Fetcher {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let fetch = tepui_fetch::Fetch::new(tepui_fetch::Settings::default()).unwrap();
    crate::fetcher::Fetcher::new(store, fetch, crate::holders::Holders::default(), None)
}

/// What a preparer or the executors of a test say of the agent.
pub(crate) fn surroundings(work_dir: &std::path::Path) -> crate::environment::Surroundings {
    crate::environment::Surroundings {
        endpoint: "127.0.0.1:5051".parse().unwrap(),
        socket: work_dir.join("agent.sock"),
        executor_socket: work_dir.join("api/executor.sock"),
        wall: None,
        shutdown_grace_period: Duration::from_secs(5),
        reregistration_timeout: Duration::from_secs(2),
        recovery_timeout: Duration::from_secs(900),
        reach: Default::default(),
        variables: Default::default(),
    }
}
