//! Principals and their secrets, and the HTTP header that shows them.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// A name and the secret that proves it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Credential {
    pub principal: String,
    pub secret: String,
}

/// Everybody who is known.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    secrets: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    #[error(
        "the credentials are not JSON of the form {{\"credentials\": [{{\"principal\": \"...\", \"secret\": \"...\"}}]}}: {0}"
    )]
    Json(String),
    #[error(
        "a credential is JSON of the form {{\"principal\": \"...\", \"secret\": \"...\"}}, or PRINCIPAL:SECRET: {0}"
    )]
    One(String),
    #[error("a principal must have a name")]
    NoName,
    #[error(
        "the principal '{principal}' or its secret contains a ':', which HTTP Basic authentication cannot carry"
    )]
    Colon { principal: String },
    #[error("the principal '{principal}' is listed twice")]
    Twice { principal: String },
}

/// Why a header proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("This needs credentials: send 'Authorization: Basic' with a principal and its secret")]
    Missing,
    #[error("The 'Authorization' header must be 'Basic' and the base64 of 'principal:secret'")]
    Malformed,
    #[error("The principal is not known or the secret is not its own")]
    Wrong,
}

/// What a log may show.
impl std::fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Credential({})", self.principal)
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_tuple("Credentials")
            .field(&self.secrets.keys().collect::<Vec<_>>())
            .finish()
    }
}

impl Credential {
    /// Reads `PRINCIPAL:SECRET`, or a file's JSON.
    pub fn parse(text: &str) -> Result<Self, CredentialsError> {
        let text = text.trim();
        let credential = if text.starts_with('{') {
            serde_json::from_str(text).map_err(|error| CredentialsError::One(error.to_string()))?
        } else {
            let (principal, secret) = text
                .split_once(':')
                .ok_or_else(|| CredentialsError::One("there is no ':'".to_owned()))?;
            Self {
                principal: principal.to_owned(),
                secret: secret.to_owned(),
            }
        };
        credential.check()?;
        Ok(credential)
    }

    fn check(&self) -> Result<(), CredentialsError> {
        if self.principal.is_empty() {
            return Err(CredentialsError::NoName);
        }
        if self.principal.contains(':') || self.secret.contains(':') {
            return Err(CredentialsError::Colon {
                principal: self.principal.clone(),
            });
        }
        Ok(())
    }

    /// The value of an `Authorization` header that shows it.
    pub fn header(&self) -> String {
        let text = format!("{}:{}", self.principal, self.secret);
        format!("Basic {}", STANDARD.encode(text))
    }
}

impl Credentials {
    /// Reads a credentials file.
    pub fn parse(text: &str) -> Result<Self, CredentialsError> {
        #[derive(Deserialize)]
        struct File {
            credentials: Vec<Credential>,
        }
        let file: File = serde_json::from_str(text)
            .map_err(|error| CredentialsError::Json(error.to_string()))?;
        let mut secrets = BTreeMap::new();
        for credential in file.credentials {
            credential.check()?;
            let Credential { principal, secret } = credential;
            if secrets.insert(principal.clone(), secret).is_some() {
                return Err(CredentialsError::Twice { principal });
            }
        }
        Ok(Self { secrets })
    }

    /// Whom the header proves its sender to be.
    pub fn authenticate(&self, header: Option<&str>) -> Result<&str, Refused> {
        let encoded = header
            .ok_or(Refused::Missing)?
            .strip_prefix("Basic ")
            .ok_or(Refused::Malformed)?;
        let decoded = STANDARD.decode(encoded).map_err(|_| Refused::Malformed)?;
        let text = String::from_utf8(decoded).map_err(|_| Refused::Malformed)?;
        let (principal, secret) = text.split_once(':').ok_or(Refused::Malformed)?;
        if secret.contains(':') {
            return Err(Refused::Malformed);
        }
        let known = self.secrets.get_key_value(principal);
        // A wrong name takes as long as a wrong secret, so that names cannot be found out by the clock.
        let (name, expected) = known.map_or(("", ""), |(name, secret)| (name, secret));
        if same(expected.as_bytes(), secret.as_bytes()) && known.is_some() {
            Ok(name)
        } else {
            Err(Refused::Wrong)
        }
    }
}

/// Compares without stopping at the first difference.
fn same(expected: &[u8], given: &[u8]) -> bool {
    let mut difference = u8::from(expected.len() != given.len());
    for (at, byte) in given.iter().enumerate() {
        difference |= byte ^ expected.get(at).copied().unwrap_or(!byte);
    }
    difference == 0
}

#[cfg(test)]
mod tests {
    use super::{Credential, Credentials, CredentialsError, Refused};

    fn known() -> Credentials {
        let text = r#"{"credentials": [{"principal": "ann", "secret": "tea"}, {"principal": "bob", "secret": ""}]}"#;
        Credentials::parse(text).unwrap()
    }

    #[test]
    fn a_header_proves_who_sent_it() {
        let header = |text: &str| Credential::parse(text).unwrap().header();
        let known = known();
        assert_eq!(known.authenticate(Some(&header("ann:tea"))), Ok("ann"));
        assert_eq!(known.authenticate(Some(&header("bob:"))), Ok("bob"));
        assert_eq!(
            known.authenticate(Some(&header("ann:coffee"))),
            Err(Refused::Wrong)
        );
        assert_eq!(
            known.authenticate(Some(&header("ann:te"))),
            Err(Refused::Wrong)
        );
        assert_eq!(
            known.authenticate(Some(&header("ann:teas"))),
            Err(Refused::Wrong)
        );
        assert_eq!(
            known.authenticate(Some(&header("eve:"))),
            Err(Refused::Wrong)
        );
        assert_eq!(known.authenticate(None), Err(Refused::Missing));
        for wrong in [
            "",
            "Basic",
            "Basic ?",
            "basic YTpi",
            "Bearer YTpi",
            "Basic YQ==",
            "Basic YTpiOmM=",
        ] {
            assert_eq!(
                known.authenticate(Some(wrong)),
                Err(Refused::Malformed),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn a_file_that_cannot_work_is_refused() {
        let error = |text: &str| Credentials::parse(text).unwrap_err();
        assert!(matches!(error("ann tea"), CredentialsError::Json(_)));
        let one = |principal: &str, secret: &str| {
            format!(r#"{{"principal": "{principal}", "secret": "{secret}"}}"#)
        };
        let file = |list: &[String]| format!(r#"{{"credentials": [{}]}}"#, list.join(","));
        assert_eq!(error(&file(&[one("", "x")])), CredentialsError::NoName);
        let principal = "ann".to_owned();
        assert_eq!(
            error(&file(&[one("ann", "x:y")])),
            CredentialsError::Colon {
                principal: principal.clone()
            }
        );
        assert_eq!(
            error(&file(&[one("ann", "x"), one("ann", "y")])),
            CredentialsError::Twice { principal }
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        assert!(
            !format!("{:?}{:?}", known(), Credential::parse("ann:tea").unwrap()).contains("tea")
        );
    }
}
