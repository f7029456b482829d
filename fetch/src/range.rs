//! The `Range` header, as those who serve artifacts read it.

/// Which bytes a `Range` header asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Range {
    Whole,
    /// Both ends belong to it.
    Part {
        begin: u64,
        end: u64,
    },
    Unsatisfiable,
}

impl Range {
    /// Several ranges, other units and nonsense give the whole, as the standard allows.
    pub fn parse(header: &str, size: u64) -> Self {
        let Some((begin, end)) = header
            .trim()
            .strip_prefix("bytes=")
            .filter(|ranges| !ranges.contains(','))
            .and_then(|range| range.trim().split_once('-'))
        else {
            return Self::Whole;
        };
        match (begin.parse::<u64>(), end.parse::<u64>()) {
            (Err(_), Ok(last)) if begin.is_empty() => match last.min(size) {
                0 => Self::Unsatisfiable,
                last => Self::Part {
                    begin: size - last,
                    end: size - 1,
                },
            },
            (Ok(begin), Ok(end)) if begin > end => Self::Whole,
            (Ok(begin), _) if begin >= size && (end.is_empty() || end.parse::<u64>().is_ok()) => {
                Self::Unsatisfiable
            }
            (Ok(begin), Ok(end)) => Self::Part {
                begin,
                end: end.min(size - 1),
            },
            (Ok(begin), Err(_)) if end.is_empty() => Self::Part {
                begin,
                end: size - 1,
            },
            _ => Self::Whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        let parse = |header| Range::parse(header, 100);
        assert_eq!(parse("bytes=0-9"), Range::Part { begin: 0, end: 9 });
        assert_eq!(parse("bytes=90-"), Range::Part { begin: 90, end: 99 });
        assert_eq!(parse("bytes=-10"), Range::Part { begin: 90, end: 99 });
        assert_eq!(parse("bytes=-1000"), Range::Part { begin: 0, end: 99 });
        assert_eq!(parse("bytes=50-1000"), Range::Part { begin: 50, end: 99 });
        for unsatisfiable in ["bytes=100-", "bytes=100-200", "bytes=-0"] {
            assert_eq!(
                parse(unsatisfiable),
                Range::Unsatisfiable,
                "{unsatisfiable}"
            );
        }
        for whole in [
            "bytes=0-1,5-6",
            "lines=1-2",
            "bytes=9-1",
            "bytes=a-b",
            "bytes",
            "bytes=-",
        ] {
            assert_eq!(parse(whole), Range::Whole, "{whole}");
        }
        assert_eq!(Range::parse("bytes=0-", 0), Range::Unsatisfiable);
    }
}
