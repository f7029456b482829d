//! `tepui logs`: a file of a task's sandbox, whole or as it grows.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use crate::client::{self, Client, MasterAddress};

#[derive(Args, Debug)]
pub(crate) struct Logs {
    #[command(flatten)]
    master: MasterAddress,
    /// The task's id
    task: String,
    /// Go on until the task has ended
    #[arg(long, short)]
    follow: bool,
    /// The file of the sandbox to print
    #[arg(long, default_value = "stdout")]
    file: String,
    /// Print stderr instead of stdout
    #[arg(long, conflicts_with = "file")]
    stderr: bool,
    /// The framework's id, where several frameworks have a task of that id
    #[arg(long)]
    framework: Option<String>,
}

impl Logs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        client::block_on(async {
            let client = Client::new(&self.master)?;
            let file = if self.stderr { "stderr" } else { &self.file };
            copy(
                &client,
                self.framework.as_deref(),
                &self.task,
                file,
                self.follow,
                &mut 0,
                &mut std::io::stdout(),
            )
            .await?;
            Ok(ExitCode::SUCCESS)
        })
    }
}

/// Copies a sandbox file to `out` as it arrives, from `offset` on, which grows with every byte that was written.
pub(crate) async fn copy(
    client: &Client,
    framework: Option<&str>,
    task: &str,
    file: &str,
    follow: bool,
    offset: &mut u64,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let from = offset.to_string();
    let follow = if follow { "true" } else { "false" };
    let mut query = vec![
        ("task_id", task),
        ("path", file),
        ("follow", follow),
        ("offset", from.as_str()),
    ];
    if let Some(framework) = framework {
        query.push(("framework_id", framework));
    }
    let mut response = client.get("/api/v1/tepui/logs", &query).await?;
    while let Some(piece) = response.chunk().await? {
        match out.write_all(&piece).and_then(|()| out.flush()) {
            Ok(()) => *offset += piece.len() as u64,
            // The reader has seen enough (`| head`).
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
