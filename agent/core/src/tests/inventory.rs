//! What the master is told of what lies on the agent's disk.

use tepui_api::ext::Holding;
use tepui_api::ext::holding::Kind;
use tepui_api::link::to_master;

use super::harness::*;
use crate::inventory::MOST_TOLD;
use crate::{Effect, Input, Recovered};

fn holding(kind: Kind, name: &str, bytes: u64) -> Holding {
    Holding {
        kind: kind.into(),
        name: name.to_owned(),
        bytes: Some(bytes),
        roles: Vec::new(),
    }
}

/// What was told: `+name` for what is held, `-name` for what is gone.
fn told(effects: &[Effect]) -> Vec<String> {
    let bodies = to_master(effects).into_iter();
    let holdings = bodies.filter_map(|body| match body {
        to_master::Body::Holdings(holdings) => Some(holdings),
        _ => None,
    });
    let mut names = Vec::new();
    for told in holdings {
        names.extend(told.held.iter().map(|held| format!("+{}", held.name)));
        names.extend(told.gone.iter().map(|gone| format!("-{}", gone.name)));
    }
    names
}

fn held(held: Vec<Holding>, gone: Vec<Holding>) -> Input {
    Input::Held { held, gone }
}

#[test]
fn changes_are_told_once_and_all_of_it_with_each_registration() {
    let mut agent = Agent::new(Recovered::default());
    let (a, b) = (
        holding(Kind::Artifact, "a", 1),
        holding(Kind::Dataset, "b", 2),
    );
    assert!(agent.apply(held(vec![a.clone()], Vec::new())).is_empty());
    let register = registration(&agent.apply(Input::LinkUp));
    assert_eq!(register.holdings, std::slice::from_ref(&a));
    // Also while the registration waits for its answer.
    let effects = agent.apply(held(vec![b.clone(), a.clone()], Vec::new()));
    assert_eq!(told(&effects), ["+b"]);
    agent.answer_registration();
    let larger = holding(Kind::Dataset, "b", 3);
    let effects = agent.apply(held(vec![larger.clone()], vec![a]));
    assert_eq!(told(&effects), ["+b", "-a"]);
    assert!(agent.apply(held(vec![larger.clone()], vec![])).is_empty());
    agent.apply(Input::LinkDown);
    let c = holding(Kind::Compiled, "c", 4);
    assert!(agent.apply(held(vec![c.clone()], Vec::new())).is_empty());
    let register = registration(&agent.apply(Input::LinkUp));
    assert_eq!(register.holdings, [c, larger]);
}

#[test]
fn of_too_much_the_data_sets_and_the_largest_are_told() {
    let mut agent = Agent::registered();
    let many = (0..MOST_TOLD as u64).map(|number| {
        let name = format!("f{number:04}");
        holding(Kind::Artifact, &name, 1000 + number)
    });
    let effects = agent.apply(held(many.collect(), Vec::new()));
    assert_eq!(told(&effects).len(), MOST_TOLD);
    let small = vec![
        holding(Kind::Dataset, "set", 1),
        holding(Kind::Artifact, "tiny", 1),
    ];
    assert_eq!(
        told(&agent.apply(held(small, Vec::new()))),
        ["+set", "-f0000"]
    );
    let gone = vec![holding(Kind::Artifact, "f0500", 0)];
    assert_eq!(
        told(&agent.apply(held(Vec::new(), gone))),
        ["+f0000", "-f0500"]
    );
}
