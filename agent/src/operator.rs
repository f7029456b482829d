//! The operator's calls on one agent, POST to `/api/v1`: the checks in Mesos's order, then whatever is asked for.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use tepui_access::Action;
use tepui_api::v1::agent::call::attach_container_input;
use tepui_api::v1::agent::{Call, ProcessIo, Response as Answer, call, response};
use tepui_api::{MediaType, media, recordio, v1};
use tokio::sync::mpsc;

use crate::answer::blocking;
use crate::containers::{Container, Ended, Launch, Launched, Stdin};
use crate::files_api;
use crate::reads::{self, Read};
use crate::request::{MAX_CALL_BYTES, read_body};
use crate::site::{Refusal, Site, content_type, text};
use crate::usage;
use crate::user;

/// Records that may wait for a slow listener.
const RECORDS: usize = 16;
const KILL: i32 = 9;

/// In which form the answer goes out.
#[derive(Debug, Clone, Copy)]
struct Form {
    content_type: MediaType,
    message: MediaType,
}

pub(crate) async fn operator_call(
    State(site): State<Site>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let view = site.view().await?;
    if view.recovering {
        return Err(Refusal::recovering());
    }
    if method != Method::POST {
        return Err(Refusal::method(&method));
    }
    let media = content_type(text(&headers, header::CONTENT_TYPE.as_str()))?;
    let inner = text(&headers, "message-content-type");
    if media == MediaType::RecordIo {
        let inner = inner.ok_or_else(|| {
            Refusal::bad("Expecting 'Message-Content-Type' to be set for a stream of records")
        })?;
        let inner = match content_type(Some(inner))? {
            MediaType::RecordIo => return Err(unsupported("Records do not hold records")),
            inner => inner,
        };
        return take_stream(&site, inner, &headers, body).await;
    }
    if inner.is_some() {
        return Err(unsupported(
            "'Message-Content-Type' is for application/recordio only",
        ));
    }
    let bytes = read_body(body, &headers).await?;
    let call = decode(media, &bytes)?;
    let kind = validate(&call)?;
    if kind == call::Type::AttachContainerInput {
        return Err(unsupported(
            "Expecting 'Content-Type' of application/recordio for ATTACH_CONTAINER_INPUT",
        ));
    }
    let streams = matches!(
        kind,
        call::Type::AttachContainerOutput | call::Type::LaunchNestedContainerSession
    );
    let form = negotiate(&headers, streams)?;
    dispatch(site, kind, call, form).await
}

fn unsupported(message: &str) -> Refusal {
    Refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, message.to_owned())
}

fn decode(media: MediaType, bytes: &[u8]) -> Result<Call, Refusal> {
    media::decode(media, bytes)
        .map_err(|error| Refusal::bad(format!("Failed to parse body into a call: {error}")))
}

/// Whether everything the call needs is there.
fn validate(call: &Call) -> Result<call::Type, Refusal> {
    use call::Type;
    let kind = call
        .r#type
        .and_then(|kind| Type::try_from(kind).ok())
        .ok_or_else(|| Refusal::bad("Expecting 'type' to be present"))?;
    let (present, field) = match kind {
        Type::GetMetrics => (call.get_metrics.is_some(), "get_metrics"),
        Type::SetLoggingLevel => (call.set_logging_level.is_some(), "set_logging_level"),
        Type::ListFiles => (call.list_files.is_some(), "list_files"),
        Type::ReadFile => (call.read_file.is_some(), "read_file"),
        Type::LaunchNestedContainer => (
            call.launch_nested_container.is_some(),
            "launch_nested_container",
        ),
        Type::WaitNestedContainer => (
            call.wait_nested_container.is_some(),
            "wait_nested_container",
        ),
        Type::KillNestedContainer => (
            call.kill_nested_container.is_some(),
            "kill_nested_container",
        ),
        Type::RemoveNestedContainer => (
            call.remove_nested_container.is_some(),
            "remove_nested_container",
        ),
        Type::LaunchNestedContainerSession => (
            call.launch_nested_container_session.is_some(),
            "launch_nested_container_session",
        ),
        Type::AttachContainerInput => (
            call.attach_container_input.is_some(),
            "attach_container_input",
        ),
        Type::AttachContainerOutput => (
            call.attach_container_output.is_some(),
            "attach_container_output",
        ),
        Type::LaunchContainer => (call.launch_container.is_some(), "launch_container"),
        Type::WaitContainer => (call.wait_container.is_some(), "wait_container"),
        Type::KillContainer => (call.kill_container.is_some(), "kill_container"),
        Type::RemoveContainer => (call.remove_container.is_some(), "remove_container"),
        _ => (true, ""),
    };
    if present {
        Ok(kind)
    } else {
        Err(Refusal::bad(format!("Expecting '{field}' to be present")))
    }
}

