//! Tells the agent what the tasks that run use: whoever connects gets one line for each and is let go.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener as Listener};

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;

use crate::governor::TaskHandle;
use crate::service::ACCEPT_PAUSE;
use crate::verdict::Usage;

/// The name in the abstract namespace under which the executor with that pid reports. The agent knows the pid and can
/// see whether it is really this process that answers.
fn name(pid: u32) -> String {
    format!("tepui-usage-{pid}")
}

fn listen() -> io::Result<UnixListener> {
    let address = SocketAddr::from_abstract_name(name(std::process::id()))?;
    let listener = Listener::bind_addr(&address)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// A plus sign; processor time in nanoseconds; bytes of memory, of output, read and written; requests answered, failed, timed
/// out, turned away and cut off, each `-` if it is no service; and the task's id, which has no line breaks.
pub(crate) fn lines<'a>(tasks: impl Iterator<Item = (&'a str, &'a TaskHandle)>) -> String {
    tasks.map(|(id, task)| line(id, &task.so_far())).collect()
}

fn line(id: &str, usage: &Usage) -> String {
    let requests = match usage.requests {
        None => "- - - - -".to_owned(),
        Some(of) => format!(
            "{} {} {} {} {}",
            of.answered, of.failed, of.timed_out, of.turned_away, of.cut_off
        ),
    };
    format!(
        "+ {} {} {} {} {} {requests} {id}\n",
        usage.cpu_time.as_nanos(),
        usage.memory_peak,
        usage.output,
        usage.read,
        usage.written,
    )
}

/// For ever. Without the socket there are no figures, and nothing else is amiss.
pub(crate) async fn serve(lines: impl Fn() -> String) {
    let listener = match listen() {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, "what tasks use cannot be reported");
            return;
        }
    };
    loop {
        match listener.accept().await {
            Ok((mut stream, _)) => {
                let text = lines();
                // One who does not read holds up nobody for long.
                let told = stream.write_all(text.as_bytes());
                let _ = tokio::time::timeout(std::time::Duration::from_secs(1), told).await;
            }
            Err(error) => {
                // No descriptor may be left now, and some in a moment.
                tracing::debug!(%error, "what tasks use was not reported");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::verdict::Requests;

    #[test]
    fn a_line_has_a_figure_for_everything() {
        let usage = Usage {
            cpu_time: Duration::from_micros(1),
            memory_peak: 2,
            output: 3,
            read: 4,
            written: 5,
            ..Usage::default()
        };
        assert_eq!(line("a b", &usage), "+ 1000 2 3 4 5 - - - - - a b\n");
        let requests = Some(Requests {
            answered: 6,
            failed: 7,
            timed_out: 8,
            turned_away: 9,
            cut_off: 10,
        });
        let usage = Usage { requests, ..usage };
        assert_eq!(line("a b", &usage), "+ 1000 2 3 4 5 6 7 8 9 10 a b\n");
    }
}
