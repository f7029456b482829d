//! The flags that say who must prove who they are and what they may do then.

use std::path::Path;
use std::sync::Arc;

use anyhow::bail;
use clap::Args;
use tepui_access::{Acls, Credential, Credentials};

/// What a master asks of its callers.
#[derive(Args, Debug)]
pub(crate) struct MasterAccess {
    /// File of those who are known: {"credentials": [{"principal": "...", "secret": "..."}]}
    #[arg(long, value_name = "FILE", value_parser = credentials)]
    credentials: Option<Credentials>,
    #[command(flatten)]
    authenticate: Authenticate,
    /// Agents must show credentials
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    authenticate_agents: bool,
    /// Schedulers must show credentials
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    authenticate_http_frameworks: bool,
    /// File of access control lists, or the lists themselves as JSON
    #[arg(long, value_name = "FILE", value_parser = acls)]
    acls: Option<Acls>,
}

/// Who must show credentials to read and to change things.
#[derive(Args, Debug)]
pub(crate) struct Authenticate {
    /// Whoever reads the state must show credentials
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    authenticate_http_readonly: bool,
    /// Operators must show credentials
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    authenticate_http_readwrite: bool,
}

impl MasterAccess {
    pub(crate) fn apply(self, config: &mut tepui_master::Config) -> anyhow::Result<()> {
        let asked = tepui_master::Authentication {
            frameworks: self.authenticate_http_frameworks,
            readonly: self.authenticate.authenticate_http_readonly,
            readwrite: self.authenticate.authenticate_http_readwrite,
            agents: self.authenticate_agents,
            credentials: Credentials::default(),
        };
        let any = asked.frameworks || asked.readonly || asked.readwrite || asked.agents;
        somebody_is_known(any, self.credentials.as_ref(), "--credentials")?;
        config.authentication = tepui_master::Authentication {
            credentials: self.credentials.unwrap_or_default(),
            ..asked
        };
        config.core.acls = Arc::new(self.acls.unwrap_or_default());
        Ok(())
    }
}

/// What an agent asks of those who call it itself.
#[derive(Args, Debug)]
pub(crate) struct AgentAccess {
    /// File of those who are known to the agent's own endpoint: {"credentials": [{"principal": "...", "secret": "..."}]}
    #[arg(long, value_name = "FILE", value_parser = credentials)]
    http_credentials: Option<Credentials>,
    #[command(flatten)]
    authenticate: Authenticate,
    /// File of access control lists, or the lists themselves as JSON
    #[arg(long, value_name = "FILE", value_parser = acls)]
    acls: Option<Acls>,
}

impl AgentAccess {
    pub(crate) fn apply(self, config: &mut tepui_agent::Config) -> anyhow::Result<()> {
        let (readonly, readwrite) = (
            self.authenticate.authenticate_http_readonly,
            self.authenticate.authenticate_http_readwrite,
        );
        let known = self.http_credentials.as_ref();
        somebody_is_known(readonly || readwrite, known, "--http_credentials")?;
        config.authentication = tepui_agent::Authentication {
            credentials: self.http_credentials.unwrap_or_default(),
            readonly,
            readwrite,
        };
        config.acls = Arc::new(self.acls.unwrap_or_default());
        Ok(())
    }
}

fn somebody_is_known(asked: bool, known: Option<&Credentials>, flag: &str) -> anyhow::Result<()> {
    if asked && known.is_none() {
        bail!("callers must show credentials, but nobody is known: name a file with {flag}");
    }
    Ok(())
}

/// A credential as given, or what is in the file of that name.
pub(crate) fn credential(text: &str) -> Result<Credential, String> {
    let (text, name) = if Path::new(text).is_file() {
        (read(text)?, format!("{text}: "))
    } else {
        (text.to_owned(), String::new())
    };
    Credential::parse(&text).map_err(|error| format!("{name}{error}"))
}

fn credentials(file: &str) -> Result<Credentials, String> {
    Credentials::parse(&read(file)?).map_err(|error| error.to_string())
}

fn acls(text: &str) -> Result<Acls, String> {
    Acls::parse(&json(text)?).map_err(|error| error.to_string())
}

/// JSON as given, or what is in the file of that name.
pub(crate) fn json(text: &str) -> Result<String, String> {
    if text.trim_start().starts_with('{') {
        Ok(text.to_owned())
    } else {
        read(text)
    }
}

fn read(file: &str) -> Result<String, String> {
    let path = file.strip_prefix("file://").unwrap_or(file);
    std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::{acls, credential};

    #[test]
    fn a_credential_is_given_as_it_is_or_in_a_file() {
        assert_eq!(credential("ann:tea").unwrap().principal, "ann");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credential");
        std::fs::write(&file, r#"{"principal": "bob", "secret": "tea"}"#).unwrap();
        let file = file.display().to_string();
        assert_eq!(credential(&file).unwrap().principal, "bob");
        assert!(
            credential("nothing")
                .unwrap_err()
                .contains("PRINCIPAL:SECRET")
        );
        assert!(acls("{}").is_ok());
        assert!(acls("/nowhere").unwrap_err().starts_with("/nowhere: "));
    }
}
