//! What tools from before the v1 API change, each put as a v1 call and decided where that is; and the reads that are
//! parts of v1 answers.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Value, json};
use tepui_api::json;
use tepui_api::v1::master::Call;

use crate::http::{self, Parameters};
use crate::shared::{Refusal, Shared, method_not_allowed};
use crate::{body, operator};

/// The fields of a form. Tools send JSON in it unencoded too.
struct Form(Vec<(String, String)>);

impl Form {
    fn parse(body: &[u8]) -> Self {
        let pairs = form_urlencoded::parse(body);
        Self(
            pairs
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Result<&str, Refusal> {
        let value = self.0.iter().find(|(known, _)| known == name);
        value.map(|(_, value)| value.as_str()).ok_or_else(|| {
            Refusal::bad_request(format!(
                "Missing '{name}' in the form that is the request's body"
            ))
        })
    }

    fn json(&self, name: &str) -> Result<Value, Refusal> {
        parse(self.get(name)?.as_bytes(), name)
    }
}

fn parse(bytes: &[u8], what: &str) -> Result<Value, Refusal> {
    serde_json::from_slice(bytes)
        .map_err(|error| Refusal::bad_request(format!("Failed to parse {what}: {error}")))
}

fn array(bytes: &[u8], what: &str) -> Result<Value, Refusal> {
    let value = parse(bytes, what)?;
    if value.is_array() {
        Ok(value)
    } else {
        Err(Refusal::bad_request(format!(
            "Expecting {what} to be a JSON array"
        )))
    }
}

async fn whole(shared: &Shared, request: Request) -> Result<Bytes, Refusal> {
    let (parts, content) = request.into_parts();
    body::read(content, &parts.headers, &shared.config).await
}

async fn change(shared: &Shared, call: Value) -> Response {
    match json::from_value::<Call>(&call) {
        Ok(call) => http::change(shared, call).await,
        Err(error) => Refusal::bad_request(error.to_string()).into_response(),
    }
}

/// A POST whose body says which v1 call is meant.
pub(crate) async fn post(shared: &Shared, request: Request, to_call: ToCall) -> Response {
    if request.method() != Method::POST {
        return method_not_allowed("POST", request.method());
    }
    let call = match whole(shared, request).await {
        Ok(content) => to_call(&content),
        Err(refusal) => Err(refusal),
    };
    match call {
        Ok(call) => change(shared, call).await,
        Err(refusal) => refusal.into_response(),
    }
}

type ToCall = fn(&[u8]) -> Result<Value, Refusal>;

/// The paths that only take a POST, and the v1 call that each body stands for.
pub(crate) const POSTS: [(&str, ToCall); 7] = [
    ("/teardown", |form| {
        let form = Form::parse(form);
        let id = form.get("frameworkId")?;
        Ok(json!({ "type": "TEARDOWN", "teardown": { "framework_id": { "value": id } } }))
    }),
    ("/reserve", |form| {
        on_agent(form, "RESERVE_RESOURCES", "reserve_resources", "resources")
    }),
    ("/unreserve", |form| {
        on_agent(
            form,
            "UNRESERVE_RESOURCES",
            "unreserve_resources",
            "resources",
        )
    }),
    ("/create-volumes", |form| {
        on_agent(form, "CREATE_VOLUMES", "create_volumes", "volumes")
    }),
    ("/destroy-volumes", |form| {
        on_agent(form, "DESTROY_VOLUMES", "destroy_volumes", "volumes")
    }),
    ("/machine/down", |machines| {
        let machines = array(machines, "the machines")?;
        Ok(json!({ "type": "START_MAINTENANCE", "start_maintenance": { "machines": machines } }))
    }),
    ("/machine/up", |machines| {
        let machines = array(machines, "the machines")?;
        Ok(json!({ "type": "STOP_MAINTENANCE", "stop_maintenance": { "machines": machines } }))
    }),
];

fn on_agent(content: &[u8], kind: &str, field: &str, what: &str) -> Result<Value, Refusal> {
    let form = Form::parse(content);
    let agent = form.get("slaveId")?;
    let resources = form.json(what)?;
    if !resources.is_array() {
        let message = format!("Expecting '{what}' to be a JSON array of resources");
        return Err(Refusal::bad_request(message));
    }
    Ok(json!({ "type": kind, field: { "agent_id": { "value": agent }, what: resources } }))
}

pub(crate) async fn maintenance_schedule(
    State(shared): State<Arc<Shared>>,
    Query(parameters): Query<Parameters>,
    request: Request,
) -> Response {
    match request.method().clone() {
        Method::GET => {
            let part = Part {
                kind: "GET_MAINTENANCE_SCHEDULE",
                path: "/get_maintenance_schedule/schedule",
                none: json!({}),
            };
            part_of_read(shared, request.headers(), parameters, part).await
        }
        Method::POST => {
            post(&shared, request, |content| {
                let schedule = parse(content, "the schedule")?;
                Ok(json!({
                    "type": "UPDATE_MAINTENANCE_SCHEDULE",
                    "update_maintenance_schedule": { "schedule": schedule },
                }))
            })
            .await
        }
        other => method_not_allowed("GET, POST", &other),
    }
}

pub(crate) async fn maintenance_status(
    State(shared): State<Arc<Shared>>,
    Query(parameters): Query<Parameters>,
    request: Request,
) -> Response {
    if request.method() != Method::GET {
        return method_not_allowed("GET", request.method());
    }
    let part = Part {
        kind: "GET_MAINTENANCE_STATUS",
        path: "/get_maintenance_status/status",
        none: json!({}),
    };
    part_of_read(shared, request.headers(), parameters, part).await
}

pub(crate) async fn weights(
    State(shared): State<Arc<Shared>>,
    Query(parameters): Query<Parameters>,
    request: Request,
) -> Response {
    match request.method().clone() {
        Method::GET => {
            let part = Part {
                kind: "GET_WEIGHTS",
                path: "/get_weights/weight_infos",
                none: json!([]),
            };
            part_of_read(shared, request.headers(), parameters, part).await
        }
        Method::PUT => {
            let content = match whole(&shared, request).await {
                Ok(content) => content,
                Err(refusal) => return refusal.into_response(),
            };
            match array(&content, "the weights") {
                Ok(infos) => {
                    let update = json!({ "weight_infos": infos });
                    change(
                        &shared,
                        json!({ "type": "UPDATE_WEIGHTS", "update_weights": update }),
                    )
                    .await
                }
                Err(refusal) => refusal.into_response(),
            }
        }
        other => method_not_allowed("GET, PUT", &other),
    }
}

/// GET tells, POST sets what is not set yet, DELETE `/quota/<role>` takes away.
pub(crate) async fn quota(
    State(shared): State<Arc<Shared>>,
    Query(parameters): Query<Parameters>,
    request: Request,
) -> Response {
    match request.method().clone() {
        Method::GET => {
            let part = Part {
                kind: "GET_QUOTA",
                path: "/get_quota/status",
                none: json!({}),
            };
            part_of_read(shared, request.headers(), parameters, part).await
        }
        Method::POST => {
            post(&shared, request, |content| {
                let quota = parse(content, "the quota request")?;
                Ok(json!({ "type": "SET_QUOTA", "set_quota": { "quota_request": quota } }))
            })
            .await
        }
        Method::DELETE => match role_of(request.uri().path()) {
            Ok(role) => {
                change(
                    &shared,
                    json!({ "type": "REMOVE_QUOTA", "remove_quota": { "role": role } }),
                )
                .await
            }
            Err(refusal) => refusal.into_response(),
        },
        other => method_not_allowed("GET, POST, DELETE", &other),
    }
}

fn role_of(path: &str) -> Result<String, Refusal> {
    let role = path.split_once("/quota/").map_or("", |(_, role)| role);
    let role = percent_encoding::percent_decode_str(role.trim_end_matches('/'));
    match role.decode_utf8() {
        Ok(role) if !role.is_empty() => Ok(Cow::into_owned(role)),
        _ => Err(Refusal::bad_request(
            "Expecting the path to be '/quota/<role>'",
        )),
    }
}

/// One part of what a v1 read answers.
struct Part {
    kind: &'static str,
    path: &'static str,
    /// What stands for it where v1 leaves it out.
    none: Value,
}

async fn part_of_read(
    shared: Arc<Shared>,
    headers: &HeaderMap,
    parameters: Parameters,
    Part { kind, path, none }: Part,
) -> Response {
    let call = match json::from_value::<Call>(&json!({ "type": kind })) {
        Ok(call) => call,
        Err(error) => return Refusal::internal(error.to_string()).into_response(),
    };
    let read = match operator::classify(&call) {
        Ok(operator::Kind::Read(read)) => read,
        Ok(_) => return Refusal::internal(format!("{kind} is no read")).into_response(),
        Err(refusal) => return refusal.into_response(),
    };
    let render = move |shared: &Shared, view: &tepui_master_core::View| {
        let answer = json::to_value(&operator::answer(&read, shared, view)?);
        let part = answer.pointer(path).unwrap_or(&none);
        serde_json::to_vec(part).map_err(|error| Refusal::internal(error.to_string()))
    };
    http::rendered_legacy(shared, headers, &parameters, render).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_may_hold_json_encoded_or_not() {
        for body in [
            r#"slaveId=a-S1&resources=[{"name":"cpus"}]"#,
            "slaveId=a-S1&resources=%5B%7B%22name%22%3A%22cpus%22%7D%5D",
        ] {
            let form = Form::parse(body.as_bytes());
            assert_eq!(form.get("slaveId").unwrap(), "a-S1");
            assert_eq!(form.json("resources").unwrap(), json!([{ "name": "cpus" }]));
        }
        let form = Form::parse(b"slaveId=a&resources={");
        assert_eq!(form.json("resources").unwrap_err().status, 400);
        assert_eq!(form.get("volumes").unwrap_err().status, 400);
    }

    #[test]
    fn a_role_is_read_from_the_path() {
        assert_eq!(role_of("/master/quota/a%2Fb").unwrap(), "a/b");
        assert_eq!(role_of("/quota/ads/").unwrap(), "ads");
        assert!(role_of("/quota/").is_err());
        assert!(role_of("/quota").is_err());
    }
}
