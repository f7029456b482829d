//! The values that resources and attributes have in common, and labels.

use std::collections::BTreeSet;
use std::sync::Arc;

use tepui_model::{Labels, Milli, Ranges};

use super::ConvertError;
use crate::v1;
use crate::v1::value::Type;

pub(super) fn scalar(name: &str, scalar: &v1::value::Scalar) -> Result<Milli, ConvertError> {
    Milli::from_f64(scalar.value).map_err(|error| ConvertError::Amount {
        name: name.to_owned(),
        error,
    })
}

pub(super) fn ranges(name: &str, ranges: &v1::value::Ranges) -> Result<Ranges, ConvertError> {
    let pairs = ranges
        .range
        .iter()
        .map(|range| (range.begin, range.end))
        .collect();
    Ranges::from_pairs(pairs).map_err(|error| ConvertError::Ranges {
        name: name.to_owned(),
        error,
    })
}

pub(super) fn set(name: &str, set: &v1::value::Set) -> Result<BTreeSet<Arc<str>>, ConvertError> {
    let mut items = BTreeSet::new();
    for item in &set.item {
        if !items.insert(item.as_str().into()) {
            return Err(ConvertError::DuplicateItem {
                name: name.to_owned(),
                item: item.clone(),
            });
        }
    }
    Ok(items)
}

pub(super) fn wrong_type(name: &str, number: i32) -> ConvertError {
    let found = Type::try_from(number).map_or_else(
        |_| number.to_string(),
        |found| found.as_str_name().to_owned(),
    );
    ConvertError::Type {
        name: name.to_owned(),
        found,
    }
}

pub(super) fn scalar_out(amount: Milli) -> v1::value::Scalar {
    v1::value::Scalar {
        value: amount.to_f64(),
    }
}

pub(super) fn ranges_out(ranges: &Ranges) -> v1::value::Ranges {
    v1::value::Ranges {
        range: ranges
            .iter()
            .map(|(begin, end)| v1::value::Range { begin, end })
            .collect(),
    }
}

pub fn labels_from_wire(labels: Option<&v1::Labels>) -> Labels {
    let labels = labels
        .map(|labels| labels.labels.as_slice())
        .unwrap_or_default();
    labels
        .iter()
        .map(|label| {
            (
                label.key.as_str().into(),
                label.value.as_deref().map(Arc::from),
            )
        })
        .collect()
}

pub fn labels_to_wire(labels: &Labels) -> Option<v1::Labels> {
    if labels.is_empty() {
        return None;
    }
    let label = |(key, value): &(Arc<str>, Option<Arc<str>>)| v1::Label {
        key: key.to_string(),
        value: value.as_deref().map(str::to_owned),
    };
    Some(v1::Labels {
        labels: labels.iter().map(label).collect(),
    })
}
