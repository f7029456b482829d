//! `--fetch`: a URI, and perhaps the name its file gets.

use std::str::FromStr;

use tepui_api::v1::command_info::Uri;

/// A file that is fetched besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Further {
    /// With its digest, if it has one.
    uri: String,
    name: Option<String>,
}

impl Further {
    pub(crate) fn uri(&self) -> Uri {
        Uri {
            value: self.uri.clone(),
            output_file: self.name.clone(),
            ..Uri::default()
        }
    }
}

impl FromStr for Further {
    type Err = String;

    /// What follows the last '=' is a name only where that '=' cannot be the URI's own.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (uri, name) = match text.rsplit_once('#') {
            Some((uri, fragment)) => match fragment.strip_prefix('=') {
                Some(name) => (uri, Some(name)),
                None => behind_digest(text, fragment),
            },
            None if text.contains('?') => (text, None),
            None => match text.rsplit_once('=') {
                Some((uri, name)) if !name.contains('/') => (uri, Some(name)),
                _ => (text, None),
            },
        };
        if uri.is_empty() {
            return Err("there is no URL before the '='".to_owned());
        }
        if name.is_some_and(str::is_empty) {
            return Err("there is no name behind the last '='".to_owned());
        }
        if let (_, Some(digest)) = tepui_fetch::split_digest(uri)
            && !tepui_fetch::is_digest(&digest)
        {
            return Err(format!(
                "'{digest}' is not a sha256 digest: 64 hexadecimal digits"
            ));
        }
        Ok(Self {
            uri: uri.to_owned(),
            name: name.map(str::to_owned),
        })
    }
}

/// Of `text` that ends in `fragment`: what comes before a name that follows a digest, and the name.
fn behind_digest<'a>(text: &'a str, fragment: &'a str) -> (&'a str, Option<&'a str>) {
    let digest = fragment
        .strip_prefix("sha256=")
        .or_else(|| fragment.strip_prefix("sha256:"));
    match digest.and_then(|digest| digest.split_once('=')) {
        Some((_, name)) => (&text[..text.len() - name.len() - 1], Some(name)),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_only_what_cannot_be_part_of_the_uri() {
        let digest = "0a".repeat(32);
        let pinned = format!("http://h/f?v=2#sha256={digest}");
        let other = format!("s3://b/k#sha256:{digest}");
        for (text, uri, name) in [
            ("http://h/f".to_owned(), "http://h/f", None),
            ("http://h/f=name".to_owned(), "http://h/f", Some("name")),
            ("http://h/a=b/f".to_owned(), "http://h/a=b/f", None),
            ("/a/f=b".to_owned(), "/a/f", Some("b")),
            ("http://h/f?v=2".to_owned(), "http://h/f?v=2", None),
            ("http://h/f?v=2&w=x".to_owned(), "http://h/f?v=2&w=x", None),
            ("http://h/f#a=b".to_owned(), "http://h/f#a=b", None),
            ("http://h/f?v=2#=n".to_owned(), "http://h/f?v=2", Some("n")),
            (pinned.clone(), &pinned, None),
            (format!("{pinned}=n.wasm"), &pinned, Some("n.wasm")),
            (other.clone(), &other, None),
            (format!("{other}=dir/n"), &other, Some("dir/n")),
        ] {
            let read: Further = text.parse().unwrap();
            assert_eq!((read.uri.as_str(), read.name.as_deref()), (uri, name));
        }
    }

    #[test]
    fn what_is_no_digest_and_no_name_is_refused() {
        let none = format!("http://h/f#sha256={}=", "0a".repeat(32));
        for text in [
            "http://h/f=",
            "=name",
            "http://h/f#=",
            "http://h/f#sha256=",
            "http://h/f#sha256=abc",
            "http://h/f#sha256=abc=name",
            &none,
        ] {
            assert!(text.parse::<Further>().is_err(), "{text}");
        }
    }
}
