//! URIs of artifacts, understood.

use std::path::PathBuf;

use crate::Settings;

/// The length of a SHA-256 in hex.
const DIGEST_LENGTH: usize = 64;
const SCHEMES: &str = "http, https, file, s3, webhdfs, swebhdfs, hdfs and oci";

/// Where an artifact is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// An http or https URL.
    Http(String),
    /// On this machine.
    File(PathBuf),
    S3 {
        bucket: String,
        key: String,
    },
    WebHdfs {
        /// `http://host:port` or `https://host:port` of the name node.
        endpoint: String,
        /// Absolute.
        path: String,
        user: Option<String>,
    },
    /// `registry/repository:tag` or `registry/repository@digest`.
    Oci(String),
}

impl Location {
    /// Understands an absolute URI or path. The error is the second half of a sentence about the URI.
    pub fn parse(text: &str, settings: &Settings) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return if text.starts_with('/') {
                Ok(Self::File(PathBuf::from(text)))
            } else {
                Err("is neither a URI nor an absolute path".to_owned())
            };
        };
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => Ok(Self::Http(text.to_owned())),
            "file" => {
                let path = rest.strip_prefix("localhost").unwrap_or(rest);
                if path.starts_with('/') {
                    Ok(Self::File(PathBuf::from(path)))
                } else {
                    Err("names a file on another host".to_owned())
                }
            }
            "s3" | "s3a" | "s3n" => match rest.split_once('/') {
                Some((bucket, key)) if !bucket.is_empty() && !key.is_empty() => Ok(Self::S3 {
                    bucket: bucket.to_owned(),
                    key: key.to_owned(),
                }),
                _ => Err("does not name an object; write s3://bucket/key".to_owned()),
            },
            "webhdfs" => web_hdfs("http", rest),
            "swebhdfs" => web_hdfs("https", rest),
            "hdfs" => {
                let endpoint = settings.webhdfs.as_deref().ok_or(
                    "is read through WebHDFS, and nobody said where that is: start this process with --webhdfs HOST:PORT, \
                     or write webhdfs://host:port/path",
                )?;
                let (scheme, endpoint) = match endpoint.split_once("://") {
                    Some(("https" | "swebhdfs", endpoint)) => ("https", endpoint),
                    Some((_, endpoint)) => ("http", endpoint),
                    None => ("http", endpoint),
                };
                let path = rest.split_once('/').map_or("", |(_, path)| path);
                web_hdfs(
                    scheme,
                    &format!("{}/{path}", endpoint.trim_end_matches('/')),
                )
            }
            "oci" => oci(rest),
            _ => Err(format!(
                "has a scheme that is not supported; known are {SCHEMES}"
            )),
        }
    }

    /// The name a file from there should have, where that does not follow from the URI's text alone.
    pub fn file_name(&self) -> Option<&str> {
        let last = match self {
            Self::Http(_) | Self::File(_) => return None,
            Self::S3 { key, .. } => key.as_str(),
            Self::WebHdfs { path, .. } => path,
            Self::Oci(reference) => {
                let path = reference.split('@').next().unwrap_or_default();
                let last = path.rsplit('/').next().unwrap_or_default();
                last.split(':').next().unwrap_or_default()
            }
        };
        last.rsplit('/')
            .next()
            .filter(|name| !matches!(*name, "" | "." | ".."))
    }
}

fn web_hdfs(scheme: &str, rest: &str) -> Result<Location, String> {
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.is_empty() || path.is_empty() || path.ends_with('/') {
        return Err("does not name a file; write webhdfs://host:port/path".to_owned());
    }
    let mut user = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("user.name", name)) if is_plain(name) => user = Some(name.to_owned()),
            _ => {
                return Err(format!(
                    "has the parameter '{pair}'; only user.name=NAME is known"
                ));
            }
        }
    }
    Ok(Location::WebHdfs {
        endpoint: format!("{scheme}://{authority}"),
        path: format!("/{path}"),
        user,
    })
}

fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn oci(rest: &str) -> Result<Location, String> {
    let wrong = "does not name an artifact; write oci://registry/repository:tag or oci://registry/repository@sha256:digest";
    let (registry, repository) = rest.split_once('/').ok_or(wrong)?;
    // Without this a short name would silently mean a public registry.
    let is_host = registry.contains(['.', ':']) || registry == "localhost";
    if !is_host || repository.is_empty() {
        return Err(wrong.to_owned());
    }
    match rest.parse::<oci_client::Reference>() {
        Ok(_) => Ok(Location::Oci(rest.to_owned())),
        Err(error) => Err(format!("{wrong} ({error})")),
    }
}

