//! The routes: which path is whose, the calls, and the small reads.
//!
//! Every path is there bare and under `/master`, reads also with `.json`; the longest path that is known answers for
//! all below it, as stock clients expect.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use prost::Message;
use serde::Serialize;
use tepui_access::Action;
use tepui_api::Json;
use tepui_api::media::{self, MediaType};
use tepui_api::required::Described;
use tepui_api::v1::{master, scheduler};
use tepui_master_core::{StreamKey, View};
use tokio::sync::oneshot;

use crate::body::{self, Packed};
use crate::feed;
use crate::owner::{Message as OwnerMessage, OperatorSubscription, Reply};
use crate::shared::{Refusal, Shared, method_not_allowed};
use crate::stream::{EventBody, Streamed};
use crate::{
    access, artifacts, explain, holdings, job_stores, legacy, legacy_writes, link, log, logs,
    metrics, operator, operator_events,
};

const STREAM_ID: HeaderName = HeaderName::from_static("mesos-stream-id");

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let mut routes = Routes(Router::new());
    routes.tree("/api/v1/scheduler", any(scheduler_call));
    routes.tree("/api/v1", any(operator_call));
    routes.exact("/api/v1/tepui/artifacts", any(artifacts::collection));
    routes.exact("/api/v1/tepui/artifacts/add", any(artifacts::add));
    routes.exact("/api/v1/tepui/artifacts/{sha256}", any(artifacts::member));
    routes.exact("/api/v1/tepui/holdings", legacy_read(holdings::list));
    routes.exact("/artifacts/{sha256}", any(artifacts::download));
    routes.exact("/artifacts/{sha256}/{name}", any(artifacts::download_named));
    routes.exact("/api/v1/tepui/logs", any(logs::serve));
    routes.exact("/api/v1/tepui/explain", any(explain::serve));
    routes.exact("/api/v1/tepui/store", any(job_stores::serve));
    routes.exact("/tepui/v1/agent-link", any(link::serve));
    routes.exact("/redirect", any(redirect));
    routes.read("/health", any(StatusCode::OK));
    routes.read("/version", any(version));
    routes.read("/flags", any(flags));
    routes.read("/state", legacy_read(legacy::state));
    routes.read("/state-summary", legacy_read(legacy::state_summary));
    routes.read("/slaves", legacy_read(legacy::slaves));
    routes.read("/tasks", legacy_read(legacy::tasks));
    routes.read("/frameworks", legacy_read(legacy::frameworks));
    routes.read("/roles", legacy_read(legacy::roles));
    routes.read("/metrics/snapshot", any(metrics_snapshot));
    routes.read("/metrics/help", any(metrics_help));
    routes.read("/files/browse", log_read(log::browse_json));
    routes.read("/files/read", log_read(log::read_json));
    routes.read("/files/debug", log_read(log::debug_json));
    routes.read("/files/download", any(download_log));
    routes.tree("/logging/toggle", any(toggle_logging));
    for (path, to_call) in legacy_writes::POSTS {
        let post = async move |State(shared): State<Arc<Shared>>, request: Request| {
            legacy_writes::post(&shared, request, to_call).await
        };
        routes.tree(path, any(post));
    }
    routes.tree("/quota", any(legacy_writes::quota));
    routes.tree("/weights", any(legacy_writes::weights));
    routes.tree(
        "/maintenance/schedule",
        any(legacy_writes::maintenance_schedule),
    );
    routes.tree(
        "/maintenance/status",
        any(legacy_writes::maintenance_status),
    );
    routes
        .0
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(
            Arc::clone(&shared),
            access::authenticate,
        ))
        .layer(middleware::from_fn(tepui_bodies::close_unless_read))
        .with_state(shared)
}

type Route = axum::routing::MethodRouter<Arc<Shared>>;

struct Routes(Router<Arc<Shared>>);

impl Routes {
    fn add(&mut self, path: &str, route: &Route) {
        let router = std::mem::take(&mut self.0);
        self.0 = router
            .route(path, route.clone())
            .route(&format!("/master{path}"), route.clone());
    }

    fn exact(&mut self, path: &str, route: Route) {
        self.add(path, &route);
        self.add(&format!("{path}/"), &route);
    }

    /// With all that is below it.
    fn tree(&mut self, path: &str, route: Route) {
        self.exact(path, route.clone());
        self.add(&format!("{path}/{{*rest}}"), &route);
    }

    fn read(&mut self, path: &str, route: Route) {
        self.add(&format!("{path}.json"), &route);
        self.tree(path, route);
    }
}

async fn not_found(request: Request) -> Refusal {
    Refusal::not_found(format!("There is nothing at '{}'", request.uri().path()))
}

pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => (
            status,
            [(header::CONTENT_TYPE, MediaType::Json.as_str())],
            body,
        )
            .into_response(),
        Err(error) => Refusal::internal(error.to_string()).into_response(),
    }
}

pub(crate) fn text_of(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

// Calls

/// Checks method, media type and body in the order in which Mesos does.
async fn read_call<M>(
    shared: &Shared,
    request: Request,
) -> Result<(MediaType, M, HeaderMap), Response>
where
    M: Json + Message + Default + Described,
{
    if request.method() != Method::POST {
        return Err(method_not_allowed("POST", request.method()));
    }
    let (parts, body) = request.into_parts();
    let refuse = |status, error: &dyn std::fmt::Display| {
        Refusal::new(status, error.to_string()).into_response()
    };
    let media =
        media::content_type(text_of(&parts.headers, header::CONTENT_TYPE)).map_err(|error| {
            match error {
                media::ContentTypeError::Missing => refuse(StatusCode::BAD_REQUEST, &error),
                media::ContentTypeError::Unsupported(_) => {
                    refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, &error)
                }
            }
        })?;
    if media == MediaType::RecordIo {
        let error = "Expecting 'Content-Type' of application/json or application/x-protobuf";
        return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, &error));
    }
    let body = body::read(body, &parts.headers, &shared.config)
        .await
        .map_err(IntoResponse::into_response)?;
    let call = media::decode(media, &body).map_err(|error| {
        refuse(
            StatusCode::BAD_REQUEST,
            &format!("Failed to parse body into a call: {error}"),
        )
    })?;
    Ok((media, call, parts.headers))
}

fn not_acceptable() -> Response {
    let message = "Expecting 'Accept' to allow application/json or application/x-protobuf";
    Refusal::new(StatusCode::NOT_ACCEPTABLE, message).into_response()
}

async fn scheduler_call(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (_, call, headers): (_, scheduler::Call, _) = match read_call(&shared, request).await {
        Ok(read) => read,
        Err(response) => return response,
    };
    let mut media = MediaType::Json;
    // As in Mesos no other call looks at what its client accepts; one without its body is refused below.
    let answered_in_form = match call.r#type() {
        scheduler::call::Type::Subscribe => call.subscribe.is_some(),
        scheduler::call::Type::ReconcileOperations => call.reconcile_operations.is_some(),
        _ => false,
    };
    if answered_in_form {
        match media::negotiate(text_of(&headers, header::ACCEPT)) {
            Some(accepted) => media = accepted,
            None => return not_acceptable(),
        }
    }
    let stream_id = text_of(&headers, STREAM_ID).map(str::to_owned);
    let (reply, answer) = oneshot::channel();
    let message = OwnerMessage::SchedulerCall {
        principal: access::caller(),
        stream_id,
        call: Box::new(call),
        reply,
    };
    if shared.inbox.send(message).await.is_err() {
        return Refusal::stopping().into_response();
    }
    match answer.await {
        Ok(Reply::Subscribed {
            stream,
            stream_id,
            events,
        }) => {
            let body = event_body(&shared, events, media, stream);
            let mut response = streaming(media, body);
            response.headers_mut().insert(
                STREAM_ID,
                HeaderValue::try_from(stream_id).expect("a uuid is a header value"),
            );
            response
        }
        Ok(reply) => reply_without_body(reply),
        Err(_) => Refusal::stopping().into_response(),
    }
}

fn event_body<E: Streamed>(
    shared: &Shared,
    events: feed::Receiver<E>,
    media: MediaType,
    stream: StreamKey,
) -> EventBody<E> {
    let interval = shared.config.core.heartbeat_interval;
    EventBody::new(
        events,
        media,
        interval,
        stream,
        shared.closed_streams.clone(),
    )
}

fn streaming<E: Streamed>(media: MediaType, body: EventBody<E>) -> Response {
    let mut response = Response::new(Body::from_stream(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(media.as_str()),
    );
    response
}

/// Everything that happens in the cluster, from a snapshot on.
async fn operator_stream(shared: &Shared, media: MediaType) -> Response {
    let (reply, subscription) = oneshot::channel();
    let principal = access::caller();
    let message = OwnerMessage::OperatorSubscribe {
        principal: principal.clone(),
        reply,
    };
    if shared.inbox.send(message).await.is_err() {
        return Refusal::stopping().into_response();
    }
    let Ok(OperatorSubscription {
        stream,
        view,
        events,
    }) = subscription.await
    else {
        return Refusal::stopping().into_response();
    };
    let view = view.visible_to(&shared.config.core.acls, principal.as_deref());
    // From here on the stream counts; that it ended is told when its body is dropped, sent or not.
    let body = event_body(shared, events, media, stream);
    let interval = shared.config.core.heartbeat_interval.as_secs_f64();
    let rendered = tokio::task::spawn_blocking(move || {
        operator_events::subscribed(media, operator::state(&view), interval)
    });
    match rendered.await {
        Ok(first) => streaming(media, body.beginning_with(first)),
        Err(error) => {
            Refusal::internal(format!("The state cannot be rendered: {error}")).into_response()
        }
    }
}

fn reply_without_body(reply: Reply) -> Response {
    match reply {
        Reply::Accepted => StatusCode::ACCEPTED.into_response(),
        Reply::Done => StatusCode::OK.into_response(),
        Reply::Refused { status, message } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Refusal::new(status, message).into_response()
        }
        Reply::Subscribed { .. } => Refusal::internal("This call has no stream").into_response(),
        Reply::Store(_) => Refusal::internal("This call has no such answer").into_response(),
    }
}

