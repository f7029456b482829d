//! What a task asks to have fetched: its URIs, understood.

use std::path::{Path, PathBuf};

use tepui_api::v1::command_info::Uri;
use tepui_fetch::{Location, Settings, is_digest, split_digest};

use crate::archive::Archive;
use crate::confine::inside;
use crate::sandbox::is_output;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("the URI '{uri}' {problem}")]
    Uri { uri: String, problem: String },
    #[error(
        "the output file '{output_file}' of '{uri}' must be a relative path inside the sandbox"
    )]
    OutputFile { uri: String, output_file: String },
    #[error(
        "the URI '{uri}' would be put where the task's {name} goes; name another place in its output_file"
    )]
    Reserved { uri: String, name: String },
    #[error("fetching '{uri}' failed: {cause}")]
    Failed {
        uri: String,
        cause: tepui_fetch::Error,
    },
}

/// One URI of a task, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// As the task wrote it, for messages.
    pub(crate) uri: String,
    pub(crate) location: Location,
    /// The sha256 its content must have.
    pub(crate) digest: Option<String>,
    /// Where it goes, relative to the sandbox.
    pub(crate) name: PathBuf,
    pub(crate) executable: bool,
    pub(crate) archive: Option<Archive>,
    pub(crate) cache: bool,
}

impl Wanted {
    /// `home` is where relative paths begin.
    pub(crate) fn parse(
        uri: &Uri,
        home: Option<&Path>,
        settings: &Settings,
    ) -> Result<Self, FetchError> {
        let text = uri.value.trim_start();
        let wrong = |problem: &str| FetchError::Uri {
            uri: uri.value.clone(),
            problem: problem.to_owned(),
        };
        let (text, from_fragment) = split_digest(text);
        let from_field = uri
            .sha256
            .as_deref()
            .filter(|digest| !digest.is_empty())
            .map(str::to_ascii_lowercase);
        if from_field
            .as_ref()
            .zip(from_fragment.as_ref())
            .is_some_and(|(field, fragment)| field != fragment)
        {
            return Err(wrong(
                "names one sha256 in its fragment and another in its field",
            ));
        }
        let digest = from_field
            .or(from_fragment)
            .or_else(|| digest_in_path(text));
        if digest.as_ref().is_some_and(|digest| !is_digest(digest)) {
            return Err(wrong(
                "comes with a sha256 that is not 64 hexadecimal digits",
            ));
        }
        let location = if text.is_empty() {
            return Err(wrong("is empty"));
        } else if text.contains("://") || text.starts_with('/') {
            Location::parse(text, settings).map_err(|problem| wrong(&problem))?
        } else {
            let home = home.ok_or_else(|| {
                wrong("is a relative path, and the agent was started without --frameworks_home")
            })?;
            Location::File(home.join(text))
        };
        let name = match uri.output_file.as_deref() {
            Some(output_file) => inside(Path::new(output_file))
                .ok()
                .filter(|path| path.file_name().is_some() && !output_file.ends_with('/'))
                .ok_or_else(|| FetchError::OutputFile {
                    uri: uri.value.clone(),
                    output_file: output_file.to_owned(),
                })?,
            None => name_of(&location, text)
                .map(PathBuf::from)
                .ok_or_else(|| wrong("does not name a file, and 'output_file' is not set"))?,
        };
        if is_output(&name) {
            return Err(FetchError::Reserved {
                uri: uri.value.clone(),
                name: name.display().to_string(),
            });
        }
        let executable = uri.executable.unwrap_or(false);
        let extract = uri.extract.unwrap_or(true) && !executable;
        let archive = if extract {
            Archive::of_name(&name.to_string_lossy())
        } else {
            None
        };
        Ok(Self {
            uri: uri.value.clone(),
            location,
            digest,
            name,
            executable,
            archive,
            cache: uri.cache.unwrap_or(false),
        })
    }

    /// Wishes with the same key are the same transfer.
    pub(crate) fn key(&self) -> String {
        match (&self.digest, &self.location) {
            (Some(digest), _) => format!("sha256:{digest}"),
            (None, Location::Http(url)) => url.clone(),
            (None, Location::File(path)) => path.display().to_string(),
            (None, other) => format!("{other:?}"),
        }
    }

    pub(crate) fn failed(&self, cause: tepui_fetch::Error) -> FetchError {
        FetchError::Failed {
            uri: self.uri.clone(),
            cause,
        }
    }
}

/// The master's artifacts are named after their content: `/artifacts/<sha256>/<name>`.
fn digest_in_path(location: &str) -> Option<String> {
    let (scheme, rest) = location.split_once("://")?;
    if !scheme.to_ascii_lowercase().starts_with("http") {
        return None;
    }
    let mut parts = rest.split(['/', '?']);
    parts.find(|part| *part == "artifacts")?;
    parts
        .next()
        .filter(|digest| is_digest(digest))
        .map(str::to_owned)
}

