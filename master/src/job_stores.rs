//! `/api/v1/tepui/store`: what tasks keep in the stores of their jobs, for operators. The query names what is meant.
//!
//! | query | GET | PUT | DELETE |
//! |---|---|---|---|
//! | nothing, or `role` | the stores | | |
//! | `role`, `job` | its keys, those with `prefix` | | the whole store |
//! | `role`, `job`, `key` | the value, its version in a header | the body becomes the value | the key |
//!
//! PUT and DELETE of a key take `if_version` (0: only if there is no such key).

use std::sync::Arc;

use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use serde_json::json;
use tepui_api::guest::failure;
use tepui_master_core::{StoreAnswer, StoreCall, StoreRefused};
use tokio::sync::oneshot;

use crate::access;
use crate::body;
use crate::http::{Parameters, json};
use crate::owner::{Message, Reply};
use crate::shared::{Refusal, Shared, method_not_allowed};

/// The version of a value, or the one a key has that should have another.
const VERSION: HeaderName = HeaderName::from_static("tepui-version");

pub(crate) async fn serve(
    State(shared): State<Arc<Shared>>,
    Query(parameters): Query<Parameters>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    // The parameters have another character where something was no UTF-8: another key than the one that was meant.
    let query = parts.uri.query().unwrap_or_default();
    if percent_decode_str(query).decode_utf8().is_err() {
        return Refusal::bad_request("Expecting the query to be UTF-8, as keys are")
            .into_response();
    }
    let call = match parts.method {
        Method::GET | Method::HEAD => read(&parameters),
        Method::PUT => match body::read(body, &parts.headers, &shared.config).await {
            Ok(value) => put(&parameters, value),
            Err(refusal) => return refusal.into_response(),
        },
        Method::DELETE => delete(&parameters),
        ref other => return method_not_allowed("GET, PUT, DELETE", other),
    };
    let call = match call {
        Ok(call) => call,
        Err(refusal) => return refusal.into_response(),
    };
    match ask(&shared, call).await {
        Ok(answer) => answered(answer),
        Err(refusal) => refusal.into_response(),
    }
}

async fn ask(shared: &Shared, call: StoreCall) -> Result<StoreAnswer, Refusal> {
    let (reply, answer) = oneshot::channel();
    let message = Message::StoreCall {
        principal: access::caller(),
        call,
        reply,
    };
    let sent = shared.inbox.send(message).await;
    sent.map_err(|_| Refusal::stopping())?;
    match answer.await {
        Ok(Reply::Store(answer)) => Ok(*answer),
        Ok(_) => Err(Refusal::internal("This call has another answer")),
        Err(_) => Err(Refusal::stopping()),
    }
}

fn named(parameters: &Parameters, name: &'static str) -> Option<String> {
    parameters.get(name).cloned()
}

fn needed(parameters: &Parameters, name: &'static str) -> Result<String, Refusal> {
    let missing = || Refusal::bad_request(format!("Expecting '{name}' in the query"));
    named(parameters, name).ok_or_else(missing)
}

fn if_version(parameters: &Parameters) -> Result<Option<u64>, Refusal> {
    let Some(text) = parameters.get("if_version") else {
        return Ok(None);
    };
    let number = text.parse().map_err(|_| {
        Refusal::bad_request("Expecting 'if_version' to be a version, or 0 for no such key")
    })?;
    Ok(Some(number))
}

fn read(parameters: &Parameters) -> Result<StoreCall, Refusal> {
    only(parameters, &["role", "job", "key", "prefix"])?;
    let role = named(parameters, "role");
    match (role, named(parameters, "job"), named(parameters, "key")) {
        (role, None, None) => Ok(StoreCall::List { role }),
        (Some(role), Some(job), Some(key)) => Ok(StoreCall::Get { role, job, key }),
        (Some(role), Some(job), None) => Ok(StoreCall::Keys {
            role,
            job,
            prefix: named(parameters, "prefix").unwrap_or_default(),
        }),
        (None, _, _) => Err(Refusal::bad_request("Expecting 'role' in the query")),
        (_, None, Some(_)) => Err(Refusal::bad_request("Expecting 'job' in the query")),
    }
}

