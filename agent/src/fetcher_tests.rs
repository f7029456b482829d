//! The fetcher against a server that does what the test says.

use std::time::Duration;

use sha2::{Digest, Sha256};
use tepui_fetch::{Patience, Settings};

use super::*;
use crate::testing::{Reply, TestServer};

struct Bench {
    server: TestServer,
    fetcher: Fetcher,
    directory: tempfile::TempDir,
}

/// Soon at the end of its patience.
fn fetch() -> Fetch {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let patience = Patience {
        stall: Duration::from_millis(400),
        retries: 2,
        pause: Duration::from_millis(10),
        ..Patience::default()
    };
    let settings = Settings {
        patience,
        max_bytes: Some(1 << 20),
        ..Settings::default()
    };
    Fetch::new(settings).unwrap()
}

async fn bench(bound: u64) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("fetch"), bound).unwrap();
    let home = directory.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let fetcher = Fetcher::new(store, fetch(), Holders::default(), Some(home));
    Bench {
        server: TestServer::start().await,
        fetcher,
        directory,
    }
}

impl Bench {
    fn uri(&self, path: &str) -> Uri {
        Uri {
            value: self.server.url(path),
            ..Default::default()
        }
    }

    async fn fetch(&self, uri: &Uri) -> Result<Pin, FetchError> {
        self.fetcher.fetch(&self.fetcher.wanted(uri)?).await
    }

    fn is_clean(&self, files: usize) -> bool {
        std::fs::read_dir(self.directory.path().join("fetch"))
            .unwrap()
            .count()
            == files
    }
}

fn digest_of(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn uri(value: &str) -> Uri {
    Uri {
        value: value.to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_download_is_kept_under_its_digest() {
    let bench = bench(1 << 20).await;
    bench.server.reply("/a", Reply::body("hello"));
    let pin = bench.fetch(&bench.uri("/a")).await.unwrap();
    assert_eq!(pin.name(), digest_of(b"hello"));
    assert_eq!(std::fs::read(pin.path()).unwrap(), b"hello");
}

#[tokio::test]
async fn only_200_will_do_and_the_sentence_names_url_and_status() {
    let bench = bench(1 << 20).await;
    bench.server.reply("/partial", Reply::status(204));
    for (path, status) in [
        ("/missing", "404 Not Found; check the URI"),
        ("/partial", "204 No Content"),
    ] {
        let error = bench.fetch(&bench.uri(path)).await.unwrap_err();
        let url = bench.server.url(path);
        assert_eq!(
            error.to_string(),
            format!("fetching '{url}' failed: the server answered {status}")
        );
    }
    assert!(bench.is_clean(0));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_the_cause() {
    let bench = bench(1 << 20).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = bench
        .fetch(&uri(&format!("http://{address}/x")))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("http://{address}/x")) && error.contains("refused"),
        "{error}"
    );
}

#[tokio::test]
async fn a_truncated_body_is_an_error_and_leaves_nothing_behind() {
    let bench = bench(1 << 20).await;
    bench
        .server
        .reply("/cut", Reply::body("0123456789").truncated_to(4));
    let error = bench.fetch(&bench.uri("/cut")).await.unwrap_err();
    assert!(
        matches!(
            error,
            FetchError::Failed {
                cause: Error::Truncated { expected: 10, .. },
                ..
            }
        ),
        "{error}"
    );
    assert!(bench.is_clean(0));
}

#[tokio::test]
async fn a_body_that_stalls_is_given_up() {
    let bench = bench(1 << 20).await;
    bench
        .server
        .reply("/slow", Reply::body("0123456789").stalling_after(4));
    let error = bench.fetch(&bench.uri("/slow")).await.unwrap_err();
    assert!(
        matches!(
            error,
            FetchError::Failed {
                cause: Error::Stalled { .. },
                ..
            }
        ),
        "{error}"
    );
    assert!(bench.is_clean(0));
}

#[tokio::test]
async fn a_wrong_digest_names_both_and_keeps_nothing() {
    let bench = bench(1 << 20).await;
    bench.server.reply("/a", Reply::body("hello"));
    let expected = digest_of(b"other");
    let error = bench
        .fetch(&Uri {
            sha256: Some(expected.clone()),
            ..bench.uri("/a")
        })
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&expected) && text.contains(&digest_of(b"hello")),
        "{text}"
    );
    assert!(bench.is_clean(0));
}

