//! Who makes a request, and what of the agent that principal may see and touch.
//!
//! The principal travels beside the request, in a variable of its task, so that whatever answers can ask for its
//! [`Eyes`]. Executors prove themselves otherwise, with tokens, which the core knows.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tepui_access::{Acls, Action, Caller, Denied, is_at, is_exactly_at, listed_endpoint};
use tepui_agent_core::{AgentView, FrameworkView, TaskView};
use tepui_api::convert::{operation_resources, reserved_role, task_user};

use crate::config::Authentication;
use crate::site::{PREFIXES, Refusal, Site};

tokio::task_local! {
    static CALLER: Option<String>;
}

/// Who is asked who they are, and what those may do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access {
    pub(crate) authentication: Authentication,
    pub(crate) acls: Arc<Acls>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Realm {
    Readonly,
    Readwrite,
}

impl Realm {
    fn name(self) -> &'static str {
        match self {
            Self::Readonly => "mesos-agent-readonly",
            Self::Readwrite => "mesos-agent-readwrite",
        }
    }

    /// `None` for what everybody may ask, and for executors and other agents, who have tokens.
    fn of(path: &str) -> Option<Self> {
        let path = bare(path);
        let open = [
            "/health",
            "/version",
            "/api/v1/executor",
            "/api/v1/guest",
            crate::artifacts::PATH,
        ];
        if open.iter().any(|page| is_exactly_at(path, page)) {
            None
        } else if is_at(path, "/api/v1") {
            Some(Self::Readwrite)
        } else {
            Some(Self::Readonly)
        }
    }

    fn is_guarded(self, authentication: &Authentication) -> bool {
        match self {
            Self::Readonly => authentication.readonly,
            Self::Readwrite => authentication.readwrite,
        }
    }
}

/// The path without the name of Mesos's agent process.
fn bare(path: &str) -> &str {
    let prefixes = PREFIXES.into_iter().filter(|prefix| !prefix.is_empty());
    prefixes
        .filter_map(|prefix| path.strip_prefix(prefix))
        .find(|rest| rest.starts_with('/'))
        .unwrap_or(path)
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Self(StatusCode::FORBIDDEN, denied.to_string())
    }
}

/// Lets a request through if its sender need not, or does, prove who it is, and may see the page it asks for.
pub(crate) async fn authenticate(
    State(site): State<Site>,
    request: Request,
    next: Next,
) -> Response {
    let access = &site.access;
    let path = request.uri().path();
    let guarded = Realm::of(path)
        .filter(|realm| realm.is_guarded(&access.authentication))
        .map(Realm::name);
    let header = request.headers().get(header::AUTHORIZATION);
    let header = header.map(|value| value.to_str().unwrap_or_default());
    let principal = match access.authentication.credentials.admit(guarded, header) {
        Ok(principal) => principal.map(str::to_owned),
        Err(challenge) => {
            let refusal = Refusal(StatusCode::UNAUTHORIZED, challenge.reason.to_string());
            let mut response = refusal.into_response();
            response.headers_mut().insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::try_from(challenge.header).expect("realms are plain words"),
            );
            return response;
        }
    };
    let eyes = Eyes {
        acls: access.acls.clone(),
        principal,
    };
    if let Some(page) = listed_endpoint(bare(path), "")
        && let Err(denied) = eyes.permit(Action::GetEndpoint, Some(page))
    {
        return Refusal::from(denied).into_response();
    }
    CALLER.scope(eyes.principal, next.run(request)).await
}

/// What one caller may see.
#[derive(Debug, Clone)]
pub(crate) struct Eyes {
    acls: Arc<Acls>,
    principal: Option<String>,
}

impl Access {
    /// Those of whoever makes the present request.
    pub(crate) fn eyes(&self) -> Eyes {
        Eyes {
            acls: self.acls.clone(),
            principal: CALLER.try_with(Clone::clone).unwrap_or_default(),
        }
    }
}

impl Eyes {
    fn caller(&self) -> Caller<'_> {
        Caller {
            acls: &self.acls,
            principal: self.principal.as_deref(),
        }
    }

    pub(crate) fn may(&self, action: Action, object: &str) -> bool {
        self.caller().may(action, Some(object))
    }

    pub(crate) fn permit(&self, action: Action, object: Option<&str>) -> Result<(), Denied> {
        self.caller().permit(action, object)
    }

    /// As [`Caller::permit_unknown`].
    pub(crate) fn permit_unknown(&self, action: Action) -> Result<(), Denied> {
        self.caller().permit_unknown(action)
    }

    /// Takes out of a view the frameworks, tasks and operations that are not for them to see. Executors are left to who
    /// shows them: they are not all in the view, and other lists are asked for their containers and files.
    pub(crate) fn narrow(&self, view: &mut AgentView) {
        let actions = [Action::ViewFramework, Action::ViewTask, Action::ViewRole];
        if actions.into_iter().all(|action| self.acls.is_open(action)) {
            return;
        }
        let seen =
            |framework: &FrameworkView| self.may(Action::ViewFramework, &framework.info.user);
        view.frameworks.retain(seen);
        view.completed_frameworks.retain(seen);
        let frameworks: Vec<&FrameworkView> = view
            .frameworks
            .iter()
            .chain(&view.completed_frameworks)
            .collect();
        let seen = |task: &TaskView| {
            let framework = frameworks
                .iter()
                .find(|framework| framework.framework == task.task.framework);
            framework.is_some_and(|framework| {
                self.may(
                    Action::ViewTask,
                    task_user(&task.info, &framework.info.user),
                )
            })
        };
        view.tasks.retain(seen);
        view.ended.retain(seen);
        let known = |id: &tepui_model::FrameworkId| {
            frameworks
                .iter()
                .any(|framework| framework.framework == *id)
        };
        view.executors
            .retain(|executor| known(&executor.executor.framework));
        view.completed_executors
            .retain(|executor| known(&executor.executor.framework));
        view.operations.retain(|operation| {
            let roles = operation_resources(&operation.info).filter_map(reserved_role);
            roles
                .into_iter()
                .all(|role| self.may(Action::ViewRole, role))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::Realm;

    #[test]
    fn every_path_has_its_realm() {
        for path in [
            "/api/v1",
            "/slave(1)/api/v1/",
            "/slave%281%29/api/v1",
            // The router takes them for the operator's page.
            "/api/v1/executor.x",
            "/slave(1)/api/v1/guest.",
        ] {
            assert_eq!(Realm::of(path), Some(Realm::Readwrite), "{path}");
        }
        for path in [
            "/state",
            "/slave(1)/state.json",
            "/files/read",
            "/flags",
            "/metrics/snapshot",
            "/nowhere",
            "/healthy",
        ] {
            assert_eq!(Realm::of(path), Some(Realm::Readonly), "{path}");
        }
        for path in [
            "/health",
            "/slave(1)/version",
            "/api/v1/executor",
            "/api/v1/guest",
        ] {
            assert_eq!(Realm::of(path), None, "{path}");
        }
    }
}
