//! What executors and tasks use, as the kernel or the executor that runs them counts it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use tepui_api::ext::{TaskUsage, launch_plan, task_usage};
use tepui_api::v1::ResourceStatistics;
use tepui_model::Resources;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::containment::Group;
use crate::owner::wall_secs;

/// What a process's times in `/proc` are counted in; the kernel's interface fixes it, whatever its clock.
const TICKS_PER_SECOND: f64 = 100.0;
const MEGABYTE: f64 = 1_048_576.0;
/// How long a wasm executor may take to say what its tasks use.
const REPORT_PATIENCE: Duration = Duration::from_secs(1);
/// Room for some ten thousand tasks.
const MAX_REPORT_BYTES: u64 = 4 << 20;
/// A limit of version 1 beyond which there is none.
const NO_LIMIT: u64 = 1 << 60;

/// The time, and what was given.
pub(crate) fn allotted(resources: &Resources) -> ResourceStatistics {
    ResourceStatistics {
        timestamp: wall_secs(),
        cpus_limit: Some(resources.cpus().to_f64()),
        mem_limit_bytes: Some((resources.mem().to_f64() * MEGABYTE) as u64),
        ..Default::default()
    }
}

/// Adds what is counted for a cgroup and those inside it. Blocks for a moment.
pub(crate) fn add_group(statistics: &mut ResourceStatistics, group: &Group) {
    let read = |file: &str| group.read(file);
    let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
    let seconds =
        |count: Option<u64>, per_second: f64| count.map(|count| count as f64 / per_second);
    let cpu = read("cpu.stat");
    let memory = read("memory.stat");
    if let Some(times) = read("cpuacct.stat") {
        // Version 1.
        statistics.cpus_user_time_secs = seconds(keyed(Some(&times), "user"), TICKS_PER_SECOND);
        statistics.cpus_system_time_secs = seconds(keyed(Some(&times), "system"), TICKS_PER_SECOND);
        statistics.cpus_throttled_time_secs = seconds(keyed(cpu.as_deref(), "throttled_time"), 1e9);
        let total = |key: &str| keyed(memory.as_deref(), key);
        statistics.mem_rss_bytes = total("total_rss");
        statistics.mem_anon_bytes = total("total_rss");
        statistics.mem_file_bytes = total("total_cache");
        statistics.mem_cache_bytes = total("total_cache");
        statistics.mem_mapped_file_bytes = total("total_mapped_file");
        statistics.mem_swap_bytes = total("total_swap");
        statistics.mem_unevictable_bytes = total("total_unevictable");
        statistics.mem_total_bytes = number("memory.usage_in_bytes");
        let limit = number("memory.limit_in_bytes").filter(|limit| *limit < NO_LIMIT);
        statistics.mem_limit_bytes = limit.or(statistics.mem_limit_bytes);
    } else {
        statistics.cpus_user_time_secs = seconds(keyed(cpu.as_deref(), "user_usec"), 1e6);
        statistics.cpus_system_time_secs = seconds(keyed(cpu.as_deref(), "system_usec"), 1e6);
        statistics.cpus_throttled_time_secs = seconds(keyed(cpu.as_deref(), "throttled_usec"), 1e6);
        let total = |key: &str| keyed(memory.as_deref(), key);
        statistics.mem_rss_bytes = total("anon");
        statistics.mem_anon_bytes = total("anon");
        statistics.mem_file_bytes = total("file");
        statistics.mem_cache_bytes = total("file");
        statistics.mem_mapped_file_bytes = total("file_mapped");
        statistics.mem_unevictable_bytes = total("unevictable");
        statistics.mem_swap_bytes = number("memory.swap.current");
        statistics.mem_total_bytes = number("memory.current");
        // "max" where there is none.
        statistics.mem_limit_bytes = number("memory.max").or(statistics.mem_limit_bytes);
    }
    let small = |count: Option<u64>| count.and_then(|count| u32::try_from(count).ok());
    statistics.cpus_nr_periods = small(keyed(cpu.as_deref(), "nr_periods"));
    statistics.cpus_nr_throttled = small(keyed(cpu.as_deref(), "nr_throttled"));
    statistics.processes = u32::try_from(group.process_count()).ok();
}

/// Adds what is counted for one process, where there is no cgroup.
pub(crate) fn add_process(statistics: &mut ResourceStatistics, pid: u32) {
    let process = Path::new("/proc").join(pid.to_string());
    let Ok(text) = std::fs::read_to_string(process.join("stat")) else {
        return;
    };
    // The name in parentheses may hold anything; what follows the last one is plain.
    let fields: Vec<&str> = text
        .rsplit_once(')')
        .map(|(_, fields)| fields.split_whitespace().collect())
        .unwrap_or_default();
    let field = |index: usize| fields.get(index)?.parse::<u64>().ok();
    statistics.cpus_user_time_secs = field(11).map(|ticks| ticks as f64 / TICKS_PER_SECOND);
    statistics.cpus_system_time_secs = field(12).map(|ticks| ticks as f64 / TICKS_PER_SECOND);
    statistics.threads = field(17).and_then(|count| u32::try_from(count).ok());
    statistics.mem_rss_bytes = std::fs::read_to_string(process.join("status"))
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("VmRSS:"))?;
            let kibibytes = line.split_whitespace().next()?.parse::<u64>().ok()?;
            Some(kibibytes * 1024)
        });
}

/// What a wasm executor counts for one task.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reported {
    cpu_ns: u64,
    memory_bytes: u64,
    /// Executors of earlier versions do not tell it.
    usage: Option<TaskUsage>,
}

