//! What the agent answers on: which path is whose, and what every answer has in common.
//!
//! Every path is there bare and under `/slave(1)`, reads also with `.json`; the longest path that is known answers for
//! all below it, as stock clients expect.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any};
use tepui_agent_core::AgentView;
use tepui_api::{MediaType, media, v1};
use tokio::sync::{mpsc, oneshot};

use crate::access::{self, Access, Eyes};
use crate::artifacts::{self, Peers};
use crate::containers::Containers;
use crate::executors::Executors;
use crate::files::FilesContext;
use crate::guest::Guests;
use crate::owner::Event;
use crate::verbosity::Verbosity;
use crate::{answer, files_api, guest, http, operator, pages};

/// The prefixes of Mesos's agent process; clients write the parentheses either way.
pub(crate) const PREFIXES: [&str; 3] = ["", "/slave(1)", "/slave%281%29"];

#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) about: Arc<About>,
    pub(crate) access: Arc<Access>,
    pub(crate) files: Arc<FilesContext>,
    pub(crate) executors: Executors,
    pub(crate) containers: Containers,
    pub(crate) verbosity: Verbosity,
    pub(crate) peers: Peers,
    pub(crate) guests: Guests,
}

impl Site {
    pub(crate) async fn send(&self, event: Event) -> Result<(), Refusal> {
        self.events
            .send(event)
            .await
            .map_err(|_| Refusal::stopping())
    }

    pub(crate) async fn view(&self) -> Result<Box<AgentView>, Refusal> {
        let (reply, view) = oneshot::channel();
        self.send(Event::View { reply }).await?;
        view.await.map_err(|_| Refusal::stopping())
    }

    /// The part of the state that whoever makes the present request may see, and what else they may.
    pub(crate) async fn seen(&self) -> Result<(Box<AgentView>, Eyes), Refusal> {
        let eyes = self.access.eyes();
        let mut view = self.view().await?;
        eyes.narrow(&mut view);
        Ok((view, eyes))
    }
}

/// What the pages say besides what the core knows.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) info: v1::AgentInfo,
    pub(crate) endpoint: String,
    pub(crate) work_dir: String,
    pub(crate) start_time: f64,
    /// How long it took to read what the agent before this one left, and to take its executors over.
    pub(crate) recovery: std::time::Duration,
    /// Executors hear something at least this often.
    pub(crate) executor_heartbeat: std::time::Duration,
    pub(crate) flags: BTreeMap<&'static str, String>,
    /// Whether calls that start or touch containers are taken.
    pub(crate) serves_containers: bool,
}

impl About {
    /// Everything here has the agent's own network.
    pub(crate) fn network_infos(&self) -> Vec<v1::NetworkInfo> {
        let address = self.endpoint.rsplit_once(':');
        let address = v1::network_info::IpAddress {
            ip_address: address.map(|(address, _)| address.to_owned()),
            ..Default::default()
        };
        vec![v1::NetworkInfo {
            ip_addresses: vec![address],
            ..Default::default()
        }]
    }
}

pub(crate) fn router(site: Site) -> Router {
    let mut routes = Routes(Router::new());
    routes.tree("/api/v1/executor", any(http::executor_call));
    routes.tree("/api/v1/guest", any(guest::guest_call));
    routes.tree("/api/v1", any(operator::operator_call));
    routes.read("/health", any(StatusCode::OK));
    routes.read("/version", any(pages::version));
    routes.read("/flags", any(pages::flags));
    routes.read("/state", any(pages::state));
    routes.read("/metrics/snapshot", any(pages::metrics));
    routes.read("/monitor/statistics", any(pages::statistics));
    routes.read("/containers", any(pages::containers));
    routes.read("/containerizer/debug", any(pages::containerizer_debug));
    routes.read("/files/browse", any(files_api::browse));
    routes.read("/files/read", any(files_api::read));
    routes.read("/files/download", any(files_api::download));
    routes.read("/files/debug", any(files_api::debug));
    let artifact = format!("{}/{{sha256}}", artifacts::PATH);
    routes.0 = routes.0.route(&artifact, any(artifacts::artifact));
    routes
        .0
        .fallback(not_found)
        .layer(axum::middleware::from_fn_with_state(
            site.clone(),
            access::authenticate,
        ))
        .layer(axum::middleware::from_fn(answer::pack))
        .layer(axum::middleware::from_fn(tepui_bodies::close_unless_read))
        .with_state(site)
}

/// For executors alone: nothing an operator may do or see is there.
pub(crate) fn executor_router(site: Site) -> Router {
    let mut routes = Routes(Router::new());
    routes.tree("/api/v1/executor", any(http::executor_call));
    routes.tree("/api/v1/guest", any(guest::guest_call));
    routes
        .0
        .fallback(not_for_executors)
        .layer(axum::middleware::from_fn(tepui_bodies::close_unless_read))
        .with_state(site)
}

async fn not_for_executors(uri: Uri) -> Refusal {
    Refusal(
        StatusCode::FORBIDDEN,
        format!(
            "An executor may use '/api/v1/executor' and '/api/v1/guest' here, not '{}'",
            uri.path()
        ),
    )
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

    pub(crate) fn recovering() -> Self {
        Self(
            StatusCode::SERVICE_UNAVAILABLE,
            "Agent has not finished recovery".to_owned(),
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
