//! The agent's one connection to the leading master: dialled from here, kept up, and dialled again.
//!
//! Both directions carry records; everything that waits to be sent goes out in one write.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tepui_access::Credential;
use tepui_agent_core::Input;
use tepui_api::link::{ToAgent, ToMaster};
use tepui_api::{proto, recordio};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::files::{Files, FilesContext};
use crate::owner::Event;

pub(crate) const PATH: &str = "/tepui/v1/agent-link";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the request to the response's head.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that does not answer an HTTP/2 ping for this long is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// A link that stood this long was a good one: the next attempt comes soon.
const GOOD_LINK: Duration = Duration::from_secs(10);
/// The longest pause between two attempts.
const BACKOFF_MAXIMUM: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 5;
const MAX_RECORD_BYTES: usize = 64 << 20;
const MAX_REFUSAL_BYTES: usize = 4096;
/// Messages of the core that may wait for the network before the link is given up.
const QUEUE: usize = 262_144;
/// Pieces of files that may wait: little, for they are large and their readers can wait.
const FILE_QUEUE: usize = 16;
/// Messages and pieces of files per write.
const BATCH: usize = 1024;
const FILE_BATCH: usize = 4;
const WINDOW_BYTES: u32 = 4 << 20;

#[derive(Debug)]
pub(crate) struct LinkSettings {
    pub(crate) masters: Vec<Authority>,
    /// What the agent shows a master that asks who it is.
    pub(crate) credential: Option<Credential>,
    /// Before the first attempt after one in vain nobody waits longer than this.
    pub(crate) backoff: Duration,
}

/// `host:port` of a master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    #[error("the master's address is empty")]
    Empty,
    #[error("'{0}' is not the address of a master; write host:port or http://host:port")]
    Malformed(String),
    #[error("'{0}': agents reach their master over plain HTTP only")]
    Scheme(String),
}

impl Authority {
    /// One or several, separated by commas.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, AuthorityError> {
        let all: Vec<Self> = text
            .split(',')
            .map(str::trim)
            .filter(|one| !one.is_empty())
            .map(Self::parse)
            .collect::<Result<_, _>>()?;
        if all.is_empty() {
            Err(AuthorityError::Empty)
        } else {
            Ok(all)
        }
    }

    fn parse(text: &str) -> Result<Self, AuthorityError> {
        let malformed = || AuthorityError::Malformed(text.to_owned());
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some(_) => return Err(AuthorityError::Scheme(text.to_owned())),
            None => text.strip_prefix("//").unwrap_or(text),
        };
        let authority = rest.split('/').next().unwrap_or_default();
        let (host, port) = authority.rsplit_once(':').ok_or_else(malformed)?;
        if host.is_empty() || host.contains('@') || port.parse::<u16>().is_err() {
            return Err(malformed());
        }
        Ok(Self(authority.to_owned()))
    }
}

#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("it cannot be reached: {0}")]
    Connect(std::io::Error),
    #[error("it does not answer")]
    Silent,
    #[error("it answered {status}: {message}")]
    Refused { status: StatusCode, message: String },
    #[error("it leads elsewhere without saying where")]
    NoLocation,
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
    #[error(transparent)]
    Record(#[from] recordio::RecordError),
    #[error("it sent something else than a message: {0}")]
    Message(String),
}

/// How an attempt ended that got as far as a master.
enum Ending {
    /// Another master leads.
    Elsewhere(Authority),
    /// The link stood, for so long.
    Down(Duration),
}

