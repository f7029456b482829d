//! What guests keep and whom they find: asked of the agent as their executor asks it, with everything behind it real.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tepui_api::guest::{self, answer, failure, request as asked};
use tepui_api::proto;
use tepui_tests::{Cluster, Executor, Scheduler, component, request, wait_until};

const PATH: &str = "/api/v1/guest";

/// Who asks: a task, by its executor.
#[derive(Debug, Clone)]
struct Guest {
    agent: String,
    framework: String,
    executor: String,
    token: String,
    task: String,
}

impl Guest {
    /// Status and body of the agent's answer.
    fn post(&self, body: asked::Body) -> (u16, Vec<u8>) {
        let call = guest::Call {
            framework_id: self.framework.as_str().into(),
            executor_id: self.executor.as_str().into(),
            task_id: self.task.as_str().into(),
            request: guest::Request { body: Some(body) },
        };
        let bearer = format!("Bearer {}", self.token);
        let headers = [
            ("Content-Type", "application/x-protobuf"),
            ("Authorization", &bearer),
        ];
        let answer = request(&self.agent, "POST", PATH, &headers, &proto::to_vec(&call)).unwrap();
        (answer.status, answer.body)
    }

    fn ask(&self, body: asked::Body) -> answer::Body {
        let (status, body) = self.post(body);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let answer: guest::Answer = proto::from_bytes(body.into()).unwrap();
        answer.body.expect("an answer has a body")
    }

    fn put(&self, key: &str, value: &str, if_version: Option<u64>) -> answer::Body {
        self.ask(asked::Body::Put(guest::Put {
            key: key.to_owned(),
            value: value.to_owned().into(),
            if_version,
        }))
    }

    fn get(&self, key: &str) -> Option<(String, u64)> {
        let key = key.to_owned();
        match self.ask(asked::Body::Get(guest::Get { key })) {
            answer::Body::Value(value) => value.entry.map(|entry| {
                let text = String::from_utf8(entry.value.to_vec()).unwrap();
                (text, entry.version)
            }),
            other => panic!("{other:?}"),
        }
    }

    fn delete(&self, key: &str) -> answer::Body {
        self.ask(asked::Body::Delete(guest::Delete {
            key: key.to_owned(),
            if_version: None,
        }))
    }

    fn keys(&self, prefix: &str) -> Vec<String> {
        let prefix = Some(prefix.to_owned());
        match self.ask(asked::Body::Keys(guest::Keys { prefix })) {
            answer::Body::Keys(list) => list.keys,
            other => panic!("{other:?}"),
        }
    }

