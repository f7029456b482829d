//! The commands of a task's checks. They are native: processes of the [runner](crate::runner), in the task's sandbox and
//! with its environment.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tepui_api::v1::{CommandInfo, TaskInfo};
use tepui_sdk_executor::{RunCommand, arguments_of, variables_of};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::{mpsc, oneshot};

use crate::runner::{Answer, Request, connected};

/// Where programs are found; a wasm task has no PATH of its own unless it asks for one.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What those who wait hear when the runner is gone.
const GONE: &str = "the check's command cannot be run: the process that runs commands has ended";

type Waiting = HashMap<u64, oneshot::Sender<Result<Option<i32>, String>>>;

/// The way to the runner.
pub(crate) struct Runner {
    requests: mpsc::UnboundedSender<Request>,
    /// `None` once it is gone.
    waiting: Mutex<Option<Waiting>>,
    last_id: AtomicU64,
}

impl Runner {
    /// Must be called inside a runtime.
    pub(crate) fn new(stream: UnixStream) -> std::io::Result<Arc<Self>> {
        let (reading, mut writing) = connected(stream)?.into_split();
        let (requests, mut asked) = mpsc::unbounded_channel::<Request>();
        let runner = Arc::new(Self {
            requests,
            waiting: Mutex::new(Some(HashMap::new())),
            last_id: AtomicU64::new(0),
        });
        tokio::spawn(async move {
            while let Some(request) = asked.recv().await {
                let mut line = serde_json::to_vec(&request).unwrap_or_default();
                line.push(b'\n');
                if writing.write_all(&line).await.is_err() {
                    return;
                }
            }
        });
        let heard = Arc::downgrade(&runner);
        tokio::spawn(async move {
            let mut lines = BufReader::new(reading).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Some(runner) = heard.upgrade() else {
                    return;
                };
                if let Ok(answer) = serde_json::from_str::<Answer>(&line)
                    && let Some(waits) = runner
                        .lock()
                        .as_mut()
                        .and_then(|all| all.remove(&answer.id))
                {
                    // Whoever asked may have lost interest.
                    let _ = waits.send(answer.ended);
                }
            }
            if let Some(runner) = heard.upgrade() {
                // They hear of it by their senders being dropped.
                runner.lock().take();
            }
        });
        Ok(runner)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Commands {
    runner: Arc<Runner>,
    sandbox: PathBuf,
    environment: Vec<(String, String)>,
    user: Option<String>,
}

impl Commands {
    pub(crate) fn of(task: &TaskInfo, runner: &Arc<Runner>) -> Self {
        let plan = task.plan.as_ref();
        let set = plan.map(|plan| plan.environment.as_slice());
        let set = set.unwrap_or_default().iter();
        let user = task
            .command
            .as_ref()
            .and_then(|command| command.user.clone());
        Self {
            runner: Arc::clone(runner),
            sandbox: plan
                .map(|plan| PathBuf::from(&plan.sandbox))
                .unwrap_or_default(),
            environment: [("PATH".to_owned(), PATH.to_owned())]
                .into_iter()
                .chain(set.map(|set| (set.name.clone(), set.value().to_owned())))
                // The guest's own is `/`, where a command finds something else.
                .chain(plan.map(|plan| ("MESOS_SANDBOX".to_owned(), plan.sandbox.clone())))
                .collect(),
            user: user.filter(|user| !user.is_empty()),
        }
    }
}

impl RunCommand for Commands {
    async fn run(&self, command: &CommandInfo) -> Result<Option<i32>, String> {
        let own = variables_of(command).map(|(name, value)| (name.to_owned(), value.to_owned()));
        let id = self.runner.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let request = Request::Run {
            id,
            arguments: arguments_of(command),
            environment: self.environment.iter().cloned().chain(own).collect(),
            sandbox: self.sandbox.clone(),
            user: self.user.clone(),
        };
        let (answer, ended) = oneshot::channel();
        match self.runner.lock().as_mut() {
            Some(waiting) => drop(waiting.insert(id, answer)),
            None => return Err(GONE.to_owned()),
        }
        let leash = Leash {
            runner: &self.runner,
            id,
        };
        if self.runner.requests.send(request).is_err() {
            return Err(GONE.to_owned());
        }
        let ended = ended.await;
        drop(leash);
        ended.unwrap_or_else(|_| Err(GONE.to_owned()))
    }
}

/// Ends a command, and what it has started, when nobody waits for it any more.
struct Leash<'a> {
    runner: &'a Runner,
    id: u64,
}

impl Drop for Leash<'_> {
    fn drop(&mut self) {
        let waits = self
            .runner
            .lock()
            .as_mut()
            .and_then(|all| all.remove(&self.id));
        if waits.is_some() {
            let _ = self.runner.requests.send(Request::Kill { id: self.id });
        }
    }
}
