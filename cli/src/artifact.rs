//! `tepui artifact`: modules and data kept at the master, for tasks to fetch over HTTP.

mod add;
mod get;
mod put;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde_json::Value;

pub(crate) use put::put;

use crate::client::{self, Client, MasterAddress};
use crate::table;

const ARTIFACTS: &str = "/api/v1/tepui/artifacts";

#[derive(Args, Debug)]
pub(crate) struct Artifact {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Upload a file, unless the master has its content already; prints the URL tasks fetch it from
    Put {
        #[command(flatten)]
        master: MasterAddress,
        file: PathBuf,
        /// What it is called; the file's own name if not given
        #[arg(long)]
        name: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let the master fetch a URI and keep it: http, https, s3, webhdfs, hdfs, oci, file
    Add {
        #[command(flatten)]
        master: MasterAddress,
        #[arg(value_name = "URL")]
        uri: String,
        /// What its content must be
        #[arg(long)]
        sha256: Option<String>,
        /// What it is called; the last part of the URI if not given
        #[arg(long)]
        name: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Download one, going on with what is here of it already
    Get {
        #[command(flatten)]
        master: MasterAddress,
        /// The digest that `ls` shows
        sha256: String,
        /// Where to; its name, in this directory, if not given
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
    /// List what the master keeps
    Ls {
        #[command(flatten)]
        master: MasterAddress,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove one
    Rm {
        #[command(flatten)]
        master: MasterAddress,
        /// The digest that `ls` shows
        sha256: String,
    },
    /// Show who has the bytes of a digest: the master, and agents that fetched them
    Where {
        #[command(flatten)]
        master: MasterAddress,
        sha256: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl Artifact {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        client::block_on(async {
            match self.command {
                Command::Put {
                    master,
                    file,
                    name,
                    json,
                } => {
                    let answer = put(&Client::new(&master)?, &file, name.as_deref()).await?;
                    print(&answer, json)?;
                }
                Command::Add {
                    master,
                    uri,
                    sha256,
                    name,
                    json,
                } => {
                    let order = serde_json::json!({ "uri": uri, "sha256": sha256, "name": name });
                    let answer = add::add(&Client::new(&master)?, &order).await?;
                    print(&answer, json)?;
                }
                Command::Get {
                    master,
                    sha256,
                    output,
                } => {
                    let path = get::get(&Client::new(&master)?, &sha256, output).await?;
                    println!("{}", path.display());
                }
                Command::Ls { master, json } => list(&Client::new(&master)?, json).await?,
                Command::Rm { master, sha256 } => {
                    let path = format!("{ARTIFACTS}/{sha256}");
                    Client::new(&master)?.delete(&path).await?;
                }
                Command::Where {
                    master,
                    sha256,
                    json,
                } => whereabouts(&Client::new(&master)?, &sha256, json).await?,
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

fn print(answer: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        table::json(answer);
    } else {
        println!("{}", client::text(answer, &["url"]));
    }
    Ok(())
}

/// The master may know itself by another address than the one that reaches it from here.
fn with_url(client: &Client, mut answer: Value) -> Value {
    if let Some(path) = answer["url"].as_str().filter(|url| url.starts_with('/')) {
        answer["url"] = Value::from(format!("{}{path}", client.url()));
    }
    answer
}

async fn list(client: &Client, json: bool) -> anyhow::Result<()> {
    let answer: Value = client.get(ARTIFACTS, &[]).await?.json().await?;
    if json {
        table::json(&answer);
        return Ok(());
    }
    let rows: Vec<Vec<String>> = client::items(&answer["artifacts"])
        .map(|one| {
            let text = |key: &str| client::text(one, &[key]).to_owned();
            vec![text("sha256"), one["size"].to_string(), text("name")]
        })
        .collect();
    table::print(&["SHA256", "BYTES", "NAME"], &rows);
    Ok(())
}

async fn whereabouts(client: &Client, sha256: &str, json: bool) -> anyhow::Result<()> {
    let request = client.request(Method::GET, &format!("{ARTIFACTS}/{sha256}"));
    let answer: Value = client.send(request).await?.json().await?;
    if json {
        table::json(&answer);
        return Ok(());
    }
    let mut rows = Vec::new();
    if answer["master"] == Value::Bool(true) {
        let url = client::text(&answer, &["url"]).to_owned();
        rows.push(vec!["master".to_owned(), String::new(), url]);
    }
    for agent in client::items(&answer["agents"]) {
        let text = |key: &str| client::text(agent, &[key]).to_owned();
        rows.push(vec![text("hostname"), text("id"), text("endpoint")]);
    }
    table::print(&["HOLDER", "ID", "WHERE"], &rows);
    Ok(())
}

/// On stderr, and only if that is a terminal.
fn bar(what: &str, size: Option<u64>) -> ProgressBar {
    let bar = match size {
        Some(size) => ProgressBar::new(size),
        None => ProgressBar::no_length(),
    };
    let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar
}
