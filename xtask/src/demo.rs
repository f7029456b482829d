//! The main job, end to end: a cluster of real processes on loopback counts the words of a real corpus.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

const SHARDS: usize = 8;
const SHARD_BYTES: usize = 8 << 20;

pub(crate) fn run() -> anyhow::Result<()> {
    let work = super::target().join("demo");
    if work.exists() {
        std::fs::remove_dir_all(&work)?;
    }
    std::fs::create_dir_all(&work)?;
    let began = Instant::now();

    step("The corpus: the sources of the crates Tepui is built from");
    let shards = corpus(&work)?;
    let bytes: usize = shards.iter().map(Vec::len).sum();
    println!(
        "{} shards, {:.1} MB of text",
        shards.len(),
        bytes as f64 / 1e6
    );

    step("A master and three agents, each a process of its own");
    let mut cluster = Cluster::start(&work)?;
    cluster.wait_for_agents(3)?;
    cluster.tepui(&["agents"])?;

    step("Shards and modules become artifacts, served over HTTP");
    let mut shard_urls = Vec::new();
    for (number, shard) in shards.iter().enumerate() {
        let file = work.join(format!("shard-{number}.txt"));
        std::fs::write(&file, shard)?;
        shard_urls.push(cluster.put(&file)?);
    }
    let guests = super::target().join("guests/wasm32-wasip1/release");
    let map = cluster.put(&guests.join("wordcount-map.wasm"))?;
    let reduce = cluster.put(&guests.join("wordcount-reduce.wasm"))?;
    println!("{}\n{map}\n{reduce}", shard_urls.join("\n"));

    step("A wasm map task per shard, a wasm reduce task over what they wrote");
    let counting = Instant::now();
    let output = Command::new(binary("wordcount"))
        .args([
            "--master",
            &cluster.master,
            "--map",
            &map,
            "--reduce",
            &reduce,
        ])
        .args(&shard_urls)
        .stderr(Stdio::inherit())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{said}");
    if !output.status.success() {
        bail!("wordcount ended with {}", output.status);
    }
    let took = counting.elapsed();
    let framework = said
        .lines()
        .find_map(|line| line.strip_prefix("framework "))
        .context("wordcount names its framework")?
        .to_owned();
    print!("{}", cluster.sandbox_file(&framework, "reduce", "stdout")?);

    step("The same count made without the cluster");
    let counted = totals(&cluster.sandbox_file(&framework, "reduce", "totals.tsv")?)?;
    let expected = count(&shards);
    if counted != expected {
        bail!(
            "the cluster counted {} distinct words, this program {}",
            counted.len(),
            expected.len()
        );
    }
    println!(
        "identical: {} words, {} distinct",
        expected.values().sum::<u64>(),
        expected.len()
    );

    step("A native task beside them, in a cgroup of its own");
    cluster.expect(
        &[
            "run",
            "--mem",
            "64MB",
            "--",
            "sh",
            "-c",
            "echo native on $(uname -s); grep -E 'memory|pids' /proc/self/cgroup",
        ],
        0,
    )?;

    step("A task that takes more memory than it asked for");
    let hungry = guests.join("hungry.wasm").display().to_string();
    cluster.expect(&["run", "--mem", "64MB", &hungry], 201)?;
    step("A task that uses up its fuel");
    let spin = guests.join("spin.wasm").display().to_string();
    cluster.expect(&["run", "--fuel", "500000000", &spin], 202)?;
    step("A task that runs out of time");
    cluster.expect(&["run", "--time", "2s", &spin], 203)?;

    step("What the master remembers");
    cluster.tepui(&["ps", "--all"])?;

    step("Summary");
    println!(
        "corpus            {:.1} MB in {SHARDS} shards",
        bytes as f64 / 1e6
    );
    println!("distinct words    {}", expected.len());
    println!(
        "map and reduce    {:.2} s on the cluster, the first compilation of both modules included",
        took.as_secs_f64()
    );
    println!("the whole demo    {:.1} s", began.elapsed().as_secs_f64());
    println!("limits named      memory, fuel, time");
    cluster.stop();
    std::fs::remove_dir_all(&work)?;
    Ok(())
}

fn step(title: &str) {
    println!("\n== {title}");
}

fn binary(name: &str) -> PathBuf {
    super::target().join("debug").join(name)
}

/// Real text that every machine able to build Tepui has: the sources cargo unpacked for it, in the order of their paths.
fn corpus(work: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let listed = super::cargo()
        .args(["metadata", "--format-version", "1", "--locked"])
        .output()?;
    let metadata: Value =
        serde_json::from_slice(&listed.stdout).context("cargo metadata printed no JSON")?;
    let mut folders: Vec<PathBuf> = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|package| !package["source"].is_null())
        .filter_map(|package| {
            Path::new(package["manifest_path"].as_str()?)
                .parent()
                .map(Path::to_owned)
        })
        .collect();
    folders.sort();
    let mut shards = vec![Vec::with_capacity(SHARD_BYTES)];
    for folder in folders {
        let mut files = Vec::new();
        walk(&folder, &mut files)?;
        files.sort();
        for file in files {
            let last = shards.len() - 1;
            shards[last].extend(std::fs::read(file)?);
            if shards[last].len() >= SHARD_BYTES {
                if shards.len() == SHARDS {
                    return Ok(shards);
                }
                shards.push(Vec::with_capacity(SHARD_BYTES));
            }
        }
    }
    bail!(
        "the unpacked sources hold less than {} MB of text; see {}",
        SHARDS * SHARD_BYTES / 1_000_000,
        work.display()
    )
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|ending| ending == "rs" || ending == "md")
        {
            files.push(path);
        }
    }
    Ok(())
}

