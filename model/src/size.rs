//! How people write amounts of bytes. All multiples are binary, as in Mesos: an MB of memory is 2^20 bytes.

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    #[error("'{text}' is not a size: it must begin with a number, as in 64MB or 1.5GiB")]
    Number { text: String },
    #[error(
        "'{text}' has the unknown unit '{unit}'; known are B, KB, MB, GB, TB and KiB, MiB, GiB, TiB"
    )]
    Unit { text: String, unit: String },
    #[error("the size '{text}' is too large")]
    Range { text: String },
}

/// Bytes; a number without a unit is in MB, as the `mem` and `disk` resources are.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let split = text
        .find(|character: char| !(character.is_ascii_digit() || character == '.'))
        .unwrap_or(text.len());
    let (number, unit) = (&text[..split], text[split..].trim());
    let value: f64 = number.parse().map_err(|_| SizeError::Number {
        text: text.to_owned(),
    })?;
    let multiple: u64 = match unit.to_ascii_lowercase().as_str() {
        "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "" | "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => {
            return Err(SizeError::Unit {
                text: text.to_owned(),
                unit: unit.to_owned(),
            });
        }
    };
    let too_large = || SizeError::Range {
        text: text.to_owned(),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(multiple).ok_or_else(too_large);
    }
    let total = value * multiple as f64;
    if total >= u64::MAX as f64 {
        Err(too_large())
    } else {
        Ok(total.round() as u64)
    }
}

/// `64 MiB`, `1.5 GiB`, `12 B`; at most one decimal, for people and not for reading back.
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would be written as 1024.0 is one of the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let rounded = (value * 10.0).round() / 10.0;
    format!("{rounded} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_and_bare_numbers_are_megabytes() {
        for text in [
            "64MB",
            "64MiB",
            "64M",
            "64",
            "64 mb",
            "65536KB",
            "0.0625GiB",
        ] {
            assert_eq!(parse_size(text), Ok(64 << 20), "{text}");
        }
        assert_eq!(parse_size("1.5GiB"), Ok(3 << 29));
        assert_eq!(parse_size("7B"), Ok(7));
        assert_eq!(parse_size("2TB"), Ok(2 << 40));
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_reason() {
        assert!(matches!(parse_size("MB"), Err(SizeError::Number { .. })));
        assert!(matches!(parse_size("-1MB"), Err(SizeError::Number { .. })));
        assert!(matches!(parse_size("1XB"), Err(SizeError::Unit { .. })));
        assert!(matches!(
            parse_size("99999999TB"),
            Err(SizeError::Range { .. })
        ));
        assert!(matches!(
            parse_size("99999999.5TB"),
            Err(SizeError::Range { .. })
        ));
    }

    #[test]
    fn bytes_are_written_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (64 << 20, "64 MiB"),
            (3 << 29, "1.5 GiB"),
            ((1 << 20) - 1, "1 MiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(format_bytes(bytes), text);
        }
    }
}