#[tokio::test]
async fn a_known_digest_is_served_without_asking_anybody() {
    let bench = bench(1 << 20).await;
    bench.server.reply("/a", Reply::body("hello"));
    drop(bench.fetch(&bench.uri("/a")).await.unwrap());
    let elsewhere = Uri {
        sha256: Some(digest_of(b"hello")),
        ..uri("http://127.0.0.1:1/nobody")
    };
    assert_eq!(bench.fetch(&elsewhere).await.unwrap().bytes(), 5);
    assert_eq!(bench.server.count("/a"), 1);
}

#[tokio::test]
async fn only_a_uri_marked_for_the_cache_is_not_fetched_again() {
    let bench = bench(1 << 20).await;
    bench.server.reply("/a", Reply::body("hello"));
    let plain = bench.uri("/a");
    let cached = Uri {
        cache: Some(true),
        ..plain.clone()
    };
    drop(bench.fetch(&plain).await.unwrap());
    drop(bench.fetch(&plain).await.unwrap());
    assert_eq!(bench.server.count("/a"), 2);
    drop(bench.fetch(&cached).await.unwrap());
    drop(bench.fetch(&cached).await.unwrap());
    assert_eq!(bench.server.count("/a"), 2);
    assert!(bench.is_clean(1));
}

#[tokio::test]
async fn concurrent_wishes_share_one_transfer() {
    let bench = bench(1 << 20).await;
    bench.server.reply("/a", Reply::body("hello").held());
    let uri = bench.uri("/a");
    let wishes = (0..20).map(|_| bench.fetch(&uri));
    let all = futures::future::join_all(wishes);
    let release = async {
        bench.server.asked("/a").await;
        bench.server.release("/a");
    };
    let (pins, ()) = tokio::join!(all, release);
    assert!(
        pins.iter()
            .all(|pin| pin.as_ref().is_ok_and(|pin| pin.bytes() == 5))
    );
    assert_eq!(bench.server.count("/a"), 1);
}

#[tokio::test]
async fn a_wish_given_up_ends_the_transfer_and_the_next_one_starts_anew() {
    let bench = bench(1 << 20).await;
    bench.server.reply("/a", Reply::body("hello").held());
    let uri = bench.uri("/a");
    tokio::select! {
        _ = bench.fetch(&uri) => panic!("the body is being held back"),
        () = bench.server.asked("/a") => {}
    }
    bench.server.reply("/a", Reply::body("second"));
    assert_eq!(bench.fetch(&uri).await.unwrap().bytes(), 6);
}

#[tokio::test]
async fn files_of_this_machine_are_read_again_only_when_they_changed() {
    let bench = bench(1 << 20).await;
    let path = bench.directory.path().join("local");
    std::fs::write(&path, "one").unwrap();
    let absolute = uri(path.to_str().unwrap());
    let url = uri(&format!("file://{}", path.display()));
    assert_eq!(
        bench.fetch(&absolute).await.unwrap().name(),
        digest_of(b"one")
    );
    assert_eq!(bench.fetch(&url).await.unwrap().name(), digest_of(b"one"));
    std::fs::write(&path, "three").unwrap();
    assert_eq!(bench.fetch(&url).await.unwrap().name(), digest_of(b"three"));
    let missing = bench
        .fetch(&uri("/nowhere/at/all"))
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(
        missing,
        "fetching '/nowhere/at/all' failed: there is no such file on this machine"
    );
    assert!(
        bench
            .fetch(&uri("/proc"))
            .await
            .unwrap_err()
            .to_string()
            .contains("not a regular file")
    );
}

