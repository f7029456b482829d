//! Downloads from servers that answer what the test says, byte for byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::*;
use crate::{Downloaded, Patience, Sink, Wish, download};

/// Each connection gets the next answer and is closed; the last one is given again and again.
fn server(answers: Vec<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
                line.clear();
            }
            let answer = &answers[number.min(answers.len() - 1)];
            // Whoever does not read to the end is not what this is about.
            let _ = reader.get_mut().write_all(answer);
        }
    });
    url
}

/// `head` is the status and the headers, parted by '|'.
fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    let head = head.replace('|', "\r\n");
    let head = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// What is told, and what is in the file then.
async fn get(
    answers: Vec<Vec<u8>>,
    sha256: Option<&str>,
    begun: &[u8],
    retries: u32,
) -> (Result<Downloaded, Error>, Vec<u8>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let source: Arc<dyn Source> = Arc::new(Http {
        client: reqwest::Client::builder().no_proxy().build().unwrap(),
        url: server(answers),
        bearer: None,
        first_patience: None,
        retries: Some(retries),
    });
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(begun).unwrap();
    let sink = Sink::resume(file.try_clone().unwrap(), None).unwrap();
    let wish = Wish {
        sources: &[source],
        sha256,
        max_bytes: None,
        patience: Patience {
            stall: Duration::from_secs(30),
            least_rate: 1,
            retries,
            pause: Duration::from_millis(1),
        },
        watch: &|_| {},
    };
    let result = download(&wish, sink).await;
    let mut written = Vec::new();
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_end(&mut written).unwrap();
    (result, written)
}

const OLD: &[u8] = b"0123456789";
const NEW: &[u8] = b"abcdefghij";

fn broken() -> Vec<u8> {
    answer("200 OK|ETag: \"m\"|Content-Length: 10", &OLD[..4])
}

fn whole() -> Vec<u8> {
    answer("200 OK|ETag: \"n\"|Content-Length: 10", NEW)
}

#[tokio::test]
async fn a_part_of_something_else_is_not_taken_for_the_rest() {
    let parts = [
        answer(
            "206 Partial Content|ETag: \"other\"|Content-Range: bytes 4-9/10|Content-Length: 6",
            &NEW[4..],
        ),
        answer(
            "206 Partial Content|Content-Range: bytes 4-5/6|Content-Length: 2",
            &NEW[4..6],
        ),
        answer(
            "416 Range Not Satisfiable|Content-Range: bytes */4|Content-Length: 0",
            b"",
        ),
        answer("416 Range Not Satisfiable|Content-Length: 0", b""),
    ];
    for part in parts {
        let shown = String::from_utf8_lossy(&part).into_owned();
        let (result, written) = get(vec![broken(), part.clone(), whole()], None, b"", 1).await;
        assert_eq!(result.unwrap().bytes, 10, "{shown}");
        assert_eq!(written, NEW, "{shown}");
        // A server that never makes sense is given up.
        let (result, _) = get(vec![broken(), part], None, b"", 1).await;
        assert!(result.is_err(), "{shown}");
    }
    // The rest of the same is taken, also from who does not say again how much there is, or of what.
    let rest = answer(
        "206 Partial Content|Content-Range: bytes 4-9/*|Content-Length: 6",
        &OLD[4..],
    );
    let (result, written) = get(vec![broken(), rest], None, b"", 1).await;
    assert_eq!((result.unwrap().bytes, written.as_slice()), (10, OLD));
    // And how much there is is not forgotten.
    let short = answer(
        "206 Partial Content|Content-Range: bytes 4-5/*|Content-Length: 2",
        &OLD[4..6],
    );
    let (result, _) = get(vec![broken(), short], None, b"", 1).await;
    assert!(result.is_err());
}

#[tokio::test]
async fn more_than_there_is_is_begun_again_at_once() {
    let sha256 = hex::encode(Sha256::digest(NEW));
    let beyond = answer(
        "416 Range Not Satisfiable|Content-Range: bytes */10|Content-Length: 0",
        b"",
    );
    let answers = vec![beyond.clone(), whole()];
    let (result, written) = get(answers, Some(&sha256), &[7; 15], 0).await;
    assert_eq!((result.unwrap().bytes, written.as_slice()), (10, NEW));
    let liar = answer("200 OK|ETag: \"n\"|Content-Length: 30", &[7; 20]);
    let answers = vec![liar, beyond.clone(), whole()];
    let (result, written) = get(answers, Some(&sha256), b"", 1).await;
    assert_eq!((result.unwrap().bytes, written.as_slice()), (10, NEW));
    // Who knows the digest need not believe that there is more.
    let boastful = answer("200 OK|Content-Length: 20", NEW);
    let (result, _) = get(vec![boastful], Some(&sha256), b"", 0).await;
    assert_eq!(result.unwrap().bytes, 10);
    let (result, written) = get(vec![beyond], Some(&sha256), &[7; 15], 2).await;
    assert_eq!(written, b"");
    assert!(
        matches!(result, Err(Error::Status { code: 416, .. })),
        "a server that refuses the beginning is given up: {result:?}"
    );
}

#[tokio::test]
async fn what_broken_servers_do_is_said_in_words() {
    let broke = "the server, or the way to it, broke off";
    let no_http = "the server's answer is not HTTP: ";
    for (sent, sentence) in [
        (b"".to_vec(), broke),
        (b"HTTP/1.1 200 OK\r\nContent-".to_vec(), broke),
        (
            answer("200 OK|Transfer-Encoding: chunked", b"5\r\nab"),
            broke,
        ),
        (
            answer("200 OK|Transfer-Encoding: chunked", b"no size\r\n"),
            no_http,
        ),
        (answer("200 OK|Content-Length: many", b"abc"), no_http),
        (b"HTTP/7.7 200 OK\r\n\r\n".to_vec(), no_http),
        (b"SSH-2.0-server\r\n".to_vec(), no_http),
    ] {
        let shown = String::from_utf8_lossy(&sent).into_owned();
        let error = get(vec![sent], None, b"", 0).await.0.unwrap_err();
        let told = error.to_string();
        assert!(told.starts_with(sentence), "{shown}: {told}");
    }
}