fn negotiate(headers: &HeaderMap, streams: bool) -> Result<Form, Refusal> {
    let not_acceptable =
        |wanted: &str| Refusal(StatusCode::NOT_ACCEPTABLE, format!("Expecting {wanted}"));
    let accept = text(headers, header::ACCEPT.as_str());
    let inner = text(headers, "message-accept");
    if let Some(plain) = media::negotiate(accept) {
        if inner.is_some() {
            return Err(not_acceptable(
                "'Accept' of application/recordio with 'Message-Accept'",
            ));
        }
        return Ok(Form {
            content_type: plain,
            message: plain,
        });
    }
    if streams && media::accepts(accept, MediaType::RecordIo) {
        let message = media::negotiate(inner).ok_or_else(|| {
            not_acceptable("'Message-Accept' to allow application/json or application/x-protobuf")
        })?;
        return Ok(Form {
            content_type: MediaType::RecordIo,
            message,
        });
    }
    Err(not_acceptable(if streams {
        "'Accept' to allow application/json, application/x-protobuf or application/recordio"
    } else {
        "'Accept' to allow application/json or application/x-protobuf"
    }))
}

async fn dispatch(
    site: Site,
    kind: call::Type,
    call: Call,
    form: Form,
) -> Result<Response, Refusal> {
    use call::Type;
    let read = match kind {
        Type::Unknown => {
            return Err(Refusal(
                StatusCode::NOT_IMPLEMENTED,
                "Unknown call".to_owned(),
            ));
        }
        Type::GetHealth => Read::Health,
        Type::GetFlags => {
            site.access.eyes().permit(Action::ViewFlags, None)?;
            Read::Flags
        }
        Type::GetVersion => Read::Version,
        Type::GetMetrics => Read::Metrics,
        Type::GetLoggingLevel => Read::LoggingLevel,
        Type::GetState => Read::State,
        Type::GetFrameworks => Read::Frameworks,
        Type::GetExecutors => Read::Executors,
        Type::GetOperations => Read::Operations,
        Type::GetTasks => Read::Tasks,
        Type::GetAgent => Read::Agent,
        Type::GetResourceProviders => Read::ResourceProviders,
        Type::SetLoggingLevel => return set_logging_level(&site, &call),
        Type::ListFiles | Type::ReadFile => {
            files_api::permit_call(&site, &call).await?;
            let answer = blocking(move || files_api::answer(&site.files, &call)).await??;
            return Ok(rendered(form, &answer));
        }
        Type::GetContainers => return get_containers(site, &call, form).await,
        Type::AddResourceProviderConfig
        | Type::UpdateResourceProviderConfig
        | Type::RemoveResourceProviderConfig
        | Type::MarkResourceProviderGone
        | Type::PruneImages => {
            let name = kind.as_str_name();
            return Err(Refusal(
                StatusCode::NOT_IMPLEMENTED,
                format!("This agent does not implement the call {name}"),
            ));
        }
        _ => return of_containers(&site, kind, call, form).await,
    };
    let (view, eyes) = match read {
        // Figures are of all there is.
        Read::Metrics => (site.view().await?, site.access.eyes()),
        _ => site.seen().await?,
    };
    let answer = blocking(move || reads::answer(read, &site, &view, &eyes)).await?;
    Ok(rendered(form, &answer))
}

fn rendered(form: Form, answer: &Answer) -> Response {
    (
        [(header::CONTENT_TYPE, form.content_type.as_str())],
        media::encode(form.message, answer),
    )
        .into_response()
}

fn set_logging_level(site: &Site, call: &Call) -> Result<Response, Refusal> {
    site.access.eyes().permit(Action::SetLogLevel, None)?;
    let Some(wanted) = &call.set_logging_level else {
        return Err(Refusal::bad("Expecting 'set_logging_level' to be present"));
    };
    let duration = u64::try_from(wanted.duration.nanoseconds)
        .map_err(|_| Refusal::bad("Expecting 'set_logging_level.duration' not to be negative"))?;
    if site
        .verbosity
        .raise(wanted.level, Duration::from_nanos(duration))
    {
        Ok(StatusCode::OK.into_response())
    } else {
        Err(Refusal(
            StatusCode::NOT_IMPLEMENTED,
            "This process cannot change how much it logs".to_owned(),
        ))
    }
}

