//! How late a well-behaved guest comes beside each hostile one in the same executor.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use tepui_api::v1::{TaskId, TaskState};

use crate::cluster::Cluster;
use crate::shares::IDLE;
use crate::workload::{Artifact, Wanted, Workload};

/// Measures what hostile guests do to their neighbour.
#[derive(Args, Debug)]
pub(crate) struct Hostile {
    /// How long the neighbour looks at each, in seconds
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Only modules whose name has this in it
    #[arg(long, default_value = "")]
    only: String,
    /// Print lines of JSON
    #[arg(long)]
    json: bool,
}

/// What those modules may hold, in MB.
const MEM: f64 = 64.0;
const PATIENCE: Duration = Duration::from_secs(120);

impl Hostile {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/hostile");
        let mut modules: Vec<(String, String)> = Vec::new();
        for entry in std::fs::read_dir(&folder)
            .with_context(|| format!("{} cannot be read", folder.display()))?
        {
            let path = entry?.path();
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            if name.contains(&self.only) {
                modules.push((name.into_owned(), std::fs::read_to_string(&path)?));
            }
        }
        modules.sort();
        let cluster = Cluster::start("cpus:16;mem:4096")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.measure(&cluster, &modules))
    }

    async fn measure(&self, cluster: &Cluster, modules: &[(String, String)]) -> anyhow::Result<()> {
        let mut workload = Workload::subscribe(cluster);
        // Each round takes 10 ms at least.
        let rounds = (self.seconds * 90).to_string();
        let idle = Artifact::put(cluster, "idle", &IDLE.replace("$ROUNDS", &rounds))?;
        let (alone, _) = self.look(&mut workload, &idle, None).await?;
        self.tell("(nobody)", alone, "");
        for (name, text) in modules {
            let module = Artifact::put(cluster, name, text)?;
            let beside = Some((name.as_str(), &module));
            let (late, end) = self.look(&mut workload, &idle, beside).await?;
            self.tell(name, late, &end);
        }
        workload.scheduler.teardown().await?;
        Ok(())
    }

    /// How late the neighbour was at most, in ms, and how the other ended.
    async fn look(
        &self,
        workload: &mut Workload,
        idle: &Artifact,
        module: Option<(&str, &Artifact)>,
    ) -> anyhow::Result<(f64, String)> {
        let name = module.map_or("nobody", |(name, _)| name);
        let wanted = |id: String, artifact: &Artifact| Wanted {
            id,
            artifact: artifact.clone(),
            cpus: 0.1,
            mem: MEM,
        };
        let neighbour = format!("neighbour-of-{name}");
        workload.launch(&[wanted(neighbour.clone(), idle)]).await?;
        workload.until(TaskState::TaskRunning, 1, PATIENCE).await?;
        if let Some((name, module)) = module {
            workload.launch(&[wanted(name.to_owned(), module)]).await?;
        }
        let (mut late, mut end) = (None, module.is_none().then(String::new));
        while late.is_none() || end.is_none() {
            let update = tokio::time::timeout(PATIENCE, workload.update()).await;
            let status = update.with_context(|| format!("{name}: nothing more is heard"))??;
            if !status.state().is_terminal() {
                continue;
            }
            if status.task_id.value != neighbour {
                let first = status.message().lines().next().unwrap_or_default();
                end = Some(first.to_owned());
                continue;
            }
            let code = status.message().rsplit(' ').next();
            let Some(code) = code.and_then(|code| code.parse::<f64>().ok()) else {
                bail!(
                    "beside {name} the neighbour ended otherwise: {}",
                    status.message()
                );
            };
            late = Some(code / 100.0);
            if end.is_none() {
                let value = name.to_owned();
                workload.scheduler.kill(&TaskId { value }, None).await?;
            }
        }
        Ok((late.unwrap_or_default(), end.unwrap_or_default()))
    }

    fn tell(&self, name: &str, late_ms: f64, end: &str) {
        if self.json {
            let line = serde_json::json!({ "module": name, "latest_ms": late_ms, "end": end });
            println!("{line}");
        } else {
            println!("{name:<18} {late_ms:8.2} ms late at most; {end}");
        }
    }
}
