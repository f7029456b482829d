//! Who else in the cluster has a fetched file: asked of the master over the link, which also says what opens it at other
//! agents. Without a link nobody is known, and the origin is asked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tepui_access::ArtifactKey;
use tepui_api::link::{ArtifactHolders, LocateArtifact, to_agent, to_master};
use tepui_fetch::{Fetch, Source};

use crate::questions::Questions;

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

/// Known from what the master says over the link.
#[derive(Debug, Clone, Default)]
pub(crate) struct Holders {
    pub(crate) questions: Questions,
    key: Arc<Mutex<Option<ArtifactKey>>>,
}

impl Holders {
    pub(crate) fn new(questions: Questions) -> Self {
        Self {
            questions,
            key: Arc::default(),
        }
    }

    fn key_slot(&self) -> MutexGuard<'_, Option<ArtifactKey>> {
        // It is set in one go.
        self.key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the message if it is the key of tokens for artifacts, else gives it back.
    pub(crate) fn take(&self, body: to_agent::Body) -> Option<to_agent::Body> {
        let to_agent::Body::ArtifactKey(key) = body else {
            return Some(body);
        };
        match ArtifactKey::from_slice(&key.key) {
            Some(key) => *self.key_slot() = Some(key),
            None => tracing::warn!("the master sent a key for artifacts that is none"),
        }
        None
    }

    /// What other agents' tokens are checked with; unset before the first link.
    pub(crate) fn key(&self) -> Option<ArtifactKey> {
        self.key_slot().clone()
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
        let question = |request_id| {
            to_master::Body::LocateArtifact(LocateArtifact {
                request_id,
                sha256: sha256.to_owned(),
            })
        };
        match self.questions.ask(ANSWER_PATIENCE, question).await {
            Ok((master, to_agent::Body::ArtifactHolders(holders))) => Some((master, holders)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn who_has_it_is_asked_of_the_master_and_nobody_is_known_without_one() {
        let holders = Holders::default();
        assert!(holders.ask("digest").await.is_none());
        let (sender, mut sent) = mpsc::channel(1);
        let _linked = holders.questions.linked(1, "master:5050", sender);
        let asking = holders.ask("digest");
        let answering = async {
            let Some(to_master::Body::LocateArtifact(locate)) = sent.recv().await.unwrap().body
            else {
                panic!("a question");
            };
            assert_eq!(locate.sha256, "digest");
            let answer = to_agent::Body::ArtifactHolders(ArtifactHolders {
                request_id: locate.request_id,
                agents: vec!["agent:5051".to_owned()],
                ..Default::default()
            });
            assert_eq!(holders.questions.take(answer), None);
        };
        let (answer, ()) = tokio::join!(asking, answering);
        let (master, answer) = answer.unwrap();
        assert_eq!((master.as_str(), answer.agents.len()), ("master:5050", 1));
    }
}
