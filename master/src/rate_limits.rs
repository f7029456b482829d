//! The limits of frameworks' calls, in the form that Mesos's `--rate_limits` has.

use serde::Deserialize;
use serde_json::{Map, Value};
use tepui_master_core::{CallLimit, CallLimits};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateLimitsError {
    #[error(
        "the rate limits are not JSON of the form {{\"limits\": [{{\"principal\": \"...\", \"qps\": 10.0, \"capacity\": 100}}], \"aggregate_default_qps\": 10.0, \"aggregate_default_capacity\": 100}}: {0}"
    )]
    Json(String),
    #[error("'{0}' must be a number of calls a second that is more than 0")]
    Qps(&'static str),
    #[error("a limit must name its principal")]
    NoPrincipal,
    #[error("the principal '{0}' has two limits")]
    Twice(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    limits: Vec<One>,
    aggregate_default_qps: Option<f64>,
    aggregate_default_capacity: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct One {
    principal: String,
    qps: Option<f64>,
    capacity: Option<u64>,
}

/// Reads what an operator gave.
pub fn parse_rate_limits(text: &str) -> Result<CallLimits, RateLimitsError> {
    let file: File =
        serde_json::from_str(text).map_err(|error| RateLimitsError::Json(error.to_string()))?;
    let mut limits = CallLimits {
        others: limit(
            "aggregate_default_qps",
            file.aggregate_default_qps,
            file.aggregate_default_capacity,
        )?,
        ..CallLimits::default()
    };
    for one in file.limits {
        if one.principal.is_empty() {
            return Err(RateLimitsError::NoPrincipal);
        }
        let limit = limit("qps", one.qps, one.capacity)?;
        if limits
            .principals
            .insert(one.principal.clone(), limit)
            .is_some()
        {
            return Err(RateLimitsError::Twice(one.principal));
        }
    }
    Ok(limits)
}

fn limit(
    name: &'static str,
    qps: Option<f64>,
    capacity: Option<u64>,
) -> Result<CallLimit, RateLimitsError> {
    if qps.is_some_and(|qps| !(qps.is_finite() && qps > 0.0)) {
        return Err(RateLimitsError::Qps(name));
    }
    Ok(CallLimit { qps, capacity })
}

/// The same for those who ask what was given; none if nothing was.
pub(crate) fn show(limits: &CallLimits) -> Option<String> {
    if *limits == CallLimits::default() {
        return None;
    }
    let fields = |limit: &CallLimit, qps: &str, capacity: &str| {
        let qps_given = limit.qps.map(|given| (qps.to_owned(), Value::from(given)));
        let capacity_given = limit
            .capacity
            .map(|given| (capacity.to_owned(), Value::from(given)));
        qps_given.into_iter().chain(capacity_given)
    };
    let ones = limits.principals.iter().map(|(principal, limit)| {
        let mut one = Map::from_iter(fields(limit, "qps", "capacity"));
        one.insert("principal".to_owned(), principal.as_str().into());
        Value::from(one)
    });
    let mut file = Map::from_iter(fields(
        &limits.others,
        "aggregate_default_qps",
        "aggregate_default_capacity",
    ));
    file.insert("limits".to_owned(), ones.collect());
    Some(Value::from(file).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_mesos_writes_them_and_shown_again() {
        let text = r#"{"limits": [{"principal": "ann", "qps": 55.5, "capacity": 100},
                                  {"principal": "bob"}],
                       "aggregate_default_qps": 333, "aggregate_default_capacity": 1000}"#;
        let limits = parse_rate_limits(text).unwrap();
        let limit = |qps, capacity| CallLimit { qps, capacity };
        assert_eq!(limits.principals["ann"], limit(Some(55.5), Some(100)));
        assert_eq!(limits.principals["bob"], limit(None, None));
        assert_eq!(limits.others, limit(Some(333.0), Some(1000)));
        assert_eq!(parse_rate_limits(&show(&limits).unwrap()), Ok(limits));
        assert_eq!(show(&parse_rate_limits("{}").unwrap()), None);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let error = |text: &str| parse_rate_limits(text).unwrap_err();
        assert!(matches!(error("[]"), RateLimitsError::Json(_)));
        assert!(matches!(
            error(r#"{"limit": []}"#),
            RateLimitsError::Json(_)
        ));
        assert_eq!(
            error(r#"{"limits": [{"principal": "a", "qps": 0}]}"#),
            RateLimitsError::Qps("qps")
        );
        assert_eq!(
            error(r#"{"aggregate_default_qps": -1}"#),
            RateLimitsError::Qps("aggregate_default_qps")
        );
        assert_eq!(
            error(r#"{"limits": [{"principal": ""}]}"#),
            RateLimitsError::NoPrincipal
        );
        assert_eq!(
            error(r#"{"limits": [{"principal": "a"}, {"principal": "a"}]}"#),
            RateLimitsError::Twice("a".to_owned())
        );
    }
}
