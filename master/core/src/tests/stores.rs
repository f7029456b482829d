//! What tasks keep: rules, limits, and that nobody hears of what a crash could undo.

use std::collections::BTreeMap;

use bytes::Bytes;
use tepui_access::Acls;
use tepui_api::guest::{self, answer, failure, request};
use tepui_api::link::{self, to_agent, to_master};
use tepui_model::{Generator, StoreLimits};

use super::harness::*;
use crate::{
    Answer, Input, KeySummary, RequestKey, StoreAnswer, StoreCall, StoreRefused, StoreSummary,
};

const MACHINE: &str = "cpus:4;mem:1024";

fn get(key: &str) -> request::Body {
    request::Body::Get(guest::Get {
        key: key.to_owned(),
    })
}

fn put(key: &str, value: &str, if_version: Option<u64>) -> request::Body {
    request::Body::Put(guest::Put {
        key: key.to_owned(),
        value: Bytes::from(value.to_owned()),
        if_version,
    })
}

fn delete(key: &str, if_version: Option<u64>) -> request::Body {
    request::Body::Delete(guest::Delete {
        key: key.to_owned(),
        if_version,
    })
}

fn keys(prefix: &str) -> request::Body {
    request::Body::Keys(guest::Keys {
        prefix: Some(prefix.to_owned()),
    })
}

/// A guest's question, without its number.
fn question(role: &str, job: Option<&str>, body: request::Body) -> link::GuestRequest {
    link::GuestRequest {
        request_id: 0,
        framework_id: "f".into(),
        task_id: "t".into(),
        role: role.to_owned(),
        job: job.map(str::to_owned),
        request: guest::Request { body: Some(body) },
    }
}

impl Cluster {
    /// Asks, and gives the number by which the answer is known.
    fn guest_asks(&mut self, agent: &Agent, mut asked: link::GuestRequest) -> u64 {
        asked.request_id = self.number();
        let id = asked.request_id;
        self.from(agent.link, to_master::Body::GuestRequest(asked));
        id
    }

    fn answered_guest(&self, agent: &Agent, id: u64) -> Option<answer::Body> {
        let messages = self.messages.get(&agent.link)?;
        let mut answers = messages.iter().filter_map(|body| match body {
            to_agent::Body::GuestAnswer(answer) if answer.request_id == id => Some(answer),
            _ => None,
        });
        let answer = answers.next()?.answer.body.clone();
        assert!(answers.next().is_none(), "one answer to each question");
        answer
    }

    fn guest(&mut self, agent: &Agent, asked: link::GuestRequest) -> answer::Body {
        let id = self.guest_asks(agent, asked);
        self.answered_guest(agent, id)
            .expect("the disk is quick, so the answer is there")
    }

    /// Of the job `j` of the role `r`.
    fn of_job(&mut self, agent: &Agent, body: request::Body) -> answer::Body {
        self.guest(agent, question("r", Some("j"), body))
    }

    fn store_asks(&mut self, principal: Option<&str>, call: StoreCall) -> RequestKey {
        let request = RequestKey(self.number());
        self.apply(Input::StoreCall {
            request,
            principal: principal.map(str::to_owned),
            call,
        });
        request
    }

    fn store(&mut self, call: StoreCall) -> StoreAnswer {
        let request = self.store_asks(None, call);
        self.store_answer(request).expect("it is answered at once")
    }

    fn store_answer(&self, request: RequestKey) -> Option<StoreAnswer> {
        match self.answered(request)? {
            Answer::Store(answer) => Some(*answer),
            other => panic!("{other:?}"),
        }
    }
}

fn stored(answer: &answer::Body) -> u64 {
    match answer {
        answer::Body::Stored(stored) => stored.version,
        other => panic!("{other:?}"),
    }
}

fn value(answer: answer::Body) -> Option<(String, u64)> {
    match answer {
        answer::Body::Value(value) => value.entry.map(|entry| {
            let text = String::from_utf8(entry.value.to_vec()).unwrap();
            (text, entry.version)
        }),
        other => panic!("{other:?}"),
    }
}

