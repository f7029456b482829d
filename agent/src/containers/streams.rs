//! What goes into containers and comes out of them.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;
use tepui_agent_core::ContainerOwner;
use tepui_api::v1;
use tepui_api::v1::agent::{ProcessIo, process_io};
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedMutexGuard, mpsc, watch};

use super::process::Input;
use super::{Container, Containers, key, unknown};
use crate::confine::Directory;
use crate::files::Phase;
use crate::follow::follow;
use crate::site::Refusal;
use crate::watch::Watcher;

/// Whoever listens hears something at least this often.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Pieces that may wait for a slow listener; then its files wait.
const PIECES: usize = 4;
/// What a terminal takes for the end of its input.
const END_OF_INPUT: u8 = 4;

/// The outputs of a container.
#[derive(Debug)]
pub(crate) struct Outputs {
    files: Vec<(process_io::data::Type, File, u64)>,
    phase: watch::Receiver<Phase>,
    watcher: Watcher,
}

impl Outputs {
    fn open(
        root: &Path,
        inside: &Path,
        from_beginning: bool,
        phase: watch::Receiver<Phase>,
        watcher: Watcher,
    ) -> Result<Self, Refusal> {
        let failed = |error: std::io::Error| {
            Refusal(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("The container's output cannot be read: {error}"),
            )
        };
        let directory = Directory::open(root).map_err(failed)?;
        let mut files = Vec::new();
        for (kind, name) in [
            (process_io::data::Type::Stdout, "stdout"),
            (process_io::data::Type::Stderr, "stderr"),
        ] {
            let file = directory.open_file(&inside.join(name)).map_err(failed)?;
            let end = file.metadata().map_err(failed)?.len();
            files.push((kind, file, if from_beginning { 0 } else { end }));
        }
        Ok(Self {
            files,
            phase,
            watcher,
        })
    }

