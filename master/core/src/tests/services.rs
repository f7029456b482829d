//! Who is found under the name of a service.

use std::time::Duration;

use tepui_api::guest::{self, answer, failure, request};
use tepui_api::link::{self, to_agent, to_master};
use tepui_api::v1::TaskState::{TaskFinished, TaskKilling, TaskRunning, TaskStarting};
use tepui_api::v1::discovery_info::Visibility;
use tepui_api::v1::{self, TaskState};

use super::harness::*;

const MACHINE: &str = "cpus:8;mem:4096;ports:[31000-31009]";

fn discovery(name: &str, visibility: Visibility) -> v1::DiscoveryInfo {
    v1::DiscoveryInfo {
        visibility: visibility.into(),
        name: Some(name.to_owned()),
        ..v1::DiscoveryInfo::default()
    }
}

fn port(number: u32, name: &str, visibility: Option<Visibility>) -> v1::Port {
    v1::Port {
        number,
        name: Some(name.to_owned()),
        protocol: Some("tcp".to_owned()),
        visibility: visibility.map(Into::into),
        ..v1::Port::default()
    }
}

/// An agent that listens there, seen at that address.
fn agent_at(cluster: &mut Cluster, endpoint: &str, everywhere: bool, seen_at: &str) -> Agent {
    cluster.register(link::Register {
        endpoint: endpoint.to_owned(),
        listens_everywhere: Some(everywhere),
        seen_at: Some(seen_at.to_owned()),
        ..register(MACHINE)
    })
}

impl Cluster {
    fn offer_of(&mut self, scheduler: &Scheduler, agent: &Agent) -> v1::Offer {
        // What was left of an offer is refused for 5 s.
        self.advance(Duration::from_secs(6));
        let view = self.view();
        let mut offers = view.offers.values();
        let offer = offers.find(|offer| {
            offer.agent_id.as_str() == agent.id && offer.framework_id.as_str() == scheduler.id
        });
        v1::Offer::clone(&offer.expect("the agent is offered").wire)
    }

    /// A task that runs, with a discovery and these resources.
    fn serve(
        &mut self,
        scheduler: &Scheduler,
        agent: &Agent,
        id: &str,
        resources: &str,
        discovery: v1::DiscoveryInfo,
    ) {
        let offer = self.offer_of(scheduler, agent);
        let mut info = task(&offer, id, resources);
        info.discovery = Some(discovery);
        self.launch(scheduler, std::slice::from_ref(&offer), vec![info]);
        self.update(scheduler, agent, id, TaskRunning);
    }

    fn find(&mut self, asking: &Agent, framework: &str, name: &str) -> answer::Body {
        let request_id = self.number();
        let asked = link::GuestRequest {
            request_id,
            framework_id: framework.into(),
            task_id: "asking".into(),
            role: "*".to_owned(),
            job: None,
            request: guest::Request {
                body: Some(request::Body::Find(guest::Find {
                    name: name.to_owned(),
                })),
            },
        };
        self.from(asking.link, to_master::Body::GuestRequest(asked));
        let messages = self.messages(asking);
        let mut answers = messages.into_iter().filter_map(|body| match body {
            to_agent::Body::GuestAnswer(answer) if answer.request_id == request_id => {
                answer.answer.body
            }
            _ => None,
        });
        answers.next().expect("a lookup is answered at once")
    }

    fn found(&mut self, asking: &Agent, framework: &str, name: &str) -> Vec<guest::Endpoint> {
        match self.find(asking, framework, name) {
            answer::Body::Endpoints(found) => found.endpoints,
            other => panic!("{other:?}"),
        }
    }

    fn addresses(&mut self, asking: &Agent, framework: &str, name: &str) -> Vec<String> {
        let found = self.found(asking, framework, name);
        let addresses = found.iter().map(|one| format!("{}:{}", one.host, one.port));
        addresses.collect()
    }

    fn report_health(&mut self, scheduler: &Scheduler, agent: &Agent, id: &str, healthy: bool) {
        let status = v1::TaskStatus {
            task_id: id.into(),
            state: TaskRunning.into(),
            agent_id: Some(agent.id.as_str().into()),
            uuid: Some(format!("{:016}", self.number()).into()),
            source: Some(v1::task_status::Source::Executor.into()),
            healthy: Some(healthy),
            ..v1::TaskStatus::default()
        };
        let update = link::StatusUpdate {
            framework_id: scheduler.id.as_str().into(),
            status,
            latest_state: TaskRunning.into(),
        };
        self.from(agent.link, to_master::Body::Update(update));
    }
}

