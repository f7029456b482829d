//! `tepui store`: what tasks keep in the stores of their jobs.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::client::{self, Client, MasterAddress, refusal};
use crate::table;

const STORE: &str = "/api/v1/tepui/store";

#[derive(Args, Debug)]
pub(crate) struct Store {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// List the stores: of all roles, or of one; or the keys of the store of one job
    Ls {
        #[command(flatten)]
        master: MasterAddress,
        role: Option<String>,
        /// What the tasks' label tepui.job says
        job: Option<String>,
        /// Only keys that begin with it
        #[arg(long, requires = "job")]
        prefix: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a value, as it is
    Get {
        #[command(flatten)]
        master: MasterAddress,
        role: String,
        job: String,
        key: String,
    },
    /// Keep a value under a key; prints its version
    Put {
        #[command(flatten)]
        master: MasterAddress,
        role: String,
        job: String,
        key: String,
        /// The value; what stdin brings if neither it nor --file is given
        value: Option<String>,
        /// A file with the value
        #[arg(long, conflicts_with = "value")]
        file: Option<PathBuf>,
        /// Only if the key has this version; 0: only if it does not exist
        #[arg(long, value_name = "VERSION")]
        if_version: Option<u64>,
    },
    /// Remove a key, or with --all the whole store of a job
    Rm {
        #[command(flatten)]
        master: MasterAddress,
        role: String,
        job: String,
        #[arg(required_unless_present = "all")]
        key: Option<String>,
        /// Everything the job's tasks kept
        #[arg(long, conflicts_with = "key")]
        all: bool,
        /// Only if the key has this version
        #[arg(long, value_name = "VERSION", conflicts_with = "all")]
        if_version: Option<u64>,
    },
}

impl Store {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        client::block_on(async {
            match self.command {
                Command::Ls {
                    master,
                    role,
                    job,
                    prefix,
                    json,
                } => {
                    let query = [("role", role), ("job", job), ("prefix", prefix)];
                    list(&Client::new(&master)?, &query, json).await?;
                }
                Command::Get {
                    master,
                    role,
                    job,
                    key,
                } => {
                    let client = Client::new(&master)?;
                    let query = named(&role, &job, Some(&key), None);
                    let response = client
                        .ask(client.request_with(Method::GET, STORE, &query)?)
                        .await?;
                    match response.status() {
                        StatusCode::OK => std::io::stdout().write_all(&response.bytes().await?)?,
                        StatusCode::NOT_FOUND => bail!(
                            "job '{job}' of role '{role}' keeps nothing under '{key}': `tepui store ls {role} {job}` shows what it keeps"
                        ),
                        _ => bail!("{}", refusal(response).await),
                    }
                }
                Command::Put {
                    master,
                    role,
                    job,
                    key,
                    value,
                    file,
                    if_version,
                } => {
                    let value = value_of(value, file)?;
                    let client = Client::new(&master)?;
                    let query = named(&role, &job, Some(&key), if_version);
                    let put = client.request_with(Method::PUT, STORE, &query)?.body(value);
                    let answer: Value = client.send(put).await?.json().await?;
                    println!("{}", answer["version"]);
                }
                Command::Rm {
                    master,
                    role,
                    job,
                    key,
                    all: _,
                    if_version,
                } => {
                    let client = Client::new(&master)?;
                    let query = named(&role, &job, key.as_deref(), if_version);
                    let delete = client.request_with(Method::DELETE, STORE, &query)?;
                    let answer: Value = client.send(delete).await?.json().await?;
                    match key {
                        Some(key) if answer["version"] == 0 => {
                            bail!("job '{job}' of role '{role}' keeps nothing under '{key}'")
                        }
                        Some(_) => {}
                        None => eprintln!("tepui: removed {} keys", answer["keys"]),
                    }
                }
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

fn value_of(value: Option<String>, file: Option<PathBuf>) -> anyhow::Result<Vec<u8>> {
    match (value, file) {
        (Some(value), _) => Ok(value.into_bytes()),
        (None, Some(file)) => {
            std::fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))
        }
        (None, None) => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes)?;
            Ok(bytes)
        }
    }
}

fn named(
    role: &str,
    job: &str,
    key: Option<&str>,
    if_version: Option<u64>,
) -> Vec<(&'static str, String)> {
    let mut query = vec![("role", role.to_owned()), ("job", job.to_owned())];
    query.extend(key.map(|key| ("key", key.to_owned())));
    query.extend(if_version.map(|version| ("if_version", version.to_string())));
    query
}

async fn list(
    client: &Client,
    query: &[(&'static str, Option<String>)],
    json: bool,
) -> anyhow::Result<()> {
    let given = query.iter();
    let given = given.filter_map(|(name, value)| Some((*name, value.clone()?)));
    let given: Vec<_> = given.collect();
    let listed = client
        .send(client.request_with(Method::GET, STORE, &given)?)
        .await?;
    let listed: Value = listed.json().await?;
    if json {
        table::json(&listed);
        return Ok(());
    }
    let row = |one: &Value, columns: &[&str]| {
        let cells = columns.iter().map(|column| match &one[*column] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        cells.collect::<Vec<_>>()
    };
    if listed["keys"].is_array() {
        let columns = ["key", "bytes", "version"];
        let rows: Vec<_> = client::items(&listed["keys"])
            .map(|one| row(one, &columns))
            .collect();
        table::print(&["KEY", "BYTES", "VERSION"], &rows);
    } else {
        let columns = ["role", "job", "keys", "bytes", "version"];
        let rows: Vec<_> = client::items(&listed["stores"])
            .map(|one| row(one, &columns))
            .collect();
        table::print(&["ROLE", "JOB", "KEYS", "BYTES", "VERSION"], &rows);
    }
    Ok(())
}
