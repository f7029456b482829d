//! What the agent answers on: which path is whose, and what every answer has in common.
//!
//! Every path is there bare and under `/slave(1)`, reads also with `.json`; the longest path that is known answers for
//! all below it, as stock clients expect.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any};
use serde_json::{Value, json};
use tepui_api::{MediaType, media, v1};
use tokio::sync::{mpsc, oneshot};

use crate::http;
use crate::owner::{Event, state_name};

/// The prefixes of Mesos's agent process; clients write the parentheses either way.
const PREFIXES: [&str; 3] = ["", "/slave(1)", "/slave%281%29"];

#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) about: Arc<About>,
}

impl Site {
    pub(crate) async fn send(&self, event: Event) -> Result<(), Refusal> {
        self.events
            .send(event)
            .await
            .map_err(|_| Refusal::stopping())
    }
}

/// What the pages say besides what the core knows.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) info: v1::AgentInfo,
    pub(crate) endpoint: String,
    pub(crate) work_dir: String,
    pub(crate) start_time: f64,
}

pub(crate) fn router(site: Site) -> Router {
    let mut routes = Routes(Router::new());
    routes.tree("/api/v1/executor", any(http::executor_call));
    routes.read("/health", any(StatusCode::OK));
    routes.read("/version", any(version));
    routes.read("/state", any(state));
    routes.0.fallback(not_found).with_state(site)
}

struct Routes(Router<Site>);

impl Routes {
    fn add(&mut self, path: &str, route: &MethodRouter<Site>) {
        for prefix in PREFIXES {
            let router = std::mem::take(&mut self.0);
            self.0 = router.route(&format!("{prefix}{path}"), route.clone());
        }
    }

    /// With all that is below it.
    fn tree(&mut self, path: &str, route: MethodRouter<Site>) {
        self.add(path, &route);
        self.add(&format!("{path}/"), &route);
        self.add(&format!("{path}/{{*rest}}"), &route);
    }

    fn read(&mut self, path: &str, route: MethodRouter<Site>) {
        self.add(&format!("{path}.json"), &route);
        self.tree(path, route);
    }
}

async fn version() -> Response {
    axum::Json(json!({ "version": env!("CARGO_PKG_VERSION") })).into_response()
}

async fn state(State(site): State<Site>) -> Result<Response, Refusal> {
    let (reply, view) = oneshot::channel();
    site.send(Event::View { reply }).await?;
    let view = view.await.map_err(|_| Refusal::stopping())?;
    let about = &site.about;
    let task = |task: &tepui_agent_core::TaskView| {
        json!({
            "id": task.task.task.as_str(),
            "name": task.info.name,
            "framework_id": task.task.framework.as_str(),
            "executor_id": task.executor.as_ref().map_or("", |executor| executor.as_str()),
            "state": state_name(task.state),
            "directory": format!("{}/{}", about.work_dir, task.sandbox),
            "container": task.container_id.as_str(),
        })
    };
    let frameworks: Vec<Value> = view
        .frameworks
        .iter()
        .map(|framework| {
            let id = &framework.framework;
            let executors: Vec<Value> = view
                .executors
                .iter()
                .filter(|executor| executor.executor.framework == *id)
                .map(|executor| {
                    json!({
                        "id": executor.executor.executor.as_str(),
                        "name": executor.info.name,
                        "container": executor.container_id.as_str(),
                        "directory": format!("{}/{}", about.work_dir, executor.sandbox),
                        "connected": executor.connected,
                        "pid": executor.pid,
                        "live_tasks": executor.live_tasks,
                    })
                })
                .collect();
            json!({
                "id": id.as_str(),
                "name": framework.info.name,
                "user": framework.info.user,
                "checkpoint": framework.info.checkpoint.unwrap_or(false),
                "executors": executors,
                "tasks": view.tasks.iter().filter(|one| one.task.framework == *id).map(task).collect::<Vec<_>>(),
            })
        })
        .collect();
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "id": view.agent_id.as_ref().map_or("", |id| id.as_str()),
        "pid": format!("slave(1)@{}", about.endpoint),
        "hostname": about.info.hostname,
        "start_time": about.start_time,
        "master_id": view.master_id,
        "registered": view.registered,
        "resources": about.info.resources.iter().map(tepui_api::json::to_value).collect::<Vec<_>>(),
        "attributes": about.info.attributes.iter().map(tepui_api::json::to_value).collect::<Vec<_>>(),
        "frameworks": frameworks,
        "completed_tasks": view.ended.iter().map(task).collect::<Vec<_>>(),
        "metrics": view.counters,
    });
    Ok(axum::Json(body).into_response())
}

async fn not_found(uri: Uri) -> Refusal {
    Refusal(
        StatusCode::NOT_FOUND,
        format!("There is nothing at '{}'", uri.path()),
    )
}

/// A request that is not served: a status and a sentence in plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) String);

impl Refusal {
    pub(crate) fn bad(message: impl ToString) -> Self {
        Self(StatusCode::BAD_REQUEST, message.to_string())
    }

    pub(crate) fn method(method: &Method) -> Self {
        Self(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("Expecting one of {{ 'POST' }}, but received '{method}'"),
        )
    }

    pub(crate) fn stopping() -> Self {
        Self(
            StatusCode::SERVICE_UNAVAILABLE,
            "The agent is stopping".to_owned(),
        )
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.0, self.1).into_response();
        if self.0 == StatusCode::METHOD_NOT_ALLOWED {
            // Calls are the only ones that look at the method.
            response
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        response
    }
}

pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

pub(crate) fn content_type(header: Option<&str>) -> Result<MediaType, Refusal> {
    media::content_type(header).map_err(|error| match error {
        media::ContentTypeError::Missing => Refusal::bad(error),
        media::ContentTypeError::Unsupported(_) => {
            Refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, error.to_string())
        }
    })
}
