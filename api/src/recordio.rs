//! Record framing of streams: the length in decimal, a line feed, then that many bytes, and at once the next length.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// No 64-bit number has more digits.
const MAX_LENGTH_DIGITS: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the length of a record is not a number: it has the byte {0:#04x}")]
    NotADigit(u8),
    #[error("a record has no length")]
    NoLength,
    #[error("the length of a record does not fit 64 bits")]
    LengthTooLong,
    #[error("a record of {length} bytes is longer than the {limit} allowed")]
    TooLarge { length: u64, limit: usize },
}

pub fn encode(payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + MAX_LENGTH_DIGITS + 1);
    encode_into(payload, &mut out);
    out.freeze()
}

pub fn encode_into(payload: &[u8], out: &mut BytesMut) {
    out.put_slice(itoa::Buffer::new().format(payload.len()).as_bytes());
    out.put_u8(b'\n');
    out.put_slice(payload);
}

/// Cuts a stream into records, wherever the borders of its chunks fall.
///
/// What it holds is bounded by one record and by what was pushed and not yet asked for. After an error the stream is
/// lost: every further call gives the same error.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    chunks: VecDeque<Bytes>,
    state: State,
}

#[derive(Debug)]
enum State {
    Length { value: u64, digits: usize },
    Payload { length: usize, begun: BytesMut },
    Failed(RecordError),
}

const START: State = State::Length {
    value: 0,
    digits: 0,
};

impl Decoder {
    pub fn new(max_record_bytes: usize) -> Self {
        Self {
            limit: max_record_bytes,
            chunks: VecDeque::new(),
            state: START,
        }
    }

    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() && !matches!(self.state, State::Failed(_)) {
            self.chunks.push_back(chunk);
        }
    }

    /// The next whole record, or `None` until more is pushed.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator that ended could not go on after the next push"
    )]
    pub fn next(&mut self) -> Result<Option<Bytes>, RecordError> {
        loop {
            match &mut self.state {
                State::Failed(error) => return Err(error.clone()),
                State::Length { .. } => {
                    let Some(length) = self.read_length()? else {
                        return Ok(None);
                    };
                    self.state = State::Payload {
                        length,
                        begun: BytesMut::new(),
                    };
                }
                State::Payload { length, begun } => {
                    let record = take(&mut self.chunks, *length, begun);
                    if record.is_some() {
                        self.state = START;
                    }
                    return Ok(record);
                }
            }
        }
    }

    /// Whether the stream may end here: nothing of a further record has come yet.
    pub fn is_between_records(&self) -> bool {
        self.chunks.is_empty() && matches!(self.state, State::Length { digits: 0, .. })
    }

    fn read_length(&mut self) -> Result<Option<usize>, RecordError> {
        let State::Length { value, digits } = &mut self.state else {
            return Ok(None);
        };
        let result = loop {
            let Some(chunk) = self.chunks.front_mut() else {
                return Ok(None);
            };
            if !chunk.has_remaining() {
                self.chunks.pop_front();
                continue;
            }
            match chunk.get_u8() {
                b'\n' if *digits == 0 => break Err(RecordError::NoLength),
                b'\n' => match usize::try_from(*value) {
                    Ok(length) if length <= self.limit => break Ok(Some(length)),
                    _ => {
                        break Err(RecordError::TooLarge {
                            length: *value,
                            limit: self.limit,
                        });
                    }
                },
                digit @ b'0'..=b'9' => {
                    *digits += 1;
                    let next = value
                        .checked_mul(10)
                        .and_then(|value| value.checked_add(u64::from(digit - b'0')));
                    match next {
                        Some(next) if *digits <= MAX_LENGTH_DIGITS => *value = next,
                        _ => break Err(RecordError::LengthTooLong),
                    }
                }
                other => break Err(RecordError::NotADigit(other)),
            }
        };
        if let Err(error) = &result {
            self.chunks.clear();
            self.state = State::Failed(error.clone());
        }
        result
    }
}

/// A record within one chunk is cut out of it without copying.
fn take(chunks: &mut VecDeque<Bytes>, length: usize, begun: &mut BytesMut) -> Option<Bytes> {
    while begun.len() < length {
        let missing = length - begun.len();
        let chunk = chunks.front_mut()?;
        if begun.is_empty() && chunk.len() >= missing {
            return Some(chunk.split_to(missing));
        }
        // Grows with what has really come, not with what a length claims.
        begun.extend_from_slice(&chunk.split_to(missing.min(chunk.len())));
        if chunk.is_empty() {
            chunks.pop_front();
        }
    }
    Some(std::mem::take(begun).freeze())
}
