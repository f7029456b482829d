//! Messages that wait: for a guest that receives them, or to leave the process.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Messages of one task that wait in one direction, ...
const MESSAGES: usize = 64;
/// ... their bytes, ...
const BYTES: usize = 1 << 20;
/// ... and the bytes of all tasks of the process, both ways.
const BYTES_OF_ALL: usize = 64 << 20;

/// What all tasks' messages take up.
#[derive(Debug, Default)]
pub(crate) struct Room {
    bytes: AtomicUsize,
}

/// What one task's messages take up in one direction.
#[derive(Debug)]
pub(crate) struct Waiting {
    messages: AtomicUsize,
    bytes: AtomicUsize,
    room: Arc<Room>,
}

/// The place of a message; given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    bytes: usize,
    waiting: Arc<Waiting>,
}

fn add(count: &AtomicUsize, more: usize, most: usize) -> bool {
    let added = |count: usize| count.checked_add(more).filter(|sum| *sum <= most);
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, added)
        .is_ok()
}

impl Waiting {
    pub(crate) fn new(room: &Arc<Room>) -> Arc<Self> {
        Arc::new(Self {
            messages: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            room: Arc::clone(room),
        })
    }

    /// `None`: there is no place.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        if !add(&self.messages, 1, MESSAGES) {
            return None;
        }
        if !add(&self.bytes, bytes, BYTES) {
            self.messages.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        if !add(&self.room.bytes, bytes, BYTES_OF_ALL) {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.messages.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Held {
            bytes,
            waiting: Arc::clone(self),
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let waiting = &self.waiting;
        waiting.room.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        waiting.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        waiting.messages.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What came of receiving.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Message(Bytes),
    /// The next one has so many bytes, more than was asked for; it stays.
    TooLong(usize),
    /// None came in time, or none will.
    Nothing,
}

pub(crate) struct Mailbox {
    waiting: Arc<Waiting>,
    messages: Mutex<VecDeque<(Bytes, Held)>>,
    arrived: Notify,
}

impl Mailbox {
    pub(crate) fn new(room: &Arc<Room>) -> Self {
        Self {
            waiting: Waiting::new(room),
            messages: Mutex::default(),
            arrived: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Bytes, Held)>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there was room.
    pub(crate) fn put(&self, message: Bytes) -> bool {
        let Some(held) = self.waiting.take(message.len()) else {
            return false;
        };
        self.lock().push_back((message, held));
        self.arrived.notify_one();
        true
    }

    fn next(&self, most: usize) -> Option<Received> {
        let mut messages = self.lock();
        let size = messages.front()?.0.len();
        if size > most {
            // For somebody who takes more.
            self.arrived.notify_one();
            return Some(Received::TooLong(size));
        }
        let (message, _) = messages.pop_front()?;
        if !messages.is_empty() {
            // Of several that arrived before anybody was woken one notice is left.
            self.arrived.notify_one();
        }
        Some(Received::Message(message))
    }

    /// Waits for a message, but not beyond the end of the task.
    pub(crate) async fn receive(
        &self,
        timeout: Duration,
        most: usize,
        ending: &CancellationToken,
    ) -> Received {
        if let Some(received) = self.next(most) {
            return received;
        }
        if timeout.is_zero() || ending.is_cancelled() {
            return Received::Nothing;
        }
        let arrives = async {
            loop {
                self.arrived.notified().await;
                if let Some(received) = self.next(most) {
                    return received;
                }
            }
        };
        tokio::select! {
            biased;
            received = arrives => received,
            () = ending.cancelled() => Received::Nothing,
            () = tokio::time::sleep(timeout) => Received::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn message(size: usize) -> Bytes {
        Bytes::from(vec![b'x'; size])
    }

    #[tokio::test]
    async fn messages_come_in_order_and_one_that_is_too_long_stays() {
        let (mailbox, ending) = (Mailbox::new(&Arc::default()), CancellationToken::new());
        let receive = |timeout, most| mailbox.receive(timeout, most, &ending);
        assert_eq!(receive(Duration::ZERO, 9).await, Received::Nothing);
        assert!(mailbox.put(message(3)) && mailbox.put(message(1)));
        assert_eq!(receive(LONG, 2).await, Received::TooLong(3));
        assert_eq!(receive(LONG, 3).await, Received::Message(message(3)));
        assert_eq!(receive(LONG, 3).await, Received::Message(message(1)));
        assert_eq!(
            receive(Duration::from_millis(1), 3).await,
            Received::Nothing
        );
    }

    #[tokio::test]
    async fn whoever_waits_gets_what_comes_or_hears_of_the_end() {
        let (mailbox, ending) = (Mailbox::new(&Arc::default()), CancellationToken::new());
        let receive = || mailbox.receive(LONG, 9, &ending);
        let (one, other, ()) = tokio::join!(receive(), receive(), async {
            tokio::task::yield_now().await;
            assert!(mailbox.put(message(1)) && mailbox.put(message(1)));
        });
        assert_eq!(
            (one, other),
            (Received::Message(message(1)), Received::Message(message(1)))
        );
        let (one, ()) = tokio::join!(receive(), async { ending.cancel() });
        assert_eq!(one, Received::Nothing);
        assert_eq!(receive().await, Received::Nothing);
    }

    #[test]
    fn a_task_has_so_many_places_and_all_tasks_together_too() {
        let room = Arc::default();
        let waiting = Waiting::new(&room);
        let held: Vec<Held> = (0..MESSAGES).filter_map(|_| waiting.take(1)).collect();
        assert_eq!(held.len(), MESSAGES);
        assert!(waiting.take(0).is_none());
        drop(held);
        let half = waiting.take(BYTES / 2).expect("a place");
        assert!(waiting.take(BYTES / 2 + 1).is_none());
        drop(half);
        let tasks: Vec<Arc<Waiting>> = (0..BYTES_OF_ALL / BYTES)
            .map(|_| Waiting::new(&room))
            .collect();
        let held: Vec<Held> = tasks.iter().filter_map(|task| task.take(BYTES)).collect();
        assert_eq!(held.len(), tasks.len());
        assert!(waiting.take(1).is_none());
        drop(held);
        assert!(waiting.take(1).is_some());
        assert_eq!(room.bytes.load(Ordering::Relaxed), 0);
    }
}
