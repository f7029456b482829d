//! Attributes of agents both ways.

use tepui_model::{Attribute, AttributeValue};

use super::{ConvertError, value};
use crate::v1;
use crate::v1::value::Type;

pub fn attributes_from_wire(attributes: &[v1::Attribute]) -> Result<Vec<Attribute>, ConvertError> {
    attributes.iter().map(attribute_from_wire).collect()
}

pub fn attributes_to_wire(attributes: &[Attribute]) -> Vec<v1::Attribute> {
    attributes.iter().map(attribute_to_wire).collect()
}

/// Sets are refused, as they are on the agent's command line.
pub fn attribute_from_wire(attribute: &v1::Attribute) -> Result<Attribute, ConvertError> {
    let name = attribute.name.as_str();
    let lacks = |declared, field| ConvertError::Value {
        name: name.to_owned(),
        declared,
        field,
    };
    let value = match Type::try_from(attribute.r#type) {
        Ok(Type::Scalar) => {
            let scalar = attribute
                .scalar
                .as_ref()
                .ok_or_else(|| lacks("SCALAR", "scalar"))?;
            AttributeValue::Scalar(value::scalar(name, scalar)?)
        }
        Ok(Type::Ranges) => {
            let ranges = attribute
                .ranges
                .as_ref()
                .ok_or_else(|| lacks("RANGES", "ranges"))?;
            AttributeValue::Ranges(value::ranges(name, ranges)?)
        }
        Ok(Type::Text) => {
            let text = attribute
                .text
                .as_ref()
                .ok_or_else(|| lacks("TEXT", "text"))?;
            AttributeValue::Text(text.value.as_str().into())
        }
        Ok(Type::Set) | Err(_) => return Err(value::wrong_type(name, attribute.r#type)),
    };
    Ok(Attribute {
        name: name.into(),
        value,
    })
}

pub fn attribute_to_wire(attribute: &Attribute) -> v1::Attribute {
    let mut wire = v1::Attribute {
        name: attribute.name.to_string(),
        ..Default::default()
    };
    match &attribute.value {
        AttributeValue::Scalar(amount) => {
            wire.set_type(Type::Scalar);
            wire.scalar = Some(value::scalar_out(*amount));
        }
        AttributeValue::Ranges(ranges) => {
            wire.set_type(Type::Ranges);
            wire.ranges = Some(value::ranges_out(ranges));
        }
        AttributeValue::Text(text) => {
            wire.set_type(Type::Text);
            wire.text = Some(v1::value::Text {
                value: text.to_string(),
            });
        }
    }
    wire
}
