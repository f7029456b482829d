//! What the results of a task's checks mean, and when the next one is due.
//!
//! Nothing here knows a clock or a socket: all times are spans since the task began to run, and whoever probes says how
//! late it is. The rules and the figures are Mesos's.

use std::time::Duration;

use tepui_api::v1::check_status_info::{Command, Http, Tcp};
use tepui_api::v1::task_status::Reason;
use tepui_api::v1::{
    CheckInfo, CheckStatusInfo, HealthCheck, TaskInfo, TaskState, TaskStatus, check_info,
};

/// What one probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The command ended by itself.
    Exited(i32),
    /// The server answered with this status.
    Answered(u16),
    /// Whether a connection came about.
    Connected(bool),
    /// Nothing was found out: the probe took too long or could not be made. Why, in words.
    Nothing(String),
}

impl Outcome {
    /// Whether a health check counts it as a success.
    fn is_healthy(&self) -> bool {
        match self {
            Self::Exited(status) => *status == 0,
            Self::Answered(status) => (200..400).contains(status),
            Self::Connected(connected) => *connected,
            Self::Nothing(_) => false,
        }
    }

    fn sentence(&self) -> String {
        match self {
            Self::Exited(status) => format!("the command exited with status {status}"),
            Self::Answered(status) => format!("the server answered {status}"),
            Self::Connected(true) => "the port takes connections".to_owned(),
            Self::Connected(false) => "the port takes no connections".to_owned(),
            Self::Nothing(why) => why.clone(),
        }
    }
}

/// When probes are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rhythm {
    /// From the beginning of the task to the first probe.
    delay: Duration,
    /// From the end of one probe to the next.
    interval: Duration,
    /// How long a probe may take. `None`: as long as it likes.
    timeout: Option<Duration>,
}

impl Rhythm {
    fn new(delay: f64, interval: f64, timeout: f64) -> Self {
        Self {
            delay: seconds(delay),
            interval: seconds(interval),
            timeout: Some(seconds(timeout)).filter(|timeout| !timeout.is_zero()),
        }
    }

    pub(crate) fn of_check(check: &CheckInfo) -> Self {
        Self::new(
            check.delay_seconds(),
            check.interval_seconds(),
            check.timeout_seconds(),
        )
    }

    pub(crate) fn of_health_check(check: &HealthCheck) -> Self {
        Self::new(
            check.delay_seconds(),
            check.interval_seconds(),
            check.timeout_seconds(),
        )
    }
}

fn seconds(seconds: f64) -> Duration {
    // Masters refuse what is negative; what is too large for a clock is never.
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

/// When the next probe is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pulse {
    rhythm: Rhythm,
    /// `None` while a probe is under way or nothing is probed.
    due: Option<Duration>,
}

impl Pulse {
    /// A task begins.
    pub(crate) fn new(rhythm: Rhythm) -> Self {
        Self {
            rhythm,
            due: Some(rhythm.delay),
        }
    }

    /// When to probe next.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.due
    }

    /// How long the probe that begins now may take.
    pub(crate) fn begin(&mut self) -> Option<Duration> {
        self.due = None;
        self.rhythm.timeout
    }

    /// A probe has ended, of itself or because its time was over.
    pub(crate) fn ended(&mut self, now: Duration) {
        self.due = Some(now.saturating_add(self.rhythm.interval));
    }

    /// Nobody hears what is found: nothing is probed, and a probe under way counts for nothing.
    pub(crate) fn pause(&mut self) {
        self.due = None;
    }

    /// Somebody hears it again: it is found out at once.
    pub(crate) fn resume(&mut self, now: Duration) {
        self.due = Some(now);
    }
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// A check's result has changed.
    Checked(CheckStatusInfo),
    /// The task turned healthy, or a health check failed.
    Health {
        /// Which of the two.
        healthy: bool,
        /// It failed too often: the task is to be killed.
        kill: bool,
        /// What was found, in words.
        message: String,
    },
}

/// Counts the failures of a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    grace: Duration,
    most: u32,
    failures: u32,
    /// Whether it never succeeded yet.
    initializing: bool,
}

impl Health {
    /// Before the first probe.
    pub(crate) fn new(check: &HealthCheck) -> Self {
        Self {
            grace: seconds(check.grace_period_seconds()),
            most: check.consecutive_failures(),
            failures: 0,
            initializing: true,
        }
    }