impl Reported {
    pub(crate) fn add_to(self, statistics: &mut ResourceStatistics) {
        statistics.cpus_user_time_secs = Some(self.cpu_ns as f64 / 1e9);
        // What the system does for a guest is not told apart.
        statistics.cpus_system_time_secs = Some(0.0);
        statistics.mem_rss_bytes = Some(self.memory_bytes);
        statistics.mem_total_bytes = Some(self.memory_bytes);
        statistics.usage = self.usage;
    }
}

/// What the wasm executor with that pid says of its tasks; nothing if it does not say it soon.
pub(crate) async fn reported(pid: u32) -> BTreeMap<String, Reported> {
    match tokio::time::timeout(REPORT_PATIENCE, ask(pid)).await {
        Ok(Ok(text)) => parse(&text),
        Ok(Err(error)) => {
            tracing::debug!(pid, %error, "an executor does not say what its tasks use");
            BTreeMap::new()
        }
        Err(_) => BTreeMap::new(),
    }
}

async fn ask(pid: u32) -> io::Result<String> {
    // Anybody may take a name in that namespace, and not answer at it.
    let stream = UnixStream::connect(format!("\0tepui-usage-{pid}")).await?;
    let answers = stream.peer_cred()?.pid();
    if answers != i32::try_from(pid).ok() {
        return Err(io::Error::other("somebody else answers in its name"));
    }
    let mut text = String::new();
    stream
        .take(MAX_REPORT_BYTES)
        .read_to_string(&mut text)
        .await?;
    Ok(text)
}

fn parse(text: &str) -> BTreeMap<String, Reported> {
    let line = |line: &str| match line.strip_prefix("+ ") {
        Some(fields) => parse_line(fields),
        None => {
            let mut fields = line.splitn(3, ' ');
            let reported = Reported {
                cpu_ns: fields.next()?.parse().ok()?,
                memory_bytes: fields.next()?.parse().ok()?,
                usage: None,
            };
            Some((fields.next()?.to_owned(), reported))
        }
    };
    text.lines().filter_map(line).collect()
}

/// The figures in the order the executor writes them in, and the task's id.
fn parse_line(fields: &str) -> Option<(String, Reported)> {
    let mut fields = fields.splitn(11, ' ');
    let mut number = || fields.next()?.parse::<u64>().ok();
    let (cpu_ns, memory_bytes) = (number()?, number()?);
    let (output, read, written) = (number()?, number()?, number()?);
    let requests = [number(), number(), number(), number(), number()];
    let requests = match requests {
        [Some(answered), failed, timed_out, turned_away, cut_off] => Some(task_usage::Requests {
            answered: Some(answered),
            failed,
            timed_out,
            turned_away,
            cut_off,
        }),
        _ => None,
    };
    let usage = TaskUsage {
        memory_peak_bytes: Some(memory_bytes),
        cpu_time_ns: Some(cpu_ns),
        body: Some(launch_plan::Body::Wasm.into()),
        output_bytes: Some(output),
        bytes_read: Some(read),
        bytes_written: Some(written),
        requests,
        ..TaskUsage::default()
    };
    let reported = Reported {
        cpu_ns,
        memory_bytes,
        usage: Some(usage),
    };
    Some((fields.next()?.to_owned(), reported))
}

/// The value after `key` in lines of `key value`.
fn keyed(text: Option<&str>, key: &str) -> Option<u64> {
    text?.lines().find_map(|line| {
        let (found, value) = line.split_once(' ')?;
        if found == key {
            value.trim().parse().ok()
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_counted_without_a_cgroup() {
        let mut statistics = ResourceStatistics::default();
        add_process(&mut statistics, std::process::id());
        assert!(statistics.mem_rss_bytes.unwrap() > 0);
        assert!(statistics.cpus_user_time_secs.is_some());
        add_process(&mut ResourceStatistics::default(), u32::MAX);
    }

    #[test]
    fn a_report_has_a_line_for_each_task() {
        let text =
            "12 34 a b\nnonsense\n+ 1 2 3 4 5 - - - - - c\n+ 1 2 3 4 5 6 7 8 9 10 d e\n+ 1 2 3\n";
        let reported = parse(text);
        assert_eq!(reported.keys().collect::<Vec<_>>(), ["a b", "c", "d e"]);
        let (earlier, task, service) = (&reported["a b"], &reported["c"], &reported["d e"]);
        assert_eq!((earlier.cpu_ns, earlier.memory_bytes), (12, 34));
        assert_eq!(earlier.usage, None);
        let usage = task.usage.as_ref().unwrap();
        assert_eq!((usage.bytes_read(), usage.bytes_written()), (4, 5));
        assert_eq!(usage.requests, None);
        let requests = service.usage.as_ref().unwrap().requests.unwrap();
        assert_eq!((requests.answered(), requests.cut_off()), (6, 10));
    }

    #[tokio::test]
    async fn who_does_not_answer_in_an_executors_name_holds_nobody_up() {
        use std::os::fd::AsRawFd;
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::{SocketAddr, UnixListener};
        // No process has so high an id.
        let pid = u32::MAX;
        let name = SocketAddr::from_abstract_name(format!("tepui-usage-{pid}")).unwrap();
        let listener = UnixListener::bind_addr(&name).unwrap();
        // SAFETY: the descriptor is open and the call changes its backlog only.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        let mut waiting = Vec::new();
        while let Ok(stream) = UnixStream::connect(format!("\0tepui-usage-{pid}")).await {
            waiting.push(stream);
        }
        assert!(reported(pid).await.is_empty());
    }

    #[test]
    fn a_value_is_found_by_its_whole_key() {
        let text = Some("total_rss_huge 1\ntotal_rss 2\n");
        assert_eq!(keyed(text, "total_rss"), Some(2));
        assert_eq!(keyed(text, "rss"), None);
    }
}
