//! What a task is, judged by its bytes and not by what somebody called it; and how a command line becomes the argument
//! vector of a guest that has no shell.

use std::collections::BTreeMap;
use std::path::Path;

/// How many bytes decide.
pub(crate) const MAGIC_BYTES: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// A core module.
    Module,
    Component,
    /// The text form of either.
    Text,
    /// Anything else: it runs natively, if at all.
    Native,
}

impl Format {
    /// By the first bytes, or by the name for the text form, which has no magic number.
    pub(crate) fn of(name: &str, beginning: &[u8]) -> Self {
        if beginning.starts_with(b"\0asm") {
            // Two bytes of version, then two bytes of layer: 0 is a core module, 1 a component.
            return match beginning.get(6..8) {
                Some([1, 0]) => Self::Component,
                _ => Self::Module,
            };
        }
        let name = name.split('?').next().unwrap_or(name);
        if Path::new(name)
            .extension()
            .is_some_and(|ending| ending.eq_ignore_ascii_case("wat"))
        {
            return Self::Text;
        }
        Self::Native
    }

    /// With its article, for a sentence.
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Self::Module => "a wasm module",
            Self::Component => "a wasm component",
            Self::Text => "WebAssembly text",
            Self::Native => "no wasm",
        }
    }

    pub(crate) fn is_wasm(self) -> bool {
        self != Self::Native
    }
}

/// Of an ELF file by its first bytes: the machine it is for, unless that is this one or nobody here knows its number.
pub(crate) fn foreign_architecture(beginning: &[u8]) -> Option<&'static str> {
    if !beginning.starts_with(b"\x7fELF") {
        return None;
    }
    let number: [u8; 2] = beginning.get(18..20)?.try_into().ok()?;
    // The sixth byte says in which order the others are.
    let number = match beginning.get(5)? {
        2 => u16::from_be_bytes(number),
        _ => u16::from_le_bytes(number),
    };
    let name = match number {
        3 => "x86",
        8 => "mips",
        20 => "powerpc",
        21 => "powerpc64",
        22 => "s390x",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv64",
        258 => "loongarch64",
        _ => return None,
    };
    // A 64-bit x86 runs 32-bit programs.
    let fits = name == std::env::consts::ARCH
        || (name, std::env::consts::ARCH) == ("x86", "x86_64")
        || (name, std::env::consts::ARCH) == ("arm", "aarch64");
    (!fits).then_some(name)
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WordsError {
    #[error("the command line uses {feature:?}, which needs a shell; a wasm task has none")]
    NeedsShell { feature: char },
    #[error("the command line has an unclosed {quote} quote")]
    Unclosed { quote: &'static str },
}

/// The first word, as written, if it has no quotes: enough to recognise a file's name.
pub(crate) fn first_word(line: &str) -> Option<&str> {
    line.split_whitespace().next()
}

/// Splits a command line as a POSIX shell does: quotes, backslashes, comments, and `$NAME` from `environment`. What
/// joins commands or leads their output elsewhere is refused; patterns (`*`) and `~` are passed on as they stand.
pub(crate) fn split_words(
    line: &str,
    environment: &BTreeMap<String, String>,
) -> Result<Vec<String>, WordsError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '#' if word.is_none() => while characters.next_if(|next| *next != '\n').is_some() {},
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some('\'') => break,
                        Some(other) => word.push(other),
                        None => return Err(WordsError::Unclosed { quote: "single" }),
                    }
                }
            }
            '"' => double_quoted(&mut characters, word.get_or_insert_default(), environment)?,
            '\\' => match characters.next() {
                // A backslash before a line's end continues the line.
                Some('\n') | None => {}
                Some(other) => word.get_or_insert_default().push(other),
            },
            '$' => {
                let expanded = expand(&mut characters, environment)?;
                // An empty variable outside quotes makes no word of its own.
                if !expanded.is_empty() || word.is_some() {
                    word.get_or_insert_default().push_str(&expanded);
                }
            }
            '|' | '&' | ';' | '<' | '>' | '(' | ')' | '`' => {
                return Err(WordsError::NeedsShell { feature: character });
            }
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

