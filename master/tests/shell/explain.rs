//! Why a framework is offered nothing, over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tepui_access::Acls;
use tepui_api::v1;
use tepui_api::v1::scheduler::{Call, call, event};

use crate::support::{FakeAgent, JSON, Subscription, get, master, master_with, send, soon};

fn subscribe(name: &str, user: &str, role: &str) -> String {
    let info = json!({
        "name": name, "user": user, "roles": [role], "capabilities": [{ "type": "MULTI_ROLE" }],
    });
    json!({ "type": "SUBSCRIBE", "subscribe": { "framework_info": info } }).to_string()
}

async fn explain(at: SocketAddr, query: &str) -> Value {
    let response = get(at, &format!("/api/v1/tepui/explain?{query}")).await;
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

/// The reasons of the first role of the first framework, each with how many agents it holds for.
fn reasons(answer: &Value) -> Vec<(String, u64)> {
    let agents = answer["frameworks"][0]["roles"][0]["agents"].as_array();
    let reasons = agents.unwrap().iter().map(|group| {
        let reason = group["reason"].as_str().unwrap().to_owned();
        (reason, group["count"].as_u64().unwrap())
    });
    reasons.collect()
}

async fn change(at: SocketAddr, call: &Value) {
    let response = send(at, "POST", "/api/v1", &[JSON], call.to_string().as_bytes()).await;
    assert_eq!(response.status, 200, "{}", response.text());
}

async fn decline(at: SocketAddr, scheduler: &Subscription, offers: &[v1::Offer], seconds: f64) {
    let decline = Call {
        r#type: Some(call::Type::Decline.into()),
        decline: Some(call::Decline {
            offer_ids: offers.iter().map(|offer| offer.id.clone()).collect(),
            filters: Some(v1::Filters {
                refuse_seconds: Some(seconds),
            }),
        }),
        ..Call::default()
    };
    assert_eq!(scheduler.call(at, decline).await.status, 202);
}

async fn offers(scheduler: &mut Subscription) -> Vec<v1::Offer> {
    let event = scheduler.wait_for(event::Type::Offers).await;
    event.offers.unwrap().offers
}

#[tokio::test]
async fn a_framework_is_told_who_has_what_it_waits_for_and_what_it_refuses_itself() {
    let master = master().await;
    let at = master.running.address();
    let mut holder = Subscription::open(at, &subscribe("holder", "root", "a")).await;
    let (_first, first_id) = FakeAgent::register(at).await;
    let held = offers(&mut holder).await;
    let mut waiting = Subscription::open(at, &subscribe("waiting", "root", "eng/web")).await;
    let id = waiting.framework_id.value.clone();

    let answer = explain(at, &format!("framework={id}")).await;
    assert_eq!(reasons(&answer), [("IN_OFFERS".to_owned(), 1)]);
    let group = &answer["frameworks"][0]["roles"][0]["agents"][0];
    let text = group["text"].as_str().unwrap();
    assert!(
        text.contains("'holder'") && text.contains("role 'a'"),
        "{text}"
    );
    assert_eq!(group["examples"][0]["agent_id"], first_id.value);
    let framework = &answer["frameworks"][0];
    assert_eq!(framework["share"], 0.0);
    assert_eq!(framework["fair_share"], 0.5);
    assert_eq!(framework["share_deficit"], 0.5);
    let path = framework["roles"][0]["path"].as_array().unwrap();
    let path: Vec<&str> = path
        .iter()
        .map(|level| level["role"].as_str().unwrap())
        .collect();
    assert_eq!(path, ["eng/web", "eng"]);

    let answer = explain(at, "framework=holder").await;
    assert_eq!(reasons(&answer), [("OFFERED".to_owned(), 1)]);
    assert_eq!(answer["frameworks"][0]["offers"]["count"], 1);
    assert_eq!(answer["frameworks"][0]["unoffered_secs"], Value::Null);

    decline(at, &holder, &held, 1000.0).await;
    let own = offers(&mut waiting).await;
    decline(at, &waiting, &own, 1000.0).await;
    let answer = explain(at, &format!("framework={id}")).await;
    assert_eq!(reasons(&answer), [("REFUSED".to_owned(), 1)]);
    let refusals = &answer["frameworks"][0]["refusals"];
    assert_eq!(refusals["agents"], 1);
    let left = refusals["examples"][0]["secs_left"].as_f64().unwrap();
    assert!(left > 900.0 && left <= 1000.0, "{left}");

    // A role is asked about with those beneath it.
    let answer = explain(at, "role=eng").await;
    assert_eq!(answer["path"][0]["role"], "eng");
    assert_eq!(answer["frameworks"][0]["name"], "waiting");
    assert_eq!(answer["frameworks"].as_array().unwrap().len(), 1);

    let suppress = Call {
        r#type: Some(call::Type::Suppress.into()),
        suppress: Some(call::Suppress::default()),
        ..Call::default()
    };
    assert_eq!(waiting.call(at, suppress).await.status, 202);
    let answer = explain(at, &format!("framework={id}")).await;
    assert_eq!(reasons(&answer), [("NOT_ASKING".to_owned(), 1)]);
    assert_eq!(answer["frameworks"][0]["roles"][0]["suppressed"], true);
}

#[tokio::test]
async fn quotas_and_what_an_operator_does_to_an_agent_are_told() {
    let master = master().await;
    let at = master.running.address();
    let quota = json!({ "type": "UPDATE_QUOTA", "update_quota": { "quota_configs": [
        { "role": "eng", "limits": { "cpus": { "value": 0 }, "mem": { "value": 0 } } },
    ]}});
    change(at, &quota).await;
    let (_agent, agent_id) = FakeAgent::register(at).await;
    let scheduler = Subscription::open(at, &subscribe("web", "root", "eng/web")).await;
    let id = &scheduler.framework_id.value;
    let answer = explain(at, &format!("framework={id}")).await;
    let role = &answer["frameworks"][0]["roles"][0];
    assert_eq!(reasons(&answer), [("QUOTA_LIMIT".to_owned(), 1)], "{role}");
    let text = role["agents"][0]["text"].as_str().unwrap();
    assert!(text.contains("role 'eng' limits cpus to 0"), "{text}");
    assert_eq!(role["path"][1]["quota"]["head_room"]["cpus"], 0.0);

    let call = json!({ "type": "DEACTIVATE_AGENT", "deactivate_agent": {
        "agent_id": { "value": agent_id.value },
    }});
    change(at, &call).await;
    let answer = explain(at, &format!("framework={id}")).await;
    assert_eq!(reasons(&answer), [("AGENT_DEACTIVATED".to_owned(), 1)]);
}

#[tokio::test]
async fn starvation_is_a_figure_of_each_framework() {
    let master = master().await;
    let at = master.running.address();
    let mut holder = Subscription::open(at, &subscribe("holder", "root", "a")).await;
    let (_agent, _) = FakeAgent::register(at).await;
    offers(&mut holder).await;
    let starving = Subscription::open(at, &subscribe("starving", "root", "b")).await;
    let name = |what: &str| {
        let id = &starving.framework_id.value;
        format!("master/frameworks/starving.{id}/allocation/{what}")
    };
    let figures = get(at, "/metrics/snapshot").await.json();
    assert_eq!(figures[name("share_deficit")], 0.5);
    soon("time to pass", async {
        let waited = async || {
            let figures = get(at, "/metrics/snapshot").await.json();
            figures[name("unoffered_secs")].as_f64().unwrap()
        };
        while waited().await == 0.0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    let id = &holder.framework_id.value;
    let held = format!("master/frameworks/holder.{id}/allocation/unoffered_secs");
    assert_eq!(get(at, "/metrics/snapshot").await.json()[held], 0.0);
}

#[tokio::test]
async fn questions_that_make_no_sense_are_refused() {
    let master = master().await;
    let at = master.running.address();
    for (query, status, words) in [
        ("", 400, "either 'framework'"),
        ("framework=a&role=b", 400, "either 'framework'"),
        ("framework=nobody", 404, "no framework 'nobody'"),
        ("role=a//b", 400, "Invalid role"),
        ("role=a&agents=many", 400, "'agents'"),
    ] {
        let response = get(at, &format!("/api/v1/tepui/explain?{query}")).await;
        assert_eq!(response.status, status, "{query}");
        assert!(response.text().contains(words), "{}", response.text());
    }
    let response = send(at, "POST", "/api/v1/tepui/explain?role=a", &[], b"").await;
    assert_eq!(response.status, 405);
    let answer = explain(at, "role=nobody").await;
    assert_eq!(answer["frameworks"], json!([]));
}

/// Frameworks of alice are for nobody to see.
#[tokio::test]
async fn what_a_caller_may_not_see_is_not_explained() {
    let acls = json!({ "view_frameworks": [
        { "principals": { "type": "ANY" }, "users": { "values": ["bob"] } },
        { "principals": { "type": "ANY" }, "users": { "type": "NONE" } },
    ]});
    let acls = Acls::parse(&acls.to_string()).unwrap();
    let master = master_with(|config| config.core.acls = Arc::new(acls)).await;
    let at = master.running.address();
    let mut hidden = Subscription::open(at, &subscribe("hidden", "alice", "a")).await;
    let (_agent, _) = FakeAgent::register(at).await;
    offers(&mut hidden).await;
    let _seen = Subscription::open(at, &subscribe("seen", "bob", "b")).await;
    let response = get(at, "/api/v1/tepui/explain?framework=hidden").await;
    assert_eq!(response.status, 404);
    let answer = explain(at, "framework=seen").await;
    let text = answer["frameworks"][0]["roles"][0]["agents"][0]["text"].clone();
    assert_eq!(text, "is in open offers of another framework");
    let answer = explain(at, "role=a").await;
    assert_eq!(answer["frameworks"], json!([]));
}

#[tokio::test]
async fn what_quotas_leave_is_hidden_from_those_who_may_not_see_them() {
    let acls = json!({ "get_quotas": [
        { "principals": { "type": "NONE" }, "roles": { "values": ["secret"] } },
    ]});
    let acls = Acls::parse(&acls.to_string()).unwrap();
    let master = master_with(|config| config.core.acls = Arc::new(acls)).await;
    let at = master.running.address();
    let (_agent, _) = FakeAgent::register(at).await;
    let _waiting = Subscription::open(at, &subscribe("waiting", "root", "eng")).await;
    let role = |answer: &Value| answer["frameworks"][0]["roles"][0].clone();
    let limit = |role: &str| {
        json!({ "type": "UPDATE_QUOTA", "update_quota": { "quota_configs": [
            { "role": role, "limits": { "cpus": { "value": 1 } } },
        ]}})
    };
    change(at, &limit("eng")).await;
    let seen = role(&explain(at, "framework=waiting").await);
    assert!(
        seen["room"].is_object() && seen["room_hidden"] == false,
        "{seen}"
    );
    change(at, &limit("secret")).await;
    let hidden = role(&explain(at, "framework=waiting").await);
    assert_eq!(
        (&hidden["room"], &hidden["room_hidden"]),
        (&Value::Null, &json!(true))
    );
}
