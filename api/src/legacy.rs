//! Pieces of the reads from before the v1 API, in the shapes that command lines and monitoring tools parse: what master
//! and agent show alike.

use std::collections::{BTreeMap, BTreeSet};

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use tepui_model::{Milli, Quantity, Ranges, Resources};

use crate::json::{self, Json};
use crate::secrets::concealed;
use crate::v1;

/// Writes entries of an object, one after the other.
#[macro_export]
macro_rules! entries {
    ($map:ident, $($key:literal: $value:expr),+ $(,)?) => { $($map.serialize_entry($key, &$value)?;)+ };
}

/// An array from an iterator that can be begun again.
#[derive(Debug)]
pub struct Each<F>(pub F);

impl<F, I> Serialize for Each<F>
where
    F: Fn() -> I,
    I: Iterator<Item: Serialize>,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut sequence = serializer.serialize_seq(None)?;
        for item in (self.0)() {
            sequence.serialize_element(&item)?;
        }
        sequence.end()
    }
}

/// A message of the v1 API within a legacy answer.
#[derive(Debug)]
pub struct Message<'a, M>(pub &'a M);

impl<M: Json> Serialize for Message<'_, M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        json::to_value(self.0).serialize(serializer)
    }
}

/// Sums by name, as `{"cpus": 2.0, "ports": "[31000-32000]"}`.
#[derive(Debug, Default)]
pub struct Sums {
    scalars: BTreeMap<String, Milli>,
    ranges: BTreeMap<String, Ranges>,
    sets: BTreeMap<String, BTreeSet<String>>,
}

fn sum_key(name: &str, revocable: bool) -> String {
    if revocable {
        format!("{name}_revocable")
    } else {
        name.to_owned()
    }
}

impl Sums {
    pub fn of(resources: &Resources) -> Self {
        let mut sums = Self::default();
        for resource in resources.iter() {
            let key = sum_key(&resource.name, resource.revocable);
            match &resource.quantity {
                Quantity::Scalar(amount) => sums.add_scalar(key, *amount),
                Quantity::Ranges(ranges) => sums.add_ranges(key, ranges),
                Quantity::Set(items) => sums
                    .sets
                    .entry(key)
                    .or_default()
                    .extend(items.iter().map(|item| item.to_string())),
            }
        }
        sums
    }

    pub fn of_wire<'a>(resources: impl IntoIterator<Item = &'a v1::Resource>) -> Self {
        let mut sums = Self::default();
        for resource in resources {
            let key = sum_key(&resource.name, resource.revocable.is_some());
            if let Some(scalar) = &resource.scalar {
                sums.add_scalar(key, Milli::from_f64(scalar.value).unwrap_or(Milli::ZERO));
            } else if let Some(ranges) = &resource.ranges {
                let pairs = ranges
                    .range
                    .iter()
                    .map(|range| (range.begin, range.end))
                    .collect();
                sums.add_ranges(key, &Ranges::from_pairs(pairs).unwrap_or_default());
            } else if let Some(set) = &resource.set {
                sums.sets
                    .entry(key)
                    .or_default()
                    .extend(set.item.iter().cloned());
            }
        }
        sums
    }

    fn add_scalar(&mut self, key: String, amount: Milli) {
        let sum = self.scalars.entry(key).or_insert(Milli::ZERO);
        *sum = sum.checked_add(amount).unwrap_or(*sum);
    }

    fn add_ranges(&mut self, key: String, ranges: &Ranges) {
        let sum = self.ranges.entry(key).or_default();
        *sum = sum.union(ranges);
    }
}

fn ranges_text(pairs: impl Iterator<Item = (u64, u64)>) -> String {
    let parts: Vec<String> = pairs.map(|(begin, end)| format!("{begin}-{end}")).collect();
    format!("[{}]", parts.join(", "))
}

fn set_text<'a>(items: impl Iterator<Item = &'a String>) -> String {
    format!(
        "{{{}}}",
        items.map(String::as_str).collect::<Vec<_>>().join(", ")
    )
}

impl Serialize for Sums {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const ALWAYS: [&str; 4] = ["cpus", "gpus", "mem", "disk"];
        let mut map = serializer.serialize_map(None)?;
        for name in ALWAYS {
            map.serialize_entry(
                name,
                &self
                    .scalars
                    .get(name)
                    .copied()
                    .unwrap_or(Milli::ZERO)
                    .to_f64(),
            )?;
        }
        for (name, amount) in self
            .scalars
            .iter()
            .filter(|(name, _)| !ALWAYS.contains(&name.as_str()))
        {
            map.serialize_entry(name, &amount.to_f64())?;
        }
        for (name, ranges) in &self.ranges {
            map.serialize_entry(name, &ranges_text(ranges.iter()))?;
        }
        for (name, items) in &self.sets {
            map.serialize_entry(name, &set_text(items.iter()))?;
        }
        map.end()
    }
}