fn failed(answer: &answer::Body) -> (failure::Code, Option<u64>, &str) {
    match answer {
        answer::Body::Failure(failure) => (failure.code(), failure.version, &failure.message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_value_is_put_got_listed_changed_under_a_condition_and_deleted() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    assert_eq!(value(cluster.of_job(&agent, get("a"))), None);
    assert_eq!(stored(&cluster.of_job(&agent, put("a", "1", Some(0)))), 1);
    assert_eq!(stored(&cluster.of_job(&agent, put("b/x", "2", None))), 2);
    assert_eq!(stored(&cluster.of_job(&agent, put("b/y", "3", None))), 3);
    let got = cluster.of_job(&agent, get("a"));
    assert_eq!(value(got), Some(("1".to_owned(), 1)));
    let there = cluster.of_job(&agent, put("a", "9", Some(0)));
    assert_eq!(failed(&there).0, failure::Code::Conflict);
    assert_eq!(failed(&there).1, Some(1));
    assert!(failed(&there).2.contains("version 1, not 0"), "{there:?}");
    assert_eq!(stored(&cluster.of_job(&agent, put("a", "4", Some(1)))), 4);
    let listed = |answer: answer::Body| match answer {
        answer::Body::Keys(list) => list.keys,
        other => panic!("{other:?}"),
    };
    let all = cluster.of_job(&agent, keys(""));
    assert_eq!(listed(all), ["a", "b/x", "b/y"]);
    let some = cluster.of_job(&agent, keys("b/"));
    assert_eq!(listed(some), ["b/x", "b/y"]);
    let old = cluster.of_job(&agent, delete("a", Some(1)));
    assert_eq!(failed(&old).1, Some(4));
    assert_eq!(stored(&cluster.of_job(&agent, delete("a", Some(4)))), 4);
    assert_eq!(stored(&cluster.of_job(&agent, delete("a", None))), 0);
    let none = cluster.of_job(&agent, delete("a", Some(4)));
    assert_eq!(failed(&none).1, Some(0));
    // A removal is a change too.
    assert_eq!(stored(&cluster.of_job(&agent, put("a", "5", None))), 6);
}

#[test]
fn stores_are_those_of_a_role_and_a_job_whoever_asks() {
    let mut cluster = Cluster::new();
    let (one, two) = (cluster.agent(MACHINE), cluster.agent(MACHINE));
    cluster.guest(&one, question("a/b", Some("j"), put("k", "ab", None)));
    cluster.guest(&one, question("a", Some("b/j"), put("k", "a", None)));
    let mut read = |role, job| {
        let got = cluster.guest(&two, question(role, Some(job), get("k")));
        value(got).map(|(text, _)| text)
    };
    assert_eq!(read("a/b", "j").as_deref(), Some("ab"));
    assert_eq!(read("a", "b/j").as_deref(), Some("a"));
    assert_eq!(read("a", "j"), None);
    assert_eq!(read("*", "j"), None);
    let none = cluster.guest(&one, question("a", None, get("k")));
    assert_eq!(failed(&none).0, failure::Code::NoJob);
    assert!(failed(&none).2.contains("tepui.job"));
    let names = cluster
        .registry
        .keys()
        .filter(|key| key.starts_with("job/"));
    let names: Vec<_> = names.cloned().collect();
    assert_eq!(names, ["job/a%2Fb/j/k", "job/a/b%2Fj/k"]);
}

#[test]
fn versions_are_used_once_whatever_is_removed_and_whenever_the_master_starts() {
    let mut cluster = Cluster::new();
    let mut last = 0;
    let mut registered = None;
    for round in 0..4 {
        let agent = cluster.agent(MACHINE);
        let mut next = |cluster: &mut Cluster, key: &str| {
            let version = stored(&cluster.of_job(&agent, put(key, "x", None)));
            assert!(version > last, "{version} after {last} in round {round}");
            last = version;
        };
        next(&mut cluster, "a");
        next(&mut cluster, "b");
        match round {
            // The newest is deleted, and others are left.
            0 => drop(cluster.of_job(&agent, delete("b", None))),
            // The last one is deleted.
            1 => {
                cluster.of_job(&agent, delete("b", None));
                cluster.of_job(&agent, delete("a", None));
            }
            _ => {
                let (role, job) = ("r".to_owned(), "j".to_owned());
                let removed = cluster.store(StoreCall::Remove { role, job });
                assert_eq!(removed, StoreAnswer::Removed(2));
            }
        }
        if round == 2 {
            // Nothing happens in between.
            next(&mut cluster, "a");
        }
        registered = Some(agent);
        cluster.restart();
    }
    drop(registered);
    let agent = cluster.agent(MACHINE);
    let version = stored(&cluster.of_job(&agent, put("a", "x", None)));
    assert!(version > last);
    let kept: Vec<_> = cluster
        .registry
        .keys()
        .filter(|key| key.starts_with("job"))
        .collect();
    assert_eq!(kept, ["job", "job/r/j/a"]);
}

#[test]
fn what_is_on_disk_is_there_again_and_nobody_hears_of_anything_else() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    cluster.of_job(&agent, put("a", "old", None));
    cluster.slow_disk = true;
    let ask = |cluster: &mut Cluster, job, body| {
        cluster.guest_asks(&agent, question("r", Some(job), body))
    };
    let write = ask(&mut cluster, "j", put("a", "new", Some(1)));
    let read = ask(&mut cluster, "j", get("a"));
    let loser = ask(&mut cluster, "j", put("a", "late", Some(1)));
    let list = ask(&mut cluster, "j", keys(""));
    let other = ask(&mut cluster, "other", get("a"));
    let operator = cluster.store_asks(
        None,
        StoreCall::List {
            role: Some("r".to_owned()),
        },
    );
    for waiting in [write, read, loser, list] {
        assert_eq!(cluster.answered_guest(&agent, waiting), None);
    }
    assert_eq!(cluster.store_answer(operator), None);
    let elsewhere = cluster.answered_guest(&agent, other);
    assert_eq!(
        value(elsewhere.unwrap()),
        None,
        "that store has no write under way"
    );
    cluster.finish_writes();
    let answer = |cluster: &Cluster, id| cluster.answered_guest(&agent, id).unwrap();
    assert_eq!(stored(&answer(&cluster, write)), 2);
    assert_eq!(value(answer(&cluster, read)), Some(("new".to_owned(), 2)));
    assert_eq!(failed(&answer(&cluster, loser)).1, Some(2));
    let summary = StoreSummary {
        role: tepui_model::Role::parse("r").unwrap(),
        job: "j".to_owned(),
        keys: 1,
        bytes: StoreLimits::ENTRY + 4,
        version: 2,
    };
    let listed = cluster.store_answer(operator).unwrap();
    assert_eq!(listed, StoreAnswer::Stores(vec![summary]));

    // The master ends before this one is on disk.
    let lost = ask(&mut cluster, "j", put("a", "lost", None));
    assert_eq!(cluster.answered_guest(&agent, lost), None);
    cluster.restart();
    cluster.finish_writes();
    cluster.slow_disk = false;
    let agent = cluster.register(reregister(&agent, MACHINE, Vec::new()));
    assert_eq!(
        value(cluster.of_job(&agent, get("a"))),
        Some(("new".to_owned(), 2))
    );
}

#[test]
fn an_answer_for_a_link_that_broke_is_dropped() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    cluster.slow_disk = true;
    let id = cluster.guest_asks(&agent, question("r", Some("j"), put("a", "x", None)));
    cluster.cut(&agent);
    cluster.finish_writes();
    assert_eq!(cluster.answered_guest(&agent, id), None);
}