async fn get_containers(site: Site, call: &Call, form: Form) -> Result<Response, Refusal> {
    let wanted = call.get_containers.unwrap_or_default();
    let (view, eyes) = site.seen().await?;
    let mut containers = usage::rows(&site, view.clone(), eyes.clone()).await?;
    let (nested, standalone) = (wanted.show_nested(), wanted.show_standalone());
    let own = blocking(move || usage::own_rows(&site, &view, &eyes, nested, standalone));
    containers.extend(own.await?);
    let answer = Answer {
        r#type: Some(response::Type::GetContainers.into()),
        get_containers: Some(response::GetContainers { containers }),
        ..Default::default()
    };
    Ok(rendered(form, &answer))
}

async fn of_containers(
    site: &Site,
    kind: call::Type,
    call: Call,
    form: Form,
) -> Result<Response, Refusal> {
    use call::Type;
    admit(site)?;
    permit(site, kind, &call).await?;
    let containers = &site.containers;
    let done = |()| StatusCode::OK.into_response();
    if let (Type::LaunchContainer, Some(launch)) = (kind, call.launch_container) {
        let limits = launch.limits.into_iter();
        return started(
            site,
            Launch {
                id: launch.container_id,
                command: launch.command,
                container: launch.container,
                resources: launch.resources,
                limits: limits.map(|(name, limit)| (name, limit.value)).collect(),
                session: false,
            },
        )
        .await;
    }
    if let (Type::LaunchNestedContainer, Some(launch)) = (kind, call.launch_nested_container) {
        nested(&launch.container_id)?;
        let launch = plain(launch.container_id, launch.command, launch.container, false);
        return started(site, launch).await;
    }
    if let (Type::LaunchNestedContainerSession, Some(launch)) =
        (kind, call.launch_nested_container_session)
    {
        nested(&launch.container_id)?;
        let launch = plain(launch.container_id, launch.command, launch.container, true);
        return session(site, launch, form).await;
    }
    if let (Type::AttachContainerOutput, Some(attach)) = (kind, call.attach_container_output) {
        let outputs = containers.outputs(&attach.container_id, false).await?;
        let (sender, records) = mpsc::channel(RECORDS);
        tokio::spawn(outputs.pass_on(sender));
        return Ok(streamed(form, records, None));
    }
    if let (Type::WaitContainer, Some(wait)) = (kind, &call.wait_container) {
        let ended = containers.wait(&wait.container_id).await?;
        return Ok(rendered(form, &waited(ended)));
    }
    if let (Type::WaitNestedContainer, Some(wait)) = (kind, &call.wait_nested_container) {
        nested(&wait.container_id)?;
        let ended = containers.wait(&wait.container_id).await?;
        return Ok(rendered(form, &waited_nested(ended)));
    }
    if let (Type::KillContainer, Some(kill)) = (kind, &call.kill_container) {
        let signal = kill.signal.unwrap_or(KILL);
        return containers.kill(&kill.container_id, signal).await.map(done);
    }
    if let (Type::KillNestedContainer, Some(kill)) = (kind, &call.kill_nested_container) {
        nested(&kill.container_id)?;
        let signal = kill.signal.unwrap_or(KILL);
        return containers.kill(&kill.container_id, signal).await.map(done);
    }
    if let (Type::RemoveContainer, Some(remove)) = (kind, &call.remove_container) {
        return containers.remove(&remove.container_id).await.map(done);
    }
    if let (Type::RemoveNestedContainer, Some(remove)) = (kind, &call.remove_nested_container) {
        nested(&remove.container_id)?;
        return containers.remove(&remove.container_id).await.map(done);
    }
    Err(Refusal::bad("Expecting the call's own field to be present"))
}

/// Whether the lists let the caller do that to the container it names: it is its user's, and that of what it is in.
async fn permit(site: &Site, kind: call::Type, call: &Call) -> Result<(), Refusal> {
    let Some((id, command)) = target(kind, call) else {
        return Ok(());
    };
    let Some((action, under_parent)) = actions(kind, id.parent.is_some()) else {
        return Ok(());
    };
    let eyes = site.access.eyes();
    let launches = under_parent.is_some() || action == Action::LaunchStandaloneContainer;
    let present = match &id.parent {
        Some(parent) if launches => site.containers.user_of(parent).await?,
        None if launches => user::own(),
        _ => site.containers.user_of(id).await?,
    };
    let asked = command
        .and_then(|command| command.user.as_deref())
        .filter(|user| !user.is_empty());
    eyes.permit(action, Some(asked.unwrap_or(&present)))?;
    if let Some(action) = under_parent {
        eyes.permit(action, Some(&present))?;
    }
    Ok(())
}

