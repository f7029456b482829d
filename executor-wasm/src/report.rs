//! Tells the agent what the tasks that run use: whoever connects gets one line for each and is let go.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener as Listener};

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;

use crate::governor::TaskHandle;

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

/// Processor time in nanoseconds, memory in bytes, and the task's id, which has no line breaks.
pub(crate) fn lines<'a>(tasks: impl Iterator<Item = (&'a str, &'a TaskHandle)>) -> String {
    tasks
        .map(|(id, task)| format!("{} {} {id}\n", task.cpu_ns(), task.memory_bytes()))
        .collect()
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
                tracing::warn!(%error, "what tasks use is not reported any more");
                return;
            }
        }
    }
}
