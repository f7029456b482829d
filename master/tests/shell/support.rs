//! A master to test, and clients small enough to see every byte.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tempfile::TempDir;
use tepui_api::link::{self, to_agent, to_master};
use tepui_api::v1::{master, scheduler};
use tepui_api::{json, proto, recordio, v1};
use tepui_master::{Config, Running};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Far beyond what anything here takes: a test that would hang fails instead.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what} did not happen"))
}

pub(crate) struct Master {
    pub(crate) running: Running,
    pub(crate) directory: TempDir,
}

pub(crate) fn config(directory: &Path) -> Config {
    Config {
        port: 0,
        data_dir: directory.to_owned(),
        ..Config::default()
    }
}

pub(crate) async fn master() -> Master {
    master_with(|_| {}).await
}

pub(crate) async fn master_with(change: impl FnOnce(&mut Config)) -> Master {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    change(&mut config);
    let running = tepui_master::start(config).await.unwrap();
    Master { running, directory }
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// An HTTP/1.1 connection whose answer is read chunk by chunk.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(
        address: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream
            .write_all(&[head.as_bytes(), body].concat())
            .await
            .unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    async fn more(&mut self) -> bool {
        let mut piece = [0; 16 << 10];
        let count = soon("an answer", self.stream.read(&mut piece))
            .await
            .unwrap_or(0);
        self.buffer.extend_from_slice(&piece[..count]);
        count > 0
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Some(String::from_utf8(line[..end].to_vec()).unwrap());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    pub(crate) async fn head(&mut self) -> Response {
        let status = self.line().await.expect("a status line");
        let status = status.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = Vec::new();
        while let Some(line) = self.line().await.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').unwrap();
            headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        Response {
            status,
            headers,
            body: Vec::new(),
        }
    }

    /// `None` after the last one, or when the connection broke.
    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.line().await?;
        let length = usize::from_str_radix(&line, 16).unwrap();
        while self.buffer.len() < length + 2 {
            if !self.more().await {
                return None;
            }
        }
        let chunk: Vec<u8> = self.buffer.drain(..length + 2).take(length).collect();
        (length > 0).then_some(chunk)
    }

    pub(crate) async fn rest(mut self, method: &str) -> Response {
        let mut response = self.head().await;
        if method == "HEAD" || response.status == 204 || response.status == 304 {
            return response;
        }
        if let Some(length) = response.header("content-length") {
            let length: usize = length.parse().unwrap();
            while self.buffer.len() < length && self.more().await {}
            assert_eq!(
                self.buffer.len(),
                length,
                "the body has the length announced"
            );
            response.body = self.buffer;
        } else {
            while let Some(chunk) = self.chunk().await {
                response.body.extend(chunk);
            }
        }
        response
    }
}

pub(crate) async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    Connection::open(address, method, path, headers, body)
        .await
        .rest(method)
        .await
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Response {
    send(address, "GET", path, &[], b"").await
}

pub(crate) const JSON: (&str, &str) = ("Content-Type", "application/json");

pub(crate) async fn operator(address: SocketAddr, call: &str) -> master::Response {
    let response = send(address, "POST", "/api/v1", &[JSON], call.as_bytes()).await;
    assert_eq!(response.status, 200, "{}", response.text());
    json::from_slice(&response.body).unwrap()
}

