//! Whom a guest may reach: what its task asks for and its agent allows, both.
//!
//! A name that is allowed does not lead to the machine itself: should it resolve to a loopback, link-local or metadata
//! address, that address has to be allowed as well, by its number. What was resolved and checked is what is connected to.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tepui_model::{HostRule, is_private_to_the_machine};
use tokio::sync::Mutex;
use wasmtime_wasi::sockets::SocketAddrUse;

/// How long what a name led to is taken for true.
const LOOKUP_HOLDS: Duration = Duration::from_secs(5);

/// The rules of a task; without any, nobody is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Egress {
    wanted: Vec<HostRule>,
    policy: Vec<HostRule>,
    /// Where it may listen.
    listen: Vec<SocketAddr>,
}

/// Why somebody is not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// No rule allows it.
    Denied,
    /// The name is allowed, but leads to where only an address of its own would.
    Address,
    /// Nobody knows the name.
    Unknown,
}

impl Egress {
    /// Rules that cannot be read allow nothing.
    pub fn new(wanted: &[String], policy: &[String], listen: &[SocketAddr]) -> Self {
        let rules = |texts: &[String]| {
            let rules = texts.iter().map(|text| HostRule::parse(text));
            rules.filter_map(Result::ok).collect()
        };
        Self {
            wanted: rules(wanted),
            policy: rules(policy),
            listen: listen.to_vec(),
        }
    }

    /// Whether anything could be reached at all.
    pub(crate) fn is_open(&self) -> bool {
        !self.wanted.is_empty() && !self.policy.is_empty()
    }

    fn both(&self, covers: impl Fn(&HostRule) -> bool) -> bool {
        self.wanted.iter().any(&covers) && self.policy.iter().any(&covers)
    }

    fn allows_name(&self, name: &str, port: u16) -> bool {
        self.both(|rule| rule.covers_name(name, port))
    }

    /// Whether an address that nobody named, or that a name led to, may be connected to.
    fn allows_address(&self, address: IpAddr, port: u16, named: bool) -> bool {
        let explicit = |rule: &HostRule| rule.covers_address(address, port);
        if is_private_to_the_machine(address) {
            return self.both(explicit);
        }
        named || self.both(|rule| explicit(rule) || rule.covers_any(port))
    }

    /// Whether a name may be looked up, for whatever port.
    pub(crate) fn allows_lookup(&self, name: &str) -> bool {
        if name.parse::<IpAddr>().is_ok() {
            // There is nothing to look up.
            return true;
        }
        let covers = |rule: &HostRule| rule.covers_name(name, rule.port().unwrap_or(0));
        self.both(covers)
    }

    /// The addresses of a host that may be connected to.
    pub(crate) async fn resolve(
        &self,
        host: &str,
        port: u16,
    ) -> Result<Vec<SocketAddr>, Unreachable> {
        self.resolve_by(host, port, look_up(host)).await
    }

    async fn resolve_by(
        &self,
        host: &str,
        port: u16,
        looked_up: impl Future<Output = io::Result<Vec<IpAddr>>>,
    ) -> Result<Vec<SocketAddr>, Unreachable> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return match self.allows_address(address, port, false) {
                true => Ok(vec![SocketAddr::new(address, port)]),
                false => Err(Unreachable::Denied),
            };
        }
        if !self.allows_name(host, port) {
            return Err(Unreachable::Denied);
        }
        let found = looked_up.await.map_err(|_| Unreachable::Unknown)?;
        let local = host.eq_ignore_ascii_case("localhost");
        let allowed: Vec<SocketAddr> = found
            .iter()
            .copied()
            .filter(|found| {
                // This one name says itself where it leads; `*` does not mean it.
                let named = local
                    && found.is_loopback()
                    && self.both(|rule| rule.name().is_some() && rule.covers_name(host, port));
                named || self.allows_address(*found, port, true)
            })
            .map(|found| SocketAddr::new(found, port))
            .collect();
        match (allowed.is_empty(), found.is_empty()) {
            (false, _) => Ok(allowed),
            (true, false) => Err(Unreachable::Address),
            (true, true) => Err(Unreachable::Unknown),
        }
    }

    /// Whether a socket may be used so. An address nobody allowed by its number may be that of a name that is allowed.
    pub(crate) async fn allows_socket(
        &self,
        address: SocketAddr,
        usage: SocketAddrUse,
        names: &Names,
    ) -> bool {
        match usage {
            // What connects is bound to something first, of the system's choice.
            SocketAddrUse::TcpBind | SocketAddrUse::UdpBind if is_free_choice(address) => true,
            SocketAddrUse::TcpBind | SocketAddrUse::TcpListen | SocketAddrUse::UdpBind => {
                let fits = |own: &SocketAddr| {
                    own.port() == address.port()
                        && (own.ip() == address.ip() || own.ip().is_unspecified())
                };
                self.listen.iter().any(fits)
            }
            // Whoever comes to where it may listen.
            SocketAddrUse::TcpAccept => true,
            SocketAddrUse::TcpConnect | SocketAddrUse::UdpSend | SocketAddrUse::UdpReceive => {
                self.allows_peer(address, names).await
            }
        }
    }

    async fn allows_peer(&self, peer: SocketAddr, looked_up: &Names) -> bool {
        if self.allows_address(peer.ip(), peer.port(), false) {
            return true;
        }
        let names = self.wanted.iter().filter_map(HostRule::name);
        for name in names {
            let found = self.resolve_by(name, peer.port(), looked_up.find(name));
            let found = found.await.unwrap_or_default();
            if found
                .iter()
                .any(|found| found.ip().to_canonical() == peer.ip().to_canonical())
            {
                return true;
            }
        }
        false
    }
}