#[test]
fn a_service_is_found_where_it_listens_for_as_long_as_it_runs() {
    let mut cluster = Cluster::new();
    let agent = agent_at(&mut cluster, "10.0.0.1:5051", false, "10.0.0.1");
    let scheduler = cluster.subscribe(info("one"));
    assert!(cluster.addresses(&agent, "f", "web").is_empty());
    let offer = cluster.offer_of(&scheduler, &agent);
    let mut web = task(&offer, "t", "cpus:1;mem:64;ports:[31007-31007,31002-31003]");
    // In the task's own order, as its agent tells them to it.
    web.resources[2].ranges.as_mut().unwrap().range.reverse();
    web.discovery = Some(discovery("web", Visibility::Cluster));
    cluster.launch(&scheduler, &[offer], vec![web]);
    for state in [TaskState::TaskStaging, TaskStarting] {
        if state == TaskStarting {
            cluster.update(&scheduler, &agent, "t", state);
        }
        assert!(
            cluster.addresses(&agent, "f", "web").is_empty(),
            "{state:?}"
        );
    }
    cluster.update(&scheduler, &agent, "t", TaskRunning);
    let found = cluster.found(&agent, "f", "web");
    let ports: Vec<u32> = found.iter().map(|one| one.port).collect();
    assert_eq!(ports, [31007, 31002, 31003]);
    let first = &found[0];
    assert_eq!((first.host.as_str(), first.healthy), ("10.0.0.1", None));
    assert_eq!(
        (first.task_id.value.as_str(), &first.framework_id.value),
        ("t", &scheduler.id)
    );
    assert!(cluster.addresses(&agent, "f", "we").is_empty());
    cluster.update(&scheduler, &agent, "t", TaskKilling);
    assert!(cluster.addresses(&agent, "f", "web").is_empty());
    cluster.update(&scheduler, &agent, "t", TaskFinished);
    assert!(cluster.addresses(&agent, "f", "web").is_empty());
}

#[test]
fn ports_that_are_named_come_before_those_that_are_held() {
    let mut cluster = Cluster::new();
    let agent = agent_at(&mut cluster, "10.0.0.1:5051", false, "10.0.0.1");
    let scheduler = cluster.subscribe(info("one"));
    let mut named = discovery("web", Visibility::Cluster);
    named.ports = Some(v1::Ports {
        ports: vec![
            port(80, "http", None),
            port(9000, "admin", Some(Visibility::Framework)),
            port(70_000, "none", None),
        ],
    });
    cluster.serve(
        &scheduler,
        &agent,
        "t",
        "cpus:1;mem:64;ports:[31000-31001]",
        named,
    );
    let found = cluster.found(&agent, "f", "web");
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].port, found[0].port_name(), found[0].protocol()),
        (80, "http", "tcp")
    );
    let own = scheduler.id.clone();
    assert_eq!(
        cluster.addresses(&agent, &own, "web"),
        ["10.0.0.1:80", "10.0.0.1:9000"]
    );
}

#[test]
fn a_service_for_its_framework_is_nobody_elses() {
    let mut cluster = Cluster::new();
    let agent = agent_at(&mut cluster, "10.0.0.1:5051", false, "10.0.0.1");
    let scheduler = cluster.subscribe(info("one"));
    let holds = |port| format!("cpus:1;mem:64;ports:[{port}-{port}]");
    for (id, port, visibility) in [
        ("own", 31000, Visibility::Framework),
        ("all", 31001, Visibility::Cluster),
        ("world", 31002, Visibility::External),
    ] {
        let discovery = discovery("db", visibility);
        cluster.serve(&scheduler, &agent, id, &holds(port), discovery);
    }
    let mut others = cluster.addresses(&agent, "another", "db");
    others.sort();
    assert_eq!(others, ["10.0.0.1:31001", "10.0.0.1:31002"]);
    let own = scheduler.id.clone();
    assert_eq!(cluster.addresses(&agent, &own, "db").len(), 3);
}

#[test]
fn the_healthy_come_first_the_unhealthy_last_and_equals_take_turns() {
    let mut cluster = Cluster::new();
    let agent = agent_at(&mut cluster, "10.0.0.1:5051", false, "10.0.0.1");
    let away = agent_at(&mut cluster, "10.0.0.2:5051", false, "10.0.0.2");
    let scheduler = cluster.subscribe(info("one"));
    for (number, id) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let at = if id == "d" { &away } else { &agent };
        let holds = format!("cpus:1;mem:64;ports:[3100{number}-3100{number}]");
        cluster.serve(
            &scheduler,
            at,
            id,
            &holds,
            discovery("web", Visibility::Cluster),
        );
    }
    cluster.report_health(&scheduler, &agent, "a", false);
    cluster.report_health(&scheduler, &agent, "b", true);
    // Its agent is started again, say; the framework checkpoints, so the task goes on.
    cluster.cut(&away);
    let tasks = |cluster: &mut Cluster| {
        let found = cluster.found(&agent, "f", "web");
        let tasks = found
            .into_iter()
            .map(|one| (one.task_id.value, one.healthy));
        tasks.collect::<Vec<_>>()
    };
    let ordered = [
        ("b".to_owned(), Some(true)),
        ("c".to_owned(), None),
        ("d".to_owned(), None),
        ("a".to_owned(), Some(false)),
    ];
    assert_eq!(tasks(&mut cluster), ordered);
    for id in ["a", "c"] {
        cluster.report_health(&scheduler, &agent, id, true);
    }
    let mut firsts: Vec<String> = (0..3).map(|_| tasks(&mut cluster)[0].0.clone()).collect();
    firsts.sort();
    assert_eq!(firsts, ["a", "b", "c"]);
    // The agent is given up.
    for _ in 0..41 {
        cluster.advance(Duration::from_secs(15));
        let pong = to_master::Body::Pong(link::Pong { sequence: 0 });
        cluster.from(agent.link, pong);
    }
    assert!(tasks(&mut cluster).iter().all(|(id, _)| id != "d"));
}

