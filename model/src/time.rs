//! Time as an argument: the pure crates are handed it and never ask for it. Also how people write durations.

use std::time::Duration;

/// Milliseconds since the process' own start. Never goes back, means nothing to another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(pub u64);

impl Tick {
    /// The tick this long from now. Parts of a millisecond count as a whole one: a deadline is never early.
    pub fn after(self, duration: Duration) -> Self {
        let milliseconds = duration.as_nanos().div_ceil(1_000_000);
        Self(
            self.0
                .saturating_add(u64::try_from(milliseconds).unwrap_or(u64::MAX)),
        )
    }

    /// How long ago `earlier` was; zero if it is yet to come.
    pub fn since(self, earlier: Tick) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Both clocks at one instant: ticks for deadlines, wall time for what people and the wire are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    pub tick: Tick,
    /// Nanoseconds since the Unix epoch.
    pub wall_ns: i64,
}

impl Now {
    /// Seconds since the Unix epoch, as the wire has them.
    pub fn wall_secs(&self) -> f64 {
        self.wall_ns as f64 / 1e9
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("'{text}' is not a duration: it must begin with a number, as in 500ms or 1.5mins")]
    Number { text: String },
    #[error("'{text}' has no unit; write one of ns, us, ms, secs, mins, hrs, days, weeks")]
    NoUnit { text: String },
    #[error(
        "'{text}' has the unknown unit '{unit}'; known are ns, us, ms, secs, mins, hrs, days, weeks"
    )]
    Unit { text: String, unit: String },
    #[error("the duration '{text}' is negative or too large")]
    Range { text: String },
}

const NANOSECOND: u64 = 1;
const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;

/// A duration as Mesos writes it, `15mins` or `1.5hrs`, or with the short units `s`, `m`, `h`, `d`.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let text = text.trim();
    let split = text
        .find(|character: char| {
            !(character.is_ascii_digit() || matches!(character, '.' | '-' | '+'))
        })
        .unwrap_or(text.len());
    let (number, unit) = (&text[..split], text[split..].trim());
    let owned = || text.to_owned();
    let value: f64 = number
        .parse()
        .map_err(|_| DurationError::Number { text: owned() })?;
    let nanoseconds = match unit {
        "" => return Err(DurationError::NoUnit { text: owned() }),
        "ns" => NANOSECOND,
        "us" => MICROSECOND,
        "ms" => MILLISECOND,
        "secs" | "sec" | "s" => SECOND,
        "mins" | "min" | "m" => MINUTE,
        "hrs" | "hr" | "h" => HOUR,
        "days" | "day" | "d" => DAY,
        "weeks" | "week" | "w" => WEEK,
        unit => {
            return Err(DurationError::Unit {
                text: owned(),
                unit: unit.to_owned(),
            });
        }
    };
    let total = value * nanoseconds as f64;
    // Mesos counts in signed 64 bits; what it could not represent is refused here too.
    if total < 0.0 || total >= i64::MAX as f64 {
        return Err(DurationError::Range { text: owned() });
    }
    // Whole numbers stay exact beyond what a double can hold.
    match number.parse::<u64>() {
        Ok(whole) => Ok(Duration::from_nanos(whole.saturating_mul(nanoseconds))),
        Err(_) => Ok(Duration::from_nanos(total.round() as u64)),
    }
}

/// So many of something within a time, evenly spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    pub permits: u32,
    pub per: Duration,
}

impl RateLimit {
    /// How long after one the next may come.
    pub fn interval(self) -> Duration {
        self.per / self.permits.max(1)
    }
}

impl std::fmt::Display for RateLimit {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.permits, format_duration(self.per))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateLimitError {
    #[error(
        "'{text}' is not a rate: write NUMBER/DURATION with a number of at least 1, as in 1/10mins"
    )]
    Form { text: String },
    #[error("'{text}' is not a rate: {source}")]
    Duration { text: String, source: DurationError },
}

/// A rate as Mesos writes it: `1/10mins`.
pub fn parse_rate_limit(text: &str) -> Result<RateLimit, RateLimitError> {
    let form = || RateLimitError::Form {
        text: text.to_owned(),
    };
    let (permits, per) = text.split_once('/').ok_or_else(form)?;
    let permits: u32 = permits.trim().parse().map_err(|_| form())?;
    let per = parse_duration(per).map_err(|source| RateLimitError::Duration {
        text: text.to_owned(),
        source,
    })?;
    if permits == 0 || per.is_zero() {
        return Err(form());
    }
    Ok(RateLimit { permits, per })
}

