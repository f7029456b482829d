//! Who makes a request: HTTP Basic authentication, as wide as the operator asks for it.
//!
//! The principal travels beside the request, in a variable of its task, so that whatever decides or renders can ask for
//! it with [`caller`].

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tepui_access::{Action, Caller, Challenge, is_at, is_exactly_at, listed_endpoint};

use crate::config::Authentication;
use crate::shared::{Refusal, Shared};

tokio::task_local! {
    static CALLER: Option<String>;
}

/// The principal of the request that is being served; `None` where nobody is asked who they are.
pub(crate) fn caller() -> Option<String> {
    CALLER.try_with(Clone::clone).unwrap_or_default()
}

/// Refuses a caller whom the lists do not let do what concerns this process and no framework.
pub(crate) fn permit(shared: &Shared, action: Action) -> Result<(), Refusal> {
    permit_object(shared, caller().as_deref(), action, None)
}

pub(crate) fn permit_object(
    shared: &Shared,
    principal: Option<&str>,
    action: Action,
    object: Option<&str>,
) -> Result<(), Refusal> {
    let acls = &shared.config.core.acls;
    Caller { acls, principal }
        .permit(action, object)
        .map_err(|denied| Refusal::new(StatusCode::FORBIDDEN, denied.to_string()))
}

/// What a request belongs to, each with a switch of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Realm {
    Frameworks,
    Readonly,
    Readwrite,
    Agents,
}

impl Realm {
    fn name(self) -> &'static str {
        match self {
            Self::Frameworks => "mesos-master-scheduler",
            Self::Readonly => "mesos-master-readonly",
            Self::Readwrite => "mesos-master-readwrite",
            Self::Agents => "tepui-master-agent",
        }
    }

    /// `None` for what everybody may ask: whether the master lives, who leads, and bytes whose digest the asker knows.
    fn of(method: &Method, path: &str) -> Option<Self> {
        let path = path.strip_prefix("/master").unwrap_or(path);
        let is = |page: &str| is_at(path, page);
        let is_exactly = |page: &str| is_exactly_at(path, page);
        let reads = *method == Method::GET || *method == Method::HEAD;
        if is_exactly("/api/v1/scheduler") {
            Some(Self::Frameworks)
        } else if is_exactly("/tepui/v1/agent-link") {
            Some(Self::Agents)
        } else if ["/health", "/version", "/redirect", "/artifacts"]
            .into_iter()
            .any(is_exactly)
        {
            None
        } else if is("/api/v1/tepui") || is("/quota") || is("/weights") {
            Some(if reads {
                Self::Readonly
            } else {
                Self::Readwrite
            })
        } else if is("/api/v1")
            || is("/maintenance/schedule")
            || is("/machine")
            || is("/teardown")
            || is("/reserve")
            || is("/unreserve")
            || is("/create-volumes")
            || is("/destroy-volumes")
            || is("/logging")
        {
            Some(Self::Readwrite)
        } else {
            Some(Self::Readonly)
        }
    }

    fn is_guarded(self, authentication: &Authentication) -> bool {
        match self {
            Self::Frameworks => authentication.frameworks,
            Self::Readonly => authentication.readonly,
            Self::Readwrite => authentication.readwrite,
            Self::Agents => authentication.agents,
        }
    }
}

/// Lets a request through if its sender need not, or does, prove who it is, and may see the page it asks for.
pub(crate) async fn authenticate(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let authentication = &shared.config.authentication;
    let path = request.uri().path();
    let guarded = Realm::of(request.method(), path)
        .filter(|realm| realm.is_guarded(authentication))
        .map(Realm::name);
    let header = request.headers().get(header::AUTHORIZATION);
    let header = header.map(|value| value.to_str().unwrap_or_default());
    let principal = match authentication.credentials.admit(guarded, header) {
        Ok(principal) => principal.map(str::to_owned),
        Err(challenge) => return challenged(&challenge),
    };
    if let Some(page) = listed_endpoint(path, "/master")
        && let Err(refusal) = permit_object(
            &shared,
            principal.as_deref(),
            Action::GetEndpoint,
            Some(page),
        )
    {
        return refusal.into_response();
    }
    CALLER.scope(principal, next.run(request)).await
}

fn challenged(challenge: &Challenge) -> Response {
    let refusal = Refusal::new(StatusCode::UNAUTHORIZED, challenge.reason.to_string());
    let mut response = refusal.into_response();
    response.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        HeaderValue::try_from(challenge.header.as_str()).expect("realms are plain words"),
    );
    response
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use super::Realm;

    #[test]
    fn every_path_has_its_realm() {
        let get = |path: &str| Realm::of(&Method::GET, path);
        let post = |path: &str| Realm::of(&Method::POST, path);
        assert_eq!(post("/api/v1/scheduler"), Some(Realm::Frameworks));
        assert_eq!(post("/master/api/v1/scheduler/"), Some(Realm::Frameworks));
        assert_eq!(post("/api/v1"), Some(Realm::Readwrite));
        assert_eq!(post("/api/v1/scheduler.x"), Some(Realm::Readwrite));
        assert_eq!(post("/tepui/v1/agent-link.x"), Some(Realm::Readonly));
        assert_eq!(post("/api/v1/operator"), Some(Realm::Readwrite));
        assert_eq!(get("/api/v1/tepui/logs"), Some(Realm::Readonly));
        assert_eq!(
            Realm::of(&Method::PUT, "/api/v1/tepui/artifacts"),
            Some(Realm::Readwrite)
        );
        assert_eq!(get("/master/state.json"), Some(Realm::Readonly));
        assert_eq!(get("/state-summary"), Some(Realm::Readonly));
        assert_eq!(
            (get("/quota"), post("/quota")),
            (Some(Realm::Readonly), Some(Realm::Readwrite))
        );
        assert_eq!(post("/machine/down"), Some(Realm::Readwrite));
        assert_eq!(get("/maintenance/status"), Some(Realm::Readonly));
        assert_eq!(post("/tepui/v1/agent-link"), Some(Realm::Agents));
        assert_eq!((get("/health"), get("/master/redirect")), (None, None));
        assert_eq!(
            get("/healthy"),
            Some(Realm::Readonly),
            "an unknown path is not an open one"
        );
    }
}
