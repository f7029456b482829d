//! How far a task says it is, for people.

use std::time::{Duration, Instant};

use tepui_api::v1::TaskStatus;

/// From one line about progress to the next.
const PAUSE: Duration = Duration::from_secs(3);

/// `40 %: reading`, whatever of it is known. What could lead a terminal astray is left out.
pub(crate) fn told(fraction: Option<f64>, message: &str) -> String {
    let message: String = message.chars().filter(|c| !c.is_control()).collect();
    match (fraction, message.as_str()) {
        (None, message) => message.to_owned(),
        (Some(fraction), "") => format!("{:.0} %", fraction * 100.0),
        (Some(fraction), message) => format!("{:.0} %: {message}", fraction * 100.0),
    }
}

/// Decides which of a task's reports are worth a line.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    last: Option<(Instant, String)>,
}

impl Lines {
    /// A line for that status, if it is time for one and it says anything new.
    pub(crate) fn line(&mut self, now: Instant, status: &TaskStatus) -> Option<String> {
        let progress = status.usage.as_ref()?.progress.as_ref()?;
        let text = told(progress.fraction, progress.message());
        if let Some((at, said)) = &self.last
            && (now.saturating_duration_since(*at) < PAUSE || *said == text)
        {
            return None;
        }
        self.last = Some((now, text.clone()));
        Some(text).filter(|text| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use tepui_api::ext::TaskUsage;
    use tepui_api::ext::task_usage::Progress;

    use super::*;

    #[test]
    fn progress_is_told_as_far_as_it_is_known() {
        assert_eq!(told(Some(0.404), "reading"), "40 %: reading");
        assert_eq!(told(Some(1.0), ""), "100 %");
        assert_eq!(told(None, "a\x1b[2Jb\n"), "a[2Jb");
        assert_eq!(told(None, ""), "");
    }

    #[test]
    fn lines_are_few_and_new() {
        let status = |fraction| TaskStatus {
            usage: Some(TaskUsage {
                progress: Some(Progress {
                    fraction: Some(fraction),
                    message: None,
                }),
                ..TaskUsage::default()
            }),
            ..TaskStatus::default()
        };
        let (mut lines, began) = (Lines::default(), Instant::now());
        let after = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(lines.line(began, &TaskStatus::default()), None);
        assert_eq!(lines.line(began, &status(0.1)).as_deref(), Some("10 %"));
        assert_eq!(lines.line(after(1), &status(0.2)), None);
        assert_eq!(lines.line(after(4), &status(0.5)).as_deref(), Some("50 %"));
        assert_eq!(lines.line(after(9), &status(0.501)), None);
    }
}