fn small() -> Cluster {
    Cluster::with(|config| {
        config.store_limits = StoreLimits {
            name: 8,
            value: 200,
            keys_of_job: 3,
            bytes_of_job: 500,
            jobs_of_role: 2,
            bytes_of_role: 700,
            bytes: 900,
        };
    })
}

#[test]
fn too_much_is_refused_with_what_is_to_be_done() {
    let mut cluster = small();
    let agent = cluster.agent(MACHINE);
    let long = "x".repeat(200);
    let mut ask = |role: &str, job: &str, body| {
        let answer = cluster.guest(&agent, question(role, Some(job), body));
        match &answer {
            answer::Body::Failure(failure) => Err((failure.code(), failure.message.clone())),
            other => Ok(stored(other)),
        }
    };
    let mut refused = |role: &str, job: &str, body, code, says: &str| {
        let (found, message) = ask(role, job, body).unwrap_err();
        assert_eq!(found, code, "{message}");
        assert!(message.contains(says), "{message:?} does not say {says:?}");
    };
    use failure::Code::{Full, Invalid};
    refused("r", "j", put("", "x", None), Invalid, "expecting 1 to 8");
    refused(
        "r",
        "j",
        put("123456789", "x", None),
        Invalid,
        "key has 9 bytes",
    );
    refused(
        "r",
        "j",
        put("k", &"x".repeat(201), None),
        Invalid,
        "at most 200",
    );
    refused("r", "", put("k", "x", None), Invalid, "name of the job");
    refused("r", "123456789", get("k"), Invalid, "name of the job");
    refused("..", "j", get("k"), Invalid, "role");
    for key in ["1", "2", "3"] {
        ask("r", "j", put(key, "x", None)).unwrap();
    }
    let mut refused = |role: &str, job: &str, body, code, says: &str| {
        let (found, message) = ask(role, job, body).unwrap_err();
        assert_eq!(found, code, "{message}");
        assert!(message.contains(says), "{message:?} does not say {says:?}");
    };
    refused("r", "j", put("4", "x", None), Full, "has 3 keys");
    let mut ask = |role: &str, job: &str, body| {
        let answer = cluster.guest(&agent, question(role, Some(job), body));
        match &answer {
            answer::Body::Failure(failure) => Err((failure.code(), failure.message.clone())),
            other => Ok(stored(other)),
        }
    };
    ask("r", "j", put("1", &long, None)).unwrap();
    let (code, message) = ask("r", "j", put("2", &long, None)).unwrap_err();
    assert!(
        code == Full && message.contains("store of job 'j' would grow"),
        "{message}"
    );
    ask("r", "k", put("1", &long, None)).unwrap();
    let (code, message) = ask("r", "l", put("1", "x", None)).unwrap_err();
    assert!(
        code == Full && message.contains("stores for 2 jobs"),
        "{message}"
    );
    let (code, message) = ask("r", "k", put("2", "x", None)).unwrap_err();
    assert!(
        code == Full && message.contains("stores of role 'r'"),
        "{message}"
    );
    ask("s", "j", put("1", "x", None)).unwrap();
    let (code, message) = ask("t", "j", put("1", &long, None)).unwrap_err();
    assert!(code == Full && message.contains("all roles"), "{message}");
    // What makes room is taken, and then there is room.
    ask("r", "j", put("1", "", None)).unwrap();
    ask("t", "j", put("1", &long, None)).unwrap();
    ask("r", "k", delete("1", None)).unwrap();
    ask("r", "l", put("1", "x", None)).unwrap();
}

