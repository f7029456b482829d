//! Who holds what, what frameworks hear of it, and who is offered what for it.

use std::time::Duration;

use tepui_api::ext::holding::Kind;
use tepui_api::ext::{Holding, Input as Wanted, Locality};
use tepui_api::link::{self, to_master};
use tepui_api::v1;
use tepui_api::v1::framework_info::capability::Type as Capability;
use tepui_api::v1::scheduler::{Call, call};

use super::harness::*;
use crate::{Answer, LinkKey};

fn digest(letter: char) -> String {
    letter.to_string().repeat(64)
}

fn artifact(letter: char, bytes: u64) -> Holding {
    Holding {
        kind: Kind::Artifact.into(),
        name: digest(letter),
        bytes: Some(bytes),
        roles: Vec::new(),
    }
}

fn dataset(name: &str, bytes: u64, roles: &[&str]) -> Holding {
    Holding {
        kind: Kind::Dataset.into(),
        name: name.to_owned(),
        bytes: Some(bytes),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
    }
}

fn by_digest(letter: char) -> Wanted {
    Wanted {
        sha256: Some(digest(letter)),
        dataset: None,
    }
}

fn by_name(name: &str) -> Wanted {
    Wanted {
        sha256: None,
        dataset: Some(name.to_owned()),
    }
}

fn holding(held: Vec<Holding>) -> link::Register {
    link::Register {
        holdings: held,
        ..register("cpus:4;mem:1024")
    }
}

fn tell(cluster: &mut Cluster, agent: &Agent, held: Vec<Holding>, gone: Vec<Holding>) {
    let told = link::Holdings { held, gone };
    cluster.from(agent.link, to_master::Body::Holdings(told));
}

fn holders(cluster: &Cluster, letter: char) -> Vec<String> {
    let view = cluster.view();
    let holders = view.holders(Kind::Artifact, &digest(letter));
    let text = |(agent, held): (&std::sync::Arc<crate::AgentRecord>, &Holding)| {
        format!("{} {}", agent.id, held.bytes())
    };
    holders.into_iter().map(text).collect()
}

fn working_on(name: &str, inputs: Vec<Wanted>) -> v1::FrameworkInfo {
    v1::FrameworkInfo {
        inputs,
        ..info(name)
    }
}

fn request(inputs: Vec<Wanted>) -> Call {
    let requests = vec![v1::Request {
        inputs,
        ..v1::Request::default()
    }];
    Call {
        r#type: Some(call::Type::Request.into()),
        request: Some(call::Request { requests }),
        ..Call::default()
    }
}

/// The bytes on the offer's agent and the most on any.
fn figures(locality: Option<&Locality>) -> Option<(u64, u64)> {
    locality.map(|locality| (locality.bytes(), locality.most_bytes()))
}

#[test]
fn who_holds_what_follows_what_agents_tell_and_their_coming_and_going() {
    let mut cluster = Cluster::new();
    let one = cluster.register(holding(vec![artifact('a', 10), artifact('b', 20)]));
    let two = cluster.register(holding(Vec::new()));
    assert_eq!(holders(&cluster, 'a'), ["m0-S0 10"]);
    tell(&mut cluster, &two, vec![artifact('a', 11)], Vec::new());
    assert_eq!(holders(&cluster, 'a'), ["m0-S0 10", "m0-S1 11"]);
    tell(&mut cluster, &one, Vec::new(), vec![artifact('a', 0)]);
    assert_eq!(holders(&cluster, 'a'), ["m0-S1 11"]);
    // Nobody can be sent there while it is away; when it is back it tells all anew.
    cluster.cut(&two);
    assert!(holders(&cluster, 'a').is_empty());
    let back = link::Register {
        holdings: vec![artifact('b', 5)],
        ..reregister(&two, "cpus:4;mem:1024", Vec::new())
    };
    let two = cluster.register(back);
    assert!(holders(&cluster, 'a').is_empty());
    assert_eq!(holders(&cluster, 'b'), ["m0-S0 20", "m0-S1 5"]);
    cluster.lose(&two, &[&one]);
    assert_eq!(holders(&cluster, 'b'), ["m0-S0 20"]);
}

