//! Behaviour by behaviour, on a virtual clock.

mod conversions;
mod drain;
mod executor_calls;
mod executor_life;
mod groups;
mod harness;
mod inventory;
mod limits;
mod link;
mod operations;
mod property;
mod recovery;
mod show;
mod signals;
mod stop;
mod task_life;
mod update_streams;