/// Takes a digest off the end of a URI: `#sha256=<hex>` or `#sha256:<hex>`. Another fragment of a URI is not for us, and
/// not for servers either; in a plain path `#` is a character like any other.
pub fn split_digest(text: &str) -> (&str, Option<String>) {
    let Some((location, fragment)) = text.rsplit_once('#') else {
        return (text, None);
    };
    match fragment
        .strip_prefix("sha256=")
        .or_else(|| fragment.strip_prefix("sha256:"))
    {
        Some(digest) => (location, Some(digest.to_ascii_lowercase())),
        // An object's key may have one as well.
        None if text.contains("://") && !text.starts_with("s3") => (location, None),
        None => (text, None),
    }
}

/// Whether it is a SHA-256 in lower-case hex.
pub fn is_digest(text: &str) -> bool {
    text.len() == DIGEST_LENGTH
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Location, String> {
        Location::parse(text, &Settings::default())
    }

    #[test]
    fn every_scheme_is_understood() {
        let hdfs = |endpoint: &str, user: Option<&str>| Location::WebHdfs {
            endpoint: endpoint.to_owned(),
            path: "/a/b".to_owned(),
            user: user.map(str::to_owned),
        };
        for (text, location) in [
            ("HTTP://h/a", Location::Http("HTTP://h/a".to_owned())),
            ("file:///a", Location::File("/a".into())),
            ("/a", Location::File("/a".into())),
            (
                "s3://b/dir/k?x#y",
                Location::S3 {
                    bucket: "b".to_owned(),
                    key: "dir/k?x#y".to_owned(),
                },
            ),
            ("webhdfs://n:9870/a/b", hdfs("http://n:9870", None)),
            (
                "swebhdfs://n:9871/a/b?user.name=ann",
                hdfs("https://n:9871", Some("ann")),
            ),
            (
                "oci://r.test/a/b:1",
                Location::Oci("r.test/a/b:1".to_owned()),
            ),
        ] {
            assert_eq!(parse(text), Ok(location), "{text}");
        }
        for text in [
            "a/b",
            "file://other/a",
            "s3://bucket",
            "s3:///key",
            "webhdfs://n:9870/",
            "webhdfs://n/a?op=DELETE",
            "webhdfs://n/a?user.name=x%26op",
            "hdfs://n/a",
            "oci://library/ubuntu",
            "oci://r.test",
            "oci://r.test/UPPER",
            "gopher://h/a",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hdfs_is_read_where_webhdfs_is_said_to_be() {
        let mut settings = Settings::default();
        let refused = Location::parse("hdfs://n:8020/a", &settings).unwrap_err();
        assert!(refused.contains("--webhdfs"), "{refused}");
        for (webhdfs, endpoint) in [
            ("web:9870", "http://web:9870"),
            ("http://web:9870/", "http://web:9870"),
            ("https://web:9871", "https://web:9871"),
        ] {
            settings.webhdfs = Some(webhdfs.to_owned());
            for text in ["hdfs://n:8020/a", "hdfs:///a"] {
                let location = Location::parse(text, &settings).unwrap();
                let wanted = Location::WebHdfs {
                    endpoint: endpoint.to_owned(),
                    path: "/a".to_owned(),
                    user: None,
                };
                assert_eq!(location, wanted);
            }
        }
    }

    #[test]
    fn files_are_named_after_what_they_are() {
        for (text, name) in [
            ("s3://b/dir/k", Some("k")),
            ("s3://b/dir/", None),
            ("webhdfs://n/a/b?user.name=x", Some("b")),
            ("oci://r.test:5000/x/hello:1.0", Some("hello")),
            ("http://h/a", None),
        ] {
            assert_eq!(parse(text).unwrap().file_name(), name, "{text}");
        }
        let pinned = format!("oci://r.test:5000/hello@sha256:{}", "0".repeat(64));
        assert_eq!(parse(&pinned).unwrap().file_name(), Some("hello"));
    }

    #[test]
    fn digests_are_taken_off_the_end() {
        assert_eq!(
            split_digest("http://h/a#sha256=AB"),
            ("http://h/a", Some("ab".to_owned()))
        );
        assert_eq!(split_digest("http://h/a#part"), ("http://h/a", None));
        assert_eq!(split_digest("/a#b"), ("/a#b", None));
        assert_eq!(split_digest("s3://b/a#b"), ("s3://b/a#b", None));
    }
}
