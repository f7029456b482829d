//! Puts back what prost leaves out of maps. It omits a value that equals the default even if that value has required
//! fields (`{"cpus": 0}`), and decoders other than prost's then refuse the message.

use bytes::Buf;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
};

use crate::required::{Content, FieldRule, MessageRules, Presence};

/// The bytes as they should be, or `None` if they are right already. Expects what prost has encoded.
pub(crate) fn restore(message: &[u8], rules: &MessageRules) -> Option<Vec<u8>> {
    if !rules.has_maps {
        return None;
    }
    rewrite(message, |number, content| {
        let rule = rules.fields.iter().find(|rule| rule.number == number)?;
        restore_field(content, rule)
    })
}

fn restore_field(content: &[u8], rule: &FieldRule) -> Option<Vec<u8>> {
    let Content::Message(rules) = &rule.content else {
        return None;
    };
    if rule.presence != Presence::Map {
        return restore(content, rules);
    }
    let mut has_value = false;
    let rewritten = rewrite(content, |number, value| {
        has_value |= number == 2;
        if number == 2 {
            restore(value, rules)
        } else {
            None
        }
    });
    if has_value {
        return rewritten;
    }
    let default = (rules.default)();
    let mut entry = content.to_vec();
    append(&mut entry, 2, &default);
    (!default.is_empty()).then_some(entry)
}

/// Copies a message with some of its length-delimited fields replaced; no copy is made if none is.
fn rewrite(
    message: &[u8],
    mut replace: impl FnMut(u32, &[u8]) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let mut rest = message;
    let mut copied = 0;
    let mut out: Option<Vec<u8>> = None;
    while rest.has_remaining() {
        let start = message.len() - rest.len();
        let (number, wire_type) = decode_key(&mut rest).ok()?;
        if wire_type != WireType::LengthDelimited {
            skip_field(wire_type, number, &mut rest, DecodeContext::default()).ok()?;
            continue;
        }
        let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
        let (content, after) = rest.split_at_checked(length)?;
        rest = after;
        if let Some(replacement) = replace(number, content) {
            let out = out.get_or_insert_with(|| Vec::with_capacity(message.len() + 16));
            out.extend_from_slice(&message[copied..start]);
            append(out, number, &replacement);
            copied = message.len() - rest.len();
        }
    }
    let mut out = out?;
    out.extend_from_slice(&message[copied..]);
    Some(out)
}

fn append(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}
