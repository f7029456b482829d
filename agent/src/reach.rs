//! How far wasm tasks reach beyond their sandbox: directories of the host, other hosts, ports. The operator says what may
//! be had, a task says what it wants, and it gets what both say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use tepui_api::ext::wasm_info::Preopen;
use tepui_api::v1;
use tepui_model::{HostRule, HostRuleError};

/// Ports that get a variable of their own.
const PORTS_NAMED: usize = 32;

/// Why a task, or an agent, cannot have what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReachError {
    #[error("--allow_host_directories: {}: {cause}", path.display())]
    Allowed { path: PathBuf, cause: String },
    #[error(
        "the task asks for the directory {path} of the host, which this agent does not give to tasks; its operator could by --allow_host_directories"
    )]
    Directory { path: String },
    #[error("the task asks for the directory {path} of the host: {cause}")]
    Missing { path: String, cause: String },
    #[error(
        "the directory {path} of the host cannot be seen at {guest:?}: give an absolute path other than /"
    )]
    Guest { path: String, guest: String },
    #[error(transparent)]
    Rule(#[from] HostRuleError),
    #[error(
        "the task wants to reach {wanted}, which this agent does not let tasks reach; its operator could by --allow_hosts"
    )]
    Host { wanted: String },
}

/// What the operator allows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reach {
    /// Without links in their paths.
    directories: Vec<PathBuf>,
    hosts: Vec<HostRule>,
}

impl Reach {
    pub(crate) fn new(directories: &[PathBuf], hosts: &[HostRule]) -> Result<Self, ReachError> {
        let real = |path: &PathBuf| {
            path.canonicalize().map_err(|error| ReachError::Allowed {
                path: path.clone(),
                cause: error.to_string(),
            })
        };
        Ok(Self {
            directories: directories
                .iter()
                .filter(|path| !path.as_os_str().is_empty())
                .map(real)
                .collect::<Result<_, _>>()?,
            hosts: hosts.to_vec(),
        })
    }

    /// The directories tasks may have.
    pub(crate) fn allowed(&self) -> &[PathBuf] {
        &self.directories
    }

    /// The directories a task asks for, by the paths that lead to them without links; looks at the disk.
    pub(crate) fn directories(&self, wanted: &[Preopen]) -> Result<Vec<Preopen>, ReachError> {
        wanted.iter().map(|one| self.directory(one)).collect()
    }

    fn directory(&self, wanted: &Preopen) -> Result<Preopen, ReachError> {
        let path = wanted.host_path.clone();
        let guest = Path::new(&wanted.guest_path);
        if !guest.is_absolute() || guest.components().count() < 2 {
            let guest = wanted.guest_path.clone();
            return Err(ReachError::Guest { path, guest });
        }
        let refused = || ReachError::Directory {
            path: wanted.host_path.clone(),
        };
        let plain = Path::new(&path);
        if !plain.is_absolute() || self.directories.is_empty() {
            return Err(refused());
        }
        let real = match plain.canonicalize() {
            Ok(real) if self.is_allowed(&real) => real,
            Ok(_) => return Err(refused()),
            // What is not there is told only where it could be had: anything else would say what lies elsewhere.
            Err(error) if self.could_hold(plain) => {
                let cause = error.to_string();
                return Err(ReachError::Missing { path, cause });
            }
            Err(_) => return Err(refused()),
        };
        if !real.is_dir() {
            let cause = "it is no directory".to_owned();
            return Err(ReachError::Missing { path, cause });
        }
        Ok(Preopen {
            host_path: real.to_string_lossy().into_owned(),
            ..wanted.clone()
        })
    }

    /// Whether a path that leads to nothing breaks off within what tasks may have. A link that leads on does not count, for
    /// where it breaks off is elsewhere.
    fn could_hold(&self, path: &Path) -> bool {
        let mut last = path;
        for ancestor in path.ancestors().skip(1) {
            if let Ok(real) = ancestor.canonicalize() {
                return !last.is_symlink() && self.is_allowed(&real);
            }
            last = ancestor;
        }
        false
    }

    fn is_allowed(&self, real: &Path) -> bool {
        self.directories.iter().any(|own| real.starts_with(own))
    }

    /// The policy for a task that wants to reach those hosts. One it could never reach is refused here; what a rule with a
    /// wildcard comes to is known only when somebody is to be reached.
    pub(crate) fn policy(&self, wanted: &[String]) -> Result<Vec<String>, ReachError> {
        for text in wanted {
            let rule = HostRule::parse(text)?;
            let possible = |own: &HostRule| own.covers(&rule) || rule.covers(own);
            if !self.hosts.iter().any(possible) {
                let wanted = text.clone();
                return Err(ReachError::Host { wanted });
            }
        }
        Ok(self.hosts.iter().map(HostRule::to_string).collect())
    }
}

/// The ports a task holds, in the order of its resources.
pub(crate) fn ports(task: &v1::TaskInfo) -> Vec<u16> {
    let ranges = task
        .resources
        .iter()
        .filter(|resource| resource.name == "ports")
        .filter_map(|resource| resource.ranges.as_ref())
        .flat_map(|ranges| &ranges.range);
    ranges
        .flat_map(|range| range.begin..=range.end.min(u64::from(u16::MAX)))
        .filter_map(|port| u16::try_from(port).ok())
        .collect()
}

