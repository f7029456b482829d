//! `tepui artifact`: modules and data kept at the master, for tasks to fetch over HTTP.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::client::{self, Client, MasterAddress};
use crate::table;

#[derive(Args, Debug)]
pub(crate) struct Artifact {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Upload a file; prints the URL tasks fetch it from
    Put {
        #[command(flatten)]
        master: MasterAddress,
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
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
}

impl Artifact {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        client::block_on(async {
            match self.command {
                Command::Put { master, file, json } => {
                    let answer = Client::new(&master)?.put_artifact(&file).await?;
                    if json {
                        println!("{}", serde_json::to_string_pretty(&answer)?);
                    } else {
                        println!("{}", client::text(&answer, &["url"]));
                    }
                }
                Command::Ls { master, json } => {
                    let response = Client::new(&master)?
                        .get("/api/v1/tepui/artifacts", &[])
                        .await?;
                    let answer: Value = response.json().await?;
                    if json {
                        println!("{}", serde_json::to_string_pretty(&answer)?);
                    } else {
                        let list = if answer.is_array() {
                            &answer
                        } else {
                            &answer["artifacts"]
                        };
                        let rows: Vec<Vec<String>> = client::items(list)
                            .map(|one| {
                                let text = |key: &str| client::text(one, &[key]).to_owned();
                                vec![text("sha256"), one["size"].to_string(), text("name")]
                            })
                            .collect();
                        table::print(&["SHA256", "BYTES", "NAME"], &rows);
                    }
                }
                Command::Rm { master, sha256 } => {
                    Client::new(&master)?
                        .delete(&format!("/api/v1/tepui/artifacts/{sha256}"))
                        .await?;
                }
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}