async fn look_up(name: &str) -> io::Result<Vec<IpAddr>> {
    let found = tokio::net::lookup_host((name, 0)).await?;
    Ok(found.map(|found| found.ip()).collect())
}

/// Where names led when a guest's sockets last asked, for a few seconds: each datagram is asked about, also those of strangers.
#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<BTreeMap<String, (Instant, Vec<IpAddr>)>>);

impl Names {
    /// One lookup at a time; one in vain is remembered as well.
    async fn find(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let mut known = self.0.lock().await;
        if let Some((at, found)) = known.get(name)
            && at.elapsed() < LOOKUP_HOLDS
        {
            return Ok(found.clone());
        }
        let found = look_up(name).await.unwrap_or_default();
        known.insert(name.to_owned(), (Instant::now(), found.clone()));
        Ok(found)
    }
}

fn is_free_choice(address: SocketAddr) -> bool {
    address.ip().is_unspecified() && address.port() == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress(wanted: &[&str], policy: &[&str]) -> Egress {
        let owned = |texts: &[&str]| -> Vec<String> {
            texts.iter().map(|text| (*text).to_owned()).collect()
        };
        Egress::new(
            &owned(wanted),
            &owned(policy),
            &["127.0.0.1:31000".parse().expect("it is one")],
        )
    }

    async fn reaches(egress: &Egress, host: &str, port: u16) -> Result<usize, Unreachable> {
        egress.resolve(host, port).await.map(|found| found.len())
    }

    #[tokio::test]
    async fn only_what_task_and_agent_both_say_is_reached() {
        let rules = egress(&["127.0.0.1:80", "10.0.0.1"], &["127.0.0.0/8", "*"]);
        assert_eq!(reaches(&rules, "127.0.0.1", 80).await, Ok(1));
        assert_eq!(
            reaches(&rules, "127.0.0.1", 81).await,
            Err(Unreachable::Denied)
        );
        assert_eq!(
            reaches(&rules, "127.0.0.2", 80).await,
            Err(Unreachable::Denied)
        );
        assert_eq!(reaches(&rules, "10.0.0.1", 9).await, Ok(1));
        assert_eq!(
            reaches(&rules, "10.0.0.2", 9).await,
            Err(Unreachable::Denied)
        );
        assert_eq!(
            reaches(&rules, "localhost", 80).await,
            Err(Unreachable::Denied)
        );
        for closed in [egress(&[], &["*"]), egress(&["*"], &[])] {
            assert!(!closed.is_open());
            assert_eq!(
                reaches(&closed, "10.0.0.1", 9).await,
                Err(Unreachable::Denied)
            );
        }
    }

    #[tokio::test]
    async fn everything_does_not_mean_the_machine_itself() {
        let everything = egress(&["*"], &["*"]);
        assert_eq!(reaches(&everything, "10.0.0.1", 9).await, Ok(1));
        for host in ["127.0.0.1", "[::1]", "169.254.169.254", "0.0.0.0"] {
            assert_eq!(
                reaches(&everything, host, 80).await,
                Err(Unreachable::Denied),
                "{host}"
            );
        }
        // This is how a name that is rebound looks: allowed, and leading here.
        assert_eq!(
            reaches(&everything, "localhost", 80).await,
            Err(Unreachable::Address)
        );
        let named = egress(&["localhost:80"], &["localhost"]);
        assert!(
            reaches(&named, "localhost", 80)
                .await
                .is_ok_and(|count| count > 0)
        );
        let numbered = egress(&["*", "127.0.0.0/8"], &["*", "127.0.0.1"]);
        assert_eq!(reaches(&numbered, "127.0.0.1", 80).await, Ok(1));
    }

    #[tokio::test]
    async fn sockets_follow_the_same_rules() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("it is one");
        let rules = egress(&["localhost:80"], &["localhost", "127.0.0.0/8"]);
        let names = Names::default();
        let connects = async |to| {
            rules
                .allows_socket(address(to), SocketAddrUse::TcpConnect, &names)
                .await
        };
        assert!(connects("127.0.0.1:80").await, "the name leads there");
        assert!(!connects("127.0.0.1:81").await);
        assert!(!connects("127.0.0.2:80").await);
        let listens = async |to| {
            rules
                .allows_socket(address(to), SocketAddrUse::TcpListen, &names)
                .await
        };
        assert!(listens("127.0.0.1:31000").await);
        assert!(!listens("0.0.0.0:31000").await && !listens("127.0.0.1:40000").await);
        assert!(!listens("0.0.0.0:0").await);
        assert!(rules.allows_lookup("localhost") && !rules.allows_lookup("example.com"));
    }
}
