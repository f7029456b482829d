//! What `tepui run` asks of the wasm runtime: directories, hosts, how a service is served, further bounds.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use tepui_api::ext::wasm_info::{self, Preopen};
use tepui_api::v1;
use tepui_executor_wasm::Shape;
use tepui_model::HostRule;

use crate::roles::{duration, size};

/// Larger files are not looked at here; the agent does.
const LOOKED_AT_BYTES: u64 = 256 << 20;

/// How an HTTP service is served.
#[derive(Args, Debug)]
pub(crate) struct Service {
    /// The port an HTTP service listens on, one the agent offers; any of them if 0, or not given
    #[arg(long, help_heading = "HTTP services")]
    pub(crate) port: Option<u16>,
    /// Requests an instance answers before a new one takes its place (1)
    #[arg(long, help_heading = "HTTP services", value_parser = clap::value_parser!(u32).range(1..))]
    reuse: Option<u32>,
    /// Longest time a request may take (1mins); 0s: any
    #[arg(long, help_heading = "HTTP services", value_parser = duration)]
    request_time: Option<Duration>,
    /// Memory one instance may hold (all of the task's)
    #[arg(long, help_heading = "HTTP services", value_parser = crate::run::parse_mem)]
    instance_mem: Option<u64>,
    /// Requests at once; more wait (128)
    #[arg(long, help_heading = "HTTP services", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// Connections at once; more wait (512)
    #[arg(long, help_heading = "HTTP services", value_parser = clap::value_parser!(u32).range(1..))]
    connections: Option<u32>,
    /// How long what is too much waits before it is answered 503 (5secs)
    #[arg(long, help_heading = "HTTP services", value_parser = duration)]
    queue_time: Option<Duration>,
}

impl Service {
    /// `None` if nothing was asked for.
    pub(crate) fn info(&self) -> Option<wasm_info::Service> {
        // Nothing stays nothing, which has a meaning; less than a millisecond does not become it.
        let milliseconds = |time: Duration| {
            let whole = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            whole.max(u64::from(!time.is_zero()))
        };
        let info = wasm_info::Service {
            reuse: self.reuse,
            idle_ms: None,
            request_ms: self.request_time.map(milliseconds),
            instance_memory_bytes: self.instance_mem,
            concurrent_requests: self.concurrency,
            connections: self.connections,
            queue_ms: self.queue_time.map(milliseconds),
        };
        (info != wasm_info::Service::default()).then_some(info)
    }
}

/// Bounds few need to set.
#[derive(Args, Debug)]
pub(crate) struct Bounds {
    /// Leave a core dump, coredump.wasm, in the sandbox if the guest fails other than by its exit code
    #[arg(long)]
    pub(crate) coredump: bool,
    /// What it may write to stdout, stderr and log.jsonl together (1GB)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) output: Option<u64>,
    /// Files, sockets and streams it may hold at once (1024)
    #[arg(long, value_parser = clap::value_parser!(u32).range(16..))]
    pub(crate) handles: Option<u32>,
}

pub(crate) fn parse_host(text: &str) -> Result<String, String> {
    let rule = HostRule::parse(text).map_err(|error| error.to_string())?;
    Ok(rule.to_string())
}

/// A relative path is meant from here, which is the agent's machine only in `tepui dev`.
pub(crate) fn parse_mount(text: &str) -> Result<Preopen, String> {
    let (rest, read_only) = match text.strip_suffix(":ro") {
        Some(rest) => (rest, true),
        None => (text.strip_suffix(":rw").unwrap_or(text), false),
    };
    let (host, guest) = rest
        .split_once(':')
        .filter(|(host, guest)| !host.is_empty() && guest.starts_with('/') && guest.len() > 1)
        .ok_or("a mount is given as HOST:GUEST or HOST:GUEST:ro, GUEST being an absolute path")?;
    let host = std::path::absolute(host).map_err(|error| error.to_string())?;
    Ok(Preopen {
        host_path: host.display().to_string(),
        guest_path: guest.to_owned(),
        read_only: Some(read_only),
    })
}

/// Whether a file here is a component that answers HTTP requests. What cannot be read is nobody's service.
pub(crate) fn is_service(path: &Path) -> bool {
    let small = path
        .metadata()
        .is_ok_and(|found| found.is_file() && found.len() <= LOOKED_AT_BYTES);
    let bytes = small.then(|| std::fs::read(path).ok()).flatten();
    bytes.is_some_and(|bytes| {
        bytes.starts_with(b"\0asm") && Shape::of(&bytes).is_ok_and(|shape| shape.is_service())
    })
}

/// A port of an offer: that one, or any.
pub(crate) fn choose_port(offer: &v1::Offer, wished: Option<u16>) -> Option<u64> {
    let mut ranges = offer
        .resources
        .iter()
        .filter(|resource| resource.name == "ports")
        .filter_map(|resource| resource.ranges.as_ref())
        .flat_map(|ranges| &ranges.range);
    match wished.filter(|port| *port != 0).map(u64::from) {
        Some(port) => ranges
            .any(|range| (range.begin..=range.end).contains(&port))
            .then_some(port),
        None => ranges.next().map(|range| range.begin),
    }
}

pub(crate) fn port_resource(port: u64) -> v1::Resource {
    let range = v1::value::Range {
        begin: port,
        end: port,
    };
    v1::Resource {
        name: "ports".to_owned(),
        r#type: v1::value::Type::Ranges as i32,
        ranges: Some(v1::value::Ranges { range: vec![range] }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read() {
        let mount = parse_mount("/srv/data:/data:ro").unwrap();
        assert_eq!(
            (
                mount.host_path.as_str(),
                mount.guest_path.as_str(),
                mount.read_only
            ),
            ("/srv/data", "/data", Some(true))
        );
        assert_eq!(parse_mount("/srv:/data").unwrap().read_only, Some(false));
        assert!(parse_mount("x:/y").unwrap().host_path.starts_with('/'));
        for text in ["/srv", "/srv:data", ":/data", "/srv:/", "/srv:"] {
            assert!(parse_mount(text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_time_at_all_is_no_limit_but_a_short_one_stays_short() {
        #[derive(clap::Parser)]
        struct Words {
            #[command(flatten)]
            service: Service,
        }
        for (time, told) in [("0s", 0), ("1us", 1), ("2s", 2_000)] {
            let words = ["run", "--request-time", time];
            let words: Words = clap::Parser::parse_from(words);
            let info = words.service.info().unwrap();
            assert_eq!(info.request_ms, Some(told), "{time}");
        }
    }

    #[test]
    fn a_port_is_one_that_is_offered() {
        let mut offer = v1::Offer::default();
        assert_eq!(choose_port(&offer, None), None);
        offer.resources.push(port_resource(31_000));
        offer.resources.push(port_resource(31_005));
        assert_eq!(choose_port(&offer, None), Some(31_000));
        assert_eq!(choose_port(&offer, Some(0)), Some(31_000));
        assert_eq!(choose_port(&offer, Some(31_005)), Some(31_005));
        assert_eq!(choose_port(&offer, Some(80)), None);
    }
}
