//! Calls under limits: who makes more than a principal may is served later, and who lets too many wait is told so.

use std::time::Duration;

use tepui_api::v1;
use tepui_api::v1::scheduler::{call, event};

use super::harness::*;
use crate::{Answer, CallCounts, CallLimit, CallLimits};

fn of(principal: &str, name: &str) -> v1::FrameworkInfo {
    v1::FrameworkInfo {
        principal: Some(principal.to_owned()),
        ..info(name)
    }
}

/// Two calls a second of ann's, of which three may wait; one a second of all that are not named; bob as he likes.
fn limited() -> Cluster {
    let limit = |qps, capacity| CallLimit { qps, capacity };
    let principals = [
        ("ann".to_owned(), limit(Some(2.0), Some(3))),
        ("bob".to_owned(), limit(None, None)),
    ];
    Cluster::with(|config| {
        config.call_limits = CallLimits {
            principals: principals.into(),
            others: limit(Some(1.0), None),
        };
    })
}

fn counts(cluster: &Cluster, principal: &str) -> (u64, u64) {
    let CallCounts {
        received,
        processed,
    } = cluster.view().calls[principal];
    (received, processed)
}

#[test]
fn calls_above_the_rate_have_their_turn_later_and_in_order() {
    let mut cluster = limited();
    let scheduler = cluster.subscribe(of("ann", "one"));
    let revive = |cluster: &mut Cluster| cluster.ask(&scheduler, plain(call::Type::Revive));
    let first = revive(&mut cluster);
    let second = revive(&mut cluster);
    let third = revive(&mut cluster);
    assert_eq!(cluster.answered(first), Some(Answer::Accepted));
    assert_eq!(
        (cluster.answered(second), cluster.answered(third)),
        (None, None)
    );
    assert_eq!(counts(&cluster, "ann"), (3, 1));
    cluster.advance(Duration::from_millis(499));
    assert_eq!(cluster.answered(second), None);
    cluster.advance(Duration::from_millis(1));
    assert_eq!(cluster.answered(second), Some(Answer::Accepted));
    assert_eq!(cluster.answered(third), None);
    cluster.advance(Duration::from_millis(500));
    assert_eq!(cluster.answered(third), Some(Answer::Accepted));
    assert_eq!(counts(&cluster, "ann"), (3, 3));
    // A pause does not make up for a burst.
    cluster.advance(Duration::from_secs(60));
    let (one, two) = (revive(&mut cluster), revive(&mut cluster));
    assert_eq!(cluster.answered(one), Some(Answer::Accepted));
    assert_eq!(cluster.answered(two), None);
}

#[test]
fn a_call_beyond_what_may_wait_is_an_error() {
    let mut cluster = limited();
    let scheduler = cluster.subscribe(of("ann", "one"));
    cluster.events(&scheduler);
    let mut asked = Vec::new();
    for _ in 0..4 {
        asked.push(cluster.ask(&scheduler, plain(call::Type::Revive)));
    }
    let dropped = cluster.call(&scheduler, plain(call::Type::Suppress));
    let message = "Message SUPPRESS dropped: capacity(3) exceeded";
    assert_eq!(refusal(&dropped), (429, message));
    assert_eq!(cluster.view().counters["master/dropped_messages"], 1);
    let events = cluster.events(&scheduler);
    let error = events
        .iter()
        .find(|event| event.r#type() == event::Type::Error)
        .unwrap();
    assert_eq!(error.error.as_ref().unwrap().message, message);
    // The others keep their places, and there is room again as they are served.
    cluster.advance(Duration::from_millis(500));
    assert_eq!(cluster.answered(asked[1]), Some(Answer::Accepted));
    let last = cluster.ask(&scheduler, plain(call::Type::Revive));
    cluster.advance(Duration::from_millis(1500));
    assert_eq!(cluster.answered(last), Some(Answer::Accepted));
}

#[test]
fn principals_that_are_not_named_share_one_limit_and_others_have_none() {
    let mut cluster = limited();
    let bob = cluster.subscribe(of("bob", "bobs"));
    for _ in 0..100 {
        assert_eq!(
            cluster.call(&bob, plain(call::Type::Revive)),
            Answer::Accepted
        );
    }
    let eve = cluster.subscribe(of("eve", "eves"));
    let nobody = cluster.subscribe(info("nobodys"));
    let first = cluster.ask(&eve, plain(call::Type::Revive));
    let second = cluster.ask(&nobody, plain(call::Type::Revive));
    assert_eq!(cluster.answered(first), Some(Answer::Accepted));
    assert_eq!(cluster.answered(second), None);
    cluster.advance(Duration::from_secs(1));
    assert_eq!(cluster.answered(second), Some(Answer::Accepted));
}

#[test]
fn a_call_that_waited_for_too_long_is_answered_by_what_became_of_its_framework() {
    let mut cluster = limited();
    let scheduler = cluster.subscribe(of("ann", "one"));
    cluster.call(&scheduler, plain(call::Type::Revive));
    let waiting = cluster.ask(&scheduler, plain(call::Type::Revive));
    cluster.hang_up(&scheduler);
    cluster.advance(Duration::from_millis(500));
    let answer = cluster.answered(waiting).unwrap();
    assert!(matches!(refusal(&answer).0, 400 | 403), "{answer:?}");
    assert_eq!(counts(&cluster, "ann"), (2, 1));
    cluster.advance(Duration::from_secs(101));
    assert!(
        cluster.view().calls.is_empty(),
        "nobody of that principal is left"
    );
}