/// Writes a duration in the largest unit in which it is whole, or else in the one below its magnitude: `15mins`,
/// `90secs`, `252hrs`.
pub fn format_duration(duration: Duration) -> String {
    const UNITS: [(u64, &str); 8] = [
        (WEEK, "weeks"),
        (DAY, "days"),
        (HOUR, "hrs"),
        (MINUTE, "mins"),
        (SECOND, "secs"),
        (MILLISECOND, "ms"),
        (MICROSECOND, "us"),
        (NANOSECOND, "ns"),
    ];
    let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    if nanoseconds == 0 {
        return "0ns".to_owned();
    }
    let magnitude = UNITS
        .iter()
        .position(|(size, _)| nanoseconds >= *size)
        .unwrap_or(UNITS.len() - 1);
    let (size, name) = UNITS[magnitude];
    if nanoseconds.is_multiple_of(size) {
        return format!("{}{name}", nanoseconds / size);
    }
    let (size, name) = UNITS[magnitude + 1];
    if nanoseconds.is_multiple_of(size) {
        return format!("{}{name}", nanoseconds / size);
    }
    format!("{}{name}", nanoseconds as f64 / size as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_every_unit() {
        for (text, nanoseconds) in [
            ("1ns", 1),
            ("2us", 2_000),
            ("500ms", 500 * MILLISECOND),
            ("5secs", 5 * SECOND),
            ("5s", 5 * SECOND),
            ("1.5mins", 90 * SECOND),
            ("15m", 15 * MINUTE),
            ("2hrs", 2 * HOUR),
            ("3days", 3 * DAY),
            ("1weeks", WEEK),
            (" 10 secs ", 10 * SECOND),
            ("0ns", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_nanos(nanoseconds)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_reason() {
        assert!(matches!(
            parse_duration("secs"),
            Err(DurationError::Number { .. })
        ));
        assert!(matches!(
            parse_duration(""),
            Err(DurationError::Number { .. })
        ));
        assert!(matches!(
            parse_duration("5"),
            Err(DurationError::NoUnit { .. })
        ));
        assert!(matches!(
            parse_duration("5parsecs"),
            Err(DurationError::Unit { .. })
        ));
        assert!(matches!(
            parse_duration("-5secs"),
            Err(DurationError::Range { .. })
        ));
        assert!(matches!(
            parse_duration("99999999weeks"),
            Err(DurationError::Range { .. })
        ));
        assert!(matches!(
            parse_duration("1.2.3secs"),
            Err(DurationError::Number { .. })
        ));
    }

    #[test]
    fn rates_are_a_number_within_a_duration() {
        let rate = parse_rate_limit("2/10mins").unwrap();
        assert_eq!(rate.interval(), Duration::from_secs(5 * 60));
        assert_eq!(rate.to_string(), "2/10mins");
        for text in ["", "2", "0/1secs", "1/0secs", "x/1secs", "-1/1secs"] {
            assert!(
                matches!(parse_rate_limit(text), Err(RateLimitError::Form { .. })),
                "{text}"
            );
        }
        assert!(matches!(
            parse_rate_limit("1/10"),
            Err(RateLimitError::Duration { .. })
        ));
    }

    #[test]
    fn durations_are_written_in_the_unit_that_reads_best() {
        for (nanoseconds, text) in [
            (0, "0ns"),
            (15 * MINUTE, "15mins"),
            (5 * SECOND, "5secs"),
            (90 * SECOND, "90secs"),
            (10 * DAY, "10days"),
            (MILLISECOND + MICROSECOND / 2, "1000.5us"),
            (2 * WEEK, "2weeks"),
            (1_500 * MILLISECOND, "1500ms"),
        ] {
            assert_eq!(format_duration(Duration::from_nanos(nanoseconds)), text);
        }
    }

    #[test]
    fn a_deadline_is_never_early_and_never_wraps() {
        assert_eq!(Tick(10).after(Duration::from_micros(1)), Tick(11));
        assert_eq!(Tick(10).after(Duration::MAX), Tick(u64::MAX));
        assert_eq!(Tick(10).since(Tick(4)), Duration::from_millis(6));
        assert_eq!(Tick(4).since(Tick(10)), Duration::ZERO);
    }
}
