//! Who else in the cluster has a fetched file: asked of the master over the link, which also says what opens it at other
//! agents. Without a link nobody is known, and the origin is asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tepui_access::ArtifactKey;
use tepui_api::link::{ArtifactHolders, LocateArtifact, ToMaster, to_agent, to_master};
use tepui_fetch::{Fetch, Source};
use tokio::sync::{mpsc, oneshot};

/// How long the master may take to say who has it.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// How long a holder may take to begin.
const AGENT_PATIENCE: Duration = Duration::from_secs(2);
const MASTER_PATIENCE: Duration = Duration::from_secs(10);
/// How many other agents are tried.
const MAX_AGENTS: usize = 3;

/// Where bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Agent,
    Master,
    /// Where the URI points.
    Uri,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Holders {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    link: Option<Link>,
    next_request: u64,
    waiting: BTreeMap<u64, oneshot::Sender<ArtifactHolders>>,
    key: Option<ArtifactKey>,
}

#[derive(Debug)]
struct Link {
    number: u64,
    /// `host:port`.
    master: String,
    sender: mpsc::Sender<ToMaster>,
}

impl Holders {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A link stands. Held until the guard is dropped.
    pub(crate) fn linked(
        &self,
        number: u64,
        master: &str,
        sender: mpsc::Sender<ToMaster>,
    ) -> Linked {
        self.lock().link = Some(Link {
            number,
            master: master.to_owned(),
            sender,
        });
        Linked {
            holders: self.clone(),
            number,
        }
    }

    /// Takes the message if it is about artifacts, else gives it back.
    pub(crate) fn take(&self, body: to_agent::Body) -> Option<to_agent::Body> {
        match body {
            to_agent::Body::ArtifactHolders(holders) => {
                let waiting = self.lock().waiting.remove(&holders.request_id);
                if let Some(waiting) = waiting {
                    let _ = waiting.send(holders);
                }
            }
            to_agent::Body::ArtifactKey(key) => match ArtifactKey::from_slice(&key.key) {
                Some(key) => self.lock().key = Some(key),
                None => tracing::warn!("the master sent a key for artifacts that is none"),
            },
            other => return Some(other),
        }
        None
    }

    /// What other agents' tokens are checked with; unset before the first link.
    pub(crate) fn key(&self) -> Option<ArtifactKey> {
        self.lock().key.clone()
    }

    /// Who has it, in the order in which they are to be asked.
    pub(crate) async fn sources(
        &self,
        fetch: &Fetch,
        sha256: &str,
    ) -> Vec<(Origin, Arc<dyn Source>)> {
        let Some((master, holders)) = self.ask(sha256).await else {
            return Vec::new();
        };
        let token = holders.token.clone();
        let agents = holders.agents.iter().take(MAX_AGENTS).map(|agent| {
            let url = format!("http://{agent}{}/{sha256}", crate::artifacts::PATH);
            (
                Origin::Agent,
                fetch.holder(url, token.clone(), AGENT_PATIENCE),
            )
        });
        let mut sources: Vec<_> = agents.collect();
        if holders.master() {
            let url = format!("http://{master}/artifacts/{sha256}");
            sources.push((Origin::Master, fetch.holder(url, None, MASTER_PATIENCE)));
        }
        sources
    }

    async fn ask(&self, sha256: &str) -> Option<(String, ArtifactHolders)> {
        let (request, answer, master) = {
            let mut state = self.lock();
            state.next_request += 1;
            let request_id = state.next_request;
            let link = state.link.as_ref()?;
            let locate = LocateArtifact {
                request_id,
                sha256: sha256.to_owned(),
            };
            let message = ToMaster {
                body: Some(to_master::Body::LocateArtifact(locate)),
            };
            link.sender.try_send(message).ok()?;
            let master = link.master.clone();
            let (waiting, answer) = oneshot::channel();
            state.waiting.insert(request_id, waiting);
            let request = Request {
                holders: self.clone(),
                id: request_id,
            };
            (request, answer, master)
        };
        let answer = tokio::time::timeout(ANSWER_PATIENCE, answer).await;
        drop(request);
        Some((master, answer.ok()?.ok()?))
    }
}

/// Forgets the link when dropped.
pub(crate) struct Linked {
    holders: Holders,
    number: u64,
}

impl Drop for Linked {
    fn drop(&mut self) {
        let mut state = self.holders.lock();
        if state
            .link
            .as_ref()
            .is_some_and(|link| link.number == self.number)
        {
            state.link = None;
            // Nobody answers them any more.
            state.waiting.clear();
        }
    }
}

/// A question that nobody waits for any more when this is dropped.
struct Request {
    holders: Holders,
    id: u64,
}

impl Drop for Request {
    fn drop(&mut self) {
        self.holders.lock().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_has_it_is_asked_of_the_master_and_nobody_is_known_without_one() {
        let holders = Holders::default();
        assert!(holders.ask("digest").await.is_none());
        let (sender, mut sent) = mpsc::channel(1);
        let linked = holders.linked(1, "master:5050", sender);
        let asking = holders.ask("digest");
        let answering = async {
            let Some(to_master::Body::LocateArtifact(locate)) = sent.recv().await.unwrap().body
            else {
                panic!("a question");
            };
            assert_eq!(locate.sha256, "digest");
            let answer = ArtifactHolders {
                request_id: locate.request_id,
                agents: vec!["agent:5051".to_owned()],
                ..Default::default()
            };
            assert_eq!(holders.take(to_agent::Body::ArtifactHolders(answer)), None);
        };
        let (answer, ()) = tokio::join!(asking, answering);
        let (master, answer) = answer.unwrap();
        assert_eq!((master.as_str(), answer.agents.len()), ("master:5050", 1));
        let asking = holders.ask("digest");
        let breaking = async {
            sent.recv().await.unwrap();
            drop(linked);
        };
        let (answer, ()) = tokio::join!(asking, breaking);
        assert!(answer.is_none(), "the link is gone, and with it the answer");
        assert!(holders.lock().waiting.is_empty());
    }
}
