//! What the reader forgives and what it does not, case by case, and the details of the writer.

use tepui_api::v1::scheduler::Call;
use tepui_api::{json, v1};

fn read<M: json::Json>(text: &str) -> M {
    json::from_slice(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refusal<M: json::Json>(text: &str) -> String {
    json::from_slice::<M>(text.as_bytes())
        .err()
        .unwrap_or_else(|| panic!("{text} was read"))
        .to_string()
}

#[test]
fn unknown_fields_are_ignored() {
    assert_eq!(
        read::<v1::TaskId>(r#"{"value":"t","slave_id":{"a":[1]}}"#).value,
        "t"
    );
}

#[test]
fn null_means_unset_for_all_kinds_of_fields() {
    let info: v1::FrameworkInfo = read(
        r#"{"user":"u","name":"n","id":null,"roles":null,"checkpoint":null,"offer_filters":null,"capabilities":[null]}"#,
    );
    assert_eq!(
        info,
        v1::FrameworkInfo {
            user: "u".into(),
            name: "n".into(),
            ..Default::default()
        }
    );
}

#[test]
fn null_in_a_required_field_is_a_missing_field() {
    assert_eq!(
        refusal::<v1::TaskId>(r#"{"value":null}"#),
        "Missing required fields: value"
    );
}

#[test]
fn numbers_may_be_spelt_as_texts() {
    assert_eq!(
        read::<v1::TimeInfo>(r#"{"nanoseconds":"12"}"#).nanoseconds,
        12
    );
    assert_eq!(
        read::<v1::TimeInfo>(r#"{"nanoseconds":"1.5"}"#).nanoseconds,
        1
    );
    assert_eq!(read::<v1::value::Scalar>(r#"{"value":"1.5"}"#).value, 1.5);
    assert_eq!(
        read::<v1::value::Scalar>(r#"{"value":"Infinity"}"#).value,
        f64::INFINITY
    );
    assert_eq!(
        read::<v1::value::Scalar>(r#"{"value":"-Infinity"}"#).value,
        f64::NEG_INFINITY
    );
}

#[test]
fn texts_that_are_no_numbers_are_refused() {
    for text in ["", "x", "inf", "NaN", "nan", "1e999", "0x10", "1 2", "--1"] {
        let body = format!(r#"{{"value":"{text}"}}"#);
        assert!(
            refusal::<v1::value::Scalar>(&body).starts_with("value: '"),
            "{text}"
        );
        let body = format!(r#"{{"nanoseconds":"{text}"}}"#);
        assert!(
            refusal::<v1::TimeInfo>(&body).starts_with("nanoseconds: '"),
            "{text}"
        );
    }
}

#[test]
fn fractions_and_exponents_are_cut_to_integers() {
    assert_eq!(
        read::<v1::TimeInfo>(r#"{"nanoseconds":3.6e+06}"#).nanoseconds,
        3_600_000
    );
    assert_eq!(
        read::<v1::TimeInfo>(r#"{"nanoseconds":-2.9}"#).nanoseconds,
        -2
    );
    assert_eq!(
        read::<v1::value::Range>(r#"{"begin":1.0,"end":18446744073709551615}"#).end,
        u64::MAX
    );
}

#[test]
fn numbers_out_of_range_are_refused() {
    assert_eq!(
        refusal::<v1::value::Range>(r#"{"begin":-1,"end":2}"#),
        "begin: the number -1 does not fit an unsigned 64-bit integer"
    );
    assert!(
        refusal::<v1::TimeInfo>(r#"{"nanoseconds":1e30}"#)
            .starts_with("nanoseconds: the number 1e")
    );
    assert!(
        refusal::<v1::Address>(r#"{"port":2147483648}"#).contains("does not fit a 32-bit integer")
    );
}

#[test]
fn booleans_may_be_spelt_as_texts_but_not_as_numbers() {
    let read_checkpoint = |text: &str| read::<v1::FrameworkInfo>(text).checkpoint;
    assert_eq!(
        read_checkpoint(r#"{"user":"","name":"","checkpoint":"true"}"#),
        Some(true)
    );
    assert_eq!(
        read_checkpoint(r#"{"user":"","name":"","checkpoint":"false"}"#),
        Some(false)
    );
    assert_eq!(
        refusal::<v1::FrameworkInfo>(r#"{"user":"","name":"","checkpoint":1}"#),
        "checkpoint: expected a boolean, found a number"
    );
}

#[test]
fn an_unknown_enum_name_is_dropped_where_the_field_may_be_unset() {
    assert_eq!(read::<Call>(r#"{"type":"FLY"}"#).r#type, None);
    assert_eq!(read::<Call>(r#"{"type":"subscribe"}"#).r#type, None);
    let services: v1::CsiPluginContainerInfo = read(r#"{"services":["NEW","NODE_SERVICE"]}"#);
    assert_eq!(
        services.services,
        [v1::csi_plugin_container_info::Service::NodeService as i32]
    );
}

#[test]
fn an_unknown_enum_name_is_an_error_where_the_field_is_required() {
    assert_eq!(
        refusal::<v1::TaskStatus>(r#"{"task_id":{"value":"t"},"state":"TASK_FLYING"}"#),
        "state: 'TASK_FLYING' is not one of the names known for this field"
    );
}

#[test]
fn an_enum_as_a_number_is_an_error() {
    assert_eq!(
        refusal::<Call>(r#"{"type":1}"#),
        "type: expected the name of an enum value, found a number"
    );
}

#[test]
fn one_value_counts_as_a_list_of_one() {
    let info: v1::FrameworkInfo =
        read(r#"{"user":"","name":"","roles":"a","capabilities":{"type":"MULTI_ROLE"}}"#);
    assert_eq!(info.roles, ["a"]);
    assert_eq!(info.capabilities.len(), 1);
}

#[test]
fn a_list_for_a_single_value_is_an_error() {
    assert_eq!(
        refusal::<v1::TaskId>(r#"{"value":["t"]}"#),
        "value: expected a string, found an array"
    );
    assert_eq!(
        refusal::<Call>(r#"{"subscribe":[]}"#),
        "subscribe: expected an object, found an array"
    );
    assert_eq!(
        refusal::<v1::value::Set>(r#"{"item":[["a"]]}"#),
        "item[0]: expected a string, found an array"
    );
}

#[test]
fn an_error_names_the_place_it_is_about() {
    assert_eq!(
        refusal::<Call>(
            r#"{"type":"ACCEPT","accept":{"operations":[{"type":"LAUNCH","launch":7}]}}"#
        ),
        "accept.operations[0].launch: expected an object, found a number"
    );
    assert_eq!(
        refusal::<v1::TaskInfo>(
            r#"{"name":"","task_id":{"value":""},"agent_id":{"value":""},"limits":{"cpus":0.5}}"#
        ),
        "limits[cpus]: expected an object, found a number"
    );
}

#[test]
fn all_missing_fields_are_named_at_once() {
    assert_eq!(
        refusal::<Call>(
            r#"{"type":"ACCEPT","accept":{"offer_ids":[{}],"operations":[{"launch":{"task_infos":[{"name":"n","resources":[{}]}]}}]}}"#
        ),
        "Missing required fields: accept.offer_ids[0].value, accept.operations[0].launch.task_infos[0].task_id, \
         accept.operations[0].launch.task_infos[0].agent_id, \
         accept.operations[0].launch.task_infos[0].resources[0].name, \
         accept.operations[0].launch.task_infos[0].resources[0].type"
    );
}

#[test]
fn strings_are_strings_only() {
    assert_eq!(
        refusal::<v1::TaskId>(r#"{"value":7}"#),
        "value: expected a string, found a number"
    );
    assert_eq!(
        refusal::<v1::TaskId>(r#"{"value":true}"#),
        "value: expected a string, found a boolean"
    );
    assert_eq!(
        refusal::<v1::TaskId>(r#"{"value":{}}"#),
        "value: expected a string, found an object"
    );
}

#[test]
fn bytes_are_base64_with_or_without_padding() {
    for text in ["/w==", "/w", " /w= =\\n"] {
        assert_eq!(
            &read::<v1::Uuid>(&format!(r#"{{"value":"{text}"}}"#)).value[..],
            [0xff],
            "{text}"
        );
    }
    assert_eq!(
        refusal::<v1::Uuid>(r#"{"value":"?"}"#),
        "value: '?' is not base64"
    );
    assert_eq!(
        json::to_string(&v1::Uuid {
            value: vec![0xff].into()
        }),
        r#"{"value":"/w=="}"#
    );
}

#[test]
fn the_body_must_be_an_object() {
    for text in ["[]", "null", "7", "\"x\""] {
        assert_eq!(refusal::<Call>(text), "the body must be a JSON object");
    }
    for text in ["", "{", "{}x", "{\"a\":1e999}", "\u{feff}{}"] {
        assert!(
            refusal::<Call>(text).starts_with("Failed to parse body into JSON: "),
            "{text}"
        );
    }
}

#[test]
fn nesting_without_end_is_an_error() {
    let ignored = format!("{{\"x\":{}", "[".repeat(1_000_000));
    assert!(refusal::<Call>(&ignored).contains("recursion limit"));
    let parents = format!("{}{}", r#"{"value":"c","parent":"#.repeat(100_000), "{}");
    assert!(refusal::<v1::ContainerId>(&parents).contains("recursion limit"));
}

#[test]
fn durations_are_objects_and_not_texts() {
    let drain: v1::master::call::DrainAgent =
        read(r#"{"agent_id":{"value":"a"},"max_grace_period":{"seconds":600}}"#);
    let text = r#"{"agent_id":{"value":"a"},"max_grace_period":{"seconds":600,"nanos":0},"mark_gone":false}"#;
    assert_eq!(
        json::to_value(&drain),
        serde_json::from_str::<serde_json::Value>(text).unwrap()
    );
    assert_eq!(
        refusal::<v1::master::call::DrainAgent>(
            r#"{"agent_id":{"value":"a"},"max_grace_period":"10mins"}"#
        ),
        "max_grace_period: expected an object, found a string"
    );
}

#[test]
fn explicit_defaults_are_written_unless_deprecated() {
    let info = v1::FrameworkInfo {
        user: "u".into(),
        name: "n".into(),
        ..Default::default()
    };
    assert_eq!(
        json::to_string(&info),
        r#"{"user":"u","name":"n","failover_timeout":0.0,"checkpoint":false}"#
    );
    assert_eq!(
        json::to_string(&v1::Filters::default()),
        r#"{"refuse_seconds":5.0}"#
    );
    assert_eq!(
        json::to_string(&v1::CommandInfo::default()),
        r#"{"shell":true}"#
    );
    let info = v1::FrameworkInfo {
        role: Some("*".into()),
        ..info
    };
    assert!(json::to_string(&info).contains(r#""role":"*""#));
}

#[test]
fn what_is_empty_is_omitted_and_numbers_without_names_are_dropped() {
    assert_eq!(json::to_string(&v1::TaskGroupInfo::default()), "{}");
    assert_eq!(
        json::to_string(&Call {
            r#type: Some(999),
            ..Default::default()
        }),
        "{}"
    );
    let address = v1::network_info::IpAddress {
        protocol: Some(999),
        ..Default::default()
    };
    assert_eq!(json::to_string(&address), r#"{"protocol":"IPv4"}"#);
}

#[test]
fn doubles_keep_their_point_and_infinities_are_quoted() {
    let text = |value| json::to_string(&v1::value::Scalar { value });
    assert_eq!(text(15.0), r#"{"value":15.0}"#);
    assert_eq!(text(0.1), r#"{"value":0.1}"#);
    assert_eq!(text(f64::INFINITY), r#"{"value":"Infinity"}"#);
    assert_eq!(text(f64::NEG_INFINITY), r#"{"value":"-Infinity"}"#);
}

#[test]
fn sixty_four_bits_are_plain_numbers() {
    assert_eq!(
        json::to_string(&v1::TimeInfo {
            nanoseconds: i64::MIN
        }),
        r#"{"nanoseconds":-9223372036854775808}"#
    );
}

#[test]
fn text_beyond_ascii_is_escaped() {
    let text = json::to_string(&v1::TaskId {
        value: "é🦀\"\\\n\u{1}/".to_owned(),
    });
    assert_eq!(text, r#"{"value":"\u00e9\ud83e\udd80\"\\\n\u0001/"}"#);
    assert_eq!(read::<v1::TaskId>(&text).value, "é🦀\"\\\n\u{1}/");
}

#[test]
fn the_fields_of_a_oneof_stand_beside_the_others() {
    use v1::scheduler::attribute_constraint::{Predicate, Selector, predicate, selector};

    let selector: Selector = read(r#"{"attribute_name":"rack"}"#);
    assert_eq!(
        selector.selector,
        Some(selector::Selector::AttributeName("rack".into()))
    );
    let selector: Selector = read(r#"{"pseudoattribute_type":"HOSTNAME"}"#);
    assert_eq!(
        json::to_string(&selector),
        r#"{"pseudoattribute_type":"HOSTNAME"}"#
    );
    let predicate: Predicate = read(r#"{"text_equals":{"value":"a"}}"#);
    assert!(matches!(
        predicate.predicate,
        Some(predicate::Predicate::TextEquals(_))
    ));
    assert_eq!(
        refusal::<Predicate>(r#"{"text_matches":{}}"#),
        "Missing required fields: text_matches.regex"
    );
}
