//! Looks at what tasks and executors do, again and again, and tells the core of those that go beyond what they were given.

use std::time::Duration;

use tepui_agent_core::{AgentView, ExecutorRef, Input, Limitation, TaskRef};
use tokio::sync::{mpsc, oneshot};

use crate::owner::Event;

/// Whose end it is to go beyond.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Whose {
    Task(TaskRef),
    Executor(ExecutorRef),
}

impl Whose {
    /// What the core is told.
    pub(crate) fn limited(&self, limitation: Limitation) -> Input {
        match self.clone() {
            Self::Task(task) => Input::TaskLimited { task, limitation },
            Self::Executor(executor) => Input::ExecutorLimited {
                executor,
                limitation,
            },
        }
    }
}

/// Looks each interval, counted from the end of the last look, until nobody listens. `what` says of a view what is to be looked
/// at, and `look` looks; that may block.
pub(crate) async fn watch<T, L>(
    interval: Duration,
    events: mpsc::Sender<Event>,
    what: impl Fn(&AgentView) -> T + Send,
    look: L,
) where
    T: Send + 'static,
    L: Fn(T) -> Vec<Input> + Copy + Send + 'static,
{
    loop {
        tokio::time::sleep(interval).await;
        let (reply, view) = oneshot::channel();
        if events.send(Event::View { reply }).await.is_err() {
            return;
        }
        let Ok(view) = view.await else { return };
        let looked_at = what(&view);
        let found = tokio::task::spawn_blocking(move || look(looked_at));
        for input in found.await.unwrap_or_default() {
            if events.send(Event::Core(Box::new(input))).await.is_err() {
                return;
            }
        }
    }
}
