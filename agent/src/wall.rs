//! What wasm executors are shut in with on this machine: tried out once when the agent starts, so that what does not work
//! here is known and said before the first tenant comes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tepui_agent_core::volumes_of_role;
use tepui_api::v1;
use tepui_wall::{Access, Grant, Plan, Standing, VARIABLE};

use crate::datasets::Datasets;
use crate::tenants::{TenantError, Tenants, UserRange};

/// How long trying out may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What every wasm executor of this agent is shut in with.
#[derive(Debug, Clone)]
pub(crate) struct Wall {
    work_dir: PathBuf,
    /// Who runs as whom; `None` where nobody can become somebody else.
    tenants: Option<Tenants>,
    standing: Standing,
    /// Of everybody: the compiled code, the agent's socket, what the operator opens to guests.
    common: Vec<Grant>,
    /// Of those in whose roles they may be read.
    datasets: Datasets,
}

impl Wall {
    /// Finds out what works here. `None`: nothing does.
    ///
    /// # Errors
    /// If the users that were given out before cannot be read.
    pub(crate) fn find(
        program: &Path,
        work_dir: &Path,
        range: Option<UserRange>,
        common: Vec<Grant>,
        datasets: Datasets,
    ) -> std::io::Result<Option<Self>> {
        let root = nix::unistd::geteuid().is_root();
        let range = range.filter(|range| root && tepui_wall::knows_users(range.first, range.last));
        let try_out = |user: Option<u32>, own_view: bool| {
            let plan = Plan {
                user,
                own_view,
                grants: common.clone(),
                runs_programs: false,
            };
            try_out(program, work_dir, &plan)
        };
        let first = range.map(|range| try_out(Some(range.first), true));
        let (standing, with_users) = match first {
            Some(Ok(standing)) => (standing, true),
            other => {
                if let Some(Err(error)) = other {
                    tracing::warn!(error, "wasm executors cannot have users of their own");
                }
                match try_out(None, false) {
                    Ok(standing) => (standing, false),
                    Err(error) => {
                        tracing::warn!(error, "wasm executors cannot be shut in");
                        return Ok(None);
                    }
                }
            }
        };
        let tenants = match range.filter(|_| with_users) {
            Some(range) => Some(Tenants::open(range, work_dir.join("users.json"))?),
            None => None,
        };
        Ok(Some(Self {
            work_dir: work_dir.to_path_buf(),
            tenants,
            standing,
            common,
            datasets,
        }))
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    /// The users executors may have; what comes from one of them comes from a tenant.
    pub(crate) fn range(&self) -> Option<UserRange> {
        self.tenants.as_ref().map(Tenants::range)
    }

    /// As whom a framework's wasm tasks run; `None`: as the agent's user.
    pub(crate) fn user_of(
        &self,
        framework: &v1::FrameworkInfo,
    ) -> Result<Option<u32>, TenantError> {
        let tenants = self.tenants.as_ref();
        tenants
            .map(|tenants| tenants.user_of(framework))
            .transpose()
    }

    /// What a framework's wasm executor is shut in with. Makes the directories of its volumes, since what is not there
    /// cannot be granted.
    pub(crate) fn plan(
        &self,
        framework: &v1::FrameworkInfo,
        sandbox: &str,
    ) -> Result<Plan, TenantError> {
        let mut grants = self.common.clone();
        let mut write = |path: PathBuf| {
            grants.push(Grant {
                path,
                access: Access::Write,
            });
        };
        // slaves/<agent>/frameworks/<framework>
        let own: PathBuf = Path::new(sandbox).components().take(4).collect();
        write(self.work_dir.join(own));
        let roles = tepui_api::roles_of(framework);
        for role in &roles {
            let volumes = self.work_dir.join(volumes_of_role(role));
            std::fs::create_dir_all(&volumes)?;
            write(volumes);
        }
        grants.extend(self.datasets.readable_by(&roles).map(|path| Grant {
            path,
            access: Access::Read,
        }));
        Ok(Plan {
            user: self.user_of(framework)?,
            own_view: self.standing.view,
            grants,
            runs_programs: false,
        })
    }
}

/// The text of the attribute that says which parts of the wall stand.
pub(crate) fn attribute(wall: Option<&Wall>) -> String {
    wall.map_or("none".to_owned(), |wall| wall.standing.to_string())
}

/// Lets a process shut itself in and say what stands.
fn try_out(program: &Path, work_dir: &Path, plan: &Plan) -> Result<Standing, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", program.display());
    let mut child = Command::new(program)
        .arg("wall")
        .env_clear()
        .env(VARIABLE, plan.to_text())
        .current_dir(work_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().map_err(failed)?.is_none() {
        if Instant::now() > deadline {
            // Nothing is gained by looking closer: it does not answer.
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{} does not answer", program.display()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {}", output.status, said.trim()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
}
