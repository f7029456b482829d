//! Who asks for what tasks keep: guests by their agents, and operators. A change is decided at once and answered when it
//! is on disk; so is every answer that a change before it has made what it is, so that nobody hears of what a crash
//! could undo.

use std::collections::BTreeMap;

use bytes::Bytes;
use tepui_access::{Action, Caller};
use tepui_api::guest::{self, answer, request};
use tepui_api::link::{self, to_agent};
use tepui_model::Role;

use crate::core::{Core, Pending};
use crate::effect::{Answer, Effect};
use crate::input::{LinkKey, PersistKey, RequestKey};
use crate::stores::{Changed, KeySummary, StoreRefused, StoreSummary, StoredValue, check_name};

/// What may be asked of the stores of jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreCall {
    /// The stores of a role, or all.
    List { role: Option<String> },
    Keys {
        role: String,
        job: String,
        /// Those that begin with it.
        prefix: String,
    },
    Get {
        role: String,
        job: String,
        key: String,
    },
    Put {
        role: String,
        job: String,
        key: String,
        value: Bytes,
        /// 0: only if there is no such key.
        if_version: Option<u64>,
    },
    Delete {
        role: String,
        job: String,
        key: String,
        if_version: Option<u64>,
    },
    /// The whole store.
    Remove { role: String, job: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAnswer {
    Stores(Vec<StoreSummary>),
    Keys(Vec<KeySummary>),
    /// `None`: there is no such key.
    Value(Option<StoredValue>),
    /// The version the key has now; of Delete: the one it had, 0 if there was no such key.
    Stored(u64),
    /// So many keys, with their store.
    Removed(u64),
    Refused(StoreRefused),
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asker {
    Guest { link: LinkKey, request_id: u64 },
    Operator(RequestKey),
}

/// Answers that are given when a write is on disk.
#[derive(Debug)]
pub(crate) struct StoreAnswers {
    store: (Role, String),
    answers: Vec<(Asker, StoreAnswer)>,
}

/// The last write of each store that has one under way, and the last of all.
#[derive(Debug, Default)]
pub(crate) struct StoreWrites {
    of_store: BTreeMap<(Role, String), PersistKey>,
    last: Option<PersistKey>,
}

impl StoreCall {
    /// Whose store is meant; `None` if not one.
    fn store(&self) -> Option<(&str, &str)> {
        match self {
            Self::List { .. } => None,
            Self::Keys { role, job, .. }
            | Self::Get { role, job, .. }
            | Self::Put { role, job, .. }
            | Self::Delete { role, job, .. }
            | Self::Remove { role, job } => Some((role, job)),
        }
    }

    fn action(&self) -> Action {
        match self {
            Self::List { .. } | Self::Keys { .. } | Self::Get { .. } => Action::GetStore,
            Self::Put { .. } | Self::Delete { .. } | Self::Remove { .. } => Action::UpdateStore,
        }
    }
}

impl Core {
    /// A guest may do with the store of its own job what it likes.
    pub(crate) fn on_guest_request(&mut self, link: LinkKey, asked: link::GuestRequest) {
        let asker = Asker::Guest {
            link,
            request_id: asked.request_id,
        };
        if let Some(request::Body::Find(find)) = &asked.request.body {
            let framework = &asked.framework_id.value;
            let answer = self.find_services(link, framework, &find.name, asked.request_id);
            self.answer_guest(link, asked.request_id, answer);
            return;
        }
        let (role, Some(job)) = (asked.role, asked.job) else {
            self.tell_store_answer(asker, StoreAnswer::Refused(StoreRefused::NoJob));
            return;
        };
        let call = match asked.request.body {
            Some(request::Body::Get(guest::Get { key })) => StoreCall::Get { role, job, key },
            Some(request::Body::Put(put)) => StoreCall::Put {
                role,
                job,
                key: put.key,
                value: put.value,
                if_version: put.if_version,
            },
            Some(request::Body::Delete(delete)) => StoreCall::Delete {
                role,
                job,
                key: delete.key,
                if_version: delete.if_version,
            },
            Some(request::Body::Keys(keys)) => StoreCall::Keys {
                role,
                job,
                prefix: keys.prefix.unwrap_or_default(),
            },
            // What a newer guest may ask.
            Some(request::Body::Find(_)) | None => {
                let refused = StoreRefused::Missing("body");
                self.tell_store_answer(asker, StoreAnswer::Refused(refused));
                return;
            }
        };
        self.serve_store(asker, call);
    }

    pub(crate) fn on_store_call(
        &mut self,
        request: RequestKey,
        principal: Option<&str>,
        call: StoreCall,
    ) {
        let asker = Asker::Operator(request);
        let caller = Caller {
            acls: &self.config.acls,
            principal,
        };
        let role = match &call {
            StoreCall::List { role } => role.as_deref(),
            other => other.store().map(|(role, _)| role),
        };
        if let StoreCall::List { role: None } = call {
            let mut stores = self.stores.list(|_| true);
            stores.retain(|store| caller.may(Action::GetStore, Some(store.role.as_str())));
            self.answer_after(self.store_writes.last, asker, StoreAnswer::Stores(stores));
            return;
        }
        if let Err(denied) = caller.permit(call.action(), role) {
            let refused = StoreRefused::Denied(denied.to_string());
            self.tell_store_answer(asker, StoreAnswer::Refused(refused));
            return;
        }
        self.serve_store(asker, call);
    }

    fn serve_store(&mut self, asker: Asker, call: StoreCall) {
        let Some((role, job)) = call.store() else {
            let StoreCall::List { role: Some(role) } = call else {
                return;
            };
            let answer = match parse_role(&role) {
                Ok(role) => StoreAnswer::Stores(self.stores.list(|one| *one == role)),
                Err(refused) => StoreAnswer::Refused(refused),
            };
            self.answer_after(self.store_writes.last, asker, answer);
            return;
        };
        let limits = self.config.store_limits;
        let named = parse_role(role).and_then(|role| {
            check_name(&limits, "The name of the job", job)?;
            Ok((role, job.to_owned()))
        });
        let store = match named {
            Ok(store) => store,
            Err(refused) => {
                self.tell_store_answer(asker, StoreAnswer::Refused(refused));
                return;
            }
        };
        let (role, job) = (&store.0, store.1.as_str());
        let stores = &mut self.stores;
        let (changed, is_removal) = match call {
            StoreCall::Put {
                key,
                value,
                if_version,
                ..
            } => {
                let changed = stores.put(&limits, role, job, &key, &value, if_version);
                (changed, false)
            }
            StoreCall::Delete {
                key, if_version, ..
            } => {
                let changed = stores.delete(&limits, role, job, &key, if_version);
                (changed, false)
            }
            StoreCall::Remove { .. } => (stores.remove(role, job), true),
            StoreCall::Get { key, .. } => {
                let answer = match check_name(&limits, "The key", &key) {
                    Ok(()) => StoreAnswer::Value(stores.get(role, job, &key).cloned()),
                    Err(refused) => StoreAnswer::Refused(refused),
                };
                self.answer_after_store(&store, asker, answer);
                return;
            }
            StoreCall::Keys { prefix, .. } => {
                let answer = StoreAnswer::Keys(stores.keys(role, job, &prefix));
                self.answer_after_store(&store, asker, answer);
                return;
            }
            StoreCall::List { .. } => return,
        };
        match changed {
            Ok(Changed { version, writes }) => {
                let answer = match is_removal {
                    true => StoreAnswer::Removed(version),
                    false => StoreAnswer::Stored(version),
                };
                if writes.is_empty() {
                    self.answer_after_store(&store, asker, answer);
                    return;
                }
                let answers = StoreAnswers {
                    store: store.clone(),
                    answers: vec![(asker, answer)],
                };
                let write = self.persist(writes, Pending::Store(answers));
                self.store_writes.of_store.insert(store, write);
                self.store_writes.last = Some(write);
            }
            Err(refused) => {
                self.answer_after_store(&store, asker, StoreAnswer::Refused(refused));
            }
        }
    }

    fn answer_after_store(&mut self, store: &(Role, String), asker: Asker, answer: StoreAnswer) {
        let write = self.store_writes.of_store.get(store).copied();
        self.answer_after(write, asker, answer);
    }

    fn answer_after(&mut self, write: Option<PersistKey>, asker: Asker, answer: StoreAnswer) {
        let pending = write.and_then(|write| self.pending.get_mut(&write));
        match pending {
            Some(Pending::Store(waiting)) => waiting.answers.push((asker, answer)),
            _ => self.tell_store_answer(asker, answer),
        }
    }

    pub(crate) fn on_store_persisted(&mut self, write: PersistKey, done: StoreAnswers) {
        if self.store_writes.of_store.get(&done.store) == Some(&write) {
            self.store_writes.of_store.remove(&done.store);
        }
        if self.store_writes.last == Some(write) {
            self.store_writes.last = None;
        }
        for (asker, answer) in done.answers {
            self.tell_store_answer(asker, answer);
        }
    }

    fn tell_store_answer(&mut self, asker: Asker, answer: StoreAnswer) {
        match asker {
            Asker::Operator(request) => {
                self.answer(request, Answer::Store(Box::new(answer)));
            }
            Asker::Guest { link, request_id } => {
                self.answer_guest(link, request_id, guest_answer(answer));
            }
        }
    }

    fn answer_guest(&mut self, link: LinkKey, request_id: u64, answer: guest::Answer) {
        // Over another link nobody waits for it.
        if self.links.contains_key(&link) {
            let answer = link::GuestAnswer { request_id, answer };
            let body = Some(to_agent::Body::GuestAnswer(answer));
            let message = Box::new(link::ToAgent { body });
            self.effects.push(Effect::ToAgent { link, message });
        }
    }

    pub(crate) fn check_stores(&self) {
        self.stores.check();
        for ((role, job), write) in &self.store_writes.of_store {
            let pending = self.pending.get(write);
            let of_store = matches!(pending, Some(Pending::Store(waiting))
                if (&waiting.store.0, &waiting.store.1) == (role, job));
            assert!(of_store, "no write is under way for {role} {job}");
        }
        if let Some(last) = self.store_writes.last {
            assert!(
                self.pending.contains_key(&last),
                "the last write of a store was not forgotten"
            );
        }
    }
}

fn parse_role(role: &str) -> Result<Role, StoreRefused> {
    Role::parse(role).map_err(|error| StoreRefused::Role(error.to_string()))
}

/// As a guest hears it. Lists of stores and removals are no guest's.
fn guest_answer(answer: StoreAnswer) -> guest::Answer {
    let body = match answer {
        StoreAnswer::Value(value) => answer::Body::Value(guest::Value {
            entry: value.map(|stored| guest::Entry {
                value: stored.value,
                version: stored.version,
            }),
        }),
        StoreAnswer::Keys(keys) => answer::Body::Keys(guest::KeyList {
            keys: keys.into_iter().map(|key| key.key).collect(),
        }),
        StoreAnswer::Stored(version) | StoreAnswer::Removed(version) => {
            answer::Body::Stored(guest::Stored { version })
        }
        StoreAnswer::Stores(_) => return guest::Answer::default(),
        StoreAnswer::Refused(refused) => {
            let mut failure = guest::Failure {
                message: refused.to_string(),
                version: refused.found(),
                ..guest::Failure::default()
            };
            failure.set_code(refused.code());
            answer::Body::Failure(failure)
        }
    };
    guest::Answer { body: Some(body) }
}