    fn find(&self, name: &str) -> Vec<guest::Endpoint> {
        let name = name.to_owned();
        match self.ask(asked::Body::Find(guest::Find { name })) {
            answer::Body::Endpoints(found) => found.endpoints,
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

fn failed(answer: &answer::Body) -> &guest::Failure {
    match answer {
        answer::Body::Failure(failure) => failure,
        other => panic!("{other:?}"),
    }
}

/// A framework with an executor of its own that the test speaks for.
struct Tenant {
    scheduler: Scheduler,
    executor: Executor,
    token: String,
    agent: String,
}

impl Tenant {
    /// Its first task runs, with what is added to it.
    fn start(cluster: &Cluster, info: Value, task: &str, more: Value) -> Self {
        let agent = cluster.agents[0].address.clone();
        let mut scheduler = Scheduler::subscribe(&cluster.master.address, info);
        launch(&mut scheduler, task, more);
        let framework = scheduler.framework_id.clone();
        let executor = Executor::subscribe(&agent, &framework, "own");
        let token = wait_until("the executor's token", || {
            let environment = cluster.sandboxed(&framework, "own", "env.txt");
            let mut lines = environment.lines();
            let token =
                lines.find_map(|line| line.strip_prefix("MESOS_EXECUTOR_AUTHENTICATION_TOKEN="))?;
            Some(token.to_owned())
        });
        let mut tenant = Self {
            scheduler,
            executor,
            token,
            agent,
        };
        tenant.run(task);
        tenant
    }

    fn run(&mut self, task: &str) {
        self.executor.expect("LAUNCH");
        self.executor.update(task, "TASK_RUNNING");
        self.scheduler.until(task, "TASK_RUNNING");
    }

    fn another(&mut self, task: &str, more: Value) {
        launch(&mut self.scheduler, task, more);
        self.run(task);
    }

    fn guest(&self, task: &str) -> Guest {
        Guest {
            agent: self.agent.clone(),
            framework: self.executor.framework_id.clone(),
            executor: "own".to_owned(),
            token: self.token.clone(),
            task: task.to_owned(),
        }
    }
}

fn launch(scheduler: &mut Scheduler, task: &str, more: Value) {
    let executor = scheduler.custom_executor("own", "env > new; mv new env.txt; sleep 1000");
    let offer = scheduler.offer();
    let mut info = Scheduler::executor_task(task, &offer, &executor);
    for (name, value) in more.as_object().into_iter().flatten() {
        match (name.as_str(), value.as_array()) {
            ("resources", Some(further)) => {
                let resources = info["resources"].as_array_mut().unwrap();
                resources.extend(further.iter().cloned());
            }
            _ => info[name] = value.clone(),
        }
    }
    let launch = json!({ "type": "LAUNCH", "launch": { "task_infos": [info] } });
    assert_eq!(scheduler.accept(&offer, launch).status, 202);
}

fn job(name: &str) -> Value {
    json!({ "labels": { "labels": [{ "key": "tepui.job", "value": name }] } })
}

fn of_role(role: &str) -> Value {
    json!({ "roles": [role], "capabilities": [{ "type": "MULTI_ROLE" }], "checkpoint": true,
            "failover_timeout": 600.0 })
}

#[test]
fn a_job_keeps_what_its_tasks_put_whoever_asks_for_it_later() {
    let cluster = Cluster::start(1);
    let mut shop = Tenant::start(&cluster, of_role("eng/web"), "a", job("shop"));
    let a = shop.guest("a");
    assert_eq!(a.get("cart/1"), None);
    assert_eq!(stored(&a.put("cart/1", "apples", Some(0))), 1);
    assert_eq!(stored(&a.put("cart/2", "pears", None)), 2);
    assert_eq!(stored(&a.put("note", "x", None)), 3);
    assert_eq!(a.keys("cart/"), ["cart/1", "cart/2"]);
    let late = a.put("cart/1", "plums", Some(0));
    assert_eq!(failed(&late).code(), failure::Code::Conflict);
    assert_eq!(failed(&late).version, Some(1));
    // Of two tasks that change it at the same version one wins.
    shop.another("b", job("shop"));
    let b = shop.guest("b");
    assert_eq!(stored(&b.put("cart/1", "plums", Some(1))), 4);
    assert_eq!(failed(&a.put("cart/1", "figs", Some(1))).version, Some(4));
    assert_eq!(a.get("cart/1"), Some(("plums".to_owned(), 4)));
    assert_eq!(stored(&b.delete("note")), 3);
    // Another job of the role has nothing of it, and one without a job has nowhere to look.
    shop.another("c", job("another"));
    assert!(shop.guest("c").keys("").is_empty());
    shop.another("d", json!({}));
    let none = shop.guest("d").put("k", "v", None);
    assert_eq!(failed(&none).code(), failure::Code::NoJob);
    for (key, value) in [
        ("", "x"),
        (&*"k".repeat(257), "x"),
        ("k", &*"x".repeat(65_537)),
    ] {
        let refused = a.put(key, value, None);
        assert_eq!(
            failed(&refused).code(),
            failure::Code::Invalid,
            "{refused:?}"
        );
    }
    assert_eq!(stored(&a.put("large", &"x".repeat(65_536), None)), 6);

    // Nothing of it is left to the tasks, the framework, or the master that took it.
    drop((a, b, shop));
    let mut cluster = cluster;
    cluster.master.start_again();
    cluster.wait_for_agents(1);
    let again = Tenant::start(&cluster, of_role("eng/web"), "e", job("shop"));
    let e = again.guest("e");
    assert_eq!(e.get("cart/1"), Some(("plums".to_owned(), 4)));
    assert_eq!(e.keys(""), ["cart/1", "cart/2", "large"]);
    let stranger = Tenant::start(&cluster, of_role("ops"), "f", job("shop"));
    assert!(stranger.guest("f").keys("").is_empty());

    // And operators reach it by name.
    let ended = cluster.tepui(&["store", "ls"]);
    assert!(ended.stdout.contains("eng/web  shop"), "{ended:?}");
    let listed = cluster.tepui(&["store", "ls", "eng/web", "shop", "--prefix", "cart/"]);
    assert_eq!(listed.stdout.lines().count(), 3, "{listed:?}");
    let got = cluster.tepui(&["store", "get", "eng/web", "shop", "cart/1"]);
    assert_eq!((got.code, got.stdout.as_str()), (0, "plums"), "{got:?}");
    let put = cluster.tepui(&["store", "put", "eng/web", "shop", "cart/1", "figs"]);
    assert_eq!(put.stdout.trim(), "7", "{put:?}");
    assert_eq!(e.get("cart/1"), Some(("figs".to_owned(), 7)));
    let put = [
        "store",
        "put",
        "eng/web",
        "shop",
        "cart/1",
        "x",
        "--if-version",
        "4",
    ];
    let conflict = cluster.tepui(&put);
    assert_eq!(conflict.code, 1);
    assert!(
        conflict.stderr.contains("has version 7, not 4"),
        "{conflict:?}"
    );
    let missing = cluster.tepui(&["store", "get", "eng/web", "shop", "none"]);
    assert!(
        missing.stderr.contains("tepui store ls eng/web shop"),
        "{missing:?}"
    );
    assert_eq!(
        cluster
            .tepui(&["store", "rm", "eng/web", "shop", "cart/1"])
            .code,
        0
    );
    assert_eq!(e.keys("cart/"), ["cart/2"]);
    assert_eq!(
        cluster.tepui(&["store", "rm", "eng/web", "shop"]).code,
        2,
        "not by omission"
    );
    assert_eq!(
        cluster
            .tepui(&["store", "rm", "eng/web", "shop", "--all"])
            .code,
        0
    );
    assert!(e.keys("").is_empty());
    assert!(
        stored(&e.put("cart/1", "new", None)) > 7,
        "no version is used again"
    );
}

#[test]
fn an_executor_asks_for_its_own_tasks_only() {
    let mut cluster = Cluster::start(1);
    let mine = Tenant::start(&cluster, of_role("one"), "a", job("j"));
    let theirs = Tenant::start(&cluster, of_role("two"), "b", job("j"));
    assert_eq!(stored(&theirs.guest("b").put("secret", "x", None)), 1);
    let look = || {
        asked::Body::Get(guest::Get {
            key: "secret".to_owned(),
        })
    };
    let own = mine.guest("a");
    let refused = |guest: &Guest| {
        let (status, body) = guest.post(look());
        assert_eq!(status, 403, "{guest:?}: {}", String::from_utf8_lossy(&body));
    };
    refused(&Guest {
        task: "b".to_owned(),
        ..own.clone()
    });
    let theirs_by_name = Guest {
        framework: theirs.guest("b").framework,
        ..own.clone()
    };
    refused(&Guest {
        task: "b".to_owned(),
        ..theirs_by_name
    });
    refused(&Guest {
        token: "guessed".to_owned(),
        ..own.clone()
    });
    refused(&Guest {
        task: "none".to_owned(),
        ..own.clone()
    });
    assert_eq!(own.get("secret"), None, "of the same job of another role");
    // Without any token, and in another form than protobuf.
    let agent = cluster.agents[0].address.clone();
    let call = guest::Call {
        framework_id: own.framework.as_str().into(),
        executor_id: "own".into(),
        task_id: "a".into(),
        request: guest::Request { body: Some(look()) },
    };
    let post = |kind: &str, body: &[u8]| {
        let headers = [("Content-Type", kind)];
        request(&agent, "POST", PATH, &headers, body)
            .unwrap()
            .status
    };
    assert_eq!(post("application/x-protobuf", &proto::to_vec(&call)), 403);
    assert_eq!(post("application/json", b"{}"), 415);
    assert_eq!(post("application/x-protobuf", b"\xff"), 400);
    assert_eq!(request(&agent, "GET", PATH, &[], b"").unwrap().status, 405);

    // A task that has ended asks for nothing any more.
    let mut mine = mine;
    mine.executor.update("a", "TASK_FINISHED");
    refused(&own);

    // Without a master the answer comes at once, and when there is one again all is well.
    let guest = theirs.guest("b");
    cluster.master.kill();
    wait_until("the agent to notice", || {
        let answer = guest.ask(look());
        match answer {
            answer::Body::Failure(failure) => {
                assert_eq!(failure.code(), failure::Code::Unavailable, "{failure:?}");
                failure.message.contains("no link").then_some(())
            }
            _ => None,
        }
    });
    cluster.master.start_again();
    wait_until("the agent to be back", || match guest.ask(look()) {
        answer::Body::Value(value) => value.entry,
        _ => None,
    });
}

#[test]
fn a_full_store_says_who_must_make_room() {
    let mut cluster = Cluster::master_alone(&["--max_job_stores_size", "1KB"]);
    cluster.add_agent(&["--resources", "cpus:2;mem:1024;disk:1024"]);
    cluster.wait_for_agents(1);
    let tenant = Tenant::start(&cluster, of_role("eng"), "a", job("j"));
    let guest = tenant.guest("a");
    stored(&guest.put("k", &"x".repeat(700), None));
    let full = guest.put("l", &"x".repeat(700), None);
    assert_eq!(failed(&full).code(), failure::Code::Full);
    assert!(
        failed(&full).message.contains("--max_job_stores_size"),
        "{full:?}"
    );
    let full = cluster.tepui(&["store", "put", "eng", "k", "l", &"x".repeat(700)]);
    assert!(full.stderr.contains("an operator must remove"), "{full:?}");
    // The same key may be written again and be smaller.
    stored(&guest.put("k", "small", None));
    stored(&guest.put("l", &"x".repeat(700), None));
}

/// Writers, each with a key of its own, that note what they were told while the master is killed again and again.
#[test]
fn a_master_that_is_killed_loses_nothing_that_was_acknowledged() {
    const WRITERS: usize = 4;
    const KILLS: usize = 4;
    let mut cluster = Cluster::start(1);
    let tenant = Tenant::start(&cluster, of_role("eng"), "a", job("j"));
    let guest = tenant.guest("a");
    let acknowledged = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    // The last value that was acknowledged, its version, and the last one that was asked for.
    let told: Vec<Mutex<(u64, u64, u64)>> = (0..WRITERS).map(|_| Mutex::default()).collect();
    std::thread::scope(|scope| {
        for (writer, told) in told.iter().enumerate() {
            let (guest, acknowledged, stop) = (&guest, &acknowledged, &stop);
            scope.spawn(move || {
                let key = format!("k{writer}");
                for number in 1.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    told.lock().unwrap().2 = number;
                    match guest.put(&key, &number.to_string(), None) {
                        answer::Body::Stored(stored) => {
                            let mut told = told.lock().unwrap();
                            assert!(stored.version > told.1, "{stored:?} after {told:?}");
                            (told.0, told.1) = (number, stored.version);
                            acknowledged.fetch_add(1, Ordering::Relaxed);
                            if number % 16 == 0 {
                                // Versions outlive the keys that had them.
                                drop(told);
                                guest.delete(&key);
                            }
                        }
                        answer::Body::Failure(failure) => {
                            assert_eq!(failure.code(), failure::Code::Unavailable, "{failure:?}");
                            std::thread::sleep(Duration::from_millis(20));
                        }
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
        for _ in 0..KILLS {
            let before = acknowledged.load(Ordering::Relaxed);
            wait_until("some values to be kept", || {
                (acknowledged.load(Ordering::Relaxed) > before + 100).then_some(())
            });
            // SIGKILL, in the middle of whatever it does.
            cluster.master.start_again();
        }
        let before = acknowledged.load(Ordering::Relaxed);
        wait_until("the last master to keep something", || {
            (acknowledged.load(Ordering::Relaxed) > before).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
    });
    let mut highest = 0;
    for (writer, told) in told.iter().enumerate() {
        let (value, version, last_asked) = *told.lock().unwrap();
        highest = highest.max(version);
        let there = guest.get(&format!("k{writer}"));
        let Some((text, found)) = there else {
            assert_eq!(
                value % 16,
                0,
                "writer {writer} was told of {value}, which is gone"
            );
            continue;
        };
        let there: u64 = text.parse().unwrap();
        // One that was asked for later and not answered may have been kept all the same.
        assert!(
            (value..=last_asked).contains(&there),
            "{there}, told {value} of {last_asked}"
        );
        assert!(found >= version && (there > value) == (found > version));
    }
    let next = stored(&guest.put("after", "x", None));
    assert!(next > highest, "{next} after {highest}");
}

fn discovered(name: &str, visibility: &str, port: u16) -> Value {
    let range = json!({ "range": [{ "begin": port, "end": port }] });
    json!({
        "discovery": { "visibility": visibility, "name": name },
        "resources": [{ "name": "ports", "type": "RANGES", "ranges": range }],
    })
}

#[test]
fn services_are_found_by_those_who_may_with_their_health_for_as_long_as_they_run() {
    let mut cluster = Cluster::start(1);
    let web = discovered("web", "CLUSTER", 31_000);
    let mut one = Tenant::start(&cluster, json!({}), "a", web);
    one.another("b", discovered("web", "CLUSTER", 31_001));
    one.another("c", discovered("inner", "FRAMEWORK", 31_002));
    let other = Tenant::start(&cluster, json!({}), "asking", json!({}));
    let asking = other.guest("asking");
    let ports = |guest: &Guest, name: &str| {
        let found = guest.find(name);
        let ports = found.iter().map(|one| (one.port, one.healthy));
        ports.collect::<Vec<_>>()
    };
    let mut found = ports(&asking, "web");
    found.sort();
    assert_eq!(found, [(31_000, None), (31_001, None)]);
    assert!(asking.find("web").iter().all(|one| one.host == "127.0.0.1"));
    assert!(ports(&asking, "inner").is_empty());
    assert_eq!(ports(&one.guest("a"), "inner"), [(31_002, None)]);
    assert!(ports(&asking, "nobody").is_empty());

    let report = |tenant: &mut Tenant, task: &str, healthy: bool| {
        let mut status = tenant.executor.status(task, "TASK_RUNNING");
        status["healthy"] = json!(healthy);
        assert_eq!(tenant.executor.send(&status).status, 202);
        tenant.scheduler.until(task, "TASK_RUNNING");
    };
    report(&mut one, "a", false);
    assert_eq!(
        ports(&asking, "web"),
        [(31_001, None), (31_000, Some(false))]
    );
    report(&mut one, "a", true);
    assert_eq!(
        ports(&asking, "web"),
        [(31_000, Some(true)), (31_001, None)]
    );
    one.executor.update("a", "TASK_FINISHED");
    one.scheduler.until("a", "TASK_FINISHED");
    assert_eq!(ports(&asking, "web"), [(31_001, None)]);

    // With the agent that is gone go its tasks; another one is asked by then.
    cluster.add_agent(&["--resources", "cpus:2;mem:1024;disk:1024"]);
    cluster.wait_for_agents(2);
    cluster.agents[0].kill();
    let agent = cluster.agents[1].address.clone();
    let mut late = Scheduler::subscribe(&cluster.master.address, json!({}));
    launch(&mut late, "late", json!({}));
    let mut executor = Executor::subscribe(&agent, &late.framework_id, "own");
    executor.expect("LAUNCH");
    executor.update("late", "TASK_RUNNING");
    let environment = cluster.sandboxed(&late.framework_id, "own", "env.txt");
    let mut lines = environment.lines();
    let token = lines.find_map(|line| line.strip_prefix("MESOS_EXECUTOR_AUTHENTICATION_TOKEN="));
    let late = Guest {
        agent,
        framework: late.framework_id.clone(),
        executor: "own".to_owned(),
        token: token.unwrap().to_owned(),
        task: "late".to_owned(),
    };
    wait_until("the services of the lost agent to vanish", || {
        late.find("web").is_empty().then_some(())
    });
}

#[test]
fn a_service_that_was_started_by_name_is_found_on_the_very_port_it_listens_on() {
    let cluster = Cluster::start(1);
    let said = cluster.folder.path().join("said");
    let module = component("http_service");
    let mut run = cluster
        .command(&[
            "run",
            "--name",
            "greeter",
            "--label",
            "tier=front",
            "--job",
            "shop",
            &module,
        ])
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let address = wait_until("the service to listen", || {
        let text = std::fs::read_to_string(&said).unwrap();
        let (_, rest) = text.split_once("serves http://")?;
        Some(rest.split_once('/')?.0.to_owned())
    });
    let task = cluster.running_task();
    let other = Tenant::start(&cluster, json!({}), "asking", json!({}));
    let asking = other.guest("asking");
    let found = wait_until("the service to be found", || asking.find("greeter").pop());
    assert_eq!(format!("{}:{}", found.host, found.port), address);
    assert_eq!(found.task_id.value, task["id"].as_str().unwrap());
    let answer = request(
        &format!("{}:{}", found.host, found.port),
        "GET",
        "/",
        &[],
        b"",
    );
    assert_eq!(answer.unwrap().status, 200);
    let tasks = cluster.get("/tasks").json();
    let of_it = tasks["tasks"].as_array().unwrap().iter();
    let of_it = of_it.clone().find(|one| one["name"] == "greeter").unwrap();
    let labels = of_it["labels"].to_string();
    assert!(
        labels.contains("tier") && labels.contains("tepui.job"),
        "{labels}"
    );

    let pid = nix::unistd::Pid::from_raw(run.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    run.wait().unwrap();
    wait_until("the service to vanish", || {
        asking.find("greeter").is_empty().then_some(())
    });
}
