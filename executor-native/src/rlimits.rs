//! The resource limits that a task asks for of its processes (`ContainerInfo.rlimit_info`), under Mesos's names.

use std::fmt;
use std::io;

use tepui_api::v1::RLimitInfo;
use tepui_api::v1::r_limit_info::r_limit::Type;

/// No process may be allowed more open files than this, whoever it is of.
const MOST_FILES: &str = "/proc/sys/fs/nr_open";

/// One limit, as the kernel takes it.
#[derive(Clone, Copy)]
pub(crate) struct ResourceLimit {
    kind: Type,
    limit: libc::rlimit,
}

impl fmt::Debug for ResourceLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, limit) = (self.kind.as_str_name(), self.limit);
        write!(formatter, "{kind} {} {}", limit.rlim_cur, limit.rlim_max)
    }
}

/// Why limits cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResourceLimitError {
    #[error("a limit of 'container.rlimit_info' has no type that is known here")]
    Unknown,
    #[error(
        "the limit {name} has a soft value or a hard one alone: both must be set, or neither for no limit"
    )]
    Half { name: &'static str },
    #[error("the limit {name} has a soft value of {soft}, above its hard one of {hard}")]
    Above {
        name: &'static str,
        soft: u64,
        hard: u64,
    },
    #[error("the limit {name} is set twice")]
    Twice { name: &'static str },
    #[error("the limit {name} is to be {wanted}, but the machine's operator allows {most} at most")]
    BeyondMachine {
        name: &'static str,
        wanted: Amount,
        most: u64,
    },
    #[error("the limit {name} is to be {wanted}, above the {most} that the agent has itself")]
    BeyondAgent {
        name: &'static str,
        wanted: Amount,
        most: u64,
    },
}

/// A value in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Amount(u64);

impl fmt::Display for Amount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            libc::RLIM_INFINITY => formatter.write_str("unlimited"),
            value => write!(formatter, "{value}"),
        }
    }
}

impl ResourceLimit {
    /// All that were asked for. `None` asks for none.
    pub(crate) fn all_of(
        asked: Option<&RLimitInfo>,
    ) -> Result<Vec<ResourceLimit>, ResourceLimitError> {
        let mut all: Vec<ResourceLimit> = Vec::new();
        for one in asked.iter().flat_map(|asked| &asked.rlimits) {
            let kind = one.r#type();
            if kind == Type::Unknown {
                return Err(ResourceLimitError::Unknown);
            }
            let name = kind.as_str_name();
            let (soft, hard) = match (one.soft, one.hard) {
                (Some(soft), Some(hard)) if soft > hard => {
                    return Err(ResourceLimitError::Above { name, soft, hard });
                }
                (Some(soft), Some(hard)) => (soft, hard),
                (None, None) => (libc::RLIM_INFINITY, libc::RLIM_INFINITY),
                _ => return Err(ResourceLimitError::Half { name }),
            };
            if all.iter().any(|other| other.kind == kind) {
                return Err(ResourceLimitError::Twice { name });
            }
            let limit = libc::rlimit {
                rlim_cur: soft,
                rlim_max: hard,
            };
            all.push(ResourceLimit { kind, limit });
        }
        Ok(all)
    }

    /// Whether the kernel will let a child of this process have it: said beforehand, for the child can only give a number.
    pub(crate) fn check(&self) -> Result<(), ResourceLimitError> {
        let (name, wanted) = (self.kind.as_str_name(), Amount(self.limit.rlim_max));
        if self.kind == Type::RlmtNofile {
            let most = std::fs::read_to_string(MOST_FILES).ok();
            let most = most.and_then(|text| text.trim().parse::<u64>().ok());
            if let Some(most) = most.filter(|most| wanted.0 > *most) {
                return Err(ResourceLimitError::BeyondMachine { name, wanted, most });
            }
        }
        // These are of the machine's, not of a task's share of it; root could give any.
        let of_machine = matches!(
            self.kind,
            Type::RlmtRtprio
                | Type::RlmtNice
                | Type::RlmtMemlock
                | Type::RlmtMsgqueue
                | Type::RlmtSigpending
        );
        if of_machine || !nix::unistd::geteuid().is_root() {
            let mut own = self.limit;
            // SAFETY: the pointer is to a live value of the right type.
            let got = unsafe { libc::getrlimit(number(self.kind), &raw mut own) };
            if got == 0 && wanted.0 > own.rlim_max {
                let most = own.rlim_max;
                return Err(ResourceLimitError::BeyondAgent { name, wanted, most });
            }
        }
        Ok(())
    }