/// Keeps a link up until cancelled.
pub(crate) async fn keep_linked(
    settings: LinkSettings,
    context: Arc<FilesContext>,
    cancel: CancellationToken,
) {
    let mut attempts: u32 = 0;
    let mut redirects = 0;
    let mut turn = 0;
    let mut elsewhere = None;
    let mut link = 0;
    loop {
        let authority = elsewhere
            .take()
            .unwrap_or_else(|| settings.masters[turn % settings.masters.len()].clone());
        link += 1;
        let outcome = tokio::select! {
            () = cancel.cancelled() => return,
            outcome = run_link(link, &authority, settings.credential.as_ref(), &context) => outcome,
        };
        match outcome {
            Ok(Ending::Elsewhere(leader)) => {
                tracing::info!(
                    master = authority.0,
                    leader = leader.0,
                    "another master leads"
                );
                elsewhere = Some(leader);
                redirects += 1;
                if redirects <= MAX_REDIRECTS {
                    continue;
                }
                // Masters that point at each other are left to settle it.
                elsewhere = None;
            }
            Ok(Ending::Down(stood)) => {
                tracing::info!(master = authority.0, "the link to the master is down");
                if stood >= GOOD_LINK {
                    attempts = 0;
                }
            }
            Err(error) => {
                turn += 1;
                if attempts == 0 {
                    tracing::warn!(master = authority.0, %error, "no link to the master");
                } else {
                    tracing::debug!(master = authority.0, %error, "no link to the master");
                }
            }
        }
        redirects = 0;
        let pause = back_off(attempts, settings.backoff, chance());
        attempts = attempts.saturating_add(1);
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Anything up to a ceiling that doubles with each attempt, so that a thousand agents do not come at once.
fn back_off(attempts: u32, factor: Duration, chance: f64) -> Duration {
    let ceiling = factor.saturating_mul(2_u32.saturating_pow(attempts));
    ceiling.min(BACKOFF_MAXIMUM).mul_f64(chance)
}

/// Evenly between 0 and 1.
fn chance() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_u128() as u32) / f64::from(u32::MAX)
}

async fn run_link(
    link: u64,
    authority: &Authority,
    credential: Option<&Credential>,
    context: &Arc<FilesContext>,
) -> Result<Ending, LinkError> {
    let stream = match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&authority.0)).await
    {
        Ok(stream) => stream.map_err(LinkError::Connect)?,
        Err(_) => return Err(LinkError::Silent),
    };
    stream.set_nodelay(true).map_err(LinkError::Connect)?;
    let (mut requests, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await?;
    let connection = Aborting(tokio::spawn(connection));
    let (body, chunks) = mpsc::channel::<Bytes>(1);
    let chunks = futures::stream::unfold(chunks, |mut chunks| async move {
        let chunk = chunks.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(chunk)), chunks))
    });
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{}{PATH}", authority.0))
        .header(header::CONTENT_TYPE, "application/recordio")
        .header("message-content-type", "application/x-protobuf");
    if let Some(credential) = credential {
        request = request.header(header::AUTHORIZATION, credential.header());
    }
    let request = request.body(StreamBody::new(chunks.boxed()))?;
    let response = match tokio::time::timeout(ANSWER_TIMEOUT, requests.send_request(request)).await
    {
        Ok(response) => response?,
        Err(_) => return Err(LinkError::Silent),
    };
    match response.status() {
        StatusCode::OK => {}
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {
            let location = response
                .headers()
                .get(header::LOCATION)
                .and_then(|value| value.to_str().ok());
            let leader = location.and_then(|location| Authority::parse(location).ok());
            return leader.map(Ending::Elsewhere).ok_or(LinkError::NoLocation);
        }
        status => {
            return Err(LinkError::Refused {
                status,
                message: sentence(response).await,
            });
        }
    }
    tracing::info!(master = authority.0, "linked to the master");
    let stood = Instant::now();
    let outcome = converse(link, authority, response.into_body(), body, context).await;
    drop(connection);
    if let Err(error) = outcome {
        tracing::info!(master = authority.0, %error, "the link broke");
    }
    Ok(Ending::Down(stood.elapsed()))
}