/// An object: scalars as numbers, all else as text.
#[derive(Debug)]
pub struct Attributes<'a>(pub &'a [v1::Attribute]);

impl Serialize for Attributes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for attribute in self.0 {
            if let Some(scalar) = &attribute.scalar {
                map.serialize_entry(&attribute.name, &scalar.value)?;
            } else if let Some(ranges) = &attribute.ranges {
                let pairs = ranges.range.iter().map(|range| (range.begin, range.end));
                map.serialize_entry(&attribute.name, &ranges_text(pairs))?;
            } else if let Some(text) = &attribute.text {
                map.serialize_entry(&attribute.name, &text.value)?;
            } else if let Some(set) = &attribute.set {
                map.serialize_entry(&attribute.name, &set_text(set.item.iter()))?;
            }
        }
        map.end()
    }
}

pub fn labels(labels: &v1::Labels) -> impl Serialize + '_ {
    Each(|| labels.labels.iter().map(Message))
}

/// A task, and what it was launched with if that is known.
#[derive(Debug)]
pub struct Task<'a>(pub &'a v1::Task, pub Option<&'a v1::TaskInfo>);

impl Task<'_> {
    /// Of its first status: when it came to be.
    pub fn began(&self) -> f64 {
        self.0
            .statuses
            .first()
            .map_or(0.0, |status| status.timestamp())
    }
}

impl Serialize for Task<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(task, info) = self;
        let role = task
            .resources
            .iter()
            .find_map(|resource| resource.allocation_info.as_ref()?.role.as_deref());
        let mut map = serializer.serialize_map(None)?;
        entries!(map,
            "id": task.task_id.value,
            "name": task.name,
            "framework_id": task.framework_id.value,
            "executor_id": task.executor_id.as_ref().map_or("", |id| &id.value),
            "slave_id": task.agent_id.value,
            "state": task.state().as_str_name(),
            "resources": Sums::of_wire(&task.resources),
            "role": role.unwrap_or("*"),
            "statuses": Each(|| task.statuses.iter().map(Status)),
        );
        if !task.limits.is_empty() {
            let limits: BTreeMap<_, _> = task
                .limits
                .iter()
                .map(|(name, limit)| (name, limit_json(limit.value)))
                .collect();
            map.serialize_entry("limits", &limits)?;
        }
        if let Some(user) = &task.user {
            map.serialize_entry("user", user)?;
        }
        if let Some(given) = &task.labels {
            map.serialize_entry("labels", &labels(given))?;
        }
        if let Some(discovery) = &task.discovery {
            map.serialize_entry("discovery", &Message(discovery))?;
        }
        if let Some(container) = &task.container {
            map.serialize_entry("container", &Message(container))?;
        }
        if let Some(check) = task
            .health_check
            .as_ref()
            .or_else(|| info.as_ref()?.health_check.as_ref())
        {
            map.serialize_entry("health_check", &Message(&concealed(check)))?;
        }
        map.end()
    }
}

/// JSON has no infinity, which stands for no limit.
fn limit_json(limit: f64) -> serde_json::Value {
    if limit.is_finite() {
        limit.into()
    } else {
        "Infinity".into()
    }
}

/// One entry of a task's statuses.
#[derive(Debug)]
pub struct Status<'a>(pub &'a v1::TaskStatus);

impl Serialize for Status<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(status) = self;
        let mut map = serializer.serialize_map(None)?;
        entries!(map,
            "state": status.state().as_str_name(),
            "timestamp": status.timestamp(),
        );
        if let Some(given) = &status.labels {
            map.serialize_entry("labels", &labels(given))?;
        }
        if let Some(container) = &status.container_status {
            map.serialize_entry("container_status", &Message(container))?;
        }
        if let Some(healthy) = status.healthy {
            map.serialize_entry("healthy", &healthy)?;
        }
        // Beyond what Mesos tells: why.
        if status.source.is_some() {
            map.serialize_entry("source", status.source().as_str_name())?;
        }
        if status.reason.is_some() {
            map.serialize_entry("reason", status.reason().as_str_name())?;
        }
        if let Some(message) = &status.message {
            map.serialize_entry("message", message)?;
        }
        map.end()
    }
}