async fn operator_call(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (_, call, headers): (_, master::Call, _) = match read_call(&shared, request).await {
        Ok(read) => read,
        Err(response) => return response,
    };
    let kind = match operator::classify(&call) {
        Ok(kind) => kind,
        Err(refusal) => return refusal.into_response(),
    };
    let Some(media) = media::negotiate(text_of(&headers, header::ACCEPT)) else {
        return not_acceptable();
    };
    if let Some(action) = kind.guard()
        && let Err(refusal) = access::permit(&shared, action)
    {
        return refusal.into_response();
    }
    match kind {
        operator::Kind::Change => change(&shared, call).await,
        operator::Kind::Metrics { patience } => match metrics::within(&shared, patience).await {
            Ok(figures) => {
                let answer = media::encode(media, &operator::metrics(figures));
                Packed::new(answer, body::accepts_gzip(&headers)).into_response(media.as_str())
            }
            Err(refusal) => refusal.into_response(),
        },
        operator::Kind::SetLoggingLevel { level, duration } => {
            shared.verbosity.set_for(level, duration);
            StatusCode::OK.into_response()
        }
        operator::Kind::Subscribe => operator_stream(&shared, media).await,
        operator::Kind::Read(read) => {
            let content_type = media.as_str();
            rendered(shared, &headers, content_type, move |shared, view| {
                operator::answer(&read, shared, view).map(|answer| media::encode(media, &answer))
            })
            .await
        }
    }
}

/// Lets the core decide on a call that changes something.
pub(crate) async fn change(shared: &Shared, call: master::Call) -> Response {
    let (reply, answer) = oneshot::channel();
    let message = OwnerMessage::OperatorCall {
        principal: access::caller(),
        call: Box::new(call),
        reply,
    };
    if shared.inbox.send(message).await.is_err() {
        return Refusal::stopping().into_response();
    }
    answer
        .await
        .map_or_else(|_| Refusal::stopping().into_response(), reply_without_body)
}

// Reads

pub(crate) type Parameters = BTreeMap<String, String>;

/// Takes the state as it is and renders it where it holds up nobody.
async fn rendered<F>(
    shared: Arc<Shared>,
    headers: &HeaderMap,
    content_type: &'static str,
    render: F,
) -> Response
where
    F: FnOnce(&Shared, &View) -> Result<Vec<u8>, Refusal> + Send + 'static,
{
    let view = match shared.view().await {
        Ok(view) => view,
        Err(refusal) => return refusal.into_response(),
    };
    let accepts_gzip = body::accepts_gzip(headers);
    let work = tokio::task::spawn_blocking(move || {
        render(&shared, &view).map(|bytes| Packed::new(bytes, accepts_gzip))
    });
    match work.await {
        Ok(Ok(packed)) => packed.into_response(content_type),
        Ok(Err(refusal)) => Refusal::into_response(refusal),
        Err(error) => {
            Refusal::internal(format!("The answer cannot be rendered: {error}")).into_response()
        }
    }
}

/// A read that stock tools know from before the v1 API. They send it with any method.
fn legacy_read(render: fn(&Shared, &View, &Parameters) -> Result<Vec<u8>, Refusal>) -> Route {
    any(
        async move |State(shared): State<Arc<Shared>>,
                    Query(parameters): Query<Parameters>,
                    headers: HeaderMap| {
            let asked = parameters.clone();
            let render = move |shared: &Shared, view: &View| render(shared, view, &asked);
            rendered_legacy(shared, &headers, &parameters, render).await
        },
    )
}

