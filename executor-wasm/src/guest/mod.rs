//! What a guest may ask of its cluster beyond WASI: who it is, messages, a store, reports, a log, where others answer.
//!
//! A module comes here by [`abi`], a component by [`component`]; both end in [`Guest`], of which a task has one, however
//! many instances it has. The process's way to the cluster is a [`Cluster`]. Whatever a guest can pile up here has a bound,
//! and nothing here holds the thread of a guest that waits.

pub(crate) mod abi;
pub(crate) mod component;
mod log;
mod mailbox;
mod reports;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tepui_api::envelope::Envelope;
use tepui_api::guest::failure::Code;
use tepui_api::guest::{Answer, Failure, Request, answer, request};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub(crate) use self::log::Level;
use self::mailbox::{Held, Mailbox, Waiting};
pub(crate) use self::mailbox::{Received, Room};
pub(crate) use self::reports::Report;
use self::reports::Reports;
use crate::ending::bounded;
use crate::limits::{Meter, OutputLimit};
use crate::output::{Output, Quota};
use crate::spec::{Identity, TaskSpec};

/// Longest message.
pub(crate) const MESSAGE_BYTES: usize = 64 << 10;
/// Longest key of the store, prefix of keys, and name of a service. The master allows less.
pub(crate) const KEY_BYTES: usize = 4 << 10;
/// Longest value of the store. The master allows less.
pub(crate) const VALUE_BYTES: usize = 256 << 10;
/// Longest sentence about progress or health that is told; what is longer is cut.
pub(crate) const SENTENCE_BYTES: usize = 1 << 10;
/// Of a line of the log: all its texts together, ...
pub(crate) const LOG_BYTES: usize = 64 << 10;
/// ... and its fields.
pub(crate) const LOG_FIELDS: usize = 64;
/// Questions of one task to the agent that are under way; further ones wait.
const QUESTIONS_AT_ONCE: usize = 8;

/// The way of the process to the cluster. None of these may take long.
pub trait Cluster: Send + Sync + 'static {
    /// Sends bytes to the framework's scheduler, best effort, and drops `held` when they have left.
    fn send(&self, message: Bytes, held: Arc<dyn std::any::Any + Send + Sync>);

    /// Asks the agent on behalf of a task.
    fn ask(&self, task_id: &str, request: Request) -> BoxFuture<'static, Answer>;

    /// The task has something to report: it is to be fetched from its handle when so much time has passed.
    fn report(&self, task_id: &str, after: Duration);
}

/// No cluster at all.
pub(crate) struct Nowhere;

impl Cluster for Nowhere {
    fn send(&self, _message: Bytes, _held: Arc<dyn std::any::Any + Send + Sync>) {}

    fn ask(&self, _task_id: &str, _request: Request) -> BoxFuture<'static, Answer> {
        let failure = failure(Code::Unavailable, "this task runs outside of a cluster");
        Box::pin(std::future::ready(Answer {
            body: Some(answer::Body::Failure(failure)),
        }))
    }

    fn report(&self, _task_id: &str, _after: Duration) {}
}

pub(crate) fn failure(code: Code, message: impl Into<String>) -> Failure {
    Failure {
        code: code as i32,
        message: message.into(),
        version: None,
    }
}

/// What all instances of a task share.
pub(crate) struct Guest {
    task_id: String,
    identity: Arc<Identity>,
    cluster: Arc<dyn Cluster>,
    inbox: Mailbox,
    outgoing: Arc<Waiting>,
    dropped: AtomicU64,
    questions: Semaphore,
    reports: Reports,
    log: Output,
    /// Where people are told what went wrong with all this.
    stderr: Output,
    said: Said,
    ending: CancellationToken,
}

/// What was said in the task's stderr, which is said once.
#[derive(Default)]
struct Said {
    incoming: AtomicBool,
    outgoing: AtomicBool,
    overruled: AtomicBool,
}

impl Guest {
    pub(crate) fn new(
        spec: &TaskSpec,
        cluster: Arc<dyn Cluster>,
        room: &Arc<Room>,
        outputs: &Arc<Quota>,
        meter: &Arc<Meter>,
    ) -> Self {
        // Neither is made before it is needed.
        let output = |name| {
            let path = spec.sandbox.join(name);
            Output::later(path, outputs, spec.output_limit, meter)
        };
        Self {
            task_id: spec.task_id.clone(),
            identity: Arc::clone(&spec.identity),
            cluster,
            inbox: Mailbox::new(room),
            outgoing: Waiting::new(room),
            dropped: AtomicU64::new(0),
            questions: Semaphore::new(QUESTIONS_AT_ONCE),
            reports: Reports::default(),
            log: output("log.jsonl"),
            stderr: output("stderr"),
            said: Said::default(),
            ending: CancellationToken::new(),
        }
    }

