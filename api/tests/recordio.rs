//! Record framing with borders of chunks anywhere, and against hostile streams.

#![allow(
    clippy::unwrap_used,
    reason = "in a test that is a failure like any other"
)]

mod support;

use bytes::{Bytes, BytesMut};
use support::Random;
use tepui_api::recordio::{Decoder, RecordError, encode, encode_into};

fn decode_all(stream: &[u8], limit: usize) -> Result<Vec<Bytes>, RecordError> {
    let mut decoder = Decoder::new(limit);
    decoder.push(Bytes::copy_from_slice(stream));
    let mut records = Vec::new();
    while let Some(record) = decoder.next()? {
        records.push(record);
    }
    Ok(records)
}

#[test]
fn a_record_is_its_length_a_line_feed_and_its_bytes() {
    assert_eq!(&encode(b"{}")[..], b"2\n{}");
    assert_eq!(&encode(b"")[..], b"0\n");
}

#[test]
fn records_survive_chunk_borders_anywhere() {
    for seed in 1..=500 {
        let random = &mut Random::new(seed);
        let sent: Vec<Vec<u8>> = (0..random.below(8)).map(|_| random.bytes(300)).collect();
        let mut stream = BytesMut::new();
        for record in &sent {
            encode_into(record, &mut stream);
        }
        let mut stream = stream.freeze();
        let mut decoder = Decoder::new(300);
        let mut received = Vec::new();
        while !stream.is_empty() {
            let length = random.below(stream.len().min(40) + 1);
            decoder.push(stream.split_to(length));
            if random.one_in(2) {
                while let Some(record) = decoder.next().unwrap() {
                    received.push(record.to_vec());
                }
            }
        }
        while let Some(record) = decoder.next().unwrap() {
            received.push(record.to_vec());
        }
        assert_eq!(received, sent, "seed {seed}");
        assert!(decoder.is_between_records(), "seed {seed}");
    }
}

#[test]
fn an_unfinished_record_waits_for_more() {
    let mut decoder = Decoder::new(10);
    decoder.push(Bytes::from_static(b"5\nabc"));
    assert_eq!(decoder.next(), Ok(None));
    assert!(!decoder.is_between_records());
    decoder.push(Bytes::from_static(b"de1"));
    assert_eq!(decoder.next(), Ok(Some(Bytes::from_static(b"abcde"))));
    assert_eq!(decoder.next(), Ok(None));
    assert!(!decoder.is_between_records());
}

#[test]
fn records_without_bytes_are_records() {
    assert_eq!(
        decode_all(b"0\n0\n1\nx", 10).unwrap(),
        [&b""[..], b"", b"x"]
    );
}

#[test]
fn lengths_that_are_no_numbers_are_errors() {
    for (stream, error) in [
        (&b"x"[..], RecordError::NotADigit(b'x')),
        (b"-1\n", RecordError::NotADigit(b'-')),
        (b"1 \n", RecordError::NotADigit(b' ')),
        (b"2\r\n{}", RecordError::NotADigit(b'\r')),
        (b"\n", RecordError::NoLength),
        (b"99999999999999999999", RecordError::LengthTooLong),
        (b"000000000000000000001\nx", RecordError::LengthTooLong),
    ] {
        assert_eq!(decode_all(stream, 100), Err(error), "{stream:?}");
    }
}

#[test]
fn a_record_over_the_limit_is_refused_before_it_comes() {
    assert_eq!(
        decode_all(b"101\n", 100),
        Err(RecordError::TooLarge {
            length: 101,
            limit: 100
        })
    );
    assert_eq!(
        decode_all(b"18446744073709551615\n", 100),
        Err(RecordError::TooLarge {
            length: u64::MAX,
            limit: 100
        })
    );
}

#[test]
fn after_an_error_the_stream_stays_lost() {
    let mut decoder = Decoder::new(100);
    decoder.push(Bytes::from_static(b"1\nax1\nb"));
    assert_eq!(decoder.next(), Ok(Some(Bytes::from_static(b"a"))));
    assert_eq!(decoder.next(), Err(RecordError::NotADigit(b'x')));
    decoder.push(Bytes::from_static(b"1\nc"));
    assert_eq!(decoder.next(), Err(RecordError::NotADigit(b'x')));
}

#[test]
fn random_bytes_never_panic() {
    for seed in 1..=2_000 {
        let random = &mut Random::new(seed);
        let stream: Vec<u8> = (0..random.below(60))
            .map(|_| *random.pick(b"0123456789\n\n\nx"))
            .collect();
        let _ = decode_all(&stream, 30);
    }
}