/// Where a task of an agent that listens at `ip` may listen. An agent that is reached from elsewhere has tasks that are,
/// at every address of its machine, so that checks, which come by the loopback, reach them as well.
pub(crate) fn listen(ip: IpAddr, ports: &[u16]) -> Vec<String> {
    let ip = match ip {
        ip if ip.is_loopback() => ip,
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let address = |port: &u16| SocketAddr::new(ip, *port).to_string();
    ports.iter().take(PORTS_NAMED).map(address).collect()
}

/// How a task is told its ports: the first as PORT, each as PORT0, PORT1, ..., all as PORTS.
pub(crate) fn port_variables(ports: &[u16]) -> Vec<(String, String)> {
    let Some(first) = ports.first() else {
        return Vec::new();
    };
    let named = ports.iter().take(PORTS_NAMED).enumerate();
    let texts: Vec<String> = ports.iter().take(PORTS_NAMED).map(u16::to_string).collect();
    [("PORT".to_owned(), first.to_string())]
        .into_iter()
        .chain(named.map(|(number, port)| (format!("PORT{number}"), port.to_string())))
        .chain([("PORTS".to_owned(), texts.join(","))])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preopen(host: &Path, guest: &str) -> Preopen {
        Preopen {
            host_path: host.display().to_string(),
            guest_path: guest.to_owned(),
            read_only: None,
        }
    }

    #[test]
    fn a_directory_is_given_only_where_it_really_is() {
        let own = tempfile::tempdir().unwrap();
        let allowed = own.path().join("allowed");
        std::fs::create_dir_all(allowed.join("data")).unwrap();
        std::fs::create_dir_all(own.path().join("secret")).unwrap();
        std::fs::write(allowed.join("file"), "").unwrap();
        std::fs::write(own.path().join("secret/file"), "").unwrap();
        std::os::unix::fs::symlink("../secret", allowed.join("escape")).unwrap();
        std::os::unix::fs::symlink("../none", allowed.join("nowhere")).unwrap();
        std::os::unix::fs::symlink("data", allowed.join("inside")).unwrap();
        let reach = Reach::new(std::slice::from_ref(&allowed), &[]).unwrap();
        let given = |path: &str| reach.directories(&[preopen(&allowed.join(path), "/x")]);
        let real = allowed.canonicalize().unwrap().join("data");
        for path in ["data", "inside", "../allowed/data"] {
            assert_eq!(
                given(path).unwrap()[0].host_path,
                real.display().to_string()
            );
        }
        for path in [
            "escape",
            "..",
            "../secret",
            "data/../../secret",
            "../none",
            "../secret/file",
            "../secret/file/under",
            "data/../../none",
            "escape/none",
            "escape/file",
            "nowhere",
            "nowhere/under",
        ] {
            let refused = given(path);
            assert!(
                matches!(refused, Err(ReachError::Directory { .. })),
                "{path}: {refused:?}"
            );
        }
        assert!(matches!(
            given("none/../../secret"),
            Err(ReachError::Missing { .. })
        ));
        assert!(matches!(given("none"), Err(ReachError::Missing { .. })));
        assert!(matches!(given("file"), Err(ReachError::Missing { .. })));
        for guest in ["x", "/", ""] {
            let wanted = [preopen(&allowed.join("data"), guest)];
            assert!(matches!(
                reach.directories(&wanted),
                Err(ReachError::Guest { .. })
            ));
        }
        let nothing = Reach::default();
        let wanted = [preopen(&allowed, "/x")];
        assert!(matches!(
            nothing.directories(&wanted),
            Err(ReachError::Directory { .. })
        ));
        assert!(matches!(
            Reach::new(&[own.path().join("gone")], &[]),
            Err(ReachError::Allowed { .. })
        ));
    }

    #[test]
    fn a_host_no_rule_could_lead_to_is_refused() {
        let rules = ["*.example.com:443", "10.0.0.0/8"].map(|text| HostRule::parse(text).unwrap());
        let reach = Reach::new(&[], &rules).unwrap();
        let policy = |wanted: &str| reach.policy(&[wanted.to_owned()]);
        assert_eq!(
            policy("api.example.com:443").unwrap(),
            ["*.example.com:443", "10.0.0.0/8"]
        );
        policy("*").unwrap();
        policy("10.1.2.3:80").unwrap();
        assert!(matches!(
            policy("example.org"),
            Err(ReachError::Host { .. })
        ));
        assert!(matches!(policy("127.0.0.1"), Err(ReachError::Host { .. })));
        assert!(matches!(policy("not a host"), Err(ReachError::Rule(_))));
    }

    #[test]
    fn ports_are_listened_on_and_told() {
        assert_eq!(
            listen("127.0.0.1".parse().unwrap(), &[31_000]),
            ["127.0.0.1:31000"]
        );
        assert_eq!(listen("10.0.0.1".parse().unwrap(), &[80]), ["0.0.0.0:80"]);
        let told = port_variables(&[31_005, 31_006]);
        let told: Vec<(&str, &str)> = told.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(
            told,
            [
                ("PORT", "31005"),
                ("PORT0", "31005"),
                ("PORT1", "31006"),
                ("PORTS", "31005,31006")
            ]
        );
        assert!(port_variables(&[]).is_empty());
    }
}