/// The container a call names, and what it wants to start in it.
fn target(kind: call::Type, call: &Call) -> Option<(&v1::ContainerId, Option<&v1::CommandInfo>)> {
    use call::Type;
    let id = match kind {
        Type::LaunchContainer => {
            let launch = call.launch_container.as_ref()?;
            return Some((&launch.container_id, launch.command.as_ref()));
        }
        Type::LaunchNestedContainer => {
            let launch = call.launch_nested_container.as_ref()?;
            return Some((&launch.container_id, launch.command.as_ref()));
        }
        Type::LaunchNestedContainerSession => {
            let launch = call.launch_nested_container_session.as_ref()?;
            return Some((&launch.container_id, launch.command.as_ref()));
        }
        Type::WaitContainer => &call.wait_container.as_ref()?.container_id,
        Type::WaitNestedContainer => &call.wait_nested_container.as_ref()?.container_id,
        Type::KillContainer => &call.kill_container.as_ref()?.container_id,
        Type::KillNestedContainer => &call.kill_nested_container.as_ref()?.container_id,
        Type::RemoveContainer => &call.remove_container.as_ref()?.container_id,
        Type::RemoveNestedContainer => &call.remove_nested_container.as_ref()?.container_id,
        Type::AttachContainerOutput => &call.attach_container_output.as_ref()?.container_id,
        Type::AttachContainerInput => {
            let attach = call.attach_container_input.as_ref()?;
            attach.container_id.as_ref()?
        }
        _ => return None,
    };
    Some((id, None))
}

/// What a call does to a container, and to what that is to be nested in. None for calls that are refused anyway.
fn actions(kind: call::Type, nested: bool) -> Option<(Action, Option<Action>)> {
    use call::Type;
    Some(match (kind, nested) {
        (Type::LaunchContainer, false) => (Action::LaunchStandaloneContainer, None),
        (Type::WaitContainer, false) => (Action::WaitStandaloneContainer, None),
        (Type::KillContainer, false) => (Action::KillStandaloneContainer, None),
        (Type::RemoveContainer, false) => (Action::RemoveStandaloneContainer, None),
        (Type::AttachContainerInput, _) => (Action::AttachContainerInput, None),
        (Type::AttachContainerOutput, _) => (Action::AttachContainerOutput, None),
        (Type::LaunchContainer | Type::LaunchNestedContainer, true) => (
            Action::LaunchNestedContainer,
            Some(Action::LaunchNestedContainerUnderParent),
        ),
        (Type::LaunchNestedContainerSession, true) => (
            Action::LaunchNestedContainerSession,
            Some(Action::LaunchNestedContainerSessionUnderParent),
        ),
        (Type::WaitContainer | Type::WaitNestedContainer, true) => {
            (Action::WaitNestedContainer, None)
        }
        (Type::KillContainer | Type::KillNestedContainer, true) => {
            (Action::KillNestedContainer, None)
        }
        (Type::RemoveContainer | Type::RemoveNestedContainer, true) => {
            (Action::RemoveNestedContainer, None)
        }
        _ => return None,
    })
}

/// A container is as good as a shell of its user: beyond loopback it is only for those who prove who they are.
fn admit(site: &Site) -> Result<(), Refusal> {
    if site.about.serves_containers {
        return Ok(());
    }
    Err(Refusal(
        StatusCode::FORBIDDEN,
        "This agent listens beyond loopback: its operator must start it with --authenticate_http_readwrite, or with --insecure, before it serves calls on containers"
            .to_owned(),
    ))
}

fn plain(
    id: v1::ContainerId,
    command: Option<v1::CommandInfo>,
    container: Option<v1::ContainerInfo>,
    session: bool,
) -> Launch {
    Launch {
        id,
        command,
        container,
        resources: Vec::new(),
        limits: Default::default(),
        session,
    }
}

/// The older calls are for nested containers only.
fn nested(id: &v1::ContainerId) -> Result<(), Refusal> {
    if id.parent.is_some() {
        Ok(())
    } else {
        Err(Refusal::bad(
            "Expecting 'container_id.parent' to be present",
        ))
    }
}

async fn started(site: &Site, launch: Launch) -> Result<Response, Refusal> {
    Ok(match site.containers.launch(launch).await? {
        Launched::Started(_) => StatusCode::OK.into_response(),
        Launched::Exists => StatusCode::ACCEPTED.into_response(),
    })
}