fn name_of<'a>(location: &'a Location, text: &'a str) -> Option<&'a str> {
    match location {
        Location::Http(_) | Location::File(_) => base_name(text),
        other => other.file_name(),
    }
}

fn base_name(location: &str) -> Option<&str> {
    let path = match location.split_once("://") {
        Some((_, rest)) => rest.split_once('/')?.1,
        None => location,
    };
    // A query may have slashes of its own.
    let query = path.find('?').unwrap_or(path.len());
    let start = path[..query].rfind('/').map_or(0, |slash| slash + 1);
    let name = &path[start..];
    let bare = &path[start..query];
    (!bare.is_empty() && bare != "." && bare != ".." && !name.contains('/'))
        .then_some(name)
        .or_else(|| (!bare.is_empty() && bare != "." && bare != "..").then_some(bare))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(value: &str) -> Uri {
        Uri {
            value: value.to_owned(),
            ..Default::default()
        }
    }

    fn parse(uri: &Uri, home: Option<&Path>) -> Result<Wanted, FetchError> {
        Wanted::parse(uri, home, &Settings::default())
    }

    #[test]
    fn a_file_is_named_after_the_last_part_of_its_uri() {
        for (value, name) in [
            ("http://host/a/b.txt", "b.txt"),
            ("http://host/a/b.txt?x=1", "b.txt?x=1"),
            ("http://host/a/b.txt?x=1/2", "b.txt"),
            ("  http://host/b#section", "b"),
            ("/opt/data file", "data file"),
            ("/opt/odd#name", "odd#name"),
            ("file:///opt/b", "b"),
            ("file://localhost/opt/b", "b"),
        ] {
            assert_eq!(
                parse(&uri(value), None).unwrap().name,
                Path::new(name),
                "{value}"
            );
        }
        let bad = [
            "http://host",
            "http://host/",
            "/opt/",
            "relative/x",
            "hdfs://x/y",
            "file://other/x",
            "http://h/..",
            "",
        ];
        for value in bad {
            assert!(
                matches!(parse(&uri(value), None), Err(FetchError::Uri { .. })),
                "{value}"
            );
        }
    }

    #[test]
    fn a_uri_that_ends_in_a_slash_needs_a_name_from_its_task() {
        let mut page = uri("http://host/");
        assert!(matches!(parse(&page, None), Err(FetchError::Uri { .. })));
        page.output_file = Some("page.html".to_owned());
        assert_eq!(parse(&page, None).unwrap().name, Path::new("page.html"));
    }

    #[test]
    fn a_digest_is_taken_from_the_field_the_fragment_or_an_artifact_path() {
        let digest = "0a".repeat(32);
        let upper = digest.to_ascii_uppercase();
        for value in [
            format!("http://h/a#sha256={upper}"),
            format!("/opt/a#sha256:{digest}"),
            format!("http://h/artifacts/{digest}/a.wasm"),
        ] {
            let wanted = parse(&uri(&value), None).unwrap();
            assert_eq!(wanted.digest.as_ref(), Some(&digest), "{value}");
            assert!(!wanted.name.to_string_lossy().contains('#'));
        }
        let both = Uri {
            sha256: Some("0b".repeat(32)),
            ..uri(&format!("http://h/a#sha256={digest}"))
        };
        assert!(matches!(parse(&both, None), Err(FetchError::Uri { .. })));
        let short = Uri {
            sha256: Some("abc".to_owned()),
            ..uri("http://h/a")
        };
        assert!(matches!(parse(&short, None), Err(FetchError::Uri { .. })));
    }

    #[test]
    fn an_output_file_stays_inside_the_sandbox() {
        let with = |output: &str| {
            parse(
                &Uri {
                    output_file: Some(output.to_owned()),
                    ..uri("http://h/a.tar")
                },
                None,
            )
        };
        let wanted = with("dir/b.zip").unwrap();
        assert_eq!(
            (wanted.name.as_path(), wanted.archive),
            (Path::new("dir/b.zip"), Some(Archive::Zip))
        );
        for output in ["/etc/x", "../x", "a/../../x", "", ".", "dir/"] {
            assert!(
                matches!(with(output), Err(FetchError::OutputFile { .. })),
                "{output}"
            );
        }
        let executable = Uri {
            executable: Some(true),
            ..uri("http://h/a.tar")
        };
        assert_eq!(parse(&executable, None).unwrap().archive, None);
        let untouched = Uri {
            extract: Some(false),
            ..uri("http://h/a.tar")
        };
        assert_eq!(parse(&untouched, None).unwrap().archive, None);
    }

    #[test]
    fn nothing_is_fetched_to_where_the_output_goes() {
        let mut wanted = uri("http://host/stdout");
        let error = parse(&wanted, None).unwrap_err().to_string();
        assert!(error.contains("name another place"), "{error}");
        wanted.output_file = Some("log/stdout".to_owned());
        assert!(parse(&wanted, None).is_ok());
        wanted.output_file = Some("./stderr".to_owned());
        assert!(parse(&wanted, None).is_err());
    }
}