#[test]
fn offers_say_how_much_of_what_the_framework_named_is_there() {
    let mut cluster = Cluster::new();
    cluster.register(holding(vec![artifact('a', 10), artifact('x', 99)]));
    cluster.register(holding(vec![dataset("set", 70, &[])]));
    let named = cluster.subscribe(working_on("f", vec![by_digest('a'), by_name("set")]));
    let offers = cluster.offers(&named);
    let told: Vec<_> = offers
        .iter()
        .map(|offer| {
            (
                offer.agent_id.value.as_str(),
                figures(offer.locality.as_ref()),
            )
        })
        .collect();
    // The best comes first.
    assert_eq!(told, [("m0-S1", Some((70, 70))), ("m0-S0", Some((10, 70)))]);
    let held = &offers[1].locality.as_ref().unwrap().held;
    assert_eq!(
        held,
        &[artifact('a', 10)],
        "and nothing of what it did not name"
    );
    cluster.hang_up(&named);
    cluster.advance(Duration::from_secs(1));
    let other = cluster.subscribe(info("other"));
    let offers = cluster.offers(&other);
    assert_eq!(offers.len(), 2);
    assert!(offers.iter().all(|offer| offer.locality.is_none()));
}

#[test]
fn the_most_on_any_agent_is_what_the_role_of_the_offer_may_use_there() {
    let mut cluster = Cluster::new();
    cluster.register(holding(vec![
        artifact('a', 10),
        dataset("secret", 70, &["eng"]),
    ]));
    cluster.register(holding(vec![artifact('a', 30)]));
    let inputs = vec![by_digest('a'), by_name("secret")];
    let framework = v1::FrameworkInfo {
        roles: vec!["*".to_owned(), "eng".to_owned()],
        ..with_capability(working_on("f", inputs), Capability::MultiRole)
    };
    let scheduler = cluster.subscribe(framework);
    let offers = cluster.offers(&scheduler);
    assert_eq!(offers.len(), 2);
    for offer in &offers {
        let role = offer.allocation_info.as_ref().unwrap().role();
        let most = offer.locality.as_ref().unwrap().most_bytes();
        assert_eq!(
            most,
            if role == "*" { 30 } else { 80 },
            "in the role {role}"
        );
    }
    let in_common = |offer: &&v1::Offer| offer.allocation_info.as_ref().unwrap().role() == "*";
    assert!(offers.iter().any(|offer| in_common(&offer)), "it is tried");
}

#[test]
fn a_request_for_inputs_is_served_from_where_most_of_them_are_at_its_turn() {
    let mut cluster = Cluster::new();
    let one = cluster.subscribe(info("one"));
    for bytes in [0, 5, 9, 7] {
        cluster.register(holding(vec![artifact('a', bytes)]));
    }
    let held = cluster.offers(&one);
    assert_eq!(held.len(), 4);
    let other = cluster.subscribe(info("other"));
    assert_eq!(
        cluster.call(&other, request(vec![by_digest('a')])),
        Answer::Accepted
    );
    cluster.hang_up(&one);
    let offers = cluster.offers(&other);
    let order: Vec<_> = offers
        .iter()
        .map(|offer| figures(offer.locality.as_ref()).unwrap())
        .collect();
    assert_eq!(order, [(9, 9), (7, 9), (5, 9), (1, 9)]);
    // The next request replaces it.
    cluster.call(&other, request(Vec::new()));
    cluster.call(&other, decline(&offers, Some(0.0)));
    let offers = cluster.offers(&other);
    assert_eq!(offers.len(), 4);
    assert!(offers.iter().all(|offer| offer.locality.is_none()));
}

#[test]
fn the_ranking_follows_the_caches() {
    let mut cluster = Cluster::new();
    let agents: Vec<Agent> = (0..3)
        .map(|_| cluster.register(holding(Vec::new())))
        .collect();
    let one = cluster.subscribe(working_on("one", vec![by_digest('a')]));
    let offers = cluster.offers(&one);
    assert_eq!(figures(offers[0].locality.as_ref()), Some((0, 0)));
    tell(&mut cluster, &agents[1], vec![artifact('a', 3)], Vec::new());
    cluster.advance(Duration::from_millis(200));
    cluster.call(&one, decline(&offers, Some(0.0)));
    let offers = cluster.offers(&one);
    assert_eq!(offers[0].agent_id.value, agents[1].id);
    assert_eq!(figures(offers[1].locality.as_ref()), Some((0, 3)));
}