    pub(crate) fn task_id(&self) -> &str {
        &self.task_id
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The task is to end: nothing waits for a message any more.
    pub(crate) fn end(&self) {
        self.ending.cancel();
    }

    /// Says it in the task's stderr, unless that was done before.
    fn say_once(&self, said: &AtomicBool, line: &str) {
        if !said.swap(true, Ordering::Relaxed) {
            // Without a place to tell it, it is in the counts all the same.
            let _ = self.stderr.append(format!("tepui: {line}\n").as_bytes());
        }
    }

    /// A message for the task has come.
    pub(crate) fn deliver(&self, message: Bytes) {
        let size = message.len();
        let why = if size > MESSAGE_BYTES {
            format!("it is longer than {MESSAGE_BYTES}")
        } else if self.inbox.put(message) {
            return;
        } else {
            "too many wait already to be received".to_owned()
        };
        self.dropped.fetch_add(1, Ordering::Relaxed);
        self.say_once(
            &self.said.incoming,
            &format!("a message of {size} bytes to this task was dropped: {why}; further ones are not told here"),
        );
    }

    /// The next message of at most `most` bytes.
    pub(crate) async fn receive(&self, timeout: Duration, most: usize) -> Received {
        self.inbox.receive(timeout, most, &self.ending).await
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Sends a message to the scheduler.
    pub(crate) fn send(&self, message: Bytes) -> Result<(), Failure> {
        within("a message", message.len(), MESSAGE_BYTES)?;
        let Some(held) = self.outgoing.take(message.len()) else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            self.say_once(
                &self.said.outgoing,
                "a message of this task was dropped: too many wait already to leave; further ones are not told here",
            );
            return Err(failure(
                Code::Full,
                "too many messages of this task wait already to leave",
            ));
        };
        let envelope = Envelope {
            task_id: self.task_id.clone(),
            data: message,
        };
        let held: Arc<Held> = Arc::new(held);
        self.cluster.send(envelope.encode(), held);
        Ok(())
    }

    /// Asks the cluster, when it is this question's turn.
    pub(crate) async fn ask(&self, body: request::Body) -> Result<answer::Body, Failure> {
        match &body {
            request::Body::Get(get) => within("a key", get.key.len(), KEY_BYTES)?,
            request::Body::Put(put) => {
                within("a key", put.key.len(), KEY_BYTES)?;
                within("a value", put.value.len(), VALUE_BYTES)?;
            }
            request::Body::Delete(delete) => within("a key", delete.key.len(), KEY_BYTES)?,
            request::Body::Keys(keys) => within("a prefix", keys.prefix().len(), KEY_BYTES)?,
            request::Body::Find(find) => within("a name", find.name.len(), KEY_BYTES)?,
        }
        // It is never closed.
        let _turn = self.questions.acquire().await;
        let request = Request { body: Some(body) };
        match self.cluster.ask(&self.task_id, request).await.body {
            Some(answer::Body::Failure(failure)) => Err(failure),
            Some(body) => Ok(body),
            None => Err(unknown_answer()),
        }
    }

    /// How far the task is.
    pub(crate) fn progress(
        &self,
        fraction: Option<f64>,
        message: Option<&str>,
    ) -> Result<(), Failure> {
        if let Some(fraction) = fraction
            && !(0.0..=1.0).contains(&fraction)
        {
            return Err(failure(
                Code::Invalid,
                format!("a fraction is between 0 and 1, not {fraction}"),
            ));
        }
        let message = message.map(|message| bounded(message, SENTENCE_BYTES));
        if let Some(after) = self.reports.progress(fraction, message) {
            self.cluster.report(&self.task_id, after);
        }
        Ok(())
    }

    /// Whether it works as it should.
    pub(crate) fn health(&self, healthy: bool, message: &str) {
        if self.identity.health_checked {
            self.say_once(
                &self.said.overruled,
                "the task has a health check, so what its guest says of its health is not told",
            );
            return;
        }
        let message = bounded(message, SENTENCE_BYTES);
        if let Some(after) = self.reports.health(healthy, message) {
            self.cluster.report(&self.task_id, after);
        }
    }

    /// What is to be told now. The time to the next report counts from here.
    pub(crate) fn take_report(&self) -> Report {
        self.reports.take()
    }

    /// One line of the log. The outer error ends the task.
    pub(crate) fn log(
        &self,
        level: Level,
        message: &str,
        fields: &[(impl AsRef<str>, impl AsRef<str>)],
    ) -> wasmtime::Result<Result<(), Failure>> {
        let size = fields.iter().fold(message.len(), |size, (key, value)| {
            size.saturating_add(key.as_ref().len())
                .saturating_add(value.as_ref().len())
        });
        let bounds = within("a line of the log", size, LOG_BYTES).and_then(|()| {
            match fields.len() > LOG_FIELDS {
                true => Err(failure(
                    Code::Invalid,
                    format!(
                        "a line of the log may have {LOG_FIELDS} fields, not {}",
                        fields.len()
                    ),
                )),
                false => Ok(()),
            }
        });
        if let Err(failure) = bounds {
            return Ok(Err(failure));
        }
        match self
            .log
            .append_for_guest(&log::line(level, message, fields))
        {
            Ok(true) => Ok(Ok(())),
            Ok(false) => Err(OutputLimit {
                limit: self.log.limit(),
            }
            .into()),
            Err(error) => Ok(Err(failure(
                Code::Unavailable,
                format!("log.jsonl cannot be written: {error}"),
            ))),
        }
    }
}

/// Refuses what is too long, by its name.
pub(crate) fn within(what: &str, bytes: usize, most: usize) -> Result<(), Failure> {
    if bytes <= most {
        return Ok(());
    }
    Err(failure(
        Code::Invalid,
        format!("{what} may have {most} bytes, not {bytes}"),
    ))
}

/// The agent is of a newer version, or speaks of something else.
pub(crate) fn unknown_answer() -> Failure {
    failure(
        Code::Unknown,
        "the agent gave an answer that this executor does not know",
    )
}
