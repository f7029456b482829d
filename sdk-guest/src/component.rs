//! Of a component: the bindings of `wit/`.

use crate::log::Level;
use crate::services::Endpoint;
use crate::store::Entry;
use crate::{Code, Details, Error};

mod bindings {
    #![allow(missing_docs, clippy::all, reason = "generated code")]
    wit_bindgen::generate!({
        path: "wit",
        world: "tepui:guest/imports",
        generate_all,
    });
}

use bindings::tepui::guest::{log, messages, report, services, store, task, types};

impl From<types::Failure> for Error {
    fn from(failure: types::Failure) -> Self {
        Self {
            code: match failure.code {
                types::Code::Unknown => Code::Unknown,
                types::Code::Invalid => Code::Invalid,
                types::Code::NoJob => Code::NoJob,
                types::Code::Conflict => Code::Conflict,
                types::Code::Full => Code::Full,
                types::Code::Unavailable => Code::Unavailable,
            },
            message: failure.message,
            version: failure.version,
        }
    }
}

pub(crate) fn details() -> Result<Details, Error> {
    let task = task::current();
    Ok(Details {
        id: task.id,
        name: task.name,
        framework_id: task.framework_id,
        role: task.role,
        agent_id: task.agent_id,
        attempt: task.attempt,
        job: task.job,
        labels: task.labels,
    })
}

pub(crate) fn send(message: &[u8]) -> Result<(), Error> {
    Ok(messages::send(message)?)
}

pub(crate) fn receive(timeout_ms: u32) -> Result<Option<Vec<u8>>, Error> {
    Ok(messages::receive(timeout_ms))
}

pub(crate) fn dropped() -> u64 {
    messages::dropped()
}

pub(crate) fn get(key: &str) -> Result<Option<Entry>, Error> {
    let entry = store::get(key)?;
    Ok(entry.map(|entry| Entry {
        value: entry.value,
        version: entry.version,
    }))
}

pub(crate) fn put(key: &str, value: &[u8], if_version: Option<u64>) -> Result<u64, Error> {
    Ok(store::put(key, value, if_version)?)
}

pub(crate) fn delete(key: &str, if_version: Option<u64>) -> Result<u64, Error> {
    Ok(store::delete(key, if_version)?)
}

pub(crate) fn keys(prefix: &str) -> Result<Vec<String>, Error> {
    Ok(store::keys(prefix)?)
}

pub(crate) fn progress(fraction: Option<f64>, message: &str) -> Result<(), Error> {
    let message = Some(message).filter(|message| !message.is_empty());
    Ok(report::progress(fraction, message)?)
}

pub(crate) fn health(healthy: bool, message: &str) -> Result<(), Error> {
    report::health(healthy, message);
    Ok(())
}

pub(crate) fn log(level: Level, message: &str, fields: &[(&str, &str)]) -> Result<(), Error> {
    let level = match level {
        Level::Trace => log::Level::Trace,
        Level::Debug => log::Level::Debug,
        Level::Info => log::Level::Info,
        Level::Warn => log::Level::Warn,
        Level::Error => log::Level::Error,
    };
    let fields: Vec<(String, String)> = fields
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    Ok(log::write(level, message, &fields)?)
}

pub(crate) fn find(name: &str) -> Result<Vec<Endpoint>, Error> {
    let found = services::find(name)?.into_iter();
    let endpoints = found.map(|endpoint| Endpoint {
        host: endpoint.host,
        port: endpoint.port,
        port_name: endpoint.port_name,
        protocol: endpoint.protocol,
        framework_id: endpoint.framework_id,
        task_id: endpoint.task_id,
        healthy: endpoint.healthy,
    });
    Ok(endpoints.collect())
}
