//! The interface of components: `tepui:guest` as `sdk-guest/wit` has it.
//!
//! What a component hands over is copied before it is looked at; [`HOSTCALL_BYTES`] bounds that.

use std::time::Duration;

use bytes::Bytes;
use tepui_api::guest as wire;
use tepui_api::guest::{answer, request};
use wasmtime::component::{HasSelf, Linker};

use self::bindings::tepui::guest::{log, messages, report, services, store, task, types};
use crate::guest::{Level, Received, unknown_answer};
use crate::store::State;

/// Bytes that one call of a component may hand over, WASI's included.
pub(crate) const HOSTCALL_BYTES: usize = 16 << 20;

mod bindings {
    #![allow(missing_docs, clippy::all, reason = "generated code")]
    wasmtime::component::bindgen!({
        path: "../sdk-guest/wit",
        world: "tepui:guest/imports",
        imports: {
            "tepui:guest/messages.receive": async | trappable,
            "tepui:guest/store.get": async | trappable,
            "tepui:guest/store.put": async | trappable,
            "tepui:guest/store.delete": async | trappable,
            "tepui:guest/store.keys": async | trappable,
            "tepui:guest/services.find": async | trappable,
            default: trappable,
        },
        require_store_data_send: true,
    });
}

/// Links all interfaces.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    bindings::Imports::add_to_linker::<State, HasSelf<State>>(linker, |state| state)
}

type Answer<T> = wasmtime::Result<Result<T, types::Failure>>;

impl From<wire::Failure> for types::Failure {
    fn from(failure: wire::Failure) -> Self {
        use wire::failure::Code;
        Self {
            code: match failure.code() {
                Code::Unknown => types::Code::Unknown,
                Code::Invalid => types::Code::Invalid,
                Code::NoJob => types::Code::NoJob,
                Code::Conflict => types::Code::Conflict,
                Code::Full => types::Code::Full,
                Code::Unavailable => types::Code::Unavailable,
            },
            version: failure.version,
            message: failure.message,
        }
    }
}

impl types::Host for State {}

impl task::Host for State {
    fn current(&mut self) -> wasmtime::Result<task::Details> {
        let guest = self.guest();
        let identity = guest.identity();
        Ok(task::Details {
            id: guest.task_id().to_owned(),
            name: identity.name.clone(),
            framework_id: identity.framework_id.clone(),
            role: identity.role.clone(),
            agent_id: identity.agent_id.clone(),
            attempt: identity.attempt,
            job: identity.job.clone(),
            labels: identity.labels.clone(),
        })
    }
}

impl messages::Host for State {
    fn send(&mut self, data: Vec<u8>) -> Answer<()> {
        Ok(self.guest().send(data.into()).map_err(Into::into))
    }

    async fn receive(&mut self, timeout_ms: u32) -> wasmtime::Result<Option<Vec<u8>>> {
        let timeout = Duration::from_millis(timeout_ms.into());
        Ok(match self.guest().receive(timeout, usize::MAX).await {
            Received::Message(message) => Some(message.into()),
            Received::TooLong(_) | Received::Nothing => None,
        })
    }

    fn dropped(&mut self) -> wasmtime::Result<u64> {
        Ok(self.guest().dropped())
    }
}

impl State {
    async fn asked<T>(
        &mut self,
        body: request::Body,
        take: impl FnOnce(answer::Body) -> Option<T>,
    ) -> Answer<T> {
        let answer = self.guest().ask(body).await;
        let taken = answer.and_then(|body| take(body).ok_or_else(unknown_answer));
        Ok(taken.map_err(Into::into))
    }
}

fn stored(body: answer::Body) -> Option<u64> {
    match body {
        answer::Body::Stored(stored) => Some(stored.version),
        _ => None,
    }
}

impl store::Host for State {
    async fn get(&mut self, key: String) -> Answer<Option<store::Entry>> {
        let get = request::Body::Get(wire::Get { key });
        self.asked(get, |body| match body {
            answer::Body::Value(value) => Some(value.entry.map(|entry| store::Entry {
                value: entry.value.into(),
                version: entry.version,
            })),
            _ => None,
        })
        .await
    }

    async fn put(&mut self, key: String, value: Vec<u8>, if_version: Option<u64>) -> Answer<u64> {
        let put = wire::Put {
            key,
            value: Bytes::from(value),
            if_version,
        };
        self.asked(request::Body::Put(put), stored).await
    }

    async fn delete(&mut self, key: String, if_version: Option<u64>) -> Answer<u64> {
        let delete = wire::Delete { key, if_version };
        self.asked(request::Body::Delete(delete), stored).await
    }

    async fn keys(&mut self, prefix: String) -> Answer<Vec<String>> {
        let keys = wire::Keys {
            prefix: Some(prefix),
        };
        self.asked(request::Body::Keys(keys), |body| match body {
            answer::Body::Keys(keys) => Some(keys.keys),
            _ => None,
        })
        .await
    }
}

impl report::Host for State {
    fn progress(&mut self, fraction: Option<f64>, message: Option<String>) -> Answer<()> {
        let told = self.guest().progress(fraction, message.as_deref());
        Ok(told.map_err(Into::into))
    }

    fn health(&mut self, healthy: bool, message: String) -> wasmtime::Result<()> {
        self.guest().health(healthy, &message);
        Ok(())
    }
}

impl log::Host for State {
    fn write(
        &mut self,
        level: log::Level,
        message: String,
        fields: Vec<(String, String)>,
    ) -> Answer<()> {
        let level = match level {
            log::Level::Trace => Level::Trace,
            log::Level::Debug => Level::Debug,
            log::Level::Info => Level::Info,
            log::Level::Warn => Level::Warn,
            log::Level::Error => Level::Error,
        };
        let written = self.guest().log(level, &message, &fields)?;
        Ok(written.map_err(Into::into))
    }
}

impl services::Host for State {
    async fn find(&mut self, name: String) -> Answer<Vec<services::Endpoint>> {
        let find = request::Body::Find(wire::Find { name });
        self.asked(find, |body| match body {
            answer::Body::Endpoints(found) => {
                Some(found.endpoints.into_iter().filter_map(endpoint).collect())
            }
            _ => None,
        })
        .await
    }
}

fn endpoint(endpoint: wire::Endpoint) -> Option<services::Endpoint> {
    Some(services::Endpoint {
        host: endpoint.host,
        // No other number can be reached.
        port: endpoint.port.try_into().ok()?,
        port_name: endpoint.port_name,
        protocol: endpoint.protocol,
        framework_id: endpoint.framework_id.value,
        task_id: endpoint.task_id.value,
        healthy: endpoint.healthy,
    })
}
