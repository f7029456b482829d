//! Missing required fields in protobuf, where prost itself would let them pass.

#![allow(
    clippy::unwrap_used,
    reason = "in a test that is a failure like any other"
)]

use prost::Message;
use tepui_api::required::{MOST_OF_CALL, RequiredError};
use tepui_api::v1::scheduler::{Call, call};
use tepui_api::{MediaType, link, media, proto, v1};

/// A field with a length and bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

fn missing<M: Message + Default + tepui_api::required::Described + std::fmt::Debug>(
    bytes: &[u8],
) -> Vec<String> {
    match proto::from_slice::<M>(bytes) {
        Err(RequiredError::Missing(names)) => names,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_empty_body_lacks_all_required_fields() {
    assert_eq!(missing::<v1::TaskStatus>(b""), ["task_id", "state"]);
    assert_eq!(proto::from_slice::<Call>(b""), Ok(Call::default()));
}

#[test]
fn a_field_missing_deep_inside_is_named_with_its_path() {
    let mut call = Call::default();
    call.set_type(call::Type::Kill);
    // KILL with a task id that has no value.
    let bytes = [call.encode_to_vec(), field(6, &field(1, b""))].concat();
    assert_eq!(missing::<Call>(&bytes), ["kill.task_id.value"]);
    assert_eq!(
        proto::from_slice::<Call>(&bytes).unwrap_err().to_string(),
        "Missing required fields: kill.task_id.value"
    );
}

#[test]
fn list_elements_and_map_values_are_named() {
    let group = [field(1, b""), field(1, b"")].concat();
    assert_eq!(
        missing::<v1::TaskGroupInfo>(&group),
        [
            "tasks[0].name",
            "tasks[0].task_id",
            "tasks[0].agent_id",
            "tasks[1].name",
            "tasks[1].task_id",
            "tasks[1].agent_id"
        ]
    );
    let quantities = field(1, &[field(1, b"cpus"), field(2, b"")].concat());
    assert_eq!(
        missing::<v1::offer_filters::ResourceQuantities>(&quantities),
        ["quantities[cpus].value"]
    );
}

#[test]
fn a_required_enum_with_an_unknown_number_is_missing() {
    let bytes = [field(1, &field(1, b"t")), vec![2 << 3, 99]].concat();
    assert_eq!(missing::<v1::TaskStatus>(&bytes), ["state"]);
}

#[test]
fn a_message_in_two_pieces_is_whole() {
    // DeviceAccess.access is there; Offer's address comes as one piece with the host and one with the port.
    let url = [
        field(1, b"http"),
        field(2, &field(1, b"host")),
        field(2, &[3 << 3, 80]),
    ]
    .concat();
    let url: v1::Url = proto::from_slice(&url).unwrap();
    assert_eq!(
        (url.address.hostname.as_deref(), url.address.port),
        (Some("host"), 80)
    );
}

#[test]
fn the_agents_link_is_checked_too() {
    assert_eq!(
        missing::<link::ToMaster>(&field(1, b"")),
        [
            "register.agent",
            "register.version",
            "register.endpoint",
            "register.boot_id"
        ]
    );
}

#[test]
fn protobuf_nested_without_end_is_an_error() {
    let mut bytes = Vec::new();
    for _ in 0..5_000 {
        bytes = [field(1, b"c"), field(2, &bytes)].concat();
    }
    assert_eq!(
        proto::from_slice::<v1::ContainerId>(&bytes),
        Err(RequiredError::TooDeep)
    );
    let groups = vec![0x7b; 1_000_000];
    assert!(matches!(
        proto::from_slice::<v1::ContainerId>(&groups),
        Err(RequiredError::Malformed(_))
    ));
}

#[test]
fn lengths_beyond_the_body_are_errors() {
    for bytes in [
        &[0x0a, 0xff][..],
        &[
            0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
        ],
        &[0x0a],
        &[0xff; 20],
    ] {
        assert!(
            matches!(
                proto::from_slice::<v1::TaskStatus>(bytes),
                Err(RequiredError::Malformed(_))
            ),
            "{bytes:?}"
        );
    }
}

#[test]
fn both_media_types_carry_the_same_message() {
    let status = v1::TaskStatus::new("t", v1::TaskState::TaskRunning).with_uuid(vec![1; 16]);
    for media in [MediaType::Json, MediaType::Protobuf] {
        let body = media::encode(media, &status);
        assert_eq!(
            media::decode::<v1::TaskStatus>(media, &body).unwrap(),
            status
        );
    }
    assert!(media::decode::<v1::TaskStatus>(MediaType::RecordIo, b"").is_err());
    let json = tepui_api::json::to_string(&status);
    assert_eq!(
        media::encode(MediaType::RecordIo, &status),
        format!("{}\n{json}", json.len()).into_bytes()
    );
}

#[test]
fn zeros_in_maps_are_written_out_and_are_not_missed_where_prost_left_them_out() {
    let mut info = v1::TaskInfo::default();
    info.limits
        .insert("cpus".to_owned(), v1::value::Scalar { value: 0.0 });
    info.limits
        .insert("mem".to_owned(), v1::value::Scalar { value: 1.0 });
    let mut call = Call::default();
    let launch = v1::offer::operation::Launch {
        task_infos: vec![v1::TaskInfo::default(), info],
    };
    let operation = v1::offer::Operation {
        launch: Some(launch),
        ..Default::default()
    };
    call.accept = Some(call::Accept {
        operations: vec![operation],
        ..Default::default()
    });

    let written = proto::to_vec(&call);
    let of_prost = call.encode_to_vec();
    assert_eq!(
        written.len(),
        of_prost.len() + 11,
        "a value of nine bytes with its key and length"
    );
    assert_eq!(proto::from_slice::<Call>(&written).as_ref(), Ok(&call));
    assert_eq!(proto::from_slice::<Call>(&of_prost).as_ref(), Ok(&call));
}

#[test]
fn an_error_stays_short_however_much_is_missing() {
    let group = field(1, b"").repeat(100_000);
    assert_eq!(missing::<v1::TaskGroupInfo>(&group).len(), 100);
    let text = format!(r#"{{"tasks":[{}{{}}]}}"#, "{},".repeat(100_000));
    let error = tepui_api::json::from_slice::<v1::TaskGroupInfo>(text.as_bytes()).unwrap_err();
    assert_eq!(error.to_string().split(", ").count(), 100);
}

/// An ACCEPT of so many operations that say nothing, two bytes each.
fn empty_operations(count: usize) -> Vec<u8> {
    let accept = call::Accept {
        operations: vec![v1::offer::Operation::default(); count],
        ..call::Accept::default()
    };
    let call = Call {
        r#type: Some(call::Type::Accept.into()),
        accept: Some(accept),
        ..Call::default()
    };
    call.encode_to_vec()
}

#[test]
fn a_small_body_cannot_ask_for_a_lot_of_memory() {
    let fits = MOST_OF_CALL / size_of::<v1::offer::Operation>() - 1;
    let small = empty_operations(fits);
    assert!(small.len() < MOST_OF_CALL / 100, "{} bytes", small.len());
    media::decode::<Call>(MediaType::Protobuf, &small).unwrap();
    let large = empty_operations(fits + 10);
    let refused = media::decode::<Call>(MediaType::Protobuf, &large).unwrap_err();
    assert!(refused.to_string().contains("128 MiB"), "{refused}");
    assert_eq!(
        proto::call_from_bytes::<Call>(large.into()),
        Err(RequiredError::TooLarge(MOST_OF_CALL))
    );
    let json = |count: usize| {
        let operations = vec!["{}"; count].join(",");
        format!(r#"{{"type": "ACCEPT", "accept": {{"operations": [{operations}]}}}}"#)
    };
    media::decode::<Call>(MediaType::Json, json(fits).as_bytes()).unwrap();
    let refused = media::decode::<Call>(MediaType::Json, json(fits + 10).as_bytes());
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.starts_with("accept.operations: ") && refused.contains("128 MiB"),
        "{refused}"
    );
}