/// Ends a task when dropped.
struct Aborting<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Aborting<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn sentence(response: Response<Incoming>) -> String {
    match Limited::new(response.into_body(), MAX_REFUSAL_BYTES)
        .collect()
        .await
    {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Tells the owner of the link and of its end, whichever way it comes.
async fn converse(
    link: u64,
    authority: &Authority,
    incoming: Incoming,
    body: mpsc::Sender<Bytes>,
    context: &Arc<FilesContext>,
) -> Result<(), LinkError> {
    let (sender, queue) = mpsc::channel(QUEUE);
    let (file_sender, file_queue) = mpsc::channel(FILE_QUEUE);
    let close = CancellationToken::new();
    let questions = &context.holders.questions;
    let _linked = questions.linked(link, &authority.0, sender.clone());
    let guard = LinkGuard {
        link,
        events: context.events.clone(),
    };
    if context
        .events
        .send(Event::LinkUp {
            link,
            sender,
            close: close.clone(),
        })
        .await
        .is_err()
    {
        return Ok(());
    }
    let files = Files::new(context.clone(), file_sender);
    let outcome = tokio::select! {
        outcome = read(incoming, &files, context) => outcome,
        () = write(queue, file_queue, body) => Ok(()),
        () = close.cancelled() => Ok(()),
    };
    drop(guard);
    outcome
}

struct LinkGuard {
    link: u64,
    events: mpsc::Sender<Event>,
}

impl Drop for LinkGuard {
    fn drop(&mut self) {
        let (events, link) = (self.events.clone(), self.link);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { events.send(Event::LinkDown { link }).await });
        }
    }
}

