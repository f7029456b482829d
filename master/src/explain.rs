//! `GET /api/v1/tepui/explain`: why a framework, or those of a role, are offered nothing.
//!
//! Agents are asked about a few at a time, so that a large cluster does not keep the core from its work; what is said of
//! different agents may thus be from slightly different moments.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse, Response};
use tepui_access::Action;
use tepui_api::media::MediaType;
use tepui_master_core::{AgentKey, FrameworkKey, Key, Level, Party, Told, View};
use tepui_model::{FrameworkId, Role};

use crate::access;
use crate::body::{self, Packed};
use crate::explain_json::{Frameworks, page};
use crate::http::Parameters;
use crate::shared::{Refusal, Shared, method_not_allowed, wall_ns};

/// How many answers the core gives before it does something else.
const ANSWERS_AT_ONCE: usize = 1_000;
/// Frameworks of a role that are told of, each in one role.
const MOST_PARTIES: usize = 20;
/// Agents named for each reason, and offers and refusals named, unless more are asked for.
const EXAMPLES: usize = 3;

pub(crate) async fn serve(
    State(shared): State<Arc<Shared>>,
    method: Method,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return method_not_allowed("GET", &method);
    }
    match explain(&shared, &parameters).await {
        Ok(answer) => Packed::new(answer, body::accepts_gzip(&headers))
            .into_response(MediaType::Json.as_str()),
        Err(refusal) => refusal.into_response(),
    }
}

/// Whom a question is about.
enum About {
    Framework(FrameworkId),
    Role(Role),
}

/// All that is to be told, before it is put into words.
pub(crate) struct Answer {
    pub(crate) view: Arc<View>,
    /// Of the role that was asked about, and those above it.
    pub(crate) path: Option<Vec<Level>>,
    pub(crate) parties: Vec<Party>,
    /// Parties that are not told of, because there are too many.
    pub(crate) omitted: usize,
    pub(crate) frameworks: Frameworks,
    pub(crate) told: Vec<Told>,
    /// There are quotas that the caller may not see.
    pub(crate) hides_quotas: bool,
    /// How many agents, offers and refusals are named.
    pub(crate) most: usize,
    pub(crate) wall_ns: i64,
}

async fn explain(shared: &Shared, parameters: &Parameters) -> Result<Vec<u8>, Refusal> {
    let view = shared.view().await?;
    let about = about(shared, &view, parameters)?;
    let most = match parameters.get("agents").map(String::as_str) {
        None => EXAMPLES,
        Some("all") => usize::MAX,
        Some(number) => number.parse().map_err(|_| {
            Refusal::bad_request(
                "Expecting 'agents' to be 'all', or how many agents to name for each reason",
            )
        })?,
    };
    let (path, mut parties) = match about {
        About::Framework(id) => (None, shared.ask(move |core, _| core.parties_of(&id)).await?),
        About::Role(role) => {
            shared
                .ask(move |core, _| (Some(core.role_path(&role)), core.parties_in(&role)))
                .await?
        }
    };
    // Whoever may not see a framework is not told that it is there.
    parties.retain(|(framework, _)| view.frameworks.get(*framework).is_some());
    let omitted = parties.len().saturating_sub(MOST_PARTIES);
    parties.truncate(MOST_PARTIES);
    let mut frameworks = Frameworks::new();
    for framework in distinct(&parties) {
        let standing = shared
            .ask(move |core, now| core.framework_standing(framework, now, most))
            .await?;
        frameworks.push((framework, standing));
    }
    let told = obstacles(shared, &parties).await?;
    let seen = Arc::clone(&view.quotas);
    let hides_quotas = shared
        .ask(move |core, _| core.has_quotas_beside(&seen))
        .await?;
    let answer = Answer {
        view,
        path,
        parties,
        omitted,
        frameworks,
        told,
        hides_quotas,
        most,
        wall_ns: wall_ns(),
    };
    let rendered = tokio::task::spawn_blocking(move || page(&answer).to_string().into_bytes());
    rendered
        .await
        .map_err(|error| Refusal::internal(error.to_string()))
}

fn about(shared: &Shared, view: &View, parameters: &Parameters) -> Result<About, Refusal> {
    match (parameters.get("framework"), parameters.get("role")) {
        (Some(framework), None) => {
            let by_name = || {
                let mut named = view.frameworks.values();
                named.find(|record| record.info.name == *framework)
            };
            let record = view.framework(framework).or_else(by_name);
            let record = record.ok_or_else(|| {
                Refusal::not_found(format!("There is no framework '{framework}'"))
            })?;
            Ok(About::Framework(record.id.clone()))
        }
        (None, Some(role)) => {
            let role = Role::parse(role)
                .map_err(|error| Refusal::bad_request(format!("Invalid role: {error}")))?;
            let principal = access::caller();
            access::permit_object(
                shared,
                principal.as_deref(),
                Action::ViewRole,
                Some(role.as_str()),
            )?;
            Ok(About::Role(role))
        }
        _ => Err(Refusal::bad_request(
            "Expecting either 'framework' (an id or a name) or 'role' in the query",
        )),
    }
}

fn distinct(parties: &[Party]) -> Vec<FrameworkKey> {
    let mut keys: Vec<FrameworkKey> = Vec::new();
    for (key, _) in parties {
        if !keys.contains(key) {
            keys.push(*key);
        }
    }
    keys
}

async fn obstacles(shared: &Shared, parties: &[Party]) -> Result<Vec<Told>, Refusal> {
    let mut told = Vec::new();
    if parties.is_empty() {
        return Ok(told);
    }
    let agents = (ANSWERS_AT_ONCE / parties.len()).max(1);
    let mut next = Some(AgentKey::from_index(0));
    while let Some(from) = next {
        let parties = parties.to_vec();
        let (more, rest) = shared
            .ask(move |core, now| core.obstacles(&parties, from, agents, now))
            .await?;
        told.extend(more);
        next = rest;
    }
    Ok(told)
}