    /// Hands everything on as it is written, until the container has ended or nobody listens.
    pub(crate) async fn pass_on(self, listener: mpsc::Sender<ProcessIo>) {
        let Self {
            files,
            phase,
            watcher,
        } = self;
        let following = files.into_iter().map(|(kind, file, offset)| {
            let (phase, watcher, listener) = (phase.clone(), watcher.clone(), listener.clone());
            async move {
                let (pieces, mut taken) = mpsc::channel(PIECES);
                let reading = follow(&file, offset, &watcher, Some(phase), pieces);
                let telling = async {
                    while let Some(data) = taken.recv().await {
                        if listener.send(output(kind, data)).await.is_err() {
                            // Ends the reading as well.
                            taken.close();
                        }
                    }
                };
                if let (Err(error), ()) = tokio::join!(reading, telling) {
                    tracing::debug!(%error, "an output cannot be followed");
                }
            }
        });
        let following = futures::future::join_all(following);
        let beating = async {
            loop {
                tokio::time::sleep(HEARTBEAT).await;
                if listener.send(heartbeat()).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            _ = following => {}
            () = beating => {}
            () = listener.closed() => {}
        }
    }
}

fn output(kind: process_io::data::Type, data: Bytes) -> ProcessIo {
    ProcessIo {
        r#type: Some(process_io::Type::Data.into()),
        data: Some(process_io::Data {
            r#type: Some(kind.into()),
            data: Some(data),
        }),
        ..Default::default()
    }
}

fn heartbeat() -> ProcessIo {
    let nanoseconds = i64::try_from(HEARTBEAT.as_nanos()).unwrap_or(i64::MAX);
    ProcessIo {
        r#type: Some(process_io::Type::Control.into()),
        control: Some(process_io::Control {
            r#type: Some(process_io::control::Type::Heartbeat.into()),
            heartbeat: Some(process_io::control::Heartbeat {
                interval: Some(v1::DurationInfo { nanoseconds }),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

impl Containers {
    /// What a container writes from now on, or all of it.
    pub(crate) async fn outputs(
        &self,
        id: &v1::ContainerId,
        from_beginning: bool,
    ) -> Result<Outputs, Refusal> {
        let shared = &self.shared;
        let watcher = shared.watcher.clone();
        if let Some(container) = shared.get(&key(id)?) {
            let (place, phase) = (&container.place, container.phase.subscribe());
            return Outputs::open(&place.root, &place.inside, from_beginning, phase, watcher);
        }
        let (view, phase) = shared.find_own(id).await?;
        let root = shared.work_dir.join(&view.sandbox);
        let phase = match (&view.owner, phase) {
            (ContainerOwner::Task(_), Some(phase)) => phase,
            (ContainerOwner::Task(_), None) => return Err(unknown(id)),
            (ContainerOwner::Executor, _) => {
                let gone = shared.executors.gone(&view.executor);
                let gone = gone.ok_or_else(|| unknown(id))?;
                let (sender, phase) = watch::channel(Phase::Ready);
                tokio::spawn(async move {
                    tokio::select! {
                        () = gone.cancelled() => {}
                        () = sender.closed() => {}
                    }
                    sender.send_replace(Phase::Ended);
                });
                phase
            }
        };
        Outputs::open(&root, Path::new(""), from_beginning, phase, watcher)
    }

    /// The stdin of a container, for one client at a time.
    pub(crate) async fn stdin(&self, id: &v1::ContainerId) -> Result<Stdin, Refusal> {
        let Some(container) = self.shared.get(&key(id)?) else {
            let _ = self.shared.find_own(id).await?;
            return Err(no_stdin());
        };
        let held = container.input.clone().try_lock_owned().map_err(|_| {
            Refusal(
                StatusCode::CONFLICT,
                "Another client is attached to the container's input".to_owned(),
            )
        })?;
        if held.is_none() {
            return Err(no_stdin());
        }
        Ok(Stdin { container, held })
    }
}

fn no_stdin() -> Refusal {
    Refusal::bad(
        "The container has no stdin: it was launched neither as a session nor with 'tty_info', or its input has ended",
    )
}

/// The stdin of a container, held.
pub(crate) struct Stdin {
    container: std::sync::Arc<Container>,
    held: OwnedMutexGuard<Option<Input>>,
}

impl Stdin {
    pub(crate) fn container(&self) -> &Container {
        &self.container
    }

    /// Empty data is the end of the input.
    pub(crate) async fn take(&mut self, io: &ProcessIo) -> Result<(), Refusal> {
        if let Some(data) = &io.data {
            if data.r#type() != process_io::data::Type::Stdin {
                return Err(Refusal::bad("Expecting 'data.type' of STDIN"));
            }
            return self.write(data.data.as_deref().unwrap_or_default()).await;
        }
        let size = io
            .control
            .as_ref()
            .and_then(|control| control.tty_info.as_ref())
            .and_then(|tty| tty.window_size.as_ref());
        match (size, self.held.as_ref()) {
            // A heartbeat.
            (None, _) => Ok(()),
            (Some(size), Some(Input::Terminal(terminal))) => terminal
                .resize(size)
                .map_err(|error| Refusal::bad(format!("The window cannot be resized: {error}"))),
            (Some(_), _) => Err(Refusal::bad(
                "The container has no terminal to resize: it was launched without 'tty_info'",
            )),
        }
    }

    async fn write(&mut self, data: &[u8]) -> Result<(), Refusal> {
        let written = match self.held.as_mut() {
            None => Ok(()),
            Some(Input::Pipe(_)) if data.is_empty() => {
                *self.held = None;
                Ok(())
            }
            Some(Input::Pipe(pipe)) => pipe.write_all(data).await,
            Some(Input::Terminal(terminal)) => {
                let data = if data.is_empty() {
                    &[END_OF_INPUT]
                } else {
                    data
                };
                terminal.write_all(data).await
            }
        };
        written.map_err(|error| {
            Refusal(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("The container does not take its input: {error}"),
            )
        })
    }
}