fn put(parameters: &Parameters, value: bytes::Bytes) -> Result<StoreCall, Refusal> {
    only(parameters, &["role", "job", "key", "if_version"])?;
    Ok(StoreCall::Put {
        role: needed(parameters, "role")?,
        job: needed(parameters, "job")?,
        key: needed(parameters, "key")?,
        value,
        if_version: if_version(parameters)?,
    })
}

/// A misspelt parameter must not make a call mean more than was meant.
fn only(parameters: &Parameters, known: &[&str]) -> Result<(), Refusal> {
    match parameters
        .keys()
        .find(|name| !known.contains(&name.as_str()))
    {
        Some(name) => Err(Refusal::bad_request(format!(
            "'{name}' is no parameter of this call; it has {}",
            known.join(", ")
        ))),
        None => Ok(()),
    }
}

fn delete(parameters: &Parameters) -> Result<StoreCall, Refusal> {
    only(parameters, &["role", "job", "key", "if_version"])?;
    let (role, job) = (needed(parameters, "role")?, needed(parameters, "job")?);
    let if_version = if_version(parameters)?;
    match (named(parameters, "key"), if_version) {
        (Some(key), if_version) => Ok(StoreCall::Delete {
            role,
            job,
            key,
            if_version,
        }),
        (None, None) => Ok(StoreCall::Remove { role, job }),
        (None, Some(_)) => Err(Refusal::bad_request(
            "A store has no version to be removed by: 'if_version' goes with 'key'",
        )),
    }
}

fn answered(answer: StoreAnswer) -> Response {
    match answer {
        StoreAnswer::Stores(stores) => {
            let stores = stores.iter().map(|store| {
                json!({ "role": store.role.as_str(), "job": store.job, "keys": store.keys,
                        "bytes": store.bytes, "version": store.version })
            });
            json(
                StatusCode::OK,
                &json!({ "stores": stores.collect::<Vec<_>>() }),
            )
        }
        StoreAnswer::Keys(keys) => {
            let keys = keys
                .iter()
                .map(|key| json!({ "key": key.key, "bytes": key.bytes, "version": key.version }));
            json(StatusCode::OK, &json!({ "keys": keys.collect::<Vec<_>>() }))
        }
        StoreAnswer::Value(Some(stored)) => {
            let mut headers = HeaderMap::new();
            headers.insert(VERSION, HeaderValue::from(stored.version));
            // It is a tenant's: no browser may take it for a page of the master's.
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/octet-stream"),
            );
            headers.insert(
                header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            );
            (headers, stored.value).into_response()
        }
        StoreAnswer::Value(None) => Refusal::not_found("There is no such key").into_response(),
        StoreAnswer::Stored(version) => json(StatusCode::OK, &json!({ "version": version })),
        StoreAnswer::Removed(keys) => json(StatusCode::OK, &json!({ "keys": keys })),
        StoreAnswer::Refused(refused) => {
            let status = match &refused {
                StoreRefused::Denied(_) => StatusCode::FORBIDDEN,
                StoreRefused::NoStore { .. } => StatusCode::NOT_FOUND,
                refused => match refused.code() {
                    failure::Code::Conflict => StatusCode::CONFLICT,
                    failure::Code::Full => StatusCode::INSUFFICIENT_STORAGE,
                    _ => StatusCode::BAD_REQUEST,
                },
            };
            let mut response = Refusal::new(status, refused.to_string()).into_response();
            if let Some(found) = refused.found() {
                response
                    .headers_mut()
                    .insert(VERSION, HeaderValue::from(found));
            }
            response
        }
    }
}
