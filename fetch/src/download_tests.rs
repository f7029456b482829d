//! Downloads from sources that do what the test says.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::Mutex;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use sha2::{Digest, Sha256};

use super::*;
use crate::source::Opened;

const STALL: Duration = Duration::from_millis(200);

/// What a source does when it is opened; then, and when there is no more, it gives all.
#[derive(Debug, Clone)]
enum Turn {
    Fails(Error),
    /// So many bytes, then the connection breaks.
    Breaks(usize),
    Stands,
    /// Something else of the same length.
    Lies,
}

#[derive(Debug)]
struct Scripted {
    bytes: Vec<u8>,
    version: Option<&'static str>,
    ranges: bool,
    turns: Mutex<VecDeque<Turn>>,
    offsets: Mutex<Vec<u64>>,
}

fn source(bytes: &[u8], turns: &[Turn]) -> Scripted {
    Scripted {
        bytes: bytes.to_vec(),
        version: Some("v"),
        ranges: true,
        turns: Mutex::new(turns.iter().cloned().collect()),
        offsets: Mutex::default(),
    }
}

impl Scripted {
    fn offsets(&self) -> Vec<u64> {
        self.offsets.lock().unwrap().clone()
    }
}

impl Source for Scripted {
    fn open<'a>(&'a self, position: &'a Position) -> BoxFuture<'a, Result<Opened, Error>> {
        let turn = self.turns.lock().unwrap().pop_front();
        self.offsets.lock().unwrap().push(position.offset);
        if let Some(Turn::Fails(error)) = turn {
            return futures::future::ready(Err(error)).boxed();
        }
        let offset = if self.ranges { position.offset } else { 0 };
        let mut rest = self.bytes[usize::try_from(offset).unwrap()..].to_vec();
        let mut pieces = Vec::new();
        match turn {
            Some(Turn::Breaks(bytes)) => {
                rest.truncate(bytes);
                pieces.push(Ok(Bytes::from(rest)));
                pieces.push(Err(Error::transport("it broke")));
            }
            Some(Turn::Lies) => pieces.push(Ok(Bytes::from(vec![0; rest.len()]))),
            Some(Turn::Stands) => {}
            _ => pieces.push(Ok(Bytes::from(rest))),
        }
        let stands = matches!(turn, Some(Turn::Stands));
        let stream = futures::stream::iter(pieces);
        let opened = Opened {
            offset,
            size: Some(self.bytes.len() as u64),
            version: self.version.map(str::to_owned),
            sha256: None,
            stream: if stands {
                futures::stream::pending().boxed()
            } else {
                stream.boxed()
            },
        };
        futures::future::ready(Ok(opened)).boxed()
    }
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

struct Outcome {
    result: Result<Downloaded, Error>,
    written: Vec<u8>,
    /// By source.
    arrived: Vec<u64>,
}

/// Headway is ten bytes; two further attempts.
async fn run(sources: &[Arc<Scripted>], sha256: Option<&str>, begun: &[u8]) -> Outcome {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, begun).unwrap();
    let sink = Sink::resume(file.try_clone().unwrap(), None).unwrap();
    let dynamic: Vec<Arc<dyn Source>> = sources
        .iter()
        .map(|source| Arc::clone(source) as Arc<dyn Source>)
        .collect();
    let arrived = Mutex::new(vec![0; sources.len()]);
    let wish = Wish {
        sources: &dynamic,
        sha256,
        max_bytes: Some(1000),
        patience: Patience {
            stall: STALL,
            least_rate: 50,
            retries: 2,
            pause: Duration::from_millis(5),
        },
        watch: &|progress: Progress| arrived.lock().unwrap()[progress.source] += progress.arrived,
    };
    let result = download(&wish, sink).await;
    std::io::Seek::rewind(&mut file).unwrap();
    let mut written = Vec::new();
    file.read_to_end(&mut written).unwrap();
    Outcome {
        result,
        written,
        arrived: arrived.into_inner().unwrap(),
    }
}

/// A hundred bytes that are no two alike.
fn content() -> Vec<u8> {
    (0..100).collect()
}

#[tokio::test]
async fn what_broke_off_is_gone_on_with_as_long_as_there_is_headway() {
    let bytes = content();
    let broken = source(&bytes, &[const { Turn::Breaks(20) }; 4]);
    let sources = [Arc::new(broken)];
    let outcome = run(&sources, None, b"").await;
    assert_eq!(outcome.result.unwrap().sha256, digest(&bytes));
    assert_eq!(outcome.written, bytes);
    assert_eq!(sources[0].offsets(), [0, 20, 40, 60, 80]);
    assert_eq!(outcome.arrived, [100]);
    let sources = [Arc::new(source(&bytes, &[const { Turn::Breaks(1) }; 9]))];
    let error = run(&sources, None, b"").await.result.unwrap_err();
    assert_eq!(
        error,
        Error::Truncated {
            got: 3,
            expected: 100
        }
    );
    assert_eq!(sources[0].offsets().len(), 3, "a byte a time is no headway");
}