#[test]
fn an_agents_services_are_told_where_they_are_reached_from_who_asks() {
    let mut cluster = Cluster::with(|config| config.ip = "10.0.0.100".to_owned());
    let scheduler = cluster.subscribe(info("one"));
    let machines = [
        // Listens at one address.
        ("plain", "10.0.0.1:5051", false, "10.9.9.9"),
        // At the loopback only.
        ("closed", "127.0.0.1:5052", false, "10.0.0.2"),
        ("neighbour", "10.0.0.2:5053", false, "10.0.0.2"),
        // Everywhere: on a machine of its own, and on the master's.
        ("open", "127.0.0.1:5054", true, "10.0.0.3"),
        ("beside", "127.0.0.1:5055", true, "127.0.0.1"),
    ];
    let mut agents = Vec::new();
    for (name, endpoint, everywhere, seen_at) in machines {
        let agent = agent_at(&mut cluster, endpoint, everywhere, seen_at);
        cluster.serve(
            &scheduler,
            &agent,
            name,
            "cpus:1;mem:64;ports:[31000-31000]",
            discovery(name, Visibility::Cluster),
        );
        agents.push(agent);
    }
    let mut host = |asking: usize, name: &str| {
        let found = cluster.found(&agents[asking], "f", name);
        found.first().map(|one| one.host.clone())
    };
    for asking in 0..5 {
        assert_eq!(host(asking, "plain").as_deref(), Some("10.0.0.1"));
        assert_eq!(host(asking, "open").as_deref(), Some("10.0.0.3"));
        assert_eq!(host(asking, "beside").as_deref(), Some("10.0.0.100"));
    }
    assert_eq!(host(1, "closed").as_deref(), Some("127.0.0.1"));
    assert_eq!(host(2, "closed").as_deref(), Some("127.0.0.1"));
    assert_eq!(host(0, "closed"), None, "from there nobody reaches it");
    // A master that is not reached from elsewhere has all its agents on its machine.
    let mut cluster = Cluster::new();
    let scheduler = cluster.subscribe(info("one"));
    let agent = agent_at(&mut cluster, "127.0.0.1:5051", true, "127.0.0.1");
    let discovery = discovery("web", Visibility::Cluster);
    cluster.serve(
        &scheduler,
        &agent,
        "t",
        "cpus:1;mem:64;ports:[31000-31000]",
        discovery,
    );
    assert_eq!(cluster.addresses(&agent, "f", "web"), ["127.0.0.1:31000"]);
}

#[test]
fn a_master_that_has_just_started_does_not_say_that_there_is_nobody() {
    let mut cluster = Cluster::new();
    let agent = agent_at(&mut cluster, "10.0.0.1:5051", false, "10.0.0.1");
    let asking = agent_at(&mut cluster, "10.0.0.2:5051", false, "10.0.0.2");
    let scheduler = cluster.subscribe(info("one"));
    let web = discovery("web", Visibility::Cluster);
    cluster.serve(
        &scheduler,
        &agent,
        "t",
        "cpus:1;mem:64;ports:[31000-31000]",
        web,
    );
    let reported = cluster.reported();
    cluster.restart();
    let back = |agent: &Agent, endpoint: &str, tasks| link::Register {
        endpoint: endpoint.to_owned(),
        ..reregister(agent, MACHINE, tasks)
    };
    let asking = cluster.register(back(&asking, "10.0.0.2:5051", Vec::new()));
    match cluster.find(&asking, "f", "web") {
        answer::Body::Failure(failure) => {
            assert_eq!(failure.code(), failure::Code::Unavailable);
            assert!(failure.message.contains("1 agents"), "{}", failure.message);
        }
        other => panic!("{other:?}"),
    }
    cluster.register(back(&agent, "10.0.0.1:5051", reported));
    assert_eq!(cluster.addresses(&asking, "f", "web"), ["10.0.0.1:31000"]);
    assert!(cluster.addresses(&asking, "f", "none").is_empty());
    match cluster.find(&asking, "f", &"x".repeat(257)) {
        answer::Body::Failure(failure) => assert_eq!(failure.code(), failure::Code::Invalid),
        other => panic!("{other:?}"),
    }
}