async fn session(site: &Site, launch: Launch, form: Form) -> Result<Response, Refusal> {
    let id = launch.id.clone();
    match site.containers.launch(launch).await? {
        Launched::Exists => Ok(StatusCode::ACCEPTED.into_response()),
        Launched::Started(container) => {
            let guard = Destroy(container);
            let outputs = site.containers.outputs(&id, true).await?;
            let (sender, records) = mpsc::channel(RECORDS);
            tokio::spawn(outputs.pass_on(sender));
            Ok(streamed(form, records, Some(guard)))
        }
    }
}

/// Ends a session when its client goes.
struct Destroy(Arc<Container>);

impl Drop for Destroy {
    fn drop(&mut self) {
        self.0.destroy.cancel();
    }
}

/// Each record is a chunk of its own: there are clients that take each chunk for one record.
fn streamed(form: Form, records: mpsc::Receiver<ProcessIo>, guard: Option<Destroy>) -> Response {
    let message = form.message;
    let stream =
        futures::stream::unfold((records, guard), move |(mut records, guard)| async move {
            let io = records.recv().await?;
            let record: Bytes = recordio::encode(&media::encode(message, &io));
            Some((Ok::<_, std::convert::Infallible>(record), (records, guard)))
        });
    let mut response = (
        [(header::CONTENT_TYPE, form.content_type.as_str())],
        Body::from_stream(stream),
    )
        .into_response();
    if form.content_type == MediaType::RecordIo {
        response.headers_mut().insert(
            "message-content-type",
            axum::http::HeaderValue::from_static(message.as_str()),
        );
    }
    response
}

fn waited(ended: Ended) -> Answer {
    Answer {
        r#type: Some(response::Type::WaitContainer.into()),
        wait_container: Some(response::WaitContainer {
            exit_status: ended.status,
            state: ended.state.map(Into::into),
            reason: ended.reason.map(Into::into),
            limitation: ended.limitation,
            message: ended.message,
        }),
        ..Default::default()
    }
}

fn waited_nested(ended: Ended) -> Answer {
    Answer {
        r#type: Some(response::Type::WaitNestedContainer.into()),
        wait_nested_container: Some(response::WaitNestedContainer {
            exit_status: ended.status,
            state: ended.state.map(Into::into),
            reason: ended.reason.map(Into::into),
            limitation: ended.limitation,
            message: ended.message,
        }),
        ..Default::default()
    }
}

/// A call that is a stream of records: the first says which container, the others are its input.
async fn take_stream(
    site: &Site,
    media: MediaType,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    admit(site)?;
    let mut decoder = recordio::Decoder::new(MAX_CALL_BYTES);
    let mut chunks = body.into_data_stream();
    let mut stdin: Option<Stdin> = None;
    loop {
        while let Some(record) = decoder.next().map_err(Refusal::bad)? {
            let call = decode(media, &record)?;
            let kind = validate(&call)?;
            if stdin.is_none() {
                permit(site, kind, &call).await?;
            }
            let Some(attach) = call
                .attach_container_input
                .filter(|_| kind == call::Type::AttachContainerInput)
            else {
                return Err(unsupported(
                    "Streams of records are for ATTACH_CONTAINER_INPUT only",
                ));
            };
            match (attach.r#type(), &mut stdin) {
                (attach_container_input::Type::ContainerId, None) => {
                    negotiate(headers, false)?;
                    let id = attach
                        .container_id
                        .ok_or_else(|| Refusal::bad("Expecting 'container_id' to be present"))?;
                    stdin = Some(site.containers.stdin(&id).await?);
                }
                (attach_container_input::Type::ProcessIo, Some(stdin)) => {
                    let io = attach
                        .process_io
                        .ok_or_else(|| Refusal::bad("Expecting 'process_io' to be present"))?;
                    stdin.take(&io).await?;
                }
                (_, None) => {
                    return Err(Refusal::bad(
                        "Expecting the first record to be of type CONTAINER_ID",
                    ));
                }
                (_, Some(_)) => {
                    return Err(Refusal::bad(
                        "Expecting all but the first record to be of type PROCESS_IO",
                    ));
                }
            }
        }
        let ended = async {
            match &stdin {
                Some(stdin) => drop(stdin.container().ended().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            chunk = chunks.next() => match chunk {
                Some(Ok(chunk)) => decoder.push(chunk),
                Some(Err(error)) => {
                    return Err(Refusal::bad(format!("The stream of input broke off: {error}")));
                }
                None if stdin.is_some() && decoder.is_between_records() => {
                    return Ok(StatusCode::OK.into_response());
                }
                None => return Err(Refusal::bad("The stream of input ends within a record")),
            },
            // Nobody is left to take any more.
            () = ended => return Ok(StatusCode::OK.into_response()),
        }
    }
}
