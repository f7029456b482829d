//! The loop of an executor: subscribe with the agent, launch what it says, report, hear the acknowledgements.
//!
//! An executor is a process an agent starts for one framework. It reads [`Config::from_env`], calls [`connect`] and then
//! does what [`Events`] tells it; through the [`Handle`] it reports. Everything between (the subscription, its renewal
//! after the agent was restarted, keeping every update until it is acknowledged) is done here.
//!
//! ```no_run
//! # async fn run() -> Result<(), tepui_sdk_executor::ConfigError> {
//! use tepui_api::v1::{TaskState, TaskStatus};
//! use tepui_sdk_executor::{Config, Event, connect};
//!
//! let (handle, mut events) = connect(Config::from_env()?);
//! while let Some(event) = events.next().await {
//!     match event {
//!         Event::Launch(task) => {
//!             let mut status = TaskStatus { task_id: task.task_id, ..TaskStatus::default() };
//!             status.state = TaskState::TaskFinished as i32;
//!             handle.update(status);
//!         }
//!         Event::Shutdown => break,
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Checks`] makes the probes of a task's checks and health check and says what they mean; [`Condition`] puts that into the
//! task's statuses.
//!
//! [`Questions`] takes what guests ask of the cluster to the agent.
//!
//! The end of the events means that the agent is gone for good: the executor must end its tasks and exit.

#![forbid(unsafe_code)]

mod checks;
mod config;
mod driver;
mod outbox;
mod probe;
mod questions;
mod transport;

pub use checks::{Condition, News};
pub use config::{Address, Config, ConfigError};
pub use driver::{Event, Events, Subscribed, connect};
pub use outbox::Handle;
pub use probe::{Checks, RunCommand, arguments_of, variables_of};
pub use questions::Questions;
pub use transport::TransportError;