type Characters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn double_quoted(
    characters: &mut Characters<'_>,
    word: &mut String,
    environment: &BTreeMap<String, String>,
) -> Result<(), WordsError> {
    loop {
        match characters.next() {
            Some('"') => return Ok(()),
            Some('\\') => match characters.next() {
                Some('\n') => {}
                Some(escaped @ ('"' | '\\' | '$' | '`')) => word.push(escaped),
                Some(other) => word.extend(['\\', other]),
                None => return Err(WordsError::Unclosed { quote: "double" }),
            },
            Some('$') => word.push_str(&expand(characters, environment)?),
            Some('`') => return Err(WordsError::NeedsShell { feature: '`' }),
            Some(other) => word.push(other),
            None => return Err(WordsError::Unclosed { quote: "double" }),
        }
    }
}

/// What follows a `$`.
fn expand(
    characters: &mut Characters<'_>,
    environment: &BTreeMap<String, String>,
) -> Result<String, WordsError> {
    let is_name = |character: &char| character.is_ascii_alphanumeric() || *character == '_';
    let mut name = String::new();
    match characters.peek() {
        Some('(') => return Err(WordsError::NeedsShell { feature: '$' }),
        Some('{') => {
            characters.next();
            while let Some(part) = characters.next_if(is_name) {
                name.push(part);
            }
            if characters.next() != Some('}') || name.is_empty() {
                return Err(WordsError::NeedsShell { feature: '$' });
            }
        }
        Some(first) if first.is_ascii_alphabetic() || *first == '_' => {
            while let Some(part) = characters.next_if(is_name) {
                name.push(part);
            }
        }
        _ => return Ok("$".to_owned()),
    }
    Ok(environment.get(&name).cloned().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_decide_and_the_name_only_for_text() {
        for (name, bytes, format) in [
            ("a.wasm", b"\0asm\x01\0\0\0".as_slice(), Format::Module),
            ("renamed.txt", b"\0asm\x01\0\0\0", Format::Module),
            ("short", b"\0asm", Format::Module),
            ("c.wasm", b"\0asm\x0d\0\x01\0", Format::Component),
            ("a.wat", b"(module)", Format::Text),
            ("a.WAT?x=1", b"(module)", Format::Text),
            ("liar.wasm", b"#!/bin/sh\necho", Format::Native),
            ("elf", b"\x7fELF\x02\x01\x01\0", Format::Native),
            ("empty.wasm", b"", Format::Native),
        ] {
            assert_eq!(Format::of(name, bytes), format, "{name}");
        }
    }

    #[test]
    fn a_command_line_is_split_as_a_shell_would() {
        let environment = BTreeMap::from([("NAME".to_owned(), "a b".to_owned())]);
        for (line, words) in [
            ("hello.wasm a b", vec!["hello.wasm", "a", "b"]),
            (
                "  x   'it is' \"one word\" ",
                vec!["x", "it is", "one word"],
            ),
            (
                r#"x a\ b "q\"q" 'back\slash' "back\slash""#,
                vec!["x", "a b", "q\"q", r"back\slash", r"back\slash"],
            ),
            ("x '' \"\"", vec!["x", "", ""]),
            (
                "x $NAME ${NAME}c \"$NAME\" '$NAME' $NONE",
                vec!["x", "a b", "a bc", "a b", "$NAME"],
            ),
            ("x 5$ $5 # the rest", vec!["x", "5$", "$5"]),
            ("x a#b", vec!["x", "a#b"]),
            ("", vec![]),
        ] {
            assert_eq!(split_words(line, &environment).unwrap(), words, "{line}");
        }
    }

    #[test]
    fn what_only_a_shell_can_do_is_refused_with_a_sentence() {
        let none = BTreeMap::new();
        for line in [
            "x | y",
            "x > f",
            "x; y",
            "x && y",
            "x `y`",
            "x $(y)",
            "x \"$(y)\"",
            "(x)",
        ] {
            assert!(
                matches!(split_words(line, &none), Err(WordsError::NeedsShell { .. })),
                "{line}"
            );
        }
        assert_eq!(
            split_words("x 'y", &none).unwrap_err().to_string(),
            "the command line has an unclosed single quote"
        );
        assert!(split_words("x '|' \"&;\"", &none).is_ok());
    }
}