    /// What a probe means that ended `now`.
    pub(crate) fn observe(&mut self, now: Duration, outcome: &Outcome) -> Option<News> {
        if outcome.is_healthy() {
            let turned = self.initializing || self.failures > 0;
            self.initializing = false;
            self.failures = 0;
            return turned.then(|| News::Health {
                healthy: true,
                kill: false,
                message: format!("Health check passed: {}", outcome.sentence()),
            });
        }
        if self.initializing && now <= self.grace {
            return None;
        }
        self.failures += 1;
        Some(News::Health {
            healthy: false,
            kill: self.failures >= self.most,
            message: format!(
                "Health check failed {} times in a row: {}",
                self.failures,
                outcome.sentence()
            ),
        })
    }
}

/// Remembers a check's last result.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Check {
    last: CheckStatusInfo,
}

impl Check {
    /// Before the first probe.
    pub(crate) fn new(kind: check_info::Type) -> Self {
        Self {
            last: no_result(kind),
        }
    }

    /// What a probe means: only a change is news.
    pub(crate) fn observe(&mut self, outcome: &Outcome) -> Option<News> {
        let mut found = no_result(self.last.r#type());
        match (outcome, &mut found) {
            (
                Outcome::Exited(status),
                CheckStatusInfo {
                    command: Some(command),
                    ..
                },
            ) => {
                command.exit_code = Some(*status);
            }
            (
                Outcome::Answered(status),
                CheckStatusInfo {
                    http: Some(http), ..
                },
            ) => {
                http.status_code = Some(u32::from(*status));
            }
            (Outcome::Connected(connected), CheckStatusInfo { tcp: Some(tcp), .. }) => {
                tcp.succeeded = Some(*connected);
            }
            _ => {}
        }
        if found == self.last {
            return None;
        }
        self.last = found;
        Some(News::Checked(found))
    }
}

/// A check that has found nothing: its field is there and empty.
fn no_result(kind: check_info::Type) -> CheckStatusInfo {
    CheckStatusInfo {
        r#type: Some(kind.into()),
        command: (kind == check_info::Type::Command).then(Command::default),
        http: (kind == check_info::Type::Http).then(Http::default),
        tcp: (kind == check_info::Type::Tcp).then(Tcp::default),
    }
}

/// What every status of a task says beside its state: how its checks fared last.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Condition {
    healthy: Option<bool>,
    check: Option<CheckStatusInfo>,
}

