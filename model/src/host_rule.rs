//! Which hosts somebody may talk to: `HOST`, `HOST:PORT`; a host is a name, `*.DOMAIN`, an address, a network or `*`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One rule; a list of them allows what any of them covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRule {
    host: Host,
    /// Every port if none.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Any,
    /// In lower case.
    Name(String),
    /// Names that end in it, which begins with a dot.
    Below(String),
    /// An address is a network of one.
    Network(IpAddr, u8),
}

/// Why a text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' names no host: give a name, *.domain, an address, a network such as 10.0.0.0/8, or *, with :PORT if only that one is meant"
)]
pub struct HostRuleError {
    text: String,
}

impl HostRule {
    /// Reads `HOST` or `HOST:PORT`. An IPv6 address with a port is in brackets.
    pub fn parse(text: &str) -> Result<Self, HostRuleError> {
        let error = || HostRuleError {
            text: text.to_owned(),
        };
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(error)?;
                match rest.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if rest.is_empty() => (host, None),
                    None => return Err(error()),
                }
            }
            // More colons than one are an IPv6 address without a port.
            None => match text.split_once(':') {
                Some((host, port)) if !port.contains(':') => (host, Some(port)),
                _ => (text, None),
            },
        };
        let port = match port {
            None => None,
            Some(port) => match port.parse::<u16>() {
                Ok(port) if port > 0 => Some(port),
                _ => return Err(error()),
            },
        };
        let host = Host::parse(host).ok_or_else(error)?;
        Ok(Self { host, port })
    }

    /// Whether it names a host of that name.
    pub fn covers_name(&self, name: &str, port: u16) -> bool {
        self.covers_port(port)
            && match &self.host {
                Host::Any => true,
                Host::Name(own) => own.eq_ignore_ascii_case(name),
                Host::Below(end) => name.to_ascii_lowercase().ends_with(end),
                Host::Network(..) => false,
            }
    }

    /// Whether it names that address itself, or a network that has it.
    pub fn covers_address(&self, address: IpAddr, port: u16) -> bool {
        self.covers_port(port)
            && match self.host {
                Host::Network(network, bits) => contains(network, bits, address.to_canonical()),
                _ => false,
            }
    }

    /// Whether it covers every host.
    pub fn covers_any(&self, port: u16) -> bool {
        self.covers_port(port) && self.host == Host::Any
    }

    /// Whether all that the other covers is covered by this one.
    pub fn covers(&self, other: &Self) -> bool {
        let ports = self.port.is_none() || self.port == other.port;
        ports
            && match (&self.host, &other.host) {
                (Host::Any, _) => true,
                (Host::Name(own), Host::Name(name)) => own == name,
                (Host::Below(end), Host::Name(name) | Host::Below(name)) => name.ends_with(end),
                (Host::Network(own, bits), Host::Network(network, more)) => {
                    more >= bits && contains(*own, *bits, *network)
                }
                _ => false,
            }
    }

    /// The name it stands for, if it is one.
    pub fn name(&self) -> Option<&str> {
        match &self.host {
            Host::Name(name) => Some(name),
            _ => None,
        }
    }

    /// The port it is bound to.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    fn covers_port(&self, port: u16) -> bool {
        self.port.is_none_or(|own| own == port)
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.port) {
            (Host::Any, _) => formatter.write_str("*")?,
            (Host::Name(name), _) => formatter.write_str(name)?,
            (Host::Below(end), _) => write!(formatter, "*{end}")?,
            (Host::Network(address @ IpAddr::V6(_), 128), Some(_)) => {
                write!(formatter, "[{address}]")?;
            }
            (Host::Network(address, bits), _) if *bits == full(*address) => {
                write!(formatter, "{address}")?;
            }
            (Host::Network(address @ IpAddr::V6(_), bits), Some(_)) => {
                write!(formatter, "[{address}/{bits}]")?;
            }
            (Host::Network(address, bits), _) => write!(formatter, "{address}/{bits}")?,
        }
        match self.port {
            Some(port) => write!(formatter, ":{port}"),
            None => Ok(()),
        }
    }
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            let address = address.to_canonical();
            return Some(Self::Network(address, full(address)));
        }
        if let Some((network, bits)) = text.split_once('/') {
            let network = network.parse::<IpAddr>().ok()?;
            let bits = bits.parse().ok().filter(|bits| *bits <= full(network))?;
            return Some(Self::Network(network, bits));
        }
        let below = text.strip_prefix("*.");
        let name = below.unwrap_or(text);
        let label = |label: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            !label.is_empty() && label.bytes().all(fits)
        };
        if !name.split('.').all(label) {
            return None;
        }
        let name = name.to_ascii_lowercase();
        Some(match below {
            Some(_) => Self::Below(format!(".{name}")),
            None => Self::Name(name),
        })
    }
}

