//! Hosts that are network namespaces, joined by a switch: what one sends another crosses a wire whose bytes are counted.
//!
//! All of it lies in namespaces of its own, named after this process, and goes with its handle; the machine's own
//! network has nothing of it.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// The switch's namespace, and one for each host.
#[derive(Debug)]
pub struct Hosts {
    prefix: String,
    count: usize,
}

static NETWORKS: AtomicU32 = AtomicU32::new(0);

fn ip(words: &[&str]) -> Result<Output, String> {
    let output = Command::new("ip")
        .args(words)
        .output()
        .map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {}: {}", words.join(" "), said.trim()))
}

impl Hosts {
    /// So many hosts that reach each other. The error says what this machine lacks: root, mostly, or `ip` (the package
    /// iproute2).
    pub fn new(count: usize) -> Result<Self, String> {
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let hosts = Self {
            prefix: format!("tepui-{}-{number}", std::process::id()),
            count,
        };
        let switch = hosts.switch();
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "bridge", "up"])?;
        for host in 0..count {
            let (name, port) = (hosts.name(host), format!("port{host}"));
            ip(&["netns", "add", &name])?;
            let pair = [
                "-n", &switch, "link", "add", &port, "type", "veth", "peer", "name",
            ];
            ip(&[&pair[..], &["eth0", "netns", &name]].concat())?;
            ip(&[
                "-n", &switch, "link", "set", &port, "master", "bridge", "up",
            ])?;
            let address = format!("{}/24", hosts.address(host));
            ip(&["-n", &name, "address", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &name, "link", "set", "eth0", "up"])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
        }
        Ok(hosts)
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.prefix)
    }

    fn name(&self, host: usize) -> String {
        format!("{}-{host}", self.prefix)
    }

    pub fn address(&self, host: usize) -> String {
        format!("10.77.0.{}", host + 1)
    }

    /// What names the host's network to nsenter(1).
    pub fn namespace(&self, host: usize) -> String {
        format!("/run/netns/{}", self.name(host))
    }

    /// The bytes that went to a host over its wire.
    pub fn bytes_to(&self, host: usize) -> u64 {
        let port = format!("port{host}");
        let output = ip(&["-n", &self.switch(), "-s", "-j", "link", "show", &port]).unwrap();
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        // What the switch sends out of the port.
        shown[0]["stats64"]["tx"]["bytes"].as_u64().unwrap()
    }

    /// The same of all hosts together.
    pub fn bytes_moved(&self) -> u64 {
        (0..self.count).map(|host| self.bytes_to(host)).sum()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let hosts = (0..self.count).map(|host| self.name(host));
        for name in hosts.chain([self.switch()]) {
            // What was never made cannot be removed.
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}
