//! Words of others, made fit for a terminal and for a line of a log: what would move the cursor, colour or turn around what
//! comes after it is written as an escape.

use std::fmt::Write as _;

/// The text with every control character, line breaks included, and every character that changes the direction of
/// writing as an escape (`\n`, `\u{1b}`, `\u{202e}`).
pub fn plain(text: &str) -> String {
    escaped(text, |_| false)
}

/// As [`plain`], but line breaks stay what they are.
pub fn plain_lines(text: &str) -> String {
    escaped(text, |letter| letter == '\n')
}

/// The text with the user and password taken out of every address (`https://user:password@host/` becomes `https://host/`).
pub fn without_credentials(text: &str) -> String {
    let mut told = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        told.push_str(before);
        told.push_str("://");
        let ends = |letter: char| {
            letter.is_whitespace() || matches!(letter, '/' | '?' | '#' | '"' | '\'' | '<' | '>')
        };
        let authority = &after[..after.find(ends).unwrap_or(after.len())];
        let credentials = authority.rfind('@').map_or(0, |at| at + 1);
        rest = &after[credentials..];
    }
    told.push_str(rest);
    told
}

fn escaped(text: &str, keeps: impl Fn(char) -> bool) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_unfit(letter) && !keeps(letter) {
            // Writing to a string cannot fail.
            let _ = write!(plain, "{}", letter.escape_default());
        } else {
            plain.push(letter);
        }
    }
    plain
}

fn is_unfit(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{61c}'
            | '\u{200e}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        assert_eq!(plain("äöü: all → fine"), "äöü: all → fine");
        assert_eq!(
            plain("\x1b[2Ja\nb\r\t\0\u{9b}\u{202e}\u{2066}"),
            "\\u{1b}[2Ja\\nb\\r\\t\\u{0}\\u{9b}\\u{202e}\\u{2066}"
        );
        assert_eq!(plain_lines("a\n\x07b"), "a\n\\u{7}b");
    }

    #[test]
    fn who_asked_is_not_told() {
        for (text, told) in [
            ("nothing@here", "nothing@here"),
            ("http://h/a@b", "http://h/a@b"),
            (
                "https://u:p@w@h:8/x and s3://k@b?c: no",
                "https://h:8/x and s3://b?c: no",
            ),
            ("'ftp://u:p@h'", "'ftp://h'"),
            ("://", "://"),
        ] {
            assert_eq!(without_credentials(text), told);
        }
    }
}
