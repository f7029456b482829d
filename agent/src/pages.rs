//! The pages that stock tools read from before the v1 API. They come with any method.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};
use tepui_access::Action;
use tepui_api::v1::agent::response::get_containers::Container;

use crate::answer::{Parameters, blocking, page};
use crate::site::{Refusal, Site};
use crate::{legacy, metrics as figures, usage};

pub(crate) async fn version(parameters: Parameters) -> Result<Response, Refusal> {
    page(&parameters, &legacy::version())
}

pub(crate) async fn flags(
    State(site): State<Site>,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    site.access.eyes().permit(Action::ViewFlags, None)?;
    page(&parameters, &json!({ "flags": site.about.flags }))
}

pub(crate) async fn state(
    State(site): State<Site>,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    let (view, eyes) = site.seen().await?;
    if view.recovering {
        return Err(Refusal::recovering());
    }
    blocking(move || {
        let state = legacy::State {
            about: &site.about,
            view: &view,
            eyes: &eyes,
        };
        page(&parameters, &state)
    })
    .await?
}

pub(crate) async fn metrics(
    State(site): State<Site>,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    let view = site.view().await?;
    page(&parameters, &figures::collect(&site, &view))
}

/// Nothing of the agent's hangs while it launches: there is nothing to tell, and the page says so as Mesos's does.
pub(crate) async fn containerizer_debug(parameters: Parameters) -> Result<Response, Refusal> {
    page(&parameters, &json!({ "pending": [] }))
}

async fn rows(site: &Site) -> Result<Vec<Container>, Refusal> {
    let (view, eyes) = site.seen().await?;
    usage::rows(site, view, eyes).await
}

pub(crate) async fn statistics(
    State(site): State<Site>,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    let rows = rows(&site).await?;
    let rows: Vec<Value> = rows.iter().map(usage::statistics_json).collect();
    page(&parameters, &rows)
}

pub(crate) async fn containers(
    State(site): State<Site>,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    let wanted: BTreeMap<&str, &str> = ["container_id", "framework_id", "executor_id"]
        .into_iter()
        .filter_map(|name| Some((name, parameters.get(name)?.as_str())))
        .collect();
    let names: Vec<&str> = wanted.keys().copied().collect();
    if !matches!(
        names[..],
        [] | ["container_id"] | ["framework_id"] | ["executor_id", "framework_id"]
    ) {
        return Err(Refusal::bad(
            "Expecting 'container_id' alone, or 'framework_id' with or without 'executor_id'",
        ));
    }
    let rows = rows(&site).await?;
    let matches = |name: &str, value: Option<&str>| {
        wanted.get(name).is_none_or(|wanted| Some(*wanted) == value)
    };
    let rows = rows.iter().filter(|row| {
        matches("container_id", Some(row.container_id.value.as_str()))
            && matches(
                "framework_id",
                row.framework_id.as_ref().map(|id| id.value.as_str()),
            )
            && matches(
                "executor_id",
                row.executor_id.as_ref().map(|id| id.value.as_str()),
            )
    });
    let rows: Vec<Value> = rows.map(usage::container_json).collect();
    page(&parameters, &rows)
}
