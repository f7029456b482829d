//! Questions to the leading master over the link, each with an id by which its answer finds whoever asked. An answer
//! comes over the link the question went out on or not at all: when that breaks, nobody waits any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tepui_api::link::{ToMaster, to_agent, to_master};
use tokio::sync::{mpsc, oneshot};

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// The question was not sent.
    #[error("the agent has no link to a master")]
    NoLink,
    /// The question may have arrived.
    #[error("the link to the master broke before it answered")]
    Broken,
    /// The question may have arrived.
    #[error("the master has not answered in time")]
    Late,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Questions {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    link: Option<Link>,
    next_request: u64,
    waiting: BTreeMap<u64, oneshot::Sender<to_agent::Body>>,
}

#[derive(Debug)]
struct Link {
    number: u64,
    /// `host:port`.
    master: String,
    sender: mpsc::Sender<ToMaster>,
}

impl Questions {
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
        let mut state = self.lock();
        // Whatever was asked over another link is not answered over this one.
        state.waiting.clear();
        state.link = Some(Link {
            number,
            master: master.to_owned(),
            sender,
        });
        Linked {
            questions: self.clone(),
            number,
        }
    }

    pub(crate) fn has_link(&self) -> bool {
        self.lock().link.is_some()
    }

    /// Takes the message if it is an answer, else gives it back.
    pub(crate) fn take(&self, body: to_agent::Body) -> Option<to_agent::Body> {
        let request_id = match &body {
            to_agent::Body::ArtifactHolders(holders) => holders.request_id,
            to_agent::Body::GuestAnswer(answer) => answer.request_id,
            _ => return Some(body),
        };
        let waiting = self.lock().waiting.remove(&request_id);
        if let Some(waiting) = waiting {
            let _ = waiting.send(body);
        }
        None
    }

    /// Asks the master and waits for its answer so long. Gives the master's `host:port` as well.
    pub(crate) async fn ask(
        &self,
        patience: Duration,
        question: impl FnOnce(u64) -> to_master::Body,
    ) -> Result<(String, to_agent::Body), NoAnswer> {
        let (request, answer, master) = {
            let mut state = self.lock();
            state.next_request += 1;
            let id = state.next_request;
            let link = state.link.as_ref().ok_or(NoAnswer::NoLink)?;
            let message = ToMaster {
                body: Some(question(id)),
            };
            // A queue that is full belongs to a link that is about to be given up.
            let sent = link.sender.try_send(message);
            sent.map_err(|_| NoAnswer::NoLink)?;
            let master = link.master.clone();
            let (waiting, answer) = oneshot::channel();
            state.waiting.insert(id, waiting);
            let request = Request {
                questions: self.clone(),
                id,
            };
            (request, answer, master)
        };
        let answer = tokio::time::timeout(patience, answer).await;
        drop(request);
        match answer {
            Ok(Ok(body)) => Ok((master, body)),
            Ok(Err(_)) => Err(NoAnswer::Broken),
            Err(_) => Err(NoAnswer::Late),
        }
    }
}

/// Forgets the link when dropped.
pub(crate) struct Linked {
    questions: Questions,
    number: u64,
}

impl Drop for Linked {
    fn drop(&mut self) {
        let mut state = self.questions.lock();
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
    questions: Questions,
    id: u64,
}

impl Drop for Request {
    fn drop(&mut self) {
        self.questions.lock().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use tepui_api::link::{ArtifactHolders, GuestAnswer, LocateArtifact, Ping};

    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    fn locate(request_id: u64) -> to_master::Body {
        to_master::Body::LocateArtifact(LocateArtifact {
            request_id,
            sha256: "digest".to_owned(),
        })
    }

    fn holders(request_id: u64) -> to_agent::Body {
        to_agent::Body::ArtifactHolders(ArtifactHolders {
            request_id,
            ..Default::default()
        })
    }

    #[tokio::test]
    async fn each_answer_finds_who_asked_in_whatever_order_they_come() {
        let questions = Questions::default();
        let (sender, mut sent) = mpsc::channel(2);
        let _linked = questions.linked(1, "master:5050", sender);
        let patience = Duration::from_secs(60);
        let answering = async {
            let mut ids = Vec::new();
            for _ in 0..2 {
                match sent.recv().await.unwrap().body {
                    Some(to_master::Body::LocateArtifact(asked)) => ids.push(asked.request_id),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(questions.take(holders(99)), None, "nobody asked that");
            assert_eq!(questions.take(holders(ids[1])), None);
            let answer = GuestAnswer {
                request_id: ids[0],
                ..Default::default()
            };
            assert_eq!(questions.take(to_agent::Body::GuestAnswer(answer)), None);
            let ping = to_agent::Body::Ping(Ping { sequence: 1 });
            assert_eq!(questions.take(ping.clone()), Some(ping));
        };
        let (first, second, ()) = tokio::join!(
            questions.ask(patience, locate),
            questions.ask(patience, locate),
            answering
        );
        let (master, first) = first.unwrap();
        assert_eq!(master, "master:5050");
        assert!(matches!(first, to_agent::Body::GuestAnswer(_)));
        assert!(matches!(
            second.unwrap().1,
            to_agent::Body::ArtifactHolders(_)
        ));
        assert!(questions.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn without_a_link_after_it_or_beyond_patience_there_is_no_answer() {
        let questions = Questions::default();
        let asked = questions.ask(SOON, locate).await;
        assert_eq!(asked, Err(NoAnswer::NoLink));
        let (sender, mut sent) = mpsc::channel(1);
        let linked = questions.linked(1, "master:5050", sender);
        assert_eq!(questions.ask(SOON, locate).await, Err(NoAnswer::Late));
        sent.recv().await.unwrap();
        let breaking = async {
            sent.recv().await.unwrap();
            drop(linked);
        };
        let (asked, ()) = tokio::join!(questions.ask(Duration::from_secs(60), locate), breaking);
        assert_eq!(asked, Err(NoAnswer::Broken));
        assert!(questions.lock().waiting.is_empty());
    }
}
