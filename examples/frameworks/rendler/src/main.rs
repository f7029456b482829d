//! Crawls a web site and draws a picture of it: for each page one wasm task that finds its links and one that renders it.
//!
//! The agent fetches the page into the task's sandbox, so the guests need no network; the scheduler reads what they
//! wrote through the master. Pages that were found are crawled in turn, until nothing new is found or the bound on pages
//! is reached.
#![allow(clippy::print_stdout, reason = "a command's result goes to stdout")]

mod picture;
mod site;
mod tasks;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Parser;
use tepui_api::v1;
use tepui_sdk_scheduler::{Config, Event, Scheduler, connect};

use crate::site::Site;
use crate::tasks::{Modules, Work};

#[derive(Parser, Debug)]
struct Arguments {
    /// The master, host:port.
    #[arg(long, env = "TEPUI_MASTER", default_value = "127.0.0.1:5050")]
    master: String,
    /// URL of the module that finds links.
    #[arg(long)]
    crawl: String,
    /// URL of the module that draws a page.
    #[arg(long)]
    render: String,
    /// The most pages to look at.
    #[arg(long, default_value_t = 25)]
    pages: usize,
    /// Where the pictures go: page-N.png, and site.svg with all of them and the links between.
    #[arg(long, default_value = "rendler-out")]
    out: PathBuf,
    /// The page to begin with. Links to other hosts are not followed.
    url: String,
}

struct Crawler {
    scheduler: Scheduler,
    http: reqwest::Client,
    arguments: Arguments,
    modules: Modules,
    framework_id: String,
    site: Site,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // The HTTP client wants to know who would encrypt, even where nothing is encrypted.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        bail!("another cryptography provider is installed already");
    }
    std::fs::create_dir_all(&arguments.out)
        .with_context(|| format!("cannot make {}", arguments.out.display()))?;
    let framework = v1::FrameworkInfo {
        user: "root".to_owned(),
        name: "rendler".to_owned(),
        failover_timeout: Some(60.0),
        ..Default::default()
    };
    let (scheduler, mut events) = connect(Config::new(arguments.master.clone(), framework));
    let mut crawler = Crawler {
        scheduler,
        http: reqwest::Client::new(),
        modules: Modules {
            crawl: arguments.crawl.clone(),
            render: arguments.render.clone(),
        },
        framework_id: String::new(),
        site: Site::new(&arguments.url, arguments.pages)?,
        arguments,
    };
    while let Some(event) = events.next().await {
        match event {
            Event::Subscribed { framework_id, .. } => crawler.framework_id = framework_id.value,
            Event::Offers(offers) => {
                for offer in offers {
                    crawler.use_offer(offer).await?;
                }
            }
            Event::Update(status) => crawler.on_update(&status).await?,
            Event::Error(error) => bail!("the master ended the framework: {error}"),
            _ => {}
        }
        if crawler.site.is_done() {
            return crawler.finish().await;
        }
    }
    bail!("the connection to the master ended")
}

impl Crawler {
    /// Launches as much of the waiting work as fits into the offer; without any, no offers are wanted.
    async fn use_offer(&mut self, offer: v1::Offer) -> anyhow::Result<()> {
        let mut launched = Vec::new();
        for _ in 0..tasks::fitting(&offer) {
            let Some(work) = self.site.next() else { break };
            let url = self.site.url(work.page);
            launched.push(tasks::task(work, url, &self.modules, &offer.agent_id));
        }
        let ids = std::slice::from_ref(&offer.id);
        if launched.is_empty() {
            self.scheduler.decline(ids, None).await?;
            self.scheduler.suppress(&[]).await?;
        } else {
            self.scheduler.launch(ids, launched).await?;
        }
        Ok(())
    }

    async fn on_update(&mut self, status: &v1::TaskStatus) -> anyhow::Result<()> {
        let Some(work) = Work::of_task(&status.task_id.value) else {
            return Ok(());
        };
        if !status.state().is_terminal() {
            return Ok(());
        }
        if status.state() != v1::TaskState::TaskFinished {
            println!(
                "{} {}: {}",
                work.name(),
                self.site.url(work.page),
                status.message()
            );
            self.site.failed(work, status.message());
            return Ok(());
        }
        let bytes = self.read(&status.task_id.value, work.result()).await?;
        match work.part {
            tasks::Part::Crawl => {
                let links = String::from_utf8(bytes).context("links.txt is not text")?;
                if self.site.crawled(work.page, links.lines()) {
                    self.scheduler.revive(&[]).await?;
                }
            }
            tasks::Part::Render => {
                let file = self.arguments.out.join(format!("page-{}.png", work.page));
                std::fs::write(&file, &bytes)
                    .with_context(|| format!("cannot write {}", file.display()))?;
                self.site.rendered(work.page, bytes);
            }
        }
        Ok(())
    }

    /// A file of a task's sandbox.
    async fn read(&self, task: &str, path: &str) -> anyhow::Result<Vec<u8>> {
        let url = format!(
            "http://{}/api/v1/tepui/logs?framework_id={}&task_id={task}&path={path}",
            self.arguments.master, self.framework_id
        );
        let response = self.http.get(&url).send().await?.error_for_status()?;
        Ok(response.bytes().await?.to_vec())
    }

    async fn finish(self) -> anyhow::Result<()> {
        let file = self.arguments.out.join("site.svg");
        std::fs::write(&file, picture::draw(&self.site))
            .with_context(|| format!("cannot write {}", file.display()))?;
        for page in self.site.pages() {
            println!("{}", page.summary());
        }
        println!("picture {}", file.display());
        self.scheduler.teardown().await?;
        Ok(())
    }
}
