//! Rows drawn as columns that line up.

use serde_json::Value;
use tepui_model::plain;

/// Prints rows under a heading; the last column is never padded.
pub(crate) fn print(heading: &[&str], rows: &[Vec<String>]) {
    end_with_the_reader();
    print!("{}", render(heading, rows));
}

/// Prints an answer for programs.
pub(crate) fn json(answer: &Value) {
    end_with_the_reader();
    println!("{answer:#}");
}

/// Has whoever writes to somebody who reads no more (`| head`) end quietly, as other commands do: Rust ignores that signal
/// otherwise, and `print!` panics. To be called when all answers are in, for sockets break as well.
pub(crate) fn end_with_the_reader() {
    // SAFETY: the default action is no handler of ours.
    let set = unsafe {
        nix::sys::signal::signal(
            nix::sys::signal::Signal::SIGPIPE,
            nix::sys::signal::SigHandler::SigDfl,
        )
    };
    if let Err(error) = set {
        tracing::debug!(%error, "a reader that goes away will look like a failure");
    }
}

fn render(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|word| word.len()).collect();
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| plain(cell)).collect())
        .collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let heading: Vec<String> = heading.iter().map(|word| (*word).to_owned()).collect();
    for row in std::iter::once(&heading).chain(&rows) {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                let width = widths.get(column).copied().unwrap_or_default();
                text.extend(std::iter::repeat_n(
                    ' ',
                    width.saturating_sub(cell.chars().count()) + 2,
                ));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::render;

    #[test]
    fn columns_line_up_and_the_last_is_not_padded() {
        let rows = vec![
            vec!["a".to_owned(), "b".to_owned()],
            vec!["long".to_owned(), "c".to_owned()],
        ];
        assert_eq!(
            render(&["ID", "STATE"], &rows),
            "ID    STATE\na     b\nlong  c\n"
        );
    }

    #[test]
    fn what_others_named_does_not_speak_to_the_terminal() {
        let rows = vec![vec!["\x1b[2Ja\nb".to_owned()]];
        assert_eq!(render(&["ID"], &rows), "ID\n\\u{1b}[2Ja\\nb\n");
    }
}
