//! Resources, quantities and attributes as operators write them in flags and configuration files.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::amount::Milli;
use crate::quantities::Quantities;
use crate::ranges::{Ranges, RangesError};
use crate::resource::{Quantity, Reservation, Resource, ResourceError};
use crate::resources::Resources;
use crate::role::{Role, RoleError};

/// What an agent says about itself beside its resources, for schedulers to choose by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    pub name: Arc<str>,
    pub value: AttributeValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeValue {
    Scalar(Milli),
    Ranges(Ranges),
    Text(Arc<str>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("'{piece}' has no colon; write it as {form}")]
    NoColon { piece: String, form: &'static str },
    #[error("'{piece}' has no name before the colon")]
    NoName { piece: String },
    #[error("'{piece}' has nothing after the colon")]
    NoValue { piece: String },
    #[error("'{piece}' has an opening bracket without its closing one")]
    Unclosed { piece: String },
    #[error("'{piece}': {error}")]
    Role { piece: String, error: RoleError },
    #[error("'{piece}': '{value}' is not a number")]
    Number { piece: String, value: String },
    #[error("'{piece}': '{range}' is not a range; write it as 31000-32000")]
    Range { piece: String, range: String },
    #[error("'{piece}': {error}")]
    Ranges { piece: String, error: RangesError },
    #[error("'{piece}': the set has an empty or repeated element")]
    Set { piece: String },
    #[error("'{piece}': {error}")]
    Resource { piece: String, error: ResourceError },
    #[error("'{piece}': sets are not allowed here")]
    SetNotAllowed { piece: String },
}

/// `name(role):value;...` with a value such as `8`, `[31000-32000, 33000-34000]` or `{a,b}`. What names no role is for
/// the default role; for any role but `*` that is a reservation made for good.
pub fn parse_resources(text: &str, default_role: &Role) -> Result<Resources, ParseError> {
    pieces(text)
        .map(|piece| parse_resource(piece, default_role))
        .collect()
}

/// `cpus:0.01;mem:32`: how much of what, with no more said.
pub fn parse_quantities(text: &str) -> Result<Quantities, ParseError> {
    pieces(text)
        .map(|piece| {
            let (name, value) = split(piece, "name:number")?;
            Ok((Arc::from(name), parse_amount(piece, value)?))
        })
        .collect()
}

/// `rack:abc;level:10;keys:[1000-1500]`: ranges or a number where the value reads as such, text otherwise.
pub fn parse_attributes(text: &str) -> Result<Vec<Attribute>, ParseError> {
    pieces(text)
        .map(|piece| {
            let (name, value) = split(piece, "name:value")?;
            Ok(Attribute {
                name: name.into(),
                value: parse_attribute_value(piece, value)?,
            })
        })
        .collect()
}

fn pieces(text: &str) -> impl Iterator<Item = &str> {
    text.split([';', '\n'])
        .map(str::trim)
        .filter(|piece| !piece.is_empty())
}

fn split<'a>(piece: &'a str, form: &'static str) -> Result<(&'a str, &'a str), ParseError> {
    let owned = || piece.to_owned();
    let (name, value) = piece.split_once(':').ok_or_else(|| ParseError::NoColon {
        piece: owned(),
        form,
    })?;
    match (name.trim(), value.trim()) {
        ("", _) => Err(ParseError::NoName { piece: owned() }),
        (_, "") => Err(ParseError::NoValue { piece: owned() }),
        parts => Ok(parts),
    }
}

