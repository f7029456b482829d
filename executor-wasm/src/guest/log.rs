//! The lines of `log.jsonl`: one JSON object each, `{"time", "level", "message", "fields"}`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    level: Level,
    message: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    fields: BTreeMap<&'a str, &'a str>,
}

/// Of fields with the same key the last one counts.
pub(crate) fn line(
    level: Level,
    message: &str,
    fields: &[(impl AsRef<str>, impl AsRef<str>)],
) -> Vec<u8> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let line = Line {
        time: utc(since.unwrap_or_default()),
        level,
        message,
        fields: fields
            .iter()
            .map(|(key, value)| (key.as_ref(), value.as_ref()))
            .collect(),
    };
    // Texts alone are always JSON.
    let mut line = serde_json::to_vec(&line).unwrap_or_default();
    line.push(b'\n');
    line
}

/// A time since 1970 as RFC 3339 has it, in UTC, to the millisecond.
fn utc(since: Duration) -> String {
    let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Years that begin in March have their leap day at the end; 400 of them have 146,097 days.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        rest / 3_600,
        rest / 60 % 60,
        rest % 60,
        since.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_everybody_writes_them() {
        let at = |seconds| utc(Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59.000Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000Z");
        assert_eq!(
            utc(Duration::from_millis(1_795_924_800_250)),
            "2026-11-29T04:00:00.250Z"
        );
    }

    #[test]
    fn a_line_is_one_object_whatever_is_in_it() {
        let line = line(Level::Warn, "a\n\"b\"", &[("k\0", "1"), ("k\0", "2")]);
        let (last, json) = line.split_last().expect("it is not empty");
        assert_eq!(*last, b'\n');
        assert!(!json.contains(&b'\n'));
        let json: serde_json::Value = serde_json::from_slice(json).expect("it is JSON");
        assert_eq!(json["level"], "warn");
        assert_eq!(json["message"], "a\n\"b\"");
        assert_eq!(json["fields"]["k\0"], "2");
        assert!(json["time"].as_str().expect("text").ends_with('Z'));
    }
}
