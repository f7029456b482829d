//! Which form a body has and which one the client wants, from the headers `Content-Type` and `Accept`.

use prost::Message;

use crate::json::{self, Json, JsonError};
use crate::proto;
use crate::recordio;
use crate::required::{Described, RequiredError};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MediaType {
    Json,
    Protobuf,
    /// Records, each of which holds a message; only some calls of the agent's operator API use it.
    RecordIo,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentTypeError {
    #[error("Expecting 'Content-Type' to be present")]
    Missing,
    #[error("Expecting 'Content-Type' of application/json or application/x-protobuf, not '{0}'")]
    Unsupported(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error(transparent)]
    Protobuf(#[from] RequiredError),
    #[error("application/recordio holds records and not one message")]
    Records,
}

impl MediaType {
    const ALL: [Self; 3] = [Self::Json, Self::Protobuf, Self::RecordIo];

    /// The value of the header, exactly as clients compare it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Protobuf => "application/x-protobuf",
            Self::RecordIo => "application/recordio",
        }
    }
}

impl std::fmt::Display for MediaType {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// Parameters such as `; charset=utf-8` are ignored.
pub fn content_type(header: Option<&str>) -> Result<MediaType, ContentTypeError> {
    let header = header.ok_or(ContentTypeError::Missing)?;
    let essence = header.split(';').next().unwrap_or_default().trim();
    MediaType::ALL
        .into_iter()
        .find(|media| essence.eq_ignore_ascii_case(media.as_str()))
        .ok_or_else(|| ContentTypeError::Unsupported(header.chars().take(100).collect()))
}

/// JSON if the client accepts it, else protobuf if it accepts that. Weights other than 0 make no difference.
pub fn negotiate(accept: Option<&str>) -> Option<MediaType> {
    [MediaType::Json, MediaType::Protobuf]
        .into_iter()
        .find(|media| accepts(accept, *media))
}

/// Whether the client accepts this media type: the entry that matches most closely says so or refuses with `q=0`.
pub fn accepts(accept: Option<&str>, media: MediaType) -> bool {
    let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else {
        return true;
    };
    let entries = || {
        accept
            .split(',')
            .map(|entry| entry.split_once(';').unwrap_or((entry, "")))
    };
    [media.as_str(), "application/*", "*/*"]
        .into_iter()
        .find_map(|pattern| {
            let (_, parameters) =
                entries().find(|(range, _)| range.trim().eq_ignore_ascii_case(pattern))?;
            Some(!refuses(parameters))
        })
        .unwrap_or(false)
}

fn refuses(parameters: &str) -> bool {
    parameters
        .split(';')
        .filter_map(|parameter| parameter.split_once('='))
        .any(|(name, value)| {
            name.trim().eq_ignore_ascii_case("q")
                && value
                    .trim()
                    .parse::<f64>()
                    .is_ok_and(|weight| weight == 0.0)
        })
}

/// The body of a message; as records, one record that holds JSON.
pub fn encode<M: Json + Message + Described>(media: MediaType, message: &M) -> Vec<u8> {
    match media {
        MediaType::Json => json::to_vec(message),
        MediaType::Protobuf => proto::to_vec(message),
        MediaType::RecordIo => recordio::encode(&json::to_vec(message)).into(),
    }
}

/// The message of a body that a stranger sent: refused if it would take too much memory.
pub fn decode<M: Json + Message + Default + Described>(
    media: MediaType,
    body: &[u8],
) -> Result<M, DecodeError> {
    match media {
        MediaType::Json => Ok(json::call_from_slice(body)?),
        MediaType::Protobuf => Ok(proto::call_from_slice(body)?),
        MediaType::RecordIo => Err(DecodeError::Records),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_type_is_recognised_whatever_its_parameters_and_case() {
        assert_eq!(content_type(Some("application/json")), Ok(MediaType::Json));
        assert_eq!(
            content_type(Some("Application/JSON; charset=utf-8")),
            Ok(MediaType::Json)
        );
        assert_eq!(
            content_type(Some(" application/x-protobuf ")),
            Ok(MediaType::Protobuf)
        );
        assert_eq!(
            content_type(Some("application/recordio")),
            Ok(MediaType::RecordIo)
        );
    }

    #[test]
    fn a_missing_content_type_is_told_from_an_unsupported_one() {
        assert_eq!(content_type(None), Err(ContentTypeError::Missing));
        assert_eq!(
            content_type(Some("text/html")),
            Err(ContentTypeError::Unsupported("text/html".to_owned()))
        );
        assert_eq!(
            content_type(Some("")),
            Err(ContentTypeError::Unsupported(String::new()))
        );
    }

    #[test]
    fn who_accepts_everything_gets_json() {
        for accept in [
            None,
            Some(""),
            Some("*/*"),
            Some("application/*"),
            Some("text/html, */*;q=0.1"),
        ] {
            assert_eq!(negotiate(accept), Some(MediaType::Json), "{accept:?}");
        }
    }

    #[test]
    fn json_comes_before_protobuf_whatever_the_weights() {
        let accept = Some("application/x-protobuf;q=1.0, application/json;q=0.1");
        assert_eq!(negotiate(accept), Some(MediaType::Json));
        assert_eq!(
            negotiate(Some("application/x-protobuf")),
            Some(MediaType::Protobuf)
        );
    }

    #[test]
    fn a_weight_of_nought_refuses() {
        assert_eq!(
            negotiate(Some("application/json;q=0, */*")),
            Some(MediaType::Protobuf)
        );
        assert_eq!(negotiate(Some("application/json; q=0.000")), None);
        assert_eq!(negotiate(Some("*/*;q=0")), None);
        assert_eq!(negotiate(Some("text/html")), None);
    }
}
