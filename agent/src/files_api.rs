//! `/files/*`, LIST_FILES and READ_FILE: what lies in sandboxes and in the agent's own log.

use std::collections::BTreeMap;
use std::io;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tepui_access::Action;
use tepui_api::convert::executor_user;
use tepui_api::v1;
use tepui_api::v1::agent::{Call, Response as Answer, response};

use crate::answer::{Parameters, blocking, page};
use crate::files::{FileError, FilesContext, LOG_PATHS, SandboxOwner};
use crate::follow::follow;
use crate::site::{Refusal, Site};

/// The most `/files/read` gives at once: 16 pages, as in Mesos.
const PAGE_BYTES: u64 = 64 << 10;
/// The most READ_FILE gives at once.
const MAX_READ_BYTES: u64 = 4 << 20;

impl From<FileError> for Refusal {
    fn from(error: FileError) -> Self {
        let status = u16::try_from(error.status()).ok();
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        Self(
            status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            error.to_string(),
        )
    }
}

/// The path that is asked for, if the caller may read there.
async fn path(site: &Site, parameters: &Parameters) -> Result<String, Refusal> {
    let path = parameters
        .get("path")
        .filter(|path| !path.is_empty())
        .cloned()
        .ok_or_else(|| Refusal::bad("Expecting 'path=value' in query."))?;
    permit(site, &path).await?;
    Ok(path)
}

/// The same for LIST_FILES and READ_FILE.
pub(crate) async fn permit_call(site: &Site, call: &Call) -> Result<(), Refusal> {
    let list = call.list_files.as_ref().map(|list| &list.path);
    let read = call.read_file.as_ref().map(|read| &read.path);
    for path in list.into_iter().chain(read) {
        permit(site, path).await?;
    }
    Ok(())
}

/// Sandboxes are their users', the log is a thing of its own. What belongs to nobody known is for those who may read all.
async fn permit(site: &Site, path: &str) -> Result<(), Refusal> {
    let eyes = site.access.eyes();
    if LOG_PATHS.contains(&path) {
        eyes.permit(Action::AccessMesosLog, None)?;
        return Ok(());
    }
    if eyes.permit_unknown(Action::AccessSandbox).is_ok() {
        return Ok(());
    }
    match owner(site, path).await? {
        Some(user) => eyes.permit(Action::AccessSandbox, Some(&user))?,
        None => eyes.permit_unknown(Action::AccessSandbox)?,
    }
    Ok(())
}

/// The user whose sandbox the path is in.
async fn owner(site: &Site, path: &str) -> Result<Option<String>, Refusal> {
    let Some(owner) = site.files.owner(path) else {
        return Ok(None);
    };
    let (framework, executor) = match owner {
        SandboxOwner::Container(id) => {
            let id = v1::ContainerId {
                value: id,
                parent: None,
            };
            return Ok(site.containers.user_of(&id).await.ok());
        }
        SandboxOwner::Executor {
            framework,
            executor,
        } => (framework, executor),
    };
    let view = site.view().await?;
    let frameworks = crate::shown::frameworks(&view);
    let framework = frameworks
        .into_iter()
        .find(|shown| shown.view.framework.as_str() == framework);
    Ok(framework.map(|framework| {
        let mut executors = framework.executors.iter();
        let executor = executors.find(|shown| shown.info.executor_id.value == executor);
        let user = framework.view.info.user.as_str();
        executor
            .map_or(user, |executor| executor_user(&executor.info, user))
            .to_owned()
    }))
}

/// -1, like nothing at all, stands for as much as there is; other negative numbers are mistakes.
fn number(parameters: &Parameters, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(text) = parameters.get(name) else {
        return Ok(None);
    };
    let number: i64 = text
        .parse()
        .map_err(|_| Refusal::bad(format!("Failed to parse {name}: '{text}' is no number")))?;
    if number == -1 {
        return Ok(None);
    }
    u64::try_from(number)
        .map(Some)
        .map_err(|_| Refusal::bad(format!("Negative {name} provided: {number}.")))
}

pub(crate) async fn browse(
    State(site): State<Site>,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    let path = path(&site, &parameters).await?;
    let files = blocking(move || site.files.list_path(&path)).await??;
    let rows: Vec<Value> = files.iter().map(row).collect();
    page(&parameters, &rows)
}

fn row(file: &v1::FileInfo) -> Value {
    json!({
        "path": file.path,
        "nlink": file.nlink,
        "size": file.size,
        "mtime": file.mtime.as_ref().map(|time| time.nanoseconds / 1_000_000_000),
        "mode": mode_text(file.mode()),
        "uid": file.uid().parse::<u32>().map_or_else(|_| file.uid().to_owned(), user_name),
        "gid": file.gid().parse::<u32>().map_or_else(|_| file.gid().to_owned(), group_name),
    })
}

/// As `ls` writes it.
fn mode_text(mode: u32) -> String {
    let kind = match mode & libc::S_IFMT {
        libc::S_IFDIR => 'd',
        libc::S_IFLNK => 'l',
        libc::S_IFIFO => 'p',
        libc::S_IFSOCK => 's',
        libc::S_IFBLK => 'b',
        libc::S_IFCHR => 'c',
        _ => '-',
    };
    let bits = (0..9).rev().map(|bit| {
        let letter = ['x', 'w', 'r'][bit % 3];
        if mode & (1 << bit) == 0 { '-' } else { letter }
    });
    std::iter::once(kind).chain(bits).collect()
}