fn full(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn contains(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}

/// Whether an address leads to what is only meant for the machine itself or for its provider: loopback, link-local
/// and the places where clouds tell a machine its secrets. A name that suddenly means such an address is not to be
/// followed there.
pub fn is_private_to_the_machine(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            // Alibaba's, Oracle's and Azure's are outside the link-local network, in which the others' metadata are.
            const METADATA: [Ipv4Addr; 3] = [
                Ipv4Addr::new(100, 100, 100, 200),
                Ipv4Addr::new(192, 0, 0, 192),
                Ipv4Addr::new(168, 63, 129, 16),
            ];
            address.is_loopback()
                || address.octets()[0] == 0
                || address.is_link_local()
                || address.is_multicast()
                || address.is_broadcast()
                || METADATA.contains(&address)
        }
        IpAddr::V6(address) => {
            const METADATA: [Ipv6Addr; 2] = [
                Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
                Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
            ];
            // What is written inside these leads to an IPv4 address: NAT64 and the compatible form.
            let embedded = match address.segments() {
                [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0, high, low] => {
                    Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
                }
                _ => None,
            };
            address.is_loopback()
                || address.is_unspecified()
                || address.is_unicast_link_local()
                || address.is_multicast()
                || METADATA.contains(&address)
                || embedded.is_some_and(|inner| is_private_to_the_machine(IpAddr::V4(inner)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> HostRule {
        HostRule::parse(text).expect(text)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn rules_are_read_and_written() {
        for text in [
            "*",
            "*:443",
            "example.com",
            "example.com:80",
            "*.example.com",
            "10.0.0.0/8:80",
            "127.0.0.1:8080",
            "::1",
            "[::1]:80",
            "[fd00::/8]:80",
            "fd00::/8",
        ] {
            assert_eq!(rule(text).to_string(), text);
        }
        for text in [
            "",
            "a:0",
            "a:b",
            "a b",
            "http://a",
            "10.0.0.0/33",
            "*.",
            "[::1",
            "a/b",
            ":80",
        ] {
            assert!(HostRule::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_and_addresses_are_covered_each_by_their_own_kind() {
        assert!(rule("Example.com:80").covers_name("example.COM", 80));
        assert!(!rule("example.com:80").covers_name("example.com", 81));
        assert!(rule("*.example.com").covers_name("a.b.example.com", 1));
        assert!(!rule("*.example.com").covers_name("example.com", 1));
        assert!(!rule("*.example.com").covers_name("badexample.com", 1));
        assert!(rule("10.0.0.0/8").covers_address(address("10.2.3.4"), 1));
        assert!(rule("10.0.0.0/8").covers_address(address("::ffff:10.2.3.4"), 1));
        assert!(!rule("10.0.0.0/8").covers_address(address("11.0.0.1"), 1));
        assert!(rule("0.0.0.0/0").covers_address(address("8.8.8.8"), 1));
        assert!(!rule("*").covers_address(address("10.0.0.1"), 1));
        assert!(rule("*").covers_any(1) && rule("*").covers_name("x", 9));
        assert!(!rule("10.0.0.1").covers_name("10.0.0.1", 1));
    }

    #[test]
    fn a_wider_rule_covers_a_narrower_one() {
        for (wide, narrow, covers) in [
            ("*", "example.com:80", true),
            ("*:80", "example.com", false),
            ("*:80", "example.com:80", true),
            ("*.example.com", "a.example.com:1", true),
            ("*.example.com", "*.a.example.com", true),
            ("*.example.com", "example.com", false),
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.1.0.0/16", "10.0.0.0/8", false),
            ("10.0.0.0/8", "*", false),
            ("localhost", "localhost:80", true),
        ] {
            assert_eq!(rule(wide).covers(&rule(narrow)), covers, "{wide} {narrow}");
        }
    }

    #[test]
    fn addresses_of_the_machine_itself_are_known_in_every_disguise() {
        for text in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "169.254.169.254",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "fe80::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "168.63.129.16",
            "::ffff:168.63.129.16",
            "100.100.100.200",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            assert!(is_private_to_the_machine(address(text)), "{text}");
        }
        for text in [
            "8.8.8.8",
            "10.0.0.1",
            "192.168.1.1",
            "2001:db8::1",
            "64:ff9b::808:808",
        ] {
            assert!(!is_private_to_the_machine(address(text)), "{text}");
        }
    }
}