/// As a script if the parameters ask for that.
pub(crate) async fn rendered_legacy<F>(
    shared: Arc<Shared>,
    headers: &HeaderMap,
    parameters: &Parameters,
    render: F,
) -> Response
where
    F: FnOnce(&Shared, &View) -> Result<Vec<u8>, Refusal> + Send + 'static,
{
    let padding = match padding(parameters) {
        Ok(padding) => padding,
        Err(refusal) => return refusal.into_response(),
    };
    let content_type = legacy_type(padding.as_deref());
    let render = move |shared: &Shared, view: &View| {
        render(shared, view).map(|body| pad(padding.as_deref(), body))
    };
    rendered(shared, headers, content_type, render).await
}

fn legacy_type(padding: Option<&str>) -> &'static str {
    if padding.is_some() {
        "text/javascript"
    } else {
        MediaType::Json.as_str()
    }
}

/// `?jsonp=NAME` makes the answer a script that calls NAME.
fn padding(parameters: &Parameters) -> Result<Option<String>, Refusal> {
    let Some(name) = parameters.get("jsonp").filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    // Anything else would let a link put a script of its own into the page that asks.
    let is_safe =
        |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '$' | '.');
    if name.chars().all(is_safe) {
        Ok(Some(name.clone()))
    } else {
        Err(Refusal::bad_request(
            "'jsonp' must be the name of a function",
        ))
    }
}

fn pad(function: Option<&str>, body: Vec<u8>) -> Vec<u8> {
    match function {
        Some(function) => [function.as_bytes(), b"(", &body, b");"].concat(),
        None => body,
    }
}

/// A legacy answer for which the core need not be asked.
fn padded(headers: &HeaderMap, parameters: &Parameters, value: &impl Serialize) -> Response {
    let (padding, body) = match (padding(parameters), serde_json::to_vec(value)) {
        (Ok(padding), Ok(body)) => (padding, body),
        (Err(refusal), _) => return refusal.into_response(),
        (_, Err(error)) => return Refusal::internal(error.to_string()).into_response(),
    };
    let body = pad(padding.as_deref(), body);
    Packed::new(body, body::accepts_gzip(headers)).into_response(legacy_type(padding.as_deref()))
}

async fn version(Query(parameters): Query<Parameters>, headers: HeaderMap) -> Response {
    padded(&headers, &parameters, &legacy::Version)
}

async fn metrics_snapshot(
    State(shared): State<Arc<Shared>>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response {
    let patience = match metrics::patience(&parameters) {
        Ok(patience) => patience,
        Err(refusal) => return refusal.into_response(),
    };
    match metrics::within(&shared, patience).await {
        Ok(figures) => padded(&headers, &parameters, &figures),
        Err(refusal) => refusal.into_response(),
    }
}

async fn metrics_help(Query(parameters): Query<Parameters>, headers: HeaderMap) -> Response {
    padded(&headers, &parameters, &metrics::help())
}

/// One of the reads of the master's own log.
fn log_read(read: fn(&Parameters) -> Result<serde_json::Value, Refusal>) -> Route {
    any(
        async move |State(shared): State<Arc<Shared>>,
                    Query(parameters): Query<Parameters>,
                    headers: HeaderMap| {
            let permitted = access::permit(&shared, Action::AccessMesosLog);
            match permitted.and_then(|()| read(&parameters)) {
                Ok(value) => padded(&headers, &parameters, &value),
                Err(refusal) => refusal.into_response(),
            }
        },
    )
}

async fn download_log(
    State(shared): State<Arc<Shared>>,
    Query(parameters): Query<Parameters>,
) -> Result<Response, Refusal> {
    access::permit(&shared, Action::AccessMesosLog)?;
    log::download(&parameters)
}

async fn toggle_logging(
    State(shared): State<Arc<Shared>>,
    Query(parameters): Query<Parameters>,
) -> Response {
    let permitted = access::permit(&shared, Action::SetLogLevel);
    match permitted.and_then(|()| log::toggle(&parameters)) {
        Ok(None) => format!("{}\n", shared.verbosity.level()).into_response(),
        Ok(Some((level, duration))) => {
            shared.verbosity.set_for(level, duration);
            StatusCode::OK.into_response()
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn flags(
    State(shared): State<Arc<Shared>>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response {
    if let Err(refusal) = access::permit(&shared, Action::ViewFlags) {
        return refusal.into_response();
    }
    let flags: BTreeMap<_, _> = shared.config.flags().into_iter().collect();
    padded(
        &headers,
        &parameters,
        &serde_json::json!({ "flags": flags }),
    )
}

/// This master leads, so it sends everybody to itself.
async fn redirect(State(shared): State<Arc<Shared>>) -> Response {
    let location = format!("//{}", shared.identity.authority());
    match HeaderValue::try_from(location) {
        Ok(location) => (
            StatusCode::TEMPORARY_REDIRECT,
            [(header::LOCATION, location)],
        )
            .into_response(),
        Err(error) => Refusal::internal(error.to_string()).into_response(),
    }
}