#[test]
fn operators_see_and_change_what_they_may() {
    let acls = r#"{ "permissive": false,
        "get_stores": [{ "principals": { "values": ["ann", "bob"] }, "roles": { "values": ["eng/%"] } }],
        "update_stores": [{ "principals": { "values": ["ann"] }, "roles": { "type": "ANY" } }] }"#;
    let mut cluster =
        Cluster::with(|config| config.acls = std::sync::Arc::new(Acls::parse(acls).unwrap()));
    let mut ask = |principal: &str, call: StoreCall| {
        let request = cluster.store_asks(Some(principal), call);
        cluster.store_answer(request).unwrap()
    };
    let put = |role: &str| StoreCall::Put {
        role: role.to_owned(),
        job: "j".to_owned(),
        key: "k".to_owned(),
        value: Bytes::from_static(b"value"),
        if_version: None,
    };
    assert_eq!(ask("ann", put("eng/web")), StoreAnswer::Stored(1));
    assert_eq!(ask("ann", put("ops")), StoreAnswer::Stored(1));
    let is_denied = |answer| matches!(answer, StoreAnswer::Refused(StoreRefused::Denied(_)));
    assert!(is_denied(ask("bob", put("eng/web"))));
    let roles = |answer| match answer {
        StoreAnswer::Stores(stores) => {
            let roles = stores.into_iter().map(|store| store.role.to_string());
            roles.collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let all = || StoreCall::List { role: None };
    assert_eq!(roles(ask("bob", all())), ["eng/web"]);
    assert!(roles(ask("eve", all())).is_empty());
    let one = |role: &str| StoreCall::List {
        role: Some(role.to_owned()),
    };
    assert_eq!(roles(ask("bob", one("eng/web"))), ["eng/web"]);
    assert!(is_denied(ask("bob", one("ops"))));
    let keys = StoreCall::Keys {
        role: "eng/web".to_owned(),
        job: "j".to_owned(),
        prefix: String::new(),
    };
    let listed = KeySummary {
        key: "k".to_owned(),
        bytes: 5,
        version: 1,
    };
    assert_eq!(ask("bob", keys.clone()), StoreAnswer::Keys(vec![listed]));
    assert!(is_denied(ask("eve", keys)));
    let remove = |job: &str| StoreCall::Remove {
        role: "eng/web".to_owned(),
        job: job.to_owned(),
    };
    assert!(is_denied(ask("bob", remove("j"))));
    assert!(matches!(
        ask("ann", remove("none")),
        StoreAnswer::Refused(StoreRefused::NoStore { .. })
    ));
    assert_eq!(ask("ann", remove("j")), StoreAnswer::Removed(1));
    assert!(roles(ask("bob", all())).is_empty());
}

#[test]
fn a_key_of_the_registry_that_makes_no_sense_is_named() {
    for key in ["job/%/j/k", "job/r/j/k/l", "job/r", "job/%FF/j/k"] {
        let records = [(key.to_owned(), Bytes::new())];
        let now = tepui_model::Now {
            tick: tepui_model::Tick(0),
            wall_ns: 0,
        };
        let error = crate::Core::new(crate::Config::default(), &records, now).unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
    }
}

struct Chance(Generator);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0.number() % limit
    }
}