/// The count by other means: byte by byte, no splitting iterator, an ordered map.
fn count(shards: &[Vec<u8>]) -> BTreeMap<String, u64> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut word = String::new();
    for shard in shards {
        for byte in shard.iter().chain(std::iter::once(&b' ')) {
            if byte.is_ascii_alphabetic() {
                word.push(char::from(byte.to_ascii_lowercase()));
            } else if !word.is_empty() {
                match counts.get_mut(&word) {
                    Some(count) => *count += 1,
                    None => {
                        counts.insert(word.clone(), 1);
                    }
                }
                word.clear();
            }
        }
    }
    counts
}

fn totals(text: &str) -> anyhow::Result<BTreeMap<String, u64>> {
    text.lines()
        .map(|line| {
            let (word, count) = line
                .split_once('\t')
                .context("a line of totals.tsv has two columns")?;
            Ok((word.to_owned(), count.parse()?))
        })
        .collect()
}

/// The processes of the demo; they end with it, whatever happens.
struct Cluster {
    master: String,
    processes: Vec<Child>,
}

impl Cluster {
    fn start(work: &Path) -> anyhow::Result<Self> {
        let mut cluster = Self {
            master: String::new(),
            processes: Vec::new(),
        };
        let data = work.join("master").display().to_string();
        let said = cluster.process(
            work,
            "master",
            &["master", "--port", "0", "--work-dir", &data],
            true,
        )?;
        cluster.master = said.context("the master prints its address")?;
        println!("master at {}", cluster.master);
        for number in 1..=3 {
            let data = work.join(format!("agent-{number}")).display().to_string();
            let master = cluster.master.clone();
            let resources = "cpus:2;mem:2048;disk:4096";
            cluster.process(
                work,
                &format!("agent-{number}"),
                &[
                    "agent",
                    "--master",
                    &master,
                    "--port",
                    "0",
                    "--work-dir",
                    &data,
                    "--resources",
                    resources,
                ],
                false,
            )?;
        }
        Ok(cluster)
    }

    /// Starts one; with `listens`, waits for the line `listening on HOST:PORT` and returns the address.
    fn process(
        &mut self,
        work: &Path,
        name: &str,
        words: &[&str],
        listens: bool,
    ) -> anyhow::Result<Option<String>> {
        let log = File::create(work.join(format!("{name}.log")))?;
        let mut child = Command::new(binary("tepui"))
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("cannot start tepui")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        self.processes.push(child);
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(address) = line.strip_prefix("listening on ") {
                    let _ = sender.send(address.to_owned());
                }
            }
        });
        if !listens {
            return Ok(None);
        }
        let address = receiver.recv_timeout(Duration::from_secs(30));
        Ok(Some(address.with_context(|| {
            format!("{name} did not start: see {name}.log in {}", work.display())
        })?))
    }

    fn wait_for_agents(&self, wanted: usize) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let output = self.command(&["agents", "--json"]).output()?;
            let agents: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let seen = agents.as_array().map_or(0, Vec::len);
            if seen >= wanted {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{seen} of {wanted} agents registered within 30 s");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary("tepui"));
        command
            .args(words)
            .env("TEPUI_MASTER", &self.master)
            .stdin(Stdio::null());
        command
    }

    fn tepui(&self, words: &[&str]) -> anyhow::Result<()> {
        println!("$ tepui {}", words.join(" "));
        super::run(&mut self.command(words))
    }

    /// Runs a command that must end with this exit code.
    fn expect(&self, words: &[&str], code: i32) -> anyhow::Result<()> {
        println!("$ tepui {}", words.join(" "));
        std::io::stdout().flush()?;
        let output = self.command(words).stderr(Stdio::inherit()).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<&str> = said.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(6)) {
            println!("{line}");
        }
        println!("exit code {}", output.status.code().unwrap_or(-1));
        if output.status.code() != Some(code) {
            bail!("expected exit code {code}");
        }
        Ok(())
    }

    fn put(&self, file: &Path) -> anyhow::Result<String> {
        let output = self
            .command(&["artifact", "put", "--json", &file.display().to_string()])
            .output()?;
        let answer: Value = serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "tepui artifact put: {}",
                String::from_utf8_lossy(&output.stderr)
            )
        })?;
        Ok(answer["url"]
            .as_str()
            .context("an artifact has a url")?
            .to_owned())
    }

    fn sandbox_file(&self, framework: &str, task: &str, path: &str) -> anyhow::Result<String> {
        let output = self
            .command(&["logs", "--framework", framework, "--file", path, task])
            .output()?;
        if !output.status.success() {
            bail!("tepui logs: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn stop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            // SIGTERM first, so that agents take their executors and cgroups with them.
            let _ = Command::new("kill").arg(process.id().to_string()).status();
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        for process in &mut self.processes {
            while Instant::now() < deadline && matches!(process.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = process.kill();
            let _ = process.wait();
        }
        self.processes.clear();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}