fn parse_resource(piece: &str, default_role: &Role) -> Result<Resource, ParseError> {
    let owned = || piece.to_owned();
    let (head, value) = split(piece, "name:value or name(role):value")?;
    let (name, role) = match head.split_once('(') {
        Some((name, rest)) => {
            let role = rest
                .strip_suffix(')')
                .ok_or_else(|| ParseError::Unclosed { piece: owned() })?;
            let role = Role::parse(role.trim()).map_err(|error| ParseError::Role {
                piece: owned(),
                error,
            })?;
            (name.trim(), role)
        }
        None => (head, default_role.clone()),
    };
    if name.is_empty() {
        return Err(ParseError::NoName { piece: owned() });
    }
    let mut resource = Resource::new(name, parse_quantity(piece, value)?);
    if !role.is_star() {
        resource = resource.with_reservation(Reservation::fixed(role));
    }
    resource.check().map_err(|error| ParseError::Resource {
        piece: owned(),
        error,
    })?;
    Ok(resource)
}

fn parse_quantity(piece: &str, value: &str) -> Result<Quantity, ParseError> {
    match value.as_bytes()[0] {
        b'[' => parse_ranges(piece, value).map(Quantity::Ranges),
        b'{' => parse_set(piece, value).map(Quantity::Set),
        _ => parse_amount(piece, value).map(Quantity::Scalar),
    }
}

fn parse_attribute_value(piece: &str, value: &str) -> Result<AttributeValue, ParseError> {
    match value.as_bytes()[0] {
        b'[' => parse_ranges(piece, value).map(AttributeValue::Ranges),
        b'{' => Err(ParseError::SetNotAllowed {
            piece: piece.to_owned(),
        }),
        _ => Ok(
            match value
                .parse()
                .ok()
                .and_then(|number| Milli::from_f64(number).ok())
            {
                Some(amount) => AttributeValue::Scalar(amount),
                None => AttributeValue::Text(value.into()),
            },
        ),
    }
}

fn parse_amount(piece: &str, value: &str) -> Result<Milli, ParseError> {
    let error = || ParseError::Number {
        piece: piece.to_owned(),
        value: value.to_owned(),
    };
    let number: f64 = value.parse().map_err(|_| error())?;
    Milli::from_f64(number).map_err(|_| error())
}

fn parse_ranges(piece: &str, value: &str) -> Result<Ranges, ParseError> {
    let pairs = inside(piece, value, '[', ']')?
        .split(',')
        .map(str::trim)
        .filter(|range| !range.is_empty())
        .map(|range| {
            let bad = || ParseError::Range {
                piece: piece.to_owned(),
                range: range.to_owned(),
            };
            let (begin, end) = range.split_once('-').ok_or_else(bad)?;
            let number = |text: &str| text.trim().parse::<u64>().map_err(|_| bad());
            Ok((number(begin)?, number(end)?))
        })
        .collect::<Result<Vec<_>, ParseError>>()?;
    Ranges::from_pairs(pairs).map_err(|error| ParseError::Ranges {
        piece: piece.to_owned(),
        error,
    })
}

fn parse_set(piece: &str, value: &str) -> Result<BTreeSet<Arc<str>>, ParseError> {
    let inside = inside(piece, value, '{', '}')?;
    let mut items = BTreeSet::new();
    if inside.trim().is_empty() {
        return Ok(items);
    }
    for item in inside.split(',').map(str::trim) {
        if item.is_empty() || !items.insert(Arc::from(item)) {
            return Err(ParseError::Set {
                piece: piece.to_owned(),
            });
        }
    }
    Ok(items)
}

fn inside<'a>(piece: &str, value: &'a str, open: char, close: char) -> Result<&'a str, ParseError> {
    value
        .strip_prefix(open)
        .and_then(|rest| rest.strip_suffix(close))
        .ok_or_else(|| ParseError::Unclosed {
            piece: piece.to_owned(),
        })
}