/// Asks again until the answer is as wished for.
pub(crate) async fn eventually<T>(
    address: SocketAddr,
    call: &str,
    wanted: impl Fn(master::Response) -> Option<T>,
) -> T {
    soon(call, async {
        loop {
            if let Some(found) = wanted(operator(address, call).await) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

pub(crate) const SUBSCRIBE: &str =
    r#"{"type": "SUBSCRIBE", "subscribe": {"framework_info": {"user": "nobody", "name": "test"}}}"#;

pub(crate) struct Subscription {
    pub(crate) connection: Connection,
    pub(crate) stream_id: String,
    pub(crate) framework_id: v1::FrameworkId,
}

impl Subscription {
    pub(crate) async fn open(address: SocketAddr, call: &str) -> Self {
        let mut connection = Connection::open(
            address,
            "POST",
            "/api/v1/scheduler",
            &[JSON],
            call.as_bytes(),
        )
        .await;
        let head = connection.head().await;
        assert_eq!(head.status, 200);
        let stream_id = head
            .header("mesos-stream-id")
            .expect("the stream has an id")
            .to_owned();
        let framework_id = v1::FrameworkId {
            value: String::new(),
        };
        let mut subscription = Self {
            connection,
            stream_id,
            framework_id,
        };
        let event = subscription.event().await.unwrap();
        subscription.framework_id = event
            .subscribed
            .expect("SUBSCRIBED comes first")
            .framework_id;
        subscription
    }

    /// One chunk is one record is one event.
    pub(crate) async fn event(&mut self) -> Option<scheduler::Event> {
        let chunk = self.connection.chunk().await?;
        let mut decoder = recordio::Decoder::new(1 << 20);
        decoder.push(Bytes::from(chunk));
        let record = decoder
            .next()
            .unwrap()
            .expect("a chunk holds a whole record");
        assert_eq!(decoder.next(), Ok(None), "a chunk holds one record");
        assert!(decoder.is_between_records());
        Some(json::from_slice(&record).unwrap())
    }

    pub(crate) async fn wait_for(&mut self, wanted: scheduler::event::Type) -> scheduler::Event {
        loop {
            let event = self.event().await.expect("the stream goes on");
            if event.r#type() == wanted {
                return event;
            }
        }
    }

    pub(crate) async fn call(&self, address: SocketAddr, mut call: scheduler::Call) -> Response {
        call.framework_id = Some(self.framework_id.clone());
        let headers = [
            ("Content-Type", "application/x-protobuf"),
            ("Mesos-Stream-Id", self.stream_id.as_str()),
        ];
        send(
            address,
            "POST",
            "/api/v1/scheduler",
            &headers,
            &proto::to_vec(&call),
        )
        .await
    }
}

/// The far end of a link, without an agent behind it.
pub(crate) struct FakeAgent {
    outgoing: mpsc::Sender<Bytes>,
    incoming: Incoming,
    decoder: recordio::Decoder,
}

impl FakeAgent {
    /// A link on which nothing was said yet.
    pub(crate) async fn dial(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        let (outgoing, records) = mpsc::channel::<Bytes>(64);
        let frames = futures::stream::unfold(records, |mut records| async move {
            let record = records.recv().await?;
            Some((
                Ok::<_, std::convert::Infallible>(Frame::data(record)),
                records,
            ))
        });
        let request = hyper::Request::post(format!("http://{address}/tepui/v1/agent-link"))
            .header("content-type", "application/recordio")
            .body(StreamBody::new(Box::pin(frames)))
            .unwrap();
        let response = soon("the link's answer", sender.send_request(request))
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        Self {
            outgoing,
            incoming: response.into_body(),
            decoder: recordio::Decoder::new(1 << 24),
        }
    }

    pub(crate) async fn register(address: SocketAddr) -> (Self, v1::AgentId) {
        let mut agent = Self::dial(address).await;
        agent.say(to_master::Body::Register(registration())).await;
        let registered = agent.wait_for(|body| match body {
            to_agent::Body::Registered(registered) => Some(registered),
            _ => None,
        });
        let id = registered.await.agent_id;
        (agent, id)
    }

    pub(crate) async fn say(&self, body: to_master::Body) {
        let message = link::ToMaster { body: Some(body) };
        self.outgoing
            .send(recordio::encode(&message.encode_to_vec()))
            .await
            .expect("the link is open");
    }

    /// `None` once the master has closed the link.
    pub(crate) async fn hear(&mut self) -> Option<to_agent::Body> {
        loop {
            if let Some(record) = self.decoder.next().unwrap() {
                let message: link::ToAgent = proto::from_bytes(record).unwrap();
                return message.body;
            }
            let frame = soon("a message on the link", self.incoming.frame()).await?;
            if let Ok(Ok(data)) = frame.map(Frame::into_data) {
                self.decoder.push(data);
            }
        }
    }

    pub(crate) async fn wait_for<T>(&mut self, wanted: impl Fn(to_agent::Body) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.hear().await.expect("the link is open")) {
                return found;
            }
        }
    }
}

pub(crate) fn registration() -> link::Register {
    let agent = r#"{
        "hostname": "agent.test", "port": 5051,
        "resources": [
            {"name": "cpus", "type": "SCALAR", "scalar": {"value": 4}},
            {"name": "mem", "type": "SCALAR", "scalar": {"value": 1024}},
            {"name": "ports", "type": "RANGES", "ranges": {"range": [{"begin": 31000, "end": 31009}]}}
        ],
        "attributes": [{"name": "rack", "type": "TEXT", "text": {"value": "r1"}}]
    }"#;
    link::Register {
        agent: json::from_slice(agent.as_bytes()).unwrap(),
        version: "0.1.0".to_owned(),
        endpoint: "127.0.0.1:5051".to_owned(),
        boot_id: "boot".to_owned(),
        ..Default::default()
    }
}