async fn read(
    mut incoming: Incoming,
    files: &Files,
    context: &FilesContext,
) -> Result<(), LinkError> {
    let mut decoder = recordio::Decoder::new(MAX_RECORD_BYTES);
    while let Some(frame) = incoming.frame().await {
        let Ok(chunk) = frame?.into_data() else {
            continue;
        };
        decoder.push(chunk);
        while let Some(record) = decoder.next()? {
            let message: ToAgent =
                proto::from_bytes(record).map_err(|error| LinkError::Message(error.to_string()))?;
            // What a newer master may say beyond what is known here is passed over.
            let body = message.body.and_then(|body| files.take(body));
            let body = body.and_then(|body| context.holders.take(body));
            let Some(body) = body.and_then(|body| context.holders.questions.take(body)) else {
                continue;
            };
            let input = Input::FromMaster(ToAgent { body: Some(body) });
            if context
                .events
                .send(Event::Core(Box::new(input)))
                .await
                .is_err()
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn write(
    mut queue: mpsc::Receiver<ToMaster>,
    mut files: mpsc::Receiver<ToMaster>,
    body: mpsc::Sender<Bytes>,
) {
    let (mut batch, mut pieces) = (Vec::with_capacity(BATCH), Vec::with_capacity(FILE_BATCH));
    loop {
        tokio::select! {
            biased;
            count = queue.recv_many(&mut batch, BATCH) => if count == 0 { return },
            count = files.recv_many(&mut pieces, FILE_BATCH) => if count == 0 { return },
        }
        let mut records = BytesMut::new();
        for message in batch.drain(..).chain(pieces.drain(..)) {
            recordio::encode_into(&message.encode_to_vec(), &mut records);
        }
        if body.send(records.freeze()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_is_written_in_several_ways() {
        let one = |text: &str| {
            Authority::parse_list(text)
                .map(|all| all.into_iter().map(|one| one.0).collect::<Vec<_>>())
        };
        for text in [
            "host:5050",
            "http://host:5050",
            "http://host:5050/",
            "//host:5050/tepui/v1/agent-link",
            " host:5050 ,",
        ] {
            assert_eq!(one(text).unwrap(), ["host:5050"], "{text}");
        }
        assert_eq!(one("a:1,[::1]:2").unwrap(), ["a:1", "[::1]:2"]);
        for text in [
            "",
            ",",
            "host",
            "https://host:1",
            "zk://host:1/mesos",
            ":1",
            "host:99999",
            "http://user@host:1",
        ] {
            assert!(one(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pauses_grow_to_a_minute_and_vary() {
        let factor = Duration::from_secs(1);
        assert_eq!(back_off(0, factor, 1.0), factor);
        assert_eq!(back_off(3, factor, 1.0), Duration::from_secs(8));
        assert_eq!(back_off(3, factor, 0.25), Duration::from_secs(2));
        assert_eq!(back_off(u32::MAX, factor, 1.0), BACKOFF_MAXIMUM);
        assert_eq!(back_off(u32::MAX, factor, 0.0), Duration::ZERO);
    }

    use tepui_api::link::{Ping, Pong, Tail, to_agent, to_master};
    use tepui_api::v1;

    use crate::testing::{FakeMaster, start_redirect};
    use crate::watch::Watcher;

    fn dial(masters: &str) -> (mpsc::Receiver<Event>, CancellationToken) {
        let (events, inbox) = mpsc::channel(1000);
        let context = FilesContext {
            work_dir: "/nowhere".into(),
            watcher: Watcher::new(),
            events,
            holders: Default::default(),
        };
        let settings = LinkSettings {
            masters: Authority::parse_list(masters).unwrap(),
            credential: None,
            backoff: Duration::from_millis(2),
        };
        let cancel = CancellationToken::new();
        tokio::spawn(keep_linked(settings, Arc::new(context), cancel.clone()));
        (inbox, cancel)
    }

    fn pong(sequence: u64) -> ToMaster {
        ToMaster {
            body: Some(to_master::Body::Pong(Pong { sequence })),
        }
    }

    async fn up(
        inbox: &mut mpsc::Receiver<Event>,
    ) -> (u64, mpsc::Sender<ToMaster>, CancellationToken) {
        match inbox.recv().await {
            Some(Event::LinkUp {
                link,
                sender,
                close,
            }) => (link, sender, close),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn messages_pass_both_ways_in_order() {
        let mut master = FakeMaster::start().await;
        let (mut inbox, _cancel) = dial(&master.address.to_string());
        let mut link = master.link().await;
        let (_, sender, _) = up(&mut inbox).await;
        for sequence in 0..5000 {
            sender.send(pong(sequence)).await.unwrap();
            link.send(to_agent::Body::Ping(Ping { sequence }));
            if sequence % 500 == 499 {
                for expected in sequence - 499..=sequence {
                    assert_eq!(
                        link.next().await,
                        to_master::Body::Pong(Pong { sequence: expected })
                    );
                    match inbox.recv().await {
                        Some(Event::Core(input)) => assert!(matches!(
                            *input,
                            Input::FromMaster(ToAgent { body: Some(to_agent::Body::Ping(Ping { sequence })) })
                                if sequence == expected
                        )),
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn a_broken_link_is_reported_and_dialled_again() {
        let mut master = FakeMaster::start().await;
        let (mut inbox, _cancel) = dial(&format!("http://{}", master.address));
        for _ in 0..3 {
            let link = master.link().await;
            let (number, _sender, _) = up(&mut inbox).await;
            drop(link);
            assert!(matches!(inbox.recv().await, Some(Event::LinkDown { link }) if link == number));
        }
    }

    #[tokio::test]
    async fn closing_gives_the_link_up_and_dials_again() {
        let mut master = FakeMaster::start().await;
        let (mut inbox, _cancel) = dial(&master.address.to_string());
        let _first = master.link().await;
        let (number, _sender, close) = up(&mut inbox).await;
        close.cancel();
        assert!(matches!(inbox.recv().await, Some(Event::LinkDown { link }) if link == number));
        let _second = master.link().await;
        up(&mut inbox).await;
    }

    #[tokio::test]
    async fn the_leader_is_found_through_a_redirect_and_past_a_dead_master() {
        let mut master = FakeMaster::start().await;
        let redirect = start_redirect(master.address).await;
        let (mut inbox, _cancel) = dial(&format!("127.0.0.1:1,{redirect}"));
        let _link = master.link().await;
        up(&mut inbox).await;
    }

    #[tokio::test]
    async fn requests_for_files_do_not_reach_the_core() {
        let mut master = FakeMaster::start().await;
        let (mut inbox, _cancel) = dial(&master.address.to_string());
        let mut link = master.link().await;
        let (_, _sender, _) = up(&mut inbox).await;
        let tail = Tail {
            request_id: 9,
            framework_id: v1::FrameworkId {
                value: "f".to_owned(),
            },
            task_id: v1::TaskId {
                value: "t".to_owned(),
            },
            path: "stdout".to_owned(),
            ..Default::default()
        };
        link.send(to_agent::Body::Tail(tail));
        match inbox.recv().await {
            Some(Event::Locate { reply, .. }) => reply.send(None).unwrap(),
            other => panic!("{other:?}"),
        }
        match link.next().await {
            to_master::Body::FileChunk(chunk) => {
                assert_eq!((chunk.request_id, chunk.error_status), (9, Some(404)));
            }
            other => panic!("{other:?}"),
        }
    }
}