impl fmt::Display for AttributeValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar(amount) => write!(formatter, "{amount}"),
            Self::Ranges(ranges) => write!(formatter, "{ranges}"),
            Self::Text(text) => formatter.write_str(text),
        }
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.name, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, default_role: &str, expected: &str) {
        let role = Role::parse(default_role).unwrap();
        let result = parse_resources(text, &role)
            .map_or_else(|error| error.to_string(), |all| all.to_string());
        assert_eq!(result, expected, "{text}");
    }

    #[test]
    fn resources_are_read_in_all_forms() {
        check("cpus:8;mem:1024", "*", "cpus:8; mem:1024");
        check(
            "cpus : 0.5 ; ports : [31000-32000, 33000-34000] ;",
            "*",
            "cpus:0.5; ports:[31000-32000, 33000-34000]",
        );
        check("zones:{b,a}", "*", "zones:{a, b}");
        check("cpus(a/b):1;cpus(*):2", "ops", "cpus:2; cpus(a/b):1");
        check("cpus:1", "ops", "cpus(ops):1");
        check("cpus:1;cpus:2", "*", "cpus:3");
        check("", "*", "");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        check(
            "cpus",
            "*",
            "'cpus' has no colon; write it as name:value or name(role):value",
        );
        check("mem:1;:8", "*", "':8' has no name before the colon");
        check("(a):8", "*", "'(a):8' has no name before the colon");
        check("cpus:", "*", "'cpus:' has nothing after the colon");
        check(
            "cpus(a:8",
            "*",
            "'cpus(a:8' has an opening bracket without its closing one",
        );
        check(
            "cpus(-a):8",
            "*",
            "'cpus(-a):8': the role '-a' has a component that begins with '-'",
        );
        check("cpus:many", "*", "'cpus:many': 'many' is not a number");
        check("cpus:NaN", "*", "'cpus:NaN': 'NaN' is not a number");
        check(
            "cpus:-1",
            "*",
            "'cpus:-1': the resource cpus must not be negative, but is -1",
        );
        check(
            "gpus:0.5",
            "*",
            "'gpus:0.5': the resource gpus must be whole, but is 0.5",
        );
        check(
            "ports:[1-2",
            "*",
            "'ports:[1-2' has an opening bracket without its closing one",
        );
        check(
            "ports:[1]",
            "*",
            "'ports:[1]': '1' is not a range; write it as 31000-32000",
        );
        check(
            "ports:[2-1]",
            "*",
            "'ports:[2-1]': the range 2-1 ends before it begins",
        );
        check(
            "ports:[1-3,2-4]",
            "*",
            "'ports:[1-3,2-4]': the ranges 1-3 and 2-4 overlap",
        );
        check(
            "zones:{a,a}",
            "*",
            "'zones:{a,a}': the set has an empty or repeated element",
        );
    }

    #[test]
    fn what_is_written_is_read_back_as_the_same() {
        let text = "cpus:1.5; cpus(a/b):2; mem:64; ports:[1-5, 9-9]; zones:{x, y}";
        check(text, "*", text);
    }

    #[test]
    fn attributes_are_what_they_look_like() {
        let attributes = parse_attributes("rack:abc;level:10;keys:[1000-1500];path:a:b").unwrap();
        let values: Vec<&AttributeValue> = attributes
            .iter()
            .map(|attribute| &attribute.value)
            .collect();
        assert!(matches!(
            values[..],
            [
                AttributeValue::Text(_),
                AttributeValue::Scalar(Milli(10_000)),
                AttributeValue::Ranges(_),
                AttributeValue::Text(_)
            ]
        ));
        let written: Vec<String> = attributes.iter().map(Attribute::to_string).collect();
        assert_eq!(
            written,
            ["rack:abc", "level:10", "keys:[1000-1500]", "path:a:b"]
        );
        assert!(matches!(
            parse_attributes("a:{b,c}"),
            Err(ParseError::SetNotAllowed { .. })
        ));
        assert!(parse_attributes("a").is_err());
    }

    #[test]
    fn quantities_are_read() {
        assert_eq!(
            parse_quantities("cpus:0.01;mem:32").unwrap().to_string(),
            "cpus:0.01; mem:32"
        );
        assert!(parse_quantities("cpus:[1-2]").is_err());
    }
}
