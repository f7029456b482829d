//! Requests for files on agents: they go out through the agent's link and their pieces come back by request id, past
//! the core.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tepui_api::link::{self, to_agent};
use tepui_master_core::LinkKey;
use tokio::sync::mpsc;

/// Pieces that may wait for one slow reader. Then its request is cancelled, and asked again once it has caught up.
const CHUNK_QUEUE: usize = 64;

#[derive(Default)]
pub(crate) struct Links {
    next_link: AtomicU64,
    next_request: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Weak: the core's owner decides how long a link lives.
    senders: HashMap<LinkKey, mpsc::WeakSender<Box<link::ToAgent>>>,
    /// Where links come from.
    addresses: HashMap<LinkKey, IpAddr>,
    waiting: BTreeMap<u64, Waiting>,
}

struct Waiting {
    link: LinkKey,
    chunks: mpsc::Sender<link::FileChunk>,
}

impl Links {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change below is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn open(&self, sender: mpsc::WeakSender<Box<link::ToAgent>>) -> LinkKey {
        let link = LinkKey(self.next_link.fetch_add(1, Ordering::Relaxed) + 1);
        self.state().senders.insert(link, sender);
        link
    }

    pub(crate) fn came_from(&self, link: LinkKey, address: IpAddr) {
        self.state().addresses.insert(link, address);
    }

    pub(crate) fn address(&self, link: LinkKey) -> Option<IpAddr> {
        self.state().addresses.get(&link).copied()
    }

    /// Says something to the agent at the other end that need not arrive: the link may break, or be full and about to.
    pub(crate) fn tell(&self, link: LinkKey, body: to_agent::Body) {
        let sender = self
            .state()
            .senders
            .get(&link)
            .and_then(mpsc::WeakSender::upgrade);
        if let Some(sender) = sender {
            let _ = sender.try_send(Box::new(link::ToAgent { body: Some(body) }));
        }
    }

    /// Readers that wait for this link see their pieces end.
    pub(crate) fn close(&self, link: LinkKey) {
        let mut state = self.state();
        state.senders.remove(&link);
        state.addresses.remove(&link);
        state.waiting.retain(|_, waiting| waiting.link != link);
    }

    /// Hands a piece to whom it is for. An agent can answer only what it was asked itself.
    pub(crate) fn route(&self, link: LinkKey, chunk: link::FileChunk) {
        let request_id = chunk.request_id;
        let is_last = chunk.last() || chunk.error_status.is_some();
        let mut state = self.state();
        let Some(waiting) = state
            .waiting
            .get(&request_id)
            .filter(|waiting| waiting.link == link)
        else {
            return;
        };
        let delivered = waiting.chunks.try_send(chunk).is_ok();
        if is_last || !delivered {
            state.waiting.remove(&request_id);
        }
        if !delivered {
            cancel(&state, link, request_id);
        }
    }

    /// Asks the agent at the other end; `None` if the link is away or does not keep up.
    pub(crate) fn ask(
        self: &Arc<Self>,
        link: LinkKey,
        request: impl FnOnce(u64) -> to_agent::Body,
    ) -> Option<FileAnswer> {
        let request_id = self.next_request.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, chunks) = mpsc::channel(CHUNK_QUEUE);
        let mut state = self.state();
        let outgoing = state.senders.get(&link)?.upgrade()?;
        state.waiting.insert(
            request_id,
            Waiting {
                link,
                chunks: sender,
            },
        );
        if outgoing
            .try_send(Box::new(link::ToAgent {
                body: Some(request(request_id)),
            }))
            .is_err()
        {
            state.waiting.remove(&request_id);
            return None;
        }
        drop(state);
        Some(FileAnswer {
            links: Arc::clone(self),
            link,
            request_id,
            chunks,
        })
    }
}

fn cancel(state: &State, link: LinkKey, request_id: u64) {
    if let Some(outgoing) = state.senders.get(&link).and_then(mpsc::WeakSender::upgrade) {
        let body = to_agent::Body::CancelFile(link::CancelFile { request_id });
        // With the queue full the link is about to be closed, and that cancels too.
        let _ = outgoing.try_send(Box::new(link::ToAgent { body: Some(body) }));
    }
}

/// The pieces of one answer. Dropped before its end it tells the agent to stop.
pub(crate) struct FileAnswer {
    links: Arc<Links>,
    link: LinkKey,
    request_id: u64,
    chunks: mpsc::Receiver<link::FileChunk>,
}

impl FileAnswer {
    /// `None` without a last piece before it means that the link broke or that this reader was too slow.
    pub(crate) async fn next(&mut self) -> Option<link::FileChunk> {
        self.chunks.recv().await
    }
}

impl Drop for FileAnswer {
    fn drop(&mut self) {
        let mut state = self.links.state();
        if state.waiting.remove(&self.request_id).is_some() {
            cancel(&state, self.link, self.request_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn chunk(request_id: u64, data: &'static [u8]) -> link::FileChunk {
        link::FileChunk {
            request_id,
            data: Some(Bytes::from_static(data)),
            ..Default::default()
        }
    }

    fn list(request_id: u64) -> to_agent::Body {
        to_agent::Body::ListFiles(link::ListFiles {
            request_id,
            path: "a".to_owned(),
        })
    }

    #[tokio::test]
    async fn a_reader_gets_the_pieces_of_its_own_request_from_the_agent_it_asked() {
        let links = Arc::new(Links::default());
        let (sender, mut outgoing) = mpsc::channel(8);
        let link = links.open(sender.downgrade());
        let other = links.open(sender.downgrade());
        let mut answer = links.ask(link, list).unwrap();
        let id = answer.request_id;
        assert!(matches!(
            outgoing.recv().await.unwrap().body,
            Some(to_agent::Body::ListFiles(_))
        ));
        links.route(other, chunk(id, b"forged"));
        links.route(link, chunk(id + 1, b"unknown"));
        links.route(
            link,
            link::FileChunk {
                last: Some(true),
                ..chunk(id, b"mine")
            },
        );
        assert_eq!(answer.next().await.unwrap().data(), b"mine");
        assert!(answer.next().await.is_none());
        drop(answer);
        assert!(
            outgoing.try_recv().is_err(),
            "what has ended is not cancelled"
        );
    }

    #[tokio::test]
    async fn a_reader_that_leaves_or_lags_has_its_request_cancelled() {
        let links = Arc::new(Links::default());
        let (sender, mut outgoing) = mpsc::channel(8);
        let link = links.open(sender.downgrade());
        drop(links.ask(link, list).unwrap());
        outgoing.recv().await.unwrap();
        assert!(matches!(
            outgoing.recv().await.unwrap().body,
            Some(to_agent::Body::CancelFile(_))
        ));

        let mut slow = links.ask(link, list).unwrap();
        outgoing.recv().await.unwrap();
        for _ in 0..=CHUNK_QUEUE {
            links.route(link, chunk(slow.request_id, b"x"));
        }
        assert!(matches!(
            outgoing.recv().await.unwrap().body,
            Some(to_agent::Body::CancelFile(_))
        ));
        let mut received = 0;
        while slow.next().await.is_some() {
            received += 1;
        }
        assert_eq!(received, CHUNK_QUEUE);
    }

    #[tokio::test]
    async fn pieces_end_when_the_link_breaks_and_a_lost_link_cannot_be_asked() {
        let links = Arc::new(Links::default());
        let (sender, _outgoing) = mpsc::channel(8);
        let link = links.open(sender.downgrade());
        let mut answer = links.ask(link, list).unwrap();
        links.close(link);
        assert!(answer.next().await.is_none());
        assert!(links.ask(link, list).is_none());
    }
}
