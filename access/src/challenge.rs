//! The answer to a request that proves nothing where proof is asked for, and the pages that have a list of their own.

use crate::credentials::{Credentials, Refused};

/// A request that is answered 401.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The value of the `WWW-Authenticate` header.
    pub header: String,
    /// For the caller to read.
    pub reason: Refused,
}

impl Credentials {
    /// Whom the `Authorization` header proves its sender to be, where a realm asks for that; nobody in particular where
    /// none does.
    pub fn admit(
        &self,
        realm: Option<&str>,
        header: Option<&str>,
    ) -> Result<Option<&str>, Challenge> {
        let Some(realm) = realm else {
            return Ok(None);
        };
        self.authenticate(header)
            .map(Some)
            .map_err(|reason| Challenge {
                header: format!("Basic realm=\"{realm}\""),
                reason,
            })
    }
}

/// The pages that `get_endpoints` of the lists may name.
const ENDPOINTS: [&str; 6] = [
    "/containerizer/debug",
    "/containers",
    "/files/debug",
    "/logging/toggle",
    "/metrics/snapshot",
    "/monitor/statistics",
];

/// The path under which the lists know a page, if they do. `prefix` is the process that the path may be under too.
pub fn listed_endpoint(path: &str, prefix: &str) -> Option<&'static str> {
    let path = path.strip_prefix(prefix).unwrap_or(path);
    ENDPOINTS.into_iter().find(|endpoint| is_at(path, endpoint))
}

/// Whether the path is that of the page or of what lies below it. For what is open to more than the rest: a router takes the page
/// with a suffix for another one.
pub fn is_exactly_at(path: &str, page: &str) -> bool {
    path.strip_prefix(page)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether the path is that of the page, whatever it is written with behind it: a suffix, or more path.
pub fn is_at(path: &str, page: &str) -> bool {
    path.strip_prefix(page)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Credential;

    #[test]
    fn proof_is_asked_for_where_a_realm_is() {
        let known = r#"{"credentials": [{"principal": "ann", "secret": "tea"}]}"#;
        let known = Credentials::parse(known).unwrap();
        let header = Credential::parse("ann:tea").unwrap().header();
        assert_eq!(known.admit(None, None), Ok(None));
        assert_eq!(known.admit(Some("here"), Some(&header)), Ok(Some("ann")));
        assert_eq!(
            known.admit(Some("here"), None),
            Err(Challenge {
                header: "Basic realm=\"here\"".to_owned(),
                reason: Refused::Missing,
            })
        );
    }

    #[test]
    fn pages_are_listed_under_one_name_however_they_are_asked_for() {
        let listed = |path: &str| listed_endpoint(path, "/slave(1)");
        for path in [
            "/containers",
            "/containers/",
            "/containers.json",
            "/slave(1)/containers",
        ] {
            assert_eq!(listed(path), Some("/containers"), "{path}");
        }
        assert_eq!(
            listed("/slave(1)/monitor/statistics.json"),
            Some("/monitor/statistics")
        );
        assert_eq!((listed("/containersX"), listed("/state")), (None, None));
    }
}
