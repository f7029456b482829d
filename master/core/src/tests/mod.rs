//! The core played through with schedulers and agents made of nothing but their messages, and a clock moved by hand.

mod access;
mod agents;
mod allocation;
mod calls;
mod departure;
mod estate;
mod groups;
mod happenings;
mod harness;
mod launch;
mod locality;
mod maintenance;
mod management;
mod mirror;
mod operations;
mod pods;
mod property;
mod restart;
mod services;
mod stores;
mod throttle;
mod updates;
