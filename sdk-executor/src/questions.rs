//! What the guests of an executor ask of the cluster, by way of the agent: `POST /api/v1/guest`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use prost::Message as _;
use tepui_api::guest::failure::Code;
use tepui_api::guest::{Answer, Call, Failure, Request, answer};
use tepui_api::v1::{ExecutorId, FrameworkId, TaskId};
use tokio::sync::Semaphore;

use crate::config::Config;
use crate::transport::{Connection, TransportError};

const PATH: &str = "/api/v1/guest";
/// Questions under way at once, each on a connection of its own; further ones wait.
const AT_ONCE: usize = 16;
/// Longest answer that is read.
const ANSWER_BYTES: usize = 16 << 20;
/// The agent gives up on its master earlier than this.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks on behalf of tasks. Clones share their connections.
#[derive(Clone)]
pub struct Questions {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    idle: Mutex<Vec<Connection>>,
    turns: Semaphore,
}

impl Questions {
    /// For the executor of this configuration. No connection is made before there is something to ask.
    pub fn new(config: &Config) -> Self {
        Self {
            inner: Arc::new(Inner {
                config: config.clone(),
                idle: Mutex::default(),
                turns: Semaphore::new(AT_ONCE),
            }),
        }
    }

    /// The agent's answer, or a failure in its place. Must be called within a tokio runtime.
    pub async fn ask(&self, task_id: &str, request: Request) -> Answer {
        let asked = tokio::time::timeout(PATIENCE, self.inner.ask(task_id, request));
        let (code, message) = match asked.await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(TransportError::Refused { status, message })) if status < 500 => {
                let message = format!("the agent refused with {status}: {message}");
                (Code::Unknown, message)
            }
            Ok(Err(error)) => (Code::Unavailable, error.to_string()),
            Err(_) => {
                let message = format!("the agent gave no answer within {} s", PATIENCE.as_secs());
                (Code::Unavailable, message)
            }
        };
        Answer {
            body: Some(answer::Body::Failure(Failure {
                code: code as i32,
                message,
                version: None,
            })),
        }
    }
}

impl Inner {
    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, task_id: &str, request: Request) -> Result<Answer, TransportError> {
        let call = Call {
            framework_id: FrameworkId {
                value: self.config.framework_id.clone(),
            },
            executor_id: ExecutorId {
                value: self.config.executor_id.clone(),
            },
            task_id: TaskId {
                value: task_id.to_owned(),
            },
            request,
        };
        let call = Bytes::from(call.encode_to_vec());
        // It is never closed.
        let _turn = self.turns.acquire().await;
        loop {
            let waiting = self.idle().pop();
            let (mut connection, is_new) = match waiting {
                Some(connection) => (connection, false),
                None => (Connection::open(&self.config).await?, true),
            };
            let response = match connection.post_to(PATH, call.clone()).await {
                Ok(response) => response,
                // One that waited may have been closed meanwhile; then the question was never put.
                Err(TransportError::Http(error))
                    if !is_new && (error.is_canceled() || error.is_closed()) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let damaged = |error: &dyn std::fmt::Display| {
                TransportError::Damaged(format!("its answer to a guest cannot be read: {error}"))
            };
            let body = Limited::new(response.into_body(), ANSWER_BYTES).collect();
            let body = body.await.map_err(|error| damaged(&error))?.to_bytes();
            self.idle().push(connection);
            return tepui_api::proto::from_bytes(body).map_err(|error| damaged(&error));
        }
    }
}
