//! Not in wasm: there is nobody to ask.

use crate::log::Level;
use crate::services::Endpoint;
use crate::store::Entry;
use crate::{Code, Details, Error};

fn nobody<T>() -> Result<T, Error> {
    Err(Error {
        code: Code::Unavailable,
        message: "this program is not compiled to wasm, so no agent answers what it asks of its cluster"
            .to_owned(),
        version: None,
    })
}

pub(crate) fn details() -> Result<Details, Error> {
    nobody()
}

pub(crate) fn send(_message: &[u8]) -> Result<(), Error> {
    nobody()
}

pub(crate) fn receive(_timeout_ms: u32) -> Result<Option<Vec<u8>>, Error> {
    nobody()
}

pub(crate) fn dropped() -> u64 {
    0
}

pub(crate) fn get(_key: &str) -> Result<Option<Entry>, Error> {
    nobody()
}

pub(crate) fn put(_key: &str, _value: &[u8], _if_version: Option<u64>) -> Result<u64, Error> {
    nobody()
}

pub(crate) fn delete(_key: &str, _if_version: Option<u64>) -> Result<u64, Error> {
    nobody()
}

pub(crate) fn keys(_prefix: &str) -> Result<Vec<String>, Error> {
    nobody()
}

pub(crate) fn progress(_fraction: Option<f64>, _message: &str) -> Result<(), Error> {
    nobody()
}

pub(crate) fn health(_healthy: bool, _message: &str) -> Result<(), Error> {
    nobody()
}

pub(crate) fn log(_level: Level, _message: &str, _fields: &[(&str, &str)]) -> Result<(), Error> {
    nobody()
}

pub(crate) fn find(_name: &str) -> Result<Vec<Endpoint>, Error> {
    nobody()
}