    /// Sets it for the calling process. Async-signal-safe.
    pub(crate) fn assume(&self) -> io::Result<()> {
        // SAFETY: the pointer is to a live value of the right type.
        match unsafe { libc::setrlimit(number(self.kind), &raw const self.limit) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The kernel's number of a limit.
fn number(kind: Type) -> libc::__rlimit_resource_t {
    match kind {
        // `Unknown` is refused before.
        Type::RlmtAs | Type::Unknown => libc::RLIMIT_AS,
        Type::RlmtCore => libc::RLIMIT_CORE,
        Type::RlmtCpu => libc::RLIMIT_CPU,
        Type::RlmtData => libc::RLIMIT_DATA,
        Type::RlmtFsize => libc::RLIMIT_FSIZE,
        Type::RlmtLocks => libc::RLIMIT_LOCKS,
        Type::RlmtMemlock => libc::RLIMIT_MEMLOCK,
        Type::RlmtMsgqueue => libc::RLIMIT_MSGQUEUE,
        Type::RlmtNice => libc::RLIMIT_NICE,
        Type::RlmtNofile => libc::RLIMIT_NOFILE,
        Type::RlmtNproc => libc::RLIMIT_NPROC,
        Type::RlmtRss => libc::RLIMIT_RSS,
        Type::RlmtRtprio => libc::RLIMIT_RTPRIO,
        Type::RlmtRttime => libc::RLIMIT_RTTIME,
        Type::RlmtSigpending => libc::RLIMIT_SIGPENDING,
        Type::RlmtStack => libc::RLIMIT_STACK,
    }
}

#[cfg(test)]
mod tests {
    use tepui_api::v1::r_limit_info::RLimit;

    use super::*;

    /// Soft, then hard.
    type Wish = (Type, Option<u64>, Option<u64>);

    fn asked(limits: &[Wish]) -> RLimitInfo {
        let rlimits = limits.iter().map(|(kind, soft, hard)| RLimit {
            r#type: Some((*kind).into()),
            soft: *soft,
            hard: *hard,
        });
        RLimitInfo {
            rlimits: rlimits.collect(),
        }
    }

    #[test]
    fn both_values_or_none_and_the_soft_one_below_the_hard_one() {
        let parse = |limits: &[Wish]| ResourceLimit::all_of(Some(&asked(limits)));
        let name = "RLMT_NOFILE";
        let both = parse(&[(Type::RlmtNofile, Some(5), Some(9))]).unwrap();
        assert_eq!(format!("{both:?}"), "[RLMT_NOFILE 5 9]");
        let none = parse(&[(Type::RlmtCpu, None, None)]).unwrap();
        assert_eq!(none[0].limit.rlim_max, libc::RLIM_INFINITY);
        assert!(ResourceLimit::all_of(None).unwrap().is_empty());
        for (limits, error) in [
            (
                vec![(Type::RlmtNofile, Some(9), Some(5))],
                ResourceLimitError::Above {
                    name,
                    soft: 9,
                    hard: 5,
                },
            ),
            (
                vec![(Type::RlmtNofile, Some(9), None)],
                ResourceLimitError::Half { name },
            ),
            (
                vec![(Type::RlmtNofile, None, Some(9))],
                ResourceLimitError::Half { name },
            ),
            (
                vec![(Type::Unknown, Some(1), Some(1))],
                ResourceLimitError::Unknown,
            ),
            (
                vec![(Type::RlmtNofile, None, None); 2],
                ResourceLimitError::Twice { name },
            ),
        ] {
            assert_eq!(parse(&limits).unwrap_err(), error);
        }
    }

    #[test]
    fn more_files_than_the_machine_allows_are_refused_with_both_numbers() {
        let limits = asked(&[(Type::RlmtNofile, None, None)]);
        let unlimited = ResourceLimit::all_of(Some(&limits)).unwrap()[0];
        let said = unlimited.check().unwrap_err().to_string();
        assert!(
            said.contains("unlimited") && said.contains("RLMT_NOFILE"),
            "{said}"
        );
    }
}
