//! Resources and attributes between the wire and the model.

#![allow(
    clippy::unwrap_used,
    reason = "in a test that is a failure like any other"
)]

use tepui_api::convert::{
    ConvertError, ResourceFormat, attributes_from_wire, attributes_to_wire, resources_from_wire,
    resources_to_wire,
};
use tepui_api::{json, v1};
use tepui_model::{Milli, Role};

fn wire(fields: &str) -> v1::Resource {
    let text = format!(r#"{{"name":"disk","type":"SCALAR","scalar":{{"value":10}}{fields}}}"#);
    json::from_slice(text.as_bytes()).unwrap()
}

fn refusal(fields: &str) -> String {
    resources_from_wire(&[wire(fields)])
        .unwrap_err()
        .to_string()
}

const STATIC: &str = r#""reservations":[{"type":"STATIC","role":"a"}]"#;
const DYNAMIC: &str = r#""reservations":[{"type":"DYNAMIC","role":"a","principal":"p","labels":{"labels":[{"key":"k"}]}}]"#;
const OLD_DYNAMIC: &str =
    r#""role":"a","reservation":{"principal":"p","labels":{"labels":[{"key":"k"}]}}"#;
const STACK: &str =
    r#""reservations":[{"type":"STATIC","role":"a"},{"type":"DYNAMIC","role":"a/b"}]"#;

#[test]
fn the_three_formats_of_a_reservation_mean_the_same() {
    for (old, new) in [
        (r#""role":"*""#, ""),
        (r#""role":"a""#, STATIC),
        (OLD_DYNAMIC, DYNAMIC),
    ] {
        let fields = |parts: &[&str]| -> String {
            parts
                .iter()
                .filter(|part| !part.is_empty())
                .map(|part| format!(",{part}"))
                .collect()
        };
        let (of_old, _) = resources_from_wire(&[wire(&fields(&[old]))]).unwrap();
        let (of_new, _) = resources_from_wire(&[wire(&fields(&[new]))]).unwrap();
        let (of_both, _) = resources_from_wire(&[wire(&fields(&[old, new]))]).unwrap();
        assert_eq!(of_old, of_new, "{old}");
        assert_eq!(of_old, of_both, "{old}");
        assert_eq!(
            resources_to_wire(&of_old, ResourceFormat::Old, None),
            [wire(&fields(&[old]))]
        );
        assert_eq!(
            resources_to_wire(&of_old, ResourceFormat::Refined, None),
            [wire(&fields(&[new]))]
        );
        assert_eq!(
            resources_to_wire(&of_old, ResourceFormat::Endpoint, None),
            [wire(&fields(&[old, new]))]
        );
    }
}

#[test]
fn a_refined_reservation_is_a_stack_in_every_format() {
    let (resources, _) = resources_from_wire(&[wire(&format!(",{STACK}"))]).unwrap();
    for format in [
        ResourceFormat::Old,
        ResourceFormat::Refined,
        ResourceFormat::Endpoint,
    ] {
        assert_eq!(
            resources_to_wire(&resources, format, None),
            [wire(&format!(",{STACK}"))]
        );
    }
}

#[test]
fn formats_that_contradict_each_other_are_refused() {
    let inconsistent = "'role' or 'reservation' of disk say something else than its 'reservations'";
    assert_eq!(refusal(&format!(r#","role":"b",{STATIC}"#)), inconsistent);
    assert_eq!(refusal(&format!(r#","role":"*",{STATIC}"#)), inconsistent);
    assert_eq!(refusal(&format!(r#","role":"a",{DYNAMIC}"#)), inconsistent);
    assert_eq!(
        refusal(&format!(r#","role":"a","reservation":{{}},{STATIC}"#)),
        inconsistent
    );
    assert_eq!(
        refusal(&format!(r#","role":"a/b",{STACK}"#)),
        "disk has several reservations and so must have neither 'role' nor 'reservation'"
    );
}

#[test]
fn impossible_reservations_are_refused() {
    assert!(
        refusal(r#","reservation":{"principal":"p"}"#).contains("'*', which cannot be reserved")
    );
    assert!(refusal(r#","role":"a b""#).starts_with("the role of disk: "));
    assert!(refusal(r#","reservations":[{"role":"a"}]"#).contains("neither STATIC nor DYNAMIC"));
    assert!(refusal(r#","reservations":[{"type":"STATIC"}]"#).contains("has no role"));
    assert!(
        refusal(r#","reservations":[{"type":"DYNAMIC","role":"*"}]"#).contains("reserved for '*'")
    );
    assert!(
        refusal(r#","reservations":[{"type":"DYNAMIC","role":"a"},{"type":"DYNAMIC","role":"b"}]"#)
            .contains("not beneath")
    );
}

#[test]
fn amounts_are_rounded_to_thousandths_and_equal_resources_add_up() {
    let text = r#"{"name":"cpus","type":"SCALAR","scalar":{"value":0.1004}}"#;
    let cpus: v1::Resource = json::from_slice(text.as_bytes()).unwrap();
    let (resources, allocation) = resources_from_wire(&vec![cpus; 10]).unwrap();
    assert_eq!((resources.cpus(), allocation), (Milli(1000), None));
    assert_eq!(
        resources_to_wire(&resources, ResourceFormat::Refined, None).len(),
        1
    );
}

#[test]
fn values_must_fit_their_type() {
    for text in [
        r#"{"name":"x","type":"SCALAR"}"#,
        r#"{"name":"x","type":"SCALAR","ranges":{}}"#,
        r#"{"name":"x","type":"SCALAR","scalar":{"value":1},"set":{}}"#,
        r#"{"name":"x","type":"RANGES","scalar":{"value":1}}"#,
        r#"{"name":"x","type":"TEXT"}"#,
        r#"{"name":"x","type":"SCALAR","scalar":{"value":"Infinity"}}"#,
        r#"{"name":"x","type":"SCALAR","scalar":{"value":-1}}"#,
        r#"{"name":"x","type":"RANGES","ranges":{"range":[{"begin":2,"end":1}]}}"#,
        r#"{"name":"x","type":"RANGES","ranges":{"range":[{"begin":1,"end":2},{"begin":2,"end":3}]}}"#,
        r#"{"name":"x","type":"SET","set":{"item":["a","a"]}}"#,
        r#"{"name":"gpus","type":"SCALAR","scalar":{"value":0.5}}"#,
    ] {
        let resource: v1::Resource = json::from_slice(text.as_bytes()).unwrap();
        assert!(resources_from_wire(&[resource]).is_err(), "{text}");
    }
}

#[test]
fn all_kinds_of_resources_come_back_as_they_went() {
    for text in [
        r#"[{"name":"ports","type":"RANGES","ranges":{"range":[{"begin":1,"end":5},{"begin":7,"end":7}]}}]"#,
        r#"[{"name":"x","type":"SET","set":{"item":["a","b"]}}]"#,
        r#"[{"name":"cpus","type":"SCALAR","scalar":{"value":1.5},"revocable":{}}]"#,
        r#"[{"name":"disk","type":"SCALAR","scalar":{"value":9.0},"reservations":[{"type":"STATIC","role":"a"}],"shared":{},"provider_id":{"value":"rp"},
            "disk":{"persistence":{"id":"v","principal":"p"},"volume":{"container_path":"data","mode":"RW"},"source":{"type":"PATH","path":{"root":"/d"},"id":"i","profile":"fast"}}}]"#,
        r#"[{"name":"disk","type":"SCALAR","scalar":{"value":9.0},"disk":{"source":{"type":"MOUNT","mount":{"root":"/m"}}}}]"#,
        r#"[{"name":"disk","type":"SCALAR","scalar":{"value":9.0},"disk":{"source":{"type":"RAW","vendor":"w"}}}]"#,
    ] {
        let offer = format!(r#"{{"resources":{text}}}"#);
        let wire: v1::Request = json::from_slice(offer.as_bytes()).unwrap();
        let (resources, _) = resources_from_wire(&wire.resources).unwrap();
        assert_eq!(
            resources_to_wire(&resources, ResourceFormat::Refined, None),
            wire.resources,
            "{text}"
        );
    }
}

#[test]
fn the_role_of_the_allocation_is_told_apart_from_the_resources() {
    let allocated = |role: &str| wire(&format!(r#","allocation_info":{{"role":"{role}"}}"#));
    let (resources, allocation) =
        resources_from_wire(&[allocated("a"), wire(""), allocated("a")]).unwrap();
    assert_eq!(resources.disk(), Milli::from_units(30));
    assert_eq!(allocation, Some(Role::parse("a").unwrap()));
    assert!(matches!(
        resources_from_wire(&[allocated("a"), allocated("b")]),
        Err(ConvertError::TwoAllocations { .. })
    ));
    let written = resources_to_wire(&resources, ResourceFormat::Refined, allocation.as_ref());
    assert_eq!(written[0].allocation_info.as_ref().unwrap().role(), "a");
}

#[test]
fn attributes_come_back_as_they_went() {
    let text = r#"{"hostname":"h","attributes":[{"name":"rack","type":"TEXT","text":{"value":"r"}},{"name":"level","type":"SCALAR","scalar":{"value":10.5}},{"name":"keys","type":"RANGES","ranges":{"range":[{"begin":1,"end":2}]}}]}"#;
    let agent: v1::AgentInfo = json::from_slice(text.as_bytes()).unwrap();
    let attributes = attributes_from_wire(&agent.attributes).unwrap();
    assert_eq!(attributes_to_wire(&attributes), agent.attributes);
    let set: v1::Attribute =
        json::from_slice(br#"{"name":"s","type":"SET","set":{"item":["a"]}}"#).unwrap();
    assert_eq!(
        attributes_from_wire(&[set]).unwrap_err().to_string(),
        "s has the type SET, which is not allowed here"
    );
}