fn user_name(id: u32) -> String {
    match nix::unistd::User::from_uid(id.into()) {
        Ok(Some(user)) => user.name,
        _ => id.to_string(),
    }
}

fn group_name(id: u32) -> String {
    match nix::unistd::Group::from_gid(id.into()) {
        Ok(Some(group)) => group.name,
        _ => id.to_string(),
    }
}

pub(crate) async fn read(
    State(site): State<Site>,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    let path = path(&site, &parameters).await?;
    let offset = number(&parameters, "offset")?;
    let length = number(&parameters, "length")?;
    let wanted = length.unwrap_or(PAGE_BYTES).min(PAGE_BYTES);
    let value = blocking(move || match offset {
        // Whoever follows a file asks first where it ends.
        None => {
            let (size, _) = site.files.read_path(&path, 0, 0)?;
            Ok(json!({ "offset": size, "data": "" }))
        }
        Some(offset) => {
            let (_, data) = site.files.read_path(&path, offset, wanted)?;
            Ok::<_, FileError>(json!({ "offset": offset, "data": String::from_utf8_lossy(&data) }))
        }
    })
    .await??;
    page(&parameters, &value)
}

pub(crate) async fn download(
    State(site): State<Site>,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    let path = path(&site, &parameters).await?;
    let files = site.files.clone();
    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
    let file = blocking(move || files.open_path(&path)).await??;
    let (pieces, taken) = tokio::sync::mpsc::channel(4);
    tokio::spawn(async move {
        // A file that cannot be read any further ends early; the client sees a broken body only if nothing came at all.
        let _ = follow(&file, 0, &site.files.watcher, None, pieces).await;
    });
    let body = futures::stream::unfold(taken, |mut taken| async move {
        let piece = taken.recv().await?;
        Some((Ok::<_, io::Error>(piece), taken))
    });
    let plain: String = name
        .chars()
        .filter(|character| character.is_ascii_graphic() && !matches!(character, '"' | '\\'))
        .collect();
    Ok((
        [
            (header::CONTENT_TYPE, content_type(&name).to_owned()),
            (
                header::CONTENT_DISPOSITION,
                format!("attachment; filename=\"{plain}\""),
            ),
        ],
        Body::from_stream(body),
    )
        .into_response())
}

/// By the end of the name; what is written to sandboxes as output is text.
fn content_type(name: &str) -> &'static str {
    let known = [
        (".txt", "text/plain"),
        (".log", "text/plain"),
        (".json", "application/json"),
        (".html", "text/html"),
        (".csv", "text/csv"),
        (".png", "image/png"),
        (".wasm", "application/wasm"),
    ];
    known
        .into_iter()
        .find(|(ending, _)| name.ends_with(ending))
        .map_or("application/octet-stream", |(_, kind)| kind)
}

/// What can be asked for, and where it lies.
pub(crate) async fn debug(
    State(site): State<Site>,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    let (view, eyes) = site.seen().await?;
    let work_dir = &site.about.work_dir;
    let mut attached = BTreeMap::new();
    for path in LOG_PATHS {
        attached.insert(path.to_owned(), format!("{work_dir}/{}", crate::log::FILE));
    }
    for framework in crate::shown::frameworks_for(&view, &eyes, Action::AccessSandbox) {
        for executor in framework.executors {
            let directory = format!("{work_dir}/{}", executor.sandbox);
            let name = format!(
                "/frameworks/{}/executors/{}/runs/latest",
                executor.framework, executor.info.executor_id.value
            );
            attached.insert(name, directory.clone());
            attached.insert(directory.clone(), directory);
        }
    }
    page(&parameters, &attached)
}

/// LIST_FILES and READ_FILE.
pub(crate) fn answer(files: &FilesContext, call: &Call) -> Result<Answer, Refusal> {
    let mut answer = Answer::default();
    if let Some(list) = &call.list_files {
        let file_infos = files.list_path(&list.path)?;
        answer.list_files = Some(response::ListFiles { file_infos });
        answer.r#type = Some(response::Type::ListFiles.into());
    } else if let Some(read) = &call.read_file {
        let wanted = read.length.unwrap_or(MAX_READ_BYTES).min(MAX_READ_BYTES);
        let (size, data) = files.read_path(&read.path, read.offset, wanted)?;
        answer.read_file = Some(response::ReadFile { size, data });
        answer.r#type = Some(response::Type::ReadFile.into());
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_written_as_ls_does() {
        assert_eq!(mode_text(0o040_755), "drwxr-xr-x");
        assert_eq!(mode_text(0o100_640), "-rw-r-----");
    }

    #[test]
    fn minus_one_is_all_and_other_negatives_are_mistakes() {
        let given = |text: &str| {
            let parameters = Parameters(BTreeMap::from([("offset".into(), text.into())]));
            number(&parameters, "offset").map_err(|refusal| refusal.0.as_u16())
        };
        assert_eq!(given("-1"), Ok(None));
        assert_eq!(given("7"), Ok(Some(7)));
        for wrong in ["-2", "x", ""] {
            assert_eq!(given(wrong), Err(400), "{wrong}");
        }
    }
}
