//! `tepui logs`: a file of a task's sandbox, whole or as it grows.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use crate::client::{self, Client, MasterAddress};

#[derive(Args, Debug)]
pub(crate) struct Logs {
    #[command(flatten)]
    master: MasterAddress,
    /// The task's id
    task: String,
    /// Go on until the task has ended; the file may come later
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
        let file = if self.stderr { "stderr" } else { &self.file };
        let framework = self.framework.as_deref();
        client::block_on(async {
            let client = Client::new(&self.master)?;
            let (mut from, out) = (Position::default(), &mut std::io::stdout());
            let file = File {
                client: &client,
                framework,
                task: &self.task,
                path: file,
            };
            if self.follow {
                file.follow(&mut from, out).await?;
            }
            if from.offset == 0 {
                // Of one that was followed and has nothing this asks whether it is there.
                file.copy(false, &mut from, out).await?;
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

/// A file of a task's sandbox, asked of the master.
#[derive(Debug, Clone, Copy)]
pub(crate) struct File<'a> {
    pub(crate) client: &'a Client,
    /// None where only one has such a task.
    pub(crate) framework: Option<&'a str>,
    pub(crate) task: &'a str,
    pub(crate) path: &'a str,
}

/// How far a file has been copied.
#[derive(Debug, Default)]
pub(crate) struct Position {
    pub(crate) offset: u64,
    /// The master has sent of it, so that what fails now may be made good.
    pub(crate) begun: bool,
}

impl File<'_> {
    /// Copies the file until its task has ended, going on where it stopped when the master was away in between.
    pub(crate) async fn follow(
        self,
        from: &mut Position,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        const PATIENCE: Duration = Duration::from_secs(60);
        const PAUSE: Duration = Duration::from_millis(200);
        /// A stream that went on for so long was a good one, also if nothing was written.
        const GOOD: Duration = Duration::from_secs(5);
        let mut failing_since = Instant::now();
        loop {
            let (reached, started) = (from.offset, Instant::now());
            let Err(error) = self.copy(true, from, out).await else {
                return Ok(());
            };
            if from.offset > reached || started.elapsed() > GOOD {
                failing_since = Instant::now();
            }
            if !from.begun || failing_since.elapsed() > PATIENCE {
                return Err(error);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Copies the file as it arrives.
    async fn copy(
        &self,
        follow: bool,
        from: &mut Position,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        let offset = from.offset.to_string();
        let follow = if follow { "true" } else { "false" };
        let mut query = vec![
            ("task_id", self.task),
            ("path", self.path),
            ("follow", follow),
            ("offset", offset.as_str()),
        ];
        query.extend(self.framework.map(|framework| ("framework_id", framework)));
        let mut response = self.client.get("/api/v1/tepui/logs", &query).await?;
        from.begun = true;
        while let Some(piece) = response.chunk().await? {
            match out.write_all(&piece).and_then(|()| out.flush()) {
                Ok(()) => from.offset += piece.len() as u64,
                // The reader has seen enough (`| head`).
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
