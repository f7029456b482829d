//! Queues towards peers that may be slow: bounded between the steps of the owner, not within one.
//!
//! One call may bring its caller more events than may ever wait for a slow reader, and nobody reads while it is decided
//! on. So a queue takes all of a step that found room, and nothing of one that did not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::sync::mpsc;

#[derive(Debug)]
pub(crate) struct Sender<T> {
    queue: mpsc::UnboundedSender<T>,
    waiting: Arc<AtomicUsize>,
    bound: usize,
    /// The last step that found room.
    step: u64,
}

#[derive(Debug)]
pub(crate) struct Receiver<T> {
    queue: mpsc::UnboundedReceiver<T>,
    waiting: Arc<AtomicUsize>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("{0} events wait for it")]
    Slow(usize),
    #[error("it has gone")]
    Gone,
}

/// `bound` is how many items may wait when a step begins to send; steps are counted from 1.
pub(crate) fn feed<T>(bound: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let sender = Sender {
        queue: sender,
        waiting: Arc::clone(&waiting),
        bound: bound.max(1),
        step: 0,
    };
    let receiver = Receiver {
        queue: receiver,
        waiting,
    };
    (sender, receiver)
}

impl<T> Sender<T> {
    pub(crate) fn send(&mut self, step: u64, item: T) -> Result<(), SendError> {
        if self.step != step {
            let waiting = self.waiting.load(Ordering::Relaxed);
            if waiting >= self.bound {
                return Err(SendError::Slow(waiting));
            }
            self.step = step;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.queue.send(item).map_err(|_| SendError::Gone)
    }
}

impl<T> Receiver<T> {
    pub(crate) fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<T>> {
        let item = ready!(self.queue.poll_recv(context));
        if item.is_some() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        Poll::Ready(item)
    }

    #[cfg(test)]
    pub(crate) async fn recv(&mut self) -> Option<T> {
        std::future::poll_fn(|context| self.poll_recv(context)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_step_goes_through_whole_or_not_at_all() {
        let (mut sender, mut receiver) = feed(2);
        for item in 0..5 {
            sender.send(1, item).unwrap();
        }
        assert!(matches!(sender.send(2, 5), Err(SendError::Slow(5))));
        for item in 0..4 {
            assert_eq!(receiver.recv().await, Some(item));
        }
        sender.send(2, 5).unwrap();
        sender.send(2, 6).unwrap();
        drop(receiver);
        assert!(matches!(sender.send(2, 7), Err(SendError::Gone)));
    }
}
