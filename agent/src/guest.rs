//! `POST /api/v1/guest`: what wasm guests ask of their cluster. The executor says which of its tasks asks; the agent
//! makes sure that it is one, adds what it knows of it, and asks the master.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use prost::Message;
use tepui_agent_core::{ExecutorRef, GuestTask};
use tepui_api::guest::{Answer, Call, Failure, answer, failure};
use tepui_api::link::{GuestRequest, to_agent, to_master};
use tepui_api::{MediaType, proto};
use tepui_model::{StoreLimits, format_bytes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::owner::Event;
use crate::questions::{NoAnswer, Questions};
use crate::request::read_body;
use crate::site::{Refusal, Site, content_type, text};

/// How long an answer may take, the wait for the executor's turn included.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions of one executor that are with the master at a time; further ones wait here.
const UNDER_WAY: usize = 64;
/// Questions of one executor that may wait.
const IN_LINE: usize = 4096;
/// The longest question: that with the longest key and value.
const LONGEST_QUESTION: usize = (64 << 10) + 1024;

/// What executors ask in the name of their tasks.
#[derive(Debug, Clone)]
pub(crate) struct Guests {
    questions: Questions,
    lines: Arc<Mutex<BTreeMap<ExecutorRef, Line>>>,
}

/// One executor's turns.
#[derive(Debug)]
struct Line {
    turns: Arc<Semaphore>,
    /// Those who have a turn or wait for one.
    length: usize,
}

impl Guests {
    pub(crate) fn new(questions: Questions) -> Self {
        Self {
            questions,
            lines: Arc::default(),
        }
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<ExecutorRef, Line>> {
        // A line is entered and left in one go.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place in the executor's line; `None` if it is too long already.
    fn enter(&self, executor: &ExecutorRef) -> Option<Place> {
        let mut lines = self.lines();
        let line = lines.entry(executor.clone()).or_insert_with(|| Line {
            turns: Arc::new(Semaphore::new(UNDER_WAY)),
            length: 0,
        });
        if line.length >= UNDER_WAY + IN_LINE {
            return None;
        }
        line.length += 1;
        Some(Place {
            guests: self.clone(),
            executor: executor.clone(),
            turns: line.turns.clone(),
        })
    }

    /// Asks the master when it is the executor's turn.
    async fn ask(&self, task: GuestTask, call: Call) -> Answer {
        if call.request.encoded_len() > LONGEST_QUESTION {
            return failed(
                failure::Code::Invalid,
                format!(
                    "A guest's question may have at most {}: a key of {} bytes and a value of {}",
                    format_bytes(LONGEST_QUESTION as u64),
                    StoreLimits::default().name,
                    format_bytes(StoreLimits::default().value as u64)
                ),
            );
        }
        let unavailable = |why: &str| failed(failure::Code::Unavailable, why);
        if !self.questions.has_link() {
            return unavailable(&format!("Ask again later: {}", NoAnswer::NoLink));
        }
        let Some(place) = self.enter(&task.executor) else {
            return unavailable(
                "Ask again later: too many questions of this executor wait already",
            );
        };
        let began = Instant::now();
        let Ok(Some(_turn)) = tokio::time::timeout(PATIENCE, place.turn()).await else {
            return unavailable("Ask again later: too many questions of this executor were before");
        };
        let question = |request_id| {
            to_master::Body::GuestRequest(GuestRequest {
                request_id,
                framework_id: call.framework_id,
                task_id: call.task_id,
                role: task.role,
                job: task.job,
                request: call.request,
            })
        };
        let left = PATIENCE.saturating_sub(began.elapsed());
        match self.questions.ask(left, question).await {
            Ok((_, to_agent::Body::GuestAnswer(answer))) => answer.answer,
            Ok(_) => failed(
                failure::Code::Unknown,
                "The master answered something else than what was asked",
            ),
            Err(NoAnswer::NoLink) => unavailable(&format!("Ask again later: {}", NoAnswer::NoLink)),
            Err(lost) => unavailable(&format!(
                "Whether it was done is not known; look, or ask again later: {lost}"
            )),
        }
    }
}

/// In an executor's line, until it is dropped.
struct Place {
    guests: Guests,
    executor: ExecutorRef,
    turns: Arc<Semaphore>,
}

impl Place {
    async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.turns.clone().acquire_owned().await.ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.guests.lines();
        if let Some(line) = lines.get_mut(&self.executor) {
            line.length -= 1;
            if line.length == 0 {
                lines.remove(&self.executor);
            }
        }
    }
}

fn failed(code: failure::Code, message: impl Into<String>) -> Answer {
    let mut failure = Failure {
        message: message.into(),
        ..Failure::default()
    };
    failure.set_code(code);
    Answer {
        body: Some(answer::Body::Failure(failure)),
    }
}

pub(crate) async fn guest_call(
    State(site): State<Site>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    if method != Method::POST {
        return Err(Refusal::method(&method));
    }
    if content_type(text(&headers, header::CONTENT_TYPE.as_str()))? != MediaType::Protobuf {
        return Err(Refusal(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Expecting 'Content-Type' of application/x-protobuf".to_owned(),
        ));
    }
    let token = text(&headers, header::AUTHORIZATION.as_str())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim().to_owned());
    let body = read_body(body, &headers).await?;
    let call: Call = proto::call_from_bytes(body)
        .map_err(|error| Refusal::bad(format!("Failed to parse body: {error}")))?;
    let (reply, told) = oneshot::channel();
    site.send(Event::Guest {
        call: Box::new(call),
        token,
        reply,
    })
    .await?;
    let (call, known) = told.await.map_err(|_| Refusal::stopping())?;
    let answer = match known {
        Ok(task) => site.guests.ask(task, *call).await,
        // It is there again in a moment; a guest can wait for that as for a master.
        Err(rejection) if rejection.status == 503 => failed(
            failure::Code::Unavailable,
            format!("Ask again later: {}", rejection.message),
        ),
        Err(rejection) => {
            let status = StatusCode::from_u16(rejection.status);
            let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return Err(Refusal(status, rejection.message));
        }
    };
    Ok((
        [(header::CONTENT_TYPE, MediaType::Protobuf.as_str())],
        proto::to_vec(&answer),
    )
        .into_response())
}