#[tokio::test]
async fn the_cache_keeps_to_its_bound() {
    let bench = bench(12).await;
    for path in ["/a", "/b", "/c"] {
        bench.server.reply(path, Reply::body(&format!("{path}---")));
        drop(
            bench
                .fetch(&Uri {
                    cache: Some(true),
                    ..bench.uri(path)
                })
                .await
                .unwrap(),
        );
    }
    assert!(bench.is_clean(2));
    assert_eq!(bench.fetcher.store().total_bytes(), 10);
    drop(
        bench
            .fetch(&Uri {
                cache: Some(true),
                ..bench.uri("/a")
            })
            .await
            .unwrap(),
    );
    assert_eq!(bench.server.count("/a"), 2);
}

#[tokio::test]
async fn a_relative_path_begins_at_the_frameworks_home() {
    let bench = bench(1 << 20).await;
    std::fs::create_dir(bench.directory.path().join("home/lib")).unwrap();
    std::fs::write(bench.directory.path().join("home/lib/tool"), "tool").unwrap();
    assert_eq!(bench.fetch(&uri("lib/tool")).await.unwrap().bytes(), 4);
    let error = Wanted::parse(&uri("lib/tool"), None, &Settings::default()).unwrap_err();
    assert!(error.to_string().contains("--frameworks_home"), "{error}");
}

/// A master that names one agent as a holder, whatever is asked.
fn master_naming(holders: &Holders, agent: String) -> crate::questions::Linked {
    use tepui_api::link::{ArtifactHolders, ToMaster, to_agent, to_master};
    let (sender, mut asked) = tokio::sync::mpsc::channel::<ToMaster>(1);
    let linked = holders.questions.linked(1, "127.0.0.1:1", sender);
    let holders = holders.clone();
    tokio::spawn(async move {
        while let Some(message) = asked.recv().await {
            if let Some(to_master::Body::LocateArtifact(locate)) = message.body {
                let answer = ArtifactHolders {
                    request_id: locate.request_id,
                    agents: vec![agent.clone()],
                    token: Some("token".to_owned()),
                    ..Default::default()
                };
                holders
                    .questions
                    .take(to_agent::Body::ArtifactHolders(answer));
            }
        }
    });
    linked
}

#[tokio::test]
async fn an_agent_that_does_not_answer_or_breaks_off_is_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("fetch"), 1 << 20).unwrap();
    let holders = Holders::default();
    let fetcher = Fetcher::new(store, fetch(), holders.clone(), None);
    let (agent, origin) = (TestServer::start().await, TestServer::start().await);
    let address = agent.url("").trim_start_matches("http://").to_owned();
    let _linked = master_naming(&holders, address);
    let replies = [
        ("silent", Reply::body("silent").held()),
        ("broken", Reply::body("broken").truncated_to(3)),
        ("unknown", Reply::status(404)),
    ];
    for (text, reply) in replies {
        let digest = digest_of(text.as_bytes());
        let path = format!("{}/{digest}", crate::artifacts::PATH);
        agent.reply(&path, reply);
        origin.reply(&format!("/{text}"), Reply::body(text));
        let uri = Uri {
            sha256: Some(digest),
            ..uri(&origin.url(&format!("/{text}")))
        };
        let pin = fetcher.fetch(&fetcher.wanted(&uri).unwrap()).await.unwrap();
        assert_eq!(std::fs::read(pin.path()).unwrap(), text.as_bytes());
        assert_eq!(agent.count(&path), 1, "it is asked once: {text}");
    }
    let figures: BTreeMap<_, _> = fetcher.figures().into_iter().collect();
    assert_eq!(figures["tepui/fetcher/bytes_from_agents"], 3.0);
    assert_eq!(figures["containerizer/fetcher/task_fetches_succeeded"], 3.0);
}
