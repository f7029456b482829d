//! A task's output, streamed from wherever it runs to whoever asks the master.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use tepui_access::Action;
use tepui_api::link::{self, to_agent};
use tepui_api::v1;
use tepui_master_core::View;

use crate::access::{caller, permit_object};
use crate::files::FileAnswer;
use crate::shared::{Refusal, Shared, method_not_allowed};

/// How long an answer's status waits for the first piece. A task that has written nothing yet is no failure.
const FIRST_CHUNK_PATIENCE: Duration = Duration::from_secs(1);
/// A link that broke under a reader gets this long to come back.
const REOPEN_TRIES: u32 = 40;
const REOPEN_PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Wanted {
    framework_id: Option<String>,
    task_id: String,
    #[serde(default = "standard_output")]
    path: String,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    follow: bool,
}

fn standard_output() -> String {
    "stdout".to_owned()
}

pub(crate) async fn serve(
    State(shared): State<Arc<Shared>>,
    Query(wanted): Query<Wanted>,
    request: Request,
) -> Response {
    if request.method() != Method::GET {
        return method_not_allowed("GET", request.method());
    }
    match open(shared, wanted).await {
        Ok(reader) => {
            let pieces = futures::stream::try_unfold(reader, |mut reader| async move {
                Ok::<_, io::Error>(reader.next().await?.map(|piece| (piece, reader)))
            });
            let content_type = [(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/octet-stream"),
            )];
            (content_type, Body::from_stream(pieces)).into_response()
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn open(shared: Arc<Shared>, mut wanted: Wanted) -> Result<Reader, Refusal> {
    let view = shared.view().await?;
    let place = find(&view, wanted.framework_id.as_deref(), &wanted.task_id)?;
    permit_object(
        &shared,
        caller().as_deref(),
        Action::AccessSandbox,
        place.user.as_deref(),
    )?;
    wanted.framework_id = Some(place.framework.clone());
    let mut answer = ask(&shared, &view, &place, &wanted)?;
    let first = match tokio::time::timeout(FIRST_CHUNK_PATIENCE, answer.next()).await {
        Ok(Some(chunk)) => match failure(&chunk) {
            Some(refusal) => return Err(refusal),
            None => Some(chunk),
        },
        Ok(None) | Err(_) => None,
    };
    Ok(Reader {
        shared,
        wanted,
        place,
        answer,
        first,
        ended: false,
    })
}

fn failure(chunk: &link::FileChunk) -> Option<Refusal> {
    let status = chunk.error_status?;
    let status = u16::try_from(status)
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.filter(|status| status.is_client_error() || status.is_server_error());
    Some(Refusal::new(
        status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        chunk.error().to_owned(),
    ))
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    framework: String,
    agent: String,
    user: Option<String>,
}

/// Where the task runs or ran. A framework may be left out if only one has such a task.
fn find(view: &View, framework: Option<&str>, task: &str) -> Result<Place, Refusal> {
    let running = view.tasks.values().map(|record| &record.wire);
    let known = view
        .frameworks
        .values()
        .chain(view.completed_frameworks.iter());
    let ended = known.flat_map(|record| {
        let ended = record.completed_tasks.iter().rev();
        ended
            .chain(record.unreachable_tasks.values())
            .map(AsRef::as_ref)
    });
    let mut places: Vec<Place> = Vec::new();
    let mut frameworks = BTreeSet::new();
    for candidate in running.chain(ended) {
        let v1::Task {
            task_id,
            framework_id,
            agent_id,
            user,
            ..
        } = candidate;
        if task_id.value == task
            && framework.is_none_or(|framework| framework == framework_id.value)
        {
            frameworks.insert(framework_id.value.clone());
            places.push(Place {
                framework: framework_id.value.clone(),
                agent: agent_id.value.clone(),
                user: user.clone(),
            });
        }
    }
    if frameworks.len() > 1 {
        let names = frameworks.into_iter().collect::<Vec<_>>().join(", ");
        let message = format!(
            "Several frameworks have a task '{task}': {names}. Say which with framework_id"
        );
        return Err(Refusal::bad_request(message));
    }
    places.into_iter().next().ok_or_else(|| match framework {
        Some(framework) => {
            Refusal::not_found(format!("Framework '{framework}' has no task '{task}'"))
        }
        None => Refusal::not_found(format!("No framework has a task '{task}'")),
    })
}

fn ask(
    shared: &Shared,
    view: &View,
    place: &Place,
    wanted: &Wanted,
) -> Result<FileAnswer, Refusal> {
    let away = || {
        let message = format!(
            "Agent '{}', which has the files of task '{}', is not connected at the moment",
            place.agent, wanted.task_id
        );
        Refusal::unavailable(message)
    };
    let link = view
        .agent(&place.agent)
        .and_then(|agent| agent.link)
        .ok_or_else(away)?;
    let request = |request_id| {
        to_agent::Body::Tail(link::Tail {
            request_id,
            framework_id: v1::FrameworkId {
                value: place.framework.clone(),
            },
            task_id: v1::TaskId {
                value: wanted.task_id.clone(),
            },
            path: wanted.path.clone(),
            offset: Some(wanted.offset),
            follow: Some(wanted.follow),
        })
    };
    shared.links.ask(link, request).ok_or_else(away)
}

struct Reader {
    shared: Arc<Shared>,
    /// `offset` counts on with what was passed on, so that the rest can be asked for again.
    wanted: Wanted,
    place: Place,
    answer: FileAnswer,
    first: Option<link::FileChunk>,
    ended: bool,
}

impl Reader {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        while !self.ended {
            let chunk = match self.first.take() {
                Some(chunk) => Some(chunk),
                None => self.answer.next().await,
            };
            let Some(chunk) = chunk else {
                self.reopen().await?;
                continue;
            };
            if let Some(refusal) = failure(&chunk) {
                return Err(io::Error::other(refusal.message));
            }
            self.ended = chunk.last();
            let data = chunk.data.unwrap_or_default();
            if !data.is_empty() {
                self.wanted.offset += data.len() as u64;
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    async fn reopen(&mut self) -> io::Result<()> {
        let mut last = String::new();
        for attempt in 0..REOPEN_TRIES {
            if attempt > 0 {
                tokio::time::sleep(REOPEN_PAUSE).await;
            }
            let view = self
                .shared
                .view()
                .await
                .map_err(|refusal| io::Error::other(refusal.message))?;
            match ask(&self.shared, &view, &self.place, &self.wanted) {
                Ok(answer) => {
                    self.answer = answer;
                    return Ok(());
                }
                Err(refusal) => last = refusal.message,
            }
        }
        Err(io::Error::other(last))
    }
}
