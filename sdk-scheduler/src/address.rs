//! Where the master is: as configured, and as redirected.

use hyper::Uri;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};

const PATH: &str = "/api/v1/scheduler";

/// Reads a configured address: `host:port` or an http URL.
pub(crate) fn parse(master: &str) -> Result<Uri, String> {
    let master = master.trim();
    let rest = match master.split_once("://") {
        Some(("http", rest)) => rest,
        Some((scheme, _)) => {
            return Err(format!("the scheme {scheme:?} is not supported, only http"));
        }
        None => master,
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let path = path.trim_end_matches('/');
    let path = if path.ends_with(PATH) {
        path.to_owned()
    } else {
        format!("{path}{PATH}")
    };
    build(authority, &path)
}

/// Reads the `Location` of a redirect that `from` answered. Mesos sends `//host:port/path`, without a scheme.
pub(crate) fn redirected(from: &Uri, location: &str) -> Result<Uri, String> {
    let path = from.path();
    if let Some(rest) = location
        .strip_prefix("//")
        .or_else(|| location.strip_prefix("http://"))
    {
        return match rest.find('/') {
            Some(at) => build(
                &rest[..at],
                if rest.len() == at + 1 {
                    path
                } else {
                    &rest[at..]
                },
            ),
            None => build(rest, path),
        };
    }
    if location.starts_with('/') {
        return build(from.authority().map_or("", Authority::as_str), location);
    }
    Err(format!("the redirect to {location:?} cannot be followed"))
}

fn build(authority: &str, path: &str) -> Result<Uri, String> {
    let authority: Authority = authority.parse().map_err(|error| format!("{error}"))?;
    if authority.host().is_empty() || authority.port_u16().is_none() {
        return Err("it must be host:port".to_owned());
    }
    let path: PathAndQuery = path.parse().map_err(|error| format!("{error}"))?;
    Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(authority)
        .path_and_query(path)
        .build()
        .map_err(|error| format!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_is_named_by_host_and_port_or_by_url() {
        for (master, uri) in [
            ("leader:5050", "http://leader:5050/api/v1/scheduler"),
            ("http://10.0.0.1:80/", "http://10.0.0.1:80/api/v1/scheduler"),
            (
                "http://[::1]:5050/master",
                "http://[::1]:5050/master/api/v1/scheduler",
            ),
            ("http://a:1/api/v1/scheduler", "http://a:1/api/v1/scheduler"),
        ] {
            assert_eq!(parse(master).unwrap().to_string(), uri);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_reason() {
        for master in [
            "",
            "leader",
            "https://leader:5050",
            "zk://a:2181/mesos",
            "a b:1",
        ] {
            assert!(!parse(master).unwrap_err().is_empty(), "{master}");
        }
    }

    #[test]
    fn redirects_lead_to_another_authority_with_or_without_scheme_and_path() {
        let from = parse("old:5050").unwrap();
        for (location, uri) in [
            (
                "//new:5051/api/v1/scheduler",
                "http://new:5051/api/v1/scheduler",
            ),
            ("//new:5051", "http://new:5051/api/v1/scheduler"),
            ("http://new:5051/", "http://new:5051/api/v1/scheduler"),
            (
                "/master/api/v1/scheduler",
                "http://old:5050/master/api/v1/scheduler",
            ),
        ] {
            assert_eq!(redirected(&from, location).unwrap().to_string(), uri);
        }
        assert!(redirected(&from, "https://new:5051/").is_err());
    }
}