impl Condition {
    /// Before anything was probed.
    pub fn of(task: &TaskInfo) -> Self {
        Self {
            healthy: None,
            check: task.check.as_ref().map(|check| no_result(check.r#type())),
        }
    }

    /// Takes news in; the status that tells them.
    pub fn take(&mut self, news: &News) -> TaskStatus {
        let status = TaskStatus {
            state: TaskState::TaskRunning.into(),
            ..TaskStatus::default()
        };
        let mut status = match news {
            News::Checked(check) => {
                self.check = Some(*check);
                status.with_reason(Reason::TaskCheckStatusUpdated)
            }
            News::Health {
                healthy, message, ..
            } => {
                self.healthy = Some(*healthy);
                status
                    .with_reason(Reason::TaskHealthCheckStatusUpdated)
                    .with_message(message.clone())
            }
        };
        self.add_to(&mut status);
        status
    }

    /// Puts it into a status.
    pub fn add_to(&self, status: &mut TaskStatus) {
        status.healthy = self.healthy;
        status.check_status = self.check;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn failed() -> Outcome {
        Outcome::Exited(1)
    }

    /// Healthy, kill.
    fn told(news: Option<News>) -> Option<(bool, bool)> {
        news.map(|news| match news {
            News::Health { healthy, kill, .. } => (healthy, kill),
            News::Checked(check) => panic!("{check:?}"),
        })
    }

    #[test]
    fn mesoss_figures_hold_unless_others_are_given() {
        let rhythm = Rhythm::of_health_check(&HealthCheck::default());
        let expected = Rhythm {
            delay: secs(15),
            interval: secs(10),
            timeout: Some(secs(20)),
        };
        assert_eq!(rhythm, expected);
        assert_eq!(Rhythm::of_check(&CheckInfo::default()), expected);
        let endless = HealthCheck {
            delay_seconds: Some(0.0),
            timeout_seconds: Some(0.0),
            interval_seconds: Some(0.5),
            ..HealthCheck::default()
        };
        assert_eq!(
            Rhythm::of_health_check(&endless),
            Rhythm {
                delay: Duration::ZERO,
                interval: Duration::from_millis(500),
                timeout: None
            }
        );
    }

    #[test]
    fn the_interval_runs_from_the_end_of_a_probe() {
        let mut pulse = Pulse::new(Rhythm {
            delay: secs(15),
            interval: secs(10),
            timeout: Some(secs(20)),
        });
        assert_eq!(pulse.due(), Some(secs(15)));
        assert_eq!(pulse.begin(), Some(secs(20)));
        assert_eq!(pulse.due(), None, "one at a time");
        pulse.ended(secs(22));
        assert_eq!(pulse.due(), Some(secs(32)));
        pulse.pause();
        assert_eq!(pulse.due(), None);
        pulse.resume(secs(100));
        assert_eq!(pulse.due(), Some(secs(100)));
    }

    #[test]
    fn failures_before_the_first_success_are_ignored_for_a_grace() {
        let mut health = Health::new(&HealthCheck::default());
        assert_eq!(told(health.observe(secs(5), &failed())), None);
        assert_eq!(told(health.observe(secs(10), &failed())), None);
        assert_eq!(
            told(health.observe(secs(11), &failed())),
            Some((false, false)),
            "the grace is over, and none of those before counts"
        );
        assert_eq!(
            told(health.observe(secs(12), &failed())),
            Some((false, false))
        );
        assert_eq!(
            told(health.observe(secs(13), &failed())),
            Some((false, true))
        );
    }

    #[test]
    fn after_the_first_success_there_is_no_grace() {
        let mut health = Health::new(&HealthCheck::default());
        let ok = Outcome::Answered(302);
        assert_eq!(told(health.observe(secs(1), &ok)), Some((true, false)));
        assert_eq!(
            told(health.observe(secs(2), &ok)),
            None,
            "it is healthy still"
        );
        assert_eq!(
            told(health.observe(secs(3), &Outcome::Answered(404))),
            Some((false, false))
        );
        assert_eq!(
            told(health.observe(secs(4), &Outcome::Nothing("late".into()))),
            Some((false, false)),
            "every failure is told"
        );
        assert_eq!(told(health.observe(secs(5), &ok)), Some((true, false)));
        for (at, kill) in [(6, false), (7, false), (8, true)] {
            assert_eq!(
                told(health.observe(secs(at), &failed())),
                Some((false, kill)),
                "a success begins the count anew"
            );
        }
    }

    #[test]
    fn a_single_failure_kills_where_that_is_asked_for() {
        let mut health = Health::new(&HealthCheck {
            consecutive_failures: Some(1),
            grace_period_seconds: Some(0.0),
            ..HealthCheck::default()
        });
        assert_eq!(
            told(health.observe(secs(1), &Outcome::Connected(false))),
            Some((false, true))
        );
    }

    #[test]
    fn a_check_tells_changes_only_and_a_result_that_is_lost() {
        let mut check = Check::new(check_info::Type::Command);
        let late = Outcome::Nothing("it took too long".into());
        let code = |news: Option<News>| match news {
            Some(News::Checked(status)) => Some(status.command.unwrap().exit_code),
            None => None,
            Some(other) => panic!("{other:?}"),
        };
        assert_eq!(code(check.observe(&late)), None, "nothing was known before");
        assert_eq!(code(check.observe(&Outcome::Exited(0))), Some(Some(0)));
        assert_eq!(code(check.observe(&Outcome::Exited(0))), None);
        assert_eq!(code(check.observe(&Outcome::Exited(3))), Some(Some(3)));
        assert_eq!(
            code(check.observe(&late)),
            Some(None),
            "the field stays, without a code"
        );
        assert_eq!(code(check.observe(&late)), None);
    }

    #[test]
    fn every_status_of_a_checked_task_says_how_it_is() {
        let task = TaskInfo {
            check: Some(CheckInfo {
                r#type: Some(check_info::Type::Tcp.into()),
                ..CheckInfo::default()
            }),
            ..TaskInfo::default()
        };
        let mut condition = Condition::of(&task);
        let mut status = TaskStatus::default();
        condition.add_to(&mut status);
        let check = status.check_status.unwrap();
        assert_eq!(check.r#type(), check_info::Type::Tcp);
        assert_eq!(check.tcp, Some(Tcp::default()));
        assert_eq!(status.healthy, None, "nothing is known of it yet");

        let unhealthy = News::Health {
            healthy: false,
            kill: true,
            message: "no".into(),
        };
        let told = condition.take(&unhealthy);
        assert_eq!(
            (told.healthy, told.reason(), told.state()),
            (
                Some(false),
                Reason::TaskHealthCheckStatusUpdated,
                TaskState::TaskRunning
            )
        );
        assert!(told.check_status.is_some());
        let mut check = Check::new(check_info::Type::Tcp);
        let told = condition.take(&check.observe(&Outcome::Connected(true)).unwrap());
        assert_eq!(told.reason(), Reason::TaskCheckStatusUpdated);
        assert_eq!(told.healthy, Some(false), "kept until another is known");
        assert_eq!(
            told.check_status.unwrap().tcp.unwrap().succeeded,
            Some(true)
        );
    }
}