#[tokio::test]
async fn without_a_version_or_ranges_it_begins_again() {
    let bytes = content();
    for (version, ranges) in [(None, true), (Some("v"), false)] {
        let mut broken = source(&bytes, &[Turn::Breaks(60)]);
        (broken.version, broken.ranges) = (version, ranges);
        let sources = [Arc::new(broken)];
        let outcome = run(&sources, None, b"").await;
        assert_eq!(outcome.result.unwrap().bytes, 100);
        assert_eq!(
            (outcome.written, outcome.arrived),
            (bytes.clone(), vec![160])
        );
    }
    // Whoever knows the digest need not know the version.
    let mut broken = source(&bytes, &[Turn::Breaks(60)]);
    broken.version = None;
    let sources = [Arc::new(broken)];
    let outcome = run(&sources, Some(&digest(&bytes)), b"").await;
    assert_eq!((outcome.result.is_ok(), outcome.arrived), (true, vec![100]));
}

#[tokio::test]
async fn the_next_source_goes_on_where_the_one_before_broke_off_and_a_liar_is_found_out() {
    let bytes = content();
    let sha256 = digest(&bytes);
    let gone = Error::Missing {
        what: "anything".to_owned(),
    };
    let first = [Turn::Breaks(30), Turn::Fails(gone.clone())];
    let sources = [
        Arc::new(source(&bytes, &first)),
        Arc::new(source(&bytes, &[])),
    ];
    let outcome = run(&sources, Some(&sha256), b"").await;
    assert_eq!(outcome.result.unwrap().sha256, sha256);
    assert_eq!(
        (sources[1].offsets(), outcome.arrived),
        (vec![30], vec![30, 70])
    );

    // What was there before is wrong: the source is not to blame, and is read once more.
    let sources = [Arc::new(source(&bytes, &[]))];
    let outcome = run(&sources, Some(&sha256), &[9; 40]).await;
    assert_eq!(outcome.result.unwrap().sha256, sha256);
    assert_eq!(
        (sources[0].offsets(), outcome.written),
        (vec![40, 0], bytes.clone())
    );

    // And more than there is cannot be a beginning.
    let sources = [Arc::new(source(&bytes[..50], &[]))];
    let outcome = run(&sources, Some(&digest(&bytes[..50])), &bytes[..50]).await;
    assert_eq!(outcome.result.unwrap().bytes, 50);

    let sources = [
        Arc::new(source(&bytes, &[Turn::Lies])),
        Arc::new(source(&bytes, &[])),
    ];
    let outcome = run(&sources, Some(&sha256), b"").await;
    assert_eq!(outcome.result.unwrap().sha256, sha256);
    assert_eq!(
        (sources[1].offsets(), outcome.written),
        (vec![0], bytes.clone())
    );

    let sources = [Arc::new(source(&bytes, &[Turn::Lies]))];
    let outcome = run(&sources, Some(&sha256), b"").await;
    let got = digest(&[0; 100]);
    let expected = sha256.clone();
    assert_eq!(outcome.result, Err(Error::Digest { expected, got }));
    assert!(outcome.written.is_empty());

    // Without a digest two sources are not mixed.
    let first = [Turn::Breaks(30), Turn::Fails(gone)];
    let sources = [
        Arc::new(source(&bytes, &first)),
        Arc::new(source(&bytes, &[])),
    ];
    let outcome = run(&sources, None, b"").await;
    assert_eq!((sources[1].offsets(), outcome.written), (vec![0], bytes));
}

#[tokio::test]
async fn patience_is_counted_in_headway() {
    let bytes = content();
    let began = std::time::Instant::now();
    let sources = [Arc::new(source(
        &bytes,
        &[Turn::Stands, Turn::Stands, Turn::Stands],
    ))];
    let error = run(&sources, None, b"").await.result.unwrap_err();
    assert!(matches!(error, Error::Stalled { got: 0, .. }), "{error}");
    assert!(
        error.to_string().starts_with("nothing arrived for 0.2 s"),
        "{error}"
    );
    assert!(began.elapsed() >= 3 * STALL, "it was asked three times");
    let refusal = Error::Status {
        code: 403,
        status: "403 Forbidden".to_owned(),
    };
    let sources = [Arc::new(source(&bytes, &[Turn::Fails(refusal.clone())]))];
    assert_eq!(run(&sources, None, b"").await.result, Err(refusal));
    assert_eq!(sources[0].offsets().len(), 1);
}

#[tokio::test]
async fn what_is_too_large_is_not_looked_for_elsewhere() {
    let sources = [
        Arc::new(source(&[1; 1001], &[])),
        Arc::new(source(&[1; 10], &[])),
    ];
    let outcome = run(&sources, None, b"").await;
    assert_eq!(outcome.result, Err(Error::TooLarge { limit: 1000 }));
    assert!(sources[1].offsets().is_empty() && outcome.written.is_empty());
}

#[test]
fn pauses_double_up_to_a_bound() {
    let first = Duration::from_millis(100);
    for (failures, most) in [(0, 100), (1, 100), (2, 200), (4, 800), (40, 5000)] {
        let pause = pause(first, failures);
        let most = Duration::from_millis(most);
        assert!(pause <= most && pause >= most / 2, "{failures}: {pause:?}");
    }
}