/// What all who asked know of the stores by now, and what they still wait for.
#[derive(Default)]
struct Known {
    /// What each key held at last, as far as it was told: its version and value, or the version it was deleted with.
    entries: BTreeMap<(u64, u64), Option<(u64, String)>>,
    /// The highest version that anybody was told of each job.
    versions: BTreeMap<u64, u64>,
    waiting: Vec<(u64, u64, u64, Asked)>,
}

enum Asked {
    Put(String),
    Delete,
    Get,
}

/// Masters that crash in the middle of everything: what was acknowledged is there, what was told is true, and versions go
/// only up.
#[test]
fn crashes_lose_nothing_that_was_told() {
    for seed in 0..40 {
        let mut chance = Chance(Generator::new(seed));
        let mut cluster = Cluster::new();
        let mut agent = cluster.agent(MACHINE);
        let mut known = Known::default();
        cluster.slow_disk = true;
        for step in 0..300 {
            let (job, key) = (chance.below(2), chance.below(3));
            let name = format!("j{job}");
            let ask = |cluster: &mut Cluster, body| {
                cluster.guest_asks(&agent, question("r", Some(&name), body))
            };
            let key_name = format!("k{key}");
            match chance.below(20) {
                0..=8 => {
                    let text = format!("{seed}-{step}");
                    let id = ask(&mut cluster, put(&key_name, &text, None));
                    known.waiting.push((id, job, key, Asked::Put(text)));
                }
                9..=11 => {
                    let id = ask(&mut cluster, delete(&key_name, None));
                    known.waiting.push((id, job, key, Asked::Delete));
                }
                12..=15 => {
                    let id = ask(&mut cluster, get(&key_name));
                    known.waiting.push((id, job, key, Asked::Get));
                }
                16..=18 => cluster.finish_some_writes(chance.below(4) as usize),
                _ => {
                    // What was not answered may have been done or not, so any of it may be found.
                    let mut possible = known.entries.clone();
                    let unsure: Vec<_> = known.waiting.drain(..).collect();
                    cluster.restart();
                    cluster.finish_writes();
                    agent = cluster.register(reregister(&agent, MACHINE, Vec::new()));
                    for (_, job, key, _) in &unsure {
                        possible.remove(&(*job, *key));
                    }
                    known.entries = possible;
                }
            }
            known.hear(&cluster, &agent);
            // Whatever is known of a key that nobody changes at the moment is what is there.
            let settled = known.entries.iter().filter(|((job, key), _)| {
                !known
                    .waiting
                    .iter()
                    .any(|(_, of, at, _)| (of, at) == (job, key))
            });
            for ((job, key), entry) in settled {
                let role = tepui_model::Role::parse("r").unwrap();
                let stores = &cluster.core.stores;
                let there = stores.get(&role, &format!("j{job}"), &format!("k{key}"));
                let there = there.map(|stored| {
                    let text = String::from_utf8(stored.value.to_vec()).unwrap();
                    (stored.version, text)
                });
                assert_eq!(there, *entry, "seed {seed} step {step}: j{job} k{key}");
            }
        }
    }
}

impl Known {
    fn hear(&mut self, cluster: &Cluster, agent: &Agent) {
        let mut waiting = Vec::new();
        for (id, job, key, asked) in self.waiting.drain(..) {
            let Some(answer) = cluster.answered_guest(agent, id) else {
                waiting.push((id, job, key, asked));
                continue;
            };
            let highest = self.versions.entry(job).or_default();
            let entry = match asked {
                Asked::Put(text) => {
                    let version = stored(&answer);
                    assert!(version > *highest, "version {version} after {highest}");
                    *highest = version;
                    Some((version, text))
                }
                Asked::Delete => None,
                Asked::Get => value(answer).map(|(text, version)| {
                    *highest = version.max(*highest);
                    (version, text)
                }),
            };
            self.entries.insert((job, key), entry);
        }
        self.waiting = waiting;
    }
}
