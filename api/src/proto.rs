//! The protobuf form of messages, with the check for required fields that prost leaves out.

use prost::Message;

use crate::map_values;
use crate::required::{self, Described, RequiredError};

/// Unlike prost's own `encode_to_vec`, this writes all map values, so that any protobuf library can read the result.
pub fn to_vec<M: Message + Described>(message: &M) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    map_values::restore(&bytes, M::rules()).unwrap_or(bytes)
}

pub fn from_slice<M: Message + Default + Described>(bytes: &[u8]) -> Result<M, RequiredError> {
    required::check(bytes, M::rules())?;
    M::decode(bytes).map_err(|error| RequiredError::Malformed(error.to_string()))
}

/// As [`from_slice`], for what a stranger sent: refused if its messages would take too much memory.
pub fn call_from_slice<M: Message + Default + Described>(bytes: &[u8]) -> Result<M, RequiredError> {
    required::check_within(bytes, M::rules(), required::MOST_OF_CALL)?;
    M::decode(bytes).map_err(|error| RequiredError::Malformed(error.to_string()))
}

/// As [`call_from_slice`], but byte fields share the memory of the input.
pub fn call_from_bytes<M: Message + Default + Described>(
    bytes: bytes::Bytes,
) -> Result<M, RequiredError> {
    required::check_within(&bytes, M::rules(), required::MOST_OF_CALL)?;
    M::decode(bytes).map_err(|error| RequiredError::Malformed(error.to_string()))
}

/// As [`from_slice`], but byte fields share the memory of the input.
pub fn from_bytes<M: Message + Default + Described>(
    bytes: bytes::Bytes,
) -> Result<M, RequiredError> {
    required::check(&bytes, M::rules())?;
    M::decode(bytes).map_err(|error| RequiredError::Malformed(error.to_string()))
}