#[test]
fn data_sets_that_are_not_for_a_role_do_not_count_for_it() {
    let mut cluster = Cluster::new();
    cluster.register(holding(vec![dataset("set", 70, &["eng"])]));
    let in_role = |role: &str| v1::FrameworkInfo {
        role: Some(role.to_owned()),
        ..working_on(role, vec![by_name("set")])
    };
    for (role, bytes) in [("ops", 0), ("eng/web", 70), ("engine", 0)] {
        let scheduler = cluster.subscribe(in_role(role));
        let offers = cluster.offers(&scheduler);
        assert_eq!(
            figures(offers[0].locality.as_ref()),
            Some((bytes, bytes)),
            "{role}"
        );
        cluster.call(&scheduler, plain(call::Type::Teardown));
        cluster.settle();
    }
}

#[test]
fn inputs_that_say_nothing_are_refused_where_they_stand_and_passed_over_where_they_are_wished() {
    let mut cluster = Cluster::new();
    cluster.register(holding(vec![artifact('a', 1)]));
    let short = Wanted {
        sha256: Some("abc".to_owned()),
        dataset: None,
    };
    for inputs in [
        vec![Wanted::default()],
        vec![short.clone()],
        vec![by_digest('a'); 65],
    ] {
        let (_, scheduler) = cluster.subscribe_call(working_on("f", inputs));
        let events = cluster.events(&scheduler);
        let error = events[0].error.as_ref().unwrap();
        assert!(error.message.contains("FrameworkInfo.inputs"), "{error:?}");
    }
    let scheduler = cluster.subscribe(info("f"));
    let many = vec![by_digest('a'), short, Wanted::default()];
    assert_eq!(cluster.call(&scheduler, request(many)), Answer::Accepted);
    let offers = cluster.offers(&scheduler);
    assert_eq!(figures(offers[0].locality.as_ref()), Some((1, 1)));
}

#[test]
fn an_agent_that_tells_too_much_or_nonsense_is_heard_in_part() {
    let mut cluster = Cluster::new();
    let many = (0..5000).map(|number| Holding {
        name: format!("{number:064}"),
        ..artifact('a', 1)
    });
    let agent = cluster.register(holding(many.collect()));
    let nonsense = vec![
        Holding::default(),
        Holding {
            name: "x".repeat(1000),
            ..artifact('a', 1)
        },
    ];
    tell(&mut cluster, &agent, nonsense, Vec::new());
    let view = cluster.view();
    let (_, record) = view.agents.iter().next().unwrap();
    assert_eq!(record.inventory.iter().count(), 4096);
    // Before an agent is registered it has nothing to tell.
    let stranger = LinkKey(cluster.number());
    let told = link::Holdings::default();
    cluster.from(stranger, to_master::Body::Holdings(told));
}

#[test]
fn a_task_is_refused_where_its_data_set_is_not_and_told_where_it_is() {
    let mut cluster = Cluster::new();
    let without = cluster.register(holding(Vec::new()));
    let with = cluster.register(holding(vec![dataset("set", 70, &["eng"])]));
    let in_role = |role: &str| v1::FrameworkInfo {
        role: Some(role.to_owned()),
        ..info(role)
    };
    let reads = |offer: &v1::Offer, id: &str, names: &[&str]| {
        let names = names.iter().map(|name| tepui_api::ext::Dataset {
            name: (*name).to_owned(),
            path: None,
        });
        v1::TaskInfo {
            datasets: names.collect(),
            ..task(offer, id, "cpus:1;mem:64")
        }
    };
    let cases = [
        (
            "eng",
            &without,
            &["set"][..],
            Some("which agent m0-S0 does not have; it is on host (m0-S1)"),
        ),
        ("eng", &with, &["nothing"], Some("no agent has it")),
        ("ops", &with, &["set"], Some("is not for the role 'ops'")),
        ("eng", &with, &["set", "set"], Some("twice")),
        ("eng/web", &with, &["set"], None),
    ];
    for (role, agent, names, expected) in cases {
        let scheduler = cluster.subscribe(in_role(role));
        let offers = cluster.offers(&scheduler);
        let offer = offers
            .into_iter()
            .find(|offer| offer.agent_id.value == agent.id)
            .unwrap();
        let launched = reads(&offer, "t", names);
        cluster.launch(&scheduler, &[offer], vec![launched]);
        let statuses = cluster.statuses(&scheduler);
        match expected {
            Some(expected) => {
                assert_eq!(statuses[0].state(), v1::TaskState::TaskError);
                let message = statuses[0].message();
                assert!(message.contains(expected), "{message}");
            }
            None => {
                assert!(statuses.is_empty(), "{statuses:?}");
                assert_eq!(cluster.view().tasks.values().count(), 1);
            }
        }
        cluster.call(&scheduler, plain(call::Type::Teardown));
        cluster.settle();
    }
}
