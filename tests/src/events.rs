//! The events of a stream, read beside the test; those it does not look for yet are kept.

use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http::Stream;

#[derive(Debug)]
pub(crate) struct Events {
    arriving: Receiver<Value>,
    /// Events read while looking for another kind.
    passed: Vec<Value>,
}

impl Events {
    pub(crate) fn read(mut stream: Stream) -> Self {
        let (sender, arriving) = mpsc::channel();
        std::thread::spawn(move || {
            while let Ok(Some(event)) = stream.record() {
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Self {
            arriving,
            passed: Vec::new(),
        }
    }

    /// The next event of a type, or `None` if the time is over or the stream has ended. Others are kept for later.
    pub(crate) fn next(&mut self, kind: &str, patience: Duration) -> Option<Value> {
        if let Some(at) = self.passed.iter().position(|event| event["type"] == kind) {
            return Some(self.passed.remove(at));
        }
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.arriving.recv_timeout(left).ok()?;
            if event["type"] == kind {
                return Some(event);
            }
            if event["type"] != "HEARTBEAT" {
                self.passed.push(event);
            }
        }
    }

    pub(crate) fn expect(&mut self, kind: &str) -> Value {
        let event = self.next(kind, Duration::from_secs(30));
        event.unwrap_or_else(|| panic!("no {kind} within 30 s; seen: {:?}", self.passed))
    }

    /// Whether the other side ends the stream within 30 s; what it still says is kept.
    pub(crate) fn end(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.arriving.recv_timeout(left) {
                Ok(event) => self.passed.push(event),
                Err(mpsc::RecvTimeoutError::Disconnected) => return true,
                Err(mpsc::RecvTimeoutError::Timeout) => return false,
            }
        }
    }
}
